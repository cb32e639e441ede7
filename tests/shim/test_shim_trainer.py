"""The trainer as the shim starts it, and what is recorded of its end."""

from __future__ import annotations

import os
import resource
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_attempt import Attempt, ended, fill, is_alive, read_json

from supervisor import attempt_files

pytestmark = pytest.mark.e2e
WAIT_FOR_FILE = "import os, select\nwhile not os.path.exists('go'): select.select([], [], [], 0.01)\n"


@pytest.mark.parametrize("code", [0, 1, 3, 75, 127, 255])
def test_exit_code_is_recorded(attempt: Attempt, code: int) -> None:
    """The code that the trainer ends with stands in exit.json, and no signal."""
    attempt.launch(["sh", "-c", f"exit {code}"])
    record = attempt.finish()
    assert (record.code, record.signal, record.signal_name, record.launch_error) == (code, None, None, None)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE", "SIGXFSZ", "SIGRTMIN"])
def test_signal_is_recorded(attempt: Attempt, name: str) -> None:
    """The signal that ends the trainer stands in exit.json by number and name, and no code."""
    number = int(signal.Signals[name])
    attempt.launch(["sh", "-c", f"kill -{number} $$; sleep 9"])
    record = attempt.finish()
    assert (record.code, record.signal, record.signal_name) == (None, number, name)


def test_use_of_resources_is_recorded(attempt: Attempt) -> None:
    """exit.json holds times, processor seconds and the memory peak in bytes, and the kernel's OOM count if known."""
    before = time.time()
    attempt.python(
        "b = bytearray(60 << 20)\nimport time\nt = time.process_time()\nwhile time.process_time() < t + .2: pass"
    )
    record = attempt.finish()
    assert before <= record.started_at <= record.ended_at <= time.time()
    assert 0.15 < record.rusage.user_s + record.rusage.system_s < 5
    assert 60 << 20 < record.rusage.max_rss_bytes < 200 << 20
    assert record.oom_kills in (0, None)
    assert read_json(attempt.dir / "exit.json")["version"] == 1


def test_environment_is_exactly_the_given_one(attempt: Attempt) -> None:
    """Nothing of the starter's environment arrives, everything in launch.json does, Chinese and newlines too."""
    odd = {"名字": "卡车 检测", "LINES": "a\nb=c", "EMPTY": ""}
    attempt.write_launch(["env", "-0"], **odd)
    attempt.start(env={**os.environ, "LEAKED": "1", "LC_ALL": "C"})
    attempt.finish()
    seen = dict(entry.split("=", 1) for entry in attempt.log().split("\0") if entry)
    path = "/usr/local/bin:/usr/bin:/bin"
    assert seen == {"PATH": path, "YOLO_SUPERVISOR_ATTEMPT_DIR": str(attempt.dir), **odd}


def test_signals_of_the_trainer_are_as_new(attempt: Attempt) -> None:
    """Ignored and blocked signals of the starter or of Python do not reach the trainer."""
    attempt.write_launch(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])

    def spoil() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})

    assert attempt.start(preexec_fn=spoil).returncode == 0
    assert attempt.finish().code == 0
    masks = dict(line.split(":\t") for line in attempt.log().splitlines())
    of_the_c_library = 1 << 31 | 1 << 32  # signals 32 and 33: no program can set these, they are as they came
    assert {name: int(mask, 16) & ~of_the_c_library for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}


