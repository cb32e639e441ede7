"""The runner as a process, on a stand-in for Ultralytics that calls the same callbacks and trains nothing."""

from __future__ import annotations

import json
import os
import signal

import pytest
from runner_lab import (
    FAKE,
    RUNNER,
    TOKEN,
    end_of,
    finished,
    hook_script,
    interrupted,
    kinds,
    launch_hook,
    read_beats,
    resume,
    start_hooked,
    write_checkpoint,
)

from supervisor.runner.checkpoint import inspect

pytestmark = pytest.mark.e2e


def test_a_training_is_told_from_its_first_to_its_last_beat(lab):
    """A fresh training of two epochs gives these beats in this order, and exit code 0."""
    lab.launch()
    code, beats, _log = lab.run()
    epoch = ["train", "batch", "val", "save", "saved", "epoch"]
    second = [kind for kind in epoch if kind != "batch"]
    assert code == 0
    assert kinds(beats) == ["start", "setup", "scan", "fresh", *epoch, *second, "end", "end"]
    assert all(beat["v"] == 1 and beat["at"] > 1e9 for beat in beats)
    start, end = beats[0], end_of(beats)
    assert (start["phase"], start["ultralytics"]) == ("import", "8.4.190")
    assert (end["result"], end["code"], end["epoch"], end["epochs"]) == ("finished", 0, 1, 2)
    assert end["best"] == str(lab.save_dir / "weights" / "best.pt")
    assert end["metrics"]["metrics/mAP50-95(B)"] == 0.1


def test_what_is_not_a_number_is_null(lab):
    """Strict JSON readers can read every beat, also while losses are NaN."""
    lab.launch()
    _code, beats, _log = lab.run()
    epochs = [beat for beat in beats if beat["kind"] == "epoch"]
    assert [beat["metrics"]["val/box_loss"] for beat in epochs] == [None, None]
    assert "NaN" not in (lab.attempt_dir / "beats.jsonl").read_text()


def test_a_resume_is_confirmed_before_the_first_batch(lab):
    """The record names epoch, checkpoint and folder, and comes before any batch."""
    resume(lab, epoch=1)
    code, beats, _log = lab.run()
    assert code == 0
    resumed = next(beat for beat in beats if beat["kind"] == "resumed")
    assert (resumed["from_epoch"], resumed["checkpoint"], resumed["save_dir"]) == (1, str(lab.last), str(lab.save_dir))
    assert kinds(beats).index("resumed") < kinds(beats).index("batch")
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [2, 3, 4]


def test_a_resume_names_the_path_and_only_what_the_version_honours(lab, tmp_path):
    """`resume` is the absolute path, never True; arguments that a resume would drop are not passed."""
    write_checkpoint(lab.last, **interrupted(1, save_dir=str(lab.save_dir)))
    given = lab.arguments(imgsz=128, lr0=0.5, batch=8, epochs=99)
    lab.launch(resume=str(lab.last), expected_epoch=1, args=given)
    code, _beats, _log = lab.run(FAKE_ARGUMENTS_FILE=str(tmp_path / "arguments.json"))
    assert code == 0
    assert json.loads((tmp_path / "arguments.json").read_text()) == {
        "model": str(lab.last),
        "resume": str(lab.last),
        "data": str(lab.data),
        "device": "cpu",
        "batch": 8,
        "save_dir": str(lab.save_dir),
    }


def test_a_fresh_start_trains_into_exactly_the_expected_folder(lab, tmp_path):
    """project, name and exist_ok are ours, so that no train-2 appears; a job cannot say otherwise."""
    lab.launch(args=lab.arguments(name="other", project="/elsewhere", resume=True, exist_ok=False, lr0=0.5))
    code, _beats, _log = lab.run(FAKE_ARGUMENTS_FILE=str(tmp_path / "arguments.json"))
    given = json.loads((tmp_path / "arguments.json").read_text())
    assert code == 0
    assert (given["project"], given["name"]) == (str(lab.run_dir), "train")
    assert (given["exist_ok"], given["resume"], given["lr0"], given["device"]) == (True, False, 0.5, "cpu")


