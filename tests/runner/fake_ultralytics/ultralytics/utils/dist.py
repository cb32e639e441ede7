"""How the ranks of a multi-GPU training are started: the save directory of a fresh one is removed first."""

import json
import shutil
import sys

RANK_ZERO = """
import json, sys
from ultralytics.engine.trainer import BaseTrainer
BaseTrainer(json.loads(sys.argv[2])).train()
"""


def generate_ddp_command(trainer):
    """Return the command of the launcher."""
    if not trainer.resume:
        shutil.rmtree(trainer.save_dir)
    return [sys.executable, "-c", RANK_ZERO, "torch.distributed.run", json.dumps(trainer.overrides)]
