"""Incidents of a run: opened when an attempt failed, kept up to date, closed when the training got further."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from supervisor.core.diagnosis.advice import advice
from supervisor.core.diagnosis.diagnose import Diagnosis
from supervisor.core.diagnosis.evidence import Incident
from supervisor.core.diagnosis.remedies import Remedy
from supervisor.core.events import Examined
from supervisor.core.model import Run

KEPT = 20  # older ones are in the journal


def opened(run: Run, found: Diagnosis, remedy: Remedy, event: Examined | None, now: float) -> Run:
    """The run with a new incident: what was seen, what it means and what is done."""
    attempt, order = run.attempt, run.stop
    hung = order is not None and order.hung
    seen = order is not None and bool(order.cause)
    ended_at = attempt.ended_at if attempt is not None and attempt.ended_at else now
    moved_at = attempt.moved_at if attempt is not None else 0.0
    told_at = event.moved_at if event is not None else 0.0
    incident = Incident(
        number=run.incidents[-1].number + 1 if run.incidents else 1,
        attempt=attempt.number if attempt is not None else run.attempts,
        cause=found.cause.name,
        title=found.cause.title,
        seen=found.seen,
        line=found.line,
        place=found.place,
        means=found.cause.means,
        fix=remedy.fix or advice(found, run),
        step=remedy.step,
        done=remedy.reason,
        epoch=run.progress.saved_epoch,
        moved_at=(moved_at if hung else 0.0) or told_at or moved_at or ended_at,
        seen_at=(order.seen_at if seen and order is not None else 0.0) or now,
        lost_s=_lost_s(event, moved_at if hung else 0.0),
        autopsy=attempt.autopsy if attempt is not None else "",
        hung=hung,
    )
    return replace(run, incidents=(*run.incidents, incident)[-KEPT:])


def _lost_s(event: Examined | None, hung_from: float) -> float:
    """The work after the last save. What a hanging attempt is said to have done after it last moved was none."""
    if event is None:
        return 0.0
    idle_s = max(0.0, event.moved_at - hung_from) if hung_from else 0.0
    return max(0.0, event.seconds.get("unsaved", 0.0) - idle_s)


def began(run: Run, now: float) -> Run:
    """The attempt after it trains."""
    return _updated(run, lambda one: replace(one, began_at=now) if _is_next(one, run) else one)


def _is_next(one: Incident, run: Run) -> bool:
    later = run.attempt is not None and run.attempt.number > one.attempt
    return later and one.began_at is None and one.relaunched_at is not None


def fell_back(run: Run, epochs: int) -> Run:
    """So many saved epochs are given up for an older checkpoint: that is what the newest failure cost besides."""
    newest = run.incidents[-1].number if run.incidents else 0
    lost_s = epochs * run.progress.epoch_s
    return _updated(run, lambda one: replace(one, lost_s=one.lost_s + lost_s) if one.number == newest else one)


def relaunched(run: Run, now: float) -> Run:
    """The next attempt runs."""
    return _updated(run, lambda one: replace(one, relaunched_at=now) if one.relaunched_at is None else one)


def progressed(run: Run, now: float) -> Run:
    """An epoch was saved: incidents that lie before it are over."""
    saved = run.progress.saved_epoch
    outcome = f"recovered: epoch {saved} is saved"
    return _updated(run, lambda one: replace(one, closed_at=now, outcome=outcome) if saved > one.epoch else one)


def autopsied(run: Run, attempt: int, summary: str) -> Run:
    """What the attempt did when it hung was known late: its incident, if it is open already, tells it."""
    return _updated(run, lambda one: replace(one, autopsy=summary) if one.attempt == attempt else one)


def ended(run: Run, outcome: str, now: float) -> Run:
    """The run is over: nothing stays open."""
    return _updated(run, lambda one: replace(one, closed_at=now, outcome=outcome))


def _updated(run: Run, change: Callable[[Incident], Incident]) -> Run:
    incidents = tuple(one if one.closed_at is not None else change(one) for one in run.incidents)
    return run if incidents == run.incidents else replace(run, incidents=incidents)
