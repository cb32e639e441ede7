"""A run that went on with fewer GPUs than it wants gets them back, at the end of an epoch, if that pays."""

from __future__ import annotations

from supervisor.core import queue
from supervisor.core.model import Phase, Run, StopOrder, World

#: What a stop and a resume cost at most where nothing is known: start-up, label cache, AMP check.
RESTART_S = 180.0
SETTLED_S = 600.0  # a GPU that came back must not be lost again at once


def pays(world: World, run: Run, now: float) -> bool:
    """True if the GPUs that it lacks are free, nobody waits for GPUs, and the rest gets shorter by more than it costs.

    With as many GPUs as it wants the epochs that are left take gpus / wanted of their time; a restart is paid twice
    over before it is worth the trouble.
    """
    attempt, job = run.attempt, queue.wanted(run)
    if attempt is None or run.phase is not Phase.RUNNING or run.stop is not None:
        return False
    has, left = len(attempt.gpu_ids), run.progress.epochs - run.progress.saved_epoch
    if not 0 < has < job.gpus or left < 2 or not attempt.started_at or now - attempt.started_at < SETTLED_S:
        return False
    gain_s = left * run.progress.epoch_s * (1 - has / job.gpus)
    return gain_s > 2 * RESTART_S and not _somebody_waits(world, now) and _could_have(world, run, now)


def _somebody_waits(world: World, now: float) -> bool:
    """True if a run waits for GPUs that it could get, were they free."""
    room = queue.Room(world, now)
    waiting = (queue.wanted(one) for one in queue.queued(world) if one.waiting_for.startswith("GPU"))
    return world.draining or any(len(room.usable(job)) >= (job.gpu.min or job.gpus) for job in waiting)


def _could_have(world: World, run: Run, now: float) -> bool:
    """True if it would get all that it wants, were its own GPUs free."""
    room = queue.Room(world, now)
    room.forget(run)
    return len(room.choose(run).gpus) == queue.wanted(run).gpus


def order(run: Run) -> StopOrder:
    """The stop after which it goes on with all its GPUs."""
    job = queue.wanted(run)
    reason = f"goes on with {job.gpus} GPUs instead of {len(run.attempt.gpu_ids) if run.attempt is not None else 0}"
    return StopOrder(how="term", then=Phase.QUEUED, by="the watch over GPUs", reason=reason)
