"""What rsync writes for programs to read: names, sizes, how far it is, its own version."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime, timezone

from supervisor.effects import short_child
from supervisor.effects.backup.targets import base, rsync_codes
from supervisor.effects.backup.targets.base import Found, TargetError
from supervisor.effects.backup.targets.programs import environment

#: What `df -Pk` says of a file system, in KiB.
ROOM = re.compile(r"\s(?P<total>\d+)\s+\d+\s+(?P<free>-?\d+)\s+\d+%\s")
VERSION_S = 45.0

_PLAIN = re.compile(r"[^A-Za-z0-9_./@%+=:,-]")
_LISTED = re.compile(
    rb"(?P<kind>\S)\S{9,10}\s+(?P<bytes>\d+) (?P<at>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) (?P<path>.+)", re.DOTALL
)
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
_SENT = re.compile(rb"\s*(\d+)\s+\d+%")


def sent_bytes(progress: base.Progress) -> Callable[[bytes], None]:
    """Read the lines of `--info=progress2 --no-h`."""

    def note(line: bytes) -> None:
        found = _SENT.match(line)
        if found is not None:
            progress(int(found[1]))

    return note


def listed(line: bytes) -> Found | None:
    """A plain file in a line of `--list-only -8 --no-h`; None for anything else. Times are UTC."""
    parts = _LISTED.fullmatch(line)
    if parts is None or parts["kind"] != b"-":
        return None
    at = datetime.strptime(parts["at"].decode("ascii"), "%Y/%m/%d %H:%M:%S").replace(tzinfo=timezone.utc)
    return Found(unescaped(parts["path"]), int(parts["bytes"]), at.timestamp())


def unescaped(name: bytes) -> str:
    r"""A name as rsync writes it: what cannot be printed is \#ooo there."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), name))


def quoted(path: str) -> str:
    """One word for any shell there, without the quotes that csh and fish read otherwise."""
    return _PLAIN.sub(r"\\\g<0>", path)


class LocalVersion:
    """The rsync of this machine, asked once."""

    def __init__(self, target: str) -> None:
        """`target` is named where there is none."""
        self._target = target
        self._version: rsync_codes.Version | None = None
        self._asked = False

    def version(self) -> rsync_codes.Version | None:
        """Its version, None if it cannot be told."""
        if not self._asked:
            self.demand()
        return self._version

    def demand(self) -> None:
        """TargetError "no-rsync" where there is none."""
        try:
            ended = short_child.run(["rsync", "--version"], environment(), VERSION_S)
        except OSError as error:
            raise TargetError("no-rsync", f"{self._target}: rsync is not installed on this server") from error
        self._version = rsync_codes.version_in(ended.out)
        self._asked = True
