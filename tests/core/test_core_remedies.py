"""Cause → Remedy: plans are used up step by step, refilled by progress, and every run without progress comes to rest."""

from __future__ import annotations

import pytest
from bench import Bench, make_job
from causes import found, known, sign, signs
from msgspec.structs import replace

from supervisor.core import actions, events
from supervisor.core.diagnosis.evidence import Disk, Evidence, Spent
from supervisor.core.diagnosis.remedies import WINDOW_S, Remedy, choose
from supervisor.core.job import Restart
from supervisor.core.model import Attempt, Phase, Policy, Progress, Run

DAY_S = 86_400.0
SILENT = Evidence()
POLICY = Policy(gpu_count=4)


def a_run(*, saved: int = 0, failed_at: int = 0, train: dict | None = None, **restart: object) -> Run:
    """A run that has saved so many epochs, with a budget of plain tries that is not in the way."""
    arguments = {"model": "/m.yaml", "data": "/d.yaml", "epochs": 300, **(train or {})}
    job = make_job(train=arguments, restart=Restart(**{"no_progress": 50, **restart}), gpus=1)
    return Run(
        id="a@1",
        job=job,
        phase=Phase.COOLING,
        created_at=0.0,
        phase_since=0.0,
        attempts=1,
        attempt=Attempt(number=1, token=1, gpus=(0,)),
        progress=Progress(saved_epoch=saved, epoch=saved),
        failed_at_epoch=failed_at,
        kept_epoch=saved,
    )


def after(run: Run, remedy: Remedy, *, mark: str = "") -> Run:
    """The run as the core leaves it after that remedy."""
    changes = (*(one for one in run.changes if remedy.change is None or one.name != remedy.change.name),)
    changes = (*changes, remedy.change) if remedy.change is not None else changes
    return replace(
        run,
        failures=remedy.failures,
        failed_at_epoch=max(run.progress.saved_epoch, run.failed_at_epoch),
        spent=remedy.spent,
        last_failure=mark,
        changes=changes,
        attempts=run.attempts + 1,
    )


def course(run: Run, diagnosis, count: int, *, evidence: Evidence = SILENT, gap_s: float = 60.0) -> list[str]:
    """The steps that follow so many failures of that kind."""
    steps, now = [], 1000.0
    for _ in range(count):
        remedy = choose(run, diagnosis, evidence, POLICY, now)
        steps.append(remedy.step)
        run, now = after(run, remedy, mark=diagnosis.mark), now + gap_s
    return steps


# ---- a plan
def test_a_wait_for_the_disk_says_which_one():
    """The run's reason, and so the message, `ls` and `why`, have what is free there and what is needed."""
    full = Disk(path="/c", what="checkpoints", free_bytes=1, lack="1 byte is free under /c")
    evidence = Evidence(disks=(Disk(path="/r", what="runs", free_bytes=9), full))
    taken = choose(a_run(), found("wait-disk", "hold"), evidence, POLICY, 1000.0)
    assert taken.waiting_for == "disk"
    assert taken.reason.startswith("1 byte is free under /c; ")
    assert "1 byte" not in choose(a_run(), found("wait-memory", "hold"), evidence, POLICY, 1000.0).reason


def test_a_plan_is_used_up_step_by_step():
    """Each failure without an epoch in between takes the next step; the last one is an end, and stays one."""
    plan = found("retry", "backoff*2", "wait-disk", "workers", "hold")
    steps = course(a_run(), plan, 7)
    assert steps == ["retry", "backoff", "backoff", "wait-disk", "workers", "hold", "hold"]


def test_an_end_says_what_a_person_can_do():
    """The fix of the cause, in words; and that everything else was tried, where that is so."""
    at_once = choose(a_run(), found("fail"), SILENT, POLICY, 0.0)
    assert (at_once.step, at_once.reason, at_once.fix) == ("fail", "", "mend it")
    run = replace(a_run(), spent={"of-this-test": Spent(place=1, at=0.0)})
    assert choose(run, found("retry", "hold"), SILENT, POLICY, 1.0).reason.startswith("all that may be tried was tried")


def test_an_end_says_what_was_never_tried_and_why():
    """Nothing applied: that is not called a try. Rungs with the same reason are told together."""
    plan = found("batch*3", "imgsz", "checkpoint", "hold")
    nothing = choose(a_run(), plan, SILENT, POLICY, 0.0)
    expected = "(batch, imgsz: not in restart.remedies; checkpoint: no older one is known)"
    assert nothing.reason == f"nothing can be tried here {expected}"
    run = replace(a_run(), spent={"of-this-test": Spent(place=1, at=0.0)})
    later = choose(run, found("retry", *plan.steps), SILENT, POLICY, 1.0)
    assert later.reason == f"nothing more can be tried here {expected}"
    command = replace(a_run(), job=replace(a_run().job, train=None, command=("x",)))
    assert (
        "workers: the arguments of a command are its own"
        in choose(command, found("workers", "hold"), SILENT, POLICY, 0.0).reason
    )


