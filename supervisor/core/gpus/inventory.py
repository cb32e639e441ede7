"""Which GPUs there are: new ones, those that are gone, and a driver that cannot be asked."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.gpus import health, leases, model, passport
from supervisor.core.gpus.model import Driver, Finding, Gpu, GpuFacts
from supervisor.core.turn import Turn

_TITLES = {
    "no-driver": "The GPU driver is not loaded",
    "no-library": "GPUs are not watched: the library of the driver is missing",
    "old-binding": "GPUs are not watched: an old package is in the way",
    "version-mismatch": "The GPU driver was changed without a restart",
    "no-permission": "The GPU driver may not be asked",
    "error": "The GPU driver answers with an error",
    "crashed": "The watch over GPUs crashes",
    "unresponsive": "The GPU driver does not answer",
}
_MISSING = "lost/inventory"
FLAPS_S = 3600.0  # what comes and goes more often is told once in that time


def seen(turn: Turn, event: events.GpusSeen) -> None:
    """What GPUs there are, or why that cannot be known."""
    before = turn.world.driver
    since = before.since if before.state == event.state else turn.now
    driver = Driver(state=event.state, version=event.driver or before.version, text=event.text, since=since)
    if driver != before:
        turn.world = replace(turn.world, driver=driver)
    if event.state in {model.OK, model.NONE}:
        _list(turn, event)
    count(turn)
    _tell(turn, event)


def _list(turn: Turn, event: events.GpusSeen) -> None:
    for facts in event.gpus:
        _here(turn, facts)
    listed = {facts.uuid for facts in event.gpus}
    for gpu in tuple(turn.world.gpus.values()):
        if gpu.present and gpu.uuid not in listed:
            _gone(turn, gpu, quiet=not listed)


def _translate(turn: Turn) -> None:
    """Whoever runs keeps its GPUs when the watch begins or ends: by UUID from then on, or by index.

    So it is for attempts that an older version began as well.
    """
    by_index = {gpu.index: gpu.uuid for gpu in turn.world.gpus.values()} if leases.watched(turn.world) else {}
    for run in tuple(turn.world.live.values()):
        attempt = run.attempt
        if attempt is None or (attempt.gpu_ids and all(one in turn.world.gpus for one in attempt.gpu_ids) and by_index):
            continue
        ids = tuple(by_index.get(index, str(index)) for index in attempt.gpus)
        if ids != attempt.gpu_ids:
            turn.put(replace(run, attempt=replace(attempt, gpu_ids=ids)))


def count(turn: Turn) -> None:
    """Where a probe tells of GPUs, their number is what it told, lost ones included."""
    turn.world = leases.counted(turn.world)
    _translate(turn)


def _here(turn: Turn, facts: GpuFacts) -> None:
    gpu = turn.world.gpus.get(facts.uuid)
    if gpu is None:
        gpu = Gpu(uuid=facts.uuid, facts=facts, present=False, passport=passport.new(turn.now))
    if not gpu.present and _MISSING in gpu.findings:
        gpu = replace(gpu, present=True, facts=facts)
        turn.world = turn.world.with_gpu(gpu)
        over = events.GpuFound(at=turn.now, gpu=gpu.uuid, finding="lost", source="inventory", open=False)
        health.found(turn, replace(over, text="the driver lists it again"))
    elif not gpu.present or gpu.facts != facts:
        turn.world = turn.world.with_gpu(replace(gpu, present=True, facts=facts))


def _gone(turn: Turn, gpu: Gpu, *, quiet: bool) -> None:
    """The driver lists it no more. Where all are gone one message says so for all."""
    text = "the driver does not list it any more"
    if quiet:
        finding = Finding(kind="lost", source="inventory", text=text, since=turn.now)
        gpu = replace(gpu, present=False, findings={**gpu.findings, _MISSING: finding})
        turn.world = turn.world.with_gpu(passport.noted(gpu, turn.now, "lost", text))
        health.confirm(turn, gpu)
        return
    turn.world = turn.world.with_gpu(replace(gpu, present=False))
    found = events.GpuFound(at=turn.now, gpu=gpu.uuid, finding="lost", source="inventory", text=text)
    health.found(turn, found)


def _tell(turn: Turn, event: events.GpusSeen) -> None:
    """Say once what is wrong with the driver as a whole, and once that it is well again."""
    told = turn.world.told
    said = {one for one in told if one.startswith("driver/")}
    flaps = {one for one, at in told.items() if one.startswith("flap/") and abs(turn.now - at) < FLAPS_S}
    others = {one: at for one, at in told.items() if not one.startswith(("driver/", "flap/")) or one in flaps}
    state = event.state
    if state == model.OK:
        if said and not flaps:
            turn.announce(None, "gpus-back", "info", "GPUs are watched again", f"{len(event.gpus)} GPUs answer.")
        others = _warned(turn, event, {**others, **{f"flap/{one[7:]}": turn.now for one in said}})
    else:
        if f"driver/{state}" not in said and f"flap/{state}" not in flaps:
            _say(turn, event)
        others[f"driver/{state}"] = told.get(f"driver/{state}", turn.now)
    if others != told:
        turn.world = replace(turn.world, told=others)


def _warned(turn: Turn, event: events.GpusSeen, told: dict[str, float]) -> dict[str, float]:
    """A driver that works may still be one that is known to hang soon; each thing once for each boot.

    Numbers in it go on, and are no news.
    """
    boot = f"warned/{turn.world.boot.boot_id}/"
    key = boot + "".join(letter for letter in event.text if not letter.isdigit())
    if not event.text or key in told:
        return told
    turn.announce(None, "gpu-driver", "notice", "GPU driver: a warning", event.text)
    kept = {one: at for one, at in told.items() if not one.startswith("warned/") or one.startswith(boot)}
    return {**kept, key: turn.now}


def _say(turn: Turn, event: events.GpusSeen) -> None:
    had = len(turn.world.gpus)
    if event.state == model.NONE and not had:
        text = "This server has no NVIDIA GPU: jobs run on the CPU, and GPU watching is off."
        turn.announce(None, "gpus-none", "info", "No GPU here", text)
    elif event.state == model.NONE:
        text = f"This server had {had} GPUs, and the driver lists none now. Trainings that need one wait."
        todo = "see `lspci | grep -i nvidia` and `dmesg -T | grep -i nvrm`; then restart the machine"
        turn.announce(None, "gpus-missing", "page", "All GPUs are gone", text, todo=todo)
    elif event.state != "off":
        waits = " New GPU trainings wait; what runs goes on." if leases.watched(turn.world) else ""
        severity = "page" if had else "notice"
        title = _TITLES.get(event.state, "The GPU driver cannot be used")
        turn.announce(None, "gpu-driver", severity, title, f"{event.text or event.state}.{waits}")


def started(turn: Turn) -> None:
    """A new daemon knows what there was, and waits for its probe before it gives GPUs out."""
    driver = turn.world.driver
    if driver.state != model.STARTING:
        turn.world = replace(turn.world, driver=replace(driver, state=model.STARTING, text=""))
