"""A program that looks like a training from outside and does nothing: it logs ten lines a second.

    python logging_trainer.py RUN_DIR [--beats]

It also writes results.csv and last.pt every epoch, and with --beats the runner's heartbeats, two a second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

LINES_PER_S = 10
EPOCH_LINES = 300
EPOCHS = 100_000
BEAT_LINES = 5
LOSSES = {"box_loss": 1.234, "cls_loss": 2.345, "dfl_loss": 0.987}


def main() -> None:
    """Train for ever."""
    run_dir, with_beats = Path(sys.argv[1]), "--beats" in sys.argv
    weights = run_dir / "train" / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    beats = Path(os.environ["YOLO_SUPERVISOR_ATTEMPT_DIR"]) / "beats.jsonl" if with_beats else Path(os.devnull)
    print(f"Starting training for {EPOCHS} epochs...", flush=True)
    print(f"{'Epoch':>11}{'GPU_mem':>11}" + "".join(f"{name:>11}" for name in LOSSES), flush=True)
    with beats.open("ab", buffering=0) as file:
        file.write(beat("fresh", save_dir=str(run_dir / "train"), epochs=EPOCHS))
        line, next_s = 0, time.monotonic()
        while True:
            epoch, batch = divmod(line, EPOCH_LINES)
            show(epoch, batch + 1)
            if line % BEAT_LINES == 0:
                place = {"epoch": epoch, "epochs": EPOCHS, "batch": batch + 1, "batches": EPOCH_LINES}
                file.write(beat("batch", losses=LOSSES, images_per_s=160.0, **place))
            if batch + 1 == EPOCH_LINES:
                close_epoch(weights, epoch)
                file.write(beat("saved", epoch=epoch, path=str(weights / "last.pt"), best=True))
            line += 1
            next_s += 1 / LINES_PER_S
            time.sleep(max(0.0, next_s - time.monotonic()))


def beat(kind: str, **fields: object) -> bytes:
    """One line of the runner."""
    return json.dumps({"v": 1, "at": round(time.time(), 3), "kind": kind, **fields}).encode() + b"\n"


def show(epoch: int, batch: int) -> None:
    """One line with what a progress bar shows, colours included."""
    numbers = "".join(f"{value:>11.4g}" for value in LOSSES.values())
    percent = batch * 100 // EPOCH_LINES
    bar = "━" * (percent // 10)
    place = f"{f'{epoch + 1}/{EPOCHS}':>11}{'3.1G':>11}"
    print(f"\x1b[K{place}{numbers}{12:>11}{640:>11}: {percent}% {bar} {batch}/{EPOCH_LINES} 10.0it/s 3.1s", flush=True)


def close_epoch(weights: Path, epoch: int) -> None:
    """A row in results.csv, then a checkpoint."""
    table = weights.parent / "results.csv"
    names = [f"train/{name}" for name in LOSSES] + ["metrics/mAP50-95(B)"]
    with table.open("a", encoding="utf-8") as file:
        if not epoch:
            file.write(",".join(["epoch", "time", *names]) + "\n")
        file.write(f"{epoch + 1},{30.0 * (epoch + 1):.6g},1.2,2.3,0.9,0.5\n")
    (weights / "last.pt").write_bytes(os.urandom(100_000))


if __name__ == "__main__":
    main()
