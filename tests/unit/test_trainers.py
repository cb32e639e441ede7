from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor import layout
from supervisor.core.model import Job
from supervisor.errors import PermanentError
from supervisor.trainers import trainer_for
from supervisor.trainers.train_lines import TrainLines

RUN = layout.RunDirectory(Path("/runs/p/truck"))
YOLO = Job(
    name="truck", revision="r", python="/env/bin/python", train={"model": "/m.yaml", "data": "/d.yaml", "epochs": 5}
)
COMMAND = Job(
    name="truck",
    revision="r",
    python="/env/bin/python",
    command=("{python}", "train.py", "--port={port}", "--n", "{gpu_count}", "{{x}}"),
    resume_command=("{python}", "train.py", "--resume", "{checkpoint}", "{run_dir}/out"),
    checkpoint_files=("{run_dir}/**/*.pt",),
)


def launch(job, start="fresh", checkpoint="", *, from_epoch=0, gpus=(), run=RUN):
    """What is started for a job."""
    return trainer_for(job).launch_spec(
        job, run, run.attempt(3), start=start, checkpoint=checkpoint, from_epoch=from_epoch, gpus=gpus, port=4242
    )


def test_a_fresh_ultralytics_start():
    """The runner is started with the job's interpreter; the section names arguments, device and folder."""
    argv, section = launch(YOLO)
    assert argv == ["/env/bin/python", str(layout.TRAIN), "/runs/p/truck/attempts/3"]
    assert section == {
        "args": {"model": "/m.yaml", "data": "/d.yaml", "epochs": 5},
        "device": "cpu",
        "save_dir": "/runs/p/truck/train",
        "resume": None,
        "expected_epoch": None,
        "run_token_file": "/runs/p/truck/token",
    }


def test_devices_are_counted_from_zero():
    """CUDA_VISIBLE_DEVICES shows the trainer only its own GPUs, so it counts them from 0."""
    assert launch(YOLO, gpus=(2, 5))[1]["device"] == "0,1"


@pytest.mark.parametrize("start", ["resume", "finish"])
def test_a_resume_says_what_it_expects(start):
    """The checkpoint and the 0-based epoch in it go to the runner, which confirms them before the first batch."""
    section = launch(YOLO, start, "/runs/p/truck/train/weights/last.pt", from_epoch=8)[1]
    assert (section["resume"], section["expected_epoch"]) == ("/runs/p/truck/train/weights/last.pt", 7)


def test_a_resume_without_a_checkpoint_is_refused():
    """Nothing starts from scratch where a resume was decided."""
    with pytest.raises(PermanentError):
        launch(YOLO, "resume")
    with pytest.raises(PermanentError, match="resume_command"):
        launch(Job(name="x", revision="r", command=("x",)), "resume", "/c.pt")


def test_commands_get_their_values():
    """Placeholders are replaced, doubled braces become single ones, and there is no section for the runner."""
    assert launch(COMMAND, gpus=(4, 5)) == (["/env/bin/python", "train.py", "--port=4242", "--n", "2", "{x}"], None)
    argv, _ = launch(COMMAND, "resume", "/c.pt")
    assert argv == ["/env/bin/python", "train.py", "--resume", "/c.pt", "/runs/p/truck/out"]


def test_a_path_with_braces_is_not_expanded_twice(tmp_path):
    """What stands in the place of a placeholder is not looked at again."""
    run = layout.RunDirectory(tmp_path / "{port}")
    assert launch(COMMAND, "resume", "{run_dir}.pt", run=run)[0][3:] == ["{run_dir}.pt", f"{tmp_path}/{{port}}/out"]


def test_ultralytics_checkpoints(tmp_path):
    """last.pt first, then the newest epochs, then best.pt; nothing else in the folder is one."""
    run = layout.RunDirectory(tmp_path)
    assert trainer_for(YOLO).checkpoints(YOLO, run) == []
    run.weights.mkdir(parents=True)
    for name in ("best.pt", "last.pt", "epoch2.pt", "epoch10.pt", "last.pt.tmp", "notes.txt"):
        (run.weights / name).touch()
    (run.weights / "epoch3.pt").mkdir()
    names = [path.name for path in trainer_for(YOLO).checkpoints(YOLO, run)]
    assert names == ["last.pt", "epoch10.pt", "epoch2.pt", "best.pt"]


def test_command_checkpoints(tmp_path):
    """What the globs match, newest first, below folders with any name."""
    run = layout.RunDirectory(tmp_path / "odd [name] {x}")
    (run.root / "a/b").mkdir(parents=True)
    for age, name in enumerate(("a/old.pt", "a/b/new.pt", "a/b/log.txt")):
        (run.root / name).touch()
        os.utime(run.root / name, ns=(0, age * 10**9))
    names = [path.name for path in trainer_for(COMMAND).checkpoints(COMMAND, run)]
    assert names == ["new.pt", "old.pt"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "      3/100      2.1G      1.234      nan      1.1         12        640:  45% ━━━━━╸────── 18/40 9.1it/s 2.1s<2.4s",
            (3, 100, 18, 40),
        ),
        (
            "      0/299      3.2G    0.0412    0.0321    0.0123        52       640: 100%|██████████| 8/8 [00:05<00:00,  1.5it/s]",
            (1, 300, 8, 8),
        ),
    ],
)
def test_progress_lines_are_understood(line, shown):
    """Bars of Ultralytics and of the older families show epoch, counted from 1, and batch."""
    found = TrainLines().newest_frame([line])
    assert (found.epoch, found.epochs, found.batch, found.batches) == shown


def test_other_lines_are_no_progress():
    """Validation tables and talk do not look like progress."""
    for line in ("   all   16   20   0.1   0.2   0.3", "Epoch  GPU_mem  box_loss", "3/100 done", ""):
        assert TrainLines().newest_frame([line]) is None
