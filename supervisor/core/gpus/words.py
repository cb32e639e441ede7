"""What the events of GPUs and of the kernel's log are called when a person reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.core.gpus.findings import KINDS
from supervisor.core.gpus.lookup import short_bus_id
from supervisor.core.plain_text import one_line

Body = Mapping[str, Any]
_ONE = re.compile(r"GPU \d+: ")
_UUID_SHOWN = 12  # "GPU-" and eight digits: as much as tells it from the others
_DRIVER = {
    "none": "the driver finds no GPU",
    "no-driver": "no NVIDIA driver is loaded",
    "no-library": "the driver's library is not found",
    "old-binding": "a deprecated package hides the binding of the driver's library",
    "version-mismatch": "the driver was upgraded while it was in use",
    "no-permission": "the GPUs may not be opened",
    "error": "the driver answers with an error",
    "crashed": "the probe of the GPUs crashes",
    "unresponsive": "the driver does not answer",
    "off": "GPUs are not watched",
}
_KERNEL = {
    "oom": "the kernel ended a process for want of memory",
    "io-error": "a disk cannot be read or written",
    "read-only": "a file system was made read-only",
    "unreadable": "what the kernel says is not seen",
}


def waiting(reason: str) -> str:
    """What a run waits for: `GPU 3: pid 4242 of alice holds 18 GiB`, or a free one, and why there is none."""
    one = reason.replace(" is in use: ", ": ", 1)
    return one if _ONE.match(one) and "; " not in one else f"a free GPU ({reason})"


def gpu_name(body: Body) -> str:
    """`GPU-1f2e3d4c` of the UUID in an event; where there is none, its place on the bus."""
    uuid = str(body.get("gpu") or "")
    if uuid:
        return uuid[:_UUID_SHOWN] if uuid.startswith("GPU-") else f"GPU {uuid}"
    return f"the GPU at {short_bus_id(str(body['bus_id']))}" if body.get("bus_id") else "a GPU"


def _seen(body: Body) -> str:
    state, gpus = str(body.get("state", "")), body.get("gpus") or ()
    version = f" (driver {body['driver']})" if body.get("driver") else ""
    if state == "ok":
        counts = {name: sum(one.get("name") == name for one in gpus) for name in dict.fromkeys(_names(gpus))}
        what = ", ".join(f"{count} x {name or 'GPU'}" for name, count in counts.items())
        return f"GPUs were found{version}: {what or 'none'}"
    text = one_line(str(body.get("text") or ""))
    if "; " in text:  # the probe's own words, with what helps
        return text
    return f"{_DRIVER.get(state, f'the driver is {state}')}{version}" + (f": {text}" if text else "")


def _names(gpus: Any) -> list[str]:
    return [str(one.get("name") or "") for one in gpus]


def _found(body: Body) -> str:
    kind = KINDS.get(str(body.get("finding")))
    title = kind.title if kind is not None else f"has {body.get('finding')}"
    text = one_line(str(body.get("text") or ""))
    if body.get("open", True):
        return f"{gpu_name(body)} {title}" + (f": {text}" if text else "") + f" (told by {body.get('source', 'nvml')})"
    return f"over: {gpu_name(body)} {title}" + (f": {text}" if text else "")


def _held(body: Body) -> str:
    holders = body.get("holders") or ()
    if not holders:
        return f"nobody else is on {gpu_name(body)} any more"
    return f"others are on {gpu_name(body)}: {', '.join(map(_holder, holders))}"


def _holder(holder: Body) -> str:
    size = holder.get("used_bytes")
    parts = (one_line(str(holder.get("command") or "")), f"{size / 1024**3:.1f} GiB" if size is not None else "")
    shown = ", ".join(filter(None, parts))
    return f"pid {holder.get('pid')} of {holder.get('user') or 'an unknown user'}" + (f" ({shown})" if shown else "")


def _xid(body: Body) -> str:
    whose = f" in {body['run']} attempt {body.get('attempt')}" if body.get("run") else _process(body)
    old = ", before the supervisor looked" if body.get("old") else ""
    text = one_line(str(body.get("text") or "")).removeprefix(f"{body.get('xid')}, ")
    return f"Xid {body.get('xid')} on {gpu_name(body)}{whose}{old}: {text}"


def _process(body: Body) -> str:
    if not body.get("pid"):
        return ""
    return f" in process {body['pid']}" + (f" ({one_line(str(body['process']))})" if body.get("process") else "")


def _kernel(body: Body) -> str:
    what = _KERNEL.get(str(body.get("what")), f"the kernel told of {body.get('what')}")
    about = f" ({body['device']})" if body.get("device") else ""
    return f"{what}{about}: {one_line(str(body.get('text', '')))}"


def _tested(body: Body) -> str:
    if not body.get("ran", True):
        return f"{gpu_name(body)} could not be tested: {one_line(str(body.get('text', '')))}"
    how = "passed" if body.get("ok") else "failed"
    return f"{gpu_name(body)} {how} its self-test: {one_line(str(body.get('text', '')))}"


def _treated(body: Body) -> str:
    name, text = gpu_name(body), one_line(str(body.get("text") or ""))
    done = {
        "reset": f"{name} was reset",
        "reboot": f"the machine was told to restart, for {name}",
        "power": f"the power limit of {name} was set",
    }
    what = str(body.get("what"))
    told = done.get(what, f"{what} was done to {name}") if body.get("ok") else f"{what} of {name} did not work"
    return told + (f": {text}" if text else "")


def sentences(duration: Callable[[float], str]) -> dict[str, Callable[[Body], str]]:
    """The sentence of each kind of event. `duration` tells seconds in words."""

    def ordered(body: Body) -> str:
        by, name, what = str(body.get("by") or "somebody"), gpu_name(body), str(body.get("what"))
        until = body.get("until_at")
        left = f" for {duration(float(until) - float(body['at']))}" if until is not None and body.get("at") else ""
        told = {
            "drain": f"{by} wants nothing new on {name}{left}",
            "undrain": f"{by} ended the drain of {name}",
            "quarantine": f"{by} took {name} out of use",
            "release": f"{by} released {name}",
            "test": f"{by} wants {name} tested",
        }.get(what, f"{by} ordered {what} for {name}")
        reason = one_line(str(body.get("reason") or ""))
        return told + (f": {reason}" if reason else "")

    return {
        "GpusSeen": _seen,
        "GpuFound": _found,
        "GpuHeld": _held,
        "XidSeen": _xid,
        "KernelSaid": _kernel,
        "GpuTested": _tested,
        "GpuTreated": _treated,
        "GpuOrdered": ordered,
    }
