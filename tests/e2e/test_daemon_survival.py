"""The training outlives the daemon: it is killed at any moment, and the next one misses nothing and starts nothing twice."""

from __future__ import annotations

import os
import signal
import time

import pytest
from daemon_harness import alive, children, until

pytestmark = pytest.mark.e2e

LONG = "--epoch-s 0.2"


def launches(server, name):
    """The journal's launch confirmations of a run, over all daemons."""
    return [row.body["attempt"] for row in server.history(f"{name}@1", "Launched")]


def test_a_killed_daemon_leaves_the_training_and_the_next_one_adopts_it(server):
    """SIGKILL: same shim, same trainer, one attempt, progress goes on being seen, and the end is not missed."""
    server.train("truck", LONG, epochs=15)
    server.wait_saved("truck", 2)
    shim, trainer = server.attempt("truck").shim_pid, server.attempt("truck").pid
    first = server.daemon.pid
    server.end(signal.SIGKILL)
    assert alive(trainer)
    assert alive(shim)
    server.start()
    assert server.daemon.pid != first
    adopted = server.wait("truck", "RUNNING")
    assert adopted["attempt"] == 1
    server.wait_saved("truck", adopted["saved_epoch"] + 2)
    assert (server.attempt("truck").shim_pid, server.attempt("truck").pid) == (shim, trainer)
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1]
    assert launches(server, "truck") == [1]
    assert server.epochs_in_table("truck") == list(range(1, 16))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_daemon_that_is_asked_to_end_leaves_trainings_running(server, number):
    """SIGTERM and SIGINT: exit code 0 within seconds, the socket is gone, the training is not touched."""
    server.train("truck", LONG, epochs=20)
    server.wait_saved("truck", 1)
    trainer = server.attempt("truck").pid
    began = time.monotonic()
    assert server.end(number) == 0
    assert time.monotonic() - began < 10
    assert not server.socket.exists()
    assert alive(trainer)
    server.attempt("truck").wait_for_beat("saved", epoch=4)
    server.start()
    assert server.wait("truck", "RUNNING")["attempt"] == 1
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1]


@pytest.mark.parametrize(("flags", "ends"), [("", "SUCCEEDED"), ("--signal-after KILL@2.1 --fault-once", "RUNNING")])
def test_an_end_while_no_daemon_is_there_is_not_missed(server, flags, ends):
    """The exit waits in exit.json: a finished run is SUCCEEDED, a dead one is resumed, by the next daemon."""
    server.train("truck", f"{LONG} {flags}", epochs=4)
    server.wait("truck", "RUNNING")
    server.end(signal.SIGKILL)
    record = server.attempt("truck").json("exit.json")
    until(lambda: not alive(server.attempt("truck").shim_pid), "the shim has ended")
    server.start()
    server.wait("truck", "SUCCEEDED")
    [seen] = [row for row in server.history("truck@1", "AttemptExited") if row.body["attempt"] == 1]
    assert (seen.body.get("code"), seen.body.get("signal")) == (record["code"], record["signal"])
    assert seen.body["ended_at"] == record["ended_at"]
    assert server.attempts("truck") == ([1] if ends == "SUCCEEDED" else [1, 2])
    assert server.epochs_in_table("truck") == [1, 2, 3, 4]


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2, 0.3, 0.5])
def test_a_daemon_killed_at_any_moment_loses_no_job_and_starts_none_twice(server, delay_s):
    """Killed so long after a job file came (while checking, preparing, launching): it runs once and to its end."""
    server.train("truck", "--epoch-s 0.1", epochs=4)
    time.sleep(delay_s)
    server.restart()
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1]
    assert launches(server, "truck") == [1]
    assert server.epochs_in_table("truck") == [1, 2, 3, 4]
    assert len(server.attempt("truck").beats("start")) == 1
    assert [run for run in server.all_runs() if run.startswith("truck@")] == ["truck@1"]


@pytest.mark.parametrize(
    "file", ["job.toml", "token", "attempts/1/launch.json", "attempts/1/started.json", "attempts/1/exit.json"]
)
def test_a_daemon_killed_the_moment_a_file_appears_goes_on_from_there(server, file):
    """Between what was done and its record in the journal: done again where that is harmless, never started twice."""
    path = server.run_dir("truck") / file
    server.train("truck", "--epoch-s 0.1 --signal-after KILL@3.1 --fault-once", epochs=4)
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        pass  # without a pause: the moment is short
    server.restart()
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == launches(server, "truck") == [1, 2]
    assert [len(server.attempt("truck", number).beats("start")) for number in (1, 2)] == [1, 1]
    assert server.epochs_in_table("truck") == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_daemon_killed_again_and_again_while_trainings_die_keeps_count(server):
    """Eight kills in a row over three trainings that crash: each epoch once, no attempt twice, all finished."""
    for number in range(3):
        server.train(f"truck-{number}", "--epoch-s 0.3 --signal-after KILL@3.2 --fault-once", epochs=6)
    for wait_s in (0.2, 0.5, 0.3, 0.9, 0.4, 0.7, 0.2, 0.6):
        time.sleep(wait_s)
        server.restart()
    for number in range(3):
        name = f"truck-{number}"
        server.wait(name, "SUCCEEDED")
        assert server.epochs_in_table(name) == [1, 2, 3, 4, 5, 6]
        assert launches(server, name) == server.attempts(name) == [1, 2]


def test_a_trainer_whose_shim_was_killed_is_watched_and_judged_by_its_files(server):
    """SIGKILL of the shim: the trainer goes on, its end is seen, and its own end record proves the finish."""
    server.train("truck", LONG, epochs=10)
    server.wait_saved("truck", 2)
    trainer = server.attempt("truck").pid
    os.kill(server.attempt("truck").shim_pid, signal.SIGKILL)
    server.wait_saved("truck", 4)
    assert alive(trainer)
    assert server.wait("truck", "RUNNING")["attempt"] == 1
    server.restart()
    assert server.wait("truck", "RUNNING")["attempt"] == 1
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1]
    assert server.epochs_in_table("truck") == list(range(1, 11))
    [seen] = server.history("truck@1", "AttemptExited")
    assert "shim was killed" in seen.body["lost"]


def test_a_trainer_that_died_after_its_shim_is_resumed(server):
    """Nobody saw how it ended: without an end record it is not finished, and goes on from its checkpoint."""
    server.train("truck", LONG, epochs=8)
    server.wait_saved("truck", 2)
    os.kill(server.attempt("truck").shim_pid, signal.SIGKILL)
    os.kill(server.attempt("truck").pid, signal.SIGKILL)
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1, 2]
    assert server.epochs_in_table("truck") == list(range(1, 9))


def test_workers_of_a_dead_trainer_without_a_shim_are_ended_before_the_next_attempt(server):
    """Shim and trainer killed, its workers (one in another session) live: none survives into attempt 2."""
    server.train("truck", f"{LONG} --fork-workers 2", epochs=8)
    server.wait_saved("truck", 1)
    first = server.attempt("truck")
    workers = children(first.pid)
    assert len(workers) == 2
    os.kill(first.shim_pid, signal.SIGKILL)
    os.kill(first.pid, signal.SIGKILL)
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1, 2]
    assert not [pid for pid in workers if alive(pid)]
