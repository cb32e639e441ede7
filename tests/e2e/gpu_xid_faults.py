"""Xids in the kernel log under a training: each family of the table once, and what must not end anything."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from gpu_faults import NAME, GpuFault, GpuScene, until

from tests.fake_nvml.room import LOST, RESET_REQUIRED

Play = Callable[[GpuScene], None]

FALLEN = "GPU has fallen off the bus."
DBE = "An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at partition 6, subpartition 0."
WARP = "Graphics SM Warp Exception on (GPC {}, TPC {}, SM 0): Out Of Range Address"
MMU = (
    "Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_3 faulted @ 0x7f41_22000000. "
    "Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ"
)
ASKED = "GPU recovery action changed from 0x0 (None) to 0x{:x} ({})"
NVLINK = "RLW_RSPCOL {} XC0 i0 Link 04 (0x00000085 0x00000002 0x00000000 0x00000000)"
CONTAINED = "Contained: SM (0x1). RST: No, D-RST: No"
UNKNOWN_PID = "'<unknown>'"
RESET, REBOOT = 1, 2


def xid(code: int, text: str = "", **more: object) -> Play:
    """An Xid, and nothing else that says so."""

    def play(scene: GpuScene) -> None:
        scene.train()
        scene.xid(code, text, **more)

    return play


def asked(code: int, text: str = "", action: int = RESET, **more: object) -> Play:
    """An Xid, after which the driver itself says what the GPU needs."""

    def play(scene: GpuScene) -> None:
        scene.train()
        scene.driver.recovery(scene.victim, action)
        scene.xid(code, text, **more)

    return play


def lost(scene: GpuScene) -> None:
    """It fell off the bus: the kernel says so, and NVML too."""
    scene.train()
    scene.driver.lose(scene.victim, LOST, slot="alive")
    scene.xid(79, FALLEN, pid=UNKNOWN_PID, name="<unknown>")


def fallen(line: str) -> Play:
    """It fell off the bus, and the kernel says so without an Xid."""

    def play(scene: GpuScene) -> None:
        scene.train()
        scene.driver.lose(scene.victim, LOST, slot="alive")
        scene.kernel(line)

    return play


def said(line: str) -> Play:
    """A line in the kernel log, and nothing else."""

    def play(scene: GpuScene) -> None:
        scene.train()
        scene.kernel(line)

    return play


def double_bit(scene: GpuScene) -> None:
    """An uncorrectable error of memory, that both count."""
    scene.train()
    scene.driver.ecc(scene.victim, uncorrected=1)
    scene.xid(48, DBE, pid=scene.server.attempt(NAME).pid)


def dies_of(code: int, text: str) -> Play:
    """An Xid that ends the program whose it is."""

    def play(scene: GpuScene) -> None:
        scene.train()
        pid = scene.server.attempt(NAME).pid
        scene.xid(code, text, pid=pid)
        scene.wait_record(f"xid {code}")
        os.kill(pid, signal.SIGKILL)

    return play


def thrice(scene: GpuScene) -> None:
    """A contained error of memory in each of three attempts."""
    scene.train(restart={"backoff": "1s", "backoff_max": "1s"})
    for number in (1, 2, 3):
        scene.under_way(NAME, number)
        pid = scene.server.attempt(NAME, number).pid
        before = len(scene.rows("XidSeen"))
        scene.xid(94, CONTAINED, gpu=scene.gpus_of(NAME, number)[0], pid=pid)
        until(lambda before=before: len(scene.rows("XidSeen")) > before, "it is on record")  # type: ignore[misc]
        os.kill(pid, signal.SIGKILL)


def after_our_kill(scene: GpuScene) -> None:
    """A person ends the training at once; the driver cleans up, and says so."""
    scene.train()
    pid = scene.server.attempt(NAME).pid
    scene.server.order("stop", NAME, now=True)
    scene.wait_run(NAME, "HELD")
    scene.xid(45, "Ch 00000010", pid=pid)
    scene.wait_record("xid 45")


def nvml_only(scene: GpuScene) -> None:
    """The kernel log cannot be read: the event of NVML is all there is, and the GPU is lost to it."""
    scene.train()
    scene.driver.lose(scene.victim, LOST, slot="dead")
    scene.xid(79, kernel=False)


def idle_neighbour(scene: GpuScene) -> None:
    """The GPU that nobody uses falls off the bus; the training is on the other one."""
    scene.train()
    scene.victim = 1 - scene.victim
    scene.driver.lose(scene.victim, LOST)
    scene.xid(79, FALLEN)


def nvml_first(code: int, text: str) -> Play:
    """NVML tells of the Xid a moment before the kernel's line, which says more, is read."""

    def play(scene: GpuScene) -> None:
        scene.train()
        scene.xid(code, kernel=False)
        scene.wait_record(f"xid {code}")
        scene.xid(code, text, event=False)

    return play


