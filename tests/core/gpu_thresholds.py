"""Each threshold of a GPU, with what is just bad and what just is not."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu_weather import WITHOUT_MARGIN, Grows, Weather, failed

from supervisor.core.gpus.limits import Limits, for_gpu
from supervisor.core.gpus.readings import ABSENT, Failed


@dataclass
class Case:
    """A threshold: what is bad, what is just not, after how long it must have been found, how long is too short."""

    kind: str
    bad: dict
    below: dict
    within_s: float
    short_s: float = 0.0
    base: dict = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    text: str = ""

    def weather(self):
        """A card on which it has been well for some minutes."""
        return Weather(self.limits, self.base).phase(300)


IDLE = {"power_w": 40.0, "gpu_utilization": 0.0, "processes": 0, "clocks_event_reasons": 1}
STUCK = {"power_w": 60.0, "gpu_utilization": 1.0, "processes": 0}

CASES = {
    "lost": Case("lost", failed(15), failed(10), 10, text="the driver says that it is lost (error 15)"),
    "lost in one call": Case("lost", {"power_w": Failed(15)}, {"power_w": Failed(999)}, 10),
    "reset required": Case("reset-required", failed(16), failed(4), 10),
    "reset required in one call": Case("reset-required", {"temperature_c": Failed(16)}, {"power_w": Failed(3)}, 10),
    "unknown error": Case("unknown-error", failed(999), failed(17), 10),
    "recovery 1": Case("recovery-reset", {"recovery_action": 1}, {"recovery_action": 0}, 65),
    "recovery 2": Case("recovery-reboot", {"recovery_action": 2}, {"recovery_action": 1}, 65),
    "recovery 3": Case("recovery-drain", {"recovery_action": 3}, {"recovery_action": 2}, 65),
    "recovery 4": Case("recovery-drain", {"recovery_action": 4}, {"recovery_action": Failed(3)}, 65),
    "recovery 5": Case("recovery-drain", {"recovery_action": 5}, {"recovery_action": ABSENT}, 65),
    "recovery 6": Case("recovery-reset", {"recovery_action": 6}, {"recovery_action": 5}, 65),
    "recovery 7": Case("recovery-reboot", {"recovery_action": 7}, {"recovery_action": 6}, 65),
    "recovery of a newer driver": Case("recovery-drain", {"recovery_action": 8}, {"recovery_action": 7}, 65),
    "margin": Case(
        "hot",
        {"margin_c": 5.0, "temperature_c": 82.0},
        {"margin_c": 5.5, "temperature_c": 82.0},
        305,
        295,
        text="82 °C, 5 °C below its limit for 5 min",
    ),
    "temperature": Case(
        "hot",
        {"temperature_c": 85.0},
        {"temperature_c": 84.0},
        305,
        295,
        WITHOUT_MARGIN,
        text="85 °C, 5 °C below its slowdown limit for 5 min",
    ),
    "temperature, configured": Case(
        "hot",
        {"temperature_c": 78.0},
        {"temperature_c": 77.0},
        305,
        295,
        {"margin_c": ABSENT},
        Limits(slowdown_c=83.0),
    ),
    "an H100, whose margin reads low": Case(
        "hot", {"margin_c": -2.0}, {"margin_c": -1.0}, 305, 295, limits=for_gpu("NVIDIA H100 80GB HBM3")
    ),
    "margin below the slowdown": Case(
        "too-hot",
        {"margin_c": -3.0, "temperature_c": 90.0},
        {"margin_c": -2.0},
        15,
        10,
        text="90 °C, 3 °C over its limit, so that its hardware slows it down, in 3 of 3 readings",
    ),
    "margin below the slowdown of a B200": Case(
        "too-hot", {"margin_c": -4.0}, {"margin_c": -3.0}, 15, 10, limits=for_gpu("NVIDIA B200")
    ),
    "margin below the slowdown of an H100": Case(
        "too-hot", {"margin_c": -3.0}, {"margin_c": -2.0}, 15, 10, limits=for_gpu("NVIDIA H100 PCIe")
    ),
    "temperature over the slowdown": Case(
        "too-hot",
        {"temperature_c": 92.0},
        {"temperature_c": 89.0},
        305,
        295,
        WITHOUT_MARGIN,
        text="92 °C, 2 °C over its slowdown limit for 5 min",
    ),
    "temperature at the slowdown": Case("too-hot", {"temperature_c": 90.0}, {}, 305, 295, WITHOUT_MARGIN),
    "hardware thermal": Case(
        "throttled",
        {"clocks_event_reasons": 0x48, "temperature_c": 91.0},
        {"clocks_event_reasons": 0x8},
        15,
        10,
        text="its hardware at least halves its clocks because of heat: in 3 readings within 10 s, at 91 °C",
    ),
    "power brake": Case("throttled", {"clocks_event_reasons": 0x88}, {"clocks_event_reasons": 0x117}, 15, 10),
    "hardware slowdown": Case(
        "slowed",
        {"clocks_event_reasons": 0x8},
        {"clocks_event_reasons": 0x117},
        361,
        240,
        text="its hardware lowered its clocks in 6 of 10 minutes",
    ),
    "hardware slowdown beside a brake": Case(
        "slowed", {"clocks_event_reasons": 0xC}, {"clocks_event_reasons": 0xC8}, 361, 240
    ),
    "software thermal": Case(
        "slow-by-heat",
        {"clocks_event_reasons": 0x24},
        {"clocks_event_reasons": 0x4},
        306,
        295,
        text="the driver lowered its clocks because of heat for 51% of 10 min",
    ),
    "uncorrected": Case(
        "ecc-uncorrected",
        {"ecc_uncorrected": 1},
        {"ecc_uncorrected": 0},
        65,
        text="1 memory error that could not be corrected since its last reset",
    ),
    "uncorrected, as configured": Case(
        "ecc-uncorrected", {"ecc_uncorrected": 3}, {"ecc_uncorrected": 2}, 65, limits=Limits(ecc_uncorrected=2)
    ),
    "corrected": Case(
        "ecc-rate", {"ecc_corrected": Grows(101)}, {"ecc_corrected": Grows(99)}, 725, 600, text="101 memory errors"
    ),
    "remap pending": Case("remap-pending", {"remap_pending": 1}, {"remap_pending": 0}, 65),
    "remap failed": Case("remap-failed", {"remap_failed": 1}, {"remap_failed": ABSENT}, 65),
    "remapped rows": Case("rows-worn", {"remapped_rows": 512}, {"remapped_rows": 511}, 65),
    "retired pages": Case(
        "pages-worn",
        {"retired_pages": 63},
        {"retired_pages": 62},
        65,
        base={"retired_pages": 2, "remapped_rows": ABSENT},
    ),
    "lanes": Case("pcie-narrow", {"pcie_width": 8}, {"pcie_width": ABSENT}, 130, 60, text="8 of 16 PCIe lanes"),
    "generation": Case(
        "pcie-slow",
        {"pcie_generation": 3, "power_w": 176.0},
        {"pcie_generation": 3, "power_w": 175.0},
        130,
        60,
        text="PCIe generation 3 of 4, at 50% of its power limit",
    ),
    "generation at rest": Case("pcie-slow", {"pcie_generation": 1}, IDLE | {"pcie_generation": 1}, 130, 60),
    "replays": Case(
        "pcie-replays",
        {"pcie_replays": Grows(17 / 60)},
        {"pcie_replays": Grows(16 / 60)},
        130,
        text="17 PCIe replays a minute; up to 16 are usual",
    ),
    "replays of 8 lanes": Case(
        "pcie-replays",
        {"pcie_replays": Grows(9 / 60)},
        {"pcie_replays": Grows(8 / 60)},
        130,
        base={"pcie_width": 8, "pcie_width_max": 8},
    ),
    "replays of generation 5": Case(
        "pcie-replays",
        {"pcie_replays": Grows(32 / 60)},
        {"pcie_replays": Grows(31 / 60)},
        130,
        base={"pcie_generation": 5, "pcie_generation_max": 5},
    ),
    "a storm of replays": Case("pcie-storm", {"pcie_replays": Grows(161 / 60)}, {"pcie_replays": Grows(160 / 60)}, 130),
    "a link that goes down": Case("nvlink-down", {"nvlink_down": 7}, {"nvlink_down": 6}, 65, text="1 NVLink went down"),
    "errors of links": Case(
        "nvlink-errors",
        {"nvlink_errors": Grows(1 / 60)},
        {"nvlink_errors": Grows(0)},
        130,
        text="1 NVLink error a minute",
    ),
    "full load without anybody": Case(
        "stuck-utilization",
        STUCK,
        STUCK | {"power_w": 106.0},
        605,
        595,
        text="100% utilization for 10 min with no process on it, at 17% of its power limit",
    ),
    "full load with somebody": Case("stuck-utilization", STUCK, STUCK | {"processes": 1}, 605, 595),
    "high load without anybody": Case("stuck-utilization", STUCK, STUCK | {"gpu_utilization": 0.98}, 605, 595),
}
