"""For PYTHONPATH, where our runner does not start the training: loads the hook into this Python, if asked to.

Of a training that is none of Ultralytics' only its GPUs are guarded. Python imports `sitecustomize` at every start.
Ours steps off sys.path at once and then runs the one that it hides, so that a virtual environment's own customisation
still happens.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from importlib import import_module
from types import ModuleType

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "yolo_supervisor_runner"


_GUARD_ONLY = os.environ.get("YOLO_SUPERVISOR_HOOK") == "gpus"


def _load_hook(attempt_dir: str) -> None:
    """Make the runner's folder a package under the name that pickled callbacks refer to, and arm the hook."""
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [os.path.dirname(_HERE)]
        sys.modules[_PACKAGE] = package
    if _GUARD_ONLY:
        import_module(f"{_PACKAGE}.own_gpus").hold()
    else:
        import_module(f"{_PACKAGE}.hook").install(attempt_dir)


def _run_hidden_sitecustomize() -> None:
    """Run the next `sitecustomize` on sys.path, as if ours had not been there."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(_HERE)]
_attempt_dir = os.environ.get("YOLO_SUPERVISOR_ATTEMPT_DIR")
if _attempt_dir:
    try:
        _load_hook(_attempt_dir)
    except Exception as error:  # noqa: BLE001 -- without heartbeats, but never without the program itself
        print(f"yolo-supervisor: the hook is not loaded: {error!r}", file=sys.stderr, flush=True)
_run_hidden_sitecustomize()
