"""How long a whole backup takes, beside a bare `rsync -a` of the same files to the same target."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.backup_place import SERVER, Place, Shop, local_place, make_run, ssh_place
from benchmarks.figures import Figure
from benchmarks.lab import MeasurementError
from supervisor.core.events import BackedUp

GOAL_RATIO = 0.90
MB = 1e6
BARE = (("-a",),)
#: What a backup that says "done" promises, by rsync alone: the bytes are on the disk, and were read there again.
AS_SAFE = (("-a", "--fsync"), ("-a", "-c", "-n"))


@dataclass(frozen=True)
class Load:
    """What is backed up: so many checkpoints of that size, and 200 small files."""

    copies: int
    copy_bytes: int


@dataclass(frozen=True)
class Taken:
    """Seconds by the clock, and of CPU in this process and its children (not of what a server does)."""

    wall_s: float
    cpu_s: float


def measure_local(folder: Path, load: Load, rounds: int) -> list[Figure]:
    """To another folder of this machine."""
    return _figures("to a local folder", folder, local_place(folder / "target"), load, rounds)


def measure_ssh(folder: Path, load: Load, rounds: int) -> list[Figure]:
    """Through an sshd of our own on the loopback."""
    with ssh_place(folder) as place:
        return _figures("over ssh", folder, place, load, rounds)


def _figures(name: str, folder: Path, place: Place, load: Load, rounds: int) -> list[Figure]:
    shop = Shop(folder, place)
    job, run = make_run(shop, "load", copies=load.copies, copy_bytes=load.copy_bytes)
    total = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    kinds: dict[str, Callable[[], None]] = {
        "ours": lambda: _demand_sent(shop.back_up(job)),
        "bare": lambda: _rsync(place, run, BARE),
        "as_safe": lambda: _rsync(place, run, AS_SAFE),
    }
    found, steps = [], []
    for number in range(rounds + 1):
        order = list(kinds) if number % 2 else list(kinds)[::-1]
        found.append({kind: _taken(place.folder, kinds[kind]) for kind in order})
        steps.append(shop.seconds_of_steps())
    found, steps = found[1:], steps[1:]  # the first brought everything into the page cache
    about = {"bytes": total, "rounds": [{kind: vars(one) for kind, one in each.items()} for each in found]}
    how = (
        f"{total / MB:.0f} MB to a claimed target; ours: staging, sending, reading back there, sha256, manifest, all "
        "on the disk"
    )
    return [
        _ratio(f"backup {name}, by bare rsync -a", found, "bare", GOAL_RATIO, how, {**about, "steps_s": steps}),
        _ratio(f"backup {name}, by rsync -a --fsync and rsync -a -c -n", found, "as_safe", None, how, about),
        _rate(name, found, total),
    ]


def _ratio(  # noqa: PLR0917 - all that a figure says
    name: str, found: list[dict[str, Taken]], by: str, goal: float | None, how: str, about: dict[str, Any]
) -> Figure:
    ratios = [each[by].wall_s / each["ours"].wall_s for each in found]
    words = f"median of {len(ratios)} pairs in swapped order, {min(ratios):.2f} to {max(ratios):.2f}; {how}"
    return Figure(name, median(ratios), "of its speed", goal, words, at_most=False, details={"ratios": ratios, **about})


def _rate(name: str, found: list[dict[str, Taken]], total: int) -> Figure:
    rates = {kind: total / median(each[kind].wall_s for each in found) / MB for kind in found[0]}
    cpu = {kind: median(each[kind].cpu_s for each in found) for kind in found[0]}
    how = (
        f"median of {len(found)}; bare rsync {rates['bare']:.0f} MB/s, one as safe {rates['as_safe']:.0f}; CPU here "
        f"{cpu['ours']:.2f} s, bare {cpu['bare']:.2f}, as safe {cpu['as_safe']:.2f}"
    )
    return Figure(f"backup {name}, rate", rates["ours"], "MB/s", None, how, at_most=False, details={"cpu_s": cpu})


def _taken(target: Path, action: Callable[[], None]) -> Taken:
    """Do it once to an empty target that is claimed already, while the disk has nothing else to do for us."""
    for path in target.glob("*"):
        if path.name != SERVER:
            shutil.rmtree(path)
    for path in (target / SERVER).glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
    os.sync()
    before_s, before_cpu_s = time.perf_counter(), _cpu_s()
    action()
    return Taken(time.perf_counter() - before_s, _cpu_s() - before_cpu_s)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _demand_sent(done: BackedUp) -> None:
    if done.unchanged or not done.sent_bytes:
        raise MeasurementError("nothing was sent")


def _rsync(place: Place, run: Path, calls: tuple[tuple[str, ...], ...]) -> None:
    program, *more = place.rsync
    for options in calls:
        subprocess.run([program, *options, *more, f"{run}/", f"{place.address}/bare/"], check=True)
