"""What of a file system the trainings may still use: a quota may leave less than the disk has; and what a start needs.

The quota of a project (XFS, ext4) needs no question: below a folder that hands its project on, the kernel answers
statvfs(3) with what the project has. Servers of files (NFS) do not tell theirs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import itemgetter
from pathlib import Path

import msgspec

from supervisor.core.model import Job
from supervisor.layout import RunDirectory
from supervisor.machine import mounts
from supervisor.trainers import trainer_for

#: A save needs room for the new file beside the old one, best.pt may be written with it, and the ledger copies it.
ROOM_FOR = 3
#: Of a model of half precision, a checkpoint holds the weights as they are averaged and up to two moments of them.
CHECKPOINT_OF_MODEL = 3

USER, GROUP = 0, 1
_GET_QUOTA = 0x800007  # Q_GETQUOTA of <sys/quota.h>; file systems with books of their own (XFS) answer it too
_QUOTACTL_FD = 443  # the system call's number, the same on all machines but alpha; Linux 5.14
_BLOCK = 1024  # QIF_DQBLKSIZE: limits are told in such blocks, use is told in bytes
#: struct if_dqblk of <linux/quota.h>: hard, soft and used bytes, the same of inodes, both graces, what is valid.
_ANSWER = struct.Struct("=8QI4x")

Ask = Callable[[Path, int, int], bytes]


class Quota(msgspec.Struct, frozen=True):
    """What a quota leaves, and of how much: bytes and inodes, None where it sets no limit."""

    free_bytes: int | None = None
    limit_bytes: int | None = None
    free_inodes: int | None = None
    limit_inodes: int | None = None


def quota_left(folder: Path, *, ask: Ask | None = None, uid: int | None = None, now: float | None = None) -> Quota:
    """Return what the quotas of whoever trains leave in an existing folder; no limits where none is known.

    Trainings have the daemon's user; root is bound by no quota of users or groups. Raises nothing; may hang as any look
    at a file system may. `now` in Unix seconds: a soft limit is a hard one when its grace is over.
    """
    uid = os.geteuid() if uid is None else uid
    if uid == 0:
        return Quota()
    now = time.time() if now is None else now
    of_bytes, of_inodes = [], []
    for answer in _answers(folder, uid, ask or _ask):
        left = _left(answer, now)
        of_bytes.append(left[0])
        of_inodes.append(left[1])
    return Quota(*_tightest(of_bytes), *_tightest(of_inodes))


_Rest = tuple[int | None, int | None]


def _tightest(found: list[_Rest]) -> _Rest:
    limited = [(free, limit) for free, limit in found if free is not None]
    return min(limited, default=(None, None), key=itemgetter(0))


def _answers(folder: Path, uid: int, ask: Ask) -> Iterator[bytes]:
    try:
        status = folder.stat()
    except OSError:
        return
    group = status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()
    for kind, number in ((USER, uid), (GROUP, group)):
        with suppress(OSError):  # no quotas here, or none that we may know
            yield ask(folder, kind, number)


def _left(answer: bytes, now: float) -> tuple[_Rest, _Rest]:
    hard, soft, used, hard_inodes, soft_inodes, used_inodes, grace_at, grace_inodes_at, _valid = _ANSWER.unpack(answer)
    return (
        _rest(hard * _BLOCK, soft * _BLOCK, used, over=0 < grace_at <= now),
        _rest(hard_inodes, soft_inodes, used_inodes, over=0 < grace_inodes_at <= now),
    )


def _rest(hard: int, soft: int, used: int, *, over: bool) -> _Rest:
    """Return what is left of which limit; 0 as a limit is none. A soft one may be passed until its grace is over."""
    limit = soft if over else hard or soft
    return (max(0, limit - used), limit) if limit else (None, None)


def _ask(folder: Path, kind: int, number: int) -> bytes:
    """Ask the kernel, by the folder itself or, before Linux 5.14, by the device of its mount. Raises OSError."""
    command = ctypes.c_int(((_GET_QUOTA << 8) | kind) & 0xFFFFFFFF)
    answer = ctypes.create_string_buffer(_ANSWER.size)
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        code = libc.syscall(ctypes.c_long(_QUOTACTL_FD), ctypes.c_uint(handle), command, ctypes.c_int(number), answer)
    finally:
        os.close(handle)
    if code and ctypes.get_errno() == errno.ENOSYS:
        code = libc.quotactl(command, os.fsencode(_device(folder)), ctypes.c_int(number), answer)
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    return answer.raw


def _device(folder: Path) -> str:
    mount = mounts.of(str(folder))
    if mount is None or not mount.source.startswith("/dev/"):
        raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), str(folder))
    return mount.source


# ---- what a start needs
def wanted_for_saves(job: Job, run_dir: RunDirectory) -> int:
    """Return the bytes that must be free where checkpoints of a run go before an attempt starts; 0 if nothing tells.

    Three times the newest checkpoint of the trainer or of the ledger; before the first save three times what the file
    of the model lets expect. May hang where a disk is dead.
    """
    newest = [*trainer_for(job).checkpoints(job, run_dir)[:1], *_newest_copy(run_dir)]
    largest = max(map(_bytes, newest), default=0)
    return ROOM_FOR * (largest or CHECKPOINT_OF_MODEL * _model_bytes(job))


def _newest_copy(run_dir: RunDirectory) -> list[Path]:
    found: list[tuple[int, Path]] = []
    for path in run_dir.good.glob("*.pt"):
        with suppress(OSError):  # it may go while it is looked at
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)[-1:]]


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _model_bytes(job: Job) -> int:
    """Return the size of the weights with which a training begins, if the job names a file by its path."""
    named = str((job.train or {}).get("model") or "")
    return _bytes(Path(named)) if named.startswith("/") and named.endswith(".pt") else 0
