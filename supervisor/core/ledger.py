"""The ledger: verified private copies of checkpoints, and the lines of training that they belong to. Pure.

A run that is rewound or extended opens a new line: what the old line trained beyond that epoch is kept, but the new
line does not go on from it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from supervisor.core.model import Checkpoints


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One private copy in the run's folder `good`. `epoch` counts complete epochs, from 1.

    `map50_95` is the metric of just this epoch, if its checkpoint holds one. `source_mtime_ns` and `source_bytes` are
    those of the file that was copied: the same file is not copied twice.
    """

    file: str
    epoch: int
    run: str
    attempt: int
    line: int = 1
    state: str = "resumable"
    epochs: int | None = None
    size_bytes: int = 0
    sha256: str = ""
    map50_95: float | None = None
    trainer_version: str = ""
    kept_at: float = 0.0
    source_mtime_ns: int = 0
    source_bytes: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of training: it left its parent after `from_epoch` complete epochs, for the run `run`."""

    number: int
    parent: int
    from_epoch: int
    run: str
    reason: str = ""


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All copies, oldest first, and all lines but the first. The last line is the current one."""

    entries: tuple[Entry, ...] = ()
    lines: tuple[Line, ...] = ()
    version: int = 1

    @property
    def line(self) -> int:
        """The number of the current line."""
        return self.lines[-1].number if self.lines else 1

    def opened_by(self, run: str) -> Line | None:
        """The line that this run opened, if it did."""
        return next((line for line in self.lines if line.run == run), None)


def usable(ledger: Ledger) -> tuple[Entry, ...]:
    """The copies that the current line may go on from, the most epochs first; of equals the newest."""
    by_number = {line.number: line for line in ledger.lines}
    limits: dict[int, float] = {}
    number, limit = ledger.line, float("inf")
    while number not in limits:  # a line whose parent is itself would be a damaged file
        limits[number] = limit
        line = by_number.get(number)
        if line is None:
            break
        number, limit = line.parent, min(limit, line.from_epoch)
    found = [entry for entry in ledger.entries if entry.epoch <= limits.get(entry.line, 0)]
    return tuple(sorted(found, key=lambda entry: (entry.epoch, entry.line, entry.attempt), reverse=True))


def keep(ledger: Ledger, policy: Checkpoints) -> tuple[Entry, ...]:
    """The copies that stay: the newest, the best, and what the policy names. Never none of a ledger that has some."""
    line = usable(ledger)
    wanted = {*_newest(line, policy.keep_last), *_best(ledger.entries, policy.keep_best)}
    for first in ledger.lines:  # where a line began can always be returned to
        wanted.update([entry.file for entry in ledger.entries if entry.epoch == first.from_epoch][-1:])
    if policy.keep_epochs == "all":
        wanted.update(entry.file for entry in ledger.entries)
    elif policy.keep_epochs == "exponential":
        wanted.update(_exponential(line))
    return tuple(entry for entry in ledger.entries if entry.file in wanted)


def _newest(line: Iterable[Entry], count: int) -> list[str]:
    """The newest epochs, each once."""
    by_epoch: dict[int, str] = {}
    for entry in line:
        by_epoch.setdefault(entry.epoch, entry.file)
    return list(by_epoch.values())[: max(1, count)]


def _best(entries: Iterable[Entry], count: int) -> list[str]:
    measured = [entry for entry in entries if entry.map50_95 is not None]
    measured.sort(key=lambda entry: (entry.map50_95 or 0.0, entry.epoch), reverse=True)
    return [entry.file for entry in measured[:count]]


def _exponential(line: Iterable[Entry]) -> list[str]:
    """For each power of two the oldest copy that is younger than so many epochs: ever wider gaps."""
    entries = list(line)
    found: dict[int, str] = {}
    for entry in entries:
        found[(entries[0].epoch - entry.epoch).bit_length()] = entry.file  # later ones are older
    return list(found.values())
