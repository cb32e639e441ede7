"""All about GPUs in one daemon, put together: who watches them, looks before a start, tests and resets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from supervisor import gpu_config, layout
from supervisor.attempt_files import process_start_time
from supervisor.clock import Clock, current_boot
from supervisor.config import Config
from supervisor.core import actions
from supervisor.core.actions import Prepare
from supervisor.core.events import Event, GpusSeen
from supervisor.core.gpus import readings
from supervisor.core.gpus.model import Gpu, Holder
from supervisor.core.gpus.readings import Reading
from supervisor.core.gpus.xids import same_bus
from supervisor.core.model import Attempt, World
from supervisor.effects.gpu_gate import Admission, GpuGate
from supervisor.effects.gpu_test import GpuTester
from supervisor.effects.gpu_treat import GpuTreater
from supervisor.machine.gpu_processes import GpuProcesses, Ours
from supervisor.sources.gpu_life import Watching
from supervisor.sources.gpus import GpuSource
from supervisor.sources.kernel_log import KernelLogSource

Handler = Callable[..., tuple[Event, ...]]


class GpuWatch:
    """The parts, and what the rest of the daemon asks of them."""

    def __init__(
        self,
        settings: Callable[[], Config],
        put: Callable[[Event], None],
        world: Callable[[], World],
        clock: Clock,
    ) -> None:
        """`settings` are the newest ones; how GPUs are watched is read once."""
        config = settings()
        self._settings = settings
        self._put = put
        self._world = world
        self._now = clock.now
        self._source = GpuSource(_watching(config.gpu), put, world, clock) if config.gpu.watch else None
        self._eyes = None if self._source is None else Eyes(self._source, world)
        self._kernel_log = self._followed(config) if config.gpu.kmsg else None
        runs_dir = config.server.runs_dir
        tester = GpuTester(clock.now, self._eyes, world)
        self._gate = GpuGate(self._eyes, world, runs_dir, clock.now, tester)
        self._handlers: dict[type[actions.Action], Handler] = {actions.TestGpu: tester, actions.TreatGpu: self._treat}
        record = layout.reboot_record(config.server.state_dir)
        self._treater = None
        if self._eyes is not None:
            self._treater = GpuTreater(self._eyes, world, self._command, record, clock.now)

    # ---- its life
    def start(self) -> None:
        """Begin to watch; without a watch say so, so that nobody waits for it."""
        if self._source is not None:
            self._source.start()
        else:
            self._put(GpusSeen(at=self._now(), origin="gpus", state="off", text="[gpu] watch = false"))
        if self._kernel_log is not None:
            self._kernel_log.start()

    def stop(self) -> None:
        """End the watching; nothing that hangs is waited for."""
        if self._kernel_log is not None:
            self._kernel_log.stop()
        if self._source is not None:
            self._source.stop()

    # ---- for the others
    @property
    def handlers(self) -> Mapping[type[actions.Action], Handler]:
        """Who carries out what is ordered for GPUs."""
        return self._handlers

    def admit(self, action: Prepare) -> Admission:
        """Look at an attempt's GPUs before it starts."""
        return self._gate(action)

    def readings(self) -> Mapping[str, Reading]:
        """The newest reading of each GPU, by UUID."""
        return self._source.readings() if self._source is not None else {}

    def kernel_state(self) -> str:
        """How the kernel log is followed, in words."""
        if self._kernel_log is None:
            return "not followed: [gpu] kmsg is empty"
        return self._kernel_log.state.words(self._now())

    # ---- parts
    def _followed(self, config: Config) -> KernelLogSource:
        source, kmsg = self._source, Path(config.gpu.kmsg)
        owners = Owners(self._world, source, self._now, same_numbers=same_numbers(kmsg))
        return KernelLogSource(
            kmsg,
            self._put,
            self._world,
            self._now,
            whose=owners.whose,
            uuid_of=self._uuid_of,
            look_now=source.look_now if source is not None else _nothing,
            leave_alone=source.leave_alone if source is not None else _nothing,
            place_file=layout.kernel_place(config.server.state_dir),
        )

    def _uuid_of(self, bus_id: str) -> str:
        gpus = self._world().gpus.values()
        return next((gpu.uuid for gpu in gpus if same_bus(gpu.facts.bus_id, bus_id)), "")

    def _treat(self, action: actions.TreatGpu) -> tuple[Event, ...]:
        if self._treater is None:
            raise RuntimeError("nobody watches GPUs, so none is treated")
        return self._treater(action)

    def _command(self, what: str, gpu: Gpu) -> Sequence[str]:
        config = self._settings().gpu
        words = {"reset": config.reset_command, "reboot": config.reboot_command}[what]
        return gpu_config.command(words, uuid=gpu.uuid, index=gpu.index, bus_id=gpu.facts.bus_id)


def _nothing(_uuid: str) -> None:
    """Nobody watches GPUs."""


def _watching(config: gpu_config.Gpu) -> Watching:
    """How often and where to look; a deadline is three rounds of the fast tier (facts of NVML: calls may hang)."""
    return Watching(
        fast_s=config.fast,
        slow_s=config.slow,
        fast_deadline_s=max(2.0, 3 * config.fast),
        slow_deadline_s=max(6.0, 9 * config.fast),
        again_s=max(2.0, config.slow),
        pci=config.pci,
        limits=partial(gpu_config.thresholds, config),
    )


