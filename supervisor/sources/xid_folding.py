"""A GPU in trouble writes thousands of equal lines: the first is told at once, the others as one number later."""

from __future__ import annotations

from collections.abc import Hashable

from msgspec.structs import replace

from supervisor.core.events import XidSeen

WINDOW_S = 60.0
#: So many different lines (places, processes) of one Xid on one GPU are told in a minute; what is more is only counted.
DIFFERENT = 16

Group = tuple[str, int]  # the GPU, or its bus id, and the Xid
Details = tuple[Hashable, ...]


class _Window:
    """What came since the first of its kind."""

    def __init__(self, event: XidSeen, until: float) -> None:
        self.event = event
        self.until = until
        self.count = 1
        self.at = event.at

    def total(self) -> XidSeen:
        """The same once more, with how often it came; without a number, for newer records may have been told by now."""
        return replace(self.event, at=self.at, seq=-1, text=f"{self.event.text} ({self.count} times)")


class Folder:
    """Counts what comes again within a minute. No clock in here: `now` is given."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._windows: dict[Group, dict[Details, _Window]] = {}

    def again(self, group: Group, details: Details, at: float) -> bool:
        """Whether this was told less than a minute ago, or very much of its kind was: then it is counted only."""
        windows = self._windows.get(group, {})
        window = windows.get(details)
        if window is None and len(windows) >= DIFFERENT:
            window = next(reversed(windows.values()))
        if window is None:
            return False
        window.count += 1
        window.at = max(window.at, at)
        return True

    def told(self, group: Group, details: Details, event: XidSeen, now: float) -> None:
        """Note what is told now."""
        self._windows.setdefault(group, {})[details] = _Window(event, now + WINDOW_S)

    def over(self, now: float) -> list[XidSeen]:
        """Forget the minutes that are over, and return what came more than once in them, with how often."""
        totals = []
        for group, windows in list(self._windows.items()):
            for details, window in list(windows.items()):
                if now >= window.until:
                    del windows[details]
                    totals += [window.total()] if window.count > 1 else []
            if not windows:
                del self._windows[group]
        return totals

    def patience_s(self, now: float) -> float | None:
        """Seconds until a minute is over in which something came more than once; None if there is none."""
        ends = [one.until for windows in self._windows.values() for one in windows.values() if one.count > 1]
        return max(0.0, min(ends) - now) if ends else None
