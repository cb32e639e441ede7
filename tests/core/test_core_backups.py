"""What is backed up when, and what becomes of failures, readings and rehearsals."""

from __future__ import annotations

import pytest
from bench import Bench
from msgspec.structs import replace

from supervisor.core import actions, events
from supervisor.core.backups import causes, outcomes, targets
from supervisor.core.backups.model import STATE, TargetPolicy
from supervisor.core.model import Phase

NAS, S3 = TargetPolicy(name="nas"), TargetPolicy(name="s3")


@pytest.fixture
def bench():
    """A server with one target."""
    return Bench(backups=(NAS,))


def sent(ordered, kind=actions.BackUp):
    """Of these actions those of a kind."""
    return [one for one in ordered if isinstance(one, kind)]


def nas(bench):
    """The target."""
    return bench.world.targets["nas"]


def answer(bench, action, kind=events.BackedUp, **fields):
    """An action of a target is answered."""
    if kind is events.BackedUp:
        fields = {"snapshot": "snap-1", "ended": action.ended, **fields}
    return bench.tell(kind, target=action.target, answers=action.key, **{"run": action.run, **fields})


def trained(bench, name="a", epoch=1):
    """A run that trains and has saved and kept an epoch."""
    bench.submit(name)
    bench.launch(name)
    bench.save(epoch, name)
    kept(bench, epoch, name)


def kept(bench, epoch, name="a", **more):
    """A copy of that epoch stands in the ledger."""
    return bench.tell(events.Kept, name, attempt=1, epoch=epoch, file=f"epoch{epoch}-attempt1.pt", **more)


# ---- becoming due
def test_the_schedule_sends_what_changed_and_the_journal_one_after_the_other(bench):
    """One at a time on each target; a run that nothing happened to since its backup is not sent again."""
    trained(bench)
    (first,) = sent(bench.tell(events.BackupDue, target="nas"))
    (second,) = sent(answer(bench, first, kept_epoch=1))
    assert {first.run, second.run} == {STATE, "a@1"}
    assert not sent(answer(bench, second, kept_epoch=1))
    bench.wait(10)
    (again,) = sent(bench.tell(events.BackupDue, target="nas"))
    assert again.run == STATE
    assert not sent(answer(bench, again)), "nothing happened to the run"
    bench.save(2)
    (journal,) = sent(bench.tell(events.BackupDue, target="nas"))
    (changed,) = sent(answer(bench, journal)) if journal.run == STATE else [journal]
    assert changed.run == "a@1"


def test_a_run_that_never_began_is_in_the_journal_only(bench):
    """There is no directory of it."""
    bench.submit("later", start_after_at=bench.now + 1e6)
    (first,) = sent(bench.tell(events.BackupDue, target="nas"))
    assert first.run == STATE
    assert not sent(answer(bench, first))


def test_a_new_best_is_sent_at_once(bench):
    """Without the schedule, to every target that wants that; any other copy waits for the schedule."""
    trained(bench)
    assert not kept(bench, 2)
    (order,) = sent(kept(bench, 3, best=True))
    assert (order.run, order.target, order.why) == ("a@1", "nas", "a new best")
    other = Bench(backups=(replace(NAS, on_best=False),))
    trained(other)
    assert not sent(kept(other, 3, best=True))


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED])
def test_the_end_of_a_run_is_backed_up(bench, phase):
    """However it ended: what it left is final, and is sent with that said."""
    bench.bring_to(phase)
    (order,) = [one for one in sent(bench.ordered) if one.ended]
    assert (order.run, order.phase) == ("a@1", phase.value)
    answer(bench, order)
    assert bench.world.ended["a@1"].backups["nas"].ended
    assert not nas(bench).due


