"""The real daemon is killed before and after every journal commit of a story, and started again: nothing is lost.

The story: a job file lies in the folder; its training saves an epoch, is killed (or hangs) in the middle of the second
one, is resumed and finishes; a webhook is told. Everything is judged from outside: processes, the trainer's files,
messages.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from supervisor.journal import Journal
from tests.webhook_receiver import Receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = REPOSITORY / "tests" / "toy_trainer.py"
KILLED = Path(__file__).with_name("killed_daemon.py")
EPOCHS = 3
PATIENCE_S = 60.0
POLL_S = 0.03
KILLED_ONCE = ("--signal-after", "KILL@2.2")
HANGS_ONCE = ("--hang-after", "2.2")
AT_ONCE = int(os.environ.get("CRASH_STORIES_AT_ONCE", "4"))  # they wait most of the time


@dataclass
class Story:
    """One folder with a configuration, a job, and the daemons that are killed and started in it."""

    port: int
    fault: tuple[str, str] = KILLED_ONCE
    top: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="yc-", dir="/tmp")))
    most_trainers: int = 0

    def __post_init__(self) -> None:
        """Write the configuration and the job file, as old as one that has lain there for an hour."""
        (self.top / "jobs").mkdir()
        (self.top / "home").mkdir()
        self.config.write_text(
            f'[server]\nname = "crash"\nstate_dir = "{self.top}/state"\nsocket = "{self.top}/s"\n'
            f'[jobs]\nfolder = "{self.top}/jobs"\nallow_root = true\n'
            '[disk]\npause_below = "1MiB"\n'
            '[defaults]\nrestart.backoff = "1s"\nrestart.backoff_max = "1s"\nrestart.hang_after = "3s"\ngpus = 0\n'
            '[queue]\nstop_grace = "1s"\n[hang]\nevery = "1s"\n'
            f'[[channel]]\nname = "hook"\nkind = "webhook"\nurl = "http://127.0.0.1:{self.port}{self.top}"\n',
            encoding="utf-8",
        )
        words = [sys.executable, str(TOY), "--save-dir", "{run_dir}/train", "--epochs", str(EPOCHS), "--beats"]
        words += ["--epoch-s", "0.15", *self.fault, "--fault-once"]
        job = self.top / "jobs" / "toy.toml"
        job.write_text(
            f"command = {json.dumps(words)}\nresume_command = {json.dumps([*words, '--resume', '{checkpoint}'])}\n"
            'checkpoint_files = ["{run_dir}/train/weights/last.pt"]\ndone = { log = "epochs completed" }\n',
            encoding="utf-8",
        )
        an_hour_ago = time.time() - 3600.0
        os.utime(job, (an_hour_ago, an_hour_ago))

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.top / "config.toml"

    @property
    def run_dir(self) -> Path:
        """The directory of the only run."""
        return self.top / "state" / "runs" / "default" / "toy"

    def commits(self) -> int:
        """How many commits the deadly daemon made."""
        path = self.top / "commits"
        return path.stat().st_size if path.exists() else 0

    # ---- daemons
    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a daemon."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.top / "home"), "PYTHONPATH": str(REPOSITORY)}
        with (self.top / "daemon.log").open("ab") as log:
            return subprocess.Popen([sys.executable, *words], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def deadly(self, when: str, number: int) -> subprocess.Popen[bytes]:
        """The daemon that kills itself at that commit."""
        return self.spawn(str(KILLED), str(self.config), str(self.top / "commits"), when, str(number))

    def usual(self) -> subprocess.Popen[bytes]:
        """The daemon as it is started always."""
        return self.spawn("-m", "supervisor", "run", "--config", str(self.config))

    def watch(self, daemon: subprocess.Popen[bytes], told: Receiver) -> bool:
        """Count trainers until the run is over and told (True), or the daemon has ended (False)."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.most_trainers = max(self.most_trainers, len(self.trainers()))
            if daemon.poll() is not None:
                return False
            if self.phase() == "SUCCEEDED" and self.ids_of_the_end(told):
                return True
            time.sleep(POLL_S)
        raise AssertionError(f"not over in {PATIENCE_S:g} s: {self.phase()}\n{self.said()}")

    def close(self) -> None:
        """End what is left of this folder, by exact process, and remove it."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.top, ignore_errors=True)

    # ---- what is seen
    def processes(self) -> list[int]:
        """Every process whose arguments or environment name this folder."""
        marker, found = os.fsencode(self.top) + b"/", []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if any(marker in (entry / name).read_bytes() for name in ("cmdline", "environ")):
                        found.append(int(entry.name))
        return found

    def trainers(self) -> list[int]:
        """The trainers that live now."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if os.fsencode(TOY) in words[:3]:
                    found.append(pid)
        return found

    def phase(self) -> str:
        """Where the run stands, by the journal; nothing if it cannot be read now."""
        with contextlib.suppress(Exception):
            journal = Journal.open(self.top / "state" / "journal.sqlite", read_only=True)
            with contextlib.closing(journal):
                run = journal.load().named("toy")
                return run.phase.value if run is not None else "none"
        return "unreadable"

    def ids_of_the_end(self, told: Receiver) -> list[str]:
        """The ids of the messages of success that came whole for this folder; a daemon may be killed while it sends."""
        whole = [one for one in told.received if one["path"] == str(self.top) and isinstance(one["body"], dict)]
        return [one["headers"]["webhook-id"] for one in whole if one["body"]["type"] == "run.succeeded"]

    def attempts(self) -> list[Path]:
        """The attempts that were started."""
        found = [path.parent for path in (self.run_dir / "attempts").glob("*/started.json")]
        return sorted(found, key=lambda path: int(path.name))

    def said(self) -> str:
        """The last words of the daemons."""
        path = self.top / "daemon.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""


