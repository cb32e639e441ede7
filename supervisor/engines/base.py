"""What the daemon asks of the place where attempts run."""

from __future__ import annotations

from typing import Protocol

from supervisor.core.actions import Launch, Terminate
from supervisor.core.events import Event


class Engine(Protocol):
    """Starts and ends attempts. Both may be asked twice for the same thing, and then do it once."""

    def launch(self, action: Launch) -> tuple[Event, ...]:
        """Start an attempt, at most once ever: Launched (also if it was started before), or LaunchFailed.

        Raises RetryableError when it cannot be known yet.
        """
        ...

    def terminate(self, action: Terminate) -> tuple[Event, ...]:
        """End an attempt, as strongly as `how` says; SignalSent says how many processes got the signal.

        `term` asks the trainer, `abort` has it (and its ranks) leave its stacks in the log and die, `kill` ends every
        process of the attempt.
        """
        ...
