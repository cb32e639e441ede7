"""When a file system will be full, and which level it has. Pure: readings in, an answer out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations, pairwise

import msgspec

WINDOW_S = 6 * 3600.0
MOST_SAMPLES = 120  # 7140 pairs: some milliseconds
FEWEST_SAMPLES = 5
SHORTEST_S = 300.0  # a pace that was watched for less is none
FARTHEST_S = 30 * 86_400.0  # what takes longer is not told
RECENT = 5  # a rise above all of so many samples is a deletion; a file that is written anew only comes back to them

LEVELS = ("ok", "low", "full")
BACK_SHARE = 0.1
BACK_BYTES = 256 * 1024 * 1024
BACK_AT_MOST = 0.05  # of all that is there: a small file system must be able to come back
LOW_AT_MOST = 0.5
FULL_AT_MOST = 0.25


class Sample(msgspec.Struct, frozen=True):
    """What was free at a time: Unix seconds, and bytes or inodes."""

    at: float
    free: float


Samples = tuple[Sample, ...]


class Marks(msgspec.Struct, frozen=True):
    """Below `low` and below `full` (bytes or inodes), and how much above a mark is needed to have left it."""

    low: float
    full: float
    low_back: float
    full_back: float


# ---- how long it takes
def noted(samples: Samples, at: float, free: float, deletion: float) -> Samples:
    """Return the samples with one more: those of the last six hours, of which the older ones are thinned.

    More than `deletion` above all recent ones means that something was deleted, and a clock that stands still or runs
    back that nothing can be compared: the window begins anew.
    """
    newest = Sample(at, free)
    if not samples or at <= samples[-1].at or free > max(one.free for one in samples[-RECENT:]) + deletion:
        return (newest,)
    kept = tuple(one for one in samples if at - one.at <= WINDOW_S)
    if len(kept) >= MOST_SAMPLES:
        kept = (*kept[:-RECENT:2], *kept[-RECENT:])
    return (*kept, newest)


def full_in_s(samples: Samples) -> float | None:
    """Return the seconds until nothing is free at the present pace; None if it does not fill up, or nobody can say.

    The pace is the median of those between any two samples (Theil 1950, Sen 1968): no single reading counts for much.
    What fell at once, more than half of all that fell, is no pace either: a data set was copied there.
    """
    if len(samples) < FEWEST_SAMPLES or samples[-1].at - samples[0].at < SHORTEST_S:
        return None
    level = _without_step(samples)
    pace = statistics.median((b.free - a.free) / (b.at - a.at) for a, b in combinations(level, 2))
    if pace >= 0 or samples[-1].free / -pace > FARTHEST_S:
        return None
    return max(0.0, samples[-1].free / -pace)


def _without_step(samples: Samples) -> Samples:
    falls = [max(0.0, before.free - after.free) for before, after in pairwise(samples)]
    largest = max(falls)
    if 2 * largest <= sum(falls):
        return samples
    place = falls.index(largest) + 1
    lifted = (Sample(one.at, one.free + largest) for one in samples[place:])
    return (*samples[:place], *lifted)


# ---- levels
def marks(low: float, full: float, total: float) -> Marks:
    """Return the marks of so many free bytes on a file system of `total` bytes.

    On a small one `low` is at most half of it and `full` a quarter, or it would never be ok. A level is left 10 % and
    256 MiB above its mark, but no more above it than a twentieth of the whole.
    """
    full = min(full, FULL_AT_MOST * total)
    low = max(full, min(low, LOW_AT_MOST * total))
    return Marks(low=low, full=full, low_back=_back(low, total), full_back=_back(full, total))


def _back(mark: float, total: float) -> float:
    return min(BACK_SHARE * mark + BACK_BYTES, BACK_AT_MOST * total)


def inode_marks(least: int, total: float) -> Marks:
    """Return the marks of free inodes: full below `least`, low below ten times that; as above where there are few."""
    full = min(float(least), FULL_AT_MOST * total)
    low = min(10.0 * least, LOW_AT_MOST * total)
    return Marks(low=low, full=full, low_back=BACK_SHARE * low, full_back=BACK_SHARE * full)


def level(before: str, free: float, at: Marks) -> str:
    """Return ok, low or full. What was worse stays so until there is clearly more than its mark."""
    if free < at.full + (at.full_back if before == "full" else 0.0):
        return "full"
    if free < at.low + (at.low_back if before != "ok" else 0.0):
        return "low"
    return "ok"


def worst(levels: Sequence[str]) -> str:
    """Return the worst of these levels; ok if there are none."""
    return max(levels, key=LEVELS.index, default="ok")
