"""A backup target behind a real sshd, and everything that goes wrong with one. Full and read-only disks are mounts."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from supervisor.backup_config import Backup
from supervisor.core.backups import causes
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import Target, TargetError
from tests.sshd_room import Sshd, demand_programs, free_port, new_key, sshd

pytestmark = pytest.mark.e2e

SNAP = "runs/detect/night/snap-000012-20261122T183000Z-0a1b2c3d"
SERVER = "box"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A running sshd."""
    demand_programs()
    folder = tmp_path_factory.mktemp("sshd")
    with sshd(folder / "server", folder / "served") as made:
        yield made


@pytest.fixture
def root(room: Sshd, tmp_path: Path) -> Path:
    """The folder of one test's target."""
    folder = room.root / tmp_path.name
    folder.mkdir()
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The daemon's state directory."""
    return tmp_path / "state"


def _target(room: Sshd, root: Path, state: Path, account: str = "full", port: int = 0, **more: Any) -> Target:
    settings = {"ssh_key": room.key(account), "known_hosts": room.known_hosts, **more}
    to = room.to(account, f"/{root.name}", port)
    return open_target(Backup(name="offsite", to=to, **settings), SERVER, state, stop=threading.Event())


def _staged(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _cause(call: Any, *arguments: Any) -> tuple[str, str]:
    with pytest.raises(TargetError) as failed:
        call(*arguments)
    assert failed.value.cause in causes.KINDS
    return failed.value.cause, failed.value.text


# ---- who answers, and whether it lets us in
def test_another_host_key_than_the_pinned_one_is_an_alarm(room: Sshd, root: Path, state: Path, tmp_path: Path) -> None:
    """Nothing is sent, and the pinned key stays: it is never replaced by itself."""
    with _another_known_hosts(room, tmp_path) as known:
        name = f"[127.0.0.1]:{room.port}"
        known.write_text(f"{name} {new_key(tmp_path / 'other').with_suffix('.pub').read_text()}")
        before = known.read_bytes()
        target = _target(room, root, state, known_hosts=known)
        assert _cause(target.facts)[0] == "host-key"
        assert _cause(target.put, "owner.json", b"{}")[0] == "host-key"
        assert known.read_bytes() == before
        assert list(root.iterdir()) == []


@contextmanager
def _another_known_hosts(room: Sshd, folder: Path) -> Iterator[Path]:
    path = folder / "known hosts 100%"  # ssh splits at spaces, and knows tokens
    path.write_bytes(room.known_hosts.read_bytes())
    yield path


def test_an_unknown_host_is_never_accepted(room: Sshd, root: Path, state: Path, tmp_path: Path) -> None:
    """An empty known_hosts file, or none, stays as it is."""
    for known in (tmp_path / "empty", tmp_path / "none"):
        if known.name == "empty":
            known.touch()
        assert _cause(_target(room, root, state, known_hosts=known).facts)[0] == "host-unknown"
        assert not known.exists() or known.read_bytes() == b""


def test_a_pinned_file_may_have_any_name(room: Sshd, root: Path, state: Path, tmp_path: Path) -> None:
    """Spaces and percent signs in paths are no words and no tokens to ssh."""
    with _another_known_hosts(room, tmp_path) as known:
        key = tmp_path / "my key 50%h"
        key.write_bytes(room.key("full").read_bytes())
        key.chmod(0o600)
        assert _target(room, root, state, known_hosts=known, ssh_key=key).facts().free_bytes


def test_a_key_that_the_account_does_not_know_is_refused(room: Sshd, root: Path, state: Path, tmp_path: Path) -> None:
    """No other key, no agent and no password is tried; a key that is not there is named before anybody is asked."""
    for key, said in (
        (new_key(tmp_path / "stranger"), "Permission denied (publickey)"),
        (tmp_path / "missing", "missing"),
    ):
        cause, text = _cause(_target(room, root, state, ssh_key=key).facts)
        assert cause == "auth"
        assert said in text


def test_a_dead_port_and_a_name_that_nobody_knows_are_out_of_reach(room: Sshd, root: Path, state: Path) -> None:
    """Waiting may help: "unreachable"."""
    assert _cause(_target(room, root, state, port=free_port()).facts)[0] == "unreachable"
    nowhere = Backup(name="offsite", to="nobody@host.invalid:/x", known_hosts=room.known_hosts)
    assert _cause(open_target(nowhere, SERVER, state, stop=threading.Event()).facts)[0] == "unreachable"


def test_a_server_that_says_nothing_is_given_up(
    room: Sshd, root: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that accepts and stays silent is a timeout, not a hang."""
    monkeypatch.setattr("supervisor.effects.backup.targets.ssh._OPTIONS", {"BatchMode": "yes", "ConnectTimeout": "2"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        assert _cause(_target(room, root, state, port=port).facts)[0] in {"timeout", "unreachable"}
        assert time.monotonic() - began < 15


# ---- what an account may do
def test_an_account_that_only_writes_can_be_backed_up_to(room: Sshd, root: Path, state: Path, tmp_path: Path) -> None:
    """`rrsync -wo -no-del`: files arrive and are verified there; reading and removing are refused."""
    stage = _staged(tmp_path / "stage", last=os.urandom(100_000))
    target = _target(room, root, state, "rrsync-wo", append_only=True)
    target.facts()
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    (root / SERVER / SNAP / "last").write_bytes(b"other")
    assert target.differing(stage, SNAP) == ["last"]
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    target.put("owner.json", b"{}")
    for call in (target.read, target.listing):
        assert _cause(call, "owner.json")[0] == "refused"
    assert _cause(target.remove, [f"{SNAP}/last"])[0] == "refused"


def test_a_key_that_cannot_delete_cannot_delete(room: Sshd, root: Path, state: Path, tmp_path: Path) -> None:
    """The limit is that of the account, whatever the configuration of a broken-into server says."""
    stage = _staged(tmp_path / "stage", last=b"x")
    _target(room, root, state, "rrsync-wo", append_only=True).send(stage, SNAP)
    cause, text = _cause(_target(room, root, state, "rrsync-wo").remove, [f"{SNAP}/last"])
    assert cause == "refused"
    assert "disabled" in text
    assert (root / SERVER / SNAP / "last").exists()


def test_a_restricted_account_cannot_leave_its_folder(room: Sshd, state: Path, tmp_path: Path) -> None:
    """A configured path with two dots does not lead out of it."""
    to = room.to("rrsync", "/../../x")
    settings = Backup(name="offsite", to=to, ssh_key=room.key("rrsync"), known_hosts=room.known_hosts)
    target = open_target(settings, SERVER, state, stop=threading.Event())
    assert _cause(target.put, "owner.json", b"{}")[0] == "refused"


# ---- disks there
@contextmanager
def _mounted(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount, and not in every container")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("account", ["full", "rrsync", "local"])
def test_a_full_disk_there_is_called_full(room: Sshd, root: Path, state: Path, tmp_path: Path, account: str) -> None:
    """No half file stays under its name, and with room again the rest arrives."""
    stage = _staged(tmp_path / "stage", large=os.urandom(6_000_000), small=b"small")
    with _mounted(root, "4m"):
        target = _any_target(room, root, state, account)
        assert _cause(target.send, stage, SNAP)[0] == "full"
        assert not (root / SERVER / SNAP / "large").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(root)], check=True)
        target.send(stage, SNAP)
        assert target.differing(stage, SNAP) == []
        _assert_nothing_else(root, {f"{SNAP}/large", f"{SNAP}/small"})


@pytest.mark.parametrize("account", ["full", "rrsync", "local"])
def test_a_disk_there_that_cannot_be_written_is_called_read_only(
    room: Sshd, root: Path, state: Path, tmp_path: Path, account: str
) -> None:
    """What lies there can still be read."""
    stage = _staged(tmp_path / "stage", large=b"1" * 100_000)
    with _mounted(root, "4m"):
        target = _any_target(room, root, state, account)
        target.put("owner.json", b"{}")
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        assert _cause(target.send, stage, SNAP)[0] == "read-only"
        assert _cause(target.put, "owner.json", b"[]")[0] == "read-only"
        assert target.read("owner.json") == b"{}"


def test_a_folder_whose_disk_is_not_mounted_any_more_is_absent(root: Path, state: Path, tmp_path: Path) -> None:
    """The mount point itself is a folder too: nothing is written below it when its disk is gone."""
    stage = _staged(tmp_path / "stage", last=b"x")
    with _mounted(root, "4m"):
        _any_target(None, root, state, "local").send(stage, SNAP)
    cause, text = _cause(_any_target(None, root, state, "local").send, stage, SNAP)
    assert cause == "absent"
    assert str(root) in text
    assert list(root.iterdir()) == []


def _any_target(room: Sshd | None, root: Path, state: Path, account: str) -> Target:
    if room is None or account == "local":
        return open_target(Backup(name="offsite", to=str(root)), SERVER, state, stop=threading.Event())
    return _target(room, root, state, account)


def _assert_nothing_else(root: Path, paths: set[str]) -> None:
    found = {str(path.relative_to(root / SERVER)) for path in (root / SERVER).rglob("*") if path.is_file()}
    assert found == paths


# ---- bad links
class _Link:
    """A TCP proxy that counts what is sent through it, and breaks after so many bytes."""

    def __init__(self, port: int) -> None:
        self.sent_bytes = 0
        self.breaks_at_bytes: int | None = None
        self._to = port
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._server.accept()
                theirs = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [ours, theirs]
                for source, sink, counted in ((ours, theirs, True), (theirs, ours, False)):
                    self._threads.append(threading.Thread(target=self._pump, args=(source, sink, counted)))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                self.sent_bytes += len(data) * counted
                if self.breaks_at_bytes is not None and self.sent_bytes >= self.breaks_at_bytes:
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        for end in (*self._ends, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in (*self._ends, self._server):
            end.close()


@pytest.fixture
def link(room: Sshd) -> Iterator[_Link]:
    """A link to the server that can break."""
    with ExitStack() as stack:
        made = _Link(room.port)
        stack.callback(made.close)
        room.pin(made.port)
        yield made


@pytest.mark.parametrize("account", ["full", "rrsync", "rrsync-wo"])
def test_a_link_that_breaks_is_gone_on_with_where_it_broke(
    room: Sshd, root: Path, state: Path, link: _Link, account: str
) -> None:
    """What arrived of a large file before the break is not sent again, and nothing of it is left afterwards."""
    size = 12_000_000
    stage = _staged(state.parent / "stage", large=os.urandom(size))
    target = _target(room, root, state, account, port=link.port, append_only=account == "rrsync-wo")
    target.facts()
    link.sent_bytes, link.breaks_at_bytes = 0, size * 3 // 4
    assert _cause(target.send, stage, SNAP)[0] in {"protocol", "unreachable"}
    assert not (root / SERVER / SNAP / "large").exists()
    _await_partial(root)
    link.sent_bytes, link.breaks_at_bytes = 0, None
    target.send(stage, SNAP)
    assert link.sent_bytes < size // 2
    assert target.differing(stage, SNAP) == []
    _assert_nothing_else(root, {f"{SNAP}/large"})


def _await_partial(root: Path) -> None:
    """The other end notices a moment later that nobody sends any more."""
    deadline = time.monotonic() + 20
    while not any(path.is_file() for path in root.rglob(".~tmp~/large")):
        assert time.monotonic() < deadline, sorted(root.rglob("*"))
        time.sleep(0.05)


# ---- nothing stays for ever
@pytest.mark.parametrize("account", ["full", "rrsync"])
def test_what_a_killed_rsync_left_there_goes_with_the_next_sending(
    room: Sshd, root: Path, state: Path, tmp_path: Path, account: str
) -> None:
    """Its temporary files in the snapshot's folder, and no file of anybody else that only looks so."""
    stage = _staged(tmp_path / "stage", last=b"1", **{".file.config": b"2"})
    target = _target(room, root, state, account)
    target.send(stage, SNAP)
    others = (root / SERVER / SNAP).parent / "snap-000013-20261122T183000Z-0a1b2c3d/.last.abcdef", root / ".last.Abcdef"
    ours = root / SERVER / SNAP / ".last.AbcDe1", root / SERVER / SNAP / ".last.zzzzzz"
    for path in (*others, *ours):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 1000)
    target.send(stage, SNAP)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)
    assert (root / SERVER / SNAP / ".file.config").read_bytes() == b"2"


