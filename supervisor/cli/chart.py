"""A live chart in the terminal: plotext draws it from characters, rich exchanges it in place."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

from supervisor.cli import screen
from supervisor.cli.client import View
from supervisor.cli.failures import NoDaemon, TryLater

WATCH_EVERY_S = 3.0
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
LEAST_COLUMNS, LEAST_LINES = 30, 9
LOSS_SHARE = 0.55
MOST_LINES = 5
MOST_TICKS = 8
COLOURS = (33, 208, 36, 176, 220)  # of the 256 of a terminal: as in the pictures, told apart with colour blindness
SIGNS = ("o", "x", "+", "*", "#")  # where there are no colours
MARK = 160


def watch_run(look: Callable[[], View], sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the curve that `look` gives until the run has ended; the last chart stays on the terminal.

    A daemon that is being exchanged is waited for.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not screen.colourful(), highlight=False)
    view = look()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while view["phase"] not in ENDED:
            text = render(view, *console.size, colourful=screen.colourful())
            live.update(Text.from_ansi(text, no_wrap=True, overflow="crop"), refresh=True)
            sleep(WATCH_EVERY_S)
            view = _again(look, view)
    console.file.write(render(view, *console.size, colourful=screen.colourful()) + "\n")


def _again(look: Callable[[], View], view: View) -> View:
    try:
        return look()
    except (NoDaemon, TryLater):
        return view


def render(view: View, columns: int, lines: int, *, colourful: bool) -> str:
    """The chart as text, at most so many columns wide and so many lines high (one is left for the prompt)."""
    columns, lines = max(LEAST_COLUMNS, columns), max(LEAST_LINES, lines - 1)
    head, foot = heading(view), footing(view)
    text = [screen.cut(head, columns), *([screen.cut(foot, columns)] if foot else [])]
    room = lines - len(text)
    losses = _series(view, "losses")
    metrics = [one for one in (_values(view, "map50", "mAP50"), _values(view, "map50_95", "mAP50-95")) if one[1]]
    if not losses and not metrics:
        return "\n".join([*text, "no epoch is complete yet"])
    high = room if not metrics or not losses else round(room * LOSS_SHARE)
    panels = [(losses, high)] if losses else []
    panels += [(metrics, room - high if losses else room)] if metrics else []
    charts = [_chart(series, view, columns, height, colourful=colourful) for series, height in panels]
    return "\n".join([text[0], *charts, *text[1:]])


def heading(view: View) -> str:
    """Name, phase and how far it is."""
    done = view["points"][-1]["epoch"] if view["points"] else 0
    restarts = len(view["restarts"])
    far = f"{done} of {view['epochs']} epochs" if view["epochs"] else f"{done} epochs"
    again = f", {restarts} restart{'' if restarts == 1 else 's'}" if restarts else ""
    return f"{view['name']} {view['phase']}: {far}{again}"


def footing(view: View) -> str:
    """What the newest restart was."""
    return "".join(f"│ attempt {one['attempt']}: {one['reason']}" for one in view["restarts"][-1:])


Series = tuple[str, list[tuple[int, float]]]


def _series(view: View, table: str) -> list[Series]:
    names = dict.fromkeys(name for point in view["points"] for name in point[table])
    found = [
        (name, [(p["epoch"], p[table][name]) for p in view["points"] if p[table].get(name) is not None])
        for name in names
    ]  # fmt: skip
    return [one for one in found if one[1]][:MOST_LINES]


def _values(view: View, key: str, label: str) -> Series:
    return label, [(point["epoch"], point[key]) for point in view["points"] if point[key] is not None]


def _chart(series: list[Series], view: View, columns: int, lines: int, *, colourful: bool) -> str:
    """One panel. plotext keeps the figure in its module: it is cleared first."""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)
    plotext.plotsize(columns, lines)
    for place, (label, values) in enumerate(series):
        _line(plotext, label, values, place, colourful=colourful)
    first, last = view["points"][0]["epoch"], view["points"][-1]["epoch"]
    plotext.xlim(first - 0.5, last + 0.5)
    plotext.xticks(_ticks(first, last))
    for epoch in sorted({one["epoch"] for one in view["restarts"]}):
        if first <= epoch <= last:
            plotext.vline(epoch + 0.5, MARK if colourful else None)
    text: str = plotext.build()
    return (text if colourful else plotext.uncolorize(text)).rstrip(os.linesep)


def _line(plotext: Any, label: str, values: list[tuple[int, float]], place: int, *, colourful: bool) -> None:
    marker = "braille" if colourful else SIGNS[place % len(SIGNS)]
    epochs, numbers = [epoch for epoch, _ in values], [value for _, value in values]
    put = plotext.plot if len(values) > 1 else plotext.scatter
    put(epochs, numbers, label=label, marker=marker, color=COLOURS[place % len(COLOURS)])


def _ticks(first: int, last: int) -> list[int]:
    """Whole round epochs, evenly apart."""
    least = max(1.0, (last - first) / MOST_TICKS)
    power = 10 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
    return [first] if first == last else list(range(first + -first % step, last + 1, step))
