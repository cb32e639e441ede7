"""A folder of run directories, the world that they belong to, and a pruner."""

from __future__ import annotations

import hashlib
import json
import os
import stat

import msgspec
from msgspec.structs import replace

from supervisor import layout
from supervisor.core.actions import Prune
from supervisor.core.backups.model import Backed, Target
from supervisor.core.job import Job
from supervisor.core.ledger import Entry, Ledger
from supervisor.core.model import Attempt, Phase, Progress, Run, World
from supervisor.effects.prune.carry_out import Pruner
from supervisor.effects.prune.showing import Showing
from supervisor.prune_config import Prune as Settings

NOW = 1_900_000_000.0
DAY = 86400.0


def snapshot(folder):
    """Everything below a folder: what it is, what it holds, and where links lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = (
            b"" if stat.S_ISDIR(status.st_mode) else str(path.readlink()) if path.is_symlink() else path.read_bytes()
        )
        found[str(path.relative_to(folder))] = (stat.S_IFMT(status.st_mode), content)
    return found


class Room:
    """Runs on a disk. Times are in days before now; epochs count from 1."""

    def __init__(self, tmp_path, runs_dir=None, **settings):
        self.tmp_path = tmp_path
        self.runs_dir = runs_dir or tmp_path / "runs"
        self.runs_dir.mkdir(parents=True, exist_ok=True)
        self.outside = tmp_path / "outside"
        self.outside.mkdir(parents=True, exist_ok=True)
        (self.outside / "canary").write_text("sings", encoding="utf-8")
        self.world, self.now, self.number = World(), NOW, 0
        self.settings = Settings(**{"keep_tag": ("gold",), **settings})
        self.pruner = Pruner(lambda: self.settings, self.runs_dir, lambda: self.world, lambda: self.now)
        self.showing = Showing(self.pruner)

    @property
    def trash(self):
        """Where it lies."""
        return self.runs_dir / ".trash"

    def dir(self, name, project="p"):
        """The folder of a run."""
        return layout.run_directory(self.runs_dir, project, name)

    def run(self, name, phase="SUCCEEDED", *, ended_days=10.0, run_id="", attempts=1, map50_95=None, **fields):
        """A run in the world; its fence token is that of the directory, if there is one."""
        self.number += 1
        job = fields.pop("job", None) or Job(
            name=name, revision="r", project="p", train={"epochs": 10}, tags=fields.pop("tags", ())
        )
        one = Run(
            id=run_id or f"{name}@1",
            job=job,
            phase=Phase(phase),
            created_at=NOW - 100 * DAY + self.number,
            phase_since=NOW - ended_days * DAY,
            attempts=attempts,
            attempt=Attempt(number=attempts, token=self.number) if attempts else None,
            progress=Progress(metrics={} if map50_95 is None else {"metrics/mAP50-95(B)": map50_95}),
            **fields,
        )
        self.world = self.world.with_run(one)
        self.world = replace(self.world, latest={**self.world.latest, name: one.id})
        return one

    def disk(self, one, *, copies=(9,), epochs=(), size=1000):
        """The directory of a run, as a training leaves it; the ledger has verified copies of these epochs."""
        files = self.dir(one.name, one.job.project)
        files.weights.mkdir(parents=True)
        (files.root / "attempts" / "1").mkdir(parents=True)
        (files.root / "attempts" / "1" / "shim.lock").touch()
        (files.root / "attempts" / "1" / "log").write_text("epoch 1\n", encoding="utf-8")
        self.mark(one)
        (files.results).write_text("epoch\n1\n", encoding="utf-8")
        for name in ("last.pt", "best.pt"):
            (files.weights / name).write_bytes(name.encode() * size)
        for number in epochs:
            path = files.weights / f"epoch{number}.pt"
            path.write_bytes(b"%d" % number * size)
            os.utime(path, (NOW - 20 * DAY + number, NOW - 20 * DAY + number))
        self.ledger(one, copies, size)
        return files

    def mark(self, one, token=None):
        """The fence token."""
        number = token or (one.attempt.token if one.attempt else 0)
        marker = {"version": 1, "token": number, "run": one.id, "attempt": 1, "host": "h", "boot_id": "b"}
        self.dir(one.name, one.job.project).token.write_text(json.dumps(marker), encoding="utf-8")

    def ledger(self, one, copies, size=1000):
        """The ledger's copies and their record; each is of a file that was written a day ago."""
        good = self.dir(one.name, one.job.project).good
        good.mkdir(exist_ok=True)
        entries = []
        for epoch in copies:
            data = b"copy%d" % epoch * size
            (good / f"epoch{epoch}-attempt1.pt").write_bytes(data)
            entries.append(
                Entry(
                    file=f"epoch{epoch}-attempt1.pt",
                    epoch=epoch,
                    run=one.id,
                    attempt=1,
                    size_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    source_mtime_ns=int((NOW - DAY) * 1e9),
                )
            )
        (good / "ledger.json").write_bytes(msgspec.json.encode(Ledger(entries=tuple(entries))))

    def both(self, name, phase="SUCCEEDED", *, copies=(9,), epochs=(), **fields):
        """A run in the world and on the disk."""
        one = self.run(name, phase, **fields)
        self.disk(one, copies=copies, epochs=epochs)
        return one

    def target(self, name="nas"):
        """A backup target."""
        self.world = replace(self.world, targets={**self.world.targets, name: Target(name=name)})

    def back_up(self, one, *, epoch=9, ended=True, target="nas"):
        """The run lies there."""
        one = self.world.run(one.id)
        backed = Backed(snapshot="snap-000009-20261122T183000Z-00000000", epoch=epoch, kept_epoch=epoch, ended=ended)
        self.put(replace(one, backups={**one.backups, target: backed}))

    def put(self, one):
        """Let a run stand like this in the world."""
        self.world = self.world.with_run(one)

    def prune(self, *, at_once=False, key="server/prune-1", by=""):
        """Carry the policy out; the answer."""
        (event,) = self.pruner(Prune(key=key, at_once=at_once, by=by))
        return event

    def rows(self, action=None):
        """The rows of the plan, by path relative to the folder of the runs."""
        found = {}
        for row in self.showing.plan()["rows"]:
            if action in {None, row["action"]}:
                found[os.path.relpath(row["path"], self.runs_dir)] = row
        return found
