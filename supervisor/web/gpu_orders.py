"""What people may order about a GPU, when, and what happens next. Orders become events; nothing is changed here."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from supervisor.core import words
from supervisor.core.events import GpuOrdered
from supervisor.core.gpus import leases, lookup, notices
from supervisor.core.gpus.model import Gpu
from supervisor.core.gpus.readings import Reading
from supervisor.core.gpus.standing import is_drained, person, standing
from supervisor.core.model import World
from supervisor.web.orders import Peer, RefusedOrder, user_name

ORDERS = ("drain", "undrain", "quarantine", "release", "test")
LONGEST_REASON = 500
LONGEST_DRAIN_S = 366 * 86400.0


class GpuOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an order. `for_s`: a drain ends by itself.

    `force`: release a GPU that cannot be read, or forget one that is not there any more.
    """

    what: str = ""
    reason: str = ""
    for_s: float | None = None
    force: bool = False


def find(world: World, name: str) -> Gpu:
    """The GPU that a person means. Raises RefusedOrder (404) with those that look like it, or are meant as well."""
    gpus = leases.devices(world)
    found = lookup.matches(gpus, name)
    if len(found) != 1:
        raise RefusedOrder(404, lookup.no_such_gpu(gpus, name))
    return found[0]


def check(peer: Peer, world: World, gpu: Gpu, order: GpuOrder, reading: Reading | None) -> None:
    """Raise RefusedOrder with the reason and what to do instead, if the order may not be given or makes no sense.

    `reading` is what was read of the GPU last.
    """
    if order.what not in ORDERS:
        raise RefusedOrder(422, f"what: expected one of {', '.join(ORDERS)}, got {order.what[:40]!r}")
    if peer.uid not in {0, os.geteuid()}:
        daemon = user_name(os.geteuid())
        raise RefusedOrder(403, f"GPUs are everybody's: only root and {daemon} may order something about them")
    if not leases.watched(world):
        raise RefusedOrder(
            409, f"{gpu.label} is given out by its index only: nobody watches GPUs here, so none is held back"
        )
    _check_values(order)
    _CHECKS.get(order.what, _check_nothing)(gpu, order)
    if order.what == "release" and gpu.present and not order.force:
        _check_answers(gpu, reading)


def _check_values(order: GpuOrder) -> None:
    if order.for_s is not None and (order.what != "drain" or not 0 < order.for_s <= LONGEST_DRAIN_S):
        raise RefusedOrder(422, "for_s: only a drain has an end, which is at most a year away")
    if len(order.reason) > LONGEST_REASON:
        raise RefusedOrder(422, f"reason: expected at most {LONGEST_REASON} characters, got {len(order.reason)}")


def _check_nothing(_gpu: Gpu, _order: GpuOrder) -> None:
    pass


def _check_there(gpu: Gpu, order: GpuOrder) -> None:
    if not gpu.present:
        raise RefusedOrder(
            409, f"{gpu.label} is not there: it cannot be {order.what}ed before the driver lists it again"
        )


def _check_release(gpu: Gpu, order: GpuOrder) -> None:
    if gpu.present:
        _check_held(gpu)
    elif not order.force:
        known = lookup.full_label(gpu)
        raise RefusedOrder(
            409,
            f"{known} is not there: releasing it would not bring it back. Restart the machine; "
            f"if it was taken out, `gpu release {gpu.index} --force` forgets it and its record",
        )


def _check_answers(gpu: Gpu, reading: Reading | None) -> None:
    """A GPU that cannot be read would be lost to the next training, and in quarantine again."""
    if reading is not None and reading.error is not None:
        error = reading.error.name or f"NVML error {reading.error.code}"
        hint = f"restart the machine, or give it out all the same: `gpu release {gpu.index} --force`"
        raise RefusedOrder(409, f"{gpu.label} cannot be read just now ({error}); {hint}")


def _check_held(gpu: Gpu) -> None:
    if gpu.quarantine is None:
        hint = f"; `gpu undrain {gpu.index}` ends its drain" if gpu.drain is not None else ""
        raise RefusedOrder(409, f"{gpu.label} is not in quarantine: there is nothing to release{hint}")


_CHECKS: dict[str, Callable[[Gpu, GpuOrder], None]] = {"test": _check_there, "release": _check_release}


