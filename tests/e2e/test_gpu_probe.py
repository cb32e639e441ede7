"""The real probe under a fake driver: whatever the driver does, the daemon's side lives and says it by its name."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor.clock import WallClock, current_boot
from supervisor.core.events import DaemonStarted, GpuFound, GpuHeld, GpusSeen, XidSeen
from supervisor.core.gpus.readings import Absent, Failed, Stale
from supervisor.core.model import Boot, World
from supervisor.core.step import step
from supervisor.sources.gpu_child import Child
from supervisor.sources.gpus import GpuSource, Watching
from tests.fake_nvml.room import (
    DRIVER_NOT_LOADED,
    LOOKUP,
    LOST,
    NO_PERMISSION,
    RESET_REQUIRED,
    SYSTEM,
    UNKNOWN,
    VERSION_MISMATCH,
    FakeDriver,
)

pytestmark = pytest.mark.e2e
WAIT_S = 20.0  # how long a test waits for what must come within a second or two


class Watch:
    """A GpuSource with tiers and deadlines for tests; keeps what it told, and the world that follows from it."""

    def __init__(self, driver, world=None, **settings):
        known = {
            "fast_s": 0.2,
            "slow_s": 0.4,
            "fast_deadline_s": 1.0,
            "slow_deadline_s": 1.5,
            "again_s": 0.2,
            "backoff_s": 0.1,
        }
        paths = {"pci": driver.pci, "driver": driver.directory / "no-driver"}
        self.driver = driver
        self.events = []
        self.world = world or World()
        self.clock = WallClock()
        self._told = threading.Condition()
        environment = {**os.environ, **driver.environment, **settings.pop("environment", {})}
        self.source = GpuSource(
            Watching(**{**known, **paths, **settings}), self.put, lambda: self.world, self.clock, environment
        )
        self.source.start()

    def put(self, event):
        """Let it happen."""
        with self._told:
            self.events.append(event)
            self.world = step(self.world, event, event.at)[0]
            self._told.notify_all()

    def wait(self, kind, **fields):
        """Wait for an event of this kind with these fields; anything that it told so far counts."""

        def found():
            return next((one for one in self.events if is_such(one, kind, fields)), None)

        with self._told:
            assert self._told.wait_for(found, WAIT_S), f"no {kind.__name__} {fields} in {self.events}"
            return found()

    def wait_until(self, what):
        """Wait until something is so."""
        ends_at = time.monotonic() + WAIT_S
        while not (found := what()):
            assert time.monotonic() < ends_at, self.events
            time.sleep(0.02)
        return found

    def is_settled(self):
        """Tell whether one probe lived for longer than a call may take."""
        pid, ends_at = self.source.probe_pid, time.monotonic() + 1.7
        while pid and self.source.probe_pid == pid and time.monotonic() < ends_at:
            time.sleep(0.05)
        return pid and self.source.probe_pid == pid

    def forget(self):
        """What was told so far does not count any more."""
        with self._told:
            self.events.clear()

    def ready(self):
        """Wait until all GPUs were listed and read."""
        self.wait(GpusSeen, state="ok")
        self.wait_until(lambda: len(self.source.readings()) == self.driver.count)
        return self

    def hears(self):
        """Wait until the probe waits for events of all GPUs: what comes before is lost, as with a real driver."""
        asked = range(self.driver.count)
        self.wait_until(lambda: all(self.driver.calls("nvmlDeviceRegisterEvents", gpu=index) for index in asked))
        return self


def is_such(event, kind, fields):
    """Tell whether an event is of a kind, with these values."""
    return isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())


@pytest.fixture
def driver(tmp_path):
    """Four healthy GPUs."""
    fake = FakeDriver(tmp_path / "room", count=4)
    yield fake
    fake.close()


@pytest.fixture
def watch(driver):
    """Starts a watch, and ends it with the test."""
    begun = []

    def start(**settings):
        begun.append(Watch(driver, **settings))
        return begun[-1]

    yield start
    for one in begun:
        one.source.stop()


# ---- healthy
def test_healthy_gpus_are_listed_and_read(driver, watch):
    """Who they are, once and in one event."""
    seen = watch().wait(GpusSeen, state="ok")
    assert [one.uuid for one in seen.gpus] == [driver.uuid(index) for index in range(4)]
    assert [one.bus_id for one in seen.gpus] == [driver.bus_id(index) for index in range(4)]
    assert seen.driver == "580.95.05"
    assert all(one.memory_bytes > 40e9 and one.persistence for one in seen.gpus)


def test_a_missing_value_is_absent_and_a_failed_one_has_its_code(driver, watch):
    """Neither is 0: a board without a sensor, and a sensor that fails this time."""
    driver.fail(0, 3, "nvmlDeviceGetPowerUsage")
    driver.fail(0, 10, "nvmlDeviceGetTotalEnergyConsumption")
    made = watch().ready()
    values = made.source.ask(driver.uuid(0), WAIT_S).values
    assert values["power_w"] == Absent()
    assert values["energy_j"] == Failed(10, "TIMEOUT")
    assert values["memory_used_bytes"] > 0


def test_readings_become_stale(driver, watch):
    """What nobody reads any more has an age, not a value."""
    made = watch(fast_deadline_s=60.0, slow_deadline_s=60.0).ready()
    driver.hang(2)
    made.wait_until(lambda: isinstance(made.source.readings()[driver.uuid(2)].values["power_w"], Stale))
    assert not isinstance(made.source.readings()[driver.uuid(1)].values["power_w"], Stale)
    driver.heal(2)


# ---- the driver as a whole
def test_a_driver_that_cannot_be_opened(driver, watch):
    """Each reason has its own state; a new process asks again, and when it is over GPUs are watched."""
    driver.init_fails(DRIVER_NOT_LOADED)
    made = watch()
    said = [made.wait(GpusSeen, state="no-driver").text]
    for code, state in ((VERSION_MISMATCH, "version-mismatch"), (NO_PERMISSION, "no-permission"), (UNKNOWN, "error")):
        driver.init_fails(code)
        said.append(made.wait(GpusSeen, state=state).text)
    assert len(set(said)) == 4
    driver.init_fails()
    made.ready()


def test_without_the_library(driver, watch):
    """GPUs on the bus, and nothing to ask them with."""
    driver.uninstall()
    assert "libnvidia-ml" in watch().wait(GpusSeen, state="no-library").text


def test_the_deprecated_package_is_noticed(driver, watch):
    """PyPI's old pynvml hides nvidia-ml-py; the words say how to get rid of it."""
    made = watch(environment={"PYTHONPATH": str(driver.old_binding())})
    assert "pip uninstall" in made.wait(GpusSeen, state="old-binding").text


