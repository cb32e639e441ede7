"""The look at its GPUs before an attempt starts: they answer, nothing is pending, and they are really free.

What stands in the way is told in words, and the run is queued again. Only our own leftovers are ended. Memory that is
being given back is waited for, not longer than LIMIT_S: other preparations wait behind this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from supervisor.core import events
from supervisor.core.actions import Prepare
from supervisor.core.gpus.model import Gpu, Holder
from supervisor.core.model import Job, World
from supervisor.effects import gpu_leftovers, gpu_look
from supervisor.effects.gpu_look import GpuEyes, Seen
from supervisor.effects.gpu_test import GpuTester
from supervisor.units import format_size

LIMIT_S = 20.0
AGAIN_S = 1.0
#: More than this in use with no process listed is memory that somebody lost: half a GiB, beyond the other half that a
#: driver may keep for itself (older calls of NVML count that as used).
LOOSE_BYTES = 1024**3
STUCK = "stuck-memory"  # of core.gpus.findings
SOURCE = "gate"  # not "nvml": what the judge of readings found, it takes back itself


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says. `reason`: why the attempt may not start now, empty if it may. `events` go before the answer.

    A reason begins with the GPU's label: by that the core knows which of several GPUs it is about.
    """

    reason: str = ""
    notes: tuple[str, ...] = ()
    events: tuple[events.Event, ...] = ()


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the way on one GPU. `passes`: it may be over within seconds."""

    reason: str
    seen: Seen
    passes: bool = False
    stuck_bytes: int = 0


class GpuGate:
    """Lets attempts in to their GPUs. Asking it twice does no harm."""

    def __init__(
        self,
        eyes: GpuEyes | None,
        world: Callable[[], World],
        runs_dir: Path,
        now: Callable[[], float],
        tester: GpuTester,
        *,
        limit_s: float = LIMIT_S,
        pause: Callable[[float], object] = time.sleep,
        term_s: float = gpu_leftovers.TERM_S,
    ) -> None:
        """`now` stamps events; without `eyes` nobody watches GPUs, and only the self-test is made."""
        self._eyes = eyes
        self._world = world
        self._runs_dir = runs_dir
        self._now = now
        self._tester = tester
        self._limit_s = limit_s
        self._pause = pause
        self._term_s = term_s
        self._told_persistence: set[str] = set()

    def __call__(self, action: Prepare) -> Admission:
        """Look at the GPUs of an attempt, and test them, as far as that is ordered."""
        found = self._looked(action, self._eyes) if action.check_gpus and self._eyes is not None else Admission()
        if found.reason or not action.test_gpus:
            return found
        return self._tested(action, found)

    # ---- the look
    def _looked(self, action: Prepare, eyes: GpuEyes) -> Admission:
        ends_at = time.monotonic() + self._limit_s
        while True:
            world = self._world()
            seen = gpu_look.see(eyes, world, action.gpu_ids)
            blocks = [block for one in seen for block in self._blocks(one, action.job, world, ends_at)]
            if not blocks:
                return self._let_in(seen)
            if not all(block.passes for block in blocks) or time.monotonic() >= ends_at:
                return self._refused(blocks)
            self._pause(AGAIN_S)

    def _blocks(self, seen: Seen, job: Job, world: World, ends_at: float) -> list[Block]:
        """What stands in the way on one GPU. A leftover of ours is ended at once."""
        if seen.trouble:
            return [Block(reason=seen.trouble, seen=seen)]
        of_ours = [self._ours(pid, seen, job, world, ends_at) for pid in seen.ours]
        if seen.others and world.policy.gpu.foreign == "respect":
            of_ours.append(Block(reason=seen.users, seen=seen))
        blocks = [block for block in of_ours if block is not None]
        return blocks or self._memory(seen, job)

    def _ours(self, pid: int, seen: Seen, job: Job, world: World, ends_at: float) -> Block | None:
        found = gpu_leftovers.find(pid, world, self._runs_dir)
        if found is None:
            return None
        if isinstance(found, Holder):
            return Block(reason=f"{seen.gpu.label} is used by pid {pid} {found.command}".rstrip(), seen=seen)
        if found.over:
            term_s = max(0.0, min(self._term_s, ends_at - time.monotonic()))
            ended = gpu_leftovers.end(found, term_s=term_s)
            words = "was still" if ended else "cannot be ended (it hangs in the kernel, or is another user's) and is"
            reason = f"{seen.gpu.label} is not free: {found.words}, which is over, {words} on it"
            return Block(reason=reason, seen=seen, passes=ended)
        if job.gpu.share and found.run.job.gpu.share:
            return None
        return Block(reason=f"{seen.gpu.label} is used by {found.words}", seen=seen, passes=True)

    def _memory(self, seen: Seen, job: Job) -> list[Block]:
        used, total, label = seen.bytes("memory_used_bytes"), seen.bytes("memory_total_bytes"), seen.gpu.label
        if used is None:
            return []  # the board does not tell: the training will
        loose = 0 if seen.ours else used - sum(one.used_bytes or 0 for one in seen.others)
        unknown = any(one.used_bytes is None for one in seen.others)
        if loose > LOOSE_BYTES and not unknown:
            reason = f"{label} has {format_size(loose)} of its memory in use, but no process is listed"
            return [Block(reason=reason, seen=seen, passes=True, stuck_bytes=loose)]
        free = (total or 0) - used
        if total is not None and free < job.gpu.memory_bytes:
            wanted = format_size(job.gpu.memory_bytes)
            return [
                Block(reason=f"{label} has {format_size(free)} of memory free, not {wanted}", seen=seen, passes=True)
            ]
        return []

    # ---- the answer
    def _refused(self, blocks: list[Block]) -> Admission:
        told: dict[str, events.Event] = {}
        for block in blocks:
            uuid = block.seen.gpu.uuid
            if block.seen.others:
                told[uuid] = events.GpuHeld(at=self._now(), origin="gate", gpu=uuid, holders=block.seen.others)
            elif block.stuck_bytes:
                told[uuid] = self._stuck(block.seen.gpu, block.reason, block.stuck_bytes)
        return Admission(reason="; ".join(block.reason for block in blocks), events=tuple(told.values()))

    def _stuck(self, gpu: Gpu, text: str, stuck_bytes: int, *, is_open: bool = True) -> events.GpuFound:
        values = {"bytes": float(stuck_bytes)} if is_open else {}
        return events.GpuFound(
            at=self._now(),
            origin="gate",
            gpu=gpu.uuid,
            finding=STUCK,
            source=SOURCE,
            text=text,
            open=is_open,
            values=values,
        )

    def _let_in(self, seen: list[Seen]) -> Admission:
        notes = []
        for one in seen:
            if one.bytes("persistence") == 0 and one.gpu.uuid not in self._told_persistence:
                self._told_persistence.add(one.gpu.uuid)
                notes.append(
                    f"{one.gpu.label}: persistence mode is off, so the driver lets go of it whenever it is idle"
                )
        over = [
            self._stuck(one.gpu, "its memory is free again", 0, is_open=False)
            for one in seen
            if any(finding.kind == STUCK for finding in one.gpu.findings.values())
        ]
        return Admission(notes=tuple(notes), events=tuple(over))

    # ---- the self-test
    def _tested(self, action: Prepare, admission: Admission) -> Admission:
        """Test every GPU for a few seconds. A test that could not be made is noted, and keeps nobody from training."""
        notes, world = [*admission.notes], self._world()
        for uuid in action.gpu_ids:
            label = gpu_look.known(world, uuid).label
            tested = self._tester.quick(uuid, action.job.python)
            if tested.ran and not tested.ok:
                reason = f"{label} failed its self-test: {tested.text}"
                return Admission(reason=reason, notes=tuple(notes), events=(*admission.events, tested))
            words = "passed its self-test" if tested.ran else "could not be tested"
            notes.append(f"{label} {words}: {tested.text}")
        return msgspec.structs.replace(admission, notes=tuple(notes))
