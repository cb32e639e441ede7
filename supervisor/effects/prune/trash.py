"""A trash folder: what was let go lies there under a record of what, why, when and how large, until it is purged.

`FOLDER/.trash/STAMP-ID/` holds `record.json` and, below `things/`, what was moved, at the path that it had. The record
is durable before anything is moved, and names what was to be moved: what is there, was. So after a kill at any point
it can be taken back or purged. A folder whose name ends with `.gone` is being purged; one that ends with `.unsure` was
caught by a kill before it was clear that it may go.
"""

from __future__ import annotations

import re
import secrets
import time
from calendar import timegm
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec

from supervisor.effects.prune import handles
from supervisor.effects.prune.handles import Identity, UnsafeError

RECORD, THINGS, GONE, UNSURE = "record.json", "things", ".gone", ".unsure"
_NAME = re.compile(r"(?P<stamp>\d{8}T\d{6}Z)-[0-9a-f]{8}", re.ASCII)
_STAMP = "%Y%m%dT%H%M%SZ"


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was moved. `path` is relative to the folder of the runs. `files`: how many it holds."""

    path: str
    reason: str = ""
    bytes: int = 0
    files: int = 1


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder in the trash is. `what`: run, archive, epochs, or stray (not what was meant: never purged).

    `key` is the action that let it go, `run` the id of the run.
    """

    at: float
    what: str
    key: str = ""
    by: str = ""
    run: str = ""
    items: tuple[Item, ...] = ()
    version: int = 1

    @property
    def bytes(self) -> int:
        """The size of all its items."""
        return sum(item.bytes for item in self.items)

    @property
    def files(self) -> int:
        """The number of files in all its items."""
        return sum(item.files for item in self.items)


@dataclass(frozen=True)
class Held:
    """A folder in the trash, as it is now: `record` names only what is there."""

    id: str
    record: Record


