"""The record of a GPU for life: what ran on it, what it said, what was done with it."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core.gpus.model import Gpu, Noted, Passport
from supervisor.core.model import Run, World

KEPT = 50
TREATMENTS = 10


def noted(gpu: Gpu, at: float, what: str, text: str = "", run: str = "", *, attempt: int = 0) -> Gpu:
    """The GPU with one more line in its passport."""
    passport = gpu.passport
    notes = (*passport.notes, Noted(at=at, what=what, text=text, run=run, attempt=attempt))[-KEPT:]
    return replace(gpu, passport=replace(passport, notes=notes))


def counted(gpu: Gpu, **more: float) -> Gpu:
    """The GPU with these numbers of its passport raised."""
    before = gpu.passport
    return replace(gpu, passport=replace(before, **{name: getattr(before, name) + by for name, by in more.items()}))


def xid_counted(gpu: Gpu, xid: int) -> Gpu:
    """The GPU with one more of these Xids."""
    xids = {**gpu.passport.xids, str(xid): gpu.passport.xids.get(str(xid), 0) + 1}
    return replace(gpu, passport=replace(gpu.passport, xids=xids))


def new(at: float) -> Passport:
    """The passport of a GPU that was never seen before."""
    return Passport(first_seen_at=at)


def began(world: World, run: Run) -> World:
    """An attempt of the run was launched."""
    attempt = run.attempt
    for uuid in attempt.gpu_ids if attempt is not None else ():
        gpu = world.gpus.get(uuid)
        if gpu is not None:
            passport = replace(gpu.passport, attempts=gpu.passport.attempts + 1, python=run.job.python)
            world = world.with_gpu(replace(gpu, passport=passport, not_before=0.0, not_before_reason=""))
    return world


def ended(world: World, run: Run) -> World:
    """The attempt of the run is over."""
    attempt = run.attempt
    if attempt is None or not attempt.started_at or not attempt.ended_at:
        return world
    for uuid in attempt.gpu_ids:
        gpu = world.gpus.get(uuid)
        if gpu is not None:
            busy_s = max(0.0, attempt.ended_at - attempt.started_at)
            gpu = counted(gpu, busy_s=busy_s, failures=int(bool(attempt.gpu_fault)))
            if attempt.gpu_fault:
                told = f"{run.name}, attempt {attempt.number}: {attempt.gpu_text}"
                gpu = noted(gpu, attempt.ended_at, "failed attempt", told, run.id, attempt=attempt.number)
            world = world.with_gpu(gpu)
    return world


def treated(gpu: Gpu, at: float, what: str, text: str) -> Gpu:
    """The GPU after a reset, or after a restart of the machine that it needed."""
    gpu = counted(noted(gpu, at, what, text), **{f"{what}s": 1})
    return replace(gpu, passport=replace(gpu.passport, treated_at=(*gpu.passport.treated_at, at)[-TREATMENTS:]))


def treatments(gpu: Gpu, since: float) -> int:
    """How often the GPU was reset, or the machine restarted for it, since a time."""
    return sum(at >= since for at in gpu.passport.treated_at)


def short(value: float) -> str:
    """A number with three significant digits, but never fewer than it has before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
