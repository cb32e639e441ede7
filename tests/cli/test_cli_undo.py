"""What was changed after failures: shown, and taken back by one order in any live phase."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.diagnosis.evidence import Change
from supervisor.core.model import Phase

FEWER = Change(name="workers", before=8, after=4, cause="host-oom", attempt=1, at=1.0)


def change(daemon, *changes, name="truck", **more):
    """Let a run have changes, as if they had been decided."""
    run = replace(daemon.world.named(name), changes=changes, **more)
    daemon.world = daemon.world.with_run(run)


def bring_to(daemon, phase):
    """A run with a change in that phase."""
    if phase is Phase.QUEUED:
        daemon.allow(1)
        daemon.launch("other")
        daemon.accept("truck")
    elif phase is Phase.PREPARING:
        daemon.accept("truck")
    elif phase is Phase.STARTING:
        run_id = daemon.accept("truck")
        daemon.put(events.Prepared(at=daemon.clock.now(), run=run_id, attempt=1, start="fresh"))
    else:
        run_id = daemon.launch("truck")
        daemon.progress(run_id, 2, 1)
        if phase is Phase.STOPPING:
            daemon.put(events.StopAsked(at=daemon.clock.now(), run=run_id, by="ann"))
        elif phase is Phase.COOLING:
            daemon.end(run_id, finished=False, code=1)
        elif phase is Phase.HELD:
            daemon.put(events.StopAsked(at=daemon.clock.now(), run=run_id, by="ann"))
            daemon.end(run_id, finished=False, code=75)
    assert daemon.world.named("truck").phase is phase
    change(daemon, FEWER)


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.terminal])
def test_changes_are_taken_back_in_any_live_phase(daemon, cli, phase):
    """The phase stays, the changes are gone, and what is taken back is told with the attempt that begins without it."""
    bring_to(daemon, phase)
    attempt = daemon.world.named("truck").attempts + 1
    done = cli("resume", "truck", "--undo-changes")
    assert done.exit_code == 0, done.stderr
    assert f"truck: taken back from attempt {attempt} on: workers 4 instead of 8" in done.stdout
    assert (daemon.world.named("truck").phase, daemon.world.named("truck").changes) == (phase, ())


def test_avoided_gpus_are_taken_back_too(daemon, cli):
    """The sentence names them."""
    daemon.launch("truck")
    change(daemon, avoided_gpus=("0", "GPU-1f2e3d4c-aaaa"))
    assert "GPU 0, GPU-1f2e3d4c given last" in cli("resume", "truck", "--undo-changes").stdout
    assert daemon.world.named("truck").avoided_gpus == ()


def test_without_changes_the_order_is_refused(daemon, cli):
    """Exit code 4, and the reason: it trains as its job file says."""
    daemon.launch("truck")
    done = cli("resume", "truck", "--undo-changes")
    assert (done.exit_code, done.stdout) == (4, "")
    assert "truck has no changes to take back" in done.stderr


def test_ended_runs_have_nothing_to_take_back(daemon, cli):
    """Refused, with the order that starts it again."""
    daemon.end(daemon.launch("truck"))
    change(daemon, FEWER)
    done = cli("resume", "truck", "--undo-changes")
    assert done.exit_code == 4
    assert "`retry truck` starts it again" in done.stderr


def test_one_order_at_a_time(daemon, cli):
    """--accept lets a held run go on, --undo-changes does not: both at once is a wrong command."""
    daemon.launch("truck")
    assert cli("resume", "truck", "--accept", "--undo-changes").exit_code == 2


def test_the_record_names_who_took_them_back(daemon, cli):
    """`why` tells the order and its person."""
    daemon.launch("truck")
    change(daemon, FEWER)
    cli("resume", "truck", "--undo-changes")
    assert "asked to take the changes back" in cli("why", "truck").stdout


def test_show_lists_changes_under_the_arguments(daemon, cli):
    """What the job asks for, what it is now, since which attempt and why; as data with the same numbers."""
    daemon.launch("truck")
    change(daemon, FEWER, avoided_gpus=(1,))
    shown = cli("show", "truck").stdout
    assert "workers 4 instead of 8 since attempt 2, because the machine's memory ran out" in shown
    assert "GPU 1: others are given first" in shown
    (row,) = json.loads(cli("show", "truck", "--json").stdout)["changes"]
    assert {name: row[name] for name in ("name", "before", "after", "cause", "attempt", "at")} == {
        "name": "workers", "before": 8, "after": 4, "cause": "host-oom", "attempt": 1, "at": 1.0,
    }  # fmt: skip
