"""A training that stands still: a proven hang is written down and ended step by step; anything else is left alone."""

from __future__ import annotations

import pytest
from bench import Bench
from causes import known

from supervisor.core import actions, events
from supervisor.core.job import Restart, Stage
from supervisor.core.model import Phase, Wanted
from supervisor.core.policy import ABORT_S, AUTOPSY_S

HUNG = {"verdict": "hung", "phase": "train", "quiet_s": 900.0, "cause": "of-this-test", "text": "nothing has moved"}
GRACE_S = 20.0


@pytest.fixture
def bench(monkeypatch):
    """A run at work, and a cause of hangs that is tried again once."""
    known(monkeypatch, "retry", "hold")
    bench = Bench(stop_grace_s=GRACE_S)
    bench.bring_to(Phase.RUNNING)
    return bench


def hangs(bench, **fields):
    """The hang detector says that it hangs."""
    bench.tell(events.HangSeen, "a", **{**HUNG, **fields})


def signals(bench):
    """How the attempt was told to end, in order."""
    return [one.how for one in bench.of(actions.Terminate, "a")]


def how(bench):
    """How the present stop ends it; nothing without a stop."""
    return bench.run().stop.how if bench.run().stop is not None else ""


def told(bench):
    """The last message."""
    return bench.of(actions.Announce, "a")[-1]


# ---- what people read of it
DUMP = (
    "Fatal Python error: Aborted",
    "",
    "Current thread 0x00007f12 (most recent call first):",
    '  File "/a/loader.py", line 3 in get',
    "Extension modules: numpy (total: 1)",
)


@pytest.mark.parametrize("tail", [("epoch 3", *DUMP), ("epoch 3", *DUMP[3:])])
def test_a_hang_that_was_ended_is_told_as_a_hang(bench, tail):
    """Title, what was seen, what it did, what follows: no word of our own signals, nor of the stacks they brought."""
    hangs(bench)
    bench.tell(events.AutopsyDone, "a", summary="worker 3 reads img_0412.jpg")
    bench.die(signal=6, log_tail=tail, reason="killed by SIGABRT")
    message = told(bench)
    assert message.title == "a hung, was ended and is resumed"
    assert "Seen: nothing has moved\nAutopsy: worker 3 reads img_0412.jpg\nDone: " in message.text
    assert message.text.endswith("\nYou can: mend it.")
    assert message.facts["log"] == "epoch 3"
    assert "SIGABRT" not in message.text + bench.run().reason


def test_a_hang_that_is_held_says_so(bench, monkeypatch):
    """The same when nothing more can be tried; what to do comes first."""
    known(monkeypatch, "hold")
    hangs(bench)
    bench.die(signal=9, reason="killed by SIGKILL")
    assert told(bench).title == "a hung, was ended and is held"
    assert told(bench).todo == "mend it; then yolo-supervisor resume a"
    assert "SIGKILL" not in bench.run().reason


def test_the_cost_of_a_hang_counts_its_standstill_once(bench):
    """Seen when the detector saw it. What it says of its work is asked for until it last moved only."""
    bench.wait(1000.0)
    seen_at = bench.now
    hangs(bench)
    bench.wait(5.0)
    bench.die(signal=9, moved_at=seen_at - 900.0, seconds={"training": 100.0, "unsaved": 30.0})
    assert bench.of(actions.Examine, "a")[-1].moved_at == seen_at - 900.0
    one = bench.run().incidents[-1]
    assert (one.moved_at, one.seen_at, one.lost_s, one.hung) == (seen_at - 900.0, seen_at, 30.0, True)


def test_a_training_that_is_left_alone_is_no_hang_when_it_dies_later(bench):
    """It stood still, moved again, and died of something else: nothing of the standstill is left."""
    hangs(bench, verdict="stopped")
    assert bench.run().stalled_todo.startswith("if nobody debugs it: kill -CONT ")
    hangs(bench, verdict="moving")
    assert (bench.run().stalled, bench.run().stalled_todo, bench.run().attempt.moved_at) == ("", "", 0.0)
    bench.die(signal=9)
    assert bench.of(actions.Examine, "a")[-1].moved_at == 0.0
    assert not bench.run().incidents[-1].hung


