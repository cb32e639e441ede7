"""What follows when an attempt dies: another try, later or at once, a person, or the end."""

from __future__ import annotations

import pytest
from bench import FIRST_BOOT, SECOND_BOOT, Bench, make_job
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core import actions, events
from supervisor.core.job import Restart
from supervisor.core.model import Phase
from supervisor.core.policy import FALL_BACKS, backoff_s


def again(bench, name="a"):
    """Wait out the backoff and start the next attempt."""
    bench.wait(3600.0)
    bench.launch(name, start="resume", from_epoch=max(1, bench.run(name).progress.saved_epoch))


def test_after_progress_the_first_retry_is_at_once():
    """A run that saved an epoch since its last failure is tried again without a wait, and its budget is full."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.die(code=1)
    assert bench.run().deadline_at == bench.now
    bench.wait(0.0)
    assert bench.phase() is Phase.PREPARING
    assert bench.run().failures == 0


def test_without_progress_it_waits_and_is_given_up():
    """no_progress failures in a row without a newly saved epoch end the run, with the reason."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=3))
    for count in (1, 2):
        bench.launch()
        bench.die(code=1)
        assert (bench.phase(), bench.run().failures) == (Phase.COOLING, count)
        assert bench.run().deadline_at > bench.now
        bench.wait(3600.0)
    bench.launch()
    bench.die(code=1, reason="exit code 1: no such file")
    assert bench.phase() is Phase.FAILED
    assert "exit code 1: no such file" in bench.run().reason
    assert "no_progress = 3" in bench.run().reason
    assert bench.said("a").count("failed") == 1


def test_progress_refills_the_budget():
    """However often it dies: as long as each time another epoch is saved, the run goes on."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=2))
    bench.launch()
    for epoch in range(1, 9):
        bench.die(code=1)
        again(bench)
        bench.save(epoch)
    bench.finish()
    assert bench.phase() is Phase.SUCCEEDED


def test_the_same_epoch_again_is_no_progress():
    """A save that is torn each time is tried again three times; after that it does not refill the budget any more."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=3))
    bench.launch()
    bench.save(4)
    bench.die(code=1)
    for _ in range(FALL_BACKS + 3):
        assert bench.phase() is Phase.COOLING
        bench.wait(3600.0)
        bench.launch(start="resume", from_epoch=3)
        bench.save(4)
        bench.die(code=1, saved_epoch=4)
    assert bench.phase() is Phase.FAILED


def test_epochs_trained_anew_are_progress():
    """After a resume from an older checkpoint an epoch beyond that is progress, however many there were before."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=2))
    bench.launch()
    bench.save(9)
    bench.die(signal=9)
    again_from(bench, 5)
    for epoch in (6, 7, 8):
        bench.save(epoch)
        bench.die(signal=9)
        assert (bench.phase(), bench.run().failures) == (Phase.COOLING, 0)
        again_from(bench, epoch)


def test_a_new_epoch_forgives_the_fall_backs():
    """Resumes from older checkpoints are counted until the highest epoch that was ever saved is passed."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=1))
    bench.launch()
    for epoch in (4, 4, 4, 5, 5, 5):
        bench.save(epoch)
        bench.die(signal=9)
        assert bench.phase() is Phase.COOLING
        again_from(bench, 3)
    assert bench.run().fall_backs == FALL_BACKS


def again_from(bench, epoch):
    """Wait out the backoff and start the next attempt from this epoch."""
    bench.wait(3600.0)
    bench.launch(start="resume", from_epoch=epoch)


def test_epochs_that_only_the_examination_found_are_progress():
    """The last heartbeat may be lost with the process; what the files say counts as well."""
    bench = Bench()
    bench.submit()
    bench.launch()
    bench.die(code=1, saved_epoch=3)
    assert bench.run().failures == 0
    assert bench.run().progress.saved_epoch == 3