def test_trainer_has_its_own_files_group_and_place(attempt: Attempt) -> None:
    """Standard input is empty, output and errors are the log, no other file is open; group, cwd, umask as promised."""
    code = (
        "import os, sys\n"
        "print(sorted(os.listdir('/proc/self/fd'), key=int)[:-1], os.read(0, 1), os.getpgrp() == os.getpid())\n"
        "print(os.getcwd(), oct(os.umask(0)), file=sys.stderr)"
    )
    attempt.write_launch([sys.executable, "-c", code])
    with Path("/dev/null").open() as leaked:
        attempt.start(pass_fds=[leaked.fileno()])
    attempt.finish()
    errors, out = attempt.log().splitlines()  # errors are not buffered
    assert out == "['0', '1', '2'] b'' True"
    assert errors == f"{attempt.dir} 0o27"


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["/no/such/python", "x"], 127, "/no/such/python"),
        (["no-such-command"], 127, "no-such-command"),
        (["/etc/passwd"], 126, "Permission denied"),
        (["/usr"], 126, "denied"),
        (["true", "x" * 3_000_000], 126, "too long"),
    ],
)
def test_failed_exec_is_recorded(attempt: Attempt, argv: list[str], code: int, text: str) -> None:
    """A program that cannot be executed: the start is good, exit.json says 127 or 126 and why."""
    attempt.launch(argv)
    record = attempt.finish()
    assert record.code == code
    assert record.launch_error is not None
    assert text in record.launch_error


def test_missing_directory_is_a_failed_exec(attempt: Attempt) -> None:
    """A cwd that is not there is recorded like a program that cannot be executed, and named."""
    attempt.launch(["true"], cwd=attempt.dir / "没有")
    record = attempt.finish()
    assert record.code == 127
    assert "cwd" in (record.launch_error or "")
    assert "没有" in (record.launch_error or "")


def test_program_is_searched_in_the_given_path(attempt: Attempt) -> None:
    """argv[0] without a slash is found by the PATH of launch.json, behind folders that lack it."""
    tool = attempt.dir / "my-python"
    tool.write_text("#!/bin/sh\necho mine $0\n")
    tool.chmod(0o755)
    attempt.launch(["my-python"], PATH=f"/no/such:{attempt.dir}:/usr/bin")
    assert attempt.finish().code == 0
    assert attempt.log() == f"mine {tool}\n"


def test_signals_to_the_shim_harm_no_training(attempt: Attempt) -> None:
    """TERM, INT, HUP and their like to the shim change nothing: it records the exit of the training that goes on."""
    started = attempt.python(WAIT_FOR_FILE + "raise SystemExit(5)")
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGPIPE,
        signal.SIGUSR1,
    ):
        assert attempt_files.signal_process(started.shim_pid, started.shim_start_time, number)
    assert not ended(started.shim_pid, 0.2)
    assert is_alive(started.pid)
    (attempt.dir / "go").touch()
    assert attempt.finish().code == 5


def test_exit_is_recorded_at_once(tmp_path: Path) -> None:
    """From the trainer's death to a readable exit.json: below 50 ms in the median."""
    delays = []
    for number in range(15):
        attempt = Attempt(tmp_path / str(number))
        started = attempt.launch(["sleep", "60"])
        attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
        assert ended(started.pid)
        dead_at = time.monotonic()
        while not (attempt.dir / "exit.json").exists():
            select.select([], [], [], 0.0002)
            assert time.monotonic() < dead_at + 5
        delays.append(time.monotonic() - dead_at)
        attempt.finish()
    print(f"exit.json after {statistics.median(delays) * 1000:.1f} ms in the median, {max(delays) * 1000:.1f} at most")
    assert statistics.median(delays) < 0.05


def test_shim_is_small(attempt: Attempt) -> None:
    """A waiting shim holds less than 12 MiB, also after it looked at its log for a while."""
    attempt.write_launch(["sleep", "60"], log_max_bytes=1 << 20)
    attempt.start()
    select.select([], [], [], 1)
    rollup = Path(f"/proc/{attempt.started.shim_pid}/smaps_rollup").read_text()
    kib = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    print(f"shim: RSS {kib['Rss:'] / 1024:.1f} MiB, PSS {kib['Pss:'] / 1024:.1f} MiB")
    assert kib["Rss:"] < 12 * 1024


