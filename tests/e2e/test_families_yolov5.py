"""The real YOLOv5, from the package `yolov5`, through the real daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from daemon_harness import site
from family_runs import PYTHON, epochs_begun, finished, kill_at_random
from tiny_families import V5, begin, epochs_trained

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


def test_families_yolov5_is_killed_five_times():
    """At random moments behind its first save; then exactly the epochs that were asked for, each once."""
    ask = "import importlib.util as util; print(util.find_spec('yolov5').submodule_search_locations[0])"
    done = subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True, check=False) if PYTHON.exists() else None
    if done is None or done.returncode:
        pytest.skip(f"needs the package yolov5 in {PYTHON}")  # it pins versions that the other trainings do not want
    with site() as server:
        server.start()
        begin(server, V5, Path(done.stdout.strip()), epochs=14)
        last = server.run_dir("boxes") / "train" / "weights" / "last.pt"
        kill_at_random(server, "boxes", 5, 0.5, begun=lambda attempt: epochs_begun(attempt) and last.exists())
        finished(server, within_s=300.0)
        assert server.attempts("boxes") == [1, 2, 3, 4, 5, 6]
        assert epochs_trained(server, V5) == list(range(14))
