"""Carry the policy out: what may go is moved into the trash, what lay there long enough is purged.

Just before anything is moved it is asked again whether it still may: the same folder by device and inode, the same
fence token, no live run in the world of this moment, nothing locked, nothing open. And just after: if what was moved
is not what was meant, or a run took the folder over in that moment, it is moved back.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from supervisor import prune_config
from supervisor.core import actions, events
from supervisor.core.model import World
from supervisor.core.retention import ARCHIVE, DELETE, KEEP, REFUSED, Decision, Retention, decide
from supervisor.effects.prune import foreign, handles, look, open_files, policy, proof, standing, trash
from supervisor.effects.prune.handles import UnsafeError
from supervisor.effects.prune.look import Look, Seen, said
from supervisor.effects.prune.move import Move, Place
from supervisor.effects.prune.standing import Standing
from supervisor.effects.prune.trash import Held, Record, Trash
from supervisor.errors import RetryableError

log = logging.getLogger("yolo-supervisor")

TRASH = ".trash"
BUSY_AGAIN_S = 5.0
MOST_TOLD = 20
NO_POLICY = "there is no [prune] section: nothing is pruned"


@dataclass
class Tally:
    """What one pruning has done."""

    moved_files: int = 0
    moved_bytes: int = 0
    purged_files: int = 0
    purged_bytes: int = 0
    archived: list[str] = field(default_factory=list)
    removed_runs: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def moved(self, record: Record) -> None:
        """Something lies in the trash."""
        if not record.items:
            return
        self.moved_files += record.files
        self.moved_bytes += record.bytes
        if record.what == "archive":
            self.archived.append(record.run)
        elif record.what == "run" and record.run:
            self.removed_runs.append(record.run)

    def purged(self, files: int, size: int) -> None:
        """Something is gone."""
        self.purged_files += files
        self.purged_bytes += size

    def skip(self, what: str, why: str) -> None:
        """Something was to go, and did not."""
        self.skipped.append(f"{what}: {why}")


class Pruner:
    """Carries out Prune; and shows what it would do, what lies in the trash, and takes back from there."""

    def __init__(
        self,
        settings_of: Callable[[], prune_config.Prune | None],
        runs_dir: Path,
        world: Callable[[], World],
        now: Callable[[], float],
        *,
        state_dir: Path,
        targets: Callable[[], Collection[str]] = tuple,
        closed: Callable[[], Iterable[Path]] = tuple,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """`targets`: the names of all [[backup]] that are configured: before the world knows them nothing is pruned.

        `state_dir`: there it is remembered what backups hold. `closed`: local folders of backups, where no foreign run
        is. `stopping`: the daemon ends; the next one goes on. A link in the path of `runs_dir` is followed now, and
        never again.
        """
        self._settings_of = settings_of
        self._runs = Place(Path(os.path.realpath(runs_dir)), TRASH)
        self._runs_dir = runs_dir
        self._state_dir = state_dir
        self._world = world
        self._now = now
        self._targets = targets
        self._closed = closed
        self._stopping = stopping
        self._alone = threading.Lock()

    # ---- doing
    def __call__(self, action: actions.Prune) -> tuple[events.Event, ...]:
        """See the module. Interrupted at any point, the next call goes on. Raises RetryableError."""
        settings = self._settings_of()
        if settings is None:
            return (events.Pruned(at=self._now(), origin="prune", by=action.by, text=NO_POLICY),)
        retention, tally = policy.of(settings), Tally()
        with self.exclusively():
            self._demand_known_targets()
            for place in self.places(settings):
                self._prune(place, action, settings, tally)
        return (self._event(action, tally, retention),)

    def _event(self, action: actions.Prune, tally: Tally, retention: Retention) -> events.Pruned:
        more = len(tally.skipped) - MOST_TOLD
        return events.Pruned(
            at=self._now(),
            origin="prune",
            by=action.by,
            moved_files=tally.moved_files,
            moved_bytes=tally.moved_bytes,
            purged_files=tally.purged_files,
            purged_bytes=tally.purged_bytes,
            archived=tuple(dict.fromkeys(tally.archived)),
            removed_runs=tuple(dict.fromkeys(tally.removed_runs)),
            skipped=(*tally.skipped[:MOST_TOLD], *([f"and {more} more"] if more > 0 else [])),
            text=REFUSED if retention.empty else "",
        )

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Be the only one who moves anything here. Raises RetryableError where another one does."""
        if not self._alone.acquire(timeout=1.0):
            raise RetryableError("a pruning is under way", BUSY_AGAIN_S)
        try:
            yield
        finally:
            self._alone.release()

    def _demand_known_targets(self) -> None:
        missing = set(self._targets()) - set(self._world().targets)
        if missing:
            raise RetryableError(f"backup target {min(missing)} is not known yet", BUSY_AGAIN_S)

    def places(self, settings: prune_config.Prune | None) -> list[Place]:
        """Where is pruned: our runs, and the folders that the user named, as far as they lie apart from these."""
        if settings is None:
            return [self._runs]
        folders = {Path(os.path.realpath(folder)): folder for folder in reversed(settings.folders)}
        apart = [(real, named) for real, named in folders.items() if not _overlap(real, self._runs.path)]
        return [self._runs, *(Place(real, foreign.TRASH, foreign=True, named=named) for real, named in apart[::-1])]

    def _prune(self, place: Place, action: actions.Prune, settings: prune_config.Prune, tally: Tally) -> None:
        try:
            self._prune_place(place, action, settings, tally)
        except (OSError, UnsafeError) as error:
            tally.skip(str(place.path), said(error))

    def _prune_place(self, place: Place, action: actions.Prune, settings: prune_config.Prune, tally: Tally) -> None:
        with handles.absolute(place.path) as root, trash.opened(root, place.trash) as bin_:
            bin_.tidy()
            self._count_what_an_interrupted_one_did(bin_, action, tally)
            self._purge(bin_, tally, 0.0 if action.at_once else settings.trash)
            for seen, found in self.decided(place, root, policy.of(settings)):
                if self._stopping():
                    raise RetryableError("the daemon stops; the next one goes on", BUSY_AGAIN_S)
                self._let_go(Move(place, root, bin_, action, seen, self._now, self.check), found, tally)
                if action.at_once and any(one.action != KEEP for one in found):
                    self._purge(bin_, tally, 0.0)

    def decided(self, place: Place, root: int, retention: Retention) -> list[tuple[Seen, list[Decision]]]:
        """Every directory of a place, below its handle, with what becomes of it first, and then of its files."""
        seen = list(self._seen(place, root))
        decisions: dict[str, list[Decision]] = {}
        for one in decide([one.facts for one in seen], retention, self._now()):
            decisions.setdefault(one.path, []).append(one)
        return [(one, decisions[one.facts.path]) for one in seen]

    def _seen(self, place: Place, root: int) -> Iterator[Seen]:
        in_use, world = open_files.in_use(), self._world()
        if place.foreign:
            closed = foreign.closed(place.path, place.named or place.path, self._closed(), world)
            return foreign.Search(root, place.path, world, in_use, self._now(), closed).all()
        return Look(root, self._runs_dir, self._state_dir, world, in_use).all()

    @staticmethod
    def _count_what_an_interrupted_one_did(bin_: Trash, action: actions.Prune, tally: Tally) -> None:
        for held in bin_.held():
            if held.record.key == action.key:
                tally.moved(held.record)

    def _purge(self, bin_: Trash, tally: Tally, after_s: float) -> None:
        tally.purged(*bin_.purge_begun())
        due = [one for one in bin_.held() if one.record.at + after_s <= self._now() and one.record.what != "stray"]
        in_use = open_files.in_use() if due else frozenset()
        for held in due:
            problem = self._unpurgeable(held)
            try:
                if not problem and bin_.identities(held.id) & in_use:
                    problem = "a process has a file of it open"
                if problem:
                    tally.skip(f"{TRASH}/{held.id}", problem)
                else:
                    tally.purged(*bin_.purge(held.id))
            except (OSError, UnsafeError) as error:
                tally.skip(f"{TRASH}/{held.id}", said(error))

    def _unpurgeable(self, held: Held) -> str:
        """Why something stays in the trash: its run lives again, or the backup that it was let go for is not whole."""
        record, world = held.record, self._world()
        if record.what == "epochs" or not record.run or not record.items:
            return ""
        found = standing.of(world, *record.items[0].path.split("/")[:2])
        if found is None:
            return ""
        problem = f"{found.name} lives again" if found.live is not None else self._lost(world, found, record)
        return f"{problem}; `yolo-supervisor prune --undo {held.id}` takes it back" if problem else ""

    def _lost(self, world: World, found: Standing, record: Record) -> str:
        """What a backup has no longer for which it was let go; empty if it has all."""
        run = found.worked if found.newest.id == record.run else world.run(record.run)
        if run is None or not standing.is_backed_up(world, run):
            return ""
        if not standing.is_covered(world, run):
            return "its backup is not whole any more"
        if record.what != "archive" or run is not found.worked:
            return ""
        backups = proof.of(self._state_dir, world, run)
        inside = ((item.path.split("/", 2)[-1], item.bytes) for item in record.items)
        lost = (path for path, size in inside if look.number_of(path) is None and not backups.may_have(path, size))
        return next((f"{path} is in no backup any more" for path in lost), "")

    def _let_go(self, move: Move, found: Sequence[Decision], tally: Tally) -> None:
        """Move what is to go of one directory, if that still holds."""
        directory, files = found[0], [one for one in found[1:] if one.action != KEEP]
        name = move.seen.facts.path
        try:
            if directory.action == DELETE:
                tally.moved(move.whole(directory))
                log.info("pruned %s: %s", name, directory.reason)
            elif directory.action == ARCHIVE and not files:
                tally.archived.append(move.seen.facts.id)  # an interrupted pruning moved them, and did not say so
            elif files:
                what = "archive" if directory.action == ARCHIVE else "epochs"
                record, problems = move.some(files, what)
                tally.moved(record)
                log.info("pruned %d files of %s (%s)", record.files, name, what)
                for problem in problems:
                    tally.skip(name, problem)
        except FileNotFoundError:
            tally.skip(name, "it is gone, or was exchanged")
        except (OSError, UnsafeError) as error:
            tally.skip(name, said(error))

    def check(self, seen: Seen, folder: int, what: str) -> None:
        """Raise UnsafeError if what was decided for a directory of ours does not hold any more."""
        world = self._world()
        found = standing.of(world, *seen.parts)
        marker = handles.read(folder, look.TOKEN) or b""
        if found is None or marker != seen.marker or look.marker_problem(marker, found):
            raise UnsafeError("its fence token has changed")
        self._demand_proof(world, found, seen)
        if what == "epochs":
            if found.starting:
                raise UnsafeError("an attempt is being prepared just now")
            return
        if found.live is not None or found.newest.id != seen.facts.id:
            raise UnsafeError("a new run has begun there")
        needed = look.locked(folder) or standing.needed(world, found, self._runs_dir.joinpath(*seen.parts))
        if needed:
            raise UnsafeError(needed)
        if standing.is_backed_up(world, found.worked) and not standing.is_covered(world, found.worked):
            raise UnsafeError("it is not verified in its backup any more")

    def _demand_proof(self, world: World, found: Standing, seen: Seen) -> None:
        """Raise UnsafeError if the backups are not those any more whose manifests were looked at."""
        if not standing.is_backed_up(world, found.worked):
            return
        now = proof.of(self._state_dir, world, found.worked).snapshots
        if seen.proof is None or not now or now != seen.proof.snapshots:
            raise UnsafeError("its backup has changed just now")

    # ---- for those who show what would be done
    @property
    def settings(self) -> prune_config.Prune | None:
        """The [prune] table as it is now."""
        return self._settings_of()

    def now(self) -> float:
        """What time it is."""
        return self._now()


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