def test_a_run_that_ends_while_it_is_sent_is_sent_once_more(bench):
    """That backup holds what was there before the end."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    bench.finish()
    (again,) = sent(answer(bench, order))
    assert again.ended


def test_a_person_is_obeyed_in_quiet_hours(bench):
    """The schedule and new bests wait until they are over."""
    trained(bench)
    bench.tell(events.QuietSeen, target="nas", quiet=True)
    assert not sent(bench.tell(events.BackupDue, target="nas"))
    (asked,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1", accept=True))
    assert (asked.why, asked.accept) == ("ann", True)
    assert not sent(answer(bench, asked))
    (journal,) = sent(bench.tell(events.QuietSeen, target="nas", quiet=False))
    assert journal.run == STATE


def test_a_job_chooses_its_targets():
    """All without a word, none with an empty list."""
    bench = Bench(backups=(NAS, S3))
    for name, backup in (("all", None), ("one", ("s3",)), ("none", ())):
        bench.submit(name, backup=backup)
        bench.launch(name)
    runs = {run.name: run for run in bench.world.live.values()}
    found = {name: targets.of_run(bench.world, run) for name, run in runs.items()}
    assert found == {"all": ("nas", "s3"), "one": ("s3",), "none": ()}
    assert not targets.covered(bench.world, runs["none"])


def test_two_targets_do_not_wait_for_each_other():
    """A target that answers nothing has its own lane; the other one gets all that is due."""
    bench = Bench(backups=(NAS, S3))
    trained(bench)
    first = sent(bench.tell(events.BackupAsked, by="ann"))
    assert {one.target for one in first} == {"nas", "s3"}
    (s3,) = [one for one in first if one.target == "s3"]
    (more,) = sent(answer(bench, s3))
    assert more.target == "s3"


def test_covered_is_what_is_verified_on_every_target():
    """The newest epoch of the ledger lies there; one target that lacks it is enough to say no."""
    bench = Bench(backups=(NAS, S3))
    trained(bench, epoch=3)
    orders = {one.target: one for one in sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))}
    answer(bench, orders["nas"], epoch=3, kept_epoch=3)
    assert not targets.covered(bench.world, bench.run("a"))
    answer(bench, orders["s3"], epoch=3, kept_epoch=3)
    assert targets.covered(bench.world, bench.run("a"))
    kept(bench, 4)
    assert not targets.covered(bench.world, bench.run("a"))


# ---- failures
def test_a_dead_target_is_an_incident_and_no_loop(bench):
    """Nothing is sent there before one try succeeds; tries come ever later; it is told once, and its end too."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann"))
    told = answer(bench, order, events.BackupFailed, cause="full", text="no space left")
    (page,) = sent(told, actions.Announce)
    assert (page.severity, page.what) == ("page", "backup-failed")
    assert "no room" in page.title
    assert "no space left" in page.text
    assert page.todo
    waits = []
    for _ in range(6):
        at = bench.now
        (order,) = sent(bench.wait(nas(bench).retry_at - bench.now))
        waits.append(bench.now - at)
        assert not sent(answer(bench, order, events.BackupFailed, cause="full", text="x"), actions.Announce)
    assert waits == sorted(waits)
    assert waits[-1] == outcomes.LONGEST_WAIT_S
    (order,) = sent(bench.wait(nas(bench).retry_at - bench.now))
    after = answer(bench, order)
    assert [one.what for one in sent(after, actions.Announce)] == ["backup-ok"]
    assert sent(after), "the rest is sent now"


def test_a_network_that_fails_once_wakes_nobody(bench):
    """What passes by itself is told after some failures in a row."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    for number in range(1, 4):
        told = answer(bench, order, events.BackupFailed, cause="unreachable", text="no route")
        assert bool(sent(told, actions.Announce)) is (number == outcomes.TOLD_AFTER)
        if number < 3:
            (order,) = sent(bench.wait(nas(bench).retry_at - bench.now))


def test_a_run_in_trouble_does_not_stop_the_others(bench):
    """Its files shrank: a person is told, it is tried again later; the target is well and gets the rest."""
    trained(bench)
    trained(bench, "b")
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    told = answer(bench, order, events.BackupFailed, cause="shrunken", text="3 of 40 files are left")
    (page,) = sent(told, actions.Announce)
    assert "--accept-loss" in page.todo
    assert "a" in page.title
    assert not nas(bench).cause
    (other,) = sent(bench.tell(events.BackupAsked, by="ann", run="b@1"))
    answer(bench, other)
    (again,) = sent(bench.wait(3600))
    assert again.run == "a@1"
    assert not sent(answer(bench, again, events.BackupFailed, cause="shrunken", text="x"), actions.Announce)
    (asked,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1", accept=True))
    after = answer(bench, asked)
    assert [one.what for one in sent(after, actions.Announce)] == ["backed-up"]


def test_a_stop_of_ours_is_no_failure(bench):
    """The daemon ended while it sent something: it is gone on with, and nobody is told."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    assert not answer(bench, order, events.BackupFailed, cause="stopped", text="x")
    assert not nas(bench).failures
    assert sent(bench.wait(5))


