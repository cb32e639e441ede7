"""The driver as a whole: what each of its states means and what helps, and the driver that hangs after two months."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Words of a state (core.gpus.events.GpusSeen) and what a person can do.
_WORDS = {
    "no-driver": (
        "the NVIDIA driver is not loaded",
        "`sudo modprobe nvidia` loads it; after an upgrade of the kernel it may have to be built anew (`dkms status`)",
    ),
    "no-library": (
        "the driver's library libnvidia-ml.so.1 was not found, so nobody watches the GPUs",
        "install the driver's user-space part (Debian: libnvidia-ml1; in a container: the NVIDIA container toolkit)",
    ),
    "old-binding": (
        "Python's module pynvml is not that of nvidia-ml-py, so nobody watches the GPUs",
        "pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py",
    ),
    "version-mismatch": (
        "the driver was upgraded, but the old one is still loaded",
        "what runs goes on; restart the machine, or unload and load the nvidia modules, when nothing uses the GPUs",
    ),
    "no-permission": (
        "the driver may not be asked",
        "the user of the supervisor needs /dev/nvidia*; in a container its cgroup must allow them",
    ),
    "error": ("the driver answers with an error", "see `nvidia-smi` and `dmesg -T | grep -i nvrm`"),
    "crashed": (
        "the driver's library brings down who asks it",
        "see `dmesg -T | tail`; restart the machine if it goes on",
    ),
    "unresponsive": ("the driver does not answer", "see `dmesg -T | tail`; usually the machine must be restarted"),
}

#: Reports are of B200 with open kernel modules of 570.133.20 and 580.105.08 (NVIDIA/open-gpu-kernel-modules #971):
#: after 66 days and 12 hours of uptime every call hangs until a restart. No release is known to us that names a fix, so
#: all of these branches are warned of, on the data-centre cards of that generation.
HANGS_AFTER_S = (66 * 24 + 12) * 3600.0
WARN_BEFORE_S = 7 * 86400.0
_BRANCHES = range(570, 590)
_CARDS = re.compile(r"\b(G?B[123]00)\b")


def described(state: str, detail: str = "") -> str:
    """Return a state in words, with what helps; empty for a state in which nothing is wrong."""
    if state not in _WORDS:
        return ""
    words, todo = _WORDS[state]
    return f"{words}{f' ({detail})' if detail else ''}; {todo}"


def uptime_warning(version: str, names: Iterable[str], uptime_s: float, *, open_module: bool) -> str:
    """Return a warning if this driver is known to hang at an uptime that is near or past; else an empty text."""
    branch = version.partition(".")[0]
    known = open_module and branch.isdigit() and int(branch) in _BRANCHES and any(map(_CARDS.search, names))
    if not known or uptime_s < HANGS_AFTER_S - WARN_BEFORE_S:
        return ""
    weeks = int(uptime_s / 86400 / 7)
    return (
        f"this machine is up for {weeks} weeks and more: drivers like {version} with open kernel modules are known to "
        "hang after 66 days and 12 hours (NVIDIA/open-gpu-kernel-modules #971); restart it when its trainings may be "
        "stopped"
    )
