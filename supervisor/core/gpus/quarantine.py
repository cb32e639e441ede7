"""In and out of quarantine: what a GPU needs before it comes back, the tests, the resets, and who decides.

A person can always release a GPU. Without one it comes back by passing the self-test, after what it needs was done:
nothing more (test), a reset, a reboot. What a person must look at (person) waits for one.
"""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.actions import TestGpu, TreatGpu
from supervisor.core.gpus import leases, passport
from supervisor.core.gpus.findings import KINDS
from supervisor.core.gpus.lookup import full_label
from supervisor.core.gpus.model import OK, Drain, Gpu, Quarantine
from supervisor.core.gpus.notices import after, on_it, todo
from supervisor.core.model import World
from supervisor.core.turn import Turn

NEEDS = ("test", "reset", "reboot", "person")  # each one is more than those before it
FIRST_TEST_S = 10.0
LONGEST_S = 3600.0  # no time that we set ourselves lies further away
NOT_RUN_AGAIN_S = 600.0
NOT_RUN_LIMIT = 6
HELP_S = 300.0  # longer than the quiet time after which any finding is over (core.gpus.limits: 120 s)
HELP_AGAIN_S = 30.0
ESCALATE_S = 7 * 86400.0
HELPLESS = 2  # so many resets or reboots in that time that did not help: somebody must look at the hardware


def enter(turn: Turn, gpu: Gpu, reason: str, needs: str, *, xid: int = 0, by: str = "", asked: str = "") -> Gpu:
    """Give the GPU out no more; what is stronger replaces what is there. Told once.

    `by`: a person wants it out. `asked`: a person only wants it tested.
    """
    now = gpu.quarantine
    if now is not None and NEEDS.index(needs) <= NEEDS.index(now.needs) and not (now.met and needs != "test"):
        return _said_better(turn, gpu, now, reason, xid)
    if not by and passport.treatments(gpu, turn.now - ESCALATE_S) >= HELPLESS:
        needs, reason = "person", f"{reason}; {HELPLESS} resets or reboots in a week did not help: inspect the hardware"
    since = now.since if now is not None else turn.now
    quarantine = Quarantine(
        reason=reason,
        since=since,
        needs=needs,
        by=by,
        xid=xid,
        retest=gpu.testing and needs == "test",
        asked=asked,
        needed_since=turn.now,
    )
    quarantine = _with_first_test(quarantine, turn.now)
    gpu = passport.noted(replace(gpu, quarantine=quarantine), turn.now, "quarantine", reason)
    gpu = passport.counted(gpu, quarantines=int(now is None))
    turn.world = turn.world.with_gpu(gpu)
    _tell(turn, gpu, quarantine)
    return gpu


def _said_better(turn: Turn, gpu: Gpu, now: Quarantine, reason: str, xid: int) -> Gpu:
    """It is out of use already. The kernel's words count for an Xid whose number NVML told before.

    What happens during a test is not what that test is about: it is made once more.
    """
    better = bool(xid) and xid == now.xid and not now.met and not now.by
    later = replace(now, reason=reason if better else now.reason, retest=now.retest or gpu.testing)
    if later != now:
        gpu = replace(gpu, quarantine=later)
        turn.world = turn.world.with_gpu(gpu)
    return gpu


def _with_first_test(quarantine: Quarantine, now: float) -> Quarantine:
    ready = (quarantine.needs == "test" or quarantine.met) and not quarantine.by
    return replace(quarantine, next_test_at=now + FIRST_TEST_S if ready else None)


def _tell(turn: Turn, gpu: Gpu, quarantine: Quarantine) -> None:
    severity = "info" if quarantine.by or quarantine.asked else "page"
    here = on_it(turn.world, gpu)
    told = (f"{full_label(gpu)}: {quarantine.reason}", here, "No new training starts on it")
    text = f"{'. '.join(filter(None, told))}. {after(turn.world, quarantine)}"
    title = f"{gpu.label} is in quarantine"
    turn.announce(None, "gpu-quarantine", severity, title, text, todo=todo(turn.world, gpu), facts={"uuid": gpu.uuid})


def met(turn: Turn, gpu: Gpu, how: str) -> Gpu:
    """What the GPU needed was done: it may be tested."""
    quarantine = gpu.quarantine
    if quarantine is None or quarantine.met or quarantine.needs == "person" or quarantine.by:
        return gpu
    quarantine = _with_first_test(replace(quarantine, met_at=turn.now), turn.now)
    gpu = passport.noted(replace(gpu, quarantine=quarantine), turn.now, "may be tested", how)
    turn.world = turn.world.with_gpu(gpu)
    return gpu


