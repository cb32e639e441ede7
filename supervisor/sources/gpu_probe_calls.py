"""What the probe asks NVML, call by call. Part of the probe's child: the standard library and pynvml, nothing of ours.

Missing is never zero: a value is a number, None (the board or its driver has no such value) or [code, name] (it could
not be read this time). New calls are tried before the old ones that they replace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

#: NVML's return codes (nvmlReturn_t in its header).
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
LOST = 15
RESET_REQUIRED = 16
VERSION_MISMATCH = 18
OPERATING_SYSTEM = 17
ARGUMENT_VERSION = 25
UNKNOWN = 999

#: Errors that say something of the GPU as a whole, whichever call they come from.
WHOLE = frozenset({LOST, RESET_REQUIRED})
#: This way of asking is none on this driver or board: another may be.
OTHER_WAY = frozenset({INVALID_ARGUMENT, NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION})
#: The field's number: older versions of pynvml have no name for it (NVML_FI_DEV_GET_GPU_RECOVERY_ACTION).
RECOVERY_ACTION_FIELD = 230
#: NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL and _RECOVERY_ERROR_COUNT_TOTAL. Of CRC errors a few are normal.
NVLINK_ERROR_FIELDS = (52, 59)
#: A field value's union member by its nvmlValueType_t.
FIELD_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
MOST_LINKS = 36  # NVML_NVLINK_MAX_LINKS of nvml.h 13
SWITCH = 2  # NVML_NVLINK_DEVICE_TYPE_SWITCH
VOLATILE = 0  # NVML_VOLATILE_ECC
CORRECTED, UNCORRECTED = 0, 1  # nvmlMemoryErrorType_t
THERMAL = 1  # NVML_PERF_POLICY_THERMAL

#: Events that the probe wants to know of, where the driver offers them: a double-bit error, an Xid, the GPU became
#: unavailable, and another recovery action (the last two came with drivers of 2025).
XID_EVENT = 0x8
WANTED_EVENTS = 0x2 | XID_EVENT | 0x4000 | 0x8000

Number = float | int
Answer = tuple[Number | None, ...]
Value = Number | None | list[Any]


class MissingError(Exception):
    """This version of pynvml or of the driver has no such call."""


class WholeGpuError(Exception):
    """The GPU as a whole cannot be read."""

    def __init__(self, code: int) -> None:
        """`code` is NVML's."""
        super().__init__(code)
        self.code = code


class Question(NamedTuple):
    """One thing to be asked: the names of its values, the call that is named when it hangs, and ways to ask it."""

    names: tuple[str, ...]
    call: str
    ways: tuple[Callable[[Any, Any], Answer], ...]
    whole: bool = False  # an unknown error of it is one of the GPU: every board answers it


def call(nvml: Any, name: str, *arguments: Any) -> Any:
    """Call a function of pynvml; MissingError where this version has none of that name."""
    function = getattr(nvml, name, None)
    if function is None:
        raise MissingError(name)
    return function(*arguments)


def _plain(name: str, scale: float = 1, *arguments: Any) -> Callable[[Any, Any], Answer]:
    def way(nvml: Any, handle: Any) -> Answer:
        number = call(nvml, name, handle, *arguments)
        return (number * scale if scale != 1 else number,)

    return way


def _memory_v2(nvml: Any, handle: Any) -> Answer:
    """Version 2 does not count what the driver keeps for itself as used."""
    version = getattr(nvml, "nvmlMemory_v2", None)
    if version is None:
        raise MissingError("nvmlMemory_v2")
    found = nvml.nvmlDeviceGetMemoryInfo(handle, version=version)
    return found.used, found.total


def _memory_v1(nvml: Any, handle: Any) -> Answer:
    found = nvml.nvmlDeviceGetMemoryInfo(handle)
    return found.used, found.total


def _utilization(nvml: Any, handle: Any) -> Answer:
    return (nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,)


def _throttled(nvml: Any, handle: Any) -> Answer:
    return (call(nvml, "nvmlDeviceGetViolationStatus", handle, THERMAL).violationTime,)


