"""What people are told about a run: a title, a reason and, where a person must act, the one command."""

from __future__ import annotations

from supervisor.core import words
from supervisor.core.actions import Announce
from supervisor.core.diagnosis.evidence import Incident
from supervisor.core.model import Attempt, Run
from supervisor.core.turn import Turn


def ending(attempt: Attempt) -> str:
    """How a process ended, in words."""
    if attempt.signal is not None:
        return f"ended by signal {attempt.signal}"
    if attempt.code is not None:
        return f"exit code {attempt.code}"
    return "ended unseen"


def of_epochs(epoch: int, epochs: int) -> str:
    """`12/300`, or `12` where the total is unknown."""
    return f"{epoch}/{epochs}" if epochs else str(epoch)


def launched(turn: Turn, run: Run) -> None:
    """The first start, or a resume."""
    attempt = run.attempt
    if attempt is None:
        return
    facts = {"attempt": str(attempt.number), "pid": str(attempt.pid)}
    if attempt.start == "resume":
        where = of_epochs(attempt.from_epoch, run.progress.epochs)
        text = f"Attempt {attempt.number} goes on after epoch {where}, from {attempt.checkpoint}."
        turn.announce(run, "resumed", "info", f"{run.name} resumed after epoch {where}", text, facts=facts)
    elif attempt.start == "finish":
        text = "All epochs were done; only the final validation and the strip of the weights are repeated."
        turn.announce(run, "resumed", "info", f"{run.name} is being finished", text, facts=facts)
    elif attempt.watched:
        text = f"The training that a person started (process {attempt.pid}) is watched; it is resumed when it has died."
        turn.announce(run, "started", "info", f"{run.name} is watched", text, facts=facts)
    else:
        again = "" if run.attempts == 1 else " No checkpoint was there, so it starts from the beginning."
        text = f"Attempt {attempt.number} started.{again}"
        turn.announce(run, "started", "info", f"{run.name} started", text, facts=facts)


def failed_attempt(turn: Turn, run: Run, tail: tuple[str, ...]) -> None:
    """An attempt died, or hung and was ended, and another one follows."""
    incident = run.incidents[-1]
    facts = {
        "attempt": str(run.attempts),
        "saved epoch": str(run.progress.saved_epoch),
        "log": "\n".join(tail),
    }
    title = f"{run.name}: attempt {run.attempts} died: {incident.title}"
    title = f"{run.name} hung, was ended and is resumed" if incident.hung else title
    text = f"{_story(incident)}\nYou can: {incident.fix}."
    turn.announce(run, "failed-attempt", "notice", title, text, facts=facts)


def _story(incident: Incident) -> str:
    """What happened, what shows it, and what is done, a line for each."""
    at = f", {incident.place}" if incident.place else ""
    where = f" (line {incident.line} of attempts/{incident.attempt}/log{at})" if incident.line else ""
    told = (
        f"{incident.title[:1].upper()}{incident.title[1:]}. {incident.means}".rstrip(),
        f"Seen: {' '.join(incident.seen.split())}{where}" if incident.seen else "",
        f"Autopsy: {incident.autopsy}" if incident.autopsy else "",
        f"Done: {words.remedy(incident.step, incident.done, incident.fix)}.",
    )
    return "\n".join(filter(None, told))


def waits(turn: Turn, run: Run, reason: str, incident: Incident | None) -> None:
    """The run waits for the machine, and goes on by itself."""
    title = f"{run.name} waits for {words.waiting(run.waiting_for)}"
    if incident is not None:
        text = f"{_story(incident)}\nYou can: {incident.fix}."
    else:
        text = reason if "by itself" in reason else f"{reason}. It goes on by itself."
    turn.announce(run, "waits", "notice", title, text)


def held(
    turn: Turn, run: Run, tail: tuple[str, ...] = (), *, by_person: bool = False, incident: Incident | None = None
) -> None:
    """The run waits for a person; `incident`: because of that."""
    facts = {"saved epoch": str(run.progress.saved_epoch), "log": "\n".join(tail)}
    resume = f"yolo-supervisor resume {run.name}"
    agree = " --accept" if f"{resume} --accept" in run.reason else ""
    first = incident.fix if incident is not None else f"yolo-supervisor why {run.name}"
    todo = first if f"`{resume}`" in first else f"{first}; then {resume}{agree}"
    severity = "info" if by_person else "page"
    title = f"{run.name} is held" + (f": {incident.title}" if incident is not None else "")
    if incident is not None and incident.hung:
        title = f"{run.name} hung, was ended and is held"
    text = run.reason if incident is None else _story(incident)
    turn.announce(run, "held", severity, title, text, todo=todo, facts=facts)


def succeeded(turn: Turn, run: Run) -> None:
    """The run is finished."""
    metrics = {name: f"{value:.4g}" for name, value in run.progress.metrics.items()}
    facts = {
        "epochs": of_epochs(run.progress.epoch, run.progress.epochs),
        "attempts": str(run.attempts),
        **metrics,
    }
    turn.announce(run, "succeeded", "info", f"{run.name} finished", run.reason, facts=facts)


def failed(turn: Turn, run: Run, tail: tuple[str, ...], incident: Incident | None = None) -> None:
    """The run is given up; `incident`: because of that."""
    facts = {
        "attempts": str(run.attempts),
        "saved epoch": str(run.progress.saved_epoch),
        "log": "\n".join(tail),
    }
    retry = f"yolo-supervisor retry {run.name}"
    first = incident.fix if incident is not None else f"yolo-supervisor logs {run.name}; mend the cause"
    todo = first if f"`{retry}`" in first else f"{first}; then {retry}"
    title = f"{run.name} FAILED" + (f": {incident.title}" if incident is not None else "")
    text = run.reason if incident is None else _story(incident)
    turn.announce(run, "failed", "page", title, text, todo=todo, facts=facts)


def cancelled(turn: Turn, run: Run) -> None:
    """The run was cancelled by a person."""
    turn.announce(run, "cancelled", "info", f"{run.name} cancelled", run.reason)


def degraded(channel: str, error: str, now: float) -> Announce:
    """The one message that is not in the journal, because it says that the journal cannot be written."""
    return Announce(
        key=f"unjournalled-{now:.0f}/{channel}",
        channel=channel,
        what="degraded",
        severity="page",
        title="yolo-supervisor cannot write its journal",
        text=f"{error}. Trainings go on, but nothing is started, stopped or restarted. (Not journalled.)",
        todo="free space on the disk of the state directory; it goes on by itself",
        at=now,
    )
