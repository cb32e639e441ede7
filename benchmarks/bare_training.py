"""The training as its owner would run it without a supervisor: python bare_training.py ARGUMENTS_AS_JSON."""

from __future__ import annotations

import json
import sys

from ultralytics import YOLO

if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    YOLO(arguments.pop("model")).train(**arguments)