def test_a_machine_without_gpus_starts_no_probe(driver, watch, tmp_path):
    """No GPU, no driver, no library: said once, and no process is started for it."""
    driver.uninstall()
    made = watch(pci=tmp_path / "no-bus")
    made.wait(GpusSeen, state="none")
    time.sleep(0.5)  # two rounds of `again_s`
    assert made.source.probe_pid == 0
    assert len(made.events) == 1


def test_a_driver_that_lists_none(driver, watch):
    """A driver without GPUs is a state of its own."""
    driver.no_gpus()
    watch().wait(GpusSeen, state="none")


def test_a_driver_that_hangs_at_its_opening(driver, watch):
    """Said by its name; when it answers again GPUs are watched."""
    driver.hang(SYSTEM, "nvmlInitWithFlags")
    made = watch(retry_s=0.5)
    assert "nvmlInit" in made.wait(GpusSeen, state="unresponsive").text
    driver.heal(SYSTEM)
    made.ready()


# ---- one GPU
@pytest.mark.parametrize(
    ("slot", "sources"), [("dead", {"nvml", "sysfs"}), ("gone", {"nvml", "sysfs"}), ("alive", {"nvml"})]
)
def test_a_lost_gpu_among_healthy_ones(driver, watch, slot, sources):
    """NVML and the bus tell of it apart; the others are read on, in the same process."""
    made = watch().ready()
    pid = made.source.probe_pid
    driver.lose(2, slot=slot)
    for source in sources:
        made.wait(GpuFound, gpu=driver.uuid(2), finding="lost", source=source, open=True)
    assert {one.gpu for one in made.events if isinstance(one, GpuFound)} == {driver.uuid(2)}
    assert made.source.ask(driver.uuid(3), WAIT_S) is not None
    assert made.source.probe_pid == pid
    assert {one.source for one in made.events if is_such(one, GpuFound, {"finding": "lost"})} == sources


