"""Two things at once, or one in the worst moment of another: what neither of them alone would show."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable

from daemon_harness import can, needs
from gpu_driver_faults import probe, whole
from gpu_faults import NAME, PATIENCE_S, GpuFault, GpuScene, until
from gpu_lease_faults import MAY_RESET, QUICK_BACK, count_is, full_circle, loses, next_gets_it
from gpu_xid_faults import FALLEN, MMU, asked

from tests.fake_nvml.room import LOST, READS, VERSION_MISMATCH

Play = Callable[[GpuScene], None]


def lost(scene: GpuScene, gpu: int | None = None) -> None:
    """A GPU falls off the bus: kernel log, NVML and slot say so."""
    victim = scene.victim if gpu is None else gpu
    scene.driver.lose(victim, LOST)
    scene.xid(79, FALLEN, gpu=victim)


def daemon_killed_at_xid(scene: GpuScene) -> None:
    """The daemon is killed as the Xid is on record, before the training is ended or while it is."""
    scene.train(flags="--ignore-term")
    lost(scene)
    until(lambda: "xid 79" in scene.records(), "it is on record", PATIENCE_S)
    scene.restart()


def daemon_down_at_xid(scene: GpuScene) -> None:
    """The GPU is lost while no daemon is there."""
    scene.train()
    scene.server.end()
    lost(scene)
    scene.start_again()


def restart_acts_once(scene: GpuScene) -> None:
    """After a restart the same lines are read again: they count once."""
    asked(46, "Channel 00000008, GPU timeout", event=False)(scene)
    scene.under_way(NAME, 2)
    scene.restart()
    until(lambda: scene.gpu(0), "the daemon knows the GPUs", PATIENCE_S)
    scene.server.attempt(NAME, 2).wait_for_beat(
        "batch", epoch=scene.server.attempt(NAME, 2).beats("batch")[-1]["epoch"] + 8
    )


def told_once(scene: GpuScene) -> None:
    """One event, one note in the passport."""
    assert len(scene.rows("XidSeen")) == 1, scene.rows("XidSeen")
    shown = scene.server.client.get(f"/v1/gpus/{scene.driver.uuid(scene.victim)}")
    assert {one["xid"]: one["count"] for one in shown["passport"]["xids"]} == {46: 1}, shown["passport"]["xids"]


def hang_and_xid(scene: GpuScene) -> None:
    """A call hangs, and the kernel says why: the GPU's own processor is gone."""
    scene.train()
    scene.driver.hang(scene.victim, READS)
    scene.wait_record("unresponsive")
    scene.xid(
        119,
        "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 (GSP_RM_CONTROL) (0x20802a02 0x8).",
    )


def crash_and_xid(scene: GpuScene) -> None:
    """The library brings the probe down, and the GPU is gone when the next one looks."""
    scene.train()
    scene.driver.crash(scene.victim, READS)
    scene.struck()
    scene.wait_record("driver crashed")
    scene.driver.heal(scene.victim)
    lost(scene)


def probe_killed_and_xid(scene: GpuScene) -> None:
    """Nobody asks NVML just then: the kernel log and the slot are two all the same."""
    scene.train()
    os.kill(probe(scene), signal.SIGKILL)
    lost(scene)


def lost_while_preparing(scene: GpuScene) -> None:
    """Lost after it was given, before anything runs there."""
    scene.struck()
    scene.job()
    until(scene.run, "it is there")
    loses(scene, 0)
    scene.driver.xid(0, 79, FALLEN)


def lost_while_starting(scene: GpuScene) -> None:
    """Lost while the training is just being started."""
    scene.job()
    path = scene.server.attempt(NAME).directory / "launch.json"
    until(path.exists, "it is being started")
    scene.victim = scene.gpus_of()[0]
    lost(scene)


def two_on_one(scene: GpuScene) -> None:
    """Two trainings share a GPU, which is lost."""
    scene.train("first", gpu={"share": True}, gpus=[0])
    scene.train(gpu={"share": True}, gpus=[0])
    lost(scene)
    scene.wait_run("first", "QUEUED", "GPU")


def lost_in_a_stop(scene: GpuScene) -> None:
    """A person stops the training at its next saved epoch; before that the GPU is lost: it is ended, and stays stopped."""
    scene.job(env={"TOY": LONG})
    scene.server.attempt(NAME).wait_for_beat("batch", PATIENCE_S)
    scene.victim = scene.gpus_of()[0]
    scene.server.order("stop", NAME)
    scene.wait_run(NAME, "STOPPING")
    lost(scene)


