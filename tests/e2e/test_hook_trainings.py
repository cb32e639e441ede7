"""The hook and the runner with the real Ultralytics: few trainings, each shared by several promises.

YOLO_SUPERVISOR_OTHER_ULTRALYTICS names folders (with : between them) into which other versions were installed with
`pip install --no-deps --target`; the same story is then told with each.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hook_lab import PYTHON, RealLabs, needed, real_labs, trains_with
from runner_lab import Lab, hook_script, kinds, launch_hook, names, read_beats, start_hooked

from supervisor.runner.checkpoint import inspect

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("hook-trainings")]

EPOCHS = 4
OTHERS = [folder for folder in os.environ.get("YOLO_SUPERVISOR_OTHER_ULTRALYTICS", "").split(":") if folder]
LOGGERS = os.environ.get("YOLO_SUPERVISOR_LOGGERS", "")


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLabs]:
    """Give a maker of run directories."""
    yield from real_labs(tmp_path_factory)


@dataclass
class Story:
    """One training of a user's own, killed twice: `yolo` command, script, command again."""

    lab: Lab
    killed: list[dict[str, object]]
    by_script: list[dict[str, object]]
    last: list[dict[str, object]]
    last_log: str
    last_code: int


def rows(lab: Lab) -> list[int]:
    """Return the epochs of results.csv; 8.2 pads its columns."""
    with (lab.save_dir / "results.csv").open(newline="") as file:
        return [int(row[0]) for row in list(csv.reader(file))[1:]]


def kill_in(process, epoch: int) -> list[dict[str, object]]:
    """SIGKILL in the middle of an epoch; return what it told."""
    process.wait_for_beat(kind="batch", epoch=epoch)
    process.popen.send_signal(signal.SIGKILL)
    process.wait()
    return read_beats(process.beats_file)


def command(lab: Lab) -> list[object]:
    """Return the plain command of a user, which knows no resume."""
    given = {**lab.arguments(epochs=EPOCHS, batch=4), "project": lab.run_dir, "name": "train", "exist_ok": True}
    return [PYTHON.parent / "yolo", "train", *(f"{name}={value}" for name, value in given.items()), "device=cpu"]


def go_on(lab: Lab) -> None:
    """Plan a resume of what is there."""
    launch_hook(lab, resume=str(lab.last), expected_epoch=inspect(str(lab.last))["epoch"])


def tell(lab: Lab) -> Story:
    """Start, kill in epoch 1, resume in a script with resume=False, kill in epoch 2, finish by the command."""
    launch_hook(lab)
    killed = kill_in(start_hooked(lab, *command(lab)), 1)
    go_on(lab)
    given = lab.arguments(epochs=EPOCHS, batch=4)
    script = hook_script(lab, **{name: value for name, value in given.items() if name != "model"}, device="cpu")
    by_script = kill_in(start_hooked(lab, PYTHON, script), 2)
    go_on(lab)
    process = start_hooked(lab, *command(lab))
    code = process.wait(120)
    return Story(lab, killed, by_script, read_beats(process.beats_file), process.log(), code)


@pytest.fixture(scope="module")
def story(labs) -> Story:
    """The story with the installed version."""
    return tell(labs.make("story"))


def test_a_users_own_training_goes_on_where_it_was(story):
    """Killed twice, resumed although script and command say otherwise: each epoch once, to exactly the number asked."""
    assert (story.last_code, story.last[-1]["result"]) == (0, "finished")
    epochs = [
        b["epoch"] for beats in (story.killed, story.by_script, story.last) for b in beats if b["kind"] == "epoch"
    ]
    assert epochs == list(range(EPOCHS))
    assert rows(story.lab) == [1, 2, 3, 4]
    assert [path.name for path in story.lab.run_dir.glob("train*") if path.is_dir()] == ["train"]
    assert re.search(rf"Resuming training .*last\.pt from epoch 3 to {EPOCHS} total epochs", story.last_log)
    assert kinds(story.last).index("resumed") < kinds(story.last).index("batch")


def test_learning_rates_and_ema_go_on_over_a_resume(story):
    """The beats carry what a proof of continuity needs: lr of every group, and EMA updates that only rise."""
    told = [beat for beats in (story.killed, story.by_script, story.last) for beat in beats if beat["kind"] == "epoch"]
    assert all(beat["lr"]["lr/pg0"] > 0 for beat in told)
    updates = [beat["updates"] for beat in told]
    assert updates == sorted(set(updates))


def test_the_folder_of_a_users_training_holds_nothing_of_ours(story):
    """No temporary file, no copy: those are in the attempt's folder."""
    assert names(story.lab.last.parent) == ["best.pt", "last.pt"]
    assert inspect(str(story.lab.attempt_dir / "final.pt"))["state"] == "done_not_stripped"
    assert inspect(str(story.lab.last))["state"] == "finished"


