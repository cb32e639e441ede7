"""A training that stands still: what the hang detector says, and what is done about it.

Only a proven hang is acted upon: what the training does is written down, then it is ended, step by step, and its
remedy decides what follows. Whatever moves again in the meantime is left alone.
"""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import events, incidents, launching, orders, words
from supervisor.core.actions import Autopsy
from supervisor.core.model import Phase, Run, StopOrder
from supervisor.core.policy import AUTOPSY_S, OBSERVED_S
from supervisor.core.turn import Turn


def hang_seen(turn: Turn, run: Run, event: events.HangSeen) -> None:
    """The hang detector has a verdict."""
    if event.verdict == "moving":
        moving(turn, run)
    elif event.verdict == "hung" and run.attempt is not None and not run.attempt.watched:
        _end(turn, run, event)
    else:
        _tell(turn, run, event)


def _tell(turn: Turn, run: Run, event: events.HangSeen) -> None:
    """Say once, until it moves again, that it stands still; nothing is done about it."""
    text, todo = _text(event), _todo(run, event)
    if not run.stalled:
        title = f"{run.name} stands still"
        turn.announce(run, "stalled", "notice", title, f"{text}. It is not ended for that.", todo=todo)
    attempt = None if run.attempt is None else replace(run.attempt, moved_at=turn.now - event.quiet_s)
    turn.put(replace(run, stalled=text, stalled_todo=todo, attempt=attempt))


def _text(event: events.HangSeen) -> str:
    return event.text or f"nothing moved for {words.duration(event.quiet_s)} ({event.phase})"


def _todo(run: Run, event: events.HangSeen) -> str:
    pid = run.attempt.pid if run.attempt is not None else 0
    if event.verdict == "stopped":
        return f"if nobody debugs it: kill -CONT {pid}"
    if event.verdict == "storage":
        return "look at the disk or the mount that it waits for: it goes on when that answers"
    return f"look at process {pid}; yolo-supervisor logs {run.name}"


def _end(turn: Turn, run: Run, event: events.HangSeen) -> None:
    """Write down what it does, then end it. A stop that waits for a save would wait for ever: its order stays."""
    order, attempt = run.stop, run.attempt
    if attempt is None or (order is not None and order.how != "save"):
        return  # it is being ended already
    reason = _text(event)
    asked = order or StopOrder(how="save", then=Phase.QUEUED, by=orders.DETECTOR, reason=reason)
    stop = replace(asked, how="autopsy", cause=event.cause, seen=reason, seen_at=turn.now)
    attempt = replace(attempt, moved_at=turn.now - event.quiet_s)
    run = turn.move(
        run, Phase.STOPPING, f"{reason}: writing down what it does", within_s=AUTOPSY_S, stop=stop, attempt=attempt
    )
    key = f"{run.id}/{attempt.number}/autopsy-{turn.number()}"
    turn.act(Autopsy(key=key, run=run.id, attempt=attempt.number, job=run.job, reason=reason))


def moving(turn: Turn, run: Run) -> Run:
    """It moves again: nothing that was to end it for standing still is carried out any more."""
    order = run.stop
    if run.phase is Phase.STOPPING and order is not None and order.how == "autopsy":
        waits = _asked(turn, order)
        if waits is None:
            run = turn.move(
                run,
                Phase.RUNNING,
                "it moved again: it is not ended",
                within_s=launching.running_within_s(turn, run),
                stop=None,
            )
        else:
            reason = f"{waits.reason}: it moved again, and ends when the next epoch is saved"
            run = turn.move(run, Phase.STOPPING, reason, within_s=OBSERVED_S, stop=waits)
    if run.stalled:
        attempt = None if run.attempt is None else replace(run.attempt, moved_at=0.0)
        run = turn.put(replace(run, stalled="", stalled_todo="", attempt=attempt))
    return run


def _asked(turn: Turn, order: StopOrder) -> StopOrder | None:
    """What somebody ordered before it stood still, or meanwhile; or nothing."""
    over = order.then is Phase.QUEUED and not turn.world.draining
    return None if order.by == orders.DETECTOR or over else replace(order, how="save", cause="", seen="", seen_at=0.0)


def autopsy_done(turn: Turn, run: Run, event: events.AutopsyDone) -> None:
    """What it did is known: now it is ended."""
    if run.attempt is not None and event.summary:
        run = replace(run, attempt=replace(run.attempt, autopsy=event.summary))
        run = turn.put(incidents.autopsied(run, event.attempt, event.summary))
    if run.phase is Phase.STOPPING and run.stop is not None and run.stop.how == "autopsy":
        orders.term(turn, run, run.stop)
