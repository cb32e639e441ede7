"""Hangs of real processes: stopped, blocked in a FIFO, spinning; and a real daemon that tells of them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import msgspec
import pytest
from daemon_harness import needs, site, until

from supervisor import attempt_files
from supervisor.attempt_files import Started
from supervisor.core.diagnosis import cadence
from supervisor.core.diagnosis.cadence import Cadence
from supervisor.core.model import Attempt, Job, Phase, Run, World
from supervisor.hang_config import Hang
from supervisor.layout import run_directory
from supervisor.machine.stacks import comparable, python_stacks
from supervisor.sources.course import Live
from supervisor.sources.hangs import HangSource
from supervisor.sources.process_tree import ProcessTable
from supervisor.sources.train_log import Board

pytestmark = pytest.mark.e2e

LOADER = """
import os, sys
read, write = os.pipe()
if os.fork() == 0:
    os.close(read)
    with open(sys.argv[1], "rb") as image:  # a FIFO that nobody writes: an image on a disk that does not answer
        os.write(write, image.read())
    os._exit(0)
os.close(write)
print("waiting", flush=True)
os.read(read, 1)
"""
SPIN = """
print("spinning", flush=True)
while True: pass
"""


class Trainer:
    """A real process in the place of a trainer, a source that looks at it, and a clock that a test moves."""

    def __init__(self, tmp_path, program, *arguments):
        self.directory = run_directory(tmp_path / "runs", "default", "truck")
        files = self.directory.attempt(1)
        files.root.mkdir(parents=True)
        self.log = files.log
        self.pid = self._start([sys.executable, "-c", program, *arguments])
        self._record(files)
        self._learn()
        self.time_s, self.told, self.board = 0.0, [], Board()
        self.board.show("truck@1", Live(phase="train", epoch=1, batch=1))
        job = Job(name="truck", revision="r", train={"epochs": 9})
        run = Run(
            id="truck@1",
            job=job,
            phase=Phase.RUNNING,
            created_at=0.0,
            phase_since=0.0,
            attempt=Attempt(number=1, token=1, started_at=1.0),
        )
        self.source = HangSource(
            Hang(),
            self.told.append,
            lambda: World(live={run.id: run}),
            tmp_path / "runs",
            self,
            board=self.board,
            stacks=self.stacks,
            monotonic=self.now,
        )
        self.stacks_of: Callable[[int, float], str | None] = python_stacks
        until(lambda: self.log.stat().st_size > 0, "the trainer has begun")

    def _start(self, words):
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        pid = os.posix_spawn(
            words[0], words, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, log, 1)], setsid=True
        )
        os.close(log)
        return pid

    def _record(self, files):
        boot_id, pid1 = attempt_files.boot_identity()
        who = {"pid": self.pid, "start_time": attempt_files.process_start_time(self.pid)}
        shim = {"shim_pid": 2**22, "shim_start_time": 0}
        record = Started(**who, **shim, boot_id=boot_id, pid1_start_time=pid1, started_at=1.0)
        files.started.write_bytes(msgspec.json.encode(record))
        files.beats.write_text("{}\n")

    def _learn(self):
        known = Cadence()
        for _ in range(100):
            known = known.with_gap("train", 1.0)
        self.directory.cadence.write_bytes(cadence.encode(known))

    def now(self):
        """The detector's clock, and the wall's."""
        return self.time_s

    def stacks(self, pid, timeout_s):
        """See stacks.python_stacks."""
        return self.stacks_of(pid, timeout_s)

    def look(self, times=1):
        """Look; ten seconds of the detector's clock pass for each look. The verdicts so far."""
        for _ in range(times):
            self.time_s += 10.0
            self.source.look()
        return [(event.verdict, event.cause) for event in self.told]

    def signal(self, number):
        """Signal the process and wait until the kernel shows it."""
        os.kill(self.pid, number)
        stopped = number == signal.SIGSTOP
        until(lambda: (ProcessTable.read().by_pid[self.pid].state == "T") is stopped, "the signal has an effect")

    def close(self):
        """End the process and its children."""
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def begin(tmp_path):
    """Start a trainer; it is ended after the test."""
    made = []

    def start(program, *arguments):
        made.append(Trainer(tmp_path, program, *arguments))
        return made[-1]

    yield start
    for trainer in made:
        trainer.close()


