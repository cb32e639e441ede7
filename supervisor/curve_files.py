"""Reading the curve of a run from its files: heartbeats and exit records of all attempts, and the trainer's table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from supervisor import attempt_files, layout
from supervisor.attempt_files import Beat
from supervisor.core.curve import Curve, Point, Rows, Trace, join, of_run, ordered_ends, view
from supervisor.core.model import Job, Run
from supervisor.core.numbers import NAME_MAX_CHARACTERS, VALUES_MAX
from supervisor.core.story import Row, attempts_view
from supervisor.layout import AttemptDirectory, RunDirectory
from supervisor.trainers import trainer_for
from supervisor.trainers.results_csv import Table, read_table

CHUNK_BYTES = 256 * 1024  # a search holds the interpreter's lock: short ones do not delay the daemon's loop
LINE_MAX_BYTES = 64 * 1024
_TELLING = re.compile(rb'"kind" ?: ?"(?:start|fresh|resumed|epoch|saved|end)"')
_FAREWELL = {75: "stopped", 77: "started from the wrong place"}


class _Named(msgspec.Struct):
    """Of launch.json only who it was: the rest may hold keys."""

    run: str = ""


def read_curve(job: Job, run_dir: RunDirectory, known: Sequence[Mapping[str, Any]] = ()) -> Curve:
    """The curve of a run directory, with the attempts of all runs that were made on it.

    `known`: attempts as story.attempts_view gives them, for trainers that report nothing themselves. OSError where
    something is there but cannot be read.
    """
    return join(read_traces(run_dir, known), read_rows(job, run_dir))


def curve_view(run: Run, runs_dir: Path, history: Sequence[Row], now: float) -> dict[str, Any]:
    """The curve of a run as plain data; see curve.view. Raises as `read_curve`.

    It ends with the run: what later runs trained in the same directory is theirs. `history` is that of the run and of
    its ancestors, oldest first.
    """
    run_dir = layout.run_directory(runs_dir, run.job.project, run.name)
    traces = read_traces(run_dir, attempts_view(run.attempt, history), ordered_ends(history))
    last = run.attempts if run.phase.terminal else None
    curve = join(*of_run(traces, read_rows(run.job, run_dir), last))
    epochs = run.progress.epochs or run.job.epochs
    return view(curve, name=run.name, run=run.id, phase=run.phase.value, epochs=epochs, now=now)


def read_traces(
    run_dir: RunDirectory, known: Sequence[Mapping[str, Any]] = (), ordered: Mapping[int, str] | None = None
) -> list[Trace]:
    """What each attempt left, the oldest first. `ordered`: which of them were ended by whose order."""
    folders = (run_dir.root / "attempts").glob("*/")
    numbers = sorted(int(folder.name) for folder in folders if folder.name.isdigit())
    told = {attempt["number"]: attempt for attempt in known}
    traces = [_trace(run_dir.attempt(number), number, (ordered or {}).get(number, "")) for number in numbers]
    return [_with_known(trace, told.get(trace.number, {})) for trace in traces]


def _with_known(trace: Trace, told: Mapping[str, Any]) -> Trace:
    """A trainer that reports nothing started where the daemon let it start."""
    if trace.start or not told.get("pid") or told.get("start") not in {"fresh", "resume"}:
        return trace
    return msgspec.structs.replace(
        trace,
        start=told["start"],
        from_epoch=int(told.get("from_epoch") or 0),
        began_at=told.get("started_at"),
    )


def _trace(attempt: AttemptDirectory, number: int, order: str) -> Trace:
    try:
        status = attempt.beats.stat()
    except FileNotFoundError:
        beats: tuple[Beat, ...] = ()
    else:
        beats = _told(attempt.beats, status.st_size, status.st_mtime_ns)
    first = next((beat for beat in beats if beat.kind in {"fresh", "resumed"}), None)
    saves = [beat.at for beat in beats if beat.kind == "saved"]
    return Trace(
        number=number,
        run=_run_of(attempt),
        start="" if first is None else "resume" if first.kind == "resumed" else "fresh",
        from_epoch=0 if first is None or first.from_epoch is None else first.from_epoch + 1,
        ending=_ending(attempt, beats, order),
        began_at=first.at if first is not None else None,
        saved_at=saves[-1] if saves else None,
        launched=attempt.launch.exists(),
        points=tuple(_point(beat, number) for beat in beats if beat.kind == "epoch" and beat.epoch is not None),
    )


@lru_cache(maxsize=256)
def _told(path: Path, size: int, changed_ns: int) -> tuple[Beat, ...]:  # noqa: ARG001 - the stamp is the cache's key
    """The heartbeats of a file but those of batches; a file that did not change is read once."""
    return tuple(_beats(path))


def _beats(path: Path) -> Iterator[Beat]:
    with path.open("rb") as file:
        rest = b""
        while data := file.read(CHUNK_BYTES):
            whole, _, rest = (rest + data).rpartition(b"\n")
            if len(rest) > LINE_MAX_BYTES:
                rest = b""  # no heartbeat is as long
            yield from _beats_in(whole)


def _beats_in(lines: bytes) -> Iterator[Beat]:
    at = 0
    while found := _TELLING.search(lines, at):
        begin, end = lines.rfind(b"\n", 0, found.start()) + 1, lines.find(b"\n", found.end())
        at = end if end >= 0 else len(lines)
        beat = _parse(lines[begin:at])
        if beat is not None:
            yield beat


def _parse(line: bytes) -> Beat | None:
    """The beat of a line. The job's own user writes these lines: nothing in them may harm the reader."""
    try:
        return attempt_files.parse_beat(line)
    except RecursionError:
        return None


