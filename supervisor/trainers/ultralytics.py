"""Trainings through the Ultralytics package of the job's own interpreter, started by our runner."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from supervisor import layout
from supervisor.core.model import Job
from supervisor.errors import PermanentError
from supervisor.layout import AttemptDirectory, RunDirectory

_EPOCH_FILE = re.compile(r"epoch(\d+)\.pt")


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
        section = {
            "args": dict(job.train or {}),
            "device": ",".join(str(place) for place in range(len(gpus))) or "cpu",
            "save_dir": str(run_dir.train),
            "resume": checkpoint if going_on else None,
            "expected_epoch": from_epoch - 1 if going_on else None,
            "run_token_file": str(run_dir.token),
        }
        return [job.python, str(layout.TRAIN), str(attempt_dir.root)], section

    def checkpoints(self, job: Job, run_dir: RunDirectory) -> list[Path]:  # noqa: ARG002
        """See Trainer: last.pt, the files of save_period from the newest on, best.pt."""
        try:
            names = {path.name: path for path in run_dir.weights.iterdir() if path.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return []
        epochs = sorted((int(match[1]), name) for name in names if (match := _EPOCH_FILE.fullmatch(name)))
        order = ["last.pt", *(name for _, name in reversed(epochs)), "best.pt"]
        return [names[name] for name in order if name in names]
