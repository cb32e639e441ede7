"""Which GPUs the driver lists, and what is known of each from its readings."""

from __future__ import annotations

import pytest

from supervisor.core.gpus.limits import Limits
from supervisor.core.gpus.model import Finding, Gpu, GpuFacts, Holder, Quarantine
from supervisor.core.gpus.readings import Absent, Failed, Stale
from supervisor.core.model import World
from supervisor.machine.pci import Slot
from supervisor.sources.gpu_listing import Listing
from supervisor.sources.gpu_record import Record, linked

BUS = ("0000:3b:00.0", "0000:5e:00.0", "0000:86:00.0")
EVERY_S = {"fast": 5.0, "slow": 60.0, "static": 3600.0}
GIB = 1 << 30


def told(index, **more):
    """What the probe says of a GPU."""
    return {"uuid": f"GPU-{index}", "name": "NVIDIA L40S", "bus_id": f"0000{BUS[index].upper()}", **more}


def known(index, **more):
    """A GPU that the world knows."""
    facts = GpuFacts(uuid=f"GPU-{index}", index=index, bus_id=BUS[index], name="NVIDIA L40S")
    return Gpu(uuid=facts.uuid, facts=facts, **more)


def listing(*gpus, count=3):
    """A list that is being put together, in a world with these GPUs."""
    world = World(gpus={gpu.uuid: gpu for gpu in gpus})
    one = Listing(lambda: world)
    one.begin(count, "ok", "580.1")
    return one


def slots(count=3):
    """The bus as it should be."""
    return {bus_id: Slot(bus_id, numa=number) for number, bus_id in enumerate(BUS[:count])}


def nothing():
    """A driver that names no GPU in /proc."""
    return {}


# ---- the list
def test_the_list_is_complete_when_each_was_asked():
    """One that is left alone is not waited for; its facts are those of before."""
    one = listing(known(1))
    one.answered(0, told(0), slots())
    assert not one.is_complete(set())
    one.answered(2, told(2, memory_total_bytes=48 * GIB, persistence=1, mig=0), slots())
    assert not one.is_complete(set())
    assert one.is_complete({1})
    assert [gpu.uuid for gpu in one.gpus()] == ["GPU-0", "GPU-1", "GPU-2"]
    assert one.gpus()[2] == GpuFacts(
        uuid="GPU-2", index=2, bus_id=BUS[2], name="NVIDIA L40S", memory_bytes=48 * GIB, numa=2, persistence=True
    )


def test_a_gpu_without_a_handle_is_known_by_its_slot():
    """Its index may mean another one since the last boot; its place on the bus does not."""
    one = listing(known(0), known(1), known(2))
    one.answered(0, told(2), slots())
    one.answered(2, told(0), slots())
    one.refused(1, 15, slots(), nothing)
    assert one.uuid_of(1) == "GPU-1"


def test_a_gpu_without_a_handle_is_known_by_the_drivers_folder():
    """Nobody saw it before: /proc/driver/nvidia names it."""
    one = listing()
    one.refused(1, 15, slots(), lambda: {BUS[1]: "GPU-new"})
    assert one.uuid_of(1) == "GPU-new"
    assert one.facts("GPU-new").bus_id == BUS[1]


def test_a_gpu_that_nobody_can_name_is_said():
    """It is not made up: words say that there is one."""
    one = listing(count=2)
    one.answered(0, told(0), {})
    one.refused(1, 999, {}, nothing)
    assert one.is_complete(set())
    assert [gpu.uuid for gpu in one.gpus()] == ["GPU-0"]
    assert "index 1" in one.trouble()


def test_another_count_makes_indices_mean_others():
    """What was learned of indices is forgotten then."""
    one = listing(count=2)
    one.answered(0, told(0), {})
    one.answered(1, told(1), {})
    one.begin(1, "ok")
    assert one.uuid_of(1) == ""
    one.answered(0, told(1), {})
    assert [gpu.uuid for gpu in one.gpus()] == ["GPU-1"]


@pytest.mark.parametrize(
    ("quarantine", "silent"),
    [
        (Quarantine(reason="x", since=0, xid=119), ["GPU-0"]),
        (Quarantine(reason="x", since=0, xid=119, met_at=1.0), []),
        (Quarantine(reason="x", since=0, xid=79), []),
        (None, []),
    ],
)
def test_a_restart_of_the_daemon_does_not_wake_dead_firmware(quarantine, silent):
    """A GPU in quarantine for 119 or 120 that was not treated yet is not touched; others are."""
    assert listing(known(0, quarantine=quarantine)).silent_before() == silent


