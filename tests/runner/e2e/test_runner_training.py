"""The runner with the real Ultralytics, on a CPU: few trainings, each shared by several promises."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import signal
from dataclasses import dataclass

import pytest
from runner_lab import RUNNER, TOKEN, Lab, Process, kinds, read_beats

from supervisor.runner.checkpoint import inspect

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("runner-training")]

EPOCHS = 4


def in_the_middle_of(process: Process, epoch: int) -> None:
    """Wait until this epoch reports a batch: the next batches are under way, 64 of them make the epoch."""
    process.wait_for_beat(kind="batch", epoch=epoch)


@dataclass
class Story:
    """One training that was stopped, killed and finished, as three attempts."""

    lab: Lab
    stop_code: int
    stopped: list[dict[str, object]]
    untouched: bool
    kill_code: int
    killed: list[dict[str, object]]
    after_kill: dict[str, object]
    last_code: int
    last: list[dict[str, object]]
    last_log: str


@pytest.fixture(scope="session")
def story(real_lab) -> Story:
    """SIGTERM in epoch 1, resume; SIGKILL in epoch 2, resume; finish."""
    lab = real_lab.make("story")
    given = lab.arguments(epochs=EPOCHS, batch=4)
    lab.launch(args=given)
    process = lab.start()
    in_the_middle_of(process, 1)
    before = lab.last.read_bytes()
    stop_code = lab.terminate(process)
    stopped, untouched = read_beats(process.beats_file), lab.last.read_bytes() == before

    lab.launch(args=given, resume=str(lab.last), expected_epoch=inspect(str(lab.last))["epoch"])
    process = lab.start()
    in_the_middle_of(process, 2)
    process.popen.send_signal(signal.SIGKILL)
    kill_code, killed = process.wait(), read_beats(process.beats_file)
    after_kill = inspect(str(lab.last))

    lab.launch(args=given, resume=str(lab.last), expected_epoch=after_kill["epoch"])
    last_code, last, log = lab.run()
    return Story(lab, stop_code, stopped, untouched, kill_code, killed, after_kill, last_code, last, log)


def test_sigterm_in_the_middle_of_an_epoch_leaves_the_checkpoint_alone(story):
    """Exit code 75 within seconds, last.pt byte for byte what it was, the record says stopped."""
    assert story.stop_code == 75
    assert story.untouched
    stopping, end = story.stopped[-2:]
    assert (stopping["kind"], stopping["signal"]) == ("stopping", 15)
    assert (end["kind"], end["result"], end["code"], end["epoch"]) == ("end", "stopped", 75, 1)
    assert end["at"] - stopping["at"] < 2


def test_a_killed_training_goes_on_at_the_expected_epoch(story):
    """After SIGKILL the checkpoint is that of the last saved epoch, and the library itself says that it resumes there."""
    assert story.kill_code == -9
    assert (story.after_kill["state"], story.after_kill["epoch"]) == ("resumable", 1)
    resumed = [beat for beat in story.last if beat["kind"] == "resumed"]
    assert [beat["from_epoch"] for beat in resumed] == [1]
    assert re.search(rf"Resuming training .*last\.pt from epoch 3 to {EPOCHS} total epochs", story.last_log)
    assert kinds(story.last).index("resumed") < kinds(story.last).index("batch")


def test_a_training_in_three_attempts_has_each_epoch_once(story):
    """No epoch is lost, none is trained twice, the end is proved, and the options of a resume raise no complaint."""
    assert (story.last_code, story.last[-1]["result"]) == (0, "finished")
    with (story.lab.save_dir / "results.csv").open(newline="") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]
    assert inspect(str(story.lab.last))["state"] == "finished"
    assert "Resume ignores" not in story.last_log
    assert [path.name for path in story.lab.run_dir.iterdir() if path.is_dir()].count("train-2") == 0


def test_the_beats_of_a_real_training_are_complete_and_in_order(story):
    """Every phase, every epoch with losses and metrics, every save, in the order in which they happen."""
    epoch = ["train", "val", "save", "saved", "epoch"]
    order = [kind for kind in kinds(story.last) if kind != "batch"]
    assert order == ["start", "setup", "scan", "resumed", *epoch, *epoch, "end", "end"]
    batches = [beat for beat in story.last if beat["kind"] == "batch"]
    assert batches[0]["batch"] == 1
    assert all(beat["batches"] == 64 and beat["images_per_s"] > 0 for beat in batches)
    assert set(batches[0]["losses"]) == {"box_loss", "cls_loss", "dfl_loss"}
    told = [beat for beat in story.last if beat["kind"] == "epoch"]
    assert [beat["epoch"] for beat in told] == [2, 3]
    assert all("metrics/mAP50-95(B)" in beat["metrics"] and beat["epoch_s"] > 0 for beat in told)
    end = story.last[-1]
    assert (end["epoch"], end["epochs"], end["best"]) == (3, EPOCHS, str(story.lab.save_dir / "weights" / "best.pt"))
    assert "metrics/mAP50-95(B)" in end["metrics"]


def test_beats_come_at_most_twice_a_second(story):
    """The training is followed, not slowed."""
    for beats in (story.stopped, story.last):
        times = [beat["at"] for beat in beats if beat["kind"] == "batch"]
        assert all(later - earlier >= 0.49 for earlier, later in itertools.pairwise(times))


def test_the_stand_in_calls_back_like_the_real_library(story, lab):
    """The fast tests' fake gives the same beats in the same order as the real library for the same story."""
    lab.launch(args=lab.arguments(epochs=2))
    code, beats, _log = lab.run()
    assert code == 0
    fake = [kind if kind != "fresh" else "resumed" for kind in kinds(beats) if kind != "batch"]
    assert fake == [kind for kind in kinds(story.last) if kind != "batch"]
    for kind in {beat["kind"] for beat in story.last} - {"resumed"}:
        of_real = next(beat for beat in story.last if beat["kind"] == kind)
        of_fake = next(beat for beat in beats if beat["kind"] == kind)
        assert set(of_fake) == set(of_real)


