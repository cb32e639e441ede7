"""Goodput: every moment of a run is of one class, whatever happened to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.goodput import CLASSES, NO_VALIDATION, account
from supervisor.core.milestones import KINDS
from supervisor.core.model import Phase

BEGAN = 1_000_000.0


@dataclass
class Row:
    """One journalled event."""

    at: float
    kind: str
    phase_before: str = ""
    phase_after: str = ""
    body: dict[str, Any] = field(default_factory=dict)


class Story:
    """A run's history, written move by move; times are seconds since it was submitted."""

    def __init__(self, phase="PREPARING"):
        self.rows, self.phase, self.number = [Row(BEGAN, "JobAccepted", "", phase)], phase, 1

    def tell(self, at, kind, after="", /, **body):
        """Something happened at that time, after which the run was in that phase."""
        after = after or self.phase
        body.setdefault("attempt", self.number)
        self.rows.append(Row(BEGAN + at, kind, self.phase, after, body))
        self.phase = after

    def start(self, at, start="fresh", from_epoch=0):
        """An attempt is prepared and launched at once."""
        self.tell(at, "Prepared", "STARTING", start=start, from_epoch=from_epoch)
        self.tell(at, "Launched", "RUNNING", started_at=BEGAN + at)

    def save(self, at, epoch, **seconds):
        """An epoch was saved; `seconds` as the trainer told them."""
        self.tell(at, "Progressed", epoch=epoch, saved_epoch=epoch, seconds=seconds)

    def end(self, at, then, *, read_after=0.0, finished=False, code=1, ended_at=None, lost="", **found):
        """The attempt died, and what it left was read."""
        ended_at = BEGAN + (at if ended_at is None else ended_at)
        self.tell(at, "AttemptExited", "COOLING", code=code, ended_at=ended_at, lost=lost)
        self.tell(at + read_after, "Examined", then, finished=finished, **found)
        if then == "PREPARING":
            self.number += 1

    def account(self, now, **more):
        """The books at that time: checked, as seconds by class."""
        return check(account(self.rows, began_at=BEGAN, now=BEGAN + now, **more), now)


def check(found, total_s=None):
    """Every account adds up, and nothing is negative. Returns its seconds."""
    assert tuple(found.seconds) == CLASSES
    assert all(value >= 0 for value in found.spent.values()), found.spent
    assert sum(found.spent.values()) == found.ended - found.began
    assert sum(found.seconds.values()) == found.total_s
    assert all(found.with_gpus[name] <= found.spent[name] for name in CLASSES)
    if total_s is not None:
        assert found.total_s == pytest.approx(total_s, abs=0.002)
    return found.seconds


def expect(seconds, **expected):
    """Exactly these classes have these seconds; the others have none."""
    assert {name: value for name, value in seconds.items() if value} == pytest.approx(expected, abs=0.01)


def told(training, validation=0.0, unsaved=0.0, unsaved_validation=0.0, start_up=10.0):
    """What a trainer tells of its time."""
    return {
        "start_up": start_up,
        "training": training,
        "validation": validation,
        "save": 0.0,
        "unsaved": unsaved,
        "unsaved_validation": unsaved_validation,
    }


def test_a_run_without_trouble_is_start_up_training_and_validation():
    """Preparing and imports are start-up, what the trainer told of validation is validation, the rest is training."""
    story = Story()
    story.start(5)
    story.save(115, 1, **told(80, 20))
    story.end(215, "SUCCEEDED", finished=True, code=0, read_after=1, seconds=told(160, 40))
    expect(story.account(216), start_up=15, training=160, validation=40, detection=1)


def test_what_came_after_the_last_save_is_lost():
    """A crash costs the work since the last save, the time until it was known, and the delay."""
    story = Story()
    story.start(0)
    story.save(110, 1, **told(80, 20))
    story.end(160, "COOLING", read_after=3, saved_epoch=1, seconds=told(120, 30, unsaved=50, unsaved_validation=10))
    story.tell(193, "TimePassed", "PREPARING")
    story.number = 2
    story.start(195, "resume", 1)
    story.end(305, "SUCCEEDED", finished=True, code=0, seconds=told(80, 20))
    found = story.account(305)
    expect(found, start_up=22, training=160, validation=40, lost=50, detection=3, backoff=30)


