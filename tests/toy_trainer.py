"""A training without torch that leaves what Ultralytics leaves: log, results.csv, last.pt, best.pt, beats.

For speed, never instead of a real training. Any python3 runs it. Epochs and batches in flags are counted from 1,
as the log shows them: ``--signal-after KILL@3.2`` dies in the second batch of the third epoch.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import signal
import sys
import time
import traceback
import zipfile
from pathlib import Path

LOSSES = ("box_loss", "cls_loss", "dfl_loss")
METRICS = ("metrics/precision(B)", "metrics/recall(B)", "metrics/mAP50(B)", "metrics/mAP50-95(B)")
COLUMNS = (
    "epoch",
    "time",
    *(f"train/{name}" for name in LOSSES),
    *METRICS,
    *(f"val/{name}" for name in LOSSES),
    "lr/pg0",
    "lr/pg1",
    "lr/pg2",
)
FINISHED = 0
FAILED = 1
STOPPED = 75
WORKER_LIFE_S = 60.0
LAST_WORDS = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
    "23.64 GiB of which 1.02 GiB is free.",
    "nan": "RuntimeError: Training failed: NaN persisted for 3 epochs",
    "nccl": "RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error, NCCL version 2.27.5\n"
    "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.",
}


def place(text: str) -> tuple[int, int]:
    """Read EPOCH.BATCH."""
    epoch, _, batch = text.partition(".")
    return int(epoch), int(batch or 1)


def exit_at(text: str) -> tuple[int, int]:
    """Read CODE[@EPOCH] as (code, epoch); without an epoch it is the first."""
    code, _, epoch = text.partition("@")
    return int(code), int(epoch or 1)


def signal_at(text: str) -> tuple[int, tuple[int, int]]:
    """Read SIG@EPOCH.BATCH; the signal by name (KILL or SIGKILL) or number."""
    name, _, where = text.partition("@")
    number = int(name) if name.isdigit() else signal.Signals["SIG" + name.upper().replace("SIG", "")]
    return int(number), place(where)


def fault_at(text: str) -> tuple[str, tuple[int, int]]:
    """Read NAME@EPOCH.BATCH; batch 0 is the moment before the first batch of all."""
    name, _, where = text.partition("@")
    epoch, _, batch = where.partition(".")
    return name, (int(epoch or 1), int(batch or 1))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--epochs", type=int, default=3)
    add("--epoch-s", type=float, default=0.2, help="seconds that an epoch takes")
    add("--batches", type=int, default=4, help="batches in an epoch")
    add("--save-dir", type=Path, required=True)
    add("--resume", type=Path, help="go on behind the epoch stored in this checkpoint")
    add(
        "--exit",
        type=exit_at,
        metavar="CODE[@EPOCH]",
        help="end with that code as the epoch begins (default 1)",
    )
    add(
        "--signal-after",
        type=signal_at,
        metavar="SIG@EPOCH.BATCH",
        help="send itself a signal behind that batch",
    )
    add("--hang-after", type=place, metavar="EPOCH.BATCH", help="do nothing for ever behind that batch")
    add("--fault", type=fault_at, metavar="NAME@EPOCH.BATCH", help="a fault of toy_faults.py, behind that batch")
    add("--data", type=Path, help="a folder of images, for faults that read them")
    add("--refuse-epoch", type=int, metavar="EPOCH", help="do not resume from a checkpoint behind this epoch")
    add("--torn-checkpoint", type=int, metavar="EPOCH", help="be killed in the middle of writing last.pt")
    add(
        "--print",
        choices=sorted(LAST_WORDS),
        help="say this before --exit or --signal-after; alone: and exit 1",
    )
    add(
        "--fault-once",
        action="store_true",
        help="the faults above strike a fresh training only, not a resumed one",
    )
    add("--padding", type=int, default=0, metavar="BYTES", help="make checkpoints so much larger")
    add("--no-best", action="store_true", help="write last.pt only")
    add("--ignore-term", action="store_true", help="SIGTERM has no effect")
    add(
        "--fork-workers",
        type=int,
        default=0,
        help="children (every second in its own session) that stay a minute",
    )
    add("--no-end", action="store_true", help="exit 0 without stripping last.pt and without an end record")
    add("--beats", action="store_true", help="write beats.jsonl into $YOLO_SUPERVISOR_ATTEMPT_DIR")
    options = parser.parse_args(arguments)
    if options.print and not (options.exit or options.signal_after):
        options.exit = (FAILED, 1)
    return options


class Checkpoint:
    """last.pt and best.pt: a zip as torch.save writes it, with a pickle of the keys that Ultralytics stores."""

    def __init__(self, folder: Path, epochs: int, *, padding: int = 0, no_best: bool = False) -> None:
        self.last, self.best = folder / "last.pt", folder / "best.pt"
        self.files = (self.last,) if no_best else (self.last, self.best)
        self.padding = padding
        self.train_args = {"task": "detect", "mode": "train", "model": "toy.yaml", "epochs": epochs}
        self.save_dir = str(folder.parent)

    def content(self, epoch: int, fitness: float) -> dict[str, object]:
        """Return what the pickle holds while the training runs; the first key is the 0-based epoch."""
        return {
            "epoch": epoch,
            "best_fitness": fitness,
            "stopper": {"best_fitness": fitness, "best_epoch": epoch},
            "model": None,
            "ema": {"toy": [epoch] * 8},
            "updates": epoch + 1,
            "modelopt": None,
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]},
            "scaler": {},
            "train_args": {**self.train_args, "save_dir": self.save_dir},
            "train_metrics": {"fitness": fitness},
            "train_results": {"epoch": list(range(1, epoch + 2))},
            "date": "2026-01-01T00:00:00+00:00",
            "version": "8.4.190",
        }

    def save(self, epoch: int, fitness: float, *, torn: bool) -> None:
        """Write them in place, without fsync, as Ultralytics does."""
        data = packed(self.content(epoch, fitness), self.padding)
        if torn:
            self.last.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        for file in self.files:
            file.write_bytes(data)

    def strip(self) -> None:
        """Make them the final form: no epoch, no optimizer, the save directory forgotten."""
        for file in self.files:
            content = unpacked(file)
            content.update(model=content["ema"], epoch=-1, train_args=self.train_args)
            content.update(dict.fromkeys(("ema", "optimizer", "best_fitness", "stopper", "updates", "scaler")))
            file.write_bytes(packed(content))


def packed(content: dict[str, object], padding: int = 0) -> bytes:
    """Return the bytes of a checkpoint file, with so many zeros in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(range(256)) * 64)
        if padding:
            archive.writestr("archive/data/1", bytes(padding))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def unpacked(file: Path) -> dict:
    """Return what a checkpoint file holds; it may use pickle, for it reads only its own files."""
    with zipfile.ZipFile(file) as archive:
        return pickle.loads(archive.read("archive/data.pkl"))


