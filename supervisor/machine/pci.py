"""NVIDIA GPUs as the kernel sees them on the PCI bus. No driver is asked, so nothing here can hang with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from supervisor.machine import bounded

DEVICES = Path("/sys/bus/pci/devices")
DRIVER = Path("/proc/driver/nvidia")
LINKER_CACHE = Path("/etc/ld.so.cache")
DRIVER_S = 2.0
LIBRARY = "libnvidia-ml.so.1"
_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"  # 0x0300 with a display, 0x0302 without one
_DEAD = b"\xff\xff\xff\xff"  # what a read of a device that fell off the bus gives

Answer = TypeVar("Answer")


class Slot(msgspec.Struct, frozen=True):
    """A GPU in its slot. `alive`: its configuration space answers. `numa` is -1 where the kernel does not know it.

    `driver` is the name of the kernel's driver for it, empty if it has none.
    """

    bus_id: str
    alive: bool = True
    numa: int = -1
    driver: str = ""


def gpus(devices: Path = DEVICES) -> dict[str, Slot]:
    """Return NVIDIA's GPUs by bus id, such as 0000:3b:00.0, in the order of the bus; nothing where there is no PCI.

    A device that the kernel took away is not there; one that fell off the bus is there and not alive: the kernel
    remembers who it was, but its configuration space reads as ones.
    """
    try:
        folders = sorted(devices.iterdir())
    except OSError:
        return {}
    return {folder.name: _slot(folder) for folder in folders if _is_gpu(folder)}


def has_traces(devices: Path = DEVICES, driver: Path = DRIVER, library_path: str = "") -> bool:
    """Tell whether anything of NVIDIA is here: a GPU on the bus, the driver, or its library.

    `library_path` is LD_LIBRARY_PATH. Where there is nothing at all it is not worth while to start a probe.
    """
    return bool(gpus(devices)) or driver.exists() or has_library(library_path)


def has_library(library_path: str = "", cache: Path = LINKER_CACHE) -> bool:
    """Tell whether the dynamic linker would find the driver's library; without loading it."""
    if any((Path(folder) / LIBRARY).exists() for folder in library_path.split(":") if folder):
        return True
    try:
        return LIBRARY.encode() in cache.read_bytes()
    except OSError:
        return False


def is_open_module(driver: Path = DRIVER) -> bool:
    """Tell whether the loaded driver is the one with open kernel modules; it answers that read itself (of_driver)."""
    return "Open Kernel Module" in _read(driver / "version")


def uuids_by_driver(driver: Path = DRIVER) -> dict[str, str]:
    """Return the UUID of each GPU by its bus id, as the driver's folder in /proc tells; empty where it does not.

    The driver answers that read itself: ask through `of_driver`.
    """
    found = {}
    for folder in _folders(driver / "gpus"):
        for line in _read(folder / "information").splitlines():
            name, _, words = line.partition(":")
            if name.strip() == "GPU UUID" and "?" not in words:  # question marks: it was never initialised
                found[folder.name.lower()] = words.strip()
    return found


def of_driver(what: Callable[[Path], Answer], driver: Path, otherwise: Answer) -> Answer:
    """Return what one of these functions finds in the driver's folder; `otherwise` where the driver does not answer."""
    try:
        return bounded.ask(f"{what.__name__} {driver}", partial(what, driver), DRIVER_S)
    except OSError:
        return otherwise


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _is_gpu(folder: Path) -> bool:
    return _read(folder / "vendor") == _VENDOR and _read(folder / "class").startswith(_DISPLAY_CLASS)


def _slot(folder: Path) -> Slot:
    numa = _read(folder / "numa_node")
    try:
        driver = (folder / "driver").readlink().name
    except OSError:
        driver = ""
    return Slot(folder.name, _is_alive(folder), int(numa) if numa.lstrip("-").isdigit() else -1, driver)


def _is_alive(folder: Path) -> bool:
    """Ask the device itself. One that sleeps is not woken for that: it has not fallen off."""
    if _read(folder / "power" / "runtime_status") == "suspended":
        return True
    try:
        with (folder / "config").open("rb") as file:
            return file.read(4) != _DEAD
    except OSError:
        return folder.exists()  # not ours to read says nothing; a device that is gone is not alive


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
