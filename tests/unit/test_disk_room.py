"""What a quota leaves, and what a start needs for its checkpoints."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import subprocess

import pytest

from supervisor.core.model import Job
from supervisor.layout import RunDirectory
from supervisor.machine import conditions, disk_room, resources
from supervisor.machine.disk_room import GROUP, USER, Quota, quota_left
from supervisor.machine.resources import Room

GIB = 1024**3
MIB = 1024**2
NOW = 1_000_000.0
ANN = 1000


def answer(hard=0, soft=0, used=0, *, inodes=(0, 0, 0), grace_at=0, inodes_grace_at=0):
    """What the kernel tells: limits in KiB, use in bytes."""
    return struct.pack("=8QI4x", hard // 1024, soft // 1024, used, *inodes, grace_at, inodes_grace_at, 63)


def left(folder, of_user=None, of_group=None, uid=ANN):
    """What is left where the kernel answers so; None: there is no such quota."""

    def ask(_folder, kind, _number):
        told = {USER: of_user, GROUP: of_group}[kind]
        if told is None:
            raise ProcessLookupError(3, "No such process")
        return told

    return quota_left(folder, ask=ask, uid=uid, now=NOW)


# ---- quota
@pytest.mark.parametrize(
    ("told", "free"),
    [
        (answer(hard=10 * MIB, used=4 * MIB), 6 * MIB),
        (answer(hard=10 * MIB, used=11 * MIB), 0),
        (answer(used=4 * MIB), None),
        (answer(hard=10 * MIB, soft=5 * MIB, used=6 * MIB, grace_at=int(NOW) + 60), 4 * MIB),
        (answer(hard=10 * MIB, soft=5 * MIB, used=6 * MIB, grace_at=int(NOW) - 60), 0),
        (answer(soft=5 * MIB, used=4 * MIB), 1 * MIB),
    ],
    ids=["some", "used up", "no limit", "within the grace", "grace over", "soft only"],
)
def test_a_quota_leaves_its_limit_less_what_is_used(tmp_path, told, free):
    """Hard limits bind; soft ones where there is no hard one, or when the grace is over; none is none."""
    assert left(tmp_path, told).free_bytes == free


def test_the_tightest_quota_counts(tmp_path):
    """A user's and a group's bind both, bytes and inodes each by itself."""
    found = left(
        tmp_path,
        answer(hard=10 * MIB, used=MIB, inodes=(100, 0, 40)),
        answer(hard=8 * MIB, used=2 * MIB, inodes=(1000, 0, 1)),
    )
    assert found == Quota(free_bytes=6 * MIB, limit_bytes=8 * MIB, free_inodes=60, limit_inodes=100)


def test_root_and_whoever_has_no_quota_have_none(tmp_path):
    """Also where the folder is not there, or the kernel knows nothing."""
    full = answer(hard=MIB, used=MIB)
    assert left(tmp_path, full, uid=0) == Quota()
    assert left(tmp_path) == Quota()
    assert left(tmp_path / "gone", full) == Quota()
    assert quota_left(tmp_path, uid=54321) == Quota()  # the real question, where there is no quota


def test_a_folder_that_hands_its_group_on_is_charged_to_that_group(tmp_path):
    """Files made there are the group's, whoever makes them."""
    asked = []

    def ask(_folder, kind, number):
        asked.append((kind, number))
        raise OSError

    quota_left(tmp_path, ask=ask, uid=ANN, now=NOW)
    tmp_path.chmod(stat.S_IMODE(tmp_path.stat().st_mode) | stat.S_ISGID)
    if os.geteuid() == 0:
        os.chown(tmp_path, -1, 4321)
        tmp_path.chmod(0o2755)
    quota_left(tmp_path, ask=ask, uid=ANN, now=NOW)
    assert asked == [(USER, ANN), (GROUP, os.getegid()), (USER, ANN), (GROUP, tmp_path.stat().st_gid)]


def test_room_is_the_smaller_of_disk_and_quota():
    """Bytes, inodes and the whole; a quota that is wider than the disk changes nothing."""
    disk = Room(1, 100 * GIB, 50 * GIB, 1000, False, 10_000)
    tight = resources.within_quota(disk, Quota(GIB, 2 * GIB, 10, 20))
    assert (tight.free_bytes, tight.total_bytes, tight.free_inodes, tight.total_inodes) == (GIB, 2 * GIB, 10, 20)
    assert tight.quota
    assert resources.within_quota(disk, Quota(90 * GIB, 200 * GIB)) == disk
    assert resources.within_quota(disk, Quota()) == disk


