"""Arguments that were changed after failures: what a launch makes of them, and the comparison after it."""

from __future__ import annotations

import json

import msgspec
from msgspec.structs import replace
from test_compare import Folder, epoch
from test_start_point import JOB

from supervisor import attempt_files, layout
from supervisor.core.actions import Launch
from supervisor.core.model import Job
from supervisor.trainers import trainer_for


def launch_section(job, run_dir, changes, *, attempt=1, from_epoch=0):
    """The train section of an attempt, written to its launch.json as the engine would."""
    order = Launch(
        key="k", attempt=attempt, token=1, job=job, gpus=(), start="resume" if from_epoch else "fresh",
        checkpoint="/c.pt" if from_epoch else "", from_epoch=from_epoch, changes=changes,
    )  # fmt: skip
    argv, section = trainer_for(job).launch_spec(order, run_dir, 1)
    train = msgspec.convert(section, attempt_files.Train)
    folder = run_dir.attempt(attempt).root
    folder.mkdir(parents=True)
    keys = {"env": {}, "cwd": "/", "umask": 0, "log_max_bytes": 0, "run": "truck@1", "attempt": attempt, "token": 1}
    attempt_files.write_launch(folder, attempt_files.Launch(argv=tuple(argv), train=train, **keys))
    return train


def test_a_change_wins_over_the_job_and_its_stages(tmp_path):
    """Also over a stage that begins later; what is not changed is the job's, with its stages."""
    stages = [{"from_epoch": 3, "args": {"workers": 6, "imgsz": 96}}]
    job = msgspec.convert({"name": "truck", "revision": "r", "stages": stages, "train": {"workers": 8}}, Job)
    run_dir = layout.run_directory(tmp_path, "p", "truck")
    first = launch_section(job, run_dir, {"workers": 4})
    assert (first.args, first.changes) == ({"workers": 4}, {"workers": 4})
    later = launch_section(job, run_dir, {"workers": 4}, attempt=2, from_epoch=3)
    assert later.args == {"workers": 4, "imgsz": 96}


def test_what_is_taken_back_is_said_to_the_trainer(tmp_path):
    """The checkpoint remembers the changed values: the job's own are given again, by every attempt since."""
    run_dir = layout.run_directory(tmp_path, "p", "truck")
    job = replace(JOB, train={"epochs": 8, "batch": 32})
    assert launch_section(job, run_dir, {}).changes == {}
    launch_section(job, run_dir, {"workers": 2, "batch": 8, "cache": False}, attempt=2, from_epoch=1)
    back = launch_section(job, run_dir, {"cache": False}, attempt=3, from_epoch=1)
    assert back.changes == {"workers": 8, "batch": 32, "cache": False}
    assert back.args == {"epochs": 8, **back.changes}
    assert launch_section(job, run_dir, {}, attempt=4, from_epoch=1).changes["workers"] == 8


def test_a_damaged_record_of_an_older_attempt_stops_no_launch(tmp_path):
    """What it changed is not known then; the launch goes on."""
    run_dir = layout.run_directory(tmp_path, "p", "truck")
    run_dir.attempt(1).root.mkdir(parents=True)
    (run_dir.attempt(1).root / "launch.json").write_text("{")
    assert launch_section(JOB, run_dir, {"workers": 1}, attempt=3).changes == {"workers": 1}


def test_what_was_changed_on_purpose_is_no_jump(tmp_path):
    """The first epoch with another batch may have other losses, as with a stage; without the change it is told."""
    before = [epoch(number) for number in range(1, 7)]
    folder = Folder(tmp_path).attempt(1, *before, {"kind": "saved", "epoch": 5}, signal=9)
    folder.attempt(2, epoch(7, loss=2.4), after=6)
    assert not folder.compare(after=6).continuous
    launch = folder.paths.attempt(2).launch
    train = {"args": {"batch": 8}, "changes": {"batch": 8}, "device": "cpu", "save_dir": "/x", "run_token_file": "/t"}
    known = {"run": "truck@1", "attempt": 2, "token": 1, "argv": [], "env": {}, "cwd": "/", "umask": 0}
    launch.write_text(json.dumps({**known, "log_max_bytes": 0, "train": train}))
    folder.paths.attempt(1).launch.unlink()
    assert folder.compare(after=6).continuous
