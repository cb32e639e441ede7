"""An autopsy is bounded in time and size, and answers whatever cannot be seen or stored."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import msgspec
import pytest

from supervisor import attempt_files, layout
from supervisor.core.actions import Autopsy, Keep
from supervisor.core.events import AutopsyDone
from supervisor.core.model import Job
from supervisor.effects import autopsy, dispatch, process_look
from supervisor.effects.autopsy import Autopsist
from supervisor.machine import mounts, stacks

ACTION = Autopsy(
    key="k", run="truck@1", attempt=2, job=Job(name="truck", project="p", revision="r"), reason="stands still"
)


@pytest.fixture
def trainer():
    """A process that waits for a word which never comes."""
    code = "def train():\n    print('ready', flush=True)\n    input()\ntrain()"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


@pytest.fixture
def directory(tmp_path, trainer):
    """The folder of its attempt."""
    made = layout.run_directory(tmp_path, "p", "truck").attempt(2)
    made.root.mkdir(parents=True)
    made.log.write_bytes(
        "".join(f"line {number}\n" for number in range(1000)).encode() + b"\x1b[1mlast\x1b[0m\r\n\xff\n"
    )
    record(made, trainer)
    return made


def record(directory, pid, **changes):
    """Write started.json."""
    boot_id, pid1_start_time = attempt_files.boot_identity()
    start_time = attempt_files.process_start_time(pid)
    content = {"shim_pid": 1, "shim_start_time": 0, "pid": pid, "start_time": start_time, "boot_id": boot_id}
    content |= {"pid1_start_time": pid1_start_time, "started_at": 1.0, **changes}
    directory.started.write_bytes(msgspec.json.encode(content))


def examine(tmp_path, limit_s=10.0):
    """The answer, and the seconds that it took."""
    begun = time.monotonic()
    [done] = Autopsist(tmp_path, lambda: 5.0, limit_s=limit_s)(ACTION)
    assert isinstance(done, AutopsyDone)
    assert (done.run, done.attempt, done.at) == ("truck@1", 2, 5.0)
    return done, time.monotonic() - begun


def stored(directory, name):
    """One of the JSON files."""
    return msgspec.json.decode((directory.autopsy / name).read_bytes())


def test_what_is_stored(tmp_path, directory, trainer):
    """A summary, all processes with their numbers, a text of stacks each, the last 200 lines of the log."""
    done, _ = examine(tmp_path)
    assert done.directory == str(directory.autopsy)
    summary = stored(directory, "summary.json")
    assert (summary["version"], summary["reason"], summary["summary"]) == (1, "stands still", done.summary)
    assert summary["gpus"] == "not looked at"
    [own] = stored(directory, "processes.json")
    assert own["used"]["rss_bytes"] > 0
    assert (own["used"]["threads"], own["cpu_s_meanwhile"]) == (1, 0.0)
    assert (own["pid"], own["complete"]) == (trainer, True)
    assert "python" in own["command"]
    assert "train (" in (directory.autopsy / f"stacks-{trainer}.txt").read_text()
    lines = (directory.autopsy / "log.txt").read_text().splitlines()
    assert (len(lines), lines[-2:]) == (200, ["last", "\ufffd"])


def test_an_older_autopsy_of_the_attempt_is_replaced(tmp_path, directory):
    """Stacks of processes that are gone do not lie beside the new ones."""
    directory.autopsy.mkdir()
    (directory.autopsy / "stacks-1.txt").write_text("old")
    examine(tmp_path)
    assert not (directory.autopsy / "stacks-1.txt").exists()


@pytest.mark.parametrize("broken", ["gone", "other boot", "ended", "no record"])
def test_an_attempt_that_is_not_there(tmp_path, directory, trainer, broken):
    """It is answered: nothing waits for an autopsy that cannot be."""
    if broken == "gone":
        directory.started.unlink()
    elif broken == "other boot":
        record(directory, trainer, boot_id="another")
    elif broken == "ended":
        record(directory, trainer, start_time=1)
    else:
        directory.started.write_bytes(b"{")
    done, _ = examine(tmp_path)
    wanted = "could not be looked at" if broken == "no record" else "no process of the training was there"
    assert wanted in done.summary


def test_a_folder_that_cannot_be_written_costs_only_the_texts(tmp_path, directory):
    """A full or a foreign disk: the summary is told all the same, with the reason, and it is not tried again."""
    directory.autopsy.write_text("a file is in the way")
    done, _ = examine(tmp_path)
    assert done.directory == ""
    assert done.summary.endswith("(the stacks could not be stored: File exists)")


@pytest.mark.parametrize("probe", ["dump", "kernel_stack", "open_files"])
def test_a_process_that_cannot_be_looked_at_in_time(tmp_path, directory, trainer, monkeypatch, probe):
    """One probe hangs, as where the memory of a process is locked in the kernel: told, stored, and never waited for."""
    gate = threading.Event()

    def hang(_pid, *_):
        gate.wait(60)
        return stacks.Dump() if probe == "dump" else None

    monkeypatch.setattr(stacks, probe, hang)
    done, took_s = examine(tmp_path, limit_s=1.0)
    gate.set()
    assert took_s < 3.0
    assert done.summary.startswith("main process ")
    assert stored(directory, "summary.json")["incomplete"] == [trainer]


def test_a_run_directory_that_hangs(tmp_path, directory, monkeypatch):
    """The log lies on a server that does not answer: the summary is told in time."""
    gate = threading.Event()
    monkeypatch.setattr(autopsy, "log_lines", lambda _: gate.wait(60) and [])
    done, took_s = examine(tmp_path, limit_s=1.0)
    gate.set()
    assert took_s < 3.0
    assert (done.directory, done.summary.startswith("main process ")) == ("", True)


def test_a_huge_training_is_bounded(tmp_path, directory, trainer, monkeypatch):
    """More processes than are looked at are a number; the trainer is among those that are."""
    monkeypatch.setattr(autopsy, "PROCESSES", 1)
    monkeypatch.setattr(attempt_files, "descendants", lambda pid, start: {5: (pid, 1), pid: (0, start), 6: (pid, 2)})
    examine(tmp_path)
    summary = stored(directory, "summary.json")
    assert (summary["processes"], summary["left_out"]) == ([trainer], 2)


TABLE = (
    mounts.Entry(1, "8:1", "/", "/dev/sda1", "ext4"),
    mounts.Entry(2, "0:50", "/nas", "server:/truck", "nfs4"),
    mounts.Entry(3, "8:2", "/nas/local", "/dev/sdb1", "xfs"),
    mounts.Entry(4, "0:51", "/cloud", "bucket", "fuse.s3fs"),
    mounts.Entry(5, "0:52", "/over", "/dev/sdc1", "ext4"),
    mounts.Entry(6, "0:53", "/over", "server:/over", "cifs"),
)


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/nas/images/1.jpg", "nfs4 mount /nas"),
        ("/nas", "nfs4 mount /nas"),
        ("/nasty/1.jpg", ""),
        ("/nas/local/1.jpg", ""),
        ("/cloud/1.jpg", "fuse.s3fs mount /cloud"),
        ("/over/1.jpg", "cifs mount /over"),
        ("/home/a/1.jpg", ""),
        ("pipe:[4711]", ""),
        ("", ""),
    ],
)
def test_files_on_a_server_elsewhere_are_told_by_their_name_alone(path, mount):
    """The mount is the one that covers the path; of two at one place the later. Nothing of the path is touched."""
    assert process_look.slow_mount(path, TABLE) == mount


def test_an_autopsy_has_threads_of_its_own():
    """A kill waits for it, and it waits for no check and no copy; a bug in it is an answer too."""
    lane = dispatch.LANE_OF[Autopsy]
    assert [kind for kind, name in dispatch.LANE_OF.items() if name == lane] == [Autopsy]
    assert dispatch.LANE_OF[Keep] != lane
    failed = dispatch.failure(ACTION, "a bug", 7.0)
    assert (type(failed), failed.summary, failed.at) == (AutopsyDone, "the autopsy failed: a bug", 7.0)
