"""Draw the curve of a run: `yolo-supervisor plot NAME --json | python draw.py [--dark] FILE.png FILE.svg …`.

Run by any interpreter that has matplotlib (3.3 or later); the job's own one does, because Ultralytics needs it.
Exit codes: 0 drawn, 2 the input is no curve, 3 there is no matplotlib, 73 a file could not be written.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path:
    sys.path.pop(0)  # this folder: its modules must not be taken for others of the same name

import argparse
import json
import math
import os
from typing import Any

# Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008), told apart with every kind of colour blindness; each line has
# its own dashes as well. The first is for a bright background, the second for a dark one.
COLOURS = (("#0072B2", "#56B4E9"), ("#D55E00", "#E69F00"), ("#009E73", "#2AD4A4"), ("#CC79A7", "#F0A8D0"),
           ("#E69F00", "#F0E442"), ("#56B4E9", "#A8DAF5"), ("#000000", "#FFFFFF"), ("#7F6A00", "#C9B458"))  # fmt: skip
DASHES = ("-", (0, (6, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1, 1.5)))
MARK = ("#8B0000", "#FF8A80")
INK = ("#222222", "#DDDDDD")
PAPER = ("#FFFFFF", "#16181C")
GRID = ("#DDDDDD", "#3A3D44")

MOST_LINES = len(COLOURS)
MOST_DOTS = 60  # of so many epochs each gets a dot
LOGARITHMIC_FROM = 30.0  # largest loss to smallest
MOST_REASONS = 6
TAG_SHARE = 0.028  # how much of the width a restart's number takes
WIDTH_IN, PANEL_IN = 11.0, 3.3


class Series:
    """One line: values by epoch, None where the trainer wrote no number; `lost` are values that count no more."""

    def __init__(self, label: str, values: dict[int, Any], lost: list[tuple[int, float]]) -> None:
        self.label = label
        self.values = values
        self.lost = lost

    @property
    def numbers(self) -> list[float]:
        """Every value that is one."""
        return [value for value in self.values.values() if value is not None]


def main() -> int:
    """Read the curve from standard input and write the pictures; see the module for the exit codes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--dark", action="store_true", help="bright lines on a dark ground")
    given = parser.parse_args()
    try:
        curve = json.load(sys.stdin)
        points = curve["points"]
    except (ValueError, KeyError, TypeError) as error:
        return complain(f"the input is no curve: {error!r}", 2)
    if not points:
        return complain("no epoch is complete", 2)
    try:
        import matplotlib  # noqa: ICN001 - the backend is chosen before anything else

        matplotlib.use("Agg")
    except ImportError as error:
        return complain(f"{sys.executable}: {error}", 3)
    try:
        draw(curve, given.files, dark=given.dark)
    except OSError as error:
        return complain(f"the picture could not be written: {error}", 73)
    return 0


def complain(text: str, code: int) -> int:
    """Say what is wrong; returns `code`."""
    print(text, file=sys.stderr)
    return code


def draw(curve: dict[str, Any], files: list[str], *, dark: bool) -> None:
    """Write one picture to several files, each whole or not at all. OSError where that fails."""
    import matplotlib.pyplot as plt

    with plt.rc_context(style(dark=dark)):
        figure = picture(plt, curve, dark=dark)
        for path in files:
            save(figure, path)
        plt.close(figure)


def save(figure: Any, path: str) -> None:
    """Write beside the file and rename; the same curve gives the same bytes."""
    kind = os.path.splitext(path)[1][1:].lower()
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.part")
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    try:
        figure.savefig(temporary, format=kind, metadata=metadata, bbox_inches="tight", dpi=150)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def style(*, dark: bool) -> dict[str, Any]:
    """Readable on a screen and in a document."""
    ink, paper = INK[dark], PAPER[dark]
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink)
    papers = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), paper)
    return {
        **colours,
        **papers,
        "font.size": 11,
        "axes.titlesize": 14,
        "legend.fontsize": 10,
        "legend.edgecolor": GRID[dark],
        "axes.grid": True,
        "grid.color": GRID[dark],
        "grid.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "svg.hashsalt": "yolo-supervisor",
    }


# ---- what is drawn
def loss_series(curve: dict[str, Any]) -> tuple[list[Series], list[Series]]:
    """The training's losses, and those of the validation that have the same name."""
    training = [series(curve, "losses", name, name) for name in names(curve, "losses")]
    known = {one.label for one in training}
    checks = [name for name in names(curve, "metrics") if name.startswith("val/") and name[4:] in known]
    return training, [series(curve, "metrics", name, name[4:]) for name in checks]


def metric_series(curve: dict[str, Any]) -> list[Series]:
    """mAP50 and mAP50-95, where there is none what else the validation measured."""
    main = [series(curve, None, key, label) for key, label in (("map50", "mAP50"), ("map50_95", "mAP50-95"))]
    main = [one for one in main if one.numbers]
    others = [name for name in names(curve, "metrics") if not name.startswith("val/")]
    return main or [series(curve, "metrics", name, name.split("/")[-1]) for name in others[:4]]


