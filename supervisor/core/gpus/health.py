"""What is done about what is found: who is told, which GPU is given out no more, which attempt is ended.

An attempt is ended for its GPU only if two sources agree that the GPU cannot go on computing: the kernel log, NVML,
the PCI bus (sysfs) and the driver's own recovery action are four. One alone keeps new trainings away.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from supervisor.core import events, orders
from supervisor.core.actions import TreatGpu
from supervisor.core.gpus import court, leases, notices, passport, quarantine, xids
from supervisor.core.gpus.findings import KINDS, Kind
from supervisor.core.gpus.lookup import full_label
from supervisor.core.gpus.model import Finding, Gpu, Sign, XidNote
from supervisor.core.model import Phase, Run, StopOrder
from supervisor.core.turn import Turn

SIGN_S = 600.0  # two signs must not lie further apart
SAME_S = 10.0  # NVML and the kernel log tell of one Xid within so long
KILLED_S = 60.0  # after our own kill the driver cleans up, and says so
BUSY_AGAIN_S = 30.0
WATCH = "the watch over GPUs"
_HEAT = frozenset({"too-hot", "throttled"})
_SOURCES = {"inventory": "nvml", "recovery": "driver"}
_NEEDS = {"test": "test", "reset": "reset", "reboot": "reboot", "quarantine": "person", "rma": "person"}


# ---- findings
def found(turn: Turn, event: events.GpuFound) -> None:
    """Something about a GPU began, or is over."""
    gpu = turn.world.gpus.get(event.gpu)
    if gpu is None or event.finding not in KINDS:
        return
    key = f"{event.finding}/{event.source}"
    if event.open:
        _open(turn, gpu, key, event)
    elif key in gpu.findings:
        _close(turn, gpu, key, event)


def _open(turn: Turn, gpu: Gpu, key: str, event: events.GpuFound) -> None:
    kind, before = KINDS[event.finding], gpu.findings.get(key)
    since = before.since if before is not None else turn.now
    finding = Finding(kind=event.finding, source=event.source, text=event.text, since=since, values=event.values)
    gpu = replace(gpu, findings={**gpu.findings, key: finding})
    remapped = event.values.get("remapped_rows")
    if remapped is not None:
        gpu = replace(gpu, passport=replace(gpu.passport, remapped_rows=int(remapped)))
    if before is None:
        gpu = passport.noted(gpu, turn.now, event.finding, event.text)
    turn.world = turn.world.with_gpu(gpu)
    known = before is not None or any(one.kind == event.finding for other, one in gpu.findings.items() if other != key)
    confirm(turn, gpu)  # first, so that what is told of its trainings is true
    covered = kind.needs and (gpu.quarantine is None or _is_fresh(gpu, turn.now))
    hot_already = event.finding in _HEAT and any(one.kind in _HEAT for key_, one in gpu.findings.items() if key_ != key)
    if not known and not covered and not hot_already:  # a quarantine is told with its reason
        _tell(turn, gpu, kind, event)
    if kind.needs and not (known and gpu.quarantine is not None):
        gpu = quarantine.enter(turn, gpu, f"it {kind.title}: {event.text}", kind.needs)
    if event.finding in _HEAT:
        _limit_power(turn, gpu)


def _is_fresh(gpu: Gpu, now: float) -> bool:
    """True if our own quarantine of the GPU was told a moment ago."""
    quarantined = gpu.quarantine
    return quarantined is not None and not quarantined.by and abs(now - quarantined.since) <= SIGN_S


def _tell(turn: Turn, gpu: Gpu, kind: Kind, event: events.GpuFound) -> None:
    """Say once that something is wrong; who runs there is named."""
    text = ". ".join(
        filter(
            None,
            (
                f"{full_label(gpu)} {kind.title}: {event.text}",
                notices.on_it(turn.world, gpu),
                "No new training starts there while that lasts" if kind.blocks else "",
            ),
        )
    )
    todo = kind.todo.format(index=gpu.index, uuid=gpu.uuid)
    facts = {"uuid": gpu.uuid, **{name: passport.short(value) for name, value in event.values.items()}}
    title = f"{gpu.label} {kind.title}"
    turn.announce(None, f"gpu-{event.finding}", kind.severity, title, f"{text}.", todo=todo, facts=facts)


def _close(turn: Turn, gpu: Gpu, key: str, event: events.GpuFound) -> None:
    kind = KINDS[event.finding]
    gpu = replace(gpu, findings={other: one for other, one in gpu.findings.items() if other != key})
    gpu = passport.counted(gpu, throttled_s=event.values.get("throttled_s", 0.0))
    gpu = passport.noted(gpu, turn.now, f"{event.finding} is over", event.text)
    turn.world = turn.world.with_gpu(gpu)
    others = any(KINDS[one.kind].blocks for one in gpu.findings.values())
    if kind.severity != "info" and gpu.quarantine is None and not _has(gpu, event.finding) and not others:
        text = f"{full_label(gpu)}: it {kind.title} no more. {event.text}".rstrip()
        turn.announce(None, "gpu-over", "info", f"{gpu.label} is well again", text, facts={"uuid": gpu.uuid})
    if kind.needs and not any(KINDS[one.kind].needs for one in gpu.findings.values()):
        gpu = quarantine.met(turn, gpu, f"it {kind.title} no more")
    if event.finding in _HEAT:
        _lift_limit(turn, gpu)


def _has(gpu: Gpu, kind: str) -> bool:
    return any(one.kind == kind for one in gpu.findings.values())


def _limit_power(turn: Turn, gpu: Gpu) -> Gpu:
    """Give a hot GPU less power, where the administrator wants that."""
    share = turn.world.policy.gpu.power_cap
    return _power(turn, gpu, share) if share and not gpu.power_limited else gpu


def _lift_limit(turn: Turn, gpu: Gpu) -> Gpu:
    over = gpu.power_limited and not any(_has(gpu, kind) for kind in _HEAT)
    return _power(turn, gpu, 1.0) if over else gpu


def _power(turn: Turn, gpu: Gpu, share: float) -> Gpu:
    watts = gpu.power_before_w if share >= 1.0 else 0.0
    gpu = replace(gpu, power_limited=share < 1.0)
    turn.world = turn.world.with_gpu(gpu)
    key = f"gpu/{gpu.uuid}/power-{turn.number()}"
    turn.act(TreatGpu(key=key, gpu=gpu.uuid, what="power", share=share, watts=watts))
    return gpu


def held(turn: Turn, event: events.GpuHeld) -> None:
    """Others are on a GPU, or no more."""
    gpu = turn.world.gpus.get(event.gpu)
    if gpu is not None and gpu.holders != event.holders:
        turn.world = turn.world.with_gpu(replace(gpu, holders=event.holders))


def busy(turn: Turn, found: Mapping[str, str]) -> None:
    """A look before the start found that these GPUs are not free: they are not tried again at once."""
    for uuid, why in found.items():
        gpu = turn.world.gpus.get(uuid)
        held_back = gpu is not None and gpu.holders and turn.world.policy.gpu.foreign == "respect"
        if gpu is None or held_back:
            continue  # held back until the others are gone, and no longer
        later = replace(gpu, not_before=turn.now + BUSY_AGAIN_S, not_before_reason=why)
        turn.world = turn.world.with_gpu(later)


# ---- Xids
def xid_seen(turn: Turn, event: events.XidSeen) -> None:
    """The driver reported an error of a GPU."""
    _remember_place(turn, event)
    gpu = turn.world.gpus.get(event.gpu)
    if gpu is None:
        _unknown_gpu(turn, event)
        return
    if event.old:
        turn.world = turn.world.with_gpu(
            passport.noted(gpu, event.at, f"xid {event.xid}", f"{_without_number(event)} (old)")
        )
        return
    policy = turn.world.policy.gpu
    row = xids.said(xids.row(event.xid, policy.xids), event.severity, event.action)
    run = _whose(turn, gpu, event)
    if row.expected_after_kill and _was_killed(turn, gpu):
        return
    told = _told(gpu, event)
    if told is not None and (event.source == "nvml" or told.source == "kernel"):
        return
    note = _note(event, run)
    if told is not None:  # NVML was faster, and the kernel log says more: that counts instead, and once
        gpu = replace(gpu, xids=tuple(one for one in gpu.xids if one is not told))
    else:
        gpu = passport.xid_counted(gpu, event.xid)
        gpu = passport.noted(gpu, turn.now, f"xid {event.xid}", f"{row.title}: {_without_number(event)}", note.name)
    gpu = court.noted(gpu, note, row)
    turn.world = turn.world.with_gpu(gpu)
    judgement = court.judge(row, gpu, note, turn.world)
    if judgement.gpu == "last":
        gpu = replace(gpu, xids=(*gpu.xids[:-1], replace(gpu.xids[-1], last=True)))
        turn.world = turn.world.with_gpu(gpu)
    _carry_out(turn, gpu, _case(row, judgement, run, event))


def _note(event: events.XidSeen, run: Run | None) -> XidNote:
    note = XidNote(xid=event.xid, at=event.at, place=event.place, source=event.source)
    return note if run is None else replace(note, run=run.id, name=run.name, attempt=run.attempts)


def _remember_place(turn: Turn, event: events.XidSeen | events.KernelSaid) -> None:
    """How far the kernel log was read: nothing is missed or acted upon twice over a restart."""
    world = turn.world
    if event.seq >= 0 and (event.seq > world.kernel_seq or world.kernel_boot != world.boot):
        turn.world = replace(world, kernel_seq=event.seq, kernel_boot=world.boot)


def _unknown_gpu(turn: Turn, event: events.XidSeen) -> None:
    if event.old or _said_before(turn, f"xid-of/{event.bus_id or event.gpu}"):
        return
    text = f"The driver reported Xid {event.xid} of a GPU at {event.bus_id or 'an unknown place'}: {event.text}."
    turn.announce(None, "xid", "notice", f"Xid {event.xid} of an unknown GPU", text)


def _whose(turn: Turn, gpu: Gpu, event: events.XidSeen) -> Run | None:
    """The run whose process it was; where the line does not tell, the only one that has the GPU."""
    run = turn.world.run(event.run) if event.run else None
    if run is not None or event.pid:
        return run
    runs = leases.on(turn.world, gpu.uuid)
    return runs[0] if len(runs) == 1 else None


def _told(gpu: Gpu, event: events.XidSeen) -> XidNote | None:
    """What the other source told of this very Xid already."""
    same = (one for one in gpu.xids if one.xid == event.xid and one.source != event.source)
    return next((one for one in same if abs(event.at - one.at) <= SAME_S), None)


def _was_killed(turn: Turn, gpu: Gpu) -> bool:
    """True if we ended what ran there a moment ago: the driver's cleaning up is no news."""
    for run in turn.world.live.values():
        attempt = run.attempt
        if attempt is None or gpu.uuid not in attempt.gpu_ids or not attempt.kills:
            continue
        if attempt.ended_at is None or turn.now - attempt.ended_at <= KILLED_S:
            return True
    return False


