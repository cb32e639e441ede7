"""What is decided when a disk runs low, is full and has room again: nothing starts, one is paused, nothing is lost."""

from __future__ import annotations

import pytest
from bench import Bench, go_on

from supervisor.core import actions, events
from supervisor.core.diagnosis.evidence import Disk, Evidence, Sign
from supervisor.core.model import Phase

GIB = 1024**3


def see(bench, level, *, place="/runs", what="runs", free=GIB, total=100 * GIB, **fields):
    """A file system comes to a level; or, told again, still has it."""
    return bench.tell(
        events.DiskSeen, place=place, what=what, level=level, free_bytes=free, total_bytes=total, **fields
    )


def train(bench, name, epoch=1, **job):
    """A training at work that has saved so many of its ten epochs."""
    bench.submit(name, **job)
    bench.launch(name)
    for number in range(1, epoch + 1):
        bench.save(number, name)


def phases(bench, *names):
    """Where these stand."""
    return [bench.phase(name) for name in names]


def page(bench):
    """The newest announcement about a disk."""
    return [one for one in bench.of(actions.Announce) if one.what == "disk"][-1]


# ---- what starts
@pytest.mark.parametrize(("what", "waits"), [("runs", "disk"), ("state", "disk"), ("shm", "shm")])
def test_nothing_starts_while_one_of_ours_is_full(what, waits):
    """It waits in the queue without an attempt, says for what, and starts as soon as there is room."""
    bench = Bench()
    see(bench, "full", what=what)
    bench.submit("a")
    bench.wait(7200.0)
    assert (bench.phase(), bench.run().waiting_for, bench.run().attempts) == (Phase.QUEUED, waits, 0)
    see(bench, "low", what=what)
    assert bench.phase() is Phase.PREPARING


def test_a_jobs_own_place_stops_nobody_else():
    """The disk of one job's checkpoints is full: that job waits for it by itself, others start."""
    bench = Bench()
    see(bench, "full", what="checkpoints", place="/mnt/small")
    bench.submit("a")
    assert bench.phase() is Phase.PREPARING


def test_two_full_disks_must_both_come_back():
    """Room on one of them is not enough."""
    bench = Bench()
    see(bench, "full")
    see(bench, "full", what="state", place="/state")
    bench.submit("a")
    see(bench, "ok")
    assert bench.phase() is Phase.QUEUED
    see(bench, "ok", what="state", place="/state")
    assert bench.phase() is Phase.PREPARING


def test_a_place_that_nobody_writes_any_more_is_forgotten():
    """It blocks nothing, is told to nobody, and does not stay in the record for ever."""
    bench = Bench()
    see(bench, "full", what="state", place="/old")
    told = [one for one in bench.of(actions.Announce) if one.what == "disk"]
    bench.submit("a")
    see(bench, "ok", what="state", place="/old", free=0, total=0)
    assert bench.phase() is Phase.PREPARING
    assert "/old" not in bench.world.spots
    assert [one for one in bench.of(actions.Announce) if one.what == "disk"] == told


# ---- who is paused
def test_the_least_valuable_is_paused_at_its_next_save_and_goes_on():
    """Priority counts first, then how far it is. It ends at a checkpoint, waits, and resumes from there."""
    bench = Bench()
    train(bench, "far", epoch=8)
    train(bench, "young", epoch=2)
    train(bench, "urgent", epoch=1, priority=5)
    see(bench, "full")
    assert phases(bench, "far", "young", "urgent") == [Phase.RUNNING, Phase.STOPPING, Phase.RUNNING]
    assert bench.of(actions.Terminate) == []
    bench.save(3, "young")
    (sent,) = bench.of(actions.Terminate)
    assert (sent.how, sent.name) == ("term", "young")
    bench.die("young", code=75)
    assert (bench.phase("young"), bench.run("young").waiting_for) == (Phase.QUEUED, "disk")
    see(bench, "low", free=3 * GIB)
    assert bench.phase("young") is Phase.PREPARING
    assert bench.run("young").failures == 0
    assert bench.replayed() == bench.world


def test_one_at_a_time():
    """The next one only when the first has stopped and it is told again that the disk is full."""
    bench = Bench()
    train(bench, "a", epoch=3)
    train(bench, "b", epoch=2)
    train(bench, "c", epoch=1)
    see(bench, "full")
    see(bench, "full")
    assert phases(bench, "a", "b", "c") == [Phase.RUNNING, Phase.RUNNING, Phase.STOPPING]
    bench.save(2, "c")
    bench.die("c", code=75)
    assert phases(bench, "a", "b") == [Phase.RUNNING, Phase.RUNNING]
    see(bench, "full")
    assert phases(bench, "a", "b", "c") == [Phase.RUNNING, Phase.STOPPING, Phase.QUEUED]


