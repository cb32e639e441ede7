"""The ledger on disk: private copies of checkpoints, verified, hashed and entered in good/ledger.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from supervisor.core.actions import Keep
from supervisor.core.events import Event, Kept


class Keeper:
    """Carries out Keep."""

    def __init__(self, runs_dir: Path, now: Callable[[], float]) -> None:
        """`now` stamps the answer."""
        self._runs_dir = runs_dir
        self._now = now

    def __call__(self, action: Keep) -> tuple[Event, ...]:
        """See the module."""
        return (Kept(at=self._now(), origin="ledger", run=action.run, attempt=action.attempt, reason="not built"),)
