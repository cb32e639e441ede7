"""What the machine itself says: real mounts, a dead file system, used up inodes, the kernel's own log."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_harness import Site, alive, can, needs, site, until

from supervisor.core.diagnosis.tables import RULES
from supervisor.core.job import Mount
from supervisor.core.model import Job
from supervisor.effects import evidence, kernel_log
from supervisor.effects.evidence import Subject
from supervisor.effects.last_place import Place
from supervisor.layout import RunDirectory
from supervisor.machine import conditions, mounts, resources
from supervisor.machine.bounded import NoAnswerError

pytestmark = pytest.mark.e2e

MIB = 1024**2
MNT_DETACH = 2
JOB = Job(name="truck", project="p", revision="r", train={})


@contextlib.contextmanager
def tmpfs(point: Path, options: str) -> Iterator[Path]:
    """A small file system; it may be taken away and put back meanwhile."""
    point.mkdir(exist_ok=True)
    needs(can("mount", "-t", "tmpfs", "-o", options, "yolo-test", str(point)), "root and mount")
    try:
        yield point
    finally:
        while os.path.ismount(point):
            subprocess.run(["umount", "-l", str(point)], check=True)


class DeadMount:
    """A FUSE file system whose program never answers, like a network file system without its server."""

    def __init__(self, point: Path) -> None:
        point.mkdir()
        self.point = point
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._channel = -1
        with contextlib.suppress(OSError):
            self._channel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._channel},rootmode=40000,user_id=0,group_id=0".encode()
        mounted = self._libc.mount(b"nas:/export", str(point).encode(), b"fuse", 0, options) == 0
        needs(self._channel >= 0 and mounted, "root and FUSE")

    def forget(self) -> None:
        """The program ends: what hangs is freed, and every further look fails at once."""
        if self._channel >= 0:
            os.close(self._channel)
            self._channel = -1

    def umount(self) -> None:
        """Take it away."""
        self.forget()
        self._libc.umount2(str(self.point).encode(), MNT_DETACH)


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[DeadMount]:
    """A mount that does not answer."""
    mount = DeadMount(tmp_path / "nas")
    yield mount
    mount.umount()


def test_used_up_inodes_are_a_full_disk(tmp_path):
    """Bytes are there, but no more files can be made; with files gone the run goes on."""
    with tmpfs(tmp_path / "runs", "size=64m,nr_inodes=1500") as runs:
        assert conditions.unmet("disk", JOB, runs, MIB) == ""
        files = [runs / str(number) for number in range(600)]
        for file in files:
            file.touch()
        assert resources.room(runs).free_inodes < 1000
        assert "its inodes are used up" in conditions.unmet("disk", JOB, runs, MIB)
        for file in files:
            file.unlink()
        assert conditions.unmet("disk", JOB, runs, MIB) == ""


def test_a_full_file_system_is_seen_and_seen_to_be_free_again(tmp_path):
    """By the bytes that a plain user may still write."""
    with tmpfs(tmp_path / "runs", "size=8m") as runs:
        (runs / "ballast").write_bytes(bytes(7 * MIB))
        assert "below disk.pause_below" in conditions.unmet("disk", JOB, runs, 4 * MIB)
        (runs / "ballast").unlink()
        assert conditions.unmet("disk", JOB, runs, 4 * MIB) == ""


def test_a_bind_mount_that_is_gone_is_absent(tmp_path):
    """Recorded through a symbolic link; gone, it leaves an empty folder, which is no proof; put back, it is there."""
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        (disk / "set" / "train").mkdir(parents=True)
        bound = tmp_path / "bound"
        bound.mkdir()
        assert can("mount", "--bind", str(disk / "set"), str(bound))
        (tmp_path / "link").symlink_to(bound)
        recorded = mounts.recorded("data", str(tmp_path / "link" / "train"))
        assert (recorded.point, recorded.source, recorded.type) == (str(bound), "yolo-test", "tmpfs")
        assert mounts.absent(recorded) == ""
        assert can("umount", str(bound))
        assert mounts.absent(recorded) == f"yolo-test is not mounted at {bound}"
        assert can("mount", "--bind", str(disk / "set"), str(bound))
        assert mounts.absent(recorded) == ""
        assert can("umount", str(bound))


def test_a_bind_mount_of_the_root_file_system_is_not_recorded(tmp_path):
    """A service's own surroundings are made of such: they change with its unit file, and nothing is lost then."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    needs(mounts.of(str(tmp_path)).device == mounts.of("/").device, "temporary files on the root file system")
    needs(can("mount", "--bind", str(tmp_path / "from"), str(tmp_path / "to")), "root and mount")
    try:
        assert mounts.of(str(tmp_path / "to")).point == str(tmp_path / "to")
        assert mounts.recorded("runs", str(tmp_path / "to")) is None
    finally:
        assert can("umount", str(tmp_path / "to"))


