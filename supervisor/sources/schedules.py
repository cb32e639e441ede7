"""What happens by the clock. APScheduler only puts wake-ups and events; what is overdue is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

RESYNC_S = 300.0

Entries = Mapping[str, tuple[Any, Callable[[], None]]]


class Schedules:
    """Runs callables by the clock, each in the scheduler's own thread pool of one."""

    def __init__(self, entries: Entries, timed: Entries | None = None) -> None:
        """`entries`: name → (interval in seconds or an APScheduler trigger, what to call). An interval of 0 is off.

        `timed` are such entries that `change` may replace.
        """
        self._scheduler = BackgroundScheduler(
            executors={"default": {"type": "threadpool", "max_workers": 1}},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone="UTC",
        )
        self._timed: set[str] = set()
        for name, (when, call) in entries.items():
            self._add(name, when, call)
        self.change(timed or {})

    def _add(self, name: str, when: Any, call: Callable[[], None]) -> None:
        trigger = IntervalTrigger(seconds=when) if isinstance(when, int | float) else when
        if self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)
        if when != 0:
            self._scheduler.add_job(call, trigger, id=name, name=name)

    def change(self, timed: Entries) -> None:
        """Let these take the place of those given before; those that are not named any more end."""
        for name in self._timed - timed.keys():
            self._scheduler.remove_job(name)
        for name, (when, call) in timed.items():
            self._add(name, when, call)
        self._timed = {name for name, (when, _) in timed.items() if when != 0}

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """End; a call under way is waited for."""
        self._scheduler.shutdown(wait=True)
