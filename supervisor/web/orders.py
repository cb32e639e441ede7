"""What people may order, when, and what happens next. Orders become events; nothing is changed here."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from supervisor.core import ancestry, events, outlook, words
from supervisor.core.checkpoints import Saved, knows_its_end
from supervisor.core.diagnosis import rungs
from supervisor.core.gpus.words import gpu_name
from supervisor.core.model import Phase, Run, Wanted, World

LOWEST, HIGHEST = -100, 100  # the contract's range of priorities


class Peer(NamedTuple):
    """The process at the other end of the socket, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int

    @property
    def by(self) -> str:
        """How this person is named in the records."""
        return f"{user_name(self.uid)} (uid {self.uid}) via CLI"


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an order. `now`: at once; `off`: take a drain back; `accept`: agree to what has changed.

    `epoch`: go back to it; `epochs`: train on until so many are done.
    """

    now: bool = False
    off: bool = False
    accept: bool = False
    priority: int | None = None
    epoch: int | None = None
    epochs: int | None = None


class RefusedOrder(Exception):  # noqa: N818 - an answer, not a failure of ours
    """An order that cannot be carried out: HTTP `status`, and the reason for a person."""

    def __init__(self, status: int, reason: str) -> None:
        """403 not allowed, 409 makes no sense now, 422 wrong value."""
        self.status = status
        super().__init__(reason)


def user_name(uid: int) -> str:
    """The login name, or `user` for an id that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "user"


def check_permission(peer: Peer, owner: int, what: str) -> None:
    """Root, the daemon's own user and the owner may; raises RefusedOrder for others."""
    if peer.uid not in {0, os.geteuid(), owner}:
        raise RefusedOrder(403, f"{what} belongs to {user_name(owner)} (uid {owner}); you are uid {peer.uid}")


def check_drain(peer: Peer) -> None:
    """Only root and the daemon's own user may drain; raises RefusedOrder for others."""
    if peer.uid not in {0, os.geteuid()}:
        daemon = user_name(os.geteuid())
        raise RefusedOrder(403, f"a drain stops everybody's trainings: only root and {daemon} may order it")


def check_order(verb: str, world: World, run: Run, order: Order) -> None:
    """Raise RefusedOrder with the reason and what to do instead, if the order makes no sense now."""
    _CHECKS[verb](world, run, order)


def _check_stop(_world: World, run: Run, order: Order) -> None:
    _not_ended(run, "stop")
    if run.phase is Phase.HELD and not run.busy:
        hint = f"`resume {run.name}` lets it go on, `cancel {run.name}` ends it for good"
        raise RefusedOrder(409, f"{run.name} is HELD already; {hint}")
    if run.stop is not None and run.stop.then is Phase.CANCELLED:
        raise RefusedOrder(409, f"{run.name} is being cancelled already ({run.stop.reason})")
    if run.stop is not None and run.wanted is Wanted.HELD and not (order.now and run.stop.how != "kill"):
        hint = "" if run.stop.how == "kill" else f"; `stop {run.name} --now` ends it at once"
        raise RefusedOrder(409, f"{run.name} is stopping already ({run.stop.reason}){hint}")


def _check_cancel(_world: World, run: Run, order: Order) -> None:
    _not_ended(run, "cancel")
    cancelling = run.stop is not None and run.stop.then is Phase.CANCELLED
    if cancelling and run.stop is not None and not (order.now and run.stop.how != "kill"):
        hint = "" if run.stop.how == "kill" else f"; `cancel {run.name} --now` ends it at once"
        raise RefusedOrder(409, f"{run.name} is being cancelled already ({run.stop.reason}){hint}")


def _check_resume(_world: World, run: Run, _order: Order) -> None:
    if run.phase.terminal:
        raise RefusedOrder(409, f"{run.name} is {run.phase.value}: nothing to resume; {_again(run)}")
    if run.phase is Phase.STOPPING and run.stop is not None and run.stop.how == "save":
        return
    if run.phase is Phase.STOPPING:
        raise RefusedOrder(409, f"{run.name} is ending just now; resume it when it is HELD (`wait {run.name}`)")
    if run.phase is not Phase.HELD and (run.stop is None or run.stop.then is Phase.CANCELLED):
        raise RefusedOrder(409, f"{run.name} is {run.phase.value}, not held: it goes on by itself")


