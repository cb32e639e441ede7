"""The training with the hook, each callback timed: timed_training.py RUNNER_FOLDER ATTEMPT_DIR ARGUMENTS_AS_JSON.

The last line of its output is JSON: CPU seconds of the hook, and of the whole training.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

PACKAGE = "yolo_supervisor_runner"

spent_s = [0.0]


def timed(callback: Callable[[Any], None]) -> Callable[[Any], None]:
    """Add up the CPU time of a callback, all that it writes and reads included."""

    @functools.wraps(callback)
    def call(source: Any) -> None:
        began_s = time.thread_time()
        callback(source)
        spent_s[0] += time.thread_time() - began_s

    return call


def install(runner: str, attempt_dir: str) -> None:
    """Install the hook as the runner does, with the timed callbacks in its table."""
    package = ModuleType(PACKAGE)
    package.__path__ = [runner]
    sys.modules[PACKAGE] = package
    hook = import_module(f"{PACKAGE}.hook")
    hook.CALLBACKS.update({event: timed(callback) for event, callback in hook.CALLBACKS.items()})
    hook.install(attempt_dir)


if __name__ == "__main__":
    install(sys.argv[1], sys.argv[2])
    from ultralytics import YOLO

    arguments = json.loads(sys.argv[3])
    before_s = time.process_time()
    YOLO(arguments.pop("model")).train(**arguments)
    print("\n" + json.dumps({"hook_s": spent_s[0], "training_s": time.process_time() - before_s}))
