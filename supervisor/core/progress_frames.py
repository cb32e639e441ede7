"""The frames of the progress bars of the YOLO family: what tells that a training moves. Pure."""

from __future__ import annotations

import re

#: One frame of Ultralytics (old and new bars), YOLOv5, v7 and v9, cleaned, with a blank at its end. Groups: epoch,
#: epochs, losses and sizes, percent, batch, batches; before the losses stands the GPU memory.
FRAME = re.compile(r"^\s*(\d{1,9})/(\d{1,9})\s+[\d.]+G\s(.*?):\s+(\d+)%.*?\s(\d{1,9})/(\d{1,9})\s")