def test_what_would_be_lost_is_not_paused():
    """A program that saves nothing, and a training that a person started, run on: they are not ours to stop for that."""
    bench = Bench()
    train(bench, "blind", epoch=0, command=("x",))
    see(bench, "full")
    assert bench.phase("blind") is Phase.RUNNING
    assert bench.of(actions.Terminate) == []
    train_beside = Bench()
    train(train_beside, "blind", epoch=0, command=("x",))
    train(train_beside, "saves", epoch=9, priority=9)
    see(train_beside, "full")
    assert phases(train_beside, "blind", "saves") == [Phase.RUNNING, Phase.STOPPING]


@pytest.mark.parametrize(
    ("what", "level"), [("state", "full"), ("shm", "full"), ("checkpoints", "full"), ("runs", "low")]
)
def test_nobody_is_paused_where_that_would_not_help(what, level):
    """Trainings fill the disk of the runs; a pause makes no room elsewhere, and a low disk still has room to save."""
    bench = Bench()
    train(bench, "a")
    see(bench, level, what=what)
    assert bench.phase("a") is Phase.RUNNING


def test_room_before_the_save_takes_the_pause_back():
    """Somebody deleted something in time: the training never notices."""
    bench = Bench()
    train(bench, "a")
    see(bench, "full")
    see(bench, "ok", free=50 * GIB)
    assert bench.phase("a") is Phase.RUNNING
    assert bench.run("a").stop is None
    bench.save(2, "a")
    assert bench.of(actions.Terminate) == []


def test_room_does_not_take_back_what_a_person_ordered():
    """Stopped by ann while the disk paused it: it is held all the same."""
    bench = Bench()
    train(bench, "a")
    see(bench, "full")
    bench.tell(events.StopAsked, "a", by="ann")
    see(bench, "ok", free=50 * GIB)
    assert go_on(bench, "a") is Phase.HELD


def test_a_drain_outlives_the_pause():
    """Drained while it is being paused: room does not let it run on."""
    bench = Bench()
    train(bench, "a")
    see(bench, "full")
    bench.tell(events.DrainAsked, by="ann")
    see(bench, "ok", free=50 * GIB)
    assert bench.phase("a") is Phase.STOPPING


def test_a_pause_survives_the_daemon():
    """The next daemon takes the stop back and pauses again as soon as it is told that the disk is still full."""
    bench = Bench()
    train(bench, "a")
    see(bench, "full")
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=bench.world.boot)
    see(bench, "full")
    assert bench.phase("a") is Phase.STOPPING


# ---- what is told
def test_people_are_told_once_with_the_reason_and_what_to_do():
    """A page for each worse level, with figures, forecast and a task; a notice when there is room; no echo."""
    bench = Bench()
    see(bench, "low", free=8 * GIB, full_in_s=7200.0)
    first = page(bench)
    assert (first.severity, first.title) == ("page", "The disk fills up under /runs (runs)")
    assert "8.0 GiB of 100 GiB are free" in first.text
    assert "2 h" in first.text
    assert "[prune]" in first.todo
    see(bench, "low", free=7 * GIB)
    assert page(bench) is first
    see(bench, "full", free=GIB)
    assert (page(bench).severity, page(bench).title) == ("page", "The disk is full under /runs (runs)")
    see(bench, "low", free=5 * GIB)
    assert (page(bench).severity, page(bench).title) == ("notice", "There is space again under /runs (runs)")
    count = len(bench.of(actions.Announce))
    see(bench, "ok", free=50 * GIB)
    assert len(bench.of(actions.Announce)) == count


def test_the_owner_of_a_paused_run_learns_why():
    """Which disk, how little is left, when it goes on and what a person can do."""
    bench = Bench()
    train(bench, "a")
    see(bench, "full", free=GIB)
    (told,) = bench.of(actions.Announce, "a")[-1:]
    assert told.title == "a is paused: the disk is full"
    assert "1.0 GiB are free under /runs" in told.text
    assert told.todo == "free space under /runs"


def test_missing_inodes_are_named():
    """Free bytes are no comfort then, neither in the page nor in the reason of a pause."""
    bench = Bench()
    train(bench, "a")
    see(bench, "full", free=90 * GIB, inodes=True, text="only 12 more files can be made")
    assert page(bench).todo.endswith("free inodes under /runs (runs)")
    assert page(bench).text.startswith("only 12 more files")
    assert bench.run("a").reason.startswith("paused: only 12 more files")


