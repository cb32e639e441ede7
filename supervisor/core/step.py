"""The one function that decides: (world, event, now) → (new world, actions). Pure: it can be replayed and simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from supervisor.core import deadlines, digest, events, files, orders, queue, run_machine
from supervisor.core.actions import Action
from supervisor.core.model import Run, World
from supervisor.core.turn import Turn


def step(world: World, event: events.Event, now: float) -> tuple[World, tuple[Action, ...]]:
    """Let `event` happen at wall time `now`. Whatever it frees is given to waiting runs in the same step."""
    turn = Turn(world, now)
    if isinstance(event, events.RunEvent):
        run_machine.apply(turn, event)
    else:
        SERVER[type(event)](turn, event)
    if turn.world is not world or isinstance(event, events.TimePassed):
        queue.place(turn)
    return turn.world, tuple(turn.actions)


def started(turn: Turn, event: events.DaemonStarted) -> None:
    """A new daemon: a drain was for the old one. After a reboot the lost attempts are reported by who looks at them."""
    rebooted = bool(turn.world.boot.boot_id) and turn.world.boot != event.boot
    if rebooted:  # launches of the last boot are no reason to wait: nothing of them runs
        turn.world = replace(turn.world, booted_at=turn.now, last_launch_at=0.0)
    turn.world = replace(turn.world, boot=event.boot, draining=False)
    live = [run for run in turn.world.live.values() if run.attempt is not None and run.busy]
    if rebooted and live:
        names = ", ".join(run.name for run in live)
        text = f"{len(live)} trainings were running and go on from their newest checkpoints: {names}."
        turn.announce(None, "rebooted", "notice", f"{_server(turn)} was restarted", text)


def _server(turn: Turn) -> str:
    return turn.world.policy.server or "The server"


def stopped(_turn: Turn, _event: events.DaemonStopped) -> None:
    """Trainings go on without the daemon: nothing changes."""


def configured(turn: Turn, event: events.Configured) -> None:
    """New limits and channels count from now on."""
    if event.policy != turn.world.policy:
        turn.world = replace(turn.world, policy=event.policy)


def time_passed(turn: Turn, _event: events.TimePassed) -> None:
    """Deadlines have come."""
    deadlines.due(turn)


def observed(turn: Turn, event: events.Observed) -> None:
    """What was seen alive counts as observed."""
    for run_id, number in event.alive:
        run: Run | None = turn.world.live.get(run_id)
        if run is not None and run.attempt is not None and run.attempt.number == number:
            run_machine.observed(turn, run, event)


def noted(_turn: Turn, _event: events.Event) -> None:
    """The event only completes an action."""


def broken_channel(_turn: Turn, _event: events.AnnounceFailed) -> None:
    """A message that no retry can deliver stays in the journal as failed; other channels got their own copy."""


SERVER: dict[type[events.Event], Callable[[Turn, Any], None]] = {
    events.DaemonStarted: started,
    events.DaemonStopped: stopped,
    events.Configured: configured,
    events.TimePassed: time_passed,
    events.ProgressDue: digest.progress_due,
    events.JobFileSeen: files.seen,
    events.JobFileGone: files.gone,
    events.JobAccepted: files.accepted,
    events.JobRefused: files.refused,
    events.FileMarked: noted,
    events.DrainAsked: orders.drain,
    events.Announced: noted,
    events.AnnounceFailed: broken_channel,
    events.Observed: observed,
}
