"""What follows the end of an attempt, and the terminal phases."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import divergence, events, incidents, messages, recovery, stages
from supervisor.core.actions import MarkFile
from supervisor.core.diagnosis.diagnose import INTERRUPTS, diagnose
from supervisor.core.diagnosis.evidence import Incident
from supervisor.core.diagnosis.tables import WAITS
from supervisor.core.gpus import passport
from supervisor.core.model import Phase, Run, StopOrder, World
from supervisor.core.policy import (
    AFTER_BOOT_S,
    CLEARING_S,
    INTERRUPTIONS,
    STOPPED_FROM_OUTSIDE,
    WAITING_S,
    backoff_s,
)
from supervisor.core.turn import Turn

MAY_BE_A_MOUNT = frozenset({65, 66, 76})  # runner exit codes (contract), for some minutes after a boot


def conclude(turn: Turn, run: Run, event: events.Examined) -> None:
    """Everything about the end of the attempt is known: decide what the run does next."""
    run = incidents.progressed(_with_findings(run, event), turn.now)
    turn.world = passport.ended(turn.world, run)
    attempt, order = run.attempt, run.stop
    if attempt is None:
        return
    how = event.reason or messages.ending(attempt)
    if event.finished:
        run = recovery.hung_before_its_end(turn, run, event) if order is not None and order.hung else run
        finish(turn, run, Phase.SUCCEEDED, f"{event.proof}{divergence.words(run)}")
    elif order is not None and not _is_ours(order):
        run = recovery.hung_before_its_end(turn, run, event) if order.hung else run
        after_stop(turn, _with_progress(run), f"{order.reason}: {how}")
    elif event.unknown:
        hold(turn, run, f"it could not be learnt how the attempt ended: {how}", event.log_tail)
    elif event.result == "detached":
        queue_again(turn, run, f"{how}; nothing was ordered, so it is watched again")
    elif attempt.boot != turn.world.boot:
        recovery.after_reboot(turn, run, event)
    elif run.job.train is not None and attempt.code in MAY_BE_A_MOUNT and just_booted(turn.world, turn.now):
        pause(turn, run, f"{how}; a file system may not be mounted yet", "mount")
    elif run.job.train is not None and attempt.code == STOPPED_FROM_OUTSIDE and _is_interrupted(run, event):
        _interrupted(turn, run, how)
    else:
        recovery.after_death(turn, run, event, how)


def _with_progress(run: Run) -> Run:
    """The run after a stop that somebody ordered: an epoch saved before it counts for the failures before that."""
    saved = run.progress.saved_epoch
    if saved <= run.failed_at_epoch:
        return run
    return replace(run, failures=0, spent={}, last_failure="", failed_at_epoch=saved)


def _is_ours(order: StopOrder) -> bool:
    """True if nobody asked for the end: it hung."""
    return bool(order.cause) and order.then is Phase.QUEUED


def _is_interrupted(run: Run, event: events.Examined) -> bool:
    """True if it only did what somebody asked. A rank that dies has the launcher ask the others to end: no stop."""
    if run.stop is not None or diagnose(run, event).cause.name not in INTERRUPTS:  # with a stop: it hung
        return False
    saved_some = run.progress.saved_epoch > run.failed_at_epoch
    return run.interruptions < INTERRUPTIONS or saved_some or stages.reached(run) is not None


def _interrupted(turn: Turn, run: Run, how: str) -> None:
    """The trainer left because a stage begins, or because somebody else asked it to end. Neither is a failure.

    In the second case the wait grows while no epoch gets done.
    """
    saved, stage = run.progress.saved_epoch, stages.reached(run)
    if stage is not None:
        queue_again(turn, run, stages.words(stage))
        return
    count = 1 if saved > run.failed_at_epoch else run.interruptions + 1
    if saved > run.failed_at_epoch:  # that counts for the failures before it as well
        run = replace(run, failures=0, spent={}, last_failure="")
    run = replace(run, interruptions=count, failed_at_epoch=max(saved, run.failed_at_epoch))
    delay_s = backoff_s(run.job.restart, count, run.id, run.attempts)
    cool(turn, run, f"stopped from outside, resumable ({how}); goes on in {delay_s:.0f} s", delay_s)


def just_booted(world: World, now: float) -> bool:
    """True while mounts, driver and clock may still be coming."""
    return bool(world.booted_at) and now - world.booted_at < AFTER_BOOT_S


def pause(turn: Turn, run: Run, reason: str, waiting_for: str) -> None:
    """Wait for the machine; told once. Nothing ran, so that no attempt is used up."""
    seen = waiting_for.partition(":")[0] in WAITS and waiting_for != "mount"  # somebody looks whether it is back
    run = turn.move(run, Phase.COOLING, reason, within_s=WAITING_S if seen else CLEARING_S, waiting_for=waiting_for)
    tell_waiting(turn, run, reason)


def tell_waiting(turn: Turn, run: Run, reason: str, incident: Incident | None = None) -> None:
    """Say what a run waits for, once; `incident`: because of that."""
    if run.told_waiting != run.waiting_for:
        messages.waits(turn, run, reason, incident)
    turn.put(replace(run, told_waiting=run.waiting_for))


def _with_findings(run: Run, event: events.Examined) -> Run:
    """The run with what the examination found; an examination may know of epochs that no heartbeat told."""
    attempt = run.attempt
    progress = replace(
        run.progress,
        saved_epoch=max(run.progress.saved_epoch, event.saved_epoch),
        epoch=max(run.progress.epoch, event.saved_epoch),
        epochs=event.epochs or run.progress.epochs,
        metrics=event.metrics or run.progress.metrics,
    )
    used_s = run.used_s
    if attempt is not None and attempt.started_at and attempt.ended_at:
        used_s += max(0.0, attempt.ended_at - attempt.started_at)
    attempt = None if attempt is None else replace(attempt, examined=True)
    return replace(run, attempt=attempt, progress=progress, used_s=used_s)


def cool(turn: Turn, run: Run, reason: str, delay_s: float) -> Run:
    """Wait out a backoff."""
    return turn.move(run, Phase.COOLING, reason, within_s=delay_s)


def queue_again(turn: Turn, run: Run, reason: str) -> Run:
    """Back to the queue, without a wait."""
    return turn.move(run, Phase.QUEUED, reason, waiting_for="slot", stop=None)


def hold(
    turn: Turn,
    run: Run,
    reason: str,
    tail: tuple[str, ...] = (),
    *,
    by_person: bool = False,
    incident: Incident | None = None,
) -> None:
    """Wait for a person; `incident`: because of that."""
    run = turn.move(run, Phase.HELD, reason, stop=None)
    messages.held(turn, run, tail, by_person=by_person, incident=incident)


def after_stop(turn: Turn, run: Run, reason: str) -> None:
    """The phase that the stop order asked for."""
    order = run.stop
    if order is None or order.then is Phase.QUEUED:
        queue_again(turn, run, reason)
    elif order.then is Phase.CANCELLED:
        finish(turn, run, Phase.CANCELLED, reason)
    else:
        hold(turn, run, reason, by_person=not order.limit)


def finish(
    turn: Turn,
    run: Run,
    phase: Phase,
    reason: str,
    tail: tuple[str, ...] = (),
    *,
    incident: Incident | None = None,
) -> None:
    """Enter a terminal phase: it is never left, its job file moves to done/, and it is told once."""
    outcome = {Phase.SUCCEEDED: "the run succeeded", Phase.FAILED: "the run was given up"}.get(phase, "cancelled")
    run = incidents.ended(turn.move(run, phase, reason, stop=None), outcome, turn.now)
    turn.put(run)
    job = run.next_job or run.job  # an edit that no attempt took: it is of this run all the same
    if job.file:
        turn.act(MarkFile(key=f"{run.id}/mark-done", run=run.id, path=job.file, what="done", revision=job.revision))
    if phase is Phase.SUCCEEDED:
        messages.succeeded(turn, run)
    elif phase is Phase.FAILED:
        messages.failed(turn, run, tail, incident)
    else:
        messages.cancelled(turn, run)
