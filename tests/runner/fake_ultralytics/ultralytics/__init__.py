"""A stand-in for Ultralytics that calls the same callbacks in the same order and trains nothing, in 0.1 s.

It is driven by environment variables FAKE_*; a test compares its heartbeats with those of the real library.
"""

__version__ = "8.4.190"

from .engine.model import YOLO

__all__ = ["YOLO", "__version__"]
