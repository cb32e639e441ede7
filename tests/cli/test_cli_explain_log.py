"""The verb `explain-log`: without a daemon, for logs of any training."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from supervisor.cli.program import PROGRAM, program
from supervisor.core.diagnosis.tables import CAUSES, RULES
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
    """The others are explained; it is named, and the exit code is 2."""
    done = explain(LOGS / "disk-full.log", tmp_path / "gone.log", "/dev/null", LOGS / "cuda-oom.log")
    assert done.exit_code == 2
    assert ": disk-full: " in done.stdout
    assert ": cuda-oom: " in done.stdout
    assert "there is no file" in done.stderr
    assert "/dev/null is no regular file" in done.stderr
    view = json.loads(explain(LOGS / "disk-full.log", tmp_path / "gone.log", "--json").stdout)
    assert len(view["files"]) == 1


def test_a_folder_of_a_run(tmp_path):
    """The newest attempt that has a log is meant, by number and not by name."""
    for number, line in ((2, "OSError: [Errno 28] No space left on device"), (10, "MemoryError"), (9, "")):
        (tmp_path / "attempts" / str(number)).mkdir(parents=True)
        (tmp_path / "attempts" / str(number) / "log").write_text(f"{line}\n")
    (tmp_path / "attempts" / "stray").write_text("")
    assert explain(tmp_path).stdout.startswith(f"{tmp_path}/attempts/10/log: host-oom")


def test_the_exception_is_told_beside_a_line_that_says_more():
    """What a rule saw, and the last exception with its place."""
    log = (
        'Killed worker\nTraceback (most recent call last):\n  File "/a/b.py", line 7, in f\n    x()\nValueError: bad\n'
    )
    lines = "RuntimeError: CUDA error: an illegal memory access was encountered\n" + log
    text = " ".join(explain("-", stdin=lines).stdout.split())
    assert "raised ValueError: bad (/a/b.py:7 in f)" in text


def test_a_log_that_ends_within_its_training_says_what_a_log_cannot_tell():
    """Whoever was killed by SIGKILL wrote nothing: that is said, and where more is known."""
    frame = (
        "      1/300      2.51G      1.061      2.174      1.263         12        640: {0}% {1}/100 1.2it/s 0.1s<1:20"
    )
    log = "".join(frame.format(number, number) + "\n" for number in range(1, 60))
    done = " ".join(explain("-", stdin=log).stdout.split())
    assert "nothing that explains a failure a log has no word of SIGKILL" in done
    assert "SIGKILL" not in explain(LOGS / "clean-yolov9.log").stdout


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("PermissionError: [Errno 13] Permission denied: '/data/my set/x'", "`namei -l '/data/my set/x'` shows"),
        ("PermissionError: [Errno 13] Permission denied", "let the job's owner read or write it"),
        ("RuntimeError: The server socket has failed to bind to [::]:29500 (errno: 98 - Address already in use).", "grep 29500`"),
        ("ModuleNotFoundError: No module named 'seaborn.utils'", "`python -m pip install seaborn`"),
    ],
)  # fmt: skip
def test_what_the_line_tells_stands_in_the_command(log, told):
    """A command can be given as it stands; one that lacks something is left out."""
    text = " ".join(explain("-", stdin=log + "\n").stdout.split())
    assert told in text
    assert "PATH" not in text
    assert "PORT" not in text


def test_no_file_is_a_question():
    """What to name is said."""
    done = explain()
    assert done.exit_code == 2
    assert "Name a FILE" in done.stderr


def test_rules_of_the_configuration_are_tried_first(tmp_path):
    """A person tests a new [[rule]] on an old log."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[[rule]]\nname = "nas"\nmatch = "No space left"\ncause = "nas-full"\nremedy = "wait-disk"\nmeans = "the NAS is full"\nfix = "call the NAS people"\n'
    )
    done = explain(LOGS / "disk-full.log", "--config", config)
    assert "nas-full: nas full" in done.stdout
    assert "means    the NAS is full" in done.stdout
    assert "you can  call the NAS people" in done.stdout
    assert "plan     wait until the disk has space; then wait a little and try again" in done.stdout
    rules = explain("--rules", "--config", config).stdout.splitlines()
    assert rules[1].startswith("nas ")
    assert rules[-1].split(maxsplit=1) == ["nas-full", "wait-disk, backoff*20, fail"]


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
    assert lines[len(RULES) + 1] == ""
    plans = dict(line.split(maxsplit=1) for line in lines[len(RULES) + 2 :])
    assert plans["CAUSE"] == "PLAN"
    assert plans["cuda-oom"] == "backoff, batch*3, imgsz, hold"
    view = json.loads(explain("--rules", "--json").stdout)
    assert [rule["name"] for rule in view["rules"]] == [rule.name for rule in RULES]
    assert {cause["name"] for cause in view["causes"]} == set(CAUSES)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, bytes(range(256)) * 50, b"x" * 3_000_000])
def test_files_that_are_no_logs(tmp_path, content):
    """They hold nothing, and nothing breaks."""
    (tmp_path / "file").write_bytes(content)
    expected = "nothing that explains" if content.strip(b"\0") else ": no text"
    assert expected in explain(tmp_path / "file").stdout
    assert expected in explain("-", stdin=content).stdout