def _check_undo(_world: World, run: Run, _order: Order) -> None:
    _not_ended(run, "undo in")
    if not run.changes and not run.avoided_gpus:
        raise RefusedOrder(409, f"{run.name} has no changes to take back: it trains as its job file says")


def _check_retry(world: World, run: Run, _order: Order) -> None:
    if not run.phase.terminal:
        hint = f"`resume {run.name}` lets it go on" if run.phase is Phase.HELD else "it goes on by itself"
        raise RefusedOrder(409, f"{run.name} is {run.phase.value}, only ended runs are retried; {hint}")
    _check_newest(world, run)


def _check_rewind(world: World, run: Run, order: Order) -> None:
    _check_newest(world, run)
    if order.epoch is None or order.epoch < 1:
        raise RefusedOrder(422, f"epoch: expected a whole number from 1 on, got {order.epoch}")
    if not knows_its_end(run.job):
        raise RefusedOrder(409, f"{run.name} is a command of its own kind: how it goes back is not known")
    if run.busy or not (run.phase.terminal or run.phase is Phase.HELD):
        raise RefusedOrder(409, f"{run.name} is {run.phase.value}; stop it first: `stop {run.name}`")
    if run.set_aside or not run.attempts:
        raise RefusedOrder(409, f"{run.name} has not trained yet")
    total = run.progress.epochs or run.job.epochs or 0
    if 0 < total <= order.epoch:
        hint = f"`extend {run.name} --epochs N` trains on after the last one"
        raise RefusedOrder(409, f"{run.name} has {total} epochs: nothing is left after epoch {order.epoch}; {hint}")


def _check_extend(world: World, run: Run, order: Order) -> None:
    _check_newest(world, run)
    if order.epochs is None or order.epochs < 1:
        raise RefusedOrder(422, f"epochs: expected a whole number from 1 on, got {order.epochs}")
    if run.phase is not Phase.SUCCEEDED:
        hint = _again(run) if run.phase.terminal else "edit epochs in its job file before it starts, or let it finish"
        raise RefusedOrder(409, f"{run.name} is {run.phase.value}, only finished runs are extended; {hint}")
    if run.job.train is None:
        raise RefusedOrder(409, f"{run.name} is no run with [train]: how its epochs are raised is not known")
    if "time" in run.job.train:
        raise RefusedOrder(409, f"{run.name} has a budget of time, not of epochs (train.time)")
    trained = run.progress.saved_epoch
    if order.epochs <= trained:
        raise RefusedOrder(409, f"{run.name} has {trained} epochs already; give --epochs more than that")


def _check_newest(world: World, run: Run) -> None:
    newest = world.named(run.name)
    if newest is not None and newest.id != run.id:
        raise RefusedOrder(409, f"{run.id} is not the newest run of this name, {newest.id} is ({newest.phase.value})")


def check_saved(verb: str, run: Run, order: Order, saved: Saved) -> None:
    """Raise RefusedOrder where no checkpoint is there that the order could begin with."""
    stripped = " and ".join(saved.stripped)
    weights = (
        f"; {stripped} can be used as weights only (`branch {run.name} NEW.toml --from-weights`)" if stripped else ""
    )
    if verb == "extend" and not saved.epochs:
        hint = "submit a new training with model = best.pt instead"
        reason = f"{run.name} cannot be extended: no checkpoint with the optimizer's state is left"
        raise RefusedOrder(409, f"{reason}{weights}; {hint}")
    if verb == "rewind" and order.epoch not in saved.epochs:
        there = f"there are {', '.join(map(str, saved.epochs))}" if saved.epochs else "there is none of any epoch"
        raise RefusedOrder(409, f"{run.name} has no verified checkpoint of epoch {order.epoch}; {there}{weights}")


def _check_publish(_world: World, run: Run, _order: Order) -> None:
    if run.job.publish is None:
        hint = f'add publish = {{ to = "/a/shared/folder" }} to the job file of {run.name}'
        raise RefusedOrder(409, f"{run.name} does not say where it is published; {hint}")
    if not run.progress.saved_epoch and not run.phase.terminal:
        raise RefusedOrder(409, f"{run.name} has not saved an epoch yet: there is nothing to publish")


def _check_priority(_world: World, run: Run, order: Order) -> None:
    _not_ended(run, "give a priority to")
    if order.priority is None or not LOWEST <= order.priority <= HIGHEST:
        raise RefusedOrder(422, f"priority: expected a whole number from {LOWEST} to {HIGHEST}, got {order.priority}")


