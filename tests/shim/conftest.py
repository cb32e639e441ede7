"""Fixtures of the tests that start real shims."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_attempt import Attempt


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    """Give an attempt in a path with spaces and Chinese characters: as the owner's folders are."""
    made = Attempt(tmp_path / "卡车 检测" / "attempts" / "1")
    yield made
    made.end_all()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 1 MiB; skips where this user may not mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
