"""Rewind, extend and branch through a real daemon and the command line, with the toy trainer."""

from __future__ import annotations

import json

import pytest
from daemon_harness import MODEL, job, site, until

from supervisor.core.job import Checkpoints
from supervisor.core.model import Job
from supervisor.effects import ledger
from supervisor.layout import RunDirectory
from tests.toy_trainer import Checkpoint as Toy

pytestmark = pytest.mark.e2e

KEEP_ALL = {"checkpoints.keep_epochs": "all"}


@pytest.fixture
def server():
    """A running daemon."""
    with site() as made:
        yield made.start()


def trained(server, name, epochs=6, **keys):
    """A finished run whose every epoch is in the ledger.

    A daemon copies one save in ten seconds; the toy's epochs are shorter, so the copies are made here.
    """
    server.train(name, "--epoch-s 0.1", epochs=epochs, **{**KEEP_ALL, **keys})
    server.wait(name, "SUCCEEDED")
    until(lambda: _copies_are_made(server, f"{name}@1"), "the daemon has made its own copies")
    directory = RunDirectory(server.run_dir(name))
    wanted = Job(name=name, revision="r", train={"epochs": epochs}, checkpoints=Checkpoints(keep_epochs="all"))
    toy = Toy(server.root / "copies" / "weights", epochs)
    toy.last.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(epochs):
        toy.save(epoch, 0.5, torn=False)
        ledger.enter(directory, toy.last, f"{name}@1", 1, wanted, 1000.0 + epoch)


def _copies_are_made(server, run_id):
    """True when every copy that was ordered was answered: two processes must not write one ledger."""
    rows = server.history(run_id)
    ordered = [key for row in rows for key in row.actions if "/keep-" in key]
    return len(ordered) == len([row for row in rows if row.kind == "Kept"])


def test_rewind_trains_the_later_epochs_anew(server):
    """`rewind --epoch 2` of a finished run: each epoch once in the table, the old ones aside, the lineage is shown."""
    trained(server, "truck")
    epoch = 2
    done = server.cli("rewind", "truck", "--epoch", str(epoch))
    assert done.returncode == 0, done.stderr
    assert f"what was trained after epoch {epoch} is kept" in done.stdout
    until(lambda: server.run("truck")["id"] == "truck@2", "the new run")
    server.wait("truck", "SUCCEEDED")
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5, 6]
    started = server.attempt("truck", 2).json("launch.json")["train"]
    assert started["expected_epoch"] == epoch - 1
    aside = {path.name for path in (server.run_dir("truck") / "attempts" / "2" / "aside").iterdir()}
    assert {"last.pt", "best.pt", "results.csv"} <= aside
    shown = server.cli("show", "truck").stdout
    assert f"truck@2 rewound to epoch {epoch}" in shown
    view = json.loads(server.cli("show", "truck", "--json").stdout)
    assert [one["run"] for one in view["lineage"]["line"]] == ["truck@1", "truck@2"]


def test_rewind_to_an_epoch_that_is_not_there_exits_4(server):
    """Nothing is ordered, and the epochs that are there are named; a running run has to be stopped first."""
    trained(server, "truck", epochs=3)
    (server.run_dir("truck") / "good" / "epoch2-attempt1.pt").unlink()
    done = server.cli("rewind", "truck", "--epoch", "2")
    assert done.returncode == 4
    assert (
        "no verified checkpoint of epoch 2; there are 1, 3; best.pt and last.pt can be used as weights only"
        in done.stderr
    )
    assert "nothing is left after epoch 3" in server.cli("rewind", "truck", "--epoch", "3").stderr
    server.train("slow", "--epoch-s 30", epochs=3)
    server.wait("slow", "RUNNING")
    done = server.cli("rewind", "slow", "--epoch", "1")
    assert done.returncode == 4
    assert "stop it first: `stop slow`" in done.stderr
    server.order("stop", "slow", now=True)
    server.wait("slow", "HELD")
    done = server.cli("rewind", "slow", "--epoch", "1")
    assert done.returncode == 4
    assert "no verified checkpoint of epoch 1; there is none" in done.stderr


def test_extend_trains_on(server):
    """`extend --epochs 8` of a finished run of 6: it says what happens to the learning rate, and trains 7 and 8."""
    trained(server, "truck")
    done = server.cli("extend", "truck", "--epochs", "8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the learning-rate curve changes") == 1
    server.wait("truck", "SUCCEEDED")
    until(lambda: server.run("truck")["id"] == "truck@2" and server.run("truck")["phase"] == "SUCCEEDED", "extended")
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert server.attempt("truck", 2).json("launch.json")["train"]["epochs_override"] == 8
    done = server.cli("extend", "truck", "--epochs", "8")
    assert done.returncode == 4
    assert "has 8 epochs already" in done.stderr


def test_branch_begins_at_an_epoch_of_another_run(server, tmp_path):
    """Several experiments from one warm-up: allowed keys are told, others refused with the way that is left."""
    trained(server, "truck", train={"batch": 16})
    epoch = 2
    keys = {"python": str(server.toy_python()), "env": {"TOY": "--epoch-s 0.1"}}
    arguments = {"model": str(MODEL), "data": str(MODEL), "epochs": 6, "batch": 8}
    file = tmp_path / "small.toml"
    file.write_text(job({**keys, "train": arguments}))
    done = server.cli("branch", "truck", "--at", str(epoch), str(file))
    assert done.returncode == 0, done.stderr
    assert f"goes on from truck after epoch {epoch}; other than there: batch: 16 → 8" in done.stdout
    server.wait("small", "SUCCEEDED")
    assert server.epochs_in_table("small") == [1, 2, 3, 4, 5, 6]
    assert server.attempt("small", 1).json("launch.json")["train"]["expected_epoch"] == epoch - 1
    assert f"branched from truck after epoch {epoch}" in server.cli("show", "small").stdout
    assert "small@1 begins here" in server.cli("show", "truck").stdout

    file = tmp_path / "long.toml"
    file.write_text(job({**keys, "train": {**arguments, "epochs": 4}}))
    done = server.cli("branch", "truck", "--at", str(epoch), str(file))
    assert done.returncode == 2
    assert "train.epochs" in done.stderr
    assert "--from-weights" in done.stderr
    assert server.run("long") is None
    done = server.cli("branch", "truck", "--at", str(epoch), str(file), "--from-weights")
    assert done.returncode == 0, done.stderr
    server.wait("long", "SUCCEEDED")
    launched = server.attempt("long", 1).json("launch.json")["train"]
    assert launched["resume"] is None
    assert launched["args"]["model"] == str(server.run_dir("long") / "start.pt")
    assert server.epochs_in_table("long") == [1, 2, 3, 4]
