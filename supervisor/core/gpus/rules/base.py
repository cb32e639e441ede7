"""What a rule about GPUs is made of: what is seen, what that says, and the sentence for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from supervisor.core.gpus.limits import Limits
from supervisor.core.gpus.past import Past

BAD = 1
GOOD = -1
#: Neither: what may begin has not begun, and what is there is not over.
BETWEEN = 0

#: None: nothing can be said, so that nothing changes.
Verdict = int | None


class Seen(msgspec.Struct, frozen=True):
    """A reading and what is kept of the earlier ones. `seconds`: for how long it has been bad, once it is said so."""

    numbers: Mapping[str, float]
    past: Past
    limits: Limits
    seconds: float = 0.0


class Said(msgspec.Struct, frozen=True):
    """A sentence, and the numbers in it."""

    text: str
    values: dict[str, float]


Judge = Callable[[Seen], Verdict]
Say = Callable[[Seen], Said]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """When a kind of finding begins and ends.

    `needs`: the number without which nothing is said. `for_s` and `quiet_s` name the limits of how long it must be bad
    or good; "" is at once. `slow`: it comes with the slow tier.
    """

    kind: str
    needs: str
    judge: Judge
    say: Say
    quiet_s: str
    for_s: str = ""
    slow: bool = False


def between(*, bad: bool, good: bool) -> int:
    """Return the verdict of a number with a band between bad and good."""
    return BAD if bad else GOOD if good else BETWEEN


def bad_if(bad: bool) -> int:
    """Return the verdict of a number that is one or the other."""
    return BAD if bad else GOOD


def long(seconds: float) -> str:
    """Return a length of time as a person says it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def degrees(value: float) -> str:
    """Return a temperature as a person reads it."""
    return f"{value:.0f} °C"


def load(seen: Seen) -> float | None:
    """Return the newest power as a share of the limit, or None if it is not known or too old."""
    limit_w = seen.past.card.get("power_limit_w", 0.0)
    watts, at = seen.past.power
    fresh = at and seen.past.at - at <= seen.limits.fast_gap_s
    return watts / limit_w if limit_w > 0 and fresh else None
