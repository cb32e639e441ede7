"""Whether the daemon's loop waits while a large checkpoint is looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks import torch_shape
from benchmarks.figures import Figure, percentile
from supervisor.clock import WallClock
from supervisor.core import events
from supervisor.core.model import World
from supervisor.effects import checkpoints
from supervisor.journal import Journal
from supervisor.loop import Loop

GOAL_MS = 20.0
EVERY_S = 0.002
SIZE_BYTES = 2_000_000_000


def measure(folder: Path, looks: int = 12, size_bytes: int = SIZE_BYTES) -> list[Figure]:
    """Give the loop an event every 2 ms while an effects thread has the file looked at, again and again."""
    path = torch_shape.write(folder / "large.pt", size_bytes)
    with _loop(folder) as (loop, taken):
        idle_ms = _pulse(loop, taken, _for_a_second)
        busy_ms = _pulse(loop, taken, lambda: [checkpoints.look([path], finite=True) for _ in range(looks)])
    path.unlink()
    how = (
        f"from putting an event to its commit and its step, {len(busy_ms)} events, while {looks} times a file of "
        f"{size_bytes / 1e6:.0f} MB was looked at; without that p99 {percentile(idle_ms, 0.99):.2f} ms"
    )
    details = {"p50_ms": percentile(busy_ms, 0.5), "max_ms": max(busy_ms), "idle_p99_ms": percentile(idle_ms, 0.99)}
    return [
        Figure(
            "loop latency while a checkpoint is checked, p99",
            percentile(busy_ms, 0.99),
            "ms",
            GOAL_MS,
            how,
            details=details,
        )
    ]


@contextmanager
def _loop(folder: Path) -> Iterator[tuple[Loop, threading.Semaphore]]:
    """The daemon's loop with a journal on disk, in a thread; the semaphore counts its turns."""
    taken, ended = threading.Semaphore(0), threading.Event()

    def turn(journal: Journal) -> None:
        with closing(journal):
            while not ended.is_set():
                loop.run_once(at_most_s=0.5)

    journal = Journal.open(folder / "journal.db")
    loop = Loop(World(), journal, WallClock(), lambda _actions: None)
    loop.after_step.append(taken.release)
    thread = threading.Thread(target=turn, args=(journal,))
    thread.start()
    try:
        yield loop, taken
    finally:
        ended.set()
        loop.wake()
        thread.join()


def _pulse(loop: Loop, taken: threading.Semaphore, work: object) -> list[float]:
    """Milliseconds that each event took until the loop was done with it, for as long as the work lasts."""
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    latencies_ms = []
    while thread.is_alive():
        before_s = time.perf_counter()
        name = f"/jobs/{before_s}.toml"
        loop.put(events.JobRefused(at=time.time(), path=name, revision="r", problem="a pulse"))
        taken.acquire()
        latencies_ms.append((time.perf_counter() - before_s) * 1000.0)
        time.sleep(EVERY_S)
    thread.join()
    return latencies_ms


def _for_a_second() -> None:
    time.sleep(1.0)
