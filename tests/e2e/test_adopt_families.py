"""A person runs a YOLOv9-style train_dual.py by hand: it is gone on with in its own folder, by its own script."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_harness import Site, needs, site, until
from family_runs import PYTHON, SLOW_S, checkout

pytestmark = pytest.mark.e2e


class Person:
    """Somebody with a checkout, who trains there."""

    def __init__(self, server: Site) -> None:
        self.server = server
        self.checkout = checkout(server, "yolov9_style")
        self.dir = self.checkout / "runs" / "train" / "exp"
        self.process: subprocess.Popen[bytes] | None = None

    def train(self, epochs: int) -> int:
        """`python train_dual.py …` in the checkout; its pid."""
        (self.checkout / "data.yaml").write_text("noise: 0.01\n")
        words = [PYTHON, "train_dual.py", "--data", "data.yaml", "--epochs", str(epochs), "--batch-s", "0.05"]
        with (self.checkout / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [*words, "--project", "runs/train", "--name", "exp"],
                stdout=log,
                stderr=log,
                cwd=self.checkout,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        until(lambda: len(self.rows) >= 2, "two epochs of a person's training", SLOW_S)
        return self.process.pid

    def kill(self) -> None:
        """It dies."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    @property
    def rows(self) -> list[int]:
        """The epochs of results.csv, from 0."""
        table = self.dir / "results.csv"
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        return [int(line.partition(",")[0]) for line in lines]


@pytest.fixture
def person() -> Iterator[Person]:
    """A server, and a person on it."""
    needs(PYTHON.exists(), f"an interpreter with torch at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with site("服务器 one") as made:
        made.start()
        somebody = Person(made)
        yield somebody
        if somebody.process is not None and somebody.process.poll() is None:
            somebody.kill()


@pytest.mark.slow
def test_adopt_families_goes_on_in_place_by_the_script_beside_it(person: Person) -> None:
    """Killed by hand: opt.yaml and the checkout say all that is needed, and each epoch is trained once."""
    person.train(8)
    person.kill()
    done = person.server.cli("adopt", str(person.dir), "--python", str(PYTHON), "--yes")
    assert done.returncode == 0, done.stderr
    person.server.wait("exp", "SUCCEEDED", within_s=SLOW_S)
    assert person.rows == list(range(8))
    launch = person.server.attempt("exp").json("launch.json")
    assert launch["argv"][1:3] == [str(person.checkout / "train_dual.py"), "--resume"]
    assert [path.name for path in (person.checkout / "runs" / "train").iterdir()] == ["exp"]


def test_adopt_families_is_watched_and_resumed(person: Person) -> None:
    """Watched by its number: its command, folder and log are found; killed, it is resumed by the same script."""
    pid = person.train(30)
    done = person.server.cli("adopt", "--pid", str(pid), "--yes")
    assert done.returncode == 0, done.stderr
    person.server.wait("exp", "RUNNING")
    until(lambda: ((person.server.run("exp") or {}).get("epoch") or 0) >= 3, "its progress is shown")
    person.kill()
    person.server.wait("exp", "SUCCEEDED", within_s=SLOW_S)
    assert person.rows == list(range(30))
    assert person.server.attempts("exp") == [1, 2]
    second = person.server.attempt("exp", 2).json("launch.json")
    assert second["argv"][:3] == [str(PYTHON), str(person.checkout / "train_dual.py"), "--resume"]
    assert Path(second["cwd"]) == person.checkout
