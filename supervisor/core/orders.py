"""What people order, and what deadlines bring: stop, resume, cancel, retry, priority, drain."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.actions import Terminate
from supervisor.core.backups.model import Backed
from supervisor.core.disk_spots import BY
from supervisor.core.endings import after_stop, queue_again
from supervisor.core.model import Goal, Job, Phase, Progress, Run, StopOrder, Wanted
from supervisor.core.policy import ABORT_S, CLEARING_S, FINAL_S, KILL_AGAIN_S, OBSERVED_S
from supervisor.core.queue import waits_for
from supervisor.core.turn import Turn

DETECTOR = "the hang detector"


def order_stop(turn: Turn, run: Run, event: events.StopAsked) -> None:
    """`stop NAME`: hold at the next saved epoch, or at once."""
    order = StopOrder(
        how="kill" if event.at_once else "save", then=Phase.HELD, by=event.by, reason=f"stopped by {event.by}"
    )
    stop(turn, replace(run, wanted=Wanted.HELD), order)


def order_cancel(turn: Turn, run: Run, event: events.CancelAsked) -> None:
    """`cancel NAME`: end for good. The trainer is asked to end, or its whole tree is killed at once."""
    how = "kill" if event.at_once else "term"
    order = StopOrder(how=how, then=Phase.CANCELLED, by=event.by, reason=f"cancelled by {event.by}")
    stop(turn, replace(run, wanted=Wanted.DOWN), order)


def stop(turn: Turn, run: Run, order: StopOrder) -> None:
    """Carry out a stop order in whatever phase the run is."""
    order = _with_cause(run, order)
    at_rest = run.phase in {Phase.QUEUED, Phase.HELD} and not run.busy
    if at_rest or (run.phase is Phase.COOLING and run.attempt is not None and run.attempt.over):
        after_stop(turn, replace(run, stop=order), order.reason)
    elif run.phase is Phase.HELD and run.attempt is not None and run.attempt.ended_at is not None:
        _clear_away(turn, run, order)
    elif run.phase is Phase.HELD:
        kill(turn, run, order)  # a held run whose training still lives: see endings.hold
    elif run.phase is Phase.STOPPING and run.stop is not None and _weaker(order, run.stop):
        turn.put(replace(run, stop=replace(order, how=run.stop.how, limit=run.stop.limit)))
    elif run.phase is Phase.PREPARING:
        # Nothing runs. The next attempt's fence token disarms a preparation that is still under way.
        attempt = None if run.attempt is None else replace(run.attempt, cleared=True, examined=True)
        after_stop(turn, replace(run, stop=order, attempt=attempt), f"{order.reason} before the training started")
    elif run.phase in {Phase.STARTING, Phase.COOLING}:
        turn.put(replace(run, stop=order, reason=f"{run.reason}; {order.reason}"))
    elif order.how == "save":
        _at_next_save(turn, run, order)
    elif order.how == "term":
        term(turn, run, order)
    else:
        kill(turn, run, order)


def _with_cause(run: Run, order: StopOrder) -> StopOrder:
    """The order for an attempt that may be hanging: that is not forgotten, whoever wants its end too."""
    now = run.stop
    if now is None or not now.cause or order.cause:
        return order
    return replace(order, cause=now.cause, seen=now.seen, seen_at=now.seen_at, of_gpu=now.of_gpu)


def _taken_back(run: Run) -> StopOrder | None:
    """What is left of a stop that a person took back: an attempt that hangs is ended all the same, and goes on then."""
    order = run.stop
    if order is None or not order.cause:
        return None
    return replace(order, then=Phase.QUEUED, by=order.by if order.of_gpu else DETECTOR, reason=order.seen, limit=False)


def _at_next_save(turn: Turn, run: Run, order: StopOrder) -> None:
    """Wait for the next saved epoch, where one will be seen and where the training is ours to end then."""
    if run.attempt is not None and run.attempt.watched:
        _let_go(turn, run, order)
    elif not can_save(run):
        reason = f"{order.reason} (this trainer tells of no checkpoint, so it was asked to end at once)"
        term(turn, run, replace(order, reason=reason))
    else:
        reason = f"{order.reason}: ends when the next epoch is saved"
        turn.move(run, Phase.STOPPING, reason, within_s=OBSERVED_S, stop=order)


def _weaker(order: StopOrder, current: StopOrder) -> bool:
    """True if the order would only delay what is under way: it then changes what follows, not how it ends."""
    strength = ("save", "autopsy", "term", "abort", "kill")
    return order.how != "kill" and strength.index(order.how) <= strength.index(current.how)


def _clear_away(turn: Turn, run: Run, order: StopOrder) -> None:
    """End a held run whose training is gone, but not all of its processes: the order waits for these only."""
    reason = f"{order.reason}: waits until nothing of the last attempt is left"
    run = turn.move(run, Phase.COOLING, reason, within_s=CLEARING_S, stop=order)
    terminate(turn, run, "kill")


def can_save(run: Run) -> bool:
    """True if a safe point will be seen: our runner tells of each save, other trainers show it in their files."""
    return run.job.train is not None or bool(run.job.checkpoint_files)


def _let_go(turn: Turn, run: Run, order: StopOrder) -> None:
    """End the watching of a person's training, whatever was ordered: the training itself is not ours to end."""
    reason = f"{order.reason}: your training goes on; it is only not watched any more"
    order = replace(order, how="kill" if order.how == "kill" else "term")
    run = turn.move(run, Phase.STOPPING, reason, within_s=KILL_AGAIN_S, stop=order)
    terminate(turn, run, order.how)


