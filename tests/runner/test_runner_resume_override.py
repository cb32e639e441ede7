"""Users' own programs that know no resume: the hook makes their first training the one that was planned."""

from __future__ import annotations

import json
import os
import re

import pytest
from runner_lab import (
    FAKE,
    RUNNER,
    end_of,
    finished,
    hook_script,
    interrupted,
    kinds,
    launch_hook,
    read_beats,
    start_hooked,
    write_checkpoint,
)

from supervisor.runner import resume_override
from supervisor.runner.checkpoint import inspect

pytestmark = pytest.mark.e2e

MODEL = "model = YOLO('/models/tiny.yaml')"


def planned(lab, epoch=1, state=None, **plan):
    """Prepare an attempt whose program shall resume a training interrupted after `epoch`."""
    write_checkpoint(lab.last, **(state or interrupted(epoch, save_dir=str(lab.save_dir))))
    launch_hook(lab, **{"resume": str(lab.last), "expected_epoch": epoch, **plan})


def run(lab, script, **env):
    """Run a user's program with the hook; return exit code, beats and log."""
    process = start_hooked(lab, lab.python, script, **env)
    code = process.wait()
    return code, read_beats(process.beats_file), process.log()


def test_the_arguments_of_the_plain_command_are_understood(lab):
    """`yolo train` hands everything that its user wrote to `train`, the model too."""
    planned(lab)
    code, beats, log = run(lab, hook_script(lab, model="tiny.yaml", mode="train", task="detect"))
    assert code == 0, log
    assert next(beat for beat in beats if beat["kind"] == "resumed")["from_epoch"] == 1


@pytest.mark.parametrize("old", ["", "1"])
def test_a_hard_coded_false_becomes_the_planned_resume(lab, tmp_path, old):
    """Whatever version: the checkpoint goes on at its epoch, in its folder, and the model has the trained weights."""
    planned(lab)
    script = hook_script(lab, MODEL, "metrics = model.train(TRAIN)", "print('AFTER', metrics.results_dict, model.ckpt)")
    code, beats, log = run(lab, script, FAKE_OLD=old, FAKE_ARGUMENTS_FILE=str(tmp_path / "arguments.json"))
    assert code == 0, log
    given = json.loads((tmp_path / "arguments.json").read_text())
    assert (given["resume"], given["data"], given["save_dir"]) == (str(lab.last), str(lab.data), str(lab.save_dir))
    assert not {"epochs", "project", "name", "exist_ok"} & set(given)
    resumed = next(beat for beat in beats if beat["kind"] == "resumed")
    assert (resumed["from_epoch"], resumed["save_dir"]) == (1, str(lab.save_dir))
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [2, 3, 4]
    assert beats[0]["kind"] == "start"
    assert "AFTER {'metrics/mAP50-95(B)': 0.5" in log
    assert "'epoch': -1" in log


def test_a_moved_run_goes_on_where_it_lies_now(lab):
    """Versions before 8.4 would recreate the old folder: the checkpoint is told the new one first."""
    planned(lab, state=interrupted(1, save_dir="/gone/run/train"))
    code, beats, log = run(lab, hook_script(lab), FAKE_IGNORES_SAVE_DIR="1")
    assert code == 0, log
    assert next(beat for beat in beats if beat["kind"] == "resumed")["save_dir"] == str(lab.save_dir)


def test_without_a_resume_in_the_plan_nothing_is_changed(lab, tmp_path):
    """A fresh start of a user's program gets exactly its own arguments and is only followed."""
    launch_hook(lab)
    code, beats, _log = run(lab, hook_script(lab), FAKE_ARGUMENTS_FILE=str(tmp_path / "arguments.json"))
    given = json.loads((tmp_path / "arguments.json").read_text())
    assert code == 0
    assert (given["resume"], given["epochs"], given["name"]) == (False, 5, "train")
    assert next(beat for beat in beats if beat["kind"] == "fresh")["save_dir"] == str(lab.save_dir)
    assert "note" not in kinds(beats)


