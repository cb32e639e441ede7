"""When is a job file complete? Pure: readings go in, "wait until then" or "take it" comes out.

A file that was renamed into place, or closed after writing, is complete at once. One that is only found
lying there (copied slowly, on a network file system) is complete after a while without change. A file whose
last line has no end may have been cut: TOML cut at `epochs = 3` of `epochs = 300` is valid, so such a file
waits longer, however it came, and is taken with a warning.
"""

from __future__ import annotations

from enum import Enum

import msgspec

SETTLE_S = 30.0
CUT_FACTOR = 2.0


class How(str, Enum):
    """How a reading of a file came about."""

    MOVED = "moved"
    CLOSED = "closed"
    CHANGED = "changed"
    SCAN = "scan"
    START = "start"

    @property
    def completes(self) -> bool:
        """True where the writer itself said that it is done."""
        return self in {How.MOVED, How.CLOSED}


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a file. `at` and `mtime_ns` count from 1970, in seconds and nanoseconds."""

    size: int
    mtime_ns: int
    inode: int
    how: How
    ends_with_newline: bool
    at: float

    @property
    def identity(self) -> tuple[int, int, int]:
        """What differs when the file was changed."""
        return (self.size, self.mtime_ns, self.inode)


class Settling(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered about a file that was seen and not taken yet."""

    identity: tuple[int, int, int]
    complete: bool
    unchanged_since: float


class Wait(msgspec.Struct, frozen=True):
    """Not complete before `until` (Unix seconds): look again then."""

    until: float


class Take(msgspec.Struct, frozen=True):
    """Complete. `note` warns of something odd, for a person."""

    note: str = ""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long nothing must change: in general, and where the last line has no end."""

    settle_s: float = SETTLE_S
    cut_s: float = SETTLE_S * CUT_FACTOR


def judge(before: Settling | None, seen: Reading, patience: Patience) -> tuple[Settling, Wait | Take]:
    """Return what to remember, and whether the file is complete. `before` is None at first sight."""
    after = _settle(before, seen, patience)
    if after.complete and seen.ends_with_newline:
        return after, Take()
    due_at = after.unchanged_since + (patience.settle_s if seen.ends_with_newline else patience.cut_s)
    if seen.at < due_at:
        return after, Wait(due_at)
    return after, Take(_note(seen, patience))


def changed_while_read(seen: Reading, patience: Patience) -> tuple[Settling, Wait]:
    """Return what follows when the file changed under the reader's hands: a writer is at work, wait anew."""
    after = Settling(identity=seen.identity, complete=False, unchanged_since=seen.at)
    return after, Wait(seen.at + patience.settle_s)


def _settle(before: Settling | None, seen: Reading, patience: Patience) -> Settling:
    complete = seen.how.completes
    if before is None or before.identity != seen.identity:
        return Settling(identity=seen.identity, complete=complete, unchanged_since=_since(seen, patience))
    since = min(before.unchanged_since, seen.at)  # a clock set back must not make the wait longer
    return Settling(identity=seen.identity, complete=complete or before.complete, unchanged_since=since)


def _since(seen: Reading, patience: Patience) -> float:
    """Return since when it is unchanged. Only what lay there before the daemon is believed to be old."""
    modified_at = seen.mtime_ns / 1e9
    if seen.how is How.START and seen.ends_with_newline and seen.at - modified_at > patience.settle_s:
        return modified_at
    return seen.at


def _note(seen: Reading, patience: Patience) -> str:
    if seen.ends_with_newline:
        return ""
    if seen.size == 0:
        return f"the file is empty; it was taken after {patience.cut_s:g} s without change"
    return (
        "the last line has no end, so the file may be cut short; "
        f"it was taken after {patience.cut_s:g} s without change"
    )
