"""What the daemon costs while eight trainings log and a thousand finished runs lie in its journal."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.history import write_past
from benchmarks.lab import PROGRAM, Lab, command_job, daemon, drop, environment, laboratory, wait_for
from benchmarks.processes import family, memory_bytes, stat
from benchmarks.receiver import Receiver, receiver

TRAINER = Path(__file__).with_name("logging_trainer.py")
TRAININGS = 8
FINISHED = 1000
SETTLE_S = 15.0
SAMPLE_S = 10.0
PSS_GOAL_MIB = 75.0
SHIM_GOAL_MIB = 12.0
CPU_GOAL_PERCENT = 0.5


@dataclass
class Observed:
    """What was seen of the daemon over some time."""

    pss_mib: list[float] = field(default_factory=list)
    shim_rss_mib: list[float] = field(default_factory=list)
    shim_pss_mib: list[float] = field(default_factory=list)
    cpu_percent: float = 0.0
    seconds: float = 0.0


def measure(minutes: float) -> list[Figure]:
    """Watch a daemon for so long. Four of the trainings also write the runner's heartbeats."""
    with receiver() as hook, laboratory(max_running=TRAININGS, channels=hook.channel) as lab:
        events = write_past(lab.journal, lab.jobs, FINISHED)
        with daemon(lab) as pid:
            shims = _start_trainings(lab)
            _use_it(lab, hook)
            time.sleep(SETTLE_S)
            seen = _watch(pid, shims, minutes * 60.0)
            details = {"events_before": events, "messages": hook.received, "largest_mib": max(seen.pss_mib)}
    return _figures(seen, details)


def _start_trainings(lab: Lab) -> set[int]:
    """Let all trainings log; the pids of their shims."""
    jobs = {}
    for number in range(TRAININGS):
        command = ["{python}", "-I", "-S", str(TRAINER), "{run_dir}", *(["--beats"] if number % 2 else [])]
        checkpoints = 'checkpoint_files = ["{run_dir}/train/weights/last.pt"]'
        jobs[f"logger-{number}"] = command_job(command, f'python = "{sys.executable}"\n{checkpoints}')
    drop(lab, jobs)
    return {wait_for(f"{name} to start", functools.partial(lab.shim_pid, name)) for name in jobs}


def _use_it(lab: Lab, hook: Receiver) -> None:
    """Have done once what a daemon does on its first day: it was asked about everything, and has told somebody."""
    for words in (("ls",), ("ls", "--all", "--json"), ("status",), ("why", "logger-0"), ("show", "finished-0500")):
        command = [str(PROGRAM), *words]
        subprocess.run(command, env=environment(lab), capture_output=True, check=True)
    wait_for("the first message", lambda: hook.received)


def _watch(pid: int, shims: set[int], seconds: float) -> Observed:
    """Sample until the time is over, once at its end. Trainings hang below their shims, which are not ours to count."""
    seen = Observed()
    began_s, cpu_before_s = time.monotonic(), _cpu_s(pid)
    while (left_s := began_s + seconds - time.monotonic()) > 0:
        time.sleep(min(SAMPLE_S, left_s))
        members = family(pid, without=shims)
        seen.pss_mib.append(sum(memory_bytes(member, "Pss") for member in members) / 2**20)
    seen.seconds = time.monotonic() - began_s
    seen.cpu_percent = 100.0 * (_cpu_s(pid) - cpu_before_s) / seen.seconds
    seen.shim_rss_mib = [memory_bytes(shim, "Rss") / 2**20 for shim in shims]
    seen.shim_pss_mib = [memory_bytes(shim, "Pss") / 2**20 for shim in shims]
    return seen


def _cpu_s(pid: int) -> float:
    known = stat(pid)
    if known is None:
        raise ProcessLookupError(f"the daemon (pid {pid}) is gone")
    return known.cpu_s


def _figures(seen: Observed, details: dict[str, Any]) -> list[Figure]:
    minutes = seen.seconds / 60
    about = f"after {minutes:.1f} min with {TRAININGS} trainings that log 10 lines/s and {FINISHED} finished runs"
    shims = {"shims_rss_mib": seen.shim_rss_mib, "shims_pss_mib": sum(seen.shim_pss_mib)}
    return [
        Figure(
            "daemon PSS", seen.pss_mib[-1], "MiB", PSS_GOAL_MIB,
            f"daemon and its own children, {about}; smaps_rollup", details=details,
        ),
        Figure("shim RSS, largest", max(seen.shim_rss_mib), "MiB", SHIM_GOAL_MIB, f"each shim, {about}", details=shims),
        Figure(
            "daemon CPU", seen.cpu_percent, "% of a core", CPU_GOAL_PERCENT,
            f"user and system time of the daemon over {minutes:.1f} min with {TRAININGS} trainings that log 10 lines/s",
        ),
    ]  # fmt: skip
