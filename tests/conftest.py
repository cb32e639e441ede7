"""Options of all tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the caller give a checkout of somebody else's trainer to the tests under `-m upstream`."""
    parser.addoption(
        "--checkout",
        metavar="DIR",
        help="an unmodified checkout of YOLOv5, YOLOv7, YOLOv9 or YOLOFuse, for -m upstream",
    )