def lost_in_cooling(scene: GpuScene) -> None:
    """The training was killed before its first epoch was over, and waits for its next try; its GPU is lost meanwhile."""
    scene.job(env={"TOY": LONG}, restart={"backoff": "8s", "backoff_max": "8s"})
    scene.server.attempt(NAME).wait_for_beat("batch", PATIENCE_S)
    scene.victim = scene.gpus_of()[0]
    os.kill(scene.server.attempt(NAME).pid, signal.SIGKILL)
    scene.wait_run(NAME, "COOLING")
    lost(scene)


def moved_away(scene: GpuScene) -> None:
    """It is not on the GPU that failed."""
    assert scene.victim not in scene.gpus_of(NAME, scene.server.attempts(NAME)[-1])


def two_of_four(scene: GpuScene) -> None:
    """Two GPUs of four are lost at the same moment."""
    scene.train(gpus=4, gpu={"min": 2})
    scene.victim = 3
    loses(scene, 1, 3)
    scene.driver.xid(1, 79, FALLEN)
    scene.driver.xid(3, 79, FALLEN)


def one_after_the_other(scene: GpuScene) -> None:
    """The GPU that it went on with is lost, too."""
    scene.train()
    lost(scene)
    scene.under_way(NAME, 2)
    lost(scene, scene.gpus_of(NAME, 2)[0])
    scene.under_way(NAME, 3)


def lost_restart_back(scene: GpuScene) -> None:
    """Lost; the daemon is restarted; the GPU is there again, and stays out until it is released."""
    scene.train()
    lost(scene)
    until(scene.ended_at, "it was ended", PATIENCE_S)
    scene.server.end()
    scene.driver.back(scene.victim)
    scene.start_again()


def lost_here_fault_there(scene: GpuScene) -> None:
    """One GPU falls off the bus; on another one a program touches memory that is not its own."""
    scene.train("other")
    scene.train()
    other = scene.gpus_of("other")[0]
    scene.driver.lose(scene.victim, LOST)
    with scene.driver.together():
        scene.driver.xid(other, 31, MMU, pid=scene.server.attempt("other").pid)
        scene.xid(79, FALLEN)


def other_goes_on(scene: GpuScene) -> None:
    """The other training was not touched."""
    assert scene.server.attempts("other") == [1]
    assert scene.is_alive("other")


def gap_in_the_log(scene: GpuScene) -> None:
    """The kernel's ring was overwritten: numbers are missing before the line that matters."""
    scene.train()
    scene.driver.kernel("nvidia-nvlink: Nvlink Core is being initialized, major device number 511")
    scene.driver.log.skip(5000)
    lost(scene)


def flood(scene: GpuScene) -> None:
    """Ten thousand lines of one Xid of a program, and then the one line that matters."""
    scene.train()
    pid = scene.server.attempt(NAME).pid
    for number in range(10_000):
        while True:
            try:
                scene.driver.xid(scene.victim, 31, f"{MMU} {number}", pid=pid, event=False)
                break
            except BlockingIOError:
                time.sleep(0.001)
    until(lambda: scene.server.client.get("/v1/status"), "the daemon answers")
    scene.driver.lose(scene.victim, LOST)
    until(lambda: _written(scene), "the reader has caught up", PATIENCE_S)


def _written(scene: GpuScene) -> bool:
    try:
        scene.xid(79, FALLEN)
    except BlockingIOError:
        return False
    return True


def journal_is_small(scene: GpuScene) -> None:
    """A flood is folded: the journal has not got a row for each line."""
    assert len(scene.rows("XidSeen")) < 500, len(scene.rows("XidSeen"))


def someone_waits(scene: GpuScene) -> None:
    """Another run waits for the very GPU that is lost."""
    scene.train()
    scene.job("next", gpus=[scene.victim])
    scene.wait_run("next", "QUEUED", "GPU")
    lost(scene)
    words = f"GPU: GPU {scene.victim} is in quarantine"
    until(lambda: words in scene.run("next")["waiting_for"], lambda: f"it says so: {scene.run('next')}", PATIENCE_S)


def quarantined_while_preparing(scene: GpuScene) -> None:
    """A person takes the GPU away just as a training was given it: either it goes on, or it gets another one."""
    scene.struck()
    scene.job()
    until(lambda: scene.run().get("phase") not in {None, "QUEUED"}, "it was given a GPU")
    scene.order("quarantine", 0, reason="coil whine")