def names(curve: dict[str, Any], table: str) -> list[str]:
    """The names in a table of all points, in the order in which they came; those without any number come last."""
    found: dict[str, bool] = {}
    for point in curve["points"]:
        for name, value in point[table].items():
            found[name] = found.get(name, False) or value is not None
    return [name for name, known in found.items() if known] + [name for name, known in found.items() if not known]


def series(curve: dict[str, Any], table: str | None, name: str, label: str) -> Series:
    """One line of the curve."""

    def value(point: dict[str, Any]) -> Any:
        return point[name] if table is None else point[table].get(name)

    def has(point: dict[str, Any]) -> bool:
        return name in (point if table is None else point[table])

    lost = [(point["epoch"], value(point)) for point in curve.get("lost", ()) if value(point) is not None]
    return Series(label, {point["epoch"]: value(point) for point in curve["points"] if has(point)}, lost)


# ---- drawing
def picture(plt: Any, curve: dict[str, Any], *, dark: bool) -> Any:
    """The whole figure: losses above, metrics below where there are any."""
    losses, checks = loss_series(curve)
    metrics = metric_series(curve)
    panels = [part for part in ("loss", "metric") if (losses if part == "loss" else metrics)] or ["loss"]
    size = (WIDTH_IN, PANEL_IN * len(panels) + 0.6)
    figure, axes = plt.subplots(len(panels), 1, figsize=size, sharex=True, squeeze=False)
    figure.subplots_adjust(hspace=0.12)
    by_name = dict(zip(panels, axes[:, 0]))  # noqa: B905 -- Python 3.8
    if "loss" in by_name:
        draw_losses(by_name["loss"], losses, checks, dark=dark)
    if "metric" in by_name:
        draw_metrics(by_name["metric"], metrics, dark=dark)
    top, bottom = axes[0, 0], axes[-1, 0]
    scale_epochs(plt, bottom, curve)
    tags = mark_restarts(axes[:, 0], curve.get("restarts", []), dark=dark)
    top.set_title(heading(curve), loc="left", pad=24 if tags else 10, fontweight="bold")
    explain_restarts(bottom, curve.get("restarts", []), dark=dark)
    return figure


def heading(curve: dict[str, Any]) -> str:
    """Name, how far it is, how often it was restarted."""
    epochs, count = curve["points"][-1]["epoch"], len(curve.get("restarts", []))
    far = f"{epochs} of {curve['epochs']} epochs" if curve.get("epochs") else f"{epochs} epochs"
    again = f", {count} restart{'' if count == 1 else 's'}" if count else ""
    return f"{curve['name']}: {far}{again}"


def draw_losses(axis: Any, losses: list[Series], checks: list[Series], *, dark: bool) -> None:
    """Losses of the training as lines, of the validation in the same colours, thin and dotted."""
    places = {one.label: place for place, one in enumerate(losses[:MOST_LINES])}
    for one in losses[:MOST_LINES]:
        draw_line(axis, one, places[one.label], dark=dark)
    shown = [one for one in checks if one.label in places and one.numbers]
    for one in shown:
        epochs = list(one.values)
        look = {"color": COLOURS[places[one.label]][dark], "linewidth": 1.3, "alpha": 0.85, "markersize": 4.5}
        dots = "." if len(epochs) <= MOST_DOTS else ""
        axis.plot(epochs, gaps(one, epochs), linestyle=":", marker=dots, label=f"{one.label}, validation", **look)
    numbers = [number for one in (*losses[:MOST_LINES], *shown) for number in one.numbers]
    if numbers and min(numbers) > 0 and max(numbers) / min(numbers) > LOGARITHMIC_FROM:
        axis.set_yscale("log")
    elif numbers and min(numbers) >= 0:
        axis.set_ylim(bottom=0, top=max(numbers) * 1.08 or 1.0)
    axis.set_ylabel("loss")
    no_numbers(axis, losses[:MOST_LINES], dark=dark)
    if len(losses) > MOST_LINES:
        axis.plot([], [], linestyle="none", label=f"and {len(losses) - MOST_LINES} more")
    legend(axis)


def draw_metrics(axis: Any, metrics: list[Series], *, dark: bool) -> None:
    """Metrics, from 0 to 1 as far as they reach."""
    for place, one in enumerate(metrics):
        draw_line(axis, one, place, dark=dark)
    numbers = [number for one in metrics for number in (*one.numbers, *[value for _, value in one.lost])]
    if numbers and min(numbers) >= 0:
        axis.set_ylim(bottom=0, top=min(1.02, max(numbers) * 1.12) if 0 < max(numbers) <= 1 else None)
    axis.set_ylabel("mAP" if metrics[0].label.startswith("mAP") else "metric")
    no_numbers(axis, metrics, dark=dark)
    legend(axis)