def test_an_ended_run_without_a_folder_is_told_until_a_person_agrees(bench):
    """Its disk may only be away. Who deleted it on purpose says so; what was pruned is asked for by nobody."""
    bench.bring_to(Phase.CANCELLED)
    (order,) = [one for one in sent(bench.ordered) if one.ended]
    told = answer(bench, order, events.BackupFailed, cause="empty", text="gone")
    assert [one.what for one in sent(told, actions.Announce)] == ["unbacked"]
    assert sent(bench.wait(3600)), "its disk may be back"
    assert not bench.tell(events.BackupAsked, by="ann", run="a@1", accept=True), "one is under way"
    (asked,) = sent(answer(bench, sent(bench.ordered)[-1], events.BackupFailed, cause="empty", text="gone"))
    assert asked.accept
    answer(bench, asked, events.BackupFailed, cause="empty", text="gone")
    assert not nas(bench).due
    (journal,) = sent(bench.tell(events.BackupDue, target="nas"))
    assert not sent(answer(bench, journal))


def test_the_successor_of_a_run_has_its_token():
    """A retried run that has not begun: what lies there is of the attempt before, whose token is the newest."""
    bench = Bench(backups=(NAS,), max_running=1)
    bench.bring_to(Phase.FAILED)
    bench.submit("other")
    token = bench.world.ended["a@1"].attempt.token
    for one in sent(bench.ordered):
        answer(bench, one)
    bench.tell(events.RetryAsked, run="a@1", by="ann")
    assert bench.world.named("a").id == "a@2"
    orders = sent(bench.tell(events.BackupAsked, by="ann", run="a@2"))
    assert [(one.run, one.token) for one in orders] == [("a@2", token)]


def test_a_target_that_is_not_configured_any_more_is_forgotten(bench):
    """Its answer may come late."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    bench.tell(events.Configured, policy=replace(bench.world.policy, backups=(S3,)))
    assert not sent(answer(bench, order))
    assert list(bench.world.targets) == ["s3"]


# ---- reading again, rehearsing
def test_damaged_files_are_told_and_their_run_is_sent_anew(bench):
    """Once per file; what is known of its backup there counts no longer."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    answer(bench, order, epoch=1, kept_epoch=1)
    (reading,) = sent(bench.tell(events.VerifyAsked, target="nas", by="ann", whole=True), actions.VerifyBackup)
    assert reading.whole
    damaged = ("runs/default/a/snap-000001-20261122T183000Z-00000000/good/epoch1-attempt1.pt",)
    told = answer(bench, reading, events.BackupVerified, files=3, damaged=damaged)
    assert [one.what for one in sent(told, actions.Announce)] == ["backup-damaged"]
    (again,) = sent(told)
    assert again.run == "a@1"
    answer(bench, again)
    (reading,) = sent(bench.tell(events.VerifyAsked, target="nas", by="ann"), actions.VerifyBackup)
    assert not sent(answer(bench, reading, events.BackupVerified, files=3, damaged=damaged), actions.Announce)


