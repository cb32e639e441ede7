"""In which call of the kernel a process is blocked, and on which file: a worker that waits for one image names it.

The number and arguments of the call come from /proc/PID/syscall, which takes the same right as a debugger's. A path is
read from the memory of the process, because a file that cannot be opened has no descriptor yet.
"""

from __future__ import annotations

import os
import platform

import msgspec

PATH_BYTES = 4096  # PATH_MAX
PAGE_BYTES = 4096
AT_FDCWD = -100
ARGUMENTS = 6

# name: (number on x86_64, number on aarch64, argument with the path, argument with the descriptor); from
# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. -1: there is none.
_TABLE: dict[str, tuple[int, int, int, int]] = {
    "read": (0, 63, -1, 0),
    "pread": (17, 67, -1, 0),
    "readv": (19, 65, -1, 0),
    "write": (1, 64, -1, 0),
    "pwrite": (18, 68, -1, 0),
    "writev": (20, 66, -1, 0),
    "open": (2, -1, 0, -1),
    "openat": (257, 56, 1, 0),
    "stat": (4, -1, 0, -1),
    "lstat": (6, -1, 0, -1),
    "fstat": (5, 80, -1, 0),
    "fstatat": (262, 79, 1, 0),
    "statx": (332, 291, 1, 0),
    "access": (21, -1, 0, -1),
    "faccessat": (269, 48, 1, 0),
    "readdir": (217, 61, -1, 0),
    "fsync": (74, 82, -1, 0),
    "fdatasync": (75, 83, -1, 0),
    "ftruncate": (77, 46, -1, 0),
    "rename": (82, -1, 0, -1),
    "renameat": (264, 38, 1, 0),
    "renameat2": (316, 276, 1, 0),
    "unlink": (87, -1, 0, -1),
    "unlinkat": (263, 35, 1, 0),
    "mkdir": (83, -1, 0, -1),
    "mkdirat": (258, 34, 1, 0),
    "flock": (73, 32, -1, 0),
    "fcntl": (72, 25, -1, 0),
    "close": (3, 57, -1, 0),
    "futex": (202, 98, -1, -1),
    "nanosleep": (35, 101, -1, -1),
    "clock_nanosleep": (230, 115, -1, -1),
    "poll": (7, -1, -1, -1),
    "ppoll": (271, 73, -1, -1),
    "select": (23, -1, -1, -1),
    "pselect": (270, 72, -1, -1),
    "epoll_wait": (232, -1, -1, -1),
    "epoll_pwait": (281, 22, -1, -1),
    "wait4": (61, 260, -1, -1),
    "waitid": (247, 95, -1, -1),
    "recvfrom": (45, 207, -1, 0),
    "recvmsg": (47, 212, -1, 0),
    "sendto": (44, 206, -1, 0),
    "sendmsg": (46, 211, -1, 0),
    "connect": (42, 203, -1, 0),
    "accept": (43, 202, -1, 0),
    "accept4": (288, 242, -1, 0),
    "semtimedop": (220, 192, -1, -1),
    "ioctl": (16, 29, -1, 0),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
_BY_NUMBER = {row[_COLUMN]: name for name, row in _TABLE.items()} if _COLUMN is not None else {}


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A blocked call: its name as in `man 2` without the sizes, and the file, pipe or socket that it is about.

    `name` is empty where the process runs, or where its kind of machine or its call is not in our table; `denied`
    where it may not be read at all.
    """

    name: str = ""
    path: str = ""
    denied: bool = False


def blocked_call(pid: int, tid: int = 0) -> Call:
    """Return the call that a thread of a process is blocked in, the main one if none is named. Never raises."""
    try:
        words = _words(pid, tid or pid)
    except PermissionError:
        return Call(denied=True)
    except (OSError, ValueError):
        return Call()
    name = _BY_NUMBER.get(words[0], "") if len(words) > ARGUMENTS else ""
    if not name:
        return Call()
    try:
        return Call(name=name, path=_path(pid, name, words[1:]))
    except OSError:
        return Call(name=name)


def _words(pid: int, tid: int) -> list[int]:
    """Return the number of the call and its arguments; one word (or none that is a number) where it runs."""
    with open(f"/proc/{pid}/task/{tid}/syscall", "rb") as file:  # noqa: PTH123 -- read at once
        number, *rest = file.read().split()
    return [int(number), *(int(word, 16) for word in rest)]


def _path(pid: int, name: str, arguments: list[int]) -> str:
    """Return what the call is about, as text. OSError where it is gone or secret."""
    _, _, path_at, descriptor_at = _TABLE[name]
    descriptor = arguments[descriptor_at] if descriptor_at >= 0 else AT_FDCWD
    if descriptor >= 1 << 31:
        descriptor = (descriptor & 0xFFFFFFFF) - (1 << 32)
    if path_at < 0:
        return "" if descriptor < 0 else _link(pid, f"fd/{descriptor}")
    path = _text_at(pid, arguments[path_at])
    if path.startswith("/"):
        return path
    folder = _link(pid, "cwd" if descriptor == AT_FDCWD else f"fd/{descriptor}")
    return f"{folder}/{path}" if path else folder


def _link(pid: int, name: str) -> str:
    return os.readlink(f"/proc/{pid}/{name}")  # noqa: PTH115 -- as text: what it leads to is never touched


def _text_at(pid: int, address: int) -> str:
    """Return the C string at an address of another process; read page by page, for the next may not be there."""
    data = b""
    file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while b"\0" not in data and len(data) < PATH_BYTES:
            here = address + len(data)
            data += os.pread(file, PAGE_BYTES - here % PAGE_BYTES, here)
    finally:
        os.close(file)
    return data.split(b"\0")[0].decode("utf-8", "replace")
