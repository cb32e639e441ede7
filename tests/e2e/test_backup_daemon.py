"""A real daemon, toy trainings and a backup target in a folder: sent, lost, brought back, on this server and another."""

from __future__ import annotations

import json
import shutil
import signal

import msgspec
import pytest
from daemon_harness import Site, end_processes_of, until

from supervisor.core.backups.manifest import Manifest
from supervisor.effects.private_copy import sha256_of

pytestmark = pytest.mark.e2e

LONG = "--epoch-s 0.2"


class Vault:
    """The folder of a target."""

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "testbed"

    def newest(self, name):
        """The newest manifest of a run, once there is one."""
        pointer = self.root / "runs" / "default" / name / "latest"
        until(pointer.exists, f"a backup of {name}")
        return self.manifest(pointer)

    def epoch(self, name):
        """The epoch of the newest checkpoint there; 0 without one."""
        newest = self.newest(name).newest()
        return newest.epoch if newest is not None else 0

    def manifest(self, pointer):
        """What a pointer points to."""
        path = pointer.parent / pointer.read_text().strip() / "manifest.json"
        return msgspec.json.decode(path.read_bytes(), type=Manifest)


@pytest.fixture
def vault(tmp_path):
    """A target's folder, on another disk in real life."""
    folder = tmp_path / "nas"
    folder.mkdir()
    return Vault(folder)


@pytest.fixture
def backed(vault):
    """A server that backs up to it every second; nothing is quiet."""
    site = Site()
    site.targets = [{"name": "nas", "to": str(vault.folder), "schedule": "1s", "jitter": "0s", "drill": "0s"}]
    site.write_config()
    site.start()
    yield site
    site.close()


def nas(site):
    """What the API says of the target."""
    (target,) = site.client.get("/v1/backups")["targets"]
    return target


def test_a_finished_run_lies_on_the_target_with_all_that_is_worth_keeping(backed, vault):
    """Checkpoints, table, log, job file: each with size and hash, and the bytes are right; the journal too."""
    backed.train("truck", epochs=3)
    backed.wait("truck", "SUCCEEDED")
    until(lambda: vault.newest("truck").ended, "the backup after its end")
    manifest = vault.newest("truck")
    paths = {file.path for file in manifest.files}
    assert {"job.toml", "train/results.csv", "attempts/1/log", "train/weights/best.pt"} <= paths
    assert (manifest.epoch, manifest.phase) == (3, "SUCCEEDED")
    assert manifest.newest().path in paths
    for file in manifest.files:
        there = vault.root / "runs/default/truck" / file.at / file.path
        assert sha256_of(there) == file.sha256, file.path
    until((vault.root / "state" / "latest").exists, "a backup of the journal")
    until(lambda: not list((backed.runs_dir / ".staging").glob("*/snap-*")), "nothing is left of the copies")


def test_a_run_that_lost_everything_goes_on_from_its_backup(backed, vault):
    """Its folder is deleted while it is held: by itself, from the newest epoch that was backed up, and it says so."""
    backed.train("truck", LONG, epochs=40)
    until(lambda: vault.epoch("truck") >= 2, "a backup of it")
    backed.cli("stop", "truck", "--now")
    backed.wait("truck", "HELD")
    saved = backed.run("truck")["saved_epoch"]
    until(lambda: vault.epoch("truck") == saved, "its newest epoch there")
    folder = backed.run_dir("truck")
    shutil.rmtree(folder / "good")
    shutil.rmtree(folder / "train")
    backed.cli("resume", "truck")
    backed.wait("truck", "SUCCEEDED")
    (restored,) = backed.history("truck@1", "Restored")
    assert (restored.body["ok"], restored.body["epoch"]) == (True, saved)
    assert backed.epochs_in_table("truck") == list(range(1, 41))


def test_a_server_that_is_gone_comes_back_on_another_one(backed, vault):
    """Journal, jobs and checkpoints: `backup restore --all` on a new machine, and what was training goes on there."""
    backed.train("truck", LONG, epochs=100)
    until(lambda: vault.epoch("truck") >= 2, "a backup of it")
    asked = backed.cli("backup", "run", "--wait")
    assert asked.returncode == 0, asked.stderr
    backed.end(signal.SIGKILL)
    end_processes_of(backed.state)
    before = vault.epoch("truck")
    other = Site()
    try:
        other.targets = backed.targets
        other.write_config()
        done = other.cli(
            "backup", "restore", "--all", "--from", "nas", "--yes", "--json", "--config", str(other.config)
        )
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
        shutil.rmtree(backed.state)  # the old server is gone, with all that it had
        other.start()
        other.wait("truck", "SUCCEEDED", within_s=90)
        assert other.epochs_in_table("truck") == list(range(1, 101))
        starts = [row.body["from_epoch"] for row in other.history("truck@1", "Prepared")]
        assert max(starts) >= before, starts
        assert (other.jobs / "done" / "truck.toml").exists()
    finally:
        other.close()


def test_a_daemon_that_is_killed_while_it_sends_goes_on_with_that(backed, vault):
    """SIGKILL at any moment: the next one finishes the very snapshot, or another; nothing half stays."""
    backed.train("truck", "--epoch-s 0.1", epochs=20)
    for epoch in (1, 4, 8, 12):
        backed.wait_saved("truck", epoch)
        backed.restart()
    backed.wait("truck", "SUCCEEDED")
    until(lambda: vault.newest("truck").ended, "the backup after its end")
    until(lambda: not nas(backed)["due"], "nothing is due")
    manifest = vault.newest("truck")
    assert manifest.epoch == 20
    assert all((vault.root / "runs/default/truck" / file.at / file.path).exists() for file in manifest.files)
    complete = {path.parent.name for path in vault.root.glob("runs/default/truck/*/manifest.json")}
    referred = {file.at for file in manifest.files}
    assert {path.name for path in (vault.root / "runs/default/truck").glob("snap-*")} <= complete | referred


def test_a_dead_target_is_told_once_and_trainings_do_not_notice(backed, vault):
    """The folder is gone (not mounted): an incident with its cause; it is back: all is sent by itself."""
    vault.folder.rename(vault.folder.with_name("away"))
    backed.train("truck", epochs=3)
    backed.wait("truck", "SUCCEEDED")
    until(lambda: nas(backed)["cause"] == "absent", lambda: f"the cause is seen: {nas(backed)}")
    vault.folder.with_name("away").rename(vault.folder)
    backed.cli("backup", "run")
    until(lambda: vault.newest("truck").ended, "the backup")
    until(lambda: not nas(backed)["cause"], "it is well")
