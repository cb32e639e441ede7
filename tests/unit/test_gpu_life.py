"""The life of the probe where it cannot be ended, and where the kernel does not answer."""

from __future__ import annotations

import threading

import pytest

from supervisor.core.gpus.model import Gpu, GpuFacts
from supervisor.core.model import World
from supervisor.sources import gpu_life
from supervisor.sources.gpu_board import EVENTS, FIRST_GPU
from supervisor.sources.gpu_life import ProbeLife, Watching
from supervisor.sources.gpu_listing import Listing

KNOWN = Gpu(uuid="GPU-0", facts=GpuFacts(uuid="GPU-0", index=0))


class Child:
    """A probe as its life sees it, with what is on its board."""

    def __init__(self, *busy, ends=True):
        self.board = self
        self.left = frozenset()
        self.started_at = 0.0
        self._busy = list(busy)
        self._ends = ends

    def busy(self):
        """Who is in which call, since when, and whether it may be slow."""
        return self._busy

    def end(self):
        """Whether it could be ended."""
        return self._ends

    def ended(self):
        """Its exit code."""
        return 0 if self._ends else None

    def close(self):
        """Give nothing back."""


class Life:
    """A life of probes, and whom it left alone."""

    def __init__(self, environment=(), **watching):
        world = World(gpus={"GPU-0": KNOWN})
        self.silent = []
        self.states = []
        listing = Listing(lambda: world)
        listing.begin(1, "ok")
        self.life = ProbeLife(
            Watching(**watching), dict(environment), listing, lambda *told: self.states.append(told), lambda *told: self.silent.append(told)
        )  # fmt: skip


def test_a_probe_that_cannot_be_ended_for_a_treatment_is_told_as_stuck():
    """Nothing is released then: the GPU in whose call it hangs is left alone, and the others are watched on."""
    one = Life()
    one.life.child = Child((EVENTS, "nvmlEventSetWait", 0.0, True), (FIRST_GPU, "nvmlDeviceGetPowerUsage", 0.0, False), ends=False)  # fmt: skip
    assert not one.life.release(("GPU-0",))
    assert (one.life.stuck, one.life.left()) == (1, {0})
    one.life.resume(())
    assert (one.life.stuck, one.life.left()) == (1, {0})
    ((uuid, words),) = one.silent
    assert uuid == "GPU-0"
    assert "nvmlDeviceGetPowerUsage hangs" in words


def test_a_probe_that_hangs_in_no_gpu_keeps_the_driver_from_being_asked():
    """Opening or closing it: another probe would hang beside it."""
    one = Life()
    one.life.child = Child(ends=False)
    assert not one.life.release(("GPU-0",))
    assert [state for state, _ in one.states] == ["unresponsive"]
    assert one.life.stuck == 1


def test_a_probe_that_ends_is_released():
    """Nobody is left alone for it."""
    one = Life()
    one.life.child = Child()
    assert one.life.release(("GPU-0",))
    assert (one.life.stuck, one.life.left(), one.silent) == (0, set(), [])


@pytest.mark.parametrize("hangs", [True, False])
def test_a_kernel_that_does_not_answer_holds_nobody_up(monkeypatch, hangs):
    """Whether anything of NVIDIA is here is asked in passing: no answer means that there is something."""
    go_on = threading.Event()
    begun = []
    monkeypatch.setattr(gpu_life, "TRACES_S", 0.05 if hangs else 20.0)
    monkeypatch.setattr(gpu_life, "has_traces", lambda *_: hangs and go_on.wait(20))
    monkeypatch.setattr(gpu_life, "Child", lambda *_: begun.append(Child()) or begun[0])
    one = Life({"LD_LIBRARY_PATH": f"/case/{hangs}"})  # a question of its own: the one of the other case may be open
    one.life.turn(100.0)
    go_on.set()
    assert (len(begun), [state for state, _ in one.states]) == ((1, []) if hangs else (0, ["none"]))