def release(turn: Turn, gpu: Gpu, how: str) -> Gpu:
    """The GPU is given out again: what was held against it is over."""
    gpu = replace(gpu, quarantine=None, signs=(), xids=(), reset_when_idle="")
    gpu = passport.noted(gpu, turn.now, "released", how)
    turn.world = turn.world.with_gpu(gpu)
    turn.announce(
        None,
        "gpu-released",
        "info",
        f"{gpu.label} is given out again",
        f"{full_label(gpu)}: {how}.",
        facts={"uuid": gpu.uuid},
    )
    return gpu


# ---- what is due
def attend(turn: Turn) -> None:
    """Order what can be done now: a reset of an idle GPU, a reboot of an idle server, a test."""
    for uuid in tuple(turn.world.gpus):
        gpu = turn.world.gpus[uuid]
        if gpu.reset_when_idle and gpu.quarantine is None and _may_reset(turn, gpu):
            gpu = enter(turn, gpu, gpu.reset_when_idle, "reset")
        if gpu.quarantine is not None:
            _attend(turn, gpu, gpu.quarantine)


def _attend(turn: Turn, gpu: Gpu, quarantine: Quarantine) -> None:
    waits = not quarantine.met and not quarantine.by and not quarantine.treated
    if waits and quarantine.needs == "reset" and _may_reset(turn, gpu):
        _treat(turn, gpu, quarantine, "reset")
    elif waits and quarantine.needs == "reboot" and _may_reboot(turn):
        _treat(turn, gpu, quarantine, "reboot")
    elif _is_due(turn, gpu, quarantine):
        _after_the_wait(turn, gpu, quarantine)


def _is_due(turn: Turn, gpu: Gpu, quarantine: Quarantine) -> bool:
    due = quarantine.next_test_at is not None and quarantine.next_test_at <= turn.now and not gpu.test_key
    return due and leases.known(turn.world) and leases.is_idle(turn.world, gpu)


def _after_the_wait(turn: Turn, gpu: Gpu, quarantine: Quarantine) -> None:
    """Test it, or see that what was done did not help."""
    why = leases.broken(replace(gpu, quarantine=None), turn.world)
    if why and quarantine.met and turn.world.driver.state == OK:
        _see_whether_it_helped(turn, gpu, quarantine, why)
    elif why or (turn.world.policy.gpu.self_test == "never" and not quarantine.asked):
        return
    elif gpu.holders:
        _not_run(turn, gpu, quarantine, leases.holder_words(gpu.holders))
    else:
        _test(turn, gpu, quarantine)


def _may_reset(turn: Turn, gpu: Gpu) -> bool:
    return turn.world.policy.gpu.reset and gpu.present and not gpu.holders and leases.is_idle(turn.world, gpu)


def _may_reboot(turn: Turn) -> bool:
    """Only where nothing of ours runs: no training is ended for it."""
    return turn.world.policy.gpu.reboot and not any(run.busy for run in turn.world.live.values())


def _treat(turn: Turn, gpu: Gpu, quarantine: Quarantine, what: str) -> None:
    turn.world = turn.world.with_gpu(replace(gpu, quarantine=replace(quarantine, treated=True)))
    turn.act(TreatGpu(key=f"gpu/{gpu.uuid}/{what}-{turn.number()}", gpu=gpu.uuid, what=what))


def _see_whether_it_helped(turn: Turn, gpu: Gpu, quarantine: Quarantine, why: str) -> None:
    """A finding is over only when it has been well for a while: that is waited for."""
    if turn.now - quarantine.met_at < HELP_S:
        later = replace(quarantine, next_test_at=turn.now + HELP_AGAIN_S)
        turn.world = turn.world.with_gpu(replace(gpu, quarantine=later))
        return
    reason = f"the {quarantine.needs} did not help: it {why}"
    gpu = enter(turn, gpu, reason, quarantine.needs, asked=quarantine.asked)
    if gpu.quarantine is not None:
        _attend(turn, gpu, gpu.quarantine)  # another one, if it may be done and there was only one


def next_at(world: World, now: float) -> float | None:
    """When a test is due, or None."""
    quarantines = (gpu.quarantine for gpu in world.gpus.values() if gpu.quarantine is not None and not gpu.test_key)
    times = [one.next_test_at for one in quarantines if one.next_test_at is not None]
    return min((at for at in times if at > now), default=None)


def _test(turn: Turn, gpu: Gpu, quarantine: Quarantine) -> None:
    python = gpu.passport.python or _any_python(turn.world)
    if not python:
        _not_run(turn, gpu, quarantine, "no job has told yet which interpreter has torch")
        return
    key = f"gpu/{gpu.uuid}/test-{turn.number()}"
    turn.world = turn.world.with_gpu(replace(gpu, test_key=key, quarantine=replace(quarantine, retest=False)))
    turn.act(TestGpu(key=key, gpu=gpu.uuid, python=python, memory_bytes=gpu.facts.memory_bytes))


