"""A program: enters checkpoints into a ledger and dies at its N-th touch of the file system, for every N.

Each try is a fork that leaves at the N-th file operation (as Python's audit hooks name them) by os._exit, so that
nothing is tidied up. It prints one JSON object a line: the try, and what was found wrong after it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import msgspec

from supervisor import layout
from supervisor.core.job import Checkpoints
from supervisor.core.ledger import Ledger, Line, usable
from supervisor.core.model import Job
from supervisor.effects import ledger
from tests.torch_files import checkpoint

TOUCHES = frozenset({"open", "os.rename", "os.remove", "os.link", "os.utime", "os.chmod", "fcntl.ioctl", "os.truncate"})
JOB = Job(name="truck", revision="r", train={"epochs": 9}, checkpoints=Checkpoints(keep_last=2, keep_best=0))
SERIALS = itertools.count(1)
SURVIVED, DIED = 0, 9


def scene(root: Path, epochs: list[int]) -> layout.RunDirectory:
    """A run directory whose ledger holds the first two of these epochs (from 1); the third is about to be entered."""
    run_dir = layout.run_directory(root, "default", "truck")
    run_dir.weights.mkdir(parents=True)
    run_dir.attempt(1).root.mkdir(parents=True)
    for epoch in epochs[:2]:
        enter(run_dir, epoch, run_dir.weights / "last.pt")
    return run_dir


def copy_of(scene_dir: Path, root: Path) -> layout.RunDirectory:
    """The same scene once more, with the times of its files."""
    shutil.copytree(scene_dir, root)
    return layout.run_directory(root, "default", "truck")


def enter(run_dir: layout.RunDirectory, epoch: int, path: Path) -> None:
    """Save an epoch, never twice the same bytes, and enter it."""
    serial = next(SERIALS)
    path.write_bytes(checkpoint(epoch - 1, epochs=9, numbers=(float(epoch), float(serial))))
    os.utime(path, ns=(10**18, 10**18 + serial))
    ledger.enter(run_dir, path, "truck@1", 1, JOB, float(serial))


def dying_at(count: int, act: object) -> int:
    """Do it in a fork that dies at its `count`-th touch; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = count

    def hook(event: str, _arguments: object) -> None:
        nonlocal left
        if event in TOUCHES:
            left -= 1
            if left == 0:
                os._exit(DIED)

    sys.addaudithook(hook)
    act()  # type: ignore[operator]
    os._exit(SURVIVED)


def wrong(run_dir: layout.RunDirectory, promised: set[int], entering: int) -> list[str]:
    """What a person would complain about, after the crash and after the next, undisturbed order."""
    found = []
    recorded = msgspec.json.decode((run_dir.good / "ledger.json").read_bytes(), type=Ledger)
    for entry in recorded.entries:
        path = ledger.path_of(run_dir, entry)
        if not path.exists():
            found.append(f"the record names {entry.file}, which is gone")
        elif not ledger.verify_entry(run_dir, entry):
            found.append(f"the record does not describe {entry.file}")
    there = {entry.epoch for entry in usable(ledger.read(run_dir))}
    if not promised <= there:
        found.append(f"epochs {sorted(promised - there)} are lost")
    enter(run_dir, entering + 1, run_dir.weights / "last.pt")
    after = ledger.read(run_dir)
    names = {path.name for path in run_dir.good.iterdir()}
    if names != {entry.file for entry in after.entries} | {"ledger.json", "ledger.before.json"}:
        found.append(f"leftovers: {sorted(names)}")
    if not all(ledger.verify_entry(run_dir, entry) for entry in after.entries):
        found.append("a copy is not what its entry says")
    return found


def main(folder: Path) -> None:
    """Every touch of three stories: a new epoch, an epoch that is saved again, the runner's private copy."""
    stories = {
        "new": ([1, 2, 3], {2}),
        "again": ([1, 2, 2], {1, 2}),
        "final": ([7, 8, 9], {8}),
        "line": ([1, 2, 3], {2}),
    }
    for story, (epochs, promised) in stories.items():
        scene(folder / story, epochs)
        for count in range(1, 200):
            run_dir = copy_of(folder / story, folder / f"{story}-{count}")
            source = run_dir.attempt(1).final if story == "final" else run_dir.weights / "last.pt"
            line = Line(number=2, parent=1, from_epoch=2, run="truck@2")
            if story == "line":
                code = dying_at(count, lambda run_dir=run_dir, line=line: ledger.open_line(run_dir, line))
            else:
                code = dying_at(
                    count, lambda run_dir=run_dir, source=source, last=epochs[2]: enter(run_dir, last, source)
                )
            problems = wrong(run_dir, promised, 3 if story == "line" else epochs[2] if epochs[2] < 9 else 7)
            print(json.dumps({"story": story, "touch": count, "code": code, "wrong": problems}), flush=True)
            if code == SURVIVED:
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
