"""What was read of a GPU, as a person reads it: a number, how old it is, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from supervisor.core import words
from supervisor.units import format_size

Cell = Mapping[str, Any]
ABSENT = "-"
_GIB = 1024**3
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def number(cell: Cell) -> float | None:
    """The value, however old; None where there is none."""
    value = cell.get("value")
    return float(value) if isinstance(value, (int, float)) else None


def text(cell: Cell, form: Callable[[float], str]) -> str:
    """The value in the given form, `?` behind one that is old; - where the board has none, nothing if it is unread."""
    value = number(cell)
    if value is not None:
        return form(value) + ("?" if is_old(cell) else "")
    if "unknown" in cell:
        return ""
    return "error" if "error" in cell else "old" if "stale_s" in cell else ABSENT


def detail(cell: Cell, form: Callable[[float], str]) -> str:
    """As `text`, with the reason in full."""
    value = number(cell)
    if value is not None:
        return form(value) + (f" ({words.duration(cell['stale_s'])} old)" if "stale_s" in cell else "")
    if "error" in cell:
        return f"cannot be read ({cell['error']})"
    if "stale_s" in cell:
        return f"not read for {words.duration(cell['stale_s'])}"
    return "not read yet" if "unknown" in cell else "this GPU does not tell"


def is_old(*cells: Cell) -> bool:
    """True if one of them was not read just now."""
    return any("stale_s" in cell for cell in cells)


def failed(values: Mapping[str, Cell]) -> str:
    """Why nothing at all can be read, where that is so."""
    reasons = {cell["error"] for cell in values.values() if "error" in cell}
    return reasons.pop() if len(reasons) == 1 and not any("value" in cell for cell in values.values()) else ""


def is_told(cell: Cell) -> bool:
    """False for what the board does not have, and for what nobody read yet."""
    return not cell.keys() & {"absent", "unknown"}


def whole(unit: str = "") -> Callable[[float], str]:
    """A form without digits behind the point."""
    return lambda value: f"{value:.0f}{unit}"


def percent(value: float) -> str:
    """`98 %` of 0.98."""
    return f"{value * 100:.0f} %"


def gibibytes(value: float) -> str:
    """A size in GiB, which is the unit of a GPU's memory, without the unit."""
    return f"{value / _GIB:.1f}" if value < 100 * _GIB else f"{value / _GIB:.0f}"


def size(value: float) -> str:
    """A size with its unit."""
    return format_size(int(value))


def share(part: Cell, of: Cell) -> float | None:
    """How much of one value another one is, 0 to 1; None where either is not known."""
    value, total = number(part), number(of)
    if value is None or not total:
        return None
    return min(1.0, max(0.0, value / total))


def bar(filled: float, size: int) -> str:
    """A bar of so many columns, in steps of an eighth of a column."""
    eighths = round(filled * size * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(size)
