"""The ledger on disk: private copies of checkpoints, verified, hashed and named in good/ledger.json.

A file in good/ is whole from the moment that it has a name of ours: it was copied under another one, made durable and
looked into before. ledger.json names only such files, so after a crash or a power cut at any point it is either right,
or it lacks a whole file, which is then looked at and entered again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from supervisor import attempt_files, durable, layout
from supervisor.core.checkpoints import BAD, GOES_ON, TORCH_SUFFIXES, Checkpoint, knows_its_end
from supervisor.core.job import Checkpoints
from supervisor.core.ledger import Entry, Ledger, Line, keep, of_line, opening, under_order
from supervisor.core.model import Job
from supervisor.core.outlook import map50_95
from supervisor.effects import checkpoints
from supervisor.effects.private_copy import Copied, private_copy, sha256_of
from supervisor.errors import RetryableError
from supervisor.trainers import trainer_for
from supervisor.trainers.results_csv import read_table

RECORD = "ledger.json"
RECORD_BEFORE = "ledger.before.json"  # what lines there are cannot be seen in the files
INCOMING = ".incoming-"
ASIDE = "aside"  # files with a name of ours that are not whole, for study
LOCK_S = 1.0  # a copy that hangs on its disk must not hold up the threads that copies and starts share
BUSY_AGAIN_S = 2.0

_OURS = re.compile(r"(?P<kind>epoch|save)(?P<number>\d{1,9})-attempt(?P<attempt>\d{1,9})(?:\.\w{1,16})?", re.ASCII)
_SUFFIX = re.compile(r"\.\w{1,16}", re.ASCII)
_SAVES = "save"
_locks: dict[Path, threading.RLock] = {}
_looking_up = threading.Lock()  # or two threads could make a lock each


@dataclass(frozen=True)
class Taken:
    """What became of a source: its entry; or none, and why. `fault`: what is wrong with the file or the disk."""

    entry: Entry | None
    reason: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Maker:
    """Who wrote a checkpoint, for which job, and when it is entered."""

    run: str
    attempt: int
    job: Job
    at: float


@contextlib.contextmanager
def exclusive(run_dir: layout.RunDirectory) -> Iterator[None]:
    """Be the only writer of a run's ledger; may be nested. Raises RetryableError where another one takes long.

    One daemon writes a run directory (the fence token sees to that), so a lock in its memory is enough, and a crash
    leaves none behind.
    """
    with _looking_up:
        lock = _locks.setdefault(run_dir.root, threading.RLock())
    if not lock.acquire(timeout=LOCK_S):
        raise RetryableError(f"another copy into {run_dir.good} is under way", BUSY_AGAIN_S)
    try:
        yield
    finally:
        lock.release()


# ---- reading
def read(run_dir: layout.RunDirectory) -> Ledger:
    """The ledger as it stands: only files that are there, also those that no record names (any more).

    Where ledger.json is damaged or gone, the files are looked into. Raises RetryableError where that cannot be done
    now, OSError where the folder cannot be read. Writes nothing.
    """
    return _read(run_dir)[0]


def _read(run_dir: layout.RunDirectory) -> tuple[Ledger, str]:
    """The ledger, and what was wrong with its record."""
    ledger, problem = _recorded(run_dir)
    present = _present(run_dir)
    right = _matches if problem else _same_size
    entries = tuple(entry for entry in ledger.entries if entry.file in present and right(run_dir, entry))
    found = _looked_into(run_dir, ledger, sorted(present - {entry.file for entry in entries}))
    if problem and not (found or entries):
        problem = ""
    elif problem:
        problem = f"{problem}: the copies in {run_dir.good} were looked into again, {len(entries + found)} are good"
    return msgspec.structs.replace(ledger, entries=(*entries, *found)), problem


def _recorded(run_dir: layout.RunDirectory) -> tuple[Ledger, str]:
    """What the record says, of a damaged one the record before it; and what is wrong."""
    recorded, problem = _decoded(run_dir.good / RECORD)
    if recorded is None:
        recorded, _ = _decoded(run_dir.good / RECORD_BEFORE)
    return recorded or Ledger(), problem


def _decoded(path: Path) -> tuple[Ledger | None, str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger), ""
    except FileNotFoundError:
        return None, f"{path.name} was missing"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return None, f"{path.name} was damaged ({error})"


def _present(run_dir: layout.RunDirectory) -> set[str]:
    """The names in good/ that are ours. A record may name nothing else: it cannot lead out of the folder."""
    try:
        names = os.listdir(run_dir.good)  # noqa: PTH208 - names are wanted, not paths
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {name for name in names if _OURS.fullmatch(name)}


def is_copy_name(name: str) -> bool:
    """True for a name that a copy in good/ may have."""
    return _OURS.fullmatch(name) is not None


def _same_size(run_dir: layout.RunDirectory, entry: Entry) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path_of(run_dir, entry).stat().st_size == entry.size_bytes
    return False


def _matches(run_dir: layout.RunDirectory, entry: Entry) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return verify_entry(run_dir, entry)
    return False


def _looked_into(run_dir: layout.RunDirectory, ledger: Ledger, names: list[str]) -> tuple[Entry, ...]:
    """Entries of whole files that no record names, the oldest first."""
    found = [
        _found_entry(run_dir, ledger, checkpoint)
        for checkpoint in checkpoints.look([run_dir.good / name for name in names], finite=True)
        if _is_whole(checkpoint, knows_end=False)
    ]
    return tuple(sorted(found, key=lambda entry: (entry.attempt, entry.epoch, entry.source_mtime_ns)))


def _found_entry(run_dir: layout.RunDirectory, ledger: Ledger, checkpoint: Checkpoint) -> Entry:
    """The entry of a file by its content and name. It has the time of the file that it was copied from."""
    path = Path(checkpoint.path)
    match = _OURS.fullmatch(path.name)
    attempt = int(match["attempt"]) if match else 0
    status = path.stat()
    run = run_of(run_dir, attempt)
    entry = Entry(
        file=path.name,
        run=run,
        attempt=attempt,
        line=ledger.line_of(run),
        kept_at=status.st_ctime,
        **_content(checkpoint, Copied(sha256_of(path), status.st_size, status.st_mtime_ns)),
    )
    return under_order(ledger, entry)


def _content(checkpoint: Checkpoint, copied: Copied) -> dict[str, Any]:
    """What the file itself says, as fields of an entry."""
    return {
        "epoch": checkpoint.done_epochs,
        "state": checkpoint.state,
        "epochs": checkpoint.epochs,
        "map50_95": checkpoint.map50_95,
        "trainer_version": checkpoint.version or "",
        "size_bytes": copied.size_bytes,
        "sha256": copied.sha256,
        "source_mtime_ns": copied.mtime_ns,
        "source_bytes": copied.size_bytes,
    }


def run_of(run_dir: layout.RunDirectory, attempt: int) -> str:
    """The id of the run that an attempt belonged to; empty where its launch.json does not say."""
    try:
        launch = attempt_files.read_launch(run_dir.attempt(attempt).root)
    except (OSError, ValueError):
        return ""
    return launch.run if launch is not None else ""


def path_of(run_dir: layout.RunDirectory, entry: Entry) -> Path:
    """Where the copy lies."""
    return run_dir.good / entry.file


def verify_entry(run_dir: layout.RunDirectory, entry: Entry) -> bool:
    """True if the copy is bit by bit what was entered. OSError where it cannot be read, also where it is gone."""
    return _same_size(run_dir, entry) and sha256_of(path_of(run_dir, entry)) == entry.sha256


# ---- writing
def write(run_dir: layout.RunDirectory, ledger: Ledger) -> None:
    """Make the record durable: whole or not at all. OSError where it cannot be; then the old one stands."""
    before, _ = _decoded(run_dir.good / RECORD)
    if before is not None:  # a damaged one would replace the only good one
        durable.write(run_dir.good / RECORD_BEFORE, msgspec.json.encode(before), mode=0o644)
    durable.write(run_dir.good / RECORD, msgspec.json.encode(ledger), mode=0o644)


def open_line(run_dir: layout.RunDirectory, line: Line) -> None:
    """Let a run begin a line of its own; once, however often it is asked. Raises as `exclusive`, `read`, `write`."""
    with exclusive(run_dir):
        ledger = read(run_dir)
        if ledger.opened_by(line.run) is None:
            run_dir.good.mkdir(parents=True, exist_ok=True)
            write(run_dir, opening(ledger, line))


def enter(  # noqa: PLR0917 - all that an entry says of its origin
    run_dir: layout.RunDirectory, source: Path, run: str, attempt: int, job: Job, now: float
) -> Entry | None:
    """Copy a checkpoint into the ledger, verified, unless it is there already; None if it is not whole.

    It goes on the line on which `run` trains. The file is removed if it is an attempt's private final copy, or, where
    that is not whole, moved into the attempt's folder `aside`. Raises RetryableError where the file is being written,
    NoRoomError where the disk is (nearly) full, OSError where it cannot be read.
    """
    with exclusive(run_dir):
        return take(run_dir, source, Maker(run, attempt, job, now)).entry


def enter_finals(run_dir: layout.RunDirectory, job: Job, now: float) -> list[str]:
    """Enter what the runners of all attempts left as private copies of their last save; what was wrong with them.

    Raises RetryableError as `enter`.
    """
    with exclusive(run_dir):
        attempts = sorted(int(path.parent.name) for path in finals(run_dir))
        taken = [take_final(run_dir, Maker(run_of(run_dir, number), number, job, now)) for number in attempts]
        return [one.reason for one in taken if one.reason]


def take_final(run_dir: layout.RunDirectory, maker: Maker) -> Taken:
    """As `take`, the private copy that the attempt's runner left of its last save, if it did.

    One that cannot be read is told and left where it is. Raises as `take` where the disk is full.
    """
    final = run_dir.attempt(maker.attempt).final
    try:
        return take(run_dir, final, maker) if final.exists() else Taken(None)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        return Taken(None, f"{final} could not be copied: {error.strerror or error}", "unreadable")


def finals(run_dir: layout.RunDirectory) -> list[Path]:
    """The private copies of last saves that runners left and nobody has entered yet."""
    name = run_dir.attempt(1).final.name
    return [path for path in (run_dir.root / "attempts").glob(f"*/{name}") if path.parent.name.isdigit()]


def take(run_dir: layout.RunDirectory, source: Path, maker: Maker) -> Taken:
    """As `enter`, and tells why not. To be called as the only writer."""
    run_dir.good.mkdir(parents=True, exist_ok=True)
    ledger, note = _swept(run_dir)
    try:
        status = source.stat()
        known = next((one for one in _of_line(ledger, maker) if _is_copy_of(one, status)), None)
        taken = Taken(known) if known is not None else _copy_in(run_dir, ledger, source, maker)
    except FileNotFoundError as error:
        return Taken(None, f"{source} is not there ({error.strerror or error})")
    if source in finals(run_dir):
        _finish_with(source, taken)
    return replace(taken, reason="; ".join(filter(None, (note, taken.reason))))


def _of_line(ledger: Ledger, maker: Maker) -> tuple[Entry, ...]:
    """The copies that stand for a save of this run: those of a line that it left do not help it."""
    return of_line(ledger, ledger.line_of(maker.run))


def _finish_with(final: Path, taken: Taken) -> None:
    if taken.entry is not None:
        final.unlink(missing_ok=True)
    else:
        checkpoints.set_aside(final, layout.AttemptDirectory(final.parent).aside)


def _is_copy_of(entry: Entry, status: os.stat_result) -> bool:
    return (entry.source_mtime_ns, entry.source_bytes) == (status.st_mtime_ns, status.st_size)


def _swept(run_dir: layout.RunDirectory) -> tuple[Ledger, str]:
    """The ledger, put right on disk: files of ours that no record names are entered if they can be, else put aside."""
    ledger, problem = _read(run_dir)
    for path in run_dir.good.glob(f"{INCOMING}*"):
        path.unlink(missing_ok=True)
    if ledger != _recorded(run_dir)[0] or problem:
        write(run_dir, ledger)
    for name in _present(run_dir) - {entry.file for entry in ledger.entries}:
        checkpoints.set_aside(run_dir.good / name, run_dir.good / ASIDE)
    return ledger, problem


def _copy_in(run_dir: layout.RunDirectory, ledger: Ledger, source: Path, maker: Maker) -> Taken:
    """Copy, look into the copy, and enter it."""
    suffix = source.suffix if _SUFFIX.fullmatch(source.suffix) else ""
    incoming = run_dir.good / f"{INCOMING}{maker.attempt}{suffix}"
    try:
        copied = private_copy(source, incoming)
        twin = next((one for one in _of_line(ledger, maker) if one.sha256 == copied.sha256), None)
        if twin is not None:
            return Taken(twin)
        checkpoint = checkpoints.look([incoming], finite=True)[0]
        if not _is_whole(checkpoint, knows_end=knows_its_end(maker.job)):
            fault = checkpoint.state if checkpoint.state in BAD else ""
            return Taken(None, f"{source.name} is {checkpoint.state}: {checkpoint.reason}", fault)
        entry = _new_entry(run_dir, ledger, maker, checkpoint, copied)
        _store(run_dir, ledger, entry, incoming, maker.job.checkpoints)
        return Taken(entry)
    finally:
        incoming.unlink(missing_ok=True)


def _new_entry(
    run_dir: layout.RunDirectory, ledger: Ledger, maker: Maker, checkpoint: Checkpoint, copied: Copied
) -> Entry:
    epoch, attempt, suffix = checkpoint.done_epochs, maker.attempt, Path(checkpoint.path).suffix
    content = _content(checkpoint, copied)
    if content["map50_95"] is None:
        content["map50_95"] = _metric_in_table(maker.job, run_dir, epoch)
    name = f"epoch{epoch}-attempt{attempt}{suffix}" if epoch else _save_name(run_dir, attempt, suffix)
    line = ledger.line_of(maker.run)
    entry = Entry(file=name, run=maker.run, attempt=attempt, line=line, kept_at=maker.at, **content)
    return under_order(ledger, entry)


def _is_whole(checkpoint: Checkpoint, *, knows_end: bool) -> bool:
    """True for what may be entered. Of other trainers' files PyTorch's must be whole, of others nothing is known."""
    if knows_end or checkpoint.state in GOES_ON:
        return checkpoint.state in GOES_ON
    if Path(checkpoint.path).suffix in TORCH_SUFFIXES:
        return checkpoint.state == "weights_only"
    return checkpoint.state not in {"missing", "hostile", "poisoned"} and bool(checkpoint.size_bytes)


def _save_name(run_dir: layout.RunDirectory, attempt: int, suffix: str) -> str:
    """A name for a file that does not say its epoch: saves are counted."""
    found = [_OURS.fullmatch(name) for name in _present(run_dir)]
    numbers = [int(one["number"]) for one in found if one and (one["kind"], one["attempt"]) == (_SAVES, str(attempt))]
    return f"{_SAVES}{max(numbers, default=0) + 1}-attempt{attempt}{suffix}"


def _metric_in_table(job: Job, run_dir: layout.RunDirectory, epoch: int) -> float | None:
    """The mAP50-95 of an epoch whose checkpoint does not hold it, from the trainer's table."""
    for path in trainer_for(job).tables(job, run_dir):
        with contextlib.suppress(OSError):
            row = read_table(path).rows.get(epoch)
            return map50_95(row.metrics) if row is not None else None
    return None


def _store(run_dir: layout.RunDirectory, ledger: Ledger, entry: Entry, incoming: Path, policy: Checkpoints) -> None:
    """Name the copy, record it, and only then remove what the policy lets go. The new one stays in any case."""
    others = tuple(one for one in ledger.entries if one.file != entry.file)
    if len(others) < len(ledger.entries):  # not for a moment may the record name a file by another one's hash
        write(run_dir, msgspec.structs.replace(ledger, entries=others))
    incoming.replace(path_of(run_dir, entry))
    durable.sync(run_dir.good)
    full = msgspec.structs.replace(ledger, entries=(*others, entry))
    staying = {entry, *keep(full, policy)}
    write(run_dir, msgspec.structs.replace(full, entries=tuple(one for one in full.entries if one in staying)))
    for gone in set(full.entries) - staying:
        path_of(run_dir, gone).unlink(missing_ok=True)
