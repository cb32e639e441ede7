"""The table of mounts, and whether what a job needs is mounted as it was when the job was accepted."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import msgspec

from supervisor.core.job import Mount
from supervisor.machine import bounded

MOUNTINFO = Path("/proc/self/mountinfo")
#: A network file system that answers at all answers within this; a disk that must spin up may take longer, and then
#: what depends on the answer is only delayed.
LOOK_S = 3.0
#: What is made anew where its mount is missing, so that its path alone proves nothing.
MADE_BY_US = frozenset({"runs"})
#: What a mount says that is still in the table but dead: a server that forgot it, a FUSE program that is gone.
DEAD = frozenset({errno.ESTALE, errno.ENOTCONN, errno.EIO, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO,
    errno.ENODEV, errno.ENXIO})  # fmt: skip
_OCTAL = re.compile(r"\\(\d{3})")


class Entry(msgspec.Struct, frozen=True):
    """A line of mountinfo: the mount's number, the device (major:minor), where it is, what it is."""

    number: int
    device: str
    point: str
    source: str
    type: str


def table(mountinfo: Path = MOUNTINFO) -> tuple[Entry, ...]:
    """Return all mounts of this process, later ones hide earlier ones. OSError where the table cannot be read.

    The format is that of proc_pid_mountinfo(5).
    """
    lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return tuple(entry for entry in map(_entry, lines) if entry is not None)


def _entry(line: str) -> Entry | None:
    before, dash, after = line.partition(" - ")
    words, rest = before.split(" "), after.split(" ")
    if not dash or len(words) < 6 or len(rest) < 2:
        return None
    return Entry(int(words[0]), words[2], _plain(words[4]), _plain(rest[1]), rest[0])


def _plain(text: str) -> str:
    """Spaces and the like are written as octal numbers there."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def below(path: str, point: str) -> bool:
    """Return whether a path lies at or below a mount point, by its name alone."""
    return path == point or path.startswith(point.rstrip("/") + "/")


def of(path: str, within_s: float = LOOK_S) -> Entry | None:
    """Return the mount on which a path really lies, through all links; None where no table tells.

    Raises FileNotFoundError where the path is not there, NoAnswerError where that cannot be learnt in time.
    """
    return bounded.ask(f"mount of {path}", lambda: _mount_of(path), within_s)


def _mount_of(path: str) -> Entry | None:
    """The kernel tells by an open file; that it can be opened does not say that its server still answers."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        os.fstatvfs(handle)  # no cache answers this one
        told = Path(f"/proc/self/fdinfo/{handle}").read_text(encoding="ascii")
    finally:
        os.close(handle)
    number = next((line.split()[1] for line in told.splitlines() if line.startswith("mnt_id:")), "")
    entries = table()
    for entry in entries:
        if str(entry.number) == number:
            return entry
    real = os.path.realpath(path)
    covering = [entry for entry in reversed(entries) if below(real, entry.point)]  # later ones hide earlier ones
    return max(covering, key=lambda entry: len(entry.point), default=None)


def recorded(what: str, path: str, within_s: float = LOOK_S) -> Mount | None:
    """Return the mount of a path for the record; None for what lies on the root file system or is not there.

    Bind mounts of the root file system count as that: they come and go with the daemon's own surroundings.
    """
    try:
        entry = of(path, within_s)
        roots = [one.device for one in table() if one.point == "/"]
    except OSError:
        return None  # what cannot be observed is not recorded: then its absence means nothing
    if entry is None or entry.point == "/" or entry.device in roots:
        return None
    return Mount(what=what, path=path, point=entry.point, source=entry.source, type=entry.type)


def absent(mount: Mount, within_s: float = LOOK_S) -> str:
    """Return why a recorded mount is not there, an empty text if it is.

    Raises NoAnswerError where it hangs: then nothing is known. A path that is gone below a mount that is there is none
    of this function's business. Looking at the path lets an automount mount it.
    """
    try:
        now = of(mount.path, within_s)
    except bounded.NoAnswerError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return "" if _is_mounted(mount.point) else f"{mount.source} is not mounted at {mount.point}"
    except OSError as error:
        return f"{mount.point} is dead: {error.strerror}" if error.errno in DEAD else ""
    if now is None or now.point == mount.point or _is_same(now, mount):
        return ""
    if mount.what in MADE_BY_US or mount.path == mount.point:
        return f"{mount.source} is not mounted at {mount.point}"
    return ""  # somebody put the same things elsewhere


def _is_same(now: Entry, mount: Mount) -> bool:
    """Mounted at another point. Only a device or a server names what it is: all of tmpfs are called alike."""
    named = mount.source.startswith("/") or ":" in mount.source
    return named and (now.source, now.type) == (mount.source, mount.type)


def _is_mounted(point: str) -> bool:
    return any(entry.point == point and entry.type != "autofs" for entry in table())
