"""What NVML, the PCI bus and the machine show of a GPU while a training runs on it, or ought to start there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from gpu_faults import NAME, PATIENCE_S, GpuFault, GpuScene, until

from tests.fake_nvml.room import (
    DRIVER_NOT_LOADED,
    LOST,
    NO_PERMISSION,
    READS,
    RESET_REQUIRED,
    UNKNOWN,
    VERSION_MISMATCH,
    FakeDriver,
)

Play = Callable[[GpuScene], None]
Change = Callable[[FakeDriver, int], None]


def under(change: Change) -> Play:
    """Something changes about the GPU of a training."""

    def play(scene: GpuScene) -> None:
        scene.train()
        scene.struck()
        change(scene.driver, scene.victim)

    return play


def over(change: Change, word: str, back: Change) -> Play:
    """It changes, is found, and is well again."""

    def play(scene: GpuScene) -> None:
        under(change)(scene)
        scene.wait_record(word)
        back(scene.driver, scene.victim)

    return play


def well_again(driver: FakeDriver, gpu: int) -> None:
    """It answers, and the driver says that nothing needs to be done any more."""
    driver.heal(gpu)
    driver.xid(gpu, 154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)")


def lost_to(slot: str) -> Change:
    """NVML has lost it; `slot` is what the PCI bus shows."""
    return lambda driver, gpu: driver.lose(gpu, LOST, slot=slot)


def gone(driver: FakeDriver, gpu: int) -> None:
    """Neither the driver nor the bus has it any more."""
    with driver.together():
        driver.fail(gpu, LOST)
        driver.unlist(gpu)
    driver.slots.remove(driver.bus_id(gpu))


def whole(code: int) -> Change:
    """The driver as a whole: nothing can be read, and it cannot be opened anew."""

    def change(driver: FakeDriver, _gpu: int) -> None:
        with driver.together():
            driver.init_fails(code)
            for gpu in range(driver.count):
                driver.fail(gpu, code)

    return change


def next_waits(words: str) -> Play:
    """The next training waits, and says why."""

    def check(scene: GpuScene) -> None:
        scene.job("next", gpus=1)
        run = scene.wait_run("next", "QUEUED", "GPU")
        assert words in run["waiting_for"], run["waiting_for"]

    return check


def next_elsewhere(scene: GpuScene) -> None:
    """The next training is put on the other GPU."""
    scene.job("next", gpus=1)
    assert scene.gpus_of("next") == (1 - scene.victim,)


def recovery_then_reads(scene: GpuScene) -> None:
    """The driver wants a reset; then every read says so, too."""
    scene.train()
    scene.driver.recovery(scene.victim, 1)
    scene.wait_record("recovery-reset")
    scene.struck()
    scene.driver.fail(scene.victim, RESET_REQUIRED)


def growing(**step: int) -> Play:
    """Counters that grow for three seconds: ecc (corrected errors) or replays, at each step."""

    def play(scene: GpuScene) -> None:
        scene.train()
        scene.struck()
        for number in range(1, 16):
            if "corrected" in step:
                scene.driver.ecc(scene.victim, uncorrected=0, corrected=step["corrected"])
            else:
                scene.driver.link(scene.victim, replays=number * step["replays"])
            time.sleep(0.2)

    return play


def probe(scene: GpuScene) -> int:
    """The process that asks the driver."""
    assert scene.server.daemon is not None
    daemon = scene.server.daemon.pid

    def look() -> int:
        tasks = Path(f"/proc/{daemon}/task").iterdir()
        return next(
            (int(one.name) for task in tasks for one in _children(task) if b"gpu_probe" in _read(one, "cmdline")), 0
        )

    return until(look, "the probe runs", PATIENCE_S)


def _children(task: Path) -> list[Path]:
    return [Path("/proc", pid) for pid in _read(task, "children").decode().split()]


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError:  # it ended in this moment
        return b""


def probe_killed(scene: GpuScene) -> None:
    """Somebody kills the probe; the next one is there soon, and sees what happens then."""
    scene.train()
    first = probe(scene)
    scene.struck()
    os.kill(first, signal.SIGKILL)
    until(lambda: probe(scene) not in {0, first}, "there is a new probe", PATIENCE_S)
    scene.driver.remap(scene.victim, pending=True)


def upgraded_unseen(scene: GpuScene) -> None:
    """The driver was upgraded: the running probe has the old library and goes on; the next one cannot begin."""
    scene.train()
    first = probe(scene)
    scene.struck()
    scene.driver.init_fails(VERSION_MISMATCH)
    os.kill(first, signal.SIGKILL)


def other_is_read(scene: GpuScene) -> None:
    """The other GPU is looked at all the while."""
    other = 1 - scene.victim
    before = scene.driver.calls(gpu=other)
    until(lambda: scene.driver.calls(gpu=other) > before + 20, "the other GPU is looked at", PATIENCE_S)


def said(line: str, **more: int) -> Play:
    """A line in the kernel log; {bus} is the GPU's, {pid} the trainer's."""

    def play(scene: GpuScene) -> None:
        scene.train()
        scene.kernel(line.replace("{pid}", str(scene.server.attempt(NAME).pid)), **more)

    return play


def out_of_memory(scene: GpuScene) -> None:
    """The kernel ends the training for want of memory."""
    said(
        "Out of memory: Killed process {pid} (python3) total-vm:41943040kB, anon-rss:33554432kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:81920kB oom_score_adj:0"
    )(scene)
    os.kill(scene.server.attempt(NAME).pid, signal.SIGKILL)


def power_is_limited(scene: GpuScene) -> None:
    """The hot GPU gets four fifths of its 350 W."""
    until(lambda: scene.driver.power_limit_w(scene.victim) == 280, lambda: f"280 W: {scene.driver.sets()}")


def unseen(word: str) -> Play:
    """This is not on record."""

    def check(scene: GpuScene) -> None:
        assert word not in scene.records(), scene.records()

    return check


def stuck_counter(scene: GpuScene) -> None:
    """The idle GPU shows full load at idle power, and nobody is on it."""
    scene.train()
    scene.victim = 1 - scene.victim
    scene.struck()
    scene.driver.set(scene.victim, utilization=100, power_mw=40_000)


def link_down(scene: GpuScene) -> None:
    """The two GPUs of a training are joined by NVLink, which goes down."""
    scene.driver.nvlink(0, 1)
    scene.train(gpus=2)
    calls = "nvmlDeviceGetNvLinkState"
    until(lambda: scene.driver.calls(calls, 0) > 0 < scene.driver.calls(calls, 1), "the link was seen up", PATIENCE_S)
    before = scene.driver.calls(calls, scene.victim)
    until(lambda: scene.driver.calls(calls, scene.victim) > before, "and is looked at again", PATIENCE_S)
    scene.struck()
    scene.driver.nvlink(0, 1, up=False)


def at_start(scene: GpuScene) -> None:
    """A GPU is lost while nobody uses it; the training that comes then gets the other one."""
    scene.struck()
    scene.driver.lose(0, LOST)
    scene.wait_record("lost")
    scene.job()


def limits(**values: float) -> dict[str, dict[str, object]]:
    """A configuration with other thresholds."""
    return {"gpu": {"limits": values}}


LOST_ENDS = {"gpu": "quarantine: reboot", "job": "elsewhere", "cause": "gpu-lost", "attempts": 2}
RESET_ENDS = {"gpu": "quarantine: reset", "job": "elsewhere", "cause": "gpu-fault", "attempts": 2}
KEEPS = {"gpu": "usable", "job": "goes on", "attempts": 1}
OUT = {"job": "goes on", "attempts": 1}
SOON = {"rate_interval_s": 0.5, "link_for_s": 0, "ecc_corrected_for_s": 1}

DRIVER_FAULTS = (
    # ---- is it there at all
    GpuFault("lost-nvml-only", under(lost_to("alive")), ("lost",), gpu="quarantine: reboot", **OUT, quick=True, check=next_elsewhere),
    GpuFault("lost-nvml-and-slot-dead", under(lost_to("dead")), ("lost",), **LOST_ENDS, quick=True),
    GpuFault("lost-nvml-and-slot-gone", under(lost_to("gone")), ("lost",), **LOST_ENDS),
    GpuFault("lost-not-listed", under(gone), ("lost",), **LOST_ENDS),
    GpuFault("lost-while-idle", at_start, ("lost",), gpu="quarantine: reboot", job="starts", attempts=1),
    GpuFault("lost-and-back", over(lost_to("alive"), "lost", lambda d, g: d.back(g)), ("lost", "lost is over"), gpu="quarantine: reboot", **OUT, tables=limits(answer_quiet_s=1, state_quiet_s=1)),
    GpuFault("kernel-says-fallen-nvml-does-not", said("NVRM: GPU at PCI:{bus}: GPU has fallen off the bus."), ("lost",), gpu="quarantine: reboot", **OUT),
    # ---- can it be read
    GpuFault("unknown-error", under(lambda d, g: d.fail(g, UNKNOWN)), ("unknown-error",), gpu="blocked", **OUT),
    GpuFault("unknown-error-over", over(lambda d, g: d.fail(g, UNKNOWN), "unknown-error", lambda d, g: d.heal(g)), ("unknown-error is over",), **KEEPS, tables=limits(answer_quiet_s=1)),
    GpuFault("hang-of-a-call", under(lambda d, g: d.hang(g, "nvmlDeviceGetUtilizationRates")), ("unresponsive",), gpu="blocked", **OUT, check=other_is_read, quick=True),
    GpuFault("hang-over", over(lambda d, g: d.hang(g, READS), "unresponsive", well_again), ("unresponsive is over",), **KEEPS, tables=limits(answer_quiet_s=1)),
    GpuFault("reset-required", under(lambda d, g: d.fail(g, RESET_REQUIRED)), ("reset-required",), gpu="quarantine: reset", **OUT),
    GpuFault("recovery-action-reset", under(lambda d, g: d.recovery(g, 1)), ("recovery-reset",), gpu="quarantine: reset", **OUT),
    GpuFault("recovery-action-drain", under(lambda d, g: d.recovery(g, 4)), ("recovery-drain",), gpu="blocked", **OUT),
    GpuFault("recovery-then-reset-required", recovery_then_reads, ("recovery-reset", "reset-required"), **RESET_ENDS),
    # ---- the driver as a whole
    GpuFault("probe-segfault", over(lambda d, g: d.crash(g, READS), "unresponsive", well_again), ("driver crashed", "unresponsive is over"), **KEEPS),
    GpuFault("probe-killed", probe_killed, ("remap-pending",), **KEEPS),
    GpuFault("driver-upgraded", under(whole(VERSION_MISMATCH)), ("driver version-mismatch",), gpu="unreachable", **OUT, check=next_waits("upgraded"), quick=True),
    GpuFault("driver-upgraded-probe-anew", upgraded_unseen, ("driver version-mismatch",), gpu="unreachable", **OUT, check=next_waits("upgraded")),
    GpuFault("driver-unloaded", under(whole(DRIVER_NOT_LOADED)), ("driver no-driver",), gpu="unreachable", **OUT, check=next_waits("not loaded")),
    GpuFault("driver-forbidden", under(whole(NO_PERMISSION)), ("driver no-permission",), gpu="unreachable", **OUT, check=next_waits("may not")),
    # ---- memory
    GpuFault("ecc-uncorrected-alone", under(lambda d, g: d.ecc(g, uncorrected=1)), ("ecc-uncorrected",), gpu="quarantine: reset", **OUT),
    GpuFault("ecc-corrected-storm", growing(corrected=20_000), ("ecc-rate",), **KEEPS, tables=limits(**SOON)),
    GpuFault("remap-pending", under(lambda d, g: d.remap(g, pending=True)), ("remap-pending",), **KEEPS),
    GpuFault("remap-failed", under(lambda d, g: d.remap(g, failed=True)), ("remap-failed",), gpu="quarantine: person", **OUT),
    # ---- heat and power
    GpuFault("hot", under(lambda d, g: d.hot(g, margin=4, temperature=86, reasons=0)), ("hot",), **KEEPS, tables=limits(hot_for_s=1)),
    GpuFault("too-hot", under(lambda d, g: d.hot(g, margin=-3, reasons=0)), ("too-hot",), gpu="blocked", **OUT, quick=True, check=next_elsewhere),
    GpuFault("heat-throttle", under(lambda d, g: d.throttle(g, 0x40)), ("throttled",), gpu="blocked", **OUT),
    GpuFault("heat-throttle-over", over(lambda d, g: d.throttle(g, 0x40), "throttled", lambda d, g: d.throttle(g, 0)), ("throttled is over",), **KEEPS, tables=limits(heat_quiet_s=1, brake_within_s=2)),
    GpuFault("heat-power-cap", under(lambda d, g: d.throttle(g, 0x40)), ("throttled", "power done"), gpu="blocked", **OUT, check=power_is_limited, tables={"gpu": {"power_cap": "80%"}}),
    GpuFault("power-brake", under(lambda d, g: d.throttle(g, 0x80)), ("throttled",), gpu="blocked", **OUT),
    GpuFault("power-cap-is-normal", under(lambda d, g: d.throttle(g, 0x4)), (), **KEEPS, check=unseen("throttled")),
    # ---- links
    GpuFault("pcie-narrow", under(lambda d, g: d.link(g, width=4)), ("pcie-narrow",), **KEEPS, tables=limits(link_for_s=0)),
    GpuFault("pcie-replays", growing(replays=400), ("pcie-replays",), gpu="blocked", **OUT, tables=limits(**SOON)),
    GpuFault("nvlink-down", link_down, ("nvlink-down",), **KEEPS, tables=limits(link_for_s=0)),
    GpuFault("stuck-utilization", stuck_counter, ("stuck-utilization",), **KEEPS, tables=limits(stuck_for_s=1)),
    # ---- the kernel log
    GpuFault("joker-with-logger", said("NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=x, GPU has fallen off the bus.", facility=1), (), **KEEPS, check=unseen("xid 79")),
    GpuFault("joker-with-usb-name", said("usb 1-1: Product: NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=x, GPU has fallen off the bus."), (), **KEEPS, check=unseen("xid 79")),
    GpuFault("oom-killer", out_of_memory, ("kernel oom",), gpu="usable", job="same GPU", cause="host-oom", attempts=2),
    GpuFault("disk-error", said("I/O error, dev nvme0n1, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2"), ("kernel io-error",), **KEEPS),
    GpuFault("file-system-read-only", said("EXT4-fs (nvme0n1p2): Remounting filesystem read-only"), ("kernel read-only",), **KEEPS),
)  # fmt: skip
