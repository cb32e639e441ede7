"""A measured figure, and how figures are shown: as a table for people, as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class Figure:
    """One measured value with its goal. `at_most` tells on which side of the goal it should be; no goal, no verdict."""

    name: str
    value: float
    unit: str
    goal: float | None
    how: str
    at_most: bool = True
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool | None:
        """Whether the goal is reached; None where there is none. What could not be measured (NaN) is not reached."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def as_data(self) -> dict[str, Any]:
        """The figure as JSON can carry it."""
        value = self.value if math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "ok": self.ok}


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed, by the nearest-rank method. NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def as_json(figures: Sequence[Figure], machine: dict[str, Any]) -> str:
    """Everything as one JSON object."""
    content = {"version": VERSION, "machine": machine, "figures": [figure.as_data() for figure in figures]}
    return json.dumps(content, indent=2, ensure_ascii=False)


def as_table(figures: Sequence[Figure], machine: dict[str, Any]) -> str:
    """Aligned text: a line per figure, then how each was measured."""
    rows = [_row(figure) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(4)] if rows else []
    lines = [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    for figure, row in zip(figures, rows, strict=True):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        lines += [cells, f"      {figure.how}"]
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, str, str, str]:
    verdict = {True: "ok", False: "MISSED", None: "-"}[figure.ok]
    sign = "≤" if figure.at_most else "≥"
    goal = f"goal {sign} {figure.goal:g} {figure.unit}" if figure.goal is not None else "no goal"
    return figure.name, f"{figure.value:.4g} {figure.unit}", goal, verdict
