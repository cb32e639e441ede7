"""What people order, in every phase: stop, cancel, resume, retry, priority, drain; and the limits that they set."""

from __future__ import annotations

import pytest
from bench import Bench, go_on

from supervisor.core import actions, events
from supervisor.core.model import Phase, Wanted

LIVE = [phase for phase in Phase if not phase.terminal]
ENDED = [phase for phase in Phase if phase.terminal]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("phase", LIVE)
def test_a_stop_leads_to_held_from_every_phase(phase, at_once):
    """`stop` in any phase ends in HELD, and nothing is started again by itself."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.StopAsked, "a", by="ann", at_once=at_once)
    assert go_on(bench) is Phase.HELD
    bench.wait(1e5)
    assert bench.phase() is Phase.HELD


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("phase", LIVE)
def test_a_cancel_leads_to_cancelled_from_every_phase(phase, at_once):
    """`cancel` in any phase ends in CANCELLED, told once, and the job file goes to done/."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.CancelAsked, "a", by="ann", at_once=at_once)
    assert go_on(bench) is Phase.CANCELLED
    assert bench.said("a").count("cancelled") == 1
    assert [one.what for one in bench.of(actions.MarkFile, "a")] == ["done"]


@pytest.mark.parametrize("phase", LIVE)
def test_a_stopped_run_can_be_resumed_to_its_end(phase):
    """Whatever the phase in which it was stopped, `resume` brings the run to SUCCEEDED."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.StopAsked, "a", by="ann")
    assert go_on(bench) is Phase.HELD
    bench.tell(events.ResumeAsked, "a", by="ann")
    bench.wait(2e6)
    assert go_on(bench, finished=True) is Phase.SUCCEEDED


@pytest.mark.parametrize("verb", [events.StopAsked, events.CancelAsked, events.ResumeAsked, events.PriorityAsked])
@pytest.mark.parametrize("phase", ENDED)
def test_orders_for_an_ended_run_do_nothing(phase, verb):
    """Terminal phases are never left: only `retry` opens a new run."""
    bench = Bench()
    run = bench.bring_to(phase)
    more = {"priority": 1} if verb is events.PriorityAsked else {}
    assert bench.tell(verb, "a", by="ann", **more) == ()
    assert bench.run() == run


@pytest.mark.parametrize("phase", LIVE)
def test_a_retry_of_a_live_run_does_nothing(phase):
    """One live run per name: `retry` is for ended runs."""
    bench = Bench()
    run = bench.bring_to(phase)
    bench.tell(events.RetryAsked, "a", by="ann")
    assert bench.run() == run


@pytest.mark.parametrize("phase", ENDED)
def test_a_retry_opens_a_new_run_on_the_same_directory(phase):
    """The new run goes on counting attempts and knows the saved epochs; the old run stays as it was."""
    bench = Bench()
    old = bench.bring_to(phase)
    bench.tell(events.RetryAsked, "a", by="ann")
    new = bench.run()
    assert (new.id, new.predecessor) == ("a@2", "a@1")
    assert new.attempts == old.attempts + 1
    assert new.progress == old.progress
    assert bench.of(actions.Prepare)[-1].scratch_allowed is False
    assert bench.of(actions.Prepare)[-1].set_aside is False
    assert bench.world.ended[old.id] == old
    bench.tell(events.RetryAsked, "a@1", by="ann")
    assert bench.run() == new


@pytest.mark.parametrize("phase", LIVE)
def test_a_priority_is_taken_in_every_live_phase(phase):
    """`priority` changes the number and nothing else."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.PriorityAsked, "a", by="ann", priority=42)
    assert (bench.run().priority, bench.phase()) == (42, phase)


def test_a_stop_waits_for_the_next_saved_epoch():
    """The training is asked to end when the epoch that it is in was saved, not before, and says so."""
    bench = Bench()
    bench.bring_to(Phase.STOPPING)
    assert bench.of(actions.Terminate) == []
    bench.tell(events.Progressed, "a", epoch=2, epochs=10, saved_epoch=1)
    assert bench.of(actions.Terminate) == []
    bench.save(2)
    assert [one.how for one in bench.of(actions.Terminate)] == ["term"]
    assert "epoch 2 is saved" in bench.run().reason