@pytest.mark.parametrize("content", [interrupted(1), interrupted(4), finished()])
@pytest.mark.parametrize("name", ["last.pt", "best.pt", "epoch3.pt"])
def test_a_fresh_start_never_touches_a_good_checkpoint(lab, content, name):
    """Whatever checkpoint lies in the folder, a launch without resume is refused and changes nothing."""
    path = write_checkpoint(lab.save_dir / "weights" / name, **content)
    before = path.read_bytes()
    lab.launch()
    code, beats, _log = lab.run()
    assert (code, end_of(beats)["result"]) == (65, "refused")
    assert path.read_bytes() == before
    assert name in end_of(beats)["reason"]


def test_a_fresh_start_after_a_kill_in_the_first_save_is_allowed(lab):
    """A torn last.pt of the first epoch is nothing that could be lost."""
    lab.last.parent.mkdir(parents=True)
    lab.last.write_bytes(b"")
    lab.launch()
    code, _beats, _log = lab.run()
    assert code == 0


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: path.write_bytes(b""), "torn"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "torn"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: write_checkpoint(path, **finished()), "finished"),
        (lambda path: write_checkpoint(path, **{**interrupted(1), "optimizer": None}), "weights_only"),
    ],
)
def test_what_cannot_be_resumed_is_refused_with_the_reason(lab, damage, word):
    """A torn, missing, finished or stripped checkpoint ends the attempt with 65 before anything is imported."""
    resume(lab, epoch=1)
    damage(lab.last)
    code, beats, _log = lab.run()
    assert (code, end_of(beats)["result"]) == (65, "refused")
    assert word in end_of(beats)["reason"]
    assert "setup" not in kinds(beats)


def test_another_epoch_than_expected_is_the_wrong_place(lab):
    """A checkpoint that was changed since it was looked at is not resumed, and stays as it is."""
    resume(lab, epoch=1)
    write_checkpoint(lab.last, **interrupted(2))
    before = lab.last.read_bytes()
    code, beats, _log = lab.run()
    assert (code, end_of(beats)["result"]) == (77, "wrong_place")
    assert lab.last.read_bytes() == before


@pytest.mark.parametrize(("variable", "value"), [("FAKE_START_EPOCH", "3"), ("FAKE_SAVE_DIR", "train2")])
def test_a_trainer_that_starts_elsewhere_trains_no_batch(lab, variable, value):
    """Whatever a version of the library makes of a resume: in the wrong epoch or folder nothing is trained."""
    resume(lab, epoch=1)
    before = lab.last.read_bytes()
    code, beats, _log = lab.run(**{variable: value})
    assert (code, end_of(beats)["result"]) == (77, "wrong_place")
    assert lab.last.read_bytes() == before
    assert not {"batch", "resumed", "train"} & set(kinds(beats))


def test_a_fresh_start_that_does_not_begin_at_the_beginning_is_the_wrong_place(lab):
    """A fresh start whose first epoch is not 0 trains nothing."""
    lab.launch()
    code, beats, _log = lab.run(FAKE_START_EPOCH="1")
    assert (code, end_of(beats)["result"]) == (77, "wrong_place")
    assert "batch" not in kinds(beats)


def test_the_last_epoch_without_its_end_is_finished_without_training(lab):
    """Killed between the last save and the stripping: the files are stripped, no epoch is added."""
    resume(lab, epoch=4)
    code, beats, _log = lab.run()
    assert code == 0
    assert end_of(beats)["result"] == "finished"
    assert (end_of(beats)["epoch"], end_of(beats)["epochs"]) == (4, 5)
    assert inspect(str(lab.last))["state"] == "finished"
    assert "train" not in kinds(beats)
    assert [path.name for path in lab.last.parent.iterdir()] == ["last.pt"]


