"""The public face of the stand-in."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from .trainer import BaseTrainer

RANK_ZERO = """
import json, sys
from ultralytics.engine.trainer import BaseTrainer
BaseTrainer(json.loads(sys.argv[2])).train()
"""


class YOLO:
    """Takes what the real class takes as far as the runner uses it."""

    def __init__(self, model, task=None):
        self.model = model

    def train(self, **arguments):
        """Note the arguments beside the run and train; with several devices in a child, as the library does."""
        arguments["model"] = self.model
        if os.environ.get("FAKE_PLUGIN"):
            import_module(os.environ["FAKE_PLUGIN"])
        if os.environ.get("FAKE_ARGUMENTS_FILE"):
            Path(os.environ["FAKE_ARGUMENTS_FILE"]).write_text(json.dumps(arguments))
        if "," in str(arguments.get("device")):
            launcher = [sys.executable, "-c", RANK_ZERO, "torch.distributed.run", json.dumps(arguments)]
            env = {**os.environ, "RANK": "0"}
            done = subprocess.run(launcher, env=env, check=False)
            if done.returncode:  # torchrun tells its caller only that something failed
                raise subprocess.CalledProcessError(1, launcher[:1])
            return
        BaseTrainer(arguments).train()
