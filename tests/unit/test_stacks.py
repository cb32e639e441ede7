"""A look at a process from outside: Python stacks by py-spy or by a signal, never a signal that could kill."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from supervisor.machine import blocked_calls, stacks
from supervisor.runner import stacks as runner_stacks

WITHIN_S = 20.0
ENOUGH_S = 10.0
RUNNER_FILE = Path(runner_stacks.__file__)
READER = """
import sys
def imread(path):
    with open(path, "rb") as file:
        return file.read()
def train():
    print("ready", flush=True)
    imread(sys.argv[1])
"""
ARMED = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("armed", {str(RUNNER_FILE)!r})
armed = importlib.util.module_from_spec(spec)
spec.loader.exec_module(armed)
armed.arm(sys.argv[2], 0)
"""


@pytest.fixture
def fifo(tmp_path):
    """A file that nobody writes: whoever opens it waits for ever."""
    path = tmp_path / "img_0412.jpg"
    os.mkfifo(path)
    return path


@pytest.fixture
def start():
    """Start Python code and wait until it says that it is ready; it is killed afterwards."""
    begun = []

    def begin(code, *arguments):
        words = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        begun.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield begin
    for process in begun:
        process.kill()
        process.wait(WITHIN_S)
        process.stdout.close()


def until(look, what):
    """Return the first true answer of `look`."""
    deadline = time.monotonic() + WITHIN_S
    while not (answer := look()):
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.005)
    return answer


@pytest.fixture
def blocked(start, fifo):
    """A process that is blocked in the opening of the file."""
    process = start(f"{READER}\ntrain()", fifo)
    until(lambda: blocked_calls.blocked_call(process.pid).name == "openat", "it opens the file")
    return process


def armed_attempt(tmp_path, start, fifo, before=""):
    """A process that the runner armed for stacks by signal, blocked in the opening of the file."""
    attempt = tmp_path / "attempts" / "3"
    attempt.mkdir(parents=True)
    process = start(f"{ARMED}\n{before}\n{READER}\ntrain()", fifo, attempt)
    until(lambda: stacks.wchan(process.pid) == "wait_for_partner", "it opens the file")
    return process


def without_py_spy(monkeypatch):
    """A machine where py-spy is not installed."""
    monkeypatch.setattr(stacks, "_program", lambda: None)


def test_py_spy_tells_where_a_process_is(blocked):
    """All threads, innermost frame first; the process goes on as it was."""
    text = stacks.python_stacks(blocked.pid, ENOUGH_S)
    frames = text.partition(f"\nThread {blocked.pid} ")[2].splitlines()[1:]
    assert [frame.split(" (")[0].strip() for frame in frames if frame] == ["imread", "train", "<module>"]
    assert stacks.state(blocked.pid) == "S"
    assert stacks.dump(blocked.pid, ENOUGH_S).by == "py-spy"


def test_a_stopped_process_is_looked_at_too(blocked):
    """Nothing of it must run for that, and it stays stopped."""
    blocked.send_signal(signal.SIGSTOP)
    until(lambda: stacks.state(blocked.pid) == "T", "it stops")
    assert "imread" in stacks.python_stacks(blocked.pid, ENOUGH_S)
    assert stacks.state(blocked.pid) == "T"


def test_equal_stacks_are_equal_texts(blocked, start, fifo):
    """Two looks at one process agree, and so do those at two processes that stand at the same place."""
    one = stacks.comparable(stacks.python_stacks(blocked.pid, ENOUGH_S))
    assert stacks.comparable(stacks.python_stacks(blocked.pid, ENOUGH_S)) == one
    other = start("import time\ndef train():\n    print('ready', flush=True)\n    time.sleep(100)\ntrain()")
    assert stacks.comparable(stacks.python_stacks(other.pid, ENOUGH_S)) != one


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ('Thread 7 (idle): "MainThread"\n    a (x.py:1)', 'Thread 8 (active): "MainThread"\n    a (x.py:1)', True),
        ('Thread 7 (idle): "M"\n    a (x.py:1)', 'Thread 7 (idle): "M"\n    a (x.py:2)', False),
        ("Thread 0x01 (most recent call first):\n  File a", "Current thread 0x02 (most recent call first):\n  File a", True),
        ("Thread 1 (idle)\n    a (x:1)\nThread 2 (idle)\n    b (x:1)", "Thread 2 (idle)\n    b (x:1)\nThread 1 (idle)\n    a (x:1)", True),
        ("Thread 1 (idle)\n    a (x:1)", "Thread 1 (idle)\n    a (x:1)\nThread 2 (idle)\n    b (x:1)", False),
        ("Process 1: python -c\n    b\nPython v3\n\nThread 1 (idle)\n    a (x:1)", "Process 2: python\nPython v3\n\nThread 1 (idle)\n    a (x:1)", True),
    ],
)  # fmt: skip
def test_what_counts_for_equal_stacks(before, after, same):
    """Frames count, and how many threads there are; numbers, addresses, states and the order of threads do not."""
    assert (stacks.comparable(before) == stacks.comparable(after)) is same


