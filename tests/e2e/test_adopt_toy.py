"""Trainings that a person started: gone on with in place after they died, watched while they live, never ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_harness import MODEL, TOY, Site, alive, children, site, until

from supervisor import toml_errors

pytestmark = pytest.mark.e2e
OURS = {"job.toml", "token", "attempts", "good", "settings", "launch.json", "started.json", "shim.lock", "beats.jsonl"}


class Person:
    """Somebody who trains by hand, in a project of their own, with the toy."""

    def __init__(self, server: Site, folder: str = "runs/detect/我的 train7") -> None:
        self.server = server
        self.project = server.root / "my project"
        self.dir = self.project / folder
        self.log = self.project / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def train(self, flags: str = "", *, epochs: int, epoch_s: float = 0.15, resume: bool = False) -> int:
        """Start a training as a person's shell would, with its output in a file; its pid."""
        self.dir.mkdir(parents=True, exist_ok=True)
        (self.dir / "args.yaml").write_text(
            f"mode: train\nmodel: {MODEL}\ndata: {MODEL}\nepochs: {epochs}\nproject: null\n"
            f"name: train7\ndevice: cpu\nsave_dir: {self.dir}\n"
        )
        words = [sys.executable, str(TOY), "--save-dir", str(self.dir), "--epochs", str(epochs), *flags.split()]
        words += ["--epoch-s", str(epoch_s), *(["--resume", str(self.last)] if resume else [])]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.project, start_new_session=True)
        return self.process.pid

    @property
    def last(self) -> Path:
        """Their newest checkpoint."""
        return self.dir / "weights" / "last.pt"

    @property
    def rows(self) -> list[int]:
        """The epochs in their results.csv."""
        with contextlib.suppress(FileNotFoundError):
            return [int(line.partition(",")[0]) for line in (self.dir / "results.csv").read_text().splitlines()[1:]]
        return []

    def wait_for(self, epoch: int) -> None:
        """Wait until their training has that many epochs."""
        until(lambda: epoch in self.rows and self.last.exists(), f"epoch {epoch} of a person's training")

    def kill(self) -> None:
        """It dies."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def finish(self) -> int:
        """Wait for its own end; the exit code."""
        assert self.process is not None
        return self.process.wait(30)


@pytest.fixture
def server() -> Iterator[Site]:
    """A running server."""
    with site() as made:
        made.start()
        yield made


@pytest.fixture
def person(server: Site) -> Iterator[Person]:
    """A person, whose training ends with the test."""
    made = Person(server)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def adopt(server: Site, *words: object) -> subprocess.CompletedProcess[str]:
    """Give the order with the toy's interpreter, and without asking."""
    return server.cli("adopt", *map(str, words), "--python", str(server.toy_python()), "--yes")


def watched(server: Site, person: Person) -> None:
    """The person's training is watched as attempt 1 of the run."""
    assert person.process is not None
    done = adopt(server, "--pid", person.process.pid)
    assert done.returncode == 0, done.stderr
    server.wait("train7", "RUNNING")
    assert server.attempt("train7").pid == person.process.pid


def _seen(server: Site, epoch: int) -> None:
    """The server shows that epoch (a save is only believed after two quiet seconds, which the toy never leaves)."""
    until(lambda: ((server.run("train7") or {}).get("epoch") or 0) >= epoch, f"epoch {epoch} is shown")


def ours_in(folder: Path) -> set[str]:
    """What of the supervisor's lies in a person's folder, or is half written there."""
    found = [path.name for path in folder.rglob("*")]
    return {name for name in found if name in OURS or name.startswith(".") or name.endswith(".tmp")}


def test_an_interrupted_training_goes_on_in_place(server: Site, person: Person) -> None:
    """Killed by hand, adopted, resumed to its end in its own folder: each epoch once, nothing of ours in there."""
    person.train(epochs=8)
    person.wait_for(3)
    person.kill()
    done = adopt(server, person.dir)
    assert done.returncode == 0, done.stderr
    assert "would resume after epoch" in done.stderr
    server.wait("train7", "SUCCEEDED")
    assert person.rows == [1, 2, 3, 4, 5, 6, 7, 8]
    assert server.attempt("train7").beats("resumed")[0]["save_dir"] == str(person.dir)
    assert (server.run_dir("train7") / "train").is_symlink()
    assert ours_in(person.dir) == set()
    again = adopt(server, person.dir)
    assert again.returncode == 4
    assert "continued by default/train7" in again.stderr


