"""What the supervisor knows of training programs: one module per family, and the one that fits a job."""

from __future__ import annotations

from supervisor.core.model import Job
from supervisor.trainers.base import Trainer
from supervisor.trainers.command import CommandTrainer
from supervisor.trainers.scripts import FAMILIES, ScriptTrainer
from supervisor.trainers.ultralytics import UltralyticsTrainer

_ULTRALYTICS = UltralyticsTrainer()
_COMMAND = CommandTrainer()
_SCRIPTS = {name: ScriptTrainer(family) for name, family in FAMILIES.items()}


def trainer_for(job: Job) -> Trainer:
    """Return the trainer of a job: Ultralytics for [train], else that of its family, else the one of `command`."""
    if job.train is not None:
        return _ULTRALYTICS
    return _SCRIPTS.get(job.family, _COMMAND)