class _Case(msgspec.Struct, frozen=True):
    """One Xid: its row, what it leads to, whose work it was (`owned`: by its pid), and how a person is told."""

    row: xids.Row
    judgement: court.Judgement
    run: Run | None
    text: str
    owned: bool = False


def _case(row: xids.Row, judgement: court.Judgement, run: Run | None, event: events.XidSeen) -> _Case:
    why = f"; {judgement.why}" if judgement.why else ""
    text = f"Xid {event.xid} ({row.title}){why}: {_without_number(event)}"
    return _Case(row, judgement, run, text, owned=bool(event.run))


def _without_number(event: events.XidSeen) -> str:
    return event.text.removeprefix(f"{event.xid}, ").removeprefix(f"{event.xid}: ")


def _carry_out(turn: Turn, gpu: Gpu, case: _Case) -> None:
    """Tell, put in quarantine, and end what cannot go on."""
    row, judgement = case.row, case.judgement
    if judgement.attempt == "end":  # first, so that what is told of its trainings is true
        gpu = _sign(turn, gpu, case)
    if row.cause and (judgement.attempt in {"elsewhere", "end"} or (case.owned and row.fault == "app")):
        _blame(turn, gpu, case)
    needs = _NEEDS.get(judgement.gpu)
    if needs is not None:
        quarantine.enter(turn, gpu, case.text, needs, xid=row.xid)
    elif judgement.gpu == "reset-idle":
        turn.world = turn.world.with_gpu(replace(gpu, reset_when_idle=case.text))
        _tell_xid(turn, gpu, case, todo=f"when it is idle: sudo nvidia-smi --gpu-reset -i {gpu.uuid}")
    elif judgement.gpu in {"note", "last"} or judgement.blamed == "job":
        _tell_xid(turn, gpu, case, todo=row.todo.format(index=gpu.index, uuid=gpu.uuid))


