"""A journal with finished runs in it: every row comes out of the daemon's own `step` and `Journal.commit`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from supervisor import __version__
from supervisor.clock import current_boot
from supervisor.core import actions, events
from supervisor.core.model import Job, Policy, World
from supervisor.core.step import step
from supervisor.journal import Entry, Journal
from supervisor.loop import BATCH

EPOCHS = 20
EPOCH_S = 60.0
RUN_EVERY_S = 3600.0
DATA = b"python = '/env/bin/python'\n[train]\nmodel = '/data/yolo11n.yaml'\ndata = '/data/data.yaml'\nepochs = 20\n"
TRAIN = {"model": "/data/yolo11n.yaml", "data": "/data/data.yaml", "epochs": EPOCHS, "imgsz": 640, "batch": 16}
LOSSES = {"train/box_loss": 1.2345, "train/cls_loss": 0.8765, "train/dfl_loss": 1.0123}
METRICS = {"metrics/precision(B)": 0.81, "metrics/recall(B)": 0.76, "metrics/mAP50-95(B)": 0.54}


def write_past(path: Path, folder: Path, runs: int) -> int:
    """Fill a new journal with `runs` finished trainings whose job files lay in `folder`; how many events it holds."""
    journal = Journal.open(path)
    try:
        past = Past(journal, runs)
        for number in range(runs):
            past.train(f"finished-{number:04d}", folder)
        past.flush()
    finally:
        journal.close()
    return past.events


class Past:
    """Runs that ended before the daemon starts, one every hour."""

    def __init__(self, journal: Journal, runs: int) -> None:
        """Begin as many hours ago as there are runs."""
        self.events = 0
        self._journal = journal
        self._world = World()
        self._now = time.time() - runs * RUN_EVERY_S
        self._unwritten: list[Entry] = []
        self._ordered: list[actions.Action] = []
        self._boot = current_boot()
        self._happen(events.Configured, policy=Policy(max_running=8, server="bench"))
        self._happen(events.DaemonStarted, pid=1, version=__version__, boot=self._boot)

    def train(self, name: str, folder: Path) -> None:
        """Let one run pass from its job file to its success, with one progress entry per epoch."""
        ends_at = self._now + RUN_EVERY_S
        path = str(folder / f"{name}.toml")
        data = DATA + f"# {name}\n".encode()
        revision = hashlib.sha256(data).hexdigest()
        about = {"run": f"{name}@1", "attempt": 1}
        self._happen(events.JobFileSeen, path=path, data=data, revision=revision, owner=1000)
        self._carry_out()
        self._happen(events.StartConfirmed, from_epoch=0, save_dir=f"/runs/bench/{name}/train", **about)
        for epoch in range(1, EPOCHS + 1):
            self._now += EPOCH_S
            self._happen(events.Progressed, **about, **_progress(epoch))
        self._happen(events.AttemptExited, code=0, ended_at=self._now, **about)
        self._happen(events.AttemptCleared, **about)
        self._carry_out()
        self._happen(events.JobFileGone, path=path)
        self._now = ends_at

    def flush(self) -> None:
        """Write what is decided."""
        if self._unwritten:
            self._journal.commit(self._unwritten)
            self._unwritten = []

    def _happen(self, kind: Callable[..., events.Event], **facts: Any) -> None:
        event = kind(at=self._now, origin="past", **facts)
        after, ordered = step(self._world, event, self._now)
        self._unwritten.append(Entry(event, self._now, self._world, after, ordered))
        self._world = after
        self._ordered += ordered
        self.events += 1
        if len(self._unwritten) >= BATCH:
            self.flush()

    def _carry_out(self) -> None:
        """Answer what `step` ordered, and what it orders thereupon, as the daemon's hands would."""
        while self._ordered:
            action = self._ordered.pop(0)
            kind, facts = self._answer(action)
            self._now += 0.01
            self._happen(kind, answers=action.key, **facts)

    def _answer(self, action: actions.Action) -> tuple[Callable[..., events.Event], dict[str, Any]]:
        match action:
            case actions.CheckJob():
                return events.JobAccepted, {"path": action.path, "job": _job(action)}
            case actions.Prepare():
                return events.Prepared, {"run": action.run, "attempt": action.attempt, "start": "fresh"}
            case actions.Launch():
                process = {"pid": 1000, "shim_pid": 999, "boot": self._boot, "started_at": self._now}
                return events.Launched, {"run": action.run, "attempt": action.attempt, **process}
            case actions.Examine():
                proof = "the trainer said that it finished, and last.pt is in its final form"
                found = {"finished": True, "proof": proof, "saved_epoch": EPOCHS, "epochs": EPOCHS, "metrics": METRICS}
                return events.Examined, {"run": action.run, "attempt": action.attempt, **found}
            case actions.MarkFile():
                return events.FileMarked, {"path": action.path}
        raise AssertionError(f"a training without trouble orders no {type(action).__name__}")


def _job(order: actions.CheckJob) -> Job:
    job = Job(name=Path(order.path).stem, revision=order.revision, project="bench", owner=order.owner, file=order.path)
    return replace(job, python="/env/bin/python", train=TRAIN, trainer_version="8.4.190")


def _progress(epoch: int) -> dict[str, Any]:
    place = {"epoch": epoch, "epochs": EPOCHS, "saved_epoch": epoch}
    return {**place, "losses": LOSSES, "metrics": METRICS, "epoch_s": EPOCH_S, "eta_s": EPOCH_S * (EPOCHS - epoch)}
