"""Rules about what connects a GPU: PCIe and NVLink."""

from __future__ import annotations

from supervisor.core.gpus.limits import replays_per_minute
from supervisor.core.gpus.rules.base import BAD, GOOD, Rule, Said, Seen, Verdict, bad_if, between, load


def _narrow(seen: Seen) -> Verdict:
    most = seen.past.card.get("pcie_width_max")
    return None if most is None else bad_if(seen.numbers["pcie_width"] < most)


def _say_narrow(seen: Seen) -> Said:
    width, most = seen.numbers["pcie_width"], seen.past.card["pcie_width_max"]
    return Said(f"{width:.0f} of {most:.0f} PCIe lanes", {"pcie_width": width, "pcie_width_max": most})


def _slow(seen: Seen) -> Verdict:
    """The generation drops at rest, so that only under load a low one says something."""
    most, share = seen.past.card.get("pcie_generation_max"), load(seen)
    if most is None:
        return None
    if seen.numbers["pcie_generation"] >= most:
        return GOOD
    return None if share is None or share <= seen.limits.load_share else BAD


def _say_slow(seen: Seen) -> Said:
    generation, most = seen.numbers["pcie_generation"], seen.past.card["pcie_generation_max"]
    share = load(seen) or 0.0
    text = f"PCIe generation {generation:.0f} of {most:.0f}, at {share:.0%} of its power limit"
    return Said(text, {"pcie_generation": generation, "pcie_generation_max": most, "load": share})


def _usual(seen: Seen) -> int | None:
    """Return how many replays a minute are usual, with the best generation: what it was in between is not known."""
    generation = seen.past.card.get("pcie_generation_max", seen.numbers.get("pcie_generation"))
    width = seen.past.card.get("pcie_width")
    return None if width is None or generation is None else replays_per_minute(width, generation)


def _replays(seen: Seen, factor: float) -> Verdict:
    usual, rate = _usual(seen), seen.numbers["pcie_replays_per_min"]
    if usual is None:
        return None
    # Replays are whole and a minute never exactly one: without rounding, as many as are usual would be too many.
    return between(bad=round(rate) > usual * factor, good=rate <= usual * factor / 2)


def _many_replays(seen: Seen) -> Verdict:
    return _replays(seen, seen.limits.pcie_replays_factor)


def _storm(seen: Seen) -> Verdict:
    return _replays(seen, seen.limits.pcie_storm_factor)


def _say_replays(seen: Seen) -> Said:
    rate, usual = seen.numbers["pcie_replays_per_min"], _usual(seen) or 0
    return Said(f"{rate:,.0f} PCIe replays a minute; up to {usual} are usual", {"per_min": rate, "usual": float(usual)})


def _down(seen: Seen) -> Verdict:
    """A link without a bridge is always down: only what was up once and is not any more is told."""
    return bad_if(seen.numbers["nvlink_down"] > (seen.past.links_down or 0))


def _say_down(seen: Seen) -> Said:
    down, before = seen.numbers["nvlink_down"], seen.past.links_down or 0.0
    links = "1 NVLink" if down - before == 1 else f"{down - before:.0f} NVLinks"
    return Said(f"{links} went down", {"down": down, "before": before})


def _errors(seen: Seen) -> Verdict:
    return bad_if(seen.numbers["nvlink_errors_per_min"] > seen.limits.nvlink_errors_per_min)


def _say_errors(seen: Seen) -> Said:
    rate = seen.numbers["nvlink_errors_per_min"]
    errors = "NVLink error" if round(rate) == 1 else "NVLink errors"
    return Said(f"{rate:,.0f} {errors} a minute", {"per_min": rate})


RULES = (
    Rule(
        kind="pcie-narrow",
        needs="pcie_width",
        judge=_narrow,
        say=_say_narrow,
        for_s="link_for_s",
        quiet_s="link_quiet_s",
        slow=True,
    ),
    Rule(
        kind="pcie-slow",
        needs="pcie_generation",
        judge=_slow,
        say=_say_slow,
        for_s="link_for_s",
        quiet_s="link_quiet_s",
        slow=True,
    ),
    Rule(
        kind="pcie-replays",
        needs="pcie_replays_per_min",
        judge=_many_replays,
        say=_say_replays,
        quiet_s="link_quiet_s",
        slow=True,
    ),
    Rule(
        kind="pcie-storm",
        needs="pcie_replays_per_min",
        judge=_storm,
        say=_say_replays,
        quiet_s="link_quiet_s",
        slow=True,
    ),
    Rule(kind="nvlink-down", needs="nvlink_down", judge=_down, say=_say_down, quiet_s="state_quiet_s", slow=True),
    Rule(
        kind="nvlink-errors",
        needs="nvlink_errors_per_min",
        judge=_errors,
        say=_say_errors,
        quiet_s="link_quiet_s",
        slow=True,
    ),
)
