"""What happens by the clock. APScheduler only puts wake-ups and events; what is overdue is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

RESYNC_S = 300.0


class Schedules:
    """Runs callables periodically, each in the scheduler's own thread pool of one."""

    def __init__(self, entries: dict[str, tuple[float, Callable[[], None]]]) -> None:
        """`entries`: name → (interval in seconds, what to call). An interval of 0 is off."""
        self._scheduler = BackgroundScheduler(
            executors={"default": {"type": "threadpool", "max_workers": 1}},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone="UTC",
        )
        for name, (interval_s, call) in entries.items():
            if interval_s > 0:
                self._scheduler.add_job(call, IntervalTrigger(seconds=interval_s), id=name, name=name)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """End; a call under way is waited for."""
        self._scheduler.shutdown(wait=True)
