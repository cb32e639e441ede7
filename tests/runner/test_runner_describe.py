"""What describe.py says of an interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runner_lab import OTHER_VERSION, RUNNER

from supervisor.runner import describe

pytestmark = pytest.mark.e2e


def ask(python: Path | str, tmp_path: Path, *path: Path) -> dict[str, object]:
    """Return the description by one interpreter, whose stdout must hold nothing else."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "YOLO_CONFIG_DIR": str(tmp_path),
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "0",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }
    command = [str(python), str(RUNNER / "describe.py")]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    return json.loads(done.stdout)


def test_the_real_library_is_described(train_python, tmp_path):
    """Versions, arguments with types, configuration names, folders and the AMP weights come from that interpreter."""
    found = ask(train_python, tmp_path)
    assert "error" not in found
    assert found["missing"] == []
    assert found["cuda"] in {True, False}
    assert found["python"].count(".") == 2
    assert Path(found["executable"]).exists()
    assert all(Path(folder).is_absolute() for folder in [found["weights_dir"], *found["site_packages"]])
    assert "yolo11.yaml" in found["model_cfgs"]
    assert "coco8.yaml" in found["dataset_cfgs"]
    assert found["amp_check_weights"].endswith(".pt")
    types = {name: set(argument["types"]) for name, argument in found["train_args"].items()}
    assert types["epochs"] == {"int"}
    assert types["lr0"] == {"int", "float"}
    assert {"int", "list"} <= types["imgsz"]
    assert types["cos_lr"] == {"bool"}
    assert "null" in types["time"]
    assert found["train_args"]["patience"]["default"] == 100
    assert {"imgsz", "batch", "freeze", "patience", "time"} <= set(found["resume_keys"])
    assert not {"model", "resume", "device", "epochs", "lr0"} & set(found["resume_keys"])


def test_a_key_that_only_one_of_two_versions_has_is_told_apart(train_python, other_ultralytics, tmp_path):
    """The arguments are those of the version that would be imported, not of ours."""
    installed = ask(train_python, tmp_path)
    other = ask(train_python, tmp_path, other_ultralytics)
    assert other["ultralytics"] == OTHER_VERSION
    assert other["ultralytics_path"].startswith(str(other_ultralytics))
    assert "cls_remap" in installed["train_args"]
    assert "cls_remap" not in other["train_args"]
    assert "half" in other["train_args"]
    assert installed["amp_check_weights"] != other["amp_check_weights"]


def test_what_a_resume_may_change_is_read_from_the_source(tmp_path):
    """The arguments that check_resume names, but for its own bookkeeping; nothing of a version that has no such code."""
    source = tmp_path / "trainer.py"
    known = dict.fromkeys(("imgsz", "batch", "lr0", "model", "device", "resume"))
    source.write_text(
        'class T:\n    def check_resume(self, o):\n        """Of batch."""\n        for k in ("imgsz", "batch", "device"):\n'
        '            if k in o:\n                self.model = o["model"]\n    def other(self):\n        return "lr0"\n'
    )
    assert describe.resume_keys(str(source), known) == ["batch", "imgsz"]
    assert describe.resume_keys(str(tmp_path / "none.py"), known) == []


def test_an_interpreter_without_the_library_still_answers(tmp_path):
    """Everything that is missing is named, with the reason."""
    found = ask(sys.executable, tmp_path)
    assert found["missing"] == ["cv2", "torch", "torchvision", "ultralytics"]
    assert "ModuleNotFoundError" in found["missing_reasons"]["torch"]
    assert "error" in found


def test_a_broken_library_still_answers(tmp_path):
    """A torchvision that dies at its import is missing, and nothing it prints spoils the answer."""
    broken = {
        "torch": "Tensor = 1\n",
        "torchvision": "print('noise')\nraise RuntimeError('operator nms does not exist')\n",
    }
    for name, source in broken.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source)
    found = ask(sys.executable, tmp_path, tmp_path)
    assert found["missing_reasons"]["torchvision"] == "RuntimeError: operator nms does not exist"


def test_the_amp_weights_are_read_from_the_source(tmp_path):
    """The first weights file in the code of check_amp counts, not one in a text around it."""
    source = tmp_path / "checks.py"
    source.write_text(
        'X = "yolo1.pt"\ndef check_amp(model):\n    """YOLO("yolo2.pt")"""\n    a = "see yolo3.pt"\n    b = W / "yolo26n.pt"\n'
    )
    assert describe.amp_check_weights(str(source)) == "yolo26n.pt"
    assert describe.amp_check_weights(str(tmp_path / "none.py")) is None