def test_waiting_shim_costs_nothing(attempt: Attempt) -> None:
    """A shim whose trainer is silent uses no processor time worth the name (no busy loop)."""
    attempt.write_launch(["sleep", "60"], log_max_bytes=1 << 20)
    attempt.start()
    stat = Path(f"/proc/{attempt.started.shim_pid}/schedstat")
    before = int(stat.read_text().split()[0])
    select.select([], [], [], 2)
    assert int(stat.read_text().split()[0]) - before < 10e6  # nanoseconds in 2 s


def test_exit_record_waits_for_a_way_to_be_written(attempt: Attempt) -> None:
    """While exit.json cannot be written the shim keeps the lock and what it knows, and writes it when it can."""
    started = attempt.python(WAIT_FOR_FILE + "raise SystemExit(9)")
    (attempt.dir / "exit.json.tmp").unlink()
    (attempt.dir / "exit.json.tmp").mkdir()
    (attempt.dir / "go").touch()
    assert ended(started.pid)
    assert not ended(started.shim_pid, 0.5)
    assert not attempt_files.lock_is_free(attempt.dir)
    assert attempt_files.read_exit(attempt.dir) is None
    (attempt.dir / "exit.json.tmp").rmdir()
    assert attempt.finish().code == 9


def test_full_disk_loses_no_exit(small_disk: Path) -> None:
    """A training that filled the disk with its log still gets its exit record: its blocks were kept from the start."""
    attempt = Attempt(small_disk / "1")
    attempt.launch(["sh", "-c", "cat /dev/zero; exit 3"])
    assert attempt.finish().code == 3
    assert os.statvfs(small_disk).f_bavail == 0


def test_exit_record_comes_when_the_full_disk_has_room_again(small_disk: Path) -> None:
    """Without kept blocks a full disk delays the record; room brings it, while the lock was held all the time."""
    attempt = Attempt(small_disk / "1")
    started = attempt.launch(["sleep", "60"])
    (attempt.dir / "exit.json.tmp").unlink()
    filler = fill(small_disk)
    attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
    assert not ended(started.shim_pid, 0.5)
    assert not (attempt.dir / "exit.json").exists()
    assert not attempt_files.lock_is_free(attempt.dir)
    filler.unlink()
    assert attempt.finish().signal == signal.SIGKILL


def test_removed_directory_does_not_keep_the_shim(attempt: Attempt, tmp_path: Path) -> None:
    """Where somebody deleted the attempt's directory nothing can be recorded: the shim ends with its training."""
    started = attempt.launch(["sleep", "60"], cwd=tmp_path)
    subprocess.run(["rm", "-r", attempt.dir], check=True)
    attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
    assert ended(started.shim_pid)


def test_moved_directory_gets_its_record(attempt: Attempt) -> None:
    """A run directory that is renamed while the training runs finds exit.json in its new place."""
    started = attempt.launch(["sleep", "60"])
    moved = attempt.dir.with_name("moved")
    attempt.dir.rename(moved)
    attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
    assert ended(started.shim_pid)
    record = attempt_files.read_exit(moved)
    assert record is not None
    assert record.signal_name == "SIGKILL"


def test_a_trainer_leaves_no_core_file(attempt: Attempt) -> None:
    """Whatever limit the daemon has, the trainer starts with 1 byte: for 0 a core_pattern that names a program gets it.

    A program may still ask for its hard limit.
    """
    attempt.write_launch([sys.executable, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"])
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    starter = attempt.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)))
    assert starter.returncode == 0
    attempt.finish()
    assert attempt.log().strip() == str((1 if hard else 0, hard))


def test_an_aborted_trainer_is_recorded_with_its_signal(attempt: Attempt) -> None:
    """SIGABRT, which leaves stacks, is an end like any other: exit.json names it."""
    attempt.python("import os; os.abort()")
    assert (attempt.finish().signal_name, list(attempt.dir.glob("core*"))) == ("SIGABRT", [])
