"""The hook where our runner does not drive: users' own scripts, and the ranks of a multi-GPU training."""

from __future__ import annotations

import json
import os

import pytest
from runner_lab import FAKE, RUNNER, TOKEN, end_of, kinds, read_beats, resume

pytestmark = pytest.mark.e2e


def test_the_hook_reports_a_users_own_script(lab, tmp_path):
    """A script that knows nothing of us writes the same beats, through PYTHONPATH alone, and keeps its exit code."""
    lab.launch()
    (lab.attempt_dir / "launch.json").write_text(json.dumps({"version": 1, "token": TOKEN, "train": None}))
    script = tmp_path / "train_dual.py"
    script.write_text(
        "from ultralytics import YOLO\n"
        f"YOLO('m.yaml').train(data='d', epochs=2, resume=False, project={str(lab.run_dir)!r}, name='train')\n"
    )
    process = lab.start(lab.python, script, PYTHONPATH=f"{RUNNER / 'inject'}{os.pathsep}{FAKE}")
    assert process.wait() == 0, process.log()
    beats = read_beats(process.beats_file)
    epoch = ["train", "batch", "val", "save", "saved", "epoch"]
    second = [kind for kind in epoch if kind != "batch"]
    assert kinds(beats) == ["start", "scan", "fresh", *epoch, *second, "end", "end"]
    assert end_of(beats)["result"] == "finished"


def test_the_hook_stops_a_users_own_script_at_a_batch(lab, tmp_path):
    """SIGTERM to an unchanged script ends it with 75 and an end record."""
    lab.launch()
    (lab.attempt_dir / "launch.json").write_text(json.dumps({"version": 1, "token": TOKEN, "train": None}))
    script = tmp_path / "train_dual.py"
    script.write_text(
        "from ultralytics import YOLO\n"
        f"YOLO('m.yaml').train(data='d', epochs=999, resume=False, project={str(lab.run_dir)!r}, name='train')\n"
    )
    inject = f"{RUNNER / 'inject'}{os.pathsep}{FAKE}"
    process = lab.start(lab.python, script, PYTHONPATH=inject, FAKE_BATCH_S="0.05")
    process.wait_for_beat(kind="batch")
    assert lab.terminate(process) == 75
    assert end_of(read_beats(process.beats_file))["result"] == "stopped"


def test_an_error_in_a_users_own_script_is_told(lab, tmp_path):
    """The hook writes the end record at the trainer's teardown."""
    lab.launch()
    (lab.attempt_dir / "launch.json").write_text(json.dumps({"version": 1, "token": TOKEN, "train": None}))
    script = tmp_path / "train_dual.py"
    script.write_text(
        "from ultralytics import YOLO\n"
        f"YOLO('m.yaml').train(data='d', epochs=2, resume=False, project={str(lab.run_dir)!r}, name='train')\n"
    )
    inject = f"{RUNNER / 'inject'}{os.pathsep}{FAKE}"
    process = lab.start(lab.python, script, PYTHONPATH=inject, FAKE_RAISE="0")
    assert process.wait() == 1
    assert end_of(read_beats(process.beats_file))["reason"].startswith("RuntimeError: CUDA out of memory")


def test_the_injected_customisation_runs_the_one_it_hides(lab, tmp_path):
    """A virtual environment's own sitecustomize still happens, and our folder is off sys.path."""
    lab.launch()
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.OWN = True\n")
    inject = RUNNER / "inject"
    code = f"import sys; assert OWN; assert {str(inject)!r} not in sys.path; import yolo_supervisor_runner.hook"
    assert lab.start(lab.python, "-c", code, PYTHONPATH=f"{inject}{os.pathsep}{tmp_path}").wait() == 0


def test_without_an_attempt_the_injected_customisation_does_nothing(lab):
    """The variable decides: any other Python with this PYTHONPATH is left as it is."""
    lab.launch()
    code = "import sys; assert 'yolo_supervisor_runner' not in sys.modules"
    process = lab.start(lab.python, "-c", code, PYTHONPATH=str(RUNNER / "inject"), YOLO_SUPERVISOR_ATTEMPT_DIR="")
    assert process.wait() == 0


def test_callbacks_travel_by_name_to_the_ranks_of_a_multi_gpu_training(lab):
    """The library pickles its callbacks for torchrun's ranks: there the hook is found under the same name."""
    lab.launch()
    code = (
        "import pickle, yolo_supervisor_runner.hook as hook;"
        "data = pickle.dumps(hook.CALLBACKS); assert b'Session' not in data;"
        "assert pickle.loads(data)['teardown'] is hook.teardown"
    )
    assert lab.start(lab.python, "-c", code, PYTHONPATH=str(RUNNER / "inject")).wait() == 0


def test_a_multi_gpu_training_is_reported_by_rank_zero_and_ended_once(lab):
    """The parent only waits: heartbeats and the one end record come from the rank, in another process."""
    lab.launch(device="0,1")
    code, beats, _log = lab.run()
    assert (code, end_of(beats)["result"]) == (0, "finished")
    starts = [beat["pid"] for beat in beats if beat["kind"] == "start"]
    assert len(set(starts)) == 2
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [0, 1]


def test_a_multi_gpu_training_is_stopped_through_its_parent(lab):
    """SIGTERM to the parent reaches rank 0, whose record gives the parent the code that torchrun loses."""
    lab.launch(device="0,1", args=lab.arguments(epochs=1000))
    process = lab.start(FAKE_BATCH_S="0.05")
    process.wait_for_beat(kind="batch")
    assert lab.terminate(process) == 75
    assert end_of(read_beats(process.beats_file))["result"] == "stopped"


def test_a_multi_gpu_training_in_the_wrong_place_is_told_by_its_rank(lab):
    """The check before the first batch works in the rank, and its code arrives."""
    resume(lab, epoch=1)
    lab.launch(device="0,1", resume=str(lab.last), expected_epoch=1)
    code, beats, _log = lab.run(FAKE_START_EPOCH="3")
    assert (code, end_of(beats)["result"]) == (77, "wrong_place")


def test_a_rank_that_dies_without_a_word_is_an_error(lab):
    """Without a record of rank 0 the parent says what it knows."""
    lab.launch(device="0,1")
    code, beats, _log = lab.run(FAKE_RAISE="1", YOLO_SUPERVISOR_ATTEMPT_DIR="")
    assert (code, end_of(beats)["result"]) == (1, "error")
    assert "CalledProcessError" in end_of(beats)["reason"]
