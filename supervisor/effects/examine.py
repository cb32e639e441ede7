"""Read what an ended attempt left behind: end record, checkpoint, log. Gathers evidence, decides nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from supervisor import attempt_files, layout, trainers
from supervisor.attempt_files import Beat
from supervisor.core.actions import Examine
from supervisor.core.attempt_seconds import seconds_of
from supervisor.core.checkpoints import Checkpoint
from supervisor.core.diagnosis.own_dump import before_dump
from supervisor.core.diagnosis.tables import RULES, Rule
from supervisor.core.events import Event, Examined
from supervisor.core.model import Job
from supervisor.core.plain_text import clean_lines
from supervisor.effects import checkpoints, evidence, last_place, log_scan
from supervisor.effects.evidence import Subject
from supervisor.trainers.results_csv import read_table

TAIL_BYTES = 64 * 1024
TAIL_LINES = 12
LINE_LENGTH = 300


class Examiner:
    """Carries out Examine."""

    def __init__(
        self,
        runs_dir: Path,
        now: Callable[[], float],
        rules: Callable[[], Sequence[Rule]] = lambda: RULES,
        pause_below_bytes: int = 0,
    ) -> None:
        """`now` stamps the answer; `rules` say which lines of a log are signs, the first that matches counts.

        They are asked for at each examination: a configuration that was read again counts from then on. Below
        `pause_below_bytes` on the disk of the runs no attempt will start.
        """
        self._runs_dir = runs_dir
        self._now = now
        self._rules = rules
        self._pause_below_bytes = pause_below_bytes

    def __call__(self, action: Examine) -> tuple[Event, ...]:
        """See the module."""
        job = action.job
        run_dir = layout.run_directory(self._runs_dir, job.project, job.name)
        attempt_dir = run_dir.attempt(action.attempt)
        beats = read_beats(attempt_dir.beats)
        trainer = trainers.trainer_for(job)
        found = checkpoints.look(trainer.checkpoints(job, run_dir)) if job.train is None or not beats else []
        exit_record = attempt_files.read_exit(attempt_dir.root)
        watched = exit_record.watched if exit_record is not None else _was_watched(attempt_dir)
        finished, proof = _watched_proof(found) if watched else _proof(action, beats, found, run_dir)
        hung_from = action.moved_at or float("inf")  # what a hanging attempt says when it is ended is no work of it
        tail = log_tail(attempt_dir.log, aborted=bool(action.moved_at))
        subject = _subject(action, run_dir, exit_record)
        untold = finished and (watched or job.train is None)  # by a runner of ours
        since = 0.0 if watched else subject.began_at or 0.0  # a person's tables are older than our watching
        examined = Examined(
            at=self._now(),
            origin="examine",
            run=action.run,
            attempt=action.attempt,
            finished=finished,
            proof=proof,
            result="detached" if exit_record is not None and exit_record.detached else _end(beats).result or "",
            reason=_reason(action, _end(beats), exit_record, tail),
            saved_epoch=max(_saved_epoch(beats, found), _end_epoch(subject, found, since) if untold else 0),
            epochs=max((beat.epochs or 0 for beat in beats), default=0),
            metrics=_metrics(beats),
            log_tail=tail,
            evidence=evidence.gather(subject, self._rules(), self._now(), self._pause_below_bytes),
            seconds=seconds_of(
                [beat for beat in beats if beat.at <= hung_from + 1.0],
                subject.started.started_at if subject.started else None,
                min(hung_from, _moved_at(subject)),
            ),
            moved_at=min(hung_from, _moved_at(subject)),
        )
        return (examined,)


def _subject(action: Examine, run_dir: layout.RunDirectory, exit_record: attempt_files.Exit | None) -> Subject:
    """The attempt as its records tell it."""
    attempt_dir, job = run_dir.attempt(action.attempt), action.job
    started = attempt_files.read_started(attempt_dir.root)
    place = last_place.of_beats(attempt_dir.beats)
    if place.told_at is None:
        since = started.started_at if started is not None else 0.0
        place = last_place.of_log(attempt_dir.log, trainers.trainer_for(job).tables(job, run_dir), since)
    return Subject(
        job=job,
        run_dir=run_dir,
        attempt=action.attempt,
        place=place,
        exit_record=exit_record,
        started=started,
    )


def _moved_at(subject: Subject) -> float:
    """When the training last moved; a log may grow after its end, by what was left of it."""
    ended_at = subject.exit_record.ended_at if subject.exit_record is not None else float("inf")
    return min(subject.place.moved_at, ended_at)


def read_beats(path: Path) -> list[Beat]:
    """The heartbeats of an attempt; those of each batch are left out."""
    try:
        with path.open("rb") as file:
            beats = [attempt_files.parse_beat(line) for line in file if b'"images_per_s"' not in line]
    except FileNotFoundError:
        return []
    return [beat for beat in beats if beat is not None]


def _end(beats: list[Beat]) -> Beat:
    """The end record; an empty one where the trainer had no time to write it."""
    return next((beat for beat in reversed(beats) if beat.kind == "end"), Beat(kind="end", at=0.0))


def _proof(
    action: Examine, beats: list[Beat], found: list[Checkpoint], run_dir: layout.RunDirectory
) -> tuple[bool, str]:
    """The runner's end record, else the end state of the family's own files, else the tests of the job."""
    job = action.job
    if job.train is not None:
        return _train_proof(beats, action)
    proof = trainers.trainer_for(job).proof_of_end(job, run_dir, action.code, found)
    return _command_proof(job, action, run_dir.attempt(action.attempt)) if proof is None else proof


def _was_watched(attempt_dir: layout.AttemptDirectory) -> bool:
    """A watcher that was killed left no record of the end."""
    started = attempt_files.read_started(attempt_dir.root)
    return started is not None and started.watched


def _watched_proof(found: list[Checkpoint]) -> tuple[bool, str]:
    """Nobody was told how a person's training ended: its own end state decides."""
    finished = any(Path(one.path).name == "last.pt" and one.state == "finished" for one in found)
    return finished, "finished: the trainer stripped last.pt at its own end" if finished else ""


