"""Incidents as plain data: what was seen, what it means, what was done, what it cost, and how it stands. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from supervisor.core import words
from supervisor.core.diagnosis import hang_words
from supervisor.core.diagnosis.evidence import Incident
from supervisor.core.model import Phase, Run, World
from supervisor.core.story import Row

VERSION = 1

View = dict[str, Any]

_STATES = {
    "recovered": "recovered",
    "the run succeeded": "recovered",
    "the run was given up": "failed",
    "cancel": "cancelled",
}
_NAME = re.compile(r"\bNAME\b")
_BEGUN = ("StartConfirmed", "Progressed")  # whichever comes first ends the start: not all trainers confirm theirs


def server_view(
    world: World, now: float, *, run: Run | None = None, is_open: bool = False, since_at: float = 0
) -> View:
    """Incidents of all runs, live and ended, or of one; the newest last.

    `is_open`: only those that are not over. `since_at`: not those that were over before.
    """
    runs = [run] if run is not None else [*world.live.values(), *world.ended.values()]
    found = [
        incident_view(one, incident, now)
        for one in runs
        for incident in one.incidents
        if not (is_open and (_over(incident) or _superseded(one, incident)))
        and (incident.closed_at is None or incident.closed_at >= since_at)
    ]
    found.sort(key=lambda incident: (incident["seen_at"], incident["run"], incident["number"]))
    still = [stalled_view(one, now) for one in runs if one.phase is Phase.RUNNING and one.stalled]
    return {"version": VERSION, "at": now, "incidents": found, "stalled": still}


def stalled(run: Run, now: float) -> str:
    """What stands still without being the training's fault, and for how long by now; nothing if it moves."""
    moved_at = run.attempt.moved_at if run.attempt is not None else 0.0
    return hang_words.aged(run.stalled, now - moved_at) if run.stalled and moved_at else run.stalled


def stalled_view(run: Run, now: float) -> View:
    """A run that stands still and is left alone: it is no incident, and somebody must know."""
    return {"run": run.id, "name": run.name, "text": stalled(run, now), "todo": run.stalled_todo}


def run_incidents(run: Run, now: float, rows: Sequence[Row] = ()) -> list[View]:
    """The incidents of a run, the newest last; with its history also how long the next start took."""
    return [incident_view(run, incident, now, rows) for incident in run.incidents]


def last_incident(run: Run, now: float) -> View | None:
    """The newest incident of a run, if it ever had one."""
    return incident_view(run, run.incidents[-1], now) if run.incidents else None


def open_title(run: Run) -> str:
    """What is wrong with the run just now; nothing if it has got further since its last failure."""
    return next((incident.title for incident in reversed(run.incidents) if not _over(incident)), "")


def incident_view(run: Run, incident: Incident, now: float, rows: Sequence[Row] = ()) -> View:
    """One incident.

    Its `state` is open, held (it waits for a person), superseded (it failed again before it got further), recovered,
    failed, cancelled or over.
    """
    log = f"attempts/{incident.attempt}/log" + (f" line {incident.line}" if incident.line else "")
    return {
        **msgspec.to_builtins(incident),
        "fix": _for(run, incident.fix),
        "run": run.id,
        "name": run.name,
        "log": log if incident.attempt else "",
        "what": _for(run, words.remedy(incident.step, incident.done, incident.fix)),
        "open": not _over(incident) and not _superseded(run, incident),
        "state": _state(run, incident),
        "stands": _stands(run, incident),
        "cost": _cost(run, incident, now, rows),
    }


def _for(run: Run, text: str) -> str:
    """Commands in the table of causes are written for NAME."""
    return _NAME.sub(lambda _: run.name, text)


def _over(incident: Incident) -> bool:
    return incident.closed_at is not None


def _latest(run: Run, incident: Incident) -> bool:
    return run.incidents[-1].number == incident.number


def _superseded(run: Run, incident: Incident) -> bool:
    """True if it failed again before it got further: the newer incident tells what is wrong now."""
    return not _over(incident) and not _latest(run, incident)


def _state(run: Run, incident: Incident) -> str:
    if _over(incident):
        return next((state for beginning, state in _STATES.items() if incident.outcome.startswith(beginning)), "over")
    if _superseded(run, incident):
        return "superseded"
    return "held" if run.phase is Phase.HELD and _latest(run, incident) else "open"


def _stands(run: Run, incident: Incident) -> str:
    """How it ended, or what it waits for."""
    if incident.closed_at is not None:
        after_s = incident.closed_at - incident.seen_at
        return (incident.outcome or "over") + (f" (after {words.duration(after_s)})" if after_s >= 1 else "")
    if not _latest(run, incident):
        return "superseded: it failed again before a new epoch was saved"
    if run.phase is Phase.HELD:
        return "open: held, a person must act"
    if run.waiting_for:
        return f"open: waits for {words.waiting(run.waiting_for)}"
    if incident.relaunched_at is not None:
        return f"open: attempt {run.attempts} runs, no new epoch is saved yet"
    return "open: the next attempt has not begun"


def _cost(run: Run, incident: Incident, now: float, rows: Sequence[Row]) -> View:
    """Seconds that it took, each None where it is not known; what still goes on counts up to now.

    `detect_s`: from the last movement until it was seen. `wait_s`: until the next attempt ran. `start_s`: until that
    attempt trained. `redone_s`: training that was done again. `total_s` is the sum of these.
    """
    end = _end(run, incident, now)
    relaunched = incident.relaunched_at
    parts = {
        "detect_s": max(0.0, incident.seen_at - incident.moved_at) if incident.moved_at else None,
        "wait_s": max(0.0, (end if relaunched is None else min(relaunched, end)) - incident.seen_at),
        "start_s": None if relaunched is None else _start_s(incident, relaunched, end, rows),
        "redone_s": incident.lost_s,
    }
    return {**parts, "total_s": sum(part or 0.0 for part in parts.values())}


def _end(run: Run, incident: Incident, now: float) -> float:
    """Until when it cost something: it was over, or the next one took its place."""
    if incident.closed_at is not None:
        return incident.closed_at
    following = next((one for one in run.incidents if one.number > incident.number), None)
    return now if following is None else (following.moved_at or following.seen_at)


def _start_s(incident: Incident, relaunched: float, end: float, rows: Sequence[Row]) -> float | None:
    """From the start of the next attempt until it trained; where the history does not tell that, it is not known."""
    began = incident.began_at or next(_begun(rows, incident), None)
    if began is None:
        return max(0.0, end - relaunched) if incident.closed_at is None else None
    return max(0.0, began - relaunched)


def _begun(rows: Sequence[Row], incident: Incident) -> Iterator[float]:
    """When attempts after the incident's own said that they train."""
    for row in rows:
        number = row.body.get("attempt")
        if row.kind in _BEGUN and isinstance(number, int) and number > incident.attempt:
            yield row.at