def link_of_two(scene: GpuScene) -> None:
    """A fatal error of the link between two GPUs of one training, which dies of it."""
    scene.train(gpus=2)
    pid = scene.server.attempt(NAME).pid
    scene.xid(74, "NVLink: fatal error detected on link 3(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)", pid=pid)
    scene.wait_record("xid 74")
    os.kill(pid, signal.SIGKILL)


def needs_reset(scene: GpuScene) -> None:
    """Every read says that a reset is required, and so does the driver's line."""
    scene.train()
    scene.driver.fail(scene.victim, RESET_REQUIRED)
    scene.xid(154, ASKED.format(RESET, "GPU Reset Required"))


def engaged_again(scene: GpuScene) -> None:
    """Power smoothing is lost and comes back."""
    scene.train()
    scene.xid(163, "Power smoothing HW circuitry capability disengaged")
    scene.xid(162, "Power smoothing HW circuitry capability reengaged")


def one_job_two_gpus(scene: GpuScene) -> None:
    """The same illegal access of one job, on one GPU, and twice at one place of another: the program is wrong.

    Without the first one the second GPU would have to be tested.
    """
    scene.train(restart={"backoff": "1s", "backoff_max": "1s"})
    for number, place in ((1, (4, 0)), (2, (2, 1)), (3, (2, 1))):
        scene.under_way(NAME, number)
        scene.victim = scene.gpus_of(NAME, number)[0]
        before, pid = len(scene.rows("XidSeen")), scene.server.attempt(NAME, number).pid
        scene.xid(13, WARP.format(*place), pid=pid, event=False)
        until(lambda before=before: len(scene.rows("XidSeen")) > before, "it is on record")  # type: ignore[misc]
        if number == 1:
            scene.order("drain")
        if number < 3:
            os.kill(pid, signal.SIGKILL)


def one_place_two_jobs(scene: GpuScene) -> None:
    """Two jobs have an illegal access at the same unit of one GPU: the GPU is wrong."""
    first = scene.train("first")
    pid = scene.server.attempt("first").pid
    scene.xid(13, WARP.format(2, 1), gpu=first, pid=pid)
    scene.wait_record("xid 13")
    scene.server.order("cancel", "first", now=True)
    scene.wait_run("first", "CANCELLED")
    scene.train()
    before = len(scene.rows("XidSeen"))
    scene.xid(13, WARP.format(2, 1), pid=scene.server.attempt(NAME).pid)
    until(lambda: len(scene.rows("XidSeen")) > before, "it is on record")


def shows_todo(words: str) -> Play:
    """What a person is told to do contains this; {uuid} stands for the victim."""

    def check(scene: GpuScene) -> None:
        todo = scene.gpu()["todo"]
        assert words.format(uuid=scene.driver.uuid(scene.victim)) in todo, todo

    return check


def nothing_called(scene: GpuScene) -> None:
    """After a failure of the GPU's own processor no call is made to it; the other GPUs are looked at on."""
    other = 1 - scene.victim
    before = scene.driver.calls(gpu=other)
    quiet = scene.driver.calls(gpu=scene.victim)
    until(lambda: scene.driver.calls(gpu=other) > before + 20, "the other GPU is looked at")
    assert scene.driver.calls(gpu=scene.victim) == quiet


