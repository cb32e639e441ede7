from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from check_machine import DESCRIPTION, Machine, accepted, action, refused

from supervisor.config import Defaults, Disk
from supervisor.effects import interpreters
from supervisor.machine.gpu_count import count_gpus


@pytest.fixture
def machine(tmp_path):
    """A machine on which the usual job is fine."""
    return Machine(tmp_path)


def test_a_good_job_is_accepted_and_resolved(machine):
    """What depends on this machine is filled in: GPUs, version, folders; the note goes with it."""
    (event,) = machine.checker(gpu_count=0)(action(machine.text(), note="no final newline"))
    assert (event.note, event.at, event.path) == ("no final newline", 1000.0, "/jobs/truck.toml")
    assert (event.job.python, event.job.gpus, event.job.trainer_version) == (str(machine.python), 0, "8.4.190")


def test_auto_is_one_gpu_if_there_is_one(machine):
    """The number "auto" takes one GPU, or the CPU."""
    (machine.root / "weights/yolo26n.pt").touch()
    assert accepted(machine.checker(gpu_count=4), machine.text()).gpus == 1
    job = accepted(machine.checker(gpu_count=0), machine.text())
    assert (job.gpus, job.trainer_version) == (0, "8.4.190")


def test_more_gpus_than_there_are_are_refused(machine):
    """A job that could never start is refused at once."""
    text = refused(machine.checker(gpu_count=2), machine.text(head="gpus = 3"))
    assert "line 1, gpus: too many GPUs; expected at most 2" in text


def test_an_interpreter_is_asked_once(machine):
    """A thousand job files ask an interpreter once, and so does the next daemon; new packages ask again."""
    checker = machine.checker(gpu_count=0)
    for number in range(20):
        accepted(checker, machine.text(head=f'name = "n{number}"'))
    accepted(machine.checker(gpu_count=0), machine.text())
    assert machine.times_asked() == 1
    os.utime(machine.site, ns=(1, 1))
    accepted(checker, machine.text())
    assert machine.times_asked() == 2


def test_new_settings_of_the_owner_ask_again(machine):
    """Ultralytics' settings say where weights lie, so a change of them is noticed."""
    checker = machine.checker(gpu_count=0)
    accepted(checker, machine.text())
    folder = machine.root / "home/.config/Ultralytics"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text("{}")
    accepted(checker, machine.text())
    assert machine.times_asked() == 2


