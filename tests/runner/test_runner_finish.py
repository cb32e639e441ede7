"""What is left of a training that was killed at its end, more epochs for one that is over, and its last save kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from runner_lab import FAKE, REPOSITORY, end_of, finished, interrupted, kinds, read_beats, write_checkpoint

from supervisor.runner.checkpoint import inspect

pytestmark = pytest.mark.e2e


@pytest.fixture
def ended(lab):
    """Give a run of 5 epochs that was killed between its last save and the stripping; its best epoch was the 4th."""
    write_checkpoint(lab.last, **interrupted(4, save_dir=str(lab.save_dir)), train_results={"epoch": [1, 2, 3, 4, 5]})
    write_checkpoint(lab.last.with_name("best.pt"), **interrupted(3, save_dir=str(lab.save_dir)))
    lab.launch(resume=str(lab.last), expected_epoch=4, args=lab.arguments(plots=True))
    return lab


def test_a_finish_without_training_validates_as_the_trainer_does(ended, tmp_path):
    """best.pt, on the job's data, into the same folder, with the plots that it asked for; the metrics are recorded."""
    arguments = tmp_path / "val.json"
    code, beats, _log = ended.run(FAKE_VAL_ARGUMENTS_FILE=str(arguments))
    end = end_of(beats)
    assert (code, end["result"], end["metrics"]) == (0, "finished", {"metrics/mAP50-95(B)": 0.5})
    given = json.loads(arguments.read_text())
    assert (given["project"], given["name"], given["exist_ok"]) == (str(ended.run_dir), "train", True)
    assert (given["data"], given["plots"], given["device"]) == (str(ended.data), True, "cpu")
    assert (ended.save_dir / "results.png").exists()
    assert "failed" not in end["reason"]


def test_both_files_are_stripped_and_best_carries_the_whole_course(ended):
    """As the trainer does: best.pt gets the course of the training, which only last.pt knows."""
    ended.run()
    best = ended.last.with_name("best.pt")
    assert [inspect(str(path))["state"] for path in (ended.last, best)] == ["finished", "finished"]
    assert sorted(path.name for path in ended.last.parent.iterdir()) == ["best.pt", "last.pt"]
    assert b"train_results" in best.read_bytes()


def test_the_last_save_is_kept_with_its_optimizer(ended):
    """A finish strips only after the copy for the ledger was made."""
    _code, beats, _log = ended.run()
    kept = next(beat["kept"] for beat in beats if beat["kind"] == "saved")
    assert kept == str(ended.attempt_dir / "final.pt")
    assert (inspect(kept)["state"], inspect(kept)["epoch"]) == ("done_not_stripped", 4)


def test_a_validation_that_fails_costs_the_metrics_only(ended):
    """The files are final: the run is finished, and the record says what failed in one line."""
    code, beats, _log = ended.run(FAKE_VAL_RAISE="1")
    end = end_of(beats)
    assert (code, end["result"], end["metrics"]) == (0, "finished", {})
    assert "the final validation failed: RuntimeError: Dataset error: images not found" in end["reason"]


def test_a_plot_that_fails_does_not_cost_the_metrics(ended):
    """Older versions need packages for it that nobody misses until then."""
    code, beats, _log = ended.run(FAKE_PLOT_RAISE="1")
    assert (code, end_of(beats)["metrics"]) == (0, {"metrics/mAP50-95(B)": 0.5})
    assert "the plot of the results failed: ModuleNotFoundError" in end_of(beats)["reason"]


def test_data_that_is_gone_does_not_keep_a_run_from_its_end(ended):
    """What is left needs no data."""
    ended.data.unlink()
    code, beats, _log = ended.run(FAKE_VAL_RAISE="1")
    assert (code, end_of(beats)["result"]) == (0, "finished")


def test_a_stop_in_the_final_validation_is_finished_without_metrics(ended):
    """The files are stripped by then: nothing is left that a resume could do."""
    process = ended.start(FAKE_VAL_BATCHES="1000", FAKE_VAL_BATCH_S="0.05")
    validating = ended.save_dir / "validating"
    while not validating.exists():
        assert process.popen.poll() is None, process.log()
        time.sleep(0.01)
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    end = end_of(read_beats(process.beats_file))
    assert (end["result"], end["metrics"]) == ("finished", {})
    assert "left out for a stop" in end["reason"]
    assert inspect(str(ended.last))["state"] == "finished"


def test_every_end_of_a_training_keeps_its_last_save(lab):
    """Only the last save is copied, before the library strips it; also where early stopping decides."""
    for early, epochs in (("", 3), ("1", 5)):
        lab.launch(args=lab.arguments(epochs=epochs))
        code, beats, _log = lab.run(**({"FAKE_EARLY_STOP": early} if early else {}))
        assert code == 0
        saves = [beat for beat in beats if beat["kind"] == "saved"]
        assert [("kept" in beat) for beat in saves] == [False] * (len(saves) - 1) + [True]
        assert inspect(saves[-1]["kept"])["epoch"] == saves[-1]["epoch"]
        assert inspect(str(lab.last))["state"] == "finished"
        for path in lab.last.parent.iterdir():
            path.unlink()


