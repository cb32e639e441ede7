"""The verb `adopt`: what it says of a folder, what it refuses and why, and what it submits."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor import attempt_files, toml_errors
from supervisor.cli.program import program
from supervisor.effects import live_trainings
from supervisor.effects.live_trainings import Training
from tests.web.conftest import daemon  # noqa: F401 - a fixture

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from begun_by_hand import begin
from toy_trainer import packed, unpacked


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    """No process of this machine trains, unless a test says so."""
    monkeypatch.setattr(live_trainings, "everyone", lambda: iter(()))


@pytest.fixture
def folder(tmp_path):
    """A person's folder: 3 of 8 epochs are saved."""
    return begin(tmp_path)


def adopt(cli, *words):
    """Call the verb with an interpreter that is asked nothing."""
    return cli("adopt", *words, "--conda", "yolo")


def job_of(result):
    """The job file that was printed."""
    return toml_errors.read(result.stdout.encode(), "shown")[0]


def test_dry_run_prints_the_job_file_and_the_plan(cli, daemon, folder):  # noqa: F811 - the fixture
    """The job file on standard output, for a file; what would be done on standard error; nothing is submitted."""
    result = adopt(cli, folder, "--dry-run")
    assert result.exit_code == 0
    found = job_of(result)
    assert (found["name"], found["adopt"], found["conda"]) == ("train7", str(folder.resolve()), "yolo")
    assert "watch" not in found
    assert "is a training of ultralytics 8.4.190" in result.stderr
    assert "would resume after epoch 3 of 8 in place, from last.pt" in result.stderr
    assert "results.csv would be cut from 4 to 3 rows" in result.stderr
    assert list(daemon.jobs_folder.iterdir()) == []


def test_yes_submits_it(cli, spool, daemon, folder):  # noqa: F811 - the fixture
    """The daemon takes the file, and the run is shown."""
    result = adopt(cli, folder, "--yes", "--name", "truck", "--project", "boxes", "--gpus", "0")
    assert result.exit_code == 0, result.stderr
    assert "truck@1 is" in result.stdout
    found = toml_errors.read((daemon.jobs_folder / "truck.toml").read_bytes(), "submitted")[0]
    assert (found["name"], found["project"], found["gpus"]) == ("truck", "boxes", 0)


def test_a_folder_that_was_written_just_now_is_warned_of(cli, daemon, folder):  # noqa: F811 - the fixture
    """A training in a container cannot be seen from here: whoever submits is told how old the newest file is."""
    assert "CAUTION: it was written" in adopt(cli, folder, "--dry-run").stderr
    for path in (folder / "weights").iterdir():
        os.utime(path, (1e9, 1e9))
    assert "CAUTION" not in adopt(cli, folder, "--dry-run").stderr


def test_json_says_all_for_programs(cli, spool, folder):
    """States of all checkpoints, the plan, the job file and the daemon's answer."""
    result = adopt(cli, folder, "--json")
    view = json.loads(result.stdout)
    assert (view["family"], view["epoch"], view["epochs"], view["watched_pid"]) == ("ultralytics", 3, 8, None)
    assert [(Path(one["path"]).name, one["state"]) for one in view["checkpoints"]] == [
        ("last.pt", "resumable"),
        ("best.pt", "resumable"),
    ]
    assert view["answer"]["state"] == "accepted"


def test_nobody_to_be_asked_is_an_error(cli, daemon, folder):  # noqa: F811 - the fixture
    """Without a terminal and without --yes nothing is submitted."""
    result = adopt(cli, folder)
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert list(daemon.jobs_folder.iterdir()) == []


def test_a_torn_checkpoint_is_said_to_be_kept_aside(cli, folder):
    """The next good one is named instead."""
    last = folder / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[:500])
    result = adopt(cli, folder, "--dry-run")
    assert "the torn last.pt would be kept aside" in result.stderr
    assert "from best.pt" in result.stderr


