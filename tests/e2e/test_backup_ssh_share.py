"""All calls of a target go through one connection, which is let in like any other, and ends with the target."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.backup_config import Backup
from supervisor.effects.backup.targets import open_target, ssh_share
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.targets.rsync import RsyncTarget
from tests.sshd_room import Sshd, demand_programs, sshd

pytestmark = pytest.mark.e2e

SNAP = "runs/detect/night/snap-000012-20261122T183000Z-0a1b2c3d"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A running sshd."""
    demand_programs()
    folder = tmp_path_factory.mktemp("sshd")
    with sshd(folder / "server", folder / "served") as made:
        yield made


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder below which the sockets of this test lie: their paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="ysh-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def _settings(room: Sshd, account: str) -> Backup:
    to = room.to(account, "/")
    return Backup(name="offsite", to=to, ssh_key=room.key(account), known_hosts=room.known_hosts)


def _target(room: Sshd, state: Path, account: str = "full") -> RsyncTarget:
    target = open_target(_settings(room, account), "box", state, stop=threading.Event())
    assert isinstance(target, RsyncTarget)
    return target


def _logins(room: Sshd) -> int:
    return room.said().count("Accepted publickey")


def _masters(sockets: Path) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if str(sockets) in " ".join(one.info["cmdline"] or ())]


def _await(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("account", ["full", "rrsync"])
def test_a_whole_transaction_logs_in_once(room: Sshd, sockets: Path, tmp_path: Path, account: str) -> None:
    """And nothing of it is left when the target is closed: no process, no folder."""
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "last").write_bytes(os.urandom(100_000))
    before = _logins(room)
    target = _target(room, tmp_path / "state", account)
    target.facts()
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    target.put("owner.json", b"{}")
    assert target.read("owner.json") == b"{}"
    assert target.listing("runs")
    assert _logins(room) - before == 1
    (folder,) = sockets.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(_masters(sockets)) == 1
    target.close()
    _await(lambda: not _masters(sockets))
    assert list(sockets.iterdir()) == []


def test_a_connection_that_died_is_made_again(room: Sshd, sockets: Path, tmp_path: Path) -> None:
    """Whatever ended it: the next call logs in anew."""
    target = _target(room, tmp_path / "state")
    target.put("owner.json", b"1")
    (master,) = _masters(sockets)
    master.kill()
    _await(lambda: not _masters(sockets))
    target.put("owner.json", b"2")
    assert target.read("owner.json") == b"2"
    target.close()


def test_no_other_target_uses_the_connection(room: Sshd, sockets: Path, tmp_path: Path) -> None:
    """A target with another key, and with other pinned keys, is not let in because one was before."""
    target = _target(room, tmp_path / "state")
    target.put("owner.json", b"1")
    empty = tmp_path / "empty"
    empty.touch()
    other = Backup(name="offsite", to=room.to("full", "/"), ssh_key=room.key("full"), known_hosts=empty)
    with pytest.raises(TargetError) as refused:
        open_target(other, "box", tmp_path / "state", stop=threading.Event()).read("owner.json")
    assert refused.value.cause == "host-unknown"
    target.close()


def test_after_a_killed_daemon_the_connection_ends_by_itself(room: Sshd, sockets: Path, tmp_path: Path) -> None:
    """Within seconds; the folder of its socket goes with the next target that is opened."""
    program = (
        "import signal, sys, threading, os\n"
        "from pathlib import Path\n"
        "from supervisor.backup_config import Backup\n"
        "from supervisor.effects.backup.targets import open_target, ssh_share\n"
        "ssh_share.IDLE_S = 1\n"
        "to, key, known, state = sys.argv[1:]\n"
        "settings = Backup(name='offsite', to=to, ssh_key=Path(key), known_hosts=Path(known))\n"
        "target = open_target(settings, 'box', Path(state), stop=threading.Event())\n"
        "target.put('owner.json', b'1')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    settings = _settings(room, "full")
    words = [settings.to, str(settings.ssh_key), str(settings.known_hosts), str(tmp_path / "state")]
    env = {**os.environ, "TMPDIR": str(sockets)}
    done = subprocess.run([sys.executable, "-c", program, *words], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    _await(lambda: not _masters(sockets))
    (left,) = sockets.iterdir()
    os.utime(left, (time.time() - 3600,) * 2)
    target = _target(room, tmp_path / "state")
    target.read("owner.json")
    assert not left.exists()
    target.close()


def test_where_no_path_is_short_enough_each_call_connects(
    room: Sshd, sockets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backups are made all the same."""
    monkeypatch.setattr(ssh_share, "LONGEST_PATH_BYTES", 5)
    before = _logins(room)
    target = _target(room, tmp_path / "state")
    target.put("owner.json", b"1")
    assert target.read("owner.json") == b"1"
    assert _logins(room) - before >= 2
    assert list(sockets.iterdir()) == []
