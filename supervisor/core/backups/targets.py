"""When what is backed up where: due, one after the other on each target, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.actions import BackUp, Drill, VerifyBackup
from supervisor.core.backups.directories import holder, holds
from supervisor.core.backups.model import STATE, Backed, Due, Target, TargetPolicy
from supervisor.core.model import Phase, Run, World
from supervisor.core.turn import Turn

OVERDUE_S = 3600.0
MOST_DUE = 500  # of a schedule: a first backup of thousands of old runs is made in portions


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
        put(turn, replace(target, retry_at=0.0, due=orders, confirmed=False))


def of_run(world: World, run: Run) -> tuple[str, ...]:
    """The names of the targets that a run is backed up to."""
    wanted = run.job.backup
    return tuple(name for name in world.targets if wanted is None or name in wanted)


def covered(world: World, run: Run) -> bool:
    """True if all that the run's ledger has lies verified on every target that it is backed up to.

    And if these very targets answered since the daemon started. Without any target nothing is covered: who asks must
    know whether there is one.
    """
    names = of_run(world, run)
    return bool(names) and all(world.targets[name].confirmed and _covers(run, run.backups.get(name)) for name in names)


def _covers(run: Run, backed: Backed | None) -> bool:
    return backed is not None and bool(backed.snapshot) and backed.kept_epoch >= run.kept_epoch


def needs(run: Run, backed: Backed | None) -> bool:
    """True if something of the run may have changed since that backup."""
    if not run.attempts or run.set_aside or run.removed or (backed is not None and backed.gone):
        return False
    if run.phase.terminal:
        return backed is None or not backed.ended
    return backed is None or max(run.phase_since, run.progress.at) > backed.at or run.kept_epoch > backed.kept_epoch


# ---- becoming due
def due(turn: Turn, event: events.BackupDue) -> None:
    """The schedule: all that changed since its last backup, and the journal."""
    target = turn.world.targets.get(event.target)
    if target is not None:
        put(turn, with_all_due(turn.world, target, Due(why="the schedule", at=turn.now), MOST_DUE))


def asked(turn: Turn, event: events.BackupAsked) -> None:
    """A person: now, also in quiet hours, and also to a target in trouble."""
    chosen = turn.world.run(event.run) if event.run else None
    for target in tuple(turn.world.targets.values()):
        if event.target not in {"", target.name}:
            continue
        order = Due(why=event.by, at=turn.now, asked=True, accept=event.accept)
        if chosen is not None:
            put(turn, replace(with_due(target, [chosen.id], order), retry_at=0.0))
        elif not event.run:
            put(turn, replace(with_all_due(turn.world, target, order), retry_at=0.0))


def with_all_due(world: World, target: Target, order: Due, most: int = 0) -> Target:
    """Every run of which something may have changed (`most` of them at once, if that is given), and the journal."""
    changed = [
        run.id
        for run in all_runs(world)
        if target.name in of_run(world, run) and needs(run, run.backups.get(target.name))
    ]
    return with_due(target, [STATE, *(changed[:most] if most else changed)], order)


def new_best(turn: Turn, run: Run) -> None:
    """A copy with the highest mAP so far stands in the ledger."""
    wanted = {policy.name for policy in turn.world.policy.backups if policy.on_best}
    for name in of_run(turn.world, run):
        if name in wanted:
            put(turn, with_due(turn.world.targets[name], [run.id], Due(why="a new best", at=turn.now)))


def ended(turn: Turn, run: Run) -> None:
    """The run is over: what it left is final."""
    if not run.attempts or run.set_aside:
        return
    for name in of_run(turn.world, run):
        put(turn, with_due(turn.world.targets[name], [run.id], Due(why="its end", at=turn.now)))


def quiet(turn: Turn, event: events.QuietSeen) -> None:
    """Quiet hours begin or end; what is under way goes on."""
    target = turn.world.targets.get(event.target)
    if target is not None and target.quiet != event.quiet:
        put(turn, replace(target, quiet=event.quiet))


def with_due(target: Target, runs: Iterable[str], order: Due) -> Target:
    """The target on which these are due as well, by an order that adds to the ones that there are."""
    return replace(target, due={**target.due, **{run: _merged(target.due.get(run), order) for run in runs}})


def _merged(known: Due | None, order: Due) -> Due:
    if known is None:
        return order
    if known.asked and not order.asked:
        return known
    order = replace(order, accept=order.accept or known.accept)
    if order.asked:
        return order
    return replace(order, failures=known.failures, at=known.at if known.failures else min(order.at, known.at))


def all_runs(world: World) -> Iterator[Run]:
    """Every run that has a directory of its own."""
    yield from tuple(world.live.values())
    yield from tuple(run for run in world.ended.values() if holds(world, run))


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
        target = put(turn, replace(target, due=left))
    ready = [(order, run) for run, order in left.items() if _is_ready(turn, target, run, order)]
    asked = any(order.asked for order, _ in ready)
    if not asked and target.verify_due and _comes_first(turn, target, target.verify_by, target.verify_since):
        _verify(turn, target)
    elif not asked and target.drill_due and _comes_first(turn, target, target.drill_by, target.drill_since):
        _drill(turn, target)
    elif ready:
        order, run_id = min(ready, key=lambda one: (not one[0].asked, one[0].failures, one[0].at, one[1]))
        _back_up(turn, target, run_id, order)
    elif target.verify_due and not target.quiet:
        _verify(turn, target)
    elif target.drill_due and not target.quiet:
        _drill(turn, target)


def _comes_first(turn: Turn, target: Target, by: str, since: float) -> bool:
    """True for what a person asked for, and for what has waited long enough behind backups that never end."""
    return bool(by) or (not target.quiet and turn.now - since > OVERDUE_S)


def _is_ready(turn: Turn, target: Target, run_id: str, order: Due) -> bool:
    """False also while a run is being prepared: its directory changes hands just then."""
    run = turn.world.live.get(run_id)
    prepares = run is not None and run.phase is Phase.PREPARING
    return order.at <= turn.now and (order.asked or not target.quiet) and not prepares


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
    attempt = holder(turn.world, run).attempt if run is not None else None
    turn.act(
        BackUp(
            key=key,
            run=run_id,
            target=target.name,
            job=run.job if run is not None else None,
            token=attempt.token if attempt is not None else 0,
            attempt=attempt.number if attempt is not None else 0,
            ended=run is not None and run.phase.terminal,
            accept=order.accept,
            why=order.why,
            phase=run.phase.value if run is not None else "",
            **({"progress": run.progress} if run is not None else {}),
        )
    )
    left = {one: due for one, due in target.due.items() if one != run_id}
    put(turn, replace(target, doing=key, doing_run=run_id, doing_order=order, due=left))


def _is_to_be_sent(world: World, target: Target, run_id: str) -> bool:
    """False for a run whose directory is another's by now, and for one that does not go there (any more)."""
    run = world.run(run_id)
    if run is None:
        return run_id == STATE
    return holds(world, run) and not run.removed and target.name in of_run(world, run)