def _point(beat: Beat, attempt: int) -> Point:
    return Point(
        epoch=(beat.epoch or 0) + 1,
        attempt=attempt,
        epochs=beat.epochs or 0,
        losses=_few(beat.losses),
        metrics=_few(beat.metrics),
        fitness=beat.fitness,
        rates={name: value for name, value in _few(beat.lr).items() if value is not None},
        updates=beat.updates,
        at=beat.at,
    )


def _few(values: Mapping[str, float | None] | None) -> dict[str, float | None]:
    """A sane amount of names, which the job's own user chose."""
    return {name[:NAME_MAX_CHARACTERS]: value for name, value in list((values or {}).items())[:VALUES_MAX]}


def _run_of(attempt: AttemptDirectory) -> str:
    """Which run the attempt was of; nothing where this user may not know."""
    try:
        return msgspec.json.decode(attempt.launch.read_bytes(), type=_Named).run
    except (FileNotFoundError, PermissionError, msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _ending(attempt: AttemptDirectory, beats: Sequence[Beat], order: str) -> str:
    """How an attempt ended, in a few words; empty while it runs. `order`: whose order to end it stood then."""
    try:
        end = attempt_files.read_exit(attempt.root)
    except ValueError:
        return "ended; its record cannot be read"
    if end is None:
        return "" if _is_running(attempt) else "lost with its machine"
    if end.launch_error:
        return "could not be started"
    if end.code is None and end.signal is None:
        return "ended; nobody saw how"
    if end.signal is not None:
        return order or f"killed by {end.signal_name or f'signal {end.signal}'}"
    result = next((beat.result for beat in reversed(beats) if beat.kind == "end"), None)
    ours = _FAREWELL.get(end.code or 0) if result is not None else None
    ours = order or ours if ours == "stopped" else ours
    return ours or ("finished" if result == "finished" else f"exit code {end.code}")


def _is_running(attempt: AttemptDirectory) -> bool:
    return attempt.root.is_dir() and not attempt_files.lock_is_free(attempt.root)


# ---- the trainer's own table
def read_rows(job: Job, run_dir: RunDirectory) -> Rows:
    """The newest of the tables that the trainer may have written; no rows where there is none."""
    stamps = {path: at for path in trainer_for(job).tables(job, run_dir) if (at := _written_at(path)) is not None}
    if not stamps:
        return Rows()
    path = max(stamps, key=stamps.__getitem__)
    return _rows(read_table(path), stamps[path])


def _written_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None


def _rows(table: Table, written_at: float) -> Rows:
    losses = dict.fromkeys(name for row in table.rows.values() for name in row.losses)
    metrics = dict.fromkeys(name for row in table.rows.values() for name in row.metrics)
    points = {
        epoch: Point(
            epoch=epoch,
            losses={name: row.losses.get(name) for name in losses},  # one that is missing here was no number
            metrics={name: row.metrics.get(name) for name in metrics},
            rates=dict(row.rates),
        )
        for epoch, row in table.rows.items()
    }
    return Rows(points=points, newest=table.newest.epoch if table.newest else 0, written_at=written_at)
