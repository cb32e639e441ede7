"""What people are told about a run: a title, a reason and, where a person must act, the one command."""

from __future__ import annotations

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
    """An attempt died and another one follows."""
    facts = {
        "attempt": str(run.attempts),
        "saved epoch": str(run.progress.saved_epoch),
        "log": "\n".join(tail),
    }
    turn.announce(run, "failed-attempt", "notice", f"{run.name}: attempt {run.attempts} died", run.reason, facts=facts)


def held(turn: Turn, run: Run, tail: tuple[str, ...] = (), *, by_person: bool = False) -> None:
    """The run waits for a person."""
    facts = {"saved epoch": str(run.progress.saved_epoch), "log": "\n".join(tail)}
    resume = f"yolo-supervisor resume {run.name}"
    agree = " --accept" if f"{resume} --accept" in run.reason else ""
    todo = f"yolo-supervisor why {run.name}; then {resume}{agree}"
    severity = "info" if by_person else "page"
    turn.announce(run, "held", severity, f"{run.name} is held", run.reason, todo=todo, facts=facts)


def succeeded(turn: Turn, run: Run) -> None:
    """The run is finished."""
    metrics = {name: f"{value:.4g}" for name, value in run.progress.metrics.items()}
    facts = {
        "epochs": of_epochs(run.progress.epoch, run.progress.epochs),
        "attempts": str(run.attempts),
        **metrics,
    }
    turn.announce(run, "succeeded", "info", f"{run.name} finished", run.reason, facts=facts)


def failed(turn: Turn, run: Run, tail: tuple[str, ...]) -> None:
    """The run is given up."""
    facts = {
        "attempts": str(run.attempts),
        "saved epoch": str(run.progress.saved_epoch),
        "log": "\n".join(tail),
    }
    todo = f"yolo-supervisor logs {run.name}; mend the cause; then yolo-supervisor retry {run.name}"
    turn.announce(run, "failed", "page", f"{run.name} FAILED", run.reason, todo=todo, facts=facts)


def cancelled(turn: Turn, run: Run) -> None:
    """The run was cancelled by a person."""
    turn.announce(run, "cancelled", "info", f"{run.name} cancelled", run.reason)
