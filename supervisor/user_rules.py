"""[[rule]] of the configuration: lines of logs that only people here know, what they mean and what helps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from supervisor.errors import Problem
from supervisor.toml_errors import Name, shown

if TYPE_CHECKING:
    from supervisor.core.diagnosis.tables import Rule

Pattern = Annotated[
    str, msgspec.Meta(min_length=1, max_length=1000, description="a regular expression of at most 1000 characters")
]
CauseName = Annotated[
    str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,63}\Z", description="small letters, digits and dashes")
]
Words = Annotated[str, msgspec.Meta(max_length=500, description="a text of at most 500 characters")]


class UserRule(msgspec.Struct, frozen=True, kw_only=True):
    """One [[rule]]. The first rule that matches a line counts, and these stand before the built-in ones."""

    name: Name
    match: Pattern
    cause: CauseName
    remedy: str = ""
    means: Words = ""
    fix: Words = ""
    scope: Literal["end", "anywhere"] = "end"


def problems(rules: Sequence[UserRule]) -> Iterator[tuple[int, str, Problem]]:
    """Yield what is wrong with the rules: the place of each in the list, the key, and what to say."""
    if not rules:
        return  # the tables cost ten milliseconds: not for those who do not need them
    from supervisor.core.diagnosis import tables

    taken = {rule.name for rule in tables.RULES}
    for place, rule in enumerate(rules):
        for key, found in (*_name(rule, taken), *_match(rule.match), *_cause(rule), *_remedy(rule.remedy)):
            yield place, key, found
        taken.add(rule.name)


def as_rules(rules: Sequence[UserRule]) -> tuple[Rule, ...]:
    """Return the rules in the words of the table, those of the table after them."""
    from supervisor.core.diagnosis import tables

    own = (tables.Rule(**msgspec.structs.asdict(rule)) for rule in rules)
    return (*own, *tables.RULES)


def _name(rule: UserRule, taken: set[str]) -> Iterator[tuple[str, Problem]]:
    if rule.name in taken:
        hint = "`yolo-supervisor explain-log --rules` lists the names that are taken"
        yield "name", Problem("another rule has this name", got=shown(rule.name), hint=hint)


def _match(pattern: str) -> Iterator[tuple[str, Problem]]:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield "match", Problem("this is no regular expression of Python", got=shown(pattern), hint=str(error))
        return
    if compiled.search(""):
        yield "match", Problem("this matches every line, an empty one too", got=shown(pattern))


def _cause(rule: UserRule) -> Iterator[tuple[str, Problem]]:
    from supervisor.core.diagnosis import tables

    if rule.cause not in tables.CAUSES and not rule.remedy:
        hint = "for a cause of your own, say with `remedy` what is tried first"
        yield "cause", Problem("the table has no such cause", got=shown(rule.cause), hint=hint)


def _remedy(remedy: str) -> Iterator[tuple[str, Problem]]:
    from supervisor.core.diagnosis import tables

    try:
        tables.expand(remedy or "hold")
    except ValueError:
        expected = f"one of {', '.join(tables.STEPS)}, or such as backoff*3"
        yield "remedy", Problem("wrong value", expected=expected, got=shown(remedy))