def test_a_program_that_resumes_by_itself_is_only_followed(lab):
    """Without a plan its first epoch may be any."""
    write_checkpoint(lab.last, **interrupted(1, save_dir=str(lab.save_dir)))
    launch_hook(lab)
    code, beats, _log = run(lab, hook_script(lab, resume=str(lab.last)))
    assert code == 0
    assert next(beat for beat in beats if beat["kind"] == "resumed")["from_epoch"] == 1


def test_only_the_first_training_of_a_program_is_resumed(lab):
    """The second is the program's own business: it starts afresh, in its own folder, and a note says so."""
    planned(lab)
    second = "YOLO('/models/other.yaml').train(data='d', epochs=2, project=PROJECT, name='second')"
    script = hook_script(lab, MODEL, "model.train(TRAIN)", second.replace("PROJECT", repr(str(lab.run_dir))))
    code, beats, log = run(lab, script)
    assert code == 0, log
    starts = [beat["kind"] for beat in beats if beat["kind"] in {"resumed", "fresh"}]
    assert starts == ["resumed", "fresh"]
    assert [beat["text"] for beat in beats if beat["kind"] == "note"][-1].startswith("training 2 of this program")
    assert inspect(str(lab.run_dir / "second" / "weights" / "last.pt"))["state"] == "finished"


def test_a_program_that_tries_again_after_an_error_does_not_start_over(lab):
    """`except: train again` would begin anew in the same folder: it ends with 77, last.pt keeps its epochs."""
    planned(lab)
    again = "try:\n        model.train(TRAIN)\n    except RuntimeError:\n        model.train(TRAIN)"
    code, beats, _log = run(lab, hook_script(lab, MODEL, again), FAKE_RAISE="3")
    assert code == 77
    assert (beats[-1]["kind"], beats[-1]["result"]) == ("end", "wrong_place")
    assert inspect(str(lab.last))["epoch"] == 2


def test_only_one_process_of_an_attempt_takes_the_resume(lab):
    """A program that starts others: they would all write one last.pt. The next one trains what it says, elsewhere."""
    planned(lab)
    script = hook_script(lab, MODEL, "model.train(TRAIN)")
    other = hook_script(lab, MODEL, "model.train(TRAIN)", name="other").rename(lab.run_dir / "other.py")
    same = hook_script(lab, MODEL, "model.train(TRAIN)").rename(lab.run_dir / "same.py")
    script = hook_script(
        lab,
        "import subprocess, sys",
        MODEL,
        "model.train(TRAIN)",
        *(
            f"print('CODE', subprocess.run([sys.executable, {str(path)!r}]).returncode, flush=True)"
            for path in (other, same)
        ),
    )
    code, beats, log = run(lab, script)
    assert code == 0
    assert [line for line in log.splitlines() if line.startswith("CODE")] == ["CODE 0", "CODE 77"]
    assert kinds(beats).count("resumed") == 1
    assert inspect(str(lab.run_dir / "other" / "weights" / "last.pt"))["state"] == "finished"


@pytest.mark.parametrize(
    ("state", "code", "result"),
    [
        (finished(), 65, "refused"),
        ({**interrupted(1), "optimizer": None}, 65, "refused"),
        (interrupted(2), 77, "wrong_place"),
    ],
)
def test_a_checkpoint_that_is_not_the_planned_one_ends_the_program(lab, state, code, result):
    """Refused before anything is trained, and the file stays as it is."""
    planned(lab, epoch=1, state=state)
    before = lab.last.read_bytes()
    got, beats, _log = run(lab, hook_script(lab))
    assert (got, end_of(beats)["result"]) == (code, result)
    assert lab.last.read_bytes() == before


