"""A machine for checks of job files: an interpreter that says what it is told, folders, and a clock."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from supervisor.config import Channel, Config, Jobs, Server
from supervisor.core.actions import CheckJob
from supervisor.core.events import JobAccepted, JobRefused
from supervisor.effects.check import JobChecker
from supervisor.effects.gpu_stock import numbered

DESCRIPTION = {
    "version": 1,
    "python": "3.11.7",
    "ultralytics": "8.4.190",
    "train_args": {
        "model": {"types": ["null", "str"], "default": None},
        "data": {"types": ["null", "str"], "default": None},
        "epochs": {"types": ["int"], "default": 100},
        "batch": {"types": ["float", "int"], "default": 16},
        "lr0": {"types": ["float", "int"], "default": 0.01},
        "amp": {"types": ["bool", "str"], "default": True},
        "freeze": {"types": ["int", "list", "null"], "default": None},
        "cos_lr": {"types": ["bool"], "default": False},
        "optimizer": {"types": ["str"], "default": "auto"},
        "pretrained": {"types": ["bool", "str"], "default": True},
        "odd": {"types": [], "default": None},
    },
    "model_cfgs": ["yolo11.yaml", "yolo11-seg.yaml"],
    "dataset_cfgs": ["coco8.yaml", "VOC.yaml"],
    "amp_check_weights": "yolo26n.pt",
    "missing": [],
    "missing_reasons": {},
    "cuda": None,
}


class Clock:
    """A clock that stands still."""

    def __init__(self):
        self.at = 1000.0

    def now(self):
        """See Clock.now."""
        return self.at


class Machine:
    """A folder with all that a check looks at: an interpreter that prints what it is told, weights, data."""

    def __init__(self, root: Path):
        self.root = root
        self.python = root / "env/bin/python"
        self.site = root / "env/lib/site-packages"
        self.asked = root / "asked"
        self.clock = Clock()
        for folder in (
            "env/bin",
            "env/lib/site-packages",
            "weights",
            "datasets",
            "home",
            "cwd",
            "ultralytics/cfg/datasets",
        ):
            (root / folder).mkdir(parents=True)
        (root / "data.yaml").write_text("path: .\n")
        self.describe_as(DESCRIPTION)

    def describe_as(self, description, code=0, before=""):
        """Let the interpreter print this; each time that it is asked leaves a line."""
        folders = {
            "site_packages": [str(self.site)],
            "weights_dir": str(self.root / "weights"),
            "datasets_dir": str(self.root / "datasets"),
            "ultralytics_path": str(self.root / "ultralytics"),
        }
        text = description if isinstance(description, str) else json.dumps({**folders, **description})
        self.python.write_text(
            f"#!/bin/sh\necho \"$1\" >> '{self.asked}'\n{before}\ncat <<'EOF'\n{text}\nEOF\nexit {code}\n"
        )
        self.python.chmod(0o755)

    def checker(self, gpu_count=2, euid=1000, **options):
        """A checker on this machine, which has so many GPUs; or those of a function `gpus`."""
        gpus = options.pop("gpus", lambda: numbered(gpu_count))
        jobs = Jobs(
            folder=self.root / "jobs",
            allow_root=options.pop("allow_root", False),
            allow_download=options.pop("allow_download", False),
        )
        channel = (Channel(name="ops", kind="slack", url="https://x"),)
        config = Config(server=Server(state_dir=self.root / "state"), jobs=jobs, channel=channel, **options)
        environ = {"HOME": str(self.root / "home"), "LD_LIBRARY_PATH": "/cuda"}
        return JobChecker(
            config,
            config.server.runs_dir,
            self.root / "state/interpreters.json",
            self.clock,
            gpus=gpus,
            euid=euid,
            environ=environ,
        )

    def times_asked(self):
        """How often the interpreter was started."""
        return len(self.asked.read_text().splitlines()) if self.asked.exists() else 0

    def text(self, train="", head=""):
        """A job file; `train` replaces the usual [train]."""
        train = train or f'model = "yolo11s.yaml"\ndata = "{self.root}/data.yaml"\nepochs = 3\n'
        python = "" if "conda" in head or "python" in head else f'python = "{self.python}"\n'
        return f"{head}\n{python}[train]\n{train}\n"


def action(text, path="/jobs/truck.toml", note=""):
    """The action that asks for a check."""
    data = text.encode()
    return CheckJob(
        key="check-1", path=path, data=data, revision=hashlib.sha256(data).hexdigest(), owner=os.getuid(), note=note
    )


def accepted(checker, text):
    """The job of an accepted file."""
    (event,) = checker(action(text))
    assert isinstance(event, JobAccepted), event
    return event.job


def refused(checker, text):
    """The reasons of a refused file."""
    (event,) = checker(action(text))
    assert isinstance(event, JobRefused), event
    assert event.path == "/jobs/truck.toml"
    return event.problem
