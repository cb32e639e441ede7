"""What /proc tells of trainings that people started: what they are, and where they save."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from begun_by_hand import begin

from supervisor.effects import live_trainings
from supervisor.effects.live_trainings import Training


@pytest.fixture
def folder(tmp_path):
    """A person's folder: see begun_by_hand."""
    return begin(tmp_path)


@pytest.mark.parametrize(
    ("argv", "words", "trains"),
    [
        (["/env/bin/python", "/env/bin/yolo", "detect", "train", "data=a"], ["/env/bin/yolo", "detect"], True),
        (["yolo", "mode=train", "data=a"], ["yolo", "mode=train"], True),
        (["yolo", "val", "data=a"], ["yolo", "val"], False),
        (["python3", "-u", "train_dual.py", "--data", "a"], ["train_dual.py", "--data"], True),
        (["python", "-m", "torch.distributed.run", "--nproc_per_node", "2", "train.py"], ["-m", "torch.distributed.run"], True),
        (["python", "detect.py"], ["detect.py"], False),
        (["bash", "-c", "sleep"], ["bash", "-c"], False),
    ],
)  # fmt: skip
def test_trainings_are_recognised_by_their_command(argv, words, trains):
    """The yolo command, scripts, torchrun; and not what only uses weights."""
    training = Training(1, 1, tuple(argv))
    assert list(training.words[:2]) == words[:2]
    assert training.trains == trains


def now_ticks():
    """The start time of a process that starts now."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def trained_in(cwd, *words, ticks=None, log="", env=None):
    """A training that nobody can look into: a number that no process has."""
    return Training(2**22 + 5, ticks or now_ticks(), ("python", *words), cwd=str(cwd), log=log, env=env or {})


def test_the_folder_is_that_which_the_log_names(folder, tmp_path):
    """The last one, with colours, relative to where it runs."""
    log = tmp_path / "log.txt"
    log.write_text("Logging results to runs/other\nLogging results to \x1b[1mruns/detect/train7\x1b[0m\n")
    assert live_trainings.folders_of(trained_in(folder.parents[2], "yolo", "train", log=str(log))) == [folder]


def test_the_folder_of_a_resumed_training_is_that_of_its_checkpoint(folder):
    """Two folders above what it was given."""
    word = "resume=runs/detect/train7/weights/last.pt"
    assert live_trainings.folders_of(trained_in(folder.parents[2], "yolo", "train", word)) == [folder]


def test_the_folder_is_that_which_was_begun_after_the_process(folder):
    """Older folders are of older trainings; of several new ones a person must choose."""
    old = folder.with_name("train6")
    old.mkdir()
    (old / "args.yaml").touch()
    os.utime(old / "args.yaml", (1.0, 1.0))
    assert live_trainings.folders_of(trained_in(folder.parents[2], "yolo", "train")) == [folder]
    new = folder.with_name("train8")
    new.mkdir()
    (new / "args.yaml").touch()
    assert set(live_trainings.folders_of(trained_in(folder.parents[2], "yolo", "train"))) == {folder, new}


def test_the_folder_may_lie_where_the_settings_say(folder, tmp_path):
    """Since 8.4 a training saves below runs_dir of its owner's settings, wherever it was started."""
    settings = tmp_path / "config" / "Ultralytics" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"runs_dir": str(folder.parents[1])}))
    (tmp_path / "elsewhere").mkdir()
    env = {"YOLO_CONFIG_DIR": str(tmp_path / "config")}
    assert live_trainings.folders_of(trained_in(tmp_path / "elsewhere", "yolo", "train", env=env)) == [folder]


def test_a_file_open_for_writing_is_a_sign(folder):
    """Whoever writes there, this process for instance; reading is no sign."""
    own = live_trainings.read(os.getpid())
    with (folder / "args.yaml").open("rb"):
        assert live_trainings.sign_of_writing(own, folder) == ""
    with (folder / "events.out").open("wb"):
        assert "events.out" in live_trainings.sign_of_writing(own, folder)
        assert live_trainings.sign_of_writing(own, folder.with_name("train")) == ""


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        (("yolo", "train", "resume={dir}/weights/last.pt"), True),
        (("yolo", "train", "project={parent}", "name=train7"), True),
        (("yolo", "train", "save_dir={dir}"), True),
        (("train.py", "--project", "{parent}", "--name", "train7"), True),
        (("train.py", "--weights", "{dir}/weights/best.pt"), False),
        (("yolo", "val", "model={dir}/weights/best.pt"), False),
        (("tensorboard", "--logdir", "{dir}"), False),
    ],
)
def test_only_who_trains_there_counts(folder, words, sign):
    """Reading its weights, or showing its curves, disturbs nobody."""
    given = [word.format(dir=folder, parent=folder.parent) for word in words]
    assert bool(live_trainings.sign_of_writing(trained_in("/", *given), folder)) == sign


def test_a_script_of_any_name_shows_itself(folder, tmp_path):
    """By its log that names a folder, or by a file of a folder that it writes: then it is a training."""
    log = tmp_path / "log.txt"
    script = trained_in(folder.parents[2], "main.py", log=str(log))
    assert not live_trainings.shows_itself(script)
    log.write_text("Logging results to runs/detect/train7\n")
    assert live_trainings.shows_itself(script)
    assert "log.txt" in live_trainings.sign_of_writing(script, folder)
    assert live_trainings.sign_of_writing(script, folder.with_name("train8")) == ""
    own = live_trainings.read(os.getpid())
    with (folder / "weights" / "last.pt").open("ab"):
        assert live_trainings.shows_itself(own)


def test_the_interpreter_is_named_as_its_environment_does(tmp_path):
    """Not as /proc/PID/exe, which is what a venv links to."""
    assert live_trainings.interpreter_of(Training(1, 1, ("/env/bin/python", "train.py"))) == "/env/bin/python"
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch(mode=0o755)
    training = Training(1, 1, ("python", "train.py"), env={"PATH": f"{tmp_path}/bin"})
    assert live_trainings.interpreter_of(training) == str(python)
    assert live_trainings.interpreter_of(Training(1, 1, ("bin/python", "t.py"), cwd=str(tmp_path))) == str(python)


def test_a_process_is_read_from_proc(tmp_path):
    """Command, folder, log and environment of a real one; nothing of one that is not there."""
    log = tmp_path / "log.txt"
    words = [sys.executable, "-c", "import os, sys; os.write(2, b'ready\\n'); sys.stdin.read()"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.PIPE, cwd=tmp_path, env={"WHO": "me"}
        )
    assert process.stderr is not None
    assert process.stderr.readline() == b"ready\n"
    found = live_trainings.read(process.pid)
    process.communicate()
    assert found is not None
    assert (found.argv, found.cwd, found.log) == (tuple(words), str(tmp_path), str(log))
    assert found.env["WHO"] == "me"
    assert abs(found.started_at - time.time()) < 30
    assert live_trainings.read(process.pid) is None
