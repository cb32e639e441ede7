"""Schedules and quiet hours as people write them: what they mean, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import schedule_words
from supervisor.errors import UserError
from supervisor.schedule_words import Cron, Every, Span


def test_the_three_kinds_of_schedules():
    """A duration, a time of day, and the five fields of cron."""
    assert schedule_words.schedule("90m") == Every(5400.0)
    assert schedule_words.schedule(" 4:05 ") == Cron((5,), (4,))
    assert schedule_words.schedule("*/20 1,3 * * *") == Cron((0, 20, 40), (1, 3))
    assert schedule_words.schedule("0 0 * * */2").weekdays == (0, 2, 4, 6)
    assert schedule_words.schedule("0 0 1-9/4 JAN-mar *").days == (1, 5, 9)


@pytest.mark.parametrize(
    "text",
    ["", "1x", "30", "500ms", "24:00", "12:60", "1:2:3", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *",
     "* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "x * * * *", "1,,2 * * * *", "0 0 31 feb *", "0 0 30 2 *",
     "@daily", "٣ * * * *"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_with_what_would_be(text):
    """The message has an example of each kind and what stood there."""
    with pytest.raises(UserError) as caught:
        schedule_words.schedule(text)
    [problem] = caught.value.problems
    assert problem.expected == schedule_words.EXPECTED
    assert problem.got == f'"{text}"'


@given(st.text(alphabet="0123456789*/-, :hmsonjan", max_size=24))
def test_no_text_breaks_the_reader(text):
    """Whatever is written: a schedule, quiet hours, or a UserError."""
    for read in (schedule_words.schedule, schedule_words.quiet):
        with contextlib.suppress(UserError):
            read(text)


def test_quiet_hours_and_what_lies_in_them():
    """The end is not quiet any more; hours may go beyond midnight; an empty text has none."""
    spans = schedule_words.quiet("22:00-6:00, 12:00-13:30")
    assert spans == (Span(1320, 360), Span(720, 810))
    hours = {hour for hour in range(24) if schedule_words.is_quiet(spans, hour * 60)}
    assert hours == {22, 23, 0, 1, 2, 3, 4, 5, 12, 13}
    assert not schedule_words.is_quiet(spans, 13 * 60 + 30)
    assert schedule_words.quiet(" ") == ()
    assert schedule_words.is_quiet(schedule_words.quiet("18:00-24:00"), 1439)
    assert not schedule_words.is_quiet(schedule_words.quiet("18:00-24:00"), 0)


@pytest.mark.parametrize(
    "text", ["22:00", "22-6", "22:00-06:00;", "25:00-26:00", "08:00-08:00", "00:00-24:00", "8:00-9:00,"]
)
def test_what_are_no_quiet_hours_is_refused(text):
    """Also hours that would be all of the day."""
    with pytest.raises(UserError) as caught:
        schedule_words.quiet(text)
    assert caught.value.problems[0].expected == schedule_words.EXPECTED_QUIET
