"""The daemon dies while it backs up: before each step, or at any touch of a file, nothing good is lost or left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("backup_crashes.py")
STEPS = 10  # at least: target, listing, begin, stage, send, read back, fence, manifest, latest, let go, clear, answer


def tries(folder, stride):
    """Run the program; what it tells."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(stride)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def demand_nothing_wrong(told):
    assert [one for one in told if one["wrong"] or one["code"] not in {0, 9}] == []
    assert {one["what"] for one in told if one["code"] == 0} == {"step", "touch"}, "each came to its end"
    count = Counter(one["what"] for one in told)
    assert count["step"] > STEPS, count


@pytest.mark.e2e
def test_a_kill_at_any_step_of_a_backup_ends_in_a_backup(tmp_path):
    """Right after it each manifest there is whole; the order is carried out again, and nothing is left anywhere."""
    demand_nothing_wrong(tries(tmp_path, 23))


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_any_touch_of_a_file_ends_in_a_backup(tmp_path):
    """As above, for every single touch."""
    demand_nothing_wrong(tries(tmp_path, 1))
