"""What of a run is published: private copies of its best weights and its last checkpoint, each proven to be whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from supervisor import layout, trainers
from supervisor.core import cards
from supervisor.core.checkpoints import WHOLE, Checkpoint
from supervisor.core.consistency import Fingerprint
from supervisor.core.ledger import Ledger, usable
from supervisor.core.model import Job
from supervisor.core.numbers import finite
from supervisor.effects import checkpoints, consistency, ledger
from supervisor.effects.private_copy import private_copy

BEST, LAST = "best", "last"
_MOST_LOOKED_AT = 5  # copies of the ledger, from the newest on, before nobody believes in it any more


@dataclass(frozen=True)
class Weights:
    """A private, verified copy. `epoch` counts from 1, 0: it does not say. `map50_95`: of just these weights."""

    path: Path
    role: str
    sha256: str
    bytes: int
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    map50_95: float | None = None


def gather(job: Job, run_dir: layout.RunDirectory, stage: Path) -> tuple[list[Weights], dict[str, str]]:
    """Copy what there is to `stage`; and by role why there is none.

    Raises RetryableError where a file is being written or cannot be looked at now, OSError where the disk fails.
    """
    kept = ledger.read(run_dir)
    found: list[Weights] = []
    lacking: dict[str, str] = {}
    for role, made in ((BEST, _best(job, run_dir, kept, stage)), (LAST, _last(run_dir, kept, stage))):
        if isinstance(made, Weights):
            found.append(made)
        else:
            lacking[role] = made
    return found, lacking


def _best(job: Job, run_dir: layout.RunDirectory, kept: Ledger, stage: Path) -> Weights | str:
    """The trainer's own choice of weights; or why it cannot be published."""
    place = trainers.trainer_for(job).place(job, run_dir)
    source = (place.parent if place is not None else run_dir.weights) / "best.pt"
    try:
        copied = private_copy(source, stage / "best.pt")
    except FileNotFoundError:
        return f"there is no {source}"
    [seen] = checkpoints.look([stage / "best.pt"])
    if seen.state not in WHOLE:
        return f"best.pt is {seen.state}: {seen.reason}"
    value = seen.map50_95
    epochs = [entry.epoch for entry in kept.entries if value is not None and entry.map50_95 == value]
    epoch = seen.done_epochs or (epochs[0] if epochs else 0)
    return _weights(seen, BEST, copied.sha256, epoch)


def _last(run_dir: layout.RunDirectory, kept: Ledger, stage: Path) -> Weights | str:
    """The newest copy of the ledger that still is what was entered, with all that a training goes on from."""
    reason = "no verified checkpoint is left from which a training could go on"
    for entry in usable(kept)[:_MOST_LOOKED_AT]:
        try:
            copied = private_copy(ledger.path_of(run_dir, entry), stage / "last.pt")
        except FileNotFoundError:
            continue
        if copied.sha256 == entry.sha256:
            [seen] = checkpoints.look([stage / "last.pt"])
            return _weights(seen, LAST, copied.sha256, entry.epoch)
        reason = f"{entry.file} is not what was entered in the ledger any more"
    return reason


def _weights(seen: Checkpoint, role: str, sha256: str, epoch: int) -> Weights:
    metrics = finite(seen.metrics)
    return Weights(Path(seen.path), role, sha256, seen.size_bytes, epoch, metrics, seen.map50_95)


def fingerprint(run_dir: layout.RunDirectory) -> Fingerprint:
    """What the run was made of, as far as anybody looked."""
    try:
        record = msgspec.json.decode((run_dir.root / consistency.FILE).read_bytes(), type=consistency.Record)
    except (OSError, msgspec.DecodeError):
        return Fingerprint()
    return record.reference


def job_text(run_dir: layout.RunDirectory, job: Job) -> str:
    """The job file as it was checked, without secrets; nothing where it cannot be read."""
    try:
        text = run_dir.job.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return cards.without_secrets(text, (job.env, job.settings, job.train or {}))
