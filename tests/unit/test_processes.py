"""The watch over attempts: one that cannot be observed hides no other, and what was lost is told again."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from supervisor import attempt_files, layout
from supervisor.core import events
from supervisor.core.actions import Launch
from supervisor.core.model import Attempt, Job, Phase, Run, World
from supervisor.engines.local import LocalEngine
from supervisor.errors import PermanentError, RetryableError
from supervisor.sources.processes import ProcessSource


def a_run(name, **attempt):
    """A running run whose first attempt was launched."""
    job = Job(name=name, revision="r", command=("x",))
    first = Attempt(number=1, token=1, launches=1, **attempt)
    return Run(
        id=f"{name}@1",
        job=job,
        phase=Phase.RUNNING,
        created_at=1.0,
        phase_since=1.0,
        deadline_at=9.0,
        attempts=1,
        attempt=first,
    )


class Bench:
    """A source that is asked to look by hand; its thread is never started."""

    def __init__(self, runs_dir, *runs):
        self.runs_dir = runs_dir
        self.world = World(live={run.id: run for run in runs})
        self.told = []
        self.source = ProcessSource(runs_dir, lambda: self.world, self.told.append, lambda: 1000.0)

    def attempt_dir(self, name):
        """The folder of the first attempt."""
        folder = layout.run_directory(self.runs_dir, "default", name).attempt(1).root
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def dead(self, name):
        """An attempt that has ended with code 3, and of which nothing is left."""
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        boot_id, pid1 = attempt_files.boot_identity()
        who = {"shim_pid": process.pid, "shim_start_time": 1, "pid": process.pid, "start_time": 1}
        started = attempt_files.Started(**who, boot_id=boot_id, pid1_start_time=pid1, started_at=1.0)
        ended = attempt_files.Exit(code=3, signal=None, ended_at=2.0, started_at=1.0)
        folder = self.attempt_dir(name)
        (folder / "started.json").write_bytes(msgspec.json.encode(started))
        (folder / "exit.json").write_bytes(msgspec.json.encode(ended))

    def kinds(self):
        """What was told since the last question, as (kind, run)."""
        found = [(type(event).__name__, getattr(event, "run", "")) for event in self.told]
        self.told.clear()
        return found


def test_an_end_is_told_once(tmp_path):
    """Exit and clearance, each once, with the code that the shim recorded."""
    bench = Bench(tmp_path, a_run("a"))
    bench.dead("a")
    bench.source.look()
    exited = bench.told[0]
    assert (exited.code, exited.ended_at) == (3, 2.0)
    assert bench.kinds() == [("AttemptExited", "a@1"), ("AttemptCleared", "a@1")]
    bench.source.look()
    assert bench.kinds() == []


@pytest.mark.parametrize("damage", [b"{", b"", b'{"pid": "x"}'])
def test_a_record_that_cannot_be_read_hides_no_other_attempt(tmp_path, damage):
    """A damaged started.json says nothing about its attempt; the ends of the others are told all the same."""
    bench = Bench(tmp_path, a_run("a"), a_run("b"))
    (bench.attempt_dir("a") / "started.json").write_bytes(damage)
    bench.dead("b")
    bench.source.look()
    assert bench.kinds() == [("AttemptExited", "b@1"), ("AttemptCleared", "b@1")]


def test_what_was_lost_is_told_again(tmp_path):
    """The world does not know of an end that was told: the periodic full look tells it once more."""
    bench = Bench(tmp_path, a_run("a"))
    bench.dead("a")
    bench.source.look()
    bench.kinds()
    bench.source.observe()
    bench.source.look()
    assert bench.kinds() == [("AttemptExited", "a@1"), ("AttemptCleared", "a@1"), ("Observed", "")]
    bench.world = World(live={"a@1": a_run("a", ended_at=2.0)})
    bench.source.observe()
    bench.source.look()
    assert bench.kinds() == [("AttemptCleared", "a@1"), ("Observed", "")]


# ---- the engine's side of "at most once"
def launch(run_dir_token):
    """An order to launch the first attempt with that token."""
    job = Job(name="a", revision="r", command=("x",))
    about = {"key": "k", "run": "a@1", "attempt": 1, "token": run_dir_token, "job": job}
    return Launch(**about, gpus=(), start="fresh", checkpoint="", from_epoch=0)


def test_an_order_for_an_attempt_that_was_left_behind_starts_nothing(tmp_path):
    """The run directory is held by a newer token: the late launch is refused, and no file of a launch is written."""
    run_dir = layout.run_directory(tmp_path, "default", "a")
    run_dir.root.mkdir(parents=True)
    run_dir.token.write_text('{"version":1,"token":8,"run":"a@1","attempt":2,"host":"h","boot_id":"b"}')
    engine = LocalEngine(tmp_path, lambda: 1.0, allow_download=False)
    with pytest.raises(PermanentError, match="held by token 8"):
        engine.launch(launch(7))
    assert not run_dir.attempt(1).root.exists()


@pytest.mark.parametrize("name", ["token", "attempts/1/started.json"])
def test_what_cannot_be_read_is_not_known(tmp_path, name):
    """A damaged fence or record of a start is no proof that nothing was started: it is asked again later."""
    path = layout.run_directory(tmp_path, "default", "a").root / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    with pytest.raises(RetryableError):
        LocalEngine(tmp_path, lambda: 1.0, allow_download=False).launch(launch(7))


def test_events_are_what_the_core_knows():
    """The kinds that are told here are rows of the core's table."""
    from supervisor.core.run_machine import TABLE

    assert {events.AttemptExited, events.AttemptCleared} <= set(TABLE)
