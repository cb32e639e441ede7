"""A watch on one folder that outlives the folder: it may be removed, made anew, unmounted, on a server."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyObserver

from supervisor.core.settle import How

log = logging.getLogger("yolo-supervisor")

Hint = Callable[[str, How | None], None]
"""Called with a file's path and what happened to it; None: it left."""

# The kernel tells nothing of what other machines do there.
# fmt: off
NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "fuse.cephfs",
    "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs",
})
# fmt: on
_EVENTS: list[type[FileSystemEvent]] = [FileCreatedEvent, FileClosedEvent, FileDeletedEvent, FileMovedEvent]


class FolderWatch:
    """Hints about files of one folder, from inotify, for as long as the folder is the same one."""

    def __init__(self, folder: Path, hint: Hint) -> None:
        """Watch nothing yet; `hint` is called from a thread of watchdog."""
        self._folder = folder
        self._handler = _Handler(hint)
        self._observer: InotifyObserver | None = None
        self._watch: ObservedWatch | None = None
        self._identity: tuple[int, int] | None = None
        self._complaint = ""

    def ensure(self) -> bool:
        """Watch the folder that is there now; True if this is a new watch, so a scan must follow.

        watchdog stays alive and deaf when its folder is removed and made anew; an inode number may come back at
        once, so its own end of listening counts too. Without a folder, on a network file system, and where
        the kernel allows no more watches (logged once), scans have to do.
        """
        identity = self._folder_identity()
        if identity is not None and identity == self._identity and self._listening():
            return False
        self._drop()
        if identity is None or on_network(self._folder):
            return False
        return self._begin(identity)

    def close(self) -> None:
        """End the watch and its threads."""
        self._drop()
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(1.0)
            self._observer = None

    def _folder_identity(self) -> tuple[int, int] | None:
        try:
            status = self._folder.stat()
        except OSError:
            return None
        return (status.st_dev, status.st_ino)

    def _listening(self) -> bool:
        observer = self._observer
        return observer is not None and any(emitter.should_keep_running() for emitter in observer.emitters)

    def _begin(self, identity: tuple[int, int]) -> bool:
        try:
            if self._observer is None:
                # Full events: a rename from another folder is told as a rename, not as a creation.
                self._observer = InotifyObserver(generate_full_events=True)
                self._observer.start()
            self._watch = self._observer.schedule(self._handler, str(self._folder), event_filter=_EVENTS)
        except OSError as error:
            self._complain(f"cannot watch {self._folder}, so it is only scanned: {error.strerror}")
            return False
        self._identity = identity
        self._complaint = ""
        return True

    def _drop(self) -> None:
        if self._watch is not None and self._observer is not None:
            self._observer.unschedule(self._watch)
        self._watch = None
        self._identity = None

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.warning("%s", text)
        self._complaint = text


class _Handler(FileSystemEventHandler):
    """Turns watchdog's events into hints."""

    def __init__(self, hint: Hint) -> None:
        self._hint = hint

    def on_created(self, event: FileSystemEvent) -> None:
        self._hint(os.fsdecode(event.src_path), How.CHANGED)

    def on_closed(self, event: FileSystemEvent) -> None:
        self._hint(os.fsdecode(event.src_path), How.CLOSED)

    def on_deleted(self, event: FileSystemEvent) -> None:
        self._hint(os.fsdecode(event.src_path), None)

    def on_moved(self, event: FileSystemEvent) -> None:
        if event.src_path:
            self._hint(os.fsdecode(event.src_path), None)
        if event.dest_path:
            self._hint(os.fsdecode(event.dest_path), How.MOVED)


def on_network(folder: Path, mounts: str | None = None) -> bool:
    """Tell whether other machines may write to this folder. `mounts`: as /proc/self/mountinfo."""
    if mounts is None:
        mounts = Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape")
    best, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = _unescape(left.split(" ")[4])
        inside = point == "/" or folder == Path(point) or Path(point) in folder.parents
        if inside and len(point) >= len(best):  # a later mount on the same point hides the earlier one
            best, kind = point, right.split(" ")[0]
    return kind in NETWORK_FILE_SYSTEMS


def _unescape(text: str) -> str:
    """Return a path of mountinfo with its blanks, line ends and backslashes (written in octal) put back."""
    for code in ("040", "011", "012", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text