def test_an_attempt_that_saved_nothing_is_lost_as_a_whole():
    """Without a save everything that was trained must be done again."""
    story = Story()
    story.start(0)
    story.end(60, "FAILED", seconds=told(50, unsaved=50))
    expect(story.account(60), start_up=10, lost=50)


def test_a_resume_from_an_older_checkpoint_costs_the_epochs_since():
    """When the newest checkpoint turns out to be torn, the epochs after the one that is resumed are lost too."""
    story = Story()
    story.start(0)
    for epoch in (1, 2, 3):
        story.save(10 + 100 * epoch, epoch, **told(80 * epoch, 20 * epoch))
    story.end(320, "PREPARING", saved_epoch=3, seconds=told(250, 60, unsaved=10))
    story.start(320, "resume", 1)
    story.end(530, "SUCCEEDED", finished=True, code=0, seconds=told(160, 40))
    expect(story.account(530), start_up=20, training=80 + 160, validation=20 + 40, lost=210)


def test_what_was_lost_stays_lost():
    """A later resume from a newer epoch does not bring back what an earlier one had cost."""
    story = Story()
    story.start(0)
    for epoch in (1, 2, 3):
        story.save(10 + 100 * epoch, epoch, **told(100 * epoch))
    story.end(310, "PREPARING", saved_epoch=3, seconds=told(300))
    story.start(310, "resume", 1)
    story.save(420, 2, **told(100))
    story.end(420, "PREPARING", saved_epoch=2, seconds=told(100))
    story.start(420, "resume", 2)
    expect(story.account(430), start_up=30, training=200, lost=200)


def test_seconds_that_shrink_lose_nothing():
    """A trainer whose clock makes no sense at its end does not make time negative."""
    story = Story()
    story.start(0)
    story.save(110, 1, **told(80, 20))
    story.end(110, "FAILED", saved_epoch=1, seconds=told(80, 5))
    expect(story.account(110), start_up=10, training=80, validation=5, lost=15)


def test_epochs_between_two_seen_saves_count_as_equally_long():
    """An epoch whose save nobody saw (the daemon was away) is taken from the ones around it."""
    story = Story()
    story.start(0)
    story.save(410, 4, **told(400))
    story.end(410, "PREPARING", saved_epoch=4, seconds=told(400))
    story.start(410, "resume", 3)
    expect(story.account(410), start_up=10, training=300, lost=100)


def test_a_start_from_scratch_loses_everything_before():
    """Where no checkpoint survived all earlier work of the run is lost."""
    story = Story()
    story.start(0)
    story.save(110, 1, **told(100))
    story.end(110, "PREPARING", saved_epoch=1, seconds=told(100))
    story.start(110)
    expect(story.account(120), start_up=20, lost=100)


def test_the_quiet_time_of_a_hang_is_detection():
    """From its last movement until it was dead and known a hang is detection, not training."""
    story = Story()
    story.start(0)
    story.save(110, 1, **told(80, 20))
    story.tell(900, "HangSeen", "STOPPING", verdict="hung", quiet_s=700.0, phase="train")
    found = told(170, 20, unsaved=90)
    story.end(960, "COOLING", read_after=2, saved_epoch=1, seconds=found, moved_at=BEGAN + 200)
    expect(story.account(962), start_up=10, training=80, validation=20, lost=90, detection=762)


def test_a_hang_in_a_validation_is_no_validation():
    """Neither the live seconds nor those of the end make the quiet time of a validation count as one."""
    story = Story()
    story.start(0)
    story.save(110, 1, **told(100))
    story.tell(900, "HangSeen", "STOPPING", verdict="hung", quiet_s=700.0, phase="val")
    expect(story.account(900, live=told(185, 705, 790, 705)), start_up=10, training=185, validation=5, detection=700)
    story.end(960, "COOLING", saved_epoch=1, seconds=told(185, 5, 90, 5), moved_at=BEGAN + 200)
    expect(story.account(960), start_up=10, training=100, lost=90, detection=760)


