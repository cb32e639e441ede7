"""Who gets which GPU, and who waits, while GPUs are taken by others, taken away by people, tested, reset and lost."""

from __future__ import annotations

import sys
from collections.abc import Callable

from gpu_faults import GIB, NAME, PATIENCE_S, GpuFault, GpuScene, until

from tests.fake_nvml.room import LOST

Play = Callable[[GpuScene], None]

#: Answers as the self-test does, by the file `tests`: UUIDs of GPUs that fail it. All else is for the toy interpreter.
TESTING = """#!{python} -IS
import json, os, sys
if len(sys.argv) > 1 and sys.argv[1].endswith("gpu_test.py"):
    uuid = sys.argv[sys.argv.index("--uuid") + 1]
    bad = uuid in open({bad!r}).read()
    text = "7 of 1,024 words of memory came back changed" if bad else "opened in 0.1 s; 3 products were exact"
    print("step: opening the GPU", file=sys.stderr, flush=True)
    print(json.dumps(dict(version=1, ok=not bad, ran=True, text=text, device="fake")))
    sys.exit(int(bad))
os.execv({toy!r}, [{toy!r}, *sys.argv[1:]])
"""
SMI = """#!/bin/sh
echo "$@" >> {calls}
exit {code}
"""


def tested(scene: GpuScene, *bad: int) -> str:
    """An interpreter that can be asked for a self-test; these GPUs fail it."""
    failing = scene.file("bad-gpus", "\n".join(scene.driver.uuid(gpu) for gpu in bad))
    prefix = scene.server.top / "env-with-test"
    python = prefix / "bin" / "python"
    python.parent.mkdir(parents=True)
    (prefix / "pyvenv.cfg").touch()
    toy = str(scene.server.toy_python())
    python.write_text(TESTING.format(python=sys.executable, bad=str(failing), toy=toy), encoding="utf-8")
    python.chmod(0o755)
    return str(python)


# ---- waiting
def waits_its_turn(scene: GpuScene) -> None:
    """The only GPU is taken, and becomes free."""
    scene.train("first")
    scene.job()
    scene.wait_run(NAME, "QUEUED", "GPU")
    scene.struck()
    scene.server.order("cancel", "first", now=True)


def foreign_is_there(scene: GpuScene) -> None:
    """Somebody else is on the only GPU before the training comes."""
    process = scene.foreign()
    scene.struck()
    scene.wait_record("held")
    scene.job()
    run = scene.wait_run(NAME, "QUEUED", "GPU")
    assert f"pid {process.pid} of" in run["waiting_for"], run["waiting_for"]
    assert "holds 18 GiB" in run["waiting_for"], run["waiting_for"]


def foreign_elsewhere(scene: GpuScene) -> None:
    """Somebody else is on the first GPU; the training gets the second one."""
    scene.foreign(0)
    scene.struck()
    scene.wait_record("held")
    scene.job()
    assert scene.gpus_of() == (1,)


def foreign_comes(scene: GpuScene) -> None:
    """Somebody else comes to the GPU of a training."""
    scene.train()
    scene.struck()
    scene.foreign(scene.victim)


def foreign_leaves(scene: GpuScene) -> None:
    """Who was there leaves, and the training starts."""
    foreign_is_there(scene)
    process = next(pid for pid in _held_by(scene))
    scene.struck()
    scene.driver.end_process(0, process)


def _held_by(scene: GpuScene) -> list[int]:
    return [holder["pid"] for holder in scene.gpu(0)["holders"]]


def foreign_ignored(scene: GpuScene) -> None:
    """The administrator says that others do not matter."""
    scene.foreign(0)
    scene.struck()
    scene.wait_record("held")
    scene.job()


def own_process(scene: GpuScene) -> None:
    """The training itself is on its GPU: that is nobody else."""
    scene.train()
    scene.struck()
    scene.driver.process(scene.victim, scene.server.attempt(NAME).pid, 6 * GIB)


def not_held(scene: GpuScene) -> None:
    """Nobody else was seen."""
    assert "held" not in scene.records(), scene.records()


