"""Run our runner in a process that also tells what Ultralytics trains with: ``ladder_driver.py [old] ATTEMPT_DIR``.

Prints `LADDER {json}` when the training starts. With `old`, arguments are taken at a resume as by Ultralytics 8.3.74:
its caller's `imgsz`, `batch`, `device` and `close_mosaic` only.
"""

from __future__ import annotations

import functools
import json
import runpy
import sys
from pathlib import Path

from ultralytics.engine.trainer import BaseTrainer

RUNNER = Path(__file__).resolve().parents[2] / "supervisor" / "runner" / "train.py"


def tell(trainer):
    """Print what is used, not what was asked for."""
    frozen = [name for name, value in trainer.model.named_parameters() if not value.requires_grad]
    told = {
        "batch": trainer.train_loader.batch_size,
        "nbs": trainer.args.nbs,
        "accumulate": trainer.accumulate,
        "decay": max(group["weight_decay"] for group in trainer.optimizer.param_groups),
        "imgsz": trainer.train_loader.dataset.imgsz,
        "cache": trainer.train_loader.dataset.cache,
        "frozen": sorted({int(name.split(".")[1]) for name in frozen if "dfl" not in name}),
        "from_epoch": trainer.start_epoch,
    }
    print(f"LADDER {json.dumps(told)}", flush=True)


call = BaseTrainer.run_callbacks


def run_callbacks(self, event):
    """As the trainer's own."""
    if event == "on_train_start":
        tell(self)
    return call(self, event)


BaseTrainer.run_callbacks = run_callbacks

if sys.argv[1] == "old":
    sys.argv.pop(1)
    takes_most = BaseTrainer.check_resume

    def check_resume(self, overrides):
        """Take little: the names stand here as literals, as in the library."""
        taken = {"imgsz", "batch", "device", "close_mosaic"}
        always = {"model", "data", "mode", "resume", "save_dir", "project", "name"}
        return takes_most(self, {name: value for name, value in overrides.items() if name in taken | always})

    BaseTrainer.check_resume = functools.wraps(takes_most, assigned=("__name__",))(check_resume)
    del BaseTrainer.check_resume.__wrapped__  # its own source is read

sys.argv[0] = str(RUNNER)
runpy.run_path(str(RUNNER), run_name="__main__")
