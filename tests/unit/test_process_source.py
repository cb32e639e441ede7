"""How often the source of process events looks, under a virtual clock."""

from __future__ import annotations

import pytest

from supervisor.core.model import World
from supervisor.sources.processes import BUSY_S, PATIENT_S, ProcessSource, Watch


@pytest.mark.parametrize(
    ("age_s", "patience_s"),
    [(0.0, BUSY_S), (0.01, BUSY_S), (1.0, 0.25), (3600.0, PATIENT_S)],
    ids=["just died", "exit.json may be there any moment", "slow disk", "leftovers for an hour"],
)
def test_it_looks_often_after_a_death_and_seldom_at_leftovers(tmp_path, age_s, patience_s):
    """An exit is seen within milliseconds, and processes that outlive their trainer for hours cost no CPU."""
    now = 1_000_000.0
    source = ProcessSource(tmp_path, World, lambda event: None, lambda: now)
    source._watches = {("truck@1", 1): Watch("truck@1", 1, tmp_path, dead_since=now - age_s, exit_sent=True)}
    assert source._patience_s() == pytest.approx(patience_s)


def test_it_is_patient_while_nothing_has_died(tmp_path):
    """A living training is watched by its pidfd, not by looking."""
    source = ProcessSource(tmp_path, World, lambda event: None, lambda: 1_000_000.0)
    source._watches = {("truck@1", 1): Watch("truck@1", 1, tmp_path)}
    assert source._patience_s() == PATIENT_S
