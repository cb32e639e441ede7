"""Who starts next: priority, then age; slots, GPUs, owners, times and other runs decide who waits, and for what."""

from __future__ import annotations

from collections import Counter
from typing import Any

from msgspec.structs import replace

from supervisor.core.actions import Prepare
from supervisor.core.ancestry import source_of
from supervisor.core.model import Attempt, Job, Phase, Run, Wanted, World
from supervisor.core.policy import AFTER_BOOT_S, PREPARING_S, REBOOT_START_GAP_S
from supervisor.core.turn import Turn


class Room:
    """What is free at one moment, used up by the runs that are placed."""

    def __init__(self, world: World) -> None:
        """Count what the busy runs take."""
        busy = [run for run in world.live.values() if run.busy]
        policy = world.policy
        self.slots = (policy.max_running or max(1, policy.gpu_count)) - len(busy)
        self.owners = Counter(run.job.owner for run in busy)
        taken = {gpu for run in busy if run.attempt is not None for gpu in run.attempt.gpus}
        self.gpus = [gpu for gpu in range(policy.gpu_count) if gpu not in taken]
        self.per_owner = policy.max_running_per_owner

    def refuses(self, run: Run) -> str:
        """What the run must wait for, or nothing."""
        if self.slots < 1:
            return "slot"
        if self.per_owner and self.owners[run.job.owner] >= self.per_owner:
            return "slot"
        return "GPU" if run.job.gpus > len(self.gpus) else ""

    def take(self, run: Run) -> tuple[int, ...]:
        """Use up what the run needs; the GPU indices in PCI bus order that it gets.

        Those that it had better not have come last: a run that finds no others gets them all the same.
        """
        self.slots -= 1
        self.owners[run.job.owner] += 1
        given = sorted(self.gpus, key=lambda gpu: (gpu in run.avoid_gpus, gpu))[: run.job.gpus]
        self.gpus = [gpu for gpu in self.gpus if gpu not in given]
        return tuple(sorted(given))


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
    if run.job.start_after_at is not None and now < run.job.start_after_at:
        return "time"
    for name in run.job.after:
        other = world.named(name)
        if other is None or other.phase is not Phase.SUCCEEDED:
            return f"other run: {name} ({'unknown' if other is None else other.phase.value})"
    return ""


def place(turn: Turn) -> None:
    """Start every queued run that there is room for. A run that waits for GPUs is not overtaken by another GPU run."""
    waiting = queued(turn.world)
    if not waiting:
        return
    room = Room(turn.world)
    for run in waiting:
        reason = waits_for(turn.world, run, turn.now) or room.refuses(run)
        gap_s = start_gap_s(turn.world, turn.now)
        if not reason and _in_gap(turn.world, turn.now, gap_s):
            reason = "time"
        if not reason:
            begin(turn, run, room.take(run))
        elif reason != run.waiting_for:
            turn.put(replace(run, waiting_for=reason))
        if reason == "GPU" and run.job.gpus <= turn.world.policy.gpu_count:
            room.gpus = []  # one that wants more than the machine has (a GPU was lost) must not keep all others out
        if room.slots < 1 and reason == run.waiting_for == "slot":
            break  # everyone behind waits already


def _in_gap(world: World, now: float, gap_s: float) -> bool:
    """True for a while after a launch. One that lies in the future says only that the clock was set back."""
    return bool(world.last_launch_at) and world.last_launch_at <= now < world.last_launch_at + gap_s


def begin(turn: Turn, run: Run, gpus: tuple[int, ...]) -> None:
    """Open the next attempt of a run: its directory is prepared first."""
    world = turn.world
    job = run.next_job or run.job
    attempt = Attempt(
        number=run.attempts + 1,
        token=world.next_token,
        revision=job.revision,
        gpus=gpus,
        boot=world.boot,
    )
    turn.world = replace(world, next_token=world.next_token + 1, last_launch_at=turn.now)
    turn.act(
        Prepare(
            key=f"{run.id}/{attempt.number}/prepare-{attempt.token}",
            run=run.id,
            attempt=attempt.number,
            token=attempt.token,
            job=job,
            scratch_allowed=run.progress.saved_epoch == 0,
            set_aside=run.set_aside,
            goal=run.goal,
            accepted=run.accepted,
            gpus=run.job.gpus,
            origin=_origin(world, job),
            distrust_from=run.distrust_from,
        ),
    )
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


def _as_written() -> dict[str, Any]:
    """An edit of the job takes back what the ladder changed, and all may be tried again."""
    return {"changes": (), "avoid_gpus": (), "spent": {}, "last_failure": ""}


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
    gap_end_at = world.last_launch_at + start_gap_s(world, now)
    if world.last_launch_at and gap_end_at > now:
        times.append(gap_end_at)
    return min(times) if times else None
