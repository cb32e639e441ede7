"""Another policy on the failures of the past: what would have been decided differently. Pure: it only replays.

The events of each run are decided once more, by today's code, side by side: as the job was configured, and under the
other policy. What the second one would have tried is carried along from failure to failure, but what happened next is
always what was recorded: so the replay of a run ends where only one of the two would have made another attempt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from supervisor.core import words
from supervisor.core.diagnosis.evidence import Incident, Sign
from supervisor.core.diagnosis.matching import matcher_of
from supervisor.core.diagnosis.signs import SHOWN, scan
from supervisor.core.diagnosis.tables import RULES, RUNGS, Rule
from supervisor.core.events import AnyEvent, Event, Examined, HangSeen
from supervisor.core.model import Attempt, Job, Phase, Run, World
from supervisor.core.step import step
from supervisor.core.story import Row

_SAME_S = 0.05  # waits are told in whole seconds
_TABLE = frozenset(rule.name for rule in RULES)
_RANK = re.compile(r"\[(?:rank|default)\d+\]: ?")  # signs do not repeat it
_ECHOES = frozenset(rule.name for rule in RULES if rule.kind == "echo")
#: What a run remembers of its failures: under the other policy it remembers something else.
_MEMORY = (
    "spent", "changes", "distrust_from", "avoided_gpus", "last_failure", "last_failed_at", "failures",
    "failed_at_epoch", "interruptions", "fall_backs", "peak_epoch", "incidents",
)  # fmt: skip
#: Events that no decision about a failure depends on, or that make other runs.
_UNUSED = frozenset({
    "JobFileSeen", "JobFileGone", "JobRefused", "FileMarked", "Announced", "AnnounceFailed", "Observed", "SaveSeen",
    "Kept", "Compared", "ProgressDue", "RetryAsked", "RewindAsked", "ExtendAsked",
})  # fmt: skip

_WITHOUT_STOP = frozenset({Phase.QUEUED, Phase.RUNNING, Phase.HELD})


class Other(msgspec.Struct, frozen=True, kw_only=True):
    """Another policy: fields of a job's Restart that have another value, and rules in place of the user's own.

    None: the rules stay as they were.
    """

    restart: dict[str, Any] = {}
    rules: tuple[Rule, ...] | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was, or would have been, decided about a failure. `goes_on`: another attempt follows by itself."""

    phase: str
    cause: str
    step: str
    what: str
    goes_on: bool
    delay_s: float = 0.0
    waiting_for: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure under both policies.

    `differs` is empty, `delay` (only the wait is another one) or `decision`. `recorded` is false where the journal has
    another decision than this version of the program makes of it. `end` says why the replay of the run ends here.
    """

    run: str
    attempt: int
    at: float
    title: str
    seen: str
    before: Decision
    after: Decision
    differs: str
    recorded: bool = True
    earlier_s: float = 0.0
    person_s: float | None = None
    end: str = ""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run. `unknown`: failures after the end of the replay."""

    run: str
    failures: tuple[Failure, ...]
    unknown: int = 0


def replay(run: Run, rows: Sequence[Row], server: Sequence[Row], other: Other, since_at: float = 0.0) -> Replay:
    """Decide the recorded events of `run` under both policies; failures before `since_at` count, but are not told.

    `rows` is the whole history of the run, `server` the starts and configurations of the daemon. The first job of the
    run is taken from its history.
    """
    stage = _Stage(run, rows, other)
    told: list[Failure] = []
    is_over, unknown = False, 0
    for row in _needed(rows, server):
        failure = stage.decide(row)
        if failure is None:
            continue
        if not is_over and failure.at >= since_at:
            told.append(replace(failure, person_s=_resumed_after_s(failure, rows)))
        elif is_over and failure.at >= since_at:
            unknown += 1
        is_over = is_over or bool(failure.end)
    return Replay(run=run.id, failures=tuple(told), unknown=unknown)


def _needed(rows: Sequence[Row], server: Sequence[Row]) -> Iterator[Row]:
    """The events to be decided, in order: of progress reports in a row the last one is enough."""
    chosen = sorted((row for row in (*rows, *server) if row.kind not in _UNUSED), key=lambda row: row.seq)
    for place, row in enumerate(chosen):
        following = chosen[place + 1] if place + 1 < len(chosen) else None
        if not (row.kind == "Progressed" and following is not None and following.kind == "Progressed"):
            yield row