# ---- the usual course
def test_the_whole_course_of_a_hang(bench):
    """Autopsy, SIGTERM, grace, SIGABRT, ten seconds, SIGKILL; then the hang's own remedy; then the next attempt."""
    hangs(bench)
    assert (bench.phase(), how(bench), signals(bench)) == (Phase.STOPPING, "autopsy", [])
    assert len(bench.of(actions.Autopsy, "a")) == 1
    bench.tell(events.AutopsyDone, "a", summary="worker 3 reads img_0412.jpg")
    assert signals(bench) == ["term"]
    bench.wait(GRACE_S)
    assert signals(bench) == ["term", "abort"]
    bench.wait(ABORT_S)
    assert signals(bench) == ["term", "abort", "kill"]
    bench.die(signal=9)
    incident = bench.run().incidents[-1]
    assert (incident.cause, incident.step, incident.seen) == ("of-this-test", "retry", "nothing has moved")
    assert incident.autopsy == "worker 3 reads img_0412.jpg"
    assert bench.phase() is Phase.COOLING
    bench.wait(60.0)
    assert bench.phase() is Phase.PREPARING


def test_the_time_to_detect_begins_when_it_last_moved(bench):
    """The incident tells when it stood still, not only when that was seen."""
    bench.wait(2000.0)
    hangs(bench)
    bench.tell(events.AutopsyDone, "a")
    bench.die(code=75)
    incident = bench.run().incidents[-1]
    assert incident.seen_at - incident.moved_at == pytest.approx(900.0)


@pytest.mark.parametrize("code", [0, 1, 75, 65])
def test_however_it_ends_then_it_hung(bench, code):
    """It obeys SIGTERM with whatever exit code: the cause is the hang, and it counts as a failure of that kind."""
    hangs(bench)
    bench.tell(events.AutopsyDone, "a")
    bench.die(code=code)
    assert bench.run().incidents[-1].cause == "of-this-test"
    assert bench.phase() is Phase.COOLING


def test_one_that_was_finished_all_the_same_is_finished(bench):
    """Proof of the training's own end counts more than how its process ended."""
    hangs(bench)
    bench.finish()
    assert bench.phase() is Phase.SUCCEEDED


def test_hanging_again_uses_up_the_plan(bench):
    """The second hang without an epoch in between takes the plan's next step, here a person."""
    for phase in (Phase.COOLING, Phase.HELD):
        hangs(bench)
        bench.die(signal=9)
        assert bench.phase() is phase
        if phase is Phase.COOLING:
            bench.wait(60.0)
            bench.launch(start="resume", from_epoch=1)


def test_one_that_hangs_when_all_epochs_are_done_gets_no_longer_grace(bench):
    """Fifteen minutes are for a last validation that works, not for one that hangs."""
    bench.save(10)
    hangs(bench)
    bench.tell(events.AutopsyDone, "a")
    bench.wait(GRACE_S)
    assert signals(bench) == ["term", "abort"]


def test_an_autopsy_that_never_answers_delays_the_end_a_little(bench):
    """It has half a minute; what it says later is kept, also when the incident is open already."""
    hangs(bench)
    bench.wait(AUTOPSY_S)
    assert signals(bench) == ["term"]
    bench.die(code=75)
    bench.tell(events.AutopsyDone, "a", summary="late words")
    assert bench.run().incidents[-1].autopsy == "late words"
    assert bench.phase() is Phase.COOLING


def test_a_verdict_that_comes_twice_counts_once(bench):
    """At any step of the end: no second autopsy, and nothing begins anew."""
    hangs(bench)
    for _ in range(4):
        before = bench.world
        hangs(bench)
        assert bench.world == before
        bench.now = bench.run().deadline_at
        bench.tell(events.TimePassed)
    assert len(bench.of(actions.Autopsy)) == 1


# ---- it moves again
@pytest.mark.parametrize("sign", ["progress", "verdict"])
def test_what_moves_again_before_it_is_asked_to_end_goes_on(bench, sign):
    """During the autopsy an epoch, or the detector itself, takes it all back."""
    hangs(bench)
    if sign == "progress":
        bench.save(2)
    else:
        bench.tell(events.HangSeen, "a", verdict="moving")
    assert (bench.phase(), how(bench)) == (Phase.RUNNING, "")
    bench.tell(events.AutopsyDone, "a", summary="x")
    bench.wait(60.0)
    assert (bench.phase(), signals(bench)) == (Phase.RUNNING, [])


def test_once_asked_to_end_it_is_ended(bench):
    """After SIGTERM a last sign of life takes nothing back: the trainer may already be on its way out."""
    hangs(bench)
    bench.tell(events.AutopsyDone, "a")
    bench.save(2)
    assert bench.phase() is Phase.STOPPING
    bench.die(code=75)
    assert bench.run().incidents[-1].cause == "of-this-test"


def test_it_may_hang_a_second_time(bench):
    """Taken back once, then proven anew: a second autopsy under another key."""
    hangs(bench)
    bench.save(2)
    hangs(bench)
    keys = [one.key for one in bench.of(actions.Autopsy, "a")]
    assert len(set(keys)) == 2
    assert how(bench) == "autopsy"