def test_progress_refills_every_plan():
    """An epoch saved since the last failure: what was used up of any cause counts no more."""
    spent = {"of-this-test": Spent(place=2, at=0.0), "another": Spent(place=5, at=0.0)}
    run = replace(a_run(saved=4, failed_at=3), spent=spent)
    remedy = choose(run, found("retry", "backoff", "hold"), SILENT, POLICY, 1.0)
    assert remedy.step == "retry"
    assert set(remedy.spent) == {"of-this-test"}


@pytest.mark.parametrize(("gap_s", "step"), [(WINDOW_S - 1, "hold"), (WINDOW_S, "retry")])
def test_a_plan_begins_anew_after_a_day(gap_s, step):
    """Without an epoch in between: the last step must lie a whole day back."""
    run = replace(a_run(), spent={"of-this-test": Spent(place=1, at=1000.0)})
    assert choose(run, found("retry", "hold"), SILENT, POLICY, 1000.0 + gap_s).step == step


def test_each_cause_has_a_budget_of_its_own():
    """Another cause in between uses up nothing, and is not used up."""
    run = a_run()
    for name, step in (("one", "retry"), ("other", "retry"), ("one", "backoff"), ("other", "backoff"), ("one", "hold")):
        remedy = choose(run, found("retry", "backoff", "hold", name=name), SILENT, POLICY, 1.0)
        assert remedy.step == step
        run = after(run, remedy)


def test_no_progress_bounds_plain_tries_of_all_causes():
    """However long the plans are: so many plain tries in a row without an epoch, of whatever causes; then the end."""
    run = a_run(no_progress=3)
    for name, step in (("one", "backoff"), ("other", "retry"), ("third", "hold")):
        plan = ("retry", "hold") if name == "other" else ("backoff*20", "hold")
        remedy = choose(run, found(*plan, name=name), SILENT, POLICY, 1.0)
        assert remedy.step == step
        run = after(run, remedy)
    assert "no_progress = 3" in remedy.reason


def test_a_change_is_a_new_try():
    """After a rung the plain tries are counted from the beginning; after a wait they are neither fewer nor more."""
    plan = found("backoff", "wait-disk", "workers", "backoff", "hold")
    run, counts = a_run(no_progress=3), []
    for _ in range(4):
        remedy = choose(run, plan, SILENT, POLICY, 1.0)
        counts.append((remedy.step, remedy.failures))
        run = after(run, remedy)
    assert counts == [("backoff", 1), ("wait-disk", 1), ("workers", 0), ("backoff", 1)]


def test_retry_is_at_once_and_backoff_waits():
    """Both within their bounds; after progress neither waits."""
    retry, later = (
        choose(a_run(backoff_s=100.0), found(step, "hold"), SILENT, POLICY, 1.0) for step in ("retry", "backoff")
    )
    assert retry.delay_s == 1.0
    assert 1.0 <= later.delay_s <= 100.0
    progressed = a_run(saved=2, failed_at=1)
    assert {choose(progressed, found(step, "hold"), SILENT, POLICY, 1.0).delay_s for step in ("retry", "backoff")} == {
        0
    }


# ---- what can be done
@pytest.mark.parametrize("step", ["batch", "imgsz", "freeze"])
def test_what_changes_the_result_is_only_done_where_the_job_names_it(step):
    """Without the job's word the plan goes on with its next step."""
    plan = found(step, "retry", "hold")
    assert course(a_run(), plan, 2) == ["retry", "hold"]
    assert course(a_run(remedies=(step,)), plan, 1) == [step]


def test_a_rung_with_nothing_left_to_change_is_left_out():
    """A training without workers cannot do with fewer."""
    plan = found("workers*3", "retry", "hold")
    assert course(a_run(train={"workers": 0}), plan, 2) == ["retry", "hold"]
    assert course(a_run(train={"workers": 2}), plan, 4) == ["workers", "workers", "retry", "hold"]


def test_a_mount_is_waited_for_only_if_it_is_gone():
    """Data that are missing though their mount is there do not come back by waiting."""
    plan = found("wait-mount", "fail")
    assert course(a_run(), plan, 1) == ["fail"]
    gone = choose(a_run(), plan, Evidence(unmounted=("/data", "/more")), POLICY, 1.0)
    assert (gone.step, gone.waiting_for) == ("wait-mount", "mount: /data")


