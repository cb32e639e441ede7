"""Verbs that order: sentences, exit codes, several names at once."""

from __future__ import annotations

import json

import pytest

from supervisor.core.model import Phase


def test_stop_and_resume(daemon, cli):
    """`stop` tells what happens next, `resume` takes it back; both exit 0."""
    daemon.launch("truck")
    done = cli("stop", "truck")
    assert done.exit_code == 0
    assert "stops when the next epoch is saved" in done.stdout
    assert cli("resume", "truck").exit_code == 0
    assert daemon.world.named("truck").phase is Phase.RUNNING


def test_stop_now_tells_the_loss(daemon, cli):
    """`stop --now` says what is lost."""
    run_id = daemon.launch("truck")
    daemon.progress(run_id, 3, 1)
    assert "lost: 1 epochs (1 min of training) since epoch 1 was saved" in cli("stop", "truck", "--now").stdout


def test_orders_that_make_no_sense_exit_4(daemon, cli):
    """A refused order: exit code 4, the reason on standard error, nothing on standard output."""
    daemon.end(daemon.launch("truck"))
    done = cli("stop", "truck")
    assert done.exit_code == 4
    assert "`retry truck` starts it again" in done.stderr
    assert done.stdout == ""


def test_several_names_are_all_tried(daemon, cli):
    """With several names every one is tried; the exit code is the first failure's."""
    daemon.accept("car")
    daemon.accept("truck")
    done = cli("cancel", "nobody", "car", "truck", "car")
    assert done.exit_code == 5
    assert "there is no run named nobody" in done.stderr
    assert daemon.world.named("truck").phase is Phase.CANCELLED
    assert daemon.world.named("car").phase is Phase.CANCELLED


def test_retry_opens_a_new_run(daemon, cli):
    """`retry` of an ended run prints the id of the new one."""
    daemon.end(daemon.launch("truck"))
    assert "truck@2" in cli("retry", "truck").stdout


@pytest.mark.parametrize("words", [("priority", "truck", "-5"), ("priority", "truck", "--", "-5")])
def test_priority_takes_negative_numbers(daemon, cli, words):
    """A negative priority is a number and no option."""
    daemon.accept("truck")
    assert cli(*words).exit_code == 0
    assert daemon.world.named("truck").priority == -5


def test_priority_beyond_its_range_is_a_usage_error(daemon, cli):
    """A priority above 100 exits 2 before anybody is asked."""
    assert cli("priority", "truck", "101").exit_code == 2


def test_drain(daemon, cli):
    """`drain` and `drain --off` say what they lead to; together with --now the latter makes no sense."""
    daemon.launch("truck")
    assert "1 training ends" in cli("drain").stdout
    assert daemon.world.draining
    assert "trainings start again" in cli("drain", "--off").stdout
    assert not daemon.world.draining
    assert cli("drain", "--off", "--now").exit_code == 2


def test_an_order_that_is_not_carried_out_yet_exits_75(daemon, cli, monkeypatch):
    """If the daemon takes the order but cannot act, the exit code is 75: try later."""
    from supervisor.web import api

    monkeypatch.setattr(api, "EFFECT_WAIT_S", 0.05)
    daemon.launch("truck")
    daemon.deaf = True
    done = cli("stop", "truck")
    assert done.exit_code == 75
    assert "not carried out yet" in done.stderr


def test_orders_speak_json(daemon, cli):
    """--json prints every answer, with a version."""
    daemon.accept("truck")
    view = json.loads(cli("stop", "truck", "--json").stdout)
    assert view["version"] == 1
    assert view["orders"][0]["done"] is True


def cancel(daemon, run_id):
    """Cancel a run that trains."""
    from supervisor.core import events

    daemon.put(events.CancelAsked(at=daemon.clock.now(), run=run_id, by="test"))
    daemon.end(run_id, finished=False, code=75)


@pytest.mark.parametrize(
    ("finish", "code"),
    [
        (lambda daemon, run: daemon.end(run), 0),
        (lambda daemon, run: [daemon.end(run, finished=False, code=1), fail_on(daemon, run)], 20),
        (cancel, 21),
        (lambda daemon, run: daemon.end(run, finished=False, code=66), 22),
    ],
)
def test_wait_exits_as_the_contract_says(daemon, cli, finish, code):
    """`wait` exits 0 for SUCCEEDED, 20 FAILED, 21 CANCELLED, 22 HELD, and says why."""
    run_id = daemon.launch("truck")
    finish(daemon, run_id)
    done = cli("wait", "truck")
    assert done.exit_code == code, done.output
    assert "truck@1" in done.stdout


def fail_on(daemon, run_id):
    """Let attempts fail until the run is given up."""
    from supervisor.core import events

    while run_id in daemon.world.live:
        run = daemon.world.live[run_id]
        if run.phase is Phase.COOLING:
            daemon.clock.at = (run.deadline_at or daemon.clock.at) + 1
            daemon.put(events.TimePassed(at=daemon.clock.at))
            continue
        at, number = daemon.clock.now(), run.attempts
        daemon.put(events.Prepared(at=at, run=run_id, attempt=number, start="fresh"))
        daemon.put(events.LaunchFailed(at=at, run=run_id, attempt=number, reason="no"))


def test_wait_gives_up_after_the_timeout(daemon, cli):
    """`wait --timeout` exits 124 while the run goes on, and says where it stands."""
    daemon.launch("truck")
    done = cli("wait", "truck", "--timeout", "10ms")
    assert done.exit_code == 124
    assert "still RUNNING" in done.stderr


def test_wait_sees_the_end(daemon, cli, monkeypatch):
    """`wait` returns when the run ends, and a daemon that is exchanged meanwhile is waited for."""
    from supervisor.cli import waiting
    from supervisor.cli.client import Client

    run_id = daemon.launch("truck")
    moments = iter([daemon.api.stop, lambda: None, lambda: [daemon.make(), daemon.end(run_id)]])
    view, code = waiting.wait_for(Client(str(daemon.socket_path)), "truck", None, sleep=lambda _: next(moments)())
    assert (view["phase"], code) == ("SUCCEEDED", 0)


def test_a_timeout_without_a_unit_is_refused(daemon, cli):
    """A bare number is no duration: exit code 2 and an example."""
    daemon.launch("truck")
    done = cli("wait", "truck", "--timeout", "10")
    assert done.exit_code == 2
    assert "unit" in done.stderr
