"""Trainings through the Ultralytics package of the job's own interpreter, started by our runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supervisor import attempt_files, layout
from supervisor.core import stages
from supervisor.core.actions import Launch
from supervisor.core.diagnosis.rungs import DEFAULTS
from supervisor.core.model import Job
from supervisor.errors import PermanentError
from supervisor.layout import RunDirectory
from supervisor.trainers.base import Spec, Trainer
from supervisor.trainers.results_csv import trim_to
from supervisor.trainers.weights_folder import checkpoints_in


class UltralyticsTrainer(Trainer):
    """See Trainer."""

    def launch_spec(self, order: Launch, run_dir: RunDirectory, port: int) -> Spec:  # noqa: ARG002 - it chooses its own
        """See Trainer. GPUs are counted from 0 here: CUDA_VISIBLE_DEVICES shows the trainer only its own."""
        job, checkpoint, from_epoch = order.job, order.checkpoint, order.from_epoch
        going_on = order.start in {"resume", "finish"}
        if going_on and not checkpoint:
            raise PermanentError(f"a start by {order.start} needs a checkpoint")
        weights = {} if going_on or not checkpoint else {"model": checkpoint}  # a branch that starts anew
        last = stages.last_epoch_before(job, from_epoch)
        asked = job.train_after(from_epoch) or {}
        changes = {**_taken_back(asked, order, run_dir), **order.changes}
        section: dict[str, Any] = {
            "mode": "runner",
            "args": {**asked, **weights, **changes},
            "device": device(order.gpus),
            "save_dir": job.adopt or str(run_dir.train),  # of an adopted one its own name: a person may go on there
            "resume": checkpoint if going_on else None,
            "expected_epoch": from_epoch - 1 if going_on else None,
            "run_token_file": str(run_dir.token),
            "safe_saves": job.checkpoints.hook,
            "stop_after": None if last is None else last - 1,
            **({"changes": changes} if changes else {}),
        }
        return [job.python, str(layout.TRAIN), str(run_dir.attempt(order.attempt).root)], section

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
        return trim_to(run_dir.results, from_epoch, aside)


def _taken_back(asked: dict[str, Any], order: Launch, run_dir: RunDirectory) -> dict[str, Any]:
    """Return what earlier attempts here trained with otherwise and this one does not: as the job asks, or the default.

    Checkpoints remember the arguments of the attempt that wrote them. What the job does not name would stay as it was
    changed, also for another run that goes on in this folder.
    """
    names = set[str]()
    for number in range(1, order.attempt):
        try:
            launch = attempt_files.read_launch(run_dir.attempt(number).root)
        except (OSError, ValueError):  # gone, or damaged: what it changed is not known
            continue
        if launch is not None and launch.train is not None:
            names |= launch.train.changes.keys() & DEFAULTS.keys()
    return {name: asked.get(name, DEFAULTS[name]) for name in sorted(names - order.changes.keys())}


def device(gpus: tuple[int, ...]) -> str:
    """Return the devices as the trainer counts them: from 0, because it sees no others."""
    return ",".join(str(place) for place in range(len(gpus))) or "cpu"