def test_a_return_without_the_trainers_end_is_not_finished(lab):
    """Exit code 0 needs the trainer's own end: returning from train() is not enough."""
    lab.launch()
    code, beats, _log = lab.run(FAKE_NO_END="1")
    assert (code, end_of(beats)["result"]) == (1, "error")


def test_an_exception_is_one_line_in_the_record_and_a_traceback_in_the_log(lab):
    """The last checkpoint stays, the record has the text, the log has the place."""
    lab.launch()
    code, beats, log = lab.run(FAKE_RAISE="1")
    assert (code, end_of(beats)["result"]) == (1, "error")
    assert end_of(beats)["reason"] == "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
    assert "Traceback" in log
    assert inspect(str(lab.last))["epoch"] == 0


@pytest.mark.parametrize("hooked", [False, True])
def test_the_record_of_an_error_says_in_which_batch(lab, hooked):
    """The epoch (0-based) and how many of its batches were complete: a failure at the same place twice is seen."""
    if hooked:
        launch_hook(lab)
        process = start_hooked(lab, lab.python, hook_script(lab), FAKE_RAISE="1", FAKE_RAISE_BATCH="2")
    else:
        lab.launch()
        process = lab.start(FAKE_RAISE="1", FAKE_RAISE_BATCH="2")
    assert process.wait() == 1
    record = end_of(read_beats(process.beats_file))
    assert (record["epoch"], record["batch"], record["phase"]) == (1, 2, "train")


def test_the_record_of_an_error_outside_of_epochs_names_no_batch(lab):
    """What fails before the first epoch failed in no batch, but in a phase."""
    lab.launch()
    code, beats, _log = lab.run(FAKE_PLUGIN="no_such_module")
    assert (code, end_of(beats)["result"], end_of(beats)["phase"]) == (1, "error", "setup")
    assert "batch" not in end_of(beats)


def test_a_finished_training_names_no_place_of_an_error(lab):
    """Only an error has a place."""
    lab.launch()
    code, beats, _log = lab.run()
    assert code == 0
    assert not {"batch", "phase"} & end_of(beats).keys()


@pytest.mark.parametrize("gone", ["data", "model"])
def test_missing_files_are_said_before_anything_is_imported(lab, gone):
    """Exit code 66 and the path in the record."""
    lab.launch(args=lab.arguments(**{gone: f"/nowhere/{gone}.yaml"}))
    code, beats, _log = lab.run()
    assert (code, end_of(beats)["result"]) == (66, "missing")
    assert f"/nowhere/{gone}.yaml" in end_of(beats)["reason"]
    assert "setup" not in kinds(beats)


def test_a_resume_does_not_need_the_model_file_any_more(lab):
    """The model is in the checkpoint; only the data must be there."""
    resume(lab)
    launch = json.loads((lab.attempt_dir / "launch.json").read_text())
    launch["train"]["args"]["model"] = "/nowhere/yolo.yaml"
    (lab.attempt_dir / "launch.json").write_text(json.dumps(launch))
    code, _beats, _log = lab.run()
    assert code == 0


@pytest.mark.parametrize(
    ("model", "code"), [("yolo99.yaml", 0), ("yolo99n.yaml", 0), ("yolo98.yaml", 66), ("yolo99.pt", 66), ("here.pt", 0)]
)
def test_bare_names_are_looked_up_as_the_library_does(lab, model, code):
    """A name is a file of the library, of its weights folder or of the working directory; else it is missing."""
    (lab.run_dir / "here.pt").touch()
    lab.launch(args=lab.arguments(model=model, data="coco8.yaml"))
    assert lab.run()[0] == code


