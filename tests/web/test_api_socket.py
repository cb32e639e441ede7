"""The socket and the thread of the API."""

from __future__ import annotations

import gc
import os
import socket
import stat
import threading
import time
import warnings

import pytest

from supervisor.errors import UserError
from supervisor.web.server import bind
from tests.web.conftest import request


def test_the_socket_is_not_for_everybody(daemon):
    """The socket has mode 0660, whatever the umask."""
    assert stat.S_IMODE(daemon.socket_path.stat().st_mode) == 0o660


@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_mode_does_not_depend_on_the_umask(tmp_path, umask, monkeypatch):
    """The socket is never open to all, and the process's umask is left alone."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(umask)
    try:
        bind_here(tmp_path).close()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660


def bind_here(folder):
    from pathlib import Path

    assert Path.cwd() == folder
    return bind(Path("s"))


def test_a_second_daemon_is_refused_by_name(daemon):
    """A second daemon on the same socket is told the first one's pid, and the first one is not disturbed."""
    second = daemon.make_api()
    with pytest.raises(UserError, match=f"another daemon \\(pid {os.getpid()}\\) answers"):
        second.start()
    second.stop()
    assert request(daemon.socket_path, "GET", "/v1/status")[0] == 200


def test_a_stale_socket_is_taken_over(daemon):
    """A socket that a killed daemon left behind is removed, but only because nobody answers on it."""
    daemon.api.stop()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(daemon.socket_path))
    left.close()
    assert daemon.socket_path.is_socket()
    again = daemon.make_api()
    again.start()
    assert request(daemon.socket_path, "GET", "/v1/status")[0] == 200
    again.stop()


def test_what_is_no_socket_is_never_removed(daemon):
    """A file in the socket's place is not deleted: the person is told."""
    daemon.api.stop()
    daemon.socket_path.write_text("precious")
    with pytest.raises(UserError, match="is no socket"):
        daemon.make_api().start()
    assert daemon.socket_path.read_text() == "precious"
    daemon.socket_path.unlink()


def test_a_path_that_is_too_long_is_a_clear_error(tmp_path):
    """A path above the kernel's 108 bytes is refused with the reason."""
    with pytest.raises(UserError, match="cannot be made"):
        bind(tmp_path / ("x" * 120))


def test_stop_removes_its_own_socket_and_ends_the_thread(daemon):
    """After `stop` the socket is gone and no thread is left; stopping twice is harmless."""
    daemon.api.stop()
    assert not daemon.socket_path.exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "api"]
    daemon.api.stop()


def test_stop_leaves_the_socket_of_the_next_daemon(daemon):
    """A daemon that ends late does not take away the socket that its successor made meanwhile."""
    daemon.socket_path.unlink()
    second = daemon.make_api()
    second.start()
    daemon.api.stop()
    assert request(daemon.socket_path, "GET", "/v1/status")[0] == 200
    second.stop()


def test_stop_does_not_wait_for_silent_clients(daemon):
    """Clients that connect and say nothing do not keep the daemon from ending."""
    silent = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for one in silent:
        one.connect(str(daemon.socket_path))
    request(daemon.socket_path, "GET", "/v1/status")
    started = time.monotonic()
    daemon.api.stop()
    assert time.monotonic() - started < 4
    for one in silent:
        one.close()


def test_a_connection_in_the_moment_of_the_end_is_not_lost(daemon):
    """A client that connects just when the daemon ends leaves no socket behind that nobody closes."""
    for _ in range(6):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket_path))
            daemon.api.stop()
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            gc.collect()
        assert [str(one.message) for one in left if "socket" in str(one.message).lower()] == []
        daemon.make()


def test_rubbish_is_answered_and_survived(daemon):
    """Bytes that are no HTTP are answered with 400, and the next client is served."""
    with socket.socket(socket.AF_UNIX) as rude:
        rude.settimeout(5)
        rude.connect(str(daemon.socket_path))
        rude.sendall(b"\x00\xff\x00 hello\r\n\r\n")
        assert b"400" in rude.recv(100)
    assert request(daemon.socket_path, "GET", "/v1/status")[0] == 200
