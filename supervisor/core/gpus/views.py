"""GPUs as plain data for people and programs: who they are, how they stand, what they do, who waits for them. Pure.

Times are Unix seconds (`_at`), durations seconds (`_s`). What was read of a GPU is one of: {"value": 61}; {"absent":
true}, the board has no such value; {"error": "GPU_IS_LOST"}, it could not be read; {"stale_s": 42, "value": 61}, it is
so old; {"unknown": true}, nobody read it yet. What is missing is never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from supervisor.core import story, words
from supervisor.core.gpus import leases, lookup, model, waits, xids
from supervisor.core.gpus.findings import KINDS
from supervisor.core.gpus.model import Finding, Gpu, Passport
from supervisor.core.gpus.readings import NAMES, Absent, Failed, Reading, Stale, Value
from supervisor.core.gpus.standing import STATES, is_drained, standing
from supervisor.core.model import Phase, Run, World

VERSION = 1
#: The quick tier comes every 5 s: what is older than some of them is shown with its age.
STALE_S = 30.0
ATTEMPTS_SHOWN = 50

#: nvml.h, nvmlClocksEventReason*: why the clocks are lower than they could be. Idle is none of them.
THROTTLE = {
    0x2: "clocks set by an application",
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "clocks kept in step with other GPUs",
    0x20: "heat, slowed by the driver",
    0x40: "heat, slowed by the hardware",
    0x80: "power brake",
    0x100: "clocks set by the display",
}
_CODES = {15: "GPU_IS_LOST", 16: "RESET_REQUIRED", 999: "UNKNOWN"}
_DRIVER = {
    model.STARTING: ("the driver has not answered yet", ""),
    model.OK: ("", ""),
    model.NONE: (
        "the driver works, and finds no GPU",
        "`nvidia-smi -L` and `lspci | grep -i nvidia` show what is there",
    ),
    "no-driver": (
        "no NVIDIA driver is loaded",
        "`nvidia-smi` says why; `modprobe nvidia` loads it where it is installed",
    ),
    "no-library": (
        "NVIDIA's library is not found, so nobody watches the GPUs",
        "install the driver's libnvidia-ml.so.1",
    ),
    "old-binding": (
        "the deprecated package pynvml hides nvidia-ml-py, so nobody watches the GPUs",
        "pip uninstall pynvml; pip install --force-reinstall nvidia-ml-py",
    ),
    "version-mismatch": (
        "the driver was upgraded, and its kernel module is still the old one",
        "restart the machine when its trainings may be stopped",
    ),
    "no-permission": (
        "the GPUs may not be opened",
        "`ls -l /dev/nvidia*` shows who may; in a container they may have been taken away",
    ),
    "error": ("the driver answers with an error", "`nvidia-smi` and `dmesg -T | grep -i nvrm` tell more"),
    "crashed": (
        "the probe crashes again and again",
        "`dmesg -T | grep -i nvrm` tells more; the daemon's log has the rest",
    ),
    "unresponsive": ("the driver does not answer", "`dmesg -T | tail`; a restart of the machine is usually needed"),
    "off": ("GPUs are not watched ([gpu] watch = false)", ""),
}

View = dict[str, Any]
Readings = Mapping[str, Reading]


def gpus_view(world: World, readings: Readings, now: float, *, kernel: str = "") -> View:
    """All GPUs that the server is known to have, and who waits for one. `kernel`: what the kernel log's reader says."""
    gpus = shown(world)
    return {
        "version": VERSION,
        "at": now,
        "watched": leases.watched(world),
        "driver": driver_view(world),
        "kernel_log": kernel or None,
        "summary": summary(world, now),
        "usable": sum(_is_usable(gpu, world, now) for gpu in gpus),
        "gpus": [row(gpu, world, readings.get(gpu.uuid), now) for gpu in gpus],
        "queue": queue_view(world),
    }


def gpu_view(
    world: World,
    uuid: str,
    readings: Readings,
    now: float,
    *,
    rows: Sequence[story.Row] = (),
    kernel: str = "",
) -> View:
    """Everything about one GPU, with its passport. `rows` is its history. Raises KeyError for one that nobody knows."""
    gpu = next((one for one in leases.devices(world) if one.uuid == uuid), None) or world.gpus[uuid]
    return {
        "version": VERSION,
        "at": now,
        "driver": driver_view(world),
        "kernel_log": kernel or None,
        **row(gpu, world, readings.get(uuid), now),
        "label": lookup.full_label(gpu),
        "linked_to": sorted(world.gpus[link].index for link in gpu.facts.links if link in world.gpus),
        "signs": [msgspec.to_builtins(sign) for sign in gpu.signs],
        "recent_xids": [_xid_view(note, world) for note in gpu.xids],
        "passport": passport_view(gpu.passport, world),
        "attempts": attempts_view(world, uuid),
        "history": [event for event in story.events_view(rows)["events"] if event["kind"] != "GpusSeen"],
        "queue": queue_view(world),
    }


