"""The keys about backups: [[backup]] of the configuration, `backup` of a job."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from supervisor import schedule_words
from supervisor.errors import Problem, UserError
from supervisor.toml_errors import AbsolutePath, Duration, Name, Size, nearest, shown

_SSH = re.compile(r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^\n\0]*)")
_SSH_URL = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*)(?::(?P<port>\d{1,5}))?(?P<path>/[^\n\0]*)"
)
_RCLONE = re.compile(r"rclone:(?P<host>[A-Za-z0-9_][A-Za-z0-9_. -]*):(?P<path>[^\n\0]*)")

Copies = Annotated[int, msgspec.Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Best = Annotated[int, msgspec.Meta(ge=0, le=1000, description="a whole number from 0 to 1000")]


@dataclass(frozen=True)
class Address:
    """Where a target lies. `kind` is local, ssh or rclone; `host` is the remote's name for rclone."""

    kind: str
    path: str
    host: str = ""
    user: str = ""
    port: int = 22

    def __str__(self) -> str:
        """As people write it."""
        if self.kind == "local":
            return self.path
        if self.kind == "rclone":
            return f"rclone:{self.host}:{self.path}"
        login = f"{self.user}@{self.host}" if self.user else self.host
        return f"ssh://{login}:{self.port}{self.path}" if self.port != 22 else f"{login}:{self.path}"


def address(text: str) -> Address | None:
    """Read `/path`, `user@host:path`, `ssh://user@host:port/path` or `rclone:remote:path`; None for anything else."""
    if text.startswith("/"):
        return Address("local", text)
    for kind, pattern in (("ssh", _SSH_URL), ("rclone", _RCLONE), ("ssh", _SSH)):
        found = pattern.fullmatch(text)
        if found is not None:
            parts = found.groupdict()
            port = int(parts.get("port") or 22)
            return Address(kind, parts["path"], parts["host"], parts.get("user") or "", port)
    return None


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """[backup.keep]: which verified checkpoints of a run go there and stay there, in the words of a job."""

    keep_last: Copies = 2
    keep_best: Best = 1
    keep_epochs: Literal["none", "all", "exponential"] = "none"


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """[[backup]]: one target.

    `snapshots`: how many of the newest manifests of each run stay. `verify_within`: everything there is read again
    within so long, a part each day; `drill`: so often a restore is rehearsed; "0s" never.
    """

    name: Name
    to: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    schedule: Annotated[str, msgspec.Meta(max_length=100)] = "1h"
    jitter: Duration = 300.0
    quiet: Annotated[str, msgspec.Meta(max_length=100)] = ""
    bwlimit: Size = 0
    on_best: bool = True
    keep: Keep = Keep()
    snapshots: Copies = 3
    ssh_key: AbsolutePath | None = None
    known_hosts: AbsolutePath | None = None
    rclone_config: AbsolutePath | None = None
    append_only: bool = False
    verify_within: Duration = 20 * 86400.0
    drill: Duration = 7 * 86400.0


_TO = '"/path", "user@host:path", "ssh://user@host:port/path" or "rclone:remote:path"'
_SLOWEST = 1024  # rsync and rclone count in KiB
_OF_KIND = {"ssh_key": "ssh", "known_hosts": "ssh", "rclone_config": "rclone"}


def problems(targets: Sequence[Backup], ours: Iterable[Path]) -> Iterator[tuple[int, str, Problem]]:
    """Yield what is wrong with the targets: the place of each in the list, the key, and what to say.

    `ours` are the folders that backups are made of: nothing of a target may lie among them.
    """
    ours = tuple(ours)
    for place, target in enumerate(targets):
        before = targets[:place]
        for key, found in (*_address_problems(target, ours), *_clock_problems(target)):
            yield place, key, found
        if target.name in [one.name for one in before]:
            yield place, "name", Problem("another target has this name", got=shown(target.name))
        if target.to in [one.to for one in before]:
            hint = "give each one a folder of its own"
            yield place, "to", Problem("another target lies there", got=shown(target.to), hint=hint)
        if 0 < target.bwlimit < _SLOWEST:
            expected = 'at least "1KiB" (a second), or "0B" for no limit'
            yield place, "bwlimit", Problem("so little is no transfer", expected=expected)


