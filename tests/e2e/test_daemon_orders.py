"""What people order, and what limits do: stop, resume, cancel, retry, priority, drain, times, places."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone

import pytest
from daemon_harness import alive, children, until

from supervisor.cli.failures import NoSuchRun, Refused

pytestmark = pytest.mark.e2e

SLOW = "--epoch-s 0.8 --batches 8"


def started_at(server, name, attempt=1):
    """When an attempt was started."""
    return server.attempt(name, attempt).json("started.json")["started_at"]


def test_stop_waits_for_the_next_saved_epoch_and_says_when(server):
    """`stop`: the answer tells when; the trainer goes on to the end of its epoch, saves it, and nothing is lost."""
    server.train("truck", SLOW, epochs=5)
    server.wait_saved("truck", 1)
    saved = server.wait("truck", "RUNNING")["saved_epoch"]
    shown = server.cli("stop", "truck")
    assert shown.returncode == 0
    assert "stops when the next epoch is saved" in shown.stdout
    stopping = server.wait("truck", "STOPPING", "HELD")
    assert stopping["wanted"] == "held"
    held = server.wait("truck", "HELD")
    assert held["saved_epoch"] > saved
    assert server.attempt("truck").json("exit.json")["code"] == 75
    end = server.attempt("truck").beats("end")[-1]
    assert end["result"] == "stopped"
    server.order("resume", "truck")
    server.wait("truck", "SUCCEEDED")
    assert server.epochs_in_table("truck") == list(range(1, 6))
    assert server.attempt("truck", 2).beats("resumed")[0]["from_epoch"] + 1 == held["saved_epoch"]


def test_stop_of_a_command_job_waits_for_its_checkpoint_file(server):
    """A trainer that we do not know shows its save by its file."""
    server.toy("lorry", "--epoch-s 1.5 --batches 15", epochs=9)
    server.wait_saved("lorry", 1)
    server.order("stop", "lorry")
    held = server.wait("lorry", "HELD")
    assert "is saved" in held["reason"]


def test_a_stop_can_be_taken_back_before_it_happened(server):
    """`resume` during the wait: the training never noticed."""
    server.train("truck", SLOW, epochs=4)
    server.wait_saved("truck", 1)
    server.order("stop", "truck")
    server.order("resume", "truck")
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1]


def test_stop_now_ends_the_whole_tree_and_says_what_is_lost(server):
    """Trainer and workers that ignore SIGTERM, one of them in a session of its own: all gone at once."""
    server.train("truck", f"{SLOW} --fork-workers 4 --ignore-term", epochs=9)
    server.wait_saved("truck", 1)
    tree = [server.attempt("truck").pid, *children(server.attempt("truck").pid)]
    assert len(tree) == 5
    until(lambda: (server.client.get("/v1/runs/truck")["at_stake"]["epochs"] or 0) > 0.2, "something is at stake")
    answer = server.order("stop", "truck", now=True)
    words = ("every process of its tree", "truck has ended and will be HELD", "truck is HELD")  # it may be that fast
    assert any(one in answer["next"] for one in words), answer["next"]
    assert "lost: " in answer["next"]
    assert "since epoch" in answer["next"]
    began = time.monotonic()
    server.wait("truck", "HELD")
    assert time.monotonic() - began < 8
    assert not [pid for pid in tree if alive(pid)]
    assert server.attempt("truck").json("exit.json")["signal"] == 9
    server.order("resume", "truck")
    server.wait("truck", "RUNNING")


def test_a_trainer_that_ignores_sigterm_is_killed_after_the_grace(server):
    """`cancel`: asked to end first; after stop_grace (5 s here) the whole tree is killed. CANCELLED, its file in done/."""
    server.train("truck", f"{SLOW} --ignore-term", epochs=99)
    server.wait_saved("truck", 1)
    began = time.monotonic()
    assert "asked to end" in server.order("cancel", "truck")["next"]
    server.wait("truck", "CANCELLED")
    assert 4.5 < time.monotonic() - began < 12
    until((server.jobs / "done" / "truck.toml").exists, "the job file is in done/")


def test_cancel_of_a_waiting_run_starts_nothing(server):
    """A queued run is CANCELLED at once, and cannot be resumed, but retried."""
    server.train("truck", epochs=1, after=["never"])
    server.wait("truck", "QUEUED")
    server.order("cancel", "truck")
    server.wait("truck", "CANCELLED")
    assert server.attempts("truck") == []
    with pytest.raises(Refused, match="retry"):
        server.order("resume", "truck")
    assert server.order("retry", "truck")["run"]["id"] == "truck@2"


def test_retry_of_a_cancelled_run_is_a_new_run_that_continues(server):
    """`retry`: another run id, the same directory, and it goes on behind the saved epoch."""
    server.train("truck", SLOW, epochs=4)
    server.wait_saved("truck", 1)
    server.order("cancel", "truck")
    ended = server.wait("truck", "CANCELLED")
    assert ended["id"] == "truck@1"
    assert server.order("retry", "truck")["run"]["id"] == "truck@2"
    done = server.wait("truck", "SUCCEEDED")
    assert done["id"] == "truck@2"
    assert server.all_runs()["truck@1"]["phase"] == "CANCELLED"
    assert server.attempts("truck") == [1, 2]
    assert server.attempt("truck", 2).beats("resumed")[0]["from_epoch"] + 1 >= ended["saved_epoch"]
    assert server.epochs_in_table("truck") == [1, 2, 3, 4]


def test_retry_of_a_succeeded_run_trains_nothing(server):
    """It is finished: the new run says so and starts no process."""
    server.train("truck", epochs=2)
    server.wait("truck", "SUCCEEDED")
    last = (server.run_dir("truck") / "train" / "weights" / "last.pt").read_bytes()
    server.order("retry", "truck")
    until(lambda: server.run("truck")["id"] == "truck@2", "the new run")
    done = server.wait("truck", "SUCCEEDED")
    assert "finished" in done["reason"]
    assert server.attempts("truck") == [1]
    assert (server.run_dir("truck") / "train" / "weights" / "last.pt").read_bytes() == last


def test_orders_that_make_no_sense_are_refused_with_the_reason(server):
    """Unknown names, ended runs, wrong phases: a sentence and exit code 4 or 5, never a crash."""
    server.train("truck", epochs=1)
    server.wait("truck", "SUCCEEDED")
    with pytest.raises(NoSuchRun, match="truck"):
        server.order("stop", "trukc")
    with pytest.raises(Refused, match="SUCCEEDED"):
        server.order("stop", "truck")
    assert server.cli("stop", "trukc").returncode == 5
    assert server.cli("resume", "truck").returncode == 4


@pytest.mark.parametrize("server", [{"queue": {"max_running": 1}}], indirect=True)
def test_places_are_given_by_priority_and_then_by_age(server):
    """max_running = 1: one at a time; the higher priority first, a later order of priority counts, then the older."""
    server.train("first", "--epoch-s 3", epochs=1)
    server.wait("first", "RUNNING")
    for name, priority in (("low", -5), ("old", 0), ("young", 0), ("high", 9)):
        server.train(name, "--epoch-s 0.1", epochs=1, priority=priority)
        assert server.wait(name, "QUEUED")["waiting_for"] == "slot"
    server.order("priority", "low", priority=50)
    for name in ("low", "high", "old", "young"):
        server.wait(name, "SUCCEEDED")
    order = sorted(("low", "high", "old", "young"), key=lambda name: started_at(server, name))
    assert order == ["low", "high", "old", "young"]
    for before, after in zip(("first", *order), order, strict=False):
        assert server.attempt(before).json("exit.json")["ended_at"] <= started_at(server, after)


def test_a_run_waits_for_the_runs_it_comes_after(server):
    """`after`: QUEUED while the other runs, also when that one dies and resumes, and started when it SUCCEEDED."""
    server.train("second", epochs=1, after=["first"])
    assert "first" in server.wait("second", "QUEUED")["waiting_for"]
    server.train("first", "--signal-after KILL@2.1 --fault-once", epochs=3)
    server.wait("first", "RUNNING")
    assert server.wait("second", "QUEUED")["waiting_for"].startswith("other run: first")
    server.wait("second", "SUCCEEDED")
    assert server.run("first")["phase"] == "SUCCEEDED"
    assert started_at(server, "second") >= server.attempt("first", 2).json("exit.json")["ended_at"]


def test_a_run_waits_for_its_time(server):
    """`start_after` with a date: not a moment earlier, and soon after; also across a restart of the daemon."""
    at = datetime.now(timezone.utc) + timedelta(seconds=4)
    server.train("truck", epochs=1, start_after=at)
    assert server.wait("truck", "QUEUED")["waiting_for"] == "time"
    server.restart()
    server.wait("truck", "SUCCEEDED")
    assert 0 <= started_at(server, "truck") - at.timestamp() < 3


def test_a_time_limit_ends_the_run_at_the_next_saved_epoch(server):
    """`time_limit`: HELD by the limit, with the epoch saved; nothing is killed in the middle of one."""
    server.train("truck", "--epoch-s 1 --batches 10", epochs=50, time_limit="2s")
    held = server.wait("truck", "HELD")
    assert "time limit" in held["reason"]
    assert held["saved_epoch"] >= 2
    assert server.attempt("truck").json("exit.json")["code"] == 75
    assert started_at(server, "truck") + 2 <= server.attempt("truck").json("exit.json")["ended_at"]


def test_drain_ends_trainings_gracefully_and_starts_none_until_it_is_taken_back(server):
    """`drain`: at the next saved epoch; waiting runs stay; `drain --off` lets all go on where they were."""
    server.train("truck", SLOW, epochs=5)
    server.wait_saved("truck", 1)
    assert server.cli("drain").returncode == 0
    server.train("lorry", epochs=1)
    drained = server.wait("truck", "QUEUED")
    assert drained["waiting_for"] == "drain"
    assert drained["saved_epoch"] >= 1
    assert server.attempt("truck").json("exit.json")["code"] == 75
    assert server.wait("lorry", "QUEUED")["waiting_for"] == "drain"
    assert server.attempts("lorry") == []
    assert server.cli("drain", "--off").returncode == 0
    server.wait("truck", "SUCCEEDED")
    server.wait("lorry", "SUCCEEDED")
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5]
    assert server.run("truck")["failures"] == 0


def test_a_drain_taken_back_in_time_is_not_noticed(server):
    """`drain --off` before the epoch was saved: the training runs on."""
    server.train("truck", SLOW, epochs=3)
    server.wait_saved("truck", 1)
    server.client.post("/v1/drain")
    server.wait("truck", "STOPPING")
    server.client.post("/v1/drain", off=True)
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1]


def test_a_new_daemon_ends_the_drain_of_the_old_one(server):
    """A drain before an upgrade: the next daemon starts everything again."""
    server.train("truck", SLOW, epochs=4)
    server.wait_saved("truck", 1)
    server.client.post("/v1/drain")
    server.wait("truck", "QUEUED")
    server.restart()
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1, 2]


def test_a_stop_survives_the_daemon(server):
    """Ordered, then the daemon is killed: the next one carries it out and holds the run."""
    server.train("truck", SLOW, epochs=30)
    server.wait_saved("truck", 1)
    server.order("stop", "truck")
    server.restart()
    server.wait("truck", "HELD")
    assert not alive(server.attempt("truck").pid)


def test_an_order_during_the_backoff_is_carried_out(server):
    """COOLING: `stop` holds the run before its next attempt."""
    server.end()
    server.tables["defaults"]["restart.backoff"] = server.tables["defaults"]["restart.backoff_max"] = "1h"
    server.write_config()
    server.start()
    server.train("truck", "--exit 1", epochs=3)
    until(lambda: server.run("truck") and server.run("truck")["failures"] == 1, "the first failure")
    server.wait("truck", "COOLING")
    server.order("stop", "truck")
    server.wait("truck", "HELD")
    assert server.attempts("truck") == [1]
    server.order("resume", "truck")
    until(lambda: server.attempts("truck") == [1, 2], "the second attempt")


def test_a_second_training_of_a_run_is_never_started_while_one_lives(server):
    """The fence: while the old shim's lock is held, a resume only waits."""
    server.train("truck", SLOW, epochs=30)
    server.wait_saved("truck", 1)
    os.kill(server.attempt("truck").pid, 19)  # stopped: it cannot end by SIGTERM
    server.order("stop", "truck", now=True)
    server.wait("truck", "HELD")
    server.order("resume", "truck")
    server.wait("truck", "RUNNING")
    assert not alive(server.attempt("truck", 1).pid)
    assert alive(server.attempt("truck", 2).pid)
