"""The public face of the stand-in."""

import json
import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from ultralytics.utils.callbacks import get_default_callbacks
from ultralytics.utils.files import read_checkpoint

from .trainer import BaseTrainer


class Model:
    """Takes what the real class takes as far as the runner uses it."""

    def __init__(self, model, task=None):
        self.model = self.ckpt_path = str(model)
        self.trainer, self.metrics = None, None
        self.ckpt = read_checkpoint(model) if self.model.endswith(".pt") and Path(model).stat().st_size else None

    def _smart_load(self, _key):
        return BaseTrainer

    def train(self, trainer=None, **arguments):
        """Note the arguments beside the run and train."""
        arguments["model"] = self.model
        if arguments.get("resume") and os.environ.get("FAKE_OLD"):
            arguments["resume"] = self.ckpt_path  # as 8.2 and 8.3, whatever the caller says
        if os.environ.get("FAKE_PLUGIN"):
            import_module(os.environ["FAKE_PLUGIN"])
        if os.environ.get("FAKE_ARGUMENTS_FILE"):
            with Path(os.environ["FAKE_ARGUMENTS_FILE"]).open("w") as file:
                json.dump(arguments, file)
        self.trainer = (trainer or self._smart_load("trainer"))(arguments)
        self.trainer.train()
        best = self.trainer.best if self.trainer.best.exists() else self.trainer.last
        self.model, self.ckpt = str(best), read_checkpoint(best)
        self.metrics = SimpleNamespace(results_dict={"metrics/mAP50-95(B)": 0.5, "fitness": 0.5})
        return self.metrics

    def val(self, **arguments):
        """Validate in as many batches as the test wants, and return metrics."""
        if os.environ.get("FAKE_VAL_ARGUMENTS_FILE"):
            Path(os.environ["FAKE_VAL_ARGUMENTS_FILE"]).write_text(json.dumps(arguments))
        if os.environ.get("FAKE_VAL_RAISE"):
            raise RuntimeError("Dataset error:\nimages not found")
        callbacks, validator = get_default_callbacks(), SimpleNamespace(training=False)
        save_dir = Path(arguments["project"]) / arguments["name"]
        for event in (
            "on_val_start",
            *["on_val_batch_end"] * int(os.environ.get("FAKE_VAL_BATCHES", "1")),
            "on_val_end",
        ):
            (save_dir / "validating").touch()
            BaseTrainer.pause("FAKE_VAL_BATCH_S")
            for callback in callbacks[event]:
                callback(validator)
        return SimpleNamespace(results_dict={"metrics/mAP50-95(B)": 0.5, "fitness": 0.5})


class YOLO(Model):
    """The class that scripts use."""
