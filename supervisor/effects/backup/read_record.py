"""What was read again on a target, and when: STATE_DIR/backup/TARGET/read.json."""

from __future__ import annotations

from pathlib import Path

import msgspec

from supervisor import durable
from supervisor.core.backups.manifest import Stored
from supervisor.effects.backup.fetched import stored_at

CLOCKS_S = 300.0  # two clocks, or one before and after it was set, may differ by that much and still be right


class Record(msgspec.Struct, kw_only=True):
    """read.json. `read`: when each file was read last; `damaged`: what was wrong with it then; `since`: found when.

    `manifests`: the sha256 of each manifest as it was first seen: they never change. `vault`: the folder there that all
    this is about.
    """

    read: dict[str, float] = {}
    damaged: dict[str, str] = {}
    since: dict[str, float] = {}
    manifests: dict[str, str] = {}
    vault: str = ""
    version: int = 1

    def last(self, path: str, file: Stored, now: float) -> float:
        """When a file was read last; when it was stored it was read back. 0 where that lies in the future.

        A clock that was wrong for a day must not put a reading off for years.
        """
        at = self.read.get(path, stored_at(file.at))
        return min(at, now) if at <= now + CLOCKS_S else 0.0


def record_file(state_dir: Path, target: str) -> Path:
    """Where the record of a target lies."""
    return state_dir / "backup" / target / "read.json"


def read_record(path: Path) -> Record:
    """A damaged record, or none, means that nothing was read yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Record()


def write_record(path: Path, record: Record) -> None:
    """Let it stand there, whole or not at all. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.write(path, msgspec.json.encode(record))


def known_damaged(state_dir: Path, target: str) -> frozenset[str]:
    """The paths on a target that are known not to be what was stored: a backup must not count on these."""
    return frozenset(read_record(record_file(state_dir, target)).damaged)
