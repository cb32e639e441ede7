"""The rehearsal of a restore with real checkpoints of Ultralytics, in the trainings' own Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_harness import MODEL, REPOSITORY, needs

from supervisor import layout
from supervisor.core.actions import Drill
from supervisor.effects.backup import fetched
from supervisor.effects.backup.drill import Driller
from tests.backup_room import BackupRoom

pytestmark = pytest.mark.e2e

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
PATIENCE_S = 300

TRAIN = """
import sys
from ultralytics import YOLO
model, data, folder = sys.argv[1:]
saved = []
def keep(trainer):  # as the trainer's own last.pt is before the end strips it
    saved.append((trainer.epoch, trainer.last.read_bytes()))
    (trainer.save_dir / f"epoch{trainer.epoch + 1}.kept").write_bytes(trainer.last.read_bytes())
yolo = YOLO(model)
yolo.add_callback("on_model_save", keep)
yolo.train(data=data, epochs=3, imgsz=64, batch=4, device="cpu", workers=0, project=folder, name="t", plots=False,
           val=True, verbose=False)
"""

# Small models of every task, each with the optimizer's state of one step; classes and widths as small as they go.
TASKS = """
import copy, sys
from types import SimpleNamespace
import torch
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import ClassificationModel, OBBModel, PoseModel, SegmentationModel
from ultralytics.utils import DEFAULT_CFG_DICT, IterableSimpleNamespace
BACKBONE = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C2f", [16, True]], [-1, 1, "Conv", [16, 3, 2]]]
HEADS = {
    "segment": (SegmentationModel, [[3], 1, "Segment", ["nc", 8, 16]], {}),
    "pose": (PoseModel, [[3], 1, "Pose", ["nc", [4, 3]]], {"kpt_shape": [4, 3]}),
    "obb": (OBBModel, [[3], 1, "OBB", ["nc", 1]], {}),
    "classify": (ClassificationModel, [-1, 1, "Classify", ["nc"]], {}),
}
for task, (kind, head, more) in HEADS.items():
    yaml = {"nc": 2, "scales": {"n": [1.0, 1.0, 1024]}, "scale": "n", "backbone": BACKBONE, "head": [head], **more}
    model = kind(copy.deepcopy(yaml), nc=2, verbose=False)
    model.args = IterableSimpleNamespace(**DEFAULT_CFG_DICT)
    fake = SimpleNamespace(args=copy.copy(model.args), data={"nc": 2})
    optimizer = BaseTrainer.build_optimizer(fake, model, "AdamW" if task == "pose" else "SGD")
    for group in optimizer.param_groups:
        for one in group["params"]:
            one.grad = torch.zeros_like(one)
    optimizer.step()
    ema = copy.deepcopy(model).half()
    ema.args, ema.task = dict(DEFAULT_CFG_DICT), task
    arguments = {"task": task, "epochs": 9, "model": "x", "optimizer": "AdamW" if task == "pose" else "SGD"}
    torch.save({"epoch": 4, "best_fitness": 0.5, "model": None, "ema": ema, "updates": 5, "optimizer": optimizer.state_dict(),
                "train_args": arguments, "version": "8.4.190"}, f"{sys.argv[1]}/{task}.pt")
    if task == "obb":
        arguments["task"] = "of a later version"
        torch.save({"epoch": 4, "model": None, "ema": ema, "optimizer": optimizer.state_dict(), "train_args": arguments},
                   f"{sys.argv[1]}/unknown.pt")
torch.save({"epoch": 4, "model": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), "ema": None,
            "optimizer": optimizer.state_dict()}, f"{sys.argv[1]}/yolov5.pt")
