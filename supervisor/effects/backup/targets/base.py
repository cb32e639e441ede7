"""What every backup target can do, how it fails, and which paths it takes."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from supervisor.core.backups import causes

#: Nothing asks for more to be removed at once: whoever does is wrong about what it looks at.
MOST_REMOVED = 5000
#: The largest file that `read` answers: a manifest of a hundred thousand files has some 20 MB.
MOST_READ_BYTES = 256 * 1024 * 1024
#: The parts of a target's tree that hold snapshots; nothing else is ever removed.
REMOVABLE = ("runs", "state")
#: Told now and then how many bytes of a transfer are there so far.
Progress = Callable[[int], None]

_PART_BYTES = 255  # NAME_MAX of Linux
_PATH_BYTES = 4096 - 512  # PATH_MAX of Linux, less the target's own root
_CAUSES = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ETIMEDOUT: "timeout",
    errno.ESTALE: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ECONNREFUSED: "unreachable",
    errno.ENOTCONN: "unreachable",
}


class TargetError(Exception):
    """A target could not do it. `cause`: a name of causes.KINDS; `text`: for a person, without secrets."""

    def __init__(self, cause: str, text: str) -> None:
        """ValueError for a cause that people are told nothing about."""
        if cause not in causes.KINDS:
            raise ValueError(f"no such cause: {cause}")
        super().__init__(text)
        self.cause = cause
        self.text = text


@dataclass(frozen=True)
class Found:
    """A file there. `path` is relative to the target's root; `mtime` is its time of last change, in seconds."""

    path: str
    bytes: int
    mtime: float


@dataclass(frozen=True)
class Facts:
    """A target that answers. None for what cannot be known; `warning` is empty or a sentence for a person."""

    free_bytes: int | None
    total_bytes: int | None
    warning: str


def ignore(sent_bytes: int) -> None:
    """Nobody wants to know how far a transfer is."""


class Target(Protocol):
    """A place for backups. All paths are relative to the server's folder there, with "/" between their parts.

    Everything raises TargetError; "stopped" once the event that it was opened with is set. Used by one thread at a
    time. A job-controlled name is never taken for an option, a pattern or a way out of the folder.
    """

    name: str
    append_only: bool

    def facts(self) -> Facts:
        """Answer what is known of it; TargetError where it cannot be reached."""

    def send(self, stage: Path, under: str, *, progress: Progress = ignore) -> None:
        """Copy all plain files below `stage` to below `under`, and what is in folders; links are not followed.

        Each file gets its name there when it is whole, with its time of last change. What is there already (same size
        and time) is not sent again, unless `differing` has just found other bytes there; what an interrupted transfer
        left is used, and gone after one that was not interrupted.
        """

    def differing(self, stage: Path, under: str) -> list[str]:
        """Of the files below `stage` those whose bytes below `under` are others, or that are not there; [] is good.

        The bytes are read there again; paths are relative to `stage`.
        """

    def put(self, path: str, data: bytes) -> None:
        """Let one small file hold `data`, whole or not at all; folders are made."""

    def read(self, path: str) -> bytes | None:
        """Return what a small file holds; None if there is no such file. More than MOST_READ_BYTES is "refused"."""

    def fetch(self, files: Sequence[str], into: Path) -> None:
        """Copy exactly these files to below `into`, under their paths; "failed" where one is missing."""

    def listing(self, under: str) -> list[Found]:
        """All plain files below a folder, those of interrupted transfers included; [] if there is no such folder."""

    def remove(self, files: Sequence[str]) -> int:
        """Remove exactly these files, then the folders that are left empty; how many files were there.

        "refused": on an append-only target, outside runs/ and state/, for more than MOST_REMOVED.
        """


@contextmanager
def closing(target: Target) -> Iterator[None]:
    """Let a target that holds a connection give it up at the end; one that is not closed does so by itself, later."""
    try:
        yield
    finally:
        close = getattr(target, "close", None)
        if close is not None:
            close()


# ---- paths
def server_folder(server: str) -> str:
    """The name of a server's folder: what is no letter, digit, dot, underscore or hyphen becomes a hyphen."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", server)[:_PART_BYTES]
    return name if name.strip(".") else "server"


def checked(path: str) -> str:
    """Return a path that stays below where it is used. TargetError "refused" for any other one."""
    parts = path.split("/")
    encoded = path.encode("utf-8", "surrogateescape")
    if "\0" in path or any(part in {"", ".", ".."} or len(_bytes(part)) > _PART_BYTES for part in parts):
        raise TargetError("refused", f"{path!r} is no path inside a backup")
    if len(encoded) > _PATH_BYTES:
        raise TargetError("refused", f"{path[:100]!r}… is too long a path")
    return path


def checked_folder(under: str) -> str:
    """As `checked`; "" is the server's folder itself. A "/" at the end does no harm."""
    under = under.removesuffix("/")
    return checked(under) if under else ""


def removable(files: Iterable[str]) -> list[str]:
    """Return paths that may be removed. TargetError "refused" if only one of them may not, or for too many."""
    chosen = sorted({checked(path) for path in files})
    for path in chosen:
        if path.split("/")[0] not in REMOVABLE or path.count("/") == 0:
            raise TargetError("refused", f"{path!r} is no file of a snapshot: nothing was removed")
    if len(chosen) > MOST_REMOVED:
        text = f"{len(chosen)} files are too many to remove at once (at most {MOST_REMOVED}): nothing was removed"
        raise TargetError("refused", text)
    return chosen


def parents(files: Iterable[str]) -> list[str]:
    """The folders of files that may be left empty, the deepest first; runs and state themselves stay."""
    found: set[str] = set()
    for path in files:
        parts = path.split("/")[:-1]
        found.update("/".join(parts[:count]) for count in range(2, len(parts) + 1))
    return sorted(found, key=lambda path: (-path.count("/"), path))


def _bytes(part: str) -> bytes:
    return part.encode("utf-8", "surrogateescape")


def refuse_removal(target: Target) -> None:
    """TargetError "refused" for a target that only ever grows."""
    if target.append_only:
        raise TargetError("refused", f"{target.name} is append-only: nothing is removed there")


# ---- errors of the machine
def of_error(error: OSError, about: str) -> TargetError:
    """Say what an error of the machine means for a target. `about` is what it happened to, such as a path."""
    cause = _CAUSES.get(error.errno or 0, "failed")
    return TargetError(cause, f"{about}: {error.strerror or error}")