def test_readings_and_rehearsals_wait_until_nothing_is_to_be_sent(bench):
    """They are due by the schedule, and made when the target is idle and not quiet."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    assert not bench.tell(events.VerifyAsked, target="nas")
    assert not bench.tell(events.DrillAsked, target="nas")
    (reading,) = answer(bench, order)
    assert isinstance(reading, actions.VerifyBackup)
    (drill,) = answer(bench, reading, events.BackupVerified)
    assert isinstance(drill, actions.Drill)


def test_a_rehearsal_proves_a_restore_or_wakes_somebody(bench):
    """The time of the last proof is kept; a failure is told once, and that it works again."""
    trained(bench)

    def drilled(**found):
        (drill,) = sent(bench.tell(events.DrillAsked, target="nas", by="ann"), actions.Drill)
        return sent(answer(bench, drill, events.Drilled, **{"run": "a@1", **found}), actions.Announce)

    assert not drilled(ok=True, epoch=1, epoch_wanted=1, trained=True)
    assert (nas(bench).proven_at, nas(bench).proven_run, nas(bench).proven_epoch) == (bench.now, "a@1", 1)
    proven_at = bench.now
    bench.wait(60)
    (page,) = drilled(ok=False, text="epoch 0, expected 1")
    assert (page.what, page.severity) == ("unproven", "page")
    assert not drilled(ok=False, text="epoch 0, expected 1")
    assert nas(bench).proven_at == proven_at
    (better,) = drilled(ok=True, epoch=1)
    assert better.what == "proven"


# ---- restores
def lost(bench, name="a", **found):
    """The newest backup is of epoch 3; all files of the run are gone; what is ordered then."""
    trained(bench, name, epoch=3)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run=f"{name}@1"))
    answer(bench, order, epoch=3, kept_epoch=3)
    bench.die(name, signal=9, saved_epoch=3)
    bench.wait(1)
    return bench.tell(events.Prepared, name, **{"start": "refused", "reason": "nothing is there", **found})


def test_a_run_whose_files_are_gone_goes_on_from_its_backup(bench):
    """By itself, and says so: fetched first, then prepared again under the same number."""
    (order,) = sent(lost(bench, lacking=True), actions.Restore)
    assert (order.target, order.beyond) == ("nas", 0)
    run = bench.run("a")
    assert (run.phase, run.waiting_for, run.attempts) == (Phase.QUEUED, "restore", 1)
    assert not bench.wait(3600), "it waits for that"
    told = bench.tell(events.Restored, run="a@1", target="nas", ok=True, epoch=3, answers=order.key)
    assert "restored" in [one.what for one in sent(told, actions.Announce)]
    assert sent(told, actions.Prepare)[0].attempt == 2


def test_an_older_checkpoint_is_not_resumed_where_a_backup_knows_more(bench):
    """The newest copies are torn, epoch 1 is there: epoch 3 lies in the backup."""
    (order,) = sent(lost(bench, start="resume", from_epoch=1), actions.Restore)
    assert order.beyond == 1


def test_a_backup_that_is_of_no_help_is_asked_once(bench):
    """Then the run does what it would have done without: a person must look."""
    (order,) = sent(lost(bench, lacking=True), actions.Restore)
    bench.tell(events.Restored, run="a@1", target="nas", ok=False, text="it is damaged there", answers=order.key)
    assert not sent(bench.tell(events.Prepared, "a", start="refused", reason="x", lacking=True), actions.Restore)
    assert bench.run("a").phase is Phase.HELD


@pytest.mark.parametrize(
    "found",
    [{"start": "resume", "from_epoch": 3}, {"start": "refused", "reason": "hostile"}, {"start": "finished"}],
)
def test_nothing_is_fetched_that_is_not_lacking(bench, found):
    """Another epoch is there already, or the refusal has another reason."""
    assert not sent(lost(bench, **found), actions.Restore)


def test_a_rewound_run_is_not_brought_forward_again(bench):
    """What lies in the backup is what the person went back from."""
    trained(bench, epoch=3)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    answer(bench, order, epoch=3, kept_epoch=3)
    bench.tell(events.StopAsked, "a", by="ann", at_once=True)
    bench.die("a", signal=9)
    bench.tell(events.RewindAsked, run="a@1", by="ann", epoch=1)
    newest = bench.world.named("a")
    bench.tell(events.Prepared, run=newest.id, attempt=newest.attempts, start="resume", from_epoch=1)
    assert not [one for one in bench.ordered if isinstance(one, actions.Restore)]


def test_a_restored_journal_uses_no_token_and_no_folder_twice(bench):
    """The run directories may be younger than the journal that came back with them."""
    trained(bench)
    bench.tell(events.StateRestored, target="nas", token=500, attempts={"a@1": 7})
    assert bench.world.next_token == 501
    assert bench.run("a").attempts == 7


def test_every_cause_tells_what_to_do_or_passes_by_itself():
    """A page names an action (contract); what needs a person is told at once."""
    for name, kind in causes.KINDS.items():
        assert kind.means, name
        assert kind.todo or not kind.page, name
    assert causes.kind("of a newer version") is causes.KINDS["failed"]


def test_what_a_person_asks_for_comes_next_however_busy_the_target_is(bench):
    """The whole target, of one run, in quiet hours, before what the schedule wants: nothing of the order is lost."""
    trained(bench)
    bench.tell(events.QuietSeen, target="nas", quiet=True)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    assert not bench.tell(events.VerifyAsked, target="nas", by="ann", whole=True)
    assert not bench.tell(events.DrillAsked, target="nas", by="ann", run="a@1")
    bench.tell(events.BackupDue, target="nas")
    (reading,) = answer(bench, order)
    assert isinstance(reading, actions.VerifyBackup)
    assert reading.whole
    (drill,) = answer(bench, reading, events.BackupVerified)
    assert (drill.project, drill.name) == ("default", "a")
    assert not answer(bench, drill, events.Drilled, ok=True, run="a@1"), "the schedule waits for the end of the quiet"


def test_a_journal_that_cannot_be_read_is_told(bench):
    """The runs are sent all the same; a person hears once that the record of them is not."""
    orders = sent(bench.tell(events.BackupDue, target="nas"))
    for number in range(1, outcomes.TOLD_AFTER + 2):
        (order,) = orders
        assert order.run == STATE
        told = answer(bench, order, events.BackupFailed, cause="source", text="malformed")
        assert [one.what for one in sent(told, actions.Announce)] == ["state-unbacked"] * (
            number == outcomes.TOLD_AFTER
        )
        orders = sent(bench.wait(7200))


def test_a_retried_run_knows_the_backups_of_the_one_before(bench):
    """They are of its own directory and line. A run that goes back to an older epoch knows none: they are beyond it."""
    trained(bench, epoch=3)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    answer(bench, order, epoch=3, kept_epoch=3)
    bench.tell(events.CancelAsked, "a", by="ann", at_once=True)
    bench.die("a", signal=9)
    (end,) = [one for one in sent(bench.ordered) if one.ended]
    answer(bench, end, epoch=3, kept_epoch=3)
    bench.tell(events.RetryAsked, run="a@1", by="ann")
    backed = bench.world.named("a").backups["nas"]
    assert (backed.epoch, backed.ended) == (3, False)
    bench.tell(events.CancelAsked, run="a@2", by="ann", at_once=True)
    bench.tell(events.RewindAsked, run=bench.world.named("a").id, by="ann", epoch=1)
    assert not bench.world.named("a").backups


# ---- found by a review
def test_a_new_training_of_that_name_never_gets_the_old_ones_checkpoints(bench):
    """An edited job takes the name of a finished run: nothing is backed up as its own before it is prepared."""
    trained(bench, epoch=3)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    answer(bench, order, epoch=3, kept_epoch=3)
    bench.finish()
    (end,) = [one for one in sent(bench.ordered) if one.ended]
    bench.submit("a", revision="a-2", start_after_at=bench.now + 3600)
    assert bench.world.named("a").set_aside
    answer(bench, end, epoch=3, kept_epoch=3)
    (journal,) = sent(bench.tell(events.BackupDue, target="nas"))
    assert journal.run == STATE
    assert not sent(answer(bench, journal))
    bench.wait(3601)
    ordered = bench.tell(events.Prepared, "a", start="fresh")
    assert not sent(ordered, actions.Restore)
    assert sent(ordered, actions.Launch)


def test_the_end_of_a_run_is_sent_although_its_name_is_taken_again(bench):
    """Until the new training has set it aside, what lies there is the old one's."""
    bench.tell(events.QuietSeen, target="nas", quiet=True)
    trained(bench)
    bench.finish()
    bench.submit("a", revision="a-2", start_after_at=bench.now + 3600)
    (order,) = sent(bench.tell(events.QuietSeen, target="nas", quiet=False))
    assert (order.run, order.ended) == ("a@1", True)


