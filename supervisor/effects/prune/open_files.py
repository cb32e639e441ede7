"""Which files and folders some process of this machine uses now, by device and inode: a path may be another by now.

Processes that we may not look into are not known: a file of theirs that loses its name lives on for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from supervisor.effects.prune.handles import Identity

PROC = Path("/proc")


def in_use(proc: Path = PROC) -> frozenset[Identity]:
    """Everything that is open, mapped into memory, or the working or root folder of a process, but our own."""
    found: set[Identity] = set()
    for entry in proc.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            found.update(_of_process(entry))
    return frozenset(found)


def _of_process(process: Path) -> Iterator[Identity]:
    for name in ("cwd", "root"):
        with suppress(OSError):
            yield _identity(process / name)
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                yield _identity(descriptor)
    yield from _mapped(process)


def _identity(link: Path) -> Identity:
    status = link.stat()
    return (status.st_dev, status.st_ino)


def _mapped(process: Path) -> Iterator[Identity]:
    """A checkpoint that is mapped needs no open descriptor."""
    with suppress(OSError):
        for line in (process / "maps").read_bytes().splitlines():
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[4] != b"0":
                major, _, minor = fields[3].partition(b":")
                yield (os.makedev(int(major, 16), int(minor, 16)), int(fields[4]))