def test_a_stop_never_cuts_off_the_last_epoch():
    """The last epoch is saved: the trainer's own ending is waited for, and the run is SUCCEEDED."""
    bench = Bench()
    bench.submit()
    bench.launch()
    bench.save(9)
    bench.tell(events.StopAsked, "a", by="ann")
    bench.save(10)
    assert bench.of(actions.Terminate) == []
    bench.finish()
    assert bench.phase() is Phase.SUCCEEDED


def test_a_stop_after_a_resume_from_an_older_checkpoint():
    """The newest file was bad and epochs are trained anew: a stop does not wait until the old number is passed."""
    bench = Bench()
    bench.submit()
    bench.launch()
    bench.save(8)
    bench.die(signal=9)
    bench.wait(0.0)
    bench.launch(start="resume", from_epoch=3)
    bench.tell(events.StopAsked, "a", by="ann")
    bench.save(4)
    assert [one.how for one in bench.of(actions.Terminate)] == ["term"]


@pytest.fixture
def asked():
    """A run that is held because the classes changed."""
    bench = Bench()
    bench.submit()
    bench.tell(events.Prepared, "a", start="refused", reason="other classes", differences="d1")
    return bench


def agreed(bench, *, accept=True):
    """What the next preparation may take for agreed after `resume`."""
    bench.tell(events.ResumeAsked, "a", by="ann", accept=accept)
    return bench.of(actions.Prepare)[-1].accepted


def test_an_agreement_is_to_what_the_person_saw(asked):
    """`resume --accept` names the differences of the question; a plain `resume` names none, whatever was said before."""
    assert agreed(asked) == "d1"
    asked.tell(events.Prepared, "a", start="refused", reason="other classes again", differences="d2")
    assert agreed(asked, accept=False) == ""
    asked.tell(events.Prepared, "a", start="refused", reason="other classes again", differences="d2")
    assert agreed(asked) == "d2"


def test_an_agreement_lasts_until_the_training_runs(asked):
    """While the run waits for its disk, or for room for its launch, it is not asked again; after its start it is."""
    agreed(asked)
    asked.tell(events.PrepareFailed, "a", reason="no images", waiting_for="mount")
    asked.wait(3600.0)
    assert asked.of(actions.Prepare)[-1].accepted == "d1"
    asked.launch()
    asked.die(code=1)
    asked.wait(3600.0)
    assert asked.of(actions.Prepare)[-1].accepted == ""


def test_an_agreement_before_any_question_is_to_nothing():
    """Held for another reason, `--accept` covers no difference that comes later."""
    bench = Bench()
    bench.bring_to(Phase.HELD)
    assert agreed(bench) == ""


def test_a_trainer_that_tells_of_no_checkpoint_is_asked_at_once():
    """Where no saved epoch will ever be seen, `stop` does not wait for one, and says so."""
    bench = Bench()
    bench.submit(command=("x",))
    bench.launch()
    bench.tell(events.StopAsked, "a", by="ann")
    assert [one.how for one in bench.of(actions.Terminate)] == ["term"]
    assert "no checkpoint" in bench.run().reason


def test_the_grace_is_followed_by_kills():
    """What does not end within stop_grace is killed, again and again, and a person is told once."""
    bench = Bench(stop_grace_s=20.0)
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.CancelAsked, "a", by="ann")
    bench.wait(19.9)
    assert [one.how for one in bench.of(actions.Terminate)] == ["term"]
    bench.wait(0.1 + 300.0)
    hows = [one.how for one in bench.of(actions.Terminate)]
    assert hows == ["term"] + ["kill"] * 11
    assert bench.said("a").count("unkillable") == 1
    keys = [one.key for one in bench.of(actions.Terminate)]
    assert len(set(keys)) == len(keys)
    go_on(bench)
    assert bench.phase() is Phase.CANCELLED