LOST_ENDS = {"gpu": "quarantine: reboot", "job": "elsewhere", "cause": "gpu-lost", "attempts": 2}
RESET_ENDS = {"gpu": "quarantine: reset", "job": "elsewhere", "cause": "gpu-fault", "attempts": 2}
MEMORY_ENDS = {**RESET_ENDS, "cause": "gpu-memory-error"}
KEEPS = {"gpu": "usable", "job": "goes on", "attempts": 1}
OUT = {"job": "goes on", "attempts": 1}

XID_FAULTS = (
    # ---- the GPU cannot go on, and a second source says so too
    GpuFault("xid-79-and-nvml", lost, ("xid 79", "lost"), **LOST_ENDS, quick=True),
    GpuFault("xid-79-by-nvml-only", nvml_only, ("xid 79", "lost"), **LOST_ENDS),
    GpuFault("xid-167-and-driver", asked(167, "PCIe fatal timeout", REBOOT), ("xid 167", "recovery-reboot"), **{**LOST_ENDS, "cause": "gpu-fault"}),
    GpuFault("fallen-off-form-1", fallen("NVRM: GPU at PCI:{bus}: GPU has fallen off the bus."), ("lost",), **LOST_ENDS),
    GpuFault("fallen-off-form-2", fallen("NVRM: The NVIDIA GPU {bus} (PCI ID: 10de:26b9) installed in this system has fallen off the bus and is not responding to commands."), ("lost",), **LOST_ENDS),
    GpuFault("xid-48-and-ecc", double_bit, ("xid 48", "ecc-uncorrected"), **MEMORY_ENDS, quick=True),
    GpuFault("xid-95-and-driver", asked(95, "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No"), ("xid 95", "recovery-reset"), **MEMORY_ENDS),
    GpuFault("xid-140-and-driver", asked(140, "Unrecovered ECC error, DRAM (0x1)"), ("xid 140", "recovery-reset"), **MEMORY_ENDS),
    GpuFault("xid-46-and-driver", asked(46, "Channel 00000008, GPU timeout"), ("xid 46", "recovery-reset"), **RESET_ENDS),
    GpuFault("xid-62-and-driver", asked(62, "2f8c(2d50) 00000000 00000000", pid=UNKNOWN_PID), ("xid 62", "recovery-reset"), **RESET_ENDS),
    GpuFault("xid-154-reset-and-nvml", needs_reset, ("xid 154", "reset-required"), **RESET_ENDS, check=shows_todo("--gpu-reset -i {uuid}")),
    # ---- it cannot go on, but nobody else says so: nothing is ended, nothing new starts there
    GpuFault("xid-79-alone", xid(79, FALLEN), ("xid 79",), gpu="quarantine: reboot", **OUT),
    GpuFault("xid-119-alone", xid(119, "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 (GSP_RM_CONTROL) (0x20802a02 0x8)."), ("xid 119",), gpu="quarantine: reset", **OUT, check=nothing_called),
    GpuFault("xid-120-alone", xid(120, "GSP task exception: load access fault (5) @ pc:0x4a2c18, partition:4#0, task:3"), ("xid 120",), gpu="quarantine: reset", **OUT, check=nothing_called),
    GpuFault("xid-110-alone", xid(110, "security fault, 0x0000beef"), ("xid 110",), gpu="quarantine: reset", **OUT),
    GpuFault("xid-109-alone", xid(109, "Ch 0000000b, errorString CTX SWITCH TIMEOUT, Info 0x1c004"), ("xid 109",), gpu="quarantine: reset", **OUT),
    GpuFault("xid-64-alone", xid(64, "Row Remapper: Failed to activate row remapping, all reserved rows are in use."), ("xid 64",), gpu="quarantine: reset", **OUT),
    GpuFault("xid-54-no-power", xid(54, "Auxiliary power is not connected"), ("xid 54",), gpu="quarantine: person", **OUT),
    GpuFault("xid-143-init", xid(143, "GPU initialization error, 0x62"), ("xid 143",), gpu="quarantine: person", **OUT),
    GpuFault("xid-145-fatal", xid(145, NVLINK.format("Fatal")), ("xid 145",), gpu="quarantine: reset", **OUT),
    GpuFault("xid-154-reboot", xid(154, ASKED.format(REBOOT, "Node Reboot Required")), ("xid 154",), gpu="quarantine: reboot", **OUT),
    GpuFault("xid-154-by-nvml-first", nvml_first(154, ASKED.format(REBOOT, "Node Reboot Required")), ("xid 154",), gpu="quarantine: reboot", **OUT),
    GpuFault("xid-145-fatal-by-nvml-first", nvml_first(145, NVLINK.format("Fatal")), ("xid 145",), gpu="quarantine: reset", **OUT),
    # ---- of the program: it goes on, or resumes where it was
    GpuFault("xid-13-dies", dies_of(13, WARP.format(2, 1)), ("xid 13",), gpu="usable", job="same GPU", cause="cuda-illegal-access", attempts=2),
    GpuFault("xid-31-survives", xid(31, MMU), ("xid 31",), **KEEPS),
    GpuFault("xid-13-one-job-two-gpus", one_job_two_gpus, ("xid 13",), gpu="usable", job="elsewhere", cause="cuda-illegal-access", attempts=3),
    GpuFault("xid-13-one-place-two-jobs", one_place_two_jobs, ("xid 13",), gpu="quarantine: test", **OUT),
    GpuFault("xid-94-dies", dies_of(94, CONTAINED), ("xid 94",), gpu="usable", job="same GPU", cause="killed", attempts=2),
    GpuFault("xid-94-three-times", thrice, ("xid 94",), gpu="quarantine: reset", job="elsewhere", cause="gpu-memory-error", attempts=4),
    GpuFault("xid-8-dies", dies_of(8, "Channel 00000012"), ("xid 8",), gpu="usable", job="same GPU", cause="killed", attempts=2),
    GpuFault("xid-44-dies", dies_of(44, "Ch 00000010"), ("xid 44",), gpu="usable", job="elsewhere", cause="gpu-fault", attempts=2),
    GpuFault("xid-74-link-of-two", link_of_two, ("xid 74",), gpu="usable", job="elsewhere", cause="gpu-link", attempts=2, gpus=4),
    # ---- must not do anything to the training or to the GPU
    GpuFault("xid-43", xid(43, "Ch 00000010"), ("xid 43",), **KEEPS),
    GpuFault("xid-45", xid(45, "Ch 00000010"), ("xid 45",), **KEEPS),
    GpuFault("xid-45-after-our-kill", after_our_kill, ("xid 45",), gpu="usable", job="held", attempts=1),
    GpuFault("xid-63-remap", xid(63, "Row Remapper: New row marked for remapping, reset gpu to activate.", pid=UNKNOWN_PID), ("xid 63",), **KEEPS),
    GpuFault("xid-92-ecc-rate", xid(92, "High single-bit ECC error rate"), ("xid 92",), **KEEPS),
    GpuFault("xid-121-c2c", xid(121, "C2C link corrected error"), ("xid 121",), **KEEPS),
    GpuFault("xid-154-none", xid(154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"), ("xid 154",), **KEEPS),
    GpuFault("xid-154-drain", xid(154, ASKED.format(4, "Drain and Reset")), ("xid 154",), **KEEPS),
    GpuFault("xid-145-nonfatal", xid(145, NVLINK.format("Nonfatal")), ("xid 145",), **KEEPS),
    GpuFault("xid-162-after-163", engaged_again, ("xid 163", "xid 162"), **KEEPS),
    GpuFault("xid-unknown-number", xid(987, "a thing of the future"), ("xid 987",), **KEEPS),
    GpuFault("xid-unknown-bus", said("NVRM: Xid (PCI:0000:7f:00): 79, pid=1733, name=python, GPU has fallen off the bus."), ("xid 79",), **KEEPS),
    GpuFault("xid-overridden", xid(79, FALLEN), ("xid 79",), **KEEPS, tables={"gpu": {"xid": [{"xid": 79, "attempt": "none", "gpu": "note"}]}}),
    GpuFault("xid-79-idle-neighbour", idle_neighbour, ("xid 79", "lost"), gpu="quarantine: reboot", **OUT, quick=True),
)  # fmt: skip
