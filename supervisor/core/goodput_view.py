"""Reports of goodput as plain data; see core.goodput for what the classes mean. Pure.

`seconds` has the seconds by class; their sum is `total_s`, which is `ended_at` less `began_at`: exactly, because all
are whole multiples of 1/1024 s. `gpu_hours` counts the same by GPU, where the run had its GPUs: not in the queue, not
in a backoff and not while it was held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from supervisor.core.attempt_facts import PER_SECOND
from supervisor.core.attempt_seconds import WORK
from supervisor.core.goodput import CLASSES, Account, Row, account
from supervisor.core.model import Run, World

VERSION = 1
_HOUR = 3600 * PER_SECOND

View = dict[str, Any]
Rows = Callable[[str], Sequence[Row]]


class Live(Protocol):
    """The newest heartbeat of a run."""

    @property
    def phase(self) -> str:
        """What the trainer does."""

    @property
    def at(self) -> float:
        """When it was written, by the trainer's clock."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """What the present attempt did until then; see core.attempt_seconds."""


def report_view(run: Run, rows: Sequence[Row], now: float, *, live: Live | None, since_at: float | None) -> View:
    """The report of one run; `rows` are the milestones of its history, `live` the newest of its present attempt."""
    return {"version": VERSION, "at": now, **_report(run, _account(run, rows, now, live, since_at))}


def server_view(world: World, rows: Rows, now: float, *, board: Mapping[str, Live], since_at: float | None) -> View:
    """The reports of all runs that were there since then, the newest last, and their sum."""
    runs = sorted(_since(world, since_at), key=lambda run: (run.created_at, run.id))
    accounts = [(run, _account(run, rows(run.id), now, board.get(run.id), since_at)) for run in runs]
    spent = {name: sum(one.spent[name] for _, one in accounts) for name in CLASSES}
    with_gpus = {name: sum(one.with_gpus[name] * run.job.gpus for run, one in accounts) for name in CLASSES}
    return {
        "version": VERSION,
        "at": now,
        "since_at": since_at,
        "runs": [_report(run, one) for run, one in accounts],
        **_sums(spent, with_gpus),
        "attempts": sum(one.attempts for _, one in accounts),
        "failures": sum(one.failures for _, one in accounts),
    }


def _since(world: World, since_at: float | None) -> Iterable[Run]:
    ended = (run for run in world.ended.values() if since_at is None or run.phase_since >= since_at)
    return (*world.live.values(), *ended)


def _account(run: Run, rows: Sequence[Row], now: float, live: Live | None, since_at: float | None) -> Account:
    waiting_for = "" if run.phase.terminal else run.waiting_for
    seconds = _until_now(live, now) if live is not None and run.busy else None
    return account(rows, began_at=run.created_at, now=now, since_at=since_at, waiting_for=waiting_for, live=seconds)


def _until_now(live: Live, now: float) -> Mapping[str, float]:
    """The live seconds with what the trainer has been doing since: a long validation tells nothing before its end."""
    seconds = dict(live.seconds)
    if "validation" in seconds and WORK.get(live.phase) == "validation":
        seconds["validation"] += max(0.0, now - live.at)
    return seconds


def _report(run: Run, found: Account) -> View:
    with_gpus = {name: found.with_gpus[name] * run.job.gpus for name in CLASSES}
    return {
        "name": run.name,
        "id": run.id,
        "project": run.job.project,
        "phase": run.phase.value,
        "began_at": found.began / PER_SECOND,
        "ended_at": found.ended / PER_SECOND,
        "gpus": run.job.gpus,
        **_sums(found.spent, with_gpus),
        "attempts": found.attempts,
        "failures": found.failures,
        "notes": list(found.notes),
    }


def _sums(spent: Mapping[str, int], gpu_ticks: Mapping[str, int]) -> View:
    total = sum(spent.values())
    return {
        "total_s": total / PER_SECOND,
        "seconds": {name: spent[name] / PER_SECOND for name in CLASSES},
        "goodput": (spent["training"] + spent["validation"]) / total if total else None,
        "gpu_hours_total": round(sum(gpu_ticks.values()) / _HOUR, 6),
        "gpu_hours": {name: round(gpu_ticks[name] / _HOUR, 6) for name in CLASSES},
    }
