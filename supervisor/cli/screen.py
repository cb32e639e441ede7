"""What a terminal shows: tables, times and colours. rich only on a terminal and for tables that a person reads."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

import click

WIDTH = 80
MOST_RICH_ROWS = 100  # rich needs about a second for a thousand rows
_NAME_WIDTH = 24
LEAST_LAST = 12  # columns of the last column of a table
GAP = 2  # between two columns
_COLOURS = {
    "RUNNING": "green",
    "STARTING": "green",
    "PREPARING": "green",
    "STOPPING": "yellow",
    "COOLING": "yellow",
    "HELD": "magenta",
    "FAILED": "red",
    "CANCELLED": "bright_black",
    "SUCCEEDED": "cyan",
    "resumable": "green",
    "finished": "cyan",
    "done_not_stripped": "cyan",
    "torn": "red",
    "poisoned": "red",
    "hostile": "red",
    "refused": "red",
}


def on_terminal() -> bool:
    """True if a person looks at standard output."""
    return sys.stdout.isatty()


def colourful() -> bool:
    """True on a terminal, unless NO_COLOR (no-color.org) or TERM=dumb says otherwise."""
    return on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if on_terminal() else WIDTH


def show_json(view: Any) -> None:
    """Write a view for programs: indented for people, on one line for pipes."""
    text = json.dumps(view, ensure_ascii=False, indent=2 if on_terminal() else None)
    click.echo(text.encode("utf-8", "replace"))


def note(text: str) -> None:
    """Tell the person, not the pipe."""
    click.echo(text, err=True)


def phase_text(phase: str) -> str:
    """A phase, coloured where colours are welcome."""
    return click.style(phase, fg=_COLOURS.get(phase), bold=phase in {"FAILED", "HELD"}) if colourful() else phase


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, whole_in_pipes: bool = False) -> set[int]:
    """Write rows below their headers; the last column is cut to what is left of the width. Which rows were cut there.

    `whole_in_pipes`: nothing is cut where no terminal is.
    """
    if on_terminal():
        rows = [[cut(row[0], _NAME_WIDTH), *row[1:]] for row in rows]
    table = [list(headers), *[[flat(cell) for cell in row] for row in rows]]
    widths = [max(columns(row[place]) for row in table) for place in range(len(headers) - 1)]
    left = room_left(widths) if on_terminal() or not whole_in_pipes else sys.maxsize
    shortened = {place for place, row in enumerate(table[1:]) if columns(row[-1]) > left}
    table = [[*row[:-1], cut(row[-1], left)] for row in table]
    if on_terminal() and len(rows) <= MOST_RICH_ROWS:
        _rich_table(table, [*widths, left])
    else:
        click.echo("\n".join(aligned(table, widths)))
    return shortened


def show_columns(
    headers: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[int], *, whole_in_pipes: bool = False
) -> None:
    """Write a table as `show_table` does, without the columns that are not worth their room on a narrow terminal.

    `least`: for each column how many columns the terminal must have for it.
    """
    size = width() if on_terminal() else sys.maxsize
    places = [place for place, least_size in enumerate(least) if size >= least_size]
    chosen = [[row[place] for place in places] for row in (headers, *rows)]
    show_table(chosen[0], chosen[1:], whole_in_pipes=whole_in_pipes)


def room_left(widths: Sequence[int]) -> int:
    """Columns that are left to the last column of a table, beside others of these widths; it never gets fewer."""
    return max(LEAST_LAST, width() - sum(widths) - GAP * len(widths))


def aligned(table: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Lines in plain text; `widths` are those of all columns but the last one."""
    gap = " " * GAP
    return [
        gap.join([*[_padded(cell, size) for cell, size in zip(row, widths, strict=False)], row[-1]]).rstrip()
        for row in table
    ]


def _rich_table(table: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold" if colourful() else "")
    for header, size in zip(table[0], widths, strict=True):
        shown.add_column(header, width=size, no_wrap=True)
    for row in table[1:]:
        shown.add_row(*[Text(cell, style=_style(cell)) for cell in row])
    Console(no_color=not colourful(), highlight=False, width=width()).print(shown)


def _style(cell: str) -> str:
    return _COLOURS.get(cell, "") if colourful() else ""


def flat(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def columns(text: str) -> int:
    """Columns on a terminal: East Asian characters take two."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _padded(text: str, size: int) -> str:
    return text + " " * (size - columns(text))


def escaped(text: str) -> str:
    r"""A name on one line, whatever is in it: a line end as \n, other control characters and broken bytes likewise."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in safe)


def cut(text: str, size: int) -> str:
    """The text, or as much of it as fits into `size` columns with a mark that something is missing."""
    if columns(text) <= size:
        return text
    kept, used = "", 0
    for character in text:
        used += columns(character)
        if used > size - 1:
            break
        kept += character
    return kept + "…"


def wrapped(text: str, label: str, label_width: int) -> list[str]:
    """A text beside its label, on as many lines as the terminal's width needs."""
    size = max(LEAST_LAST, width() - label_width - GAP)
    lines = textwrap.wrap(flat(text), size, break_on_hyphens=False) or [""]
    labels = (label, *("" for _ in lines[1:]))
    return [f"{'':<{GAP}}{name:<{label_width}}{line}".rstrip() for name, line in zip(labels, lines, strict=True)]


def end_of(text: str, size: int) -> str:
    """The text, or as much of its end as fits into `size` columns: of a path it says more than the beginning."""
    shown = text
    while columns(shown) > size and text:
        text = text[1:]
        shown = f"…{text}"
    return shown


def time_text(at: float | None, now: float | None = None) -> str:
    """Local time, `-` where it is not known."""
    from supervisor.units import format_time

    return "-" if not at else format_time(at, now)


def duration_text(seconds: float | None) -> str:
    """Such as 3h20m; `-` where it is not known."""
    from supervisor.units import format_duration

    return "-" if seconds is None else format_duration(round(seconds))


def clear() -> None:
    """An empty screen with the cursor at the top."""
    click.echo("\x1b[H\x1b[2J", nl=False)
