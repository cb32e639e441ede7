"""The daemon dies while it enters a checkpoint: at any touch of the file system, nothing good is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("ledger_crashes.py")


@pytest.mark.e2e
def test_a_crash_at_any_touch_of_the_ledger_loses_nothing(tmp_path):
    """Whatever ledger.json names is there and whole, the copies from before are usable, and no leftover stays."""
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in tries if one["wrong"] or one["code"] not in {0, 9}] == []
    count = Counter(one["story"] for one in tries)
    assert min(count.values()) > 8, count
    assert {one["story"] for one in tries if one["code"] == 0} == {"new", "again", "final", "line"}, (
        "each came to its end"
    )
