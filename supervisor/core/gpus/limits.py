"""The thresholds that GPUs are judged by: each with its unit and where it comes from. All can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

_Seconds = Annotated[float, Meta(ge=0, le=7 * 86400)]
_Degrees = Annotated[float, Meta(ge=-100, le=200)]
_Count = Annotated[int, Meta(ge=1, le=1000)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Rate = Annotated[float, Meta(ge=0)]

#: Replays per lane and minute that a link may have, by PCIe generation (DCGM, health of PCIe; Gen 4 x16: 16/min).
REPLAYS_PER_LANE_MINUTE = {1: 0.15, 2: 0.3, 3: 0.48, 4: 0.96, 5: 1.92, 6: 3.84}

#: By a part of the product name: the margin at which the hardware slows the card down (NVSentinel ADR-042). The first
#: that fits counts.
_SLOWDOWN_MARGINS_C = (("GB200", -2.0), ("GB300", -2.0), ("B200", -3.0), ("H100", -2.0), ("L40", -2.0))

#: Cards whose margin is 0 or a little less although they are well (gpud, comment on H100): no warning above the margin
#: at which their hardware slows down.
_MARGIN_READS_LOW = ("H100",)


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When something of a GPU is found, and when that is over. `_s` seconds, `_c` degrees Celsius, `_share` 0..1.

    What is marked "ours" has no source but reason.
    """

    # What counts as continuous. Ours: several readings of the tier missed are a gap, and a gap is no evidence.
    fast_gap_s: _Seconds = 30.0
    slow_gap_s: _Seconds = 200.0
    # A rate is of at least so long a time (ours): two readings a second apart would make a storm of one error.
    rate_interval_s: _Seconds = 45.0

    # How long it must be well before a finding is over (ours): of heat and slowdowns, of what the driver says, of
    # links and of memory errors, of whether the GPU can be read at all.
    heat_quiet_s: _Seconds = 300.0
    state_quiet_s: _Seconds = 120.0
    link_quiet_s: _Seconds = 3600.0
    memory_quiet_s: _Seconds = 1800.0
    answer_quiet_s: _Seconds = 60.0

    # Temperature. Of cards that tell their margin: NVSentinel ADR-042 (gpud has 0 as its limit). Of others: the
    # slowdown temperature that NVML tells, unless it is given here. The band (ours) keeps a value at the limit quiet.
    margin_warn_c: _Degrees = 5.0
    slowdown_margin_c: _Degrees = -2.0
    too_hot_samples: _Count = 3
    too_hot_of_samples: _Count = 5
    warn_below_slowdown_c: Annotated[float, Meta(ge=0, le=100)] = 5.0
    slowdown_c: Annotated[float, Meta(ge=20, le=200)] | None = None
    hot_for_s: _Seconds = 300.0
    too_hot_for_s: _Seconds = 300.0
    band_c: Annotated[float, Meta(ge=0, le=50)] = 2.0

    # Slowdowns. Hardware thermal and power brake: the header of NVML says the clocks are halved at least. Hardware
    # slowdown as such: gpud. By the driver because of heat: it costs speed only, so that more than half counts (ours).
    brake_samples: _Count = 3
    brake_within_s: _Seconds = 60.0
    slowed_minutes: _Count = 6
    slowed_of_minutes: _Count = 10
    slow_by_heat_share: _Share = 0.5
    slow_by_heat_within_s: _Seconds = 600.0

    # Memory. Uncorrectable errors, more than: DCGM, gcm, Azure. Corrected ones: ours; NVSentinel #1748 saw 17,700/s
    # that no tool reported. Remapped rows and retired pages: DCGM.
    ecc_uncorrected: _Rate = 0.0
    ecc_corrected_per_s: _Rate = 100.0
    ecc_corrected_for_s: _Seconds = 600.0
    remapped_rows: _Count = 512
    retired_pages: _Count = 63

    # Links. Replays: times the table of DCGM, and ten times that. A generation is judged only above this share of
    # the power limit: it drops when the GPU is idle. NVLink errors, more than: DCGM takes any.
    pcie_replays_factor: _Rate = 1.0
    pcie_storm_factor: _Rate = 10.0
    link_for_s: _Seconds = 60.0
    load_share: _Share = 0.5
    nvlink_errors_per_min: _Rate = 0.0

    # A counter of load that is stuck (lium-io #1140): full load, nobody there, and power as at rest (ours).
    stuck_utilization_share: _Share = 0.99
    stuck_for_s: _Seconds = 600.0
    idle_share: _Share = 0.3


def for_gpu(name: str, *tables: Mapping[str, object], fast_s: float = 5.0, slow_s: float = 60.0) -> Limits:
    """Return the limits of a product at these tiers of reading; tables of the configuration override, the last first.

    Raises msgspec.ValidationError with a sentence for a name or a value that cannot be.
    """
    of_card = _card(name)
    gaps = {"fast_gap_s": max(30.0, 6 * fast_s), "slow_gap_s": max(200.0, 3.3 * slow_s)}
    merged: dict[str, object] = {**gaps, **of_card}
    for table in tables:
        merged.update(table)
    return msgspec.convert(merged, Limits)


def _card(name: str) -> dict[str, float]:
    margin_c = next((margin for part, margin in _SLOWDOWN_MARGINS_C if part in name), None)
    if margin_c is None:
        return {}
    low = any(part in name for part in _MARGIN_READS_LOW)
    return {"slowdown_margin_c": margin_c} | ({"margin_warn_c": margin_c} if low else {})


def replays_per_minute(lanes: float, generation: float) -> int | None:
    """Return how many replays a link may have in a minute, or None for a generation that DCGM does not know."""
    rate = REPLAYS_PER_LANE_MINUTE.get(int(generation))
    return None if rate is None or lanes < 1 else int(-(-lanes * rate // 1))
