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
from supervisor.core.backups.manifest import Checkpoint, Manifest, Stored
from supervisor.core.backups.model import Backed, Target
from supervisor.core.job import Job
from supervisor.core.ledger import Entry, Ledger
from supervisor.core.model import Attempt, Phase, Progress, Run, World
from supervisor.effects.backup.remembered import remember
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
        self.state_dir = tmp_path / "state"
        self.pruner = self.make_pruner()
        self.showing = Showing(self.pruner)

    def make_pruner(self, **more):
        """One in this world."""
        return Pruner(
            lambda: self.settings,
            self.runs_dir,
            lambda: self.world,
            lambda: self.now,
            state_dir=self.state_dir,
            **more,
        )

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
        self.world = replace(self.world, targets={**self.world.targets, name: Target(name=name, confirmed=True)})

    def back_up(self, one, *, epoch=9, ended=True, target="nas", without=(), left_out=(), remembered=True):
        """The run lies there: its ledger's copies and its final weights as they are here, but not what is `without`."""
        one, self.number = self.world.run(one.id), self.number + 1
        snapshot = f"snap-000009-20261122T183000Z-{self.number:08x}"
        backed = Backed(snapshot=snapshot, epoch=epoch, kept_epoch=epoch, ended=ended)
        self.put(replace(one, backups={**one.backups, target: backed}))
        files = tuple(self._stored(one, snapshot, without))
        manifest = Manifest(
            server="gpu1",
            snapshot=snapshot,
            created_at=NOW,
            run=one.id,
            project=one.job.project,
            name=one.name,
            files=files,
            checkpoints=(Checkpoint(path=f"good/epoch{epoch}-attempt1.pt", epoch=epoch, attempt=1),) if epoch else (),
            ended=ended,
            left_out=left_out,
        )
        if remembered:
            remember(self.state_dir, target, manifest)

    def _stored(self, one, snapshot, without):
        root = self.dir(one.name, one.job.project).root
        paths = sorted(root.glob("good/*.pt")) + [root / f"train/weights/{name}.pt" for name in ("best", "last")]
        for path in paths:
            name = str(path.relative_to(root))
            if path.exists() and name not in without:
                data, sha256 = path.read_bytes(), hashlib.sha256(path.read_bytes()).hexdigest()
                mtime_ns = path.stat().st_mtime_ns
                yield Stored(path=name, bytes=len(data), sha256=sha256, mtime_ns=mtime_ns, at=snapshot)

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
