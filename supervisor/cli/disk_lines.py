"""How full the file systems are, as `status` says it."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.cli.client import View
from supervisor.cli.screen import duration_text
from supervisor.units import format_size

_WITH_MARKS = frozenset({"runs", "state"})


def disk_lines(disks: Sequence[View], marks: View) -> list[str]:
    """Those of runs and state with their marks; of the others only those that have too little room."""
    shown = [disk for disk in disks if disk["what"] in _WITH_MARKS or disk["level"] != "ok"]
    return [_disk_line(disk, marks if disk["what"] in _WITH_MARKS else {}) for disk in shown]


def _disk_line(disk: View, marks: View) -> str:
    where = f"disk {disk['what']} ({disk['place']}): "
    if disk["free_bytes"] is None:
        return f"{where}it does not answer"
    parts = [
        {"ok": "has room", "low": "LOW", "full": "FULL"}.get(disk["level"], disk["level"]),
        f"{format_size(disk['free_bytes'])} of {format_size(disk['total_bytes'])} free"
        + (" of the quota" if disk["quota"] else ""),
        f"full in {duration_text(disk['full_in_s'])} at this pace" if disk["full_in_s"] is not None else "",
        f"pruned below {marks['prune_below']}, paused below {marks['pause_below']}" if marks else "",
    ]
    return where + ", ".join(filter(None, parts))
