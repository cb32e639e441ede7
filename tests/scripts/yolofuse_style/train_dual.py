"""A trainer of the shape of YOLOFuse's train_dual.py, made for tests: no command line, resume=False written down.

Model and data lie beside it. Whoever wants it to go on after a crash must do that from outside.
"""

from __future__ import annotations

from pathlib import Path

from ultralytics import YOLO

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    model = YOLO(str(HERE / "model.yaml"))
    model.train(
        data=str(HERE / "data" / "data.yaml"),
        epochs=10,
        imgsz=64,
        batch=4,
        workers=0,
        device="cpu",
        plots=False,
        project=str(HERE / "runs" / "fuse"),
        name="exp",
        resume=False,
    )
