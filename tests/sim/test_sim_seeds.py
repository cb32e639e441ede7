"""Volume: scripts from seeds. A failing seed is printed with its script, and the script is a test case by itself."""

from __future__ import annotations

import logging
import os

import pytest
from scripts import run_script, run_seed

GROUP = 100

# Scripts that once broke a promise (see the docstrings), kept as they were found.
LAUNCH_AFTER_GIVING_UP = [
    ("submit", 0, 0), ("act", 0, 0), ("act", 0, 0), ("due", 0, 0), ("due", 0, 0), ("fail", 1, 0), ("act", 0, 0),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    """A journal that cannot be written is part of the game here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 500, GROUP))
def test_seeds(first):
    """500 scripts of 120 moves and courses: every invariant after every move, and after healing everything settles."""
    for seed in range(first, first + GROUP):
        run_seed(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(500, int(os.environ.get("SIMULATION_SEEDS", "10000")), 500))
def test_many_seeds(first):
    """The seeds up to 10,000 (or $SIMULATION_SEEDS)."""
    for seed in range(first, first + 500):
        run_seed(seed)


def test_a_launch_is_not_carried_out_after_the_run_was_given_up():
    """A newer launch order failed for good while an older one was still under way: the older one could start it."""
    run_script(LAUNCH_AFTER_GIVING_UP)
