"""What a family of trainers must tell: how it starts, where its checkpoints lie, and how it proves its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from supervisor.core.actions import Launch
from supervisor.core.checkpoints import Checkpoint
from supervisor.core.model import Job
from supervisor.layout import RunDirectory

#: What the shim executes, and the `train` section of launch.json for a runner or a hook of ours.
Spec = tuple[list[str], dict[str, Any] | None]


class Trainer(Protocol):
    """One family of trainers. What has a body here is what holds for a family that says nothing else."""

    def launch_spec(self, order: Launch, run_dir: RunDirectory, port: int) -> Spec:
        """Return how an attempt is started. `port` is a free one, for the ranks of a distributed training.

        Raises PermanentError where the job cannot be started like that.
        """
        ...

    def environment(self, job: Job, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that this family needs besides `env`, which is all that the trainer gets otherwise."""
        del job, env
        return {}

    def checkpoints(self, job: Job, run_dir: RunDirectory) -> list[Path]:
        """Return the files that may be checkpoints, those that exist; what is in them must be looked at."""
        ...

    def tables(self, job: Job, run_dir: RunDirectory) -> list[Path]:
        """Return where the family's table of epochs may lie; it is appended to, also by a start from the beginning."""
        ...

    def place(self, job: Job, run_dir: RunDirectory) -> Path | None:
        """Return the one path from which this family resumes, None where any path will do."""
        ...

    def make_ready(self, job: Job, run_dir: RunDirectory, *, from_epoch: int, aside: Path) -> list[str]:
        """Let what the trainer reads beside its checkpoint fit a resume after `from_epoch` complete epochs.

        Called after the checkpoint is in its place, before the resume is launched; again does no harm. What was
        replaced is kept in `aside`. Returns what was done, for people. Raises PermanentError where a resume would fail.
        """
        ...

    def epochs(self, job: Job, run_dir: RunDirectory) -> int | None:
        """Return how many epochs the run is to have, as the trainer will read it at a resume; None where unknown."""
        del run_dir
        return job.epochs

    def proof_of_end(
        self, job: Job, run_dir: RunDirectory, code: int | None, found: Sequence[Checkpoint]
    ) -> tuple[bool, str] | None:
        """Tell from the checkpoints that were `found` whether the training is finished, and why that is certain.

        None: this family proves nothing by its files; the runner's end record or the job's `done` tests decide.
        """
        del job, run_dir, code, found
        return None
