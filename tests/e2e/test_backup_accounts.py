"""Accounts behind a real sshd: one session at a time, or many; and whose folders lie there."""

from __future__ import annotations

import fcntl
import os
import threading

import pytest

from supervisor.backup_config import Backup
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.targets.servers import servers
from tests.sshd_room import sshd

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A server with the folders of two servers, and what is none."""
    folder = tmp_path_factory.mktemp("sshd")
    with sshd(folder / "server", folder / "root") as found:
        for name in ("gpu1", "gpu2"):
            (found.root / name / "runs" / "p" / "x").mkdir(parents=True)
            (found.root / name / "owner.json").write_text("{}")
            (found.root / name / "runs" / "p" / "x" / "owner.json").write_text("{}")
        (found.root / "photos").mkdir()
        yield found


def settings(room, account):
    """A [[backup]] with the key of an account."""
    return Backup(name="nas", to=room.to(account), ssh_key=room.key(account), known_hosts=room.known_hosts)


@pytest.mark.parametrize("account", ["rrsync", "full"])
def test_the_servers_of_a_target_are_found(room, tmp_path, account):
    """By their owner's file, and nothing below it is taken for one."""
    assert servers(settings(room, account), tmp_path) == ["gpu1", "gpu2"]


def test_the_servers_of_a_folder_are_found(room, tmp_path):
    """As those of an account; a folder that is not there is said not to be."""
    assert servers(Backup(name="nas", to=str(room.root)), tmp_path) == ["gpu1", "gpu2"]
    with pytest.raises(TargetError) as missing:
        servers(Backup(name="nas", to=str(room.root / "nope")), tmp_path)
    assert missing.value.cause == "absent"


@pytest.mark.parametrize(("account", "cause"), [("rrsync", ""), ("rrsync-lock", "busy")])
def test_another_session_is_no_trouble_with_no_lock(room, tmp_path, account, cause):
    """A folder is locked for one session unless rrsync is told not to: then the other one is turned away as busy."""
    target = open_target(settings(room, account), "gpu1", tmp_path, stop=threading.Event())
    other = os.open(room.root, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)  # as rrsync itself does
        if not cause:
            assert target.read("owner.json") == b"{}"
            return
        with pytest.raises(TargetError) as refused:
            target.read("owner.json")
        assert refused.value.cause == cause
    finally:
        os.close(other)
