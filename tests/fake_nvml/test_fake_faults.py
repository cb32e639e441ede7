"""How the fake driver fails, hangs and crashes, and what it tells by itself, seen by the real binding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml.binding import Binding, until, until_called
from tests.fake_nvml.build import FLAGS, SOURCE, compiler
from tests.fake_nvml.room import (
    LOOKUP,
    LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    READS,
    RESET_REQUIRED,
    SYSTEM,
    UNKNOWN,
    VERSION_MISMATCH,
    FakeDriver,
)

pytestmark = pytest.mark.e2e
FUNCTION_NOT_FOUND, INVALID_ARGUMENT, TIMEOUT = 13, 2, 10


def test_a_lost_gpu_fails_by_itself_and_comes_back(driver: FakeDriver, binding: Binding) -> None:
    """A GPU is lost while a process has its handle: its reads and look-ups fail, the others' do not."""
    driver.lose(3)
    assert binding.code("nvmlDeviceGetTemperatureV(h[3], 0)") == LOST
    assert binding.code("nvmlDeviceGetHandleByIndex(3)") == LOST
    assert binding.code(f"nvmlDeviceGetHandleByUUID('{driver.uuid(3)}')") == LOST
    assert binding("nvmlDeviceGetCount()") == 8
    assert binding("nvmlDeviceGetTemperatureV(h[4], 0)") == 34
    slot = driver.pci / driver.bus_id(3)
    assert (slot / "config").read_bytes()[:4] == b"\xff" * 4
    driver.back(3)
    assert binding("nvmlDeviceGetTemperatureV(h[3], 0)") == 34
    assert (slot / "config").read_bytes()[:2] == b"\xde\x10"


@pytest.mark.parametrize("code", [RESET_REQUIRED, UNKNOWN, NO_PERMISSION, 17, LOST])
def test_a_failure_can_be_of_look_ups_of_reads_or_of_one_call(driver: FakeDriver, binding: Binding, code: int) -> None:
    """Each code can be had at each place, and nowhere else."""
    driver.fail(0, code, LOOKUP)
    driver.fail(1, code, READS)
    driver.fail(2, code, "nvmlDeviceGetPowerUsage")
    assert binding.code("nvmlDeviceGetHandleByIndex(0)") == code
    assert binding("nvmlDeviceGetPowerUsage(h[0])") == 36_000
    assert binding.code("nvmlDeviceGetPowerUsage(h[1])") == code
    assert binding("str(nvmlDeviceGetHandleByIndex(1))")
    assert binding.code("nvmlDeviceGetPowerUsage(h[2])") == code
    assert binding("nvmlDeviceGetTemperatureV(h[2], 0)") == 34
    driver.heal(2)
    assert binding("nvmlDeviceGetPowerUsage(h[2])") == 36_000


def test_a_gpu_missing_from_the_list_moves_the_indices_behind_it(driver: FakeDriver, binding: Binding) -> None:
    """After a restart of the machine a dead GPU is not listed; only UUIDs and bus ids still name the same GPUs."""
    driver.unlist(2)
    assert binding("nvmlDeviceGetCount()") == 7
    assert binding("nvmlDeviceGetUUID(nvmlDeviceGetHandleByIndex(2))") == driver.uuid(3)
    assert binding("nvmlDeviceGetIndex(h[3])") == 2
    assert binding.code("nvmlDeviceGetHandleByIndex(7)") == INVALID_ARGUMENT
    assert binding.code(f"nvmlDeviceGetHandleByUUID('{driver.uuid(2)}')") == 6
    for written in ("0000:AF:00.0", "00000000:af:00.0"):
        assert binding(f"nvmlDeviceGetIndex(nvmlDeviceGetHandleByPciBusId('{written}'))") == 2


@pytest.mark.parametrize("code", [9, VERSION_MISMATCH, NO_PERMISSION, UNKNOWN])
def test_the_driver_as_a_whole_can_refuse(driver: FakeDriver, code: int) -> None:
    """Initialising fails with the code, and works in the same process once the driver does."""
    driver.init_fails(code)
    binding = Binding(driver)
    assert binding.code("nvmlInit()") == code
    assert binding.code("nvmlDeviceGetCount()") == 1, "nothing can be asked before"
    driver.init_fails()
    assert binding("nvmlInit()") is None
    assert binding("nvmlDeviceGetCount()") == 8
    binding.close()


