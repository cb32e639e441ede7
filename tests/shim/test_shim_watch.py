"""The watcher: a training that a person started is looked at, never signalled, and its end is recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_attempt import SHIM, TOY, Attempt, ended, is_alive, read_json, until

from supervisor import attempt_files

pytestmark = pytest.mark.e2e
CATCH_ALL = """
import os, select, signal, sys
caught = open(sys.argv[1], "a")
def note(number, frame):
    caught.write(f"{number}\\n"); caught.flush()
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, note)
children = []
for _ in range(int(sys.argv[2])):
    children.append(os.fork())
    if not children[-1]:
        os.setsid()
        select.select([], [], [], 60)
        os._exit(0)
open(sys.argv[1] + ".ready", "w").write(" ".join(map(str, children)))
while True: select.select([], [], [], 60)
"""


class Person:
    """Trainings that a person started, which end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *argv: str, stdout: int | None = subprocess.DEVNULL) -> int:
        """Start a program as a person's shell would; its pid."""
        process = subprocess.Popen(argv, stdout=stdout, stderr=stdout, start_new_session=True)
        self.started[process.pid] = process
        return process.pid

    def catcher(self, children: int = 0) -> int:
        """Start a training that writes down every signal it gets, with that many children in their own sessions."""
        pid = self.start(sys.executable, "-c", CATCH_ALL, str(self.folder / "caught"), str(children))
        until((self.folder / "caught.ready").exists, "the catcher is ready")
        return pid

    @property
    def children(self) -> list[int]:
        """The children of the catcher."""
        return [int(word) for word in (self.folder / "caught.ready").read_text().split()]

    @property
    def caught(self) -> str:
        """The signals that the catcher or a child of it got."""
        return (self.folder / "caught").read_text()

    def kill(self, pid: int) -> None:
        """End it and take its exit status, as the shell would."""
        os.kill(pid, signal.SIGKILL)
        if pid in self.started:
            self.started.pop(pid).wait(10)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    """Somebody who starts trainings."""
    made = Person(tmp_path)
    yield made
    left = made.children if (tmp_path / "caught.ready").exists() else []
    for pid in [*made.started, *left]:
        if is_alive(pid):
            made.kill(pid)