def upgraded_and_restarted(scene: GpuScene) -> None:
    """The driver is upgraded under a training; a second one waits; then all is in order again, and it starts."""
    scene.train()
    scene.struck()
    whole(VERSION_MISMATCH)(scene.driver, scene.victim)
    scene.wait_record("driver version-mismatch")
    scene.job("next")
    scene.wait_run("next", "QUEUED", "GPU")
    with scene.driver.together():
        scene.driver.init_fails()
        for gpu in range(scene.driver.count):
            scene.driver.heal(gpu)
    scene.wait_run("next", "RUNNING")


def lost_while_drained(scene: GpuScene) -> None:
    """The server is drained: trainings finish their epoch. Then a GPU is lost: nothing starts again before the drain is over."""
    scene.job(env={"TOY": LONG})
    scene.server.attempt(NAME).wait_for_beat("batch", PATIENCE_S)
    scene.victim = scene.gpus_of()[0]
    scene.server.client.post("/v1/drain")
    lost(scene)


def lost_while_gpu_drained(scene: GpuScene) -> None:
    """A person drains the GPU of a training; then it is lost."""
    scene.train()
    scene.order("drain")
    lost(scene)


def lost_and_cancelled(scene: GpuScene) -> None:
    """A person cancels the training in the moment in which its GPU is lost."""
    scene.train()
    lost(scene)
    scene.server.order("cancel", NAME)


def stubborn(scene: GpuScene) -> None:
    """The training does not answer SIGTERM, as one that hangs in the driver: it is killed after the grace."""
    scene.train(flags="--ignore-term")
    lost(scene)


def foreign_on_the_rest(scene: GpuScene) -> None:
    """The only other GPU is held by somebody else: the training waits for that, and starts when it is free."""
    scene.train()
    process = scene.foreign(1 - scene.victim)
    scene.wait_record("held")
    lost(scene)
    run = scene.wait_run(NAME, "QUEUED", "GPU")
    assert f"pid {process.pid}" in run["waiting_for"], run["waiting_for"]
    scene.driver.end_process(1 - scene.victim, process.pid)


def hot_and_lost(scene: GpuScene) -> None:
    """Too hot, and then gone."""
    scene.train()
    scene.driver.hot(scene.victim)
    scene.wait_record("throttled")
    lost(scene)


def all_at_once(scene: GpuScene) -> None:
    """Every GPU of the server is lost in one moment, each with a training."""
    for name in ("a", "b", "c"):
        scene.train(name)
    scene.train()
    with scene.driver.together():
        for gpu in range(4):
            scene.driver.lose(gpu, LOST)
    for gpu in range(4):
        scene.xid(79, FALLEN, gpu=gpu)
    for name in ("a", "b", "c"):
        scene.wait_run(name, "QUEUED", "GPU")


def journal_gone(scene: GpuScene) -> None:
    """The daemon is killed right after the loss, again and again."""
    scene.train()
    lost(scene)
    for _ in range(3):
        scene.restart()


def disk_and_gpu(scene: GpuScene) -> None:
    """The disk of the runs is full when the GPU is lost: it waits for room, then it goes on elsewhere."""
    runs = scene.server.runs_dir
    runs.mkdir(exist_ok=True)
    needs(
        can("mount", "-t", "tmpfs", "-o", "size=32m", "none", str(runs)),
        "root and mount, for a disk that can be filled",
    )
    scene.undo.callback(subprocess.run, ["umount", "-l", str(runs)], check=True)
    scene.train()
    ballast = runs / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    lost(scene)
    until(lambda: scene.run().get("waiting_for") == "disk", lambda: f"it waits for the disk: {scene.run()}", PATIENCE_S)
    ballast.unlink()


#: An epoch that is not over before the test is, in steps of a tenth of a second.
LONG = "--epoch-s 40 --batches 400"
LOST_ENDS = {"gpu": "quarantine: reboot", "job": "elsewhere", "cause": "gpu-lost", "attempts": 2, "compound": True}
WAITS = {**LOST_ENDS, "job": "waits", "attempts": 1}
GSP_ENDS = {"gpu": "quarantine: reset", "job": "elsewhere", "cause": "gpu-firmware", "attempts": 2, "compound": True}

