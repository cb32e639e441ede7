"""The one part of torchvision that training and validating a YOLO detector needs, in plain torch, for CPU tests."""

from __future__ import annotations

from torchvision import ops

__version__ = "0.28.0+standin"
__all__ = ["__version__", "ops"]
