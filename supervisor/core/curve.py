"""One line through all attempts of a run: each epoch once, the restarts marked, what was lost visible. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from supervisor.core import outlook
from supervisor.core.story import Row

VERSION = 1

Values = Mapping[str, float | None]  # None: the trainer wrote something that is not a number


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One complete epoch, counted from 1. `rates`: learning rate by group. `updates`: of the EMA, since the start."""

    epoch: int
    attempt: int = 0
    epochs: int = 0
    losses: dict[str, float | None] = {}
    metrics: dict[str, float | None] = {}
    fitness: float | None = None
    rates: dict[str, float] = {}
    updates: int | None = None
    at: float | None = None


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of one attempt tell. `start` is fresh, resume, or empty where it never came to its first batch.

    `ending` says in a few words how it ended; empty while it runs. `saved_at`: when a checkpoint was last reported.
    `launched` is False where the preparation found no start: nothing was tried then.
    """

    number: int
    run: str = ""
    start: str = ""
    from_epoch: int = 0
    ending: str = ""
    began_at: float | None = None
    saved_at: float | None = None
    launched: bool = True
    points: tuple[Point, ...] = ()


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt took over: after `epoch` complete epochs. `lost`: complete epochs that count no more."""

    attempt: int
    epoch: int
    ending: str
    reason: str
    lost: tuple[int, ...] = ()


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """The points that count by epoch, where attempts took over, and the points that count no more."""

    points: tuple[Point, ...] = ()
    restarts: tuple[Restart, ...] = ()
    lost: tuple[Point, ...] = ()


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """The trainer's own table: the row of each epoch, which one was written last, and when."""

    points: dict[int, Point] = {}
    newest: int = 0
    written_at: float = 0.0


# ---- of one run
def of_run(traces: Sequence[Trace], rows: Rows, last: int | None) -> tuple[list[Trace], Rows]:
    """What belongs to the line of a run whose last attempt was `last`; None for one that may have more.

    Attempts of later runs are left out, with the epochs of the table that they trained anew, and so are older
    trainings whose name was given to a new job.
    """
    own = [trace for trace in traces if last is None or trace.number <= last]
    began = max((place for place in range(len(own)) if _is_new_training(own[: place + 1])), default=0)
    end = min((trace.from_epoch for trace in traces[len(own) :] if trace.start), default=None)
    return own[began:], rows if end is None else _up_to(rows, end)


def _is_new_training(traces: Sequence[Trace]) -> bool:
    """True if the last of these began anew as another run: what was saved before was then set aside for it."""
    trace = traces[-1]
    return trace.start == "fresh" and bool(trace.run) and all(one.run not in {"", trace.run} for one in traces[:-1])


def _up_to(rows: Rows, epoch: int) -> Rows:
    kept = {number: row for number, row in rows.points.items() if number <= epoch}
    return Rows(points=kept, newest=min(rows.newest, epoch), written_at=rows.written_at)


_ORDERS = {"StopAsked": "stopped", "CancelAsked": "cancelled", "DrainAsked": "drained"}


def ordered_ends(history: Sequence[Row]) -> dict[int, str]:
    """Which attempts ended while a person's order to end them stood, as `stopped by ann`."""
    found: dict[int, str] = {}
    order = ""
    for row in history:
        if row.kind in _ORDERS:
            order = "" if row.body.get("off") else f"{_ORDERS[row.kind]} by {row.body.get('by') or 'somebody'}"
        elif row.kind in {"ResumeAsked", "Prepared"}:
            order = ""
        elif row.kind == "AttemptExited" and order:
            found[row.body["attempt"]] = order
    return found


# ---- one line
def join(traces: Sequence[Trace], rows: Rows | None = None) -> Curve:
    """The line through these attempts, the oldest first. What an attempt reported wins over the trainer's table."""
    line: dict[int, Point] = {}
    restarts: list[Restart] = []
    lost: list[Point] = []
    for place, trace in enumerate(traces):
        if trace.start:
            gone = [line.pop(epoch) for epoch in sorted(line) if epoch > trace.from_epoch]
            lost += gone
            if place:
                restarts.append(_restart(traces[: place + 1], [point.epoch for point in gone]))
        line.update({point.epoch: point for point in trace.points})
    line = _with_rows(line, traces, rows or Rows())
    points = tuple(line[epoch] for epoch in sorted(line))
    return Curve(points=points, restarts=tuple(restarts), lost=tuple(lost))


