"""The tools that let a real training run on a small machine: generated data and the stand-in for torchvision."""

from __future__ import annotations

import os
import subprocess

import pytest
from runner_lab import REPOSITORY

pytestmark = pytest.mark.e2e

SUPPRESSION = """
import torch, torchvision
from torchvision.ops import nms
assert torchvision.__version__ == "0.28.0+standin"
boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30], [0, 0, 10, 5], [0, 0, 10, 10.0]])
scores = torch.tensor([0.5, 0.9, 0.1, 0.7, 0.9])
assert nms(boxes, scores, 0.4).tolist() == [1, 3, 2], nms(boxes, scores, 0.4)
assert nms(boxes, scores, 1.0).tolist() == [1, 4, 3, 0, 2]
assert nms(boxes[:0], scores[:0], 0.5).tolist() == []
assert nms(boxes, scores, 0.5).dtype == torch.long
"""


def test_boxes_are_suppressed_as_the_compiled_operator_does(train_python):
    """Best score first, ties in their order, a box falls only to a better one that was kept; none gives none."""
    package = REPOSITORY / "tests" / "torchvision_standin"
    env = {**os.environ, "PYTHONPATH": str(package)}
    subprocess.run([train_python, "-c", SUPPRESSION], check=True, timeout=60, env=env)
    assert 'version = "0.28.0+standin"' in (package / "pyproject.toml").read_text()


def test_the_same_seed_gives_the_same_data(train_python, tmp_path):
    """Two generated sets are equal, another seed differs, and the folder's name may hold anything."""
    script = REPOSITORY / "tests" / "training_data.py"
    sets = {}
    for name, seed in (("a", "0"), ("b", "0"), ("c: 'x' \"数据\" #1", "1")):
        command = [train_python, script, tmp_path / name, "--train", "3", "--val", "2", "--size", "32", "--seed", seed]
        subprocess.run(command, check=True, capture_output=True)
        files = sorted((tmp_path / name).rglob("*.[jt][px][gt]"))
        sets[seed + name] = [file.read_bytes() for file in files]
        assert len(files) == 10
    first, second, third = sets.values()
    assert first == second
    assert first != third
    read = f"import yaml; print(yaml.safe_load(open({str(tmp_path / name / 'data.yaml')!r}))['path'])"
    done = subprocess.run([train_python, "-c", read], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / name)