@given(
    st.floats(0.001, 1e5),
    st.floats(0.001, 1e7),
    st.integers(1, 500),
    st.text(max_size=5),
    st.integers(1, 10_000),
)
def test_backoff_stays_in_its_bounds(first_s, most_s, failures, run, attempt):
    """At least a second; at most the exponential ceiling and backoff_max; the same for the same run and attempt."""
    restart = Restart(backoff_s=first_s, backoff_max_s=most_s)
    delay_s = backoff_s(restart, failures, run, attempt)
    assert 1.0 <= delay_s <= max(1.0, min(most_s, first_s * 2.0 ** min(failures - 1, 400)))
    assert delay_s == backoff_s(restart, failures, run, attempt)


def test_jitter_spreads_runs_that_die_together():
    """A hundred runs that died in the same second do not come back in the same second."""
    restart = Restart(backoff_s=60.0)
    delays = [backoff_s(restart, 3, f"run{number}@1", 1) for number in range(100)]
    assert max(delays) - min(delays) > 180.0
    assert len({round(delay) for delay in delays}) > 50


@pytest.mark.parametrize(
    ("code", "phase", "words"),
    [
        (1, Phase.COOLING, "failure 1 of 3"),
        (2, Phase.HELD, "could not read what it was told"),
        (65, Phase.HELD, "refused the checkpoint"),
        (66, Phase.HELD, "model or data are missing"),
        (75, Phase.COOLING, "stopped from outside"),
        (76, Phase.HELD, "a person must look"),
        (77, Phase.HELD, "wrong place"),
        (137, Phase.COOLING, "failure 1 of 3"),
    ],
)
def test_exit_codes_of_the_runner(code, phase, words):
    """The runner's exit codes mean what the contract says; those that need a person hold the run and page one."""
    bench = Bench()
    bench.submit()
    bench.launch()
    bench.die(code=code)
    assert bench.phase() is phase
    assert words in bench.run().reason
    assert ("held" in bench.said("a")) == (phase is Phase.HELD)


@pytest.mark.parametrize("code", [2, 65, 66, 76, 77])
def test_exit_codes_of_other_programs_are_only_failures(code):
    """A command's exit codes are its own: they never hold the run."""
    bench = Bench()
    bench.submit(command=("x",), resume_command=("x", "-r"))
    bench.launch()
    bench.die(code=code)
    assert bench.phase() is Phase.COOLING
    assert bench.run().failures == 1


def test_stopped_from_outside_is_no_failure():
    """Exit code 75 (somebody sent SIGTERM) goes on by itself and costs no budget, however often."""
    bench = Bench()
    bench.submit()
    for _ in range(6):
        bench.launch()
        bench.die(code=75)
        assert (bench.phase(), bench.run().failures) == (Phase.COOLING, 0)
        assert bench.run().deadline_at > bench.now
        bench.wait(700.0)


@pytest.mark.parametrize("code", [0, 1, None])
def test_only_proof_finishes_a_run(code):
    """Exit code 0 without the trainer's own end state is a failure; with it the run is SUCCEEDED."""
    bench = Bench()
    bench.submit()
    bench.launch()
    bench.die(code=code, finished=False)
    assert bench.phase() is Phase.COOLING
    bench.wait(3600.0)
    bench.launch()
    bench.die(code=code, finished=True, proof="finished after 10 epochs")
    assert bench.phase() is Phase.SUCCEEDED
    assert bench.run().reason == "finished after 10 epochs"


def test_a_reboot_is_not_counted():
    """The machine restarts again and again without an epoch in between: the run goes on at once each time."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=1))
    for number in range(5):
        bench.launch()
        boot = type(SECOND_BOOT)(f"boot-{number + 2}", 1)
        bench.tell(events.DaemonStarted, pid=2, version="x", boot=boot)
        bench.die()
        bench.wait(60.0)
        assert (bench.phase(), bench.run().failures) == (Phase.PREPARING, 0)
        assert bench.run().attempt.boot == boot
    assert bench.said().count("rebooted") == 5


def test_a_start_after_the_reboot_is_counted():
    """Prepared before the reboot, started after it, dead before its start was told: that is its own failure."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=1))
    bench.tell(events.Prepared, "a", start="fresh")
    bench.tell(events.DaemonStarted, pid=2, version="x", boot=SECOND_BOOT)
    bench.tell(events.AttemptExited, "a", code=1)
    bench.tell(events.Launched, "a", **bench.launched_facts())
    bench.tell(events.AttemptCleared, "a")
    bench.tell(events.Examined, "a", finished=False)
    assert bench.phase() is Phase.FAILED