def test_what_was_killed_before_it_was_stripped_ends_like_the_library(story, labs):
    """Strip and validation by the runner give the same metrics, to the last digit, and the same files."""
    lab = labs.make("finish")
    shutil.copytree(story.lab.save_dir, lab.save_dir)
    final = story.lab.attempt_dir / "final.pt"
    shutil.copyfile(final, lab.last)
    lab.launch(args=lab.arguments(epochs=EPOCHS, batch=4, plots=True), resume=str(lab.last), expected_epoch=EPOCHS - 1)
    code, beats, log = lab.run()
    assert (code, beats[-1]["result"]) == (0, "finished"), log
    assert inspect(str(lab.last))["state"] == inspect(str(lab.last.with_name("best.pt")))["state"] == "finished"
    assert beats[-1]["metrics"] == story.last[-1]["metrics"]
    assert "confusion_matrix.png" in names(lab.save_dir)


def test_a_finished_run_gets_more_epochs_from_its_last_save(story, labs):
    """The kept copy of the last save goes on to the new number, into the same results, and ends like any other."""
    lab = labs.make("extend")
    shutil.copytree(story.lab.save_dir, lab.save_dir)
    shutil.copyfile(story.lab.attempt_dir / "final.pt", lab.last)
    more = {"resume": str(lab.last), "expected_epoch": EPOCHS - 1, "epochs_override": EPOCHS + 2}
    lab.launch(args=lab.arguments(epochs=EPOCHS, batch=4), **more)
    code, beats, log = lab.run()
    assert (code, beats[-1]["result"]) == (0, "finished"), log
    assert [beat["epoch"] for beat in beats if beat["kind"] == "epoch"] == [EPOCHS, EPOCHS + 1]
    assert rows(lab) == list(range(1, EPOCHS + 3))


@pytest.mark.slow
@pytest.mark.parametrize("folder", OTHERS or [""], ids=lambda folder: Path(folder).name or "none given")
def test_the_same_story_with_another_version(labs, folder):
    """Another Ultralytics: killed twice, each epoch once, resumed before the first batch, saves that nobody sees torn."""
    needed(bool(folder), "YOLO_SUPERVISOR_OTHER_ULTRALYTICS")
    story = tell(labs.make("other", PYTHONPATH=folder))
    test_a_users_own_training_goes_on_where_it_was(story)
    test_the_folder_of_a_users_training_holds_nothing_of_ours(story)
    assert next(beat for beat in story.last if beat["kind"] == "start")["ultralytics"] != "8.4.190"
    assert not [b for b in story.killed + story.by_script if b["kind"] == "note" and "could not" in b["text"]]
    test_what_was_killed_before_it_was_stripped_ends_like_the_library(story, Remade(labs, folder))
    test_a_finished_run_gets_more_epochs_from_its_last_save(story, Remade(labs, folder))


@dataclass
class Remade:
    """Makes run directories with another version."""

    labs: RealLabs
    folder: str

    def make(self, name: str) -> Lab:
        """Return a run directory."""
        return self.labs.make(name, PYTHONPATH=self.folder)


READ_EVENTS = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print(json.dumps({tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"""


def test_tensorboard_shows_one_line_over_a_kill(labs):
    """Every epoch's losses, rates and metrics once, in one run, in order; the final validation is one step more."""
    needed(
        trains_with("tensorboard", LOGGERS), "tensorboard in the trainings' environment (or YOLO_SUPERVISOR_LOGGERS)"
    )
    lab = labs.make("tensorboard", PYTHONPATH=LOGGERS)
    given = {"args": lab.arguments(epochs=EPOCHS, batch=4), "settings": {"tensorboard": True}}
    lab.launch(**given)
    kill_in(lab.start(), 2)
    lab.launch(**given, resume=str(lab.last), expected_epoch=1)
    assert lab.run()[0] == 0
    steps = read_events(lab)
    assert steps["train/box_loss"] == steps["lr/pg0"] == [1, 2, 3, 4]
    assert steps["metrics/mAP50-95(B)"] == [1, 2, 3, 4, 5]


def read_events(lab: Lab) -> dict[str, list[int]]:
    """Return the steps of each curve as TensorBoard itself reads the run's folder."""
    process = lab.start(PYTHON, "-c", READ_EVENTS, lab.save_dir)
    assert process.wait() == 0, process.log()
    steps: dict[str, list[int]] = json.loads(process.log().splitlines()[-1])
    return steps


@pytest.mark.slow
def test_wandb_goes_on_in_one_run_over_a_kill(labs):
    """Offline: both attempts write under one id, found again by the library in the run's folder."""
    needed(trains_with("wandb", LOGGERS), "wandb in the trainings' environment (or YOLO_SUPERVISOR_LOGGERS)")
    lab = labs.make("wandb", PYTHONPATH=LOGGERS, WANDB_MODE="offline")
    given = {"args": lab.arguments(epochs=3, batch=4), "settings": {"wandb": True}}
    lab.launch(**given)
    kill_in(lab.start(), 1)
    lab.launch(**given, resume=str(lab.last), expected_epoch=0)
    assert lab.run()[0] == 0
    files = [path.name for path in (lab.save_dir / "wandb").glob("*run-*/run-*.wandb")]
    assert len(files) == 2
    assert len(set(files)) == 1
