"""A trainer rewrites last.pt in place while it is backed up: nothing torn is ever accepted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.core.backups.events import BackedUp
from supervisor.effects import checkpoints
from supervisor.effects.backup.fetched import place
from supervisor.errors import RetryableError
from tests.backup_room import BackupRoom

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("hot_writer.py")
SAVES = 200
SIZE_BYTES = 2_000_000
PAUSE_S = 0.008  # between the eight pieces of a save
LEAST_TORN = 10


class Writer:
    """The program, while it runs."""

    def __init__(self, path):
        command = [sys.executable, str(PROGRAM), str(path), str(SAVES), str(SIZE_BYTES), str(PAUSE_S)]
        self.child = subprocess.Popen(
            command, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE, text=True
        )
        self.saved = threading.Event()
        self.count = 0
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        for _ in self.child.stdout:
            self.count += 1
            self.saved.set()

    def each_save(self):
        """Come back after each save (or some) until the last one."""
        while self.child.poll() is None:
            if self.saved.wait(0.5):
                self.saved.clear()
                yield

    def end(self):
        """Wait for its last save."""
        self.child.wait()
        self.thread.join()
        self.child.stdout.close()
        assert (self.child.returncode, self.count) == (0, SAVES)


def torn(files):
    """Those that are not whole."""
    return [one.path for one in checkpoints.look(files) if one.state != "resumable"]


def rsyncs(source, folder, going):
    """Copy the same file with plain rsync, again and again; the copies of which it said that all is well."""
    taken = []
    while going.is_set():
        target = folder / f"{len(taken)}.pt"
        done = subprocess.run(["rsync", "-a", "--", str(source), str(target)], check=False, capture_output=True)
        if done.returncode == 0 and target.exists():
            taken.append(target)
        time.sleep(0.05)
    return taken


def accepted(room):
    """The checkpoints of all snapshots on the target."""
    found = set()
    for manifest in room.manifests():
        found |= {room.target.root / place(room.folder, manifest.stored(one.path)) for one in manifest.checkpoints}
    return sorted(found)


def test_torn_saves_are_never_accepted_into_a_backup(tmp_path):
    """200 saves by a hot writer while the keeper and the backup run: every checkpoint on the target is whole.

    Meanwhile plain rsync copies the same file, and says that all is well of many that are torn: so this can fail.
    """
    if shutil.which("rsync") is None and os.environ.get("CI"):
        pytest.fail("rsync is not installed")
    room = BackupRoom(tmp_path, snapshots=1000)
    room.last.unlink()
    (tmp_path / "copies").mkdir()
    going = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        if shutil.which("rsync") is not None:
            going.set()
        copies = pool.submit(rsyncs, room.last, tmp_path / "copies", going)
        try:
            changing = keep_and_back_up(room, Writer(room.last))
        finally:
            going.clear()
    room.keep()
    assert room.back_up().epoch == SAVES
    files = accepted(room)
    print(f"{len(files)} checkpoints accepted, {changing} times it was being written")
    assert (torn(files), room.wrong()) == ([], [])
    assert len(files) > 10, "the keeper never found a quiet moment"
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed: there is nothing to compare with")
    bad = torn(copies.result())
    print(f"rsync: {len(copies.result())} times exit code 0, {len(bad)} of those files are torn")
    assert len(bad) >= LEAST_TORN


def keep_and_back_up(room, writer):
    """After each save, as the daemon does; how often the file was just being written."""
    changing = 0
    for _ in writer.each_save():
        try:
            room.keep()
        except RetryableError:
            changing += 1
        assert isinstance(room.back_up(), BackedUp)
    writer.end()
    return changing