def test_a_hang_in_the_start_up_is_detection():
    """A label scan that hangs is start-up until its last movement."""
    story = Story()
    story.start(0)
    story.tell(900, "HangSeen", "STOPPING", verdict="hung", quiet_s=700.0, phase="scan")
    story.end(960, "COOLING", seconds={"start_up": 200.0}, moved_at=BEGAN + 200)
    expect(story.account(960), start_up=200, detection=760)


@pytest.mark.parametrize("verdict", ["storage", "stopped"])
def test_a_training_that_stands_still_for_others_waits(verdict):
    """A storage stall and a stopped process are waiting, until it moves again; what was saved after is not cut."""
    story = Story()
    story.start(0)
    story.tell(310, "HangSeen", verdict=verdict, quiet_s=200.0, phase="train")
    story.tell(410, "HangSeen", verdict="moving")
    story.save(510, 1, **told(500))
    story.end(520, "FAILED", saved_epoch=1, seconds=told(510, unsaved=10))
    expect(story.account(520), start_up=10, waiting=300, training=200, lost=10)


def test_a_hang_that_moves_again_is_not_the_end():
    """A verdict that was taken back costs its quiet time, and the crash much later is a crash."""
    story = Story()
    story.start(0)
    story.tell(310, "HangSeen", "STOPPING", verdict="hung", quiet_s=200.0, phase="train")
    story.tell(320, "Progressed", "RUNNING", epoch=2, saved_epoch=0)
    story.save(420, 2, **told(410))
    story.end(440, "FAILED", saved_epoch=2, seconds=told(430, unsaved=20))
    expect(story.account(440), start_up=10, training=200, detection=210, lost=20)


def test_waiting_is_the_queue_and_whatever_the_machine_lacks():
    """Queue, a preparation or launch that found no room, and cooling down until it is back are waiting."""
    story = Story("QUEUED")
    story.tell(100, "TimePassed", "PREPARING")
    story.tell(110, "PrepareFailed", "COOLING", reason="no room", waiting_for="disk")
    story.tell(150, "WaitOver", "QUEUED", what="disk")
    story.tell(160, "TimePassed", "PREPARING")
    story.tell(165, "Prepared", "COOLING", start="refused")
    story.tell(195, "TimePassed", "PREPARING")
    story.tell(196, "Prepared", "STARTING", start="fresh", from_epoch=0)
    story.tell(198, "LaunchFailed", "COOLING", waiting_for="memory")
    story.tell(200, "TimePassed", "PREPARING")
    expect(story.account(210), waiting=199, start_up=11)


def test_a_cooling_after_a_failure_that_waits_for_something_is_waiting():
    """It is backoff only where nothing is waited for: told by what is back, or by what the run waits for now."""
    story = Story()
    story.start(0)
    story.end(10, "COOLING", seconds={"start_up": 10.0})
    expect(story.account(40), start_up=10, backoff=30)
    expect(story.account(40, waiting_for="mount: /data"), start_up=10, waiting=30)
    story.tell(50, "WaitOver", "QUEUED", what="mount: /data")
    expect(story.account(60), start_up=10, waiting=50)


def test_held_until_a_person_decides():
    """The time in HELD is held, also while what the last attempt left is not cleared yet."""
    story = Story()
    story.start(0)
    story.end(20, "HELD", seconds=told(10, unsaved=10))
    story.tell(1020, "ResumeAsked", "QUEUED")
    story.tell(1025, "CancelAsked", "CANCELLED")
    expect(story.account(1025), start_up=10, lost=10, held=1000, waiting=5)


def test_after_the_end_no_time_passes():
    """The clock of a run stops with its end, whatever is told later."""
    story = Story("QUEUED")
    story.tell(5, "CancelAsked", "CANCELLED")
    story.tell(500, "Kept", epoch=3)
    found = account(story.rows, began_at=BEGAN, now=BEGAN + 9999)
    assert check(found, 5)["waiting"] == 5


