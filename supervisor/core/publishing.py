"""A finished run's weights for others: ordered at its success, or by a person."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import ancestry, events
from supervisor.core.actions import Publish
from supervisor.core.backups import notices
from supervisor.core.model import Phase, Run
from supervisor.core.turn import Turn


def ended(turn: Turn, run: Run) -> None:
    """A run succeeded: publish it, if its job says so."""
    if run.phase is Phase.SUCCEEDED and run.job.publish is not None:
        order(turn, run, "")


def asked(turn: Turn, event: events.PublishAsked) -> None:
    """A person wants it, of a run that goes on too."""
    run = turn.world.run(event.run)
    if run is not None and run.job.publish is not None:
        order(turn, run, event.by)


def order(turn: Turn, run: Run, by: str) -> None:
    """Have it done."""
    turn.act(
        Publish(
            key=f"{run.id}/publish-{turn.number()}",
            run=run.id,
            job=run.job,
            by=by,
            phase=run.phase.value,
            progress=run.progress,
            lineage=tuple(f"{one.id}: {ancestry.how(one)}" for one in ancestry.ancestors(turn.world, run)),
        )
    )


def published(turn: Turn, event: events.Published) -> None:
    """Say where the weights lie, or what is in the way; a failed export alone is no failure."""
    run = turn.world.run(event.run)
    if run is None:
        return
    failed = [f"{name}: {text}" for name, text in event.exports.items() if not text.startswith("/")]
    text = f"{', '.join(event.files)}" if event.ok else event.text
    if failed:
        text = f"{text}; not exported: {'; '.join(failed)}"
    turn.put(replace(run, published=text, published_ok=event.ok))
    notices.published(turn, run, event, text)
