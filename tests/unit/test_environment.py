"""The environment of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.core.actions import Launch
from supervisor.core.job import Checkpoints
from supervisor.core.model import Job
from supervisor.engines.environment import build
from supervisor.layout import INJECT, RunDirectory

RUN = RunDirectory(Path("/runs/p/truck"))


def environment(inherited=None, *, gpus=(), gpu_ids=(), allow_download=False, **job):
    job = Job(**{"name": "truck", "revision": "r", "train": {}, **job})
    start = {"start": "fresh", "checkpoint": "", "from_epoch": 0}
    action = Launch(key="k", run="truck@1", attempt=3, token=7, job=job, gpus=gpus, gpu_ids=gpu_ids, **start)
    return build(action, RUN, inherited or {}, allow_download=allow_download)


def test_nothing_of_the_daemon_is_inherited_that_is_not_allowed():
    """A secret of the daemon never reaches a training; what a login shell gives does."""
    given = environment({"HOME": "/home/a", "LANG": "C.UTF-8", "AWS_SECRET": "x", "LD_PRELOAD": "evil.so"})
    assert given["HOME"] == "/home/a"
    assert given["LANG"] == "C.UTF-8"
    assert not {"AWS_SECRET", "LD_PRELOAD"} & given.keys()


def test_env_pass_names_what_else_is_inherited():
    """LD_LIBRARY_PATH, WANDB_* and proxies pass by name or pattern."""
    inherited = {"LD_LIBRARY_PATH": "/cuda", "HTTPS_PROXY": "p", "WANDB_MODE": "offline", "WANDB": "no"}
    given = environment(inherited, env_pass=("LD_LIBRARY_PATH", "WANDB_*", "NOT_THERE"))
    assert (given["LD_LIBRARY_PATH"], given["WANDB_MODE"]) == ("/cuda", "offline")
    assert not {"HTTPS_PROXY", "WANDB", "NOT_THERE"} & given.keys()


def test_the_jobs_own_env_wins_but_not_over_our_markers():
    """A job may set what it likes; our processes are recognised by markers that it cannot forge."""
    given = environment(env={"PYTHONUNBUFFERED": "0", "YOLO_SUPERVISOR_ATTEMPT_DIR": "/elsewhere"})
    assert given["PYTHONUNBUFFERED"] == "0"
    assert given["YOLO_SUPERVISOR_ATTEMPT_DIR"] == "/runs/p/truck/attempts/3"
    assert (given["YOLO_SUPERVISOR_RUN"], given["YOLO_SUPERVISOR_TOKEN"]) == ("truck@1", "7")


@pytest.mark.parametrize(("gpus", "visible"), [((), ""), ((2,), "2"), ((0, 3), "0,3")])
def test_a_training_sees_its_own_gpus_only(gpus, visible):
    """CUDA counts as the PCI bus does, and a CPU job sees none."""
    given = environment(gpus=gpus)
    assert (given["CUDA_DEVICE_ORDER"], given["CUDA_VISIBLE_DEVICES"]) == ("PCI_BUS_ID", visible)


def test_gpus_are_shown_by_uuid(tmp_path):
    """Their numbers change when one is lost; and our own variable says the same, whatever the program does to CUDA's."""
    given = environment(gpus=(0, 3), gpu_ids=("GPU-a", "GPU-d"), env={"YOLO_SUPERVISOR_GPUS": "all"})
    assert given["CUDA_VISIBLE_DEVICES"] == given["YOLO_SUPERVISOR_GPUS"] == "GPU-a,GPU-d"
    given = environment(train=None, family="yolov9", command=("x",), env={"PYTHONPATH": str(tmp_path)})
    assert (given["YOLO_SUPERVISOR_GPUS"], given["YOLO_SUPERVISOR_HOOK"]) == ("", "gpus")
    assert given["PYTHONPATH"] == f"{INJECT}:{tmp_path}"
    off = environment(train=None, family="yolov9", command=("x",), checkpoints=Checkpoints(hook=False))
    assert not {"PYTHONPATH", "YOLO_SUPERVISOR_HOOK"} & off.keys()


def test_ultralytics_neither_downloads_nor_installs_unless_allowed():
    """Offline-safe: no network and no pip inside the running training."""
    assert (environment()["YOLO_OFFLINE"], environment()["YOLO_AUTOINSTALL"]) == ("1", "0")
    assert "YOLO_OFFLINE" not in environment(allow_download=True)
    assert environment()["YOLO_CONFIG_DIR"] == "/runs/p/truck/settings"


@pytest.mark.parametrize(("mark", "variable"), [("conda-meta", "CONDA_PREFIX"), ("pyvenv.cfg", "VIRTUAL_ENV")])
def test_the_interpreters_environment_is_active(tmp_path, mark, variable):
    """Its programs come first in PATH, and its activation's variable is set."""
    (tmp_path / mark).mkdir() if mark == "conda-meta" else (tmp_path / mark).touch()
    given = environment({"PATH": "/evil"}, python=str(tmp_path / "bin" / "python"))
    assert given["PATH"].split(":")[0] == str(tmp_path / "bin")
    assert "/evil" not in given["PATH"]
    assert given[variable] == str(tmp_path)
