"""The history of runs as plain data: what happened, attempt by attempt and step by step. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from supervisor.core import words
from supervisor.core.model import Attempt, Phase
from supervisor.core.secrets import hide

VERSION = 1

View = dict[str, Any]


class Row(Protocol):
    """One journalled event, as the journal's history gives it."""

    @property
    def seq(self) -> int:
        """Its place in the journal."""

    @property
    def at(self) -> float:
        """When it was decided, in Unix seconds."""

    @property
    def kind(self) -> str:
        """The event's kind."""

    @property
    def origin(self) -> str:
        """Who reported it."""

    @property
    def run(self) -> str:
        """The run that it concerns, or nothing."""

    @property
    def phase_before(self) -> str:
        """Where the run stood; empty where the run did not change."""

    @property
    def phase_after(self) -> str:
        """Where the run stands since."""

    @property
    def reason(self) -> str:
        """Why, for a person."""

    @property
    def body(self) -> dict[str, Any]:
        """The event as data."""

    @property
    def actions(self) -> tuple[str, ...]:
        """The keys of the actions that it led to."""


def attempts_view(current: Attempt | None, rows: Sequence[Row], *, ours: bool = False) -> list[View]:
    """What the history tells of each attempt, the first one first; the present one from the world itself."""
    found: dict[int, View] = {}
    for entry in rows:
        number = entry.body.get("attempt")
        if isinstance(number, int) and entry.kind in _ATTEMPT_FIELDS:
            attempt = found.setdefault(number, {"number": number})
            attempt.update({name: entry.body[name] for name in _ATTEMPT_FIELDS[entry.kind] if name in entry.body})
    if current is not None:
        attempt = found.setdefault(current.number, {"number": current.number})
        attempt.update({name: value for name in _CURRENT if (value := getattr(current, name)) not in {None, "", 0}})
        attempt["gpus"] = list(current.gpus)
    for attempt in found.values():
        over = attempt.get("ended_at") is not None
        attempt["ending"] = words.ending(attempt.get("code"), attempt.get("signal"), ours=ours) if over else ""
    return [found[number] for number in sorted(found)]


_CURRENT = (
    "start",
    "checkpoint",
    "from_epoch",
    "pid",
    "shim_pid",
    "started_at",
    "ended_at",
    "code",
    "signal",
    "confirmed",
)
_ATTEMPT_FIELDS = {
    "Prepared": ("start", "checkpoint", "from_epoch", "notes"),
    "Launched": ("pid", "shim_pid", "started_at"),
    "LaunchFailed": ("reason",),
    "StartConfirmed": ("from_epoch",),
    "Compared": ("continuous", "findings"),
    "AttemptExited": ("code", "signal", "ended_at", "lost", "launch_error"),
    "Examined": ("finished", "proof", "reason", "saved_epoch", "metrics", "log_tail"),
}


_OVER = frozenset(phase.value for phase in Phase if phase.terminal)


def steps(rows: Sequence[Row], *, ours: bool = False) -> list[View]:
    """The chain of events in words; progress reports in a row are told as one."""
    told: list[View] = []
    over = False
    for entry in rows:
        step = _step(entry, ours=ours)
        over = over or entry.phase_after in _OVER
        if over and entry.kind == "Kept":
            continue  # the look for a last save comes after the end, and mostly finds that there is none
        if told and entry.kind == "Progressed" and not entry.actions and told[-1]["kind"] == "Progressed":
            told[-1] = {**step, "count": told[-1]["count"] + 1, "since_at": told[-1]["since_at"]}
        elif _tells_something(entry):
            told.append(step)
    return told


def _tells_something(entry: Row) -> bool:
    """False for bookkeeping that changed nothing: deliveries, looks, and saves whose copies were kept."""
    quiet = {"Announced", "FileMarked", "Observed", "SaveSeen"} | ({"Kept"} if entry.body.get("epoch") else set())
    return entry.kind not in quiet or entry.phase_before != entry.phase_after


def _step(entry: Row, *, ours: bool = False) -> View:
    return {
        "seq": entry.seq,
        "at": entry.at,
        "since_at": entry.at,
        "count": 1,
        "kind": entry.kind,
        "origin": entry.origin,
        "what": words.sentence(entry.kind, entry.body, ours=ours),
        "phase_before": entry.phase_before,
        "phase_after": entry.phase_after,
        "reason": entry.reason,
        "actions": list(entry.actions),
        "then": list(dict.fromkeys(words.action(key) for key in entry.actions)),
    }


def events_view(rows: Sequence[Row]) -> View:
    """Journalled events as data, without job files' bytes and secrets; `next` is where to go on from."""
    return {
        "version": VERSION,
        "events": [{**_step(entry), "run": entry.run, "body": clean_body(entry.body)} for entry in rows],
        "next": rows[-1].seq if rows else None,
    }


def clean_body(body: Mapping[str, Any]) -> View:
    """An event's fields without the bytes of job files and without secrets."""
    clean = {name: value for name, value in body.items() if name != "data"}
    job = clean.get("job")
    if isinstance(job, Mapping):
        shown = {name: hide(job[name]) for name in ("env", "settings") if isinstance(job.get(name), Mapping)}
        clean["job"] = {**job, **shown}
    return clean
