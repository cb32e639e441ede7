"""What a family of trainers must tell: how it starts, where its checkpoints lie, how its log shows progress."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Protocol

from supervisor.core.model import Job
from supervisor.layout import AttemptDirectory, RunDirectory

Start = Literal["fresh", "resume", "finish"]

#: A frame of the progress bars of YOLOv5, v7, v9 and Ultralytics, after colours are removed and carriage
#: returns split: "  3/100  2.1G  1.2  0.9 … 640:  45% ━━━━ 18/40 …". Ultralytics counts epochs from 1, the
#: others from 0.
YOLO_PROGRESS = re.compile(
    r"^\s*(?P<epoch>\d+)/(?P<epochs>\d+)\s+(?P<gpu_gb>[\d.]+)G\s.*?:\s+(?P<percent>\d+)%"
    r".*?\s(?P<batch>\d+)/(?P<batches>\d+)\s",
)


class Trainer(Protocol):
    """One family of trainers."""

    @property
    def family(self) -> str:
        """The family's name."""
        ...

    @property
    def progress(self) -> re.Pattern[str]:
        """Matches a log line that shows progress: groups epoch, epochs, batch and batches."""
        ...

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