def test_a_copy_that_cannot_be_made_is_said_and_nothing_more(lab):
    """The training ends as it would have."""
    lab.launch()
    (lab.attempt_dir / "final.pt").mkdir()
    code, beats, log = lab.run()
    assert (code, end_of(beats)["result"]) == (0, "finished")
    assert not [beat for beat in beats if "kept" in beat]
    assert log.count("the last checkpoint is not kept") == 1
    assert [path.name for path in lab.attempt_dir.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("epoch", [4, 2])
def test_more_epochs_are_written_into_the_checkpoint(lab, epoch):
    """Done or stopped early: it goes on at the next epoch, to the new number; nothing else in the file changes."""
    content = {**interrupted(epoch, save_dir=str(lab.save_dir)), "stopper": {"best_fitness": 0.25, "best_epoch": 1}}
    write_checkpoint(lab.last, **content)
    lab.launch(resume=str(lab.last), expected_epoch=epoch, epochs_override=7)
    code, beats, log = lab.run(FAKE_RAISE=str(epoch + 1))
    assert code == 1
    written = inspect(str(lab.last))
    assert (written["state"], written["epoch"], written["epochs"]) == ("resumable", epoch, 7)
    assert "epochs 5 is now 7" in log
    lab.launch(resume=str(lab.last), expected_epoch=epoch, epochs_override=7)
    before = lab.last.stat().st_ino
    code, beats, log = lab.run(FAKE_RAISE=str(epoch + 1))
    assert (lab.last.stat().st_ino, "is now" in log) == (before, False)
    lab.launch(resume=str(lab.last), expected_epoch=epoch, epochs_override=7)
    code, beats, _log = lab.run()
    assert (code, [beat["epoch"] for beat in beats if beat["kind"] == "epoch"]) == (0, list(range(epoch + 1, 7)))


def test_patience_counts_from_where_the_epochs_were_added(tmp_path):
    """A run that stopped early would else stop again after one epoch; what was best stays best."""
    stopper = {"best_fitness": 0.25, "best_epoch": 1}
    path = write_checkpoint(tmp_path / "copy.pt", **interrupted(2), stopper=stopper)
    code = (
        "import json, sys; from supervisor.runner import checkpoint, rewrite\n"
        "plan = {'resume': sys.argv[1], 'epochs_override': 9}\n"
        "rewrite.more_epochs(plan, checkpoint.inspect(sys.argv[1]))\n"
        "import torch; print(json.dumps(torch.load(sys.argv[1], map_location='cpu', weights_only=False)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{FAKE}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=True,
    )
    content = json.loads(done.stdout.splitlines()[-1])
    assert content["stopper"] == {"best_fitness": 0.25, "best_epoch": 3}
    assert {**content["train_args"], "epochs": 5} == interrupted(2)["train_args"]


def test_a_moved_run_is_told_its_new_folder_where_the_version_needs_it(lab):
    """Versions before 8.4 go on in the folder that the checkpoint remembers: it is written into the checkpoint."""
    write_checkpoint(lab.last, **interrupted(1, save_dir="/gone/run/train"))
    lab.launch(resume=str(lab.last), expected_epoch=1)
    code, beats, log = lab.run(FAKE_IGNORES_SAVE_DIR="1")
    assert code == 0, log
    assert next(beat for beat in beats if beat["kind"] == "resumed")["save_dir"] == str(lab.save_dir)
    assert "save_dir /gone/run/train is now" in log


@pytest.mark.parametrize("epochs", [4, 5])
def test_epochs_that_add_nothing_are_refused(lab, epochs):
    """The file stays as it is."""
    write_checkpoint(lab.last, **interrupted(4, epochs=6, save_dir=str(lab.save_dir)))
    before = lab.last.read_bytes()
    lab.launch(resume=str(lab.last), expected_epoch=4, epochs_override=epochs)
    code, beats, _log = lab.run()
    assert (code, end_of(beats)["result"]) == (65, "refused")
    assert lab.last.read_bytes() == before


def test_a_launch_file_of_an_older_daemon_means_the_defaults(lab):
    """Without the newer keys: runner mode, safe saves, no other epochs."""
    lab.launch()
    plan = json.loads((lab.attempt_dir / "launch.json").read_text())["train"]
    assert not {"mode", "safe_saves", "epochs_override"} & set(plan)
    code, beats, _log = lab.run()
    assert (code, kinds(beats)[-1]) == (0, "end")
    assert not [beat for beat in beats if beat["kind"] == "note"]


@pytest.mark.parametrize("safe", [True, False])
def test_safe_saves_can_be_turned_off(lab, safe):
    """On, every save of last.pt is a new file; off, the library writes in place as it always did."""
    write_checkpoint(lab.last, **interrupted(1, save_dir=str(lab.save_dir)))
    inode = lab.last.stat().st_ino
    with lab.last.open("rb"):  # the number is not given to another file meanwhile
        lab.launch(resume=str(lab.last), expected_epoch=1, safe_saves=safe)
        assert lab.run()[0] == 0
        assert (lab.last.stat().st_ino == inode) is not safe


def test_the_leftover_of_a_killed_save_is_removed_at_the_next_start(lab):
    """Nothing of ours stays in the trainer's folder."""
    write_checkpoint(lab.last, **interrupted(1, save_dir=str(lab.save_dir)))
    left = lab.last.with_name(".last.pt.yolo-supervisor-4194399.tmp")  # above the largest process number
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    lab.launch(resume=str(lab.last), expected_epoch=1)
    assert lab.run()[0] == 0
    assert sorted(path.name for path in lab.last.parent.iterdir()) == ["best.pt", "last.pt"]


def test_the_epochs_tell_learning_rates_and_ema_updates(lab):
    """What the proof of continuity compares is in each epoch's beat."""
    lab.launch()
    _code, beats, _log = lab.run()
    told = [(beat["lr"], beat["updates"]) for beat in beats if beat["kind"] == "epoch"]
    assert told == [({"lr/pg0": 0.01}, 4), ({"lr/pg0": 0.01}, 8)]


def test_a_finished_file_is_never_resumed_for_more_epochs(lab):
    """A stripped checkpoint can only be used as weights."""
    write_checkpoint(lab.last, **finished())
    lab.launch(resume=str(lab.last), expected_epoch=4, epochs_override=9)
    assert lab.run()[0] == 65