def test_nothing_new_starts_before_the_old_is_gone():
    """The trainer is dead but a child lives: the leftovers are ended, told once, and only then it goes on."""
    bench = Bench()
    bench.bring_to(Phase.COOLING)
    bench.wait(600.0)
    kills = bench.of(actions.Terminate)
    assert len(kills) >= 5
    assert {kill.how for kill in kills} == {"kill"}
    assert len({kill.key for kill in kills}) == len(kills)
    assert bench.said("a").count("haunted") == 1
    assert bench.phase() is Phase.COOLING
    bench.tell(events.AttemptCleared, "a")
    bench.tell(events.Examined, "a", finished=False)
    bench.wait(0.0)
    assert bench.phase() is Phase.PREPARING


def test_an_examination_that_is_not_answered_is_ordered_again():
    """Reading what an attempt left may hang with the disk: it is asked anew, under one key, so that it is done once."""
    bench = Bench()
    bench.bring_to(Phase.COOLING)
    bench.tell(events.AttemptCleared, "a")
    bench.wait(901.0)
    keys = [one.key for one in bench.of(actions.Examine)]
    assert len(keys) == 4
    assert len(set(keys)) == 1
    bench.tell(events.Examined, "a", finished=True, proof="done")
    bench.tell(events.Examined, "a", finished=False)
    assert bench.phase() is Phase.SUCCEEDED


def test_a_second_examination_decides_nothing():
    """The answer to an examination that was ordered twice counts once."""
    bench = Bench()
    bench.submit()
    bench.launch()
    bench.die(code=1)
    before = bench.world
    bench.tell(events.Examined, "a", finished=False)
    assert bench.world == before


def test_no_room_on_the_disk_is_no_failure():
    """Below disk.pause_below the run says that it waits for the disk, tries again, and loses no budget."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=1))
    for _ in range(5):
        bench.tell(events.PrepareFailed, "a", reason="2 GiB are free", waiting_for="disk")
        assert (bench.phase(), bench.run().waiting_for) == (Phase.COOLING, "disk")
        bench.tell(events.WaitOver, "a", what="disk")
        assert bench.phase() is Phase.PREPARING
    assert bench.run().failures == 0


def test_a_wait_ends_only_by_what_it_waits_for():
    """News of another thing does not end it; after ten minutes it is tried again, whatever was seen or not seen."""
    bench = Bench()
    bench.submit()
    bench.tell(events.PrepareFailed, "a", reason="2 GiB are free", waiting_for="disk")
    bench.tell(events.WaitOver, "a", what="memory")
    bench.wait(599.0)
    assert (bench.phase(), bench.run().waiting_for) == (Phase.COOLING, "disk")
    bench.wait(1.0)
    assert bench.phase() is Phase.PREPARING


def test_a_directory_that_cannot_be_prepared_waits_for_a_person():
    """That is no fault of the training: the run is held with the reason, never given up."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=2))
    bench.tell(events.PrepareFailed, "a", reason="it is a symbolic link")
    assert bench.phase() is Phase.HELD
    assert "symbolic link" in bench.run().reason


