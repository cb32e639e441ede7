"""The look at its GPUs before an attempt starts: they answer, nothing is pending, and they are really free.

What stands in the way is told in words, and the run is queued again. Only our own leftovers are ended. Memory that is
being given back is waited for, not longer than LIMIT_S. Memory that nobody explains keeps out only whom it leaves too
little.
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
SETTLE_S = 5.0  # a driver gives the memory of a process back within seconds of its end
#: More than this in use with no process listed is memory that somebody lost: half a GiB, beyond the other half that a
#: driver may keep for itself (older calls of NVML count that as used).
LOOSE_BYTES = 1024**3
FREE_SHARE = 0.5  # of the memory: so much of it must be free for a job that does not say what it needs
STUCK = "stuck-memory"  # of core.gpus.findings
SOURCE = "gate"  # not "nvml": what the judge of readings found, it takes back itself


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says. `reason`: why the attempt may not start now, empty if it may. `events` go before the answer.

    `busy`: which GPUs (UUIDs) are in the way, and what follows the name of each in a sentence.
    """

    reason: str = ""
    busy: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    events: tuple[events.Event, ...] = ()


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the way on one GPU; `reason` begins with its label. `passes`: it may be over within seconds."""

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
        began = time.monotonic()
        ends_at, settled_at = began + self._limit_s, began + min(self._limit_s, SETTLE_S)
        while True:
            world = self._world()
            seen = gpu_look.see(eyes, world, action.gpu_ids)
            blocks = [block for one in seen for block in self._blocks(one, action.job, world, ends_at)]
            now, settles = time.monotonic(), any(one.loose_bytes > LOOSE_BYTES for one in seen)
            if not blocks and (not settles or now >= settled_at):
                return self._let_in(seen)
            if blocks and (not all(block.passes for block in blocks) or now >= ends_at):
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
        if used is None or total is None:
            return []  # the board does not tell: the training will
        stuck = seen.loose_bytes if seen.loose_bytes > LOOSE_BYTES else 0
        wanted = job.gpu.memory_bytes or (total * FREE_SHARE if stuck else 0)
        if total - used >= wanted:
            return []
        reason = f"{label} has {format_size(total - used)} of memory free, not {format_size(int(wanted))}"
        if stuck:
            reason += f"; {_stuck_words(stuck)}"
        return [Block(reason=reason, seen=seen, passes=True, stuck_bytes=stuck)]

    # ---- the answer
    def _refused(self, blocks: list[Block]) -> Admission:
        told: dict[str, events.Event] = {}
        for block in blocks:
            uuid = block.seen.gpu.uuid
            if block.seen.others:
                told[uuid] = events.GpuHeld(at=self._now(), origin="gate", gpu=uuid, holders=block.seen.others)
            elif block.stuck_bytes:
                told[uuid] = self._stuck(block.seen)
        reason = "; ".join(block.reason for block in blocks)
        return Admission(reason=reason, busy=_busy(blocks), events=tuple(told.values()))

    def _stuck(self, seen: Seen) -> events.GpuFound:
        """Memory is in use that nobody explains, or no longer."""
        is_open = seen.loose_bytes > LOOSE_BYTES
        return events.GpuFound(
            at=self._now(),
            origin="gate",
            gpu=seen.gpu.uuid,
            finding=STUCK,
            source=SOURCE,
            text=_stuck_words(seen.loose_bytes) if is_open else "its memory is free again",
            open=is_open,
            values={"bytes": float(seen.loose_bytes)} if is_open else {},
        )

    def _let_in(self, seen: list[Seen]) -> Admission:
        notes = [f"{one.gpu.label}: {_stuck_words(one.loose_bytes)}" for one in seen if one.loose_bytes > LOOSE_BYTES]
        for one in seen:
            if one.bytes("persistence") == 0 and one.gpu.uuid not in self._told_persistence:
                self._told_persistence.add(one.gpu.uuid)
                notes.append(
                    f"{one.gpu.label}: persistence mode is off, so the driver lets go of it whenever it is idle"
                )
        news = [self._stuck(one) for one in seen if one.loose_bytes > LOOSE_BYTES or _is_stuck(one.gpu)]
        return Admission(notes=tuple(notes), events=tuple(news))

    # ---- the self-test
    def _tested(self, action: Prepare, admission: Admission) -> Admission:
        """Test every GPU for a few seconds. A test that could not be made is noted, and keeps nobody from training."""
        notes, world = [*admission.notes], self._world()
        for uuid in action.gpu_ids:
            label = gpu_look.known(world, uuid).label
            tested = self._tester.quick(uuid, action.job.python)
            if tested.ran and not tested.ok:
                why = f"failed its self-test: {tested.text}"
                told = (*admission.events, tested)
                return Admission(reason=f"{label} {why}", busy={uuid: why}, notes=tuple(notes), events=told)
            words = "passed its self-test" if tested.ran else "could not be tested"
            notes.append(f"{label} {words}: {tested.text}")
        return msgspec.structs.replace(admission, notes=tuple(notes))


def _busy(blocks: list[Block]) -> dict[str, str]:
    """What is in the way on each GPU, without its label."""
    told: dict[str, list[str]] = {}
    for block in blocks:
        gpu = block.seen.gpu
        told.setdefault(gpu.uuid, []).append(block.reason.removeprefix(gpu.label).lstrip(": "))
    return {uuid: "; ".join(words) for uuid, words in told.items()}


def _stuck_words(loose_bytes: int) -> str:
    return f"{format_size(loose_bytes)} of its memory is in use, but no process is listed that has it"


def _is_stuck(gpu: Gpu) -> bool:
    return any(finding.kind == STUCK for finding in gpu.findings.values())
