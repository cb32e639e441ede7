"""Files that are the old one or the new one, always whole, whoever reads them and whatever kills the writer.

A new content is written under a temporary name in the same folder, brought to the disk, and renamed. So a full
disk or a kill costs the new content only, never the old. Where a file system cannot do that (no new file in the
folder, no sync, no rename) the file is written in place, as everybody else does, and that is said.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import sys
import time
from typing import BinaryIO, Callable, Iterator

#: ioctl that makes two files share their blocks until one is written (linux/fs.h); a copy in no time and no space.
FICLONE = 0x40049409
_COPY_AT_ONCE_BYTES = 4 << 20
#: What a file system says that does not let us make, sync or rename a file; there is room, so in place it goes.
UNABLE = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EROFS},
)
_TEMPORARY = re.compile(r"\..+\.yolo-supervisor-(\d+)\.tmp")
_LOADED_AT = time.time()


def beside(path: str) -> str:
    """Return the temporary name for a new content of `path`: hidden, in the folder where the file really lies."""
    folder, name = os.path.split(os.path.realpath(path))
    return os.path.join(folder, f".{name}.yolo-supervisor-{os.getpid()}.tmp")


def say_on_stderr(text: str) -> None:
    """Say one line to whoever reads the log."""
    print(f"yolo-supervisor: {text}", file=sys.stderr, flush=True)


def in_place(path: str, error: BaseException) -> str:
    """Return the same sentence for every file of one folder and one cause."""
    cause = getattr(error, "strerror", None) or error
    folder = os.path.dirname(os.path.realpath(path))
    return f"files in {folder} are written in place, a kill in a save can tear them: {cause}"


@contextlib.contextmanager
def replacing(path: str, say: Callable[[str], None] = say_on_stderr) -> Iterator[str]:
    """Give a temporary name for `path`; what is written there takes the place of `path` when the block ends well.

    If the block raises, the temporary file is removed and `path` is what it was. A block that writes nothing
    changes nothing. Raises OSError if the new content cannot be brought to the disk; where only the sync or the
    rename is refused it is copied into `path`, and `say` gets a line.
    """
    temporary = beside(path)
    try:
        yield temporary
        if os.path.exists(temporary):
            _settle(temporary, os.path.realpath(path), say)
    finally:
        with contextlib.suppress(OSError):  # as it should be, it was renamed; else the next start removes it
            os.unlink(temporary)


def write(path: str, content: bytes, say: Callable[[str], None] = say_on_stderr) -> None:
    """Replace the content of `path`; raises OSError, and then the old content is still there, whole.

    In a folder that takes no new file it is written in place, and `say` gets a line.
    """
    try:
        with replacing(path, say) as temporary, open(temporary, "wb") as file:
            file.write(content)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        say(in_place(path, error))
        with open(path, "wb") as file:
            file.write(content)


def takes_new_file(path: str) -> bool:
    """Return False where the file system refuses a new file beside `path`; one that is full is no refusal."""
    temporary = beside(path)
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.unlink(temporary)
    except OSError as error:
        return error.errno not in UNABLE
    return True


def copy(source: str, target: str, say: Callable[[str], None] = say_on_stderr) -> None:
    """Make `target` a copy of `source`, sharing its blocks where the file system can; raises OSError."""
    with replacing(target, say) as temporary, open(source, "rb") as old, open(temporary, "wb") as new:
        _fill(old, new)


def _fill(old: BinaryIO, new: BinaryIO) -> None:
    try:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
    except OSError:  # most file systems cannot, and none can across two of them
        shutil.copyfileobj(old, new, _COPY_AT_ONCE_BYTES)


def _settle(temporary: str, target: str, say: Callable[[str], None]) -> None:
    try:
        _sync(temporary, target)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        say(in_place(target, error))
        shutil.copyfile(temporary, target)
    _sync_folder(os.path.dirname(target))


def _sync(temporary: str, target: str) -> None:
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _inherit(descriptor, target)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inherit(descriptor: int, target: str) -> None:
    """Give the new file the owner and mode of the one that it replaces: writing in place would keep them."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(PermissionError):  # only root may give a file away
            os.fchown(descriptor, old.st_uid, old.st_gid)
    if stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _sync_folder(folder: str) -> None:
    """Bring the new name to the disk. The file is in its place already, so a file system that cannot is no error."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: str) -> list[str]:
    """Remove what killed writers left in `folder`; return the names.

    Only names that `beside` makes, older than this process, of processes that are no more.
    """
    removed = []
    for entry in _entries(folder):
        match = _TEMPORARY.fullmatch(entry.name)
        if match and _is_old(entry) and not _alive(int(match[1])):
            with contextlib.suppress(OSError):  # somebody else was faster, or it is not ours to remove
                os.unlink(entry.path)
                removed.append(entry.name)
    return removed


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _is_old(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < _LOADED_AT
    except OSError:
        return False


def _alive(pid: int) -> bool:
    if pid == os.getpid():  # a number that came round, as in every container
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
