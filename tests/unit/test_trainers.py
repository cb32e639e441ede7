from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from supervisor import layout
from supervisor.core.actions import Launch
from supervisor.core.job import Checkpoints, Stage
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
    order = Launch(
        key="k", attempt=3, token=1, job=job, gpus=gpus, start=start, checkpoint=checkpoint, from_epoch=from_epoch
    )
    return trainer_for(job).launch_spec(order, run, port=4242)


def test_a_fresh_ultralytics_start():
    """The runner is started with the job's interpreter; the section names arguments, device and folder."""
    argv, section = launch(YOLO)
    assert argv == ["/env/bin/python", str(layout.TRAIN), "/runs/p/truck/attempts/3"]
    assert section == {
        "mode": "runner",
        "args": {"model": "/m.yaml", "data": "/d.yaml", "epochs": 5},
        "device": "cpu",
        "save_dir": "/runs/p/truck/train",
        "resume": None,
        "expected_epoch": None,
        "run_token_file": "/runs/p/truck/token",
        "safe_saves": True,
        "stop_after": None,
    }


def test_stages_that_are_due_are_in_the_arguments():
    """A start after epoch 3 trains epoch 4 as the stages up to it say; the hook's key switches safe saves off."""
    stages = (Stage(from_epoch=3, args={"imgsz": 96}), Stage(from_epoch=5, args={"imgsz": 128}))
    job = msgspec.structs.replace(YOLO, stages=stages, checkpoints=Checkpoints(hook=False))
    section = launch(job, "resume", "/c.pt", from_epoch=3)[1]
    assert (section["args"]["imgsz"], section["safe_saves"]) == (96, False)
    assert "imgsz" not in launch(job)[1]["args"]


def test_the_runner_knows_after_which_epoch_the_next_stage_begins():
    """0-based, as the trainer counts: a start before epoch 3 leaves after epoch index 1; the last stage has no end."""
    stages = (Stage(from_epoch=3, args={"imgsz": 96}), Stage(from_epoch=5, args={"imgsz": 128}))
    job = msgspec.structs.replace(YOLO, stages=stages)
    after = [
        launch(job, "resume" if epoch else "fresh", "/c.pt", from_epoch=epoch)[1]["stop_after"] for epoch in range(6)
    ]
    assert after == [1, 1, 3, 3, None, None]


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
        launch(Job(name="x", revision="r", command=("x",), checkpoints=Checkpoints(hook=False)), "resume", "/c.pt")


def test_commands_get_their_values():
    """Placeholders are replaced, doubled braces become single ones; without the hook there is nothing else."""
    without = msgspec.structs.replace(COMMAND, checkpoints=Checkpoints(hook=False))
    assert launch(without, gpus=(4, 5)) == (["/env/bin/python", "train.py", "--port=4242", "--n", "2", "{x}"], None)
    assert trainer_for(without).environment(without, {}) == {}
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


HOOKED = msgspec.structs.replace(COMMAND, resume_command=(), checkpoint_files=())


def told(run, number, *beats):
    """Let an attempt have written these records."""
    attempt = run.attempt(number)
    attempt.root.mkdir(parents=True)
    lines = [json.dumps({"v": 1, "at": 1.0, **beat}) for beat in beats]
    attempt.beats.write_text("".join(f"{line}\n" for line in lines))


def test_the_hook_follows_a_command():
    """It comes first on the job's own PYTHONPATH, and of a program with its own resume it changes nothing."""
    trainer = trainer_for(COMMAND)
    assert trainer.environment(COMMAND, {"PYTHONPATH": "/mine"}) == {"PYTHONPATH": f"{layout.INJECT}:/mine"}
    assert trainer.environment(COMMAND, {}) == {"PYTHONPATH": str(layout.INJECT)}
    for start, checkpoint in (("fresh", ""), ("resume", "/c.pt"), ("finish", "/c.pt")):
        section = launch(COMMAND, start, checkpoint, from_epoch=3)[1]
        assert (section["mode"], section["resume"], section["expected_epoch"]) == ("hook", None, None)


@pytest.mark.parametrize("start", ["resume", "finish"])
def test_the_hook_resumes_a_program_that_cannot(start):
    """The same command again; the checkpoint, its epoch and its folder are the hook's to keep to."""
    argv, section = launch(HOOKED, start, "/out/exp/weights/last.pt", from_epoch=3, gpus=(3,))
    assert argv == launch(HOOKED, gpus=(3,))[0]
    assert (section["resume"], section["expected_epoch"]) == ("/out/exp/weights/last.pt", 2)
    assert (section["save_dir"], section["device"], section["args"]) == ("/out/exp", "0", {})
    assert launch(HOOKED, start, "/elsewhere.pt", from_epoch=3)[1]["save_dir"] == ""


def test_the_hook_tells_where_a_command_saves(tmp_path):
    """Of the newest attempt that trained, the first training; not where an attempt died before, and not of batches."""
    run = layout.RunDirectory(tmp_path / "run")
    trainer = trainer_for(HOOKED)
    assert (trainer.checkpoints(HOOKED, run), trainer.place(HOOKED, run)) == ([], None)
    out = tmp_path / "out"
    (out / "weights").mkdir(parents=True)
    for name in ("best.pt", "last.pt", "epoch2.pt"):
        (out / "weights" / name).touch()
    told(run, 2, {"kind": "fresh", "save_dir": "/old"})
    told(run, 9, {"kind": "start"}, {"kind": "batch", "epoch": 0}, {"kind": "fresh", "save_dir": "/second"})
    told(run, 10, {"kind": "fresh", "save_dir": str(out), "epochs": 3}, {"kind": "fresh", "save_dir": "/second"})
    told(run, 11, {"kind": "start"})
    assert [path.name for path in trainer.checkpoints(HOOKED, run)] == ["last.pt", "epoch2.pt", "best.pt"]
    assert trainer.place(HOOKED, run) == out / "weights" / "last.pt"
    assert trainer.tables(HOOKED, run) == [out / "results.csv"]
    assert trainer.place(COMMAND, run) is None


def test_the_table_of_a_hooked_command_is_cut_where_the_epoch_is_known(tmp_path):
    """In the folder that the hook told; a checkpoint that names no epoch cuts nothing."""
    run = layout.RunDirectory(tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    told(run, 1, {"kind": "fresh", "save_dir": str(out)})
    (out / "results.csv").write_text("epoch,x\n1,1\n2,1\n3,1\n")
    trainer, aside = trainer_for(HOOKED), tmp_path / "aside"
    assert trainer.make_ready(HOOKED, run, from_epoch=0, aside=aside) == []
    assert trainer.make_ready(HOOKED, run, from_epoch=2, aside=aside) == [
        "1 rows after epoch 2 were cut from results.csv"
    ]
    assert (out / "results.csv").read_text() == "epoch,x\n1,1\n2,1\n"


def test_the_ledger_is_not_taken_for_checkpoints(tmp_path):
    """A `**` in checkpoint_files finds our own copies too; they are not where the program saves."""
    run = layout.RunDirectory(tmp_path)
    for name in ("good/epoch3.pt", "attempts/1/final.pt", "before-1/last.pt", "out/last.pt"):
        (run.root / name).parent.mkdir(parents=True)
        (run.root / name).touch()
    assert trainer_for(COMMAND).checkpoints(COMMAND, run) == [run.root / "out" / "last.pt"]


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
