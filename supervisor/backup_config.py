"""The keys about backups: [[backup]] of the configuration, `backup` of a job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from supervisor.toml_errors import AbsolutePath, Duration, Name, Size

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
