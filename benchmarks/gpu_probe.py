"""What watching GPUs costs: the probe and the daemon's side of it, with the fake driver, at the default tiers.

`python -m benchmarks.gpu_probe [--json] [--seconds 60] [--gpus 8]`. The time that a real driver takes for a call is
not in it: what is measured is ours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, as_json, as_table
from benchmarks.machine import facts
from benchmarks.processes import memory_bytes, stat
from supervisor.clock import WallClock
from supervisor.core.model import World
from supervisor.sources.gpus import GpuSource, Watching
from tests.fake_nvml.room import FakeDriver

CPU_GOAL_PERCENT = 0.5
RSS_GOAL_MIB = 25.0
SETTLE_S = 6.0  # the first readings, of all tiers, and the imports


def measure(seconds: float, gpus: int) -> list[Figure]:
    """Watch idle-looking GPUs, each with one process on it, for so long."""
    with tempfile.TemporaryDirectory() as folder:
        driver = FakeDriver(Path(folder) / "room", count=gpus)
        strangers = [subprocess.Popen(["/bin/sleep", str(seconds + 60)]) for _ in range(gpus)]
        for index, stranger in enumerate(strangers):
            driver.process(index, stranger.pid, 8 << 30)
        try:
            return _watched(driver, seconds, gpus)
        finally:
            driver.close()
            for stranger in strangers:
                stranger.kill()
                stranger.wait()


def _watched(driver: FakeDriver, seconds: float, gpus: int) -> list[Figure]:
    events: list[Any] = []
    watching = Watching(pci=driver.pci, driver=driver.pci / "none")
    source = GpuSource(watching, events.append, World, WallClock(), {**os.environ, **driver.environment})
    source.start()
    time.sleep(SETTLE_S)
    child = source.probe_pid
    before, probe_before_s, at = _own_cpu_s(), _cpu_s(child), time.monotonic()
    threading.Event().wait(seconds)
    took_s = time.monotonic() - at
    daemon, probe = _own_cpu_s() - before, _cpu_s(child) - probe_before_s
    rss_mib = memory_bytes(child, "Rss") / 2**20
    answered = len(source.readings())
    source.stop()
    details = {
        "probe_percent": 100 * probe / took_s,
        "daemon_side_percent": 100 * daemon / took_s,
        "gpus": gpus,
        "gpus_read": answered,
        "seconds": took_s,
        "events": len(events),
    }
    about = f"{gpus} fake GPUs for {took_s:.0f} s at the default tiers (5 s, 60 s)"
    return [
        Figure(
            "watching GPUs", 100 * (probe + daemon) / took_s, "% of a core", CPU_GOAL_PERCENT,
            f"user and system time of the probe and of the daemon's side, {about}", details=details,
        ),
        Figure("probe RSS", rss_mib, "MiB", RSS_GOAL_MIB, f"the probe's process after that, {about}; smaps_rollup"),
    ]  # fmt: skip


def _own_cpu_s() -> float:
    """This process's own: it does nothing but the daemon's side."""
    return time.process_time()


def _cpu_s(pid: int) -> float:
    known = stat(pid)
    if known is None:
        raise ProcessLookupError(f"the probe (pid {pid}) is gone")
    return known.cpu_s


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--gpus", type=int, default=8)
    arguments = parser.parse_args()
    figures = measure(arguments.seconds, arguments.gpus)
    print((as_json if arguments.json else as_table)(figures, facts()))
    return 0 if all(figure.ok is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
