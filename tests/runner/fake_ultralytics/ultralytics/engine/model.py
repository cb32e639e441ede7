"""The public face of the stand-in."""

import json
import os
from importlib import import_module
from pathlib import Path

from .trainer import BaseTrainer


class YOLO:
    """Takes what the real class takes as far as the runner uses it."""

    def __init__(self, model, task=None):
        self.model = model

    def train(self, **arguments):
        """Note the arguments beside the run and train."""
        if os.environ.get("FAKE_PLUGIN"):
            import_module(os.environ["FAKE_PLUGIN"])
        if os.environ.get("FAKE_ARGUMENTS_FILE"):
            Path(os.environ["FAKE_ARGUMENTS_FILE"]).write_text(json.dumps({"model": self.model, **arguments}))
        BaseTrainer({**arguments, "model": self.model}).train()
