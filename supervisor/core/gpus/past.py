"""What the judge keeps of earlier readings: the few samples, minutes and counts that windows and rates need."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from supervisor.core.gpus.limits import Limits

# nvml.h: nvmlClocksEventReason*. The others (idle, application clocks, power cap, sync boost, display) are no faults.
HARDWARE = 0x08
BY_DRIVER = 0x20
HARDWARE_HEAT = 0x40
POWER_BRAKE = 0x80
BRAKES = HARDWARE_HEAT | POWER_BRAKE

#: The kind of finding that seconds of a slowdown are counted for, by the bits of its reason.
SLOWDOWNS = {"throttled": BRAKES, "slowed": HARDWARE, "slow-by-heat": BY_DRIVER}
_ANY = BRAKES | HARDWARE | BY_DRIVER

#: Counters whose growth in a minute counts, and the name of that rate among the numbers.
RATES = {
    "ecc_corrected": "ecc_corrected_per_min",
    "pcie_replays": "pcie_replays_per_min",
    "nvlink_errors": "nvlink_errors_per_min",
}
#: What is true of a card for long, so that a quick reading may be judged with what a slow one told.
_OF_THE_CARD = ("slowdown_c", "power_limit_w", "pcie_width", "pcie_width_max", "pcie_generation_max")


class Episode(msgspec.Struct, frozen=True):
    """How long a slowdown lasted up to now, without the pauses in it; `at` is when it was last seen."""

    seconds: float
    at: float


class Slowdowns(msgspec.Struct, frozen=True, kw_only=True):
    """When the clocks were lowered; `at` is the time of the newest sample.

    The times of the newest brakes, the minutes with a hardware slowdown, the seconds by minute in which the driver
    slowed down because of heat, and the episodes by kind of finding.
    """

    at: float = 0.0
    brakes: tuple[float, ...] = ()
    minutes: tuple[int, ...] = ()
    by_heat: tuple[tuple[int, float], ...] = ()
    episodes: dict[str, Episode] = {}


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one GPU. Its size is bounded: by the lengths of the windows in samples or minutes.

    `card` is what is true of the card for long. `hot`: when the newest samples were, and which were over the limit;
    `power`: watts and when. `counts`: counters and when they were so. `links_down`: how few NVLinks were ever down.
    """

    at: float = 0.0
    card: dict[str, float] = {}
    has_margin: bool = False
    power: tuple[float, float] = (0.0, 0.0)
    hot: tuple[tuple[float, bool], ...] = ()
    slow: Slowdowns = Slowdowns()
    counts: dict[str, tuple[float, float]] = {}
    links_down: float | None = None


def advance(past: Past, at: float, numbers: dict[str, float], limits: Limits) -> Past:
    """Return the past with a reading in it; rates over the time since the last count are added to `numbers`.

    A clock that was set back starts all windows anew: nothing can be said of times that were twice.
    """
    if at < past.at:
        past = Past(card=past.card, has_margin=past.has_margin, links_down=past.links_down)
    return Past(
        at=at,
        card=_card(past.card, numbers),
        has_margin=past.has_margin or "margin_c" in numbers,
        power=(numbers["power_w"], at) if "power_w" in numbers else past.power,
        hot=_hot(past, at, numbers, limits),
        slow=_slow(past.slow, at, numbers, limits),
        counts=_counts(past.counts, at, numbers, limits),
        links_down=_fewest(past.links_down, numbers.get("nvlink_down")),
    )


def _card(card: dict[str, float], numbers: dict[str, float]) -> dict[str, float]:
    told = {name: numbers[name] for name in _OF_THE_CARD if name in numbers and numbers[name] != card.get(name)}
    return card | told if told else card


def _fewest(before: float | None, now: float | None) -> float | None:
    return min(value for value in (before, now) if value is not None) if now is not None else before


