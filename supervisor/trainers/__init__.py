"""What the supervisor knows of training programs: one module per family, and the one that fits a job."""

from __future__ import annotations

from supervisor.core.model import Job
from supervisor.trainers.base import Trainer
from supervisor.trainers.command import CommandTrainer
from supervisor.trainers.ultralytics import UltralyticsTrainer

_ULTRALYTICS = UltralyticsTrainer()
_COMMAND = CommandTrainer()


def trainer_for(job: Job) -> Trainer:
    """Return the trainer of a job: Ultralytics for [train], else the one of `command`."""
    return _ULTRALYTICS if job.train is not None else _COMMAND
