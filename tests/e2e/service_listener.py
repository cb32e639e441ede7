"""The other end of sd_notify: the socket on which systemd listens to its services."""

from __future__ import annotations

import socket
import time
from pathlib import Path


class Manager:
    """The socket that systemd listens on."""

    def __init__(self, path: Path) -> None:
        """Listen at `path`."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def wait_for(self, line: str, within_s: float = 15.0) -> str:
        """Return the datagram that has a line with this beginning."""
        deadline = time.monotonic() + within_s
        seen: list[str] = []
        while (left_s := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                seen.append(self._socket.recv(65536).decode())
            except TimeoutError:
                break
            if any(one.startswith(line) for one in seen[-1].splitlines()):
                return seen[-1]
        raise AssertionError(f"no {line} within {within_s} s: {seen}")

    def close(self) -> None:
        """Stop to listen."""
        self._socket.close()
