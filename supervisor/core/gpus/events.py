"""Facts about GPUs and the kernel. Part of core.events, where their union is."""

from __future__ import annotations

from supervisor.core.base_events import Event
from supervisor.core.gpus.model import GpuFacts, Holder


class GpusSeen(Event, frozen=True, kw_only=True, tag=True):
    """What GPUs there are: at the start of the probe, every hour, and whenever that changes.

    `state`: ok, none (a driver or none, but no GPU), no-driver, no-library, old-binding (the deprecated package shadows
    nvidia-ml-py), version-mismatch (the driver was upgraded under us), no-permission, error, crashed or unresponsive
    (the probe as a whole), off (not to be watched). Only with ok and none `gpus` is the whole list.
    """

    state: str
    text: str = ""
    driver: str = ""
    gpus: tuple[GpuFacts, ...] = ()


class GpuFound(Event, frozen=True, kw_only=True, tag=True):
    """Something about one GPU (`gpu` is its UUID) began, or, not `open`, is over. Kinds: see core.gpus.findings.

    `source`: nvml, sysfs, kernel (a line without an Xid), gate (the look before a start) or inventory. `values` are the
    numbers behind it.
    """

    gpu: str
    finding: str
    source: str = "nvml"
    text: str = ""
    open: bool = True
    values: dict[str, float] = {}


class GpuHeld(Event, frozen=True, kw_only=True, tag=True):
    """Who is on a GPU beside us; empty when nobody is any more."""

    gpu: str
    holders: tuple[Holder, ...] = ()


class XidSeen(Event, frozen=True, kw_only=True, tag=True):
    """The driver reported an error of a GPU: `gpu` is its UUID, empty if no known GPU has that bus id.

    `source`: kernel or nvml. `seq` is the number of the kernel's record (-1: none). `run` and `attempt` are whose
    process `pid` was; empty if none of ours. `severity`: fatal, nonfatal or empty. `action`: what Xid 154 asks for:
    none, reset, reboot, drain-reset … `place`: the unit on the chip. `old`: from before the supervisor's first start in
    this boot: it is noted, not acted upon.
    """

    xid: int
    text: str
    gpu: str = ""
    bus_id: str = ""
    pid: int = 0
    process: str = ""
    source: str = "kernel"
    seq: int = -1
    run: str = ""
    attempt: int = 0
    severity: str = ""
    action: str = ""
    place: str = ""
    old: bool = False


class KernelSaid(Event, frozen=True, kw_only=True, tag=True):
    """The kernel log tells of the machine itself. `what`: oom, io-error, read-only; unreadable: nobody can read it.

    `device` is what it is about. `run`: whose process the out-of-memory killer took, if it was one of ours.
    """

    what: str
    text: str
    device: str = ""
    pid: int = 0
    seq: int = -1
    run: str = ""


class GpuTested(Event, frozen=True, kw_only=True, tag=True):
    """The self-test of a GPU came to an end. Not `ran`: it could not be made."""

    gpu: str
    ok: bool
    text: str
    ran: bool = True


class GpuTreated(Event, frozen=True, kw_only=True, tag=True):
    """What was ordered for a GPU (`what`: reset, reboot, power) was done, or, not `ok`, was not.

    Of power: to which `share` it was to be limited, and the `watts` that were in force before.
    """

    gpu: str
    what: str
    ok: bool
    text: str = ""
    share: float = 1.0
    watts: float = 0.0


class GpuOrdered(Event, frozen=True, kw_only=True, tag=True):
    """A person wants a GPU drained, given out again (undrain), in quarantine or out of it (release)."""

    gpu: str
    what: str
    by: str
    reason: str = ""
    until_at: float | None = None