def shown(world: World) -> list[Gpu]:
    """The GPUs that this server has or should have: not those in whose slot another one is now."""
    gpus = leases.devices(world)
    gone = lookup.replaced(gpus)
    return [gpu for gpu in gpus if gpu.uuid not in gone]


def summary(world: World, now: float) -> str:
    """`7 of 8 usable (GPU 3 is lost)`; empty for a server that never had a GPU and has none."""
    gpus = shown(world)
    in_trouble = leases.watched(world) and world.driver.state not in {model.OK, model.STARTING, model.NONE}
    if not gpus:
        return f"not known ({driver_view(world)['words']})" if in_trouble else ""
    if not leases.watched(world):
        why = driver_view(world)["words"]
        return f"{len(gpus)}, given out by index{': ' if why else ''}{why}"
    if in_trouble:
        return f"0 of {len(gpus)} usable: {driver_view(world)['words']}"
    told = [f"{gpu.label} {standing(gpu, world, now).words}" for gpu in gpus if not _is_usable(gpu, world, now)]
    return f"{len(gpus) - len(told)} of {len(gpus)} usable" + (f" ({', '.join(told)})" if told else "")


def _is_usable(gpu: Gpu, world: World, now: float) -> bool:
    """True if a training of ours is on it or may be started there."""
    return not leases.unusable(gpu, world, now)


def driver_view(world: World) -> View:
    """How the driver as a whole is, in words too."""
    driver = world.driver
    known = driver if world.policy.gpu.watch else model.Driver(state="off")
    told, todo = _DRIVER.get(known.state, (f"the driver is not usable ({known.state})", ""))
    text = known.text
    if told and "; " in text:  # the probe's own words, and what helps
        told, _, todo = text.partition("; ")
        text = ""
    return {
        "state": known.state,
        "version": known.version or None,
        "text": text,
        "words": told,
        "todo": todo,
        "since_at": known.since or None,
    }


def queue_view(world: World) -> list[View]:
    """The runs that wait for GPUs, the first one first, and what for."""
    waiting = [run for run in world.live.values() if run.phase is Phase.QUEUED and _wants_gpu(run)]
    waiting.sort(key=lambda run: (-run.priority, run.created_at, run.id))
    return [
        {
            "run": run.id,
            "name": run.name,
            "gpus": run.job.gpus,
            "priority": run.priority,
            "text": words.waiting(waits.as_seen(run, world).waiting_for),
            "since_at": run.phase_since,
        }
        for run in waiting
    ]


def _wants_gpu(run: Run) -> bool:
    return run.waiting_for.partition(": ")[0] == "GPU"


# ---- one GPU
def row(gpu: Gpu, world: World, reading: Reading | None, now: float) -> View:
    """One GPU as the list shows it."""
    stands, facts = standing(gpu, world, now, reading), gpu.facts
    return {
        "index": gpu.index,
        "uuid": gpu.uuid if leases.watched(world) else None,
        "name": facts.name or None,
        "bus_id": facts.bus_id or None,
        "memory_bytes": facts.memory_bytes or None,
        "numa": facts.numa if facts.numa >= 0 else None,
        "links": list(facts.links),
        "persistence": facts.persistence,
        "mig": facts.mig,
        "present": gpu.present,
        "state": stands.state,
        "words": STATES[stands.state],
        "why": stands.why,
        "todo": stands.todo,
        "usable": _is_usable(gpu, world, now),
        "leases": [_lease(run) for run in leases.on(world, gpu.uuid)],
        "holders": [msgspec.to_builtins(holder) for holder in gpu.holders],
        "findings": [_finding(one, gpu) for one in gpu.findings.values()],
        "quarantine": _quarantine(gpu),
        "drain": _drain(gpu, now),
        "reset_when_idle": gpu.reset_when_idle or None,
        "power_limited": gpu.power_limited,
        "read_at": reading.at if reading is not None else None,
        "values": values_view(gpu, reading, now),
    }


def _lease(run: Run) -> View:
    attempt = run.attempt
    return {
        "run": run.id,
        "name": run.name,
        "attempt": attempt.number if attempt is not None else None,
        "since_at": (attempt.started_at if attempt is not None else None) or run.phase_since,
        "phase": run.phase.value,
        "share": run.job.gpu.share,
    }


def _finding(finding: Finding, gpu: Gpu) -> View:
    kind = KINDS.get(finding.kind)
    return {
        "kind": finding.kind,
        "title": kind.title if kind else finding.kind,
        "severity": kind.severity if kind else "notice",
        "blocks": kind is not None and kind.blocks,
        "source": finding.source,
        "text": finding.text,
        "since_at": finding.since,
        "values": dict(finding.values),
        "todo": kind.todo.format(index=gpu.index, uuid=gpu.uuid) if kind else "",
    }


