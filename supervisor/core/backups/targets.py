"""When what is backed up where: due, one after the other on each target, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.actions import BackUp, Drill, VerifyBackup
from supervisor.core.backups import causes, notices
from supervisor.core.backups.model import STATE, Backed, Due, Target, TargetPolicy
from supervisor.core.model import Run, World
from supervisor.core.turn import Turn

LONGEST_WAIT_S = 3600.0
TOLD_AFTER = 3  # failures in a row; what a person must act on is told at once


# ---- what is there, and what it is for
def configured(turn: Turn) -> None:
    """Targets come and go with the configuration; what is known of those that stay, stays."""
    names = {policy.name for policy in turn.world.policy.backups}
    known = turn.world.targets
    if names != set(known):
        targets = {name: known.get(name) or Target(name=name) for name in sorted(names)}
        turn.world = replace(turn.world, targets=targets)


def started(turn: Turn) -> None:
    """A new daemon waits for nothing that the old one waited for: the network, or the clock, may be right again."""
    for target in tuple(turn.world.targets.values()):
        orders = {key: replace(order, at=min(order.at, turn.now)) for key, order in target.due.items()}
        _put(turn, replace(target, retry_at=0.0, due=orders))


def of_run(world: World, run: Run) -> tuple[str, ...]:
    """The names of the targets that a run is backed up to."""
    wanted = run.job.backup
    return tuple(name for name in world.targets if wanted is None or name in wanted)


def covered(world: World, run: Run) -> bool:
    """True if all that the run's ledger has lies verified on every target that it is backed up to.

    Without any target nothing is covered: who asks must know whether there is one.
    """
    names = of_run(world, run)
    return bool(names) and all(_covers(run, run.backups.get(name)) for name in names)


def _covers(run: Run, backed: Backed | None) -> bool:
    return backed is not None and bool(backed.snapshot) and backed.kept_epoch >= run.kept_epoch


def needs(run: Run, backed: Backed | None) -> bool:
    """True if something of the run may have changed since that backup."""
    if not run.attempts or (backed is not None and backed.gone):
        return False
    if run.phase.terminal:
        return backed is None or not backed.ended
    return backed is None or max(run.phase_since, run.progress.at) > backed.at or run.kept_epoch > backed.kept_epoch


# ---- becoming due
def due(turn: Turn, event: events.BackupDue) -> None:
    """The schedule: all that changed since its last backup, and the journal."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    _put(turn, _with_all_due(turn.world, target, Due(why="the schedule", at=turn.now)))


def asked(turn: Turn, event: events.BackupAsked) -> None:
    """A person: now, also in quiet hours, and also to a target in trouble."""
    chosen = turn.world.run(event.run) if event.run else None
    for target in tuple(turn.world.targets.values()):
        if event.target not in {"", target.name}:
            continue
        order = Due(why=event.by, at=turn.now, asked=True, accept=event.accept)
        if chosen is not None:
            _put(turn, replace(_with_due(target, chosen.id, order), retry_at=0.0))
        elif not event.run:
            _put(turn, replace(_with_all_due(turn.world, target, order), retry_at=0.0))


def _with_all_due(world: World, target: Target, order: Due) -> Target:
    """Every run of which something may have changed, and the journal."""
    for run in _all_runs(world):
        if target.name in of_run(world, run) and needs(run, run.backups.get(target.name)):
            target = _with_due(target, run.id, order)
    return _with_due(target, STATE, order)


def new_best(turn: Turn, run: Run) -> None:
    """A copy with the highest mAP so far stands in the ledger."""
    wanted = {policy.name for policy in turn.world.policy.backups if policy.on_best}
    for name in of_run(turn.world, run):
        if name in wanted:
            _put(turn, _with_due(turn.world.targets[name], run.id, Due(why="a new best", at=turn.now)))


def ended(turn: Turn, run: Run) -> None:
    """The run is over: what it left is final."""
    if not run.attempts:
        return
    for name in of_run(turn.world, run):
        _put(turn, _with_due(turn.world.targets[name], run.id, Due(why="its end", at=turn.now)))


def quiet(turn: Turn, event: events.QuietSeen) -> None:
    """Quiet hours begin or end; what is under way goes on."""
    target = turn.world.targets.get(event.target)
    if target is not None and target.quiet != event.quiet:
        _put(turn, replace(target, quiet=event.quiet))


def _with_due(target: Target, run: str, order: Due) -> Target:
    known = target.due.get(run)
    if known is not None and known.asked and not order.asked:
        return target
    if known is not None:
        order = replace(order, accept=order.accept or known.accept, failures=0 if order.asked else known.failures)
        order = order if order.asked else replace(order, at=min(order.at, known.at) if not known.failures else known.at)
    return replace(target, due={**target.due, run: order})


def _all_runs(world: World) -> Iterator[Run]:
    yield from tuple(world.live.values())
    yield from tuple(run for run in world.ended.values() if world.latest.get(run.name) == run.id)


# ---- one after the other
def attend(turn: Turn) -> None:
    """Each target that is idle gets its next task."""
    for target in tuple(turn.world.targets.values()):
        if not target.doing:
            _next_task(turn, target)


