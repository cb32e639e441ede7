"""The verb `plot`: pictures, JSON, and the live chart in a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time

import pytest

from supervisor.cli import chart, plot
from supervisor.cli.failures import Failure
from supervisor.core import events
from tests.cli.conftest import process
from tests.web.fake_daemon import BOOT

EPOCHS = 6


@pytest.fixture
def truck(daemon):
    """A run whose first attempt was killed after epoch 3, and that goes on."""
    run_id = daemon.launch("truck")
    root = daemon.runs_dir / "default" / "truck" / "attempts"
    write(root / "1", range(1, 4), exit={"code": None, "signal": 9, "signal_name": "SIGKILL"})
    write(root / "2", range(4, EPOCHS + 1), after=3)
    daemon.progress(run_id, EPOCHS, EPOCHS)
    return daemon


def write(folder, epochs, after=0, **records):
    """The files of an attempt."""
    folder.mkdir(parents=True)
    start = {"kind": "resumed", "from_epoch": after - 1} if after else {"kind": "fresh"}
    beats = [
        {
            "kind": "epoch", "epoch": epoch - 1, "epochs": 10, "losses": {"box_loss": 3.0 / epoch, "cls_loss": 2.0 / epoch},
            "metrics": {"metrics/mAP50(B)": 0.1 * epoch, "metrics/mAP50-95(B)": None if epoch == 2 else 0.07 * epoch},
        }
        for epoch in epochs
    ]  # fmt: skip
    lines = [json.dumps({"v": 1, "at": 5.0, **beat}) + "\n" for beat in (start, *beats)]
    (folder / "beats.jsonl").write_text("".join(lines))
    for name, record in records.items():
        (folder / f"{name}.json").write_text(json.dumps({"ended_at": 6.0, "started_at": 4.0, **record}))


def a_python(folder, script):
    """An interpreter of a job, which draws as the test wants it."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


# ---- JSON
def test_json_has_each_epoch_once_and_the_restart(truck, cli):
    """--json prints the curve with a version: points in order, None for NaN, the restart with its reason."""
    view = json.loads(cli("plot", "truck", "--json").stdout)
    assert view["version"] == 1
    assert [point["epoch"] for point in view["points"]] == list(range(1, EPOCHS + 1))
    assert [point["map50_95"] for point in view["points"]][:2] == [pytest.approx(0.07), None]
    assert (view["name"], view["id"], view["epochs"], view["phase"]) == ("truck", "truck@1", 10, "RUNNING")
    [mark] = view["restarts"]
    assert (mark["attempt"], mark["epoch"], mark["reason"]) == (2, 3, "killed by SIGKILL, resumed after epoch 3")
    assert cli("plot", "truck@1", "--json").exit_code == 0


def go_on(daemon, run_id, epoch):
    """The daemon starts the newest attempt of a run."""
    at, number = daemon.clock.now(), daemon.world.live[run_id].attempts
    who = {"at": at, "run": run_id, "attempt": number}
    daemon.put(events.Prepared(**who, start="resume", from_epoch=epoch))
    daemon.put(events.Launched(**who, pid=11, shim_pid=10, boot=BOOT, started_at=at))


def test_an_older_run_has_its_own_curve(daemon, cli):
    """An id draws what was trained until that run ended; who ordered its end is said, also by the runs after it."""
    run_id = daemon.launch("truck")
    root = daemon.runs_dir / "default" / "truck" / "attempts"
    write(root / "1", range(1, 5), exit={"code": None, "signal": 9, "signal_name": "SIGKILL"})
    write(root / "2", range(3, 7), after=2)
    daemon.progress(run_id, 4, 4)
    daemon.put(events.StopAsked(at=daemon.clock.now(), run=run_id, by="ann (uid 7)", at_once=True))
    daemon.end(run_id, finished=False, code=None)
    daemon.put(events.RewindAsked(at=daemon.clock.now(), run=run_id, by="ann", epoch=2))
    go_on(daemon, "truck@2", 2)
    older, newer = (json.loads(cli("plot", name, "--json").stdout) for name in ("truck@1", "truck@2"))
    assert ([point["epoch"] for point in older["points"]], older["restarts"], older["lost"]) == ([1, 2, 3, 4], [], [])
    assert [point["epoch"] for point in newer["points"]] == [1, 2, 3, 4, 5, 6]
    assert newer["restarts"][0]["reason"] == "stopped by ann (uid 7), resumed after epoch 2"