def test_without_py_spy_the_training_is_asked_by_the_signal(tmp_path, start, fifo, monkeypatch):
    """What its faulthandler adds to the file is what we get, and not what stood there before."""
    without_py_spy(monkeypatch)
    process = armed_attempt(tmp_path, start, fifo)
    first = stacks.dump(process.pid, ENOUGH_S)
    assert (first.by, first.text.count("imread")) == ("faulthandler", 1)
    second = stacks.dump(process.pid, ENOUGH_S)
    assert second.text.count("imread") == 1
    assert stacks.comparable(first.text) == stacks.comparable(second.text)
    assert process.poll() is None


def test_processes_that_share_a_file_are_asked_one_after_the_other(tmp_path, start, fifo, monkeypatch):
    """Dataloader workers write into the file of their rank: each answer is one dump."""
    without_py_spy(monkeypatch)
    process = armed_attempt(tmp_path, start, fifo)
    found = []
    looks = [threading.Thread(target=lambda: found.append(stacks.dump(process.pid, ENOUGH_S))) for _ in range(3)]
    for look in looks:
        look.start()
    for look in looks:
        look.join()
    assert [dump.text.count("imread") for dump in found] == [1, 1, 1]


def test_a_process_that_was_not_armed_gets_no_signal(blocked, monkeypatch):
    """The signal would kill it. It is told why there are no stacks."""
    without_py_spy(monkeypatch)
    dump = stacks.dump(blocked.pid, ENOUGH_S)
    assert (dump.text, dump.by) == ("", "")
    assert dump.refused == "py-spy is not installed; it does not answer the signal for stacks"
    assert stacks.python_stacks(blocked.pid, ENOUGH_S) is None
    assert blocked.poll() is None


def test_a_handler_of_somebody_else_is_not_called(tmp_path, start, fifo, monkeypatch):
    """Who catches that signal for a purpose of his own has no file of ours open, and is left alone."""
    without_py_spy(monkeypatch)
    own = f"import signal, os\nsignal.signal({int(stacks.SIGNAL)}, lambda *_: os._exit(3))\n"
    process = start(f"{own}{READER}\ntrain()", fifo)
    assert stacks.python_stacks(process.pid, ENOUGH_S) is None
    assert process.poll() is None


def test_a_stopped_process_is_not_asked(tmp_path, start, fifo, monkeypatch):
    """It cannot answer: that is said at once, and no signal waits for the day when it goes on."""
    without_py_spy(monkeypatch)
    process = armed_attempt(tmp_path, start, fifo)
    process.send_signal(signal.SIGSTOP)
    until(lambda: stacks.state(process.pid) == "T", "it stops")
    assert "takes no signal" in stacks.dump(process.pid, ENOUGH_S).refused
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    assert int(pending.split()[1], 16) == 0


def test_both_sides_mean_the_same_signal():
    """The runner and the daemon name it each for itself."""
    assert stacks.SIGNAL == runner_stacks.SIGNAL


@pytest.mark.parametrize("ends", [True, False])
def test_a_look_ends_in_time(tmp_path, blocked, monkeypatch, ends):
    """A py-spy that hangs, even one that does not die of SIGKILL, costs the time given to it and half a second."""
    lazy = tmp_path / "py-spy"
    lazy.write_text("#!/bin/sh\nexec sleep 100\n")
    lazy.chmod(0o755)
    monkeypatch.setattr(stacks, "_program", lambda: str(lazy))
    left = []
    if not ends:
        monkeypatch.setattr(subprocess.Popen, "kill", lambda process: left.append(process))  # noqa: PLW0108 - bound late
    begun = time.monotonic()
    dump = stacks.dump(blocked.pid, 0.2)
    took_s = time.monotonic() - begun
    monkeypatch.undo()
    assert bool(left) is not ends
    for process in left:
        process.kill()
        process.communicate()
    assert dump.refused == "py-spy: no answer in time"
    assert 0.2 <= took_s < 0.2 + 5 * stacks.KILLED_S