def _next_task(turn: Turn, target: Target) -> None:
    if target.retry_at > turn.now:
        return
    left = {run_id: order for run_id, order in target.due.items() if _is_to_be_sent(turn.world, target, run_id)}
    if len(left) < len(target.due):
        target = _put(turn, replace(target, due=left))
    ready = [(order, run) for run, order in target.due.items() if _is_ready(target, order, turn.now)]
    asked = any(order.asked for order, _ in ready)
    if target.verify_due and target.verify_by and not asked:
        _verify(turn, target)
    elif target.drill_due and target.drill_by and not asked:
        _drill(turn, target)
    elif ready:
        order, run_id = min(ready, key=lambda one: (not one[0].asked, one[0].failures, one[0].at, one[1]))
        _back_up(turn, target, run_id, order)
    elif target.verify_due and not target.quiet:
        _verify(turn, target)
    elif target.drill_due and not target.quiet:
        _drill(turn, target)


def _is_ready(target: Target, order: Due, now: float) -> bool:
    return order.at <= now and (order.asked or not target.quiet)


def next_at(world: World, now: float) -> float | None:
    """When a target has something to do again without any event; None if none has."""
    times = [at for target in world.targets.values() for at in _next_times(target, now) if at > now]
    return min(times) if times else None


def _next_times(target: Target, now: float) -> list[float]:
    if target.doing:
        return []
    tasks = target.due or target.verify_due or target.drill_due
    return [target.retry_at] if target.retry_at > now and tasks else [one.at for one in target.due.values()]


def _back_up(turn: Turn, target: Target, run_id: str, order: Due) -> None:
    run = turn.world.run(run_id) if run_id else None
    key = f"{run_id or 'server'}/backup-{turn.number()}/{target.name}"
    backed = run.backups.get(target.name) if run is not None else None
    attempt = _holder(turn.world, run).attempt if run is not None else None
    turn.act(
        BackUp(
            key=key,
            run=run_id,
            target=target.name,
            job=run.job if run is not None else None,
            token=attempt.token if attempt is not None else 0,
            attempt=attempt.number if attempt is not None else 0,
            before=backed.snapshot if backed is not None else "",
            ended=run is not None and run.phase.terminal,
            accept=order.accept,
            why=order.why,
            phase=run.phase.value if run is not None else "",
            **({"progress": run.progress} if run is not None else {}),
        )
    )
    _put(turn, replace(target, doing=key, doing_run=run_id))


def _is_to_be_sent(world: World, target: Target, run_id: str) -> bool:
    """False for a run whose directory is another's by now, and for one that does not go there (any more)."""
    run = world.run(run_id)
    if run is None:
        return run_id == STATE
    past = run.phase.terminal and world.latest.get(run.name) != run.id
    return not past and target.name in of_run(world, run)


def _holder(world: World, run: Run) -> Run:
    """The run whose attempt last took the directory: of one that has not begun yet the one before it."""
    while run.attempt is None and (before := world.run(run.predecessor)) is not None:
        run = before
    return run


def _without_due(target: Target, run: str) -> Target:
    return replace(target, due={key: order for key, order in target.due.items() if key != run})


# ---- what came of it
def backed_up(turn: Turn, event: events.BackedUp) -> None:
    """It lies there, verified. A target in trouble is well again."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    run = turn.world.run(event.run) if event.run else None
    if run is not None:
        _note(turn, run, event)
    target = _answered(target, event.answers)
    known = target.due.get(event.run)
    if known is not None and not _ended_since(run, event):
        target = _without_due(target, event.run)
    if not event.run:
        target = replace(target, state_at=turn.now, state_told="")
    target = replace(target, free_bytes=event.free_bytes, warning=event.warning, ok_at=turn.now)
    _put(turn, _well(turn, target))


def _ended_since(run: Run | None, event: events.BackedUp) -> bool:
    """True if the run has ended while it was backed up: that backup does not hold all."""
    return run is not None and run.phase.terminal and not event.ended


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


def _answered(target: Target, key: str) -> Target:
    return replace(target, doing="", doing_run="") if key == target.doing else target


def failed(turn: Turn, event: events.BackupFailed) -> None:
    """Of a run: it is tried again later, the others go on. Of the target: nothing is sent there before it is well."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    target = _answered(target, event.answers)
    kind = causes.kind(event.cause)
    run = turn.world.run(event.run) if event.run else None
    if run is not None and event.cause == "empty" and run.phase.terminal:
        gone = replace(run.backups.get(target.name) or Backed(snapshot=""), gone=True)
        turn.put(replace(run, backups={**run.backups, target.name: gone}))
        _put(turn, _without_due(target, run.id))
    elif kind.of_run:
        order = target.due.get(event.run) or Due(why="another try", at=turn.now)
        count = order.failures + 1
        order = replace(order, at=turn.now + _wait_s(kind, count), failures=count, asked=False, accept=False)
        _put(turn, replace(target, due={**target.due, event.run: order}))
        if not event.run and target.state_told != event.cause and (kind.page or count >= TOLD_AFTER):
            _put(turn, replace(turn.world.targets[target.name], state_told=event.cause))
            notices.state_unbacked(turn, event)
        if run is not None and run.unbacked.get(target.name) != event.cause and (kind.page or count >= TOLD_AFTER):
            turn.put(replace(run, unbacked={**run.unbacked, target.name: event.cause}))
            notices.unbacked(turn, run, event)
    else:
        _put(turn, troubled(turn, target, event.cause, event.text))