def test_a_real_finished_run_is_neither_resumed_nor_overwritten(story):
    """A resume of a finished checkpoint, the library's most dangerous case, ends with 65 and changes no byte."""
    before = story.lab.last.read_bytes()
    story.lab.launch(resume=str(story.lab.last), expected_epoch=3)
    assert story.lab.run()[0] == 65
    story.lab.launch()
    assert story.lab.run()[0] == 65
    assert story.lab.last.read_bytes() == before


def test_a_real_torn_checkpoint_is_refused(story, real_lab):
    """Half of a real file ends the attempt with 65."""
    lab = real_lab.make("torn")
    lab.last.parent.mkdir(parents=True)
    whole = story.lab.last.read_bytes()
    lab.last.write_bytes(whole[: len(whole) // 2])
    lab.launch(resume=str(lab.last), expected_epoch=1)
    code, beats, _log = lab.run()
    assert (code, beats[-1]["result"]) == (65, "refused")
    assert "torn" in beats[-1]["reason"]


def test_the_plain_yolo_command_reports_stops_and_resumes_where_it_was(real_lab):
    """The unchanged command writes the same beats through PYTHONPATH, stops with 75, and its run moves with its folder.

    The checkpoint remembers the folder in which it was written; after a move the training goes on in the new one.
    """
    lab = real_lab.make("plain")
    lab.launch()
    (lab.attempt_dir / "launch.json").write_text(json.dumps({"version": 1, "token": TOKEN, "train": None}))
    given = [f"{name}={value}" for name, value in lab.arguments(epochs=3, batch=4).items()]
    yolo = lab.python.parent / "yolo"
    where = [f"project={lab.run_dir}", "name=train"]
    process = lab.start(yolo, "train", *given, *where, "device=cpu", PYTHONPATH=str(RUNNER / "inject"))
    in_the_middle_of(process, 1)
    assert lab.terminate(process) == 75
    beats = read_beats(process.beats_file)
    assert kinds(beats)[:4] == ["start", "scan", "fresh", "train"]
    assert beats[-1]["result"] == "stopped"

    moved = real_lab.make("moved")
    shutil.move(lab.save_dir, moved.save_dir)
    moved.launch(
        args=moved.arguments(epochs=3, batch=4),
        resume=str(moved.last),
        expected_epoch=inspect(str(moved.last))["epoch"],
    )
    code, beats, _log = moved.run()
    assert (code, beats[-1]["result"]) == (0, "finished")
    assert not lab.save_dir.exists()
    assert inspect(str(moved.last))["state"] == "finished"