def test_no_library_no_gpus_and_an_old_driver_are_three_things(driver: FakeDriver, tmp_path: Path) -> None:
    """Without the library initialising fails with 12; without GPUs the count is 0; an old driver lacks calls."""
    driver.uninstall()
    without = Binding(driver)
    assert without.code("nvmlInit()") == 12
    driver.install()
    driver.no_gpus()
    empty = Binding(driver)
    empty("nvmlInit()")
    assert empty("nvmlDeviceGetCount()") == 0
    lacks = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetComputeRunningProcesses_v3")
    old_driver = FakeDriver(tmp_path / "old", count=1, without=lacks)
    old = Binding(old_driver)
    old("nvmlInit()")
    old("h.append(nvmlDeviceGetHandleByIndex(0))")
    assert old.code("nvmlDeviceGetTemperatureV(h[0], 0)") == FUNCTION_NOT_FOUND
    assert old("nvmlDeviceGetTemperature(h[0], 0)") == 34
    old.tell("nvmlDeviceGetComputeRunningProcesses(h[0])")
    assert old.answer() == {"raised": "NVMLLibraryMismatchError"}
    for binding in (without, empty, old):
        binding.close()
    old_driver.close()


def test_the_deprecated_package_hides_the_binding(driver: FakeDriver) -> None:
    """With its folder on PYTHONPATH `pynvml` is the old one, without what tells the real one."""
    code = "import pynvml; print(hasattr(pynvml, '_nvmlGetFunctionPointer'))"
    env = {**os.environ, "PYTHONPATH": str(driver.old_binding())}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_events_come_in_order_with_the_right_gpu_and_none_from_before(driver: FakeDriver, binding: Binding) -> None:
    """What happened before the registration is lost; the rest comes once, in order, and none of a GPU that is not registered."""
    driver.xid(3, 13, kernel=False)
    binding("h.append(nvmlEventSetCreate())")
    for gpu in (0, 3):
        binding(f"nvmlDeviceRegisterEvents(h[{gpu}], 8, h[-1])")
    driver.xid(3, 79, kernel=False)
    driver.xid(1, 63, kernel=False)
    driver.event(0, 0x2)
    driver.xid(0, 31, kernel=False)
    wait = "(lambda e: [nvmlDeviceGetUUID(e.device), e.eventType, e.eventData])(nvmlEventSetWait(h[-1], 2000))"
    assert [binding(wait), binding(wait)] == [[driver.uuid(3), 8, 79], [driver.uuid(0), 8, 31]]
    assert binding.code("nvmlEventSetWait(h[-1], 0)") == TIMEOUT


def test_an_event_set_waits_as_long_as_asked_and_is_woken_by_an_event(driver: FakeDriver, binding: Binding) -> None:
    """The wait ends with code 10 at its time, at once with an event, and with 15 when the driver says so."""
    binding("h.append(nvmlEventSetCreate())")
    binding("nvmlDeviceRegisterEvents(h[0], 8, h[-1])")
    start = time.monotonic()
    assert binding.code("nvmlEventSetWait(h[-1], 300)") == TIMEOUT
    assert 0.29 < time.monotonic() - start < 5
    binding.tell("nvmlEventSetWait(h[-1], 60000).eventData")
    until_called(driver, "nvmlEventSetWait_v2", 2)
    driver.xid(0, 48, kernel=False)
    assert binding.answer() == {"value": 48}
    binding.tell("nvmlEventSetWait(h[-1], 60000)")
    until_called(driver, "nvmlEventSetWait_v2", 3)
    driver.fail(SYSTEM, LOST, "nvmlEventSetWait_v2")
    assert binding.answer() == {"code": LOST}


def test_an_event_that_is_not_supported_registers_nothing(driver: FakeDriver, binding: Binding) -> None:
    """Bits beyond what the driver reports are refused, with those that it has."""
    binding("h.append(nvmlEventSetCreate())")
    assert binding.code("nvmlDeviceRegisterEvents(h[0], 0x8008, h[-1])") == NOT_SUPPORTED
    driver.xid(0, 79, kernel=False)
    assert binding.code("nvmlEventSetWait(h[-1], 0)") == TIMEOUT
    driver.set(0, event_types=0x801F)
    binding("nvmlDeviceRegisterEvents(h[0], 0x8008, h[-1])")
    driver.event(0, 0x8000, 1)
    assert binding("nvmlEventSetWait(h[-1], 2000).eventType") == 0x8000


