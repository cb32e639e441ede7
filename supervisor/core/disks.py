"""A disk that never fills: what is done when a file system runs low, and when it is full."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import events, orders
from supervisor.core.actions import Prune
from supervisor.core.backups import notices
from supervisor.core.backups.events import Spot
from supervisor.core.disk_spots import BY, RUNS
from supervisor.core.model import Phase, Run, StopOrder
from supervisor.core.turn import Turn
from supervisor.core.words import duration, size

PRUNE_AGAIN_S = 600.0


def seen(turn: Turn, event: events.DiskSeen) -> None:
    """A level changed, or is told again while it is not ok: prune by policy, pause, or let go on."""
    before = turn.world.spots.get(event.place) or Spot(place=event.place, what=event.what)
    since = before.since if before.level == event.level else turn.now
    spot = Spot(
        place=event.place,
        what=event.what,
        level=event.level,
        since=since,
        free_bytes=event.free_bytes,
        total_bytes=event.total_bytes,
        full_in_s=event.full_in_s,
        text=event.text,
    )
    others = {place: one for place, one in turn.world.spots.items() if place != event.place}
    gone = event.level == "ok" and not event.total_bytes  # nothing of ours is written there any more
    turn.world = replace(turn.world, spots=others if gone else {**others, event.place: spot})
    if before.level != event.level and not gone:
        _tell(turn, before, event)
    if event.what != RUNS:
        return  # neither pruning runs nor pausing them would bring room there
    if event.level != "ok" and turn.world.policy.prunes:
        _prune(turn)
    if event.level == "full":
        pause_one(turn, event)
    else:
        _let_go_on(turn)


def _prune(turn: Turn) -> None:
    if not turn.world.pruning and turn.now - turn.world.pruned_at >= PRUNE_AGAIN_S:
        order_prune(turn, "", at_once=True)


def order_prune(turn: Turn, by: str, *, at_once: bool) -> None:
    """Carry the policy out, unless that is under way."""
    if turn.world.pruning:
        return
    key = f"server/prune-{turn.number()}"
    turn.world = replace(turn.world, pruning=key)
    turn.act(Prune(key=key, by=by, at_once=at_once))


def prune_asked(turn: Turn, event: events.PruneAsked) -> None:
    """By the schedule, or by a person."""
    if turn.world.policy.prunes:
        order_prune(turn, event.by, at_once=False)


def pruned(turn: Turn, event: events.Pruned) -> None:
    """What is gone is noted; it is told where something was let go."""
    turn.world = replace(turn.world, pruning="", pruned_at=turn.now)
    for run_id in (*event.archived, *event.removed_runs):
        run = turn.world.ended.get(run_id)
        if run is not None:
            turn.put(replace(run, archived=True, removed=run.removed or run_id in event.removed_runs))
    if event.moved_files or event.purged_files or event.text:
        parts = [
            f"{event.moved_files} files ({size(event.moved_bytes)}) went into the trash" if event.moved_files else "",
            f"{event.purged_files} files ({size(event.purged_bytes)}) are gone for good" if event.purged_files else "",
            f"not done: {'; '.join(event.skipped[:3])}" if event.skipped else "",
            event.text,
        ]
        notices.pruned(turn, event, f"{'. '.join(filter(None, parts))}.")


def taken_back(turn: Turn, event: events.TakenBack) -> None:
    """What was pruned is there again: it is backed up and pruned like any other run."""
    run = turn.world.ended.get(event.run)
    if run is not None:
        turn.put(replace(run, archived=False, removed=False))


def pause_one(turn: Turn, event: events.DiskSeen) -> None:
    """Stop the least valuable training at its next checkpoint; it goes on when there is room again.

    One that saves nothing would lose all it did, and a watched one is not ours to end: these are never chosen.
    """
    running = [run for run in turn.world.live.values() if run.phase is Phase.RUNNING and _may_pause(run)]
    if not running or any(_is_pausing(run) for run in turn.world.live.values()):
        return
    chosen = min(running, key=worth)
    reason = f"paused: {event.text or f'{size(event.free_bytes)} are free under {event.place}'}"
    orders.stop(turn, chosen, StopOrder(how="save", then=Phase.QUEUED, by=BY, reason=reason))
    text = f"{reason}. It stops at its next checkpoint, so that the others can save, and goes on when there is room."
    turn.announce(
        chosen,
        "paused",
        "page",
        f"{chosen.name} is paused: the disk is full",
        text,
        todo=f"free space under {event.place}",
    )


def _let_go_on(turn: Turn) -> None:
    """There is room before the paused training has stopped: it need not."""
    for run in tuple(turn.world.live.values()):
        if _is_pausing(run) and not turn.world.draining:
            orders.undrain(turn, run, BY, "there is room again: it goes on without a pause")


def _may_pause(run: Run) -> bool:
    return run.attempt is not None and not run.attempt.watched and orders.can_save(run)


def _is_pausing(run: Run) -> bool:
    return run.phase is Phase.STOPPING and run.stop is not None and run.stop.by == BY


def worth(run: Run) -> tuple[int, float, float]:
    """How much would be lost by a pause: priority first, then how far it is, then how long it has run."""
    share = run.progress.epoch / run.progress.epochs if run.progress.epochs else 0.0
    return (run.priority, share, -run.created_at)


def _tell(turn: Turn, before: Spot, event: events.DiskSeen) -> None:
    what = "inodes" if event.inodes else "space"
    where = f"under {event.place} ({event.what})"
    forecast = f"; at this pace it is full in {duration(event.full_in_s)}" if event.full_in_s is not None else ""
    text = event.text or f"{size(event.free_bytes)} of {size(event.total_bytes)} are free {where}{forecast}."
    if event.level == "ok" or before.level == "full":
        if before.level == "full":
            notices.disk(turn, f"There is {what} again {where}", text, page=False, todo="")
        return
    full = event.level == "full"
    title = f"The disk is full {where}" if full else f"The disk fills up {where}"
    policy = "" if turn.world.policy.prunes else "configure [prune], or "
    notices.disk(turn, title, text, page=True, todo=f"{policy}free {what} {where}")
