"""The daemon's readers: tolerant of what is newer, honest about what is broken, never fooled by a reused number."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest
from real_attempt import ended, is_alive, until

from supervisor import attempt_files, shim
from supervisor.attempt_files import Launch, Started, Train

STARTED = {
    "version": 9,
    "shim_pid": 1,
    "shim_start_time": 2,
    "pid": 3,
    "start_time": 4,
    "boot_id": "b",
    "pid1_start_time": 5,
    "started_at": 6.5,
    "host": "gpu1",
    "from_the_future": {"a": [1]},
}


def test_missing_files_are_none(tmp_path: Path) -> None:
    """What is not there is None, not an error."""
    assert attempt_files.read_started(tmp_path) is None
    assert attempt_files.read_exit(tmp_path) is None
    assert attempt_files.read_launch(tmp_path) is None


def test_newer_files_are_read(tmp_path: Path) -> None:
    """Unknown fields and a higher version do not matter: shims live longer than daemons."""
    (tmp_path / "started.json").write_text(json.dumps(STARTED))
    started = attempt_files.read_started(tmp_path)
    assert started is not None
    assert (started.pid, started.start_time, started.version) == (3, 4, 9)
    record = {"version": 2, "code": None, "signal": 9, "ended_at": 2, "started_at": 1, "new": 0}
    (tmp_path / "exit.json").write_text(json.dumps(record))
    end = attempt_files.read_exit(tmp_path)
    assert end is not None
    assert (end.code, end.signal, end.oom_kills, end.rusage.user_s) == (None, 9, None, 0.0)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version":1}', b'"\xff"', b"\0" * 100])
def test_broken_file_is_no_missing_file(tmp_path: Path, data: bytes) -> None:
    """A file that is there but is no record raises ValueError that names it: unknown is not absent."""
    (tmp_path / "exit.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"exit\.json") as caught:
        attempt_files.read_exit(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_launch_is_written_for_its_owner_only(tmp_path: Path) -> None:
    """launch.json comes back as it was written, holds its keys by the agreed names, and nobody else may read it."""
    train = Train(args={"model": "a.yaml", "lr0": 0.1}, device="cpu", save_dir="/r", run_token_file="/t")
    launch = Launch(
        run="卡车@1",
        attempt=3,
        token=7,
        argv=("python",),
        env={"键": "值"},
        cwd="/",
        umask=23,
        log_max_bytes=0,
        train=train,
    )
    attempt_files.write_launch(tmp_path, launch)
    assert attempt_files.read_launch(tmp_path) == launch
    document = json.loads((tmp_path / "launch.json").read_text(encoding="utf-8"))
    assert document["train"]["expected_epoch"] is None
    assert document["version"] == 1
    assert (tmp_path / "launch.json").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["launch.json"]
    shim.Launch(document)  # the shim understands what the daemon writes


def test_beats_are_read_line_by_line() -> None:
    """A beat of any kind is read, a cut or foreign line is None, NaN comes as null."""
    line = b'{"v":1,"at":1.5,"kind":"batch","epoch":3,"batch":1,"losses":{"box_loss":null,"x":1},"new":[]}'
    beat = attempt_files.parse_beat(line)
    assert beat is not None
    assert (beat.kind, beat.epoch, beat.losses) == ("batch", 3, {"box_loss": None, "x": 1.0})
    for saved in (b"true", b'"/r/best.pt"'):
        assert attempt_files.parse_beat(b'{"at":1,"kind":"saved","best":%s}' % saved) is not None
    for cut in (line[:-9], b"", b"\0\0", b"Traceback", b"\xff", b"[1]"):
        assert attempt_files.parse_beat(cut) is None


def test_lock_probe_leaves_no_trace(tmp_path: Path) -> None:
    """A missing lock is free and stays missing; a held one is not free; the probe keeps nothing."""
    assert attempt_files.lock_is_free(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with (tmp_path / "shim.lock").open("w") as lock:
        assert attempt_files.lock_is_free(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not attempt_files.lock_is_free(tmp_path)
    assert attempt_files.lock_is_free(tmp_path)


def test_start_time_of_a_process_with_an_odd_name(tmp_path: Path) -> None:
    """The start time is right for names with spaces and parentheses, and None for no process."""
    program = tmp_path / ") R 1 (a b"
    shutil.copy(shutil.which("sleep") or "", program)
    process = subprocess.Popen([program, "60"])
    seen = attempt_files.process_start_time(process.pid)
    assert seen == shim.start_time_of(process.pid)
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    assert ") R 1 (a b" in stat
    assert seen == int(stat[stat.rindex(")") + 2 :].split()[19])
    process.kill()
    process.wait()
    assert attempt_files.process_start_time(process.pid) is None


def test_boot_identity_is_stable() -> None:
    """Two looks give the same, and it tells both the boot and process 1."""
    boot_id, first = attempt_files.boot_identity()
    assert len(boot_id) == 36
    assert (boot_id, first) == attempt_files.boot_identity()
    assert first == attempt_files.process_start_time(1)


@pytest.fixture
def stranger():
    """Give a process that has nothing to do with any attempt."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_reused_number_is_never_signalled(stranger: subprocess.Popen[bytes]) -> None:
    """A process number with another start time gets no signal, from the daemon's side as from the shim's."""
    start_time = attempt_files.process_start_time(stranger.pid)
    assert start_time is not None
    assert attempt_files.signal_process(stranger.pid, start_time - 1, signal.SIGKILL) is False
    shim.signal_process(stranger.pid, start_time - 1, signal.SIGKILL)
    assert not ended(stranger.pid, 0.2)
    assert attempt_files.signal_process(stranger.pid, start_time, signal.SIGKILL) is True
    assert stranger.wait() == -signal.SIGKILL
    assert attempt_files.signal_process(stranger.pid, start_time, signal.SIGKILL) is False