def _any_python(world: World) -> str:
    """The interpreter of the newest training job."""
    runs = sorted((*world.live.values(), *world.ended.values()), key=lambda run: run.created_at)
    return next((run.job.python for run in reversed(runs) if run.job.train is not None and run.job.gpus), "")


def tested(turn: Turn, event: events.GpuTested) -> None:
    """The self-test came to an end: passed, the GPU comes back; failed, a person must look."""
    gpu = turn.world.gpus.get(event.gpu)
    if gpu is None or (gpu.quarantine is not None and event.answers != gpu.test_key):
        return  # of a test that was overtaken
    gpu = replace(gpu, test_key="")
    turn.world = turn.world.with_gpu(gpu)
    quarantine = gpu.quarantine
    if quarantine is None:
        if event.ran and not event.ok:
            enter(turn, gpu, f"it failed its self-test: {event.text}", "person")
    elif not event.ran:
        _not_run(turn, gpu, quarantine, event.text)
    elif event.ok and _may_leave(quarantine):
        release(turn, gpu, f"it passed its self-test ({event.text})")
    else:
        _after_test(turn, gpu, quarantine, event)


def _may_leave(quarantine: Quarantine) -> bool:
    """True if a passed test is all that was missing: nothing else is needed, and nothing happened meanwhile."""
    ready = quarantine.needs == "test" or quarantine.met
    return ready and not quarantine.by and quarantine.needs != "person" and not quarantine.retest


def _after_test(turn: Turn, gpu: Gpu, quarantine: Quarantine, event: events.GpuTested) -> None:
    """What computes or remembers wrongly is for a person, however the next test ends; a pass may not be enough."""
    what = "test passed" if event.ok else "test failed"
    later = replace(quarantine, tests=quarantine.tests + 1, retest=False, asked="", result=event.text)
    later = _with_first_test(later, turn.now) if quarantine.retest else replace(later, next_test_at=None)
    gpu = passport.noted(replace(gpu, quarantine=later), turn.now, what, event.text)
    turn.world = turn.world.with_gpu(gpu)
    if not event.ok and not quarantine.by:
        enter(turn, replace(gpu, quarantine=None), f"it failed its self-test: {event.text}", "person")


def _not_run(turn: Turn, gpu: Gpu, quarantine: Quarantine, why: str) -> None:
    """The test could not be made: that says nothing of the GPU; after some tries a person is asked."""
    tries = quarantine.not_run + 1
    ready = quarantine.needs == "test" or quarantine.met or bool(quarantine.asked)
    at = turn.now + NOT_RUN_AGAIN_S if ready else None
    later = replace(quarantine, not_run=tries, next_test_at=at, result=f"not tested: {why}")
    gpu = replace(gpu, quarantine=later)
    turn.world = turn.world.with_gpu(gpu)
    if tries == NOT_RUN_LIMIT:
        text = f"{full_label(gpu)} cannot be tested: {why}."
        turn.announce(None, "gpu-untested", "page", f"{gpu.label} cannot be tested", text, todo=todo(turn.world, gpu))


def treated(turn: Turn, event: events.GpuTreated) -> None:
    """A reset or a reboot was tried: a failed one is for a person. Or the power was limited, or that was lifted."""
    gpu = turn.world.gpus.get(event.gpu)
    if gpu is None:
        return
    if event.what == "power":
        gpu = _powered(turn, gpu, event)
    if event.what == "reset" and event.ok:
        gpu = replace(gpu, power_limited=False, power_before_w=0.0)
        gpu = passport.treated(gpu, turn.now, "reset", event.text)
    else:  # a restart counts when it is over: see rebooted
        outcome = f"{event.what} ordered" if event.ok else f"{event.what} failed"
        gpu = passport.noted(gpu, turn.now, outcome, event.text)
    turn.world = turn.world.with_gpu(gpu)
    if event.what == "nothing" and gpu.quarantine is not None and gpu.quarantine.needs == "reboot":
        met(turn, gpu, event.text)  # it was restarted since
    elif event.what == "reset" and event.ok:
        met(turn, replace(gpu, reset_when_idle=""), "it was reset")
    elif event.what in {"reset", "reboot"} and not event.ok:
        enter(turn, gpu, f"the {event.what} failed: {event.text}", "person")


