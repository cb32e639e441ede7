"""What a job says about GPUs, through the whole daemon with a fake driver, to what its program is shown."""

from __future__ import annotations

import sys

import pytest
from daemon_harness import job
from gpu_room import gpu_site, start

pytestmark = pytest.mark.e2e

PROGRAM = """
import os, subprocess, sys
print("begins with", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
os.environ["CUDA_VISIBLE_DEVICES"] = "0"
subprocess.run([sys.executable, "-c", "import os; print('starts', os.environ['CUDA_VISIBLE_DEVICES'])"])
"""


def said(server, name):
    """What the program printed."""
    return (server.attempt(name).directory / "log").read_text().splitlines()[-2:]


def test_a_named_gpu_is_what_the_program_is_shown_whatever_it_writes(tmp_path):
    """By index in the file, by UUID in the training; "0" in a script is the first of its own; what is not there is refused."""
    with gpu_site(tmp_path / "room", 3) as (made, driver):
        server = start(made, 3)
        command = {"command": [sys.executable, "-c", PROGRAM]}
        server.drop("third.toml", job({"gpus": [2], **command}))
        server.drop("cpu.toml", job({"gpus": 0, **command}))
        absent = server.drop("absent.toml", job({"gpus": [3], **command}))
        large = server.drop("large.toml", job({"gpus": 1, "gpu": {"memory": "900GiB"}, **command}))
        server.wait("third", "SUCCEEDED")
        server.wait("cpu", "SUCCEEDED")
        uuid = driver.uuid(2)
        assert said(server, "third") == [f"begins with {uuid}", f"starts {uuid}"]
        assert said(server, "cpu") == ["begins with ", "starts "]
        assert "there is no GPU 3; there are GPUs 0 to 2" in server.error_beside(absent)
        assert "no GPU here has so much memory" in server.error_beside(large)