def test_a_gpu_that_is_lost_from_the_beginning(driver, watch):
    """Its handle cannot be found: it is listed with what is known of it, and found lost. The world knew it before."""
    first = watch().ready()
    first.source.stop()
    driver.fail(1, LOST, LOOKUP)
    second = watch(world=first.world)
    assert driver.uuid(1) in {one.uuid for one in second.wait(GpusSeen, state="ok").gpus}
    second.wait(GpuFound, gpu=driver.uuid(1), finding="lost", source="nvml")
    assert second.source.readings()[driver.uuid(1)].error == Failed(LOST, "GPU_IS_LOST")


@pytest.mark.parametrize(("code", "finding"), [(RESET_REQUIRED, "reset-required"), (UNKNOWN, "unknown-error")])
def test_other_errors_of_a_whole_gpu(driver, watch, code, finding):
    """A GPU that must be reset, and one that cannot be read: not lost."""
    made = watch().ready()
    driver.fail(0, code)
    made.source.look_now(driver.uuid(0))
    made.wait(GpuFound, gpu=driver.uuid(0), finding=finding)
    assert made.source.readings()[driver.uuid(0)].error.code == code


def test_the_recovery_action_of_the_driver(driver, watch):
    """What the driver wants done is found in the field for it."""
    made = watch().ready()
    driver.recovery(0, 1)
    made.wait(GpuFound, gpu=driver.uuid(0), finding="recovery-reset")


def test_a_gpu_that_hangs_is_left_alone(driver, watch):
    """The call is named; another probe watches the rest and makes no call to it; a change lets it be tried again."""
    made = watch(retry_s=600.0).ready()
    pid = made.source.probe_pid
    driver.hang(3, "nvmlDeviceGetPowerUsage")
    found = made.wait(GpuFound, gpu=driver.uuid(3), finding="unresponsive")
    assert "nvmlDeviceGetPowerUsage" in found.text
    made.wait_until(lambda: made.source.probe_pid not in {0, pid})
    assert made.source.ask(driver.uuid(0), WAIT_S) is not None
    before = driver.calls(gpu=3)
    assert made.source.ask(driver.uuid(1), WAIT_S) is not None
    assert driver.calls(gpu=3) == before
    driver.heal(3)
    made.source.look_now(driver.uuid(3))  # what the kernel log does at a line about it
    made.wait(GpuFound, gpu=driver.uuid(3), finding="unresponsive", open=False)


def test_a_gpu_that_hung_is_left_alone_by_the_next_daemon(driver, watch):
    """What was found in this boot still holds: no call to it before its time; the others are watched."""
    first = watch(retry_s=600.0).ready()
    driver.hang(0)
    first.wait(GpuFound, gpu=driver.uuid(0), finding="unresponsive")
    first.source.stop()
    hangs = driver.hangs(gpu=0)
    second = watch(world=first.world, retry_s=600.0)
    second.wait(GpusSeen, state="ok")
    assert second.source.ask(driver.uuid(1), WAIT_S) is not None
    assert driver.hangs(gpu=0) == hangs
    driver.heal(0)
    second.source.look_now(driver.uuid(0))
    second.wait(GpuFound, gpu=driver.uuid(0), finding="unresponsive", open=False)


def test_what_hung_before_a_restart_of_the_machine_is_tried(driver, watch):
    """The daemon's loop has not yet taken in that this is another boot: it is waited for."""
    first = watch(retry_s=600.0).ready()
    driver.hang(0)
    first.wait(GpuFound, gpu=driver.uuid(0), finding="unresponsive")
    first.source.stop()
    driver.heal(0)
    second = watch(world=replace(first.world, boot=Boot("before", 1)), retry_s=600.0)
    assert second.source.probe_pid == 0
    second.put(DaemonStarted(at=second.clock.now(), pid=1, version="1", boot=current_boot()))
    second.ready()


def test_a_storm_of_xids_is_one_and_a_number(driver, watch):
    """As from the kernel log: the first at once, the others counted, and the driver is not asked anew for each."""
    made = watch(fast_s=30.0, slow_s=30.0, fast_deadline_s=30.0, slow_deadline_s=30.0).ready().hears()
    before = driver.calls("nvmlDeviceGetPowerUsage")
    for _ in range(30):
        driver.xid(1, 31, kernel=False)
    made.wait(XidSeen, gpu=driver.uuid(1), xid=31)
    driver.xid(2, 13, kernel=False)
    made.wait(XidSeen, gpu=driver.uuid(2), xid=13)
    assert [(one.xid, one.gpu) for one in made.events if isinstance(one, XidSeen)] == [
        (31, driver.uuid(1)),
        (13, driver.uuid(2)),
    ]
    assert driver.calls("nvmlDeviceGetPowerUsage") - before <= 8


