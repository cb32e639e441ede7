"""When a file system will be full, and which level it has: pure answers to any readings."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import forecast
from supervisor.core.forecast import LEVELS, MOST_SAMPLES, WINDOW_S, Sample, full_in_s, level, marks, noted

GIB = 1024**3
MIB = 1024**2
TB = 1e12
DELETION = 0.01 * TB


def told(frees, every_s=30.0, deletion=DELETION):
    """The samples after all these readings."""
    samples = ()
    for number, free in enumerate(frees):
        samples = noted(samples, number * every_s, free, deletion)
    return samples


# ---- how long it takes
def test_a_steady_pace_is_told_to_the_second():
    """100 MB each half minute from 100 GB on: nothing is free after as many seconds as that takes."""
    assert full_in_s(told([1e11 - number * 1e8 for number in range(200)])) == pytest.approx((1e11 - 199e8) / 1e8 * 30)


@pytest.mark.parametrize(
    "frees", [[5e11] * 50, [1e11 + number * 1e8 for number in range(50)]], ids=["still", "emptier"]
)
def test_what_does_not_fill_up_has_no_time(frees):
    """Neither a disk that nobody writes nor one that empties slowly."""
    assert full_in_s(told(frees)) is None


def test_too_few_looks_tell_nothing():
    """Four readings, or less than five minutes, are no pace."""
    assert full_in_s(told([4e9, 3e9, 2e9, 1e9], every_s=600)) is None
    assert full_in_s(told([1e11 - number * 1e9 for number in range(9)])) is None
    assert full_in_s(told([1e11 - number * 1e9 for number in range(12)])) is not None


def test_what_takes_months_is_not_told():
    """A log that grows by a kilobyte a minute fills no terabyte."""
    assert full_in_s(told([TB - number * 500.0 for number in range(60)])) is None


def test_a_deletion_begins_the_window_anew():
    """What the disk did before somebody made room says nothing about the pace since."""
    before = [5e11 - number * 1e9 for number in range(60)]
    after = [9e11 - number * 1e8 for number in range(60)]
    assert full_in_s(told(before + after)) == pytest.approx((9e11 - 59e8) / 1e8 * 30)
    assert full_in_s(told([*before, 9e11])) is None


def test_a_deletion_that_gives_back_only_a_part_begins_it_anew_too():
    """The disk was emptier hours ago; what counts is that it is suddenly emptier than just now."""
    before = [9e11 - number * 1e9 for number in range(60)]
    after = [8.7e11 - number * 1e8 for number in range(60)]
    assert full_in_s(told(before + after)) == pytest.approx((8.7e11 - 59e8) / 1e8 * 30)


def test_days_of_looks_are_few_samples_over_hours():
    """Bounded in number and in time, with the newest ones all there."""
    samples = told([1e12 - number * 1e6 for number in range(5000)])
    assert MOST_SAMPLES / 3 < len(samples) <= MOST_SAMPLES
    assert WINDOW_S / 2 < samples[-1].at - samples[0].at <= WINDOW_S
    assert [one.at for one in samples[-3:]] == [4997 * 30.0, 4998 * 30.0, 4999 * 30.0]


def test_a_file_that_is_written_anew_is_no_deletion():
    """A temporary file of 2 % comes and goes with every save, and the disk fills slowly all the while."""
    frees = [5e11 - number * 1e8 - (2e10 if number % 3 == 0 else 0) for number in range(120)]
    left = full_in_s(told(frees))
    assert left == pytest.approx(frees[-1] / 1e8 * 30, rel=0.15)


@pytest.mark.parametrize("place", [2, 30, 58])
def test_one_large_copy_is_no_pace(place):
    """300 GB come in half a minute: that says nothing about the next hours, wherever in the window it is."""
    steady = [9e11 - number * 1e8 for number in range(60)]
    frees = [free - (3e11 if number >= place else 0) for number, free in enumerate(steady)]
    assert full_in_s(told(frees)) == pytest.approx(frees[-1] / 1e8 * 30, rel=0.02)
    alone = [9e11 - (3e11 if number >= place else 0) for number in range(60)]
    assert full_in_s(told(alone)) is None


def test_saves_in_bursts_are_a_pace():
    """A checkpoint of 1 GB each ten minutes fills the disk as fast as its average."""
    frees = [1e11 - number // 20 * 1e9 for number in range(240)]
    assert full_in_s(told(frees)) == pytest.approx(frees[-1] / 1e9 * 600, rel=0.15)


def test_a_clock_that_runs_back_begins_the_window_anew():
    """No pace is computed over seconds that never passed."""
    samples = told([1e11 - number * 1e8 for number in range(30)])
    assert noted(samples, samples[-1].at, 1e11, DELETION) == (Sample(samples[-1].at, 1e11),)
    assert noted(samples, 0.0, 1e10, DELETION) == (Sample(0.0, 1e10),)


steps = st.tuples(st.floats(-100, 40_000), st.integers(0, 10**12))


@given(st.lists(steps, max_size=300))
def test_whatever_is_read_the_window_is_bounded_and_the_answer_a_time(readings):
    """Never more samples than the bound or older than the window, in order; never a negative, infinite or odd time."""
    samples, at = (), 0.0
    for gap_s, free in readings:
        at += gap_s
        samples = noted(samples, at, free, DELETION)
        assert samples[-1] == Sample(at, free)
    assert len(samples) <= MOST_SAMPLES
    assert all(a.at < b.at for a, b in pairwise(samples))
    assert not samples or samples[-1].at - samples[0].at <= WINDOW_S
    left = full_in_s(samples)
    assert left is None or (math.isfinite(left) and 0 <= left <= forecast.FARTHEST_S)
    assert left == full_in_s(samples)


@given(st.integers(1, 10**9), st.integers(20, 400))
def test_filling_at_an_even_pace_is_always_foreseen(per_look, count):
    """Whatever the pace, as long as there is room left and it is no matter of months."""
    frees = [1e12 - number * per_look for number in range(count)]
    expected = frees[-1] / per_look * 30
    left = full_in_s(told(frees))
    assert left == pytest.approx(expected) if expected <= forecast.FARTHEST_S else left is None


# ---- levels
def test_a_level_is_left_only_well_above_its_mark():
    """10 % and 256 MiB above: a disk at the mark does not pause and resume trainings all the time."""
    at = marks(10 * GIB, 2 * GIB, 1000 * GIB)
    assert level("ok", 2 * GIB - 1, at) == "full"
    assert level("ok", 2 * GIB, at) == "low"
    assert level("full", 2.2 * GIB + 256 * MIB - 1, at) == "full"
    assert level("full", 2.2 * GIB + 256 * MIB, at) == "low"
    assert level("low", 11 * GIB + 256 * MIB - 1, at) == "low"
    assert level("low", 11 * GIB + 256 * MIB, at) == "ok"
    assert level("ok", 10 * GIB, at) == "ok"


@pytest.mark.parametrize("total", [64 * MIB, GIB, 5 * GIB, 20 * GIB, 4000 * GIB])
def test_an_empty_disk_is_ok_whatever_its_size_and_history(total):
    """Marks for servers do not make a small disk low for ever."""
    at = marks(10 * GIB, 2 * GIB, total)
    assert {level(before, 0.6 * total, at) for before in LEVELS} == {"ok"}
    assert {level(before, 0, at) for before in LEVELS} == {"full"}
    assert at.full <= at.low


def test_pause_above_prune_is_taken_as_it_is():
    """Whoever sets prune_below under pause_below has no low level; full counts first."""
    at = marks(GIB, 5 * GIB, 1000 * GIB)
    assert level("ok", 4 * GIB, at) == "full"
    assert level("ok", 5 * GIB, at) == "ok"


def test_inodes_have_levels_too():
    """A thousand are needed for a start, ten thousand to be at ease; where a file system has few, a share of them."""
    at = forecast.inode_marks(1000, 10**7)
    assert [level("ok", free, at) for free in (999, 1000, 9999, 10_000)] == ["full", "low", "low", "ok"]
    assert level("full", 1099, at) == "full"
    assert level("ok", 600, forecast.inode_marks(1000, 1000)) == "ok"


@given(st.integers(0, 10**13), st.integers(1, 10**13), st.integers(0, 10**12), st.integers(0, 10**12))
def test_more_room_is_never_worse_and_a_worse_past_never_better(free, total, low, full):
    """Both ways: levels are in order of what is free, and of what was before."""
    at = marks(low, full, total)
    for before in LEVELS:
        assert LEVELS.index(level(before, free + total // 10, at)) <= LEVELS.index(level(before, free, at))
    now = [LEVELS.index(level(before, free, at)) for before in LEVELS]
    assert now == sorted(now)


def test_the_worst_of_several():
    """Bytes and inodes are judged apart; the worse counts."""
    assert forecast.worst(("ok", "full", "low")) == "full"
    assert forecast.worst(()) == "ok"
