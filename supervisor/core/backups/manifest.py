"""What a backup of a run holds. The manifest is written last: a snapshot without one does not exist.

Layout on a target, below the folder of the server: `runs/PROJECT/NAME/SNAPSHOT/…files…`, `…/SNAPSHOT/manifest.json`
and `runs/PROJECT/NAME/latest` (the name of the newest snapshot); `state/SNAPSHOT/…` for the journal, likewise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

VERSION = 1
MANIFEST = "manifest.json"
LATEST = "latest"
_SNAPSHOT = re.compile(r"snap-(?P<epoch>\d{6,9})-(?P<stamp>\d{8}T\d{6}Z)-(?P<id>[0-9a-f]{8})", re.ASCII)


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One file. `path` is relative to the run directory (or the state directory).

    `at` names the snapshot whose folder holds its bytes: an unchanged file is not sent again. `holes`: so many bytes of
    the file in the run directory are holes and were left out (of a log that outgrew its limit).
    """

    path: str
    bytes: int
    sha256: str
    mtime_ns: int
    at: str
    mode: int = 0o644
    holes: int = 0


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A verified checkpoint among the files. `epoch` counts complete epochs, 0 if the file does not say."""

    path: str
    epoch: int
    attempt: int
    line: int = 1
    state: str = "resumable"
    epochs: int | None = None
    map50_95: float | None = None
    trainer_version: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What one snapshot holds: all files of a run, those of older snapshots that are unchanged included.

    `checkpoints` has the ledger's entries among them, the newest of the run's present line last. `phase`, `epoch`,
    `epochs` and `metrics` are those of the run then. `kind` is run or state. `mark` is the training's random word
    (another one: another training took the name), `volume` names the file system of the runs. `left_out`: what is not
    in it, and why, for people.
    """

    kind: str = "run"
    server: str
    snapshot: str
    created_at: float
    run: str = ""
    project: str = ""
    name: str = ""
    phase: str = ""
    revision: str = ""
    attempt: int = 0
    token: int = 0
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = {}
    trainer_version: str = ""
    python: str = ""
    files: tuple[Stored, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    ended: bool = False
    by: str = ""
    mark: str = ""
    volume: str = ""
    left_out: tuple[str, ...] = ()
    version: int = VERSION

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(file.bytes for file in self.files)

    def stored(self, path: str) -> Stored | None:
        """The file of that path."""
        return next((file for file in self.files if file.path == path), None)

    def newest(self) -> Checkpoint | None:
        """The checkpoint with which a restored run goes on."""
        return self.checkpoints[-1] if self.checkpoints else None


def snapshot_name(epoch: int, stamp: str, identity: str) -> str:
    """`snap-EPOCH-STAMP-ID`: `stamp` is UTC as 20261122T183000Z, `identity` eight hexadecimal digits."""
    return f"snap-{epoch:06d}-{stamp}-{identity}"


def is_snapshot(name: str) -> bool:
    """True for a name that this module makes: nothing else is ever listed, read or removed."""
    return _SNAPSHOT.fullmatch(name) is not None


def newest_first(names: Iterable[str]) -> list[str]:
    """Snapshots by their time, the newest first."""
    return sorted((name for name in names if is_snapshot(name)), key=_stamp, reverse=True)


def _stamp(name: str) -> tuple[str, str]:
    found = _SNAPSHOT.fullmatch(name)
    return (found["stamp"], found["id"]) if found is not None else ("", "")


def run_folder(project: str, name: str) -> str:
    """Where a run's snapshots lie, below the server's folder."""
    return f"runs/{project}/{name}"


STATE_FOLDER = "state"


def unneeded(kept: Sequence[Manifest], dropped: Sequence[Manifest]) -> list[tuple[str, str]]:
    """Of files of the `dropped` manifests those that no kept one refers to, as (snapshot, path)."""
    needed = {(file.at, file.path) for manifest in kept for file in manifest.files}
    found = {(file.at, file.path) for manifest in dropped for file in manifest.files}
    return sorted(found - needed)
