"""All rules that GPUs are judged by, by the number that each needs."""

from __future__ import annotations

from supervisor.core.gpus.rules import driver, heat, links, memory
from supervisor.core.gpus.rules.base import Rule

RULES: tuple[Rule, ...] = (*driver.RULES, *heat.RULES, *memory.RULES, *links.RULES)
#: The kinds of finding that the judge opens and closes.
KINDS = frozenset(rule.kind for rule in RULES)