def test_going_back_distrusts_the_newest_checkpoint():
    """From the epoch on that it failed with, nothing is used."""
    remedy = choose(a_run(saved=7, failed_at=7), found("checkpoint", "hold"), SILENT, POLICY, 1.0)
    assert (remedy.step, remedy.distrust_from) == ("checkpoint", 7)
    assert course(a_run(saved=1, failed_at=1), found("checkpoint", "hold"), 1) == ["hold"]


def test_a_users_first_step_is_taken_first_even_if_it_is_an_end():
    """Their rule says hold, or fail: it is, whatever the cause's plan would have tried and how that would have ended."""
    for step in ("hold", "fail"):
        own = found("retry", "workers", "hold" if step == "fail" else "fail", first=(step,))
        assert choose(a_run(saved=2), own, SILENT, POLICY, 1.0).step == step
    assert course(a_run(), found("retry", "hold", first=("wait-disk",)), 3) == ["wait-disk", "retry", "hold"]


def test_all_changed_and_still_further_each_time_goes_on():
    """Nothing is left to change: with an epoch saved since the last failure it is tried again, without one it ends."""
    plan = found("workers*3", "hold")
    bare = {"train": {"workers": 0}}
    assert choose(a_run(saved=3, failed_at=2, **bare), plan, SILENT, POLICY, 1.0).step == "backoff"
    assert choose(a_run(saved=3, failed_at=3, **bare), plan, SILENT, POLICY, 1.0).step == "hold"


# ---- the same place twice
def test_the_same_place_twice_is_no_chance():
    """What looks like chance ends when it comes again at the same place; the place is named."""
    plan = found("backoff*20", "fail", random=True, mark="m")
    assert course(a_run(), plan, 2) == ["backoff", "fail"]
    remedy = choose(replace(a_run(), last_failure="m"), plan, SILENT, POLICY, 1.0)
    assert "at the same place twice (epoch 1)" in remedy.reason


@pytest.mark.parametrize(
    ("mark", "random", "saved"),
    [("other", True, 0), ("", True, 0), ("m", False, 0), ("m", True, 1)],
    ids=["another place", "no place", "not random", "progress in between"],
)
def test_anything_else_twice_goes_on(mark, random, saved):
    """Another place, a place that is not known, a cause that is not random anyway, or an epoch saved in between."""
    run = replace(a_run(saved=saved), last_failure="m" if mark else "")
    assert choose(run, found("backoff*20", "fail", random=random, mark=mark), SILENT, POLICY, 1.0).step == "backoff"


# ---- whole runs
def dead(bench: Bench, evidence: Evidence, **how: object) -> None:
    """The attempt dies and leaves that."""
    bench.die(**{"code": 1, "evidence": evidence, **how})


def up_again(bench: Bench, wait_s: float = 700.0) -> None:
    """Whatever it waits for is over: the next attempt runs."""
    bench.wait(wait_s)
    saved = bench.run().progress.saved_epoch
    bench.launch(start="resume" if saved else "fresh", from_epoch=saved)


def test_five_unrelated_failures_in_three_weeks_end_nothing(monkeypatch):
    """Each plan allows one try only, but weeks and epochs lie between the failures."""
    names = [known(monkeypatch, "retry", "hold", name=f"cause-{number}") for number in range(5)]
    bench = Bench()
    bench.submit(restart=Restart(no_progress=1))
    bench.launch()
    for number, name in enumerate([*names, *names]):
        bench.save(number + 1, epochs=300)
        dead(bench, signs(name))
        assert bench.phase() is Phase.COOLING
        up_again(bench)
        bench.wait(2 * DAY_S)
    assert bench.phase() is Phase.RUNNING


def test_a_wait_shows_what_it_waits_for_and_ends_with_it(monkeypatch):
    """COOLING with its reason; the news that it is back starts the next attempt at once; told once."""
    known(monkeypatch, "wait-memory", "hold")
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    dead(bench, signs("of-this-test"))
    assert (bench.phase(), bench.run().waiting_for) == (Phase.COOLING, "memory")
    assert bench.said("a").count("waits") == 1
    bench.tell(events.WaitOver, "a", what="disk")
    assert bench.phase() is Phase.COOLING
    bench.tell(events.WaitOver, "a", what="memory")
    assert bench.phase() is Phase.PREPARING
    assert "it is back" in bench.run().reason