"""


def python(script, *words, folder):
    """Run a script with the trainings' Python."""
    environment = {
        **os.environ,
        "YOLO_CONFIG_DIR": str(folder / "settings"),
        "YOLO_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [PYTHON, "-c", script, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE_S, env=environment,
        cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two saves of a real training of three epochs, before its end strips them."""
    needs(PYTHON.exists(), "the trainings' Python (make setup)")
    folder = tmp_path_factory.mktemp("trained")
    made = [PYTHON, REPOSITORY / "tests" / "training_data.py", folder / "data", "--train", "8", "--val", "4"]
    data = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    python(TRAIN, MODEL, data, folder, folder=folder)
    return folder / "t"


def rehearse(room, interpreter):
    """Drill the run of the room."""
    driller = Driller(fetched.scratch_of(room.runs_dir, "drill"), lambda _name: room.target, lambda: room.now)
    (answer,) = driller(Drill(key="k", target="nas", seed="1", pythons={"default/truck": str(interpreter)}))
    assert not (room.runs_dir / ".fetching" / "nas" / "drill").exists()
    return answer


@pytest.fixture(scope="module")
def room(trained, tmp_path_factory):
    """A backup of that training's second epoch."""
    room = BackupRoom(tmp_path_factory.mktemp("room"))
    for epoch in (1, 2):
        room.save((trained / f"epoch{epoch}.kept").read_bytes())
        assert room.keep().epoch == epoch
    room.back_up()
    return room


def test_a_real_checkpoint_is_restored_loaded_and_trained(room):
    """Its epoch and its metric are the manifest's, and one batch has a loss, on the CPU of the job's own Python."""
    answer = rehearse(room, PYTHON)
    assert (answer.ok, answer.loaded, answer.trained, answer.untrained) == (True, True, True, ""), answer
    assert answer.metric is not None
    assert answer.metric == pytest.approx(answer.metric_wanted)
    assert (answer.epoch, answer.epoch_wanted, answer.cause) == (2, 2, "")
    assert answer.loss is not None
    assert answer.loss > 0


def test_a_python_without_torch_proves_nothing(room):
    """Fetched and whole, and nobody loaded it: that is said, and is nothing against the backup."""
    answer = rehearse(room, sys.executable)
    assert (answer.ok, answer.loaded, answer.unable, answer.trained) == (False, False, True, False)
    assert answer.text.startswith("not proven: epoch 2 came back whole")
    assert "torch" in answer.text


def drilled(path, *options):
    """What runner/drill.py says of a file, and its exit code."""
    environment = {"PATH": "/usr/bin:/bin", "YOLO_CONFIG_DIR": str(path.parent / "settings"), "YOLO_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, layout.DRILL, *options, path], capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def test_a_file_with_another_epoch_or_a_hole_is_refused(trained, tmp_path):
    """Refused for what is in it: exit code 65."""
    path = trained / "epoch2.kept"
    code, answer = drilled(path, "--expected-epoch", "0")
    assert (code, answer["ok"], answer["trained"]) == (65, False, False)
    assert "not 0" in answer["reason"]
    torn = tmp_path / "torn.pt"
    torn.write_bytes(path.read_bytes()[:-200])
    code, answer = drilled(torn)
    assert (code, answer["loaded"]) == (65, False)


@pytest.mark.slow
def test_one_batch_of_every_task_is_trained(tmp_path):
    """Segments, poses, oriented boxes and classes; what is not known, or is no model of Ultralytics, is only loaded."""
    needs(PYTHON.exists(), "the trainings' Python (make setup)")
    python(TASKS, tmp_path, folder=tmp_path)
    for task in ("segment", "pose", "obb", "classify"):
        code, answer = drilled(tmp_path / f"{task}.pt", "--expected-epoch", "4")
        assert (code, answer["trained"], answer["untrained"]) == (0, True, ""), answer
        assert (answer["task"], answer["optimizer"], answer["loss"] > 0) == (task, "loaded", True)
    code, answer = drilled(tmp_path / "unknown.pt")
    assert (code, answer["loaded"], answer["trained"]) == (0, True, False)
    assert "of a later version" in answer["untrained"]
    code, answer = drilled(tmp_path / "yolov5.pt")
    assert (code, answer["loaded"], answer["trained"]) == (0, True, False)
    assert "its own train.py" in answer["untrained"]


def test_nothing_of_a_rehearsal_outlives_its_parent(trained):
    """A daemon that was killed leaves no program behind that computes on."""
    child = subprocess.Popen(
        [PYTHON, layout.DRILL, "--tied", trained / "epoch2.kept"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    child.stdin.close()
    assert child.wait(60) == -9