def test_a_trainer_that_goes_on_elsewhere_trains_no_batch(lab):
    """The checks before the first batch hold in a user's program, too."""
    planned(lab)
    code, beats, _log = run(lab, hook_script(lab), FAKE_START_EPOCH="3")
    assert (code, end_of(beats)["result"]) == (77, "wrong_place")
    assert "batch" not in kinds(beats)


def test_a_program_past_the_public_interface_is_stopped_before_it_starts_over(lab):
    """A script that builds its trainer itself cannot be turned into a resume: 77, nothing trained."""
    planned(lab)
    before = lab.last.read_bytes()
    script = hook_script(
        lab,
        "from ultralytics.engine.trainer import BaseTrainer",
        f"BaseTrainer(dict(project={str(lab.run_dir)!r}, name='train', resume=False)).train()",
    )
    code, beats, _log = run(lab, script)
    assert (code, end_of(beats)["result"]) == (77, "wrong_place")
    assert lab.last.read_bytes() == before


def test_a_training_that_was_only_not_stripped_is_finished_for_the_program(lab):
    """No epoch is added; the program gets its metrics and a model with the final weights, as if it had trained."""
    planned(lab, epoch=4)
    write_checkpoint(lab.last.with_name("best.pt"), **interrupted(3))
    script = hook_script(lab, MODEL, "metrics = model.train(TRAIN)", "print('AFTER', metrics.results_dict, model.ckpt)")
    code, beats, log = run(lab, script)
    assert (code, end_of(beats)["result"]) == (0, "finished"), log
    assert "train" not in kinds(beats)
    assert "AFTER {'metrics/mAP50-95(B)': 0.5" in log
    assert inspect(str(lab.last))["state"] == "finished"


def test_what_a_program_does_after_such_a_finish_is_its_own_business(lab):
    """Its next training starts afresh in its own folder, as after a resume; SIGTERM is the program's again."""
    planned(lab, epoch=4)
    left = "print('LEFT', int(signal.getsignal(signal.SIGTERM)))"
    second = f"YOLO('/models/other.yaml').train(data='d', epochs=2, project={str(lab.run_dir)!r}, name='second')"
    code, beats, log = run(lab, hook_script(lab, "import signal", MODEL, "model.train(TRAIN)", left, second))
    assert (code, log.count("LEFT 0")) == (0, 1), log
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [0, 1]
    assert [beat["text"] for beat in beats if beat["kind"] == "note"][-1].startswith("training 2 of this program")
    assert [inspect(str(path))["state"] for path in lab.run_dir.rglob("last.pt")] == ["finished"] * 2


def test_an_error_before_any_callback_is_told(lab):
    """Old versions have no teardown after an error: the end record is there all the same, once."""
    launch_hook(lab)
    code, beats, _log = run(lab, hook_script(lab), FAKE_RAISE="0", FAKE_OLD="1")
    assert code == 1
    assert end_of(beats)["reason"].startswith("RuntimeError: CUDA out of memory")


def test_more_epochs_reach_a_users_program(lab):
    """`extend` of a command job: the epochs are written into the planned checkpoint."""
    planned(lab, epoch=4, epochs_override=7)
    code, beats, _log = run(lab, hook_script(lab))
    assert code == 0
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [5, 6]


@pytest.mark.parametrize("state", [interrupted(1), interrupted(4), finished()])
def test_a_fresh_multi_gpu_start_never_deletes_a_checkpoint(lab, state):
    """The library removes the save_dir before it starts its ranks: with a whole checkpoint in it the start is refused."""
    write_checkpoint(lab.last, **state)
    before = lab.last.read_bytes()
    launch_hook(lab)
    code, beats, log = run(lab, hook_script(lab, device="0,1"))
    assert (code, end_of(beats)["result"]) == (65, "refused"), log
    assert str(lab.last) in end_of(beats)["reason"]
    assert lab.last.read_bytes() == before


