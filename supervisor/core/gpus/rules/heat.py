"""Rules about temperature, and about clocks that were lowered because of it or of the power supply."""

from __future__ import annotations

from supervisor.core.gpus.past import BRAKES, HARDWARE, HARDWARE_HEAT
from supervisor.core.gpus.rules.base import Rule, Said, Seen, Verdict, between, degrees, long


def _hot_by_margin(seen: Seen) -> Verdict:
    margin, warn = seen.numbers["margin_c"], seen.limits.margin_warn_c
    return between(bad=margin <= warn, good=margin > warn + seen.limits.band_c)


def _too_hot_by_margin(seen: Seen) -> Verdict:
    margin, hot, limits = seen.numbers["margin_c"], seen.past.hot, seen.limits
    often = sum(over for _, over in hot) >= limits.too_hot_samples
    return between(bad=often, good=margin >= limits.slowdown_margin_c + limits.band_c)


def _margin(seen: Seen) -> Said:
    margin = seen.numbers["margin_c"]
    temperature = seen.numbers.get("temperature_c")
    where = "at" if margin == 0 else f"{degrees(abs(margin))} {'below' if margin > 0 else 'over'}"
    if temperature is None:
        return Said(f"{where} its limit", {"margin_c": margin})
    return Said(f"{degrees(temperature)}, {where} its limit", {"margin_c": margin, "temperature_c": temperature})


def _say_hot_by_margin(seen: Seen) -> Said:
    said = _margin(seen)
    return Said(f"{said.text} for {long(seen.seconds)}", said.values | {"seconds": seen.seconds})


def _say_too_hot_by_margin(seen: Seen) -> Said:
    said, of = _margin(seen), len(seen.past.hot)
    often = sum(over for _, over in seen.past.hot)
    values = said.values | {"slowdown_margin_c": seen.limits.slowdown_margin_c, "readings": float(often)}
    return Said(f"{said.text}, so that its hardware slows it down, in {often} of {of} readings", values)


def _slowdown_c(seen: Seen) -> float | None:
    ours = seen.limits.slowdown_c
    return ours if ours is not None else seen.past.card.get("slowdown_c")


def _absolute(seen: Seen, below_c: float) -> Verdict:
    """Of cards that tell no margin; where nobody knows the slowdown temperature, nothing is said."""
    slowdown = _slowdown_c(seen)
    if slowdown is None or seen.past.has_margin:
        return None
    over = seen.numbers["temperature_c"] - slowdown + below_c
    return between(bad=over >= 0, good=over < -seen.limits.band_c)


def _hot(seen: Seen) -> Verdict:
    return _absolute(seen, seen.limits.warn_below_slowdown_c)


def _too_hot(seen: Seen) -> Verdict:
    return _absolute(seen, 0.0)


def _say_absolute(seen: Seen) -> Said:
    temperature, slowdown = seen.numbers["temperature_c"], _slowdown_c(seen) or 0.0
    off = temperature - slowdown
    where = "at" if off == 0 else f"{degrees(abs(off))} {'over' if off > 0 else 'below'}"
    text = f"{degrees(temperature)}, {where} its slowdown limit for {long(seen.seconds)}"
    return Said(text, {"temperature_c": temperature, "slowdown_c": slowdown, "seconds": seen.seconds})


def _throttled(seen: Seen) -> Verdict:
    now = bool(int(seen.numbers["clocks_event_reasons"]) & BRAKES)
    return between(bad=now and len(seen.past.slow.brakes) >= seen.limits.brake_samples, good=not now)


def _say_throttled(seen: Seen) -> Said:
    brakes = seen.past.slow.brakes
    heat = int(seen.numbers["clocks_event_reasons"]) & HARDWARE_HEAT
    why = "because of heat" if heat else "because its power supply is overloaded (power brake)"
    within = brakes[-1] - brakes[0]
    text = f"its hardware at least halves its clocks {why}: in {len(brakes)} readings within {within:.0f} s"
    values = {"readings": float(len(brakes)), "within_s": within}
    temperature = seen.numbers.get("temperature_c")
    if temperature is None:
        return Said(text, values)
    return Said(f"{text}, at {degrees(temperature)}", values | {"temperature_c": temperature})


def _slowed(seen: Seen) -> Verdict:
    now = bool(int(seen.numbers["clocks_event_reasons"]) & HARDWARE)
    return between(bad=now and len(seen.past.slow.minutes) >= seen.limits.slowed_minutes, good=not now)


def _say_slowed(seen: Seen) -> Said:
    minutes, of_minutes = len(seen.past.slow.minutes), seen.limits.slowed_of_minutes
    text = f"its hardware lowered its clocks in {minutes} of {of_minutes} minutes"
    return Said(text, {"minutes": float(minutes), "of_minutes": float(of_minutes)})


def _share(seen: Seen) -> float:
    return sum(seconds for _, seconds in seen.past.slow.by_heat) / max(seen.limits.slow_by_heat_within_s, 1.0)


def _slow_by_heat(seen: Seen) -> Verdict:
    share, most = _share(seen), seen.limits.slow_by_heat_share
    return between(bad=share > most, good=share <= most / 2)


def _say_slow_by_heat(seen: Seen) -> Said:
    share, within = _share(seen), seen.limits.slow_by_heat_within_s
    text = f"the driver lowered its clocks because of heat for {share:.0%} of {long(within)}"
    return Said(text, {"share": share, "within_s": within})


RULES = (
    Rule(
        kind="hot",
        needs="margin_c",
        judge=_hot_by_margin,
        say=_say_hot_by_margin,
        for_s="hot_for_s",
        quiet_s="heat_quiet_s",
    ),
    Rule(
        kind="too-hot",
        needs="margin_c",
        judge=_too_hot_by_margin,
        say=_say_too_hot_by_margin,
        quiet_s="heat_quiet_s",
    ),
    Rule(kind="hot", needs="temperature_c", judge=_hot, say=_say_absolute, for_s="hot_for_s", quiet_s="heat_quiet_s"),
    Rule(
        kind="too-hot",
        needs="temperature_c",
        judge=_too_hot,
        say=_say_absolute,
        for_s="too_hot_for_s",
        quiet_s="heat_quiet_s",
    ),
    Rule(
        kind="throttled",
        needs="clocks_event_reasons",
        judge=_throttled,
        say=_say_throttled,
        quiet_s="heat_quiet_s",
    ),
    Rule(kind="slowed", needs="clocks_event_reasons", judge=_slowed, say=_say_slowed, quiet_s="heat_quiet_s"),
    Rule(
        kind="slow-by-heat",
        needs="clocks_event_reasons",
        judge=_slow_by_heat,
        say=_say_slow_by_heat,
        quiet_s="heat_quiet_s",
    ),
)