def _train_proof(beats: list[Beat], action: Examine) -> tuple[bool, str]:
    """Exit code 0 is not enough: the runner's end record must say that the trainer reached its own end."""
    end = _end(beats)
    if end.result != "finished" or action.code not in {0, None}:
        return False, ""
    epochs = f" after {end.epochs} epochs" if end.epochs else ""
    return True, f"finished{epochs}: {end.reason or 'the trainer reached its own end'}"


def _command_proof(job: Job, action: Examine, attempt_dir: layout.AttemptDirectory) -> tuple[bool, str]:
    """Every `done` test of the job must hold; an end that nobody saw needs another test than the exit code."""
    done = job.done
    unseen = action.code is None and action.signal is None
    if action.code != done.exit and not (unseen and (done.log or done.file)):
        return False, ""
    if done.file and not Path(done.file).exists():
        return False, ""
    if done.log and not log_scan.matches(attempt_dir.log, done.log):
        return False, ""
    tests = [f"exit code {action.code}"] if action.code is not None else []
    tests += [f"the log matches {done.log!r}"] if done.log else []
    tests += [f"{done.file} is there"] if done.file else []
    return True, f"finished: {', '.join(tests)}"


def _reason(action: Examine, end: Beat, exit_record: attempt_files.Exit | None, tail: tuple[str, ...]) -> str:
    """How it ended, in one line: the exit, and the trainer's own word or its last line."""
    if exit_record is not None and exit_record.detached:
        return "the training goes on; it is only not watched any more"
    if exit_record is not None and exit_record.launch_error:
        return f"the program could not be started: {exit_record.launch_error}"
    if action.signal is not None:
        name = exit_record.signal_name if exit_record is not None else None
        how = f"killed by {name or f'signal {action.signal}'}"
        killed = exit_record.oom_kills if exit_record is not None else None
        return f"{how} (the kernel's out-of-memory killer struck {killed} times)" if killed else how
    how = "its end was not seen" if action.code is None else f"exit code {action.code}"
    word = end.reason or (tail[-1] if tail and action.code else "")
    return f"{how}: {word}" if word else how


def _end_epoch(subject: Subject, found: list[Checkpoint], since: float) -> int:
    """The last epoch of a finished training, by its table of epochs or the end of its log; 0 if neither tells.

    A finished checkpoint does not tell, and nobody may have seen the last saves of a fast training. Tables from before
    `since` are of another one.
    """
    job, run_dir = subject.job, subject.run_dir
    beside = [folder / "results.csv" for one in found for folder in list(Path(one.path).parents)[:2]]
    tables = dict.fromkeys((*trainers.trainer_for(job).tables(job, run_dir), *beside))
    newest = [read_table(path).newest for path in tables if path.is_file() and path.stat().st_mtime >= since - 1.0]
    return max((row.epoch for row in newest if row is not None), default=subject.place.epoch)


def _saved_epoch(beats: list[Beat], found: list[Checkpoint]) -> int:
    """The newest epoch in a checkpoint, counted from 1: told by the runner, else read from whole files."""
    told = [(beat.epoch or 0) + 1 for beat in beats if beat.kind == "saved" and beat.epoch is not None]
    return max(
        [*told, *(one.done_epochs for one in found if one.state in {"resumable", "done_not_stripped"})],
        default=0,
    )


def _metrics(beats: list[Beat]) -> dict[str, float]:
    for beat in reversed(beats):
        if beat.metrics:
            return {name: value for name, value in beat.metrics.items() if value is not None}
    return {}


def log_tail(path: Path, *, aborted: bool = False) -> tuple[str, ...]:
    """The last lines of a log, cleaned for people; `aborted` by us: without the stacks that were written for that."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            data = file.read()
    except FileNotFoundError:
        return ()
    lines = [line.rstrip()[:LINE_LENGTH] for line in clean_lines(data)]
    if aborted:
        lines = list(before_dump(lines))
    return tuple(line for line in lines if line)[-TAIL_LINES:]