def _not_ended(run: Run, verb: str) -> None:
    if run.phase.terminal:
        raise RefusedOrder(409, f"{run.name} is {run.phase.value}: nothing to {verb}; {_again(run)}")


def _again(run: Run) -> str:
    return f"`retry {run.name}` starts it again"


_CHECKS: dict[str, Callable[[World, Run, Order], None]] = {
    "stop": _check_stop,
    "cancel": _check_cancel,
    "resume": _check_resume,
    "undo": _check_undo,
    "retry": _check_retry,
    "rewind": _check_rewind,
    "extend": _check_extend,
    "priority": _check_priority,
    "publish": _check_publish,
}
VERBS = tuple(_CHECKS)
NEED_A_CHECKPOINT = frozenset({"rewind", "extend"})
_NEW_RUN = NEED_A_CHECKPOINT | {"retry"}


def order_event(verb: str, run: Run, order: Order, by: str, at: float) -> events.Event:
    """The fact that a person ordered this."""
    kind, fields = _EVENTS[verb]
    return kind(at=at, origin="api", run=run.id, by=by, **fields(order))


_EVENTS: dict[str, tuple[Callable[..., events.Event], Callable[[Order], dict[str, object]]]] = {
    "stop": (events.StopAsked, lambda order: {"at_once": order.now}),
    "cancel": (events.CancelAsked, lambda order: {"at_once": order.now}),
    "resume": (events.ResumeAsked, lambda order: {"accept": order.accept}),
    "undo": (events.UndoAsked, lambda _: {}),
    "retry": (events.RetryAsked, lambda _: {}),
    "rewind": (events.RewindAsked, lambda order: {"epoch": order.epoch or 0}),
    "extend": (events.ExtendAsked, lambda order: {"epochs": order.epochs or 0}),
    "priority": (events.PriorityAsked, lambda order: {"priority": order.priority or 0}),
    "publish": (events.PublishAsked, lambda _: {}),
}


def outcome(verb: str, world: World, run: Run, order: Order) -> Run | None:
    """The run that shows the effect of the order, or None while none does. `run` stood before it."""
    if verb in _NEW_RUN:
        newest = world.named(run.name)
        return newest if newest is not None and newest.id != run.id else None
    after = world.run(run.id)
    if after is None or not (after.phase.terminal or _EFFECTS[verb](after, order)):
        return None
    return after


def _stopped(after: Run, order: Order) -> bool:
    return after.phase is Phase.HELD or (after.stop is not None and (not order.now or after.stop.how == "kill"))


_EFFECTS: dict[str, Callable[[Run, Order], bool]] = {
    "stop": lambda after, order: after.wanted is Wanted.HELD and _stopped(after, order),
    "cancel": lambda after, order: after.wanted is Wanted.DOWN and _stopped(after, order),
    "resume": lambda after, _: after.wanted is Wanted.UP and after.phase is not Phase.HELD,
    "undo": lambda after, _: not after.changes and not after.avoided_gpus,
    "priority": lambda after, order: after.priority == order.priority,
    "publish": lambda _after, _order: True,  # it takes minutes, and the run stays as it is meanwhile
}


def what_next(verb: str, before: Run, after: Run, live: outlook.Live | None, now: float) -> str:
    """One sentence on what happens next, and on what it costs."""
    name = after.name
    if verb == "priority":
        return f"{name} has priority {after.priority}; it counts when places are given"
    if verb == "undo":
        return _taken_back(before, after)
    if verb == "publish":
        to = after.job.publish.to if after.job.publish is not None else ""
        return f"{name} is being published to {to}; `show {name}` tells where it lies then, and channels are told"
    if verb in {"stop", "cancel"}:
        return _ending(before, after, live, now)
    agreed = "; what has changed around it is accepted" if after.accepted else ""
    if after.phase is Phase.QUEUED:
        waits = f", waiting for {words.waiting(after.waiting_for)}" if after.waiting_for else ""
        return f"{after.id} is QUEUED{waits}{agreed}{_consequence(verb, before, after)}"
    return f"{after.id} is {after.phase.value}: {after.reason}{agreed}{_consequence(verb, before, after)}"


