"""What a person asked of `adopt`, and what would be submitted for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.cli.client import View

if TYPE_CHECKING:
    from supervisor.effects.live_trainings import Training
    from supervisor.effects.run_folders import RunFolder


@dataclass(frozen=True)
class Wishes:
    """What the person said; empty where nothing."""

    folder: str | None = None
    pid: int | None = None
    saves_to: str | None = None
    name: str = ""
    project: str = ""
    python: str = ""
    conda: str = ""
    gpus: int | None = None
    script: str = ""
    cwd: str = ""
    family: str | None = None
    data: str = ""
    epochs: int | None = None
    into: str = ""


@dataclass(frozen=True)
class Proposal:
    """What would be submitted: the job file, and what it leads to; `bring` makes the folder, where none is there."""

    name: str
    text: str
    folder: RunFolder
    training: Training | None
    plan: tuple[str, ...]
    bring: Callable[[], None] | None = None

    @property
    def view(self) -> View:
        """The proposal for programs."""
        best = self.folder.best
        return {
            "version": 1,
            "name": self.name,
            "folder": str(self.folder.path),
            "family": self.folder.family,
            "trainer_version": self.folder.version or None,
            "epoch": best.done_epochs if best is not None else 0,
            "epochs": self.folder.epochs,
            "checkpoints": [
                {"path": one.path, "state": one.state, "epoch": one.done_epochs or None, "reason": one.reason or ""}
                for one in self.folder.found
            ],
            "watched_pid": self.training.pid if self.training is not None else None,
            "plan": list(self.plan),
            "job": self.text,
        }