def test_a_trainer_that_tells_nothing_starts_when_it_first_moves():
    """Without heartbeats: start-up until the first progress, saves by their files, and no validation, as is said."""
    story = Story()
    story.start(0)
    story.tell(40, "Progressed", epoch=1, saved_epoch=0)
    story.save(140, 1)
    story.tell(200, "SaveSeen", epoch=0)
    story.end(230, "FAILED", saved_epoch=1)
    expect(story.account(230), start_up=40, training=160, lost=30)
    assert account(story.rows, began_at=BEGAN, now=BEGAN).notes == (NO_VALIDATION,)


def test_a_save_that_nobody_saw_loses_nothing_that_is_known():
    """A trainer without heartbeats that saved unseen: nothing is called lost that may be in that checkpoint."""
    story = Story()
    story.start(0)
    story.tell(10, "Progressed", epoch=1, saved_epoch=0)
    story.end(110, "FAILED", saved_epoch=1)
    expect(story.account(110), start_up=10, training=100)


def test_a_death_while_the_daemon_was_away_counts_from_the_death():
    """The hours in which nobody knew that it had died are detection."""
    story = Story()
    story.start(0)
    story.end(7200, "COOLING", ended_at=110, saved_epoch=0, seconds=told(100, unsaved=100))
    expect(story.account(7200), start_up=10, lost=100, detection=7090)


def test_a_machine_that_went_down_ends_the_work_at_its_last_movement():
    """Nobody saw the end: work counts until the attempt last moved."""
    story = Story()
    story.start(0)
    story.end(7200, "QUEUED", code=None, lost="the machine restarted", moved_at=BEGAN + 110, seconds=told(100, 0, 40))
    expect(story.account(7300), start_up=10, lost=100, detection=7090, waiting=100)
    silent = Story()
    silent.start(0)
    silent.tell(10, "Progressed", epoch=1, saved_epoch=0)
    silent.tell(60, "Progressed", epoch=1, saved_epoch=0)
    silent.end(7200, "QUEUED", code=None, lost="the machine restarted")
    expect(silent.account(7200), start_up=10, lost=50, detection=7140)


def test_a_launch_that_was_confirmed_late_was_training_all_the_while():
    """A daemon that was killed right after a launch finds the training at work: that was no start-up."""
    story = Story()
    story.tell(5, "Prepared", "STARTING", start="fresh", from_epoch=0)
    story.tell(3605, "Launched", "RUNNING", started_at=BEGAN + 5)
    expect(story.account(3705, live=told(3600, 90)), start_up=15, training=3600, validation=90)


def test_a_watched_training_that_is_let_go_loses_nothing():
    """A person's training goes on without us: its work is not lost."""
    story = Story()
    story.start(0, "watch")
    story.tell(10, "Progressed", epoch=1, saved_epoch=0)
    story.tell(50, "StopAsked", "STOPPING")
    story.end(60, "HELD", code=None, result="detached")
    expect(story.account(60), start_up=10, training=50)


def test_a_stop_of_a_person_is_no_failure():
    """Attempts that were asked to end, and stages, are not counted as failures; what died and what hung is."""
    story = Story()
    for then, move in (("HELD", "asked"), ("PREPARING", "stage"), ("PREPARING", "hung"), ("PREPARING", "died")):
        story.phase = "PREPARING"
        story.start(0)
        if move == "hung":
            story.tell(0, "HangSeen", "STOPPING", verdict="hung", quiet_s=0.0)
        if move == "asked":
            story.tell(0, "StopAsked", "STOPPING")
        story.end(0, then, code=75 if move in {"asked", "stage"} else 1)
        story.number += move == "asked"
    story.tell(0, "Prepared", "STARTING", start="resume")
    story.tell(0, "LaunchFailed", "COOLING", reason="no such file")
    found = account(story.rows, began_at=BEGAN, now=BEGAN)
    assert (found.attempts, found.failures) == (4, 3)


