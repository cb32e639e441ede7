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
    """owner.json: the installation that the folder belongs to, and since when (Unix seconds).

    `vault` names the folder itself, whoever owns it. `before`: the installations that owned it earlier.
    """

    id: str
    server: str = ""
    since: float = 0.0
    vault: str = ""
    before: tuple[str, ...] = ()
    version: int = 1

    @property
    def place(self) -> str:
        """What names just this folder: one that is made anew has another name."""
        return self.vault or f"{self.id[:8]}-{self.since:.3f}"


class _Succeeded(msgspec.Struct, frozen=True, kw_only=True):
    """succeeded.json: the installations in whose place this one stands, on every target."""

    ids: tuple[str, ...] = ()
    version: int = 1


def id_file(state_dir: Path) -> Path:
    """Where this installation keeps its id."""
    return state_dir / "backup" / "id"


def succeeded_file(state_dir: Path) -> Path:
    """Where this installation keeps whose place it took."""
    return state_dir / "backup" / "succeeded.json"


def own_id(state_dir: Path) -> str:
    """The id of this installation, made at first use. Raises OSError."""
    path = id_file(state_dir)
    try:
        known = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        known = ""
    return known if _ID.fullmatch(known) else _new_id(state_dir)


def _new_id(state_dir: Path) -> str:
    made = secrets.token_hex(16)
    id_file(state_dir).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.write(id_file(state_dir), made.encode())
    return made


def _succeeded(state_dir: Path) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(succeeded_file(state_dir).read_bytes(), type=_Succeeded).ids
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return ()


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
    """Make the folder ours if it is nobody's, or of one whose place we took; return Owner.place.

    Raises TargetError ("foreign" if it is somebody else's), OSError.
    """
    ours = own_id(state_dir)
    owner = owner_of(target)
    if owner is None:
        new = Owner(id=ours, server=server, since=now, vault=secrets.token_hex(8))
        target.put(OWNER, msgspec.json.encode(new))
        owner = owner_of(target)  # of two that claim it at once the later one sees itself
    elif owner.id != ours and owner.id in _succeeded(state_dir):
        target.put(OWNER, msgspec.json.encode(_succeeding(owner, ours)))
        owner = owner_of(target)
    if owner is None or owner.id != ours:
        whose = f"the server {owner.server!r}, installation {owner.id[:8]}" if owner is not None else "nobody"
        raise TargetError("foreign", f"the folder belongs to {whose}; this is installation {ours[:8]}")
    return owner.place


def _succeeding(owner: Owner, ours: str) -> Owner:
    """The owner that comes after another one. The folder keeps its name: what lies there is still what lay there."""
    before = tuple(dict.fromkeys((*owner.before, owner.id)))
    return msgspec.structs.replace(owner, id=ours, vault=owner.place, before=before)


def take_over(target: Target, state_dir: Path) -> bool:
    """Take the owner's place: this server is the restored one. True if there was an owner.

    With a new id: an old server that is started again finds that the folder is another's, and writes nothing. On other
    targets the place is taken at the first claim. To be called before the first backup of a restored server; again it
    does no harm. Raises TargetError, OSError.
    """
    owner = owner_of(target)
    if owner is None or not _ID.fullmatch(owner.id):
        return False
    known = {*owner.before, owner.id, *_succeeded(state_dir), own_id(state_dir)}
    ours = _new_id(state_dir)
    data = msgspec.json.encode(_Succeeded(ids=tuple(sorted(known))))
    durable.write(succeeded_file(state_dir), data)
    target.put(OWNER, msgspec.json.encode(_succeeding(owner, ours)))
    return True
