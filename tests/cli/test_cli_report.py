"""`report`: where the time of one run or of all went, for people and for programs, with the daemon and without."""

from __future__ import annotations

import json

import pytest

from supervisor.core import events
from tests.cli.conftest import process

CLASSES = ["training", "validation", "start_up", "lost", "detection", "backoff", "waiting", "held"]


def told(start_up, training, validation=0.0, unsaved=0.0):
    """What a trainer tells of its time."""
    work = {"training": training, "validation": validation, "save": 0.0}
    return {"start_up": start_up, **work, "unsaved": unsaved, "unsaved_validation": 0.0}


@pytest.fixture
def spent(daemon):
    """A run with 2 GPUs that lost work and is held, and one that trains and is in its validation."""
    daemon.put(
        events.Configured(at=daemon.clock.now(), policy=daemon.world.policy.__class__(max_running=1, gpu_count=2))
    )
    held = daemon.launch("held", gpus=2)
    daemon.clock.at += 109
    daemon.progress(held, 1, 1, seconds=told(10, 100))
    daemon.clock.at += 30
    daemon.end(held, finished=False, code=66, seconds=told(10, 130, unsaved=30), saved_epoch=1)
    run_id = daemon.launch("truck")
    daemon.clock.at += 100
    daemon.progress(run_id, 3, 2, seconds=told(10, 80, 10))
    daemon.live(run_id, phase="val", seconds=told(10, 80, 10))
    daemon.clock.at += 20
    return daemon


def exact(report):
    """All eight classes, in their order, add up to the wall clock."""
    assert list(report["seconds"]) == list(report["gpu_hours"]) == CLASSES
    assert sum(report["seconds"].values()) == report["total_s"]
    assert min(report["seconds"].values()) >= 0


def test_the_classes_add_up_to_the_wall_clock(spent, cli):
    """--json: seconds by class whose sum is total_s, and that is the time from began_at to ended_at."""
    report = json.loads(cli("report", "held", "--json").stdout)
    exact(report)
    run = spent.world.named("held")
    assert report["version"] == 1
    assert report["ended_at"] - report["began_at"] == report["total_s"]
    assert (report["began_at"], report["ended_at"]) == (run.created_at, spent.clock.now())
    assert report["seconds"]["lost"] == pytest.approx(30, abs=2)
    assert report["seconds"]["held"] > 100
    assert report["goodput"] == pytest.approx(100 / report["total_s"], abs=0.01)
    assert (report["attempts"], report["failures"]) == (1, 1)


def test_gpu_hours_count_the_gpus_that_the_run_has(spent, cli):
    """Two GPUs for the time in which the run had them, none while it is held."""
    report = json.loads(cli("report", "held", "--json").stdout)
    assert report["gpus"] == 2
    assert report["gpu_hours"]["lost"] == pytest.approx(2 * report["seconds"]["lost"] / 3600, abs=1e-5)
    assert report["gpu_hours"]["held"] == 0
    assert report["gpu_hours_total"] == pytest.approx(sum(report["gpu_hours"].values()), abs=1e-5)


def test_a_validation_that_goes_on_counts_until_now(spent, cli):
    """The newest heartbeat says that it validates: the time since is validation, not training."""
    report = json.loads(cli("report", "truck", "--json").stdout)
    assert report["seconds"]["validation"] == pytest.approx(10 + 20, abs=3)


def test_all_runs_and_their_sum(spent, cli):
    """--all, or no name: a report for each run, and the sums over all of them."""
    view = json.loads(cli("report", "--all", "--json").stdout)
    assert view == json.loads(cli("report", "--json").stdout)
    exact(view)
    assert [run["id"] for run in view["runs"]] == ["held@1", "truck@1"]
    assert view["total_s"] == sum(run["total_s"] for run in view["runs"])
    assert view["seconds"]["lost"] == sum(run["seconds"]["lost"] for run in view["runs"])
    assert view["gpu_hours_total"] == pytest.approx(sum(run["gpu_hours_total"] for run in view["runs"]), abs=1e-5)


