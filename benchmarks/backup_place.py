"""A run with verified checkpoints, a target, and the transaction that copies one to the other: no daemon, no core."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks import torch_shape
from benchmarks.lab import MeasurementError
from supervisor import layout
from supervisor.backup_config import Backup, Keep
from supervisor.core.actions import BackUp
from supervisor.core.events import BackedUp
from supervisor.core.job import Job
from supervisor.core.ledger import Entry, Ledger
from supervisor.effects import ledger
from supervisor.effects.backup.transaction import BackerUp, Places
from supervisor.effects.private_copy import sha256_of
from tests.sshd_room import sshd

TARGET = "bench"
SERVER = "bench"
SMALL_FILES = 200
SMALL_BYTES = 20_000
EVERYTHING = Keep(keep_epochs="all")


@dataclass(frozen=True)
class _Server:
    name: str = SERVER


@dataclass(frozen=True)
class _Settings:
    backup: tuple[Backup, ...]
    server: _Server = field(default_factory=_Server)


@dataclass(frozen=True)
class Place:
    """One target: `folder` is where it lies on this disk, `rsync` how a bare rsync is told of the same place."""

    settings: Backup
    folder: Path
    rsync: tuple[str, ...]
    address: str


def local_place(folder: Path, keep: Keep = EVERYTHING) -> Place:
    """A folder of this machine."""
    folder.mkdir(parents=True)
    settings = Backup(name=TARGET, to=str(folder), keep=keep)
    return Place(settings, folder, ("rsync",), f"{folder}")


@contextmanager
def ssh_place(folder: Path) -> Iterator[Place]:
    """An account behind an sshd of our own on the loopback; our backups and the bare rsync use the same key."""
    with sshd(folder / "sshd", folder / "there") as room:
        settings = Backup(
            name=TARGET,
            to=room.to("full", "/target"),
            keep=EVERYTHING,
            ssh_key=room.key("full"),
            known_hosts=room.known_hosts,
        )
        shell = f"ssh -p {room.port} -i {room.key('full')} -o UserKnownHostsFile={room.known_hosts} -o BatchMode=yes"
        there = room.root / "target"
        there.mkdir()
        yield Place(settings, there, ("rsync", "-e", shell), f"{room.user}@127.0.0.1:{there}")


class Shop:
    """The runs of one server, and what backs them up."""

    def __init__(self, root: Path, place: Place) -> None:
        """Everything of the server lies below `root`."""
        self.place = place
        self.runs_dir = root / "state" / "runs"
        self.runs_dir.mkdir(parents=True)
        places = Places(self.runs_dir, root / "state", root / "state" / "journal.sqlite3")
        settings = _Settings((place.settings,))
        self.steps: list[tuple[str, float]] = []
        self._backer = BackerUp(lambda: settings, places, time.time, threading.Event(), before_step=self._note)
        self._count = 0

    def _note(self, step: str) -> None:
        self.steps.append((step, time.perf_counter()))

    def back_up(self, job: Job, run: str = "", token: int = 1) -> BackedUp:
        """One whole transaction. MeasurementError where it failed."""
        self._count += 1
        self.steps.clear()
        order = BackUp(
            key=f"{run or job.name}/backup-{self._count}",
            run=run or f"{job.name}@1",
            target=TARGET,
            job=job,
            token=token,
        )
        (answer,) = self._backer(order)
        self._note("end")
        if not isinstance(answer, BackedUp):
            raise MeasurementError(f"the backup failed: {answer.cause}: {answer.text}")
        return answer

    def seconds_of_steps(self) -> dict[str, float]:
        """How long each step of the last transaction took."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        return {name: round(after - began, 4) for (name, began), (_, after) in pairs}


def make_run(shop: Shop, name: str, *, copies: int, copy_bytes: int) -> tuple[Job, Path]:
    """A run that has saved: its ledger has so many copies, and beside them lie tables, logs and plots."""
    job = Job(name=name, revision="r", project="bench", train={"epochs": 1000})
    run_dir = layout.run_directory(shop.runs_dir, job.project, job.name)
    make_small_files(run_dir.root / "train" / "plots", SMALL_FILES)
    run_dir.token.write_bytes(msgspec.json.encode({"version": 1, "token": 1}))
    run_dir.mark.write_text(name)
    run_dir.good.mkdir()
    first = run_dir.good / "epoch1-attempt1.pt"
    torch_shape.write(first, copy_bytes)
    sha256, entries = sha256_of(first), []
    for epoch in range(1, copies + 1):
        path = run_dir.good / f"epoch{epoch}-attempt1.pt"
        if epoch > 1:
            subprocess.run(["cp", str(first), str(path)], check=True)
        entries.append(_entry(path, epoch, f"{name}@1", sha256))
    ledger.write(run_dir, Ledger(entries=tuple(entries)))
    return job, run_dir.root


def _entry(path: Path, epoch: int, run: str, sha256: str) -> Entry:
    status = path.stat()
    return Entry(
        file=path.name,
        epoch=epoch,
        run=run,
        attempt=1,
        epochs=1000,
        sha256=sha256,
        size_bytes=status.st_size,
        source_bytes=status.st_size,
        source_mtime_ns=status.st_mtime_ns,
    )


def make_small_files(folder: Path, count: int, size_bytes: int = SMALL_BYTES) -> None:
    """Files of about that size, a thousand in each folder."""
    block = os.urandom(size_bytes)
    for number in range(count):
        below = folder / f"{number // 1000}"
        if number % 1000 == 0:
            below.mkdir(parents=True)
        (below / f"picture-{number}.jpg").write_bytes(block[: size_bytes - number % 1000])
