"""The loop of the stand-in: the library's order of callbacks, checkpoints and final steps."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

from ultralytics.utils.callbacks import get_default_callbacks
from ultralytics.utils.files import read_checkpoint, write_checkpoint
from ultralytics.utils.torch_utils import strip_optimizer


class BaseTrainer:
    """Trains nothing, and says everything that the real one says."""

    def __init__(self, overrides):
        self.callbacks = get_default_callbacks()
        self.args = SimpleNamespace(val=True, **overrides)
        self.check_resume(overrides)
        self.epochs, self.start_epoch, self.batch_size = self.args.epochs, 0, 16
        self.save_dir = Path(os.environ.get("FAKE_SAVE_DIR") or self._save_dir())
        self.last, self.best = self.save_dir / "weights" / "last.pt", self.save_dir / "weights" / "best.pt"
        self.last.parent.mkdir(parents=True, exist_ok=True)
        self.tloss, self.metrics, self.fitness, self.best_fitness = None, {}, None, None
        self.stop, self.epoch_time, self.train_loader = False, 0.1, range(int(os.environ.get("FAKE_BATCHES", "4")))
        self.run("on_pretrain_routine_start")

    def _save_dir(self):
        return getattr(self.args, "save_dir", None) or Path(self.args.project) / self.args.name

    def check_resume(self, overrides):
        """Take the checkpoint's arguments, and the caller's where a resume honours them."""
        self.resume = bool(self.args.resume)
        if self.resume:
            self.checkpoint = read_checkpoint(self.args.resume)
            honoured = {name: overrides[name] for name in ("batch", "device", "save_dir", "time") if name in overrides}
            self.args = SimpleNamespace(**{"val": True, **self.checkpoint["train_args"], **honoured})
            self.args.model = overrides["resume"]

    def run(self, event, source=None):
        """Call the callbacks of one event."""
        for callback in self.callbacks[event]:
            callback(source or self)

    def train(self):
        """Set up, loop, finish; the teardown comes in every case."""
        try:
            self._scan()
            self.run("on_pretrain_routine_end")
            self.start_epoch = int(os.environ.get("FAKE_START_EPOCH") or self._next_epoch())
            self.run("on_train_start")
            self.epoch = self.start_epoch
            self._one_epoch()
            while not self.stop:
                self.epoch += 1
                self._one_epoch()
            self._finish()
        finally:
            self.run("teardown")

    def _next_epoch(self):
        return self.checkpoint["epoch"] + 1 if self.resume else 0

    def _scan(self):
        """Take a while between two callbacks, for a test of a stop that no callback sees."""
        Path(self.save_dir / "scanning").touch()
        deadline_s = time.monotonic() + float(os.environ.get("FAKE_SCAN_S", "0"))
        while time.monotonic() < deadline_s:
            time.sleep(0.01)

    def _one_epoch(self):
        self.run("on_train_epoch_start")
        for _ in self.train_loader:
            self.run("on_train_batch_start")
            time.sleep(float(os.environ.get("FAKE_BATCH_S", "0")))
            self.tloss = {"box_loss": 1.0 / (self.epoch + 1)}
            if os.environ.get("FAKE_RAISE") == str(self.epoch):
                raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")
            self.run("on_train_batch_end")
        self.run("on_train_epoch_end")
        self._validate(training=True)
        self.fitness = self.best_fitness = self.epoch / 10
        self.stop = self.epoch + 1 >= self.epochs
        self._save()
        self.run("on_model_save")
        self.run("on_fit_epoch_end")

    def _validate(self, training):
        validator = SimpleNamespace(training=training)
        for event in ("on_val_start", "on_val_batch_start", "on_val_batch_end", "on_val_end"):
            self.run(event, validator)
        self.metrics = {"metrics/mAP50-95(B)": self.epoch / 10, "val/box_loss": float("nan")}

    def _save(self):
        content = {
            "epoch": self.epoch,
            "best_fitness": self.best_fitness,
            "model": None,
            "ema": {"weights": 1},
            "optimizer": {"state": {0: 1}},
            "train_args": {**vars(self.args), "save_dir": str(self.save_dir)},
        }
        write_checkpoint(self.last, content)
        write_checkpoint(self.best, content)

    def _finish(self):
        for _ in range(int(os.environ.get("FAKE_FINISH_STEPS", "0"))):
            time.sleep(0.01)
        if not os.environ.get("FAKE_NO_STRIP"):
            strip_optimizer(self.last)
            strip_optimizer(self.best)
        self._validate(training=False)
        self.epoch += 1
        self.run("on_fit_epoch_end")
        self.epoch -= 1
        if not os.environ.get("FAKE_NO_END"):
            self.run("on_train_end")