@pytest.mark.parametrize(
    ("order", "fields", "phase"),
    [
        (events.StopAsked, {}, Phase.HELD),
        (events.StopAsked, {"at_once": True}, Phase.HELD),
        (events.CancelAsked, {}, Phase.CANCELLED),
    ],
)
def test_a_person_need_not_wait_for_a_wait(monkeypatch, order, fields, phase):
    """Nothing runs: an order is carried out at once, and news of what it waited for changes nothing any more."""
    known(monkeypatch, "wait-memory", "hold")
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    dead(bench, signs("of-this-test"))
    bench.tell(order, "a", by="ann", **fields)
    assert bench.phase() is phase
    bench.tell(events.WaitOver, "a", what="memory")
    assert bench.phase() is phase


def test_a_wait_that_is_over_during_a_drain_waits_for_the_drain(monkeypatch):
    """It is back, but nothing is started now."""
    known(monkeypatch, "wait-memory", "hold")
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    dead(bench, signs("of-this-test"))
    bench.tell(events.DrainAsked, by="ann")
    bench.tell(events.WaitOver, "a", what="memory")
    assert (bench.phase(), bench.run().waiting_for) == (Phase.QUEUED, "drain")


def test_a_change_is_launched_shown_and_taken_back(monkeypatch):
    """The next launch carries it; `resume --undo-changes` and an edit of the job file take it back."""
    known(monkeypatch, "workers*3", "hold")
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    for workers in (4, 2):
        dead(bench, signs("of-this-test"))
        up_again(bench)
        assert bench.of(actions.Launch)[-1].changes == {"workers": workers}
    assert [one.name for one in bench.run().changes] == ["workers"]
    bench.tell(events.UndoAsked, "a", by="ann")
    assert (bench.run().changes, bench.run().spent) == ((), {})
    assert "ann took the changes back" in bench.run().reason
    dead(bench, signs("unheard-of"))
    up_again(bench)
    assert bench.of(actions.Launch)[-1].changes == {}


def test_going_back_is_ordered_once(monkeypatch):
    """The next preparation is told what not to use; when a start was chosen, the order is done."""
    known(monkeypatch, "checkpoint", "hold")
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.save(5)
    bench.tell(events.Kept, "a", attempt=1, epoch=5, file="x")
    dead(bench, signs("of-this-test"))
    bench.wait(700.0)
    assert bench.of(actions.Prepare)[-1].distrust_from == 5
    bench.launch(start="resume", from_epoch=4)
    assert bench.run().distrust_from == 0


def test_a_person_who_resumes_gives_every_plan_back(monkeypatch):
    """Held at the end of a plan, looked at, resumed: it is tried again as if nothing had been tried."""
    known(monkeypatch, "retry", "hold", random=True)
    bench = Bench()
    bench.submit()
    bench.launch()
    exact = signs("of-this-test", epoch=1, batch=2, exact=True)
    for expected in (Phase.COOLING, Phase.HELD):
        dead(bench, exact)
        assert bench.phase() is expected
        if expected is Phase.COOLING:
            up_again(bench)
    bench.tell(events.ResumeAsked, "a", by="ann")
    bench.launch()
    dead(bench, exact)
    assert bench.phase() is Phase.COOLING


def test_an_interruption_after_progress_gives_the_plans_back():
    """Saved an epoch, then stopped from outside: the failures before that epoch do not count against what follows."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=2))
    bench.launch()
    dead(bench, SILENT)
    up_again(bench)
    bench.save(1)
    bench.die(code=75)
    up_again(bench)
    dead(bench, SILENT)
    assert (bench.phase(), bench.run().failures) == (Phase.COOLING, 1)


def test_a_rule_of_the_user_decides_what_is_tried_first():
    """A cause of their own with a wait: it waits first, and then it is tried like any failure."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=2))
    own = Evidence(signs=(sign("our-storage", rule="ours", remedy="wait-disk", means="our storage is away"),))
    expected = [("disk", Phase.COOLING), ("", Phase.COOLING), ("", Phase.FAILED)]
    for waits, phase in expected:
        bench.launch()
        dead(bench, own)
        assert (bench.run().waiting_for, bench.phase()) == (waits, phase)
        bench.wait(700.0)
    assert "our storage" in bench.run().reason
    assert bench.run().incidents[-1].means == "our storage is away"


def test_a_death_after_the_last_epoch_is_made_good_once():
    """Whatever it died of: all epochs are saved, so the trainer's own ending is repeated at once; a second time is none."""
    deadly, progress = found("hold", name="deadly"), Progress(epoch=9, epochs=9, saved_epoch=9)
    first, second = Attempt(number=1, token=1, from_epoch=4), Attempt(number=2, token=2, from_epoch=9, start="finish")
    run = replace(a_run(saved=9, failed_at=9), progress=progress)
    assert choose(replace(run, attempt=first), deadly, SILENT, POLICY, 1.0).step == "retry"
    assert choose(replace(run, attempt=second), deadly, SILENT, POLICY, 1.0).step == "hold"