def test_a_data_set_that_is_gone_is_given_up_at_once():
    """Its file systems are mounted: no waiting brings it back. An incident says why; `retry` has all it had saved."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.save(3)
    bench.die(signal=9)
    bench.wait(700.0)
    bench.tell(events.PrepareFailed, "a", reason="/d/images is not there", cause="dataset-missing")
    assert bench.phase() is Phase.FAILED
    assert bench.run().reason.startswith("/d/images is not there")
    one = bench.run().incidents[-1]
    assert (one.cause, one.step, one.seen) == ("dataset-missing", "fail", "/d/images is not there")
    bench.tell(events.RetryAsked, "a", by="ann")
    assert bench.run().progress.saved_epoch == 3


def test_a_data_set_that_is_gone_is_waited_for_after_a_boot():
    """A mount that nobody recorded may be on its way: for some minutes the run waits, then it is given up."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.DaemonStarted, pid=2, version="x", boot=SECOND_BOOT)
    bench.die()
    bench.wait(60.0)
    bench.tell(events.PrepareFailed, "a", reason="/d/images is not there", cause="dataset-missing")
    assert (bench.phase(), bench.run().waiting_for) == (Phase.COOLING, "mount")
    for _ in range(20):
        bench.wait(60.0)
        if bench.phase() is Phase.PREPARING:
            bench.tell(events.PrepareFailed, "a", reason="/d/images is not there", cause="dataset-missing")
    assert bench.phase() is Phase.FAILED


def test_a_wait_for_the_machine_is_told_once_and_uses_up_no_attempt():
    """A full disk for an hour: one message, and the next attempt is still the first."""
    bench = Bench()
    bench.submit()
    for _ in range(5):
        bench.tell(events.PrepareFailed, "a", reason="1 GiB is free", waiting_for="disk")
        assert (bench.phase(), bench.run().waiting_for, bench.run().attempts) == (Phase.COOLING, "disk", 0)
        bench.wait(601.0)
    assert len([one for one in bench.of(actions.Announce) if one.what == "waits"]) == 1
    assert bench.run().attempts == 1


def test_an_end_that_cannot_be_examined_waits_for_a_person():
    """Nothing is restarted that may have finished."""
    bench = Bench()
    bench.bring_to(Phase.COOLING)
    bench.tell(events.AttemptCleared, "a")
    bench.tell(events.Examined, "a", finished=False, unknown=True, reason="internal error")
    assert bench.phase() is Phase.HELD


def test_stops_from_outside_are_no_failures_but_do_not_spin():
    """Exit code 75 that nobody ordered: the waits grow, and after ten in a row without an epoch they count."""
    bench = Bench()
    bench.submit(restart=Restart(no_progress=2))
    for _ in range(12):
        bench.launch()
        bench.die(code=75)
        if bench.phase() is Phase.FAILED:
            break
        bench.wait(700.0)
    assert bench.phase() is Phase.FAILED
    assert bench.run().attempts == 12


def test_a_slow_preparation_is_told_once():
    """Preparing takes an hour: said once, waited for, never given up."""
    bench = Bench()
    bench.submit()
    bench.wait(3600.0)
    assert bench.phase() is Phase.PREPARING
    assert bench.said("a").count("slow") == 1


def test_a_fresh_start_is_allowed_only_without_saved_epochs():
    """The order to prepare says whether a start from the beginning can lose anything."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.die(code=1)
    bench.wait(0.0)
    allowed = [one.scratch_allowed for one in bench.of(actions.Prepare)]
    assert allowed == [True, False]


def test_a_refused_start_holds_the_run():
    """No checkpoint can be resumed and epochs would be lost: a person decides."""
    bench = Bench()
    bench.submit()
    bench.tell(events.Prepared, "a", start="refused", reason="last.pt is torn")
    assert bench.phase() is Phase.HELD
    assert bench.of(actions.Announce, "a")[-1].severity == "page"
    bench.tell(events.ResumeAsked, "a", by="ann")
    assert bench.phase() is Phase.PREPARING


def test_nothing_left_to_do_is_success():
    """All epochs were trained and the weights are stripped already: SUCCEEDED without another process."""
    bench = Bench()
    bench.submit()
    bench.tell(events.Prepared, "a", start="finished", reason="last.pt is finished")
    assert bench.phase() is Phase.SUCCEEDED
    assert bench.of(actions.Launch) == []


def test_not_to_be_seen_is_no_failure():
    """A run that nobody observed for hours is told, and nothing is done to it."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.wait(4 * 3600.0)
    assert bench.phase() is Phase.RUNNING
    assert bench.of(actions.Terminate) == []
    assert bench.said("a").count("unseen") == 8


