"""Entering checkpoints that came from a backup in a run's ledger, with all that was known of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from supervisor import layout
from supervisor.core.backups.manifest import Checkpoint, Manifest, Stored
from supervisor.core.job import Checkpoints
from supervisor.core.ledger import Entry, Ledger, keep, run_number, under_order
from supervisor.effects import ledger
from supervisor.effects.backup import placing

GOOD = "good"
RECORD = f"{GOOD}/{ledger.RECORD}"


def decoded(path: Path | None) -> Ledger:
    """The record of a ledger that came from a backup; an empty one where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger) if path is not None else Ledger()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Ledger()


def entries_of(manifest: Manifest, recorded: Ledger) -> dict[str, Entry]:
    """The entries of a manifest's checkpoints by their paths: as `recorded`, else by what the manifest says.

    Only of those that lie in good/ under a name of ours.
    """
    found, files = {}, {file.path: file for file in manifest.files}
    for one in manifest.checkpoints:
        file = files.get(one.path)
        path = PurePosixPath(one.path)
        if file is not None and str(path.parent) == GOOD and ledger.is_copy_name(path.name):
            found[one.path] = _entry(manifest, one, file, recorded)
    return found


def _entry(manifest: Manifest, checkpoint: Checkpoint, file: Stored, recorded: Ledger) -> Entry:
    name = PurePosixPath(file.path).name
    known = next((one for one in recorded.entries if (one.file, one.sha256) == (name, file.sha256)), None)
    return known or Entry(
        file=name,
        epoch=checkpoint.epoch,
        run=manifest.run,
        attempt=checkpoint.attempt,
        line=checkpoint.line,
        state=checkpoint.state,
        epochs=checkpoint.epochs,
        size_bytes=file.bytes,
        sha256=file.sha256,
        map50_95=checkpoint.map50_95,
        trainer_version=checkpoint.trainer_version,
        kept_at=manifest.created_at,
        source_mtime_ns=file.mtime_ns,
        source_bytes=file.bytes,
    )


def needed(entries: dict[str, Entry], recorded: Ledger, policy: Checkpoints) -> list[str]:
    """The paths that a run needs to go on: its newest and best ones by policy, those with the most epochs first.

    Every epoch of a long training is not fetched: the run waits for this.
    """
    view = msgspec.structs.replace(recorded, entries=tuple(entries.values()))
    kept = {one.file for one in keep(view, msgspec.structs.replace(policy, keep_epochs="none"))}
    chosen = [(path, one) for path, one in entries.items() if one.file in kept and not one.distrusted]
    return [path for path, one in sorted(chosen, key=lambda pair: (pair[1].line, pair[1].epoch), reverse=True)]


def merged(own: Ledger, recorded: Ledger, new: Sequence[Entry], run: str) -> Ledger:
    """The run's ledger with these entries. What it knows itself of lines and orders counts, if it knows anything.

    Lines of runs that came after `run` are none of its own.
    """
    base = own
    if not (own.entries or own.lines or own.distrust):
        lines = tuple(line for line in recorded.lines if run_number(line.run) <= run_number(run))
        base = msgspec.structs.replace(recorded, entries=(), lines=lines)
    names = {one.file for one in new}
    others = [one for one in base.entries if one.file not in names]
    entries = sorted([*others, *(under_order(base, one) for one in new)], key=lambda one: one.kept_at)
    return msgspec.structs.replace(base, entries=tuple(entries))


def enter(
    run_dir: layout.RunDirectory, files: Iterable[tuple[Entry, Stored, Path]], recorded: Ledger, run: str
) -> Ledger:
    """Move verified copies into good/ and enter them; a whole copy of that name that is there stays.

    To be called as the only writer (ledger.exclusive). A file is there before the record names it, and no record ever
    names one by the hash of another. Raises as ledger.read and ledger.write.
    """
    run_dir.good.mkdir(parents=True, exist_ok=True)
    own = ledger.read(run_dir)
    new = [(entry, file, path) for entry, file, path in files if not is_there(run_dir, own, entry)]
    if not new:
        return own
    names = {entry.file for entry, _, _ in new}
    if any(one.file in names for one in own.entries):
        own = msgspec.structs.replace(own, entries=tuple(one for one in own.entries if one.file not in names))
        ledger.write(run_dir, own)
    for entry, file, path in new:
        placing.put_in_place(path, run_dir.good, msgspec.structs.replace(file, path=entry.file), over=True)
    full = merged(own, recorded, [entry for entry, _, _ in new], run)
    ledger.write(run_dir, full)
    return full


def is_there(run_dir: layout.RunDirectory, own: Ledger, entry: Entry) -> bool:
    """True if the ledger has a copy of that name that is bit by bit what was entered."""
    known = next((one for one in own.entries if one.file == entry.file), None)
    try:
        return known is not None and ledger.verify_entry(run_dir, known)
    except OSError:
        return False


def relist(run_dir: layout.RunDirectory, manifest: Manifest, run: str) -> int:
    """Enter in the record what lies in good/ by a manifest, after all files were brought back; how many it names then.

    Raises as ledger.read and ledger.write.
    """
    with ledger.exclusive(run_dir):
        recorded = decoded(run_dir.good / ledger.RECORD)
        named = {one.file for one in recorded.entries}
        new = [
            entry
            for entry in entries_of(manifest, recorded).values()
            if entry.file not in named and _has_size(ledger.path_of(run_dir, entry), entry.size_bytes)
        ]
        if new:
            ledger.write(run_dir, merged(recorded, recorded, new, run))
        return len(ledger.read(run_dir).entries) if run_dir.good.is_dir() else 0


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False
