"""What happens when time has passed: each phase that something outside must end has a deadline, and this is it."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import endings, hangs, launching, orders, run_machine
from supervisor.core.backups import restoring, targets
from supervisor.core.gpus import quarantine
from supervisor.core.model import Phase, Run, StopOrder, Wanted, World
from supervisor.core.policy import CLEARING_S, LIMIT_OVERRUN, OBSERVED_S, PREPARING_S, STARTING_S
from supervisor.core.queue import next_start_at
from supervisor.core.turn import Turn

MAX_LAUNCHES = 3
OVERDUE_S = 60.0  # no loop is so late: the machine was suspended
ROUNDING_S = 0.001  # a deadline that comes a rounding error early has come


def next_at(world: World, now: float) -> float | None:
    """Wall time at which `step` has something to do without any event, or None."""
    times = [run.deadline_at for run in world.live.values() if run.deadline_at is not None]
    start_at = next_start_at(world, now)
    others = (start_at, quarantine.next_at(world, now), targets.next_at(world, now))
    times += [at for at in others if at is not None]
    times += [at for at in restoring.next_at(world) if at > now]
    return min(times) if times else None


def due(turn: Turn, only: str = "") -> None:
    """Carry out every deadline that has come, or only that of one run."""
    for run in tuple(turn.world.live.values()):
        if only in {"", run.id} and run.deadline_at is not None and run.deadline_at <= turn.now:
            BY_PHASE[run.phase](turn, run)


def preparing(turn: Turn, run: Run) -> None:
    """Preparing takes very long: say so, and go on waiting; the disk may be slow, and nothing runs yet."""
    text = f"preparing attempt {run.attempts} takes longer than {PREPARING_S / 60:.0f} minutes"
    if text not in run.reason:
        turn.announce(run, "slow", "notice", f"{run.name}: slow start", f"{text}; is the disk of the run reachable?")
    turn.move(run, Phase.PREPARING, text, within_s=PREPARING_S)


def starting(turn: Turn, run: Run) -> None:
    """The start was not confirmed: order it again, for an attempt launches at most once; then ask a person."""
    attempt = run.attempt
    if run.stop is not None:  # carried out when it is known whether something runs; nothing more is started
        turn.move(run, Phase.STARTING, run.reason, within_s=STARTING_S)
    elif attempt is not None and attempt.launches < MAX_LAUNCHES:
        launching.launch(turn, run, run.reason)
    else:
        endings.hold(turn, run, "it could not be learnt whether the training was started")


def running(turn: Turn, run: Run) -> None:
    """Over its time limit, or not seen for long. Not to be seen is no failure: nothing is killed for that."""
    limit_s = run.job.time_limit_s
    started_at = run.attempt.started_at if run.attempt is not None else None
    if limit_s is not None and started_at is not None and turn.now + ROUNDING_S >= started_at + limit_s - run.used_s:
        reason = f"time limit of {limit_s:.0f} s reached"
        order = StopOrder(how="save", then=Phase.HELD, by="the time limit", reason=reason, limit=True)
        orders.stop(turn, replace(run, wanted=Wanted.HELD), order)
        held_up = turn.world.live.get(run.id)
        if held_up is not None and held_up.stop is not None and held_up.stop.how == "save":
            turn.put(replace(held_up, deadline_at=turn.now + max(60.0, LIMIT_OVERRUN * limit_s)))
        return
    _unseen(turn, run)


def _unseen(turn: Turn, run: Run) -> None:
    text = f"its processes could not be observed for {OBSERVED_S / 60:.0f} minutes; nothing is done about that"
    turn.announce(run, "unseen", "notice", f"{run.name} cannot be observed", text)
    within_s = launching.running_within_s(turn, run) if run.phase is Phase.RUNNING else OBSERVED_S
    turn.move(run, run.phase, run.reason, within_s=within_s)


def stopping(turn: Turn, run: Run) -> None:
    """The grace is over: the whole tree is ended. A stop that waits for a saved epoch has no grace but a limit's."""
    order = run.stop
    if order is None:
        turn.move(run, Phase.RUNNING, run.reason, within_s=OBSERVED_S)
    elif order.how == "save" and not order.limit:
        _unseen(turn, run)
    elif order.how == "autopsy" and run.deadline_at is not None and turn.now - run.deadline_at > OVERDUE_S:
        hangs.moving(turn, run)  # the machine slept: a hang is proven anew
    elif order.how in {"save", "autopsy"}:
        orders.term(turn, run, order)
    elif order.how == "term" and order.hung:
        orders.abort(turn, run, order)
    else:
        orders.kill(turn, run, replace(order, reason=order.reason.partition(": ")[0]))
        _tell_unkillable(turn, run)


def _tell_unkillable(turn: Turn, run: Run) -> None:
    if run.attempt is not None and run.attempt.pid and run.attempt.kills == 5 and not run.attempt.watched:
        text = "Processes of this attempt do not end, even by SIGKILL: they hang in the kernel (state D)."
        todo = f"look at `ps -o pid,stat,wchan:32,args -g {run.attempt.shim_pid}`; a reboot may be needed"
        turn.announce(run, "unkillable", "page", f"{run.name} cannot be ended", text, todo=todo)


def cooling(turn: Turn, run: Run) -> None:
    """The backoff is over; or the attempt has still not been cleared or read."""
    attempt = run.attempt
    if attempt is None or attempt.over:
        endings.queue_again(turn, run, run.reason)
    elif attempt.cleared:
        run_machine.examine(turn, run)
    else:
        text = "processes of the last attempt are still there; nothing new is started before they are gone"
        if text not in run.reason:
            turn.announce(run, "haunted", "notice", f"{run.name}: leftovers", text)
        run = turn.move(run, Phase.COOLING, text, within_s=CLEARING_S)
        orders.terminate(turn, run, "kill")


BY_PHASE = {
    Phase.PREPARING: preparing,
    Phase.STARTING: starting,
    Phase.RUNNING: running,
    Phase.STOPPING: stopping,
    Phase.COOLING: cooling,
}
