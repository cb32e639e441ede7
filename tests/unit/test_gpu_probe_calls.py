"""What the probe asks NVML, and how it reads the answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor.core.gpus.readings import FAST_NAMES, SLOW_NAMES
from supervisor.sources.gpu_board import BOARD_BYTES, FIRST_GPU, Board
from supervisor.sources.gpu_probe_calls import (
    FAST,
    LOST,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    SLOW,
    STATIC,
    UNKNOWN,
    Reader,
    WholeGpuError,
    code_of,
)

ROOT = Path(__file__).resolve().parents[2]
OLD_NAMES = {"nvmlDeviceGetTemperature": 44, "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4}


class NVMLError(Exception):
    """As pynvml's: unhashable, and not to be compared."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        """As pynvml compares: fails with None."""
        return self.value == other.value

    __hash__ = None


class NVMLLibraryMismatchError(Exception):
    """As pynvml's: no NVMLError."""


class FakeNvml:
    """A binding whose calls give what a test says: a number, or a code to fail with."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED
    NVML_ERROR_GPU_IS_LOST = LOST
    NVML_ERROR_TIMEOUT = 10

    def __init__(self, fails=None, **answers):
        self.fails = dict(fails or {})
        self.asked = []
        for name, answer in answers.items():
            setattr(self, name, self._call(name, answer))

    def _call(self, name, answer):
        def made(*_arguments, **_named):
            self.asked.append(name)
            if name in self.fails:
                raise self.fails[name] if isinstance(self.fails[name], Exception) else NVMLError(self.fails[name])
            return answer

        return made


def reader(nvml, seen=None):
    """A reader of a GPU behind this binding."""
    return Reader(nvml, object(), (lambda _name: None) if seen is None else seen.append)


def question(name):
    """The question with this value."""
    return next(one for one in (*FAST, *SLOW, *STATIC) if name in one.names)


def field(code, value=0, kind=1):
    """A field value with a return code of its own."""
    return SimpleNamespace(nvmlReturn=code, valueType=kind, value=SimpleNamespace(uiVal=value, ullVal=value))


def test_the_names_are_those_of_readings():
    """Every value that is asked for has a name that the judge knows."""
    asked = {name for one in (*FAST, *SLOW, *STATIC) for name in one.names}
    assert asked | {"processes", "recovery_action", "nvlink_down", "nvlink_errors"} == FAST_NAMES | SLOW_NAMES


def test_what_a_board_does_not_have_is_absent_and_not_asked_again():
    """NOT_SUPPORTED is never 0, and costs one call in a life, until everything is asked anew."""
    nvml = FakeNvml({"nvmlDeviceGetPowerUsage": NOT_SUPPORTED}, nvmlDeviceGetPowerUsage=0)
    one = reader(nvml)
    assert one.ask((question("power_w"),)) == {"power_w": None}
    assert one.ask((question("power_w"),)) == {"power_w": None}
    assert len(nvml.asked) == 1
    one.forget()
    nvml.fails.clear()
    assert one.ask((question("power_w"),)) == {"power_w": 0}


def test_what_could_not_be_read_has_its_code():
    """Another error is told by code and name, and asked again the next time."""
    nvml = FakeNvml({"nvmlDeviceGetPowerUsage": 10}, nvmlDeviceGetPowerUsage=36000)
    one = reader(nvml)
    assert one.ask((question("power_w"),)) == {"power_w": [10, "TIMEOUT"]}
    nvml.fails.clear()
    assert one.ask((question("power_w"),)) == {"power_w": 36.0}


@pytest.mark.parametrize("name", ["temperature_c", "clocks_event_reasons"])
def test_an_old_driver_is_asked_the_old_way(name):
    """Where the new call is missing the old one answers, and the new one is not tried each time."""
    nvml = FakeNvml(**OLD_NAMES)
    found = reader(nvml).ask((question(name),))
    assert found[name] in OLD_NAMES.values()
    assert len(nvml.asked) == 1


def test_a_mismatch_error_is_a_missing_call():
    """NVMLLibraryMismatchError is no NVMLError, and means that the driver is too old for the call."""
    nvml = FakeNvml({"nvmlDeviceGetPowerUsage": NVMLLibraryMismatchError()}, nvmlDeviceGetPowerUsage=1)
    assert reader(nvml).ask((question("power_w"),)) == {"power_w": None}


def test_a_bug_is_no_answer():
    """An error that is none of NVML's is raised again, not taken for a missing value."""
    with pytest.raises(ZeroDivisionError):
        code_of(FakeNvml(), ZeroDivisionError())


@pytest.mark.parametrize("code", [LOST, RESET_REQUIRED])
def test_some_errors_are_of_the_whole_gpu(code):
    """From whichever call: the rest is not asked."""
    nvml = FakeNvml({"nvmlDeviceGetPersistenceMode": code}, nvmlDeviceGetPersistenceMode=1)
    with pytest.raises(WholeGpuError) as error:
        reader(nvml).ask((question("persistence"),))
    assert error.value.code == code