class _Stage:
    """The run as it was, and what it would remember under the other policy."""

    def __init__(self, run: Run, rows: Sequence[Row], other: Other) -> None:
        self._world = World()
        self._run = _new_run(run, rows)
        self._other = other
        self._memory: dict[str, Any] = {name: getattr(self._run, name) for name in _MEMORY}

    def decide(self, row: Row) -> Failure | None:
        """Let an event happen under both policies; the failure that it was, if it was one."""
        if row.kind == "JobAccepted":
            self._edit(row)
            return None
        event = _event(row)
        if event is None:
            return None
        before = _standing(self._run, row, self._world)
        there = self._elsewhere(before)
        self._run, world = _stepped(self._world, before, event, row.at)
        changed = event if not isinstance(event, Examined) else with_rules(event, self._other.rules)
        after, _ = _stepped(self._world, there, changed, row.at)
        self._world = world
        self._memory = {name: getattr(after, name) for name in _MEMORY}
        if isinstance(event, HangSeen):
            return _hang(event, before, there, row)
        return _failure(before, self._run, there, after, row)

    def _edit(self, row: Row) -> None:
        job = msgspec.convert(row.body["job"], Job)
        if job.revision != self._run.job.revision:  # the first one opened the run
            self._run = replace(self._run, next_job=job)

    def _elsewhere(self, run: Run) -> Run:
        """The run under the other policy: with the same past, but another memory of it."""
        job = replace(run.job, restart=replace(run.job.restart, **self._other.restart))
        return replace(run, job=job, **self._memory)


def _new_run(run: Run, rows: Iterable[Row]) -> Run:
    """The run as it began."""
    first = next((row.body["job"] for row in rows if row.kind == "JobAccepted" and not row.phase_before), None)
    return Run(
        id=run.id,
        job=run.job if first is None else msgspec.convert(first, Job),
        phase=Phase.QUEUED,
        created_at=run.created_at,
        phase_since=run.created_at,
        goal=run.goal,
        predecessor=run.predecessor,
    )


def _event(row: Row) -> Event | None:
    """The event, or None for one that another version wrote."""
    try:
        event: Event = msgspec.convert(row.body, AnyEvent)
    except msgspec.ValidationError:
        return None
    return event


def _standing(run: Run, row: Row, world: World) -> Run:
    """The run as the record has it before the event: which phase it is in, and which attempt is meant."""
    if row.phase_before and run.phase.value != row.phase_before:
        phase = Phase(row.phase_before)
        run = replace(run, phase=phase, stop=None if phase in _WITHOUT_STOP else run.stop)
    number = row.body.get("attempt")
    if isinstance(number, int) and number > (run.attempt.number if run.attempt is not None else 0):
        attempt = Attempt(number=number, token=number, boot=world.boot, launches=1)
        run = replace(run, attempt=attempt, attempts=number, job=run.next_job or run.job, next_job=None)
    return run


def _stepped(world: World, run: Run, event: Event, now: float) -> tuple[Run, World]:
    """The run after the event, in a world where nobody else is."""
    alone = replace(world, live={}, ended={}, latest={run.name: run.id}).with_run(run)
    after, _ = step(alone, event, now)
    return after.run(run.id) or run, after


# ---- rules
def with_rules(event: Examined, rules: tuple[Rule, ...] | None) -> Examined:
    """The examination as it would have been with these rules in place of the user's own; None: as it was.

    Only lines that were recorded can match: those that were signs, the exception, and the last ones of the log.
    """
    if rules is None:
        return event
    known = [one for sign in event.evidence.signs if (one := _judged(sign, rules)) is not None]
    lines = _lines(event)
    told = [" ".join(_RANK.sub("", line).split())[:SHOWN] for line in lines]
    for sign in scan(lines, (*rules, *RULES)).signs:
        place = sign.number - 1
        if sign.rule not in _TABLE and not any(one.line == told[place] for one in known):
            known.insert(_rank_of(place, known, told), replace(sign, number=0))
    return replace(event, evidence=replace(event.evidence, signs=tuple(known)))


def _lines(event: Examined) -> tuple[str, ...]:
    """The lines that were recorded as they stood in the log."""
    error = event.evidence.error
    return (error, *event.log_tail) if error and error not in event.log_tail else event.log_tail


def _judged(sign: Sign, rules: tuple[Rule, ...]) -> Sign | None:
    """What the line is a sign of; what the table saw in it is not looked for anew."""
    rule = matcher_of(rules).rule_of(sign.line)
    if rule is None and sign.rule in _TABLE:
        return sign
    rule = rule or matcher_of(RULES).rule_of(sign.line)
    if rule is None:
        return None
    return replace(sign, rule=rule.name, cause=rule.cause, remedy=rule.remedy, means=rule.means, fix=rule.fix)


def _rank_of(place: int, known: Sequence[Sign], lines: Sequence[str]) -> int:
    """Where a new sign belongs: before what stands later in the log's end, and before what only follows from others."""
    for rank, sign in enumerate(known):
        if sign.rule in _ECHOES or sign.line in lines[place + 1 :]:
            return rank
    return len(known)


# ---- one failure
def _failure(before: Run, after: Run, there: Run, there_after: Run, row: Row) -> Failure | None:
    mine, theirs = _new_incident(before, after), _new_incident(there, there_after)
    known = mine or theirs
    if known is None:
        return None
    first, second = _decision(after, mine, row.at), _decision(there_after, theirs, row.at)
    return Failure(
        run=before.id,
        attempt=known.attempt,
        at=row.at,
        title=known.title,
        seen=known.seen,
        before=first,
        after=second,
        differs=_difference(first, second),
        recorded=not row.phase_after or row.phase_after == after.phase.value,
        end=_end(first, second),
    )


