"""A fake driver, and the real binding on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_nvml.binding import Binding
from tests.fake_nvml.room import FakeDriver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    """A driver with eight GPUs."""
    made = FakeDriver(tmp_path / "room")
    yield made
    made.close()


@pytest.fixture
def binding(driver: FakeDriver) -> Iterator[Binding]:
    """The binding, with a handle of every GPU."""
    made = Binding(driver)
    made("nvmlInit()")
    made("h.extend(map(nvmlDeviceGetHandleByIndex, range(nvmlDeviceGetCount())))")
    yield made
    made.close()
