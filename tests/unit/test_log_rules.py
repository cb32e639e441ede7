"""The table of rules against whole logs: for each rule one, and clean ones of every family."""

from __future__ import annotations

import pytest

from supervisor.core.diagnosis.explain import STEPS as WORDS
from supervisor.core.diagnosis.explain import of_log, plan_words
from supervisor.core.diagnosis.matching import Matcher, fixed_words
from supervisor.core.diagnosis.signs import Found, scan
from supervisor.core.diagnosis.tables import CAUSES, ENDS, RULES, STEPS, expand
from supervisor.core.plain_text import clean_lines
from supervisor.effects.attempt_log import LogLines
from tests.data import make_logs
from tests.data.log_cases import CASES

LOGS = {one.name: one for one in make_logs.made()}
EXPECTED = {name: one.rule for name, one in LOGS.items()}
BY_NAME = {rule.name: rule for rule in RULES}
FILES = sorted(make_logs.LOGS.glob("*.log"))


def rule_of(found: Found) -> str:
    """The rule that explains a log; where none does, the first that has something to say."""
    first = (*found.signs, *found.notes)
    return first[0].rule if first else "-"


def table(pairs: dict[tuple[str, str], int]) -> str:
    """The confusion matrix; rules without confusion on one line each."""
    return "\n".join(f"{count:>3}  {expected:<26} {found}" for (expected, found), count in sorted(pairs.items()))


def test_every_log_is_explained_by_its_own_rule():
    """The confusion matrix of whole logs, with traps, decoys and echoes, is diagonal."""
    pairs: dict[tuple[str, str], int] = {}
    for path in FILES:
        pair = (EXPECTED[path.stem], rule_of(scan(LogLines(path), RULES)))
        pairs[pair] = pairs.get(pair, 0) + 1
    print(table(pairs))
    wrong = {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}
    assert not wrong, table(wrong)


def test_each_rule_has_a_log():
    """No rule without a whole log, and no log of a rule that is gone."""
    assert set(BY_NAME) | {"-"} == set(EXPECTED.values())


def test_the_logs_are_those_that_the_generator_makes():
    """What lies in the folder is what the script writes: nobody mended a log by hand."""
    assert {path.stem for path in FILES} == set(LOGS)
    for path in FILES:
        assert path.read_bytes() == LOGS[path.stem].content, path.stem


def test_every_row_of_the_catalogue_has_a_log():
    """All 101 signatures are covered."""
    assert {row for case in CASES for row in case["rows"]} == set(range(1, 102))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_logs_are_whole(path):
    """Fifty lines at least, as a person would see them."""
    assert len(list(LogLines(path))) >= 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_cause_is_the_one_of_the_table(path):
    """What a person is told is the cause that stands beside the rule; logs that ended well have none."""
    rule = BY_NAME.get(EXPECTED[path.stem])
    diagnosis = of_log(scan(LogLines(path), RULES), RULES)
    told = diagnosis.cause.name if diagnosis is not None else None
    assert told == (rule.cause if rule is not None and rule.kind != "info" else None)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.startswith("clean-")], ids=lambda path: path.stem)
def test_clean_logs_match_nothing(path):
    """Not even a note: folders with frightening names are no signs."""
    found = scan(LogLines(path), RULES)
    assert (found.signs, found.notes, found.error) == ((), (), "")
    assert found.progressed > 50


# ---- the tables themselves
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_sample_of_a_rule_matches_it_first(rule):
    """In the order of the table, the rule's own sample is explained by it."""
    assert rule_of(scan(rule.sample.strip("\n").split("\n"), RULES)) == rule.name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rules_are_sound(rule):
    """Known words only, a cause that exists, and a fixed word to search for, so that logs are read quickly."""
    assert rule.cause in CAUSES
    assert rule.kind in {"cause", "echo", "info", "alarm"}
    assert rule.scope in {"end", "anywhere"}
    assert fixed_words(rule.match)
    assert not rule.pattern.search("")
    kinds = {one.kind == "echo" for one in RULES if one.cause == rule.cause and one.kind != "info"}
    assert len(kinds) <= 1, "a cause is an echo of others, or none: never both"
    assert bool(rule.means) == (rule.kind == "info")


def test_names_are_unique():
    """A name stands for one rule."""
    assert len(BY_NAME) == len(RULES)


@pytest.mark.parametrize("cause", CAUSES.values(), ids=lambda cause: cause.name)
def test_causes_are_sound(cause):
    """Each has words for a person and a plan of known steps, all of which can be said; the last one is an end."""
    assert all((cause.title, cause.means, cause.fix))
    assert cause.title[0].islower() or cause.title.startswith(("CUDA", "NCCL", "/dev/shm", "GPU", "cuBLAS", "Python"))
    assert [word for step in cause.plan for word in expand(step)] == list(cause.steps)
    assert cause.steps[-1] in ENDS
    assert not set(cause.steps[:-1]) & set(ENDS)
    assert plan_words(cause.steps)


def test_every_step_has_words():
    """A plan can be told to a person, whatever is in it."""
    assert set(STEPS) == set(WORDS)


def test_the_quick_search_loses_no_line():
    """A line that any pattern matches is suspicious, with and without others around it."""
    matcher = Matcher(RULES)
    for one in LOGS.values():
        lines = clean_lines(one.content)
        told = [line for line in lines if any(rule.pattern.search(line) for rule in RULES)]
        assert all(matcher.suspicious(line) for line in told)
        assert not told or matcher.suspicious("\n".join(lines))