def _sign(turn: Turn, gpu: Gpu, case: _Case) -> Gpu:
    """Whatever the kernel log says, once or in two words, is one source; what the driver wants done is another."""
    source = "driver" if case.row.by_action else "kernel"
    sign = Sign(source=source, text=case.text, at=turn.now, cause=case.row.cause, xid=case.row.xid)
    others = (one for one in gpu.signs if one.source != source and abs(turn.now - one.at) <= SIGN_S)
    gpu = replace(gpu, signs=(*others, sign))
    turn.world = turn.world.with_gpu(gpu)
    confirm(turn, gpu)
    return gpu


def _tell_xid(turn: Turn, gpu: Gpu, case: _Case, todo: str) -> None:
    """Say it once a day for each GPU, Xid and job."""
    name = case.run.name if case.run is not None else ""
    if _said_before(turn, f"xid/{gpu.uuid}/{case.row.xid}/{name}"):
        return
    title = f"Xid {case.row.xid} on {gpu.label}" + (f" ({name})" if name else "")
    body = f"{full_label(gpu)}: {case.text}. {case.row.means}".rstrip()
    turn.announce(None, "xid", "notice", title, body, todo=todo, facts={"uuid": gpu.uuid})


def _said_before(turn: Turn, key: str, within_s: float = 86400.0) -> bool:
    """True if that was said within a day; else it counts as said from now on."""
    kept = ("driver/", "warned/")  # said until it is over, not for a day
    told = {one: at for one, at in turn.world.told.items() if abs(turn.now - at) < within_s or one.startswith(kept)}
    if key in told:
        return True
    turn.world = replace(turn.world, told={**told, key: turn.now})
    return False