def test_a_torn_checkpoint_is_kept_aside_and_the_table_cut(server: Site, person: Person) -> None:
    """The last.pt that was torn by the death is kept for study; the training goes on from best.pt."""
    person.train("--torn-checkpoint 4", epochs=6)
    assert person.finish() == -signal.SIGKILL
    before = person.last.read_bytes()
    done = adopt(server, person.dir)
    assert "the torn last.pt would be kept aside" in done.stderr, done.stderr
    server.wait("train7", "SUCCEEDED")
    assert person.rows == [1, 2, 3, 4, 5, 6]
    assert (server.attempt("train7").directory / "aside" / "last.pt").read_bytes() == before
    assert ours_in(person.dir) == set()


def test_a_live_training_is_refused_and_named(server: Site, person: Person) -> None:
    """Two writers of one folder would ruin it: the live one is named, and `--pid` offered. Nothing is submitted."""
    pid = person.train(epochs=200)
    person.wait_for(1)
    done = adopt(server, person.dir)
    assert done.returncode == 4
    assert f"adopt --pid {pid}" in done.stderr
    assert server.run("train7") is None
    assert alive(pid)


def test_a_watched_training_is_resumed_when_it_dies(server: Site, person: Person) -> None:
    """Watched across a death of the daemon, followed by its table and its log, and gone on with after its own death."""
    pid = person.train(epochs=25, epoch_s=0.2)
    person.wait_for(2)
    watched(server, person)
    _seen(server, 3)
    assert "Epoch" in server.cli("logs", "train7").stdout
    server.restart()
    before = max(person.rows)
    _seen(server, before + 1)
    assert (server.run("train7") or {})["phase"] == "RUNNING"
    assert alive(pid)
    person.kill()
    server.wait("train7", "SUCCEEDED")
    assert person.rows == list(range(1, 26))
    assert server.attempts("train7") == [1, 2]
    assert server.attempt("train7").json("exit.json")["watched"]
    assert server.attempt("train7", 2).beats("resumed")
    assert ours_in(person.dir) == set()


def test_a_watched_training_that_dies_without_a_daemon_is_resumed(server: Site, person: Person) -> None:
    """The daemon is away when it dies: its watcher wrote that down, and the next daemon goes on."""
    person.train(epochs=10, epoch_s=0.2)
    person.wait_for(2)
    watched(server, person)
    server.end()
    person.kill()
    assert server.attempt("train7").json("exit.json")["code"] is None
    server.start()
    server.wait("train7", "SUCCEEDED")
    assert person.rows == list(range(1, 11))
    assert server.attempts("train7") == [1, 2]


def test_a_watched_training_that_finishes_has_succeeded(server: Site, person: Person) -> None:
    """Its own end state decides: nothing is started after it."""
    person.train(epochs=10, epoch_s=0.2)
    person.wait_for(2)
    watched(server, person)
    assert person.finish() == 0
    done = server.wait("train7", "SUCCEEDED")
    assert server.attempts("train7") == [1]
    assert done["saved_epoch"] == 10
    assert person.rows == list(range(1, 11))


@pytest.mark.parametrize(
    "flags", [pytest.param({}, marks=pytest.mark.slow, id="stop"), pytest.param({"now": True}, id="stop-now")]
)
def test_a_stop_only_ends_the_watching(server: Site, person: Person, flags: dict[str, bool]) -> None:
    """`stop` says that the training goes on, which it does; `resume` watches the same one again."""
    pid = person.train(epochs=200, epoch_s=0.1)
    person.wait_for(1)
    watched(server, person)
    told = server.order("stop", "train7", **flags)
    assert "your training goes on; it is only not watched any more" in told["next"]
    server.wait("train7", "HELD")
    assert server.attempt("train7").json("exit.json")["detached"]
    _goes_on(person, pid)
    server.order("resume", "train7")
    server.wait("train7", "RUNNING")
    assert server.attempts("train7") == [1, 2]
    assert server.attempt("train7", 2).pid == pid
    _goes_on(person, pid)


def _goes_on(person: Person, pid: int) -> None:
    """The training lives and trains; whatever had been sent to it would have ended it."""
    assert alive(pid)
    person.wait_for(max(person.rows) + 2)
    assert person.process is not None
    assert person.process.poll() is None


