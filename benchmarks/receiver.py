"""A webhook receiver that says yes, so that the daemon has somebody to tell."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Yes(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Read the message and confirm it."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.received += 1  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the library
        """Say nothing."""


class Receiver:
    """Where messages go."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        """Wrap a server that listens."""
        self._server = server

    @property
    def channel(self) -> str:
        """The daemon's configuration of a channel that leads here."""
        address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        return f'[[channel]]\nname = "hook"\nkind = "webhook"\nurl = "{address}"\n'

    @property
    def received(self) -> int:
        """How many messages came."""
        return int(self._server.received)  # type: ignore[attr-defined]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A receiver on a port of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Yes) as server:
        server.received = 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Receiver(server)
        finally:
            server.shutdown()
            thread.join()