@pytest.mark.parametrize("token", [{"version": 1, "token": TOKEN + 1}, None])
def test_a_run_that_carries_another_token_is_left_alone(lab, token):
    """A stale attempt stops before it does anything: a person must look."""
    lab.launch()
    (lab.run_dir / "token").unlink()
    if token:
        (lab.run_dir / "token").write_text(json.dumps(token))
    code, beats, _log = lab.run()
    assert (code, end_of(beats)["result"]) == (76, "refused")
    assert not lab.save_dir.exists()


def test_a_fence_lost_during_the_training_ends_it_before_the_next_save(lab):
    """Another attempt took the run: this one writes no checkpoint any more."""
    lab.launch(args=lab.arguments(epochs=1000))
    process = lab.start(FAKE_BATCH_S="0.01")
    process.wait_for_beat(kind="saved", epoch=1)
    (lab.run_dir / "token").write_text(json.dumps({"version": 1, "token": TOKEN + 1}))
    assert process.wait() == 76
    beats = read_beats(process.beats_file)
    assert inspect(str(lab.last))["epoch"] == [beat["epoch"] for beat in beats if beat["kind"] == "saved"][-1]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 1, "train": null}', '{"version": 2, "train": {}}'])
def test_a_bad_launch_file_is_code_2(lab, content):
    """Whatever launch.json holds, the answer is an end record and code 2, never a traceback."""
    lab.launch()
    (lab.attempt_dir / "launch.json").write_text(content)
    code, beats, log = lab.run()
    assert (code, end_of(beats)["result"]) == (2, "error")
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "change",
    [
        {"resume": "last.pt"},
        {"resume": "/a/last.pt", "expected_epoch": None},
        {"save_dir": "train"},
        {"device": 0},
        {"args": {"data": "/d.yaml"}},
        {"args": {"model": "m.yaml", "data": ["/a.yaml", "/b.yaml"]}},
    ],
)
def test_a_launch_that_cannot_be_right_is_code_2(lab, change):
    """Relative paths, a resume without its epoch, several data sets: refused before anything is looked at."""
    lab.launch(**change)
    assert lab.run()[0] == 2


def test_a_folder_that_is_not_there_is_a_usage_error(lab):
    """Exit code 2 for the command line as well."""
    lab.launch()
    assert lab.start(lab.python, RUNNER / "train.py", "/nowhere").wait() == 2
    assert lab.start(lab.python, RUNNER / "train.py").wait() == 2


def test_sigterm_ends_at_the_next_batch_with_last_pt_untouched(lab):
    """Exit code 75 within seconds, the record says stopped, and the checkpoint is the one of the last epoch."""
    lab.launch(args=lab.arguments(epochs=1000))
    process = lab.start(FAKE_BATCH_S="0.2")
    process.wait_for_beat(kind="batch", epoch=1)
    before = lab.last.read_bytes()
    assert lab.terminate(process) == 75
    beats = read_beats(process.beats_file)
    assert lab.last.read_bytes() == before
    assert kinds(beats)[-2:] == ["stopping", "end"]
    assert beats[-2]["signal"] == 15
    assert (end_of(beats)["result"], end_of(beats)["code"]) == ("stopped", 75)


def test_it_leaves_by_itself_where_the_next_stage_begins(lab):
    """Exit code 75 right after the planned epoch is saved: no batch of the next one is trained with old arguments."""
    lab.launch(args=lab.arguments(epochs=4), stop_after=1)
    code, beats, _log = lab.run()
    assert code == 75
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [0, 1]
    assert not [beat for beat in beats if beat["kind"] == "batch" and beat["epoch"] > 1]
    assert inspect(str(lab.last))["epoch"] == 1
    assert end_of(beats)["result"] == "stopped"


def test_sigterm_while_the_library_finishes_lets_it_finish(lab):
    """After the last save a stop would only make a finished run look cut."""
    lab.launch()
    process = lab.start(FAKE_FINISH_STEPS="100")
    process.wait_for_beat(kind="phase", phase="end")
    assert lab.terminate(process) == 0
    beats = read_beats(process.beats_file)
    assert end_of(beats)["result"] == "finished"
    assert inspect(str(lab.last))["state"] == "finished"


