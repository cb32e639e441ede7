"""What a transaction is told to copy, whatever it is: a run or the journal."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from supervisor.core.backups.manifest import Manifest, Stored
from supervisor.effects.backup.staging import Copied, Record
from supervisor.effects.backup.targets.base import Target


@dataclass(frozen=True)
class Scene:
    """Where a snapshot is made: the target, the last snapshot there, and the folder for staged files.

    `there`: by path those files of the last snapshot that lie there whole, as far as is known.
    """

    target: Target
    server: str
    before: Manifest | None
    there: Mapping[str, Stored]
    record: Record
    folder: Path
    now: float
    stop: threading.Event


@dataclass(frozen=True)
class Draft:
    """The manifest that a snapshot will have; all files whose `at` is the snapshot itself are staged."""

    manifest: Manifest
    kept_epoch: int = 0

    @property
    def sent(self) -> list[Stored]:
        """The files that must be sent."""
        return [file for file in self.manifest.files if file.at == self.manifest.snapshot]


class Source(Protocol):
    """A run or the journal. Everything may raise NotBackedUpError, OSError, RetryableError."""

    @property
    def folder(self) -> str:
        """Where its snapshots lie on a target."""

    @property
    def snapshots(self) -> int:
        """How many of them stay there."""

    @property
    def epoch(self) -> int:
        """The epoch for the snapshot's name."""

    def stage(self, scene: Scene) -> Draft:
        """Copy what is not there yet into the folder of staged files. Called again if `prove` found something wrong."""

    def prove(self, scene: Scene, given_up: threading.Event) -> bool:
        """Hash what was staged by its name alone; False if something is not what it was. Runs beside a transfer."""

    def demand_ours(self) -> None:
        """Raise "stale" if the source got another holder since it was staged."""

    def close(self) -> None:
        """Give handles back."""


def stored(path: str, copied: Copied, snapshot: str) -> Stored:
    """A staged file, as a manifest has it."""
    return Stored(
        path=path,
        bytes=copied.bytes,
        sha256=copied.sha256,
        mtime_ns=copied.mtime_ns,
        at=snapshot,
        mode=copied.mode,
        holes=copied.holes,
    )


def is_unchanged(draft: Manifest, before: Manifest | None) -> bool:
    """True if the last snapshot holds all this already."""
    if before is None:
        return False
    same = (draft.ended, draft.mark, draft.checkpoints) == (before.ended, before.mark, before.checkpoints)
    return same and {one.path: one for one in draft.files} == {one.path: one for one in before.files}
