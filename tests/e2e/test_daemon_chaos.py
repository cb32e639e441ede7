"""Everything at once, in a random order: orders, kills of trainers, shims and daemons; then it must settle."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from daemon_harness import until

from supervisor.cli.failures import Failure

pytestmark = pytest.mark.e2e

NAMES = ("truck", "lorry", "car")


def trainers(server, name):
    """The live trainer processes of a run: those that its attempts started and that still run the toy."""
    found = []
    for number in server.attempts(name):
        pid = server.attempt(name, number).pid
        with contextlib.suppress(OSError):
            if b"toy_trainer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append((number, pid))
    return found


def strike(server, chance, name):
    """Do one thing that people, the kernel or an administrator do."""
    what = chance.choice(["trainer", "shim", "term", "daemon", "stop", "now", "resume", "resume", "drain", "off"])
    if what in {"trainer", "shim", "term"}:
        for number, pid in trainers(server, name):
            victim = server.attempt(name, number).shim_pid if what == "shim" else pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGTERM if what == "term" else signal.SIGKILL)
    elif what == "daemon":
        server.end(chance.choice([signal.SIGKILL, signal.SIGTERM]))
        server.start()
    elif what in {"drain", "off"}:
        server.client.post("/v1/drain", off=what == "off")
    else:
        with contextlib.suppress(Failure):  # an order that makes no sense now is refused
            server.order("resume" if what == "resume" else "stop", name, **({"now": True} if what == "now" else {}))
    return what


def settled(server):
    """True when all are finished; who waits for a person is let go on."""
    for run in server.all_runs().values():
        if run["phase"] == "HELD":
            with contextlib.suppress(Failure):
                server.order("resume", run["name"])
    return all(server.run(name)["phase"] == "SUCCEEDED" for name in NAMES)


@pytest.mark.parametrize(("steps", "epochs"), [(20, 18), pytest.param(60, 54, marks=pytest.mark.slow)])
def test_whatever_happens_each_run_arrives_with_each_epoch_once(server, steps, epochs):
    """At no time two trainers of a run; no attempt launched twice; in the end all finished, no epoch lost or doubled."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed:", seed)
    chance = random.Random(seed)
    for name in NAMES:
        server.train(name, "--epoch-s 0.2", epochs=epochs, restart={"no_progress": 100})
    for name in NAMES:
        server.wait(name, "RUNNING")
    story = []
    for _ in range(steps):
        name = chance.choice(NAMES)
        story.append((name, strike(server, chance, name)))
        time.sleep(chance.uniform(0, 0.4))
        for one in NAMES:
            assert len(trainers(server, one)) <= 1, story
    print(story)
    server.client.post("/v1/drain", off=True)
    until(lambda: settled(server), lambda: str([server.run(name) for name in NAMES]), 60)
    for name in NAMES:
        assert server.epochs_in_table(name) == list(range(1, epochs + 1)), story
        launched = [row.body["attempt"] for row in server.history(f"{name}@1", "Launched")]
        assert sorted(set(launched)) == server.attempts(name), story
        assert all(len(server.attempt(name, number).beats("start")) <= 1 for number in launched), story
    assert "Traceback" not in server.said()
