"""Is what a run waits for back? Looks every few seconds at what the waiting runs lack, and tells when it is there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from supervisor.core.events import Event, WaitOver
from supervisor.core.model import Phase, Run, World
from supervisor.machine import conditions
from supervisor.sources.rounds import Rounds

log = logging.getLogger("yolo-supervisor")

POLL_S = 5.0
SHORTEST_WAIT_S = 5.0  # what is there at once comes and goes: a trainer that ended has just given its memory back
#: A run whose condition was told to be back and that still waits for it is told of once more after this time.
AGAIN_S = 60.0

_Wait = tuple[str, str, float]


class WaitSource:
    """Reports WaitOver. One thread; what hangs is bounded and delays the others by seconds."""

    def __init__(
        self,
        put: Callable[[Event], None],
        world: Callable[[], World],
        now: Callable[[], float],
        unmet: Callable[[Run], str],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        """`unmet` says why a run must go on waiting, an empty text if it need not: see machine.conditions."""
        self._put = put
        self._world = world
        self._now = now
        self._unmet = unmet
        self._told: dict[_Wait, float] = {}
        self._rounds = Rounds("looking at what runs wait for", self.poll, lambda: poll_s)

    @classmethod
    def of(
        cls,
        runs_dir: Path,
        pause_below_bytes: int,
        put: Callable[[Event], None],
        world: Callable[[], World],
        now: Callable[[], float],
    ) -> WaitSource:
        """Make the source that looks at this machine."""

        def unmet(run: Run) -> str:
            return conditions.unmet(run.waiting_for, run.job, runs_dir, pause_below_bytes, seen=_seen(run))

        return cls(put, world, now, unmet)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End within 2 s; a look that hangs is left behind."""
        self._rounds.stop()

    def poll(self) -> None:
        """Look once at every run that waits. Called by the thread; tests call it by themselves."""
        waiting = {_wait(run): run for run in self._world().live.values() if _waits(run)}
        self._told = {wait: at for wait, at in self._told.items() if wait in waiting}
        for wait, run in waiting.items():
            if self._rounds.over:
                return
            now = self._now()
            if now - run.phase_since < SHORTEST_WAIT_S or now - self._told.get(wait, float("-inf")) < AGAIN_S:
                continue
            if not self._unmet(run):
                self._told[wait] = now
                self._put(WaitOver(at=self._now(), origin="waits", run=run.id, what=run.waiting_for))


def _wait(run: Run) -> _Wait:
    return run.id, run.waiting_for, run.phase_since


def _seen(run: Run) -> str:
    """Return the line that told of what it lacks; it may name a path that the job file does not."""
    newest = run.incidents[-1] if run.incidents else None
    return newest.seen if newest is not None and newest.step == f"wait-{run.waiting_for}" else ""


def _waits(run: Run) -> bool:
    """Tell whether a run waits for something that can be seen, and nothing of its last attempt is left."""
    over = run.attempt is None or run.attempt.over
    return run.phase is Phase.COOLING and over and conditions.can_be_seen(run.waiting_for)
