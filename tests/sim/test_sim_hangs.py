"""One training hangs, and the daemon is killed before and after every commit of what follows: it is cured all the same."""

from __future__ import annotations

import logging

import pytest
from fates import FATES
from simulation import Simulation

from supervisor.core.model import Phase

HANGS = FATES.index("hang")
UP = [("submit", 0, 0), *[("act", 0, 0)] * 4, ("train", 0, 0), *[("act", 0, 0)] * 3]
HUNG = [("train", 0, HANGS), ("hang", 0, 0)]
GONE = [("look", 0, 1), *[("act", 0, 0)] * 3, ("hang", 0, 0), ("due", 0, 0), *[("act", 0, 0)] * 6]
STORIES = {
    "answered": [*UP, *HUNG, *[("act", 0, 0)] * 4, *[("due", 0, 0), ("act", 0, 0)] * 3, *GONE],
    "unanswered": [*UP, *HUNG, *[("due", 0, 0)] * 3, *[("act", 0, 0)] * 5, *GONE],
    "moves again": [*UP, *HUNG, ("heal", 0, 0), ("train", 0, 0), *[("act", 0, 0)] * 4, *GONE],
    "stopped meanwhile": [
        *UP,
        *HUNG,
        ("order", 0, 0),
        *[("act", 0, 0)] * 4,
        *[("due", 0, 0), ("act", 0, 0)] * 3,
        *GONE,
    ],
}


@pytest.fixture(autouse=True)
def _quiet():
    """Daemons are killed here: nobody needs to read of it."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def told(name: str, kill_at: int = -1, when: int = 0) -> Simulation:
    """That story, with a daemon that is killed at the next commit after so many moves, healed and settled."""
    simulation = Simulation()
    for number, move in enumerate(STORIES[name]):
        if number == kill_at:
            simulation.do("kill", 0, when)
        simulation.do(*move)
    simulation.settle()
    return simulation


@pytest.mark.parametrize(("name", "causes"), [("answered", ["hang"]), ("unanswered", ["hang"]), ("moves again", [])])
def test_the_stories_without_a_kill(name, causes):
    """A hang is an incident with what the autopsy said, if it said it; the training goes on and finishes."""
    run = told(name).loop.world.named("a")
    assert run.phase is Phase.SUCCEEDED
    assert [one.cause for one in run.incidents] == causes
    assert all(one.autopsy for one in run.incidents)


def test_a_person_stopped_it_meanwhile():
    """It is ended like any hang, and held then."""
    run = told("stopped meanwhile").loop.world.named("a")
    assert run.phase is Phase.HELD


@pytest.mark.parametrize("name", sorted(STORIES))
def test_killed_at_every_commit(name):
    """Wherever the daemon dies, nothing healthy is ended, nothing is done twice, and the run comes to its end."""
    for number in range(len(STORIES[name])):
        for when in (0, 1):
            run = told(name, number, when).loop.world.named("a")
            assert run is not None, (number, when)
            expected = {Phase.SUCCEEDED, Phase.HELD} if name == "stopped meanwhile" else {Phase.SUCCEEDED}
            assert run.phase in expected, (number, when, run.reason)
