"""The log's size is kept by the shim, without the trainer's help and without the newest lines."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_attempt import Attempt, ended, until

from supervisor import shim

MIB = 1 << 20
LIMIT_BYTES = 4 * MIB
LINES = 50 * MIB // 50
# 50 MB in lines of 50 bytes, 20 MB/s: a training that prints as fast as no training should
WRITER = """
import os, time
for start in range(0, %d, 4000):
    block = b"".join(b"%%09d %%s\\n" %% (number, b"x" * 39) for number in range(start, start + 4000))
    os.write(1, block)
    time.sleep(0.01)
"""


def used_bytes(file: Path) -> int:
    """Return what the file takes on the disk."""
    return file.stat().st_blocks * 512


def line(number: int) -> bytes:
    """Return one line as the writer wrote it."""
    return b"%09d %s\n" % (number, b"x" * 39)


@pytest.mark.e2e
def test_log_stays_below_its_limit(attempt: Attempt) -> None:
    """50 MB of log with a limit of 4 MiB: little disk at all times, head and newest lines whole, offsets unmoved."""
    lines = LINES // 4000 * 4000
    attempt.write_launch([sys.executable, "-c", WRITER % lines], log_max_bytes=LIMIT_BYTES)
    attempt.start()
    log = attempt.dir / "log"
    most = 0
    while not ended(attempt.started.pid, 0.05):
        most = max(most, used_bytes(log))
    assert attempt.finish().code == 0
    print(f"at most {most / MIB:.1f} MiB while it ran, {used_bytes(log) / MIB:.1f} MiB at the end")
    assert most < 4 * LIMIT_BYTES
    assert used_bytes(log) <= LIMIT_BYTES
    assert log.stat().st_size == lines * 50
    text = log.read_bytes()
    assert text[: 64 * 1024] == b"".join(map(line, range(64 * 1024 // 50 + 1)))[: 64 * 1024]
    newest = text[-2 * MIB :].partition(b"\n")[2]
    first = int(newest[:9])
    assert newest == b"".join(map(line, range(first, lines)))


@pytest.mark.e2e
def test_unlimited_log_is_left_whole(attempt: Attempt) -> None:
    """log_max_bytes 0 means no limit: not a byte is given back."""
    attempt.write_launch([sys.executable, "-c", WRITER % 200_000], log_max_bytes=0)
    attempt.start()
    attempt.finish()
    assert (attempt.dir / "log").read_bytes() == b"".join(map(line, range(200_000)))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """Give an open attempt directory."""
    opened = os.open(tmp_path, os.O_RDONLY)
    yield opened
    os.close(opened)


def test_log_within_its_limit_is_not_touched(tmp_path: Path, directory: int) -> None:
    """A log below its limit keeps every byte, and the next look is soon at first and rare later."""
    limit = shim.LogLimit(directory, LIMIT_BYTES)
    (tmp_path / "log").write_bytes(bytes(range(256)) * 1024)
    looks = [limit.keep() for _ in range(10)]
    assert (tmp_path / "log").read_bytes() == bytes(range(256)) * 1024
    assert min(looks) < 1
    assert looks[-1] == 5.0
    os.close(limit.file)


def test_tiny_limit_is_kept(tmp_path: Path, directory: int) -> None:
    """A limit below the kept head still holds: the head gives way, the newest lines stay."""
    limit = shim.LogLimit(directory, 64 * 1024)
    for number in range(100):
        os.write(limit.file, b"".join(map(line, range(number * 400, number * 400 + 400))))
        limit.keep()
        assert used_bytes(tmp_path / "log") <= 64 * 1024
    text = (tmp_path / "log").read_bytes()
    assert text.startswith(line(0))
    assert text.endswith(b"".join(map(line, range(39_500, 40_000))))
    os.close(limit.file)


def test_log_that_somebody_emptied_is_kept_small_again(tmp_path: Path, directory: int) -> None:
    """A log truncated from outside after holes were made is limited as a new one is."""
    limit = shim.LogLimit(directory, 256 * 1024)
    for _ in range(2):
        for number in range(60):
            os.write(limit.file, b"".join(map(line, range(number * 400, number * 400 + 400))))
            limit.keep()
            assert used_bytes(tmp_path / "log") <= 256 * 1024
        os.truncate(tmp_path / "log", 0)
    os.close(limit.file)


def write_and_check_rotation(folder: Path, directory: int) -> None:
    """Write 2 MiB with a limit of 256 KiB through a file system without holes and check both files."""
    limit = shim.LogLimit(directory, 256 * 1024)
    for number in range(100):
        os.write(limit.file, b"".join(map(line, range(number * 400, number * 400 + 400))))
        limit.keep()
        sizes = [file.stat().st_size for file in folder.glob("log*")]
        assert sum(sizes) <= 256 * 1024 + 400 * 50
    newest = (folder / "log.1").read_bytes() + (folder / "log").read_bytes()
    newest = newest.partition(b"\n")[2]
    assert newest == b"".join(map(line, range(int(newest[:9]), 40_000)))
    assert len(newest) > 100 * 1024
    assert not (folder / "log.1.tmp").exists()
    os.close(limit.file)


def test_log_moves_where_no_hole_can_be_made(tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hole punching the newest half moves to log.1, the log begins anew, no new line is lost."""

    def refuse(_file: int, _start: int, _length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "as NFS 3 answers")

    monkeypatch.setattr(shim, "punch_hole", refuse)
    write_and_check_rotation(tmp_path, directory)


@pytest.mark.e2e
def test_log_moves_on_a_real_file_system_without_holes(tmp_path: Path) -> None:
    """The same on ramfs, which neither punches holes nor counts blocks."""
    mount = subprocess.run(["mount", "-t", "ramfs", "ramfs", tmp_path], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("only root may mount")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        write_and_check_rotation(tmp_path, directory)
    finally:
        os.close(directory)
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_log_limit_that_fails_tries_again(tmp_path: Path, directory: int) -> None:
    """Where room cannot be made (here: the copy has no place) nothing is lost, and the next look tries again."""
    limit = shim.LogLimit(directory, 64 * 1024)
    limit._can_punch = False
    (tmp_path / "log.1.tmp").mkdir()
    os.write(limit.file, bytes(100 * 1024))
    assert limit.keep() <= 5.0
    assert (tmp_path / "log").stat().st_size == 100 * 1024
    (tmp_path / "log.1.tmp").rmdir()
    limit.keep()
    assert (tmp_path / "log").stat().st_size == 0
    os.close(limit.file)


@pytest.mark.e2e
def test_trainer_goes_on_writing_at_the_new_end(attempt: Attempt) -> None:
    """After a truncation the trainer's next line lands at the log's new end: it appends."""
    wait = "while not os.path.exists('go'): select.select([], [], [], 0.01)"
    attempt.python(f"import os, select\nos.write(1, b'a' * 9999)\n{wait}\nos.write(1, b'b')")
    until(lambda: (attempt.dir / "log").stat().st_size == 9999, "the first line")
    os.truncate(attempt.dir / "log", 0)
    (attempt.dir / "go").touch()
    attempt.finish()
    assert attempt.log() == "b"