def _blame(turn: Turn, gpu: Gpu, case: _Case) -> None:
    """If an attempt on that GPU dies now, that is why: the one whose process it was, else all that are there."""
    hint = case.judgement.attempt == "resume"
    names = {"gpu_hint" if hint else "gpu_fault": case.row.cause}
    for run in leases.on(turn.world, gpu.uuid):
        attempt = run.attempt
        ended = run.stop is not None and run.stop.of_gpu  # it is known why
        if attempt is None or ended or (case.run is not None and case.run.id != run.id) or attempt.examined:
            continue
        if attempt.gpu_fault and hint:
            continue  # what a program does on a broken GPU explains nothing more
        text = f"{gpu.label}: {case.text}"
        blamed = replace(attempt, **names, gpu_fault_at=turn.now, gpu_text=text, gpu_blamed=gpu.uuid)
        turn.put(replace(run, attempt=blamed))


# ---- ending what cannot go on
def signs(gpu: Gpu, now: float) -> dict[str, tuple[str, str]]:
    """What says that the GPU cannot go on: for each source the cause and the words."""
    told = {sign.source: (sign.cause, sign.text) for sign in gpu.signs if abs(now - sign.at) <= SIGN_S}
    for one in gpu.findings.values():
        if KINDS[one.kind].cause:
            source = "driver" if one.kind.startswith("recovery") else _SOURCES.get(one.source, one.source)
            told.setdefault(source, (KINDS[one.kind].cause, f"it {KINDS[one.kind].title}: {one.text}"))
    return told


