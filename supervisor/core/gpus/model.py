"""What is known of a GPU: who it is, what was found, whether it may be given out, and its record for life."""

from __future__ import annotations

import msgspec

#: States of the driver as a whole (see GpusSeen). Only with OK and NONE the list of GPUs is complete.
STARTING = "starting"
OK = "ok"
NONE = "none"
#: Without NVML the GPUs are there all the same: they are given out by index, and nobody watches them.
UNWATCHED = frozenset({"no-library", "old-binding", "off"})


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A process on a GPU that is none of ours. `used_bytes` is None where the driver does not tell."""

    pid: int
    user: str = ""
    command: str = ""
    used_bytes: int | None = None


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Who a GPU is. `index` counts in PCI order among those that the driver lists; `links` are UUIDs behind NVLink.

    `numa` is the node of its slot, -1 if unknown. `persistence` is None where the driver does not tell.
    """

    uuid: str
    index: int
    bus_id: str = ""
    name: str = ""
    memory_bytes: int = 0
    numa: int = -1
    links: tuple[str, ...] = ()
    persistence: bool | None = None
    mig: bool = False


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a GPU now, in a sentence; `source`: nvml, sysfs, kernel, driver or inventory."""

    kind: str
    source: str
    text: str
    since: float
    values: dict[str, float] = {}


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """A sign that a GPU cannot go on computing. Two from different sources end what runs on it."""

    source: str
    text: str
    at: float
    cause: str
    xid: int = 0


class XidNote(msgspec.Struct, frozen=True, kw_only=True):
    """One Xid as it counts for repetition: when, whose work it was, and where on the chip.

    `last`: for a day the GPU is given out last for it.
    """

    xid: int
    at: float
    run: str = ""
    name: str = ""
    place: str = ""
    source: str = ""
    attempt: int = 0
    last: bool = False


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that is not given out. `needs`, before it may be tested and come back: test, reset, reboot or person.

    `by` is empty if nobody but the supervisor wants it. `xid`: what led to it. `retest`: something happened while it
    was being tested. `asked`: who wants it tested now. `met_at`: when what it needs was done, 0.0: not yet;
    `needed_since`: since when it needs that.
    """

    reason: str
    since: float
    needs: str = "test"
    by: str = ""
    xid: int = 0
    tests: int = 0
    not_run: int = 0
    next_test_at: float | None = None
    result: str = ""
    treated: bool = False
    retest: bool = False
    asked: str = ""
    met_at: float = 0.0
    needed_since: float = 0.0

    @property
    def met(self) -> bool:
        """What it needs was done."""
        return self.met_at > 0


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """A person wants nothing new on a GPU, until a time or until told otherwise."""

    by: str
    since: float
    until_at: float | None = None
    reason: str = ""


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the passport."""

    at: float
    what: str
    text: str = ""
    run: str = ""
    attempt: int = 0


class Passport(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a GPU for life; times in seconds. `notes`: the newest lines, the oldest first.

    `treated_at`: when it was reset, or the machine restarted for it, the newest times.
    """

    first_seen_at: float = 0.0
    attempts: int = 0
    busy_s: float = 0.0
    failures: int = 0
    xids: dict[str, int] = {}
    remapped_rows: int = 0
    throttled_s: float = 0.0
    quarantines: int = 0
    resets: int = 0
    reboots: int = 0
    python: str = ""
    notes: tuple[Noted, ...] = ()
    treated_at: tuple[float, ...] = ()


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU, by its UUID. `present`: the driver lists it.

    `not_before`: found busy just before a start, so that it is not tried again at once. `reset_when_idle`: why it
    should be reset at the next occasion. `test_key`: the self-test that is under way.
    `power_limited`: we gave it less power, instead of `power_before_w` (0: unknown).
    """

    uuid: str
    facts: GpuFacts
    present: bool = True
    findings: dict[str, Finding] = {}
    signs: tuple[Sign, ...] = ()
    xids: tuple[XidNote, ...] = ()
    holders: tuple[Holder, ...] = ()
    quarantine: Quarantine | None = None
    drain: Drain | None = None
    passport: Passport = Passport()
    not_before: float = 0.0
    not_before_reason: str = ""
    reset_when_idle: str = ""
    test_key: str = ""
    power_limited: bool = False
    power_before_w: float = 0.0

    @property
    def index(self) -> int:
        """Its place in PCI order."""
        return self.facts.index

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"GPU {self.facts.index}"

    @property
    def testing(self) -> bool:
        """Its self-test is under way."""
        return bool(self.test_key)


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """The driver as a whole: a state (see GpusSeen), its version and why it is so."""

    state: str = STARTING
    version: str = ""
    text: str = ""
    since: float = 0.0


class GpuWish(msgspec.Struct, frozen=True, kw_only=True):
    """Which GPUs a job wants, beside how many. `named`: UUIDs or indices in PCI order; `min` 0: all of them.

    `prefer`: nvlink or numa, where there is a choice. `share`: other such jobs may be on the same GPU.
    """

    named: tuple[str, ...] = ()
    min: int = 0
    memory_bytes: int = 0
    share: bool = False
    prefer: str = ""


class XidOverride(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the Xid table as the administrator wants it: what is None stays as it is."""

    xid: int
    attempt: str | None = None
    gpu: str | None = None
    cause: str | None = None


class GpuPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the administrator configured about GPUs, as far as deciding needs it.

    `watch`: a probe tells about GPUs; else they are given out by index. `foreign`: respect or ignore processes of
    others. `reset`, `reboot`: the administrator lets these be done, not only asked for. `power_cap`: the share of
    the default power limit that a hot GPU is limited to, 0: never.
    """

    watch: bool = False
    foreign: str = "respect"
    self_test: str = "quarantine"
    reset: bool = False
    reboot: bool = False
    power_cap: float = 0.0
    xids: tuple[XidOverride, ...] = ()
