"""What a healthy fake driver answers, seen by the real binding in a process of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.fake_nvml.binding import Binding
from tests.fake_nvml.room import (
    NO_PERMISSION,
    NOT_SUPPORTED,
    FakeDriver,
)

pytestmark = pytest.mark.e2e
INSUFFICIENT_SIZE, INVALID_ARGUMENT = 7, 2


def test_every_reading_of_a_healthy_gpu_comes_through_the_bindings_structures(
    driver: FakeDriver, binding: Binding
) -> None:
    """What the state says of a GPU is what the binding reads: so the layout of every structure fits."""
    driver.busy(2, utilization=97, power_w=301)
    driver.set(2, energy_mj=(1 << 40) + 5, temperature=-3, utilization_memory=61)
    expected = {
        "nvmlDeviceGetName(h[2])": "NVIDIA L40S",
        "nvmlDeviceGetUUID(h[2])": driver.uuid(2),
        "nvmlDeviceGetIndex(h[2])": 2,
        "nvmlDeviceGetMinorNumber(h[2])": 2,
        "nvmlDeviceGetPciInfo(h[2]).busId": "00000000:86:00.0",
        "nvmlDeviceGetPciInfo(h[2]).busIdLegacy": "0000:86:00.0",
        "nvmlDeviceGetPciInfo(h[2]).bus": 0x86,
        "nvmlDeviceGetTemperatureV(h[2], 0)": -3,
        "nvmlDeviceGetMarginTemperature(h[2])": 54,
        "nvmlDeviceGetTemperatureThreshold(h[2], 1)": 92,
        "nvmlDeviceGetUtilizationRates(h[2])": {"gpu": 97, "memory": 61},
        "nvmlDeviceGetPowerUsage(h[2])": 301_000,
        "nvmlDeviceGetTotalEnergyConsumption(h[2])": (1 << 40) + 5,
        "nvmlDeviceGetCurrentClocksEventReasons(h[2])": 0,
        "nvmlDeviceGetPowerManagementLimitConstraints(h[2])": [100_000, 350_000],
        "nvmlDeviceGetPowerManagementDefaultLimit(h[2])": 350_000,
        "nvmlDeviceGetEccMode(h[2])": [1, 1],
        "nvmlDeviceGetMigMode(h[2])": [0, 0],
        "nvmlDeviceGetPersistenceMode(h[2])": 1,
        "nvmlDeviceGetCurrPcieLinkGeneration(h[2])": 4,
        "nvmlDeviceGetMaxPcieLinkWidth(h[2])": 16,
        "nvmlDeviceGetCudaComputeCapability(h[2])": [8, 9],
        "nvmlDeviceGetViolationStatus(h[2], 0).violationTime": 0,
        "nvmlDeviceGetSupportedEventTypes(h[2])": 0x1F,
        "nvmlSystemGetDriverVersion()": "580.95.05",
        "nvmlSystemGetCudaDriverVersion()": 13000,
    }
    assert {line: binding(line) for line in expected} == expected


@pytest.mark.parametrize("version", ["None", "nvmlMemory_v2"])
def test_memory_of_a_process_is_used_until_the_process_is_gone(
    driver: FakeDriver, binding: Binding, version: str
) -> None:
    """Total, used and free fit together in both versions of the structure."""
    before = binding(f"nvmlDeviceGetMemoryInfo(h[0], {version})")
    driver.process(0, 4242, 18 << 30)
    during = binding(f"nvmlDeviceGetMemoryInfo(h[0], {version})")
    assert (during["used"] - before["used"], before["free"] - during["free"]) == (18 << 30, 18 << 30)
    assert sum(during.get(part, 0) for part in ("used", "free", "reserved")) == during["total"] == 46068 << 20
    driver.end_process(0, 4242)
    assert binding(f"nvmlDeviceGetMemoryInfo(h[0], {version})") == before


def test_process_lists_follow_the_size_query_protocol(driver: FakeDriver, binding: Binding) -> None:
    """No process is an empty list; a process whose memory is not told is None, never 0; names are known by pid."""
    assert binding("nvmlDeviceGetComputeRunningProcesses(h[5])") == []
    for pid in range(4000, 4012):
        driver.process(5, pid, 1 << 30)
    driver.process(5, 17, None, name="/usr/bin/python3")
    driver.process(5, 18, 5 << 20, kind="graphics")
    line = "[[p.pid, p.usedGpuMemory] for p in nvmlDeviceGet%sRunningProcesses(h[5])]"
    assert binding(line % "Compute") == [*([pid, 1 << 30] for pid in range(4000, 4012)), [17, None]]
    assert binding(line % "Graphics") == [[18, 5 << 20]]
    assert binding("nvmlSystemGetProcessName(17)") == "/usr/bin/python3"
    small = (
        "pynvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3(h[5], byref(c_uint(2)), (c_nvmlProcessInfo_v3_t * 2)())"
    )
    assert binding(small) == INSUFFICIENT_SIZE


def test_process_utilisation_without_samples_is_not_found(driver: FakeDriver, binding: Binding) -> None:
    """No activity is error 6, as in reality, and a busy process is a sample."""
    assert binding.code("nvmlDeviceGetProcessUtilization(h[0], 0)") == 6
    driver.set(0, {"busy.4242": 83})
    samples = binding("[[s.pid, s.smUtil] for s in nvmlDeviceGetProcessUtilization(h[0], 0)]")
    assert samples == [[4242, 83]]


def test_memory_errors_remaps_and_retired_pages(driver: FakeDriver, binding: Binding) -> None:
    """Each counter of memory errors answers by itself."""
    driver.ecc(1, uncorrected=2, corrected=1 << 33)
    driver.remap(1, corrected=3, uncorrected=4, pending=True, failed=True)
    driver.set(1, {"retired.0": 0, "retired.1": 7, "retired_pending": 1})
    totals = [binding(f"nvmlDeviceGetTotalEccErrors(h[1], {kind}, {life})") for kind in (0, 1) for life in (0, 1)]
    assert totals == [1 << 33, 1 << 33, 2, 2]
    assert binding("nvmlDeviceGetRemappedRows(h[1])") == [3, 4, 1, 1]
    assert binding("nvmlDeviceGetRetiredPages_v2(h[1], 0)") == []
    assert binding("len(nvmlDeviceGetRetiredPages_v2(h[1], 1))") == 7
    assert binding("len(nvmlDeviceGetRetiredPages(h[1], 1))") == 7
    assert binding("nvmlDeviceGetRetiredPagesPendingStatus(h[1])") == 1
    assert binding("nvmlDeviceGetTotalEccErrors(h[0], 1, 0)") == 0
    assert binding.code("nvmlDeviceGetRetiredPages_v2(h[0], 0)") == NOT_SUPPORTED


def test_field_values_have_a_code_each(driver: FakeDriver, binding: Binding) -> None:
    """One field that is not supported does not spoil the others; signed offsets keep their sign; links are scopes."""
    driver.recovery(4, 2)
    driver.field(4, 173, 9, code=NO_PERMISSION)
    driver.set(4, {"field.161.1": "0 3 12345678901"})
    answers = binding("list(nvmlDeviceGetFieldValues(h[4], [230, 194, 173, 999, (161, 1), (161, 0)]))")
    assert [field["nvmlReturn"] for field in answers] == [0, 0, NO_PERMISSION, NOT_SUPPORTED, 0, NOT_SUPPORTED]
    values = (
        "[(v.value.uiVal, v.value.siVal, v.value.ullVal) for v in nvmlDeviceGetFieldValues(h[4], [230, 194, (161, 1)])]"
    )
    recovery, slowdown, link = binding(values)
    assert (recovery[0], slowdown[1], link[2]) == (2, -2, 12345678901)


def test_nvlinks_join_two_gpus(driver: FakeDriver, binding: Binding) -> None:
    """A link has a state, a far end and errors; where there is none it is not supported."""
    driver.nvlink(0, 1, link=2, errors=6)
    assert binding("nvmlDeviceGetNvLinkState(h[0], 2)") == 1
    assert binding("nvmlDeviceGetNvLinkRemotePciInfo(h[0], 2).busId") == "00000000:5E:00.0"
    assert binding("nvmlDeviceGetNvLinkErrorCounter(h[1], 2, 0)") == 6
    driver.nvlink(0, 1, link=2, up=False)
    assert binding("nvmlDeviceGetNvLinkState(h[1], 2)") == 0
    assert binding.code("nvmlDeviceGetNvLinkState(h[0], 3)") == NOT_SUPPORTED


def test_a_power_limit_is_kept_by_the_driver_and_seen_by_tests(driver: FakeDriver, binding: Binding) -> None:
    """What one process sets another one reads; out of range or without the right it is refused and not noted."""
    binding("nvmlDeviceSetPowerManagementLimit(h[7], 280000)")
    assert binding.code("nvmlDeviceSetPowerManagementLimit(h[7], 90000)") == INVALID_ARGUMENT
    driver.fail(6, NO_PERMISSION, "nvmlDeviceSetPowerManagementLimit")
    assert binding.code("nvmlDeviceSetPowerManagementLimit(h[6], 280000)") == NO_PERMISSION
    other = Binding(driver)
    other("nvmlInit()")
    other("h.extend(map(nvmlDeviceGetHandleByIndex, range(8)))")
    assert other("nvmlDeviceGetPowerManagementLimit(h[7])") == other("nvmlDeviceGetEnforcedPowerLimit(h[7])") == 280_000
    driver.set(7, power_enforced_mw=250_000)
    limits = [other(f"nvmlDeviceGet{which}Limit(h[7])") for which in ("PowerManagement", "EnforcedPower")]
    assert limits == [280_000, 250_000], "a board may allow less than what was set"
    other("nvmlDeviceSetPersistenceMode(h[0], 0)")
    assert binding("nvmlDeviceGetPersistenceMode(h[0])") == 0
    other.close()
    assert driver.sets() == [(7, "power_mw", 280_000), (0, "persistence", 0)]
    assert (driver.power_limit_w(7), driver.power_limit_w(6)) == (280.0, None)


def test_a_missing_value_is_not_supported_and_never_zero(driver: FakeDriver, binding: Binding) -> None:
    """Boards lack sensors; each can be taken away by itself."""
    driver.absent(0, "margin", "remapped", "energy_mj", "ecc.1.0")
    for line in ("MarginTemperature(h[0])", "RemappedRows(h[0])", "TotalEnergyConsumption(h[0])"):
        assert binding.code(f"nvmlDeviceGet{line}") == NOT_SUPPORTED
    assert binding.code("nvmlDeviceGetTotalEccErrors(h[0], 1, 0)") == NOT_SUPPORTED
    assert binding("nvmlDeviceGetTotalEccErrors(h[0], 0, 0)") == 0


def test_sixteen_gpus_have_their_own_names(tmp_path: Path) -> None:
    """Sixteen GPUs differ in UUID, bus id and minor number, in the order of the bus."""
    driver = FakeDriver(tmp_path / "room", count=16)
    binding = Binding(driver)
    binding("nvmlInit()")
    binding("h.extend(map(nvmlDeviceGetHandleByIndex, range(nvmlDeviceGetCount())))")
    buses = binding("[nvmlDeviceGetPciInfo(x).bus for x in h]")
    assert len(buses) == 16
    assert sorted(set(buses)) == buses
    assert len(set(binding("[nvmlDeviceGetUUID(x) for x in h]"))) == 16
    binding.close()
    driver.close()


def test_the_kernel_log_gives_records_as_dev_kmsg_does(driver: FakeDriver) -> None:
    """One read is one record with priority, rising sequence and time; it never ends, and can be read anew."""
    first = driver.kernel("NVRM: Xid (PCI:0000:3b:00): 31, pid={pid}, name=python, fault", pid=4242)
    driver.log.skip(3)
    driver.xid(1, 79, "GPU has fallen off the bus.", pid="'<unknown>'", event=False)
    driver.kernel("pretended", facility=1, priority=4)
    reader = os.open(driver.kmsg, os.O_RDONLY | os.O_NONBLOCK)
    records = [os.read(reader, 8192).decode() for _ in range(3)]
    heads = [record.partition(";")[0].split(",") for record in records]
    assert [[int(part) for part in head[:2]] for head in heads] == [[3, first], [3, first + 4], [12, first + 5]]
    assert records[0].endswith(";NVRM: Xid (PCI:0000:3b:00): 31, pid=4242, name=python, fault\n")
    assert "Xid (PCI:0000:5e:00): 79, pid='<unknown>', name=python, GPU has fallen" in records[1]
    assert abs(int(heads[0][2]) / 1e6 - time.monotonic()) < 60
    with pytest.raises(BlockingIOError):
        os.read(reader, 8192)
    driver.log.again()
    assert os.read(reader, 8192).decode() == records[0]
    os.close(reader)


def test_sysfs_shows_link_and_numa_node_and_a_device_that_is_gone(driver: FakeDriver) -> None:
    """The slot has the same link as the driver tells; a GPU behind the second socket says so."""
    driver.link(1, width=4)
    driver.lose(2, slot="gone")
    read = {gpu: driver.pci / driver.bus_id(gpu) for gpu in range(8)}
    assert (read[1] / "current_link_width").read_text() == "4\n"
    assert (read[7] / "numa_node").read_text() == "1\n"
    assert not read[2].exists()
    assert len(list(driver.pci.iterdir())) == 7
