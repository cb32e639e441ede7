"""The unit file in systemd/."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "yolo-supervisor.service"
INSTALLED = "/opt/yolo-supervisor/bin/yolo-supervisor"


def settings() -> dict[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_systemd_finds_nothing_to_say_about_the_unit(tmp_path):
    """`systemd-analyze verify` is silent: systemd 252 only warns about a misspelt key and exits 0."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("systemd-analyze is not installed")
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(INSTALLED, str(Path(sys.executable).with_name("yolo-supervisor"))))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_restart_of_the_daemon_ends_no_training():
    """Only the main process is signalled, and an OOM kill in a training stops nothing else."""
    unit = settings()
    assert unit["Type"] == "notify"
    assert unit["KillMode"] == "process"
    assert unit["OOMPolicy"] == "continue"


def test_the_daemons_own_exit_codes_are_not_restarted_for_ever():
    """A second daemon and a bad configuration need a person, not a restart."""
    assert set(settings()["RestartPreventExitStatus"].split()) == {"73", "78"}