# ---- no hang
@pytest.mark.parametrize("verdict", ["stopped", "storage"])
def test_what_is_stopped_or_waits_for_storage_is_told_once_and_never_ended(bench, verdict):
    """However often it is said, in other words each time; and anew only after it moved."""
    for hour in range(1, 4):
        bench.tell(events.HangSeen, "a", verdict=verdict, text=f"nothing has moved for {hour}h", quiet_s=3600.0 * hour)
        bench.wait(3600.0)
    assert bench.said("a").count("stalled") == 1
    assert bench.run().stalled == "nothing has moved for 3h"
    assert (bench.phase(), signals(bench), bench.of(actions.Autopsy)) == (Phase.RUNNING, [], [])
    bench.save(2)
    assert bench.run().stalled == ""
    bench.tell(events.HangSeen, "a", verdict=verdict, text="again")
    assert bench.said("a").count("stalled") == 2


def test_a_verdict_without_words_is_told_too(bench):
    """How long it stood still, at least."""
    bench.tell(events.HangSeen, "a", verdict="storage", phase="val", quiet_s=7200.0)
    assert "2 h" in bench.run().stalled
    assert bench.said("a").count("stalled") == 1


def test_a_dead_attempt_does_not_stand_still(bench):
    """The end of the attempt ends the words about it."""
    bench.tell(events.HangSeen, "a", verdict="storage", text="waits for /data")
    bench.die(code=1)
    assert bench.run().stalled == ""


def test_a_persons_own_training_is_told_of_and_never_ended():
    """It is only watched: nothing of ours may end it, hung or not."""
    bench = Bench()
    bench.submit()
    bench.launch(start="watch")
    hangs(bench)
    bench.wait(7200.0)
    assert bench.said("a").count("stalled") == 1
    assert (bench.phase(), signals(bench), bench.of(actions.Autopsy)) == (Phase.RUNNING, [], [])


def test_a_late_verdict_about_an_older_attempt_does_nothing(bench):
    """The next attempt runs already: it is not ended for what the last one did."""
    bench.die(code=1)
    bench.wait(700.0)
    bench.launch(start="resume", from_epoch=1)
    before = bench.world
    hangs(bench, attempt=1)
    bench.tell(events.AutopsyDone, "a", attempt=1, summary="x")
    assert bench.world == before


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in {Phase.RUNNING, Phase.STOPPING}])
def test_only_what_runs_can_hang(monkeypatch, phase):
    """A verdict in any other phase, as while the start is not confirmed, changes nothing."""
    known(monkeypatch, "retry", "hold")
    bench = Bench()
    bench.bring_to(phase)
    before = bench.world
    hangs(bench)
    assert bench.world == before


# ---- people
def test_a_stop_that_waited_for_a_save_is_carried_out_on_a_hang(bench):
    """It would wait for ever: the training is ended, and then held as asked."""
    bench.tell(events.StopAsked, "a", by="ann")
    hangs(bench)
    assert how(bench) == "autopsy"
    bench.tell(events.AutopsyDone, "a")
    bench.die(code=75)
    assert (bench.phase(), bench.run().wanted) == (Phase.HELD, Wanted.HELD)
    assert "stopped by ann" in bench.run().reason


@pytest.mark.parametrize("before", [True, False])
def test_a_stop_is_not_forgotten_when_it_moves_again(bench, before):
    """Asked before the hang or during the autopsy: it waits for the next epoch again, and is held then."""
    if before:
        bench.tell(events.StopAsked, "a", by="ann")
    hangs(bench)
    if not before:
        bench.tell(events.StopAsked, "a", by="ann")
    bench.tell(events.HangSeen, "a", verdict="moving")
    assert (bench.phase(), how(bench), signals(bench)) == (Phase.STOPPING, "save", [])
    bench.save(2)
    assert signals(bench) == ["term"]
    bench.die(code=75)
    assert bench.phase() is Phase.HELD


def test_the_epoch_that_shows_that_it_moves_is_the_one_that_was_waited_for(bench):
    """A saved epoch during the autopsy of a training that was to be stopped at its next save: now."""
    bench.tell(events.StopAsked, "a", by="ann")
    hangs(bench)
    bench.save(2)
    assert signals(bench) == ["term"]
    bench.die(code=75)
    assert bench.phase() is Phase.HELD
    assert bench.run().incidents == ()


@pytest.mark.parametrize("at_once", [False, True])
def test_a_cancel_during_the_autopsy(bench, at_once):
    """It ends now, by the steps for what hangs, and is cancelled."""
    hangs(bench)
    bench.tell(events.CancelAsked, "a", by="ann", at_once=at_once)
    assert signals(bench) == ["kill" if at_once else "term"]
    bench.tell(events.AutopsyDone, "a", summary="x")
    bench.wait(GRACE_S + ABORT_S)
    assert signals(bench)[-1] == "kill"
    bench.die(signal=9)
    assert bench.phase() is Phase.CANCELLED


