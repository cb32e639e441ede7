"""Numbers from outside: a trainer writes NaN when it diverges, and JSON has no word for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

VALUES_MAX = 64
NAME_MAX_CHARACTERS = 80


def finite(values: Mapping[str, float | None] | None) -> dict[str, float]:
    """Return the values that are numbers, in sane amount: the journal's JSON knows neither NaN nor infinity."""
    kept = {str(name)[:NAME_MAX_CHARACTERS]: value for name, value in list((values or {}).items())[:VALUES_MAX]}
    return {name: float(value) for name, value in kept.items() if value is not None and math.isfinite(value)}


def keep_finite(holder: msgspec.Struct, *names: str) -> None:
    """Drop NaN and infinity from tables of numbers: JSON has no word for them, and the journal must load again."""
    for name in names:
        table: dict[str, float] = getattr(holder, name)
        if not all(map(math.isfinite, table.values())):
            numbers = {key: value for key, value in table.items() if math.isfinite(value)}
            msgspec.structs.force_setattr(holder, name, numbers)
