"""What came of backups, readings and rehearsals: what is known of a target then, and who is told."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.backups import causes, notices, targets
from supervisor.core.backups.model import STATE, Backed, Due, Target
from supervisor.core.model import Run
from supervisor.core.turn import Turn

LONGEST_WAIT_S = 3600.0
TOLD_AFTER = 3  # failures in a row; what a person must act on is told at once
#: What only a write can show to be over.
OF_WRITING = frozenset({"full", "quota", "read-only", "permission", "broken", "refused"})


# ---- backups
def backed_up(turn: Turn, event: events.BackedUp) -> None:
    """It lies there, verified. A target in trouble is well again."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    target = _answered(target, event.answers)
    if event.vault and event.vault != target.vault:
        target = _another_vault(turn, target, event.vault)
    run = turn.world.run(event.run) if event.run else None
    if run is not None:
        _note(turn, run, event)
        if run.phase.terminal and not event.ended:  # it has ended meanwhile: that backup does not hold all
            target = targets.with_due(target, [run.id], Due(why="its end", at=turn.now))
    else:
        target = replace(target, state_at=turn.now, state_told="")
    target = replace(target, free_bytes=event.free_bytes, warning=event.warning, ok_at=turn.now, confirmed=True)
    targets.put(turn, _well(turn, target))


def _another_vault(turn: Turn, target: Target, vault: str) -> Target:
    """Another folder answers than before: it was exchanged or emptied, and nothing that is known lies there."""
    if not target.vault:
        return replace(target, vault=vault)
    for run in (*turn.world.live.values(), *turn.world.ended.values()):
        if target.name in run.backups:
            turn.put(replace(run, backups={name: one for name, one in run.backups.items() if name != target.name}))
    notices.another_vault(turn, target)
    target = replace(target, vault=vault, state_at=0.0, verified_at=0.0, verified_from=0.0, damaged=())
    target = replace(target, proven_at=0.0, proven_run="", proven_epoch=0, drilled_at=0.0)
    return targets.with_all_due(turn.world, target, Due(why="a new folder there", at=turn.now), targets.MOST_DUE)


def _note(turn: Turn, run: Run, event: events.BackedUp) -> None:
    backed = Backed(
        snapshot=event.snapshot,
        epoch=event.epoch,
        kept_epoch=event.kept_epoch,
        at=turn.now - event.seconds,  # what happened since it was begun may not be in it
        files=event.files,
        bytes=event.bytes,
        ended=event.ended,
    )
    unbacked = {name: cause for name, cause in run.unbacked.items() if name != event.target}
    if event.target in run.unbacked:
        notices.backed_up_after_all(turn, run, event)
    turn.put(replace(run, backups={**run.backups, event.target: backed}, unbacked=unbacked))


def _well(turn: Turn, target: Target) -> Target:
    if target.told:
        notices.well(turn, target)
    return replace(target, cause="", said="", failures=0, failing_since=0.0, retry_at=0.0, told="")


def _well_for_reading(turn: Turn, target: Target) -> Target:
    """As _well, unless it is writing that it refuses: a reading proves nothing of that."""
    return target if target.cause in OF_WRITING else _well(turn, target)


def _answered(target: Target, key: str) -> Target:
    """What was under way is done. What became due meanwhile stays due."""
    return replace(target, doing="", doing_run="", doing_order=None) if key == target.doing else target


