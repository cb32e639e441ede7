"""The backup targets and the disk of the simulated server: what lies there, what befalls them, what must hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from disk_promises import all_free, disk_seen
from folders import Folder, WrongError
from machine_room import MachineRoom
from msgspec.structs import replace
from people import NAMES, picked
from recorder import Recorder

from supervisor.core import actions, events
from supervisor.core.backups.model import TargetPolicy
from supervisor.core.ledger import Entry, usable
from supervisor.core.model import Run
from supervisor.loop import Loop

TARGETS = ("nas", "s3")
POLICIES = tuple(TargetPolicy(name=name) for name in TARGETS)
TROUBLES = ("unreachable", "full", "host-key", "changed", "shrunken", "stopped")


@dataclass
class Vault:
    """One target: the newest entry of each run that lies there; `trouble` is why nothing can be sent."""

    runs: dict[str, Entry | None] = field(default_factory=dict)
    trouble: str = ""


class Vaults:
    """The moves of targets and of the disk; the other half is Simulation."""

    room: MachineRoom
    loop: Loop
    record: Recorder

    def now(self) -> float:
        """The clock of the loop."""
        raise NotImplementedError

    def _put(self, found: Any, how: int) -> None:
        raise NotImplementedError

    def _move_backup(self, pick: int, how: int) -> None:
        """The schedule, or a person, wants something of a target."""
        name, about = TARGETS[pick % 2], {"at": self.now()}
        run = self.loop.world.named(NAMES[pick % 3])
        wanted: list[events.Event] = [
            events.BackupDue(**about, target=name),
            events.BackupAsked(**about, by="ann"),
            events.BackupAsked(**about, by="ann", run=run.id if run is not None else "x@1", accept=how % 2 == 0),
            events.VerifyAsked(**about, target=name, by="ann" if how % 2 else "", whole=True),
            events.DrillAsked(**about, target=name, run=run.id if run is not None else "", by="ann" if how % 2 else ""),
            events.QuietSeen(**about, target=name, quiet=bool(how % 3)),
            events.PruneAsked(**about, by="ann"),
        ]
        self._put([wanted[how % len(wanted)]], pick)

    def _move_target(self, pick: int, how: int) -> None:
        """A target gets into trouble, or out of it."""
        self.room.vaults[TARGETS[pick % 2]].trouble = TROUBLES[how % len(TROUBLES)] if how % 3 else ""

    def _move_spot(self, pick: int, how: int) -> None:
        """A disk fills up, or has room again."""
        self._put([disk_seen(self.now(), how)], pick)

    def _move_lose(self, pick: int, how: int) -> None:
        """All checkpoints of a run that does not train just now are gone, the ledger with them."""
        idle = [
            run.name
            for run in self.loop.world.live.values()
            if run.job.train is not None and all(one.cleared for one in self.room.folder(run.name).attempts.values())
        ]
        name = picked(idle, pick)
        if name is not None:
            folder = self.room.folder(name)
            folder.files = {} if how % 2 else {key: replace(one, state="torn") for key, one in folder.files.items()}
            folder.ledger = replace(folder.ledger, entries=())
            folder.lost = True

    def heal_vaults(self) -> None:
        """Every target works, no hours are quiet, and the disk has room."""
        for name, vault in self.room.vaults.items():
            vault.trouble = ""
            self.loop.put(events.QuietSeen(at=self.now(), target=name, quiet=False))
            self.loop.put(events.BackupDue(at=self.now(), target=name))
        for event in all_free(self.now()):
            self.loop.put(event)

    def check_vaults(self) -> None:
        """Whoever is stopped for the disk is stopped at a save only; at most one thing is under way on each target."""
        for run in self.loop.world.live.values():
            if run.stop is not None and run.stop.by == "the disk":
                self.room.told_to_end.add(run.id)
        ordered = {action.key for action in self.record.journal.pending()}
        for target in self.loop.world.targets.values():
            if target.doing and target.doing not in ordered:
                raise WrongError(f"{target.name} waits for {target.doing}, which nobody does")

    def check_backed_up(self) -> None:
        """At rest: all that ended was backed up after its end, and nothing is due any more."""
        world = self.loop.world
        for target in world.targets.values():
            if target.due or target.doing or target.cause:
                raise WrongError(f"at rest, but {target}")
        for run in world.ended.values():
            own = run.attempts and world.latest[run.name] == run.id and not run.set_aside
            if own and not _is_backed_up(run):
                raise WrongError(f"{run.id} is {run.phase.value}, and its backups are {run.backups}")


def _is_backed_up(run: Run) -> bool:
    return all(name in run.backups and run.backups[name].ended for name in TARGETS)


# ---- what the effects do
def _fenced(folder: Folder, token: int) -> bool:
    return folder.token > token


def back_up(room: MachineRoom, action: actions.BackUp) -> tuple[events.Event, ...]:
    """Copy the newest verified entry of a run, unless something is in the way."""
    vault, about = room.vaults[action.target], {"at": room.now, "target": action.target, "run": action.run}
    if vault.trouble and not (vault.trouble == "shrunken" and (action.accept or not action.run)):
        return (events.BackupFailed(**about, cause=vault.trouble, text="x"),)
    if action.job is None:
        return (events.BackedUp(**about, snapshot="snap-state"),)
    folder = room.folder(action.job.name)
    if _fenced(folder, action.token):
        return (events.BackupFailed(**about, cause="stale", text="x"),)
    newest = next(iter(usable(folder.ledger)), None)
    if newest is not None or action.run not in vault.runs:
        vault.runs[action.run] = newest
    epoch = newest.epoch if newest is not None else 0
    return (events.BackedUp(**about, snapshot="snap-1", epoch=epoch, kept_epoch=epoch, ended=action.ended),)


def restore(room: MachineRoom, action: actions.Restore) -> tuple[events.Event, ...]:
    """Bring the newest entry back into the ledger."""
    vault, about = room.vaults[action.target], {"at": room.now, "target": action.target, "run": action.run}
    folder, entry = room.folder(action.job.name), vault.runs.get(action.run)
    if vault.trouble or entry is None or folder.token != action.token or entry.epoch <= action.beyond:
        return (events.Restored(**about, ok=False, text="x"),)
    others = tuple(one for one in folder.ledger.entries if one.file != entry.file)
    entry = replace(entry, line=folder.ledger.line_of(action.run))
    folder.ledger = replace(folder.ledger, entries=(*others, entry))
    return (events.Restored(**about, ok=True, epoch=entry.epoch),)
