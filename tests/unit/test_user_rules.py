"""[[rule]] of the configuration: what is taken, and how each mistake is named."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from supervisor import config
from supervisor.cli.client import Target
from supervisor.cli.configure import check_verb
from supervisor.core.diagnosis.tables import RULES
from supervisor.errors import UserError

GOOD = 'name = "nas"\nmatch = "NAS is full"\ncause = "disk-full"\n'


def load(tmp_path, text):
    """A configuration with these tables."""
    return config.parse(text.encode(), "config.toml", mountinfo=tmp_path / "none")


def problems(tmp_path, text):
    """Its problems, by their keys."""
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    return {problem.key: problem for problem in caught.value.problems}


def test_own_rules_stand_before_the_built_in_ones(tmp_path):
    """In the order of the file."""
    loaded = load(tmp_path, f'[[rule]]\n{GOOD}[[rule]]\nname = "b"\nmatch = "x+y"\ncause = "nan"\nscope = "anywhere"\n')
    first, second, *rest = config.rules(loaded)
    assert (first.name, first.cause, first.scope) == ("nas", "disk-full", "end")
    assert (second.name, second.scope) == ("b", "anywhere")
    assert tuple(rest) == RULES


def test_without_own_rules_there_are_the_built_in_ones(tmp_path):
    """Nothing more."""
    assert config.rules(load(tmp_path, "")) == RULES


def test_a_cause_of_ones_own_needs_a_remedy(tmp_path):
    """With one it is taken, with its words."""
    own = '[[rule]]\nname = "a"\nmatch = "seat"\ncause = "licence"\n'
    assert "no such cause" in problems(tmp_path, own)["rule[1].cause"].message
    (rule, *_) = config.rules(load(tmp_path, own + 'remedy = "backoff*5"\nmeans = "no seat is free"\n'))
    assert (rule.cause, rule.remedy, rule.means) == ("licence", "backoff*5", "no seat is free")


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ('match = "["', "rule[1].match", "no regular expression"),
        ('match = "(a{1,99999999999999999999})"', "rule[1].match", "no regular expression"),
        ('match = "x*"', "rule[1].match", "every line"),
        ('match = ""', "rule[1].match", "wrong value"),
        ('cause = "Disk Full"', "rule[1].cause", "wrong value"),
        ('remedy = "reboot"', "rule[1].remedy", "wrong value"),
        ('remedy = "backoff*x"', "rule[1].remedy", "wrong value"),
        ('scope = "start"', "rule[1].scope", "wrong value"),
        ('name = "cuda-oom"', "rule[1].name", "another rule has this name"),
        ('pattern = "x"', "rule[1].pattern", "unknown key"),
    ],
)
def test_mistakes_are_named(tmp_path, line, key, message):
    """Each with its key and its line."""
    kept = [one for one in GOOD.splitlines() if one.split(" ")[0] != line.split(" ")[0]]
    found = problems(tmp_path, "\n".join(["[[rule]]", *kept, line]))
    assert message in found[key].message
    assert found[key].line == 5 - (len(kept) < 3)


def test_names_are_unique(tmp_path):
    """Two rules of one name could not be told apart."""
    found = problems(tmp_path, f"[[rule]]\n{GOOD}[[rule]]\n{GOOD}")
    assert list(found) == ["rule[2].name"]
    assert found["rule[2].name"].line == 6


def test_what_is_shown_is_read_back(tmp_path):
    """`config show` prints rules as they are written."""
    loaded = load(tmp_path, f"[[rule]]\n{GOOD}")
    assert load(tmp_path, config.show_text(loaded)).rule == loaded.rule


def test_rules_and_limits_are_taken_over_without_a_restart(tmp_path):
    """The rest stays as it is, and is named if the file says otherwise now."""
    running = load(tmp_path, "")
    read = load(
        tmp_path, f'[queue]\nmax_running = 3\n[hang]\nevery = "20s"\n[disk]\npause_below = "9GB"\n[[rule]]\n{GOOD}'
    )
    now, ignored = config.reloaded(running, read)
    assert (now.queue, now.rule, now.hang, now.disk) == (read.queue, read.rule, running.hang, running.disk)
    assert sorted(ignored) == ["disk", "hang"]
    assert config.reloaded(running, running) == (running, [])


@pytest.mark.parametrize(
    ("match", "slow"),
    [
        (r"^(\w+\s?)*;$", True),
        pytest.param(r"licence: (a+)+$", True, marks=pytest.mark.slow),
        (r"licence: [a-z ]*seats", False),
        (r"(?i)quota \w+ exceeded", False),
    ],
)
def test_config_check_tries_each_rule(tmp_path, match, slow):
    """A pattern that takes for ever on a long line is named with its rule, before it costs an examination its time."""
    path = tmp_path / "config.toml"
    path.write_text(f'[[rule]]\n{GOOD}[[rule]]\nname = "mine"\nmatch = \'{match}\'\ncause = "nan"\n')
    done = CliRunner().invoke(check_verb, ["--config", str(path)], obj=Target(None, None))
    assert isinstance(done.exception, UserError) is slow
    if slow:
        [problem] = done.exception.problems
        assert problem.key == "rule mine"
        assert "3 s of processor time" in problem.message
    else:
        assert "is valid" in done.output
