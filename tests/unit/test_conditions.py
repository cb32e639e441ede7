"""What a run waits for: looks that may hang, mounts, memory, room on disks, and the judgement on them."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from supervisor.core.consistency import Data, Split
from supervisor.core.job import Mount
from supervisor.core.model import Job
from supervisor.layout import RunDirectory
from supervisor.machine import bounded, conditions, mounts, places, resources
from supervisor.machine.bounded import NoAnswerError
from supervisor.machine.resources import Memory, Room

GIB = 1024**3
MIB = 1024**2
JOB = Job(name="truck", project="p", revision="r1", train={})
NAS = Mount(what="data", path="/nowhere/images", point="/nowhere", source="nas:/export", type="nfs4")


# ---- looks that may hang
def test_a_look_is_answered_or_raises_what_it_raised():
    """Whoever asks gets the result or the error, as if the look had been made directly."""
    assert bounded.ask("sum", lambda: 1 + 1, 5) == 2
    with pytest.raises(ZeroDivisionError):
        bounded.ask("sum", lambda: 1 / 0, 5)


def test_a_look_that_hangs_costs_one_thread_and_is_never_repeated(tmp_path):
    """A FIFO without a writer stands for a dead mount: each asker waits briefly, and the second asks nothing anew."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    asked = []

    def look():
        asked.append(1)
        return fifo.read_bytes()

    for _ in range(3):
        with pytest.raises(NoAnswerError, match="no answer within"):
            bounded.ask("dead", look, 0.05)
    assert len(asked) == 1
    assert sum(thread.name == "look" for thread in threading.enumerate()) == 1
    with fifo.open("wb") as writer:
        writer.write(b"back")
    assert bounded.ask("dead", lambda: b"anew", 5) in {b"back", b"anew"}


def test_a_look_for_which_there_is_no_thread_can_be_asked_again(monkeypatch):
    """A machine at its limit of threads: an error of the machine now, and the question does not stay open for ever."""

    def refuses(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuses)
        with pytest.raises(OSError, match="start new thread") as refused:
            bounded.ask("full", lambda: 1, 5)
    assert refused.value.errno == errno.EAGAIN
    assert bounded.ask("full", lambda: 2, 5) == 2


# ---- mounts
def test_the_table_of_mounts_is_read_with_its_odd_names(tmp_path):
    """Spaces are octal there, optional fields come before the dash, and a damaged line is none."""
    text = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "23 22 0:40 / /mnt/my\\040disk rw shared:2 master:1 - nfs4 nas:/a\\040b rw\n"
        "nonsense\n"
    )
    (tmp_path / "mountinfo").write_text(text)
    root, disk = mounts.table(tmp_path / "mountinfo")
    assert (root.point, root.source, root.type, root.device) == ("/", "/dev/sda1", "ext4", "8:1")
    assert (disk.point, disk.source, disk.type) == ("/mnt/my disk", "nas:/a b", "nfs4")


def test_the_mount_of_a_path_is_the_kernels_own_answer(tmp_path):
    """Through symbolic links too: what lies behind one is on the mount that it leads to."""
    (tmp_path / "link").symlink_to("/proc/self")
    found = mounts.of(str(tmp_path / "link"))
    assert (found.point, found.type) == ("/proc", "proc")
    with pytest.raises(FileNotFoundError):
        mounts.of(str(tmp_path / "gone"))


def test_only_mounts_beside_the_root_are_recorded():
    """The root file system is never absent; what is not there or cannot be seen is not recorded either."""
    assert mounts.recorded("data", "/proc/version") == Mount(
        what="data", path="/proc/version", point="/proc", source="proc", type="proc"
    )
    assert mounts.recorded("data", "/") is None
    assert mounts.recorded("data", "/nowhere") is None


def test_a_mount_that_is_gone_is_absent_and_one_that_stands_is_not(tmp_path):
    """Gone: neither path nor mount point. A path that is gone below a mount that stands is another matter."""
    assert mounts.absent(NAS) == "nas:/export is not mounted at /nowhere"
    there = Mount(what="data", path="/proc/gone", point="/proc", source="proc", type="proc")
    assert mounts.absent(there) == ""
    other_name = Mount(what="data", path="/proc/version", point="/proc", source="/dev/sdb1", type="ext4")
    assert mounts.absent(other_name) == ""  # disks get other names after a boot