def _taken_back(before: Run, after: Run) -> str:
    """What the next attempt does as the job file says again."""
    taken = [f"{rungs.words(change)}" for change in rungs.changes_view(before)]
    if before.avoided_gpus:
        taken.append(f"{', '.join(gpu_name({'gpu': gpu}) for gpu in before.avoided_gpus)} given last")
    hint = f"; `resume {after.name}` lets it go on" if after.phase is Phase.HELD else ""
    return f"{after.name}: taken back from attempt {after.attempts + 1} on: {', '.join(taken)}{hint}"


def _consequence(verb: str, before: Run, after: Run) -> str:
    """What going back, or on, means for what was trained."""
    if verb == "rewind" and after.goal is not None:
        return f"; what was trained after epoch {after.goal.epoch} is kept in the run's directory"
    if verb == "extend" and after.goal is not None:
        done, total = before.progress.saved_epoch, before.progress.epochs or before.progress.saved_epoch
        return f"; {ancestry.schedule_words(before.job.train or {}, done, total, after.goal.epochs)}"
    return ""


def _ending(before: Run, after: Run, live: outlook.Live | None, now: float) -> str:
    name, order = after.name, after.stop
    gone = before.busy and after.phase is Phase.COOLING  # what it left is still to be read, or to be ended
    if order is None or gone or not after.busy:
        hint = f"; `resume {name}` lets it go on" if after.phase is Phase.HELD else ""
        ended_unsaved = before.busy and after.progress.saved_epoch <= outlook.saved_epoch(before, live)
        lost = f"; {loss(before, live)}" if ended_unsaved else ""  # so fast that nobody saw it ending
        if before.busy and before.attempt is not None and before.attempt.watched:
            lost = "; your training goes on; it is only not watched any more"
        if order is not None and after.phase is Phase.COOLING:  # gone already; what it left is being read
            return f"{name} has ended and will be {order.then.value}{lost}"
        return f"{name} is {after.phase.value}{lost}{hint}"
    if order.how == "save":
        return f"{name} stops when the next epoch is saved{_when(live, now)}; `resume {name}` takes that back"
    if after.phase is not Phase.STOPPING:
        return f"{name} will be {order.then.value} before its training starts, or as soon as it can be ended"
    if after.attempt is not None and after.attempt.watched:
        return f"{name}: your training goes on; it is only not watched any more"
    how = "is asked to end" if order.how == "term" else "and every process of its tree are being ended now"
    return f"{name} {how}; {loss(before, live)}"


def _when(live: outlook.Live | None, now: float) -> str:
    save_s = outlook.next_save_s(live, now)
    return f", expected in about {words.duration(save_s)}" if save_s is not None else ""


def loss(run: Run, live: outlook.Live | None) -> str:
    """What an end at once costs, in words."""
    stake = outlook.at_stake(run, live)
    epochs, seconds = stake["epochs"], stake["seconds"]
    saved = outlook.saved_epoch(run, live)
    if run.job.train is None and not run.progress.epoch:
        return "what is lost is not known: this trainer tells no progress"
    if not epochs:
        return f"nothing is lost: epoch {saved} is saved" if saved else "no epoch was trained yet"
    time = f" ({words.duration(seconds)} of training)" if seconds is not None else ""
    since = f"since epoch {saved} was saved" if saved else "which is everything: no epoch was saved yet"
    return f"lost: {epochs:g} epochs{time} {since}"


def drain_sentence(world: World, board: Mapping[str, outlook.Live], order: Order, now: float) -> str:
    """What a drain, or its end, leads to."""
    if order.off:
        return "the drain is over: trainings start again"
    busy = [run for run in world.live.values() if run.busy]
    if not busy:
        return "nothing is running, and nothing starts until `drain --off` or a new daemon"
    saves = [save_s for run in busy if (save_s := outlook.next_save_s(board.get(run.id), now)) is not None]
    last = f"; the last save is expected in about {words.duration(max(saves))}" if saves and not order.now else ""
    names = ", ".join(run.name for run in busy[:5]) + (", …" if len(busy) > 5 else "")
    if len(busy) == 1:
        what = "1 training " + ("is asked to end now" if order.now else "ends when its next epoch is saved")
    else:
        what = f"{len(busy)} trainings " + (
            "are asked to end now" if order.now else "end when their next epochs are saved"
        )
    return f"{what} ({names}){last}; nothing starts until `drain --off` or a new daemon"
