"""Xids, the numbered errors of NVIDIA's driver: what each says of a training and of its GPU, and how their lines read.

The table is data, `xids.toml` beside this file, read once; its rows, actions and words are explained here.

What becomes of the attempt (`attempt`, in rising order): none (the Xid says nothing about it), resume (if it dies, it
goes on where it was), elsewhere (if it dies, another GPU is preferred), end (it cannot go on: it is ended as soon as a
second source agrees).

What becomes of the GPU (`gpu`, in rising order): none, note (somebody is told), last (given out last), reset-idle (a
reset is asked for when it is idle; it stays in use), test (quarantine until the self-test passes), reset (quarantine
until it was reset and tested), reboot (until the machine was restarted and it was tested), quarantine (until a person
says so), rma (until a person says so: have it replaced).

Whose fault it is (`fault`): app, hardware, driver, link (NVLink: it matters to attempts on several GPUs), consequence
(of another error, or of a kill), config, note.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import msgspec

from supervisor.core.gpus.model import XidOverride
from supervisor.core.plain_text import one_line

FAULTS = ("app", "hardware", "driver", "link", "consequence", "config", "note")
ATTEMPT_ACTIONS = ("none", "resume", "elsewhere", "end")
GPU_ACTIONS = ("none", "note", "last", "reset-idle", "test", "reset", "reboot", "quarantine", "rma")

#: What field 230 of NVML and Xid 154 ask for, by number (nvml.h: nvmlDeviceGpuRecoveryAction_t).
RECOVERY = {
    0: "none",
    1: "reset",
    2: "reboot",
    3: "drain",
    4: "drain-reset",
    5: "imex",
    6: "bus-reset",
    7: "reboot",
}
#: What that does to the attempt and to the GPU. A wish to drain waits for what runs there.
_ASKED = {
    "none": ("none", "none"),
    "reset": ("end", "reset"),
    "bus-reset": ("end", "reset"),
    "reboot": ("end", "reboot"),
    "drain": ("none", "last"),
    "drain-reset": ("none", "reset-idle"),
    "imex": ("none", "note"),
}
LINE_LENGTH = 400


class Repeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same Xid on the same GPU `count` times within `within_s`: then this instead. Empty: as the row says.

    `same_place`: only those at the same place on the chip count. The last rule that holds counts.
    """

    count: int
    within_s: float
    gpu: str = ""
    attempt: str = ""
    same_place: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One Xid. `cause` is one of causes.toml, or empty where no attempt ends by it.

    `burst_s`: lines closer together than this are one occurrence: an error is often reported by many units at once.
    `cancels`: an earlier note of that Xid is over with this one. `by_severity` and `by_action`: see `said`.
    `stops_nvml`: no call into the driver for this GPU from here on, it may never return. `expected_after_kill`: it is
    what a killed training causes. `means` and `todo` are for people; {index} and {uuid} stand for the GPU. `source`:
    what the row rests on. `sample`: a line of that kind, which is the row's test.
    """

    xid: int
    title: str
    fault: str
    attempt: str = "none"
    gpu: str = "none"
    cause: str = ""
    repeat: tuple[Repeat, ...] = ()
    burst_s: float = 60.0
    cancels: int = 0
    by_severity: bool = False
    by_action: bool = False
    stops_nvml: bool = False
    expected_after_kill: bool = False
    means: str = ""
    todo: str = ""
    source: str = ""
    sample: str = ""


class ParsedXid(msgspec.Struct, frozen=True, kw_only=True):
    """What a line tells. `bus_id` is like 0000:3b:00.0; `pid` 0: not told. `place`: the unit, where the line has one.

    `severity`: fatal, nonfatal or empty. `action`: what Xid 154 asks for, one of RECOVERY, else empty.
    """

    xid: int
    bus_id: str
    text: str
    pid: int = 0
    process: str = ""
    place: str = ""
    severity: str = ""
    action: str = ""


def table_of(data: dict[str, Any]) -> dict[int, Row]:
    """The rows of a table by their number. A row that is `like` a family has what that has, but for its own words."""
    families = data.get("like", {})
    rows = [msgspec.convert({**families.get(body.pop("like", ""), {}), **body}, Row) for body in data["row"]]
    if len({row.xid for row in rows}) < len(rows):
        raise ValueError("an Xid has two rows")
    return {row.xid: row for row in rows}


_DATA: dict[str, Any] = msgspec.toml.decode(resources.files(__package__).joinpath("xids.toml").read_bytes())
#: Goes up with every change of a row, so that an old decision can be told from a new one.
VERSION: str = _DATA["version"]
TABLE: dict[int, Row] = table_of(_DATA)

#: For a code that the table lacks, such as one of a newer driver: never held against a GPU on its own.
UNKNOWN = Row(
    xid=0,
    title="an error that this version does not know",
    fault="note",
    gpu="note",
    means="The driver reported an Xid that is newer than the table of this program.",
    todo="look it up at docs.nvidia.com/deploy/xid-errors; a [[gpu.xid]] of the configuration says what it leads to",
    source="own",
)


def row(xid: int, overrides: tuple[XidOverride, ...] = ()) -> Row:
    """What an Xid says, as the administrator wants it; the last override of an Xid wins. Never fails.

    What is overridden holds for its first time and for its tenth: the rules of repetition go with it.
    """
    found = TABLE.get(xid) or msgspec.structs.replace(UNKNOWN, xid=xid)
    for override in overrides:
        if override.xid == xid:
            found = _overridden(found, override)
    return found


def said(found: Row, severity: str = "", action: str = "") -> Row:
    """The row as the line's own words make it.

    Where the line tells how bad it is (`by_severity`), only fatal is what the row says, and all else is a note. Where
    it tells what is to be done (`by_action`), that is done; an action that nobody knows is a note.
    """
    if found.by_severity and severity != "fatal":
        gpu = min(found.gpu, "note", key=GPU_ACTIONS.index)
        return msgspec.structs.replace(found, attempt="none", gpu=gpu, repeat=())
    if found.by_action:
        attempt, gpu = _ASKED.get(action, ("none", "note"))
        return msgspec.structs.replace(found, attempt=attempt, gpu=gpu)
    return found


def _overridden(found: Row, override: XidOverride) -> Row:
    wanted = {name: value for name in ("attempt", "gpu", "cause") if (value := getattr(override, name)) is not None}
    own_action = found.by_action and not wanted.keys() & {"attempt", "gpu"}
    repeat = tuple(kept for rule in found.repeat if (kept := _without(rule, wanted.keys())) is not None)
    return msgspec.structs.replace(found, **wanted, repeat=repeat, by_action=own_action)


def _without(rule: Repeat, decided: Any) -> Repeat | None:
    gone = {name: "" for name in ("attempt", "gpu") if name in decided}
    left = msgspec.structs.replace(rule, **gone)
    return left if left.gpu or left.attempt else None


# ---- lines
# "[12.3] NVRM: Xid (PCI:0000:3b:00 GPU-I:02): 13, pid=1733, name=python3, ...". It must begin so: what programs are
# called, and what is plugged in, stands in the kernel log too, and is anybody's to choose.
_XID = re.compile(
    r"(?:\[[ \d.]+\] ?)?NVRM: Xid \((?:PCI:)?(?P<bus>[0-9A-Fa-f:.]+)(?:[ ,][^)]*)?\): "
    r"(?P<xid>\d{1,5})(?P<rest>\D.*)?\Z",
    re.DOTALL,
)
_PID = re.compile(r"[, ]*pid='?(?P<pid>\d+|<unknown>)'?,?")
_NAME = re.compile(r"[, ]*name='?(?P<name>[^,']*)'?,?")
# Linux (TASK_COMM_LEN): a process is called what it likes, in up to 15 bytes. Its name ends at a comma within those and
# may have others: what stands before the last of them is not taken for the driver's words.
_NAMED = re.compile(r"[, ]*name=(.{0,15}(?:,|\Z)|.{0,15})", re.DOTALL)
_BUS = re.compile(
    r"(?:(?P<domain>[0-9a-f]{1,8}):)?(?P<bus>[0-9a-f]{1,2}):(?P<slot>[0-9a-f]{1,2})(?:\.(?P<function>[0-7]))?"
)
_PLACES = (
    (re.compile(r"\(?GPC (\d+), TPC (\d+)"), "GPC {} TPC {}"),
    (re.compile(r"\bGPC(\d+) GPCCLIENT_T\d+_(\d+)"), "GPC {} client {}"),
    (re.compile(r"\bpartition (\d+), subpartition (\d+)"), "partition {}.{}"),
    (re.compile(r"\b[Ll]ink (\d+)"), "link {}"),
)
_SEVERITY = re.compile(r"\b(non-?)?fatal\b", re.IGNORECASE)
_ASKS = re.compile(r"\bto (?:0x)?([0-9a-f]+)\b", re.IGNORECASE)
_BY_SEVERITY = frozenset(number for number, found in TABLE.items() if found.by_severity)


def parse(line: str) -> ParsedXid | None:
    """What a line of the kernel log tells of an Xid; None if it is another line, such as one of a switch (SXid)."""
    match = _XID.match(line)
    bus_id = normal_bus_id(match["bus"]) if match is not None else ""
    if match is None or not bus_id:
        return None
    xid, rest = int(match["xid"]), match["rest"] or ""
    pid, told = _taken(_PID, rest)
    name, _ = _taken(_NAME, told)
    _, told = _taken(_NAMED, told)
    return ParsedXid(
        xid=xid,
        bus_id=bus_id,
        text=one_line(line[match.start("xid") :])[:LINE_LENGTH],
        pid=int(pid) if pid.isdigit() else 0,
        process="" if name == "<unknown>" else one_line(name),
        place=_place(told),
        severity=_severity(told) if xid in _BY_SEVERITY else "",
        action=_action(told) if xid == 154 else "",
    )


def normal_bus_id(text: str) -> str:
    """A bus id as the kernel's folders write it: 0000:3b:00.0, in small letters. Empty if it is none.

    NVML writes eight digits for the domain, and the driver's lines often leave the function out.
    """
    match = _BUS.fullmatch(text.lower().removeprefix("pci:"))
    if match is None:
        return ""
    domain, bus, slot = (int(match[part] or "0", 16) for part in ("domain", "bus", "slot"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{match['function'] or 0}"


def same_bus(a: str, b: str) -> bool:
    """Whether two bus ids, in whatever spelling, are of the same device. What is no bus id is the same as nothing."""
    return bool(normal_bus_id(a)) and normal_bus_id(a) == normal_bus_id(b)


def _taken(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    match = pattern.match(text)
    return (match[1], text[match.end() :]) if match is not None else ("", text)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The driver's own words come last."""
    return max(pattern.finditer(text), key=re.Match.start, default=None)


def _place(text: str) -> str:
    for pattern, words in _PLACES:
        if match := _last(pattern, text):
            return words.format(*match.groups())
    return ""


def _severity(text: str) -> str:
    match = _last(_SEVERITY, text)
    return "" if match is None else "nonfatal" if match[1] else "fatal"


def _action(text: str) -> str:
    """By its number: the words for it differ between versions of the driver."""
    match = _last(_ASKS, text)
    return RECOVERY.get(int(match[1], 16), "") if match is not None else ""