@pytest.mark.parametrize(
    ("what", "below", "absent"),
    [("data", "images", False), ("data", "", True), ("runs", "images", True)],
    ids=["the same files lie elsewhere now", "an empty mount point", "the runs folder, which we make ourselves"],
)
def test_a_path_that_exists_without_its_mount(tmp_path, what, below, absent):
    """Files prove that the data is back, an empty mount point does not, and neither does a folder of our own."""
    (tmp_path / below).mkdir(exist_ok=True)
    mount = Mount(what=what, path=str(tmp_path / below), point=str(tmp_path), source="nas:/export", type="nfs4")
    assert bool(mounts.absent(mount)) is absent


def test_all_tmpfs_are_called_alike_and_are_not_taken_for_one_another():
    """Only a device or a server names what is mounted: another tmpfs is not the one that was recorded."""
    mount = Mount(what="runs", path="/dev/shm", point="/dev/shm/runs", source="tmpfs", type="tmpfs")
    if mounts.of("/dev/shm").type == "tmpfs":
        assert mounts.absent(mount)


def test_an_io_error_means_dead_and_no_rights_do_not(monkeypatch):
    """ESTALE says that the server has forgotten the mount; EACCES says nothing about it."""

    def fails(error):
        def of(_path, _within_s):
            raise error

        monkeypatch.setattr(mounts, "of", of)

    fails(OSError(116, "Stale file handle"))
    assert mounts.absent(NAS) == "/nowhere is dead: Stale file handle"
    fails(PermissionError(13, "Permission denied"))
    assert mounts.absent(NAS) == ""
    fails(NoAnswerError("x", 3))
    with pytest.raises(NoAnswerError):
        mounts.absent(NAS)


# ---- memory
MEMINFO = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n"