def test_a_call_hangs_until_the_state_says_otherwise_and_blocks_no_other_thread(
    driver: FakeDriver, binding: Binding
) -> None:
    """One call about one GPU hangs in a thread; other calls in other threads go on."""
    driver.hang(6, "nvmlDeviceGetPowerUsage")
    binding("h.append(threading.Thread(target=lambda: h.append(nvmlDeviceGetPowerUsage(h[6])), daemon=True))")
    binding("h[-1].start()")
    until(lambda: driver.hangs("nvmlDeviceGetPowerUsage", 6) == 1)
    assert binding("nvmlDeviceGetTemperatureV(h[6], 0)") == 34
    assert binding("nvmlDeviceGetPowerUsage(h[5])") == 36_000
    assert binding("h[8].is_alive()") is True
    driver.heal(6)
    assert binding("h[8].join()") is None
    assert binding("h[9]") == 36_000


def test_a_hang_may_last_a_time_or_hold_the_drivers_own_lock(driver: FakeDriver, binding: Binding) -> None:
    """After its seconds a call answers; with one lock for all, other calls wait until it does."""
    driver.hang(0, "nvmlDeviceGetName", seconds=0.3)
    start = time.monotonic()
    assert binding("nvmlDeviceGetName(h[0])") == "NVIDIA L40S"
    assert time.monotonic() - start >= 0.3
    driver.hang(0, "nvmlDeviceGetName", one_lock=True)
    binding("threading.Thread(target=nvmlDeviceGetName, args=(h[0],), daemon=True).start()")
    until(lambda: driver.hangs("nvmlDeviceGetName", 0) == 2)
    binding.tell("nvmlDeviceGetTemperatureV(h[1], 0)")
    calls = driver.calls("nvmlDeviceGetTemperatureV")
    driver.heal(0)
    assert binding.answer() == {"value": 34}
    assert calls == 0, "the call was not let in while the other one hung"


@pytest.mark.parametrize("line", ["nvmlDeviceGetPowerUsage(h[1])", "nvmlDeviceGetPowerUsage(None)"])
def test_a_crash_ends_the_process_as_a_segmentation_fault(driver: FakeDriver, binding: Binding, line: str) -> None:
    """A call that is to crash, and a handle that is null, both end the process by SIGSEGV."""
    driver.crash(1, "nvmlDeviceGetPowerUsage")
    binding.tell(line)
    assert binding.process.wait(20) == -signal.SIGSEGV


def test_calls_are_counted_by_function_and_gpu(driver: FakeDriver, binding: Binding) -> None:
    """A test can tell that no call was made about a GPU since a moment, also over several processes."""
    before = driver.calls(gpu=5)
    for _ in range(3):
        binding("nvmlDeviceGetPowerUsage(h[4])")
    assert (driver.calls("nvmlDeviceGetPowerUsage", 4), driver.calls(gpu=5) - before) == (3, 0)
    other = Binding(driver)
    other("nvmlInit()")
    other("nvmlDeviceGetPowerUsage(nvmlDeviceGetHandleByIndex(4))")
    other.close()
    assert driver.call_names(4)["nvmlDeviceGetPowerUsage"] == 4
    assert driver.calls("nvmlInitWithFlags", SYSTEM) == 2


def test_changes_together_are_never_seen_half(driver: FakeDriver, binding: Binding) -> None:
    """A reader that asks all the time sees both values of a change or neither."""
    look = "[(v[0].value.uiVal, v[1].value.uiVal) for v in [nvmlDeviceGetFieldValues(h[0], [230, 173]) for _ in range(400)]]"
    for value in range(1, 20):
        binding.tell(look)
        with driver.together():
            driver.field(0, 230, value)
            driver.field(0, 173, value)
        assert all(one == other for one, other in binding.answer()["value"])


def test_the_source_compiles_without_a_warning(tmp_path: Path) -> None:
    """No warning, whatever the compiler is: they are not errors in the build, as a newer compiler may have new ones."""
    sources = [str(path) for path in SOURCE.glob("*.c")]
    found = compiler()
    if not found:
        pytest.skip("needs a C compiler")
    command = [found, *FLAGS, "-Wall", "-Wextra", "-o", str(tmp_path / "made.so"), *sources, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_compiler_tests_are_skipped_and_in_ci_they_fail(tmp_path: Path, monkeypatch: Any) -> None:
    """Never silently: a skip with its reason, and with CI=true a failure."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="C compiler"):
        FakeDriver(tmp_path / "one")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="C compiler"):
        FakeDriver(tmp_path / "other")