def test_a_fresh_multi_gpu_start_may_delete_what_is_worth_nothing(lab):
    """A torn last.pt of the first epoch stops nobody; rank 0 reports."""
    lab.last.parent.mkdir(parents=True)
    lab.last.write_bytes(b"")
    launch_hook(lab)
    code, beats, log = run(lab, hook_script(lab, device="0,1", epochs=2))
    assert (code, end_of(beats)["result"]) == (0, "finished"), log
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [0, 1]


def test_the_ranks_of_a_users_program_are_checked_and_stopped(lab):
    """A resume on several GPUs goes through the ranks: confirmed there, and SIGTERM to the program reaches them."""
    planned(lab)
    process = start_hooked(lab, lab.python, hook_script(lab, device="0,1"), FAKE_BATCH_S="0.1")
    process.wait_for_beat(kind="resumed", from_epoch=1)
    process.wait_for_beat(kind="batch")
    lab.terminate(process)
    assert end_of(read_beats(process.beats_file))["result"] == "stopped"
    assert inspect(str(lab.last))["state"] == "resumable"


def fork(folder, **renamed):
    """Write a fork of the stand-in in which names are others; return the path for its import."""
    for source in FAKE.joinpath("ultralytics").rglob("*.py"):
        target = folder / source.relative_to(FAKE)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text()
        for old, new in renamed.items():
            text = re.sub(rf"\b{old}\b", new, text)
        target.write_text(text)
    return f"{RUNNER / 'inject'}{os.pathsep}{folder}"


def test_a_library_that_we_do_not_know_trains_without_us(lab, tmp_path):
    """A fork without any of the names that we add to or wrap: said once each, and it trains."""
    launch_hook(lab)
    path = fork(tmp_path, generate_ddp_command="ddp_command", default_callbacks="all_callbacks", Model="Net")
    code, _beats, log = run(lab, hook_script(lab), PYTHONPATH=path)
    assert code == 0, log
    assert log.count("yolo-supervisor: ultralytics.") == log.count("yolo-supervisor: ") == 3
    assert inspect(str(lab.last))["state"] == "finished"


def test_a_trainer_that_saves_otherwise_is_followed_all_the_same(lab, tmp_path):
    """Safe saves that cannot be armed are a note; heartbeats and the end are as ever."""
    launch_hook(lab)
    code, beats, log = run(lab, hook_script(lab), PYTHONPATH=fork(tmp_path, wdir="weights_folder"))
    assert (code, end_of(beats)["result"]) == (0, "finished"), log
    notes = [beat["text"] for beat in beats if beat["kind"] == "note"]
    assert len(notes) == 1
    assert notes[0].startswith("safe saves could not be armed: AttributeError")


@pytest.mark.parametrize("device", ["cpu", "0,1"])
def test_after_its_training_a_program_dies_of_sigterm_as_always(lab, device):
    """The handler is the training's, on one GPU or several."""
    launch_hook(lab)
    left = "print('LEFT', int(signal.getsignal(signal.SIGTERM)))"
    script = hook_script(lab, "import signal", MODEL, "model.train(TRAIN)", left, device=device)
    code, _beats, log = run(lab, script)
    assert (code, log.count("LEFT 0")) == (0, 1), log


@pytest.mark.parametrize(
    ("own", "asked", "given"),
    [
        ("0", None, "0"),
        ("0,1", "", "0"),
        ("cpu", None, "cpu"),
        (None, None, None),
        ("0", "0,1", "0"),
        ("0", [0, 1], "0"),
        ("0,1", [0, 1, 2], "0,1"),
        ("0,1", "1", "1"),
        ("0,1", 1, 1),
        ("cpu", "0", "0"),
        ("0", "cpu", "cpu"),
    ],
)
def test_a_resume_never_takes_the_device_of_its_checkpoint(own, asked, given):
    """Its numbers count the GPUs of another attempt; and where there are fewer now, all of them are asked for."""
    assert resume_override._device({"device": own}, asked) == given
