"""A stand-in for whoever watches the GPUs, and a world with GPUs and runs, for tests of what is done with GPUs."""

from __future__ import annotations

from supervisor.core.gpus.model import Gpu, GpuFacts, GpuPolicy, GpuWish, Holder, Quarantine
from supervisor.core.gpus.readings import Reading
from supervisor.core.model import Attempt, Job, Phase, Policy, Run, World

GIB = 1024**3
UUID = "GPU-aaaa"
OTHER = "GPU-bbbb"
ALICE = Holder(pid=4242, user="alice", used_bytes=18 * GIB)


def reading(uuid=UUID, *, error=None, used=0, total=48 * GIB, **values):
    """What the probe read of a GPU: healthy, unless it is said otherwise."""
    values = {"memory_used_bytes": used, "memory_total_bytes": total, "recovery_action": 0, **values}
    return Reading(gpu=uuid, at=1.0, values={} if error else values, error=error)


class FakeEyes:
    """Answers each look from a list, the last answer again and again; `None` in it: that GPU did not answer."""

    def __init__(self, *answers):
        """An answer is a Reading, or a dict of them by UUID."""
        self.answers = list(answers) or [reading()]
        self.ours = {}
        self.others = {}
        self.drawing = {}
        self.looks = 0
        self.log = []
        self.limits_w = (350.0, 350.0)
        self.power_problem = ""
        self.hangs = False

    def look(self, gpus, timeout_s):
        """The next answer."""
        self.looks += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer = answer if isinstance(answer, dict) else {gpus[0]: answer}
        return {uuid: one for uuid, one in answer.items() if uuid in gpus and one is not None}

    def holders(self, gpu):
        """Who is on it; a function is asked anew each time."""
        ours = self.ours.get(gpu, ())
        return tuple(ours() if callable(ours) else ours), tuple(self.others.get(gpu, ()))

    def graphics(self, gpu):
        """Who only draws on it."""
        return tuple(self.drawing.get(gpu, ()))

    def release(self, gpus):
        """Note it; whether it could be done."""
        self.log.append(("release", *gpus))
        return not self.hangs

    def resume(self):
        """Note it."""
        self.log.append(("resume",))

    def power_limits(self, gpu, timeout_s):
        """Now, and by default."""
        return self.limits_w

    def set_power(self, gpu, watts):
        """Note it, and fail as told."""
        self.log.append(("power", gpu, watts))
        return self.power_problem


def gpu(uuid=UUID, index=3, **more):
    """One GPU as the world knows it."""
    facts = GpuFacts(uuid=uuid, index=index, bus_id="0000:3b:00.0", name="NVIDIA L40S", memory_bytes=48 * GIB)
    return Gpu(uuid=uuid, facts=facts, **more)


def quarantined(needs="reset"):
    """One that is not given out."""
    return gpu(quarantine=Quarantine(reason="Xid 79", since=1.0, needs=needs))


def run(name="truck", *, phase=Phase.PREPARING, attempt=2, gpus=(UUID,), share=False, memory=0, python="", **more):
    """A live run whose attempt has GPUs."""
    job = Job(
        name=name,
        revision="r",
        project="p",
        gpus=len(gpus),
        gpu=GpuWish(share=share, memory_bytes=memory),
        python=python,
    )
    held = Attempt(number=attempt, token=7, gpu_ids=tuple(gpus), **more)
    return Run(id=f"{name}@1", job=job, phase=phase, attempts=attempt, attempt=held, created_at=1.0, phase_since=1.0)


def world(*runs, gpus=(), foreign="respect"):
    """A world of those runs and GPUs."""
    policy = Policy(gpu=GpuPolicy(watch=True, foreign=foreign))
    found = gpus or (gpu(), gpu(OTHER, 11))
    return World(live={one.id: one for one in runs}, gpus={one.uuid: one for one in found}, policy=policy)
