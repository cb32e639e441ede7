"""The keys about pruning: [prune] of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from supervisor.toml_errors import AbsolutePath, Duration, Name

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="a whole number from 1 on")]


class Keeps(msgspec.Struct, frozen=True, kw_only=True):
    """What stays, in restic's words: a run that any of these wants stays. None: this one wants nothing.

    `keep_last`: so many of the newest ended runs, `keep_best` of the highest mAP, `keep_within` all that ended so long
    ago at most, `keep_tag` all with one of these tags.
    """

    keep_last: Count | None = None
    keep_best: Count | None = None
    keep_within: Duration | None = None
    keep_tag: tuple[str, ...] | None = None


class OfProject(Keeps, frozen=True, kw_only=True):
    """[[prune.project]]: other words for one project."""

    name: Name


class Prune(Keeps, frozen=True, kw_only=True):
    """[prune]: what is let go, and when. Without this table nothing ever is.

    The words of Keeps hold for each project by itself unless `across` says for all runs together. `keep_epochs`: which
    epochN.pt stay inside a run. `archive_after`: so long after its end a run's weights are only in its verified backups.
    `trash`: so long what was let go can be taken back. `folders`: foreign Ultralytics runs lie there, and may be pruned.
    """

    schedule: Annotated[str, msgspec.Meta(max_length=100)] = "04:00"
    across: bool = False
    keep_epochs: Literal["all", "exponential", "none"] = "all"
    archive_after: Duration | None = None
    trash: Duration = 7 * 86400.0
    folders: tuple[AbsolutePath, ...] = ()
    project: tuple[OfProject, ...] = ()
