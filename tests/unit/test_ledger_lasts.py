"""The ledger through retention, rewinds, damage and full disks: the newest good copy is never lost."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
from pathlib import Path

import pytest
from ledger_room import NOW, TRAIN, Room
from msgspec.structs import replace

from supervisor import layout
from supervisor.core.job import Checkpoints
from supervisor.core.ledger import Ledger, Line, usable
from supervisor.effects import ledger
from tests.torch_files import ZEROS, checkpoint


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


# ---- retention
def test_the_policy_lets_old_copies_go(room):
    """The newest three and the best stay; files that are not ours are never touched."""
    room.dir.good.mkdir()
    (room.dir.good / "notes.txt").write_text("mine")
    (room.dir.good / "epoch1-attempt1.pt.bak").write_text("mine")
    for epoch in range(1, 8):
        room.save(checkpoint(epoch - 1, map50_95=0.9 if epoch == 2 else 0.1))
        room.keep()
    assert [entry.epoch for entry in room.recorded().entries] == [2, 5, 6, 7]
    assert room.copies == [
        "epoch1-attempt1.pt.bak",
        *(f"epoch{epoch}-attempt1.pt" for epoch in (2, 5, 6, 7)),
        "notes.txt",
    ]


def test_what_was_just_entered_stays_until_the_next(room):
    """An older epoch that a rewind replaces is entered although the policy would not keep it."""
    room.job = replace(TRAIN, checkpoints=Checkpoints(keep_last=1, keep_best=0))
    room.saved(5)
    other = room.save(checkpoint(1), room.dir.weights / "epoch1.pt")
    entry = ledger.enter(room.dir, other, "truck@1", 1, room.job, NOW)
    assert entry is not None
    assert ledger.path_of(room.dir, entry).exists()
    room.saved(6)
    assert room.copies == ["epoch6-attempt1.pt"]


# ---- lines
def test_a_line_is_opened_once(room):
    """Repeated after a crash it is the same line; later copies lie on it, an older run's on the older one."""
    room.saved(4)
    line = Line(number=2, parent=1, from_epoch=4, run="truck@2", reason="rewind")
    ledger.open_line(room.dir, line)
    ledger.open_line(room.dir, line)
    assert room.recorded().lines == (line,)
    room.begin(2, "truck@2")
    room.saved(5)
    assert [(entry.epoch, entry.line) for entry in room.ledger.entries] == [(4, 1), (5, 2)]
    room.save(checkpoint(7))
    entry = ledger.enter(room.dir, room.last, "truck@1", 1, TRAIN, NOW)
    assert entry is not None
    assert entry.line == 1


def test_the_same_bytes_on_another_line_are_a_save_of_their_own(room):
    """A deterministic training repeats the epoch that the old line had: the new line has a copy of it too."""
    room.saved(3, 4)
    ledger.open_line(room.dir, Line(number=2, parent=1, from_epoch=3, run="truck@2"))
    room.begin(2, "truck@2")
    kept = room.saved(4)
    assert (kept.epoch, kept.file) == (4, "epoch4-attempt2.pt")
    assert [(one.epoch, one.line) for one in usable(room.ledger)] == [(4, 2), (3, 1)]
    assert room.saved(4).file == "epoch4-attempt2.pt", "on its own line it is known"


# ---- damage
@pytest.mark.parametrize("damage", ["cut", "garbage", "gone", "binary", "both"])
def test_a_damaged_record_loses_no_copy(room, damage):
    """The copies are looked into again, lines are remembered, and the next order writes the record anew and says so."""
    room.saved(3, 4)
    ledger.open_line(room.dir, Line(number=2, parent=1, from_epoch=3, run="truck@2"))
    room.begin(2, "truck@2")
    room.saved(4, map50_95=0.25)
    before = room.ledger
    record = room.dir.good / "ledger.json"
    damaged = {"cut": record.read_bytes()[:40], "garbage": b"[]", "binary": b"\xff\x00", "both": b""}
    record.unlink() if damage == "gone" else record.write_bytes(damaged[damage])
    if damage == "both":
        (room.dir.good / "ledger.before.json").unlink()
    found = room.ledger
    assert {(one.file, one.epoch, one.sha256, one.map50_95) for one in found.entries} == {
        (one.file, one.epoch, one.sha256, one.map50_95) for one in before.entries
    }
    assert found.lines == (before.lines if damage != "both" else ())
    if damage != "both":
        assert [(one.epoch, one.line) for one in usable(found)] == [(4, 2), (3, 1)]
    kept = room.saved(5)
    assert "ledger.json was" in kept.reason
    assert kept.epoch == 5
    old_end = [(4, 1)] if damage != "both" else []  # without lines nobody knows that it is one
    assert [(one.epoch, one.attempt) for one in room.recorded().entries] == [(3, 1), *old_end, (4, 2), (5, 2)]
    assert room.saved(6).reason == ""