def test_a_folder_that_was_exchanged_covers_nothing(bench):
    """The disk of the target was emptied, or another one is mounted there: all is sent anew, and a person hears it."""
    bench.bring_to(Phase.SUCCEEDED)
    (order,) = [one for one in sent(bench.ordered) if one.ended]
    answer(bench, order, epoch=1, kept_epoch=bench.run("a").kept_epoch, vault="one")
    assert targets.covered(bench.world, bench.run("a"))
    (journal,) = sent(bench.tell(events.BackupDue, target="nas"))
    after = answer(bench, journal, vault="two")
    assert "another-vault" in [one.what for one in sent(after, actions.Announce)]
    assert not targets.covered(bench.world, bench.run("a"))
    assert {one.run for one in sent(after)} | set(nas(bench).due) >= {"a@1"}


def test_nothing_counts_as_covered_before_its_target_answered(bench):
    """After a start of the daemon, or while a target is in trouble: pruning waits."""
    bench.bring_to(Phase.SUCCEEDED)
    (order,) = [one for one in sent(bench.ordered) if one.ended]
    answer(bench, order, epoch=1, kept_epoch=bench.run("a").kept_epoch, vault="one")
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=bench.world.boot)
    assert not targets.covered(bench.world, bench.run("a"))
    bench.tell(events.Configured, policy=bench.world.policy)
    (journal,) = sent(bench.tell(events.BackupDue, target="nas"))
    answer(bench, journal, vault="one")
    assert targets.covered(bench.world, bench.run("a"))


