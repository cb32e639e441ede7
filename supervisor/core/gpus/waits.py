"""What a run that waits for GPUs waits for, as it is at the moment of looking: who has them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from supervisor.core.gpus import leases
from supervisor.core.gpus.model import Gpu
from supervisor.core.model import Phase, Run, World

_SHOWN = 2


def taken(world: World) -> dict[str, str]:
    """The run that has each GPU in use, by UUID (where several share one, one of them)."""
    busy = [run for run in world.live.values() if run.busy and run.attempt is not None]
    return {uuid: run.name for run in busy for uuid in (run.attempt.gpu_ids if run.attempt else ())}


def as_seen(run: Run, world: World, who: Mapping[str, str] | None = None) -> Run:
    """The run with who has the GPUs that it waits for; the same where something else is said already.

    `who` is what `taken` tells, for those who ask for many runs.
    """
    if run.phase is not Phase.QUEUED or run.waiting_for != "GPU":
        return run
    who = taken(world) if who is None else who
    mine = [gpu for gpu in leases.devices(world) if leases.eligible(run.job, gpu)]
    reason = _named(mine, who) if run.job.gpu.named else _any(run, mine, who)
    return replace(run, waiting_for=f"GPU: {reason}") if reason else run


def _named(mine: Sequence[Gpu], who: Mapping[str, str]) -> str:
    told = [f"{gpu.label} is in use: {who[gpu.uuid]} trains there" for gpu in mine if gpu.uuid in who]
    return "; ".join(told[:_SHOWN]) + (f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")


def _any(run: Run, mine: Sequence[Gpu], who: Mapping[str, str]) -> str:
    """Empty where enough are free: then it is the others' turn."""
    free = sum(gpu.uuid not in who for gpu in mine)
    if not mine or free >= run.job.gpus:
        return ""
    if free:
        return f"it wants {run.job.gpus}, and {free} of {len(mine)} are free"
    return f"all {len(mine)} GPUs are in use" if len(mine) > 1 else f"{mine[0].label} is in use"
