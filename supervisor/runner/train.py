"""Run one attempt of an Ultralytics training: ``python train.py ATTEMPT_DIR``.

Reads ATTEMPT_DIR/launch.json, trains through the public API and says how it ended, in the last line of
ATTEMPT_DIR/beats.jsonl and as exit code:

====  ==========================================================================
0     finished
1     the trainer failed
2     launch.json (or the command line) is bad
65    the checkpoint is refused
66    model or data are missing
75    stopped on request and resumable
76    a person must look: the run now belongs to another attempt
77    it would have started or resumed in the wrong place; nothing was trained
====  ==========================================================================
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "yolo_supervisor_runner"


def main() -> int:
    """Make this folder a package under its own name, off sys.path, and run the attempt.

    Python put the folder first on sys.path: a user's own module `train` or `inputs` must not find ours.
    """
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(_HERE)]
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [_HERE]
        sys.modules[_PACKAGE] = package
    code: int = import_module(f"{_PACKAGE}.attempt").main(sys.argv)
    return code


if __name__ == "__main__":
    sys.exit(main())