def shared(other: bool) -> Play:
    """Two trainings and one GPU; whether the second one may share it as well."""

    def play(scene: GpuScene) -> None:
        scene.train("first", gpu={"share": True})
        scene.struck()
        scene.job(gpu={"share": other})

    return play


def both_run(scene: GpuScene) -> None:
    """The first one is still there."""
    assert scene.run("first")["phase"] == "RUNNING"
    assert scene.gpus_of("first") == scene.gpus_of()


def wants(**keys: object) -> Play:
    """A training that wants what it wants."""

    def play(scene: GpuScene) -> None:
        scene.struck()
        scene.job(**keys)

    return play


def by_uuid(scene: GpuScene) -> None:
    """A training names its GPU, which is lost: it waits for that one."""
    scene.train(gpus=[scene.driver.uuid(1)])
    assert scene.victim == 1
    scene.struck()
    scene.driver.lose(1, LOST)


def refused_with(word: str) -> Play:
    """The job file was refused, with this in the reason."""

    def check(scene: GpuScene) -> None:
        assert word in scene.refusal(), scene.refusal()

    return check


def on(*gpus: int) -> Play:
    """The training has these GPUs."""

    def check(scene: GpuScene) -> None:
        assert scene.gpus_of() == gpus, scene.gpus_of()

    return check


# ---- people
def drained(scene: GpuScene) -> None:
    """A person drains the only GPU while a training is there."""
    scene.train()
    scene.struck()
    scene.order("drain")


def next_waits(scene: GpuScene) -> None:
    """The next training waits for it."""
    scene.job("next")
    scene.wait_run("next", "QUEUED", "GPU: GPU 0 is drained by")


def ordered(what: str, back: str, **body: object) -> Play:
    """A person takes the only GPU away, and gives it back to a training that waits for it."""

    def play(scene: GpuScene) -> None:
        scene.order(what, 0, **body)
        scene.job()
        scene.wait_run(NAME, "QUEUED", "GPU")
        scene.struck()
        if back:
            scene.order(back, 0)

    return play


def taken(scene: GpuScene) -> None:
    """A person puts the GPU of a training in quarantine; the training goes on."""
    scene.train()
    scene.struck()
    scene.order("quarantine", reason="coil whine")


# ---- the self-test
def test_of_idle(*bad: int) -> Play:
    """A person wants the other, idle GPU tested."""

    def play(scene: GpuScene) -> None:
        scene.train(python=tested(scene, *bad))
        scene.victim = 1 - scene.victim
        scene.struck()
        scene.order("test")

    return play


def fails_at_start(scene: GpuScene) -> None:
    """GPUs are tested before each start, and the first one fails."""
    scene.struck()
    scene.job(python=tested(scene, 0))


# ---- resets
def fault_seen(scene: GpuScene) -> None:
    """A GPU times out, and the driver wants a reset."""
    scene.train(python=tested(scene))
    scene.driver.recovery(scene.victim, 1)
    scene.xid(46, "Channel 00000008, GPU timeout")


def fault_alone(scene: GpuScene) -> None:
    """A GPU times out, says one line; the training goes on there."""
    scene.train()
    scene.xid(46, "Channel 00000008, GPU timeout")


def not_reset(scene: GpuScene) -> None:
    """A GPU in use is not reset; what a person is to type is told."""
    assert not {"reset done", "reset failed"} & set(scene.records())
    assert f"--gpu-reset -i {scene.driver.uuid(scene.victim)}" in scene.gpu()["todo"], scene.gpu()["todo"]


def full_circle(scene: GpuScene) -> None:
    """Reset, well again, tested, and given out to the training that comes next."""
    fault_seen(scene)
    scene.wait_record("reset done")
    scene.driver.recovery(scene.victim, 0)
    scene.wait_record("recovery-reset is over")
    scene.order("test")
    scene.wait_record("test passed")


def next_gets_it(scene: GpuScene) -> None:
    """The next training is put there."""
    scene.job("next")
    assert scene.gpus_of("next") == (scene.victim,)