def _hot(past: Past, at: float, numbers: dict[str, float], limits: Limits) -> tuple[tuple[float, bool], ...]:
    margin = numbers.get("margin_c")
    if margin is None:
        return past.hot
    over = margin < limits.slowdown_margin_c
    if not over and not past.hot:
        return ()
    before = past.hot if past.hot and at - past.hot[-1][0] <= limits.fast_gap_s else ()
    hot = (*before, (at, over))[-limits.too_hot_of_samples :]
    return hot if any(one for _, one in hot) else ()


def _slow(slow: Slowdowns, at: float, numbers: dict[str, float], limits: Limits) -> Slowdowns:
    if "clocks_event_reasons" not in numbers:
        return slow
    bits = int(numbers["clocks_event_reasons"])
    step_s = at - slow.at if at - slow.at <= limits.fast_gap_s else 0.0
    if not bits & _ANY and not (slow.brakes or slow.minutes or slow.by_heat or slow.episodes):
        return Slowdowns(at=at)
    return Slowdowns(
        at=at,
        brakes=_brakes(slow.brakes, at, bits, limits),
        minutes=_minutes(slow.minutes, at, bits, limits),
        by_heat=_by_heat(slow.by_heat, at, step_s if bits & BY_DRIVER else 0.0, limits),
        episodes=_episodes(slow.episodes, at, bits, step_s),
    )


def _brakes(before: tuple[float, ...], at: float, bits: int, limits: Limits) -> tuple[float, ...]:
    times = (*before, at) if bits & BRAKES else before
    return tuple(time for time in times if at - time <= limits.brake_within_s)[-limits.brake_samples :]


def _minutes(before: tuple[int, ...], at: float, bits: int, limits: Limits) -> tuple[int, ...]:
    """With a brake the hardware slowdown is set as well: that is the other finding's."""
    minute = int(at // 60)
    seen = bits & HARDWARE and not bits & BRAKES and minute not in before
    minutes = (*before, minute) if seen else before
    return tuple(one for one in minutes if one > minute - limits.slowed_of_minutes)


def _by_heat(
    before: tuple[tuple[int, float], ...], at: float, seconds: float, limits: Limits
) -> tuple[tuple[int, float], ...]:
    minute = int(at // 60)
    oldest = minute - limits.slow_by_heat_within_s / 60
    kept = tuple(one for one in before if one[0] > oldest)
    if not seconds:
        return kept
    if kept and kept[-1][0] == minute:
        return (*kept[:-1], (minute, kept[-1][1] + seconds))
    return (*kept, (minute, seconds))


def _episodes(before: dict[str, Episode], at: float, bits: int, step_s: float) -> dict[str, Episode]:
    episodes = before
    for kind, reasons in SLOWDOWNS.items():
        if bits & reasons:
            old = before.get(kind)
            episodes = episodes | {kind: Episode((old.seconds if old else 0.0) + step_s, at)}
    return episodes


def without_old_episodes(past: Past, lasting: Iterable[str], limits: Limits) -> Past:
    """Return the past without the episodes that are over: those long quiet and not of a finding that is still there."""
    old = past.slow.episodes
    kept = {kind: one for kind, one in old.items() if kind in lasting or past.at - one.at <= limits.heat_quiet_s}
    if len(kept) == len(old):
        return past
    return msgspec.structs.replace(past, slow=msgspec.structs.replace(past.slow, episodes=kept))


def _counts(
    before: dict[str, tuple[float, float]], at: float, numbers: dict[str, float], limits: Limits
) -> dict[str, tuple[float, float]]:
    """A counter that began anew has a rate below 0: that is never too much, and ends what was counted up to now."""
    counts = before
    for name, rate in RATES.items():
        count = numbers.get(name)
        if count is None:
            continue
        old = counts.get(name)
        if old is None or at - old[1] > limits.slow_gap_s:
            counts = counts | {name: (count, at)}
        elif at - old[1] >= limits.rate_interval_s:
            numbers[rate] = (count - old[0]) * 60 / (at - old[1])
            counts = counts | {name: (count, at)}
    return counts