@pytest.mark.e2e
def test_json_without_a_daemon_is_the_same_curve(truck, cli):
    """The files are read directly while the daemon is down, and that is said."""
    online = json.loads(cli("plot", "truck", "--json").stdout)
    config = truck.write_config()
    truck.api.stop()
    done = process("--config", config, "plot", "truck", "--json")
    assert done.returncode == 0, done.stderr
    offline = json.loads(done.stdout)
    assert offline.pop("offline") is True
    assert {**offline, "at": 0} == {**online, "at": 0}
    assert "daemon is not running" in done.stderr


@pytest.mark.e2e
def test_files_that_cannot_be_read_are_told(truck, cli):
    """With the daemon: try later (75); without it: exit 1. Never a traceback."""
    table = truck.runs_dir / "default" / "truck" / "train" / "results.csv"
    table.parent.mkdir()
    table.symlink_to(table)
    done = cli("plot", "truck", "--json")
    assert (done.exit_code, "cannot be read" in done.stderr) == (75, True)
    config = truck.write_config()
    truck.api.stop()
    offline = process("--config", config, "plot", "truck", "--json")
    assert (offline.returncode, "cannot be read" in offline.stderr) == (1, True)
    assert "Traceback" not in offline.stderr


# ---- refusals
def test_a_run_without_an_epoch_is_tried_later(daemon, cli):
    """Nothing to draw yet: exit 75; after the end of the run: exit 1."""
    daemon.launch("young")
    done = cli("plot", "young")
    assert done.exit_code == 75
    assert "no complete epoch" in done.stderr
    daemon.end("young@1")
    assert cli("plot", "young").exit_code == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--out", "curve.pdf"), ".png or .svg"),
        (("--out", "/nowhere/at/all/curve.png"), "no folder /nowhere/at/all"),
        (("--watch",), "needs a terminal"),
        (("--watch", "--json"), "neither"),
        (("--watch", "--out", "a.png"), "neither"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(truck, cli, words, part):
    """A wrong name, a missing folder, a chart without a terminal: exit 2 and what to do."""
    done = cli("plot", "truck", *words)
    assert done.exit_code == 2
    assert part in done.stderr


def test_an_unknown_run_exits_5(truck, cli):
    """The nearest name is told."""
    done = cli("plot", "trukc")
    assert done.exit_code == 5
    assert "did you mean truck" in done.stderr


# ---- drawing
def test_both_pictures_by_default(truck, cli, tmp_path, monkeypatch):
    """NAME.png and NAME.svg in the current folder, drawn by the first interpreter that can; the options go through."""
    monkeypatch.chdir(tmp_path)
    poor = a_python(tmp_path, "cat >/dev/null; echo 'no matplotlib' >&2; exit 3")
    (tmp_path / "good").mkdir()
    good = a_python(tmp_path / "good", f'cat >{tmp_path}/input; echo "$@" >{tmp_path}/words')
    monkeypatch.setattr(plot, "pythons", lambda *_: [poor, good])
    done = cli("plot", "truck", "--dark")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "truck.png, truck.svg: 6 epochs, 1 restart\n"
    words = (tmp_path / "words").read_text().split()
    assert words[1:] == ["--dark", str(tmp_path / "truck.png"), str(tmp_path / "truck.svg")]
    assert len(json.loads((tmp_path / "input").read_text())["points"]) == EPOCHS


@pytest.mark.parametrize(
    ("script", "part"),
    [
        ("echo no such module >&2; exit 3", "-m pip install matplotlib"),
        ("echo disk is full >&2; exit 73", "disk is full"),
    ],
)
def test_no_picture_says_why(truck, tmp_path, script, part):
    """Without matplotlib the fix is named; another failure is told in the drawing program's own words."""
    python = a_python(tmp_path, f"cat >/dev/null; {script}")
    with pytest.raises(Failure) as failed:
        plot.draw(a_view(id="truck@1"), [str(tmp_path / "x.png")], [python], dark=False)
    assert failed.value.exit_code == 1
    assert part in failed.value.message


class Fake:
    """A source of views with one run."""

    def __init__(self, owner, python):
        """Of this owner."""
        self.view = {"owner": owner, "job": {"python": python}}

    def run(self, _name):
        """See Reading."""
        return self.view


def test_another_users_interpreter_is_never_started(monkeypatch):
    """The job's own Python draws only for its owner: it would run as whoever asks."""
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda _: None)
    assert plot.pythons(Fake(os.getuid(), "/env/bin/python"), "a") == ["/env/bin/python"]
    assert plot.pythons(Fake(os.getuid() + 1, "/env/bin/python"), "a") == []
    assert plot.pythons(Fake(os.getuid(), ""), "a") == []
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda _: object())
    assert plot.pythons(Fake(os.getuid() + 1, "/env/bin/python"), "a") == [sys.executable]
    with pytest.raises(Failure, match="another user's"):
        plot.draw({"id": "a@1"}, ["a.png"], [], dark=False)


