"""What can be wrong with a GPU: one row for each kind of finding, and what it leads to."""

from __future__ import annotations

import msgspec


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of finding.

    `severity`: page (a person must act), notice or info. `blocks`: no new training starts there while it lasts.
    `cause` (of causes.toml): it is a sign that the GPU cannot go on computing; a second sign from another source ends
    what runs on it. `needs`: the GPU goes into quarantine, until that was done and it passed its test. `todo` is what a
    person can do; {index} and {uuid} stand for the GPU.
    """

    title: str
    severity: str = "notice"
    blocks: bool = False
    cause: str = ""
    needs: str = ""
    todo: str = ""


_RESET = "nvidia-smi --gpu-reset -i {uuid}"
_POWER = (
    "if it is a power brake: check power supply and power cables; if it is heat: fans, air flow and room temperature"
)
_COOLING = "look at fans, air flow and room temperature; `nvidia-smi -q -d TEMPERATURE,PERFORMANCE -i {uuid}`"

KINDS: dict[str, Kind] = {
    "lost": Kind(
        title="is lost",
        severity="page",
        blocks=True,
        cause="gpu-lost",
        needs="reboot",
        todo="restart the machine; if it comes again, check power cables, slot and temperature",
    ),
    "unknown-error": Kind(
        title="cannot be read",
        severity="notice",
        blocks=True,
        todo="look at `dmesg -T | grep -i nvrm`; it is watched on and used again when it answers",
    ),
    "reset-required": Kind(
        title="must be reset", severity="page", blocks=True, cause="gpu-fault", needs="reset", todo=_RESET
    ),
    "recovery-reset": Kind(
        title="must be reset, says the driver",
        severity="page",
        blocks=True,
        cause="gpu-fault",
        needs="reset",
        todo=_RESET,
    ),
    "recovery-reboot": Kind(
        title="needs a restart of the machine, says the driver",
        severity="page",
        blocks=True,
        cause="gpu-fault",
        needs="reboot",
        todo="restart the machine when its trainings may be stopped: yolo-supervisor drain, then reboot",
    ),
    "recovery-drain": Kind(title="wants a reset when it is idle, says the driver", blocks=True, todo=_RESET),
    "unresponsive": Kind(
        title="does not answer",
        severity="page",
        blocks=True,
        cause="gpu-firmware",
        todo="the driver hangs in a call: see `dmesg -T | tail`; a restart of the machine is usually needed",
    ),
    "ecc-uncorrected": Kind(
        title="has uncorrectable memory errors",
        severity="page",
        blocks=True,
        cause="gpu-memory-error",
        needs="reset",
        todo=_RESET,
    ),
    "ecc-rate": Kind(
        title="corrects very many memory errors",
        todo="plan its replacement; `nvidia-smi -q -d ECC,ROW_REMAPPER -i {uuid}` shows the counts",
    ),
    "remap-pending": Kind(title="has a memory row to remap", todo=f"when it is idle: {_RESET}"),
    "remap-failed": Kind(
        title="could not remap a memory row",
        severity="page",
        blocks=True,
        needs="person",
        todo="have the GPU replaced; `yolo-supervisor gpu bundle {index}` collects the evidence",
    ),
    "rows-worn": Kind(
        title="has replaced nearly all its spare memory rows",
        todo="plan its replacement; `nvidia-smi -q -d ROW_REMAPPER -i {uuid}` shows the counts",
    ),
    "pages-worn": Kind(
        title="has retired nearly all the memory pages it may",
        todo="plan its replacement; `nvidia-smi -q -d PAGE_RETIREMENT -i {uuid}` shows the counts",
    ),
    "hot": Kind(title="is hot", todo=_COOLING),
    "too-hot": Kind(title="is at its thermal limit", severity="page", blocks=True, todo=_COOLING),
    "throttled": Kind(title="is slowed down by heat or power", severity="page", blocks=True, todo=_POWER),
    "slowed": Kind(title="is slowed down by its hardware", todo=_COOLING),
    "slow-by-heat": Kind(title="lost speed to heat", severity="info", todo=_COOLING),
    "pcie-narrow": Kind(title="uses fewer PCIe lanes than it has", todo="reseat the card; check riser and slot"),
    "pcie-slow": Kind(title="uses a slower PCIe generation under load", todo="check riser, slot and BIOS settings"),
    "pcie-replays": Kind(title="repeats very much on PCIe", todo="reseat the card; check riser and slot"),
    "pcie-storm": Kind(
        title="hardly gets anything over PCIe",
        severity="page",
        blocks=True,
        todo="reseat the card; check riser, slot and power cables",
    ),
    "nvlink-down": Kind(title="has an NVLink that is down", todo="`nvidia-smi nvlink -s -i {uuid}`; check the bridge"),
    "nvlink-errors": Kind(title="has errors on NVLink", todo="`nvidia-smi nvlink -e -i {uuid}`; check the bridge"),
    "stuck-memory": Kind(
        title="has memory in use that no process holds",
        todo=f"a process in a container may hide it; else, when it is idle: {_RESET}",
    ),
    "stuck-utilization": Kind(
        title="shows load although nothing runs on it", severity="info", todo="harmless; a reset clears the counter"
    ),
}
