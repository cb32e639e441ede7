"""Verbs that look: what they print, for people and for programs, with the daemon and without."""

from __future__ import annotations

import json

import pytest

from supervisor.core import events
from tests.cli.conftest import process


@pytest.fixture
def busy(daemon):
    """One run that trains, one that waits, one that is held."""
    daemon.end(daemon.launch("held"), finished=False, code=66, reason="data.yaml is missing")
    run_id = daemon.launch("truck", project="vehicles")
    daemon.progress(run_id, 3, 2, metrics={"metrics/mAP50-95(B)": 0.3125}, eta_s=7300.0, losses={"box_loss": 1.5})
    daemon.accept("car", after=("truck",))
    return daemon


def test_ls_fits_into_80_columns(busy, cli):
    """`ls` shows phase, epoch, metric, ETA, restarts and the reason, in lines of at most 80 columns."""
    done = cli("ls")
    assert done.exit_code == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    header, truck, car, held = done.stdout.splitlines()
    assert header.split()[:6] == ["NAME", "PHASE", "EPOCH", "MAP50-95", "ETA", "RESTARTS"]
    assert truck.split()[:6] == ["truck", "RUNNING", "3/10", "0.312", "2h1m", "0"]
    assert "other run: truck" in car
    assert "HELD" in held


