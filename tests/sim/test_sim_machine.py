"""Hypothesis chooses the faults and their order; what it finds it shrinks to a short script of moves."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from scripts import COURSES, MOVES, course
from simulation import Simulation

# The usual course must be common enough for rare faults to meet a training at work.
USUAL = ("act", "train", "look", "due")
CHOICES = (*MOVES, *USUAL, *USUAL, *USUAL)


class Room(RuleBasedStateMachine):
    """Moves in any order; every promise is checked after each, and at the end everything must settle."""

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation()

    @initialize(how=st.integers(0, 6))
    def first(self, how):
        """There is always one job."""
        self.simulation.do("submit", 0, how)

    @rule(name=st.sampled_from(CHOICES), pick=st.integers(0, 7), how=st.integers(0, 63))
    def move(self, name, pick, how):
        """Whatever may happen next."""
        self.simulation.do(name, pick, how)

    @rule(pick=st.integers(0, 2), how=st.integers(0, 63))
    def attempt(self, pick, how):
        """A whole attempt of some run, from its place to what befalls it in its first epochs."""
        for _ in range(3):
            self.simulation.do("act", pick, 0)
        self.simulation.do("train", pick, 0)
        self.simulation.do("train", pick, how)
        self.simulation.do("look", pick, 1)

    @rule(name=st.sampled_from(tuple(COURSES)), pick=st.integers(0, 2), how=st.integers(0, 63))
    def course(self, name, pick, how):
        """What belongs together: a death of some cause, or a training that stands still, and what is decided then."""
        for move in course(name, pick, how):
            self.simulation.do(*move)

    def teardown(self):
        """Heal, and it must settle."""
        self.simulation.settle()


def explore(examples, steps=30):
    """Let hypothesis play that many games; the same ones each time, so that a failure can be repeated."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Room, settings=chosen)


def test_no_order_of_faults_breaks_a_promise():
    """1,000 games of up to 30 moves: every invariant after every move, and after healing everything settles."""
    explore(int(os.environ.get("SIMULATION_GAMES", "1000")))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_order_of_faults_breaks_a_promise_in_many_games():
    """4,000 games of up to 60 moves."""
    explore(4000, 60)