def test_being_seen_is_enough():
    """Observed now and then, a long training is never reported as unseen."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    for _ in range(100):
        bench.wait(600.0)
        bench.tell(events.Observed, alive=(("a@1", 1), ("ghost@1", 1), ("a@1", 7)))
    assert "unseen" not in bench.said("a")


def test_one_broken_run_leaves_the_others_alone():
    """A bug in deciding about one run holds that run only."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING, "a")
    bench.bring_to(Phase.RUNNING, "b")
    bench.tell(events.Poisoned, "a", error="ValueError: x")
    assert (bench.phase("a"), bench.phase("b")) == (Phase.HELD, Phase.RUNNING)
    assert "please report it: ValueError: x" in bench.run("a").reason


def test_what_finished_while_it_was_held_is_not_done_again():
    """A held run whose training reached its own end: `resume` reads that and is done."""
    bench = Bench()
    bench.submit(command=("x",))
    bench.launch()
    bench.tell(events.Poisoned, "a", error="x")
    bench.tell(events.AttemptExited, "a", code=0)
    bench.tell(events.AttemptCleared, "a")
    bench.tell(events.ResumeAsked, "a", by="ann")
    bench.wait(0.0)
    assert len(bench.of(actions.Examine)) == 1
    bench.tell(events.Examined, "a", finished=True, proof="exit code 0")
    assert bench.phase() is Phase.SUCCEEDED


def test_a_held_run_is_not_cleared_before_its_end_is_known():
    """The event of the end was the one that broke: the run is followed until both facts are told again."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.Poisoned, "a", error="x")
    bench.tell(events.AttemptCleared, "a")
    assert bench.run().busy
    bench.tell(events.AttemptExited, "a", code=1)
    bench.tell(events.AttemptCleared, "a")
    assert not bench.run().busy


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_cannot_hold_are_no_measurements(bad):
    """A loss of NaN, a metric or an ETA without bound: dropped, so that the journal can always be loaded again."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    losses = {"box": bad, "cls": 0.5}
    bench.tell(
        events.Progressed, "a", epoch=2, epochs=10, saved_epoch=2, losses=losses, metrics=losses, epoch_s=bad, eta_s=bad
    )
    progress = bench.run().progress
    assert progress.losses == progress.metrics == {"cls": 0.5}
    assert progress.eta_s is None
    bench.die(code=1, metrics=losses)
    assert bench.run().progress.metrics == {"cls": 0.5}


def test_make_job_is_an_ultralytics_job():
    """The bench's own job is what the tests above take it for."""
    assert make_job().train is not None
    assert make_job(command=("x",)).train is None


def test_a_refused_start_beside_an_older_runs_files_stays_refused():
    """Held because files of an older run lie outside: `resume` asks again, and does not go on from them."""
    bench = Bench()
    bench.submit()
    bench.world = replace(bench.world, live={"a@1": replace(bench.run(), set_aside=True)})
    bench.tell(events.Prepared, "a", start="refused", reason="they lie outside")
    bench.tell(events.ResumeAsked, "a", by="ann")
    assert bench.of(actions.Prepare)[-1].set_aside


def test_a_launch_that_the_machine_cannot_carry_out_waits():
    """No room for the shim's record: nothing was started, it is told once, and no attempt is used up."""
    bench = Bench()
    bench.submit()
    bench.tell(events.Prepared, "a", start="fresh")
    launch = bench.of(actions.Launch)[-1]
    bench.tell(events.LaunchFailed, "a", reason="disk full", waiting_for="disk", answers=launch.key)
    assert (bench.phase(), bench.run().waiting_for, bench.run().attempts) == (Phase.COOLING, "disk", 0)


def test_a_new_daemon_places_nothing_before_it_was_configured():
    """The room that the last daemon knew of may be gone."""
    bench = Bench()
    bench.tell(events.DrainAsked, by="ann")
    bench.submit()
    bench.tell(events.DaemonStarted, pid=1, version="0", boot=FIRST_BOOT)
    assert not bench.of(actions.Prepare)
    bench.tell(events.Configured, policy=bench.world.policy)
    assert len(bench.of(actions.Prepare)) == 1
