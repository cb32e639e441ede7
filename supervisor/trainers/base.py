"""What a family of trainers must tell: how it starts, and where its checkpoints lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

from supervisor.core.model import Job
from supervisor.layout import AttemptDirectory, RunDirectory

Start = Literal["fresh", "resume", "finish"]


class Trainer(Protocol):
    """One family of trainers."""

    def launch_spec(
        self,
        job: Job,
        run_dir: RunDirectory,
        attempt_dir: AttemptDirectory,
        *,
        start: str,
        checkpoint: str,
        from_epoch: int,
        gpus: tuple[int, ...],
        port: int,
    ) -> tuple[list[str], dict[str, Any] | None]:
        """Return what the shim executes, and the `train` section of launch.json.

        `start` is fresh, resume or finish; `from_epoch` counts the complete epochs in `checkpoint`, from 1.
        Raises PermanentError where the job cannot be started like that.
        """
        ...

    def checkpoints(self, job: Job, run_dir: RunDirectory) -> list[Path]:
        """Return the files that may be checkpoints, those that exist; what is in them must be looked at."""
        ...
