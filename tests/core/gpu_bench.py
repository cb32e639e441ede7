"""A bench whose server has GPUs that a probe tells of."""

from __future__ import annotations

from supervisor.core import events
from supervisor.core.gpus.model import GpuFacts, GpuPolicy
from supervisor.core.model import Phase
from tests.core.bench import Bench


def uuid(index):
    """The name of the GPU at that index."""
    return f"GPU-{index:08d}"


def bus_id(index):
    """Where it is plugged in."""
    return f"0000:{index + 0x3B:02x}:00.0"


def facts(index, **more):
    """Who it is."""
    known = {
        "uuid": uuid(index),
        "index": index,
        "bus_id": bus_id(index),
        "name": "NVIDIA L40S",
        "memory_bytes": 48 << 30,
    }
    return GpuFacts(**{**known, **more})


class GpuBench(Bench):
    """See the module."""

    def __init__(self, count=2, *, gpus=None, watch=True, gpu=None, first="ok", **policy):
        super().__init__(**{"max_running": 99, **policy}, gpu=GpuPolicy(watch=watch, **(gpu or {})))
        self.facts = list(gpus) if gpus is not None else [facts(index) for index in range(count)]
        self.seen(state=first)

    def seen(self, *, without=(), state="ok", **more):
        """What the driver lists now."""
        listed = tuple(one for one in self.facts if one.index not in without) if state == "ok" else ()
        return self.tell(events.GpusSeen, state=state, driver="570.1", gpus=listed, **more)

    def gpu(self, index=0):
        """What the world knows of a GPU."""
        return self.world.gpus[uuid(index)]

    def found(self, finding, index=0, *, open=True, source="nvml", text="x", **values):  # noqa: A002 - the field's name
        """Something about a GPU began or is over."""
        return self.tell(
            events.GpuFound, gpu=uuid(index), finding=finding, source=source, text=text, open=open, values=values
        )

    def xid(self, number, index=0, **more):
        """The driver reports an error."""
        return self.tell(
            events.XidSeen, xid=number, gpu=uuid(index), bus_id=bus_id(index), text=f"Xid {number}", **more
        )

    def lose(self, index=0):
        """It falls off the bus: the kernel says so, and NVML too."""
        self.xid(79, index)
        return self.found("lost", index)

    def running(self, name="a", *, gpus=1, saved=1, **job):
        """A training on so many GPUs, with a saved epoch."""
        self.submit(name, gpus=gpus, **job)
        assert self.phase(name) is Phase.PREPARING, self.run(name).waiting_for
        self.launch(name)
        self.save(saved, name)
        return self.run(name)

    def on(self, name="a"):
        """The indices of the GPUs of a run's attempt."""
        return list(self.run(name).attempt.gpus)

    def ended(self, name="a", **found):
        """The trainer obeys, nothing is left of it, and its backoff is over."""
        self.die(name, code=75, **found)
        self.wait(2.0)
