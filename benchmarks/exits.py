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
        jobs = {f"sleeper-{number:03d}": command_job(["/bin/sleep", "100000"]) for number in range(count)}
        drop(lab, jobs)
        with journal_reader(lab) as connection:
            delays_ms = [1000 * _kill_one(lab, connection, name) for name in jobs]
    how = (
        f"{count} trainings killed by SIGKILL at a known time, {AT_ONCE} alive at once; until a reader of the journal finds the "
        f"committed AttemptExited (looked for every {POLL_S * 1000:.0f} ms)"
    )
    details = {"worst_ms": max(delays_ms), "samples": count}
    return [
        Figure("exit seen, median", median(delays_ms), "ms", GOAL_MS, how, details=details),
        Figure("exit seen, 90 %", percentile(delays_ms, 0.9), "ms", None, how),
    ]


def _kill_one(lab: Lab, connection: sqlite3.Connection, name: str) -> float:
    """Seconds from the kill of a training to the committed event."""
    wait_for(f"{name} to run", lambda: _runs(connection, name))
    started = lab.started(name)
    assert started is not None
    time.sleep(random.uniform(0.1, 0.4))  # not in step with anything that the daemon does periodically
    killed_s = time.monotonic()
    os.kill(started.pid, signal.SIGKILL)
    wait_for(f"the end of {name}", lambda: _has_exited(connection, name), every_s=POLL_S)
    return time.monotonic() - killed_s


def _runs(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM events WHERE kind = 'Launched' AND run LIKE ?"
    return bool(connection.execute(query, (f"{name}@%",)).fetchall())


def _has_exited(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM events WHERE run = ? AND kind = 'AttemptExited'"
    return bool(connection.execute(query, (f"{name}@1",)).fetchall())
