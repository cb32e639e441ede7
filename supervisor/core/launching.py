"""An attempt on its way up: where it starts, its launch, and what becomes of one that could not be made."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import endings, events, incidents, messages, orders, recovery
from supervisor.core.actions import Launch
from supervisor.core.backups import restoring
from supervisor.core.gpus import health, passport
from supervisor.core.model import Attempt, Phase, Run
from supervisor.core.policy import FALL_BACKS, OBSERVED_S, STARTING_S
from supervisor.core.turn import Turn


def prepared(turn: Turn, run: Run, event: events.Prepared) -> None:
    """The start is chosen: launch, unless nothing is left to do, a person must look, or a stop came first."""
    attempt, before = run.attempt, run
    if attempt is None:
        return
    notes = "; ".join(event.notes)
    attempt = replace(
        attempt,
        start=event.start,
        checkpoint=event.checkpoint,
        from_epoch=event.from_epoch,
        epochs_override=event.epochs_override,
    )
    still_aside = run.set_aside and event.start == "refused"
    lost = run.progress.saved_epoch - event.from_epoch if event.start == "resume" else 0
    if lost > 0:
        notes = "; ".join((f"{lost} saved epochs are lost", *event.notes))
    run = replace(
        restoring.without_distrusted(_behind(run, event), event),
        attempt=attempt,
        set_aside=still_aside,
        kept_epoch=event.kept_epoch or run.kept_epoch,
        differences=event.differences,
        distrust_from=0 if event.start != "refused" else run.distrust_from,
    )
    if event.start not in {"finished", "refused", "watch"} and run.job.gpus and not attempt.gpu_ids and not run.stop:
        # it was to be watched only, and is over: what follows needs GPUs of its own
        endings.queue_again(turn, _without_attempt(run), f"{start_words(event)}; it needs {run.job.gpus} GPUs now")
    elif event.start == "finished":
        endings.finish(turn, run, Phase.SUCCEEDED, event.reason)
    elif run.stop is not None:
        endings.after_stop(turn, run, f"{run.stop.reason} before the training started")
    elif (target := restoring.better(turn.world, before, event)) and not (
        event.lacking and endings.just_booted(turn.world, turn.now)
    ):
        reason = f"{event.reason or start_words(event)}; a backup knows more"
        _give_back(turn, restoring.order(turn, run, target, event), reason)
    elif event.start == "refused" and endings.just_booted(turn.world, turn.now):
        _back_out(turn, run, f"{event.reason}; a file system may not be mounted yet", "mount")
    elif event.start == "refused":
        endings.hold(turn, run, event.reason)
    else:
        launch(turn, run, f"{start_words(event)}{'; ' + notes if notes else ''}")


def _behind(run: Run, event: events.Prepared) -> Run:
    """What is resumed is saved. From an older checkpoint epochs are saved anew: a stop must not wait beyond them.

    They are progress once more, but not for ever: a save may be torn each time.
    """
    saved, epoch = run.progress.saved_epoch, event.from_epoch
    if event.start == "resume" and epoch > saved:
        begun_by_others = saved == 0 and (run.job.start_from is not None or bool(run.job.adopt))
        since = epoch if begun_by_others else run.failed_at_epoch
        return replace(run, progress=replace(run.progress, saved_epoch=epoch), failed_at_epoch=since)
    if event.start != "resume" or not 0 < epoch < saved:
        return run
    count = run.fall_backs if saved <= run.peak_epoch else 0
    run = incidents.fell_back(run, saved - epoch)
    run = replace(run, progress=replace(run.progress, saved_epoch=epoch))
    if count >= FALL_BACKS:
        return run
    return replace(
        run,
        failed_at_epoch=min(epoch, run.failed_at_epoch),
        fall_backs=count + 1,
        peak_epoch=max(saved, run.peak_epoch),
    )


def start_words(event: events.Prepared) -> str:
    """Where an attempt starts, for a person."""
    if event.start == "resume":
        return f"resumes after epoch {event.from_epoch} from {event.checkpoint}"
    if event.start == "finish":
        return "all epochs are done: only the trainer's own ending is repeated"
    if event.start == "watch":
        return "the training that a person started still runs: it is watched, and resumed when it has died"
    if event.checkpoint:
        return f"starts a new training with the weights in {event.checkpoint}"
    return "starts from the beginning: no checkpoint is there"


def launch(turn: Turn, run: Run, reason: str) -> None:
    """Start the shim. A launch that was not confirmed is ordered again: an attempt directory launches at most once."""
    attempt = run.attempt
    if attempt is None:
        return
    attempt = replace(attempt, launches=attempt.launches + 1)
    turn.move(run, Phase.STARTING, reason, within_s=STARTING_S, attempt=attempt)
    turn.act(
        Launch(
            key=f"{run.id}/{attempt.number}/launch-{attempt.launches}",
            run=run.id,
            attempt=attempt.number,
            token=attempt.token,
            job=run.job,
            gpus=attempt.gpus,
            start=attempt.start,
            checkpoint=attempt.checkpoint,
            from_epoch=attempt.from_epoch,
            epochs_override=attempt.epochs_override,
            gpu_ids=attempt.gpu_ids,
            changes={one.name: one.after for one in run.changes},
        ),
    )


def prepare_failed(turn: Turn, run: Run, event: events.PrepareFailed) -> None:
    """Nothing was started, and not for a fault of the training: wait, if waiting helps, else ask a person."""
    if run.stop is not None:
        endings.after_stop(turn, _without_attempt(run), run.stop.reason)
    elif event.waiting_for.partition(":")[0] == "GPU":
        health.busy(turn, event.busy)
        _give_back(turn, run, event.reason)
    elif event.waiting_for:
        _back_out(turn, run, event.reason, event.waiting_for)
    elif event.cause and endings.just_booted(turn.world, turn.now):
        _back_out(turn, run, f"{event.reason}; a file system may not be mounted yet", "mount")
    elif event.cause:
        recovery.after_failed_preparation(turn, _without_attempt(run), event)
    else:
        endings.hold(turn, _without_attempt(run), f"attempt {event.attempt} could not be prepared: {event.reason}")


def _back_out(turn: Turn, run: Run, reason: str, waiting_for: str) -> None:
    """Wait for the machine; the attempt's number is given again."""
    endings.pause(turn, replace(_without_attempt(run), attempts=run.attempts - 1), reason, waiting_for)