def test_a_finished_training_is_refused_with_the_way_on(cli, folder):
    """Nothing can be resumed from stripped weights; a new training can begin from them."""
    last = folder / "weights" / "last.pt"
    last.write_bytes(packed({**unpacked(last), "epoch": -1, "optimizer": None, "ema": None, "model": "m"}))
    result = adopt(cli, folder, "--dry-run")
    assert result.exit_code == 4
    assert "finished" in result.stderr
    assert f"model = {last.resolve()}" in result.stderr


def test_nothing_resumable_is_refused_with_each_state(cli, folder):
    """Torn files only."""
    for name in ("last.pt", "best.pt"):
        (folder / "weights" / name).write_bytes(b"PK")
    result = adopt(cli, folder, "--dry-run")
    assert result.exit_code == 4
    assert "last.pt is torn" in result.stderr


def test_no_folder_of_a_training_is_refused(cli, tmp_path):
    """With what is expected."""
    result = adopt(cli, tmp_path, "--dry-run")
    assert result.exit_code == 2
    assert "args.yaml" in result.stderr


def test_a_live_writer_is_named(cli, folder, monkeypatch):
    """The way to watch it is given."""
    live = Training(77, 1, ("python", "yolo", "train", f"resume={folder}/weights/last.pt"), cwd="/")
    monkeypatch.setattr(live_trainings, "everyone", lambda: iter([live]))
    result = adopt(cli, folder, "--dry-run")
    assert result.exit_code == 4
    assert "adopt --pid 77" in result.stderr


def test_a_run_of_ours_is_refused(cli, daemon, folder):  # noqa: F811 - the fixture
    """A folder that a run continues already is that run's; so is one below runs_dir."""
    runs_dir = daemon.runs_dir
    ours = runs_dir / "p" / "bus"
    ours.mkdir(parents=True)
    (ours / "train").symlink_to(folder)
    result = adopt(cli, folder, "--dry-run")
    assert result.exit_code == 4
    assert "continued by p/bus" in result.stderr
    inside = begin(runs_dir / "q" / "car")
    assert "a run of ours" in adopt(cli, inside, "--dry-run").stderr


def test_a_name_of_a_live_run_is_refused(cli, spool, folder):
    """It would become a new revision of a run that trains something else."""
    adopt(cli, folder, "--yes")
    again = begin(folder.parents[3] / "second")
    result = adopt(cli, again, "--yes")
    assert result.exit_code == 4
    assert "--name" in result.stderr


def live(folder, **changes):
    """This process, as if it trained there."""
    pid = os.getpid()
    facts = {
        "argv": ("/env/bin/python", "/env/bin/yolo", "train"),
        "cwd": str(folder.parents[2]),
        "log": "/tmp/log.txt",
    }
    return Training(**{"pid": pid, "start_time": attempt_files.process_start_time(pid), **facts, **changes})


def test_a_live_training_is_watched_by_its_number(cli, folder, monkeypatch):
    """Folder, interpreter, log and identity are found; the plan says that it is never ended."""
    training = live(folder, env={"CUDA_VISIBLE_DEVICES": "3"})
    monkeypatch.setattr(live_trainings, "read", lambda _pid: training)
    monkeypatch.setattr(live_trainings, "folders_of", lambda _training: [folder])
    monkeypatch.setattr("supervisor.cli.new.defaults_of", lambda _python: {})
    result = cli("adopt", "--pid", training.pid, "--dry-run")
    assert result.exit_code == 0, result.stderr
    found = job_of(result)
    assert (found["watch"]["pid"], found["watch"]["start_time"]) == (training.pid, training.start_time)
    assert (found["python"], found["adopt"]) == ("/env/bin/python", str(folder.resolve()))
    assert "it is never ended" in result.stderr
    assert "/tmp/log.txt" in result.stderr


