"""From readings of a GPU to findings: what is wrong with it begins once, and is over once it has been well for a while.

Pure: a state and a reading give a new state and the events. All times are those of the readings. What is missing in a
reading neither begins nor ends anything, and a gap between readings counts as nothing seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from supervisor.core.gpus.events import GpuFound
from supervisor.core.gpus.limits import Limits
from supervisor.core.gpus.model import Finding
from supervisor.core.gpus.past import SLOWDOWNS, Past, advance, without_old_episodes
from supervisor.core.gpus.readings import LOST, RESET_REQUIRED, Failed, Reading
from supervisor.core.gpus.rules import KINDS, RULES
from supervisor.core.gpus.rules.base import BAD, GOOD, Rule, Seen, long

#: Errors of a single value that speak of the whole GPU: NVML gives them from any call.
_OF_THE_GPU = (LOST, RESET_REQUIRED)


class Track(msgspec.Struct, frozen=True):
    """One kind that is about to begin, there, or about to end. `at`: when something was last said of it.

    `opened_at` is None until it has begun. `bad_at` and `good_at`: since when it has been so without a break.
    """

    at: float
    opened_at: float | None = None
    bad_at: float | None = None
    good_at: float | None = None


class State(msgspec.Struct, frozen=True):
    """What is kept of one GPU between two readings. `tracks` has only kinds of which something bad is known."""

    past: Past = Past()
    tracks: dict[str, Track] = {}

    def open(self) -> frozenset[str]:
        """Return the kinds that are there."""
        return frozenset(kind for kind, track in self.tracks.items() if track.opened_at is not None)


def begin(findings: Mapping[str, Finding]) -> State:
    """Return the state after a restart: what was found by reading and is not over yet will be told when it is over."""
    known = {kind: one for kind, one in findings.items() if kind in KINDS and one.source == "nvml"}
    tracks = {kind: Track(one.since, opened_at=one.since) for kind, one in known.items()}
    down = known["nvlink-down"].values.get("before") if "nvlink-down" in known else None
    return State(Past(links_down=down), tracks)


def judge(state: State, reading: Reading, limits: Limits, now: float) -> tuple[State, tuple[GpuFound, ...]]:
    """Return the state with a reading in it, and what began or ended by it, at `now`.

    A reading that is older than the gap of the slow tier says nothing any more.
    """
    if now - reading.at > limits.slow_gap_s:
        return state, ()
    numbers = _numbers(reading)
    past = advance(state.past, reading.at, numbers, limits)
    seen = Seen(numbers, past, limits)
    tracks, found = _follow(state.tracks, seen)
    if past.slow.episodes:
        past = without_old_episodes(past, tracks, limits)
    return State(past, tracks), tuple(
        GpuFound(at=now, gpu=reading.gpu, finding=kind, text=text, open=opened, values=values)
        for kind, opened, text, values in found
    )


def _numbers(reading: Reading) -> dict[str, float]:
    """Return the numbers of a reading, and as "error" how the GPU as a whole answers: 0, or NVML's code."""
    if reading.error is not None:
        return {"error": float(reading.error.code)}
    numbers: dict[str, float] = {}
    error = 0
    for name, value in reading.values.items():
        if isinstance(value, (float, int)):
            numbers[name] = value
        elif isinstance(value, Failed) and value.code in _OF_THE_GPU:
            error = value.code
    if error:
        return {"error": float(error)}
    if numbers:
        numbers["error"] = 0.0
    return numbers


_Change = tuple[str, bool, str, dict[str, float]]


def _follow(tracks: dict[str, Track], seen: Seen) -> tuple[dict[str, Track], list[_Change]]:
    """Let each rule speak. A kind of which nothing bad is known and nothing bad is said costs nothing."""
    found: list[_Change] = []
    new = tracks
    numbers = seen.numbers
    for rule in RULES:
        if rule.needs not in numbers:
            continue
        verdict = rule.judge(seen)
        old = tracks.get(rule.kind)
        if verdict is None or (old is None and verdict != BAD):
            continue
        track = _speak(old, rule, verdict, seen, found)
        new = {kind: one for kind, one in new.items() if kind != rule.kind}
        if track is not None:
            new[rule.kind] = track
    return new, found


def _speak(old: Track | None, rule: Rule, verdict: int, seen: Seen, found: list[_Change]) -> Track | None:
    """Return what becomes of a track by a verdict; None: nothing bad is known of it any more."""
    at = seen.past.at
    old = _unbroken(old, rule, seen) if old is not None else Track(at)
    bad_at = (at if old.bad_at is None else old.bad_at) if verdict == BAD else None
    good_at = (at if old.good_at is None else old.good_at) if verdict == GOOD else None
    if old.opened_at is not None:
        if good_at is not None and at - good_at >= getattr(seen.limits, rule.quiet_s):
            found.append((rule.kind, False, *_over(rule, old.opened_at, seen, good_at)))
            return None
        return Track(at, old.opened_at, bad_at, good_at)
    if bad_at is None:
        return None
    if rule.for_s and at - bad_at < getattr(seen.limits, rule.for_s):
        return Track(at, None, bad_at)
    said = rule.say(msgspec.structs.replace(seen, seconds=at - bad_at))
    found.append((rule.kind, True, said.text, said.values))
    return Track(at, at, bad_at)


def _unbroken(old: Track, rule: Rule, seen: Seen) -> Track:
    """Forget since when it has been good or bad, if too long nothing was said, or the clock was set back."""
    gap = seen.limits.slow_gap_s if rule.slow else seen.limits.fast_gap_s
    passed = seen.past.at - old.at
    return old if 0 <= passed <= gap else Track(old.at, old.opened_at)


def _over(rule: Rule, opened_at: float, seen: Seen, good_at: float) -> tuple[str, dict[str, float]]:
    lasted = max(0.0, good_at - opened_at)
    values = {"lasted_s": lasted}
    if rule.kind in SLOWDOWNS:
        episode = seen.past.slow.episodes.get(rule.kind)
        values["throttled_s"] = episode.seconds if episode else 0.0
    quiet = seen.past.at - good_at
    return f"well again for {long(quiet)}; it lasted {long(lasted)}", values
