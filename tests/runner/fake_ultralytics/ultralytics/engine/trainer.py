"""The loop of the stand-in: the library's order of callbacks, checkpoints and final steps."""

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

from ultralytics.utils.callbacks import get_default_callbacks
from ultralytics.utils.dist import generate_ddp_command
from ultralytics.utils.files import checkpoint_bytes, read_checkpoint
from ultralytics.utils.torch_utils import strip_optimizer


class Resumed:
    """How 8.4 resumes."""

    def check_resume(self, overrides):
        """Take the checkpoint's arguments, and the caller's where a resume honours them."""
        self.resume = bool(self.args.resume)
        if self.resume:
            honoured = {name: overrides[name] for name in ("batch", "device", "save_dir", "time") if name in overrides}
            self.take_checkpoint(honoured)


class ResumedOfOld:
    """How 8.3 resumes: always in the folder that the checkpoint remembers."""

    def check_resume(self, overrides):
        """Take the checkpoint's arguments, and the caller's where a resume honours them."""
        self.resume = bool(self.args.resume)
        if self.resume:
            self.take_checkpoint({name: overrides[name] for name in ("batch", "device") if name in overrides})


class BaseTrainer(ResumedOfOld if os.environ.get("FAKE_IGNORES_SAVE_DIR") else Resumed):
    """Trains nothing, and says everything that the real one says."""

    def __init__(self, overrides):
        self.overrides = overrides
        self.callbacks = get_default_callbacks()
        self.args = SimpleNamespace(**{"val": True, "epochs": 2, "device": "cpu", "resume": False, **overrides})
        self.check_resume(overrides)
        self.epochs, self.start_epoch, self.batch_size = self.args.epochs, 0, 16
        self.save_dir = Path(os.environ.get("FAKE_SAVE_DIR") or self._save_dir())
        self.wdir = self.save_dir / "weights"
        self.last, self.best = self.wdir / "last.pt", self.wdir / "best.pt"
        self.wdir.mkdir(parents=True, exist_ok=True)
        self.tloss, self.metrics, self.fitness, self.best_fitness = None, {}, None, None
        self.lr, self.ema = {"lr/pg0": 0.01}, SimpleNamespace(updates=0)
        self.stop, self.epoch_time, self.train_loader = False, 0.1, range(int(os.environ.get("FAKE_BATCHES", "4")))
        self.ddp = "," in str(self.args.device) and "RANK" not in os.environ
        if not self.ddp:
            self.run("on_pretrain_routine_start")

    def _save_dir(self):
        return getattr(self.args, "save_dir", None) or Path(self.args.project) / self.args.name

    def take_checkpoint(self, honoured):
        """Read the checkpoint that is resumed."""
        path = self.args.resume
        self.checkpoint = read_checkpoint(path)
        known = {"val": True, "device": "cpu", **self.checkpoint["train_args"], **honoured}
        self.args = SimpleNamespace(**{**known, "resume": path, "model": path})

    def run(self, event, source=None):
        """Call the callbacks of one event."""
        for callback in self.callbacks[event]:
            callback(source or self)

    @staticmethod
    def pause(variable):
        """Take as long as a test wants."""
        deadline_s = time.monotonic() + float(os.environ.get(variable, "0"))
        while time.monotonic() < deadline_s:
            time.sleep(0.01)

    def train(self):
        """Set up, loop, finish; the teardown comes in every case. With several devices in a child, as the library."""
        if self.ddp:
            command = generate_ddp_command(self)
            done = subprocess.run(command, env={**os.environ, "RANK": "0"}, check=False)
            if done.returncode:  # torchrun tells its caller only that something failed
                raise subprocess.CalledProcessError(1, command[:1])
            return
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
            self.final_eval()
        finally:
            if not os.environ.get("FAKE_OLD"):
                self.run("teardown")

    def _next_epoch(self):
        return self.checkpoint["epoch"] + 1 if self.resume else 0

    def _scan(self):
        """Take a while between two callbacks, for a test of a stop that no callback sees."""
        Path(self.save_dir / "scanning").touch()
        self.pause("FAKE_SCAN_S")

    def _one_epoch(self):
        self.run("on_train_epoch_start")
        for batch in self.train_loader:
            self.run("on_train_batch_start")
            time.sleep(float(os.environ.get("FAKE_BATCH_S", "0")))
            self.tloss = {"box_loss": 1.0 / (self.epoch + 1)}
            self.ema.updates += 1
            fails_at = (os.environ.get("FAKE_RAISE"), int(os.environ.get("FAKE_RAISE_BATCH", "0")))
            if fails_at == (str(self.epoch), batch):
                raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")
            self.run("on_train_batch_end")
        self.run("on_train_epoch_end")
        self._validate(training=True)
        self.fitness = self.best_fitness = self.epoch / 10
        early = int(os.environ.get("FAKE_EARLY_STOP", "-1"))
        self.stop = self.epoch + 1 >= self.epochs or self.epoch == early
        self._save()
        self.run("on_model_save")
        self.run("on_fit_epoch_end")

    def _validate(self, training):
        validator = SimpleNamespace(training=training)
        for event in ("on_val_start", "on_val_batch_start", "on_val_batch_end", "on_val_end"):
            self.run(event, validator)
        self.metrics = {"metrics/mAP50-95(B)": self.epoch / 10, "val/box_loss": float("nan")}

    def _save(self):
        content = checkpoint_bytes(
            {
                "epoch": self.epoch,
                "best_fitness": self.best_fitness,
                "model": None,
                "ema": {"weights": 1},
                "optimizer": {"state": {0: 1}},
                "train_args": {**vars(self.args), "save_dir": str(self.save_dir)},
                "train_results": {"epoch": list(range(self.epoch + 1))},
            }
        )
        content += bytes(int(os.environ.get("FAKE_SAVE_BYTES", "0")))
        self.last.write_bytes(content)
        self.best.write_bytes(content)
        if os.environ.get("FAKE_SAVE_PERIOD"):
            (self.wdir / f"epoch{self.epoch}.pt").write_bytes(content)

    def final_eval(self):
        """Strip and validate, and say so."""
        for _ in range(int(os.environ.get("FAKE_FINISH_STEPS", "0"))):
            time.sleep(0.01)
        if not os.environ.get("FAKE_NO_STRIP"):
            course = strip_optimizer(self.last)["train_results"]
            strip_optimizer(self.best, updates={"train_results": course})
        self._validate(training=False)
        self.epoch += 1
        self.run("on_fit_epoch_end")
        self.epoch -= 1
        if not os.environ.get("FAKE_NO_END"):
            self.run("on_train_end")