def nothing_to_do(gpu: Gpu, order: GpuOrder, now: float) -> str:
    """What to say where things are as they are wanted already; empty where the order changes something."""
    if order.what == "undrain" and not is_drained(gpu, now):
        return f"{gpu.label} is not drained; nothing was changed"
    if order.what == "drain" and is_drained(gpu, now) and order.for_s is None and gpu.drain is not None:
        return (
            f"{gpu.label} is drained already, by {person(gpu.drain.by)}; nothing was changed"
            if gpu.drain.until_at is None
            else ""
        )
    if order.what == "test" and gpu.quarantine is not None and gpu.testing:
        return f"{gpu.label} is being tested already"
    return ""


def event(gpu: Gpu, order: GpuOrder, by: str, now: float) -> GpuOrdered:
    """The order as an event."""
    until_at = now + order.for_s if order.for_s is not None else None
    reason = " ".join(order.reason.split())
    return GpuOrdered(at=now, origin="api", gpu=gpu.uuid, what=order.what, by=by, reason=reason, until_at=until_at)


def done(world: World, before: Gpu, order: GpuOrder) -> bool:
    """True once the effect of the order shows."""
    after = world.gpus.get(before.uuid)
    if after is None:
        return order.what == "release"
    return after is not before and _EFFECTS[order.what](before, after)


def _asked_to_test(before: Gpu, after: Gpu) -> bool:
    held = after.quarantine
    return held is None or after.testing or held.next_test_at is not None or held != before.quarantine


_EFFECTS: dict[str, Callable[[Gpu, Gpu], bool]] = {
    "drain": lambda _, after: after.drain is not None,
    "undrain": lambda _, after: after.drain is None,
    "quarantine": lambda _, after: after.quarantine is not None,
    "release": lambda _, after: after.quarantine is None,
    "test": _asked_to_test,
}


def what_next(world: World, before: Gpu, order: GpuOrder, now: float) -> str:
    """One sentence on what happens next."""
    after = world.gpus.get(before.uuid)
    if after is None:
        return f"{lookup.full_label(before)} is forgotten; if it comes back, it is a new one"
    return _NEXT[order.what](world, before, after, now)


def _drained(world: World, _before: Gpu, gpu: Gpu, now: float) -> str:
    until = gpu.drain.until_at if gpu.drain is not None else None
    end = f"for {words.duration(until - now)}" if until is not None else f"until `gpu undrain {gpu.index}`"
    return f"nothing new starts on {gpu.label} {end}{_goes_on(world, gpu)}"


def _goes_on(world: World, gpu: Gpu) -> str:
    names = [run.name for run in leases.on(world, gpu.uuid)]
    return f"; {' and '.join(names)} {'goes' if len(names) == 1 else 'go'} on there" if names else ""


def _undrained(world: World, _before: Gpu, gpu: Gpu, now: float) -> str:
    return f"the drain of {gpu.label} is over{_but(world, gpu, now)}"


def _but(world: World, gpu: Gpu, now: float) -> str:
    """Why it is not given out all the same."""
    stands = standing(gpu, world, now)
    if leases.unusable(gpu, world, now) and stands.state != "busy":
        return f"; but it {stands.words}: {stands.why}" if stands.why else f"; but it {stands.words}"
    return "; it is given out again"


def _quarantined(world: World, before: Gpu, gpu: Gpu, _now: float) -> str:
    held = before.quarantine
    already = f" (it was already: {held.reason})" if held is not None else ""
    after = notices.after(world, gpu.quarantine) if gpu.quarantine is not None else ""
    return f"{gpu.label} is in quarantine{already}{_goes_on(world, gpu)}. {after}"


def _released(world: World, _before: Gpu, gpu: Gpu, now: float) -> str:
    return f"{gpu.label} is out of quarantine, untested{_but(world, gpu, now)}"


def _tested(world: World, _before: Gpu, gpu: Gpu, now: float) -> str:
    held = gpu.quarantine
    if held is None:
        return f"{gpu.label} was tested{_but(world, gpu, now)}"
    after = notices.after(world, held)
    if gpu.testing:
        return f"{gpu.label} is being tested; `gpu show {gpu.index}` tells the result. {after}"
    names = [run.name for run in leases.on(world, gpu.uuid)]
    when = f"when {' and '.join(names)} has ended there" if names else "as soon as it is idle and can be used"
    return f"{gpu.label} is tested {when}, and is not given out before. {after}"


_NEXT: dict[str, Callable[[World, Gpu, Gpu, float], str]] = {
    "drain": _drained,
    "undrain": _undrained,
    "quarantine": _quarantined,
    "release": _released,
    "test": _tested,
}