def failed(turn: Turn, event: events.BackupFailed) -> None:
    """Of a run: it is tried again later, the others go on. Of the target: nothing is sent there before it is well."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    order = target.doing_order if event.answers == target.doing and target.doing_order is not None else None
    order = order or Due(why="another try", at=turn.now)
    target = _answered(target, event.answers)
    kind = causes.kind(event.cause)
    # others arrived since this one became due: the trouble is its own, whatever it looks like
    alone = order.failures + 1 >= TOLD_AFTER and target.ok_at > order.at
    if event.cause == "empty" and order.accept:
        _note_gone(turn, target, event.run)
    elif kind.of_run or (alone and event.cause != "stopped"):
        _of_run(turn, target, event, order)
    else:
        again = replace(order, failures=order.failures + (event.cause != "stopped"))
        target = targets.with_due(target, [event.run], again)
        target = replace(target, due={**target.due, event.run: replace(target.due[event.run], failures=again.failures)})
        targets.put(turn, troubled(turn, target, event.cause, event.text, counts=not order.asked or order.failures > 0))


def _note_gone(turn: Turn, target: Target, run_id: str) -> None:
    """A person said that the folder of that run is gone for good."""
    targets.put(turn, target)
    run = turn.world.run(run_id)
    if run is not None:
        gone = replace(run.backups.get(target.name) or Backed(snapshot=""), gone=True)
        turn.put(replace(run, backups={**run.backups, target.name: gone}))


def _of_run(turn: Turn, target: Target, event: events.BackupFailed, order: Due) -> None:
    """It is tried again later; told at once if a person must act, else after some failures in a row."""
    kind, count = causes.kind(event.cause), order.failures + 1
    known = target.due.get(event.run)  # became due meanwhile
    accept = order.accept or (known is not None and known.accept)
    if known is not None and known.asked:
        order = replace(known, accept=accept, failures=count)
    else:
        order = replace(order, at=turn.now + _wait_s(kind, count), failures=count, asked=False, accept=accept)
    targets.put(turn, replace(target, due={**target.due, event.run: order}))
    if not kind.page and count < TOLD_AFTER:
        return
    run = turn.world.run(event.run) if event.run else None
    if run is None and target.state_told != event.cause:
        targets.put(turn, replace(turn.world.targets[target.name], state_told=event.cause))
        notices.state_unbacked(turn, event)
    elif run is not None and run.unbacked.get(target.name) != event.cause:
        run = turn.put(replace(run, unbacked={**run.unbacked, target.name: event.cause}))
        notices.unbacked(turn, run, event)
    if run is not None and run.phase.terminal and event.cause == "stale":  # its successor has the directory by now
        left = {one: due for one, due in target.due.items() if one != event.run}
        _note_gone(turn, replace(turn.world.targets[target.name], due=left), event.run)


def troubled(turn: Turn, target: Target, cause: str, text: str, *, counts: bool = True) -> Target:
    """A target that cannot be used now: tried again later, told once per cause.

    A try that a person asked for does not count: it makes nothing wait longer.
    """
    kind = causes.kind(cause)
    if cause == "stopped":
        return replace(target, retry_at=turn.now + kind.after_s)
    count = target.failures + counts or 1
    wait_s = _wait_s(kind, count)
    since = target.failing_since or turn.now
    target = replace(target, cause=cause, said=text, failures=count, failing_since=since, retry_at=turn.now + wait_s)
    target = replace(target, confirmed=False)
    if target.told != cause and (kind.page or count >= TOLD_AFTER):
        notices.troubled(turn, target, wait_s)
        target = replace(target, told=cause)
    return target


def _wait_s(kind: causes.Kind, failures: int) -> float:
    """Exponential, at most an hour, or the cause's own time where that is longer."""
    return min(max(LONGEST_WAIT_S, kind.after_s), kind.after_s * 2.0 ** min(failures - 1, 20))


# ---- readings and rehearsals
def verified(turn: Turn, event: events.BackupVerified) -> None:
    """Damaged files are told once, and a run that lies there damaged is backed up anew."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    target = _answered(target, event.answers)
    if event.cause:
        targets.put(turn, troubled(turn, target, event.cause, event.text))
        return
    new = tuple(path for path in event.damaged if path not in target.damaged)
    if new:
        notices.damaged(turn, target, new)
    for run in targets.all_runs(turn.world):
        lies_at = f"/runs/{run.job.project}/{run.name}/"
        if any(lies_at in f"/{path}" for path in new):
            target = targets.with_due(target, [run.id], Due(why="damaged files there", at=turn.now))
            turn.put(replace(run, backups={name: one for name, one in run.backups.items() if name != target.name}))
    if any(f"/{path}".startswith("/state/") or "/state/snap-" in f"/{path}" for path in new):
        target = targets.with_due(target, [STATE], Due(why="damaged files there", at=turn.now))
    target = replace(target, verified_at=turn.now, verified_from=event.read_from, damaged=event.damaged)
    targets.put(turn, _well_for_reading(turn, target))


def drilled(turn: Turn, event: events.Drilled) -> None:
    """The time of the last restore that was proven to work; a failed rehearsal wakes somebody."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    target = _answered(target, event.answers)
    if event.cause:
        targets.put(turn, troubled(turn, target, event.cause, event.text))
        return
    if event.ok:
        if target.unproven:
            notices.proven_again(turn, target, event)
        target = replace(target, proven_at=turn.now, proven_run=event.run, proven_epoch=event.epoch, unproven="")
    elif event.run:
        if not target.unproven or (target.unable and not event.unable):
            notices.unproven(turn, target, event)
        target = replace(target, unproven=event.text, unable=event.unable)
    target = replace(target, drilled_at=turn.now)
    targets.put(turn, _well_for_reading(turn, target) if event.ok else target)
