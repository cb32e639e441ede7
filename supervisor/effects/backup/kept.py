"""Which verified checkpoints a snapshot has: those of the ledger here and those that only the target has any more."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from supervisor import backup_config, layout
from supervisor.core.backups.manifest import Checkpoint, Manifest, Stored
from supervisor.core.job import Checkpoints
from supervisor.core.ledger import Entry, Ledger, keep, of_line, under_order, usable
from supervisor.effects import ledger
from supervisor.effects.backup.collect import LEDGER_FOLDER
from supervisor.effects.backup.guards import NotBackedUpError
from supervisor.effects.backup.targets.base import Target
from supervisor.effects.ledger import RECORD

LEDGER = f"{LEDGER_FOLDER}/{RECORD}"


@dataclass(frozen=True)
class Kept:
    """The ledger as the snapshot has it: `new` copies must be sent, `there` are those that lie there already."""

    ledger: Ledger
    new: Mapping[str, Entry]
    there: Mapping[str, Stored]

    @property
    def epoch(self) -> int:
        """The epoch with which a restored run would go on; 0 if there is none."""
        first = next(iter(usable(self.ledger)), None)
        return first.epoch if first is not None else 0

    def kept_epoch(self, local: Ledger) -> int:
        """The newest epoch of the present line that the ledger here has and the snapshot, too."""
        files = {entry.file for entry in self.ledger.entries}
        return max((entry.epoch for entry in of_line(local) if entry.file in files), default=0)

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """As a manifest has them: the one with which a restored run goes on is the last."""
        order = {entry.file: place for place, entry in enumerate(reversed(usable(self.ledger)))}
        entries = sorted(self.ledger.entries, key=lambda entry: order.get(entry.file, -1))
        return tuple(_checkpoint(entry) for entry in entries)


def choose(
    local: Ledger,
    older: Mapping[str, Entry],
    there: Mapping[str, Stored],
    policy: backup_config.Keep,
    damaged: Collection[str] = (),
) -> Kept:
    """Apply the target's policy to the copies here and there.

    `older` are the entries of the last snapshot, `there` by path what of it still lies there, whole. `damaged` copies
    here are none. Raises NotBackedUpError "damaged" if the newest usable one is among them.
    """
    _demand_newest(local, damaged)
    sound = [entry for entry in local.entries if entry.file not in damaged]
    here = {entry.file for entry in sound}
    only_there = [
        under_order(local, entry) for file, entry in older.items() if file not in here and _path(entry) in there
    ]
    both = msgspec.structs.replace(local, entries=(*only_there, *sound))
    words = Checkpoints(keep_last=policy.keep_last, keep_best=policy.keep_best, keep_epochs=policy.keep_epochs)
    staying = keep(both, words)
    lying = {_path(one): there[_path(one)] for one in staying if _lies_there(one, there)}
    new = {_path(one): one for one in staying if _path(one) not in lying}
    return Kept(msgspec.structs.replace(both, entries=staying), new, lying)


def _demand_newest(local: Ledger, damaged: Collection[str]) -> None:
    newest = next(iter(usable(local)), None)
    if newest is not None and newest.file in damaged:
        text = f"the newest verified copy, good/{newest.file}, is not what was verified (epoch {newest.epoch})"
        raise NotBackedUpError("damaged", text)


def _lies_there(entry: Entry, there: Mapping[str, Stored]) -> bool:
    stored = there.get(_path(entry))
    return stored is not None and stored.sha256 == entry.sha256


def _path(entry: Entry) -> str:
    return f"{LEDGER_FOLDER}/{entry.file}"


def older_entries(target: Target, folder: str, before: Manifest, run_dir: layout.RunDirectory) -> dict[str, Entry]:
    """The entries of a snapshot's ledger by file. TargetError where the target cannot be asked."""
    record = before.stored(LEDGER)
    if record is not None:
        data = target.read(f"{folder}/{record.at}/{LEDGER}") or b""
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return {entry.file: entry for entry in msgspec.json.decode(data, type=Ledger).entries}
    prefix = f"{LEDGER_FOLDER}/"
    files = {file.path: file for file in before.files}
    return {
        one.path.removeprefix(prefix): _entry(one, files[one.path], before, run_dir)
        for one in before.checkpoints
        if one.path.startswith(prefix)
    }


def _checkpoint(entry: Entry) -> Checkpoint:
    return Checkpoint(
        path=_path(entry),
        epoch=entry.epoch,
        attempt=entry.attempt,
        line=entry.line,
        state=entry.state,
        epochs=entry.epochs,
        map50_95=entry.map50_95 if entry.map50_95 is None or math.isfinite(entry.map50_95) else None,
        trainer_version=entry.trainer_version,
    )


def _entry(one: Checkpoint, file: Stored, before: Manifest, run_dir: layout.RunDirectory) -> Entry:
    """What the manifest alone says of a copy: enough to resume from it."""
    return Entry(
        file=one.path.removeprefix(f"{LEDGER_FOLDER}/"),
        epoch=one.epoch,
        run=ledger.run_of(run_dir, one.attempt),
        attempt=one.attempt,
        line=one.line,
        state=one.state,
        epochs=one.epochs,
        size_bytes=file.bytes,
        sha256=file.sha256,
        map50_95=one.map50_95,
        trainer_version=one.trainer_version,
        kept_at=before.created_at,
        source_mtime_ns=file.mtime_ns,
        source_bytes=file.bytes,
    )
