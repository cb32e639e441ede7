"""A program: trains nothing, but saves checkpoints in place and enters each in the ledger, and says which is safe."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from supervisor import layout
from supervisor.core.job import Checkpoints
from supervisor.core.model import Job
from supervisor.effects import ledger
from tests.torch_files import checkpoint

JOB = Job(name="truck", revision="r", train={"epochs": 10_000}, checkpoints=Checkpoints(keep_last=2, keep_best=0))


def main(root: Path) -> None:
    """Go on until killed. A line `N` says that epoch N was entered; it is written after that is so, never before."""
    run_dir = layout.run_directory(root, "default", "truck")
    run_dir.weights.mkdir(parents=True, exist_ok=True)
    for epoch in itertools.count(1):
        last = run_dir.weights / "last.pt"
        last.write_bytes(
            checkpoint(epoch - 1, epochs=10_000, padding=150_000)
        )  # in place and not synced: as trainers do
        if ledger.enter(run_dir, last, "truck@1", 1, JOB, float(epoch)) is not None:
            print(epoch, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