def _new_incident(before: Run, after: Run) -> Incident | None:
    newest = after.incidents[-1] if after.incidents else None
    old = before.incidents[-1].number if before.incidents else 0
    return newest if newest is not None and newest.number > old else None


def _decision(after: Run, incident: Incident | None, now: float) -> Decision:
    cools = after.phase is Phase.COOLING and not after.waiting_for and after.deadline_at is not None
    return Decision(
        phase=after.phase.value,
        cause=incident.cause if incident is not None else "",
        step=incident.step if incident is not None else "",
        what=words.remedy(incident.step, incident.done, incident.fix) if incident is not None else after.reason,
        goes_on=after.phase is not Phase.HELD and not after.phase.terminal,
        delay_s=max(0.0, (after.deadline_at or now) - now) if cools else 0.0,
        waiting_for=after.waiting_for if after.phase is Phase.COOLING else "",
    )


def _difference(first: Decision, second: Decision) -> str:
    if _plain(first) != _plain(second):
        return "decision"
    return "delay" if abs(first.delay_s - second.delay_s) >= _SAME_S else ""


def _plain(one: Decision) -> Decision:
    """The decision without its times. What is changed is part of it; how often something was tried is not."""
    return replace(one, delay_s=0.0, what=one.what.partition("; tried again")[0] if one.step in RUNGS else "")


def _end(first: Decision, second: Decision) -> str:
    if first.goes_on == second.goes_on:
        return ""
    if first.goes_on:
        return "no attempt would have followed here by itself; the record goes on with one"
    return "an attempt would have followed here; how it would have ended is not known"


def _resumed_after_s(failure: Failure, rows: Iterable[Row]) -> float | None:
    """How long the run then waited for a person who let it go on, if the other policy had not waited for one."""
    if failure.before.phase != Phase.HELD.value or not failure.after.goes_on:
        return None
    return next((row.at - failure.at for row in rows if row.kind == "ResumeAsked" and row.at >= failure.at), None)


# ---- hangs
def _hang(event: HangSeen, before: Run, there: Run, row: Row) -> Failure | None:
    """A hang that was acted upon, where the other policy has another limit for it."""
    old, new = before.job.restart.hang_after_s, there.job.restart.hang_after_s
    if event.verdict != "hung" or row.phase_after != Phase.STOPPING.value or old == new or new is None:
        return None
    is_seen = 0 < new <= event.quiet_s
    end = "" if is_seen else "it would not have been ended here; whether it would have moved again is not known"
    limit = "never" if not new else f"after {words.duration(new)}"
    first = Decision(
        phase=row.phase_after,
        cause=event.cause,
        step="end",
        what=f"ended after {words.duration(event.quiet_s)} without movement",
        goes_on=True,
    )
    what = f"ended {limit}" if is_seen else f"not ended yet: a hang is acted upon {limit}"
    return Failure(
        run=before.id,
        attempt=event.attempt,
        at=row.at,
        title="the training hung",
        seen=event.text,
        before=first,
        after=replace(first, what=what, step="end" if is_seen else "leave"),
        differs="delay" if is_seen else "decision",
        earlier_s=event.quiet_s - new if is_seen else 0.0,
        end=end,
    )


# ---- all of them
def view(replays: Sequence[Replay], now: float) -> dict[str, Any]:
    """All replayed runs as plain data, with a summary."""
    failures = sorted((one for run in replays for one in run.failures), key=lambda one: one.at)
    return {
        "version": 1,
        "at": now,
        "summary": _summary(failures, replays),
        "failures": msgspec.to_builtins(failures),
    }


def _summary(failures: Sequence[Failure], replays: Sequence[Replay]) -> dict[str, Any]:
    """Counts, and seconds: `saved_s` is what the other policy would have waited less (negative: more).

    `person_s`: what runs waited for a person that would not have waited for one. `unknown`: failures that came after
    the end of their run's replay.
    """
    return {
        "runs": len({one.run for one in failures}),
        "failures": len(failures),
        "different": sum(one.differs == "decision" for one in failures),
        "other_wait": sum(one.differs == "delay" for one in failures),
        "ends_earlier": [one.run for one in failures if one.before.goes_on and not one.after.goes_on],
        "goes_on_longer": [one.run for one in failures if one.after.goes_on and not one.before.goes_on],
        "saved_s": sum(_saved_s(one) for one in failures),
        "person_s": sum(one.person_s or 0.0 for one in failures),
        "unknown": sum(run.unknown for run in replays),
        "of_other_version": sum(not one.recorded for one in failures),
    }


def _saved_s(one: Failure) -> float:
    both = one.before.goes_on and one.after.goes_on and not (one.before.waiting_for or one.after.waiting_for)
    return one.earlier_s + (one.before.delay_s - one.after.delay_s if both else 0.0)