def _address_problems(target: Backup, ours: Sequence[Path]) -> Iterator[tuple[str, Problem]]:
    found = address(target.to)
    if found is None:
        yield "to", Problem("this is no address of a target", expected=_TO, got=shown(target.to))
        return
    if not 0 < found.port < 65536:
        yield "to", Problem("there is no such port", expected="a number from 1 to 65535", got=str(found.port))
    if ".." in found.path.split("/"):
        yield "to", Problem("this path climbs", expected="a path without ..", got=shown(target.to))
    elif found.kind == "rclone" and not found.path.strip("/"):
        yield "to", Problem("no bucket is named", expected='"rclone:remote:bucket/folder"', got=shown(target.to))
    elif found.kind == "local":
        yield from (("to", problem) for problem in place_problems(Path(found.path), ours))
    for key, kind in _OF_KIND.items():
        if getattr(target, key) is not None and found.kind != kind:
            hint = f"remove it, or write an address of {kind} in `to`"
            yield key, Problem(f"only a target by {kind} has this", got=shown(target.to), hint=hint)


def place_problems(folder: Path, ours: Iterable[Path]) -> Iterator[Problem]:
    """Yield what is wrong with a folder that must have nothing to do with these.

    By its name only: a look at a network disk that is gone may never return, and this is read at each start.
    """
    wanted = Path(os.path.normpath(folder))
    for own in ours:
        places = {Path(os.path.normpath(own)), own.resolve()}
        if any(wanted.is_relative_to(place) for place in places):
            yield Problem(f"this lies inside {own}", got=shown(str(folder)), hint="choose a folder on another disk")
            return
        if any(place.is_relative_to(wanted) for place in places):
            yield Problem(f"{own} lies inside this", got=shown(str(folder)), hint="choose a folder of its own")
            return


def _clock_problems(target: Backup) -> Iterator[tuple[str, Problem]]:
    yield from clock_problems("schedule", target.schedule)
    try:
        schedule_words.quiet(target.quiet)
    except UserError as error:
        yield from (("quiet", problem) for problem in error.problems)


def clock_problems(key: str, text: str) -> Iterator[tuple[str, Problem]]:
    """Yield what is wrong with a schedule."""
    try:
        schedule_words.schedule(text)
    except UserError as error:
        yield from ((key, problem) for problem in error.problems)


def name_problems(wanted: Sequence[str] | None, known: Sequence[str]) -> Iterator[Problem]:
    """Yield what is wrong with a list of names of targets, of [defaults] or of a job."""
    for place, name in enumerate(wanted or ()):
        if name not in known:
            near = nearest(name, list(known))
            expected = f"one of {', '.join(known)}" if known else "a [[backup]] in config.toml; there is none"
            hint = f"did you mean `{near}`?" if near else ""
            yield Problem("there is no such backup target", expected=expected, got=shown(name), hint=hint)
        elif name in (wanted or ())[:place]:
            yield Problem("this target is named twice", got=shown(name), hint="keep one of them")


def reloaded(running: Sequence[Backup], read: Sequence[Backup]) -> tuple[Backup, ...]:
    """Return what holds once the file was read again: quiet hours and the limit of bandwidth of known targets.

    Targets that come, go or change otherwise need a restart: a transfer may be under way.
    """
    fresh = {one.name: one for one in read}
    return tuple(
        msgspec.structs.replace(one, quiet=fresh[one.name].quiet, bwlimit=fresh[one.name].bwlimit)
        if one.name in fresh
        else one
        for one in running
    )
