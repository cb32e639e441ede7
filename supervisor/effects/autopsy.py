"""What a hanging attempt does, written down before it is ended: stacks, blocked calls, files, log, and one line.

Bounded in time whatever hangs: each process is looked at in a thread of its own, and who is not ready in time is told
as far as it was seen. Nothing is ended, paused or retried here. The GPUs are not looked at: what is known of them
belongs to their probe.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from supervisor import attempt_files, layout
from supervisor.core.actions import Autopsy
from supervisor.core.diagnosis import verdict
from supervisor.core.events import AutopsyDone, Event
from supervisor.core.plain_text import clean_lines, one_line
from supervisor.effects.process_look import Look
from supervisor.machine import mounts

LIMIT_S = 20.0  # for all of it: the GPUs stand idle meanwhile
LOOK_S = 15.0  # for the processes; the rest is for writing
LOOKS_AT_ONCE = 8
PROCESSES = 128
LOG_LINES = 200
LOG_BYTES = 256 * 1024
LINE_CHARACTERS = 1000
VERSION = 1


class Autopsist:
    """Carries out Autopsy."""

    def __init__(self, runs_dir: Path, now: Callable[[], float], *, limit_s: float = LIMIT_S) -> None:
        """`now` stamps the answer, which comes within `limit_s`."""
        self._runs_dir = runs_dir
        self._now = now
        self._limit_s = limit_s

    def __call__(self, action: Autopsy) -> tuple[Event, ...]:
        """See the module. Never asks for another try: what hangs now must be ended now."""
        directory = layout.run_directory(self._runs_dir, action.job.project, action.job.name).attempt(action.attempt)
        examination = Examination(directory, action, self._now(), self._limit_s)
        examination.start()
        examination.join(self._limit_s)
        done = AutopsyDone(
            at=self._now(),
            origin="autopsy",
            run=action.run,
            attempt=action.attempt,
            summary=one_line(examination.summary),
            directory=examination.stored,
        )
        return (done,)


class Examination(threading.Thread):
    """One autopsy, in a thread that may be left behind: the run directory itself may lie on what hangs.

    `summary` is the best that is known so far; `stored` is the folder once everything is in it.
    """

    def __init__(self, directory: layout.AttemptDirectory, action: Autopsy, at: float, limit_s: float) -> None:
        """Begin nothing yet; `at` is the time for the record."""
        super().__init__(name="autopsy", daemon=True)
        self._directory = directory
        self._action = action
        self._at = at
        self._begun_s = time.monotonic()
        self._look_until_s = self._begun_s + limit_s * LOOK_S / LIMIT_S
        self._left_out = 0
        self.summary = "the processes could not be looked at in time"
        self.stored = ""

    def run(self) -> None:
        """Look, sum up, store; what fails is said in the summary."""
        try:
            looks = self._look()
            self.summary = verdict.summary([look.seen() for look in looks])
        except (OSError, ValueError) as error:
            self.summary = f"the processes could not be looked at: {error}"
            return
        try:
            self._store(looks)
            self.stored = str(self._directory.autopsy)
        except OSError as error:
            self.summary += f" (the stacks could not be stored: {error.strerror})"

    # ---- looking
    def _look(self) -> list[Look]:
        looks = self._processes()
        table = mounts.table()
        waiting = iter(looks)
        lock = threading.Lock()

        def work() -> None:
            while time.monotonic() < self._look_until_s:
                with lock:
                    look = next(waiting, None)
                if look is None:
                    return
                try:
                    look.take(table, self._look_until_s)
                except (OSError, ValueError) as error:
                    look.denied.append(str(error))

        lookers = [threading.Thread(target=work, name="autopsy-look", daemon=True) for _ in range(LOOKS_AT_ONCE)]
        for looker in lookers:
            looker.start()
        for looker in lookers:
            looker.join(max(0.0, self._look_until_s - time.monotonic()))
        return looks

    def _processes(self) -> list[Look]:
        """Return all processes of the attempt, the trainer first, then the oldest. ValueError, OSError: see started."""
        started = attempt_files.read_started(self._directory.root)
        if started is None or not attempt_files.is_same_boot(started):
            return []
        found = attempt_files.descendants(started.shim_pid, started.shim_start_time)
        found.pop(started.shim_pid, None)
        found |= attempt_files.descendants(
            started.pid, started.start_time
        )  # of a shim that was killed, or only watches
        looks = [
            Look(pid, parent, start_time, trainer=pid == started.pid) for pid, (parent, start_time) in found.items()
        ]
        looks.sort(key=lambda look: (not look.trainer, look.start_time, look.pid))
        self._left_out = max(0, len(looks) - PROCESSES)
        return looks[:PROCESSES]

    # ---- storing
    def _store(self, looks: list[Look]) -> None:
        folder = self._directory.autopsy
        folder.mkdir(exist_ok=True)
        for old in folder.glob("stacks-*.txt"):
            old.unlink()
        for look in looks:
            _write(folder / f"stacks-{look.pid}.txt", look.text())
        _write(folder / "log.txt", "".join(f"{line}\n" for line in log_lines(self._directory.log)))
        _write_json(folder / "processes.json", [look.record() for look in looks])
        _write_json(folder / "summary.json", self._record(looks))

    def _record(self, looks: list[Look]) -> dict[str, Any]:
        return {
            "version": VERSION,
            "at": self._at,
            "run": self._action.run,
            "attempt": self._action.attempt,
            "reason": self._action.reason,
            "summary": self.summary,
            "took_s": round(time.monotonic() - self._begun_s, 2),
            "processes": [look.pid for look in looks],
            "incomplete": [look.pid for look in looks if not look.complete],
            "left_out": self._left_out,
            "denied": sorted({reason for look in looks for reason in look.denied}),
            "gpus": "not looked at",
        }


def log_lines(path: Path) -> list[str]:
    """Return the last lines of a log, cleaned for people; none where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            lines = clean_lines(file.read(LOG_BYTES))
    except FileNotFoundError:
        return []
    return [line[:LINE_CHARACTERS] for line in lines if line.strip()][-LOG_LINES:]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace")


def _write_json(path: Path, content: object) -> None:
    # what is not UTF-8 in a name of a file came in as surrogates, which JSON cannot carry
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_printable(content)), indent=1) + b"\n")


def _printable(content: Any) -> Any:
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode("utf-8")
    if isinstance(content, dict):
        return {key: _printable(value) for key, value in content.items()}
    return [_printable(value) for value in content] if isinstance(content, list | tuple) else content
