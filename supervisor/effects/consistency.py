"""Whether a run still trains what it trained before: its data, its model, its versions."""

from __future__ import annotations

from supervisor import layout
from supervisor.core import events
from supervisor.core.actions import Prepare


def check(_action: Prepare, _run_dir: layout.RunDirectory, choice: events.Prepared) -> events.Prepared:
    """The start that was chosen, with what has changed since the first one in its notes; or refused for that."""
    return choice
