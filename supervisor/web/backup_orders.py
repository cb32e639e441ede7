"""What people may order about backups, and when. Orders become events; nothing is changed here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

import msgspec

from supervisor.core import events
from supervisor.core.backups import targets, views
from supervisor.core.backups.model import Target
from supervisor.core.model import Run, World
from supervisor.core.views import find_run, no_such_run
from supervisor.web.orders import Peer, RefusedOrder, check_permission, user_name

VERBS = ("run", "verify", "drill")


class BackupOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an order. `name`: a run; `accept_loss`: also where the backup would hold less than the one before.

    `whole`: all files are read again, not only a part.
    """

    name: str = ""
    target: str = ""
    accept_loss: bool = False
    whole: bool = False


def chosen(world: World, order: BackupOrder) -> tuple[Run | None, list[Target]]:
    """The run and the targets that a person means. Raises RefusedOrder: 409 without targets, 404 for unknown names."""
    if not world.targets:
        raise RefusedOrder(409, "nothing is backed up: there is no [[backup]] in the configuration")
    run = find_run(world, order.name) if order.name else None
    if order.name and run is None:
        raise RefusedOrder(404, no_such_run(world, order.name))
    if order.target and order.target not in world.targets:
        near = difflib.get_close_matches(order.target, list(world.targets), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(world.targets)}"
        raise RefusedOrder(404, f"there is no backup target {order.target}; {hint}")
    return run, [one for one in world.targets.values() if order.target in {"", one.name}]


def check(peer: Peer, verb: str, world: World, run: Run | None, order: BackupOrder) -> None:
    """Raise RefusedOrder with the reason and what to do instead, if the order may not be given or makes no sense."""
    if run is not None:
        check_permission(peer, run.job.owner, run.name)
    elif peer.uid not in {0, os.geteuid()}:
        daemon = user_name(os.geteuid())
        hint = "" if verb == "verify" else "; name a run of yours"
        raise RefusedOrder(403, f"targets are everybody's: only root and {daemon} may order this{hint}")
    if verb == "verify" and run is not None:
        raise RefusedOrder(422, "name: whole targets are read again, not runs")
    if order.accept_loss and (verb != "run" or run is None):
        raise RefusedOrder(422, "accept_loss: only for the backup of one run, which must be named")
    if order.whole and verb != "verify":
        raise RefusedOrder(422, "whole: only a verification reads all")
    if run is not None and verb == "run":
        _check_run(world, run, order)


def _check_run(world: World, run: Run, order: BackupOrder) -> None:
    wanted = targets.of_run(world, run)
    if not wanted or (order.target and order.target not in wanted):
        where = f"to {order.target}" if order.target else "anywhere"
        names = ", ".join(f'"{name}"' for name in run.job.backup or ())
        raise RefusedOrder(409, f"{run.name} is not backed up {where}: its job file says backup = [{names}]")
    if not run.attempts:
        raise RefusedOrder(409, f"{run.name} has not trained yet: there is nothing to back up")
    newest = world.named(run.name)
    if newest is not None and newest.id != run.id:
        raise RefusedOrder(409, f"{run.id} is not the newest run of this name: its folder is {newest.id}'s now")


def for_drill(world: World, run: Run | None, known: Sequence[Target]) -> Target:
    """The target to restore from: of those with a checkpoint there the one that was proven longest ago.

    Raises RefusedOrder (409) where there is none.
    """
    runs = [run] if run is not None else [*world.live.values(), *world.ended.values()]
    there = {name for one in runs for name, backed in one.backups.items() if backed.epoch}
    found = [one for one in known if one.name in there]
    if not found:
        what = run.name if run is not None else "any run"
        hint = f"`backup run {run.name}` sends it" if run is not None else "`backup run` sends what is due"
        raise RefusedOrder(409, f"no checkpoint of {what} lies on {' or '.join(one.name for one in known)} yet; {hint}")
    return min(found, key=lambda one: one.proven_at)


def order_events(
    verb: str, run: Run | None, known: Sequence[Target], order: BackupOrder, *, by: str, at: float
) -> list[events.Event]:
    """The facts that a person ordered this."""
    who = run.id if run is not None else ""
    if verb == "run":
        accept = order.accept_loss
        return [events.BackupAsked(at=at, origin="api", by=by, run=who, target=order.target, accept=accept)]
    if verb == "verify":
        return [events.VerifyAsked(at=at, origin="api", target=one.name, by=by, whole=order.whole) for one in known]
    return [events.DrillAsked(at=at, origin="api", target=one.name, run=who, by=by) for one in known]


def ordered(verb: str, world: World, run: Run | None, known: Sequence[Target]) -> list[views.View]:
    """What is to be answered: each with its verb, its target, and of backups the run (empty: the journal).

    `known` are the targets as they were before the order. `not_of`: the key of what was under way there then: what it
    comes to is no answer to this order.
    """
    found: list[views.View] = []
    for before, target in ((one, world.targets[one.name]) for one in known if one.name in world.targets):
        if verb != "run":
            runs = [""]
        elif run is None:
            begun = target.doing_order is not None and target.doing_order.asked and target.doing != before.doing
            runs = [*([target.doing_run] if begun else []), *target.due]
        else:
            runs = [run.id] if target.name in targets.of_run(world, run) else []
        found += [{"verb": verb, "target": target.name, "run": one, "not_of": before.doing} for one in runs]
    return found


def what_next(verb: str, world: World, run: Run | None, known: Sequence[Target], order: BackupOrder) -> str:
    """One sentence on what happens next."""
    if verb == "run":
        names = [one.name for one in known if run is None or one.name in targets.of_run(world, run)]
        what = run.name if run is not None else "all that has changed, and the journal,"
        return f"{what} is sent to {' and '.join(names)} {_when(known)}; `backup ls` shows how far it is"
    where = " and ".join(one.name for one in known)
    if verb == "verify":
        return (
            f"{'all files' if order.whole else 'a part of the files'} on {where} {_is(order)} read again {_when(known)}"
        )
    what = run.name if run is not None else "a run that chance chooses"
    return f"a restore of {what} from {where} is rehearsed {_when(known)}"


def _when(known: Sequence[Target]) -> str:
    busy = [one.name for one in known if one.doing]
    return f"as soon as {' and '.join(busy)} has done what is under way there" if busy else "now"


def _is(order: BackupOrder) -> str:
    return "are" if order.whole else "is"