@pytest.fixture
def quota_disk(tmp_path):
    """A real ext4 of 64 MiB with quotas, where this kernel mounts one; root is needed."""
    image, point = tmp_path / "image", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    make = ["mkfs.ext4", "-q", "-O", "quota", "-E", "quotatype=usrquota:grpquota", str(image)]
    mount = ["mount", "-o", "loop,usrquota,grpquota", str(image), str(point)]
    try:
        made = all(
            subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in (make, mount)
        )
    except OSError:
        made = False
    if not made:
        pytest.skip("NOT TESTED: real quotas need root, mkfs.ext4 and a kernel with CONFIG_QUOTA and CONFIG_QFMT_V2")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def set_quota(device, uid, hard_bytes):
    """quotactl(2), Q_SETQUOTA: block limits only."""
    libc = ctypes.CDLL(None, use_errno=True)
    data = struct.pack("=8QI4x", hard_bytes // 1024, 0, 0, 0, 0, 0, 0, 0, 1)
    command = ctypes.c_int((0x800008 << 8) & 0xFFFFFFFF)
    code = libc.quotactl(command, device.encode(), ctypes.c_int(uid), ctypes.create_string_buffer(data, len(data)))
    assert code == 0, os.strerror(ctypes.get_errno())


def test_a_real_quota_is_read_from_the_kernel(quota_disk):
    """8 MiB for one user, of which 3 are used: the same as the kernel will enforce, by the folder or by its device."""
    device = disk_room._device(quota_disk)
    set_quota(device, ANN, 8 * MIB)
    used = quota_disk / "used"
    used.write_bytes(b"x" * 3 * MIB)
    os.chown(used, ANN, -1)
    os.sync()
    found = quota_left(quota_disk, uid=ANN)
    assert found.limit_bytes == 8 * MIB
    assert 4 * MIB <= found.free_bytes <= 5 * MIB
    assert quota_left(quota_disk, uid=ANN + 1).free_bytes is None


# ---- what a start needs
@pytest.fixture
def run_dir(tmp_path):
    """An empty run directory."""
    made = RunDirectory(tmp_path / "runs" / "p" / "a")
    made.weights.mkdir(parents=True)
    made.good.mkdir()
    return made


def sized(path, size, at=100):
    """A file of that size, mostly a hole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    os.utime(path, (at, at))
    return path


def test_three_times_the_newest_checkpoint_is_needed(run_dir):
    """Of the trainer's own and the ledger's newest the larger: a torn last.pt says nothing about the next one."""
    job = Job(name="a", project="p", revision="r", train={})
    assert disk_room.wanted_for_saves(job, run_dir) == 0
    sized(run_dir.good / "epoch1.pt", 900 * MIB, at=100)
    sized(run_dir.good / "epoch2.pt", 300 * MIB, at=200)
    sized(run_dir.weights / "last.pt", 10)
    assert disk_room.wanted_for_saves(job, run_dir) == 3 * 300 * MIB
    sized(run_dir.weights / "last.pt", 400 * MIB)
    assert disk_room.wanted_for_saves(job, run_dir) == 3 * 400 * MIB


def test_before_the_first_save_the_model_tells(tmp_path, run_dir):
    """Weights of a model in half precision grow to three times that with what the optimizer remembers."""
    model = sized(tmp_path / "yolo.pt", 100 * MIB)
    sizes = [
        disk_room.wanted_for_saves(Job(name="a", project="p", revision="r", train={"model": name}), run_dir)
        for name in (str(model), "yolo.pt", str(tmp_path / "gone.pt"), "yolo11n.yaml")
    ]
    assert sizes == [9 * 100 * MIB, 0, 0, 0]


def test_checkpoints_of_a_command_are_found_by_its_globs(tmp_path, run_dir):
    """Wherever it saves."""
    sized(tmp_path / "out" / "x" / "last.pt", 50 * MIB)
    job = Job(name="a", project="p", revision="r", command=("x",), checkpoint_files=(f"{tmp_path}/out/*/last.pt",))
    assert disk_room.wanted_for_saves(job, run_dir) == 150 * MIB


def needed(free, what="runs", *, saves=0, total=1000 * GIB, pause_below=2 * GIB):
    """Why a place with so much free has too little."""
    place = conditions.places.Place(what, "/x")
    return conditions.lack_of_room(place, Room(1, total, free, None, False), pause_below, saves)


def test_large_checkpoints_need_more_than_the_mark():
    """Where checkpoints go; not for temporary files, and never more than half of a small disk."""
    assert needed(3 * GIB, saves=4 * GIB) == "3GiB are free under /x, 4GiB are needed for its next checkpoints"
    assert needed(4 * GIB, saves=4 * GIB) == ""
    assert "for its next checkpoints" in needed(3 * GIB, "checkpoints", saves=4 * GIB)
    assert needed(3 * GIB, "temporary files", saves=4 * GIB) == ""
    assert "disk.pause_below" in needed(GIB, saves=4 * GIB)
    assert needed(3 * GIB, saves=4 * GIB, total=6 * GIB) == ""


def test_the_wait_asks_for_what_the_start_asks_for(tmp_path, run_dir, monkeypatch):
    """Or a run would be told that there is room, be refused, and so on for ever."""
    job = Job(name="a", project="p", revision="r", train={}, env={"TMPDIR": str(tmp_path), "HOME": str(tmp_path)})
    sized(run_dir.weights / "last.pt", GIB)
    monkeypatch.setattr(resources, "room", lambda *_args: Room(1, 100 * GIB, 2 * GIB, None, False))
    start = conditions.no_room_for(job, run_dir, GIB)
    assert "3GiB are needed for its next checkpoints" in start
    assert conditions.unmet("disk", job, tmp_path / "runs", GIB) == start
