"""When a run's own files are gone or corrupt, and a backup knows more: fetched by itself, and said."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.actions import Restore
from supervisor.core.backups import notices
from supervisor.core.model import Run, World
from supervisor.core.turn import Turn


def better(world: World, run: Run, event: events.Prepared) -> str:
    """The target from which a restore would save epochs; empty if none would.

    Not for a run that a person took back to an older epoch, nor for one that must not use its newest checkpoints: what
    lies in the backup is just these.
    """
    goes_back = run.goal is not None and run.goal.kind == "rewind"
    if run.stop is not None or goes_back or run.distrust_from or run.set_aside:
        return ""
    if event.start not in {"fresh", "resume"} and not event.lacking:
        return ""
    known = [
        (backed.epoch, backed.at, name)
        for name, backed in run.backups.items()
        if name in world.targets and name not in run.restored_from and backed.epoch > event.from_epoch
    ]
    return max(known)[2] if known else ""


def order(turn: Turn, run: Run, target: str, event: events.Prepared) -> Run:
    """Fetch it; until then the run waits in the queue."""
    attempt = run.attempt
    if attempt is None:
        return run
    key = f"{run.id}/{attempt.number}/restore-{attempt.token}"
    turn.act(
        Restore(
            key=key,
            run=run.id,
            target=target,
            job=run.job,
            token=attempt.token,
            attempt=attempt.number,
            beyond=event.from_epoch,
        )
    )
    return turn.put(replace(run, restoring=target, restored_from=(*run.restored_from, target)))


def restored(turn: Turn, event: events.Restored) -> None:
    """The run goes on, with what came or without."""
    run = turn.world.live.get(event.run)
    if run is None or run.restoring != event.target:
        return
    if event.ok:
        reason = f"epoch {event.epoch} was fetched from backup target {event.target}"
        notices.restored(turn, run, event)
    else:
        reason = f"backup target {event.target} was of no help: {event.text}"
    run = replace(run, restoring="", reason=f"{run.reason}; {reason}")
    if event.ok and event.epoch > run.progress.saved_epoch:
        run = replace(run, progress=replace(run.progress, saved_epoch=event.epoch))
    turn.put(run)


def state_restored(turn: Turn, event: events.StateRestored) -> None:
    """The journal is older than the run directories: no token and no attempt folder is used again."""
    world = replace(turn.world, next_token=max(turn.world.next_token, event.token + 1))
    if event.moved:
        gpus = {key: replace(gpu, present=False, findings={}, signs=()) for key, gpu in world.gpus.items()}
        world = replace(world, gpus=gpus)
    turn.world = world
    for run_id, attempts in event.attempts.items():
        run = turn.world.live.get(run_id)
        if run is not None and attempts > run.attempts:
            turn.put(replace(run, attempts=attempts))
    names = ", ".join(run.name for run in turn.world.live.values() if run.attempts)
    text = f"{len(turn.world.live)} runs came back{f': {names}' if names else ''}. They go on from their checkpoints."
    turn.announce(None, "state-restored", "notice", f"Restored from backup target {event.target}", text)