def _remapped(nvml: Any, handle: Any) -> Answer:
    """Rows that were remapped for errors that were corrected are no sign of wear that matters: they are not counted."""
    _corrected, uncorrected, pending, failed = call(nvml, "nvmlDeviceGetRemappedRows", handle)
    return uncorrected, pending, failed


def _retired_pending(nvml: Any, handle: Any) -> Answer:
    """Boards before Ampere retire pages instead of remapping rows; what waits for a reset is the same to us."""
    return None, call(nvml, "nvmlDeviceGetRetiredPagesPendingStatus", handle), None


def _retired(nvml: Any, handle: Any) -> Answer:
    return (sum(len(call(nvml, "nvmlDeviceGetRetiredPages", handle, cause)) for cause in (0, 1)),)


def _mig(nvml: Any, handle: Any) -> Answer:
    return (call(nvml, "nvmlDeviceGetMigMode", handle)[0],)


def fields(nvml: Any, handle: Any, numbers: tuple[int, ...]) -> list[Value]:
    """Read field values. Each has a return code of its own: a call that succeeds says nothing of its fields."""
    found: list[Value] = []
    for field in call(nvml, "nvmlDeviceGetFieldValues", handle, list(numbers)):
        code = field.nvmlReturn
        if code in WHOLE:
            raise WholeGpuError(code)
        if code in OTHER_WAY or field.valueType >= len(FIELD_MEMBERS):
            found.append(None)
        elif code:
            found.append([code, ""])
        else:
            found.append(getattr(field.value, FIELD_MEMBERS[field.valueType]))
    return found


def _simple(value: str, name: str, scale: float = 1, *arguments: Any) -> Question:
    """One value from one call."""
    return Question((value,), name, (_plain(name, scale, *arguments),))


FAST = (
    Question(
        ("memory_used_bytes", "memory_total_bytes"), "nvmlDeviceGetMemoryInfo", (_memory_v2, _memory_v1), whole=True
    ),
    Question(("gpu_utilization",), "nvmlDeviceGetUtilizationRates", (_utilization,)),
    _simple("power_w", "nvmlDeviceGetPowerUsage", 0.001),
    _simple("power_limit_w", "nvmlDeviceGetEnforcedPowerLimit", 0.001),
    _simple("energy_j", "nvmlDeviceGetTotalEnergyConsumption", 0.001),
    Question(
        ("temperature_c",),
        "nvmlDeviceGetTemperature",
        (_plain("nvmlDeviceGetTemperatureV", 1, 0), _plain("nvmlDeviceGetTemperature", 1, 0)),
    ),
    _simple("margin_c", "nvmlDeviceGetMarginTemperature"),
    Question(
        ("clocks_event_reasons",),
        "nvmlDeviceGetCurrentClocksEventReasons",
        (_plain("nvmlDeviceGetCurrentClocksEventReasons"), _plain("nvmlDeviceGetCurrentClocksThrottleReasons")),
    ),
    Question(("throttled_ns",), "nvmlDeviceGetViolationStatus", (_throttled,)),
)

SLOW = (
    _simple("ecc_uncorrected", "nvmlDeviceGetTotalEccErrors", 1, UNCORRECTED, VOLATILE),
    _simple("ecc_corrected", "nvmlDeviceGetTotalEccErrors", 1, CORRECTED, VOLATILE),
    Question(
        ("remapped_rows", "remap_pending", "remap_failed"), "nvmlDeviceGetRemappedRows", (_remapped, _retired_pending)
    ),
    Question(("retired_pages",), "nvmlDeviceGetRetiredPages", (_retired,)),
    _simple("pcie_replays", "nvmlDeviceGetPcieReplayCounter"),
    _simple("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth"),
    _simple("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration"),
    _simple("persistence", "nvmlDeviceGetPersistenceMode"),
    Question(("mig",), "nvmlDeviceGetMigMode", (_mig,)),
)

