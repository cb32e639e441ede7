"""A daemon of its own in a temporary folder, and what a measurement asks of it."""

from __future__ import annotations

import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from supervisor import attempt_files, layout

Found = TypeVar("Found")

PROGRAM = Path(sys.executable).with_name("yolo-supervisor")
READY_WITHIN_S = 60.0


class MeasurementError(Exception):
    """A figure could not be measured; the text says why."""


@dataclass(frozen=True)
class Lab:
    """Where one measurement keeps everything. Paths are short: a socket's is limited to 107 bytes."""

    root: Path

    @property
    def config(self) -> Path:
        """The daemon's configuration."""
        return self.root / "config.toml"

    @property
    def jobs(self) -> Path:
        """Where job files are dropped."""
        return self.root / "jobs"

    @property
    def state(self) -> Path:
        """The daemon's state directory."""
        return self.root / "state"

    @property
    def journal(self) -> Path:
        """The daemon's journal."""
        return layout.journal_file(self.state)

    @property
    def socket(self) -> Path:
        """Where the daemon answers."""
        return self.root / "s"

    @property
    def log(self) -> Path:
        """What the daemon wrote to standard error."""
        return self.root / "daemon.log"

    def attempt(self, name: str, number: int = 1) -> Path:
        """The folder of an attempt of the run `name`."""
        return layout.run_directory(self.state / "runs", "bench", name).attempt(number).root

    def started(self, name: str) -> attempt_files.Started | None:
        """Who the first attempt of a run started."""
        return attempt_files.read_started(self.attempt(name))

    def trainer_pid(self, name: str) -> int:
        """The process of a run's first attempt, 0 while there is none."""
        started = self.started(name)
        return started.pid if started is not None else 0

    def shim_pid(self, name: str) -> int:
        """The shim of a run's first attempt, 0 while there is none."""
        started = self.started(name)
        return started.shim_pid if started is not None else 0


@contextmanager
def laboratory(*, max_running: int = 8, channels: str = "") -> Iterator[Lab]:
    """A temporary folder with a configuration; whatever was started through it is ended at the end."""
    with tempfile.TemporaryDirectory(prefix="ysb-", dir="/tmp") as folder:
        lab = Lab(Path(folder))
        lab.jobs.mkdir()
        lab.state.mkdir()
        lab.config.write_text(
            f'[server]\nname = "bench"\nstate_dir = "{lab.state}"\nsocket = "{lab.socket}"\n'
            f'[jobs]\nfolder = "{lab.jobs}"\nallow_root = true\n'
            f'[defaults]\nproject = "bench"\ngpus = 0\n'
            f'[queue]\nmax_running = {max_running}\n[disk]\npause_below = "100MiB"\n{channels}',
            encoding="utf-8",
        )
        try:
            yield lab
        finally:
            end_trainings(lab)


def end_trainings(lab: Lab) -> None:
    """End every training of the lab, and wait until its shim is gone too."""
    for record in lab.state.glob("runs/*/*/attempts/*/started.json"):
        started = attempt_files.read_started(record.parent)
        if started is not None:
            attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
    for record in lab.state.glob("runs/*/*/attempts/*/started.json"):
        wait_for("a shim to end", functools.partial(attempt_files.lock_is_free, record.parent))


@contextmanager
def daemon(lab: Lab) -> Iterator[int]:
    """The daemon, answering; its pid. It is asked to end at the end; its trainings are left to the laboratory."""
    with ExitStack() as stack:
        log = stack.enter_context(lab.log.open("ab"))
        before_bytes = lab.log.stat().st_size
        command = [sys.executable, "-m", "supervisor", "run", "--config", str(lab.config)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        wait_for("the daemon to be ready", lambda: _is_ready(lab, process, before_bytes), READY_WITHIN_S)
        yield process.pid


def _is_ready(lab: Lab, process: subprocess.Popen[bytes], before_bytes: int) -> bool:
    said = lab.log.read_bytes()[before_bytes:].decode(errors="replace")
    if process.poll() is not None:
        raise MeasurementError(f"the daemon ended: {said[-2000:]}")
    return "ready:" in said


def wait_for(what: str, look: Callable[[], Found], patience_s: float = 60.0, every_s: float = 0.01) -> Found:
    """Poll until `look` gives something true. Raises MeasurementError when it takes too long."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(every_s)
    raise MeasurementError(f"waited {patience_s:.0f} s in vain for {what}")


def drop(lab: Lab, jobs: dict[str, str]) -> float:
    """Move job files into the folder, all written before; the wall time before the first was moved."""
    staging = lab.root / "staging"
    staging.mkdir(exist_ok=True)
    for name, text in jobs.items():
        (staging / f"{name}.toml").write_text(text, encoding="utf-8")
    began_at = time.time()
    for name in jobs:
        (staging / f"{name}.toml").rename(lab.jobs / f"{name}.toml")
    return began_at


def command_job(command: Sequence[str], more: str = "") -> str:
    """A job file for any program. JSON's lists of texts are TOML's too."""
    return f"command = {json.dumps(list(command))}\nrestart.no_progress = 1\n{more}\n"


@contextmanager
def journal_reader(lab: Lab) -> Iterator[sqlite3.Connection]:
    """A connection for short reads; each query must be fetched whole."""
    with closing(sqlite3.connect(f"file:{lab.journal}?mode=ro", uri=True, isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        yield connection


def count_events(connection: sqlite3.Connection, kind: str) -> int:
    """How many events of a kind the journal holds."""
    return int(connection.execute("SELECT count(*) FROM events WHERE kind = ?", (kind,)).fetchall()[0][0])


def environment(lab: Lab) -> dict[str, str]:
    """An environment in which the command line finds the lab's daemon."""
    return {**os.environ, "YOLO_SUPERVISOR_SOCKET": str(lab.socket), "YOLO_SUPERVISOR_CONFIG": str(lab.config)}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
