"""Real versions of Ultralytics stay on the GPUs of their attempt, with a stand-in for CUDA: what it would see counts."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from runner_lab import RUNNER

A, B = "GPU-11111111-1111-1111-1111-111111111111", "GPU-22222222-2222-2222-2222-222222222222"
PROGRAM = """
import json, os, subprocess, sys
from types import SimpleNamespace
import torch

V = "CUDA_VISIBLE_DEVICES"
seen = []

def count():
    seen.append(os.environ.get(V))
    return len([one for one in os.environ.get(V, "0,1,2,3").split(",") if one and one != "-1"])

torch.cuda.is_available = lambda: count() > 0
torch.cuda.device_count = count
torch.cuda.get_device_properties = lambda _place: SimpleNamespace(name="stand-in", total_memory=2**34)
torch.cuda.set_device = lambda _place: None
torch.cuda.current_device = lambda: 0

import ultralytics
from ultralytics.utils.torch_utils import select_device
from ultralytics.models.yolo.detect import DetectionTrainer

def chosen(device):
    seen.clear()
    name = str(select_device(device, verbose=False))
    child = [sys.executable, "-S", "-c", f"import os; print(os.environ.get({V!r}))"]
    started = subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip()
    return {"device": name, "seen": sorted(set(seen)), "child": started}

answers = {device: chosen(device) for device in ("0", "1", "0,1", "cpu", "0,1 ")}
where = {"project": os.getcwd(), "name": "t"}
trainer = DetectionTrainer(overrides={"model": "yolo11n.yaml", "data": sys.argv[1], "device": "0,1", **where})
answers["ranks"] = trainer.args.device
answers["written"] = [line for line in open("t/args.yaml") if line.startswith("device")][0].split()[1].strip("'")
answers["world"] = trainer.world_size
print(json.dumps({"version": ultralytics.__version__, **answers}))
"""


def answers(python, tmp_path, visible, *first_on_path):
    """What the program says on its last line, with the hook loaded as in a job with `command`."""
    (tmp_path / "attempt").mkdir(exist_ok=True)
    images = tmp_path / "images"
    images.mkdir(exist_ok=True)
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [a]\n")
    path = os.pathsep.join(map(str, (RUNNER / "inject", *first_on_path)))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "YOLO_CONFIG_DIR": str(tmp_path), "PYTHONPATH": path}
    env |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_SUPERVISOR_ATTEMPT_DIR": str(tmp_path / "attempt")}
    env |= {"CUDA_VISIBLE_DEVICES": visible, "YOLO_SUPERVISOR_GPUS": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    command = [str(python), "-c", PROGRAM, str(data)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(found, visible):
    """No device argument shows CUDA, or a process that is started, a GPU that is none of `visible`."""
    allowed = {*visible.split(","), ""}
    for device in ("0", "1", "0,1", "cpu"):
        for value in (*found[device]["seen"], found[device]["child"]):
            assert set(value.split(",")) <= allowed, (device, found[device])
    assert (found["ranks"], found["written"], found["world"]) == ("0,1", "0,1", 2)


@pytest.mark.e2e
@pytest.mark.parametrize("visible", [f"{A},{B}", "2,3"])
def test_a_version_that_writes_its_device_into_the_variable(train_python, other_ultralytics, tmp_path, visible):
    """8.3: CUDA sees one's own GPUs already while the device is chosen, and so does each rank; arguments keep places."""
    found = answers(train_python, tmp_path, visible, other_ultralytics)
    first, second = visible.split(",")
    assert found["version"] == "8.3.253"
    check(found, visible)
    assert (found["0"]["seen"], found["0"]["child"]) == ([first], first)
    assert (found["1"]["seen"], found["1"]["child"]) == ([second], second)
    assert (found["0,1 "]["seen"], found["0,1 "]["child"]) == ([visible], visible)


@pytest.mark.e2e
def test_a_version_that_leaves_the_variable_alone(train_python, tmp_path):
    """8.4: places are what it takes them for, and the variable stays as it was given."""
    found = answers(train_python, tmp_path, f"{A},{B}")
    check(found, f"{A},{B}")
    assert found["version"].startswith("8.4.")
    assert {found[device]["child"] for device in ("0", "1", "0,1", "cpu")} == {f"{A},{B}"}
