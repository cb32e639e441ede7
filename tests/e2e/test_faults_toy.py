"""A training is made to fail in more than thirty ways: what the daemon takes for the cause, and what it does then."""

from __future__ import annotations

import pytest
from faults import GROUNDS, meet_all
from toy_fault_list import TOY_FAULTS

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("ground", list(GROUNDS))
def test_cause_and_remedy(ground):
    """Each fault gets its own cause and remedy, and ends where it should: recovered, held, given up, or waited for."""
    met = meet_all([fault for fault in TOY_FAULTS if fault.ground == ground])
    for one in met:
        print(one.words())
    wrong = [
        f"{one.words()} ({one.reason}), not {one.fault.incidents} {one.fault.phase}"
        for one in met
        if not one.as_expected
    ]
    assert not wrong, "\n".join(wrong)
