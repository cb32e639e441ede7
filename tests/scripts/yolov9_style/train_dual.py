"""A trainer of the shape of YOLOv9's train_dual.py, made for tests: real torch, a tiny model of its own.

Of the same shape are the options, opt.yaml as the truth at a resume, the words of the log, results.csv with epochs from
0, checkpoints written in place with torch.save, plain torch.load everywhere (which torch >= 2.6 refuses for whole
models), and the strip at the end. Of its own: --batch-s, so that a test finds time to kill it.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from pathlib import Path

import torch
import yaml
from models.tiny import Tiny
from torch import nn

HERE = Path(__file__).resolve().parent
COLUMNS = ("epoch", "train/box_loss", "train/cls_loss", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "x/lr0")
BATCHES = 4


def parse() -> argparse.Namespace:
    """Read the command line; argparse takes beginnings of options, as in the original."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", default="")
    parser.add_argument("--data", default=str(HERE / "data" / "coco.yaml"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--resume", nargs="?", const=True, default=False)
    parser.add_argument("--device", default="")
    parser.add_argument("--project", default=str(HERE / "runs" / "train"))
    parser.add_argument("--name", default="exp")
    parser.add_argument("--exist-ok", action="store_true")
    parser.add_argument("--save-period", type=int, default=-1)
    parser.add_argument("--batch-s", type=float, default=0.0)
    return parser.parse_args()


def save_dir_of(options: argparse.Namespace) -> str:
    """Return project/name, or with a number behind it."""
    wanted = Path(options.project) / options.name
    path, number = wanted, 2
    while path.exists() and not options.exist_ok:
        path, number = wanted.with_name(f"{wanted.name}{number}"), number + 1
    return str(path)


def resumed(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options of the run that is resumed: whatever the command line says besides --resume is dropped."""
    last = Path(options.resume)
    stored = last.parent.parent / "opt.yaml"
    table = yaml.safe_load(stored.read_text()) if stored.is_file() else torch.load(last, map_location="cpu")["opt"]
    options = argparse.Namespace(**table)
    options.weights, options.resume = str(last), True
    return options


def strip(path: Path) -> None:
    """Take what only a training needs out of a checkpoint, in place."""
    content = torch.load(path, map_location="cpu")
    content["model"] = content["ema"]
    for key in ("optimizer", "best_fitness", "ema", "updates"):
        content[key] = None
    content["epoch"] = -1
    content["model"].half()
    torch.save(content, path)
    print(f"Optimizer stripped from {path}")


class Training:
    """One training, from the first epoch or from a checkpoint."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = Path(options.save_dir)
        self.weights = self.folder / "weights"
        self.weights.mkdir(parents=True, exist_ok=True)
        (self.folder / "opt.yaml").write_text(yaml.safe_dump(vars(options), sort_keys=False))
        self.noise = float(yaml.safe_load(Path(options.data).read_text())["noise"])
        torch.manual_seed(1)
        self.model = Tiny()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.average = deepcopy(self.model)
        self.updates, self.best, self.begin, self.epochs = 0, 0.0, 0, options.epochs
        if options.resume:
            self.resume()

    def resume(self) -> None:
        """Take everything over from the checkpoint."""
        content = torch.load(self.options.weights, map_location="cpu")
        self.model.load_state_dict(content["model"].float().state_dict())
        self.average.load_state_dict(content["ema"].float().state_dict())
        self.begin = content["epoch"] + 1
        assert self.begin > 0, (
            f"{self.options.weights} training to {self.epochs} epochs is finished, nothing to resume."
        )
        self.optimizer.load_state_dict(content["optimizer"])
        self.best, self.updates = content["best_fitness"], content["updates"]
        print(f"Resuming training from {self.options.weights} from epoch {self.begin} to {self.epochs} total epochs")

    def run(self) -> None:
        """Train, and strip at the end; without an epoch left this fails as the original does."""
        print("Image sizes 8 train, 8 val\nUsing 0 dataloader workers")
        print(f"Logging results to \033[1m{self.folder}\033[0m\nStarting training for {self.epochs} epochs...")
        begun_s = time.time()
        for epoch in range(self.begin, self.epochs):
            loss = self.epoch(epoch)
            self.save(epoch, loss)
        print(f"\n{epoch - self.begin + 1} epochs completed in {(time.time() - begun_s) / 3600:.3f} hours.")
        for path in (self.weights / "last.pt", self.weights / "best.pt"):
            if path.exists():
                strip(path)

    def epoch(self, epoch: int) -> float:
        """Train one epoch; its mean loss."""
        print(("\n" + "%11s" * 6) % ("Epoch", "GPU_mem", "box_loss", "cls_loss", "Instances", "Size"))
        total = 0.0
        for batch in range(BATCHES):
            pictures = torch.rand(self.options.batch_size, 3, 8, 8)
            wanted = pictures.mean(dim=(1, 2, 3)) + self.noise * torch.randn(len(pictures))
            loss = nn.functional.mse_loss(self.model(pictures), wanted)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.updates += 1
            for mean, new in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.mul_(0.9).add_(new.detach(), alpha=0.1)
            total += float(loss)
            time.sleep(self.options.batch_s)
            place = ("%11s" * 2 + "%11.4g" * 4) % (f"{epoch}/{self.epochs - 1}", "0G", loss, 0.1, 12, 8)
            done = 100 * (batch + 1) // BATCHES
            print(f"\r{place}: {done:3d}%|{'█' * (done // 10):<10}| {batch + 1}/{BATCHES} [00:01<00:01]", end="")
        return total / BATCHES

    def save(self, epoch: int, loss: float) -> None:
        """Write the row of the epoch, then the checkpoints, each in place."""
        fitness = 1.0 / (1.0 + loss)
        table = self.folder / "results.csv"
        if not table.exists():
            table.write_text(("%20s," * len(COLUMNS) % COLUMNS).rstrip(",") + "\n")
        row = (epoch, loss, 0.1, fitness, fitness / 2, 0.05)
        with table.open("a") as file:
            file.write(("%20.5g," * len(row) % row).rstrip(",") + "\n")
        self.best = max(self.best, fitness)
        content = {
            "epoch": epoch,
            "best_fitness": self.best,
            "model": deepcopy(self.model).half(),
            "ema": deepcopy(self.average).half(),
            "updates": self.updates,
            "optimizer": self.optimizer.state_dict(),
            "opt": vars(self.options),
            "git": None,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }
        torch.save(content, self.weights / "last.pt")
        if self.best == fitness:
            torch.save(content, self.weights / "best.pt")
        if self.options.save_period > 0 and epoch % self.options.save_period == 0:
            torch.save(content, self.weights / f"epoch{epoch}.pt")


def main() -> None:
    """Begin or go on."""
    options = parse()
    if options.resume:
        options = resumed(options)
    else:
        options.save_dir = save_dir_of(options)
    Training(options).run()


if __name__ == "__main__":
    main()