def test_late_news_of_an_older_attempt_changes_nothing():
    """An answer that came too late to count is left out of the books."""
    story = Story()
    story.start(0)
    story.end(110, "PREPARING", seconds=told(100, unsaved=100))
    story.start(110)
    before = story.account(200)
    story.tell(150, "Examined", attempt=1, finished=False, seconds=told(1, 1))
    story.tell(150, "Progressed", attempt=1, epoch=9, saved_epoch=9)
    story.tell(150, "Examined", finished=False, seconds=told(1, 1))
    assert story.account(200) == before
    story.end(210, "COOLING", saved_epoch=1, seconds=told(90, unsaved=40))
    before = story.account(300)
    story.tell(250, "Progressed", epoch=9, saved_epoch=9, seconds=told(1, 80))
    assert story.account(300) == before


def test_gpus_count_while_the_run_has_them():
    """In the queue, in a backoff and in HELD the GPUs are others'; while what is left is cleared away they are not."""
    story = Story("QUEUED")
    story.tell(100, "TimePassed", "PREPARING")
    story.start(105)
    story.end(215, "COOLING", read_after=5, seconds=told(100, unsaved=100))
    story.tell(250, "StopAsked", "HELD")
    found = account(story.rows, began_at=BEGAN, now=BEGAN + 300)
    check(found, 300)
    assert {name: value / 1024 for name, value in found.with_gpus.items() if value} == {
        "start_up": 15,
        "lost": 100,
        "detection": 5,
    }


def test_a_window_counts_only_what_came_after():
    """With `since` the time before is left out; an attempt that it cuts in two is split in proportion."""
    story = Story()
    story.start(0)
    story.end(210, "HELD", code=75, saved_epoch=1, seconds=told(150, 50, unsaved=20))
    story.tell(400, "ResumeAsked", "QUEUED")
    whole = story.account(500)
    expect(whole, start_up=10, training=130, validation=50, lost=20, held=190, waiting=100)
    found = account(story.rows, began_at=BEGAN, now=BEGAN + 500, since_at=BEGAN + 110)
    expect(check(found, 390), training=65, validation=25, lost=10, held=190, waiting=100)
    for place in range(40):
        check(
            account(story.rows, began_at=BEGAN, now=BEGAN + 500, since_at=BEGAN + 10 + place * 4.7), 490 - place * 4.7
        )
    later = account(story.rows, began_at=BEGAN, now=BEGAN + 500, since_at=BEGAN + 10_000)
    assert check(later, 0)["held"] == 0


def test_a_clock_that_was_set_back_stands_still_until_it_has_caught_up():
    """No class gets negative time, and the total is from the beginning to the latest moment that was seen."""
    story = Story()
    story.start(100)
    story.save(1000, 1, **told(800))
    story.tell(400, "Progressed", epoch=2, saved_epoch=1)
    story.end(500, "COOLING", saved_epoch=1, seconds=told(1200, unsaved=400))
    expect(story.account(1000), start_up=110, training=390, detection=500)  # by its own clock it died at 500


def test_rows_that_the_journal_has_lost_leave_the_total_whole():
    """Where the beginning of a history is gone, the time before counts as the first phase that is known."""
    story = Story()
    story.start(100)
    story.end(200, "HELD", seconds=told(90, unsaved=90))
    rows = [row for row in story.rows if row.kind == "Examined"]
    found = account(rows, began_at=BEGAN, now=BEGAN + 300)
    expect(check(found, 300), backoff=200, held=100)