def _is_ours(found: Ours | Holder | None) -> bool:
    """True for a process of an attempt of ours; a training that is only watched is none."""
    return isinstance(found, Ours) and not found.watched


class Eyes:
    """The source as the effects see it: see effects.gpu_treat.GpuControl."""

    def __init__(self, source: GpuSource, world: Callable[[], World]) -> None:
        """`source` watches, `world` tells whose processes are."""
        self._source = source
        self._processes = partial(GpuProcesses, world)

    def look(self, gpus: Sequence[str], timeout_s: float, /) -> Mapping[str, Reading]:
        """Read those GPUs anew; one that did not answer within the time is not in the answer."""
        ends_at = time.monotonic() + timeout_s
        for uuid in gpus[1:]:
            self._source.look_now(uuid)
        found = ((uuid, self._source.ask(uuid, max(0.1, ends_at - time.monotonic()))) for uuid in gpus)
        return {uuid: reading for uuid, reading in found if reading is not None}

    def holders(self, gpu: str, /) -> tuple[tuple[int, ...], tuple[Holder, ...]]:
        """Who is on a GPU: pids of our trainings, and everybody else."""
        whose, on_it = self._processes(), self._source.processes(gpu)
        ours = tuple(pid for pid, _ in on_it if _is_ours(whose.whose(pid)))
        return ours, whose.holders(on_it)

    def graphics(self, gpu: str, /) -> tuple[tuple[int, int | None], ...]:
        """Who only draws on a GPU."""
        return self._source.graphics(gpu)

    def release(self, gpus: Sequence[str], /) -> bool:
        """Close NVML; False if it hangs in the driver."""
        return self._source.release(tuple(gpus))

    def resume(self) -> None:
        """Watch again."""
        self._source.resume()

    def power_limits(self, gpu: str, timeout_s: float, /) -> tuple[float, float] | None:
        """Watts that a GPU may draw now, and by default; None where the driver does not tell."""
        reading = self.look((gpu,), timeout_s).get(gpu)
        if reading is None:
            return None
        now_w, default_w = (readings.number(reading, name) for name in ("power_limit_w", "power_default_w"))
        return None if now_w is None or default_w is None else (now_w, default_w)

    def set_power(self, gpu: str, watts: float | None, /) -> str:
        """Limit a GPU's power, None: to the board's default. Why it was not done; empty if it was."""
        ok, text = self._source.set_power(gpu, watts)
        return "" if ok else text


#: Linux (include/linux/proc_ns.h): PROC_PID_INIT_INO, where processes have the numbers that the kernel log tells.
INITIAL_NAMESPACE = 0xEFFFFFFC
NAMESPACE = Path("/proc/self/ns/pid")
KNOWN_S = 600.0  # a line may come so long after the end of the process; numbers are given again
CLOCKS_S = 2.0  # the clocks of kernel and system are two


def same_numbers(kmsg: Path, namespace: Path = NAMESPACE) -> bool:
    """Whether the kernel log's process numbers are ours. Not in a container, but a FIFO is written by its like."""
    try:
        return kmsg.is_fifo() or namespace.stat().st_ino == INITIAL_NAMESPACE
    except OSError:
        return False


class Owners:
    """Whose a process is, or was: a line of the kernel log often comes when it is gone."""

    def __init__(
        self,
        world: Callable[[], World],
        source: GpuSource | None,
        now: Callable[[], float],
        *,
        same_numbers: bool = True,
    ) -> None:
        """`source` remembers who was on a GPU; without `same_numbers` the log's process numbers name nobody here."""
        self._world = world
        self._source = source
        self._now = now
        self._same_numbers = same_numbers
        self._processes = GpuProcesses(world)
        self._boot_id = current_boot().boot_id

    def whose(self, pid: int, at: float) -> tuple[str, int]:
        """Run and attempt of the process that had this number at that time (Unix seconds); ("", 0): none of ours."""
        if not self._same_numbers or not pid:
            return "", 0
        began_at = self._began_at(pid)
        found = self._asked(pid) if began_at is None or began_at <= at + CLOCKS_S else None
        if found is None:
            return self._by_attempt(pid, at)
        return (found.run, found.attempt) if isinstance(found, Ours) else ("", 0)

    def _asked(self, pid: int) -> Ours | Holder | None:
        found = self._processes.whose(pid)
        return self._source.owner(pid) if found is None and self._source is not None else found

    def _began_at(self, pid: int) -> float | None:
        start = process_start_time(pid)
        if start is None:
            return None
        return self._now() - time.clock_gettime(time.CLOCK_BOOTTIME) + start / os.sysconf("SC_CLK_TCK")

    def _by_attempt(self, pid: int, at: float) -> tuple[str, int]:
        world = self._world()
        for run in (*world.live.values(), *world.ended.values()):
            if run.attempt is not None and run.attempt.pid == pid and self._was_there(run.attempt, at):
                return run.id, run.attempt.number
        return "", 0

    def _was_there(self, attempt: Attempt, at: float) -> bool:
        if attempt.boot.boot_id != self._boot_id or attempt.started_at is None:
            return False
        over_at = at if attempt.ended_at is None else attempt.ended_at
        return attempt.started_at - CLOCKS_S <= at <= over_at + KNOWN_S
