"""The program itself: help, exit codes, completion, versions, configuration, the verb that starts the daemon."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from supervisor.cli.program import VERBS, program
from tests.cli.conftest import process

ALL = [verb for verbs in VERBS.values() for verb in verbs]


@pytest.mark.parametrize("verb", ALL)
def test_every_verb_has_help_and_an_example(verb):
    """`VERB --help` explains the verb and shows how it is called; its one line in the list says the same module."""
    done = CliRunner().invoke(program, [verb, "--help"])
    assert done.exit_code == 0
    if verb != "config":
        assert f"yolo-supervisor {verb}" in done.stdout.split("Examples:")[1]


def test_help_lists_every_verb():
    """The list of verbs is complete."""
    text = CliRunner().invoke(program, ["--help"]).stdout
    assert all(f"  {verb} " in text for verb in ALL)


@pytest.mark.e2e
def test_help_and_ls_import_little():
    """Neither `--help` nor `ls` loads what makes a start slow: requests, starlette, uvicorn, sqlite3 or rich."""
    script = (
        "import sys; from supervisor.cli.program import program\n"
        "program(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'requests', 'starlette', 'uvicorn', 'rich', 'apscheduler', 'watchdog', 'psutil', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_ls_imports_little(daemon):
    """`ls` with a daemon loads no server and no database."""
    script = (
        "import sys; from supervisor.cli.program import program\n"
        "program(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'requests', 'starlette', 'uvicorn', 'rich', 'apscheduler', 'watchdog', 'psutil', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, "--socket", str(daemon.socket_path), "ls"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_misspelt_verbs_and_options_exit_2():
    """Usage errors: exit code 2 and the nearest verb."""
    done = CliRunner().invoke(program, ["sumbit"])
    assert done.exit_code == 2
    assert "submit" in done.stderr
    assert CliRunner().invoke(program, ["ls", "--al"]).exit_code == 2


def test_a_bad_configuration_exits_2_with_its_place(tmp_path):
    """`config check` names file, line and key, and never shows a traceback."""
    config = tmp_path / "config.toml"
    config.write_text("[queue]\nmax_runing = 3\n")
    done = CliRunner().invoke(program, ["config", "check", "--config", str(config)])
    assert done.exit_code == 2
    assert "max_runing" in done.stderr
    assert "line 2" in done.stderr
    config.write_text("[queue]\nmax_running = 3\n")
    done = CliRunner().invoke(program, ["config", "check", "--config", str(config)])
    assert "is valid" in done.stdout
    assert (done.exit_code, "no [prune] table: nothing is ever pruned" in done.stderr) == (0, True)
    config.write_text("[prune]\nkeep_last = 3\n")
    assert "pruned" not in CliRunner().invoke(program, ["config", "check", "--config", str(config)]).stderr


def test_config_show_can_be_read_back(tmp_path):
    """What `config show` prints is a configuration that means the same; secrets are left out."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[queue]\nmax_running = 3\n[[channel]]\nname = "ops"\nkind = "slack"\nurl = "https://h.example/T0/hush"\n'
    )
    text = CliRunner().invoke(program, ["config", "show", "--config", str(config)]).stdout
    assert "hush" not in text
    config.write_text(text)
    assert CliRunner().invoke(program, ["config", "show", "--config", str(config)]).stdout == text


def test_config_show_running_asks_the_daemon(cli, daemon):
    """--running shows what the daemon uses."""
    assert str(daemon.jobs_folder) in cli("config", "show", "--running").stdout


def test_version_names_libraries():
    """`version` names this program, Python and every library."""
    view = json.loads(CliRunner().invoke(program, ["version", "--json"]).stdout)
    assert view["python"] == ".".join(map(str, sys.version_info[:3]))
    assert view["libraries"]["msgspec"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    """`completion SHELL` prints a script that the shell can read."""
    done = CliRunner().invoke(program, ["completion", shell])
    assert done.exit_code == 0
    assert "yolo-supervisor" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True, capture_output=True)


@pytest.mark.e2e
def test_completion_offers_verbs_and_names(daemon):
    """The shell is offered verbs, and names of runs where one is wanted; silence where no daemon answers."""
    daemon.accept("truck")
    assert "submit" in complete("yolo-supervisor sub", 1)
    assert "truck" in complete("yolo-supervisor show tr", 2, YOLO_SUPERVISOR_SOCKET=str(daemon.socket_path))
    assert complete("yolo-supervisor show tr", 2, YOLO_SUPERVISOR_SOCKET="/nowhere").strip() == ""


def complete(words, place, **env):
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(place), "_YOLO_SUPERVISOR_COMPLETE": "bash_complete", **env}
    done = process(env=variables)
    assert done.stderr == ""
    return done.stdout


def test_run_gives_the_daemon_its_configuration(monkeypatch, tmp_path):
    """`run` hands the configuration to the daemon and exits with its code."""
    given = []
    fake = type(sys)("supervisor.daemon")
    fake.main = lambda path: given.append(path) or 73
    monkeypatch.setitem(sys.modules, "supervisor.daemon", fake)
    import supervisor

    monkeypatch.setattr(supervisor, "daemon", fake, raising=False)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(program, ["run", "--config", "c.toml"]).exit_code == 73
    assert CliRunner().invoke(program, ["run"]).exit_code == 73
    assert given == [tmp_path / "c.toml", None]


@pytest.mark.e2e
def test_ctrl_c_is_quiet(daemon):
    """Ctrl-C ends a waiting verb with exit code 130 and without a traceback."""
    daemon.launch("truck")
    command = [sys.executable, "-m", "supervisor", "--socket", str(daemon.socket_path), "logs", "truck", "-f"]
    log = daemon.runs_dir / "default" / "truck" / "attempts" / "1" / "log"
    log.parent.mkdir(parents=True)
    log.write_text("hello\n")
    # a shell starts its background jobs with SIGINT ignored: tests may be such a job, a terminal's program is not
    command = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "hello\n"
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=30)
    assert child.returncode == 130
    assert stderr.strip() == ""
