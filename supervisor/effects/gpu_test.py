"""Run the self-test of a GPU in a job's interpreter: the answer to TestGpu, and the short one before a start."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from supervisor import layout
from supervisor.core import events
from supervisor.core.actions import TestGpu
from supervisor.core.gpus import leases
from supervisor.core.model import World
from supervisor.core.variables import SYSTEM_PATH, passed_on
from supervisor.effects import gpu_look, short_child
from supervisor.effects.gpu_look import GpuEyes

TEST_S = 120.0  # half a minute for the test; an import of torch from a cold, slow disk takes up to a minute
QUICK_S = 90.0
_PASSED_ON = ("LD_LIBRARY_PATH",)
#: The steps, as runner/gpu_test.py names them, in which the GPU is not touched yet.
_BEFORE_THE_GPU = ("", "importing torch")
_STEP = re.compile(r"^step: (.*)$", re.MULTILINE)
_SIGNALS = {number.value: number.name for number in signal.Signals}
_EXIT_CODES = frozenset({0, 1, 3})


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What runner/gpu_test.py prints."""

    ok: bool
    ran: bool
    text: str
    device: str = ""
    version: int = 1


class GpuTester:
    """Carries out TestGpu. Testing a GPU twice does no harm."""

    def __init__(
        self,
        now: Callable[[], float],
        eyes: GpuEyes | None,
        world: Callable[[], World],
        *,
        script: Path = layout.GPU_TEST,
        environ: Mapping[str, str] = os.environ,
        test_s: float = TEST_S,
        quick_s: float = QUICK_S,
    ) -> None:
        """`now` stamps the answers. Without `eyes` nobody watches GPUs, and it is not looked who is on one."""
        self._now = now
        self._eyes = eyes
        self._world = world
        self._script = script
        self._environ = environ
        self._test_s = test_s
        self._quick_s = quick_s

    def __call__(self, action: TestGpu) -> tuple[events.Event, ...]:
        """Answer with GpuTested. A GPU that somebody uses, or that does not answer, is not tested."""
        hindrance = self._hindrance(action.gpu)
        if hindrance:
            return (self._told(action.gpu, Answer(ok=False, ran=False, text=hindrance)),)
        options = ["--memory-bytes", str(action.memory_bytes)] if action.memory_bytes else []
        return (self._told(action.gpu, self._answer(action.gpu, action.python, options, self._test_s)),)

    def quick(self, gpu: str, python: str) -> events.GpuTested:
        """Test a GPU for a few seconds, after somebody else has made sure that nobody uses it."""
        return self._told(gpu, self._answer(gpu, python, ["--quick"], self._quick_s))

    def _told(self, gpu: str, answer: Answer) -> events.GpuTested:
        return events.GpuTested(
            at=self._now(),
            origin="gpu-test",
            gpu=gpu,
            ok=answer.ok and answer.ran,
            ran=answer.ran,
            text=answer.text,
        )

    def _hindrance(self, gpu: str) -> str:
        """Why it may not be tested now."""
        world = self._world()
        using = next(iter(leases.on(world, gpu)), None)
        if using is not None:
            return f"{gpu_look.known(world, gpu).label} is given to {using.name}"
        if self._eyes is None:
            return ""
        (seen,) = gpu_look.see(self._eyes, world, (gpu,))
        unreadable = seen.trouble if seen.reading is None or seen.reading.error is not None else ""
        return unreadable or seen.users

    def _answer(self, gpu: str, python: str, options: list[str], limit_s: float) -> Answer:
        if not python:
            return Answer(ok=False, ran=False, text="no interpreter with torch is known")
        argv = [python, str(self._script), "--tied", "--uuid", gpu, *options]
        try:
            ended = short_child.run(argv, self._environment(gpu, python), limit_s, tied=True)
        except OSError as error:
            return Answer(ok=False, ran=False, text=f"{python} cannot be started: {error.strerror}")
        return _understood(ended, limit_s)

    def _environment(self, gpu: str, python: str) -> dict[str, str]:
        return {
            **passed_on(self._environ, _PASSED_ON),
            "PATH": f"{Path(python).parent}:{SYSTEM_PATH}",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": gpu,
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def _understood(ended: short_child.Ended, limit_s: float) -> Answer:
    """What a test told, or what its end says. Only one that had begun with the GPU says something about it."""
    answer = _printed(ended)
    if answer is not None and ended.code in _EXIT_CODES:
        return answer
    step = (_STEP.findall(ended.errors) or [""])[-1]
    began = step not in _BEFORE_THE_GPU
    at = f" while {step}" if step else ""
    if ended.late:
        left = "; it cannot be ended, and was left behind" if ended.code is None else ""
        return Answer(ok=False, ran=began, text=f"it did not end within {limit_s:.0f} s{at}{left}")
    last = (ended.errors.strip().splitlines() or [""])[-1][:300]
    if ended.code is not None and ended.code < 0:
        told = _SIGNALS.get(-ended.code, f"signal {-ended.code}")
        killed = ended.code in {-signal.SIGKILL, -signal.SIGTERM}  # by somebody, or for want of memory
        return Answer(ok=False, ran=began and not killed, text=f"it died of {told}{at}")
    return Answer(ok=False, ran=False, text=f"it ended with exit code {ended.code}{at}: {last}")


def _printed(ended: short_child.Ended) -> Answer | None:
    lines = ended.out.strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1] if lines else "", type=Answer)
    except msgspec.DecodeError:
        return None