def watch(attempt: Attempt, pid: int, start_time: int | None = None) -> subprocess.CompletedProcess[str]:
    """Start the watcher as the daemon does."""
    attempt.write_launch(["yolo", "train"])
    started = attempt_files.process_start_time(pid) if start_time is None else start_time
    command = [sys.executable, "-I", "-S", "-E", str(SHIM), "--watch", str(pid), str(started), str(attempt.dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def leave(attempt: Attempt) -> None:
    """Tell the watcher to leave, as the daemon does."""
    started = attempt.started
    assert attempt_files.signal_process(started.shim_pid, started.shim_start_time, signal.SIGUSR1)


def test_watcher_names_the_persons_process_and_holds_the_lock(attempt: Attempt, person: Person) -> None:
    """started.json names the training and says that it is only watched; the lock is held while it lives."""
    pid = person.catcher()
    watch(attempt, pid)
    started = attempt.started
    assert (started.pid, started.watched) == (pid, True)
    assert started.start_time == attempt_files.process_start_time(pid)
    assert not attempt_files.lock_is_free(attempt.dir)
    assert not (attempt.dir / "exit.json").exists()
    assert person.caught == ""


def test_end_is_recorded_without_saying_how(attempt: Attempt, person: Person) -> None:
    """A death by SIGKILL gives exit.json with neither code nor signal, and the lock is free then."""
    pid = person.catcher()
    watch(attempt, pid)
    person.kill(pid)
    record = attempt.finish()
    assert (record.code, record.signal, record.watched, record.detached) == (None, None, True, False)


def test_lock_is_held_until_the_children_of_the_dead_training_are_gone(attempt: Attempt, person: Person) -> None:
    """Workers in other sessions that outlive their training keep the lock, and get no signal."""
    pid = person.catcher(children=2)
    watch(attempt, pid)
    person.kill(pid)
    until((attempt.dir / "exit.json").exists, "exit.json")
    assert not ended(attempt.started.shim_pid, 1.5)
    assert all(is_alive(child) for child in person.children)
    assert not attempt_files.lock_is_free(attempt.dir)
    assert person.caught == ""
    for child in person.children:
        os.kill(child, signal.SIGKILL)
    attempt.finish()


def test_told_to_leave_it_leaves_the_training_alone(attempt: Attempt, person: Person) -> None:
    """SIGUSR1 ends the watcher with `detached` in its record; training and children go on and got no signal."""
    pid = person.catcher(children=1)
    watch(attempt, pid)
    leave(attempt)
    record = attempt.finish()
    assert (record.detached, record.code, record.signal) == (True, None, None)
    assert is_alive(pid)
    assert is_alive(person.children[0])
    assert person.caught == ""


def test_no_other_signal_ends_the_watcher(attempt: Attempt, person: Person) -> None:
    """A service's stop sends SIGTERM to the whole control group: the watcher stays."""
    pid = person.catcher()
    watch(attempt, pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGPIPE):
        attempt_files.signal_process(attempt.started.shim_pid, attempt.started.shim_start_time, number)
    assert not ended(attempt.started.shim_pid, 0.3)
    assert not attempt_files.lock_is_free(attempt.dir)


def test_killed_watcher_leaves_the_training_alone(attempt: Attempt, person: Person) -> None:
    """The lock is free then, but the training counts as a process of the attempt: nothing second is started."""
    pid = person.catcher(children=1)
    watch(attempt, pid)
    started = attempt.started
    attempt_files.signal_process(started.shim_pid, started.shim_start_time, signal.SIGKILL)
    assert ended(started.shim_pid)
    assert attempt_files.lock_is_free(attempt.dir)
    assert is_alive(pid)
    found = attempt_files.descendants_and_marked(attempt.dir, started.shim_pid, started.pid)
    assert {other for other, _ in found} == {pid, *person.children}
    assert person.caught == ""


@pytest.mark.parametrize("shift", [0, 1])
def test_process_that_is_gone_is_one_that_has_ended(attempt: Attempt, person: Person, shift: int) -> None:
    """A number that no process or a stranger has gives a start and an end at once; the stranger is not watched."""
    pid = person.catcher()
    began = attempt_files.process_start_time(pid) or 0
    if not shift:
        person.kill(pid)
    watch(attempt, pid, began + shift)
    record = attempt.finish()
    assert (record.watched, record.detached) == (True, False)
    assert not shift or is_alive(pid)


def test_log_leads_to_the_file_that_the_training_writes(attempt: Attempt, person: Person, tmp_path: Path) -> None:
    """`logs` shows a person's log as it grows, and the watcher never writes into it."""
    log = tmp_path / "my log 日志.txt"
    with log.open("wb") as file:
        code = "import sys; print('Epoch 1', flush=True); sys.stdin.read()"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=file)
    until(lambda: log.read_text() == "Epoch 1\n", "a line")
    watch(attempt, process.pid)
    assert (attempt.dir / "log").resolve() == log
    process.communicate(timeout=10)
    attempt.finish()
    assert log.read_text() == "Epoch 1\n"


def test_log_says_where_the_output_goes_if_that_is_no_file(attempt: Attempt, person: Person) -> None:
    """A training in a terminal: its output is the person's; one line says so."""
    watch(attempt, person.start("sleep", "60"))
    assert not (attempt.dir / "log").is_symlink()
    assert "/dev/null: its output is not kept" in attempt.log()


def test_whoever_shares_the_log_is_no_part_of_the_training(attempt: Attempt, person: Person, tmp_path: Path) -> None:
    """A person's script that trains one after the other into one log does not hold up the resume."""
    with (tmp_path / "log.txt").open("wb") as file:
        pid, other = (
            person.start("sleep", "60", stdout=file.fileno()),
            person.start("sleep", "61", stdout=file.fileno()),
        )
    watch(attempt, pid)
    found = attempt_files.descendants_and_marked(attempt.dir, attempt.started.shim_pid, pid)
    assert [one for one, _ in found] == [pid]
    person.kill(pid)
    attempt.finish()
    assert is_alive(other)


def test_real_toy_training_with_workers_is_watched_to_its_end(attempt: Attempt, person: Person, tmp_path: Path) -> None:
    """It finishes by itself while it is watched; its checkpoint and table are its own work."""
    folder = tmp_path / "runs" / "exp"
    pid = person.start(sys.executable, str(TOY), "--save-dir", str(folder), "--epochs", "3", "--epoch-s", "0.1")
    watch(attempt, pid)
    assert person.started.pop(pid).wait(20) == 0
    assert attempt.finish().watched
    assert len((folder / "results.csv").read_text().splitlines()) == 4


def test_a_directory_is_watched_from_at_most_once(attempt: Attempt, person: Person) -> None:
    """A second start on the same attempt is refused, as for any other attempt."""
    pid = person.catcher()
    watch(attempt, pid)
    before = read_json(attempt.dir / "started.json")
    command = [sys.executable, "-I", "-S", "-E", str(SHIM), "--watch", str(pid), "1", str(attempt.dir)]
    assert subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 17
    assert read_json(attempt.dir / "started.json") == before


@pytest.mark.parametrize("words", [["--watch", "1"], ["--watch", "x", "1"], ["--look", "1", "2"]])
def test_wrong_words_start_nothing(attempt: Attempt, words: list[str]) -> None:
    """A misspelt order is refused with the usage."""
    attempt.write_launch(["true"])
    command = [sys.executable, "-I", "-S", "-E", str(SHIM), *words, str(attempt.dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, "usage" in done.stderr) == (2, True)
    assert not (attempt.dir / "started.json").exists()
