"""What a resume would train is not what the run trained: the run is held until a person agrees."""

from __future__ import annotations

import json
import os
import signal

import pytest
from daemon_harness import until

pytestmark = pytest.mark.e2e

SLOW = "--epoch-s 0.6 --batches 6"


def classes(server, *names, version="8.4.190"):
    """Let the toy interpreter see a data set with these classes, and this version of Ultralytics."""
    data = {"name": "d", "path": "/d", "names": list(names)}
    told = server.root / "fingerprint-told.json"
    temporary = told.with_suffix(".tmp")
    temporary.write_text(json.dumps({"version": 1, "data": data, "versions": {"ultralytics": version}}))
    temporary.rename(told)
    return str(told)


def test_changed_classes_hold_the_run_until_somebody_agrees(server):
    """HELD with the reason and the command; a plain resume is held again; `--accept` goes on, each epoch once."""
    told = classes(server, "red", "blue")
    server.train("truck", SLOW, epochs=4, env={"TOY_FINGERPRINT": told})
    server.wait_saved("truck", 1)
    classes(server, "blue", "red")
    os.kill(server.attempt("truck").pid, signal.SIGKILL)
    held = server.wait("truck", "HELD")
    assert "the order of the classes changed: 0 was red and is blue" in held["reason"]
    shown = server.cli("show", "truck").stdout
    assert "  yolo-supervisor resume truck --accept\n" in shown
    assert server.attempts("truck") == [1]

    attempts = held["attempt"]
    assert server.cli("resume", "truck").returncode == 0
    until(lambda: server.run("truck")["attempt"] > attempts, "the plain resume was tried")
    assert "the order of the classes changed" in server.wait("truck", "HELD")["reason"]
    agreed = server.cli("resume", "truck", "--accept")
    assert agreed.returncode == 0
    server.wait("truck", "SUCCEEDED")
    assert server.epochs_in_table("truck") == [1, 2, 3, 4]
    assert "agreed to what has changed" in server.cli("why", "truck", "--events").stdout
    record = json.loads((server.run_dir("truck") / "fingerprint.json").read_text())
    assert record["reference"]["data"]["names"] == ["blue", "red"]


def test_an_upgrade_of_ultralytics_in_mid_run_holds_the_run(server):
    """The version that began it comes back: the run goes on without a word."""
    told = classes(server, "red")
    server.train("truck", SLOW, epochs=3, env={"TOY_FINGERPRINT": told})
    server.wait_saved("truck", 1)
    classes(server, "red", version="8.3.193")
    os.kill(server.attempt("truck").pid, signal.SIGKILL)
    held = server.wait("truck", "HELD")
    assert "Ultralytics was 8.4.190 and is 8.3.193" in held["reason"]
    assert "issue 21963" in held["reason"]
    classes(server, "red")
    server.order("resume", "truck")
    server.wait("truck", "SUCCEEDED")
    assert server.epochs_in_table("truck") == [1, 2, 3]
