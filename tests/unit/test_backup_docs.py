"""docs/backup.md says what the program does: causes, keys, verbs and words."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from supervisor import backup_config, config, prune_config
from supervisor.cli.backup import backup_verb
from supervisor.cli.program import program
from supervisor.core import cards
from supervisor.core.backups.causes import KINDS
from supervisor.core.words import duration

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/backup.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]


def test_each_cause_stands_there_as_the_table_has_it():
    """What it means, whether it is the run's, how long is waited, when it is told, and what to do."""
    told = {row[0].strip("`"): row for row in ROWS if len(row) == 6}
    assert list(told) == list(KINDS)
    for name, kind in KINDS.items():
        _, of, means, wait, page, todo = told[name]
        assert of == ("the run" if kind.of_run else "the target"), name
        assert means == kind.means, name
        assert wait == duration(kind.after_s), name
        assert page == ("never" if name == "stopped" else "at once" if kind.page else "after 3"), name
        assert todo == kind.todo.format(target="TARGET", to="the target"), name


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
def test_each_example_is_valid(block):
    """What stands there can be copied."""
    if block.startswith("publish"):
        assert not cards.pattern_problem(re.search(r'name = "([^"]+)"', block)[1])
    else:
        assert config.parse(block.encode(), "docs").backup


def test_each_word_of_the_policy_is_explained():
    """As a row of the table, with those that a project may have."""
    rows = {row[0].strip("`") for row in ROWS if len(row) == 2}
    assert {*prune_config.WORDS, "keep_epochs", "archive_after"} <= rows
    for field in ("schedule", "across", "folders", "trash", "project"):
        assert field in prune_config.Prune.__struct_fields__
        assert f"`{field}" in TEXT or f"prune.{field}" in TEXT, field


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(backup_config.Backup)])
def test_each_key_of_a_target_is_mentioned(field):
    """Somewhere on the page, or in its first example."""
    assert re.search(rf"\b{field}\b", TEXT)


def test_placeholders_and_marks():
    """Those of published names, and the defaults of the marks of a disk."""
    assert ", ".join(f"`{{{name}}}`" for name in cards.PLACEHOLDERS) in TEXT
    disk = config.Disk()
    assert f"`disk.prune_below` ({disk.prune_below // 1024**3} GiB)" in TEXT
    assert f"`disk.pause_below` ({disk.pause_below // 1024**3} GiB)" in TEXT


def test_each_verb_and_option_that_is_named_exists():
    """Commands in the text can be typed."""
    help_of = lambda *words: CliRunner().invoke(program, [*words, "--help"]).stdout  # noqa: E731 - one expression
    for verb in re.findall(r"`?(?:yolo-supervisor )?backup (ls|run|verify|drill|restore)\b", TEXT):
        assert backup_verb.get_command(None, verb) is not None
    for command in set(re.findall(r"backup (run|verify|drill|restore) ([^`\n]*)", TEXT)):
        for option in re.findall(r"--[a-z-]+", command[1]):
            assert option in help_of("backup", command[0]), command
    for option in ("--dry-run", "--undo"):
        assert option in help_of("prune")


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_both_readmes_lead_there(readme):
    """With the page and the verb."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert "docs/backup.md" in text
    assert "backup drill" in text