def _powered(turn: Turn, gpu: Gpu, event: events.GpuTreated) -> Gpu:
    """What is so now: a limit that could not be set is none, one that could not be lifted is still there."""
    limited = (event.share < 1.0) is event.ok
    if limited and not event.ok:
        text = f"{full_label(gpu)} is well again, but keeps the lower power limit: {event.text}."
        watts = f"{gpu.power_before_w:g}" if gpu.power_before_w else "WATTS"
        command = f"sudo nvidia-smi -i {gpu.uuid} -pl {watts}"
        turn.announce(None, "gpu-power", "notice", f"{gpu.label} keeps a power limit", text, todo=command)
    before_w = gpu.power_before_w if event.share >= 1.0 else event.watts
    return replace(gpu, power_limited=limited, power_before_w=before_w if limited else 0.0)


def rebooted(turn: Turn) -> None:
    """The machine was restarted: what was found before is over, and what needed that is done."""
    for before in tuple(turn.world.gpus.values()):
        gpu = replace(before, findings={}, signs=(), holders=(), not_before=0.0, reset_when_idle="")
        gpu = replace(gpu, power_limited=False, power_before_w=0.0)
        needed = gpu.quarantine is not None and gpu.quarantine.needs in {"reset", "reboot"} and not gpu.quarantine.met
        if needed:
            gpu = passport.treated(gpu, turn.now, "reboot", "the machine was restarted")
        turn.world = turn.world.with_gpu(gpu)
        if needed:
            met(turn, gpu, "the machine was restarted")


def bound(turn: Turn) -> None:
    """A clock that was wrong when a time was set must not keep a GPU out for years."""
    for gpu in tuple(turn.world.gpus.values()):
        later = replace(gpu, not_before=min(gpu.not_before, turn.now + NOT_RUN_AGAIN_S))
        due_at = gpu.quarantine.next_test_at if gpu.quarantine is not None else None
        if gpu.quarantine is not None and due_at is not None:
            at = min(due_at, turn.now + LONGEST_S)
            later = replace(later, quarantine=replace(gpu.quarantine, next_test_at=at))
        if later != gpu:
            turn.world = turn.world.with_gpu(later)


def order(turn: Turn, event: events.GpuOrdered) -> None:
    """What a person wants."""
    gpu = turn.world.gpus.get(event.gpu)
    if gpu is not None:
        _ORDERS[event.what](turn, gpu, event)


def _quarantine(turn: Turn, gpu: Gpu, event: events.GpuOrdered) -> None:
    reason = event.reason or f"{event.by} wants it so"
    enter(turn, replace(gpu, quarantine=None), reason, "person", by=event.by)  # instead of ours, whatever it needed


def _release(turn: Turn, gpu: Gpu, event: events.GpuOrdered) -> None:
    """Back into use; one that is not there any more is forgotten."""
    if not gpu.present:
        turn.world = leases.counted(turn.world.without_gpu(gpu.uuid))
        turn.announce(
            None, "gpu-forgotten", "info", f"{gpu.label} is forgotten", f"{full_label(gpu)}: {event.by} asked."
        )
        return
    kept = {key: one for key, one in gpu.findings.items() if not KINDS[one.kind].needs}
    release(turn, replace(gpu, findings=kept), f"{event.by} released it")


def _drain(turn: Turn, gpu: Gpu, event: events.GpuOrdered) -> None:
    drain = Drain(by=event.by, since=turn.now, until_at=event.until_at, reason=event.reason)
    told = f"{event.by}: {event.reason}" if event.reason else event.by
    turn.world = turn.world.with_gpu(passport.noted(replace(gpu, drain=drain), turn.now, "drain", told))


def _undrain(turn: Turn, gpu: Gpu, event: events.GpuOrdered) -> None:
    turn.world = turn.world.with_gpu(passport.noted(replace(gpu, drain=None), turn.now, "undrain", event.by))


def _test_now(turn: Turn, gpu: Gpu, event: events.GpuOrdered) -> None:
    """A test of a GPU, in quarantine or idle: it is out of use meanwhile.

    Whoever wants one that needs a reset tested has made the reset: nothing else would tell us of it.
    """
    if gpu.quarantine is None:
        gpu = enter(turn, gpu, f"{event.by} wants it tested", "test", asked=event.by)
    elif gpu.quarantine.needs == "reset":
        gpu = met(turn, gpu, f"{event.by} wants it tested")
    quarantine = gpu.quarantine
    if quarantine is not None and not gpu.testing:
        soon = replace(quarantine, next_test_at=turn.now, asked=event.by)
        turn.world = turn.world.with_gpu(replace(gpu, quarantine=soon))


_ORDERS = {
    "drain": _drain,
    "undrain": _undrain,
    "quarantine": _quarantine,
    "release": _release,
    "test": _test_now,
}