def test_where_it_saves_is_asked_if_that_cannot_be_seen(cli, folder, monkeypatch):
    """The folders that it may be are named."""
    monkeypatch.setattr(live_trainings, "read", lambda _pid: live(folder))
    monkeypatch.setattr(live_trainings, "folders_of", lambda _training: [folder, folder.with_name("train8")])
    result = cli("adopt", "--pid", 4242, "--dry-run")
    assert result.exit_code == 2
    assert "--dir" in result.stderr
    assert "train8" in result.stderr
    assert adopt(cli, "--pid", 4242, "--dir", folder, "--dry-run").exit_code == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"argv": ("bash",)}, (2, "does not look like a training")),
        ({"env": {"YOLO_SUPERVISOR_RUN": "truck@1"}}, (4, "truck@1")),
    ],
)
def test_not_every_process_is_watched(cli, folder, monkeypatch, changes, expected):
    """No shell, and no training of ours."""
    monkeypatch.setattr(live_trainings, "read", lambda _pid: live(folder, **changes))
    result = cli("adopt", "--pid", 4242, "--dry-run")
    assert result.exit_code == expected[0]
    assert expected[1] in result.stderr


@pytest.mark.parametrize("sign", ["dir", "log"])
def test_a_training_script_may_have_any_name(cli, folder, monkeypatch, tmp_path, sign):
    """With --dir, or with a log that names the folder, nobody needs `train` in the name of the script."""
    (tmp_path / "log.txt").write_text(f"Logging results to {folder}\n" if sign == "log" else "nothing\n")
    training = live(folder, argv=("/env/bin/python", "main.py"), log=str(tmp_path / "log.txt"))
    monkeypatch.setattr(live_trainings, "read", lambda _pid: training)
    result = adopt(cli, "--pid", training.pid, "--dry-run", *(("--dir", folder) if sign == "dir" else ()))
    assert result.exit_code == 0, result.stderr
    assert job_of(result)["adopt"] == str(folder.resolve())


@pytest.mark.parametrize(("script", "words"), [(None, "cannot be started"), ("exit 3", "exit code 3")])
def test_an_interpreter_that_does_not_run_is_refused(cli, folder, tmp_path, script, words):
    """Also by --dry-run: it is started once."""
    python = tmp_path / "python"
    if script:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    result = cli("adopt", folder, "--dry-run", "--python", python)
    assert result.exit_code == 2
    assert f"{python} {'is no Python that runs: ' if script else ''}{words}" in result.stderr


def test_no_environment_names_the_options(daemon, cli, folder, monkeypatch):  # noqa: F811 - the fixture
    """Neither active nor in [defaults]: the options of this very command are the fix."""
    monkeypatch.setenv("PATH", "/nowhere")
    config = daemon.write_config()
    config.write_text(config.read_text().replace('python = "/bin/sh"', ""))
    daemon.api.stop()
    words = ["--config", str(config), "adopt", str(folder), "--dry-run"]
    result = CliRunner().invoke(program, words, catch_exceptions=False)
    daemon.make()
    assert result.exit_code == 2
    assert "--python FILE or --conda NAME" in result.stderr


def test_a_process_that_is_not_there(cli, monkeypatch):
    """Said so."""
    monkeypatch.setattr(live_trainings, "read", lambda _pid: None)
    assert "no process 4242" in cli("adopt", "--pid", 4242, "--dry-run").stderr


def test_a_script_of_several_must_be_named(cli, tmp_path):
    """train.py and train_dual.py lie beside it."""
    place = begin(tmp_path)
    (place / "args.yaml").unlink()
    (place / "opt.yaml").write_text("epochs: 8\nmin_items: 0\ndevice: ''\n")
    project = place.parents[2]
    (project / "models").mkdir()
    for name in ("train.py", "train_dual.py"):
        (project / name).touch()
    result = adopt(cli, place, "--dry-run")
    assert result.exit_code == 2
    assert "--script" in result.stderr
    named = adopt(cli, place, "--dry-run", "--script", project / "train_dual.py")
    found = job_of(named)
    assert (found["family"], found["cwd"]) == ("yolov9", str(project))
    assert found["command"][:2] == ["{python}", str(project / "train_dual.py")]


@pytest.mark.parametrize("words", [[], ["/x", "--pid", "3"]])
def test_exactly_one_of_folder_and_number(cli, words):
    """Both or none is a mistake."""
    assert cli("adopt", *words).exit_code == 2