def test_two_at_once_ask_once(machine, tmp_path):
    """Two lanes that meet an unknown interpreter at the same time lead to one asking."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    machine.describe_as(DESCRIPTION, before=f"read line < '{gate}'")
    checker = machine.checker(gpu_count=0)
    found = []
    threads = [threading.Thread(target=lambda: found.append(accepted(checker, machine.text()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    gate.write_text("go\n")
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert machine.times_asked() == 1


def test_a_damaged_cache_is_begun_anew(machine):
    """The cache may be lost, never in the way."""
    cache = machine.root / "state/interpreters.json"
    cache.parent.mkdir()
    for content in (b"", b"\xff\x00", b"[]", b'{"version": 9, "interpreters": {}}', b"[" * 100_000):
        cache.write_bytes(content)
        accepted(machine.checker(gpu_count=0), machine.text())
    assert machine.times_asked() == 5
    assert json.loads(cache.read_bytes())["version"] == 1


def test_a_broken_interpreter_is_asked_again_later(machine):
    """A failure is remembered for a minute, then tried again, because people mend things."""
    machine.describe_as("Segmentation fault", code=139)
    checker = machine.checker(gpu_count=0)
    assert "could not be asked" in refused(checker, machine.text())
    refused(checker, machine.text())
    assert machine.times_asked() == 1
    machine.describe_as(DESCRIPTION)
    machine.clock.at += 61
    accepted(checker, machine.text())


@pytest.mark.parametrize(
    ("description", "word"),
    [
        (
            {**DESCRIPTION, "missing": ["torch"], "missing_reasons": {"torch": "ImportError: libc"}},
            "torch (ImportError: libc)",
        ),
        ({"error": "RuntimeError: odd"}, "RuntimeError: odd"),
        ("not json", "could not be asked"),
        ("", "exit code 0"),
        ('{"train_args": 5}', "could not be asked"),
    ],
)
def test_an_interpreter_that_cannot_train_is_refused(machine, description, word):
    """What is missing is named, with the interpreter."""
    machine.describe_as(description)
    text = refused(machine.checker(gpu_count=0), machine.text())
    assert word in text
    assert str(machine.python) in text


def test_an_interpreter_that_hangs_is_given_up(machine, tmp_path, monkeypatch):
    """Asking has a limit."""
    os.mkfifo(tmp_path / "gate")
    monkeypatch.setattr(interpreters, "DESCRIBE_LIMIT_S", 0.2)
    machine.describe_as(DESCRIPTION, before=f"exec cat '{tmp_path}/gate'")
    assert "did not answer" in refused(machine.checker(gpu_count=0), machine.text())


def test_an_interpreter_must_be_there(machine):
    """A path that is nothing, or may not be executed, is refused by line."""
    assert "line 1, python: this interpreter is not there" in refused(
        machine.checker(), machine.text(head='python = "/no/python"')
    )
    machine.python.chmod(0o644)
    if os.geteuid() != 0 or not os.access(machine.python, os.X_OK):
        assert "may not be executed" in refused(machine.checker(), machine.text())


def test_the_interpreter_gets_a_small_environment(machine):
    """Nothing of the daemon's environment reaches the interpreter but what it needs, and what is passed on by name."""
    machine.describe_as(DESCRIPTION, before=f"env > '{machine.root}/env.txt'")
    accepted(machine.checker(gpu_count=0, defaults=Defaults(env_pass=("LD_LIBRARY_PATH",))), machine.text())
    names = {line.partition("=")[0] for line in (machine.root / "env.txt").read_text().splitlines()}
    assert {"HOME", "PATH", "LD_LIBRARY_PATH", "YOLO_OFFLINE"} <= names
    assert names <= {
        "HOME",
        "PATH",
        "LD_LIBRARY_PATH",
        "YOLO_OFFLINE",
        "YOLO_AUTOINSTALL",
        "PWD",
        "SHLVL",
        "_",
        "OLDPWD",
    }


def test_all_reasons_are_given_at_once(machine):
    """Server, interpreter and files are checked in one go, in the order of lines."""
    head = 'notify = ["nobody"]\ngpus = 5\ncwd = "/no/folder"'
    text = refused(machine.checker(), machine.text('model = "x.pt"\ndata = "/no/data"\nepoch = 1\n', head))
    keys = [line.split(", ")[1].split(":")[0] for line in text.splitlines() if line.startswith("/jobs/")]
    assert keys == ["notify", "gpus", "cwd", "train.amp", "train.model", "train.data", "train.epoch"]


def test_root_runs_jobs_only_where_that_was_allowed(machine):
    """A job file is code: a daemon that is root refuses it unless the administrator wrote otherwise."""
    assert "allow_root = true" in refused(machine.checker(0, euid=0), machine.text())
    accepted(machine.checker(0, euid=0, allow_root=True), machine.text())


def test_a_full_disk_accepts_nothing(machine):
    """Below disk.pause_below no job is accepted."""
    text = refused(machine.checker(0, disk=Disk(pause_below=2**61)), machine.text())
    assert "nearly full" in text
    assert "disk.pause_below" in text


def test_a_file_that_cannot_be_parsed_is_refused(machine):
    """What the parser says is the answer."""
    assert "line 1, gpsu: unknown key" in refused(machine.checker(), machine.text(head="gpsu = 1"))


def test_the_script_of_an_interpreter_must_be_there(machine, tmp_path):
    """Like a program; only where it is certain which word it is and where it will lie."""
    checker = machine.checker(gpu_count=0)
    head = f'python = "{machine.python}"\ncwd = "{tmp_path}"\n'
    text = refused(checker, head + 'command = ["{python}", "-u", "nothere.py", "--epochs", "3"]')
    assert f'line 3, command: this script is not there; got "{tmp_path}'[:100] in text  # a long path is cut
    assert "this script is not there" in refused(
        checker, f'python = "{machine.python}"\ncommand = ["{{python}}", "/no/x.py"]'
    )
    (tmp_path / "there.py").touch()
    uncertain = (["{python}", "there.py"], ["{python}", "-m", "x.py"], ["{python}", "-c", "pass", "x.py"],
        ["{python}", "{run_dir}/x.py"], ["{python}", "-W", "x.py", "there.py"], ["/bin/sh", "x.py"])  # fmt: skip
    for words in uncertain:
        accepted(checker, head + f"command = {json.dumps(words)}")