class Trash:
    """A trash folder by handle, below the handle of the folder that it belongs to."""

    def __init__(self, descriptor: int) -> None:
        """See `opened`."""
        self.descriptor = descriptor

    # ---- reading
    def held(self) -> list[Held]:
        """What lies there, the oldest first. A lost or damaged record is made up from what is there."""
        found = []
        for name in handles.names(self.descriptor):
            if _NAME.fullmatch(name):
                with suppress(FileNotFoundError, NotADirectoryError):
                    found.append(Held(name, self._record(name)))
        return sorted(found, key=lambda one: (one.record.at, one.id))

    def _record(self, name: str) -> Record:
        with handles.below(self.descriptor, name) as folder:
            try:
                data = handles.read(folder, RECORD)
                record = msgspec.json.decode(data, type=Record) if data else None
            except (msgspec.DecodeError, UnicodeDecodeError, UnsafeError):
                record = None
            if record is None:
                return _made_up(name, folder)
            there = tuple(item for item in record.items if _is_there(folder, item.path))
            return msgspec.structs.replace(record, items=there)

    # ---- in
    @staticmethod
    def fresh(at: float) -> str:
        """A name that nothing has."""
        return f"{time.strftime(_STAMP, time.gmtime(at))}-{secrets.token_hex(4)}"

    def begin(self, record: Record) -> str:
        """A new folder with its record, durable; its id. Raises OSError."""
        name = self.fresh(record.at)
        handles.make(self.descriptor, name, THINGS)
        with handles.below(self.descriptor, name) as folder:
            handles.write(folder, RECORD, msgspec.json.encode(record))
        return name

    def rewrite(self, name: str, record: Record) -> None:
        """Let a folder have another record."""
        with handles.below(self.descriptor, name) as folder:
            handles.write(folder, RECORD, msgspec.json.encode(record))

    @contextmanager
    def place(self, name: str, path: str) -> Iterator[tuple[int, str]]:
        """The folder that is to take a thing, made if need be, and the thing's name in it."""
        *folders, last = path.split("/")
        handles.make(self.descriptor, name, THINGS, *folders)
        with handles.below(self.descriptor, name, THINGS, *folders) as target:
            yield target, last

    def tidy(self) -> None:
        """Remove the folders into which an interrupted pruning did not get to move anything."""
        for held in self.held():
            if not held.record.items:
                self.drop_empty(held.id)

    def drop_empty(self, name: str) -> None:
        """Remove a folder into which nothing was moved."""
        with suppress(FileNotFoundError):
            if not self._record(name).items and not self._holds_anything(name):
                handles.remove(self.descriptor, name)

    def _holds_anything(self, name: str) -> bool:
        """True if a file lies there that the record does not name: then it is not ours to throw away."""
        with suppress(FileNotFoundError), handles.below(self.descriptor, name, THINGS) as things:
            return any(not handles.is_folder(status) for _, status in handles.walk(things))
        return False

    # ---- out
    def take_back(self, held: Held, root: int) -> list[str]:
        """Move all items to where they were; what could not be, and why. Nothing that is there now is replaced."""
        problems = []
        for item in held.record.items:
            *folders, last = item.path.split("/")
            try:
                with (
                    handles.below(self.descriptor, held.id, THINGS, *folders) as source,
                    _folder_again(root, folders, is_run=held.record.what == "run") as target,
                ):
                    handles.move_back(source, last, target, last)
            except (OSError, UnsafeError) as error:
                problems.append(f"{item.path}: {getattr(error, 'strerror', None) or error}")
        self.drop_empty(held.id)
        return problems

    def purge(self, name: str) -> tuple[int, int]:
        """Remove a folder for good: (files, bytes). Once begun it cannot be taken back; another call ends it."""
        handles.move_back(self.descriptor, name, self.descriptor, name + GONE)
        return self._end(name + GONE)

    def purge_begun(self) -> tuple[int, int]:
        """End what an interrupted purge began."""
        begun = [name for name in handles.names(self.descriptor) if _NAME.fullmatch(name.removesuffix(GONE))]
        done = [self._end(name) for name in begun if name.endswith(GONE)]
        return sum(files for files, _ in done), sum(size for _, size in done)

    def _end(self, name: str) -> tuple[int, int]:
        status = handles.look(self.descriptor, name)
        if status is None or not handles.is_folder(status):
            return handles.remove(self.descriptor, name)
        with handles.below(self.descriptor, name) as folder:
            is_whole = handles.look(folder, RECORD) is None  # moved here without a record: the disk was full
        if is_whole:
            return handles.remove(self.descriptor, name)
        found = handles.remove_within(self.descriptor, name, THINGS)
        handles.remove(self.descriptor, name)
        return found

    def identities(self, name: str) -> frozenset[Identity]:
        """Everything that lies in a folder. Raises OSError, UnsafeError."""
        with handles.below(self.descriptor, name) as folder:
            return frozenset((status.st_dev, status.st_ino) for _, status in handles.walk(folder))


@contextmanager
def opened(root: int, name: str) -> Iterator[Trash]:
    """The trash folder of a folder, made if need be. Raises OSError, and UnsafeError where it cannot be trusted.

    It must be a real folder of ours on the same file system: from another one nothing could be moved at once.
    """
    handles.make(root, name)
    with handles.below(root, name) as descriptor:
        if not handles.is_ours(descriptor):
            raise UnsafeError(f"{name} belongs to somebody else, or others may write there")
        yield Trash(descriptor)


@contextmanager
def _folder_again(root: int, folders: Sequence[str], *, is_run: bool) -> Iterator[int]:
    """Where a thing was. Only a whole run's project is made anew: files go back only where their run still is."""
    if is_run:
        for place, name in enumerate(folders):
            with handles.below(root, *folders[:place]) as parent:
                handles.make_public(parent, name)
    with handles.below(root, *folders) as folder:
        yield folder


def _is_there(folder: int, path: str) -> bool:
    *folders, last = path.split("/")
    try:
        with handles.below(folder, THINGS, *folders) as parent:
            return handles.look(parent, last) is not None
    except (FileNotFoundError, NotADirectoryError, UnsafeError):
        return False


def _made_up(name: str, folder: int) -> Record:
    """The record of a folder whose own is lost: every file by itself, and it stays until a person has looked."""
    found = _NAME.fullmatch(name)
    at = float(timegm(time.strptime(found["stamp"], _STAMP))) if found else 0.0
    items: tuple[Item, ...] = ()
    with suppress(FileNotFoundError), handles.below(folder, THINGS) as things:
        items = tuple(
            Item(path=path, reason="its record was lost", bytes=handles.apparent(status))
            for path, status in handles.walk(things)
            if not handles.is_folder(status)
        )
    return Record(at=at, what="stray", items=items)
