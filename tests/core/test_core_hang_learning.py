"""The judge of hangs over time: what counts as time, and what it learns."""

from __future__ import annotations

import pytest

from supervisor.core.diagnosis import hang
from supervisor.core.diagnosis.cadence import Cadence
from tests.core.hang_bench import LOOK_S, Bench

MINUTE_S = 60.0
HOUR_S = 3600.0


# ---- time
def test_time_when_nobody_looked_does_not_count():
    """A daemon that was away, a machine that slept for a night: one look later nothing is hung."""
    bench = Bench()
    bench.look(step_s=12 * HOUR_S)
    bench.look(step_s=12 * HOUR_S)
    assert bench.told == []
    assert bench.state.quiet.quiet_s <= 2 * hang.STEP_MAX_S


def test_a_clock_that_jumps_back_is_harmless():
    """Time that runs backwards counts as none."""
    bench = Bench()
    bench.stand_still(60.0)
    bench.look(step_s=-5 * HOUR_S)
    bench.stand_still(30.0)
    assert bench.told == []
    assert bench.state.quiet.quiet_s == pytest.approx(90.0)


def test_a_new_daemon_begins_to_count_anew():
    """The first look of a daemon says nothing about how long a training has been quiet already."""
    bench = Bench()
    bench.stand_still(2 * MINUTE_S)
    bench.state = hang.HangState(cadence=bench.state.cadence)
    bench.look()
    assert bench.stand_still(HOUR_S, until="hung") > 2 * MINUTE_S


def test_looks_that_saw_nothing_do_not_count():
    """While the run directory's disk does not answer, nobody knows whether the training moves."""
    bench = Bench()
    for _ in range(500):
        bench.look(blind=True)
    assert bench.told == []
    assert bench.state.quiet.quiet_s == 0.0


def test_a_dead_disk_is_named_although_it_blinds():
    """The run directory and the data lie on the same dead mount: the training's D state says so."""
    bench = Bench()
    bench.set(1, state="D", wchan="rpc_wait_bit_killable")
    for _ in range(50):
        bench.look(blind=True)
    assert bench.verdicts == ["storage"]


# ---- learning
def test_gaps_between_batches_are_learned():
    """A training whose batches take a minute gets a limit of five."""
    bench = Bench(known=Cadence())
    for _ in range(100):
        bench.stand_still(50.0)
        bench.move()
        bench.look()
    assert 5 * 60 <= bench.state.cadence.limit_s("train") <= 5 * 60 * 1.11


def test_whole_phases_are_learned_by_their_longest_gap():
    """Of a validation that tells nothing its whole length is learned, once, when it is over."""
    bench = Bench(known=Cadence())
    for _ in range(4):
        bench.phase = "val"
        bench.stand_still(600.0)
        bench.phase = "train"
        bench.look()
    assert bench.state.cadence.phases["val"].total == 4
    assert 5 * 600 <= bench.state.cadence.limit_s("val") <= 5 * 610 * 1.11


def test_a_phase_that_was_not_seen_from_its_begin_teaches_nothing():
    """A daemon that starts in the middle of a validation does not believe that validations are short."""
    bench = Bench(phase="val", known=Cadence())
    bench.stand_still(60.0)
    bench.phase = "train"
    bench.look()
    assert "val" not in bench.state.cadence.phases


@pytest.mark.parametrize("fields", [{"state": "T"}, {"state": "D"}])
def test_what_was_held_up_teaches_nothing(fields):
    """A day under a debugger, or before a dead disk, is no gap of the training."""
    bench = Bench()
    bench.move()
    bench.look()
    before = bench.state.cadence
    bench.set(1, **fields)
    bench.stand_still(24 * HOUR_S)
    bench.move()
    bench.look()
    assert bench.state.cadence == before


@pytest.mark.parametrize("stopped_s", [20.0, HOUR_S])
def test_a_phase_that_was_held_up_teaches_nothing(stopped_s):
    """A validation in which somebody stopped the training, for an hour or a moment, says nothing about validations."""
    bench = Bench()
    bench.phase = "val"
    bench.look()
    bench.set(1, state="T")
    bench.stand_still(stopped_s)
    bench.set(1, state="S")
    bench.stand_still(MINUTE_S)
    bench.phase = "train"
    bench.look()
    assert "val" not in bench.state.cadence.phases


def test_of_a_phase_with_signs_in_between_the_longest_gap_counts():
    """A scan with a progress bar: its longest gap is learned, neither the whole of it nor the last one."""
    bench = Bench()
    bench.phase = "scan"
    for gap_s in (20.0, 300.0, 20.0):
        bench.look()
        bench.stand_still(gap_s)
        bench.move()
    bench.phase = "train"
    bench.look()
    assert 300 <= bench.state.cadence.phases["scan"].percentile_s(1.0) <= 330 * 1.1


def test_the_first_gap_after_a_start_is_not_known():
    """A daemon that just began does not know since when the training has been quiet."""
    bench = Bench()
    bench.state = hang.HangState()
    bench.look()
    bench.stand_still(50.0)
    bench.phase = "val"
    bench.look()
    assert bench.state.cadence == Cadence()


def test_a_hang_that_was_none_is_learned():
    """What went on after it was called hung will not be called so soon again."""
    bench = Bench()
    for _ in range(5):
        bench.stand_still(10 * MINUTE_S)
        bench.move()
        bench.look()
    assert bench.verdicts.count("hung") == 1 + bench.verdicts.count("moving") - 1
    assert bench.state.cadence.limit_s("train") > 10 * MINUTE_S


def test_the_last_phase_is_learned_at_a_good_end():
    """When an attempt has ended well, its end phase was as long as it was."""
    bench = Bench()
    bench.phase = "end"
    bench.stand_still(100.0)
    learned = hang.ended(bench.state)
    assert learned.phases["end"].total == 1
    assert hang.ended(bench.state).phases["train"] == bench.state.cadence.phases["train"]
    assert learned.phases["end"].percentile_s(1.0) >= 100.0 - LOOK_S
