"""Tell systemd how we are (sd_notify(3)): ready, status, watchdog. Does nothing where no manager listens."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class SdNotify:
    """The socket named in NOTIFY_SOCKET, if there is one."""

    def __init__(self) -> None:
        """Take the address out of the environment, so that no training inherits it."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        watchdog_us = os.environ.pop("WATCHDOG_USEC", "")
        os.environ.pop("WATCHDOG_PID", None)
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() else 0.0

    def tell(self, **assignments: str) -> None:
        """Send KEY=value lines. A manager that does not listen is no error of ours."""
        if not self._address:
            return
        text = "\n".join(f"{key}={value}" for key, value in assignments.items())
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
            suppress(OSError),
        ):
            sender.sendto(text.encode(), self._address)  # a manager that does not listen is no error of ours