def _give_back(turn: Turn, run: Run, reason: str) -> None:
    """Queue for other GPUs, or for these when they are free; the attempt's number is given again."""
    endings.queue_again(turn, replace(_without_attempt(run), attempts=run.attempts - 1), reason)


def _without_attempt(run: Run) -> Run:
    attempt = run.attempt
    return run if attempt is None else replace(run, attempt=replace(attempt, cleared=True, examined=True))


def launched(turn: Turn, run: Run, event: events.Launched) -> None:
    """The trainer runs."""
    if run.attempt is None:
        return
    attempt = replace(run.attempt, pid=event.pid, shim_pid=event.shim_pid, boot=event.boot, started_at=event.started_at)
    order = run.stop
    clear = restoring.began(replace(run, told_waiting="", accepted="", stalled="", stalled_todo=""))
    run = incidents.relaunched(clear, turn.now)
    run = turn.move(run, Phase.RUNNING, run.reason, within_s=running_within_s(turn, run), attempt=attempt)
    turn.world = passport.began(turn.world, run)
    messages.launched(turn, run)
    if order is not None:
        orders.stop(turn, run, order if order.how == "kill" else replace(order, how="term"))


def running_within_s(turn: Turn, run: Run) -> float:
    """Seconds until a running attempt must be looked at: seen alive by then, or over its time limit."""
    limit_s = run.job.time_limit_s
    if limit_s is None:
        return OBSERVED_S
    started_at = run.attempt.started_at if run.attempt is not None and run.attempt.started_at else turn.now
    return min(OBSERVED_S, max(1.0, started_at + limit_s - run.used_s - turn.now))


def noted_launch(turn: Turn, run: Run, event: events.Launched) -> None:
    """Late news of a start: who it is and in which boot counts all the same."""
    attempt = run.attempt
    if attempt is not None and not attempt.pid:
        noted = replace(attempt, pid=event.pid, shim_pid=event.shim_pid, boot=event.boot, started_at=event.started_at)
        turn.put(replace(run, attempt=noted))


def launch_failed(turn: Turn, run: Run, event: events.LaunchFailed) -> None:
    """No process was started: that is the end of the attempt, once no other order for it can start one any more."""
    attempt = run.attempt
    if attempt is None or attempt.pid:
        return
    refused = {*attempt.refused_launches, event.answers}
    if event.answers and not _launch_keys(run.id, attempt) <= refused:
        turn.put(replace(run, attempt=replace(attempt, refused_launches=tuple(sorted(refused)))))
        return
    run = replace(run, attempt=replace(attempt, launches=0, cleared=True, examined=True))
    if run.phase is Phase.HELD:
        turn.put(run)
    elif run.stop is not None:
        endings.after_stop(turn, run, run.stop.reason)
    elif event.waiting_for:
        _back_out(turn, run, f"could not be launched: {event.reason}", event.waiting_for)
    else:
        recovery.after_failed_launch(turn, run, event.reason)


def _launch_keys(run_id: str, attempt: Attempt) -> set[str]:
    return {f"{run_id}/{attempt.number}/launch-{count}" for count in range(1, attempt.launches + 1)}
