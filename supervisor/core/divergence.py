"""A training whose losses are no numbers any more: it runs on and may succeed, and nothing comes of it."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core.events import Progressed
from supervisor.core.model import Run
from supervisor.core.turn import Turn


def seen(turn: Turn, run: Run, event: Progressed) -> Run:
    """Say it once, until a loss is a number again. Nothing is ended for that: whoever trains must decide."""
    if event.diverged_from == run.diverged_from:
        return run
    begun = event.diverged_from and not run.diverged_from
    run = turn.put(replace(run, diverged_from=event.diverged_from))
    if begun:
        since = f"Since epoch {run.diverged_from} all of its losses are NaN or infinite"
        text = f"{since}: it trains on, and nothing comes of it. It is not ended for that."
        name = run.name
        todo = f"yolo-supervisor stop {name}; then a smaller lr0, or amp = false"
        turn.announce(run, "diverged", "notice", f"{name} has diverged", text, todo=todo)
    return run


def words(run: Run) -> str:
    """The words for it behind a sentence; nothing while the losses are numbers."""
    return f"; its losses are no numbers since epoch {run.diverged_from}" if run.diverged_from else ""
