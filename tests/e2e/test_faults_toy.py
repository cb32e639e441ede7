"""A toy training is made to fail in many ways: what the daemon takes for the cause, and what it does then."""

from __future__ import annotations

import pytest
from faults import meet_all, must_be_expected
from toy_fault_list import TOY_FAULTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

GROUNDS = list(dict.fromkeys(fault.ground for fault in TOY_FAULTS))
#: A disk that fills up is also met beside the others (full-elsewhere) and in test_torn_daemon.py.
SLOW = {"small disk", "few inodes"}
#: Those that take longest begin first, so that they do not run alone in the end.
LONGEST = ("full-elsewhere", "stubborn", "blocked-worker", "shm-full", "stopped", "hang-before-batch")


@pytest.mark.parametrize(
    "ground", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in GROUNDS]
)
def test_cause_and_remedy(ground):
    """Each fault gets its own cause and remedy, and ends where it should: recovered, held, given up, or left alone."""
    faults = [fault for fault in TOY_FAULTS if fault.ground == ground and not fault.slow]
    must_be_expected(meet_all(sorted(faults, key=lambda fault: fault.name not in LONGEST)))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_limit_that_was_learned():
    """A training that computes at one line for minutes hangs: by its own history and its stacks, told by nobody."""
    must_be_expected(meet_all([fault for fault in TOY_FAULTS if fault.slow]))
