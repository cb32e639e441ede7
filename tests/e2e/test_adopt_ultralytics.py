"""A person runs the real `yolo train` by hand; it dies, and is gone on with in its own folder."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_harness import MODEL, REPOSITORY, TESTS, Site, alive, needs, site, until

pytestmark = pytest.mark.e2e

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SLOW_S = 120.0
WORDS = ("--project", "default", "--yes")


class Project:
    """A person's project folder with a data set, where they train with relative paths."""

    def __init__(self, server: Site) -> None:
        self.server = server
        self.root = server.root / "my project"
        self.log = self.root / "train.log"
        self.dir = self.root / "runs" / "detect" / "try"
        words = [PYTHON, TESTS / "training_data.py", self.root / "data", "--train", "160", "--val", "8"]
        subprocess.run(words, check=True, capture_output=True)
        self.process: subprocess.Popen[bytes] | None = None

    def train(self, epochs: int) -> int:
        """`yolo train …` in a shell of theirs; its pid."""
        words = [PYTHON.with_name("yolo"), "detect", "train", f"model={MODEL}", "data=data/data.yaml", "name=try"]
        words += [f"epochs={epochs}", "imgsz=64", "batch=4", "workers=0", "plots=False"]
        words += [f"project={self.dir.parent}"]
        config = {"YOLO_CONFIG_DIR": str(self.root / "config"), "OMP_NUM_THREADS": "2", "YOLO_OFFLINE": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, cwd=self.root, env={**self.server.environment, **config}
            )
        return self.process.pid

    def wait_for(self, epoch: int) -> None:
        """Wait until that epoch is in their table and its checkpoint has been written."""
        last = self.dir / "weights" / "last.pt"
        until(lambda: self.process is None or self.process.poll() is None, "it trains")
        until(lambda: len(self.rows) >= epoch and last.exists(), f"epoch {epoch}", SLOW_S)

    def kill(self) -> None:
        """It dies."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    @property
    def rows(self) -> list[int]:
        """The epochs of their results.csv."""
        try:
            text = (self.dir / "results.csv").read_text()
        except FileNotFoundError:
            return []
        return [int(row[0]) for row in list(csv.reader(text.splitlines()))[1:]]

    def state(self) -> str:
        """What the project's checkpoint reader says of last.pt."""
        program = REPOSITORY / "supervisor" / "runner" / "checkpoint.py"
        path = self.dir / "weights" / "last.pt"
        done = subprocess.run([PYTHON, program, path], capture_output=True, text=True, check=True)
        return str(json.loads(done.stdout.splitlines()[-1])["state"])


@pytest.fixture
def project() -> Iterator[Project]:
    """A server, and a person on it."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site("服务器 one") as made:
        made.start()
        person = Project(made)
        yield person
        if person.process is not None and person.process.poll() is None:
            person.kill()


@pytest.mark.slow
def test_a_real_training_that_was_killed_by_hand_goes_on_in_its_folder(project: Project) -> None:
    """Killed in the middle, adopted by its folder, resumed to the last epoch: each epoch once, weights stripped."""
    project.train(5)
    project.wait_for(3)  # its row is written before its checkpoint: epoch 2 is saved for certain
    project.kill()
    done = project.server.cli("adopt", str(project.dir), "--python", str(PYTHON), "--cwd", str(project.root), *WORDS)
    assert done.returncode == 0, done.stderr
    project.server.wait("try", "SUCCEEDED", within_s=SLOW_S)
    _ended_well(project, 5)
    assert project.server.attempts("try") == [1]
    resumed = project.server.attempt("try").beats("resumed")[0]
    assert Path(resumed["save_dir"]).samefile(project.dir)
    assert resumed["from_epoch"] >= 1


@pytest.mark.slow
def test_a_real_training_is_watched_and_resumed_when_it_is_killed(project: Project) -> None:
    """Found by its number alone; the daemon is killed meanwhile, then the training: it goes on to its end in place."""
    pid = project.train(25)  # both are asked for the library's defaults, which takes a while
    project.wait_for(1)
    done = project.server.cli("adopt", "--pid", str(pid), *WORDS)
    assert done.returncode == 0, done.stderr
    assert str(project.dir) in done.stderr
    project.server.wait("try", "RUNNING")
    project.server.end()
    assert alive(pid)
    project.wait_for(len(project.rows) + 1)
    project.kill()
    project.server.start()
    project.server.wait("try", "SUCCEEDED", within_s=SLOW_S)
    _ended_well(project, 25)
    assert project.server.attempts("try") == [1, 2]
    assert project.server.attempt("try", 1).json("exit.json")["watched"]
    assert Path(project.server.attempt("try", 2).beats("resumed")[0]["save_dir"]).samefile(project.dir)
    assert "Starting training" in project.server.cli("logs", "try", "--attempt", "1", "-n", "0").stdout


def _ended_well(project: Project, epochs: int) -> None:
    assert project.rows == list(range(1, epochs + 1))
    assert project.state() == "finished"
    names = {path.name for path in project.dir.rglob("*")}
    assert not {name for name in names if name.startswith(".") or name in {"token", "job.toml", "attempts"}}
    assert [path.name for path in project.dir.parent.iterdir()] == ["try"]
