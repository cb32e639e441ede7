"""A journal of its own for each test, and a world that writes into it as the loop does."""

from __future__ import annotations

import contextlib

import pytest

from supervisor.core import events
from supervisor.core.model import Boot, Job, Policy
from supervisor.core.step import step
from supervisor.journal import Entry, Journal

BOOT = Boot("boot", 1)


class Writer:
    """Decides about events and commits each step, as the loop does."""

    def __init__(self, journal):
        self.journal = journal
        self.world = journal.load()
        self.now = 1000.0

    def entry(self, event):
        """Decide about one event."""
        self.now += 1.0
        after, actions = step(self.world, event, self.now)
        entry = Entry(event, self.now, self.world, after, actions)
        self.world = after
        return entry

    def tell(self, *told):
        """Decide about events and write them in one transaction."""
        self.journal.commit([self.entry(event) for event in told])

    def submit(self, name="a", **fields):
        """A job file that is seen and accepted."""
        path = f"/jobs/{name}.toml"
        job = Job(name=name, revision=f"{name}-1", file=path, **{"train": {"epochs": 3}, **fields})
        seen = events.JobFileSeen(at=self.now, path=path, data=b"name\n", revision=job.revision, owner=0)
        self.tell(seen)
        self.tell(events.JobAccepted(at=self.now, path=path, job=job, answers="check-1"))
        return self.world.named(name)


@pytest.fixture
def path(tmp_path):
    """Where the journal lies; spaces, per cent signs and Chinese must not matter."""
    folder = tmp_path / "state 100% 状态?#"
    folder.mkdir()
    return folder / "journal.sqlite"


@pytest.fixture
def journal(path):
    """A fresh journal, open for writing."""
    with contextlib.closing(Journal.open(path)) as opened:
        yield opened


@pytest.fixture
def writer(journal):
    """A world with a daemon and one channel."""
    made = Writer(journal)
    made.tell(events.DaemonStarted(at=1.0, pid=1, version="x", boot=BOOT))
    made.tell(events.Configured(at=1.0, policy=Policy(max_running=2, channels=("ops",))))
    return made


def reader(path):
    """The journal as `ls` reads it."""
    return contextlib.closing(Journal.open(path, read_only=True))