def judge(story: Story, told: Receiver) -> None:
    """What must be true of the story's end, however often the daemon died on the way."""
    assert story.most_trainers <= 1, f"{story.most_trainers} trainers lived at once"
    with (story.run_dir / "train" / "results.csv").open(encoding="utf-8") as file:
        epochs = [int(row[0]) for row in list(csv.reader(file))[1:]]
    assert epochs == [1, 2, 3], f"epochs in results.csv: {epochs}"
    spans = [(read(path, "exit.json")["started_at"], read(path, "exit.json")["ended_at"]) for path in story.attempts()]
    assert len(spans) == 2, f"{len(spans)} attempts were started; expected: one that dies and one that finishes"
    assert spans[0][1] <= spans[1][0], f"the attempts overlap: {spans}"
    for path in story.attempts():
        starts = [line for line in (path / "beats.jsonl").read_text().splitlines() if '"kind": "start"' in line]
        assert len(starts) == 1, f"attempt {path.name} was launched {len(starts)} times"
    assert appears(story.top / "jobs" / "done" / "toy.toml"), "the job file was not moved to done/"
    assert len(set(story.ids_of_the_end(told))) == 1, f"ids of one message: {story.ids_of_the_end(told)}"


def appears(path: Path) -> bool:
    """Wait for a file that a process may still be writing; False if it does not come."""
    deadline = time.monotonic() + 10.0
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return path.exists()


def read(attempt: Path, name: str) -> dict[str, float]:
    """One record of the shim."""
    appears(attempt / name)
    found: dict[str, float] = json.loads((attempt / name).read_text())
    return found


def tell(when: str, number: int, told: Receiver, fault: tuple[str, str] = KILLED_ONCE) -> tuple[str, int]:
    """One story: killed at that commit, started again, judged. What went wrong, and how many commits there were."""
    story = Story(told.port, fault)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(story.deadly(when, number))
        if not story.watch(daemons[0], told):
            assert daemons[0].returncode == -signal.SIGKILL, f"it ended by itself: {daemons[0].returncode}"
            daemons.append(story.usual())
            assert story.watch(daemons[1], told), "the second daemon ended"
        judge(story, told)
    except AssertionError as error:
        return f"killed {when} commit {number}: {error}\n{story.said()}", story.commits()
    finally:
        for daemon in daemons:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(PATIENCE_S)
        commits = story.commits()
        story.close()
    return "", commits


def test_the_story_without_a_kill():
    """The story itself: two attempts, every epoch once, and enough commits to be worth killing at."""
    with Receiver() as told:
        problem, commits = tell("never", 0, told)
    assert problem == ""
    assert commits >= 10


@pytest.mark.slow
def test_the_story_of_a_hang_without_a_kill():
    """A training that hangs is found, written down, ended and resumed: every epoch once."""
    with Receiver() as told:
        problem, commits = tell("never", 0, told, HANGS_ONCE)
    assert problem == ""
    assert commits >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_every_commit_of_a_hang():
    """The same promises when what the daemon is killed in is a hang, its autopsy and its end."""
    problems = told_at_every_commit(HANGS_ONCE)
    assert not problems, f"{len(problems)} stories went wrong:\n" + "\n".join(problems[:5])


def test_killed_at_every_commit():
    """At each commit, before one and after the next: one trainer at any time, every epoch once, told with one id."""
    problems = told_at_every_commit(KILLED_ONCE, every_other=True)
    assert not problems, f"{len(problems)} stories went wrong:\n" + "\n".join(problems[:5])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_before_and_after_every_commit():
    """The same, before and after each of them."""
    problems = told_at_every_commit(KILLED_ONCE)
    assert not problems, f"{len(problems)} stories went wrong:\n" + "\n".join(problems[:5])


def told_at_every_commit(fault: tuple[str, str], *, every_other: bool = False) -> list[str]:
    """That story once for each commit, killed before and after it (or in turns); what went wrong."""
    with Receiver() as told:
        problem, commits = tell("never", 0, told, fault)
        assert problem == ""
        points = [(when, number) for number in range(1, commits + 1) for when in ("before", "after")]
        points = (
            [points[place + number % 2] for number, place in enumerate(range(0, len(points), 2))]
            if every_other
            else points
        )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            stories = list(pool.map(lambda point: tell(*point, told, fault), points))
    return [problem for problem, _ in stories if problem]
