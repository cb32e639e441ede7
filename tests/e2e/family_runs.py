"""Trainings of script families through the real daemon, killed at random: what the tests of families share."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon_harness import REPOSITORY, TESTS, Attempt, Site, alive, job, until

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SCRIPTS = TESTS / "scripts"
SLOW_S = 120.0
PATIENT = {"no_progress": 20, "backoff": "1s", "backoff_max": "1s"}  # a kill in the first epoch is no progress
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def checkout(server: Site, name: str) -> Path:
    """Copy one of the small trainers to where a person would keep it."""
    folder = server.root / "src of a person" / name
    shutil.copytree(SCRIPTS / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def drop(server: Site, name: str, family: str, folder: Path, *words: object, **keys: object) -> Path:
    """Drop a job that runs the script of a checkout; `words` begin with the script."""
    settings = {
        "name": name,
        "family": family,
        "python": str(keys.pop("python", PYTHON)),
        "cwd": str(folder),
        "restart": PATIENT,
        "command": ["{python}", *map(str, words)],
        "env": {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **keys.pop("env", {})},  # type: ignore[dict-item]
        **keys,
    }
    return server.drop(f"{name}.toml", job(settings))


def log_of(attempt: Attempt) -> str:
    """What the trainer printed so far, without colours."""
    path = attempt.directory / "log"
    return _ESCAPES.sub("", path.read_text(errors="replace")) if path.exists() else ""


def epochs_begun(attempt: Attempt) -> bool:
    """True once the trainer is behind everything that comes before its first epoch."""
    return "Starting training for" in log_of(attempt)


def kill(attempt: Attempt, after_s: float, *, begun: Callable[[Attempt], bool] = epochs_begun) -> bool:
    """SIGKILL the trainer so long after its epochs began; False if it was over before."""
    until((attempt.directory / "started.json").exists, f"{attempt.directory} was started", SLOW_S)
    pid = attempt.pid
    until(lambda: begun(attempt) or not alive(pid), f"epochs begin in {attempt.directory}", SLOW_S)
    time.sleep(after_s)
    if not alive(pid):
        return False
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "it is dead")
    return True


def kill_at_random(
    server: Site, name: str, times: int, longest_s: float, *, begun: Callable[[Attempt], bool] = epochs_begun
) -> None:
    """Kill the attempts of a run one after the other, each somewhere within its first seconds of training."""
    seed = random.randrange(1 << 16)
    print(f"killing by seed {seed}")
    chance = random.Random(seed)
    for number in range(1, times + 1):
        after_s = chance.uniform(0.0, longest_s)
        assert kill(server.attempt(name, number), after_s, begun=begun), (
            f"attempt {number} was over before it could be killed"
        )


def finished(server: Site, name: str = "boxes", within_s: float = SLOW_S) -> dict[str, Any]:
    """The run once it has succeeded."""
    return server.wait(name, "SUCCEEDED", within_s=within_s)


def starts(server: Site, name: str) -> list[tuple[str, int]]:
    """How each attempt started, and after how many epochs, as the journal has it."""
    run = server.run(name)
    assert run is not None
    rows = server.history(run["id"], "Prepared")
    return [(row.body["start"], row.body.get("from_epoch", 0)) for row in rows]