@pytest.mark.parametrize("now", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_cancel_leaves_the_training_alone(server: Site, person: Person, now: bool) -> None:
    """`cancel`, also `--now`, ends the run and not what a person started."""
    pid = person.train("--fork-workers 2", epochs=200, epoch_s=0.1)
    person.wait_for(1)
    watched(server, person)
    workers = children(pid)
    server.order("cancel", "train7", now=now)
    server.wait("train7", "CANCELLED")
    _goes_on(person, pid)
    assert all(alive(worker) for worker in workers)


@pytest.mark.parametrize("now", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_drain_leaves_the_training_alone(server: Site, person: Person, now: bool) -> None:
    """`drain` stops the watching; without it the same training is watched again, and nothing second started."""
    pid = person.train(epochs=300, epoch_s=0.1)
    person.wait_for(1)
    watched(server, person)
    server.client.post("/v1/drain", now=now, off=False)
    server.wait("train7", "QUEUED")
    _goes_on(person, pid)
    server.client.post("/v1/drain", now=False, off=True)
    server.wait("train7", "RUNNING")
    assert server.attempt("train7", 2).pid == pid
    _goes_on(person, pid)


def test_a_time_limit_does_not_end_it(server: Site, person: Person) -> None:
    """The limit of the job holds the run; the person's training goes on."""
    pid = person.train(epochs=300, epoch_s=0.1)
    person.wait_for(1)
    shown = server.cli("adopt", "--pid", str(pid), "--dry-run", "--python", str(server.toy_python()))
    assert toml_errors.read(shown.stdout.encode(), "shown")[0]["watch"]["pid"] == pid
    server.drop("train7.toml", shown.stdout.replace('# time_limit = "3d"', 'time_limit = "2s"'))
    held = server.wait("train7", "HELD")
    assert "time limit" in held["reason"]
    _goes_on(person, pid)


def test_a_killed_watcher_starts_nothing_second(server: Site, person: Person) -> None:
    """Watcher and daemon are killed: the training still counts as running; a stop is carried out all the same."""
    pid = person.train(epochs=400, epoch_s=0.1)
    person.wait_for(1)
    watched(server, person)
    os.kill(server.attempt("train7").shim_pid, signal.SIGKILL)
    server.restart()
    before = max(person.rows)
    _seen(server, before + 2)
    assert (server.run("train7") or {})["phase"] == "RUNNING"
    assert server.attempts("train7") == [1]
    server.order("stop", "train7")
    server.wait("train7", "HELD")
    _goes_on(person, pid)
    server.order("resume", "train7")
    server.wait("train7", "RUNNING")
    assert server.attempt("train7", 2).pid == pid
    person.kill()
    until(lambda: 3 in server.attempts("train7"), "it is resumed")


def test_nothing_second_is_started_before_the_workers_are_gone(server: Site, person: Person) -> None:
    """Workers that outlive their training may be ranks that train on: they are waited for, and not ended."""
    pid = person.train("--fork-workers 2", epochs=200, epoch_s=0.1)
    person.wait_for(1)
    watched(server, person)
    workers = children(pid)
    assert len(workers) == 2
    person.kill()
    server.wait("train7", "COOLING")
    with pytest.raises(AssertionError, match="not within"):
        until(lambda: len(server.attempts("train7")) > 1, "a second attempt", 3)
    assert all(alive(worker) for worker in workers)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    until(lambda: len(server.attempts("train7")) > 1, "a second attempt")


def test_a_training_that_died_before_its_turn_is_simply_resumed(server: Site, person: Person) -> None:
    """The process is gone when the run gets its place, as after a reboot: the first attempt resumes."""
    pid = person.train(epochs=7, epoch_s=0.2)
    person.wait_for(2)
    shown = server.cli("adopt", "--pid", str(pid), "--dry-run", "--python", str(server.toy_python()))
    person.kill()
    server.drop("train7.toml", shown.stdout)
    server.wait("train7", "SUCCEEDED")
    assert server.attempts("train7") == [1]
    assert server.attempt("train7").beats("resumed")
    assert person.rows == [1, 2, 3, 4, 5, 6, 7]


def test_a_folder_in_which_somebody_trains_is_waited_for(server: Site, person: Person) -> None:
    """A job file by hand on a folder where a person has begun again: the run waits, and goes on after that one."""
    person.train(epochs=40)
    person.wait_for(2)
    person.kill()
    shown = server.cli("adopt", str(person.dir), "--dry-run", "--python", str(server.toy_python()))
    pid = person.train(epochs=40, resume=True)
    server.drop("train7.toml", shown.stdout)
    run = server.wait("train7", "COOLING")
    assert f"process {pid} trains there" in run["reason"]
    assert server.attempts("train7") == []
    _goes_on(person, pid)
