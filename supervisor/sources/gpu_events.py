"""Waits for what the driver tells of a GPU by itself. Part of the probe: the standard library and pynvml only."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from supervisor.sources.gpu_board import EVENT_WAIT_S
from supervisor.sources.gpu_probe_calls import LOST, TIMEOUT, WANTED_EVENTS, Mark, code_of

_GATHER_S = 0.2  # at the start all GPUs come within a moment, and what comes while the set is made anew is lost
_PAUSE_S = 1.0  # after a wait that failed: an error that comes at once must not become a loop that spins


class Watcher(threading.Thread):
    """Waits for what the driver tells by itself. A lost GPU neither stops it nor makes it spin."""

    def __init__(
        self,
        nvml: Any,
        mark: Mark,
        handles: Callable[[], list[tuple[Any, str]]],
        say: Callable[..., None],
        on_lost: Callable[[], None],
    ) -> None:
        """`handles` gives handle and UUID of each GPU that answers; `on_lost`: some GPU is lost, nobody says which."""
        super().__init__(name="events", daemon=True)
        self._nvml = nvml
        self._mark = mark
        self._handles = handles
        self._say = say
        self._on_lost = on_lost
        self._changed = threading.Event()

    def rebuild(self) -> None:
        """The GPUs that answer are other ones now."""
        self._changed.set()

    def run(self) -> None:
        """Wait until the process ends."""
        while True:
            self._changed.wait()
            time.sleep(_GATHER_S)
            self._changed.clear()
            events = self._register()
            if events is None:
                continue
            healthy = True
            while healthy and not self._changed.is_set():
                healthy = self._wait(*events)
            self._free(events[0])
            if not healthy:
                time.sleep(_PAUSE_S)
                self._changed.set()

    def _register(self) -> tuple[Any, dict[int, str]] | None:
        nvml, mark = self._nvml, self._mark
        known: dict[int, str] = {}
        mark("nvmlEventSetCreate")
        try:
            events = nvml.nvmlEventSetCreate()
            for handle, uuid in self._handles():
                if self._register_one(events, handle):
                    known[_address(handle)] = uuid
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            code_of(nvml, error)  # without events the kernel log and the tiers tell, only later
            return None
        finally:
            mark("")
        if known:
            return events, known
        self._free(events)
        return None

    def _register_one(self, events: Any, handle: Any) -> bool:
        nvml, mark = self._nvml, self._mark
        try:
            mark("nvmlDeviceGetSupportedEventTypes")
            wanted = nvml.nvmlDeviceGetSupportedEventTypes(handle) & WANTED_EVENTS
            mark("nvmlDeviceRegisterEvents")
            if wanted:
                nvml.nvmlDeviceRegisterEvents(handle, wanted, events)
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            code_of(nvml, error)
            return False
        return bool(wanted)

    def _wait(self, events: Any, known: dict[int, str]) -> bool:
        """Wait for one event; False where the set is of no use any more."""
        nvml, mark = self._nvml, self._mark
        mark("nvmlEventSetWait")
        try:
            data = nvml.nvmlEventSetWait(events, int(EVENT_WAIT_S * 1000))
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            code = code_of(nvml, error)
            if code == LOST:  # nobody says whose: each one is asked
                self._on_lost()
            return code == TIMEOUT
        finally:
            mark("")
        uuid = known.get(_address(data.device), "")
        self._say("event", gpu=uuid, type=int(data.eventType), data=int(data.eventData))
        return True

    def _free(self, events: Any) -> None:
        self._mark("nvmlEventSetFree")
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlEventSetFree(events)
        self._mark("")


def _address(handle: Any) -> int:
    """Where a handle points to: two handles of one GPU are equal in that alone."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