# ---- several GPUs
def loses(scene: GpuScene, *gpus: int) -> None:
    """These GPUs are lost, says NVML, and their slots are dead."""
    scene.struck()
    with scene.driver.together():
        for gpu in gpus:
            scene.driver.lose(gpu, LOST)


def of_four(**keys: object) -> Play:
    """One of four GPUs of a training is lost."""

    def play(scene: GpuScene) -> None:
        scene.train(gpus=4, **keys)
        scene.victim = 2
        loses(scene, 2)

    return play


def count_is(count: int, *, without: int = 2) -> Play:
    """The newest attempt has so many GPUs, and not this one."""

    def check(scene: GpuScene) -> None:
        gpus = scene.gpus_of(NAME, scene.server.attempts(NAME)[-1])
        assert len(gpus) == count, gpus
        assert without not in gpus, gpus

    return check


def grows(scene: GpuScene) -> None:
    """A GPU of two comes back and is released; the training that went on without it is stopped and resumed."""
    scene.train(gpus=2, gpu={"min": 1})
    loses(scene, scene.victim)
    until(lambda: len(scene.server.attempts(NAME)) == 2, "it goes on with one GPU", PATIENCE_S)
    scene.under_way(NAME, 2)
    scene.driver.back(scene.victim)
    scene.wait_record("lost is over")
    scene.order("release")
    scene.server.order("stop", NAME, now=True)
    scene.wait_run(NAME, "HELD")
    scene.server.order("resume", NAME)


def server_loses_its_gpu(scene: GpuScene) -> None:
    """The only GPU of the server is lost."""
    scene.train()
    loses(scene, scene.victim)


def none_today(scene: GpuScene) -> None:
    """The server had GPUs yesterday, and has none today."""
    scene.server.end()
    scene.driver.no_gpus()
    for gpu in range(scene.driver.count):
        scene.driver.slots.remove(scene.driver.bus_id(gpu))
    scene.struck()
    scene.start_again()
    scene.wait_record("driver none")
    scene.job()


QUICK_BACK = {"gpu": {"limits": {"answer_quiet_s": 1, "state_quiet_s": 1}}}
KEEPS = {"gpu": "usable", "job": "goes on", "attempts": 1}

RESET_ENDS = {"gpu": "quarantine: reset", "job": "elsewhere", "cause": "gpu-fault", "attempts": 2}
#: Succeeds only if it is told the UUID of a GPU of the fake driver.
MAY_RESET = {"gpu": {"reset_command": ["/bin/sh", "-c", "case $0 in GPU-fa4e0*) exit 0;; *) exit 3;; esac", "{uuid}"]}}

