"""The source that tells when what a run waits for is back, under a clock of its own."""

from __future__ import annotations

import threading

import pytest

from supervisor.core.diagnosis.evidence import Incident
from supervisor.core.events import WaitOver
from supervisor.core.model import Attempt, Job, Phase, Run, World
from supervisor.machine import conditions
from supervisor.sources.waits import AGAIN_S, SHORTEST_WAIT_S, WaitSource


class Place:
    """A world of one run, and what holds it back."""

    def __init__(self, **changes):
        over = Attempt(number=1, token=1, cleared=True, examined=True)
        facts = {"phase": Phase.COOLING, "waiting_for": "disk", "attempt": over, **changes}
        self.run = Run(id="truck@1", job=Job(name="truck", revision="r"), created_at=0.0, phase_since=1000.0, **facts)
        self.at = 1000.0 + SHORTEST_WAIT_S
        self.lack = ""
        self.told = []
        world = lambda: World(live={"truck@1": self.run})  # noqa: E731 - the newest one each time
        self.source = WaitSource(self.told.append, world, lambda: self.at, lambda _run: self.lack, poll_s=0.001)


def test_a_run_whose_disk_is_back_is_told_of_once():
    """Once; and once more after a minute if it still waits, for the first telling may have been lost."""
    place = Place()
    place.lack = "full"
    place.source.poll()
    assert place.told == []
    place.lack = ""
    place.source.poll()
    place.at += AGAIN_S - 1
    place.source.poll()
    assert place.told == [WaitOver(at=1005.0, origin="waits", run="truck@1", what="disk")]
    place.at += 1
    place.source.poll()
    assert len(place.told) == 2


def test_the_line_that_told_of_it_is_looked_at(monkeypatch, tmp_path):
    """What the newest incident saw may name the full disk; that of another wait, or of another failure, does not count."""
    asked = []
    monkeypatch.setattr(conditions, "unmet", lambda *_args, seen: asked.append(seen) or "full")
    for step in ("wait-disk", "wait-memory", "backoff"):
        incident = Incident(number=1, attempt=1, cause="c", title="t", seen="No space left: '/x'", step=step)
        place = Place(incidents=(incident,))
        world = World(live={"truck@1": place.run})
        WaitSource.of(tmp_path, 0, place.told.append, lambda world=world: world, lambda: 2000.0).poll()
    assert asked == ["No space left: '/x'", "", ""]


def test_a_wait_lasts_some_seconds_at_least():
    """What has just ended gives room back for a moment."""
    place = Place()
    place.at -= 0.1
    place.source.poll()
    assert place.told == []


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": Phase.QUEUED},
        {"waiting_for": "mount"},
        {"waiting_for": ""},
        {"attempt": Attempt(number=1, token=1, cleared=True, examined=False)},
    ],
    ids=["it queues", "nobody can see what it waits for", "a plain backoff", "its end is not read yet"],
)
def test_others_are_left_alone(changes):
    """Only a run that cools, with nothing left of its attempt, and waits for what can be seen."""
    place = Place(**changes)
    place.source.poll()
    assert place.told == []


def test_a_run_without_any_attempt_waits_too():
    """Its first preparation found a full disk."""
    place = Place(attempt=None)
    place.source.poll()
    assert len(place.told) == 1


def test_a_look_that_fails_does_not_end_the_watching():
    """A bug is said once; the next round looks again."""
    asked, back = [], threading.Event()
    place = Place()

    def unmet(_run):
        asked.append(1)
        if len(asked) < 3:
            raise ValueError("a bug")
        return ""

    place.source._unmet = unmet
    place.source._put = lambda _event: back.set()
    place.source.start()
    try:
        assert back.wait(10)
    finally:
        place.source.stop()
    assert not place.source._rounds._thread.is_alive()
