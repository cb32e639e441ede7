"""Words of the driver's states, GPUs on the bus, and whose a process on a GPU is."""

from __future__ import annotations

import pwd

import msgspec
import pytest
from fake_proc import FakeProc

from supervisor.attempt_files import boot_identity
from supervisor.core.gpus.model import Holder
from supervisor.core.job import Watch
from supervisor.core.model import Attempt, Phase, World
from supervisor.machine import pci
from supervisor.machine.gpu_processes import GpuProcesses, Ours
from supervisor.sources.gpu_driver import HANGS_AFTER_S, described, uptime_warning
from tests.core.bench import Bench

STATES = [
    "no-driver",
    "no-library",
    "old-binding",
    "version-mismatch",
    "no-permission",
    "error",
    "crashed",
    "unresponsive",
]
B200, OPEN_570 = ["NVIDIA B200"], "570.133.20"


# ---- words
def test_each_state_has_its_own_words_and_what_helps():
    """No two states read the same, and each says what to do."""
    said = [described(state, "x") for state in STATES]
    assert len(set(said)) == len(STATES)
    assert all("; " in words and "(x)" in words for words in said)
    assert described("ok") == ""


def test_a_driver_that_hangs_after_66_days_is_warned_of_before():
    """In the last week, and after it."""
    assert uptime_warning(OPEN_570, B200, HANGS_AFTER_S - 8 * 86400, open_module=True) == ""
    assert "#971" in uptime_warning(OPEN_570, B200, HANGS_AFTER_S - 6 * 86400, open_module=True)
    assert "570.133.20" in uptime_warning(OPEN_570, B200, HANGS_AFTER_S + 1, open_module=True)


@pytest.mark.parametrize(
    ("version", "names", "open_module"),
    [("595.58.03", B200, True), (OPEN_570, ["NVIDIA L40S"], True), (OPEN_570, B200, False), ("", B200, True)],
)
def test_other_drivers_and_cards_are_not(version, names, open_module):
    """Neither other branches, nor other cards, nor the proprietary modules: nobody reported that of them."""
    assert uptime_warning(version, names, HANGS_AFTER_S, open_module=open_module) == ""


# ---- the bus
def slot(root, bus_id, *, vendor="0x10de", kind="0x030200", config=b"\xde\x10\xb9\x26", numa="1"):
    """A device as sysfs shows it."""
    folder = root / bus_id
    folder.mkdir(parents=True)
    for name, text in (("vendor", vendor), ("class", kind), ("numa_node", numa)):
        (folder / name).write_text(f"{text}\n")
    (folder / "config").write_bytes(config + bytes(60))
    return folder


def test_the_bus_shows_nvidias_gpus_in_order(tmp_path):
    """Neither their sound devices, nor other vendors, nor network cards."""
    slot(tmp_path, "0000:86:00.0", kind="0x030000", numa="-1")
    slot(tmp_path, "0000:3b:00.0")
    slot(tmp_path, "0000:3b:00.1", kind="0x040300")
    slot(tmp_path, "0000:01:00.0", vendor="0x1002")
    assert list(pci.gpus(tmp_path).values()) == [pci.Slot("0000:3b:00.0", numa=1), pci.Slot("0000:86:00.0", numa=-1)]


def test_a_gpu_that_fell_off_is_there_and_dead(tmp_path):
    """The kernel remembers its vendor; its configuration space reads as ones."""
    slot(tmp_path, "0000:3b:00.0", config=b"\xff" * 4)
    assert not pci.gpus(tmp_path)["0000:3b:00.0"].alive


def test_a_gpu_that_sleeps_is_not_woken(tmp_path):
    """A suspended device counts as alive, whatever its configuration space says."""
    power = slot(tmp_path, "0000:3b:00.0", config=b"\xff" * 4) / "power"
    power.mkdir()
    (power / "runtime_status").write_text("suspended\n")
    assert pci.gpus(tmp_path)["0000:3b:00.0"].alive


def test_without_pci_there_is_nothing(tmp_path):
    """No folder is no error: a container, or a board without PCI."""
    assert pci.gpus(tmp_path / "none") == {}


