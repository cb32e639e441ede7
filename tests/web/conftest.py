"""A daemon without hands and a client that speaks to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cli.client import UnixConnection
from tests.web.fake_daemon import FakeDaemon, short_folder


@pytest.fixture
def daemon():
    with short_folder() as folder:
        fake = FakeDaemon(Path(folder))
        fake.api.start()
        yield fake
        fake.close()


@pytest.fixture
def ask(daemon):
    """Ask over the real socket: (status, JSON)."""
    return lambda method, path, body=None: request(daemon.socket_path, method, path, body)


def request(socket_path, method, path, body=None):
    import json

    connection = UnixConnection(str(socket_path), 10.0)
    try:
        connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()