@pytest.mark.parametrize("change", ["start_time", "boot_id", "pid1_start_time"])
def test_stranger_under_a_recorded_number_is_no_family(
    tmp_path: Path, stranger: subprocess.Popen[bytes], change: str
) -> None:
    """A started.json of another boot or another start time makes no stranger, and none of its children, ours."""
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    write_started(tmp_path, parent.pid, stranger.pid)
    honest = attempt_files.descendants_and_marked(tmp_path, stranger.pid, parent.pid)
    assert len(honest) == 2  # the trainer and its child: the record is believed where it is right
    wrong = {"start_time": 1, "boot_id": "another", "pid1_start_time": -1}
    record = json.loads((tmp_path / "started.json").read_text())
    (tmp_path / "started.json").write_text(json.dumps({**record, change: wrong[change], "shim_start_time": 1}))
    assert attempt_files.descendants_and_marked(tmp_path, stranger.pid, parent.pid) == []
    for pid, start_time in honest:
        assert is_alive(pid)
        attempt_files.signal_process(pid, start_time, signal.SIGKILL)
    parent.communicate()


def write_started(folder: Path, pid: int, shim_pid: int) -> None:
    """Write a started.json that is right about two processes."""
    boot_id, pid1_start_time = attempt_files.boot_identity()
    started = Started(
        shim_pid=shim_pid,
        shim_start_time=attempt_files.process_start_time(shim_pid) or 0,
        pid=pid,
        start_time=attempt_files.process_start_time(pid) or 0,
        boot_id=boot_id,
        pid1_start_time=pid1_start_time,
        started_at=0.0,
    )
    (folder / "started.json").write_bytes(msgspec.json.encode(started))


def test_marker_alone_finds_a_process(tmp_path: Path) -> None:
    """Without any record a process with exactly our marker is found, one with a longer path is not."""
    marked = subprocess.Popen(["sleep", "60"], env={"YOLO_SUPERVISOR_ATTEMPT_DIR": str(tmp_path)})
    other = subprocess.Popen(["sleep", "60"], env={"YOLO_SUPERVISOR_ATTEMPT_DIR": str(tmp_path / "0")})
    expected = [(marked.pid, attempt_files.process_start_time(marked.pid))]
    until(lambda: attempt_files.descendants_and_marked(tmp_path, 0, 0) == expected, "the marked one only")
    for process in (marked, other):
        process.kill()
        process.wait()
    assert attempt_files.descendants_and_marked(tmp_path, 0, 0) == []