def test_nvlink_neighbours():
    """By bus id at the other end; all behind switches are neighbours of each other."""
    gpus = [known(index).facts for index in range(3)]
    pair = linked(gpus, {"GPU-0": ("00000000:5E:00.0",), "GPU-1": ("00000000:3B:00.0",)})
    assert [one.links for one in pair] == [("GPU-1",), ("GPU-0",), ()]
    switched = linked(gpus, {f"GPU-{index}": ("switch",) for index in range(3)})
    assert switched[0].links == ("GPU-1", "GPU-2")


# ---- one GPU's record
def reading(*, tiers=("fast",), error=None, processes=(), **values):
    """A line of the probe."""
    return {"gpu": "GPU-0", "tiers": list(tiers), "values": values, "processes": list(processes), "error": error}


def record(**before):
    """A record of GPU 0."""
    return Record(known(0).facts, before, ())


def test_each_value_ages_by_its_own_tier():
    """Three missed rounds of its tier make a value stale: 15 s for power, three minutes for ECC."""
    one = record()
    one.take(reading(tiers=("fast", "slow"), power_w=30.0, ecc_corrected=4), EVERY_S, Limits(), 100.0)
    assert one.reading(114.0).values["power_w"] == 30.0
    assert one.reading(120.0).values == {"power_w": Stale(20.0), "ecc_corrected": 4, "processes": Stale(20.0)}
    assert isinstance(one.reading(300.0).values["ecc_corrected"], Stale)


def test_a_reading_may_be_asked_for_while_another_one_comes_in():
    """By another thread: it gets the values of one moment."""
    one = record()
    one.take(reading(power_w=30.0), EVERY_S, Limits(), 100.0)

    class Meanwhile(float):
        def __sub__(self, other):
            one.take(reading(tiers=("slow",), ecc_corrected=4), EVERY_S, Limits(), 100.0)
            return float(self) - other

    assert one.reading(Meanwhile(101.0)).values == {"power_w": 30.0, "processes": 0}
    assert one.reading(101.0).values["ecc_corrected"] == 4


def test_who_draws_is_on_it_and_holds_nothing():
    """A desktop counts among the processes, apart from those that compute; who does both computes."""
    one = record()
    line = reading(processes=[[7, GIB]]) | {"graphics": [[7, GIB], [900, None]]}
    one.take(line, EVERY_S, Limits(), 1.0)
    assert (one.processes, one.graphics) == (((7, GIB),), ((900, None),))
    assert one.reading(1.0).values["processes"] == 2


def test_a_record_without_a_reading_has_none():
    """Nobody read it yet: not even an empty reading."""
    assert record().reading(1.0) is None


def test_missing_values_keep_their_reason():
    """Null is absent, a code is a failure, processes that were not told are not none."""
    one = record()
    line = reading(power_w=None, energy_j=[10, "TIMEOUT"]) | {"processes": None}
    one.take(line, EVERY_S, Limits(), 1.0)
    assert one.reading(1.0).values == {"power_w": Absent(), "energy_j": Failed(10, "TIMEOUT"), "processes": Absent()}
    one.take(line | {"processes": [4, "NO_PERMISSION"]}, EVERY_S, Limits(), 1.0)
    assert one.reading(1.0).values["processes"] == Failed(4, "NO_PERMISSION")
    assert one.processes == ()


def test_a_strangers_memory_is_news_by_the_gibibyte():
    """Who it is is news at once, a few more bytes are not."""
    one = record()
    assert one.now_held_by((Holder(pid=7, used_bytes=GIB),))
    assert not one.now_held_by((Holder(pid=7, used_bytes=GIB + 1),))
    assert one.now_held_by((Holder(pid=7, used_bytes=2 * GIB),))
    assert one.now_held_by(())
    assert not one.now_held_by(())


def test_what_was_found_in_an_earlier_life_is_known():
    """So that it can be told that it is over."""
    one = record(
        **{
            "unresponsive/nvml": Finding(kind="unresponsive", source="nvml", text="x", since=0),
            "lost/sysfs": Finding(kind="lost", source="sysfs", text="y", since=0),
            "hot/nvml": Finding(kind="hot", source="nvml", text="z", since=0),
        }
    )
    assert one.told == {("unresponsive", "nvml"): "x", ("lost", "sysfs"): "y"}
