"""A real daemon on a small disk that fills up: the least valuable training makes way, and nothing is killed."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from daemon_harness import alive, can, needs, site, until

pytestmark = pytest.mark.e2e

MIB = 1024**2
WITHIN_S = 60.0  # a disk in order is looked at every 30 s


@pytest.fixture
def small_disk():
    """A server whose runs lie on a disk of 200 MiB: low below 60, full below 30."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(site())
        made.runs_dir = made.root / "runs"
        made.runs_dir.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(made.runs_dir)]
        needs(can(*mount), "root and mount, for a disk that can be filled")
        stack.callback(subprocess.run, ["umount", "-l", str(made.runs_dir)], check=True)
        made.tables["server"]["runs_dir"] = str(made.runs_dir)
        made.tables["disk"] = {"prune_below": "60MiB", "pause_below": "30MiB"}
        made.write_config()
        yield made


def fill(server, size_mib):
    """Somebody puts a file of that size there."""
    (server.runs_dir / "foreign").write_bytes(b"x" * size_mib * MIB)


def test_the_least_valuable_training_makes_way_and_comes_back(small_disk):
    """Paused at its save, resumed with the next epoch when there is room; the other one never notices."""
    server = small_disk
    fill(server, 145)  # low, so that the disk is watched closely
    server.start()
    server.train("valuable", "--epoch-s 0.3", epochs=1000, priority=5)
    server.train("cheap", "--epoch-s 0.3", epochs=1000)
    server.wait_saved("valuable", 1)
    server.wait_saved("cheap", 2)
    trainer = server.attempt("valuable").pid
    fill(server, 180)
    paused = server.wait("cheap", "QUEUED", within_s=WITHIN_S)
    assert (paused["waiting_for"], paused["failures"]) == ("disk", 0)
    assert "paused" in paused["reason"]
    ended = server.attempt("cheap").json("exit.json")
    assert (ended["code"], ended["signal"]) == (75, None)
    saved = paused["saved_epoch"]
    assert alive(trainer)
    (server.runs_dir / "foreign").unlink()
    server.wait("cheap", "RUNNING", within_s=WITHIN_S)
    server.wait_saved("cheap", saved + 2)
    table = server.epochs_in_table("cheap")
    assert table == list(range(1, len(table) + 1))
    assert server.attempts("cheap") == [1, 2]
    assert server.attempts("valuable") == [1]
    assert alive(trainer)
    assert server.run("valuable")["phase"] == "RUNNING"


@pytest.mark.slow
def test_room_in_time_lets_everybody_run_on(small_disk):
    """A pause that is not needed any more is taken back, and nothing was ended."""
    server = small_disk
    fill(server, 145)
    server.start()
    server.train("slow", "--epoch-s 15", epochs=3)
    server.wait_saved("slow", 1)
    fill(server, 180)
    server.wait("slow", "STOPPING", within_s=WITHIN_S)
    (server.runs_dir / "foreign").unlink()
    server.wait("slow", "RUNNING", within_s=WITHIN_S)
    assert server.attempts("slow") == [1]


def test_what_died_of_the_full_disk_waits_for_room(small_disk):
    """No save fits any more: one death, then not one attempt until somebody makes room; and it goes on by itself."""
    server = small_disk
    fill(server, 145)
    server.start()
    server.train("big", f"--epoch-s 0.5 --padding {24 * MIB} --no-best", epochs=4)
    server.wait_saved("big", 1)
    with contextlib.suppress(OSError), (server.runs_dir / "foreign").open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 65536)
    until(lambda: server.run("big")["waiting_for"] == "disk", "it waits for the disk", WITHIN_S)
    before = server.attempts("big")
    server.restart()
    until(lambda: server.run("big")["waiting_for"] == "disk", "it waits for the disk", WITHIN_S)
    assert server.attempts("big") == before
    (server.runs_dir / "foreign").unlink()
    run = server.wait("big", "SUCCEEDED", within_s=WITHIN_S)
    assert run["saved_epoch"] == 4
    assert len(server.attempts("big")) == len(before) + 1