def _quarantine(gpu: Gpu) -> View | None:
    held = gpu.quarantine
    if held is None:
        return None
    return {
        "reason": held.reason,
        "since_at": held.since,
        "needs": held.needs,
        "met": held.met,
        "by": held.by or None,
        "xid": held.xid or None,
        "tests": held.tests,
        "testing": gpu.testing,
        "next_test_at": held.next_test_at,
        "result": held.result or None,
    }


def _drain(gpu: Gpu, now: float) -> View | None:
    if gpu.drain is None or not is_drained(gpu, now):
        return None
    drain = gpu.drain
    return {"by": drain.by, "since_at": drain.since, "until_at": drain.until_at, "reason": drain.reason or None}


# ---- values
def values_view(gpu: Gpu, reading: Reading | None, now: float) -> View:
    """Every value that a reading may have; the clocks' reasons in words."""
    cells = {name: _cell(name, reading, now) for name in sorted(NAMES)}
    if "unknown" in cells["memory_total_bytes"] and gpu.facts.memory_bytes:
        cells["memory_total_bytes"] = {"value": gpu.facts.memory_bytes}
    reasons = cells.pop("clocks_event_reasons")
    if "value" in reasons:
        reasons = {**reasons, "value": throttle_words(int(reasons["value"]))}
    return {**cells, "throttle": reasons}


def throttle_words(bits: int) -> list[str]:
    """Why the clocks are lower than they could be; bits that nobody knows yet stay numbers."""
    told = [text for bit, text in THROTTLE.items() if bits & bit]
    unknown = bits & ~(sum(THROTTLE) | 0x1)
    return [*told, *([f"reason 0x{unknown:x}"] if unknown else ())]


def _cell(name: str, reading: Reading | None, now: float) -> View:
    if reading is None:
        return {"unknown": True}
    if reading.error is not None:  # what was read before says nothing of the GPU as it is
        return {"error": _error(reading.error)}
    value = reading.values.get(name)
    return {"unknown": True} if value is None else _shown_value(value, max(0.0, now - reading.at))


def _shown_value(value: Value, age_s: float) -> View:
    if isinstance(value, Absent):
        return {"absent": True}
    if isinstance(value, Failed):
        return {"error": _error(value)}
    if isinstance(value, Stale):
        return {"stale_s": round(value.age_s)}
    return {"stale_s": round(age_s), "value": value} if age_s > STALE_S else {"value": value}


def _error(failed: Failed) -> str:
    return failed.name or _CODES.get(failed.code, f"NVML {failed.code}")


# ---- the record
def passport_view(passport: Passport, world: World) -> View:
    """The record of a GPU for life."""
    return {
        "first_seen_at": passport.first_seen_at or None,
        "attempts": passport.attempts,
        "busy_s": passport.busy_s,
        "failures": passport.failures,
        "xids": [
            {"xid": int(code), "count": count, "title": xids.row(int(code), world.policy.gpu.xids).title}
            for code, count in sorted(passport.xids.items(), key=lambda pair: int(pair[0]))
        ],
        "remapped_rows": passport.remapped_rows,
        "throttled_s": passport.throttled_s,
        "quarantines": passport.quarantines,
        "resets": passport.resets,
        "reboots": passport.reboots,
        "python": passport.python or None,
        "notes": [msgspec.to_builtins(note) for note in passport.notes],
    }


def _xid_view(note: model.XidNote, world: World) -> View:
    return {**msgspec.to_builtins(note), "title": xids.row(note.xid, world.policy.gpu.xids).title}


def attempts_view(world: World, uuid: str) -> list[View]:
    """The attempts known to have had this GPU, the newest first.

    Of each run the last one, and those that failed there or had Xids.
    """
    runs = sorted((*world.live.values(), *world.ended.values()), key=lambda run: -run.created_at)
    had = [(run, run.attempt.number) for run in runs if run.attempt is not None and uuid in run.attempt.gpu_ids]
    gpu = world.gpus.get(uuid)
    noted = [(note.run, note.attempt) for note in reversed(gpu.passport.notes)] if gpu is not None else []
    noted += [(note.run, note.attempt) for note in gpu.xids] if gpu is not None else []
    had += [(run, number) for name, number in noted if number and (run := world.run(name)) is not None]
    return list(_once(had))[:ATTEMPTS_SHOWN]


def _once(had: Iterable[tuple[Run, int]]) -> Iterable[View]:
    for run, number in {(run.id, number): (run, number) for run, number in had}.values():
        yield {"run": run.id, "project": run.job.project, "name": run.name, "attempt": number}
