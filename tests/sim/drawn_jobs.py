"""The jobs that people drop into the simulation."""

from __future__ import annotations

from typing import Any

from supervisor.core.job import Restart, Stage
from supervisor.core.model import Job


def a_job(name: str, path: str, how: int, revision: int) -> Job:
    """One of several kinds of jobs."""
    kinds: tuple[dict[str, Any], ...] = (
        {"train": {"model": "m", "data": "d", "epochs": 3}, "gpus": 1},
        {"train": {"model": "m", "data": "d", "epochs": 4}, "gpus": 2},
        {"train": {"model": "m", "data": "d", "epochs": 2}, "time_limit_s": 900.0},
        {"train": {"model": "m", "data": "d", "epochs": 3}, "after": ("a",) if name != "a" else ()},
        {"command": ("x",), "resume_command": ("x", "-r"), "checkpoint_files": ("*.pt",), "gpus": 1},
        {"command": ("x",)},
        {"train": {"model": "m", "data": "d", "epochs": 3}, "gpus": 3},
        {"train": {"model": "m", "data": "d", "epochs": 4}, "stages": (Stage(from_epoch=3, args={"batch": 2}),)},
    )
    remedies = (("workers", "cache", "checkpoint"), (), ("workers", "batch"), ("checkpoint",))[how // 3 % 4]
    restart = Restart(no_progress=1 + how % 3, remedies=remedies)
    return Job(name=name, revision=f"r{revision}", file=path, restart=restart, **kinds[how % len(kinds)])
