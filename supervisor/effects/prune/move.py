"""The way of one directory, or of files of it, into the trash, and back at once where it turns out to be a mistake."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from supervisor.core.actions import Prune
from supervisor.core.retention import Decision
from supervisor.effects.prune import foreign, handles, look, open_files
from supervisor.effects.prune.handles import Identity, UnsafeError
from supervisor.effects.prune.look import Seen, said
from supervisor.effects.prune.trash import GONE, UNSURE, Item, Record, Trash

log = logging.getLogger("yolo-supervisor")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Place:
    """A folder in which is pruned, with its trash: that of our runs, or one with foreign runs.

    `named`: as the user wrote it.
    """

    path: Path
    trash: str
    foreign: bool = False
    named: Path | None = None


@dataclass(frozen=True)
class Move:
    """Moves what was decided of `seen`, below `root`. `check` raises UnsafeError if that does not hold any more."""

    place: Place
    root: int
    bin: Trash
    action: Prune
    seen: Seen
    now: Callable[[], float]
    check: Callable[[Seen, int, str], None]

    def whole(self, decision: Decision) -> Record:
        """Move the directory. Raises OSError, UnsafeError; then it is where it was."""
        *folders, name = self.seen.parts
        path = "/".join(self.seen.parts)
        item = Item(path=path, reason=decision.reason, bytes=decision.bytes, files=len(self.seen.files))
        with handles.below(self.root, *folders) as parent, handles.below(parent, name) as folder:
            listing = handles.walk(folder)
            if open_files.in_use() & {(status.st_dev, status.st_ino) for _, status in listing}:
                raise UnsafeError("in use: a process has a file of it open")
            self._demand_same(folder, "run")
            if self.seen.proof is not None:
                look.demand_nothing_is_lost(folder, self.seen.proof)
            record = self._record("run", [item])
            identifier = self._begin(record)
            try:
                self._move(parent, name, identifier, item, handles.identity(folder))
            except (OSError, UnsafeError):
                self._drop_empty(identifier)
                raise
        return record

    def some(self, decisions: Sequence[Decision], what: str) -> tuple[Record, list[str]]:
        """Move files of the directory: what was moved, and what was not and why. Raises as `whole`."""
        facts = self.seen.facts
        items = [Item(path=f"{facts.path}/{one.file}", reason=one.reason, bytes=one.bytes) for one in decisions]
        moved: list[Item] = []
        problems: list[str] = []
        with handles.below(self.root, *self.seen.parts) as folder:
            self._demand_same(folder, what)
            if any(look.number_of(one.file) is not None for one in decisions):
                self._demand_sound_copy(folder)
            in_use, record = open_files.in_use(), self._record(what, items)
            identifier = self._begin(record)
            for item in items:
                problem = self._move_file(folder, item, identifier, what, in_use)
                if problem:
                    problems.append(f"{item.path}: {problem}")
                else:
                    moved.append(item)
            self._drop_empty(identifier)
        return msgspec.structs.replace(record, items=tuple(moved)), problems

    def _demand_sound_copy(self, folder: int) -> None:
        """What epochN.pt are let go of for."""
        if self.seen.copy is None or not look.is_sound(folder, self.seen.copy):
            raise UnsafeError("the newest copy in its ledger is not what was entered there")

    def _move_file(self, folder: int, item: Item, identifier: str, what: str, in_use: frozenset[Identity]) -> str:
        """Move one file; why not, or nothing."""
        *inner, name = item.path.split("/")[len(self.seen.parts) :]
        relative = "/".join((*inner, name))
        meant = next((one.identity for one in self.seen.files if one.path == relative), None)
        if meant is None or meant in in_use:
            return "in use: a process has it open"
        try:
            if what == "archive" and look.number_of(relative) is None:
                look.demand_held(folder, relative, self.seen.proof)
            self._demand_same(folder, what)
            with handles.below(folder, *inner) as parent:
                self._move(parent, name, identifier, item, meant)
        except (OSError, UnsafeError) as error:
            return said(error)
        return ""

    def _record(self, what: str, items: Sequence[Item]) -> Record:
        run = "" if self.place.foreign else self.seen.facts.id
        return Record(at=self.now(), what=what, key=self.action.key, by=self.action.by, run=run, items=tuple(items))

    def _begin(self, record: Record) -> str:
        """The folder in the trash; empty where the disk is too full for a record: then all goes at once, as ordered."""
        try:
            return self.bin.begin(record)
        except OSError as error:
            if error.errno not in _FULL or not self.action.at_once:
                raise
            return ""

    def _demand_same(self, folder: int, what: str) -> None:
        if handles.identity(folder) != self.seen.identity:
            raise UnsafeError("it was exchanged for another folder")
        if self.place.foreign:
            foreign.demand_same(self.seen, folder, self.place.path)
        else:
            self.check(self.seen, folder, what)

    def _move(self, parent: int, name: str, identifier: str, item: Item, meant: Identity) -> None:
        """Rename into the trash; what is there then must be what was meant, and may still go, else it goes back."""
        if handles.identity_at(parent, name) != meant:
            raise UnsafeError(f"{name} was exchanged")
        if not identifier:
            self._throw_away(parent, name, meant)
            return
        with self.bin.place(identifier, item.path) as (target, last):
            os.rename(name, last, src_dir_fd=parent, dst_dir_fd=target)
            problem = self._mistake(target, last, meant)
            handles.sync(target)
            handles.sync(parent)
        if problem:
            self._put_back(identifier, parent, name, item)
            raise UnsafeError(problem)

    def _mistake(self, target: int, last: str, meant: Identity) -> str:
        """Why what was moved is to go back; empty if it is what was meant, and no run took it over in that moment."""
        if handles.identity_at(target, last) != meant:
            return f"{last} was exchanged while it was moved"
        if meant != self.seen.identity:
            return ""  # one file of a directory that is where it was
        try:
            with handles.below(target, last) as folder:
                self._demand_same(folder, "run")
        except (OSError, UnsafeError) as error:
            return said(error)
        return ""

    def _throw_away(self, parent: int, name: str, meant: Identity) -> None:
        """Move to where the purge that follows at once begins: that needs no room on the disk."""
        fresh, descriptor = self.bin.fresh(self.now()), self.bin.descriptor
        os.rename(name, fresh + UNSURE, src_dir_fd=parent, dst_dir_fd=descriptor)
        problem = self._mistake(descriptor, fresh + UNSURE, meant)
        if problem:
            handles.move_back(descriptor, fresh + UNSURE, parent, name)
            raise UnsafeError(problem)
        handles.move_back(descriptor, fresh + UNSURE, descriptor, fresh + GONE)

    def _put_back(self, identifier: str, parent: int, name: str, item: Item) -> None:
        """Move a thing back that was not to go. Where its place is taken it stays, marked, and is never purged."""
        with self.bin.place(identifier, item.path) as (source, last), suppress(OSError):
            handles.move_back(source, last, parent, name)
            log.warning("%s was moved into the trash and back: it is not what it was", item.path)
        held = next((one for one in self.bin.held() if one.id == identifier), None)
        if held is not None and any(one.path == item.path for one in held.record.items):
            self.bin.rewrite(identifier, msgspec.structs.replace(held.record, what="stray", key=""))
            raise UnsafeError(f"it was exchanged while it was moved, and lies in {self.place.trash}/{identifier}")

    def _drop_empty(self, identifier: str) -> None:
        if identifier:
            self.bin.drop_empty(identifier)
