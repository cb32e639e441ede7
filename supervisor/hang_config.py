"""The keys about trainings that stand still: [hang] of the configuration, hang_after and remedies of a job."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from supervisor.errors import Problem
from supervisor.toml_errors import Interval, shown

Remedies = Annotated[
    tuple[Literal["workers", "cache", "checkpoint", "batch", "imgsz", "freeze"], ...],
    msgspec.Meta(description='a list of "workers", "cache", "checkpoint", "batch", "imgsz" and "freeze"'),
]
Factor = Annotated[float, msgspec.Meta(ge=1, le=1000, description="a number from 1 to 1000")]


def twice(remedies: tuple[str, ...]) -> Problem | None:
    """What is wrong with a list that names a remedy twice: how often one is taken, its cause's plan says."""
    again = next((one for one in remedies if remedies.count(one) > 1), None)
    return None if again is None else Problem("this remedy is named twice", got=shown(again), hint="keep one of them")


class Hang(msgspec.Struct, frozen=True, kw_only=True):
    """[hang]: whether and how often trainings are looked at, and how much longer than ever before is too long."""

    enabled: bool = True
    every: Interval = 10.0
    factor: Factor = 5.0
