"""The [prune] table as the policy that the core knows."""

from __future__ import annotations

from supervisor import prune_config
from supervisor.core.retention import Retention, Words


def of(settings: prune_config.Prune) -> Retention:
    """What the configuration says."""
    return Retention(
        words=_words(settings),
        projects={one.name: _words(one) for one in settings.project},
        across=settings.across,
        keep_epochs=settings.keep_epochs,
        archive_after_s=settings.archive_after,
    )


def _words(table: prune_config.Keeps) -> Words:
    return Words(
        keep_last=table.keep_last or 0,
        keep_best=table.keep_best or 0,
        keep_within_s=table.keep_within or 0.0,
        keep_tag=table.keep_tag or (),
    )