def test_what_is_no_python_has_no_stacks(start, fifo):
    """A shell, a process that is gone: None, without an error."""
    shell = subprocess.Popen(["cat", str(fifo)])
    try:
        assert stacks.python_stacks(shell.pid, ENOUGH_S) is None
        assert stacks.dump(shell.pid, ENOUGH_S).refused.startswith("py-spy: ")
    finally:
        shell.kill()
        shell.wait()
    assert stacks.python_stacks(shell.pid, ENOUGH_S) is None
    assert (stacks.threads(shell.pid), stacks.state(shell.pid), stacks.wchan(shell.pid)) == ((), "", "")
    assert (stacks.kernel_stack(shell.pid), stacks.open_files(shell.pid)) == (None, None)
    assert blocked_calls.blocked_call(shell.pid) == blocked_calls.Call()


def test_threads_are_told_with_their_states(start):
    """The main thread comes first, whatever the others are."""
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(100,)).start()\nprint('ready', flush=True)\nwhile True: pass"
    process = start(code)
    until(lambda: [one.state for one in stacks.threads(process.pid)] == ["R", "S"], "one computes, one sleeps")
    assert stacks.threads(process.pid)[0].tid == process.pid


@pytest.mark.parametrize(
    ("code", "name", "path"),
    [
        ("open(sys.argv[1])", "openat", "{fifo}"),
        ("os.chdir(os.path.dirname(sys.argv[1])); open(os.path.basename(sys.argv[1]))", "openat", "{fifo}"),
        ("os.read(os.open(sys.argv[1], os.O_RDWR), 10)", "read", "{fifo}"),
        ("os.open(os.path.basename(sys.argv[1]), os.O_RDONLY, dir_fd=os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY))",
         "openat", "{fifo}"),
        ("time.sleep(100)", "clock_nanosleep", ""),
        ("threading.Lock().acquire() and (l := threading.Lock()).acquire() and l.acquire()", "futex", ""),
    ],
)  # fmt: skip
def test_the_blocked_call_names_its_file(start, fifo, code, name, path):
    """Opened by any name or read: the path is whole; a lock and a sleep have none."""
    process = start(f"import os, sys, threading, time\nprint('ready', flush=True)\n{code}", fifo)
    call = until(
        lambda: (found := blocked_calls.blocked_call(process.pid)).name == name and found,
        lambda: str(blocked_calls.blocked_call(process.pid)),
    )
    assert call.path == path.format(fifo=fifo)


def test_a_running_process_is_in_no_call(start):
    """It is not blocked."""
    process = start("print('ready', flush=True)\nwhile True: pass")
    until(lambda: blocked_calls.blocked_call(process.pid) == blocked_calls.Call(), "it runs")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_what_is_denied_is_told_and_no_error(start, fifo):
    """Another user's process: no stacks, no files, no call; each says so."""
    process = start(f"{READER}\ntrain()", fifo)
    answer, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        call = blocked_calls.blocked_call(process.pid)
        said = (
            call.denied,
            stacks.kernel_stack(process.pid),
            stacks.open_files(process.pid),
            stacks.state(process.pid),
        )
        os.write(tell, repr((said, stacks.dump(process.pid, ENOUGH_S))).encode())
        os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    with os.fdopen(answer) as file:
        said = file.read()
    assert said.startswith("((True, None, None, 'S'), Dump(text='', by='', refused='py-spy")
    assert process.poll() is None


def test_a_disk_that_does_not_answer_holds_up_nobody(tmp_path, start, fifo, monkeypatch):
    """The file of stacks lies on a dead mount: the look ends in time, and other trainings are asked meanwhile."""
    without_py_spy(monkeypatch)
    process = armed_attempt(tmp_path, start, fifo)
    other_home = tmp_path / "other"
    other_home.mkdir()
    other = armed_attempt(other_home, start, fifo)
    dead, real = threading.Event(), Path.stat

    def stat(path, **options):
        if path.name == "stacks" and other_home not in path.parents:
            dead.wait(WITHIN_S)
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    begun = time.monotonic()
    assert "no answer within" in stacks.dump(process.pid, 0.2).refused
    assert time.monotonic() - begun < 5
    assert "imread" in stacks.dump(other.pid, ENOUGH_S).text
    dead.set()
    until(lambda: not stacks._asking, "the look that was left behind ends")
    assert (tmp_path / "attempts/3/stacks").read_text() == ""  # too late for a signal


def test_who_does_not_catch_the_signal_any_more_gets_none(tmp_path, start, fifo, monkeypatch):
    """Between the look and its turn the training may have executed another program: the signal would kill that."""
    without_py_spy(monkeypatch)
    process = armed_attempt(tmp_path, start, fifo)
    answers = iter((True, False))
    monkeypatch.setattr(stacks.attempt_files, "catches", lambda *_: next(answers))
    assert stacks.dump(process.pid, ENOUGH_S).refused.endswith("it does not answer the signal for stacks")
    assert (tmp_path / "attempts/3/stacks").read_text() == ""
    assert process.poll() is None
