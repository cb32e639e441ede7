"""What single lines of the kernel log tell: errors of GPUs, processes killed for memory, disks that fail."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from supervisor.core.gpus import xids
from supervisor.core.gpus.xids import ParsedXid
from supervisor.core.plain_text import one_line

OOM = "oom"
IO_ERROR = "io-error"
READ_ONLY = "read-only"
LINE_LENGTH = 400
#: A message of several lines comes as one record from the kernel, but as several from logs that were cut at line ends.
NEXT_RECORDS = 3
CACHED_LINES = 256  # a storm repeats few different lines

# All of these must stand at the beginning: what programs and devices are called stands in the log too.
_NVRM = "NVRM: "
_LOST = re.compile(
    r"NVRM: GPU (?:at )?(?:PCI:)?(?P<bus>[0-9A-Fa-f:.]*[0-9A-Fa-f]):? "
    r"(?:(?P<uuid>GPU-[0-9a-f-]{8,36})\b)?.{0,80}?\bhas fallen off the bus"
)
_NAMED = re.compile(r"NVRM: The NVIDIA GPU (?P<bus>[0-9A-Fa-f:.]*[0-9A-Fa-f])\b")
_SILENT = re.compile(r"NVRM: .{0,160}?fallen off the bus and is not responding to commands")
_KILLED = re.compile(
    r"(?:(?:Memory cgroup )?[Oo]ut of memory(?: \([^)]*\))?: )?Killed process (?P<pid>\d+) \((?P<device>.{0,16}?)\)[ ,]"
)
_READ_ONLY = re.compile(
    "|".join(  # noqa: FLY002 - one pattern a line
        (
            r"(?:EXT[234]|F2FS)-fs \((?P<ext>[^):\s]+)\): .*?(?:Remounting filesystem read-only|Stopped filesystem)",
            r"BTRFS \w+ \(device (?P<btrfs>[^) ]+)[^)]*\).*?forced readonly",
            r"XFS \((?P<xfs>[^)\s]+)\): .*?(?:[Ss]hutting down filesystem|ilesystem has been shut down|force_shutdown)",
        )
    )
)
_IO_ERROR = re.compile(
    "|".join(  # noqa: FLY002 - as above
        (
            r"(?:blk_update_request: |print_req_error: )?(?:I/O|critical [a-z ]{3,20}) error, dev (?P<block>[^\s,]+)",
            r"Buffer I/O error on dev(?:ice)? (?P<buffer>[^\s,]+)",
            r"EXT[234]-fs error \(device (?P<ext>[^)\s]+)\)",
            r"XFS \((?P<xfs>[^)\s]+)\): .*?(?:I/O error|[Cc]orruption)",
            r"BTRFS (?:error|critical) \(device (?P<btrfs>[^) ]+)",
            r"nvme (?P<nvme>nvme\d+): (?:I/O .*?timeout|controller is down|Device not ready)",
            r"(?P<ata>ata\d+)(?:\.\d+)?: (?:exception Emask|failed command)",
            r"sd [\d:]+: \[(?P<scsi>sd[a-z]+)\] .*?(?:Medium|Hardware) Error",
            r"nfs: server (?P<nfs>\S+) not responding",
        )
    )
)
_TOYS = re.compile(r"(?:fd|sr)\d+")  # drives for disks that nobody has put in: virtual machines report them for ever


class Lost(NamedTuple):
    """A GPU fell off the bus, told without an Xid. `uuid` is empty where the line does not tell it."""

    bus_id: str
    uuid: str
    text: str


class Said(NamedTuple):
    """Something about the machine: oom (`device`: what the process is called), io-error or read-only."""

    what: str
    device: str
    text: str
    pid: int = 0


class Lines:
    """Reads the kernel's lines, one record after the other."""

    def __init__(self) -> None:
        """Know of no line yet."""
        self._bus_id = ""
        self._records_left = 0

    def read(self, text: str) -> ParsedXid | Lost | Said | None:
        """Return what a record tells; None for most."""
        if not text.startswith(_NVRM):
            return _about_machine(text)
        return _xid(text) or self._lost(text)

    def _lost(self, text: str) -> Lost | None:
        text = one_line(text.replace("\n" + _NVRM, " "))[:LINE_LENGTH]
        self._records_left -= 1
        if match := _LOST.match(text):
            bus_id = xids.normal_bus_id(match["bus"])
            return Lost(bus_id, match["uuid"] or "", text) if bus_id else None
        if match := _NAMED.match(text):
            self._bus_id, self._records_left = xids.normal_bus_id(match["bus"]), NEXT_RECORDS
        if _SILENT.match(text) and self._bus_id and self._records_left > 0:
            bus_id, self._bus_id = self._bus_id, ""
            return Lost(bus_id, "", text)
        return None


@functools.lru_cache(CACHED_LINES)
def _xid(text: str) -> ParsedXid | None:
    return xids.parse(text)


def _about_machine(text: str) -> Said | None:
    if match := _KILLED.match(text):
        return Said(OOM, one_line(match["device"]), one_line(text)[:LINE_LENGTH], int(match["pid"]))
    for what, pattern in ((READ_ONLY, _READ_ONLY), (IO_ERROR, _IO_ERROR)):
        match = pattern.match(text)
        device = next(filter(None, match.groups()), "") if match is not None else ""
        if device and not _TOYS.fullmatch(device):
            return Said(what, one_line(device), one_line(text)[:LINE_LENGTH])
    return None
