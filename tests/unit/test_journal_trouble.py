"""A journal that cannot be written says so, writes nothing by halves, and works again when it can."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest
from journal_bench import Writer, journal, path, reader, writer

from supervisor.core import events
from supervisor.journal import RESERVE_BYTES, Journal, make_reserve

__all__ = ["journal", "path", "writer"]  # fixtures
TMPFS_BYTES = 1024 * 1024


# ---- what cannot be written
def test_a_failed_commit_writes_nothing(writer, path):
    """One bad entry among many: the transaction is rolled back, the error is told, and the next commit works."""
    good = events.JobFileSeen(at=1.0, path="/good", data=b"x", revision="r", owner=0)
    bad = events.JobFileSeen(at=1.0, path="/\udcff", data=b"x", revision="r", owner=0)
    before = writer.world
    entries = [writer.entry(good), writer.entry(bad)]
    with pytest.raises(UnicodeEncodeError):
        writer.journal.commit(entries)
    with reader(path) as other:
        assert other.load() == before
    writer.world = before
    writer.tell(good)
    with reader(path) as other:
        assert other.load() == writer.world


def test_a_locked_journal_is_an_error_of_sqlite(writer, path):
    """Another process holds the write lock: sqlite3.Error, nothing is written, and later it works again."""
    other = sqlite3.connect(path, isolation_level=None)
    writer.journal._connection.execute("PRAGMA busy_timeout = 10")
    other.execute("BEGIN IMMEDIATE")
    before = writer.world
    event = events.JobFileSeen(at=1.0, path="/x", data=b"x", revision="r", owner=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        writer.tell(event)
    other.execute("ROLLBACK")
    other.close()
    writer.world = before
    writer.tell(event)
    assert writer.journal.load() == writer.world


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MiB. Only root can mount one; without root the test is skipped, but not in CI."""
    target = tmp_path / "disk"
    target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(target)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"NOT TESTED: a full disk needs the right to mount a tmpfs ({done.stderr.strip()})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield target
    subprocess.run(["umount", "-l", str(target)], check=True)


@pytest.mark.e2e
@pytest.mark.xdist_group("mounts")
def test_a_full_disk_is_an_error_of_sqlite_and_heals(small_disk):
    """SQLITE_FULL: the commit fails whole, reading goes on, and after room was made writing works again."""
    path = small_disk / "journal.sqlite"
    with contextlib.closing(Journal.open(path)) as journal:
        writer = Writer(journal)
        writer.submit()
        ballast = small_disk / "ballast"
        fill(ballast)
        before = writer.world
        with pytest.raises(sqlite3.OperationalError, match=r"full|disk I/O"):  # noqa: PT012 - until it is full
            for number in itertools.count():
                before = writer.world
                data = os.urandom(4000)
                writer.tell(events.JobFileSeen(at=1.0, path="/x", data=data, revision=f"r{number}", owner=0))
        assert journal.load() == before
        assert journal.recent() != []
        ballast.unlink()
        writer.world = before
        writer.tell(events.JobFileSeen(at=1.0, path="/after", data=b"x", revision="r", owner=0))
        assert journal.load() == writer.world
    with contextlib.closing(Journal.open(path)) as again:
        assert again.load() == writer.world


@pytest.mark.e2e
@pytest.mark.xdist_group("mounts")
def test_a_read_only_disk_is_an_error_of_sqlite_and_heals(small_disk):
    """The file system turns read-only under the open journal: commits fail, readers work, and it goes on afterwards."""
    path = small_disk / "journal.sqlite"
    with contextlib.closing(Journal.open(path)) as journal:
        writer = Writer(journal)
        writer.submit()
        before = writer.world
        event = events.JobFileSeen(at=1.0, path="/x", data=b"x", revision="r", owner=0)
        journal._connection.close()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(sqlite3.Error):
            Journal.open(path).commit([writer.entry(event)])
        with reader(path) as other:
            assert other.load() == before
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with contextlib.closing(Journal.open(path)) as again:
        writer = Writer(again)
        writer.tell(event)
        assert again.load() == writer.world


def fill(path):
    """Take all the room that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


# ---- the reserve
def test_the_reserve_takes_its_room(tmp_path):
    """8 MiB that are really taken, made once, made anew when it was given up."""
    reserve = tmp_path / "journal.reserve"
    make_reserve(reserve)
    assert reserve.stat().st_size == RESERVE_BYTES
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    made = reserve.stat().st_mtime_ns
    make_reserve(reserve)
    assert reserve.stat().st_mtime_ns == made
    reserve.unlink()
    make_reserve(reserve)
    assert reserve.stat().st_size == RESERVE_BYTES


@pytest.mark.e2e
@pytest.mark.xdist_group("mounts")
def test_no_room_for_the_reserve_takes_none(small_disk):
    """On a full disk the reserve is refused and does not take the last bytes away from the journal."""
    reserve = small_disk / "journal.reserve"
    with pytest.raises(OSError, match="No space left"):
        make_reserve(reserve)
    assert not reserve.exists() or reserve.stat().st_blocks * 512 < 4096


def test_a_folder_that_cannot_be_written_is_read_as_it_is(writer, path):
    """`ls` by a person who may not write there: the main file is read, and the error of a write is told."""
    writer.submit()
    writer.journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    path.parent.chmod(0o555)
    try:
        with reader(path) as other:
            assert other.load() == writer.world
    finally:
        path.parent.chmod(0o755)


def test_a_path_is_a_path():
    """Reading by URI must not take a part of the name for an option."""
    with pytest.raises(FileNotFoundError):
        Journal.open(Path("/nowhere/journal.sqlite?mode=rwc"), read_only=True)
