"""The verb `explain-log`: without a daemon, for logs of any training."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from supervisor.cli.program import PROGRAM, program
from supervisor.core.diagnosis.tables import RULES
from tests.cli.conftest import ROOT

LOGS = ROOT / "tests" / "data" / "logs"


def explain(*arguments, stdin=None):
    """Call the verb without any daemon."""
    chosen = ["explain-log", *map(str, arguments)]
    return CliRunner().invoke(program, chosen, input=stdin, prog_name=PROGRAM, catch_exceptions=False)


def test_a_log_is_explained():
    """Cause, line, meaning, plan and what a person can do."""
    done = explain(LOGS / "disk-full.log")
    assert done.exit_code == 0
    first, *rest = done.stdout.splitlines()
    assert first == f"{LOGS / 'disk-full.log'}: disk-full: the disk is full"
    text = " ".join(" ".join(rest).split())
    assert "[Errno 28] No space left on device" in text
    assert "wait until the disk has space (up to 6 times); then hold it for a person" in text
    assert "df -h" in text


def test_the_line_can_be_found():
    """The number is the one that an editor shows."""
    view = json.loads(explain(LOGS / "disk-full.log", "--json").stdout)["files"][0]
    lines = (LOGS / "disk-full.log").read_bytes().split(b"\n")
    assert view["cause"] == "disk-full"
    assert b"No space left" in lines[view["line"] - 1]
    assert view["steps"][-1] == "hold"


def test_many_logs_have_one_cause_each():
    """One view for each file, in their order."""
    files = sorted(LOGS.glob("cu*.log"))
    views = json.loads(explain(*files, "--json").stdout)["files"]
    assert [view["path"] for view in views] == [str(file) for file in files]
    assert all(view["cause"] for view in views)


def test_a_clean_log_has_nothing():
    """Exit code 0, and it says so."""
    done = explain(LOGS / "clean-yolov9.log")
    assert (done.exit_code, done.stdout) == (0, f"{LOGS / 'clean-yolov9.log'}: nothing that explains a failure\n")


def test_what_was_said_by_the_way_is_told():
    """A note is no cause, and worth a line."""
    done = explain(LOGS / "oom-halved.log")
    assert "nothing that explains a failure" in done.stdout
    assert "halved the batch by itself" in " ".join(done.stdout.split())


def test_an_exception_without_a_rule_is_an_error_of_the_code():
    """With the place where it was raised."""
    log = 'Traceback (most recent call last):\n  File "/a/b.py", line 7, in f\n    x()\nValueError: bad\n'
    done = explain("-", stdin=log)
    assert done.stdout.startswith("standard input: code-error: ")
    assert "ValueError: bad (/a/b.py:7 in f)" in done.stdout


def test_a_folder_of_an_attempt(tmp_path):
    """Its log is taken; a folder without one is said to have none."""
    folder = tmp_path / "attempts" / "1"
    folder.mkdir(parents=True)
    assert "no log in" in explain(folder).stderr
    assert explain(folder).exit_code == 2
    (folder / "log").write_text("OSError: [Errno 28] No space left on device\n")
    assert "disk-full" in explain(folder).stdout


def test_a_file_that_is_not_there(tmp_path):
    """Exit code 2, before anything else is read."""
    done = explain(LOGS / "disk-full.log", tmp_path / "gone.log")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "there is no file" in done.stderr


def test_no_file_is_a_question():
    """What to name is said."""
    done = explain()
    assert done.exit_code == 2
    assert "Name a FILE" in done.stderr


def test_rules_of_the_configuration_are_tried_first(tmp_path):
    """A person tests a new [[rule]] on an old log."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[[rule]]\nname = "nas"\nmatch = "No space left"\ncause = "nas-full"\nremedy = "wait-disk"\nmeans = "the NAS is full"\n'
    )
    done = explain(LOGS / "disk-full.log", "--config", config)
    assert "nas-full: the NAS is full" in done.stdout
    assert "plan     wait until the disk has space; then wait a little and try again" in done.stdout
    assert explain("--rules", "--config", config).stdout.splitlines()[1].startswith("nas ")


def test_a_wrong_configuration_is_named(tmp_path):
    """One that was asked for must be right; one that only lies there must not be in the way."""
    config = tmp_path / ".config" / "yolo-supervisor" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[[rule]]\nname = "x"\nmatch = "["\ncause = "nan"\n')
    done = explain(LOGS / "disk-full.log", "--config", config)
    assert done.exit_code == 2
    assert "line 3, rule[1].match" in done.stderr


def test_the_rules_are_listed():
    """In the order in which they are tried, with their patterns."""
    lines = explain("--rules").stdout.splitlines()
    assert len(lines) == len(RULES) + 1
    views = json.loads(explain("--rules", "--json").stdout)["rules"]
    assert [view["name"] for view in views] == [rule.name for rule in RULES]


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, bytes(range(256)) * 50, b"x" * 3_000_000])
def test_files_that_are_no_logs(tmp_path, content):
    """They hold nothing, and nothing breaks."""
    (tmp_path / "file").write_bytes(content)
    assert "nothing that explains" in explain(tmp_path / "file").stdout
    assert "nothing that explains" in explain("-", stdin=content).stdout
