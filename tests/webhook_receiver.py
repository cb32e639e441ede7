"""A small webhook receiver: keeps what it was sent, in memory and in a file, and answers as it is told to.

As a program it answers `200 ok` (right for Slack and for generic webhooks) until it is ended:
    python tests/webhook_receiver.py --port 0 --file out.jsonl
prints its port on the first line, and appends one JSON object per message: {"at", "path", "headers", "body"}.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

Answer = tuple[int, dict[str, str], bytes] | Callable[[BaseHTTPRequestHandler], None]
OK: Answer = (200, {"Content-Type": "text/plain"}, b"ok")


class Receiver:
    """An HTTP server on a free port of this machine. Any path takes messages by POST."""

    def __init__(self, *answers: Answer, port: int = 0, file: Path | None = None) -> None:
        """Give `answers` one after the other, then `200 ok`. A callable answers by itself."""
        self.received: list[dict[str, Any]] = []
        self._answers = list(answers)
        self._file = file
        self._changed = threading.Condition()
        handler = type("Handler", (_Handler,), {"receiver": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def url(self, path: str = "/hook") -> str:
        """Return an address to send to."""
        return f"http://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Receiver:  # noqa: PYI034 - Self needs Python 3.11
        """Start to listen."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], data: bytes) -> Answer:
        """Keep a message and return the answer for it."""
        message = {"at": time.time(), "path": path, "headers": headers, "body": _parsed(data)}
        with self._changed:
            self.received.append(message)
            if self._file is not None:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(message, ensure_ascii=False) + "\n")
            self._changed.notify_all()
            return self._answers.pop(0) if self._answers else OK

    def wait_for(self, count: int, within_s: float = 10.0) -> list[dict[str, Any]]:
        """Return the messages once there are `count`; TimeoutError if they do not come."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.received) >= count, within_s):
                raise TimeoutError(f"{len(self.received)} of {count} messages came within {within_s} s")
            return list(self.received)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that go away in the middle are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        """Take a message."""
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.receiver.take(self.path, headers, data)
        if callable(answer):
            answer(self)
            return
        status, fields, body = answer
        self.send_response(status)
        for name, value in {**fields, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server gives
        """Print nothing."""


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def main() -> int:
    """Run until the standard input ends or a signal comes."""
    parser = argparse.ArgumentParser(description="Receive webhooks and append them to a file.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--file", type=Path, required=True, help="where the messages go, one JSON object a line")
    arguments = parser.parse_args()
    with Receiver(port=arguments.port, file=arguments.file) as receiver:
        print(receiver.port, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