def idle(target: Target) -> Target:
    """The target on which nothing is under way: what was is due again."""
    if target.doing_order is not None:
        target = with_due(target, [target.doing_run], target.doing_order)
    return replace(target, doing="", doing_run="", doing_order=None)


def given_up(turn: Turn, key: str) -> None:
    """A bug in deciding about an answer: whatever it was about goes on without it, and is tried again."""
    if not key:
        return
    for target in tuple(turn.world.targets.values()):
        if target.doing == key:
            put(turn, replace(idle(target), retry_at=turn.now + 60.0))
    for run in tuple(turn.world.live.values()):
        if run.restore_key == key:
            turn.put(replace(run, restore_key="", restoring=""))
    if turn.world.pruning == key:
        turn.world = replace(turn.world, pruning="")


# ---- reading again, and rehearsing
def policy_of(world: World, name: str) -> TargetPolicy:
    """What is configured for a target."""
    return next((one for one in world.policy.backups if one.name == name), TargetPolicy(name=name))


def verify_asked(turn: Turn, event: events.VerifyAsked) -> None:
    """By the schedule a part, when there is nothing else to do; for a person at once, or next."""
    target = turn.world.targets.get(event.target)
    if target is not None:
        by, whole = event.by or target.verify_by, event.whole or target.verify_whole
        retry_at = 0.0 if event.by else target.retry_at
        since = target.verify_since if target.verify_due else turn.now
        target = replace(target, verify_due=True, verify_since=since, verify_by=by, verify_whole=whole)
        put(turn, replace(target, retry_at=retry_at))


def _verify(turn: Turn, target: Target) -> None:
    key = f"server/verify-{turn.number()}/{target.name}"
    believed = {
        f"{run.job.project}/{run.name}": run.backups[target.name].snapshot
        for run in all_runs(turn.world)
        if target.name in run.backups and run.backups[target.name].snapshot
    }
    turn.act(VerifyBackup(key=key, target=target.name, whole=target.verify_whole, expected=believed))
    put(turn, replace(target, doing=key, doing_run="", verify_due=False, verify_by="", verify_whole=False))


def drill_asked(turn: Turn, event: events.DrillAsked) -> None:
    """As verify_asked."""
    target = turn.world.targets.get(event.target)
    if target is not None:
        by, run = event.by or target.drill_by, event.run or target.drill_run
        retry_at = 0.0 if event.by else target.retry_at
        since = target.drill_since if target.drill_due else turn.now
        target = replace(target, drill_due=True, drill_since=since, drill_by=by, drill_run=run)
        put(turn, replace(target, retry_at=retry_at))


def _drill(turn: Turn, target: Target) -> None:
    """Order a rehearsal: of the run that a person chose, or of any."""
    number, run = turn.number(), turn.world.run(target.drill_run)
    key = f"server/drill-{number}/{target.name}"
    pythons = {f"{one.job.project}/{one.name}": one.job.python for one in all_runs(turn.world) if one.job.python}
    chosen = {"project": run.job.project, "name": run.name} if run is not None else {}
    turn.act(Drill(key=key, target=target.name, seed=f"{number}/{turn.now:.0f}", pythons=pythons, **chosen))
    put(turn, replace(target, doing=key, doing_run="", drill_due=False, drill_by="", drill_run=""))


def put(turn: Turn, target: Target) -> Target:
    """Let a target stand in the world."""
    turn.world = replace(turn.world, targets={**turn.world.targets, target.name: target})
    return target