# ---- pruning
def test_a_low_disk_is_pruned_by_the_policy_at_once_but_not_all_the_time():
    """One pruning at a time, and ten minutes between two; without a policy nothing is ever pruned."""
    bench = Bench(prunes=True)
    see(bench, "low", what="state", place="/state")
    assert bench.of(actions.Prune) == []
    see(bench, "low")
    see(bench, "full")
    (first,) = bench.of(actions.Prune)
    assert first.at_once
    bench.tell(events.Pruned, answers=first.key)
    see(bench, "full")
    assert len(bench.of(actions.Prune)) == 1
    bench.wait(600.0)
    see(bench, "full")
    assert len(bench.of(actions.Prune)) == 2
    other = Bench()
    see(other, "full")
    assert other.of(actions.Prune) == []


# ---- a training that died of it
def die_of_enospc(bench, name="a"):
    """The trainer cannot write its checkpoint."""
    sign = Sign(rule="disk-full", cause="disk-full", line="OSError: [Errno 28] No space left on device")
    disk = Disk(path="/runs", what="runs", free_bytes=0, lack="0 B are free under /runs")
    bench.die(name, code=1, evidence=Evidence(signs=(sign,), disks=(disk,)))


def test_a_training_that_died_of_a_full_disk_waits_and_does_not_hammer():
    """A day on a full disk: no attempt is made, whatever deadline passes; with room it goes on, no failure counted."""
    bench = Bench()
    train(bench, "a", epoch=2)
    see(bench, "full")
    die_of_enospc(bench)
    assert bench.run("a").waiting_for == "disk"
    bench.wait(86_400.0)
    assert bench.run("a").attempts == 1
    assert bench.phase("a") in {Phase.COOLING, Phase.QUEUED}
    see(bench, "ok", free=50 * GIB)
    bench.tell(events.WaitOver, "a", what="disk")
    assert bench.phase("a") is Phase.PREPARING
    assert bench.run("a").failures == 0


def test_a_preparation_that_finds_no_room_is_no_attempt_of_a_training():
    """The source has not seen the full disk yet: each try of the preparation ends in the same wait, nothing is launched."""
    bench = Bench()
    train(bench, "a", epoch=2)
    die_of_enospc(bench)
    for _ in range(20):
        bench.wait(700.0)
        bench.tell(events.PrepareFailed, "a", reason="0 B are free", waiting_for="disk")
        assert (bench.phase("a"), bench.run("a").waiting_for) == (Phase.COOLING, "disk")
    assert len(bench.of(actions.Launch)) == 1
    assert bench.said("a").count("waits") == 1


@pytest.mark.parametrize(("lack", "phase"), [("100 MiB are free", Phase.COOLING), ("", Phase.HELD)])
def test_a_used_up_quota_is_waited_for_where_it_can_be_seen(lack, phase):
    """A kernel that knows the quota tells when there is room; on a server's that tells nobody, a person must look."""
    bench = Bench()
    train(bench, "a", epoch=2)
    sign = Sign(rule="disk-quota", cause="disk-quota", line="OSError: [Errno 122] Disk quota exceeded")
    disk = Disk(path="/runs", what="runs", free_bytes=9, lack=lack)
    bench.die("a", code=1, evidence=Evidence(signs=(sign,), disks=(disk,)))
    assert bench.phase("a") is phase


def test_one_that_fills_its_disk_again_and_again_is_held():
    """Room comes back and each attempt dies of it anew without a save: six waits, and then a person must look."""
    bench = Bench()
    train(bench, "a", epoch=2)
    bench.save(3)
    count = 0
    while bench.phase("a") is not Phase.HELD:
        count += 1
        assert count < 10
        die_of_enospc(bench)
        bench.tell(events.WaitOver, "a", what="disk")
        if bench.phase("a") is Phase.PREPARING:
            bench.launch("a", start="resume", from_epoch=3)
    assert count == 7


def test_what_was_taken_back_from_the_trash_counts_again():
    """It is backed up again, and may be archived or pruned again."""
    bench = Bench(prunes=True)
    bench.bring_to(Phase.SUCCEEDED)
    bench.tell(events.PruneAsked, by="ann")
    bench.tell(events.Pruned, removed_runs=("a@1",), archived=("a@1",), moved_files=1)
    assert (bench.run("a").archived, bench.run("a").removed) == (True, True)
    bench.tell(events.TakenBack, run="a@1", by="ann")
    assert (bench.run("a").archived, bench.run("a").removed) == (False, False)