def test_a_run_in_trouble_of_its_own_does_not_starve_its_target(bench):
    """Whatever the cause is called: where others arrive, it is the run's, and the others get their turn."""
    trained(bench)
    trained(bench, "b")
    orders = sent(bench.tell(events.BackupAsked, by="ann"))
    arrived, failed = set(), 0
    for _ in range(12):
        if not orders:
            orders = sent(bench.wait(7200))
        (order,) = orders
        if order.run == "a@1":
            failed += 1
            orders = sent(answer(bench, order, events.BackupFailed, cause="failed", text="a bug"))
        else:
            arrived.add(order.run)
            orders = sent(answer(bench, order))
        if failed > outcomes.TOLD_AFTER and {"b@1", STATE} <= arrived:
            break
    assert {"b@1", STATE} <= arrived
    assert "a@1" in nas(bench).due or nas(bench).doing_run == "a@1"
    assert "unbacked" in [one.what for one in bench.ordered if isinstance(one, actions.Announce)]


def test_a_target_that_cannot_be_asked_is_waited_for(bench):
    """Epoch 3 lies there, epoch 1 here: nothing is trained again before it was asked; told once, tried again."""
    (order,) = sent(lost(bench, start="resume", from_epoch=1), actions.Restore)
    fields = {"run": "a@1", "target": "nas", "ok": False, "cause": "unreachable", "text": "no route"}
    told = bench.tell(events.Restored, answers=order.key, **fields)
    assert [one.what for one in sent(told, actions.Announce)] == ["waits-restore"]
    (again,) = sent(bench.wait(120), actions.Restore)
    assert not sent(bench.tell(events.Restored, answers=again.key, **fields), actions.Announce)
    assert bench.run("a").waiting_for == "restore"
    bench.tell(events.Configured, policy=replace(bench.world.policy, backups=()))
    assert bench.run("a").phase is Phase.PREPARING, "without the target it goes on with what is here"


def test_a_person_who_resumes_has_the_backup_asked_again(bench):
    """It was of no help once; what was in the way may be mended."""
    (order,) = sent(lost(bench, lacking=True), actions.Restore)
    bench.tell(events.Restored, run="a@1", target="nas", ok=False, text="damaged", answers=order.key)
    bench.tell(events.Prepared, "a", start="refused", reason="x", lacking=True)
    bench.tell(events.ResumeAsked, "a", by="ann")
    assert sent(bench.tell(events.Prepared, "a", start="refused", reason="x", lacking=True), actions.Restore)


def test_a_rewound_run_restores_what_it_trained_itself(bench):
    """Once it has begun, its backups are of its own line."""
    trained(bench, epoch=3)
    bench.tell(events.StopAsked, "a", by="ann", at_once=True)
    bench.die("a", signal=9)
    bench.tell(events.RewindAsked, run="a@1", by="ann", epoch=1)
    bench.launch("a", start="resume", from_epoch=1)
    bench.save(2)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@2")) or sent(bench.ordered)[-1:]
    while order.run != "a@2":
        (order,) = sent(answer(bench, order))
    answer(bench, order, epoch=2, kept_epoch=2)
    bench.die("a", signal=9, saved_epoch=2)
    bench.wait(1)
    lacking = {"start": "refused", "reason": "x", "lacking": True}
    assert sent(bench.tell(events.Prepared, "a", **lacking), actions.Restore)


