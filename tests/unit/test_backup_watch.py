"""The parts of backups in one daemon: who waits for whom, and what lies here for targets that are gone."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor import backup_config, backup_watch
from supervisor.backup_watch import BackupWatch
from supervisor.config import Config, Server
from supervisor.core import actions
from supervisor.core.job import Job
from supervisor.core.model import World
from supervisor.effects.backup import locks
from supervisor.effects.backup.gentle import NICE
from supervisor.effects.backup.targets.base import TargetError
from supervisor.errors import RetryableError
from tests.unit.ledger_room import NOW

VERIFY = actions.VerifyBackup(key="v", target="nas")
DRILL = actions.Drill(key="d", target="nas")
RESTORE = actions.Restore(key="r", run="a@1", target="nas", job=Job(name="a", revision="r"), attempt=1, token=1)


class Watch:
    """A daemon's backups with one target, of which the opening is written down."""

    def __init__(self, tmp_path, monkeypatch):
        self.runs_dir, self.state_dir = tmp_path / "runs", tmp_path / "state"
        for folder in (self.runs_dir, self.state_dir, tmp_path / "disk"):
            folder.mkdir()
        self.config = Config(
            server=Server(name="gpu1", runs_dir=self.runs_dir, state_dir=self.state_dir),
            backup=(backup_config.Backup(name="nas", to=str(tmp_path / "disk")),),
        )
        self.opened = []
        monkeypatch.setattr(backup_watch, "open_target", self.open)
        clock = SimpleNamespace(now=lambda: NOW)
        self.watch = BackupWatch(lambda: self.config, lambda _event: None, World, clock)

    def open(self, settings, _server, state_dir, *, stop, pass_fds):
        """Refuse, after a look at who holds which lock meanwhile."""
        del stop
        held = {str(Path(f"/proc/self/fd/{handle}").readlink()) for handle in pass_fds}
        self.opened.append((settings.name, held, _is_held(state_dir, locks.WORK), _is_held(state_dir, locks.RESTORE)))
        raise TargetError("unreachable", "no answer")

    def handle(self, action):
        """Carry an order out."""
        (answer,) = self.watch.handlers[type(action)](action)
        return answer


def _is_held(state_dir, name):
    try:
        with locks.alone(state_dir, "nas", name):
            return False
    except RetryableError:
        return True


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """One for each test."""
    return Watch(tmp_path, monkeypatch)


@pytest.mark.parametrize(("action", "name"), [(VERIFY, "lock"), (DRILL, "lock"), (RESTORE, "restore.lock")])
def test_what_reads_a_target_holds_a_lock_that_its_programs_hold_too(watch, action, name):
    """So an rsync that outlives a killed daemon is waited for; a restore is not held up by a verification."""
    assert watch.handle(action).cause == "unreachable"
    ((target, held, work, restore),) = watch.opened
    assert (target, held) == ("nas", {str(watch.state_dir / "backup" / "nas" / name)})
    assert (work, restore) == (name == "lock", name == "restore.lock")
    assert not _is_held(watch.state_dir, name)


@pytest.mark.parametrize(("action", "name"), [(VERIFY, "lock"), (DRILL, "lock"), (RESTORE, "restore.lock")])
def test_a_program_of_a_killed_daemon_is_waited_for(watch, action, name):
    """While it holds the lock the target is not touched, and the order is tried again; that of others says nothing."""
    with locks.alone(watch.state_dir, "nas", name), pytest.raises(RetryableError, match="still under way"):
        watch.handle(action)
    assert watch.opened == []
    with locks.alone(watch.state_dir, "other", name):
        assert watch.handle(action).cause == "unreachable"


@pytest.mark.parametrize(("action", "nice"), [(VERIFY, NICE), (DRILL, NICE), (RESTORE, 0)])
def test_nobody_waits_for_what_leaves_the_processors_to_the_trainings(watch, monkeypatch, action, nice):
    """A run waits for its restore: that alone is done as fast as it goes."""
    found = []

    def look(*_arguments, **_more):
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        raise TargetError("unreachable", "no answer")

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    monkeypatch.setattr(backup_watch, "open_target", look)
    watch.handle(action)
    assert found == [nice or before]


def test_what_lies_here_for_former_targets_is_gone_after_a_start(watch, monkeypatch):
    """Staged and fetched files of a target that was taken out of the configuration hold no disk any more."""
    monkeypatch.setattr(backup_watch.DiskSource, "start", lambda _self: None)
    for folder in (".staging", ".fetching"):
        for target in ("nas", "former"):
            (watch.runs_dir / folder / target).mkdir(parents=True)
            (watch.runs_dir / folder / target / "file").touch()
    watch.watch.start()
    for thread in threading.enumerate():
        if thread.name == "forget-targets":
            thread.join(10)
    watch.watch.stop()
    left = sorted(str(path.relative_to(watch.runs_dir)) for path in watch.runs_dir.rglob("file"))
    assert left == [".fetching/nas/file", ".staging/nas/file"]
