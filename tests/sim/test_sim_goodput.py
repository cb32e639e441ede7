"""Goodput over whatever the simulated machine room does to runs: real decisions, real journal."""

from __future__ import annotations

import logging
import random

import pytest
from scripts import MOVES, WEIGHTS
from simulation import Simulation

from supervisor.core.goodput import CLASSES, account
from supervisor.core.model import Phase

SEEDS = 60
OVER = {phase.value for phase in Phase if phase.terminal}


@pytest.fixture(autouse=True)
def _quiet():
    """A journal that cannot be written is part of the game here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def check(simulation):
    """Every run's classes add up from its submission to its end, or until now; a clock set back stood still."""
    journal, now, total = simulation.record.journal, simulation.now(), dict.fromkeys(CLASSES, 0.0)
    world = journal.load()
    for run in (*world.live.values(), *world.ended.values()):
        rows = journal.milestones(run.id)
        found = account(rows, began_at=run.created_at, now=now, waiting_for=run.waiting_for)
        assert all(value >= 0 for value in found.spent.values())
        assert sum(found.seconds.values()) == found.total_s
        ended = [place for place, row in enumerate(rows) if row.phase_after in OVER][:1]
        seen = [row.at for row in rows[: ended[0] + 1]] if ended else [*(row.at for row in rows), now]
        assert found.total_s == pytest.approx(max(seen) - run.created_at, abs=0.002)
        total = {name: total[name] + value for name, value in found.seconds.items()}
    return total


def test_every_second_of_every_run_is_accounted_for():
    """In each of many scripts of kills, reboots, full disks and orders: sums match, and all classes occur in all."""
    total = dict.fromkeys(CLASSES, 0.0)
    for seed in range(SEEDS):
        chance = random.Random(seed)
        simulation = Simulation()
        simulation.do("submit", 0, chance.randrange(7))
        for name in chance.choices(MOVES, weights=list(WEIGHTS.values()), k=100):
            simulation.do(name, chance.randrange(16), chance.randrange(64))
        check(simulation)
        simulation.settle()
        total = {name: total[name] + value for name, value in check(simulation).items()}
    assert {name for name, value in total.items() if value == 0} == {"validation"}  # nobody tells of it here
