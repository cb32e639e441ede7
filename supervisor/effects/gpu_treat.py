"""Reset a GPU, restart the machine or limit a GPU's power: the answer to TreatGpu.

Nothing is executed but the words that the administrator configured, without a shell.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from supervisor import durable
from supervisor.clock import current_boot, uptime_s
from supervisor.core import events
from supervisor.core.actions import TreatGpu
from supervisor.core.gpus import leases
from supervisor.core.gpus.model import Gpu
from supervisor.core.model import Boot, World
from supervisor.core.variables import SYSTEM_PATH, passed_on
from supervisor.effects import gpu_look, short_child
from supervisor.effects.gpu_look import GpuEyes
from supervisor.errors import PermanentError, RetryableError

COMMAND_S = 120.0  # a reset takes seconds, of eight GPUs behind one NVSwitch about a minute
POWER_S = 10.0
SAME_W = 1.0  # drivers round
AGAIN_S = 60.0
_TOLD = 500  # characters of what a command printed


class GpuControl(GpuEyes, Protocol):
    """Who watches the GPUs, and can let go of them."""

    def release(self, gpus: Sequence[str], /) -> bool:
        """Give those GPUs (UUIDs) up; False if something of ours hangs and has them open still."""
        ...

    def resume(self) -> None:
        """Watch again what was given up. Harmless if nothing was."""
        ...

    def power_limits(self, gpu: str, timeout_s: float, /) -> tuple[float, float] | None:
        """Watts that a GPU may draw now, and by default; None where the driver does not tell."""
        ...

    def set_power(self, gpu: str, watts: float | None, /) -> str:
        """Limit a GPU's power, None: to the board's default. Why it was not done; empty if it was."""
        ...


class Rebooting(msgspec.Struct, frozen=True, kw_only=True):
    """A restart of the machine that was begun: by which order, and in which boot."""

    key: str
    boot: Boot
    version: int = 1


class GpuTreater:
    """Carries out TreatGpu."""

    def __init__(
        self,
        control: GpuControl,
        world: Callable[[], World],
        command: Callable[[str, Gpu], Sequence[str]],
        record: Path,
        now: Callable[[], float],
        *,
        environ: Mapping[str, str] = os.environ,
        limit_s: float = COMMAND_S,
        boot: Callable[[], Boot] = current_boot,
        uptime_s: Callable[[], float] = uptime_s,
    ) -> None:
        """`command` gives the configured words for "reset" and "reboot", none if that may not be done.

        `record` is the file where a restart is noted before it is begun: the same order restarts no machine twice.
        """
        self._control = control
        self._world = world
        self._command = command
        self._record = record
        self._now = now
        self._environ = environ
        self._limit_s = limit_s
        self._boot = boot
        self._uptime_s = uptime_s
        self._one_at_a_time = threading.Lock()

    def __call__(self, action: TreatGpu) -> tuple[events.Event, ...]:
        """Answer with GpuTreated. Raises RetryableError while somebody uses what is to be reset."""
        gpu = gpu_look.known(self._world(), action.gpu)
        if action.what == "power":
            return (self._power(action),)
        if action.what == "reset":
            return (self._reset(action, gpu),)
        if action.what == "reboot":
            return (self._reboot(action, gpu),)
        raise PermanentError(f"nobody knows how to {action.what} a GPU")

    def _told(self, action: TreatGpu, ok: bool, text: str) -> events.GpuTreated:
        return events.GpuTreated(at=self._now(), origin="gpu-treat", gpu=action.gpu, what=action.what, ok=ok, text=text)

    def _nothing(self, action: TreatGpu, text: str) -> events.GpuTreated:
        return msgspec.structs.replace(self._told(action, ok=True, text=text), what="nothing")

    # ---- reset
    def _reset(self, action: TreatGpu, gpu: Gpu) -> events.GpuTreated:
        if gpu.quarantine is None:  # it waited until the GPU was idle, and somebody released it meanwhile
            return self._nothing(action, "it was not reset: it is out of quarantine")
        words = self._command("reset", gpu)
        if not words:
            return self._told(action, ok=False, text="no reset_command is configured")
        users = self._users(gpu)
        if users:
            raise RetryableError(f"{gpu.label} is not reset while it is used: {users}", AGAIN_S)
        if not self._one_at_a_time.acquire(
            blocking=False
        ):  # what is resumed after one reset may be given up for another
            raise RetryableError("another GPU is being reset", 5.0)
        try:
            if not self._control.release((gpu.uuid,)):
                raise RetryableError("the process that watches the GPUs hangs in the driver", AGAIN_S)
            ok, text = self._executed(words)
        finally:
            self._control.resume()
            self._one_at_a_time.release()
        return self._told(action, ok, text)

    # ---- power
    def _power(self, action: TreatGpu) -> events.GpuTreated:
        if action.share >= 1:
            return self._limited(action, action.watts or None)
        limits = self._control.power_limits(action.gpu, POWER_S)
        if limits is None:
            text = "the driver does not tell the power limits"
            return msgspec.structs.replace(self._told(action, ok=False, text=text), share=action.share)
        now_w, default_w = limits
        wanted_w = action.share * default_w
        ours = abs(now_w - wanted_w) < SAME_W  # set already, before a restart of the daemon: what was before is unknown
        told = self._limited(action, min(now_w, wanted_w))  # an administrator may have set a lower limit
        return msgspec.structs.replace(told, watts=0.0 if ours else now_w)

    def _limited(self, action: TreatGpu, watts: float | None) -> events.GpuTreated:
        problem = self._control.set_power(action.gpu, watts)
        words = f"limited to {watts:.0f} W" if watts else "the board's default power limit"
        return msgspec.structs.replace(self._told(action, not problem, problem or words), share=action.share)

    def _users(self, gpu: Gpu) -> str:
        """Who uses it just now.

        A GPU that cannot be read, which is mostly why it is to be reset, has no list: then only our own runs are known,
        and it is `nvidia-smi --gpu-reset` itself that refuses where somebody has the GPU open.
        """
        world = self._world()
        using = [run.name for run in leases.on(world, gpu.uuid)]
        if using:
            return f"{using[0]} has it"
        (seen,) = gpu_look.see(self._control, world, (gpu.uuid,))
        return seen.users

    # ---- reboot
    def _reboot(self, action: TreatGpu, gpu: Gpu) -> events.GpuTreated:
        """The order outlives the restart that it leads to: after it, it is answered and not carried out again."""
        begun, boot = self._begun(), self._boot()
        if begun is not None and begun.key == action.key and begun.boot != boot:
            return self._told(action, ok=True, text="the machine was restarted")
        quarantine = gpu.quarantine  # the order waited until nothing ran, and it may be met or lifted meanwhile
        if quarantine is None or quarantine.needs != "reboot" or quarantine.met:
            return self._nothing(action, "the machine was not restarted: the GPU does not need it any more")
        if (quarantine.needed_since or quarantine.since) < self._now() - self._uptime_s():
            return self._nothing(action, "the machine was restarted since that was ordered")
        words = self._command("reboot", gpu)
        if not words:
            return self._told(action, ok=False, text="no reboot_command is configured")
        busy = next((run.name for run in self._world().live.values() if run.busy), "")
        if busy:
            raise RetryableError(f"the machine is not restarted while {busy} runs", AGAIN_S)
        durable.write(self._record, msgspec.json.encode(Rebooting(key=action.key, boot=boot)))
        return self._told(action, *self._executed(words))

    def _begun(self) -> Rebooting | None:
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=Rebooting)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:  # better no restart than one after the other
            raise PermanentError(f"{self._record} cannot be read: {error}") from error

    # ---- commands
    def _executed(self, words: Sequence[str]) -> tuple[bool, str]:
        """Run configured words; whether they succeeded, and what was said."""
        env = {**passed_on(self._environ, ()), "PATH": SYSTEM_PATH}
        shown = " ".join(words)
        try:
            ended = short_child.run(words, env, self._limit_s)
        except OSError as error:
            return False, f"`{shown}` cannot be started: {error.strerror}"
        said = " ".join(f"{ended.out}\n{ended.errors}".split())[-_TOLD:]
        if ended.late:
            return False, f"`{shown}` did not end within {self._limit_s:.0f} s{': ' if said else ''}{said}"
        how = "" if ended.code == 0 else f"ended with {ended.code}"
        return ended.code == 0, ": ".join(filter(None, (f"`{shown}`", how, said)))
