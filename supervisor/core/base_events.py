"""What all events have in common."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all events. `answers` is the key of the action that this event completes."""

    at: float
    origin: str = ""
    answers: str = ""


class RunEvent(Event, frozen=True, kw_only=True):
    """An event about one run."""

    run: str


class AttemptEvent(RunEvent, frozen=True, kw_only=True):
    """An event about one attempt of one run; one about an older attempt is late news."""

    attempt: int