class Training:
    """One process of a training."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stop_signal = 0
        self.began = time.time()
        self.weights = options.save_dir / "weights"
        self.checkpoint = Checkpoint(self.weights, options.epochs, padding=options.padding, no_best=options.no_best)
        self.beats = -1
        if options.beats and "YOLO_SUPERVISOR_ATTEMPT_DIR" in os.environ:
            file = Path(os.environ["YOLO_SUPERVISOR_ATTEMPT_DIR"]) / "beats.jsonl"
            self.beats = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def beat(self, kind: str, **fields: object) -> None:
        """Append one line to beats.jsonl with one write."""
        if self.beats >= 0:
            line = {"v": 1, "at": time.time(), "kind": kind, **fields}
            os.write(self.beats, json.dumps(line).encode() + b"\n")

    def end(self, result: str, code: int, reason: str, epoch: int | None = None, **fields: object) -> int:
        """Write the end record and return the exit code."""
        self.beat("end", result=result, code=code, reason=reason, epoch=epoch, epochs=self.options.epochs, **fields)
        return code

    def run(self) -> int:
        """Train and return the exit code."""
        versions = {"python": sys.version.split()[0], "ultralytics": "8.4.190", "torch": "none"}
        self.beat("start", pid=os.getpid(), phase="import", **versions)
        say(f"Ultralytics 8.4.190 🚀 Python-{versions['python']} torch-none CPU (toy)")
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self.options.ignore_term else self.on_term)
        self.beat("phase", phase="setup")
        self.weights.mkdir(parents=True, exist_ok=True)
        fork_workers(self.options.fork_workers)
        self.strike(1, 0)
        try:
            first = self.first_epoch()
        except Exception as error:  # noqa: BLE001  as in Ultralytics every failure is exit code 1
            kind = "AssertionError" if isinstance(error, ValueError) else "RuntimeError: PytorchStreamReader failed"
            say(f"Traceback (most recent call last):\n{kind}: {error}")
            return self.end("error", FAILED, f"cannot resume: {error}")
        bold = f"\x1b[1m{self.options.save_dir}\x1b[0m"
        say(f"Image sizes 640 train, 640 val\nLogging results to {bold}\n", end="")
        say(f"Starting training for {self.options.epochs} epochs...")
        for epoch in range(first, self.options.epochs):
            code = self.run_epoch(epoch)
            if code is not None:
                return code
        return self.finish(first)

    def on_term(self, number: int, _frame: object) -> None:
        """Remember the request; the batch goes to its end."""
        self.stop_signal = number
        self.beat("stopping", signal=number)

    def first_epoch(self) -> int:
        """Return the 0-based epoch to begin with, and say so; ValueError if there is nothing left to train."""
        if self.options.resume is None:
            (self.options.save_dir / "results.csv").unlink(missing_ok=True)
            self.beat("fresh", save_dir=str(self.options.save_dir), epochs=self.options.epochs)
            return 0
        stored = unpacked(self.options.resume)
        epoch = stored["epoch"]
        if epoch + 1 == self.options.refuse_epoch:
            raise RuntimeError("reading zip archive: failed finding central directory")
        if epoch < 0 or stored["optimizer"] is None or epoch + 1 >= self.options.epochs:
            raise ValueError(
                f"{self.options.resume} training to {self.options.epochs} epochs is finished, nothing to resume."
            )
        say(f"Resuming training {self.options.resume} from epoch {epoch + 2} to {self.options.epochs} total epochs")
        where = {"checkpoint": str(self.options.resume), "save_dir": str(self.options.save_dir)}
        self.beat("resumed", from_epoch=epoch, **where)
        return epoch + 1

    def run_epoch(self, epoch: int) -> int | None:
        """Run one epoch (0-based); return an exit code if the training ends in it."""
        options, faulty = self.options, not (self.options.fault_once and self.options.resume)
        if faulty and options.exit and options.exit[1] == epoch + 1:
            say(LAST_WORDS.get(options.print, "RuntimeError: the toy was told to fail"))
            return self.end("error", options.exit[0], "told to fail", epoch)
        self.beat("phase", phase="train")
        say("\n" + "".join(f"{title:>11}" for title in ("Epoch", "GPU_mem", *LOSSES, "Instances", "Size")))
        losses = losses_of(epoch, nan=options.print == "nan")
        for batch in range(1, options.batches + 1):
            time.sleep(options.epoch_s / options.batches)
            self.show_batch(epoch, batch, losses)
            code = self.strike(epoch + 1, batch) if faulty else None
            if code is not None:
                return code
            if self.stop_signal:
                say("")
                return self.end("stopped", STOPPED, f"stopped by signal {self.stop_signal}", epoch)
        self.close_epoch(epoch, losses, torn=faulty and options.torn_checkpoint == epoch + 1)
        return None

    def show_batch(self, epoch: int, batch: int, losses: dict[str, float]) -> None:
        """Write one progress frame, as Ultralytics does on a terminal, and a beat."""
        options = self.options
        numbers = "".join(f"{value:>11.4g}" for value in losses.values())
        done = batch * 12 // options.batches
        text = f"{f'{epoch + 1}/{options.epochs}':>11}{'0G':>11}{numbers}{12:>11}{640:>11}"
        bar = "━" * done + "─" * (12 - done)
        percent = batch * 100 // options.batches
        say(f"\r\x1b[K{text}: {percent}% {bar} {batch}/{options.batches} 20.0it/s 0.1s", end="")
        where = {"epoch": epoch, "epochs": options.epochs, "batch": batch, "batches": options.batches}
        self.beat("batch", losses=finite(losses), images_per_s=100.0, **where)

    def strike(self, epoch: int, batch: int) -> int | None:
        """Let the fault happen if this is the batch for it; the exit code if it raised."""
        if self.options.fault and self.options.fault[1] == (epoch, batch):
            return self.fail(epoch, batch)
        if self.options.hang_after == (epoch, batch):
            while True:
                time.sleep(3600)
        if self.options.signal_after and self.options.signal_after[1] == (epoch, batch):
            if self.options.print:
                say("\n" + LAST_WORDS[self.options.print])
            os.kill(os.getpid(), self.options.signal_after[0])
        return None

    def fail(self, epoch: int, batch: int) -> int | None:
        """Let the fault happen, and end as the runner does if it raised."""
        from toy_faults import strike

        say("")
        try:
            strike(self.options)
        except BaseException as error:  # noqa: BLE001  Ctrl-C too is told as the runner tells it
            traceback.print_exc(file=sys.stdout)
            return self.end("error", FAILED, f"{type(error).__name__}: {error}", epoch - 1, batch=batch)
        return None

    def close_epoch(self, epoch: int, losses: dict[str, float], *, torn: bool) -> None:
        """Validate, write the row, then the checkpoints: the order of Ultralytics."""
        self.beat("phase", phase="val")
        metrics = metrics_of(epoch)
        say(f"\n{'Class':>22}{'Images':>11}{'Instances':>11}{'Box(P':>11}{'R':>11}{'mAP50':>11}{'mAP50-95):':>11}")
        say(f"{'all':>22}{16:>11}{32:>11}" + "".join(f"{value:>11.3g}" for value in metrics.values()))
        values = (
            epoch + 1,
            time.time() - self.began,
            *losses.values(),
            *metrics.values(),
            *losses.values(),
            0.01,
            0.01,
            0.01,
        )
        results = self.options.save_dir / "results.csv"
        header = "" if results.exists() else ",".join(COLUMNS) + "\n"
        with results.open("a", encoding="utf-8") as file:
            file.write(header + ",".join(f"{value:.6g}" for value in values) + "\n")
        self.beat("phase", phase="save")
        fitness = metrics[METRICS[-1]]
        self.checkpoint.save(epoch, fitness, torn=torn)
        self.beat("saved", epoch=epoch, path=str(self.checkpoint.last), best=True)
        where = {"epoch": epoch, "epochs": self.options.epochs, "epoch_s": self.options.epoch_s}
        self.beat("epoch", losses=finite(losses), metrics=metrics, fitness=fitness, **where)

    def finish(self, first: int) -> int:
        """End as a complete training ends."""
        if self.options.no_end:
            return FINISHED
        self.beat("phase", phase="end")
        hours = (time.time() - self.began) / 3600
        say(f"\n{self.options.epochs - first} epochs completed in {hours:.3f} hours.")
        self.checkpoint.strip()
        for file in self.checkpoint.files:
            say(f"Optimizer stripped from {file}, {file.stat().st_size / 1e6:.1f}MB")
        say(f"Results saved to \x1b[1m{self.options.save_dir}\x1b[0m")
        last = self.options.epochs - 1
        facts = {"best": str(self.checkpoint.best), "metrics": metrics_of(last)}
        return self.end("finished", FINISHED, "all epochs done", last, **facts)


def losses_of(epoch: int, *, nan: bool) -> dict[str, float]:
    """Return losses that fall from epoch to epoch."""
    return {name: float("nan") if nan else (3 - k) / (epoch + 1) for k, name in enumerate(LOSSES)}


def finite(losses: dict[str, float]) -> dict[str, float | None]:
    """Return the losses as JSON can hold them: null for what is no number."""
    return {name: value if value == value else None for name, value in losses.items()}  # noqa: PLR0124


def metrics_of(epoch: int) -> dict[str, float]:
    """Return metrics that rise from epoch to epoch, so the last epoch is the best."""
    return {name: 1 - 1 / (epoch + 2 + k) for k, name in enumerate(METRICS)}


def fork_workers(count: int) -> None:
    """Start children that do not care when their parent dies."""
    for number in range(count):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if number % 2 else signal.SIG_DFL)
            if number % 2:
                os.setsid()
            time.sleep(WORKER_LIFE_S)
            os._exit(0)


def say(text: str, end: str = "\n") -> None:
    """Write to the log at once."""
    sys.stdout.buffer.write((text + end).encode())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(Training(parse(sys.argv[1:])).run())
