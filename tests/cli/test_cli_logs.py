"""`logs`: readable lines, the last ones, following over attempts, the bytes as they are."""

from __future__ import annotations

import pytest

from supervisor.cli.logs import Follower, Output, readable


@pytest.fixture
def log(daemon):
    """The log of attempt 1 of a running run."""
    daemon.launch("truck")
    path = daemon.runs_dir / "default" / "truck" / "attempts" / "1" / "log"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"plain", "plain"),
        (b"\x1b[34m\x1b[1mtrain: \x1b[0mScanning", "train: Scanning"),
        (b"\r 10%|#\r 50%|##\r100%|###", "100%|###"),
        (b"\r 10%\r 50%\r", " 50%"),
        (b"\x1b]0;title\x07text\x1b[K", "text"),
        (b"\xff\xfe caf\xc3\xa9", "�� café"),
        (b"\0\0\0after a hole", "after a hole"),
        ("训练 完成".encode(), "训练 完成"),
    ],
)
def test_readable(line, text):
    """Escape sequences go, of a progress bar the last frame stays, broken UTF-8 is shown and never fatal."""
    assert readable(line) == text


def test_the_last_lines(cli, log):
    """-n gives the last lines, 0 gives all; a line without an end counts."""
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(5000)) + b"last")
    assert cli("logs", "truck", "-n", "2").stdout == "line 4999\nlast\n"
    assert len(cli("logs", "truck", "-n", "0").stdout.splitlines()) == 5001
    assert len(cli("logs", "truck").stdout.splitlines()) == 100


def test_raw_is_every_byte(cli, log):
    """--raw copies the bytes."""
    data = b"\x1b[1mbold\x1b[0m\r\x00frame\xff\n"
    log.write_bytes(data)
    assert cli("logs", "truck", "--raw", "-n", "0").stdout_bytes == data


def test_a_hole_at_the_start_is_skipped(cli, log):
    """A log whose beginning was given back to the disk is read from where it goes on."""
    with log.open("wb") as file:
        file.seek(50_000_000)
        file.write(b"\nnew\nnewer\n")
    assert cli("logs", "truck", "-n", "10").stdout.strip().splitlines() == ["new", "newer"]


def test_missing_logs_and_attempts(daemon, cli, log):
    """A run that never started and an attempt that never was: exit code 1 and a reason."""
    daemon.accept("car")
    assert "was not started yet" in cli("logs", "car").stderr
    done = cli("logs", "truck", "--attempt", "7")
    assert done.exit_code == 1
    assert "no log of attempt 7" in done.stderr


def test_follow_goes_on_over_attempts_until_the_end(log, capsys):
    """-f writes what comes, says when another attempt begins, and ends with the run."""
    directory = log.parents[2]
    second = directory / "attempts" / "2" / "log"
    second.parent.mkdir()
    log.write_bytes(b"one\n")
    views = [
        {"phase": "RUNNING", "attempt": 1, "directory": str(directory)},
        {"phase": "RUNNING", "attempt": 2, "directory": str(directory)},
        {"phase": "SUCCEEDED", "attempt": 2, "directory": str(directory)},
    ]
    writes = iter([lambda: append(log, b"two\nhalf"), lambda: append(log, b" line\nlast of 1\n")])
    source = FakeSource(views[1:], lambda: append(second, b"first of 2\n"))
    out = Output(raw=False)
    position = out.tail(log, 0)
    Follower(source, "truck@1", out, sleep=lambda _: next(writes, lambda: None)()).follow(
        views[0], 1, position, only=False
    )
    seen = capsys.readouterr()
    assert seen.out.splitlines() == ["one", "two", "half line", "last of 1", "first of 2"]
    assert "==> attempt 2 <==" in seen.err


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


class FakeSource:
    """Answers with one view after another."""

    def __init__(self, views, before):
        self.views, self.before = views, before

    def run(self, name):
        """See Reading."""
        assert name == "truck@1"
        self.before()
        self.before = lambda: None
        return self.views.pop(0)


def test_an_endless_progress_bar_needs_no_memory(log, capsys):
    """A line of a million frames is kept as its newest frame only."""
    log.write_bytes(b"\r frame" * 300_000)
    out = Output(raw=False)
    out.tail(log, 0)
    assert len(out._rest) < 100
    out.finish()
    assert capsys.readouterr().out.strip() == "frame"


def test_logs_follow_ends_with_an_ended_run(daemon, cli, log):
    """-f on a run that is over prints and returns."""
    log.write_bytes(b"done\n")
    daemon.end("truck@1")
    assert cli("logs", "truck", "-f").stdout == "done\n"