def machine_with(tmp_path: Path, cgroup: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(MEMINFO)
    (proc / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return proc, cgroups


def test_the_machines_memory_is_what_it_can_give_without_swapping(tmp_path):
    """MemAvailable, not MemFree; without cgroups that is all."""
    assert resources.memory(*machine_with(tmp_path, "0::/\n", {})) == Memory(8000000 * 1024, 16000000 * 1024)


def test_the_tightest_cgroup_counts(tmp_path):
    """A slice above us with a limit of 4 GiB: pages of files that can be dropped do not count as used."""
    files = {
        "a.slice/memory.max": f"{4 * GIB}\n",
        "a.slice/memory.current": f"{3 * GIB}\n",
        "a.slice/memory.stat": f"anon 5\ninactive_file {1 * GIB}\n",
        "a.slice/b.service/memory.max": "max\n",
        "a.slice/b.service/memory.current": f"{GIB}\n",
        "a.slice/b.service/memory.stat": "inactive_file 0\n",
    }
    found = resources.memory(*machine_with(tmp_path, "0::/a.slice/b.service\n", files))
    assert found == Memory(2 * GIB, 4 * GIB)


def test_version_1_of_cgroups_in_a_container(tmp_path):
    """The path of the host is not there; the folder's root is ours. A number near 2^63 means no limit."""
    files = {
        "memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/memory.usage_in_bytes": f"{2 * GIB}\n",
        "memory/memory.stat": "total_inactive_file 0\n",
    }
    proc, cgroups = machine_with(tmp_path, "5:memory:/docker/4711\n1:cpu:/\n", files)
    assert resources.memory(proc, cgroups) == Memory(0, 2 * GIB)
    (cgroups / "memory/memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert resources.memory(proc, cgroups).total_bytes == 16000000 * 1024


def test_the_room_of_a_folder_that_is_not_made_yet(tmp_path):
    """It is that of the place where it will be."""
    assert resources.room(tmp_path / "a" / "b").device == tmp_path.stat().st_dev


# ---- places
DATA_FILES = {
    "plain": "path: ../sets/trucks  # the root\ntrain: images/train # 128 images\nval: 'images/val'\nnames: [a]\n",
    "lists": 'path: ../sets/trucks\ntrain:\n  - images/train\n  - images/more\nval: [images/val, "images/none"]\n',
    "no path": "train: ../sets/trucks/images/train\nval: ../sets/trucks/images/val\nnames:\n  0: a\n",
}


@pytest.mark.parametrize("text", DATA_FILES.values(), ids=DATA_FILES)
def test_a_data_file_leads_to_its_images(tmp_path, text):
    """In the forms in which people write it; what is not there is left out."""
    for name in ("images/train", "images/val", "images/more"):
        (tmp_path / "sets/trucks" / name).mkdir(parents=True)
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml/data.yaml").write_text(text)
    job = Job(name="t", revision="r", python="/env/bin/python", train={"data": f"{tmp_path}/yaml/data.yaml"})
    found = {os.path.normpath(one.path) for one in places.read(job) if one.what == "data"}
    assert found >= {f"{tmp_path}/yaml/data.yaml", f"{tmp_path}/sets/trucks/images/train"}
    assert f"{tmp_path}/sets/trucks/images/val" in found
    assert not any(path.endswith("none") for path in found)


def test_what_a_training_reads(tmp_path):
    """Interpreter, folder, weights and data; plans and names without a path are the library's own."""
    data = Data(
        name="d",
        path="/d/data.yaml",
        root="/d",
        splits={"train": Split(sources=("/d/a",)), "test": Split(sources=("/t",))},
    )
    train = {"model": "yolo11n.yaml", "pretrained": "/w/best.pt", "data": "coco8.yaml"}
    job = Job(name="t", revision="r", python="/env/bin/python", cwd="/code", train=train)
    assert [(one.what, one.path) for one in places.read(job, data)] == [
        ("interpreter", "/env/bin/python"),
        ("working folder", "/code"),
        ("model", "/w/best.pt"),
        ("data", "/d/data.yaml"),
        ("data", "/d"),
        ("data", "/d/a"),
    ]
    script = Job(
        name="t",
        revision="r",
        family="yolov5",
        cwd="/code",
        command=("python", "train.py", "--data", "sets/a.yaml", "--weights=/w/v5.pt"),
    )
    found = [(one.what, one.path) for one in places.read(script, Data(name=""))]
    assert found == [("working folder", "/code"), ("model", "/w/v5.pt"), ("data", "/code/sets/a.yaml")]


def test_of_a_data_set_in_thousands_of_folders_some_are_looked_at(tmp_path):
    """Each one costs a look; what is no data comes first. So it is for what is known and for what the file names."""
    folders = [f"part{number}" for number in range(1000)]
    for name in folders[:100]:
        (tmp_path / name).mkdir()
    (tmp_path / "d.yaml").write_text(f"path: .\ntrain: [{', '.join(folders)}]\n")
    job = Job(name="t", revision="r", python="/env/bin/python", train={"data": str(tmp_path / "d.yaml")})
    known = Data(name="d", splits={"train": Split(sources=tuple(str(tmp_path / name) for name in folders))})
    for found in (places.read(job), places.read(job, known)):
        assert len(found) == places.MOST_PLACES
        assert found[0].what == "interpreter"


def test_where_a_training_writes():
    """Its own environment says where temporary files and caches go."""
    env = {"HOME": "/home/u", "TMPDIR": "/scratch"}
    found = places.written(JOB, RunDirectory(Path("/runs/p/truck")), env)
    assert [(one.what, one.path) for one in found] == [
        ("runs", "/runs/p/truck"),
        ("temporary files", "/scratch"),
        ("home", "/home/u"),
    ]


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("/a/b/last.pt", "/a/b"),
        ("/a/b*/c/last.pt", "/a"),
        ("/a/**/last.pt", "/a"),
        ("/a/[[]b[[]]c/[?]/last.pt", "/a/[b[]c/?"),
        ("out/last.pt", "/code[1]/out"),
        ("last.pt", "/code[1]"),
    ],
)
def test_the_folder_of_a_glob(pattern, folder):
    """All that it can match lies below it; brackets around one character are how a folder's own name is written."""
    job = Job(name="t", revision="r", cwd="/code[1]", checkpoint_files=(pattern,))
    [found] = [one for one in places.written(job, RunDirectory(Path("/r")), {}) if one.what == "checkpoints"]
    assert found.path == folder


# ---- conditions
def room(free: int, inodes: int | None = 10**6, total: int = 100 * GIB, *, read_only: bool = False) -> Room:
    """A file system."""
    return Room(1, total, free, inodes, read_only)


@pytest.fixture
def rooms(monkeypatch):
    """What each path has; all others have plenty."""
    table = {}
    monkeypatch.setattr(resources, "room", lambda path, _within_s=0: table.get(str(path), room(50 * GIB)))
    return table


def unmet(waiting_for, job=JOB):
    return conditions.unmet(waiting_for, job, Path("/runs"), 2 * GIB)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (room(2 * GIB), ""),
        (room(2 * GIB - 1), "below disk.pause_below = 2GiB"),
        (room(2 * GIB, inodes=999), "only 999 more files"),
        (room(2 * GIB, inodes=None), ""),
    ],
    ids=["exactly enough", "a byte too little", "no inodes", "a file system that counts none"],
)
def test_the_disk_is_back_with_bytes_and_inodes(rooms, found, words):
    """Both are needed under the runs folder."""
    rooms["/runs/p/truck"] = found
    assert words in unmet("disk")
    assert bool(unmet("disk")) is bool(words)


