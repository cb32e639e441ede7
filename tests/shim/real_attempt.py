"""A real attempt directory and a real shim, with waits that have a deadline."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from supervisor import attempt_files
from supervisor.attempt_files import Exit, Launch, Started

SHIM = Path(attempt_files.__file__).with_name("shim.py")
TOY = Path(__file__).parents[1] / "toy_trainer.py"
PATIENCE_S = 20.0


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until the condition holds; fail the test with `what` if it does not in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s} s: {what}"
        select.select([], [], [], 0.005)


def ended(pid: int, patience_s: float = PATIENCE_S) -> bool:
    """Wait for the end of a process by its pidfd; True if it ended in time or was gone already."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(patience_s * 1000))
    finally:
        os.close(handle)


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process and it is no zombie."""
    return ended(pid, 0) is False


class Attempt:
    """One attempt directory."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        folder.mkdir(parents=True)

    def write_launch(self, argv: list[str], *, log_max_bytes: int = 0, cwd: Path | None = None, **env: str) -> None:
        """Write launch.json with the marker variables that the daemon always sets, and `env`."""
        variables = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "YOLO_SUPERVISOR_ATTEMPT_DIR": str(self.dir),
            **env,
        }
        launch = Launch(
            run="toy@1",
            attempt=1,
            token=1,
            argv=tuple(argv),
            env=variables,
            cwd=str(cwd or self.dir),
            umask=0o027,
            log_max_bytes=log_max_bytes,
        )
        attempt_files.write_launch(self.dir, launch)

    def command(self) -> list[str]:
        """Return how the daemon starts the shim."""
        return [sys.executable, "-I", "-S", "-E", str(SHIM), str(self.dir)]

    def start(self, **how: object) -> subprocess.CompletedProcess[str]:
        """Run the starting process to its end, which is the shim's beginning."""
        return subprocess.run(self.command(), capture_output=True, text=True, timeout=PATIENCE_S, check=False, **how)

    def launch(self, argv: list[str], **options: object) -> Started:
        """Write launch.json and start the shim, which must succeed."""
        self.write_launch(argv, **options)
        starter = self.start()
        assert (starter.returncode, starter.stderr) == (0, "")
        return self.started

    def python(self, code: str, *arguments: str, **options: object) -> Started:
        """Launch Python code as the trainer."""
        return self.launch([sys.executable, "-c", code, *arguments], **options)

    @property
    def started(self) -> Started:
        """What started.json says."""
        record = attempt_files.read_started(self.dir)
        assert record is not None
        return record

    def finish(self) -> Exit:
        """Wait for the shim's end and return what exit.json says."""
        assert ended(self.started.shim_pid), "the shim did not end"
        until(lambda: attempt_files.lock_is_free(self.dir), "the lock is given back")
        record = attempt_files.read_exit(self.dir)
        assert record is not None
        return record

    def log(self) -> str:
        """Return the trainer's output."""
        return (self.dir / "log").read_text(encoding="utf-8")

    def end_all(self) -> None:
        """End what a failing test left, the shim last, so that it can reap."""
        if not (self.dir / "started.json").exists():
            return
        for _ in range(3):
            for pid, start_time in attempt_files.descendants_and_marked(
                self.dir, self.started.shim_pid, self.started.pid
            ):
                attempt_files.signal_process(pid, start_time, signal.SIGKILL)
        if not ended(self.started.shim_pid, 8):
            attempt_files.signal_process(self.started.shim_pid, self.started.shim_start_time, signal.SIGKILL)


def fill(folder: Path) -> Path:
    """Write until the file system is full; return the file that fills it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children, zombies too."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def read_json(path: Path) -> dict:
    """Return a JSON file as it stands, not through our own readers."""
    return json.loads(path.read_text(encoding="utf-8"))
