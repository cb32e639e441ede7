"""One call of `step` in the making: the world so far and the actions so far."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from supervisor.core.actions import Action, Announce
from supervisor.core.model import Phase, Run, World


class Turn:
    """Collects what one event leads to. Lives inside one call of `step` only."""

    def __init__(self, world: World, now: float) -> None:
        """Start from `world` at wall time `now`."""
        self.world = world
        self.now = now
        self.actions: list[Action] = []

    def act(self, action: Action) -> None:
        """Order an action."""
        self.actions.append(action)

    def number(self) -> int:
        """A number never given before: it makes keys unique."""
        number = self.world.next_number
        self.world = replace(self.world, next_number=number + 1)
        return number

    def put(self, run: Run) -> Run:
        """Let `run` stand in the world."""
        self.world = self.world.with_run(run)
        return run

    def move(self, run: Run, phase: Phase, reason: str, *, within_s: float | None = None, **fields: Any) -> Run:
        """Bring a run into a phase, with the reason that a person will read.

        `within_s` is the deadline of phases that need one (see Phase.needs_deadline).
        """
        deadline_at = None if within_s is None else self.now + within_s
        fields.setdefault("waiting_for", "")
        since = run.phase_since if run.phase is phase else self.now
        return self.put(replace(run, phase=phase, phase_since=since, reason=reason, deadline_at=deadline_at, **fields))

    def announce(
        self, run: Run | None, what: str, severity: str, title: str, text: str, *, without: str = "", **more: Any
    ) -> None:
        """Tell every channel that the job (or the configuration) names, but one."""
        policy = self.world.policy
        wanted = run.job.notify if run is not None else None
        channels = policy.channels if wanted is None else tuple(name for name in policy.channels if name in wanted)
        channels = tuple(name for name in channels if name != without)
        if not channels:
            return
        subject = run.id if run is not None else "server"
        number = self.number()
        for channel in channels:
            self.act(
                Announce(
                    key=f"{subject}/announce-{number}/{what}/{channel}",
                    run=run.id if run is not None else "",
                    channel=channel,
                    what=what,
                    severity=severity,
                    title=title,
                    text=text,
                    at=self.now,
                    **more,
                ),
            )
