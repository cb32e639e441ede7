"""Leftovers on a GPU, as real processes: what is proven to be ours and over is ended, and nothing else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor import attempt_files, layout
from supervisor.core.actions import Prepare
from supervisor.core.model import Phase
from supervisor.effects.gpu_gate import GpuGate

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_eyes import GIB, UUID, FakeEyes, reading, run, world

pytestmark = pytest.mark.e2e

STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
)
PATIENT = "import time; print(1, flush=True); time.sleep(600)"
BELOW = "import subprocess, sys; child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); child.wait()"


class Machine:
    """A run directory with an attempt that has ended, and processes that it left on the GPU."""

    def __init__(self, runs_dir):
        self.runs_dir = runs_dir
        self.folder = layout.run_directory(runs_dir, "p", "truck").attempt(1).root
        self.folder.mkdir(parents=True)
        self.started = self.record()
        self.processes = []
        self.pauses = 0

    def record(self, **changed):
        """Write started.json of an attempt of this boot whose shim and trainer are gone."""
        gone = subprocess.Popen(["true"])
        gone.wait()
        boot_id, pid1 = attempt_files.boot_identity()
        started = attempt_files.Started(
            shim_pid=gone.pid, shim_start_time=1, pid=gone.pid, start_time=1, boot_id=boot_id, pid1_start_time=pid1, started_at=1.0
        )  # fmt: skip
        started = replace(started, **changed)
        attempt_files._write(self.folder, "started.json", started)
        return started

    def left(self, code=PATIENT, *words, attempt="1", folder=None, owner="truck@1"):
        """A process with the marker of the attempt; its pid, or that of its child where it prints one."""
        marker = (
            {}
            if not folder and folder is not None
            else {attempt_files.ATTEMPT_DIR_VARIABLE: str(folder or self.folder)}
        )
        env = {**os.environ, "YOLO_SUPERVISOR_RUN": owner, "YOLO_SUPERVISOR_ATTEMPT": attempt, **marker}
        process = subprocess.Popen([sys.executable, "-c", code, *words], env=env, stdout=subprocess.PIPE)
        self.processes.append(process)
        told = int(process.stdout.readline())
        return told if told > 1 else process.pid

    def ask(self, *pids, there=None, limit_s=0.0, share=False, term_s=5.0):
        """What the gate says of the second attempt, while those processes are on its GPU."""
        eyes = FakeEyes(reading(used=20 * GIB) if share else reading())
        eyes.ours[UUID] = lambda: tuple(pid for pid in pids if self.lives(pid))
        there = there or world(run(share=share))
        gate = GpuGate(eyes, lambda: there, self.runs_dir, lambda: 5.0, None, limit_s=limit_s, pause=self._pause, term_s=term_s)  # fmt: skip
        job = there.live["truck@1"].job
        return gate(
            Prepare(key="k", run="truck@1", attempt=2, token=7, job=job, scratch_allowed=True, gpu_ids=(UUID,), check_gpus=True)
        )  # fmt: skip

    def _pause(self, _seconds):
        self.pauses += 1

    def lives(self, pid):
        """True if it is there and no zombie."""
        ended = next((one for one in self.processes if one.pid == pid), None)
        return ended.poll() is None if ended else Path(f"/proc/{pid}").exists()

    def end(self):
        """Leave nothing behind."""
        for process in self.processes:
            for pid in attempt_files.descendants(process.pid, attempt_files.process_start_time(process.pid) or 0):
                os.kill(pid, 9)
            process.wait(30)
            process.stdout.close()


@pytest.fixture
def machine(tmp_path):
    """A machine with an ended attempt."""
    made = Machine(tmp_path / "runs")
    yield made
    made.end()


def test_a_leftover_of_an_attempt_that_is_over_is_ended(machine):
    """Asked to end by SIGTERM; the start goes on when it is gone. That is the proof that nothing of ours computes there."""
    pid = machine.left()
    assert machine.ask(pid, limit_s=20).reason == ""
    assert machine.pauses == 1
    assert machine.processes[0].wait(5) == -15


def test_a_leftover_that_does_not_listen_is_killed(machine):
    """SIGKILL follows; each process on its own."""
    pids = machine.left(STUBBORN), machine.left(PATIENT)
    assert machine.ask(*pids, limit_s=20, term_s=0.2).reason == ""
    assert [process.wait(5) for process in machine.processes] == [-9, -15]


def test_a_leftover_that_was_ended_is_told_where_no_time_is_left(machine):
    """The run waits until the next look, and it is said for what."""
    pid = machine.left()
    reason = machine.ask(pid, term_s=5.0).reason
    assert reason == f"GPU 3 is not free: pid {pid} of truck (attempt 1), which is over, was still on it"


def is_spared(machine, pid, **ask):
    """The gate refuses, names the process, and lets it live."""
    reason = machine.ask(pid, **ask).reason
    return f"pid {pid}" in reason and machine.lives(pid)


def test_a_process_of_a_living_attempt_is_never_ended(machine):
    """The run's own attempt that is not cleared, and the attempt of another run, found by its marker."""
    pid = machine.left()
    assert is_spared(machine, pid, there=world(run(attempt=1)))
    other = replace(run("car", attempt=1, phase=Phase.RUNNING), id="car@1")
    assert is_spared(machine, machine.left(owner="car@1"), there=world(run(), other))


def test_an_attempt_whose_shim_holds_its_lock_is_not_over(machine):
    """The lock is held: the shim is ending what is left itself."""
    pid = machine.left()
    with (machine.folder / "shim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_spared(machine, pid)


def test_an_attempt_whose_shim_lives_is_not_over(machine):
    """Somebody deleted the lock file: the shim's own process counts."""
    own = os.getpid()
    machine.record(shim_pid=own, shim_start_time=attempt_files.process_start_time(own))
    assert is_spared(machine, machine.left())


def test_a_process_below_any_shim_is_not_a_leftover(machine):
    """Whatever its environment says: that shim watches over it."""
    assert is_spared(machine, machine.left(BELOW, str(layout.SHIM)))


def test_what_cannot_be_proven_is_spared(machine):
    """Another boot's record, none at all, a damaged one, a watched training, another supervisor's run of that name."""
    pid = machine.left()
    machine.record(boot_id="another")
    assert is_spared(machine, pid)
    machine.record(watched=True)
    assert is_spared(machine, pid)
    (machine.folder / "started.json").write_bytes(b"{")
    assert is_spared(machine, pid)
    (machine.folder / "started.json").unlink()
    assert is_spared(machine, pid)
    machine.record()
    assert is_spared(machine, machine.left(folder="/elsewhere/runs/p/truck/attempts/1"))


def test_a_process_of_a_run_that_is_not_known_is_named_and_spared(machine):
    """A stranger's, or of a journal that was lost."""
    assert is_spared(machine, machine.left(owner="bus@1"))


def test_jobs_that_share_may_be_on_one_gpu(machine):
    """Both must want it: then the other's process is no hindrance, nor the memory that it has."""
    generous = replace(run("car", attempt=1, phase=Phase.RUNNING, share=True), id="car@1")
    greedy = replace(run("car", attempt=1, phase=Phase.RUNNING), id="car@1")
    pid = machine.left(owner="car@1")
    assert not machine.ask(pid, there=world(run(share=True), generous), share=True).reason
    assert "is used by" in machine.ask(pid, there=world(run(share=True), greedy)).reason
    assert "is used by" in machine.ask(pid, there=world(run(), generous)).reason
