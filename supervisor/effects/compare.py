"""Compare the first epoch after a resume with those before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from supervisor.core.actions import Compare
from supervisor.core.events import Compared, Event


class Comparer:
    """Carries out Compare."""

    def __init__(self, runs_dir: Path, now: Callable[[], float]) -> None:
        """`now` stamps the answer."""
        self._runs_dir = runs_dir
        self._now = now

    def __call__(self, action: Compare) -> tuple[Event, ...]:
        """See the module."""
        at = self._now()
        return (Compared(at=at, origin="compare", run=action.run, attempt=action.attempt, continuous=True),)
