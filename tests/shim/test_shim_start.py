"""Starting: once per directory, under the lock, and never without a durable record."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from real_attempt import Attempt, children_of, ended, fill, is_alive, read_json, until

from supervisor import attempt_files, shim

pytestmark = pytest.mark.e2e
WAIT_FOR_FILE = "import os, select\nwhile not os.path.exists('go'): select.select([], [], [], 0.01)\n"


def test_training_survives_the_kill_of_whoever_started_it(attempt: Attempt) -> None:
    """SIGKILL to the daemon's whole process group reaches neither shim nor training, and the exit is recorded."""
    attempt.write_launch([sys.executable, "-c", WAIT_FOR_FILE + "raise SystemExit(7)"])
    code = "import subprocess, sys; subprocess.run(sys.argv[1:]); print('started', flush=True); sys.stdin.read()"
    daemon = subprocess.Popen(
        [sys.executable, "-c", code, *attempt.command()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == b"started\n"
    os.killpg(daemon.pid, signal.SIGKILL)  # our own child, not reaped yet: its number cannot be another's
    daemon.communicate()
    started = attempt.started
    assert is_alive(started.pid)
    assert os.getsid(started.shim_pid) == started.shim_pid
    (attempt.dir / "go").touch()
    assert attempt.finish().code == 7


def test_started_names_the_processes_so_that_they_can_be_known_again(attempt: Attempt) -> None:
    """started.json holds pid, start time and boot of shim and trainer exactly as the kernel tells them."""
    started = attempt.launch(["sleep", "60"])
    assert started.shim_start_time == attempt_files.process_start_time(started.shim_pid)
    assert started.start_time == attempt_files.process_start_time(started.pid)
    assert (started.boot_id, started.pid1_start_time) == attempt_files.boot_identity()
    assert started.host == os.uname().nodename
    assert read_json(attempt.dir / "started.json")["version"] == 1
    assert children_of(started.shim_pid) == [started.pid]
    assert not attempt_files.lock_is_free(attempt.dir)


def test_directory_launches_once(attempt: Attempt) -> None:
    """A second start is refused with 17, while the first runs and after it ended, and launches nothing."""
    attempt.python("open('count', 'a').write('x')\n" + WAIT_FOR_FILE)
    second = attempt.start()
    assert second.returncode == 17
    assert "started.json" in second.stderr
    assert second.stderr.count("\n") == 1
    (attempt.dir / "go").touch()
    attempt.finish()
    (attempt.dir / "started.json").unlink()
    third = attempt.start()
    assert third.returncode == 17
    assert "exit.json" in third.stderr
    assert (attempt.dir / "count").read_text() == "x"


def test_start_without_standard_files(attempt: Attempt) -> None:
    """A starter that was given no standard input, output and errors launches and records as any other."""
    attempt.write_launch(["sh", "-c", "echo heard; exit 6"])
    closed = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh"]
    assert subprocess.run([*closed, *attempt.command()], check=False).returncode == 0
    assert attempt.finish().code == 6
    assert attempt.log() == "heard\n"


def test_starter_killed_meanwhile_does_not_stop_the_attempt() -> None:
    """The shim's answer to a starting process that was killed goes nowhere, and the shim goes on."""
    answer, report = os.pipe()
    os.close(answer)
    shim.tell(report, 0, "")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(report)


def test_of_many_starters_at_once_one_launches(attempt: Attempt) -> None:
    """Eight starters of one directory at the same time: one training, seven refusals."""
    attempt.write_launch([sys.executable, "-c", "open('count', 'a').write('x')\n" + WAIT_FOR_FILE])
    starters = [subprocess.Popen(attempt.command(), stderr=subprocess.DEVNULL) for _ in range(8)]
    codes = sorted(starter.wait() for starter in starters)
    assert codes[0] == 0
    assert set(codes[1:]) <= {17, 18}
    (attempt.dir / "go").touch()
    attempt.finish()
    assert (attempt.dir / "count").read_text() == "x"


def test_held_lock_is_refused(attempt: Attempt) -> None:
    """A lock that somebody keeps means that something of this attempt may live: 18, nothing launched."""
    attempt.write_launch(["touch", "launched"])
    with (attempt.dir / "shim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        starter = attempt.start()
    assert starter.returncode == 18
    assert not (attempt.dir / "started.json").exists()
    assert not (attempt.dir / "launched").exists()


def test_start_recorded_while_waiting_for_the_lock_is_seen(attempt: Attempt) -> None:
    """A starter that got the lock only after another attempt was recorded here launches nothing: 17."""
    attempt.write_launch(["touch", "launched"])
    with (attempt.dir / "shim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        starter = subprocess.Popen(attempt.command(), stderr=subprocess.DEVNULL)
        until(lambda: has_open(starter.pid, attempt.dir / "shim.lock"), "the starter waits for the lock")
        (attempt.dir / "started.json").write_text("{}")
    assert starter.wait() == 17
    (attempt.dir / "started.json").unlink()
    assert not (attempt.dir / "launched").exists()


def has_open(pid: int, file: Path) -> bool:
    """Tell whether the process has that file open."""
    try:
        return any(entry.readlink() == file for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # a file was closed while we looked


def test_probe_of_the_lock_refuses_no_start(attempt: Attempt) -> None:
    """The daemon's short shared probe of the lock, at the very moment of a start, does not spoil the start."""
    attempt.write_launch(["true"])
    with (attempt.dir / "shim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        release = threading.Timer(0.2, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        release.start()
        starter = attempt.start()
        release.join()
    assert starter.returncode == 0
    assert attempt.finish().code == 0


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        '{"version": 2, "argv": ["true"], "env": {}, "cwd": "/", "umask": 0, "log_max_bytes": 0}',
        '{"version": 1, "argv": [], "env": {}, "cwd": "/", "umask": 0, "log_max_bytes": 0}',
        '{"version": 1, "argv": ["true\\u0000"], "env": {}, "cwd": "/", "umask": 0, "log_max_bytes": 0}',
        '{"version": 1, "argv": ["true"], "env": {"A=B": "c"}, "cwd": "/", "umask": 0, "log_max_bytes": 0}',
        '{"version": 1, "argv": ["true"], "env": {"A": 1}, "cwd": "/", "umask": 0, "log_max_bytes": 0}',
        '{"version": 1, "argv": ["true"], "env": {}, "cwd": "/", "umask": 0}',
        "[" * 100_000,
    ],
)
def test_bad_launch_file_is_refused(attempt: Attempt, text: str | None) -> None:
    """A missing or wrong launch.json: exit 2, one line that names the file, nothing launched."""
    if text is not None:
        (attempt.dir / "launch.json").write_text(text)
    starter = attempt.start()
    assert starter.returncode == 2
    assert "launch.json" in starter.stderr
    assert starter.stderr.count("\n") == 1
    assert not (attempt.dir / "started.json").exists()


@pytest.mark.parametrize("arguments", [[], ["relative/path"], ["/a", "/b"], ["/no/such/directory"]])
def test_wrong_use_is_refused(arguments: list[str], attempt: Attempt) -> None:
    """No directory, a relative one, two or a missing one: exit 2 and one line."""
    command = [*attempt.command()[:-1], *arguments]
    starter = subprocess.run(command, capture_output=True, text=True, check=False)
    assert starter.returncode == 2
    assert starter.stderr.count("\n") == 1


def test_killed_before_the_record_leaves_no_training(attempt: Attempt) -> None:
    """A shim killed between fork and a durable started.json leaves no process, no lock and no trainer instruction."""
    attempt.write_launch(["touch", "launched"])
    os.mkfifo(attempt.dir / "started.json.tmp")  # writing the record blocks here until somebody reads
    starter = subprocess.Popen(attempt.command(), stderr=subprocess.PIPE)
    shim_pid, waiting = forked_at_gate(attempt)
    start_time = attempt_files.process_start_time(shim_pid) or 0
    assert attempt_files.signal_process(shim_pid, start_time, signal.SIGKILL)
    assert ended(waiting)
    assert starter.wait() == 70
    assert b"ended before its start was durable" in starter.communicate()[1]
    until(lambda: attempt_files.lock_is_free(attempt.dir), "the lock is free")
    assert not (attempt.dir / "launched").exists()
    assert attempt_files.read_started(attempt.dir) is None


def forked_at_gate(attempt: Attempt) -> tuple[int, int]:
    """Wait for the shim and its waiting child; both have the shim's command line, the child is the leaf."""
    word = bytes(attempt.dir)
    found: list[int] = []

    def both_are_there() -> bool:
        processes = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
        found[:] = [int(entry.name) for entry in processes if carries_command(entry, word)]
        return any(set(children_of(pid)) & set(found) and os.getsid(pid) == pid for pid in found)

    until(both_are_there, "the shim has forked")
    shim_pid = next(pid for pid in found if os.getsid(pid) == pid)
    return shim_pid, children_of(shim_pid)[0]


def carries_command(process: Path, word: bytes) -> bool:
    """Tell whether a process was started with that argument."""
    try:
        return word in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def test_full_disk_refuses_the_start(small_disk: Path) -> None:
    """Where started.json cannot be written nothing is launched, 73 says so, and a later start succeeds."""
    attempt = Attempt(small_disk / "1")
    attempt.write_launch(["true"])
    filler = fill(small_disk)
    starter = attempt.start()
    assert starter.returncode == 73
    assert "No space left" in starter.stderr
    assert attempt_files.read_started(attempt.dir) is None
    assert attempt_files.lock_is_free(attempt.dir)
    filler.unlink()
    assert attempt.start().returncode == 0
    assert attempt.finish().code == 0


def test_record_that_cannot_be_written_ends_the_waiting_child(attempt: Attempt) -> None:
    """started.json fails behind the fork: the child ends at its gate, 73, and the directory may launch later."""
    attempt.write_launch(["touch", "launched"])
    (attempt.dir / "started.json.tmp").mkdir()
    assert attempt.start().returncode == 73
    assert attempt_files.lock_is_free(attempt.dir)
    assert not (attempt.dir / "launched").exists()
    (attempt.dir / "started.json.tmp").rmdir()
    assert attempt.start().returncode == 0
    assert attempt.finish().code == 0
    assert (attempt.dir / "launched").exists()


PROCESS_ONE = """
import os, subprocess, sys, json
assert os.getpid() == 1
subprocess.run(sys.argv[1:], check=True)
try:
    while True:
        os.wait()  # the shim was given to us, as to every process 1
except ChildProcessError:
    print("all reaped")
"""


def test_works_below_process_one_of_a_container(attempt: Attempt) -> None:
    """In a PID namespace whose process 1 started it, the shim is adopted, reaped and leaves a whole record."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a PID namespace")
    attempt.write_launch(["sh", "-c", "(sleep 50 &) ; (setsid sleep 50 &) ; exit 4"])
    command = [*namespace, sys.executable, "-c", PROCESS_ONE, *attempt.command()]
    inside = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert inside.stdout == "all reaped\n"
    assert read_json(attempt.dir / "exit.json")["code"] == 4
    (attempt.dir / "started.json").unlink()  # its numbers are of another namespace
