"""yolo-supervisor: keeps YOLO trainings on a GPU server alive until they are finished."""

from __future__ import annotations

__version__ = "0.1.0"