def test_what_becomes_due_during_a_transfer_is_sent_after_it(bench):
    """A new best, or a person's order: the transfer under way may have begun before it."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    kept(bench, 2, best=True)
    (again,) = sent(answer(bench, order, epoch=1, kept_epoch=1))
    assert (again.run, again.why) == ("a@1", "a new best")


def test_an_agreement_to_a_loss_holds_until_it_is_sent(bench):
    """A hot file comes first: the agreement is not forgotten over that."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1", accept=True))
    answer(bench, order, events.BackupFailed, cause="changed", text="x")
    (again,) = sent(bench.wait(60))
    assert again.accept


def test_a_reading_does_not_say_that_writing_works(bench):
    """A full target can be read: it is not well before something was written."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupDue, target="nas"))
    answer(bench, order, events.BackupFailed, cause="full", text="x")
    (reading,) = sent(bench.tell(events.VerifyAsked, target="nas", by="ann"), actions.VerifyBackup)
    assert not sent(answer(bench, reading, events.BackupVerified, files=1), actions.Announce)
    assert nas(bench).cause == "full"


def test_a_bug_about_an_answer_does_not_stop_a_target(bench):
    """The answer is gone with it; what was under way is tried again."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    bench.tell(events.Poisoned, "a", error="x", answers=order.key)
    (again,) = sent(bench.wait(120))
    assert again.run == "a@1"


def test_nothing_is_backed_up_while_a_directory_changes_hands(bench):
    """A run that is being prepared waits for its turn, and is sent then."""
    trained(bench)
    bench.die(signal=9, saved_epoch=1)
    bench.wait(1)
    assert bench.run("a").phase is Phase.PREPARING
    assert not sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    assert sent(bench.tell(events.Prepared, "a", start="resume", checkpoint="/last.pt", from_epoch=1))


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.STARTING])
def test_a_start_that_was_under_way_begins_anew_on_the_new_server(bench, phase):
    """Its orders did not come along: the run is queued, under numbers that nobody used."""
    bench.bring_to(phase)
    ordered = bench.tell(events.StateRestored, target="nas", token=500, attempts={"a@1": 7})
    assert bench.run("a").phase is Phase.QUEUED
    (prepare,) = sent((*ordered, *bench.tell(events.Configured, policy=bench.world.policy)), actions.Prepare)
    assert (prepare.attempt, prepare.token) == (8, 501)


def test_the_last_copy_of_a_cancelled_run_is_backed_up_too(bench):
    """It may be entered after the run has ended, and after its end was backed up."""
    trained(bench, epoch=3)
    bench.tell(events.CancelAsked, "a", by="ann", at_once=True)
    bench.tell(events.AttemptExited, "a", signal=9, ended_at=bench.now)
    bench.tell(events.AttemptCleared, "a")
    keep = [one for one in bench.ordered if isinstance(one, actions.Keep)][-1]
    (end,) = sent(bench.tell(events.Examined, "a", finished=False))
    late = bench.tell(events.Kept, run="a@1", attempt=1, epoch=4, file="epoch4-attempt1.pt", answers=keep.key)
    assert not late
    (again,) = sent(answer(bench, end, epoch=3, kept_epoch=3))
    assert again.ended
    assert not targets.covered(bench.world, bench.run("a"))
    answer(bench, again, epoch=4, kept_epoch=4)
    assert targets.covered(bench.world, bench.run("a"))


def test_readings_do_not_wait_for_ever_behind_backups(bench):
    """A target that always has something to send is read all the same, an hour after it was due."""
    trained(bench)
    (order,) = sent(bench.tell(events.BackupAsked, by="ann", run="a@1"))
    bench.tell(events.VerifyAsked, target="nas")
    for _ in range(5):
        kept(bench, 2, best=True)
        bench.now += 600.0
        (order,) = sent(answer(bench, order))
    kept(bench, 2, best=True)
    bench.now += 1200.0
    (reading,) = answer(bench, order)
    assert isinstance(reading, actions.VerifyBackup)


def test_tries_that_a_person_asks_for_make_nothing_wait_longer(bench):
    """The wait grows with the tries of the schedule only."""
    orders = sent(bench.tell(events.BackupDue, target="nas"))
    answer(bench, orders[0], events.BackupFailed, cause="absent", text="x")
    waits = [nas(bench).retry_at - bench.now]
    for _ in range(3):
        (order,) = sent(bench.tell(events.BackupAsked, by="ann"))
        answer(bench, order, events.BackupFailed, cause="absent", text="x")
        waits.append(nas(bench).retry_at - bench.now)
    assert len(set(waits)) == 1