def test_traces_of_nvidia(tmp_path):
    """Any of GPU, driver and library is a trace; nothing at all is none."""
    none, cache = tmp_path / "none", tmp_path / "ld.so.cache"
    assert not pci.has_library("", cache)
    (tmp_path / pci.LIBRARY).write_bytes(b"")
    assert pci.has_library(f":{tmp_path}", cache)
    cache.write_bytes(b"...libnvidia-ml.so.1...")
    assert pci.has_library("", cache)
    slot(tmp_path / "bus", "0000:3b:00.0")
    assert pci.has_traces(tmp_path / "bus", none)
    assert pci.has_traces(none, tmp_path)


def test_the_drivers_folder_names_gpus(tmp_path):
    """UUID by bus id; a GPU that was never initialised has question marks there, and no name."""
    for bus_id, uuid in (("0000:3B:00.0", "GPU-1"), ("0000:5e:00.0", "GPU-????????")):
        folder = tmp_path / "gpus" / bus_id
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA L40S\nGPU UUID: \t {uuid}\n")
    assert pci.uuids_by_driver(tmp_path) == {"0000:3b:00.0": "GPU-1"}


# ---- whose a process is
@pytest.fixture
def proc(tmp_path):
    """Shim 10, trainer 11, its child 12, and strangers."""
    fake = FakeProc(tmp_path / "proc")
    fake.add(10, parent=1)
    fake.add(11, parent=10)
    fake.add(12, parent=11)
    fake.add(90, parent=1, cmdline="python train.py")
    return fake


@pytest.fixture
def whose(proc, tmp_path):
    """Asks in a world with one running run."""
    attempt = Attempt(number=3, token=1, shim_pid=10, pid=11)
    run = msgspec.structs.replace(Bench().bring_to(Phase.RUNNING), attempt=attempt)
    return GpuProcesses(lambda: World(live={run.id: run}), tmp_path / "proc")


@pytest.mark.parametrize("pid", [10, 11, 12])
def test_what_descends_from_an_attempt_is_ours(whose, pid):
    """From its shim or its trainer, however far."""
    found = whose.whose(pid)
    assert isinstance(found, Ours)
    assert found.attempt == 3


def test_our_marker_makes_it_ours(proc, whose):
    """A process that left the family still has our variable; one of another supervisor's run is a stranger's."""
    run = whose.whose(11).run
    proc.add(50, parent=1, environ=f"A=1\0YOLO_SUPERVISOR_RUN={run}\0YOLO_SUPERVISOR_ATTEMPT=2\0")
    proc.add(51, parent=1, environ="YOLO_SUPERVISOR_RUN=elsewhere\0")
    assert whose.whose(50) == Ours(run, 2)
    assert isinstance(whose.whose(51), Holder)


def test_a_training_that_is_watched_is_ours(proc, tmp_path):
    """A person started it: with all that it started, from its adoption on. A later process of that number is not."""
    proc.add(91, parent=90)
    run = Bench().bring_to(Phase.RUNNING)
    live = {run.id: msgspec.structs.replace(run, attempt=None)}
    whose = GpuProcesses(lambda: World(live=live), tmp_path / "proc")
    assert isinstance(whose.whose(90), Holder)
    boot_id = boot_identity()[0]  # FakeProc: a process began at its own number
    for began, boot, found in ((91, boot_id, Holder), (90, "another boot", Holder), (90, boot_id, Ours)):
        job = msgspec.structs.replace(run.job, watch=Watch(pid=90, start_time=began, boot_id=boot))
        live[run.id] = msgspec.structs.replace(run, job=job, attempt=None)
        assert isinstance(whose.whose(90), found)
        assert isinstance(whose.whose(91), found)
        assert [one.pid for one in whose.holders([(90, 5)])] == [90], "its run has no lease: it holds its GPU itself"


def test_a_stranger_has_a_name_and_a_command(whose, tmp_path):
    """User and command line, for who waits for that GPU."""
    owner = pwd.getpwuid(tmp_path.stat().st_uid).pw_name
    assert whose.holders([(90, 5), (11, 7)]) == (Holder(pid=90, user=owner, command="python train.py", used_bytes=5),)


def test_who_is_gone_is_nobody(proc, whose):
    """Neither ours nor a stranger's; a number that was given away is asked anew."""
    assert whose.whose(77) is None
    assert isinstance(whose.whose(90), Holder)
    proc.remove(90)
    assert whose.holders([(90, 5)]) == ()
