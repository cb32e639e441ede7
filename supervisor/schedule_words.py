"""Schedules and quiet hours as people write them: read here, turned into triggers in sources/timetable.py."""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisor import units
from supervisor.errors import Problem, UserError

EXPECTED = 'a duration such as "1h", a time of day such as "04:00", or five fields of cron such as "0 4 * * sun"'
EXPECTED_QUIET = 'times of day such as "08:00-18:00", or "22:00-06:00,12:00-13:00"'
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")  # as cron counts them: 0 is Sunday, and so is 7
_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAY_MINUTES = 1440
_TIME = re.compile(r"(\d\d?):(\d\d)", re.ASCII)
_SPAN = re.compile(r"\s*(\d\d?:\d\d)\s*-\s*(\d\d?:\d\d)\s*", re.ASCII)
_PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d{1,4}))?", re.ASCII)


@dataclass(frozen=True)
class Every:
    """Again and again after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Cron:
    """At the given minutes of the given hours, in local time, on days that `days` and `weekdays` (0: Sunday) name.

    `either`: both were restricted; then, as cron has it, a day that one of them names is enough.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...] = tuple(range(1, 32))
    months: tuple[int, ...] = tuple(range(1, 13))
    weekdays: tuple[int, ...] = tuple(range(7))
    either: bool = False


@dataclass(frozen=True)
class Span:
    """A part of each day in minutes since midnight, `end` not included; it may go beyond midnight."""

    begin: int
    end: int


def schedule(text: str) -> Every | Cron:
    """Read a schedule. Raises UserError."""
    fields = text.split()
    if len(fields) == 5:
        return _cron(fields, text)
    if ":" in text:
        minutes = _minutes(text.strip())
        if minutes is None or minutes == _DAY_MINUTES:
            raise _refusal("this is no time of day", EXPECTED, text)
        return Cron((minutes % 60,), (minutes // 60,))
    try:
        return Every(units.parse_interval(text))
    except UserError as error:
        raise _refusal(f"this is no schedule ({error.problems[0].message})", EXPECTED, text) from None


def quiet(text: str) -> tuple[Span, ...]:
    """Read quiet hours, none from an empty text. Raises UserError."""
    if not text.strip():
        return ()
    spans = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part)
        ends = [_minutes(one) for one in match.groups()] if match is not None else [None]
        known = [one for one in ends if one is not None]
        if len(known) != 2:
            raise _refusal("these are no quiet hours", EXPECTED_QUIET, text)
        if known[0] % _DAY_MINUTES == known[1] % _DAY_MINUTES:
            raise _refusal("it would be quiet all day, or never", EXPECTED_QUIET, text)
        spans.append(Span(known[0] % _DAY_MINUTES, known[1]))
    return tuple(spans)


def is_quiet(spans: tuple[Span, ...], minute: int) -> bool:
    """True if `minute` of the day lies in one of the spans."""
    return any(
        one.begin <= minute < one.end if one.begin < one.end else minute >= one.begin or minute < one.end
        for one in spans
    )


def _minutes(text: str) -> int | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    minutes = int(match[1]) * 60 + int(match[2])
    return minutes if int(match[2]) < 60 and minutes <= _DAY_MINUTES else None


def _cron(fields: list[str], text: str) -> Cron:
    minutes, hours = _values(fields[0], 0, 59), _values(fields[1], 0, 23)
    days, months = _values(fields[2], 1, 31), _values(fields[3], 1, 12, MONTHS, 1)
    weekdays = _values(fields[4], 0, 7, WEEKDAYS, 0)
    found = {"minute": minutes, "hour": hours, "day of the month": days, "month": months, "day of the week": weekdays}
    for name, values in found.items():
        if not values:
            raise _refusal(f"the field {name} is wrong", EXPECTED, text)
    restricted = [not field.startswith("*") for field in (fields[2], fields[4])]
    if not all(restricted) and not any(min(days) <= _LONGEST_MONTHS[month - 1] for month in months):
        raise _refusal("there is no such day in any year", EXPECTED, text)
    weekdays = tuple(sorted({day % 7 for day in weekdays}))
    return Cron(minutes, hours, days, months, weekdays, all(restricted))


def _values(field: str, lowest: int, highest: int, names: tuple[str, ...] = (), first: int = 0) -> tuple[int, ...]:
    """The numbers that a field of cron names; none if it is wrong."""
    known = {name: place + first for place, name in enumerate(names)}
    found: set[int] = set()
    for part in field.lower().split(","):
        match = _PART.fullmatch(part)
        if match is None:
            return ()
        step = int(match["step"] or 1)
        begin = lowest if match["first"] is None else _number(match["first"], known)
        alone = match["first"] is not None and match["last"] is None and match["step"] is None
        end = begin if alone else highest if match["last"] is None else _number(match["last"], known)
        end = 7 if match["last"] == "sun" and begin else end  # the week of "fri-sun" ends with it
        if not step or not lowest <= begin <= end <= highest:
            return ()
        found.update(range(begin, end + 1, step))
    return tuple(sorted(found))


def _number(word: str, known: dict[str, int]) -> int:
    return int(word) if word.isdigit() else known.get(word, -1)


def _refusal(message: str, expected: str, text: str) -> UserError:
    return UserError(problems=(Problem(message, expected=expected, got=f'"{text}"'),))