def test_a_stop_now_during_the_autopsy(bench):
    """`stop --now` does not wait for the autopsy."""
    hangs(bench)
    bench.tell(events.StopAsked, "a", by="ann", at_once=True)
    assert signals(bench) == ["kill"]
    bench.die(signal=9)
    assert bench.phase() is Phase.HELD
    assert [(one.cause, one.step) for one in bench.run().incidents] == [("of-this-test", "stop")]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_drain_during_the_autopsy(bench, at_once):
    """The hang is still what it died of; the next attempt starts when the drain is over."""
    hangs(bench)
    bench.tell(events.DrainAsked, by="ann", at_once=at_once)
    bench.tell(events.AutopsyDone, "a")
    bench.die(signal=9)
    assert bench.run().incidents[-1].cause == "of-this-test"
    bench.wait(60.0)
    assert (bench.phase(), bench.run().waiting_for) == (Phase.QUEUED, "drain")
    bench.tell(events.DrainAsked, by="ann", off=True)
    assert bench.phase() is Phase.PREPARING


def test_a_drain_that_waited_for_a_save_waits_again_when_it_moves(bench):
    """The drain is still on: the training that moves again ends at its next epoch. Without a drain it just goes on."""
    bench.tell(events.DrainAsked, by="ann")
    hangs(bench)
    bench.tell(events.HangSeen, "a", verdict="moving")
    assert how(bench) == "save"
    hangs(bench)
    bench.tell(events.DrainAsked, by="ann", off=True)
    bench.tell(events.HangSeen, "a", verdict="moving")
    assert (bench.phase(), how(bench)) == (Phase.RUNNING, "")


@pytest.mark.parametrize("ended", [False, True])
def test_a_resume_takes_back_the_stop_and_not_the_hang(bench, ended):
    """What hangs is ended all the same; then it goes on, because somebody wants that."""
    hangs(bench)
    bench.tell(events.StopAsked, "a", by="ann")
    bench.tell(events.AutopsyDone, "a")
    if ended:
        bench.tell(events.AttemptExited, "a", signal=9)
    bench.tell(events.ResumeAsked, "a", by="ann")
    assert bench.run().wanted is Wanted.UP
    bench.die(signal=9)
    assert bench.run().incidents[-1].cause == "of-this-test"
    assert bench.phase() is Phase.COOLING


def test_the_time_limit_still_pages_when_it_hangs(bench):
    """Over its time limit and hung while it finished its epoch: held by the limit, and somebody is paged."""
    bench = Bench(stop_grace_s=GRACE_S)
    bench.bring_to(Phase.RUNNING, time_limit_s=1000.0)
    bench.wait(1000.0)
    hangs(bench)
    bench.tell(events.AutopsyDone, "a")
    bench.die(signal=9)
    assert bench.phase() is Phase.HELD
    assert "time limit" in bench.run().reason
    assert [one.severity for one in bench.of(actions.Announce) if one.what == "held"] == ["page"]


@pytest.mark.parametrize("when", ["stopped", "hung"])
def test_a_stage_does_not_take_a_stop_back(bench, when):
    """The epoch before a stage is saved while the training is being ended for another reason: that reason stays."""
    bench.submit("b", stages=(Stage(from_epoch=3, args={"batch": 2}),))
    bench.launch("b")
    bench.save(1, "b")
    if when == "stopped":
        bench.tell(events.CancelAsked, "b", by="ann")
    else:
        bench.tell(events.HangSeen, "b", **HUNG)
        bench.tell(events.AutopsyDone, "b")
    bench.save(2, "b")
    bench.die("b", signal=9)
    assert bench.phase("b") is (Phase.CANCELLED if when == "stopped" else Phase.COOLING)


def test_an_unknown_cause_of_a_hang_is_tried_like_any_failure(bench):
    """A detector that names a cause which no table has: still ended, still tried again, still bounded."""
    bench.submit("b", restart=Restart(no_progress=2))
    for phase in (Phase.COOLING, Phase.FAILED):
        bench.launch("b")
        bench.tell(events.HangSeen, "b", **{**HUNG, "cause": "hang-of-the-future"})
        bench.tell(events.AutopsyDone, "b")
        bench.die("b", signal=9)
        assert bench.phase("b") is phase
        bench.wait(700.0)


def test_the_course_is_the_same_in_a_replay(bench):
    """A daemon that is killed in the middle goes on from its journal."""
    hangs(bench)
    bench.tell(events.StopAsked, "a", by="ann")
    bench.tell(events.HangSeen, "a", verdict="moving")
    hangs(bench)
    bench.wait(AUTOPSY_S + GRACE_S)
    assert bench.replayed() == bench.world
