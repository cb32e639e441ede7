from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import UserError
from supervisor.units import format_duration, format_size, format_time, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("1h30m", 5400), ("3d", 259200), ("500ms", 0.5), ("1.5h", 5400), ("1h 30m", 5400), (" 2w ", 1209600)],
)
def test_durations_are_read(text, seconds):
    """A duration is a number with a unit, or several."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "wrong",
    [60, 1.5, True, None, "", "60", "5x", "5m5m", "-5m", "m", "5 minutes", "9e9d", [], "\N{ARABIC-INDIC DIGIT FIVE}m"],
)
def test_wrong_durations_are_explained(wrong):
    """Whatever is no duration is refused, with what was expected, what was got and a way out."""
    with pytest.raises(UserError) as caught:
        parse_duration(wrong)
    (problem,) = caught.value.problems
    assert problem.expected
    assert problem.got
    assert problem.hint


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GiB", 20 * 1024**3),
        ("500MB", 500_000_000),
        ("1.5GiB", 1536 * 1024**2),
        ("0B", 0),
        ("1 kB", 1000),
        ("1KiB", 1024),
    ],
)
def test_sizes_are_read(text, size):
    """A size is a number with a unit; i in the unit means powers of 1024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("wrong", [20, 2.0, True, "20", "20G", "GiB", "-1GiB", "1e3MB", "", None, "999999999999PiB"])
def test_wrong_sizes_are_explained(wrong):
    """Bare numbers, bare letters and impossible sizes are refused with a hint."""
    with pytest.raises(UserError) as caught:
        parse_size(wrong)
    assert caught.value.problems[0].hint


def test_a_bare_number_is_told_its_unit():
    """Who wrote 30 is told how 30 seconds are written."""
    with pytest.raises(UserError, match='write "30s"'):
        parse_duration(30)


@given(st.integers(min_value=0, max_value=10**9))
def test_exact_durations_are_read_back(milliseconds):
    """What is written exactly is read back as it was, to the millisecond."""
    assert parse_duration(format_duration(milliseconds / 1000, exact=True)) == pytest.approx(milliseconds / 1000)


@given(st.integers(min_value=0, max_value=2**55))
def test_exact_sizes_are_read_back(size):
    """What is written exactly is read back as it was, to the byte."""
    assert parse_size(format_size(size, exact=True)) == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "0.2s"),
        (9.5, "9.5s"),
        (59.6, "1m"),
        (61, "1m1s"),
        (3605, "1h"),
        (273605, "3d4h"),
        (-90, "-1m30s"),
    ],
)
def test_durations_for_people_are_short(seconds, text):
    """People see the two largest units, and none of them when a larger one was skipped."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (500_000_000, "477MiB")])
def test_sizes_for_people_are_short(size, text):
    """People see three digits."""
    assert format_size(size) == text


@pytest.fixture
def utc(monkeypatch):
    """A machine whose clock shows UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_of_today_leave_the_date_out(utc):
    """The date is shown only where it is not that of now."""
    assert format_time(86400.0 + 3661, now=86400.0 + 7200) == "01:01:01"
    assert format_time(3661.0, now=86400.0 + 7200) == "1970-01-01 01:01:01"
    assert format_time(3661.0) == "1970-01-01 01:01:01"
