"""A server with GPUs, for the API and the command line: the real decisions about what a probe would tell."""

from __future__ import annotations

from supervisor.core import events
from supervisor.core.gpus.model import GpuFacts, GpuPolicy, Holder
from supervisor.core.gpus.readings import ABSENT, LOST, Failed, Reading
from supervisor.core.model import Policy

GIB = 1024**3
NAME = "NVIDIA L40S"


def uuid(index):
    """The UUID of the GPU at a place; no two begin alike."""
    return f"GPU-{index:x}f2e3d4c-aaaa-bbbb-cccc-0000000000{index:02x}"


def bus_id(index):
    """As NVML writes it."""
    return f"00000000:{0x3B + index:02X}:00.0"


def facts(index, **fields):
    """Who a GPU is; 0 and 1, 2 and 3 and so on are joined by NVLink."""
    known = {
        "name": NAME,
        "memory_bytes": 48 * GIB,
        "numa": index // 4,
        "links": (uuid(index ^ 1),),
        "persistence": True,
    }
    return GpuFacts(uuid=uuid(index), index=index, bus_id=bus_id(index), **{**known, **fields})


def reading(daemon, index, **values):
    """What was read of a GPU just now; a card without ECC counters of its own."""
    known = {
        "temperature_c": 41,
        "margin_c": 42,
        "power_w": 35.2,
        "power_limit_w": 350.0,
        "memory_used_bytes": 0.5 * GIB,
        "memory_total_bytes": 48 * GIB,
        "gpu_utilization": 0.0,
        "clocks_event_reasons": 1,
        "ecc_uncorrected": 0,
        "ecc_corrected": ABSENT,
        "remapped_rows": 0,
        "pcie_width": 16,
        "pcie_width_max": 16,
        "pcie_generation": 4,
        "pcie_generation_max": 4,
        "pcie_replays": 0,
    }
    return Reading(gpu=uuid(index), at=daemon.clock.now(), values={**known, **values})


def lost_reading(daemon, index):
    """What was read of a GPU that fell off the bus."""
    return Reading(gpu=uuid(index), at=daemon.clock.now(), error=Failed(code=LOST, name="GPU_IS_LOST"))


def install(daemon, count=8, *, max_running=8, **policy):
    """Give the daemon `count` GPUs, all well and idle."""
    wanted = Policy(max_running=max_running, server="test", gpu=GpuPolicy(watch=True, **policy))
    daemon.put(events.Configured(at=daemon.clock.now(), policy=wanted))
    gpus = tuple(facts(index) for index in range(count))
    daemon.put(events.GpusSeen(at=daemon.clock.now(), state="ok", driver="580.65.06", gpus=gpus))
    daemon.readings = {uuid(index): reading(daemon, index) for index in range(count)}


def lose(daemon, index):
    """A GPU falls off the bus: the kernel says so, and NVML too."""
    at, text = daemon.clock.now(), "GPU has fallen off the bus."
    daemon.put(events.XidSeen(at=at, xid=79, text=f"79, pid=11, name=python, {text}", gpu=uuid(index), seq=5))
    daemon.put(events.GpuFound(at=at, gpu=uuid(index), finding="lost", text="it answers every call with GPU_IS_LOST"))
    daemon.readings[uuid(index)] = lost_reading(daemon, index)


def hold(daemon, index, used_gib=18):
    """Somebody else's process is on a GPU."""
    holder = Holder(pid=4242, user="alice", command="python infer.py", used_bytes=used_gib * GIB)
    daemon.put(events.GpuHeld(at=daemon.clock.now(), gpu=uuid(index), holders=(holder,)))


def trouble(daemon, index, finding, text, **values):
    """The judge found something."""
    at = daemon.clock.now()
    daemon.put(events.GpuFound(at=at, gpu=uuid(index), finding=finding, text=text, values=values))
