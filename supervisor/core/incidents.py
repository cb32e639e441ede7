"""Incidents of a run: opened when an attempt failed, kept up to date, closed when the training got further."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from supervisor.core.diagnosis.diagnose import Diagnosis
from supervisor.core.diagnosis.evidence import Incident
from supervisor.core.diagnosis.remedies import Remedy
from supervisor.core.events import Examined
from supervisor.core.model import Run

KEPT = 20  # older ones are in the journal


def opened(run: Run, found: Diagnosis, remedy: Remedy, event: Examined | None, now: float) -> Run:
    """The run with a new incident: what was seen, what it means and what is done."""
    attempt = run.attempt
    ended_at = attempt.ended_at if attempt is not None and attempt.ended_at else now
    moved_at = attempt.moved_at if attempt is not None else 0.0
    incident = Incident(
        number=run.incidents[-1].number + 1 if run.incidents else 1,
        attempt=attempt.number if attempt is not None else run.attempts,
        cause=found.cause.name,
        title=found.cause.title,
        seen=found.seen,
        line=found.line,
        place=found.place,
        means=found.cause.means,
        fix=found.cause.fix,
        step=remedy.step,
        done=remedy.reason,
        epoch=run.progress.saved_epoch,
        moved_at=(event.moved_at if event is not None else 0.0) or moved_at or ended_at,
        seen_at=now,
        lost_s=event.seconds.get("unsaved", 0.0) if event is not None else 0.0,
        autopsy=attempt.autopsy if attempt is not None else "",
    )
    return replace(run, incidents=(*run.incidents, incident)[-KEPT:])


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
