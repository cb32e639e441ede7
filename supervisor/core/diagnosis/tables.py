"""The tables of causes and of rules: data in `causes.toml` and `rules.toml` beside this file, read once.

A rule is a pattern for lines of a log; the first of the table that matches a line names its cause. A cause says what
it means, what a person can do, and the plan: what is tried, step by step, while no epoch is saved in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import msgspec

#: Rungs of the ladder: what may be changed for the next try. Those of OPT_IN only where the job names them.
RUNGS = ("workers", "cache", "checkpoint", "gpus", "batch", "imgsz", "freeze")
OPT_IN = ("batch", "imgsz", "freeze")
#: What a run can wait for; it goes on by itself when that is back.
WAITS = ("disk", "memory", "mount", "shm")
ENDS = ("hold", "fail")
#: elsewhere: at once on GPUs that are not to blame, waiting for them if it must; a fault of a GPU is not the job's.
STEPS = ("retry", "backoff", "elsewhere", *(f"wait-{one}" for one in WAITS), *RUNGS, *ENDS)


class Cause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an attempt ended. `plan`: steps of STEPS, `STEP*N` for N of them in a row; the last one is an end.

    `random`: another try may go well; if it ends at the same place twice, it was not, and the plan's end is taken.
    """

    name: str
    title: str
    means: str
    fix: str
    plan: tuple[str, ...]
    random: bool = False

    @property
    def steps(self) -> tuple[str, ...]:
        """The plan, each step by itself."""
        return tuple(word for step in self.plan for word in expand(step))


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pattern and the cause that it is a sign of.

    `scope`: end (it counts only after the last sign of progress in the log) or anywhere. `kind`: cause; echo (follows
    from another failure; counts if nothing else is there); info (never a cause of an end, but worth telling); alarm
    (the process will never end by itself after this line: it is treated as hanging at once).
    `within`: a second pattern, for a frame of the traceback that the line ends; such a rule matches nothing else.
    `remedy`: for users' rules, the step that is tried first; `means` and `fix`: their words for it. `sample` is
    the rule's test: a line, or a whole traceback whose last line counts.
    """

    name: str
    match: str
    cause: str
    sample: str = ""
    scope: str = "end"
    kind: str = "cause"
    within: str = ""
    remedy: str = ""
    means: str = ""
    fix: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self.match)


def expand(step: str) -> tuple[str, ...]:
    """`backoff*2` as two steps. ValueError for a word that is no step."""
    word, _, count = step.partition("*")
    if word not in STEPS or (count and not (count.isdigit() and int(count))) or step.endswith("*"):
        raise ValueError(f"{step!r} is no step: {', '.join(STEPS)}")
    return (word,) * int(count or 1)


def causes_of(table: Mapping[str, Any]) -> dict[str, Cause]:
    """The causes of a table, by name."""
    return {name: msgspec.convert({"name": name, **body}, Cause) for name, body in table.items()}


def rules_of(tables: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """The rules of a list of tables, in its order."""
    return tuple(msgspec.convert(dict(table), Rule) for table in tables)


def _read(name: str) -> dict[str, Any]:
    table: dict[str, Any] = msgspec.toml.decode(resources.files(__package__).joinpath(name).read_bytes())
    return table


CAUSES: dict[str, Cause] = causes_of(_read("causes.toml"))
RULES: tuple[Rule, ...] = rules_of(_read("rules.toml")["rule"])