def test_a_folder_that_the_daemon_was_started_in_is_not_imported_from(driver, watch, tmp_path, monkeypatch):
    """Whoever may write there must not run in the probe, whatever PYTHONPATH says of the current folder."""
    (tmp_path / "pynvml.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    watch(environment={"PYTHONPATH": ":."}).ready()
    assert not (tmp_path / "ran").exists()


def test_what_a_library_prints_does_not_come_between_the_lines(driver, watch, tmp_path, caplog):
    """Standard output is another one for it than for the probe."""
    noise = tmp_path / "noise"
    noise.mkdir()
    pynvml = Path(find_spec("pynvml").origin)
    words = "import os; os.write(1, b'a library prints\\n')\n"
    (noise / "pynvml.py").write_text(words + pynvml.read_text(encoding="utf-8"), encoding="utf-8")
    watch(environment={"PYTHONPATH": str(noise)}).ready()
    assert "printed" not in caplog.text


def test_a_line_that_is_none_costs_only_itself(tmp_path):
    """What comes before and after it in the same breath is read."""
    program, said = tmp_path / "python", tmp_path / "said"
    said.write_text('{"say":"driver"}\nNVRM: noise\n[1]\n{}\n{"say":"driver"}\n')
    program.write_text(f"#!/bin/sh\ncat {said}\n")
    program.chmod(0o755)
    child = Child({"leave": []}, os.environ, str(program))
    child.process.wait(WAIT_S)
    try:
        assert child.lines() == [{"say": "driver"}] * 2
    finally:
        child.close()


def test_who_only_waits_for_the_one_that_hangs_is_not_blamed(driver, watch):
    """A driver holds a lock across a call: all other calls wait as well, and yet it is one GPU that hangs."""
    made = watch(retry_s=600.0).ready()
    driver.hang(2, "nvmlDeviceGetUtilizationRates", one_lock=True)
    made.wait(GpuFound, gpu=driver.uuid(2), finding="unresponsive")
    made.wait_until(made.is_settled)
    for other in (0, 1, 3):
        assert made.source.ask(driver.uuid(other), WAIT_S) is not None
    assert {gpu.uuid for gpu in made.world.gpus.values() if gpu.findings} == {driver.uuid(2)}


@pytest.mark.slow
def test_two_gpus_that_hang_are_both_left_alone(driver, watch):
    """One after the other; the probe of the rest comes to stay."""
    made = watch(retry_s=600.0).ready()
    driver.hang(1)
    driver.hang(2)
    for index in (1, 2):
        made.wait(GpuFound, gpu=driver.uuid(index), finding="unresponsive")
    made.wait_until(made.is_settled)
    for other in (0, 3):
        assert made.source.ask(driver.uuid(other), WAIT_S) is not None
    assert {gpu.uuid for gpu in made.world.gpus.values() if gpu.findings} == {driver.uuid(1), driver.uuid(2)}


@pytest.mark.slow
def test_a_gpu_that_hangs_is_tried_again_after_a_while(driver, watch):
    """Without a sign it is tried again too, and told as over when it answers."""
    made = watch(retry_s=1.0).ready()
    driver.hang(0)
    made.wait(GpuFound, gpu=driver.uuid(0), finding="unresponsive")
    driver.heal(0)
    made.wait(GpuFound, gpu=driver.uuid(0), finding="unresponsive", open=False)


def test_a_library_that_crashes(driver, watch):
    """The daemon lives; after three crashes it says so with the call, and watches the others without that GPU."""
    made = watch(retry_s=600.0).ready()
    made.forget()
    driver.crash(1, "nvmlDeviceGetTemperatureV")
    assert "signal 11" in made.wait(GpusSeen, state="crashed").text
    found = made.wait(GpuFound, gpu=driver.uuid(1), finding="unresponsive")
    assert "nvmlDeviceGetTemperature" in found.text
    made.wait(GpusSeen, state="ok")
    assert made.source.ask(driver.uuid(0), WAIT_S) is not None


def test_after_an_xid_of_the_firmware_no_call_is_made(driver, watch):
    """119: NVML tells of it, and from then on nobody asks that GPU anything, whatever else happens to it."""
    made = watch().ready().hears()
    driver.xid(2, 119, kernel=False)
    made.wait(XidSeen, gpu=driver.uuid(2), xid=119, source="nvml")
    assert made.source.ask(driver.uuid(0), WAIT_S) is not None  # later than the order to leave it alone
    before = driver.calls(gpu=2)
    made.source.look_now(driver.uuid(2))
    assert made.source.ask(driver.uuid(0), WAIT_S) is not None
    assert driver.calls(gpu=2) == before
    made.source.resume((driver.uuid(2),))
    made.wait_until(lambda: driver.calls(gpu=2) > before)


# ---- events, processes, power
def test_xids_come_in_order_with_their_gpu(driver, watch):
    """Each Xid of NVML is told once; a lost GPU in the wait stops neither the waiting nor the others."""
    made = watch().ready().hears()
    driver.fail(SYSTEM, LOST, "nvmlEventSetWait_v2")
    time.sleep(0.5)
    driver.heal(SYSTEM)
    before = driver.calls("nvmlEventSetWait_v2")
    assert before < 20, "it spins"
    registered = driver.calls("nvmlDeviceRegisterEvents")
    made.wait_until(lambda: driver.calls("nvmlEventSetWait_v2") > before)
    made.wait_until(lambda: driver.calls("nvmlDeviceRegisterEvents") >= registered)
    driver.xid(1, 79, kernel=False)
    driver.xid(0, 31, kernel=False)
    made.wait(XidSeen, gpu=driver.uuid(0), xid=31)
    assert [(one.xid, one.gpu) for one in made.events if isinstance(one, XidSeen)] == [
        (79, driver.uuid(1)),
        (31, driver.uuid(0)),
    ]


def test_strangers_on_a_gpu_are_named(driver, watch):
    """Who holds how much; nobody once it has ended."""
    stranger = subprocess.Popen(["/bin/sleep", "60"])
    try:
        driver.process(1, stranger.pid, 18 << 30)
        made = watch().ready()
        held = made.wait(GpuHeld, gpu=driver.uuid(1)).holders
        assert [(one.pid, one.command, one.used_bytes) for one in held] == [(stranger.pid, "/bin/sleep 60", 18 << 30)]
        assert made.source.processes(driver.uuid(1)) == ((stranger.pid, 18 << 30),)
    finally:
        stranger.kill()
        stranger.wait()
    made.wait(GpuHeld, gpu=driver.uuid(1), holders=())


def test_power_is_limited_within_what_the_board_allows(driver, watch):
    """Watts, then the default again; a GPU that does not answer is said to be so."""
    made = watch().ready()
    assert made.source.set_power(driver.uuid(0), 200)[0]
    assert driver.power_limit_w(0) == 200
    assert made.source.set_power(driver.uuid(0), 1)[0]
    assert 1 < driver.power_limit_w(0) < 200
    assert made.source.set_power(driver.uuid(0), None)[0]
    assert driver.power_limit_w(0) == 350
    driver.fail(0, NO_PERMISSION, "nvmlDeviceSetPowerManagementLimit")
    assert made.source.set_power(driver.uuid(0), 200) == (False, "NO_PERMISSION")
    assert not made.source.set_power("GPU-none", 200)[0]


def test_the_probe_gives_the_driver_up(driver, watch):
    """For a reset no process of ours may have it open; afterwards it watches again."""
    made = watch().ready()
    pid = made.source.probe_pid
    assert made.source.release((driver.uuid(0),))
    assert not Path(f"/proc/{pid}").exists()
    assert made.source.probe_pid == 0
    made.source.resume()
    assert made.source.ask(driver.uuid(0), WAIT_S) is not None


def test_a_driver_that_lists_fewer_is_counted_anew(driver, watch):
    """A GPU that is not listed any more moves the others' indices: a new probe asks who is who."""
    made = watch().ready()
    made.forget()
    driver.unlist(1)
    seen = made.wait(GpusSeen, state="ok")
    assert [one.uuid for one in seen.gpus] == [driver.uuid(0), driver.uuid(2), driver.uuid(3)]
    assert made.source.ask(driver.uuid(3), WAIT_S) is not None


def test_the_end_of_the_watch_ends_the_probe(driver, watch):
    """Also while a call hangs: nothing is left behind."""
    made = watch(fast_deadline_s=60.0, slow_deadline_s=60.0).ready()
    pid = made.source.probe_pid
    driver.hang(0)
    made.wait_until(lambda: driver.hangs(gpu=0))
    made.source.stop()
    assert not Path(f"/proc/{pid}").exists()
