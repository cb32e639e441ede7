"""Who starts next: priority, then age; slots, GPUs, owners, times and other runs decide who waits, and for what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from supervisor.core import disk_spots
from supervisor.core.actions import Prepare
from supervisor.core.ancestry import source_of
from supervisor.core.gpus import leases
from supervisor.core.gpus.model import Gpu
from supervisor.core.model import Attempt, Job, Phase, Run, Wanted, World
from supervisor.core.policy import AFTER_BOOT_S, LIMIT_OVERRUN, PREPARING_S, REBOOT_START_GAP_S
from supervisor.core.turn import Turn


class Room:
    """What is free at one moment, used up by the runs that are placed."""

    def __init__(self, world: World, now: float) -> None:
        """Count what the busy runs take."""
        busy = [run for run in world.live.values() if run.busy]
        self.world, self.now = world, now
        self.policy = policy = world.policy
        self.devices = leases.devices(world)
        self.slots = (policy.max_running or max(1, len(self.devices))) - len(busy)
        self.owners = Counter(run.job.owner for run in busy)
        self.on: dict[str, list[Run]] = {gpu.uuid: [] for gpu in self.devices}
        for run in busy:
            self._put(run, run.attempt.gpu_ids if run.attempt is not None else ())
        #: GPUs that a run ahead waits for, and when it may have them all.
        self.reserved: list[tuple[frozenset[str], float]] = []

    def refuses(self, run: Run) -> str:
        """What the run must wait for, GPUs apart, or nothing. Who shares GPUs needs no slot of its own by default."""
        job = wanted(run)
        if self.slots < 1 and (self.policy.max_running or not (job.gpus and job.gpu.share)):
            return "slot"
        per_owner = self.policy.max_running_per_owner
        return "slot" if per_owner and self.owners[job.owner] >= per_owner else ""

    def choose(self, run: Run, *, reserved: bool = True) -> leases.Choice:
        """The GPUs for a run, or what it waits for. Not `reserved`: as if nobody ahead waited for any."""
        job = wanted(run)
        if not job.gpus or only_watches(run):
            return leases.Choice()
        free = [gpu for gpu in self.devices if self._is_free(gpu, job)]
        length_s = expected_s(run)
        for uuids, at in self.reserved if reserved else ():
            if length_s is None or math.isinf(at) or self.now + length_s > at:
                free = [gpu for gpu in free if gpu.uuid not in uuids]
        return leases.choose(run, job, free, self.world, self.now)

    def take(self, run: Run, gpus: tuple[Gpu, ...]) -> None:
        """Use up what the run gets."""
        self.slots -= 1
        self.owners[run.job.owner] += 1
        self._put(run, tuple(gpu.uuid for gpu in gpus))

    def reserve(self, run: Run) -> None:
        """Keep the GPUs that a waiting run could use for it: only what is over before it can start may have them.

        GPUs that are broken, drained or others' are not waited for by everybody: a run that wants more than the rest
        keeps none, nor does one that only waits behind another.
        """
        if self.choose(run, reserved=False).gpus:
            return
        job = wanted(run)
        usable = self.usable(job)
        if len(usable) >= (job.gpu.min or job.gpus):
            self.reserved.append((frozenset(gpu.uuid for gpu in usable), self._start_at(job, usable)))

    def usable(self, job: Job) -> list[Gpu]:
        """The GPUs that the job can get sooner or later, as things are."""
        fitting = (gpu for gpu in self.devices if leases.eligible(job, gpu))
        return [gpu for gpu in fitting if not leases.withheld(gpu, self.world, self.now)]

    def _start_at(self, job: Job, usable: Sequence[Gpu]) -> float:
        """When enough GPUs are expected to be free: as late as the runs on them say; infinite if one does not."""
        ends = sorted(max([_end_at(run, self.now) for run in self.on[gpu.uuid]], default=self.now) for gpu in usable)
        return ends[min(job.gpus, len(ends)) - 1] if ends else self.now

    def _is_free(self, gpu: Gpu, job: Job) -> bool:
        runs = self.on[gpu.uuid]
        return not runs or (job.gpu.share and all(run.job.gpu.share for run in runs))

    def forget(self, run: Run) -> None:
        """As if that run had none of its GPUs."""
        for runs in self.on.values():
            runs[:] = [one for one in runs if one.id != run.id]

    def _put(self, run: Run, uuids: Iterable[str]) -> None:
        for uuid in uuids:
            self.on.setdefault(uuid, []).append(run)


def only_watches(run: Run) -> bool:
    """True for the first attempt of an adopted run: the training that a person started has its GPUs already."""
    return wanted(run).watch is not None and run.attempts == 0


def wanted(run: Run) -> Job:
    """The job of the next attempt: an edit counts from then on."""
    return run.next_job or run.job


def expected_s(run: Run) -> float | None:
    """How long a queued run will take at most, as far as its limit or its own past tells; else None."""
    job, progress = wanted(run), run.progress
    limit_s = None if job.time_limit_s is None else job.time_limit_s - run.used_s
    epochs = progress.epochs or job.epochs
    learned_s = (epochs - progress.saved_epoch) * progress.epoch_s if epochs and progress.epoch_s else None
    told = [seconds for seconds in (limit_s, learned_s) if seconds is not None]
    return min(told) * (1 + LIMIT_OVERRUN) if told else None


def _end_at(run: Run, now: float) -> float:
    """When a running training will be over, as far as it tells."""
    ends = []
    if run.progress.eta_s is not None:
        ends.append(run.progress.at + run.progress.eta_s)
    if run.job.time_limit_s is not None and run.attempt is not None and run.attempt.started_at:
        ends.append(run.attempt.started_at + run.job.time_limit_s - run.used_s)
    return max(now, min(ends)) if ends else math.inf


def start_gap_s(world: World, now: float) -> float:
    """Seconds between two starts; for some minutes after a boot starts are spread out, because all want to start."""
    fresh_boot = bool(world.booted_at) and now - world.booted_at < AFTER_BOOT_S
    return max(world.policy.start_gap_s, REBOOT_START_GAP_S if fresh_boot else 0.0)


def queued(world: World) -> list[Run]:
    """The runs that wait for their place, the first one first."""
    waiting = [run for run in world.live.values() if run.phase is Phase.QUEUED and run.wanted is Wanted.UP]
    return sorted(waiting, key=lambda run: (-run.priority, run.created_at, run.id))


def waits_for(world: World, run: Run, now: float) -> str:
    """What keeps the run from starting apart from room: time or another run."""
    if world.draining:
        return "drain"
    if run.restoring:
        return "restore"
    if full := disk_spots.refuses(world):
        return full
    if run.job.start_after_at is not None and now < run.job.start_after_at:
        return "time"
    for name in run.job.after:
        other = world.named(name)
        if other is None or other.phase is not Phase.SUCCEEDED:
            return f"other run: {name} ({'unknown' if other is None else other.phase.value})"
    return ""


def place(turn: Turn) -> None:
    """Start every queued run that there is room for, by priority and age.

    A run that waits for GPUs is overtaken by another GPU run only on GPUs that it cannot use, or by one that is
    over before it could start.
    """
    waiting = queued(turn.world)
    if not waiting:
        return
    room = Room(turn.world, turn.now)
    sharing = any(wanted(run).gpu.share for run in waiting)  # who shares needs no slot
    for run in waiting:
        choice = leases.Choice()
        reason = waits_for(turn.world, run, turn.now) or room.refuses(run)
        if not reason:
            choice = room.choose(run)
            reason = choice.reason
        if not reason and _in_gap(turn.world, turn.now, start_gap_s(turn.world, turn.now)):
            reason = "time"
        if not reason:
            room.take(run, choice.gpus)
            begin(turn, run, choice.gpus)
        elif reason != run.waiting_for:
            turn.put(replace(run, waiting_for=reason))
        if reason.partition(":")[0] == "GPU":
            room.reserve(run)
        if room.slots < 1 and reason == run.waiting_for == "slot" and not sharing:
            break  # everyone behind waits already


def _in_gap(world: World, now: float, gap_s: float) -> bool:
    """True for a while after a launch. One that lies in the future says only that the clock was set back."""
    return bool(world.last_launch_at) and world.last_launch_at <= now < world.last_launch_at + gap_s


def begin(turn: Turn, run: Run, gpus: tuple[Gpu, ...]) -> None:
    """Open the next attempt of a run: its directory is prepared first."""
    world = turn.world
    job = wanted(run)
    attempt = Attempt(
        number=run.attempts + 1,
        token=world.next_token,
        revision=job.revision,
        gpus=tuple(gpu.index for gpu in gpus),
        gpu_ids=tuple(gpu.uuid for gpu in gpus),
        boot=world.boot,
    )
    turn.world = replace(world, next_token=world.next_token + 1, last_launch_at=turn.now)
    turn.act(_preparation(world, run, job, attempt, gpus))
    turn.move(
        run,
        Phase.PREPARING,
        f"{_unsaid(turn, run)}attempt {attempt.number}: choosing where to start from",
        within_s=PREPARING_S,
        job=job,
        next_job=None,
        **(_as_written() if run.next_job is not None else {}),
        attempts=attempt.number,
        attempt=attempt,
    )


def _preparation(world: World, run: Run, job: Job, attempt: Attempt, gpus: tuple[Gpu, ...]) -> Prepare:
    looks = bool(gpus) and leases.watched(world)
    return Prepare(
        key=f"{run.id}/{attempt.number}/prepare-{attempt.token}",
        run=run.id,
        attempt=attempt.number,
        token=attempt.token,
        job=job,
        scratch_allowed=run.progress.saved_epoch == 0,
        set_aside=run.set_aside,
        goal=run.goal,
        accepted=run.accepted,
        gpus=_gpus_before(run),
        gpu_ids=attempt.gpu_ids,
        gpu_names=tuple(gpu.facts.name for gpu in gpus),
        check_gpus=looks,
        test_gpus=looks and world.policy.gpu.self_test == "start",
        origin=_origin(world, job),
        distrust_from=run.distrust_from,
    )


def _gpus_before(run: Run) -> int:
    """How many GPUs the attempt before had."""
    return len(run.attempt.gpus) if run.attempt is not None and run.attempt.launches else run.job.gpus


def _as_written() -> dict[str, Any]:
    """An edit of the job takes back what the ladder changed, and all may be tried again."""
    return {"changes": (), "avoided_gpus": (), "spent": {}, "last_failure": ""}


def _origin(world: World, job: Job) -> str:
    """Where the run lies that the job begins from."""
    other = source_of(world, job)
    return f"{other.job.project}/{other.name}" if other is not None else ""


def _unsaid(turn: Turn, run: Run) -> str:
    """Why the run came into the queue, if that was in this very step: nobody has read it yet."""
    return f"{run.reason}; " if run.reason and run.phase_since == turn.now else ""


def next_start_at(world: World, now: float) -> float | None:
    """When a queued run may start for reasons of time alone, or None."""
    waiting = queued(world)
    if not waiting or world.draining:
        return None
    times = [run.job.start_after_at for run in waiting if run.job.start_after_at and run.job.start_after_at > now]
    if any(run.waiting_for.startswith("GPU") for run in waiting):
        times += [at for gpu in world.gpus.values() for at in leases.changes_at(gpu) if at > now]
    gap_end_at = world.last_launch_at + start_gap_s(world, now)
    if world.last_launch_at and gap_end_at > now:
        times.append(gap_end_at)
    return min(times) if times else None