def term(turn: Turn, run: Run, order: StopOrder) -> None:
    """Ask the trainer to end; what is left after the grace is killed. All epochs done, it may finish its last work."""
    if run.attempt is not None and run.attempt.watched:
        _let_go(turn, run, order)
        return
    done = 0 < run.progress.epochs <= run.progress.saved_epoch and not order.cause
    grace_s = max(turn.world.policy.stop_grace_s, FINAL_S if done else 0.0)
    reason = f"{order.reason}: asked to end, {grace_s:.0f} s grace"
    run = turn.move(run, Phase.STOPPING, reason, within_s=grace_s, stop=replace(order, how="term"))
    terminate(turn, run, "term")


def abort(turn: Turn, run: Run, order: StopOrder) -> None:
    """A hanging trainer took no notice of being asked: let it leave its stacks in the log before it is killed."""
    reason = f"{order.reason}: it did not end when asked, SIGABRT"
    run = turn.move(run, Phase.STOPPING, reason, within_s=ABORT_S, stop=replace(order, how="abort"))
    terminate(turn, run, "abort")


def kill(turn: Turn, run: Run, order: StopOrder) -> None:
    """End the whole tree of the attempt; again and again until nothing is left."""
    if run.attempt is not None and run.attempt.watched:
        _let_go(turn, run, order)
        return
    reason = f"{order.reason}: every process of the attempt is being killed"
    run = turn.move(run, Phase.STOPPING, reason, within_s=KILL_AGAIN_S, stop=replace(order, how="kill"))
    terminate(turn, run, "kill")


def terminate(turn: Turn, run: Run, how: str) -> None:
    """Order a signal: term and abort for the trainer, kill for everything that belongs to the attempt."""
    attempt = run.attempt
    if attempt is None:
        return
    turn.put(replace(run, attempt=replace(attempt, kills=attempt.kills + 1)))
    key = f"{run.id}/{attempt.number}/{how}-{attempt.kills + 1}"
    job = run.job
    turn.act(
        Terminate(key=key, run=run.id, attempt=attempt.number, how=how, project=job.project, name=job.name),
    )


def order_resume(turn: Turn, run: Run, event: events.ResumeAsked) -> None:
    """`resume NAME`: a held run goes on; a stop that has not happened yet is taken back."""
    accepted = run.differences if event.accept else ""
    left = _taken_back(run)
    run = replace(run, wanted=Wanted.UP, failures=0, interruptions=0, stop=left, accepted=accepted)
    run = replace(run, restored_from=())
    run = replace(run, spent={}, last_failure="")  # a person has looked: what may be tried may be tried again
    attempt = run.attempt
    if left is not None:
        turn.put(replace(run, reason=f"{left.reason}: it is ended, and goes on then, as {event.by} asked"))
    elif run.phase is Phase.STOPPING:
        turn.move(run, Phase.RUNNING, f"{event.by} took the stop back", within_s=OBSERVED_S)
    elif attempt is not None and attempt.launches and attempt.ended_at is None:
        turn.move(run, Phase.RUNNING, f"resumed by {event.by}: its training was still running", within_s=OBSERVED_S)
    elif attempt is not None and attempt.launches and not attempt.over:
        # What it left is read first, at once if nothing of it lives: it may have finished while it was held.
        turn.move(
            run,
            Phase.COOLING,
            f"resumed by {event.by}: waits for the last attempt to be gone",
            within_s=0.0 if attempt.cleared else KILL_AGAIN_S,
        )
    else:
        run = queue_again(turn, run, f"resumed by {event.by}")
        turn.put(replace(run, waiting_for=waits_for(turn.world, run, turn.now) or "slot"))


