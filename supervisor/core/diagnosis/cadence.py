"""How long each phase of a training is used to stand still: gaps that were seen, and the limit that follows.

A gap is the time between two signs of movement. Of a phase that is no stream of batches (start, scan, validation, save,
end) only the longest one is learned, each time it is over: the whole phase where nothing is told in between.
"""

from __future__ import annotations

import math

import msgspec

#: Buckets of the sketch grow by this ratio, so that a percentile is at most a tenth too high.
RATIO = 1.1
SHORTEST_S = 0.1
LONGEST_S = 30 * 86400.0
#: Of so many gaps in a phase the half is forgotten, so that a training that has become slower is soon known as such.
MOST_GAPS = 20_000

#: The contract's numbers.
FACTOR = 5.0
BATCH_FLOOR_S = 120.0
FLOOR_S = 900.0
UNKNOWN_S = 1800.0

#: Before the trainer says what it does, and without a runner until the first batch: imports, weights, caches.
START = "start"
SCAN = "scan"
#: From the start of the first epoch to the first batch: compilers and autotuners work here, workers are born.
FIRST = "first"
TRAIN = "train"
#: A trainer of which only the log is known, after its first batch: batches, validation and saves in one.
LOG = "log"
#: Phases in which there are beats, or lines, all the time.
INNER = frozenset({TRAIN, LOG})
BEFORE_TRAINING = frozenset({START, SCAN, FIRST})
#: A word that no runner of ours says.
OTHER = "other"
_RUNNERS_WORDS = {
    "": START,
    "import": START,
    "setup": START,
    **{word: word for word in (SCAN, TRAIN, "val", "save", "end")},
}
#: So many gaps are a history. Of whole phases there are few, and each of them is long.
_ENOUGH_INNER = 30
_ENOUGH_WHOLE = 3


class Sketch(msgspec.Struct, frozen=True):
    """Gaps by length: how many fell into each bucket. Bucket n ends at SHORTEST_S · RATIO^n."""

    counts: dict[int, int] = {}
    total: int = 0

    def with_gap(self, gap_s: float) -> Sketch:
        """The sketch with one more gap."""
        place = bucket(gap_s)
        counts = {**self.counts, place: self.counts.get(place, 0) + 1}
        return _thinned(Sketch(counts, self.total + 1))

    def with_all(self, other: Sketch) -> Sketch:
        """Both sketches in one."""
        places = self.counts.keys() | other.counts.keys()
        counts = {place: self.counts.get(place, 0) + other.counts.get(place, 0) for place in places}
        return _thinned(Sketch(counts, self.total + other.total))

    def percentile_s(self, share: float) -> float:
        """The length in seconds that this share of the gaps does not exceed; 0.0 if there are none."""
        wanted, seen = math.ceil(share * self.total), 0
        for place in sorted(self.counts):
            seen += self.counts[place]
            if seen >= wanted:
                return SHORTEST_S * RATIO**place
        return 0.0


class Cadence(msgspec.Struct, frozen=True):
    """The gaps of one job by phase, of all its attempts and runs."""

    phases: dict[str, Sketch] = {}
    version: int = 1

    def with_gap(self, phase: str, gap_s: float) -> Cadence:
        """The cadence with one more gap of a phase."""
        return Cadence({**self.phases, phase: self.phases.get(phase, _EMPTY).with_gap(gap_s)})

    def limit_s(self, phase: str, factor: float = FACTOR) -> float:
        """How long this phase may stand still: max(floor, factor · p99); at least UNKNOWN_S without a history."""
        sketch = self.phases.get(phase, _EMPTY)
        enough = _ENOUGH_INNER if phase in INNER else _ENOUGH_WHOLE
        floor_s = BATCH_FLOOR_S if phase == TRAIN else FLOOR_S
        return max(floor_s if sketch.total >= enough else UNKNOWN_S, factor * sketch.percentile_s(0.99))


_EMPTY = Sketch()
_LOG_RATIO = math.log(RATIO)


def bucket(gap_s: float) -> int:
    """The bucket of a gap; what is shorter or longer than the sketch knows goes to its ends."""
    inside_s = min(max(gap_s, SHORTEST_S), LONGEST_S)
    return math.ceil(math.log(inside_s / SHORTEST_S) / _LOG_RATIO - 1e-9)


def merged(one: Cadence, other: Cadence) -> Cadence:
    """What two records of the same job know together."""
    names = one.phases.keys() | other.phases.keys()
    return Cadence({name: one.phases.get(name, _EMPTY).with_all(other.phases.get(name, _EMPTY)) for name in names})


def encode(cadence: Cadence) -> bytes:
    """JSON, a few kilobytes."""
    return msgspec.json.encode(cadence)


def decode(data: bytes) -> Cadence:
    """The cadence in a file; what is damaged, or makes no sense, is no history."""
    try:
        found = msgspec.json.decode(data, type=Cadence)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Cadence()
    return found if found.version == 1 and all(map(_is_sane, found.phases.values())) else Cadence()


def phase_of(phase: str, *, has_beats: bool, begun: bool) -> str:
    """The phase in the words of this table. `begun`: this attempt has trained a batch; `phase`: the runner's word."""
    if not has_beats:
        return LOG if begun else START
    if phase == TRAIN and not begun:
        return FIRST
    return _RUNNERS_WORDS.get(phase, OTHER)


def _thinned(sketch: Sketch) -> Sketch:
    if sketch.total <= MOST_GAPS:
        return sketch
    counts = {place: (count + 1) // 2 for place, count in sketch.counts.items()}
    return Sketch(counts, sum(counts.values()))


def _is_sane(sketch: Sketch) -> bool:
    places, counts = sketch.counts.keys(), sketch.counts.values()
    known = all(0 <= place <= bucket(LONGEST_S) for place in places) and all(count > 0 for count in counts)
    return known and sketch.total == sum(counts)
