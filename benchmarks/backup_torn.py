"""How many torn checkpoints a bare rsync takes for good beside a trainer that saves all the time, and how many ours."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from pathlib import Path

import msgspec

from benchmarks.backup_place import Shop, local_place
from benchmarks.figures import Figure
from benchmarks.hot_writer import hot_writer
from benchmarks.lab import MeasurementError
from supervisor import layout
from supervisor.backup_config import Keep as Policy
from supervisor.core import actions
from supervisor.core.backups.manifest import MANIFEST, Manifest, run_folder
from supervisor.core.events import Kept
from supervisor.core.job import Job
from supervisor.effects.keeper import Keeper
from supervisor.effects.private_copy import sha256_of
from supervisor.errors import RetryableError
from supervisor.runner.checkpoint import inspect

SIZE_BYTES = 24_000_000
LEAST_TORN = 10  # by the bare rsync: otherwise the writer was not hot, and no torn file of ours would say nothing
BARE = "torn files that a bare rsync took for good"
OURS = "torn files that our backup took for good"
MUST_HOLD = (BARE, OURS)
WHOLE = "resumable"


def measure(folder: Path, saves: int) -> list[Figure]:
    """Copy the same file both ways, in turns, while it is being rewritten in place."""
    room = _Room(folder)
    with hot_writer(room.last, SIZE_BYTES):
        for number in range(saves):
            room.bare(number)
            room.ours(number)
    return room.figures(saves)


class _Room:
    """A run whose only checkpoint is never left alone, and what became of each copy of it."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop(folder, local_place(folder / "target", Policy(keep_last=1, keep_best=0)))
        self.job = Job(name="hot", revision="r", project="bench", train={"epochs": 1_000_000})
        self.dir = layout.run_directory(self.shop.runs_dir, self.job.project, self.job.name)
        self.dir.weights.mkdir(parents=True)
        self.last = self.dir.weights / "last.pt"
        self.copy = folder / "copy.pt"
        self.by_rsync: Counter[str] = Counter()
        self.by_us: Counter[str] = Counter()
        self.keeper = Keeper(self.shop.runs_dir, time.time)
        self._begin()

    def _begin(self) -> None:
        attempt = self.dir.attempt(1)
        attempt.root.mkdir(parents=True)
        attempt.beats.touch()  # the trainer tells its saves, so that no quiet time is waited for: the harder case
        self.dir.token.write_text(json.dumps({"version": 1, "token": 1}))

    def bare(self, number: int) -> None:
        """Have rsync copy it, and look at what it calls a success."""
        self.copy.unlink(missing_ok=True)
        done = subprocess.run(["rsync", "-a", str(self.last), str(self.copy)], capture_output=True, check=False)
        state = inspect(str(self.copy))["state"]
        outcome = "refused" if done.returncode else "whole" if state == WHOLE else "torn"
        self.by_rsync[outcome] += 1
        if outcome == "refused" and done.returncode not in {23, 24}:
            raise MeasurementError(f"rsync {number}: {done.stderr.decode(errors='replace')}")

    def ours(self, number: int) -> None:
        """Keep it as the daemon does, back the run up, and look at what lies on the target then."""
        order = actions.Keep(key=f"hot@1/keep-{number}", run="hot@1", attempt=1, token=1, job=self.job)
        try:
            (kept,) = self.keeper(order)
        except RetryableError:
            self.by_us["refused: written meanwhile"] += 1
            return
        if not isinstance(kept, Kept):
            raise MeasurementError(f"no answer to the order: {kept}")
        if not kept.file:
            self.by_us[f"refused: {kept.fault or kept.reason}"] += 1
            return
        done = self.shop.back_up(self.job, "hot@1")
        if done.unchanged:
            self.by_us["known already"] += 1
            return
        self.by_us["whole" if self._is_whole(done.snapshot) else "torn"] += 1

    def _is_whole(self, snapshot: str) -> bool:
        """Whether all checkpoints of a snapshot are, by their bytes on the target."""
        folder = self.shop.place.folder / "bench" / run_folder(self.job.project, self.job.name)
        manifest = msgspec.json.decode((folder / snapshot / MANIFEST).read_bytes(), type=Manifest)
        if not manifest.checkpoints:
            raise MeasurementError(f"{snapshot} has no checkpoint")
        for one in manifest.checkpoints:
            stored = manifest.stored(one.path)
            path = folder / (stored.at if stored is not None else "") / one.path
            if stored is None or sha256_of(path) != stored.sha256 or inspect(str(path))["state"] != WHOLE:
                return False
        return True

    def figures(self, saves: int) -> list[Figure]:
        """Both counts. Nothing accepted would be no proof either."""
        if not self.by_us["whole"] + self.by_us["torn"]:
            raise MeasurementError(f"not one copy was accepted: {dict(self.by_us)}")
        what = f"of {saves} copies of a {SIZE_BYTES / 1e6:.0f} MB checkpoint that is rewritten in place all the time"
        bare, ours = dict(self.by_rsync), dict(self.by_us)
        return [
            Figure(
                BARE,
                self.by_rsync["torn"],
                "files",
                LEAST_TORN,
                f"{what}, with exit code 0: {bare}; fewer would mean that the writer was not hot",
                at_most=False,
                details=bare,
            ),
            Figure(OURS, self.by_us["torn"], "files", 0, f"{what}, by the bytes on the target: {ours}", details=ours),
        ]
