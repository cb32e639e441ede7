"""A server room of pretence: a fake driver with up to 16 GPUs, their slots in sysfs, and a kernel log.

What a test changes is seen by running processes at their next call. A change is whole or not there at all.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from supervisor.toml_errors import format_value
from tests.fake_nvml.board import RECOVERY_ACTION, UNSIGNED_INT, XID_EVENT, Value, board, bus_id
from tests.fake_nvml.build import SONAME, library
from tests.fake_nvml.machine_room import KernelLog, Slots

LOST, RESET_REQUIRED, UNKNOWN, NOT_SUPPORTED, NO_PERMISSION, TIMEOUT = 15, 16, 999, 3, 4, 10
DRIVER_NOT_LOADED, VERSION_MISMATCH, OPERATING_SYSTEM = 9, 18, 17
ALL, LOOKUP, READS = "*", "lookup", "reads"
SYSTEM = 16  # calls that belong to no GPU

_EVENTS_KEPT = 256
_HEAD = struct.Struct("=Q16Q16Q")
_COUNTED = struct.Struct("=64s17Q17Q")


class FakeDriver:
    """The fake driver in a folder. Start programs with `.environment`; they then find this driver, and no other."""

    def __init__(
        self, directory: Path, count: int = 8, *, name: str = "NVIDIA L40S", without: tuple[str, ...] = ()
    ) -> None:
        """Fill a new folder. `without` names calls that this driver does not have, as an old one."""
        self.directory = directory
        self.count = count
        self.folder = directory / "driver"
        self.folder.mkdir(parents=True)
        self._library = library(without)
        self.slots = Slots(directory / "pci" / "devices")
        self.log = KernelLog(directory / "kmsg")
        self.boards = {number: board(number, count, name) for number in range(count)}
        self.system: dict[str, Value] = {
            "driver_version": "580.95.05",
            "nvml_version": "13.580.95.05",
            "cuda_version": 13000,
        }
        self._events = 0
        self._together = False
        for number in range(count):
            self.slots.fill(bus_id(number), numa=int(self.boards[number]["numa"]))
        self.install()
        self.save()

    # ---- how programs find it
    @property
    def environment(self) -> dict[str, str]:
        """What makes a program find this driver: the loader looks here first."""
        return {"LD_LIBRARY_PATH": str(self.folder)}

    @property
    def kmsg(self) -> Path:
        """The kernel log."""
        return self.log.path

    @property
    def pci(self) -> Path:
        """Stands for /sys/bus/pci/devices."""
        return self.slots.folder

    @property
    def table(self) -> dict[str, object]:
        """The keys of the table [gpu]."""
        return {"watch": True, "kmsg": str(self.kmsg), "pci": str(self.pci)}

    def config(self, **more: object) -> str:
        """The table [gpu] as TOML; `more` are further keys."""
        lines = [f"{key} = {format_value(value)}" for key, value in {**self.table, **more}.items()]
        return "\n".join(["[gpu]", *lines]) + "\n"

    def uuid(self, gpu: int) -> str:
        """The UUID of a GPU."""
        return str(self.boards[gpu]["uuid"])

    def bus_id(self, gpu: int) -> str:
        """The bus id as sysfs writes it."""
        return bus_id(gpu)

    # ---- writing the state
    def save(self) -> None:
        """Let programs see the state as it is now."""
        if self._together:
            return
        lines = [f"- {key} {value}" for key, value in self.system.items()]
        for number, keys in self.boards.items():
            lines += [f"{number} {key} {value}" for key, value in keys.items()]
        beside = self.folder / "state.new"
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
        beside.rename(self.folder / "state")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let programs see all changes within at the same time."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            self.save()

    def set(self, gpu: int, keys: Mapping[str, Value] | None = None, **more: Value) -> None:
        """Set keys of a GPU (board.py lists them). SYSTEM is the system itself."""
        self._keys(gpu).update({**(keys or {}), **more})
        self.save()

    def absent(self, gpu: int, *keys: str) -> None:
        """Let these keys be "not supported"."""
        for key in keys:
            self._keys(gpu).pop(key, None)
        self.save()

    def _keys(self, gpu: int) -> dict[str, Value]:
        return self.system if gpu == SYSTEM else self.boards[gpu]

    # ---- misbehaviour
    def fail(self, gpu: int, code: int, call: str = ALL) -> None:
        """Let one call, ALL, LOOKUP (of handles) or READS fail with this code."""
        self.set(gpu, {f"fail.{call}": code})

    def hang(self, gpu: int, call: str = READS, seconds: float = 0.0, *, one_lock: bool = False) -> None:
        """Let a call hang, for some seconds or (0) until `heal`. `one_lock`: all other calls then wait, too."""
        if one_lock:
            self.system["one_lock"] = 1
        self.set(gpu, {f"hang.{call}": int(seconds * 1000)})

    def crash(self, gpu: int, call: str = READS) -> None:
        """Let a call end its process by SIGSEGV."""
        self.set(gpu, {f"crash.{call}": 1})

    def heal(self, gpu: int, call: str = "") -> None:
        """End failures, hangs and crashes of a GPU: of one call, or all."""
        keys = self._keys(gpu)
        for key in [key for key in keys if key.partition(".")[0] in {"fail", "hang", "crash"}]:
            if call in {"", key.partition(".")[2]}:
                del keys[key]
        self.system.pop("one_lock", None)
        self.save()

    def lose(self, gpu: int, code: int = LOST, *, slot: str = "dead") -> None:
        """Let every call about a GPU fail. `slot`: dead (all ones), gone, or alive."""
        self.fail(gpu, code)
        if slot == "dead":
            self.slots.dead(self.bus_id(gpu))
        if slot == "gone":
            self.slots.remove(self.bus_id(gpu))

    def unlist(self, gpu: int) -> None:
        """Let a GPU be missing from the list; the indices of those behind it move up."""
        self.set(gpu, listed=0)

    def back(self, gpu: int) -> None:
        """Let a GPU be there and answer again, with its slot; its counters stay as they are."""
        with self.together():
            self.heal(gpu)
            self.set(gpu, listed=1)
        self.slots.fill(self.bus_id(gpu), numa=int(self.boards[gpu]["numa"]))

    # ---- the driver as a whole
    def init_fails(self, code: int = 0) -> None:
        """Let nvmlInit fail with a code; 0: let it work."""
        if code:
            self.fail(SYSTEM, code, "nvmlInitWithFlags")
        else:
            self.heal(SYSTEM, "nvmlInitWithFlags")

    def no_gpus(self) -> None:
        """A driver that finds no GPU."""
        with self.together():
            for gpu in self.boards:
                self.unlist(gpu)

    def uninstall(self) -> None:
        """Take the library away; processes that have it keep it."""
        (self.folder / SONAME).unlink(missing_ok=True)

    def install(self) -> None:
        """Lay the library where the loader finds it."""
        if not (self.folder / SONAME).exists():
            (self.folder / SONAME).symlink_to(self._library)

    def old_binding(self) -> Path:
        """A folder for PYTHONPATH with a `pynvml` like the deprecated package's, which hides nvidia-ml-py."""
        package = self.directory / "old-binding" / "pynvml"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("from .nvml import *\n", encoding="utf-8")
        text = "NVML_SUCCESS = 0\n\n\ndef nvmlInit():\n    return None\n"
        (package / "nvml.py").write_text(text, encoding="utf-8")
        return package.parent

    # ---- conditions
    def hot(self, gpu: int, margin: int = -3, temperature: int = 95, reasons: int = 0x40) -> None:
        """Let a GPU be at its thermal limit: degrees left, degrees, and why its clocks are low."""
        self.set(gpu, margin=margin, temperature=temperature, reasons=reasons)

    def throttle(self, gpu: int, reasons: int) -> None:
        """Set the reasons for low clocks (NVML's bits)."""
        self.set(gpu, reasons=reasons)

    def busy(self, gpu: int, utilization: int = 98, power_w: int = 300) -> None:
        """Let a GPU work: PCIe then runs at its full generation."""
        self.set(gpu, utilization=utilization, power_mw=power_w * 1000, pcie_gen=4, reasons=0, pstate=0)

    def ecc(self, gpu: int, uncorrected: int = 1, corrected: int = 0) -> None:
        """Add errors of memory, to what is counted since the driver was loaded and for life."""
        for kind, count in ((0, corrected), (1, uncorrected)):
            for life in (0, 1):
                key = f"ecc.{kind}.{life}"
                self.boards[gpu][key] = int(self.boards[gpu].get(key, 0)) + count
        self.save()

    def remap(
        self, gpu: int, *, corrected: int = 0, uncorrected: int = 1, pending: bool = False, failed: bool = False
    ) -> None:
        """Set the row remapper."""
        self.set(gpu, remapped=f"{corrected} {uncorrected} {int(pending)} {int(failed)}")

    def recovery(self, gpu: int, action: int, code: int = 0) -> None:
        """Set the driver's own recovery action (NVML_GPU_RECOVERY_ACTION_…), and the return code of that field."""
        self.field(gpu, RECOVERY_ACTION, action, code=code)

    def field(self, gpu: int, number: int, value: int, *, code: int = 0, kind: int = UNSIGNED_INT) -> None:
        """Set a field value with its type (NVML_VALUE_TYPE_…) and its own return code."""
        self.set(gpu, {f"field.{number}": f"{code} {kind} {value}"})

    def link(self, gpu: int, *, width: int = 16, generation: int = 4, replays: int = 0) -> None:
        """Set the PCIe link, in NVML and in sysfs."""
        self.set(gpu, pcie_width=width, pcie_gen=generation, pcie_replays=replays)
        self.slots.narrow(self.bus_id(gpu), width)

    def nvlink(self, one: int, other: int, link: int = 0, *, up: bool = True, errors: int = 0) -> None:
        """Set an NVLink between two GPUs. `errors` are counted by each of the four counters."""
        with self.together():
            for gpu, far in ((one, other), (other, one)):
                counters: dict[str, Value] = {f"link_error.{link}.{counter}": errors for counter in range(4)}
                remote: dict[str, Value] = {f"link_remote.{link}": self.boards[far]["bus_id"]}
                self.set(gpu, {f"link.{link}": int(up), f"link_version.{link}": 4, **counters, **remote})

    def process(self, gpu: int, pid: int, memory_bytes: int | None, *, kind: str = "compute", name: str = "") -> None:
        """Put a process on a GPU (kind: compute, graphics, mps); its memory is used. None: the driver does not tell."""
        keys = self.boards[gpu]
        self.end_process(gpu, pid)
        keys[f"{kind}.{pid}"] = "na" if memory_bytes is None else memory_bytes
        keys["memory_used"] = int(keys["memory_used"]) + (memory_bytes or 0)
        if name:
            self.system[f"process.{pid}"] = name
        self.save()

    def end_process(self, gpu: int, pid: int) -> None:
        """Take a process off a GPU; its memory is free."""
        keys = self.boards[gpu]
        for kind in ("compute", "graphics", "mps"):
            memory = keys.pop(f"{kind}.{pid}", 0)
            keys["memory_used"] = int(keys["memory_used"]) - (0 if memory == "na" else int(memory))
        self.save()

    # ---- what the driver says by itself
    def event(self, gpu: int, kind: int, data: int = 0) -> None:
        """Let an NVML event happen: to those who have registered for its kind."""
        self._events += 1
        self.system[f"event.{self._events}"] = f"{gpu} {kind} {data}"
        self.system.pop(f"event.{self._events - _EVENTS_KEPT}", None)
        self.save()

    def kernel(
        self, text: str, facility: int = 0, priority: int = 3, pid: int | str | None = None, ago_s: float = 0.0
    ) -> int:
        """Write a record to the kernel log; {pid} in the text is replaced. Returns its sequence number."""
        shown = text if pid is None else text.replace("{pid}", str(pid))
        return self.log.write(shown, facility, priority, ago_s)

    def xid(
        self,
        gpu: int,
        code: int,
        text: str = "",
        *,
        pid: int | str | None = None,
        name: str = "python",
        kernel: bool = True,
        event: bool = True,
    ) -> int:
        """Let an Xid happen: a line in the kernel log, an NVML event, or both. Returns the sequence number (-1: none).

        Without a pid the line has none, as from old drivers; "'<unknown>'" is what some lines say.
        """
        if event:
            self.event(gpu, XID_EVENT, code)
        if not kernel:
            return -1
        whose = "" if pid is None else f"pid={pid}, name={name}, "
        return self.kernel(f"NVRM: Xid (PCI:{bus_id(gpu)[:-2]}): {code}, {whose}{text or 'told by a test'}")

    # ---- what tests see
    def calls(self, call: str = "", gpu: int | None = None) -> int:
        """How often a call was made (all calls, all GPUs), by all processes so far. SYSTEM: those about no GPU."""
        return sum(self._counted(call, gpu, 0))

    def hangs(self, call: str = "", gpu: int | None = None) -> int:
        """How often a call began to hang."""
        return sum(self._counted(call, gpu, 17))

    def call_names(self, gpu: int | None = None) -> dict[str, int]:
        """Every call that was made, with how often."""
        names = [name for name, _ in self._all_counted()]
        return {name: count for name in names if (count := self.calls(name, gpu))}

    def _counted(self, call: str, gpu: int | None, offset: int) -> list[int]:
        chosen = [counts for name, counts in self._all_counted() if call in {"", name}]
        places = range(17) if gpu is None else (gpu,)
        return [counts[offset + place] for counts in chosen for place in places]

    def _all_counted(self) -> list[tuple[str, tuple[int, ...]]]:
        data = self._kept()
        found = []
        for number in range(_HEAD.unpack_from(data)[0] if data else 0):
            name, *counts = _COUNTED.unpack_from(data, _HEAD.size + number * _COUNTED.size)
            found.append((name.rstrip(b"\0").decode(), tuple(counts)))
        return found

    def _kept(self) -> bytes:
        path = self.folder / "driver"
        return path.read_bytes() if path.exists() else b""

    def power_limit_w(self, gpu: int) -> float | None:
        """The power limit that a program has set last; None if none did."""
        data = self._kept()
        limit_mw = _HEAD.unpack_from(data)[1 + gpu] if data else 0
        return limit_mw / 1000 if limit_mw else None

    def sets(self) -> list[tuple[int, str, int]]:
        """Every setting that programs made, in order: GPU, power_mw or persistence, value."""
        path = self.folder / "sets"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [(int(gpu), what, int(value)) for gpu, what, value in (line.split() for line in lines)]

    def close(self) -> None:
        """Let the reader of the kernel log see its end. The folder stays."""
        self.log.close()


__all__ = [
    "ALL", "DRIVER_NOT_LOADED", "LOOKUP", "LOST", "NOT_SUPPORTED", "NO_PERMISSION",
    "OPERATING_SYSTEM", "READS", "RESET_REQUIRED", "SYSTEM", "TIMEOUT", "UNKNOWN", "VERSION_MISMATCH", "FakeDriver",
]  # fmt: skip
