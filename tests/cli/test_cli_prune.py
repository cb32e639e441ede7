from __future__ import annotations

import json
import os
import threading

import pytest

from supervisor.core import events
from supervisor.core.actions import Prune
from supervisor.core.model import Policy
from supervisor.prune_config import Prune as Settings
from tests.cli.conftest import process
from tests.web.fake_daemon import FakeDaemon

pytestmark = pytest.mark.filterwarnings("error")


def an_old_run(daemon, name="old"):
    """A run that has ended, with its directory."""
    run_id = daemon.launch(name)
    token = daemon.world.live[run_id].attempt.token
    folder = daemon.runs_dir / "default" / name
    (folder / "train" / "weights").mkdir(parents=True)
    (folder / "train" / "weights" / "best.pt").write_bytes(b"weights")
    (folder / "token").write_text(json.dumps({"version": 1, "token": token, "run": run_id}), encoding="utf-8")
    daemon.end(run_id)
    return folder


def with_policy(daemon, **words):
    """Let the daemon have a [prune] table."""
    daemon.prune = Settings(**words)
    daemon.put(events.Configured(at=daemon.clock.now(), policy=Policy(max_running=1, server="test", prunes=True)))


def carry_out(daemon):
    """Do what the world has ordered, as the lane would."""
    key = daemon.world.pruning
    (event,) = daemon.pruner(Prune(key=key, by="somebody"))
    daemon.put(event)


def test_dry_run(cli, daemon):
    """--dry-run names every file with what becomes of it and why, and the totals; nothing is changed."""
    folder = an_old_run(daemon)
    with_policy(daemon, keep_tag=("gold",))
    found = cli("prune", "--dry-run", "--json")
    assert found.exit_code == 0
    view = json.loads(found.stdout)
    assert {os.path.relpath(row["path"], folder): row["action"] for row in view["rows"]} == {
        ".": "delete",
        "token": "delete",
        "train/weights/best.pt": "delete",
    }
    assert all(row["reason"] for row in view["rows"])
    assert view["version"] == 1
    assert view["policy"]["keep_tag"] == ["gold"]
    text = cli("prune", "--dry-run").stdout
    assert "default/old" in text
    assert max(map(len, text.splitlines())) <= 80
    assert str(folder) not in text
    assert "      train/weights/best.pt  7 B" in text.splitlines()
    assert text.count("goes with its run") == 1
    assert "keep_tag gold" in text
    assert "delete: 1 runs, 2 files" in text
    assert folder.exists()


@pytest.mark.parametrize("policy", [None, {}])
def test_no_policy_is_refused(cli, daemon, policy):
    """Without [prune], or with an empty one, nothing is done and the exit code is 4, also of a dry run."""
    folder = an_old_run(daemon)
    if policy is not None:
        with_policy(daemon, **policy)
    for arguments in (("--dry-run",), ("--yes",)):
        found = cli("prune", *arguments)
        assert found.exit_code == 4
        assert "[prune]" in found.stderr
    assert folder.exists()


def test_prune_trash_and_undo(cli, daemon):
    """`prune` tells what went, `prune trash` lists it, `prune --undo` brings it back."""
    folder = an_old_run(daemon)
    with_policy(daemon, keep_tag=("gold",))
    ordered = threading.Event()
    put = daemon.put

    def put_and_do(event):
        put(event)
        if isinstance(event, events.PruneAsked):
            ordered.set()

    daemon.put = put_and_do
    daemon.api.stop()
    daemon.make()
    worker = threading.Thread(target=lambda: (ordered.wait(30), carry_out(daemon)))
    worker.start()
    found = cli("prune", "--yes")
    worker.join()
    assert found.exit_code == 0, found.stderr
    assert "2 files" in found.stdout
    assert not folder.exists()
    view = json.loads(cli("prune", "trash", "--json").stdout)
    (held,) = view["trash"]
    assert held["id"] in cli("prune", "trash").stdout
    undone = cli("prune", "--undo", held["id"])
    assert undone.exit_code == 0
    assert str(folder) in undone.stdout
    assert (folder / "train" / "weights" / "best.pt").read_bytes() == b"weights"
    assert cli("prune", "--undo", held["id"]).exit_code == 4
    assert "empty" in cli("prune", "trash").stdout


def test_dry_run_without_a_daemon(daemon):
    """Where no daemon runs the journal and the disk are looked at; that is said, and the plan is the same."""
    an_old_run(daemon)
    config = daemon.write_config()
    with config.open("a", encoding="utf-8") as file:
        file.write('[prune]\nkeep_tag = ["gold"]\n')
    daemon.api.stop()
    found = process("--config", config, "prune", "--dry-run", "--json")
    assert found.returncode == 0, found.stderr
    assert "daemon is not running" in found.stderr
    view = json.loads(found.stdout)
    assert view["offline"] is True
    assert view["totals"]["delete"]["files"] == 2
    assert isinstance(daemon, FakeDaemon)