def test_at_once_kills_at_once():
    """`stop --now` ends the whole tree without a grace."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.StopAsked, "a", by="ann", at_once=True)
    assert [one.how for one in bench.of(actions.Terminate)] == ["kill"]


@pytest.mark.parametrize(
    ("first", "second"), [("cancel", "stop"), ("cancel", "cancel"), ("kill", "stop"), ("kill", "cancel")]
)
def test_a_weaker_order_does_not_delay_the_end(first, second):
    """A second, gentler order changes what follows, but the grace goes on and the kill comes when it was due."""
    bench = Bench(stop_grace_s=20.0)
    bench.bring_to(Phase.RUNNING)
    orders = {
        "stop": (events.StopAsked, False, Phase.HELD),
        "cancel": (events.CancelAsked, False, Phase.CANCELLED),
        "kill": (events.StopAsked, True, Phase.HELD),
    }
    kind, at_once, _ = orders[first]
    bench.tell(kind, "a", by="ann", at_once=at_once)
    due_at = bench.run().deadline_at
    bench.wait(10.0)
    kind, at_once, then = orders[second]
    bench.tell(kind, "a", by="bob", at_once=at_once)
    assert bench.run().deadline_at == due_at
    bench.wait(40.0)
    assert bench.of(actions.Terminate)[-1].how == "kill"
    assert go_on(bench) is then


def test_a_stronger_order_counts_at_once():
    """A stop that waits for an epoch becomes a kill when a person says so."""
    bench = Bench()
    bench.bring_to(Phase.STOPPING)
    bench.tell(events.CancelAsked, "a", by="ann", at_once=True)
    assert [one.how for one in bench.of(actions.Terminate)] == ["kill"]
    assert go_on(bench) is Phase.CANCELLED


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.STARTING])
def test_an_order_before_the_start_is_carried_out_by_itself(phase):
    """What was ordered while the attempt was on its way up happens without another word."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.CancelAsked, "a", by="ann")
    assert go_on(bench) is Phase.CANCELLED
    assert len(bench.of(actions.Launch)) == (phase is Phase.STARTING)


def test_a_cancel_goes_before_a_refused_start():
    """The files refuse a start, but the person who cancelled does not want one any more."""
    bench = Bench()
    bench.submit()
    bench.tell(events.CancelAsked, "a", by="ann")
    bench.tell(events.Prepared, "a", start="refused", reason="last.pt is torn")
    assert bench.phase() is Phase.CANCELLED


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.STARTING, Phase.STOPPING, Phase.COOLING])
def test_resume_takes_a_stop_back(phase):
    """`resume` before the stop has happened: the run goes on by itself to its end."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.StopAsked, "a", by="ann")
    bench.tell(events.ResumeAsked, "a", by="ann")
    assert bench.run().wanted is Wanted.UP
    assert go_on(bench, finished=True) is Phase.SUCCEEDED


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.STARTING, Phase.COOLING])
def test_resume_does_not_take_a_cancel_back(phase):
    """A run that is being cancelled on its way up or down stays cancelled."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.CancelAsked, "a", by="ann")
    bench.tell(events.ResumeAsked, "a", by="bob")
    assert go_on(bench) is Phase.CANCELLED


@pytest.mark.parametrize("at_once", [False, True])
def test_a_held_run_with_leftovers_can_be_cancelled(at_once):
    """Held with its trainer dead and a child alive: the leftovers are ended, and the run is CANCELLED."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.Poisoned, "a", error="x")
    bench.tell(events.AttemptExited, "a", code=1)
    bench.tell(events.CancelAsked, "a", by="ann", at_once=at_once)
    assert [one.how for one in bench.of(actions.Terminate)] == ["kill"]
    bench.tell(events.AttemptCleared, "a")
    bench.tell(events.Examined, "a", finished=False)
    assert bench.phase() is Phase.CANCELLED


def test_a_held_run_whose_training_lives_can_be_cancelled():
    """Held by an internal error with the training alive: `cancel` ends it."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.Poisoned, "a", error="x")
    bench.tell(events.CancelAsked, "a", by="ann")
    assert bench.phase() is Phase.STOPPING
    bench.die(signal=9)
    assert bench.phase() is Phase.CANCELLED


def test_resume_of_a_held_run_whose_training_lives():
    """Held by an internal error with the training alive: `resume` takes it up again, nothing is started twice."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.Poisoned, "a", error="x")
    bench.tell(events.ResumeAsked, "a", by="ann")
    assert bench.phase() is Phase.RUNNING
    assert len(bench.of(actions.Launch)) == 1


def test_resume_refills_the_budget():
    """A person looked: the run has all its tries again."""
    bench = Bench()
    bench.submit()
    bench.launch()
    bench.die(code=1)
    bench.wait(700.0)
    bench.launch()
    bench.die(code=66)
    bench.tell(events.ResumeAsked, "a", by="ann")
    assert bench.run().failures == 0