def test_a_dead_mount_hangs_nobody(dead, tmp_path):
    """While it hangs nothing is known of it; when it is dead or gone, it is named; all within bounded times."""
    run_dir = RunDirectory(tmp_path / "runs" / "p" / "truck")
    run_dir.attempt(1).root.mkdir(parents=True)
    mount = Mount(what="data", path=f"{dead.point}/data.yaml", point=str(dead.point), source="nas:/export", type="fuse")
    job = Job(name="truck", project="p", revision="r", train={"data": mount.path}, mounts=(mount,))
    subject = Subject(job=job, run_dir=run_dir, attempt=1, place=Place())
    begun = time.monotonic()
    found = evidence.gather(subject, RULES, time.time())
    assert time.monotonic() - begun < evidence.LOOKS_S + 5
    assert (found.unmounted, found.missing) == ((), ())
    assert any(text.startswith(f"{dead.point}: no answer") for text in found.unseen)
    assert found.disks[0].what.startswith("runs")
    with pytest.raises(NoAnswerError):
        mounts.absent(mount, 0.2)
    assert "does not answer" in conditions.unmet(f"mount: {dead.point}", job, tmp_path / "runs", 0)
    dead.forget()
    until(lambda: "is dead" in _absent(mount), "the hanging looks end")
    assert evidence.gather(subject, RULES, time.time()).unmounted == (str(dead.point),)
    dead.umount()
    assert _absent(mount) == f"nas:/export is not mounted at {dead.point}"


def _absent(mount: Mount) -> str:
    try:
        return mounts.absent(mount, 1.0)
    except NoAnswerError:
        return ""


def test_the_kernels_own_log_tells_of_a_crash():
    """A process that ends by a segmentation fault is named there, with the time that it happened."""
    try:
        kernel_log.read(time.time(), time.time())
    except OSError as error:
        needs(possible=False, what=f"a kernel log that may be read ({error})")
    wanted = Path("/proc/sys/debug/exception-trace")
    needs(wanted.exists() and wanted.read_text().strip() == "1", "a kernel that logs crashes")
    begun = time.time()
    crash = "import ctypes, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)"
    with subprocess.Popen([sys.executable, "-c", crash]) as child:
        assert child.wait() == -signal.SIGSEGV
    lines = [line for line in kernel_log.read(begun, time.time()) if f"[{child.pid}]" in line]
    needs(bool(lines), "a kernel log that is that of these processes, with their numbers")
    assert "segfault" in lines[0]
    assert kernel_log.read(time.time() + 60, time.time()) == ()


# ---- the whole way
@pytest.fixture
def server() -> Iterator[Site]:
    """A server that has not started yet."""
    with site() as made:
        yield made


@pytest.mark.slow
def test_a_training_whose_data_disk_is_taken_away_waits_for_it(server, tmp_path):
    """Nothing is tried while the mount is gone; seconds after it is back the run goes on, to its end."""
    disk = tmp_path / "disk"
    with tmpfs(disk, "size=1m"):
        (disk / "data.yaml").write_text("train: .\nval: .\n")
        server.start()
        server.train("boxes", "--epoch-s 0.4", epochs=12, train={"data": str(disk / "data.yaml")})
        server.wait_saved("boxes", 1)
        assert can("umount", "-l", str(disk))
        pid = server.attempt("boxes").pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "the training ends")
        waiting = until(lambda: _waiting(server, "boxes"), "it waits for the mount")
        assert waiting["waiting_for"] == f"mount: {disk}"
        assert server.attempts("boxes") == [1]
        assert can("mount", "-t", "tmpfs", "-o", "size=1m", "yolo-test", str(disk))
        (disk / "data.yaml").write_text("train: .\nval: .\n")
        server.attempt("boxes", 2).wait_for_beat("resumed", within_s=40)
        server.wait("boxes", "SUCCEEDED", within_s=60)
        assert [row.body["what"] for row in server.history("boxes@1", "WaitOver")] == [f"mount: {disk}"]
        assert server.epochs_in_table("boxes") == list(range(1, 13))


def _waiting(server: Site, name: str) -> dict | None:
    run = server.run(name)
    return run if run and run["phase"] == "COOLING" and run["waiting_for"].startswith("mount") else None
