"""The one function that decides: (world, event, now) → (new world, actions). Pure: it can be replayed and simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from supervisor.core import deadlines, digest, disks, events, files, hangs, orders, publishing, queue, run_machine
from supervisor.core.actions import Action
from supervisor.core.backups import outcomes, restoring, targets
from supervisor.core.gpus import health, inventory, quarantine
from supervisor.core.model import Run, World
from supervisor.core.policy import FINAL_S, LIMIT_OVERRUN, OBSERVED_S
from supervisor.core.turn import Turn

ALWAYS_PLACE = (events.TimePassed, events.Configured)
BEFORE_PLACE = (events.DaemonStarted, events.StateRestored)


def step(world: World, event: events.Event, now: float) -> tuple[World, tuple[Action, ...]]:
    """Let `event` happen at wall time `now`. Whatever it frees is given to waiting runs in the same step."""
    turn = Turn(world, now)
    if isinstance(event, events.Poisoned):
        targets.given_up(turn, event.answers)
    if isinstance(event, events.RunEvent):
        run_machine.apply(turn, event)
    else:
        SERVER[type(event)](turn, event)
    if not isinstance(event, BEFORE_PLACE) and (turn.world is not world or isinstance(event, ALWAYS_PLACE)):
        quarantine.attend(turn)
        for run in _just_ended(world, turn.world):
            publishing.ended(turn, run)
            targets.ended(turn, run)
        targets.attend(turn)
        restoring.attend(turn)
        queue.place(turn)  # not before the new daemon has said, by Configured, what there is room for
    return turn.world, tuple(turn.actions)


def _just_ended(before: World, after: World) -> list[Run]:
    """The runs that this step ended, in the order of their ids: a replay must give the same numbers."""
    new = after.ended.keys() - before.ended.keys() if after.ended is not before.ended else ()
    return [after.ended[key] for key in sorted(new)]


def started(turn: Turn, event: events.DaemonStarted) -> None:
    """A new daemon: a drain was for the old one. After a reboot the lost attempts are reported by who looks at them."""
    rebooted = bool(turn.world.boot.boot_id) and turn.world.boot != event.boot
    if rebooted:  # launches of the last boot are no reason to wait: nothing of them runs
        turn.world = replace(turn.world, booted_at=turn.now, last_launch_at=0.0)
    turn.world = replace(turn.world, boot=event.boot, draining=False)
    inventory.started(turn)
    if rebooted:
        quarantine.rebooted(turn)
    for run in tuple(turn.world.live.values()):
        if run.stop is not None and run.stop.how == "autopsy":
            hangs.moving(turn, run)  # nobody looked for a while: a hang is proven anew before it is ended
    for run in tuple(turn.world.live.values()):
        orders.undrain(turn, run, "a new daemon")
    _bound_deadlines(turn)
    quarantine.bound(turn)
    targets.started(turn)
    live = [run for run in turn.world.live.values() if run.attempt is not None and run.busy]
    if rebooted and live:
        names = ", ".join(run.name for run in live)
        text = f"{len(live)} trainings were running and go on from their newest checkpoints: {names}."
        turn.announce(None, "rebooted", "notice", f"{_server(turn)} was restarted", text)


def _bound_deadlines(turn: Turn) -> None:
    """A clock that was wrong when a deadline was set must not make a run wait for hours."""
    for run in tuple(turn.world.live.values()):
        overrun_s = LIMIT_OVERRUN * (run.job.time_limit_s or 0.0)
        grace_s = max(turn.world.policy.stop_grace_s, FINAL_S)
        latest_at = turn.now + max(OBSERVED_S, run.job.restart.backoff_max_s, grace_s, overrun_s)
        if run.deadline_at is not None and run.deadline_at > latest_at:
            turn.put(replace(run, deadline_at=latest_at))


def _server(turn: Turn) -> str:
    return turn.world.policy.server or "The server"


def stopped(_turn: Turn, _event: events.DaemonStopped) -> None:
    """Trainings go on without the daemon: nothing changes."""


def configured(turn: Turn, event: events.Configured) -> None:
    """New limits and channels count from now on."""
    if event.policy != turn.world.policy:
        turn.world = replace(turn.world, policy=event.policy)
    targets.configured(turn)
    inventory.count(turn)


def time_passed(turn: Turn, event: events.TimePassed) -> None:
    """Deadlines have come."""
    deadlines.due(turn, event.run)


def observed(turn: Turn, event: events.Observed) -> None:
    """What was seen alive counts as observed."""
    for run_id, number in event.alive:
        run: Run | None = turn.world.live.get(run_id)
        if run is not None and run.attempt is not None and run.attempt.number == number:
            run_machine.observed(turn, run, event)


def noted(_turn: Turn, _event: events.Event) -> None:
    """The event only completes an action."""


def broken_channel(turn: Turn, event: events.AnnounceFailed) -> None:
    """A channel will never take a message: the other ones are told, but a failure to tell that is not told again."""
    if "/channel-broken/" in event.answers:
        return
    title = f"Channel {event.channel} did not take a message"
    todo = f"mend [[channel]] {event.channel} in the configuration and restart the daemon"
    turn.announce(None, "channel-broken", "page", title, event.reason, todo=todo, without=event.channel)


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
    events.GpusSeen: inventory.seen,
    events.GpuFound: health.found,
    events.GpuHeld: health.held,
    events.XidSeen: health.xid_seen,
    events.KernelSaid: health.kernel_said,
    events.GpuTested: quarantine.tested,
    events.GpuTreated: quarantine.treated,
    events.GpuOrdered: quarantine.order,
    events.BackupDue: targets.due,
    events.BackupAsked: targets.asked,
    events.QuietSeen: targets.quiet,
    events.BackedUp: outcomes.backed_up,
    events.BackupFailed: outcomes.failed,
    events.VerifyAsked: targets.verify_asked,
    events.BackupVerified: outcomes.verified,
    events.DrillAsked: targets.drill_asked,
    events.Drilled: outcomes.drilled,
    events.Restored: restoring.restored,
    events.StateRestored: restoring.state_restored,
    events.PruneAsked: disks.prune_asked,
    events.Pruned: disks.pruned,
    events.TakenBack: disks.taken_back,
    events.DiskSeen: disks.seen,
    events.PublishAsked: publishing.asked,
    events.Published: publishing.published,
}