def test_a_call_leaves_nothing_here(room: Sshd, root: Path, state: Path, tmp_path: Path) -> None:
    """Neither one that succeeded nor one that failed; what a killed daemon left is removed by the next call."""
    left = state / "backup/offsite/call-abandoned"
    left.mkdir(parents=True)
    (left / "names").touch()
    os.utime(left, (time.time() - 3600,) * 2)
    target = _target(room, root, state)
    target.send(_staged(tmp_path / "stage", last=b"1"), SNAP)
    _cause(target.fetch, ["runs/nothing"], tmp_path)
    assert list((state / "backup/offsite").iterdir()) == []


# ---- old programs
def test_an_old_rsync_here_is_warned_of(
    room: Sshd, root: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs one with known holes hears of it; the backup is made all the same."""
    folder = tmp_path / "bin"
    folder.mkdir()
    old = folder / "rsync"
    real = subprocess.run(["sh", "-c", "command -v rsync"], capture_output=True, check=True, text=True).stdout.strip()
    old.write_text(
        f'#!/bin/sh\n[ "$*" = --version ] && exec echo "rsync  version 3.2.7  protocol version 31"\nexec {real} "$@"\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    target = _target(room, root, state, "rrsync")
    assert target.facts().warning == "rsync 3.2.7 here: 3.5.0 closes 33 security holes"
    target.put("owner.json", b"{}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _cause(_target(room, root, state).facts)[0] == "no-rsync"