def _restart(traces: Sequence[Trace], lost: Sequence[int]) -> Restart:
    """The mark of the last of these attempts."""
    trace, older = traces[-1], traces[:-1]
    before = next((one for one in reversed(older) if one.start), older[-1])
    idle = sum(one.launched and one.number > before.number for one in older)
    then = [f"{idle} more {'try' if idle == 1 else 'tries'} before the first batch"] if idle else []
    how = _how(trace, before, lost)
    reason = ", ".join([part for part in (before.ending, *then) if part] + [how])
    return Restart(
        attempt=trace.number, epoch=trace.from_epoch, ending=before.ending, reason=reason, lost=tuple(lost)
    )  # fmt: skip


def _how(trace: Trace, before: Trace, lost: Sequence[int]) -> str:
    """What the attempt did instead of the one before: went on, back, further, or began anew."""
    if trace.start != "resume" or not trace.from_epoch:
        return "began anew"
    ordered = bool(trace.run and before.run and trace.run != before.run)
    lengths = [max((point.epochs for point in one.points), default=0) for one in (before, trace)]
    if ordered and lost:
        return f"rewound to epoch {trace.from_epoch}"
    if ordered and all(lengths) and lengths[0] != lengths[1]:
        return f"extended to {lengths[1]} epochs"
    return f"resumed after epoch {trace.from_epoch}"


def _with_rows(line: Mapping[int, Point], traces: Sequence[Trace], rows: Rows) -> dict[int, Point]:
    """Fill from the table what the attempts did not report. Its rows after the one written last are of older times."""
    newest = rows.newest
    last = next((trace for trace in reversed(traces) if trace.start), None)
    if last is not None and last.began_at is not None and rows.written_at < last.began_at:
        newest = min(newest, last.from_epoch)  # nothing was written since that attempt took over
    filled = dict(line)
    for epoch, row in rows.points.items():
        if epoch <= newest:
            filled[epoch] = _filled(line.get(epoch), row, _attempt_of(epoch, traces))
    return filled


def _attempt_of(epoch: int, traces: Sequence[Trace]) -> int:
    """Who trained an epoch that only the table knows: the newest attempt that took over before it."""
    able = [trace.number for trace in traces if trace.start and trace.from_epoch < epoch]
    return able[-1] if able else next((trace.number for trace in traces), 0)


def _filled(point: Point | None, row: Point, attempt: int) -> Point:
    if point is None:
        return replace(row, attempt=attempt)
    return replace(
        point,
        losses={**row.losses, **point.losses},
        metrics={**row.metrics, **point.metrics},
        rates=point.rates or row.rates,
    )


# ---- as data
def view(curve: Curve, *, name: str, run: str, phase: str, epochs: int | None, now: float) -> dict[str, Any]:
    """The curve as plain data. Epochs count from 1; a value that is not a number is None; `lr` is by group."""
    return {
        "version": VERSION,
        "at": now,
        "name": name,
        "id": run,
        "phase": phase,
        "epochs": epochs or max((point.epochs for point in curve.points), default=0) or None,
        "points": [_point(point) for point in curve.points],
        "restarts": [{**msgspec.to_builtins(mark), "lost": list(mark.lost)} for mark in curve.restarts],
        "lost": [_point(point) for point in curve.lost],
    }


def _point(point: Point) -> dict[str, Any]:
    found = numbers(point.metrics)
    return {
        "epoch": point.epoch,
        "attempt": point.attempt,
        "losses": dict(point.losses),
        "metrics": dict(point.metrics),
        "map50": map50(found),
        "map50_95": outlook.map50_95(found),
        "fitness": point.fitness,
        "lr": dict(point.rates),
        "updates": point.updates,
        "at": point.at,
    }


def numbers(values: Values) -> dict[str, float]:
    """The values that are numbers."""
    return {name: value for name, value in values.items() if value is not None}


def map50(metrics: Mapping[str, float]) -> float | None:
    """The mAP50 among a trainer's metrics, by the names of Ultralytics and YOLOv5; boxes before masks and poses."""
    found = [name for name in metrics if _short(name) in {"map50", "map_0.5", "map@.5", "map@0.5"}]
    found.sort(key=lambda name: ("(B)" not in name, name))
    return metrics[found[0]] if found else None


def _short(name: str) -> str:
    """`map50` for `metrics/mAP50(B)`."""
    return name.lower().rpartition("/")[2].partition("(")[0]


def names(points: Iterable[Point]) -> list[str]:
    """The names of the losses in the order in which they came."""
    return list(dict.fromkeys(name for point in points for name in point.losses))
