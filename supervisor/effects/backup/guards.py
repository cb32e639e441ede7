"""When a backup must not be made: it would replace something good by nothing, by less, or by something else."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

from supervisor import durable
from supervisor.core.backups.manifest import Manifest
from supervisor.effects.backup.collect import LEDGER_FOLDER, Seen, Tree, grows, is_final
from supervisor.units import format_size

VOLUME = ".volume"  # in the folder of the runs: an unmounted disk has none, or another one
#: A file system's number changes over boots; only inside one boot it says whether a run's folder is a mount of its own.
MOUNTED = "+mounted"
SMALL_BYTES = 1024 * 1024  # of a run that just begins, half is nothing
SMALL_FILES = 8
LEAST_FREE_BYTES = 256 * 1024 * 1024  # is left on the disk beside the copies that are staged
_BEFORE_A_START = frozenset({"PREPARING", "STARTING"})


class NotBackedUpError(Exception):
    """A run was not backed up, and the target is not to blame. `cause`: a name of core.backups.causes."""

    def __init__(self, cause: str, text: str) -> None:
        """`text` is for a person."""
        super().__init__(text)
        self.cause = cause


class _Fence(msgspec.Struct, frozen=True):
    token: int


def token_of(tree: Tree) -> int:
    """Who holds the run directory, 0 if nobody ever did. NotBackedUpError "stale" where that cannot be read."""
    data = tree.read("token")
    if data is None:
        return 0
    try:
        return msgspec.json.decode(data, type=_Fence).token
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotBackedUpError("stale", f"its token is damaged: {error}") from None


def demand_fence(found: int, ours: int, phase: str) -> None:
    """Raise "stale" where another holder has the directory, or the next attempt is just being prepared in it.

    An older token is no other holder's: an attempt that never came to its preparation has written none.
    """
    if found > ours or (found < ours and phase in _BEFORE_A_START):
        raise NotBackedUpError("stale", f"the run directory's token is {found}, the attempt's is {ours}")


def mark_of(tree: Tree) -> str:
    """The random word that names this training; empty if there is none."""
    return (tree.read("mark") or b"").decode("ascii", "replace").strip()[:64]


def volume_of(runs_dir: Path, tree: Tree) -> str:
    """A word that names the file system of a run's directory, also after a boot. Raises OSError."""
    path = runs_dir / VOLUME
    try:
        word = path.read_text(encoding="ascii").strip()[:64]
    except (FileNotFoundError, UnicodeDecodeError):
        word = ""
    if not word:
        word = secrets.token_hex(8)
        durable.write(path, word.encode(), mode=0o644)
    same = os.fstat(tree.root).st_dev == runs_dir.stat().st_dev
    return word if same else f"{word}{MOUNTED}"


def is_same_training(before: Manifest | None, mark: str) -> bool:
    """False if another training took the run's name: what the older one left there has nothing to do with it."""
    return before is not None and (not mark or not before.mark or mark == before.mark)


def demand_something(files: Iterable[Seen], copies: int, where: Path) -> None:
    """Raise "empty" where there is nothing to back up."""
    if not copies and not any(True for _ in files):
        raise NotBackedUpError("empty", f"{where} is empty")


def demand_place(before: Manifest | None, mark: str, volume: str) -> None:
    """Raise "moved" where this is another file system and nothing says that the training came along.

    Whoever moves the runs to a larger disk, or restores them, takes the training's mark along.
    """
    if before is None or not before.volume or before.volume == volume or (mark and mark == before.mark):
        return
    raise NotBackedUpError("moved", "the run's folder lies on another file system than at its last backup")


def demand_size(before: Manifest | None, files: Iterable[Seen]) -> None:
    """Raise "shrunken" where more than half of the files or bytes of the last backup are missing.

    Logs and tables are cut by resumes and limits, and checkpoints by policy: those are none of it, and no backup lets
    go of a checkpoint because it is not here any more.
    """
    if before is None:
        return
    then = [(one.path, one.bytes) for one in before.files if _counts(one.path)]
    now = [(one.path, one.bytes) for one in files if _counts(one.path)]
    if len(then) >= SMALL_FILES and 2 * len(now) < len(then):
        raise NotBackedUpError("shrunken", f"{len(then)} files were there at the last backup, {len(now)} are now")
    bytes_then, bytes_now = sum(size for _, size in then), sum(size for _, size in now)
    if 2 * bytes_now < bytes_then and bytes_then - bytes_now > SMALL_BYTES:
        text = f"{format_size(bytes_then)} were there at the last backup, {format_size(bytes_now)} are now"
        raise NotBackedUpError("shrunken", text)


def _counts(path: str) -> bool:
    return not (grows(path) or is_final(path) or path.startswith(f"{LEDGER_FOLDER}/"))


def demand_room(folder: Path, needed_bytes: int) -> None:
    """Raise "no-room" where the staged copies would leave the disk full. Raises OSError."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes + LEAST_FREE_BYTES:
        text = f"{format_size(free)} are free under {folder}, {format_size(needed_bytes)} are to be copied"
        raise NotBackedUpError("no-room", text)