def troubled(turn: Turn, target: Target, cause: str, text: str) -> Target:
    """A target that cannot be used now: tried again later, told once per cause."""
    kind = causes.kind(cause)
    if cause == "stopped":
        return replace(target, retry_at=turn.now + kind.after_s)
    count = target.failures + 1
    wait_s = _wait_s(kind, count)
    since = target.failing_since or turn.now
    target = replace(target, cause=cause, said=text, failures=count, failing_since=since, retry_at=turn.now + wait_s)
    if target.told != cause and (kind.page or count >= TOLD_AFTER):
        notices.troubled(turn, target, wait_s)
        target = replace(target, told=cause)
    return target


def _wait_s(kind: causes.Kind, failures: int) -> float:
    """Exponential, at most an hour, or the cause's own time where that is longer."""
    return min(max(LONGEST_WAIT_S, kind.after_s), kind.after_s * 2.0 ** min(failures - 1, 20))


# ---- reading again, and rehearsing
def policy_of(world: World, name: str) -> TargetPolicy:
    """What is configured for a target."""
    return next((one for one in world.policy.backups if one.name == name), TargetPolicy(name=name))


def verify_asked(turn: Turn, event: events.VerifyAsked) -> None:
    """By the schedule a part, when there is nothing else to do; for a person at once, or next."""
    target = turn.world.targets.get(event.target)
    if target is not None:
        by, whole = event.by or target.verify_by, event.whole or target.verify_whole
        _put(turn, replace(target, verify_due=True, verify_by=by, verify_whole=whole))


def _verify(turn: Turn, target: Target) -> None:
    key = f"server/verify-{turn.number()}/{target.name}"
    turn.act(VerifyBackup(key=key, target=target.name, whole=target.verify_whole))
    _put(turn, replace(target, doing=key, doing_run="", verify_due=False, verify_by="", verify_whole=False))


def verified(turn: Turn, event: events.BackupVerified) -> None:
    """Damaged files are told once, and a run that lies there damaged is backed up anew."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    target = _answered(target, event.answers)
    if event.cause:
        _put(turn, troubled(turn, target, event.cause, event.text))
        return
    new = tuple(path for path in event.damaged if path not in target.damaged)
    if new:
        notices.damaged(turn, target, new)
    for run in _all_runs(turn.world):
        lies_at = f"/runs/{run.job.project}/{run.name}/"
        if any(lies_at in f"/{path}" for path in new):
            target = _with_due(target, run.id, Due(why="damaged files there", at=turn.now))
            turn.put(replace(run, backups={name: one for name, one in run.backups.items() if name != target.name}))
    target = replace(target, verified_at=turn.now, verified_from=event.read_from, damaged=event.damaged)
    _put(turn, _well(turn, target))


def drill_asked(turn: Turn, event: events.DrillAsked) -> None:
    """As verify_asked."""
    target = turn.world.targets.get(event.target)
    if target is not None:
        by, run = event.by or target.drill_by, event.run or target.drill_run
        _put(turn, replace(target, drill_due=True, drill_by=by, drill_run=run))


def _drill(turn: Turn, target: Target) -> None:
    """Order a rehearsal: of the run that a person chose, or of any."""
    number, run = turn.number(), turn.world.run(target.drill_run)
    key = f"server/drill-{number}/{target.name}"
    pythons = {f"{one.job.project}/{one.name}": one.job.python for one in _all_runs(turn.world) if one.job.python}
    chosen = {"project": run.job.project, "name": run.name} if run is not None else {}
    turn.act(Drill(key=key, target=target.name, seed=f"{number}/{turn.now:.0f}", pythons=pythons, **chosen))
    _put(turn, replace(target, doing=key, doing_run="", drill_due=False, drill_by="", drill_run=""))


def drilled(turn: Turn, event: events.Drilled) -> None:
    """The time of the last restore that was proven to work; a failed rehearsal wakes somebody."""
    target = turn.world.targets.get(event.target)
    if target is None:
        return
    target = _answered(target, event.answers)
    if event.cause:
        _put(turn, troubled(turn, target, event.cause, event.text))
        return
    if event.ok:
        if target.unproven:
            notices.proven_again(turn, target, event)
        target = replace(target, proven_at=turn.now, proven_run=event.run, proven_epoch=event.epoch, unproven="")
    elif event.run:
        if not target.unproven:
            notices.unproven(turn, target, event)
        target = replace(target, unproven=event.text)
    _put(turn, _well(turn, replace(target, drilled_at=turn.now)))


def _put(turn: Turn, target: Target) -> Target:
    turn.world = replace(turn.world, targets={**turn.world.targets, target.name: target})
    return target
