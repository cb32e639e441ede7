"""One run directory for tests of the ledger: its trainer, its attempts, and the keeper."""

from __future__ import annotations

import os

import msgspec

from supervisor import layout
from supervisor.core.actions import Keep
from supervisor.core.ledger import Ledger
from supervisor.core.model import Job
from supervisor.effects import ledger
from supervisor.effects.keeper import Keeper
from tests.torch_files import checkpoint

TRAIN = Job(name="truck", revision="r", train={"epochs": 10})
NOW = 1_900_000_000.0


class Room:
    """One run directory, its trainer, and the keeper."""

    def __init__(self, tmp_path, job=TRAIN):
        self.runs_dir = tmp_path / "runs"
        self.job = job
        self.dir = layout.run_directory(self.runs_dir, job.project, job.name)
        self.now = NOW
        self.keeper = Keeper(self.runs_dir, lambda: self.now)
        self.last = self.dir.weights / "last.pt"
        self.dir.weights.mkdir(parents=True)
        self.begin(1)

    def begin(self, attempt, run="truck@1"):
        """Let an attempt take over the run directory."""
        self.attempt, self.run = attempt, run
        files = self.dir.attempt(attempt)
        files.root.mkdir(parents=True)
        files.beats.touch()
        keys = {"argv": [], "env": {}, "cwd": "/", "umask": 0, "log_max_bytes": 0}
        files.launch.write_bytes(msgspec.json.encode({"run": run, "attempt": attempt, "token": attempt, **keys}))
        self.dir.token.write_bytes(msgspec.json.encode({"version": 1, "token": attempt}))

    def save(self, data, path=None, after_s=1.0):
        """Let the trainer write a checkpoint in place."""
        path = path or self.last
        self.now += after_s
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate()
            file.write(data)
        os.utime(path, (self.now, self.now))
        return path

    def keep(self, **fields):
        """Carry the order out; the answer."""
        facts = {"key": "k", "run": self.run, "attempt": self.attempt, "token": self.attempt, "job": self.job}
        (kept,) = self.keeper(Keep(**{**facts, **fields}))
        assert kept.origin == "ledger"
        return kept

    def saved(self, *epochs, **more):
        """Save and keep these epochs (from 1), one after the other; the last answer."""
        for epoch in epochs:
            self.save(checkpoint(epoch - 1, **more))
            kept = self.keep()
        return kept

    @property
    def ledger(self):
        """What can be read."""
        return ledger.read(self.dir)

    @property
    def names(self):
        """Every file in good/."""
        return sorted(path.name for path in self.dir.good.iterdir()) if self.dir.good.exists() else []

    @property
    def copies(self):
        """Every file in good/ but the record."""
        return [name for name in self.names if not name.startswith("ledger")]

    def recorded(self):
        """What ledger.json itself says."""
        return msgspec.json.decode((self.dir.good / "ledger.json").read_bytes(), type=Ledger)
