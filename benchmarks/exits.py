"""How soon the daemon has the end of a training on record."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from statistics import median

from benchmarks.figures import Figure, percentile
from benchmarks.lab import Lab, command_job, daemon, drop, journal_reader, laboratory, wait_for

GOAL_MS = 100.0
POLL_S = 0.001
AT_ONCE = 8


def measure(count: int = 48) -> list[Figure]:
    """Kill `count` trainings one after the other, at most 8 alive, and wait until each end stands in the journal."""
    with laboratory(max_running=AT_ONCE) as lab, daemon(lab):
        drop(lab, {f"sleeper-{number:03d}": command_job(["/bin/sleep", "100000"]) for number in range(count)})
        killed: set[str] = set()
        with journal_reader(lab) as connection:
            delays_ms = [1000 * _kill_next(lab, connection, killed) for _ in range(count)]
    how = (
        f"{count} trainings killed by SIGKILL at a known time, {AT_ONCE} alive at once; until a reader of the journal "
        f"finds the committed AttemptExited (looked for every {POLL_S * 1000:.0f} ms)"
    )
    details = {"worst_ms": max(delays_ms), "samples": count}
    return [
        Figure("exit seen, median", median(delays_ms), "ms", GOAL_MS, how, details=details),
        Figure("exit seen, 90 %", percentile(delays_ms, 0.9), "ms", None, how),
    ]


def _kill_next(lab: Lab, connection: sqlite3.Connection, killed: set[str]) -> float:
    """Seconds from the kill of the longest running training to the committed event."""
    run = wait_for("a training to run", lambda: _oldest(connection, killed))
    killed.add(run)
    pid = lab.trainer_pid(run.partition("@")[0])
    time.sleep(random.uniform(0.1, 0.4))  # not in step with anything that the daemon does periodically
    killed_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_for(f"the end of {run}", lambda: _has_exited(connection, run), every_s=POLL_S)
    return time.monotonic() - killed_s


def _oldest(connection: sqlite3.Connection, killed: set[str]) -> str:
    """The run that was launched first among those that still live; empty if none does."""
    rows = connection.execute("SELECT run FROM events WHERE kind = 'Launched' ORDER BY seq").fetchall()
    return next((str(run) for (run,) in rows if run not in killed), "")


def _has_exited(connection: sqlite3.Connection, run: str) -> bool:
    query = "SELECT 1 FROM events WHERE run = ? AND kind = 'AttemptExited'"
    return bool(connection.execute(query, (run,)).fetchall())