CALLBACK = """
from ultralytics import YOLO
from ultralytics.utils.callbacks.base import default_callbacks

def called(trainer):
    {does}

for event in {events}:
    default_callbacks[event].append(called)
"""


def with_callback(lab, events, does):
    """Let the trainings of this run have a callback of their user's own."""
    (lab.run_dir / "plugin.py").write_text(CALLBACK.format(events=events, does=does), encoding="utf-8")
    lab.env |= {"FAKE_PLUGIN": "plugin", "PYTHONPATH": f"{FAKE}{os.pathsep}{lab.run_dir}"}


def test_a_validation_of_the_users_own_is_not_the_last_one(lab):
    """model.val() in a callback: each epoch is reported all the same, and a stop is heard."""
    events = ["on_train_epoch_start", "on_train_epoch_end", "on_model_save", "on_fit_epoch_end"]
    with_callback(lab, events, f"YOLO('other').val(project={str(lab.run_dir)!r}, name='train')")
    lab.launch(args=lab.arguments(epochs=3))
    code, beats, log = lab.run()
    assert code == 0, log
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [0, 1, 2]
    assert kinds(beats).count("end") == 2  # the phase, and the record
    lab.launch(args=lab.arguments(epochs=1000), save_dir=str(lab.save_dir.with_name("other")))
    process = lab.start(FAKE_BATCH_S="0.02")
    process.wait_for_beat(kind="epoch", epoch=1)
    assert lab.terminate(process) == 75


def test_an_end_that_a_users_callback_decides_is_final_too(lab):
    """trainer.stop set after our look at the epoch: the validation that follows is the last one."""
    with_callback(lab, ["on_fit_epoch_end"], "trainer.stop = True")
    lab.launch(args=lab.arguments(epochs=5))
    code, beats, log = lab.run()
    assert code == 0, log
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [0]
    assert kinds(beats)[-2:] == ["end", "end"]


def test_sigterm_before_the_first_callback_ends_at_the_first(lab):
    """A stop during the scan is kept until the library calls back."""
    lab.launch()
    process = lab.start(FAKE_SCAN_S="1")
    process.wait_for_beat(kind="phase", phase="scan")
    assert lab.terminate(process) == 75
    assert kinds(read_beats(process.beats_file))[-3:] == ["scan", "stopping", "end"]


def test_a_second_sigterm_changes_nothing(lab):
    """Impatience does not cut a save: the second signal is ignored."""
    lab.launch(args=lab.arguments(epochs=1000))
    process = lab.start(FAKE_BATCH_S="0.2")
    process.wait_for_beat(kind="batch")
    process.popen.send_signal(signal.SIGTERM)
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert kinds(read_beats(process.beats_file)).count("stopping") == 1


def test_the_users_modules_win_over_ours(lab, tmp_path):
    """A module called `checkpoint` or `train` on the user's path is the user's, also inside the training."""
    for name in ("checkpoint", "train", "hook", "inputs"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    plugin = "import checkpoint, train, hook, inputs\nassert all(m.MINE for m in (checkpoint, train, hook, inputs))\n"
    (tmp_path / "plugin.py").write_text(plugin)
    lab.env["PYTHONPATH"] = f"{FAKE}{os.pathsep}{tmp_path}"
    lab.launch()
    code, _beats, log = lab.run(FAKE_PLUGIN="plugin")
    assert code == 0, log


def test_a_full_disk_costs_heartbeats_and_nothing_else(lab):
    """Beats that cannot be written are said once on stderr; the training finishes."""
    lab.launch()
    (lab.attempt_dir / "beats.jsonl").symlink_to("/dev/full")
    process = lab.start()
    assert process.wait() == 0
    assert process.log().count("heartbeats are lost") == 1
    assert inspect(str(lab.last))["state"] == "finished"
