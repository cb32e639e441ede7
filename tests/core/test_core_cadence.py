"""What is learned about how long a training is used to stand still."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.diagnosis import cadence
from supervisor.core.diagnosis.cadence import Cadence, Sketch

MINUTE_S = 60.0


def learned(phase, *gaps_s, times=1):
    """A cadence with these gaps of one phase, each so many times."""
    found = Cadence()
    for gap_s in gaps_s * times:
        found = found.with_gap(phase, gap_s)
    return found


@given(st.lists(st.floats(min_value=0.2, max_value=1e6), min_size=1, max_size=300))
def test_a_percentile_is_at_most_a_tenth_too_high(gaps):
    """The sketch tells p99 within its ratio, and never too low: a limit that is too low kills."""
    sketch = Sketch()
    for gap in gaps:
        sketch = sketch.with_gap(gap)
    exact = sorted(gaps)[-(-99 * len(gaps) // 100) - 1]
    assert exact * 0.999 <= sketch.percentile_s(0.99) <= exact * 1.1001


@given(st.lists(st.floats(min_value=-1, max_value=1e12), max_size=50), st.lists(st.floats(0, 1e5), max_size=50))
def test_records_are_merged_without_loss(one, other):
    """Two records together know what one record of all gaps would."""
    both = cadence.merged(learned("val", *one), learned("val", *other))
    assert both.phases.get("val", Sketch()) == learned("val", *one, *other).phases.get("val", Sketch())


def test_the_sketch_stays_small_and_forgets_slowly():
    """Millions of gaps take a bounded place; what came last soon counts for more than what was long ago."""
    found = Sketch({10: cadence.MOST_GAPS - 1, 50: 1}, cadence.MOST_GAPS)
    found = found.with_gap(1.0)
    assert found.total <= cadence.MOST_GAPS // 2 + 3
    assert found.counts[50] == 1, "the one long gap is not forgotten"
    extremes = learned("val", *(10.0**power for power in range(-9, 30)))
    assert max(extremes.phases["val"].counts) == cadence.bucket(cadence.LONGEST_S)


@pytest.mark.parametrize(
    ("phase", "gaps", "limit_s"),
    [
        ("train", [0.5] * 100, 2 * MINUTE_S),
        ("train", [60.0] * 100, 5 * 60.0),
        ("train", [0.5] * 10, 30 * MINUTE_S),
        ("val", [20.0] * 5, 15 * MINUTE_S),
        ("scan", [1.0] * 5, 15 * MINUTE_S),
        ("save", [1.0] * 5, 15 * MINUTE_S),
        ("end", [1.0] * 5, 15 * MINUTE_S),
        ("start", [1.0] * 5, 15 * MINUTE_S),
        ("val", [3600.0] * 5, 5 * 3600.0),
        ("val", [20.0], 30 * MINUTE_S),
        ("log", [1.0] * 100, 15 * MINUTE_S),
        ("train", [], 30 * MINUTE_S),
        ("val", [], 30 * MINUTE_S),
    ],
)
def test_limits_are_those_of_the_contract(phase, gaps, limit_s):
    """max(floor, 5 · p99): floors of 2 minutes for batches and 15 for all else; 30 minutes without a history."""
    found = learned(phase, *gaps).limit_s(phase)
    assert limit_s <= found <= limit_s * 1.101


def test_one_long_gap_without_a_history_counts():
    """A first validation of two hours makes the next limit long, although one gap is no history yet."""
    assert learned("val", 7200.0).limit_s("val") >= 5 * 7200.0


def test_it_is_kept_as_json():
    """What was learned is found again, in a few kilobytes."""
    known = cadence.merged(learned("train", *(1.07**n for n in range(200))), learned("val", 5.0, 900.0))
    data = cadence.encode(known)
    assert cadence.decode(data) == known
    assert len(data) < 4096


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"version": 2, "phases": {}}',
        b'{"phases": {"val": {"counts": {"3": -1}, "total": -1}}}',
        b'{"phases": {"val": {"counts": {"3": 5}, "total": 4}}}',
        b'{"phases": {"val": {"counts": {"99999": 5}, "total": 5}}}',
        b'{"phases": {"val": 3}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_no_history(data):
    """Whatever stands in the file, reading it raises nothing and teaches nothing wrong."""
    assert cadence.decode(data) == Cadence()


@pytest.mark.parametrize(
    ("word", "has_beats", "begun", "phase"),
    [
        ("", True, False, "start"),
        ("import", True, False, "start"),
        ("setup", True, False, "start"),
        ("scan", True, False, "scan"),
        ("train", True, False, "first"),
        ("train", True, True, "train"),
        ("val", True, True, "val"),
        ("save", True, True, "save"),
        ("end", True, True, "end"),
        ("a user's own word", True, True, "other"),
        ("", False, False, "start"),
        ("train", False, True, "log"),
    ],
)
def test_phases_follow_the_runners_words(word, has_beats, begun, phase):
    """Each word of the runner is a phase; without a runner there is the time before the first batch, and after it."""
    assert cadence.phase_of(word, has_beats=has_beats, begun=begun) == phase


def test_a_cadence_is_frozen():
    """A cadence that was handed out does not change under its reader."""
    first = learned("val", 5.0)
    before = msgspec.json.encode(first)
    first.with_gap("val", 9.0)
    assert msgspec.json.encode(first) == before
