"""What surrounds a fake GPU: its folder in sysfs and the kernel log."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

FULL_WIDTH = 16
KERNEL, ERROR = 0, 3  # facility and priority of the driver's messages


class Slots:
    """A tree like /sys/bus/pci/devices."""

    def __init__(self, folder: Path) -> None:
        """Make the folder; slots are added to it."""
        self.folder = folder
        folder.mkdir(parents=True)

    def fill(self, bus_id: str, numa: int = 0, width: int = FULL_WIDTH) -> None:
        """Put a healthy GPU into a slot, as the kernel shows it."""
        slot = self.folder / bus_id
        slot.mkdir(exist_ok=True)
        config = bytes.fromhex("de10b926 07041000 a1000203 00000000") + bytes(48)
        self._write(slot / "config", config)
        values = {
            "vendor": "0x10de",
            "device": "0x26b9",
            "class": "0x030200",
            "numa_node": str(numa),
            "max_link_width": str(FULL_WIDTH),
            "max_link_speed": "16.0 GT/s PCIe",
            "current_link_width": str(width),
            "current_link_speed": "2.5 GT/s PCIe",
            "enable": "1",
        }
        for name, value in values.items():
            self._write(slot / name, f"{value}\n".encode())

    def narrow(self, bus_id: str, width: int) -> None:
        """Let fewer lanes be in use."""
        self._write(self.folder / bus_id / "current_link_width", f"{width}\n".encode())

    def dead(self, bus_id: str) -> None:
        """The device answers no read any more: all ones. What the kernel remembers (vendor) stays."""
        slot = self.folder / bus_id
        self._write(slot / "config", b"\xff" * 64)
        self._write(slot / "current_link_width", b"63\n")
        self._write(slot / "current_link_speed", b"Unknown\n")

    def remove(self, bus_id: str) -> None:
        """The kernel took the device away."""
        shutil.rmtree(self.folder / bus_id, ignore_errors=True)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        """Never half: by a rename."""
        beside = path.with_name(f".{path.name}")
        beside.write_bytes(data)
        beside.rename(path)


class KernelLog:
    """A FIFO that gives records as /dev/kmsg does, one for each read, and never ends."""

    def __init__(self, path: Path) -> None:
        """Make the FIFO. Records wait in it for the reader, up to 64 KiB of them."""
        self.path = path
        os.mkfifo(path)
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # where a FIFO cannot keep records apart, a read may give several
            fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
        self._next = 4000
        self.records: list[bytes] = []

    def write(self, text: str, facility: int = KERNEL, priority: int = ERROR, ago_s: float = 0.0) -> int:
        """Append a record of now, or of some seconds ago; its sequence number."""
        sequence, self._next = self._next, self._next + 1
        clock_us = int((time.clock_gettime(time.CLOCK_MONOTONIC) - ago_s) * 1e6)
        head = f"{facility << 3 | priority},{sequence},{clock_us},-;"
        record = f"{head}{text}\n".encode()
        self.records.append(record)
        os.write(self._file, record)
        return sequence

    def again(self) -> None:
        """Give every record once more: whoever opens the real log newly reads it from its beginning."""
        for record in self.records:
            os.write(self._file, record)

    def skip(self, count: int) -> None:
        """Lose this many records: sequence numbers that nobody will ever see."""
        self._next += count

    def close(self) -> None:
        """Let a reader see the end."""
        os.close(self._file)
