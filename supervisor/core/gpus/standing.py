"""How a GPU stands, in one word, with the reason and what a person can do about it. Pure."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from supervisor.core import words
from supervisor.core.gpus import leases, notices
from supervisor.core.gpus.findings import KINDS
from supervisor.core.gpus.model import Drain, Finding, Gpu, Quarantine
from supervisor.core.gpus.readings import Reading
from supervisor.core.model import World

#: What a GPU is called that stands so, after its name. Every state is here.
STATES = {
    "free": "is free",
    "busy": "is in use",
    "held": "is in use by others",
    "resting": "was busy a moment ago",
    "draining": "is being drained",
    "drained": "is drained",
    "testing": "is being tested",
    "quarantined": "is in quarantine",
    "hot": "is too hot",
    "unreadable": "cannot be read",
    "failing": "is failing",
    "reset-needed": "must be reset",
    "reboot-needed": "needs a restart of the machine",
    "unresponsive": "does not answer",
    "unreachable": "cannot be reached",
    "missing": "is not there any more",
    "lost": "is lost",
}
# what is worse than being in quarantine, the worst first; then what is not
_WORST = {
    "lost": "lost",
    "unresponsive": "unresponsive",
    "recovery-reboot": "reboot-needed",
    "reset-required": "reset-needed",
    "recovery-reset": "reset-needed",
}
_BAD = {
    "recovery-drain": "reset-needed",
    "unknown-error": "unreadable",
    "too-hot": "hot",
    "throttled": "hot",
}


#: The states of a GPU that does not answer, of which a reading knows sooner that they are over.
_SILENT = frozenset({"lost", "unresponsive", "unreadable"})
FRESH_S = 30.0


class Standing(msgspec.Struct, frozen=True):
    """`state` is one of STATES; `why` is empty where there is nothing to say; `todo` is what a person can do."""

    state: str
    why: str = ""
    todo: str = ""

    @property
    def words(self) -> str:
        """What follows the GPU's name in a sentence."""
        return STATES[self.state]


def standing(gpu: Gpu, world: World, now: float, reading: Reading | None = None) -> Standing:
    """How the GPU stands. Of several things that are wrong with it the worst one counts.

    `reading` is the newest one: a GPU that answers again is still held back for a while.
    """
    stands = _standing(gpu, world, now)
    if stands.state not in _SILENT or not gpu.present or reading is None or reading.error is not None:
        return stands
    if now - reading.at > FRESH_S or any(reading.at < one.since for one in gpu.findings.values()):
        return stands
    again = f"{stands.why}; but it answers again"
    if gpu.quarantine is not None:
        return replace(stands, why=again, todo=notices.todo(world, gpu))
    return replace(stands, why=f"{again}, and is given out when it has been well for a while", todo="")


def _standing(gpu: Gpu, world: World, now: float) -> Standing:
    worst = _found(gpu, _WORST)
    if not gpu.present:
        return Standing("lost", *_told(gpu, worst)) if worst is not None else _missing(gpu)
    if leases.watched(world) and world.driver.state not in {"ok", "starting"}:
        return Standing("unreachable", leases.broken(gpu, world))
    if worst is not None:
        return Standing(_WORST[worst.kind], *_told(gpu, worst))
    if gpu.quarantine is not None:
        return _in_quarantine(gpu, gpu.quarantine, world, now)
    bad = _found(gpu, _BAD) or next((one for one in gpu.findings.values() if KINDS[one.kind].blocks), None)
    if bad is not None:
        return Standing(_BAD.get(bad.kind, "failing"), *_told(gpu, bad))
    return _healthy(gpu, world, now)


def _healthy(gpu: Gpu, world: World, now: float) -> Standing:
    runs = leases.on(world, gpu.uuid)
    drain = gpu.drain if is_drained(gpu, now) else None
    if drain is not None:
        return Standing(
            "draining" if runs else "drained", _drain_words(drain, now), f"yolo-supervisor gpu undrain {gpu.index}"
        )
    if runs:
        return Standing("busy", ", ".join(run.name for run in runs))
    why = leases.unusable(gpu, world, now)
    if gpu.holders and why:
        hint = 'wait until it has ended; `foreign = "ignore"` in [gpu] of the configuration gives it out all the same'
        return Standing("held", why, hint)
    return Standing("resting", why) if why else Standing("free")


def is_drained(gpu: Gpu, now: float) -> bool:
    """True while a person wants nothing new on it."""
    return gpu.drain is not None and (gpu.drain.until_at is None or now < gpu.drain.until_at)


def _drain_words(drain: Drain, now: float) -> str:
    left = f", for another {words.duration(drain.until_at - now)}" if drain.until_at is not None else ""
    why = f": {drain.reason}" if drain.reason else ""
    return f"by {person(drain.by)}, {words.duration(now - drain.since)} ago{left}{why}"


def person(by: str) -> str:
    """`alice` of `alice (uid 1000) via CLI`."""
    return by.partition(" (uid ")[0]


def _in_quarantine(gpu: Gpu, held: Quarantine, world: World, now: float) -> Standing:
    by = f", by {person(held.by)}" if held.by and held.by not in held.reason else ""
    told = [f"{held.reason or 'no reason was given'}{by}, {words.duration(now - held.since)} ago"]
    if held.result:
        told.append(f"test {held.tests}: {held.result}" if held.tests > 1 else held.result)
    if gpu.testing:
        return Standing("testing", "; ".join(told))
    if held.next_test_at is not None and (world.policy.gpu.self_test != "never" or held.asked):
        soon = f"in {words.duration(held.next_test_at - now)}" if held.next_test_at > now else "when it is idle"
        told.append(f"it is tested {soon}")
    return Standing("quarantined", f"{'; '.join(told)}. {notices.after(world, held)}", notices.todo(world, gpu))


def _missing(gpu: Gpu) -> Standing:
    forget = f"`yolo-supervisor gpu release {gpu.index} --force` forgets it, if it was taken out"
    todo = f"restart the machine; if it is not there then, check slot and power cables; {forget}"
    return Standing("missing", "the driver does not list it any more", todo)


def _found(gpu: Gpu, kinds: dict[str, str]) -> Finding | None:
    return next((one for kind in kinds for one in gpu.findings.values() if one.kind == kind), None)


def _told(gpu: Gpu, finding: Finding) -> tuple[str, str]:
    kind = KINDS[finding.kind]
    return finding.text or kind.title, kind.todo.format(index=gpu.index, uuid=gpu.uuid)