#: What hardly ever changes: at the start, every hour, and on command.
STATIC = (
    _simple("power_default_w", "nvmlDeviceGetPowerManagementDefaultLimit", 0.001),
    _simple("slowdown_c", "nvmlDeviceGetTemperatureThreshold", 1, 1),
    _simple("shutdown_c", "nvmlDeviceGetTemperatureThreshold", 1, 0),
    _simple("pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth"),
    _simple("pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration"),
)

_PROCESSES = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses")
_GRAPHICS = ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses")
#: All calls that a heartbeat may name, by number; 0 is none. The daemon's side reads the numbers from the board.
CALLS = (
    "",
    "nvmlInit",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceSetPowerManagementLimit",
    "nvmlDeviceGetSupportedEventTypes",
    "nvmlDeviceRegisterEvents",
    "nvmlEventSetCreate",
    "nvmlEventSetWait",
    "nvmlEventSetFree",
    *sorted({question.call for question in (*FAST, *SLOW, *STATIC)}),
)
NUMBERS = {name: number for number, name in enumerate(CALLS)}

Mark = Callable[[str], None]


class Reader:
    """Asks about one GPU. Remembers what the board does not have, so that it is not asked again until `forget`."""

    def __init__(self, nvml: Any, handle: Any, mark: Mark) -> None:
        """`mark` is told each call before it is made, and "" after the last one."""
        self._nvml = nvml
        self._handle = handle
        self._mark = mark
        self._ways: dict[tuple[str, ...], tuple[Callable[[Any, Any], Answer], ...]] = {}
        self._links: list[int] | None = None
        self._seen_up: set[int] = set()
        self._names = error_names(nvml)

    def forget(self) -> None:
        """Ask everything anew: MIG, error correction and the driver's mind may have changed."""
        self._ways.clear()
        self._links = None

    def ask(self, questions: tuple[Question, ...]) -> dict[str, Value]:
        """Return all values of these questions; WholeGpuError where the GPU as a whole does not answer."""
        found: dict[str, Value] = {}
        for question in questions:
            found.update(self._one(question))
        return found

    def fields(self) -> dict[str, Value]:
        """What the driver wants done with the GPU, and the errors on NVLink."""
        self._mark("nvmlDeviceGetFieldValues")
        action = self._field_values((RECOVERY_ACTION_FIELD,))[0]
        errors = self._field_values(NVLINK_ERROR_FIELDS)
        counted = [value for value in errors if isinstance(value, (int, float))]
        failed = [value for value in errors if isinstance(value, list)]
        return {
            "recovery_action": action,
            "nvlink_errors": sum(counted) if counted else next(iter(failed), None),
        }

    def processes(self) -> list[Any] | None:
        """Return [pid, memory in bytes] of each compute process; None or [code, name] where there is no answer."""
        return self._processes(_PROCESSES)

    def graphics(self) -> list[Any] | None:
        """Return the same of each process that draws, such as a desktop's. One that computes too is in both lists."""
        return self._processes(_GRAPHICS)

    def _processes(self, names: tuple[str, ...]) -> list[Any] | None:
        self._mark(names[-1])
        answer: Value = None
        for name in names:
            ok, answer = self._try(partial(call, self._nvml, name, self._handle))
            if ok:
                return [[one.pid, one.usedGpuMemory] for one in answer]  # type: ignore[union-attr]
            if answer is not None:
                break
        return answer  # type: ignore[return-value]

    def links(self) -> dict[str, Value]:
        """How many NVLinks are down; absent where none was ever up in this life of the probe.

        A link that nothing is plugged into is down for ever, and is no fault: what counts is that there are more.
        """
        self._mark("nvmlDeviceGetNvLinkState")
        states: dict[int, Any] = {}
        for link in range(MOST_LINKS) if self._links is None else self._links:
            ok, state = self._try(partial(call, self._nvml, "nvmlDeviceGetNvLinkState", self._handle, link))
            if not ok and state is not None:
                return {"nvlink_down": state}
            if not ok:
                break  # past the last link, or no NVLink at all
            states[link] = state
        self._links = list(states)
        self._seen_up |= {link for link, state in states.items() if state}
        return {"nvlink_down": sum(not state for state in states.values()) if self._seen_up else None}

    def peers(self) -> list[str]:
        """Bus ids at the other ends of the active NVLinks; "switch" for a switch."""
        found = {self._peer(link) for link in sorted(self._seen_up)}
        return sorted(found - {""})

    def _peer(self, link: int) -> str:
        nvml, handle = self._nvml, self._handle
        ok, kind = self._try(lambda: call(nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", handle, link))
        if ok and kind == SWITCH:
            return "switch"
        ok, end = self._try(lambda: call(nvml, "nvmlDeviceGetNvLinkRemotePciInfo", handle, link).busId)
        return _text(end) if ok else ""

    def _one(self, question: Question) -> dict[str, Value]:
        self._mark(question.call)
        ways = self._ways.get(question.names, question.ways)
        for place, way in enumerate(ways):
            ok, answer = self._try(partial(way, self._nvml, self._handle), whole=question.whole)
            if ok:
                self._ways[question.names] = ways[place:]
                return dict(zip(question.names, answer, strict=True))
            if answer is not None:
                return dict.fromkeys(question.names, answer)
        self._ways[question.names] = ()
        return dict.fromkeys(question.names)

    def _field_values(self, numbers: tuple[int, ...]) -> list[Value]:
        ok, found = self._try(lambda: fields(self._nvml, self._handle, numbers))
        if not ok:
            return [found] * len(numbers)
        return [[v[0], self._names.get(v[0], "")] if isinstance(v, list) else v for v in found]

    def _try(self, way: Callable[[], Any], *, whole: bool = False) -> tuple[bool, Any]:
        """Return True and the answer, or False and what the error means."""
        try:
            return True, way()
        except WholeGpuError:
            raise
        except Exception as error:  # noqa: BLE001 - what is none of NVML's is raised again
            return False, self._failed(error, whole=whole)

    def _failed(self, error: Exception, *, whole: bool) -> Value:
        """What an error means: None if there is no such value this way, else [code, name]; raises what is neither."""
        code = code_of(self._nvml, error)
        if code in WHOLE or (whole and code == UNKNOWN):
            raise WholeGpuError(code) from error
        return None if code in OTHER_WAY else [code, self._names.get(code, "")]


def code_of(nvml: Any, error: Exception) -> int:
    """NVML's code of an error; raises the error again if it is none of NVML's, which is a bug.

    Errors of pynvml are unhashable and cannot be compared with None, and one of them (an old driver under an
    unversioned call) is no NVMLError at all.
    """
    if isinstance(error, nvml.NVMLError):
        return int(error.value)
    mismatch = getattr(nvml, "NVMLLibraryMismatchError", None)
    if isinstance(error, MissingError) or (mismatch is not None and isinstance(error, mismatch)):
        return FUNCTION_NOT_FOUND
    raise error


def error_names(nvml: Any) -> dict[int, str]:
    """NVML's names of its codes, such as 15: GPU_IS_LOST."""
    prefix = "NVML_ERROR_"
    return {getattr(nvml, name): name[len(prefix) :] for name in dir(nvml) if name.startswith(prefix)}


def identity(nvml: Any, handle: Any, mark: Mark) -> dict[str, Any]:
    """Who a GPU is: uuid, bus_id, name. What does not answer is empty, but the UUID must."""
    mark("nvmlDeviceGetUUID")
    found = {"uuid": _text(nvml.nvmlDeviceGetUUID(handle)), "bus_id": "", "name": ""}
    with _unless_whole(nvml):
        found["name"] = _text(nvml.nvmlDeviceGetName(handle))
    with _unless_whole(nvml):
        found["bus_id"] = _text(nvml.nvmlDeviceGetPciInfo(handle).busId)
    return found


@contextlib.contextmanager
def _unless_whole(nvml: Any) -> Iterator[None]:
    """Go on without what could not be read, unless the GPU as a whole cannot be."""
    try:
        yield
    except Exception as error:
        if code_of(nvml, error) in WHOLE:
            raise


def _text(words: bytes | str) -> str:
    return words.decode(errors="replace") if isinstance(words, bytes) else words