def test_a_full_temporary_folder_is_waited_for_too(rooms, monkeypatch):
    """It ends trainings as well; a read-only file system is never waited for."""
    monkeypatch.setenv("TMPDIR", "/scratch")
    rooms["/scratch"] = room(MIB)
    assert unmet("disk") == "1MiB are free under /scratch (temporary files), 16MiB are needed"
    rooms["/scratch"] = room(0, read_only=True)
    assert unmet("disk") == ""


def test_a_full_disk_of_checkpoints_is_waited_for(rooms):
    """Where a command saves is known from its globs: as much is needed there as under the runs, as far as it fits."""
    job = Job(name="truck", project="p", revision="r1", cwd="/code", checkpoint_files=("/ckpt/*/last.pt", "out/*.pt"))
    rooms["/ckpt"] = room(GIB)
    assert unmet("disk", job) == "1GiB are free under /ckpt (checkpoints), 2GiB are needed"
    rooms["/ckpt"] = room(GIB, total=4 * GIB)
    assert unmet("disk", job) == ""
    rooms["/code/out"] = room(GIB)
    assert "/code/out" in unmet("disk", job)
    rooms["/code/out"] = room(50 * GIB, inodes=3)
    assert unmet("disk", job) == "only 3 more files can be made under /code/out (checkpoints): its inodes are used up"


def test_a_path_that_the_error_names_is_waited_for(rooms):
    """No file of the job says where that script writes, but the line that tells of the full disk does."""
    rooms["/elsewhere/last.pt"] = room(MIB)
    line = "OSError: [Errno 28] No space left on device: '/elsewhere/last.pt'"
    full = conditions.unmet("disk", JOB, Path("/runs"), 2 * GIB, seen=line)
    assert full == "1MiB are free under /elsewhere/last.pt (named in the error), 2GiB are needed"
    assert conditions.unmet("disk", JOB, Path("/runs"), 2 * GIB, seen="No space left on device") == ""


@pytest.mark.parametrize(
    ("total", "wanted"),
    [(1 * GIB, GIB // 2), (4 * GIB, GIB), (100 * GIB, 10 * GIB), (1024 * GIB, 16 * GIB)],
    ids=["half of a tiny machine", "a gigabyte", "a tenth of a large one", "enough for many workers"],
)
def test_memory_is_back(monkeypatch, total, wanted):
    """The threshold grows with the machine and can always be reached."""
    monkeypatch.setattr(resources, "memory", lambda: Memory(wanted, total))
    assert unmet("memory") == ""
    monkeypatch.setattr(resources, "memory", lambda: Memory(wanted - MIB, total))
    assert "of memory are available" in unmet("memory")


def test_shared_memory_is_back(rooms):
    """64 MiB, or half of the little that a container has."""
    rooms["/dev/shm"] = room(63 * MIB, total=GIB)
    assert "free in /dev/shm" in unmet("shm")
    rooms["/dev/shm"] = room(33 * MIB, total=64 * MIB)
    assert unmet("shm") == ""


def test_a_named_mount_is_waited_for():
    """Until it is what was recorded; of the job's mounts only the one that is waited for counts."""
    job = Job(name="t", revision="r", mounts=(NAS,))
    assert unmet("mount: /nowhere", job) == "nas:/export is not mounted at /nowhere"
    assert unmet("mount: /other", job) == ""
    assert unmet("mount: /nowhere") == ""  # an edit of the job needs it no more


def test_what_does_not_answer_is_not_back(monkeypatch):
    """Neither a mount nor a disk; and nothing is raised."""

    def silent(*_args):
        raise NoAnswerError("/mnt", 3)

    monkeypatch.setattr(mounts, "of", silent)
    assert "does not answer" in unmet("mount: /nowhere", Job(name="t", revision="r", mounts=(NAS,)))
    monkeypatch.setattr(resources, "room", silent)
    assert "cannot be seen" in unmet("disk")


@pytest.mark.parametrize("waiting_for", ["mount", "gpu", "GPU", "slot", "other run: x", ""])
def test_what_cannot_be_seen_is_left_to_time(waiting_for):
    """No condition holds back a run for ever because nobody can look at it."""
    assert not conditions.can_be_seen(waiting_for)
    assert unmet(waiting_for) == ""


@pytest.mark.parametrize("waiting_for", ["disk", "memory", "shm", "mount: /x"])
def test_what_can_be_seen(waiting_for):
    """These are looked at."""
    assert conditions.can_be_seen(waiting_for)
