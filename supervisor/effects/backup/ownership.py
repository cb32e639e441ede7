"""Whose folder on a target it is: two servers of one name must not mix their backups."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import msgspec

from supervisor import durable
from supervisor.effects.backup.targets.base import Target, TargetError

OWNER = "owner.json"
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """owner.json: the installation that the folder belongs to, and since when (Unix seconds)."""

    id: str
    server: str = ""
    since: float = 0.0
    version: int = 1


def id_file(state_dir: Path) -> Path:
    """Where this installation keeps its id."""
    return state_dir / "backup" / "id"


def own_id(state_dir: Path) -> str:
    """The id of this installation, made at first use. Raises OSError."""
    path = id_file(state_dir)
    try:
        known = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        known = ""
    if _ID.fullmatch(known):
        return known
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = secrets.token_hex(16)
    durable.write(path, made.encode())
    return made


def owner_of(target: Target) -> Owner | None:
    """Who owns the server's folder there; None if nobody does yet. TargetError "foreign" where that is damaged."""
    data = target.read(OWNER)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Owner)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TargetError("foreign", f"its {OWNER} is damaged: {error}") from None


def claim(target: Target, state_dir: Path, server: str, now: float) -> str:
    """Make the folder ours if it is nobody's; what names just this folder: one that is made anew has another name.

    Raises TargetError ("foreign" if it is somebody else's), OSError.
    """
    ours = own_id(state_dir)
    owner = owner_of(target)
    if owner is None:
        target.put(OWNER, msgspec.json.encode(Owner(id=ours, server=server, since=now)))
        owner = owner_of(target)  # of two that claim it at once the later one sees itself
    if owner is None or owner.id != ours:
        whose = f"the server {owner.server!r}, installation {owner.id[:8]}" if owner is not None else "nobody"
        raise TargetError("foreign", f"the folder belongs to {whose}; this is installation {ours[:8]}")
    return f"{owner.id[:8]}-{owner.since:.3f}"


def take_over(target: Target, state_dir: Path) -> bool:
    """Become the owner of what lies there: this server is the restored one. True if there was an owner.

    To be called before the first backup of a restored server. Raises TargetError, OSError.
    """
    owner = owner_of(target)
    if owner is None or not _ID.fullmatch(owner.id):
        return False
    path = id_file(state_dir)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.write(path, owner.id.encode())
    return True