def test_commands_must_be_there(machine):
    """The program of a command is looked for as the job's own environment will."""
    checker = machine.checker(gpu_count=0)
    (machine.python.parent / "mytrain").touch(mode=0o755)
    head = f'python = "{machine.python}"\n'
    assert accepted(checker, head + 'command = ["mytrain"]').command == ("mytrain",)
    assert accepted(checker, head + 'command = ["{python}", "x.py"]').gpus == 0
    assert accepted(checker, 'command = ["/bin/sh", "-c", "true"]').python == ""
    assert "line 1, command: this program is not there" in refused(checker, 'command = ["mytrain"]')
    text = refused(checker, 'command = ["sh"]\nresume_command = ["/no/train", "x"]\ncheckpoint_files = ["/w/last.pt"]')
    assert (
        'line 2, resume_command: this program is not there; expected a program that may be executed; got "/no/train"'
        in text
    )
    assert machine.times_asked() == 0


def test_paths_of_the_run_are_filled_in(machine):
    """From acceptance on, checkpoint globs and the proof of being done are absolute, whatever the runs' folder is called."""
    machine.root = machine.root / "odd [x]"
    text = 'command = ["sh"]\ncheckpoint_files = ["{run_dir}/*.pt"]\ndone = { file = "{run_dir}/ok" }'
    job = accepted(machine.checker(gpu_count=0), text)
    assert job.done.file == f"{machine.root}/state/runs/default/truck/ok"
    assert job.checkpoint_files[0] == f"{machine.root}/state/runs/default/truck/*.pt".replace("[x]", "[[]x]")


def conda_environment(folder: Path, machine):
    """A conda environment that is a link to the machine's interpreter."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(machine.python)
    return folder / "bin/python"


@pytest.fixture
def home(machine, monkeypatch):
    """The home of the file's owner."""
    folder = machine.root / "home"
    monkeypatch.setattr("supervisor.effects.check._home", lambda owner, environ: folder)
    return folder


def test_conda_environments_are_found_by_name(machine, home):
    """In the list that conda keeps, below its usual roots, and in the folders of .condarc."""
    places = {
        "one": home / "miniconda3/envs/one",
        "two": machine.root / "elsewhere/two",
        "three": machine.root / "rc/three",
    }
    pythons = {name: conda_environment(folder, machine) for name, folder in places.items()}
    (home / ".conda").mkdir()
    (home / ".conda/environments.txt").write_text(f"{places['two']}\n{machine.root}/deleted/four\n")
    (home / ".condarc").write_text(f"channels:\n  - x\nenvs_dirs:\n  - {machine.root}/rc\n")
    for name, python in pythons.items():
        job = accepted(machine.checker(gpu_count=0), machine.text(head=f'conda = "{name}"'))
        assert job.python == str(python)
    text = refused(machine.checker(gpu_count=0), machine.text(head='conda = "four"'))
    assert "line 1, conda: there is no such conda environment" in text
    assert str(home / ".conda/environments.txt") in text


def test_an_ambiguous_conda_name_is_refused(machine, home):
    """Two environments of one name: the job must say which."""
    first = conda_environment(home / "miniconda3/envs/yolo", machine)
    second = conda_environment(home / "anaconda3/envs/yolo", machine)
    text = refused(machine.checker(gpu_count=0), machine.text(head='conda = "yolo"'))
    assert str(first) in text
    assert str(second) in text


def test_gpus_are_counted_from_the_drivers_entries(tmp_path):
    """One entry, one GPU; no driver, no GPU."""
    assert count_gpus(tmp_path / "none") == 0
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert count_gpus(tmp_path) == 2