def take_back(turn: Turn, run: Run, event: events.ResumeAsked) -> None:
    """`resume NAME` while a stop is still to come: the run goes on as if nobody had asked for it."""
    if run.stop is not None and run.stop.then is not Phase.CANCELLED:
        turn.put(replace(run, wanted=Wanted.UP, stop=_taken_back(run), reason=f"{event.by} took the stop back"))


def order_retry(turn: Turn, run: Run, event: events.RetryAsked) -> None:
    """`retry NAME`: a new run of an ended one, on the same directory and its checkpoints."""
    newest = turn.world.named(run.name)
    if newest is None or newest.id != run.id:
        return
    job = replace(run.next_job or run.job, file="")  # an edit that no attempt took counts now
    new = open_run(turn, job, f"retried by {event.by}", predecessor=run, set_aside=run.set_aside)
    turn.put(replace(new, goal=_still_to_do(run)))


def _still_to_do(run: Run) -> Goal | None:
    """The goal that an ended run did not reach: its successor's. A rewind is over with the first start after it."""
    began = run.attempt is not None and run.attempt.start not in {"", "refused"}
    over = began if run.goal is not None and run.goal.kind == "rewind" else run.phase is Phase.SUCCEEDED
    return None if over else run.goal


def open_run(turn: Turn, job: Job, reason: str, *, predecessor: Run | None, set_aside: bool = False) -> Run:
    """A new run in the queue. It goes on counting the attempts of its predecessor, whose directory it shares."""
    count = 1 if predecessor is None else int(predecessor.id.rpartition("@")[2]) + 1
    progress = predecessor.progress if predecessor is not None and not set_aside else Progress()
    run = Run(
        id=f"{job.name}@{count}",
        job=job,
        phase=Phase.QUEUED,
        reason=reason,
        priority=job.priority,
        created_at=turn.now,
        phase_since=turn.now,
        attempts=predecessor.attempts if predecessor is not None else 0,
        progress=progress,
        failed_at_epoch=progress.saved_epoch,
        predecessor=predecessor.id if predecessor is not None else "",
        set_aside=set_aside,
        backups=_known_backups(predecessor) if predecessor is not None and not set_aside else {},
    )
    turn.world = replace(turn.world, latest={**turn.world.latest, job.name: run.id})
    return turn.put(replace(run, waiting_for=waits_for(turn.world, run, turn.now) or "slot"))


def _known_backups(run: Run) -> dict[str, Backed]:
    """What of its directory lies elsewhere; the new run's end is still to come."""
    return {name: replace(one, ended=False, gone=False) for name, one in run.backups.items() if one.snapshot}


def order_undo(turn: Turn, run: Run, event: events.UndoAsked) -> None:
    """`resume NAME --undo-changes`: the next attempt runs as the job file says."""
    if run.changes or run.avoided_gpus:
        turn.put(
            replace(
                run, changes=(), avoided_gpus=(), spent={}, reason=f"{run.reason}; {event.by} took the changes back"
            )
        )


def order_priority(turn: Turn, run: Run, event: events.PriorityAsked) -> None:
    """`priority NAME N`: counts when places are given; running runs keep theirs."""
    turn.put(replace(run, priority=event.priority))


def drain(turn: Turn, event: events.DrainAsked) -> None:
    """`drain`: every training ends at its next saved epoch (or at once, asked nicely) and none starts."""
    turn.world = replace(turn.world, draining=not event.off)
    for run in tuple(turn.world.live.values()):
        if event.off:
            undrain(turn, run, event.by)
        elif run.phase in {Phase.PREPARING, Phase.STARTING, Phase.RUNNING} or (
            run.phase is Phase.STOPPING and event.at_once
        ):
            then = run.stop.then if run.stop is not None else Phase.QUEUED
            order = StopOrder(
                how="term" if event.at_once else "save",
                then=then,
                by=event.by,
                reason=f"drained by {event.by}",
            )
            stop(turn, run, order)


def undrain(turn: Turn, run: Run, by: str, reason: str = "") -> None:
    """Take the order of a drain or of a full disk back that has not been carried out yet; `reason`: in other words."""
    order = run.stop
    if order is None or order.then is not Phase.QUEUED or order.how != "save" or BY in {order.by} - {by}:
        return
    if run.phase is Phase.STOPPING:
        reason = reason or f"{by} took the drain back"
        turn.move(replace(run, stop=None), Phase.RUNNING, reason, within_s=OBSERVED_S)
    else:
        turn.put(replace(run, stop=_taken_back(run)))