def test_an_unknown_error_condemns_only_where_every_board_answers():
    """999 from an odd counter is that counter's; from the memory it is the GPU's."""
    nvml = FakeNvml(
        {"nvmlDeviceGetPcieReplayCounter": UNKNOWN, "nvmlDeviceGetMemoryInfo": UNKNOWN},
        nvmlDeviceGetPcieReplayCounter=1,
        nvmlDeviceGetMemoryInfo=1,
    )
    assert reader(nvml).ask((question("pcie_replays"),)) == {"pcie_replays": [UNKNOWN, ""]}
    with pytest.raises(WholeGpuError):
        reader(nvml).ask((question("memory_used_bytes"),))


def test_each_field_has_its_own_code():
    """A call for fields that succeeds says nothing of its fields: absent, failed and a number beside each other."""
    answers = iter([[field(NOT_SUPPORTED)], [field(0, 7), field(10)]])
    nvml = FakeNvml()
    nvml.nvmlDeviceGetFieldValues = lambda _handle, _numbers: next(answers)
    assert reader(nvml).fields() == {"recovery_action": None, "nvlink_errors": 7}
    failed = iter([[field(10)], [field(NOT_SUPPORTED), field(NOT_SUPPORTED)]])
    nvml.nvmlDeviceGetFieldValues = lambda _handle, _numbers: next(failed)
    assert reader(nvml).fields() == {"recovery_action": [10, "TIMEOUT"], "nvlink_errors": None}


def test_rows_that_were_remapped_for_errors_that_were_corrected_are_no_wear():
    """Corrected, not corrected, pending, failed: only the second is counted."""
    nvml = FakeNvml(nvmlDeviceGetRemappedRows=(3, 4, 1, 0))
    found = reader(nvml).ask((question("remapped_rows"),))
    assert found == {"remapped_rows": 4, "remap_pending": 1, "remap_failed": 0}


def test_a_lost_gpu_in_a_field_is_lost():
    """The return code of a field may say that the GPU is gone."""
    nvml = FakeNvml()
    nvml.nvmlDeviceGetFieldValues = lambda _handle, _numbers: [field(LOST)]
    with pytest.raises(WholeGpuError):
        reader(nvml).fields()


def test_links_that_never_were_up_are_no_fault():
    """Without a bridge all links are down: absent. Once one was up, those that are down are counted."""
    states = [0, 0]
    nvml = FakeNvml()

    def state(_handle, link):
        if link >= len(states):
            raise NVMLError(NOT_SUPPORTED)
        return states[link]

    nvml.nvmlDeviceGetNvLinkState = state
    one = reader(nvml)
    assert one.links() == {"nvlink_down": None}
    states[:] = [1, 1]
    assert one.links() == {"nvlink_down": 0}
    states[1] = 0
    assert one.links() == {"nvlink_down": 1}


def test_each_call_is_marked_before_it_is_made():
    """The board names the call that hangs, so it is written before."""
    seen = []
    nvml = FakeNvml(nvmlDeviceGetPersistenceMode=1)
    reader(nvml, seen).ask((question("persistence"),))
    assert seen == ["nvmlDeviceGetPersistenceMode"]


def test_the_board_tells_who_is_in_which_call():
    """Call, age and slowness of each thread, the longest first; nobody after the last call."""
    descriptor = os.memfd_create("board")
    os.ftruncate(descriptor, BOARD_BYTES)
    here, there = Board(descriptor), Board(descriptor)
    os.close(descriptor)
    here.mark(FIRST_GPU + 1, "nvmlDeviceGetPowerUsage")
    here.mark(FIRST_GPU, "nvmlInit", slow=True)
    assert {(slot, call, slow) for slot, call, _, slow in there.busy()} == {
        (FIRST_GPU + 1, "nvmlDeviceGetPowerUsage", False),
        (FIRST_GPU, "nvmlInit", True),
    }
    here.mark(FIRST_GPU, "")
    here.mark(FIRST_GPU + 1, "")
    assert there.busy() == []


def test_the_probe_stays_small():
    """The child loads the standard library and pynvml: none of the daemon's libraries, nothing else of ours."""
    told = subprocess.run(
        [sys.executable, "-c", "import supervisor.sources.gpu_probe, pynvml, sys; print(*sorted(sys.modules))"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    parts = {"gpu_board", "gpu_events", "gpu_probe", "gpu_probe_calls", "gpu_refusals"}
    allowed = {"supervisor", "supervisor.sources", *(f"supervisor.sources.{part}" for part in parts)}
    assert {name for name in told if name.split(".")[0] == "supervisor"} == allowed
    assert not {"msgspec", "psutil", "pathlib", "asyncio", "logging"} & set(told)