LEASE_FAULTS = (
    # ---- others
    GpuFault("waits-its-turn", waits_its_turn, (), gpu="usable", job="starts", gpus=1),
    GpuFault("foreign-on-the-only-gpu", foreign_is_there, ("held",), gpu="held", job="waits", gpus=1, quick=True),
    GpuFault("foreign-on-another-gpu", foreign_elsewhere, ("held",), gpu="held", job="starts"),
    GpuFault("foreign-on-a-busy-gpu", foreign_comes, ("held",), gpu="held", job="goes on", attempts=1),
    GpuFault("foreign-leaves", foreign_leaves, ("held", "held no more"), gpu="usable", job="starts", gpus=1),
    GpuFault("foreign-ignored", foreign_ignored, ("held",), gpu="usable", job="starts", gpus=1, tables={"gpu": {"foreign": "ignore"}}),
    GpuFault("own-process", own_process, (), **KEEPS, check=not_held),
    GpuFault("two-share", shared(other=True), (), gpu="usable", job="starts", gpus=1, check=both_run),
    GpuFault("one-does-not-share", shared(other=False), (), gpu="usable", job="waits", gpus=1),
    # ---- wishes
    GpuFault("wants-more-memory-than-any", wants(gpu={"memory": "100GiB"}), (), gpu="usable", job="refused", check=refused_with("memory")),
    GpuFault("wants-a-gpu-by-index", wants(gpus=[1]), (), gpu="usable", job="starts", check=on(1)),
    GpuFault("named-gpu-is-lost", by_uuid, ("lost",), gpu="quarantine: reboot", job="waits", cause="gpu-lost", attempts=1),
    # ---- people
    GpuFault("drained-while-running", drained, (), gpu="drained", job="goes on", attempts=1, gpus=1, check=next_waits),
    GpuFault("undrained", ordered("drain", "undrain"), (), gpu="usable", job="starts", gpus=1),
    GpuFault("drained-for-a-while", ordered("drain", "", for_s=2.0), (), gpu="usable", job="starts", gpus=1),
    GpuFault("quarantined-by-a-person", ordered("quarantine", "", reason="coil whine"), (), gpu="quarantine: person", job="waits", gpus=1),
    GpuFault("quarantined-while-running", taken, (), gpu="quarantine: person", job="goes on", attempts=1),
    GpuFault("released", ordered("quarantine", "release", reason="coil whine"), (), gpu="usable", job="starts", gpus=1, quick=True),
    # ---- tests
    GpuFault("self-test-passes", test_of_idle(), ("test passed",), **KEEPS, tables={"gpu": {"self_test": "quarantine"}}),
    GpuFault("self-test-fails", test_of_idle(0, 1), ("test failed",), gpu="quarantine: person", job="goes on", tables={"gpu": {"self_test": "quarantine"}}),
    GpuFault("self-test-fails-at-start", fails_at_start, ("test failed",), gpu="quarantine: person", job="starts", tables={"gpu": {"self_test": "start"}}, check=on(1)),
    # ---- resets
    GpuFault("reset-of-an-idle-gpu", fault_seen, ("xid 46", "recovery-reset", "reset done"), **RESET_ENDS, tables=MAY_RESET),
    GpuFault("reset-that-fails", fault_seen, ("xid 46", "recovery-reset", "reset failed"), **{**RESET_ENDS, "gpu": "quarantine: person"}, tables={"gpu": {"reset_command": ["/bin/sh", "-c", "echo in use by another client; exit 3"]}}),
    GpuFault("reset-not-while-in-use", fault_alone, ("xid 46",), gpu="quarantine: reset", job="goes on", attempts=1, tables=MAY_RESET, check=not_reset),
    GpuFault("reset-only-asked-for", fault_seen, ("xid 46", "recovery-reset"), **RESET_ENDS, check=not_reset),
    # ---- several GPUs
    GpuFault("one-of-four-lost-min", of_four(gpu={"min": 1}), ("lost",), gpu="quarantine: reboot", job="fewer GPUs", cause="gpu-lost", gpus=4, check=count_is(2)),
    GpuFault("one-of-four-lost-batch-fits-three", of_four(gpu={"min": 1}, train={"batch": 12}), ("lost",), gpu="quarantine: reboot", job="fewer GPUs", cause="gpu-lost", gpus=4, check=count_is(3)),
    GpuFault("one-of-four-lost-batch-fits-none", of_four(gpu={"min": 3}), ("lost",), gpu="quarantine: reboot", job="waits", cause="gpu-lost", gpus=4),
    GpuFault("one-of-four-lost-all-wanted", of_four(), ("lost",), gpu="quarantine: reboot", job="waits", cause="gpu-lost", gpus=4),
    GpuFault("one-of-four-lost-five-there", of_four(), ("lost",), gpu="quarantine: reboot", job="elsewhere", cause="gpu-lost", gpus=5, check=count_is(4)),
    GpuFault("all-gpus-again", grows, ("lost", "lost is over"), gpu="usable", job="same GPU", cause="gpu-lost", attempts=3, tables=QUICK_BACK),
    # ---- a server
    GpuFault("only-gpu-lost", server_loses_its_gpu, ("lost",), gpu="quarantine: reboot", job="waits", cause="gpu-lost", attempts=1, gpus=1, quick=True),
    GpuFault("no-gpus-today", none_today, ("driver none",), gpu="blocked", job="waits"),
)  # fmt: skip
