"""What processes cost, read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/PID/stat that are used here. Times are clock ticks."""

    parent: int
    own_ticks: int
    children_ticks: int

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the process and of the children that it has waited for."""
        return (self.own_ticks + self.children_ticks) / TICKS_PER_S


def stat(pid: int) -> Stat | None:
    """The process as it is now, None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return Stat(int(fields[1]), user + system, children_user + children_system)


def memory_bytes(pid: int, key: str) -> int:
    """A sum over the mappings of a process: Pss, Rss or Private_Dirty. 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def family(pid: int, *, without: set[int]) -> list[int]:
    """A process and its descendants, but not those in `without` and what descends from them."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    known = {number: stat(number) for number in numbers}
    parents = {number: found.parent for number, found in known.items() if found is not None and number not in without}
    members = {pid}
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return sorted(members)