# ---- the chart
def a_view(epochs=6, **fields):
    """A curve as the API gives it."""
    points = [
        {"epoch": e, "losses": {"box_loss": 3.0 / e, "nan_loss": None}, "map50": 0.1 * e, "map50_95": None if e == 2 else 0.05 * e}
        for e in range(1, epochs + 1)
    ]  # fmt: skip
    marks = [{"attempt": 2, "epoch": 3, "reason": "killed by SIGKILL, resumed after epoch 3"}]
    return {"name": "truck", "phase": "RUNNING", "epochs": 10, "points": points, "restarts": marks, **fields}


@pytest.mark.parametrize("colourful", [True, False])
@pytest.mark.parametrize("size", [(80, 24), (30, 10), (200, 60)])
@pytest.mark.parametrize("epochs", [1, 3, 300])
def test_a_chart_fits_into_its_terminal(epochs, size, colourful):
    """Never wider or higher than the terminal, with both panels, the restart, and whole epochs below."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", chart.render(a_view(epochs), *size, colourful=colourful))
    lines = text.splitlines()
    assert max(map(len, lines)) <= size[0]
    assert len(lines) < size[1]
    assert "truck RUNNING" in lines[0]
    assert "attempt 2: kill" in lines[-1]
    if size != (30, 10):
        assert "box_loss" in text
        assert "mAP50-95" in text


def test_without_colours_lines_differ_by_their_signs():
    """NO_COLOR: no escape sequence at all; each line has a sign of its own."""
    text = chart.render(a_view(), 80, 24, colourful=False)
    assert "\x1b" not in text
    assert "oo mAP50" in text
    assert "xx mAP50-95" in text


def test_a_chart_of_nothing_says_so():
    """Before the first complete epoch there is a sentence, no error."""
    assert "no epoch is complete yet" in chart.render(a_view(0, restarts=[]), 80, 24, colourful=True)
    only_losses = [{**point, "map50": None, "map50_95": None} for point in a_view()["points"]]
    assert "mAP" not in chart.render(a_view(points=only_losses), 80, 24, colourful=False)


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *words, **env):
        """Start the program."""
        self.handle, child = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "30", **env}
        command = [sys.executable, "-m", "supervisor", *map(str, words)]
        # Where the tests run in the background the shell has SIGINT ignored, and a child inherits that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment)
        finally:
            signal.signal(signal.SIGINT, before)
        os.close(child)
        self.said = b""

    def read_until(self, part, within_s=30.0):
        """Everything so far, once this is in it; or all of it, for None, when the program has ended."""
        deadline = time.monotonic() + within_s
        while part is None or part not in self.said:
            assert time.monotonic() < deadline, self.said
            if select.select([self.handle], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self.handle, 65536)
                except OSError:  # nobody has the terminal open any more
                    assert part is None, self.said
                    break
        return self.said.decode(errors="replace")

    def close(self):
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self.handle)


@pytest.fixture
def terminal(truck):
    """Start a verb on a terminal."""
    opened = []

    def start(*words, **env):
        opened.append(Terminal("--socket", truck.socket_path, *words, **env))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.e2e
def test_watch_goes_on_until_ctrl_c(terminal):
    """A run that trains is shown on a screen of its own; Ctrl-C ends that quietly with exit code 130."""
    seen = terminal("plot", "truck", "--watch")
    text = seen.read_until(b"mAP50-95")
    assert "\x1b[?1049h" in text
    assert "truck RUNNING: 6 of 10 epochs, 1 restart" in text
    seen.process.send_signal(signal.SIGINT)
    assert "Traceback" not in seen.read_until(None)
    assert seen.process.wait(10) == 130
    assert "\x1b[?1049l" in seen.said.decode(errors="replace")


@pytest.mark.e2e
def test_watch_of_an_ended_run_leaves_its_chart(truck, terminal):
    """When the run has ended the last chart stays on the terminal, and the exit code is 0."""
    truck.end("truck@1")
    seen = terminal("plot", "truck", "--watch", NO_COLOR="1")
    text = seen.read_until(None)
    assert seen.process.wait(10) == 0
    assert "truck SUCCEEDED" in text
    assert "oo mAP50" in text