def test_the_record_leads_nowhere_else(room, tmp_path):
    """A record that names a file outside the folder does not have it read, and does not have it removed."""
    victim = tmp_path / "victim.pt"
    victim.write_bytes(checkpoint(1))
    room.saved(1)
    evil = replace(room.ledger.entries[0], file=f"../../../../{victim.name}", epoch=99)
    ledger.write(room.dir, replace(room.ledger, entries=(evil, *room.ledger.entries)))
    assert [entry.epoch for entry in room.ledger.entries] == [1]
    room.saved(2)
    assert victim.exists()
    assert [entry.epoch for entry in room.recorded().entries] == [1, 2]


def test_a_copy_that_was_cut_is_not_offered(room):
    """A copy whose size is not the recorded one is looked into: torn, it is in the ledger no more, but kept for study."""
    room.saved(1, 2)
    path = ledger.path_of(room.dir, room.ledger.entries[-1])
    path.write_bytes(path.read_bytes()[:-20])
    assert [entry.epoch for entry in room.ledger.entries] == [1]
    room.saved(3)
    assert room.copies == ["aside", "epoch1-attempt1.pt", "epoch3-attempt1.pt"]
    assert [one.name for one in (room.dir.good / "aside").iterdir()] == [path.name]


def test_a_file_that_cannot_be_placed_is_not_removed(room):
    """A file with a name of ours that cannot be entered, here for its NaN, may be the last of its kind: it is kept."""
    room.saved(1)
    data = checkpoint(6, numbers=(*ZEROS, float("nan")))
    (room.dir.good / "epoch7-attempt1.pt").write_bytes(data)
    room.saved(2)
    assert (room.dir.good / "aside" / "epoch7-attempt1.pt").read_bytes() == data


def test_a_file_system_without_hard_links(room, monkeypatch):
    """FAT, some network and FUSE file systems have none: copies are entered, and the record before is there."""

    def no_link(*_args, **_more):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    assert [room.saved(epoch).epoch for epoch in (1, 2, 3)] == [1, 2, 3]
    (room.dir.good / "ledger.json").write_bytes(b"")
    assert [entry.epoch for entry in room.ledger.entries] == [1, 2, 3]
    assert "ledger.before.json" in room.names


def test_a_damaged_record_never_replaces_the_one_before(room):
    """Writing over a damaged ledger.json leaves the last good one: a crash in between does not cost the lines."""
    room.saved(1, 2)
    before = (room.dir.good / "ledger.before.json").read_bytes()
    (room.dir.good / "ledger.json").write_bytes(b"garbage")
    ledger.write(room.dir, Ledger())
    assert (room.dir.good / "ledger.before.json").read_bytes() == before


def test_reading_writes_nothing(room):
    """`read` is for anybody: the folder looks as before, also where something is wrong with it."""
    room.saved(1)
    (room.dir.good / "ledger.json").unlink()
    (room.dir.good / ".incoming-1.pt").write_bytes(b"x")
    before = room.names
    assert len(room.ledger.entries) == 1
    assert room.names == before
    assert ledger.read(layout.RunDirectory(room.dir.root / "nowhere")) == Ledger()


def test_random_damage_is_never_offered(room):
    """300 random bit flips and cuts in copies: whatever the ledger still offers by its hash is bit by bit as entered."""
    room.saved(1, 2, 3)
    dice = random.Random(7)
    files = {entry.file: ledger.path_of(room.dir, entry).read_bytes() for entry in room.ledger.entries}
    for _ in range(300):
        name = dice.choice(sorted(files))
        data = bytearray(files[name])
        place = dice.randrange(len(data))
        if dice.random() < 0.5:
            data[place] ^= 1 << dice.randrange(8)
        else:
            del data[place:]
        (room.dir.good / name).write_bytes(data)
        good = [one for one in room.recorded().entries if ledger.verify_entry(room.dir, one)]
        assert {one.file for one in good} == set(files) - {name}
        (room.dir.good / name).write_bytes(files[name])


# ---- full disks
@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MiB for runs. Only root can mount one; without root it is skipped, but not in CI."""
    target = tmp_path / "runs"
    target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(target)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"NOT TESTED: a full disk needs the right to mount a tmpfs ({done.stderr.strip()})"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    yield target
    subprocess.run(["umount", "-l", str(target)], check=True)


def fill(path: Path, leave: int = 0) -> None:
    """Write until the disk is full, then leave so many bytes."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(path, path.stat().st_size - leave)


@pytest.mark.parametrize("leave", [0, 8192, 120_000, 170_000])
def test_a_full_disk_costs_no_copy(small_disk, tmp_path, leave):
    """However little is left, what the ledger has it keeps, the answer names the fault, and with room again it works."""
    room = Room(tmp_path)
    room.job = replace(TRAIN, checkpoints=Checkpoints(keep_last=1, keep_best=0))
    room.saved(1, padding=100_000)
    room.save(checkpoint(1, padding=100_000))
    fill(small_disk / "ballast", leave)
    kept = room.keep()
    assert (kept.file, kept.fault in {"no room", "disk"}) == ("", True)
    assert room.copies == ["epoch1-attempt1.pt"]
    assert ledger.verify_entry(room.dir, room.recorded().entries[0])
    (small_disk / "ballast").unlink()
    assert room.keep().epoch == 2
