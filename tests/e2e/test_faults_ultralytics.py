"""Real trainings are made to fail: what the daemon takes for the cause, and what it does then."""

from __future__ import annotations

import pytest
from faults import meet_all, must_be_expected
from ultralytics_fault_list import ULTRALYTICS_FAULTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

GROUNDS = list(dict.fromkeys(fault.ground for fault in ULTRALYTICS_FAULTS))
AT_ONCE = 3


def test_cause_and_remedy():
    """A deadlock by a pipe, a killed worker and NaN by a huge step: named, and cured where that can be."""
    must_be_expected(meet_all([fault for fault in ULTRALYTICS_FAULTS if not fault.slow], at_once=4))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ground", GROUNDS)
def test_other_causes_and_remedies(ground):
    """Images, data, labels, arguments, packages, memory, files, ranks, ports and shared memory: the same."""
    chosen = [fault for fault in ULTRALYTICS_FAULTS if fault.slow and fault.ground == ground]
    must_be_expected(meet_all(chosen, AT_ONCE))