def draw_line(axis: Any, one: Series, place: int, *, dark: bool) -> None:
    """A line with its lost epochs beside it, faint."""
    colour, dashes = COLOURS[place][dark], DASHES[place % len(DASHES)]
    epochs = list(one.values)
    dots = {"marker": "o", "markersize": 4.5} if len(epochs) <= MOST_DOTS else {}
    axis.plot(epochs, gaps(one, epochs), color=colour, linestyle=dashes, linewidth=1.9, label=one.label, **dots)
    if one.lost:
        x, y = zip(*one.lost)  # noqa: B905 -- Python 3.8
        axis.plot(x, y, color=colour, linestyle="none", marker="o", markersize=5, markerfacecolor="none", alpha=0.6)


def gaps(one: Series, epochs: list[int]) -> list[float]:
    """The values with a gap wherever there is no number."""
    return [math.nan if one.values[epoch] is None else one.values[epoch] for epoch in epochs]


def no_numbers(axis: Any, lines: list[Series], *, dark: bool) -> None:
    """A cross at the foot of every epoch in which something was not a number."""
    epochs = sorted({epoch for one in lines for epoch, value in one.values.items() if value is None})
    if epochs:
        where, look = axis.get_xaxis_transform(), {"color": MARK[dark], "markersize": 7, "clip_on": False}
        axis.plot(epochs, [0.03] * len(epochs), "x", transform=where, label="not a number", **look)


def legend(axis: Any) -> None:
    """Beside the panel, where it hides nothing."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def scale_epochs(plt: Any, axis: Any, curve: dict[str, Any]) -> None:
    """Whole epochs, from the first to the last one that is there."""
    epochs = [point["epoch"] for point in (*curve["points"], *curve.get("lost", ()))]
    first, last = min(epochs), max(epochs)
    margin = max(0.5, (last - first) * 0.015)
    axis.set_xlim(first - margin, last + margin)
    axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlabel("epoch")


def grouped(restarts: list[dict[str, Any]], span: float) -> list[list[dict[str, Any]]]:
    """Restarts whose numbers would lie on each other, together."""
    groups: list[list[dict[str, Any]]] = []
    for restart in sorted(restarts, key=lambda one: (one["epoch"], one["attempt"])):
        if groups and restart["epoch"] - groups[-1][0]["epoch"] < span * TAG_SHARE * (2 if len(groups[-1]) > 1 else 1):
            groups[-1].append(restart)
        else:
            groups.append([restart])
    return groups


def mark_restarts(axes: Any, restarts: list[dict[str, Any]], *, dark: bool) -> bool:
    """A line through all panels where an attempt took over, with its number on top. True if there is any."""
    left, right = axes[0].get_xlim()
    for axis in axes:
        for epoch in sorted({restart["epoch"] for restart in restarts}):
            axis.axvline(epoch + 0.5, color=MARK[dark], linestyle="--", linewidth=1.0, alpha=0.7, zorder=1.5)
    for group in grouped(restarts, right - left):
        numbers = sorted({restart["attempt"] for restart in group})
        text = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        middle = (group[0]["epoch"] + group[-1]["epoch"]) / 2 + 0.5
        box = {"boxstyle": "round,pad=0.25", "facecolor": PAPER[dark], "edgecolor": MARK[dark], "linewidth": 1.0}
        place = {"xycoords": ("data", "axes fraction"), "xytext": (0, 6), "textcoords": "offset points"}
        look = {"ha": "center", "va": "bottom", "fontsize": 9, "color": MARK[dark], "bbox": box}
        axes[0].annotate(text, (middle, 1.0), annotation_clip=False, **place, **look)
    return bool(restarts)


def explain_restarts(axis: Any, restarts: list[dict[str, Any]], *, dark: bool) -> None:
    """Below the panels, one line for each restart, as far as there is room."""
    shown = restarts if len(restarts) <= MOST_REASONS + 1 else restarts[:MOST_REASONS]
    lines = [f"attempt {one['attempt']}: {one['reason']}{lost_text(one)}" for one in shown]
    more = len(restarts) - len(shown)
    lines += [f"… and {more} more"] if more > 0 else []
    if lines:
        place = {"xycoords": "axes fraction", "xytext": (0, -42), "textcoords": "offset points"}
        look = {"ha": "left", "va": "top", "fontsize": 9.5, "color": MARK[dark], "linespacing": 1.5}
        axis.annotate("\n".join(lines), (0, 0), annotation_clip=False, **place, **look)


def lost_text(restart: dict[str, Any]) -> str:
    """Which complete epochs were lost; drawn as hollow dots."""
    lost = restart.get("lost") or []
    if not lost:
        return ""
    which = f"epoch {lost[0]}" if len(lost) == 1 else f"epochs {lost[0]} to {lost[-1]}"
    return f" ({which} lost: hollow dots)"


if __name__ == "__main__":
    sys.exit(main())
