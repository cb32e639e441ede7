"""Trainings through the Ultralytics package of the job's own interpreter, started by our runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supervisor import layout
from supervisor.core import stages
from supervisor.core.checkpoints import Checkpoint
from supervisor.core.model import Job
from supervisor.errors import PermanentError
from supervisor.layout import AttemptDirectory, RunDirectory
from supervisor.trainers.results_csv import trim
from supervisor.trainers.weights_folder import checkpoints_in


class UltralyticsTrainer:
    """See Trainer."""

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
        port: int,  # noqa: ARG002 - Ultralytics chooses its own
    ) -> tuple[list[str], dict[str, Any] | None]:
        """See Trainer. GPUs are counted from 0 here: CUDA_VISIBLE_DEVICES shows the trainer only its own."""
        going_on = start in {"resume", "finish"}
        if going_on and not checkpoint:
            raise PermanentError(f"a start by {start} needs a checkpoint")
        weights = {} if going_on or not checkpoint else {"model": checkpoint}  # a branch that starts anew
        last = stages.last_epoch_before(job, from_epoch)
        section = {
            "mode": "runner",
            "args": {**(job.train_after(from_epoch) or {}), **weights},
            "device": device(gpus),
            "save_dir": job.adopt or str(run_dir.train),  # of an adopted one its own name: a person may go on there
            "resume": checkpoint if going_on else None,
            "expected_epoch": from_epoch - 1 if going_on else None,
            "run_token_file": str(run_dir.token),
            "safe_saves": job.checkpoints.hook,
            "stop_after": None if last is None else last - 1,
        }
        return [job.python, str(layout.TRAIN), str(attempt_dir.root)], section

    def environment(self, job: Job, env: Mapping[str, str]) -> dict[str, str]:  # noqa: ARG002
        """See Trainer. Our runner brings everything itself."""
        return {}

    def checkpoints(self, job: Job, run_dir: RunDirectory) -> list[Path]:  # noqa: ARG002
        """See Trainer: last.pt, the files of save_period from the newest on, best.pt."""
        return checkpoints_in(run_dir.weights)

    def tables(self, job: Job, run_dir: RunDirectory) -> list[Path]:  # noqa: ARG002
        """See Trainer."""
        return [run_dir.results]

    def place(self, job: Job, run_dir: RunDirectory) -> Path | None:  # noqa: ARG002
        """See Trainer."""
        return run_dir.weights / "last.pt"

    def make_ready(self, job: Job, run_dir: RunDirectory, *, from_epoch: int, aside: Path) -> list[str]:  # noqa: ARG002
        """See Trainer: the table of epochs ends where the checkpoint does."""
        dropped = trim(run_dir.results, from_epoch, aside)
        return [f"{dropped} rows after epoch {from_epoch} were cut from results.csv"] if dropped else []

    def epochs(self, job: Job, run_dir: RunDirectory) -> int | None:  # noqa: ARG002
        """See Trainer."""
        return job.epochs

    def proof_of_end(
        self,
        job: Job,  # noqa: ARG002
        run_dir: RunDirectory,  # noqa: ARG002
        code: int | None,  # noqa: ARG002
        signal: int | None,  # noqa: ARG002
        found: Sequence[Checkpoint],  # noqa: ARG002
    ) -> tuple[bool, str] | None:
        """See Trainer: the runner's end record decides."""
        return None


def device(gpus: tuple[int, ...]) -> str:
    """Return the devices as the trainer counts them: from 0, because it sees no others."""
    return ",".join(str(place) for place in range(len(gpus))) or "cpu"