# ---- whatever happens
NUMBERS = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(-100, 5000), st.just(0.0))
SECONDS = st.dictionaries(st.sampled_from(list(told(0))), NUMBERS, max_size=6)
TIMES = st.one_of(st.floats(-500, 5000), st.floats(-1e300, 1e300), st.just(0.0))
BODIES = st.fixed_dictionaries(
    {"attempt": st.integers(1, 2)},
    optional={
        "start": st.sampled_from(["fresh", "resume", "finish", "watch", "finished", "refused"]),
        "from_epoch": st.integers(0, 4),
        "saved_epoch": st.integers(0, 4),
        "epoch": st.integers(0, 4),
        "waiting_for": st.sampled_from(["", "disk"]),
        "finished": st.booleans(),
        "result": st.sampled_from(["", "detached"]),
        "lost": st.sampled_from(["", "its shim was killed"]),
        "code": st.sampled_from([None, 0, 1, 75]),
        "verdict": st.sampled_from(["hung", "storage", "stopped", "moving"]),
        "phase": st.sampled_from(["train", "val", "end", "scan", ""]),
        "quiet_s": st.floats(-10, 1e6),
        "started_at": NUMBERS.map(lambda at: at + BEGAN),
        "ended_at": NUMBERS.map(lambda at: at + BEGAN),
        "moved_at": NUMBERS.map(lambda at: at + BEGAN),
        "seconds": SECONDS,
    },
)
PHASES = st.sampled_from(["", *(phase.value for phase in Phase if not phase.terminal)])
ANY_ROW = st.builds(
    Row,
    at=TIMES.map(lambda at: at + BEGAN),
    kind=st.sampled_from([*KINDS, "TimePassed", "StopAsked", "Kept"]),
    phase_before=PHASES,
    phase_after=PHASES,
    body=BODIES,
)
LIFE = (  # what mostly follows what, so that attempts come far enough to be accounted for
    ("Prepared", "PREPARING", "STARTING"),
    ("Launched", "STARTING", "RUNNING"),
    ("Progressed", "RUNNING", "RUNNING"),
    ("HangSeen", "RUNNING", "STOPPING"),
    ("Progressed", "STOPPING", "RUNNING"),
    ("AttemptExited", "RUNNING", "COOLING"),
    ("Examined", "COOLING", "COOLING"),
    ("TimePassed", "COOLING", "PREPARING"),
)


SOME_SECONDS = st.fixed_dictionaries({name: st.floats(0, 300) for name in told(0)})


@st.composite
def lives(draw):
    """Attempts in a plausible order, with any numbers in them; some moves are left out, times go forth and back."""
    rows, at = [Row(BEGAN, "JobAccepted", "", "PREPARING")], BEGAN
    for _ in range(draw(st.integers(1, 3))):
        for kind, before, after in LIFE:
            if draw(st.integers(0, 9)):
                at += draw(st.floats(-50, 400))
                likely = {"start": "fresh", "started_at": at, "ended_at": at, "seconds": draw(SOME_SECONDS)}
                body = likely if draw(st.booleans()) else draw(BODIES)
                rows.append(Row(at, kind, before, after, body | {"attempt": 1}))
    return rows


@given(rows=st.one_of(st.lists(ANY_ROW, max_size=25), lives()), now=TIMES, since=st.none() | TIMES, live=SECONDS)
def test_any_history_adds_up(rows, now, since, live):
    """Whatever the rows say: no class is negative, and they add up to the wall clock exactly."""
    since_at = None if since is None else BEGAN + since
    found = account(rows, began_at=BEGAN, now=BEGAN + now, since_at=since_at, live=live)
    check(found)
    assert found.ended >= found.began
    ended = max([BEGAN, BEGAN + now, *(row.at for row in rows)])
    if since is None and -1e12 < ended < 1e12:
        assert found.total_s == pytest.approx(ended - BEGAN, abs=0.01)


@given(rows=lives(), cuts=st.lists(st.floats(0, 3000), min_size=1, max_size=4))
def test_windows_add_up_to_the_whole(rows, cuts):
    """What lies after a moment is never more than the whole, and the total of the window is its length."""
    now = max(row.at for row in rows) + 100
    whole = account(rows, began_at=BEGAN, now=now)
    for cut in cuts:
        part = account(rows, began_at=BEGAN, now=now, since_at=BEGAN + cut)
        check(part)
        assert part.ended == whole.ended
        assert part.began == min(max(whole.began, round((BEGAN + cut) * 1024)), whole.ended)
        assert part.spent["held"] <= whole.spent["held"]
        assert part.spent["start_up"] <= whole.spent["start_up"]