def resumed(turn: Turn, run_id: str) -> None:
    """A stop was taken back, of a training whose GPU failed while somebody else was about to end it."""
    run = turn.world.live.get(run_id)
    if run is None or run.attempt is None or not run.attempt.gpu_fault:
        return
    for uuid in run.attempt.gpu_ids:
        gpu = turn.world.gpus.get(uuid)
        if gpu is not None and gpu.quarantine is not None:
            confirm(turn, gpu, run.attempt.gpu_fault_at)


def confirm(turn: Turn, gpu: Gpu, at: float | None = None) -> None:
    """End what runs on a GPU of which two sources say (or said then, `at`) that it cannot go on."""
    said = signs(gpu, turn.now if at is None else at)
    if len(said) < 2:
        return
    causes = [cause for cause, _ in said.values() if cause]
    cause = "gpu-lost" if "gpu-lost" in causes else next(iter(causes), "gpu-fault")
    text = f"{gpu.label} failed: " + "; ".join(f"{words} ({source})" for source, (_, words) in said.items())
    for run in leases.on(turn.world, gpu.uuid):
        _end(turn, run, gpu, cause, text)


def _end(turn: Turn, run: Run, gpu: Gpu, cause: str, text: str) -> None:
    """End an attempt whose GPU failed; its newest verified checkpoint goes on elsewhere."""
    attempt, order = run.attempt, run.stop
    over = attempt is None or attempt.watched or attempt.ended_at is not None or run.phase is Phase.HELD
    if attempt is None or over or (order is not None and order.of_gpu):
        return
    attempt = replace(attempt, gpu_fault=cause, gpu_fault_at=turn.now, gpu_text=text, gpu_blamed=gpu.uuid)
    run = turn.put(replace(run, attempt=attempt))
    goes_on = order is None or order.then is Phase.QUEUED
    stop = StopOrder(
        how="term",
        then=Phase.QUEUED if goes_on or order is None else order.then,
        by=WATCH if goes_on or order is None else order.by,
        reason=text if goes_on or order is None else order.reason,
        cause=cause,
        seen=text,
        seen_at=turn.now,
        of_gpu=True,
    )
    orders.stop(turn, run, stop)


# ---- the machine
def kernel_said(turn: Turn, event: events.KernelSaid) -> None:
    """The kernel log tells of a disk that fails, a file system that became read-only, or whom it killed for memory."""
    _remember_place(turn, event)
    run = turn.world.live.get(event.run) if event.what == "oom" else None
    if run is not None and run.attempt is not None and not run.attempt.examined:
        turn.put(replace(run, attempt=replace(run.attempt, oom_text=event.text)))
    said = _KERNEL.get(event.what)
    if said is None or _said_before(turn, f"kernel/{event.what}/{event.device}"):
        return
    severity, title, todo = said
    text = event.text if event.what == "unreadable" else f"The kernel says: {event.text}"
    turn.announce(None, event.what, severity, title.format(event.device or "a disk"), text, todo=todo)


_KERNEL = {
    "unreadable": (
        "notice",
        "The kernel log cannot be read",
        "AmbientCapabilities=CAP_SYSLOG in the daemon's unit, or its user in the group systemd-journal",
    ),
    "io-error": ("notice", "{} has I/O errors", "look at `dmesg -T | tail` and `smartctl -a` of the disk"),
    "read-only": (
        "page",
        "{} became read-only",
        "look at `dmesg -T | tail`: the file system found an error; repair it",
    ),
}