@pytest.mark.parametrize(
    "verb",
    [("ls",), ("ls", "--all"), ("show", "truck"), ("why", "truck"), ("status",), ("version",), ("config", "show")],
)
def test_every_reading_verb_speaks_json_with_a_version(busy, cli, verb):
    """--json prints one JSON object with version 1 and nothing else."""
    done = cli(*verb, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["version"] == 1


def test_show_tells_what_to_do_with_a_held_run(busy, cli):
    """A held run names its reason and the commands that a person can give."""
    text = cli("show", "held").stdout
    assert "model or data are missing" in text
    assert "yolo-supervisor resume held" in text
    assert "attempt 1" in text


def test_show_of_a_running_run(busy, cli):
    """A running run shows progress, saved epoch, metrics, directory and process."""
    text = cli("show", "truck").stdout
    for part in ("epoch 3/10", "epoch 2", "0.3125", "box_loss 1.5", f"{busy.runs_dir}/vehicles/truck", "pid 11"):
        assert part in text


def test_why_tells_the_story(busy, cli):
    """`why --events` shows each step with time, phases and what was done then."""
    text = cli("why", "held", "--events").stdout
    for part in (
        "new → PREPARING",
        "then: start the trainer",
        "ended with exit code 66 (the model",
        "COOLING → HELD",
        "now: HELD",
    ):
        assert part in text, text


def test_status_counts(busy, cli):
    """`status` shows how many places are taken and what waits."""
    text = cli("status").stdout
    assert "1 of 1 places" in text
    assert "1 HELD" in text


def test_an_empty_server_says_what_to_do(cli):
    """Without any run `ls` says how one is made."""
    assert "drop a job file" in cli("ls").stdout


@pytest.mark.parametrize("verb", ["show", "why", "logs", "wait", "stop", "resume", "cancel", "retry"])
def test_unknown_names_exit_5_and_name_the_nearest(busy, cli, verb):
    """A name that no run has: exit code 5, and the name that was meant."""
    done = cli(verb, "trukc")
    assert done.exit_code == 5
    assert "did you mean truck" in done.stderr
    assert done.stdout == ""


@pytest.mark.e2e
def test_ls_show_and_why_read_the_journal_while_the_daemon_is_down(busy):
    """Without the daemon `ls`, `show`, `why` and `status` still work, say so, and exit 0."""
    config = busy.write_config()
    busy.api.stop()
    for verb in (("ls",), ("show", "truck"), ("why", "truck"), ("status",)):
        done = process("--config", config, *verb, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["offline"] is True
        assert "daemon is not running; this is the state of 20" in done.stderr
        assert "(read-only)" in done.stderr
    done = process("ls", "--config", config)
    assert "other run: truck" in done.stdout
    assert process("--config", config, "show", "nobody").returncode == 5


def test_show_names_the_interpreter_of_a_command(daemon, cli):
    """What is trained with is shown, not the placeholder of the job file."""
    daemon.accept("script", train=None, command=("{python}", "/t.py"))
    assert "trains      /env/bin/python /t.py" in cli("show", "script").stdout


def test_show_tells_an_attempt_that_was_never_launched(daemon, cli):
    """A refused preparation has no times, and is no attempt that somebody might look for in the logs."""
    run_id = daemon.accept("truck")
    daemon.put(events.Prepared(at=daemon.clock.now(), run=run_id, attempt=1, start="refused", reason="no data"))
    [line] = [line for line in cli("show", "truck").stdout.splitlines() if "attempt 1" in line]
    assert line.split(maxsplit=2)[2] == "not launched: nothing was started"


@pytest.mark.e2e
@pytest.mark.parametrize("verb", [("stop", "truck"), ("drain",), ("wait", "truck"), ("logs", "truck", "-f")])
def test_other_verbs_need_the_daemon(busy, verb):
    """Without the daemon orders exit 3 and say how to start one."""
    config = busy.write_config()
    log = busy.runs_dir / "vehicles" / "truck" / "attempts" / "1" / "log"
    log.parent.mkdir(parents=True)
    log.write_text("hello\n")
    busy.api.stop()
    done = process("--config", config, *verb)
    assert done.returncode == 3, done.stderr
    assert "daemon" in done.stderr


@pytest.mark.e2e
def test_reading_the_journal_changes_nothing(busy):
    """Offline reading leaves the journal's content as it was."""
    config = busy.write_config()
    busy.api.stop()
    before = busy.journal.load()
    for verb in (("ls",), ("show", "truck"), ("why", "truck")):
        process("--config", config, *verb)
    assert busy.journal.load() == before


@pytest.mark.e2e
def test_no_daemon_and_no_journal(tmp_path):
    """Where there is nothing at all: exit code 3, where it was looked for, and what to do."""
    config = tmp_path / "config.toml"
    config.write_text(f'[server]\nstate_dir = "{tmp_path}/state"\nsocket = "{tmp_path}/socket"\n')
    done = process("--config", config, "ls")
    assert done.returncode == 3
    assert f"{tmp_path}/socket" in done.stderr
    assert "systemctl start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_the_socket_is_found_by_option_and_environment(busy):
    """--socket wins over $YOLO_SUPERVISOR_SOCKET, which wins over the defaults; both work before and after the verb."""
    elsewhere = {"YOLO_SUPERVISOR_SOCKET": "/nowhere/socket"}
    right = {"YOLO_SUPERVISOR_SOCKET": str(busy.socket_path)}
    assert process("ls", env=right).returncode == 0
    assert process("ls", "--socket", busy.socket_path, env=elsewhere).returncode == 0
    assert process("--socket", busy.socket_path, "ls", env=elsewhere).returncode == 0
    assert process("ls", env=elsewhere).returncode == 3


@pytest.mark.e2e
def test_a_reader_that_leaves_early_is_no_error(busy):
    """`ls | head -1` ends quietly."""
    import subprocess
    import sys

    for number in range(200):
        busy.accept(f"waiting-{number:03}")
    command = f"{sys.executable} -m supervisor --socket {busy.socket_path} why truck | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    command = command.replace("why truck", "ls --json")
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True).stderr == ""


def test_colours_only_on_a_terminal(busy, cli):
    """Pipes get no escape sequences."""
    for verb in (("ls",), ("show", "truck"), ("why", "truck"), ("status",)):
        assert "\x1b" not in cli(*verb).stdout


@pytest.mark.e2e
@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_on_a_terminal(busy, extra, coloured):
    """On a terminal phases are coloured, unless NO_COLOR is set; the table stays within its width."""
    screen = on_terminal(["--socket", str(busy.socket_path), "ls"], extra)
    assert ("\x1b[3" in screen) is coloured
    assert "truck" in screen
    if not coloured:
        assert all(len(line) <= 80 for line in screen.splitlines())


def on_terminal(arguments, extra, columns=80):
    """What the program writes to a terminal of so many columns."""
    import fcntl
    import os
    import pty
    import struct
    import subprocess
    import sys
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **extra}
    child = subprocess.Popen([sys.executable, "-m", "supervisor", *arguments], stdout=slave, env=environment)
    os.close(slave)
    screen = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the terminal's other side is closed
            break
        if not data:
            break
        screen += data
    os.close(master)
    assert child.wait(30) == 0
    return screen.decode()


def test_status_shows_the_disks_and_what_is_paused_for_them():
    """Level, room, forecast and marks of runs and state; of other file systems only those with too little room."""
    from supervisor.cli.disk_lines import disk_lines

    disk = {"place": "/data", "what": "runs", "free_bytes": 8 * 2**30, "total_bytes": 2**40, "quota": False}
    disks = [
        {**disk, "level": "low", "full_in_s": 7200.0},
        {**disk, "what": "shm", "level": "ok", "full_in_s": None},
        {**disk, "what": "state", "place": "/s", "level": "unknown", "full_in_s": None, "free_bytes": None},
    ]
    assert disk_lines(disks, {"prune_below": "10GiB", "pause_below": "2GiB"}) == [
        "disk runs (/data): LOW, 8GiB of 1TiB free, full in 2h at this pace, pruned below 10GiB, paused below 2GiB",
        "disk state (/s): it does not answer",
    ]


def test_status_has_the_marks(busy, cli):
    """For programs as well."""
    view = json.loads(cli("status", "--json").stdout)
    assert set(view) >= {"disk_marks", "paused"}