def test_since_leaves_out_what_was_before(spent, cli, monkeypatch):
    """--since counts only the time after that moment, and only runs that were there then."""
    cancelled = spent.accept("gone")
    spent.put(events.CancelAsked(at=spent.clock.now(), run=cancelled, by="test"))
    spent.clock.at += 100
    monkeypatch.setattr("time.time", spent.clock.now)
    view = json.loads(cli("report", "--since", "50s", "--json").stdout)
    exact(view)
    assert [run["id"] for run in view["runs"]] == ["held@1", "truck@1"]
    assert view["total_s"] == pytest.approx(2 * 50, abs=3)
    assert view["seconds"]["lost"] == 0
    one = json.loads(cli("report", "held", "--since", "50s", "--json").stdout)
    assert one["seconds"]["held"] == one["total_s"] == pytest.approx(50, abs=2)


def test_a_person_sees_each_class_with_its_share(spent, cli):
    """A line for each class with time, share, GPU-hours and what it means; lines of all runs fit into 80 columns."""
    lines = cli("report", "held").stdout.splitlines()
    assert lines[0].startswith("held@1  HELD")
    assert [line.split()[0] for line in lines[1:10]] == [*CLASSES, "total"]
    [lost] = [line for line in lines if line.split()[0] == "lost"]
    assert "work after the last checkpoint" in lost
    assert "%" in lost
    assert "GPU-hours" in lines[9]
    assert "1 attempt, 1 failure" in lines[10]
    table = cli("report").stdout.splitlines()
    assert table[0].split()[:3] == ["RUN", "PHASE", "TOTAL"]
    assert all(len(line) <= 80 for line in table[:3])


def test_a_trainer_that_tells_nothing_of_validation_is_named(daemon, cli):
    """The report says so where validation is counted as training."""
    run_id = daemon.launch("script", train=None, command=("{python}", "/t.py"))
    daemon.progress(run_id, 1, 0)
    daemon.clock.at += 5
    assert "nothing told when it validated" in cli("report", "script").stdout


def test_an_older_run_by_its_id(daemon, cli):
    """NAME is the newest run of that name, NAME@1 the first; each has its own time."""
    first = daemon.accept("truck")
    daemon.put(events.CancelAsked(at=daemon.clock.now(), run=first, by="test"))
    daemon.clock.at += 50
    daemon.put(events.RetryAsked(at=daemon.clock.now(), run=first, by="test"))
    newest, old = (json.loads(cli("report", name, "--json").stdout) for name in ("truck", "truck@1"))
    assert (newest["id"], old["id"]) == ("truck@2", "truck@1")
    assert newest["began_at"] > old["ended_at"]


def test_what_cannot_be_asked(spent, cli):
    """A name and --all, a wrong duration, a name that no run has: each is refused in words."""
    assert cli("report", "held", "--all").exit_code == 2
    assert "--since" in cli("report", "--since", "yesterday").stderr
    done = cli("report", "trukc")
    assert done.exit_code == 5
    assert "did you mean truck" in done.stderr


def test_a_server_without_runs(cli):
    """There is nothing to report, which is no error."""
    assert cli("report").stdout == "no runs\n"
    view = json.loads(cli("report", "--json").stdout)
    assert (view["total_s"], view["goodput"], view["runs"]) == (0, None, [])


@pytest.mark.e2e
def test_without_the_daemon_the_journal_tells_the_same(spent, cli):
    """Offline: the same classes, until the last event."""
    config = spent.write_config()
    online = json.loads(cli("report", "held", "--json").stdout)
    spent.api.stop()
    done = process("--config", config, "report", "held", "--json")
    report = json.loads(done.stdout)
    assert report["offline"] is True
    exact(report)
    shared = set(CLASSES) - {"held"}
    assert {name: report["seconds"][name] for name in shared} == {name: online["seconds"][name] for name in shared}
    every = json.loads(process("--config", config, "report", "--json").stdout)
    exact(every)
    assert len(every["runs"]) == 2
