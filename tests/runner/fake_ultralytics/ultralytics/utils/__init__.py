"""Settings of the stand-in."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"weights_dir": os.environ.get("FAKE_WEIGHTS_DIR", "weights"), "datasets_dir": "datasets"}
DEFAULT_CFG_DICT = {"data": None, "plots": True, "imgsz": 640, "batch": 16, "task": "detect", "quantize": None}