def test_a_process_that_was_stopped_is_told(begin, tmp_path):
    """A real SIGSTOP: the verdict is stopped, with the pid, and after SIGCONT that it goes on."""
    trainer = begin(SPIN)
    trainer.look(2)
    trainer.signal(signal.SIGSTOP)
    assert trainer.look(20) == [("stopped", "hang")]
    assert f"the training (pid {trainer.pid}) is stopped by a signal (SIGSTOP)" in trainer.told[0].text
    trainer.signal(signal.SIGCONT)
    assert [verdict for verdict, _ in trainer.look(1)] == ["stopped", "moving"]


def test_a_loader_that_reads_a_fifo_hangs(begin, tmp_path):
    """A worker blocked in a FIFO, and the main process that waits for it in a pipe: hung, and the loader is named."""
    fifo = tmp_path / "img_0412.jpg"
    os.mkfifo(fifo)
    trainer = begin(LOADER, str(fifo))
    until(
        lambda: len(ProcessTable.read().tree(attempt_files.read_started(trainer.log.parent))) == 2,
        "the worker is there",
    )
    trainer.stacks_of = lambda *_: None
    assert set(trainer.look(40)) == {("hung", "hang-loader")}
    assert trainer.told[0].signs == ("quiet", "still")


def test_real_stacks_of_a_spin_are_the_same(begin):
    """Two dumps of a process that computes for ever in one place are equal, once they are made comparable."""
    trainer = begin(SPIN)
    needs(python_stacks(trainer.pid, 10.0) is not None, "py-spy, and the right to use it")
    one, other = (python_stacks(trainer.pid, 10.0) for _ in range(2))
    assert one is not None
    assert other is not None
    assert "<module>" in one
    assert comparable(one) == comparable(other) != ""


@pytest.fixture
def quick():
    """A daemon that looks every second."""
    with site(hang={"every": "1s"}) as made:
        yield made.start()


def verdicts(server, name):
    """What the hang detector told of the first run of a name, from the journal."""
    return [row.body for row in server.history(f"{name}@1", "HangSeen")]


@pytest.mark.slow
def test_a_daemon_tells_of_a_training_that_hangs(quick):
    """A toy that stops in its second epoch, with a limit of four seconds: the journal has the verdict once."""
    quick.toy("toy", "--hang-after 2.2 --fault-once", epochs=3, restart={"hang_after": "4s"})
    (told,) = until(lambda: verdicts(quick, "toy"), "the hang is seen")
    assert (told["verdict"], told["attempt"]) == ("hung", 1)
    assert set(told["signs"]) >= {"quiet", "hang_after"}
    assert told["quiet_s"] >= 4
    assert "restart.hang_after allows 4 s" in told["text"]


@pytest.mark.slow
def test_a_daemon_leaves_a_stopped_training_alone(quick):
    """SIGSTOP to a toy with the same limit: it is told, nothing is ended, and after SIGCONT it goes to its end."""
    quick.toy("toy", epochs=20, restart={"hang_after": "4s"})
    quick.wait_saved("toy", 1)
    pid = quick.attempt("toy").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: verdicts(quick, "toy"), "the stop is seen")
    finally:
        os.kill(pid, signal.SIGCONT)
    quick.wait("toy", "SUCCEEDED")
    told = [verdict["verdict"] for verdict in verdicts(quick, "toy")]
    assert told in (["stopped"], ["stopped", "moving"])  # its next epoch may tell sooner that it moves
    assert quick.attempts("toy") == [1]


def test_what_a_run_taught_is_kept_in_its_directory(quick):
    """At its end a run leaves cadence.json beside its ledger, and nothing inside the trainer's folder."""
    quick.toy("toy", "--epoch-s 2", epochs=3)
    quick.wait("toy", "SUCCEEDED")
    path = quick.run_dir("toy") / "cadence.json"
    until(path.exists, "cadence.json is there")
    assert cadence.decode(path.read_bytes()).phases
    assert not list((quick.run_dir("toy") / "train").rglob("cadence*"))
