"""The keys about published weights: `publish` of a job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from supervisor.core import cards
from supervisor.core.job import PublishTo
from supervisor.errors import Problem
from supervisor.toml_errors import NAME, shown

Include = Annotated[
    tuple[Literal["best", "last"], ...],
    msgspec.Meta(min_length=1, max_length=2, description='a list of "best" and "last"'),
]
Export = Annotated[
    tuple[Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_]{0,31}\Z")], ...],
    msgspec.Meta(max_length=32, description='a list of formats of Ultralytics, such as "onnx" or "engine"'),
]


class PublishTable(msgspec.Struct, frozen=True, kw_only=True):
    """`publish` of a job file."""

    to: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    name: Annotated[str, msgspec.Meta(max_length=255)] = PublishTo(to="").name
    include: Include = ("best", "last")
    export: Export = ()


def problems(publish: PublishTable) -> Iterator[tuple[str, Problem]]:
    """Yield what is wrong with `publish`: its key, and what to say. Whether the target exists is not known here."""
    if not publish.to.startswith("/") and not re.fullmatch(NAME, publish.to):
        hint = "write the whole path, from / on, or the name of a [[backup]] of the configuration"
        yield "to", Problem("wrong value", expected="an absolute path or a name", got=shown(publish.to), hint=hint)
    elif ".." in publish.to.split("/"):
        yield "to", Problem("this path climbs", expected="a path without ..", got=shown(publish.to))
    if wrong := cards.pattern_problem(publish.name):
        yield "name", Problem("wrong value", expected=wrong, got=shown(publish.name))
    for key, words in (("include", publish.include), ("export", publish.export)):
        again = next((word for word in words if words.count(word) > 1), None)
        if again is not None:
            yield key, Problem("this word stands twice", got=shown(again), hint="keep one of them")


def as_job(publish: PublishTable | None) -> PublishTo | None:
    """Return what the job carries."""
    return None if publish is None else PublishTo(**msgspec.structs.asdict(publish))