COMPOUND_FAULTS = (
    GpuFault("daemon-killed-at-the-xid", daemon_killed_at_xid, ("xid 79",), **LOST_ENDS, quick=True),
    GpuFault("daemon-killed-three-times", journal_gone, ("xid 79",), **LOST_ENDS),
    GpuFault("daemon-down-at-the-xid", daemon_down_at_xid, ("xid 79", "lost"), **LOST_ENDS),
    GpuFault("restart-counts-once", restart_acts_once, ("xid 46", "recovery-reset"), gpu="quarantine: reset", job="elsewhere", cause="gpu-fault", attempts=2, compound=True, check=told_once),
    GpuFault("probe-hangs-and-xid-119", hang_and_xid, ("unresponsive", "xid 119"), **GSP_ENDS),
    GpuFault("probe-crashes-and-xid-79", crash_and_xid, ("driver crashed", "xid 79"), **LOST_ENDS),
    GpuFault("probe-killed-and-xid-79", probe_killed_and_xid, ("xid 79", "lost"), **LOST_ENDS),
    GpuFault("lost-while-preparing", lost_while_preparing, ("lost",), gpu="quarantine: reboot", job="elsewhere or starts or began anew", compound=True, check=moved_away),
    GpuFault("lost-while-starting", lost_while_starting, ("xid 79", "lost"), gpu="quarantine: reboot", job="elsewhere or began anew", cause="gpu-lost", attempts=2, compound=True, check=moved_away),
    GpuFault("two-jobs-on-the-lost-gpu", two_on_one, ("xid 79", "lost"), **WAITS),
    GpuFault("lost-in-a-stop", lost_in_a_stop, ("xid 79", "lost"), gpu="quarantine: reboot", job="held", attempts=1, compound=True),
    GpuFault("lost-in-cooling", lost_in_cooling, ("xid 79", "lost"), gpu="quarantine: reboot", job="began anew", cause="killed", attempts=2, compound=True, check=moved_away),
    GpuFault("two-of-four-lost", two_of_four, ("xid 79", "lost"), **{**LOST_ENDS, "job": "fewer GPUs"}, gpus=4, check=count_is(2, without=3)),
    GpuFault("one-lost-after-the-other", one_after_the_other, ("xid 79", "lost"), **{**LOST_ENDS, "attempts": 3}, gpus=3),
    GpuFault("lost-restart-back", lost_restart_back, ("xid 79", "lost", "lost is over"), **LOST_ENDS, tables=QUICK_BACK),
    GpuFault("lost-here-xid-31-there", lost_here_fault_there, ("xid 79", "xid 31"), **LOST_ENDS, gpus=3, check=other_goes_on),
    GpuFault("gap-in-the-kernel-log", gap_in_the_log, ("xid 79", "lost"), **LOST_ENDS),
    GpuFault("flood-of-10000-xids", flood, ("xid 31", "xid 79"), **LOST_ENDS, check=journal_is_small),
    GpuFault("lost-while-somebody-waits-for-it", someone_waits, ("xid 79", "lost"), **LOST_ENDS),
    GpuFault("quarantined-while-preparing", quarantined_while_preparing, (), gpu="quarantine: person", job="starts or began anew or elsewhere", compound=True),
    GpuFault("driver-upgraded-and-mended", upgraded_and_restarted, ("driver version-mismatch",), gpu="usable", job="goes on", attempts=1, compound=True),
    GpuFault("lost-and-disk-full", disk_and_gpu, ("xid 79", "lost"), **LOST_ENDS),
    GpuFault("lost-while-the-server-drains", lost_while_drained, ("xid 79", "lost"), gpu="quarantine: reboot", job="queued", cause="gpu-lost", attempts=1, compound=True),
    GpuFault("lost-while-the-gpu-is-drained", lost_while_gpu_drained, ("xid 79", "lost"), **LOST_ENDS),
    GpuFault("lost-and-cancelled", lost_and_cancelled, ("xid 79",), gpu="quarantine: reboot", job="cancelled", attempts=1, compound=True),
    GpuFault("lost-and-stubborn", stubborn, ("xid 79", "lost"), **LOST_ENDS),
    GpuFault("lost-and-the-other-gpu-held", foreign_on_the_rest, ("xid 79", "held", "held no more"), **LOST_ENDS),
    GpuFault("hot-and-then-lost", hot_and_lost, ("throttled", "xid 79"), **LOST_ENDS),
    GpuFault("all-gpus-lost-at-once", all_at_once, ("xid 79", "lost"), **WAITS, gpus=4),
    GpuFault("fault-reset-test-and-back", full_circle, ("reset done", "test passed"), gpu="usable", job="elsewhere", cause="gpu-fault", attempts=2, compound=True, tables={"gpu": {**MAY_RESET["gpu"], **QUICK_BACK["gpu"], "self_test": "quarantine"}}, check=next_gets_it),
)  # fmt: skip
