"""The gate before a start, with the real probe under a fake driver, and real processes on its GPUs."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor.clock import WallClock
from supervisor.core.actions import Prepare
from supervisor.core.events import GpuHeld
from supervisor.core.gpus.model import GpuPolicy
from supervisor.core.model import Policy, World
from supervisor.core.step import step
from supervisor.effects.gpu_gate import STUCK, GpuGate
from supervisor.gpu_watch import Eyes
from supervisor.sources.gpu_life import Watching
from supervisor.sources.gpus import GpuSource
from tests.fake_nvml.room import LOST, FakeDriver

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_eyes import GIB, run

pytestmark = pytest.mark.e2e
WAIT_S = 20.0


class Server:
    """A fake driver, the probe that watches it, a gate, and the world that follows from what they tell."""

    def __init__(self, folder):
        self.driver = FakeDriver(folder / "room", count=2)
        self.world = World(policy=Policy(gpu=GpuPolicy(watch=True)))
        self.changed = threading.Condition()
        clock = WallClock()
        watching = Watching(
            fast_s=0.5, slow_s=1.0, fast_deadline_s=1.0, slow_deadline_s=1.5, again_s=0.2, backoff_s=0.1,
            pci=self.driver.pci, driver=self.driver.directory / "no-driver",
        )  # fmt: skip
        environment = {**os.environ, **self.driver.environment}
        self.source = GpuSource(watching, self.put, lambda: self.world, clock, environment)
        self.gate = GpuGate(Eyes(self.source, lambda: self.world), lambda: self.world, folder / "runs", clock.now, None, limit_s=1.0)  # fmt: skip
        self.source.start()
        self.wait_until(lambda: len(self.source.readings()) == 2 and len(self.world.gpus) == 2)

    def wait_until(self, what):
        """Wait until something is so; a reading alone is no event."""
        ends_at = time.monotonic() + WAIT_S
        with self.changed:
            while not what():
                assert time.monotonic() < ends_at
                self.changed.wait(0.05)

    def put(self, event):
        """Let it happen."""
        with self.changed:
            self.world = step(self.world, event, event.at)[0]
            self.changed.notify_all()

    def ask(self, *gpus):
        """What the gate says to a run that is to get these GPUs; its events happen."""
        uuids = tuple(self.driver.uuid(gpu) for gpu in gpus)
        one = run(gpus=uuids)
        action = Prepare(key="k", run=one.id, attempt=2, token=7, job=one.job, scratch_allowed=True, gpu_ids=uuids, check_gpus=True)  # fmt: skip
        admission = self.gate(action)
        for event in admission.events:
            self.put(event)
        return admission

    def gpu(self, index):
        """What the world knows of a GPU."""
        return self.world.gpus[self.driver.uuid(index)]

    def close(self):
        """End all of it."""
        self.source.stop()
        self.driver.close()


@pytest.fixture
def server(tmp_path):
    """Two healthy GPUs."""
    made = Server(tmp_path)
    yield made
    made.close()


def test_free_gpus_are_given_and_a_stranger_is_waited_for(server):
    """A process of somebody else appears between two rounds of the probe: the fresh look sees it, by name and size."""
    assert server.ask(0, 1).reason == ""
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        server.driver.process(1, stranger.pid, 18 * GIB)
        admission = server.ask(0, 1)
        assert admission.reason == f"GPU 1: pid {stranger.pid} of {getpass.getuser()} holds 18 GiB"
        assert [type(event) for event in admission.events] == [GpuHeld]
        assert server.gpu(1).holders[0].pid == stranger.pid
        assert server.ask(0).reason == ""
    finally:
        stranger.kill()
        stranger.wait()
    server.driver.end_process(1, stranger.pid)
    assert server.ask(0, 1).reason == ""
    server.wait_until(lambda: not server.gpu(1).holders)  # or nobody would ever be let in again


def test_a_lost_gpu_and_one_that_hangs_keep_their_run_out(server):
    """One answers with an error, one not at all; the gate waits for neither longer than its look, and the healthy one is given."""
    server.driver.lose(0, LOST)
    assert server.ask(0).reason == "GPU 0 is lost"
    began = time.monotonic()
    server.driver.hang(1)
    assert "GPU 1 does not answer" in server.ask(1).reason
    assert time.monotonic() - began < 8
    server.driver.heal(1)


def test_what_the_driver_wants_done_comes_first(server):
    """Its recovery action, asked for just now."""
    server.driver.recovery(0, 1)
    assert server.ask(0).reason == "GPU 0 must be reset, says the driver"
    assert server.ask(1).reason == ""


def test_lost_memory_is_found_and_forgotten(server):
    """Memory in use without a process: after the limit a finding; free again: over, and the run is let in."""
    before = server.driver.boards[0]["memory_used"]
    server.driver.set(0, memory_used=int(before) + 30 * GIB)
    assert "of its memory is in use, but no process is listed" in server.ask(0).reason
    assert [finding.kind for finding in server.gpu(0).findings.values()] == [STUCK]
    server.driver.set(0, memory_used=before)
    assert server.ask(0).reason == ""
    assert not server.gpu(0).findings


def test_a_gpu_with_a_desktop_is_given(server):
    """What only draws is asked for apart: neither a stranger who holds the GPU nor memory that got lost."""
    desktop = subprocess.Popen(["sleep", "600"])
    try:
        server.driver.process(0, desktop.pid, 3 * GIB, kind="graphics")
        admission = server.ask(0)
        assert (admission.reason, admission.notes, admission.events) == ("", (), ())
        assert not server.gpu(0).holders
        assert server.source.readings()[server.driver.uuid(0)].values["processes"] == 1
    finally:
        desktop.kill()
        desktop.wait()


def test_another_policy_holds_at_once(server):
    """With foreign = "ignore" after a reload the stranger is no hindrance."""
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        server.driver.process(0, stranger.pid, GIB)
        assert server.ask(0).reason
        server.world = replace(server.world, policy=Policy(gpu=GpuPolicy(watch=True, foreign="ignore")))
        assert server.ask(0).reason == ""
    finally:
        stranger.kill()
        stranger.wait()
