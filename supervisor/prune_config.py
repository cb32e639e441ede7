"""The keys about pruning: [prune] of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from supervisor.backup_config import Backup, address, clock_problems, place_problems
from supervisor.errors import Problem
from supervisor.toml_errors import AbsolutePath, Duration, Name, shown

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="a whole number from 1 on")]


class Keeps(msgspec.Struct, frozen=True, kw_only=True):
    """What stays, in restic's words: a run that any of these wants stays. None: this one wants nothing.

    `keep_last`: so many of the newest that succeeded, and as many of the newest that failed or were cancelled (a row of
    failures takes nobody's place); `keep_best`: so many of the highest mAP50-95; `keep_within`: all that ended so long
    ago at most; `keep_tag`: all with one of these tags. Runs that share a directory (a retry, a rewind, an extension)
    count as one. A zero or an empty list wants nothing, and a table in which nothing is wanted is refused.
    """

    keep_last: Count | None = None
    keep_best: Count | None = None
    keep_within: Duration | None = None
    keep_tag: tuple[str, ...] | None = None


class OfProject(Keeps, frozen=True, kw_only=True):
    """[[prune.project]]: other words for one project; without any of them nothing of it is let go."""

    name: Name


class Prune(Keeps, frozen=True, kw_only=True):
    """[prune]: what is let go, and when. Without this table nothing ever is.

    The words of Keeps hold for each project by itself unless `across` says for all runs together. `keep_epochs`: which
    epochN.pt stay inside a run. `archive_after`: so long after its end a run's weights are only in its verified
    backups. `trash`: so long what was let go can be taken back. `folders`: foreign Ultralytics runs lie there, and may
    be pruned.
    """

    schedule: Annotated[str, msgspec.Meta(max_length=100)] = "04:00"
    across: bool = False
    keep_epochs: Literal["all", "exponential", "none"] = "all"
    archive_after: Duration | None = None
    trash: Duration = 7 * 86400.0
    folders: tuple[AbsolutePath, ...] = ()
    project: tuple[OfProject, ...] = ()


WORDS = ("keep_last", "keep_best", "keep_within", "keep_tag")


def local_folders(targets: Iterable[Backup]) -> tuple[Path, ...]:
    """Where backups lie on disks of this server, or on ones that are mounted here."""
    found = (address(one.to) for one in targets)
    return tuple(Path(one.path) for one in found if one is not None and one.kind == "local")


def problems(
    prune: Prune, ours: Iterable[Path], targets: Sequence[Backup]
) -> Iterator[tuple[tuple[str, ...], Problem]]:
    """Yield what is wrong with [prune]: the path below it, and what to say.

    `ours` are the runs' and the state's folders, which hold no foreign runs, as those of the `targets` do not.
    """
    ours = (*ours, *local_folders(targets))
    if not any(_keeps(words) for words in (prune, *prune.project)):
        hint = "write for example keep_last = 10; without a [prune] table nothing is ever pruned"
        yield (), Problem("this policy keeps nothing", expected=f"one of {', '.join(WORDS)}", hint=hint)
    for key, found in (*_tag_problems(prune), *clock_problems("schedule", prune.schedule)):
        yield (key,), found
    if prune.archive_after is not None and not targets:
        hint = "configure a [[backup]], or remove the key"
        yield ("archive_after",), Problem("weights that no backup has cannot be left to it", hint=hint)
    for place, folder in enumerate(prune.folders):
        yield from ((("folders",), found) for found in place_problems(folder, ours))
        if folder in prune.folders[:place]:
            yield ("folders",), Problem("this folder is named twice", got=shown(str(folder)), hint="keep one of them")
    names = [one.name for one in prune.project]
    for place, one in enumerate(prune.project):
        yield from ((("project", str(place), key), found) for key, found in _tag_problems(one))
        if one.name in names[:place]:
            yield ("project", str(place), "name"), Problem("another table is for this project", got=shown(one.name))


def _keeps(words: Keeps) -> bool:
    """A policy that keeps nothing is refused, as restic refuses it: it is a forgotten line, and not a wish."""
    return any((words.keep_last, words.keep_best, words.keep_within, words.keep_tag))


def _tag_problems(words: Keeps) -> Iterator[tuple[str, Problem]]:
    if "" in (words.keep_tag or ()):
        yield "keep_tag", Problem("a tag is not empty", got='""')
