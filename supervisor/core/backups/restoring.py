"""When a run's own files are gone or corrupt, and a backup knows more: fetched by itself, and said."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import endings, events
from supervisor.core.actions import Restore
from supervisor.core.backups import causes, notices, outcomes, targets
from supervisor.core.backups.model import Backed, Target
from supervisor.core.model import Phase, Run, World
from supervisor.core.turn import Turn

UP = frozenset({Phase.PREPARING, Phase.STARTING})


# ---- when
def better(world: World, run: Run, event: events.Prepared) -> str:
    """The target from which a restore would save epochs; empty if none would. `run`: as it was before the answer.

    Not for a run that takes the place of another training, nor for one that a person takes back to an older epoch, nor
    for one that must not use its newest checkpoints: what lies in the backup is just these.
    """
    goes_back = run.goal is not None and run.goal.kind == "rewind" and not run.began
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


def without_distrusted(run: Run, event: events.Prepared) -> Run:
    """The run goes on from before the epochs that it must not use: backups of these are of no use to it either."""
    below = run.distrust_from - 1
    if event.start != "resume" or not run.distrust_from or event.from_epoch > below:
        return run
    return replace(run, backups={name: _until(one, below) for name, one in run.backups.items()})


def _until(backed: Backed, epoch: int) -> Backed:
    return replace(backed, epoch=min(backed.epoch, epoch), kept_epoch=min(backed.kept_epoch, epoch))


def began(run: Run) -> Run:
    """The run after a launch. What was backed up before a run that goes back did so is beyond it."""
    goes_back = run.goal is not None and run.goal.kind == "rewind" and not run.began
    return replace(run, began=True, restored_from=(), backups={} if goes_back else run.backups)


# ---- fetching
def order(turn: Turn, run: Run, target: str, event: events.Prepared) -> Run:
    """Fetch it; until then the run waits in the queue."""
    run = replace(run, restoring=target, restore_beyond=event.from_epoch, restored_from=(*run.restored_from, target))
    return _fetch(turn, run)


def _fetch(turn: Turn, run: Run) -> Run:
    attempt = run.attempt
    if attempt is None:
        return turn.put(replace(run, restoring=""))
    key = f"{run.id}/{attempt.number}/restore-{turn.number()}"
    turn.act(
        Restore(
            key=key,
            run=run.id,
            target=run.restoring,
            job=run.job,
            token=attempt.token,
            attempt=attempt.number,
            beyond=run.restore_beyond,
        )
    )
    return turn.put(replace(run, restore_key=key))


def attend(turn: Turn) -> None:
    """What could not be fetched is tried again when its target can be asked again."""
    for run in tuple(turn.world.live.values()):
        if run.restoring and not run.restore_key:
            target = turn.world.targets.get(run.restoring)
            if target is None:
                turn.put(replace(run, restoring="", reason=f"{run.reason}; {run.restoring} is not configured any more"))
            elif target.retry_at <= turn.now:
                _fetch(turn, run)


def next_at(world: World) -> list[float]:
    """When something is tried again that runs wait for."""
    waiting = {run.restoring for run in world.live.values() if run.restoring and not run.restore_key}
    return [world.targets[name].retry_at for name in waiting if name in world.targets]


def restored(turn: Turn, event: events.Restored) -> None:
    """The run goes on, with what came or without; a target that cannot be asked just now is waited for."""
    run = turn.world.live.get(event.run)
    if run is None or run.restoring != event.target or event.answers not in {"", run.restore_key}:
        return
    run = replace(run, restore_key="")
    target = turn.world.targets.get(event.target)
    if not event.ok and event.cause and target is not None and not causes.kind(event.cause).of_run:
        _wait_for(turn, run, target, event)
        return
    if event.ok:
        reason = f"epoch {event.epoch} was fetched from backup target {event.target}"
        notices.restored(turn, run, event)
    else:
        reason = f"backup target {event.target} was of no help: {event.text}"
        notices.unrestored(turn, run, event)
    run = replace(run, restoring="", reason=f"{run.reason}; {reason}")
    if event.ok and event.epoch > run.progress.saved_epoch:
        run = replace(run, progress=replace(run.progress, saved_epoch=event.epoch))
    turn.put(run)


def _wait_for(turn: Turn, run: Run, target: Target, event: events.Restored) -> None:
    """Nothing is trained again that lies there: the run waits, which is told once."""
    targets.put(turn, outcomes.troubled(turn, target, event.cause, event.text))
    reason = f"waits for backup target {target.name}, which holds its newest checkpoint: {event.text}"
    if run.told_waiting != "restore":
        notices.waits_for_target(turn, run, reason)
    turn.put(replace(run, told_waiting="restore", reason=reason))


# ---- a server that came back
def state_restored(turn: Turn, event: events.StateRestored) -> None:
    """The journal is older than the run directories: no token and no attempt folder is used again.

    What was under way when it was copied is not under way here (its actions did not come along): it begins anew.
    """
    world = replace(turn.world, next_token=max(turn.world.next_token, event.token + 1), pruning="")
    gpus = {key: replace(gpu, test_key="") for key, gpu in world.gpus.items()}
    if event.moved:
        gpus = {key: replace(gpu, present=False, findings={}, signs=()) for key, gpu in gpus.items()}
    idle = {name: targets.idle(target) for name, target in world.targets.items()}
    turn.world = replace(world, gpus=gpus, targets=idle)
    for run in tuple(turn.world.live.values()):
        _come_back(turn, run, event.attempts.get(run.id, 0))
    names = ", ".join(run.name for run in turn.world.live.values() if run.attempts)
    text = f"{len(turn.world.live)} runs came back{f': {names}' if names else ''}. They go on from their checkpoints."
    turn.announce(None, "state-restored", "notice", f"Restored from backup target {event.target}", text)


def _come_back(turn: Turn, run: Run, attempts: int) -> None:
    run = turn.put(replace(run, attempts=max(run.attempts, attempts), keeping="", restore_key=""))
    if run.phase not in UP or run.attempt is None:
        return
    reason = "it was just starting on the server that is gone"
    run = replace(run, attempt=replace(run.attempt, cleared=True, examined=True))
    if run.stop is not None:
        endings.after_stop(turn, run, f"{run.stop.reason}; {reason}")
    else:
        endings.queue_again(turn, run, reason)
