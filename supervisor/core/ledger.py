"""The ledger: verified private copies of checkpoints, and the lines of training that they belong to. Pure.

A run that is rewound or extended opens a new line: what the old line trained beyond that epoch is kept, but the new
line does not go on from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from supervisor.core.job import Checkpoints

DONE = "done_not_stripped"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One private copy in the run's folder `good`. `epoch` counts complete epochs, from 1; 0 if the file does not say.

    `map50_95` is the metric of just this epoch, if its checkpoint holds one. `source_mtime_ns` and `source_bytes` are
    those of the file that was copied: the same file is not copied twice. `distrusted` says why no training goes on from
    it although it is whole; empty if one may. It stays, and a person may go back to it.
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
    distrusted: str = ""


class Distrust(msgspec.Struct, frozen=True, kw_only=True):
    """Copies of `from_epoch` and beyond that `line` could go on from are not to be used, and why.

    Those that attempts before `attempt` made: what is saved after it is trusted again. `done`: the trainer's own files
    were brought in line with that, so that an attempt could start.
    """

    from_epoch: int
    attempt: int
    line: int
    reason: str
    done: bool = False


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of training: it left its parent after `from_epoch` complete epochs, for the run `run`."""

    number: int
    parent: int
    from_epoch: int
    run: str
    reason: str = ""


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All copies, oldest first, and all lines but the first. The last line is the current one.

    `distrust` is the newest order not to use some of them.
    """

    entries: tuple[Entry, ...] = ()
    lines: tuple[Line, ...] = ()
    version: int = 1
    distrust: Distrust | None = None

    @property
    def line(self) -> int:
        """The number of the current line."""
        return self.lines[-1].number if self.lines else 1

    def opened_by(self, run: str) -> Line | None:
        """The line that this run opened, if it did."""
        return next((line for line in self.lines if line.run == run), None)

    def line_of(self, run: str) -> int:
        """The number of the line on which this run trains: the newest one that it or an older run opened."""
        number = run_number(run)
        return max((line.number for line in self.lines if run_number(line.run) <= number), default=1)


def run_number(run: str) -> int:
    """The number in a run's id (`truck@2`): the runs of one directory follow each other by it. 0 if there is none."""
    digits = run.rpartition("@")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def usable(ledger: Ledger, line: int | None = None) -> tuple[Entry, ...]:
    """The copies that a line (the current one) may go on from, the most epochs first; of equals the newest.

    Those whose epoch is unknown come last, and only where they are of the line itself: nobody knows whether they were
    written before it left its parent. Those that are distrusted are left out.
    """
    return tuple(entry for entry in of_line(ledger, line) if not entry.distrusted)


def of_line(ledger: Ledger, line: int | None = None) -> tuple[Entry, ...]:
    """As `usable`, with the distrusted copies."""
    start = ledger.line if line is None else line
    by_number = {each.number: each for each in ledger.lines}
    limits: dict[int, float] = {}
    number, limit = start, float("inf")
    while number not in limits:  # a line whose parent is itself would be a damaged file
        limits[number] = limit
        each = by_number.get(number)
        if each is None:
            break
        number, limit = each.parent, min(limit, each.from_epoch)
    found = [
        entry
        for entry in ledger.entries
        if (entry.epoch or entry.line == start) and entry.epoch <= limits.get(entry.line, -1)
    ]
    return tuple(sorted(found, key=_age, reverse=True))


def distrusting(ledger: Ledger, order: Distrust) -> Ledger:
    """The ledger in which the order stands, and holds for all copies that it is about. Again changes nothing.

    Of copies whose epoch is unknown nobody can say whether it is about them: they stay as they are.
    """
    about = {
        entry.file
        for entry in usable(ledger, order.line)
        if entry.epoch >= order.from_epoch > 0 and entry.attempt < order.attempt
    }
    marked = [
        msgspec.structs.replace(entry, distrusted=order.reason) if entry.file in about else entry
        for entry in ledger.entries
    ]
    return msgspec.structs.replace(ledger, entries=tuple(marked), distrust=order)


def under_order(ledger: Ledger, entry: Entry) -> Entry:
    """A new entry as the newest order wants it: the copy of an older attempt may come late."""
    if ledger.distrust is None:
        return entry
    return distrusting(msgspec.structs.replace(ledger, entries=(entry,)), ledger.distrust).entries[0]


def opening(ledger: Ledger, line: Line) -> Ledger:
    """The ledger with a new line. A person who goes back to a distrusted epoch trusts it again."""
    entries = ledger.entries
    if not any(entry.epoch == line.from_epoch for entry in usable(ledger, line.parent)):
        entries = tuple(
            msgspec.structs.replace(entry, distrusted="") if entry.epoch == line.from_epoch else entry
            for entry in entries
        )
    return msgspec.structs.replace(ledger, entries=entries, lines=(*ledger.lines, line), distrust=None)


def _age(entry: Entry) -> tuple[int, int, int, float]:
    return (entry.epoch, entry.line, entry.attempt, entry.kept_at)


def keep(ledger: Ledger, policy: Checkpoints) -> tuple[Entry, ...]:
    """The copies that stay. Never none of a ledger that has some, whatever the policy.

    Always: the newest that the current line can go on from, each line's newest copy and one where it began (so that one
    can return there), and each line's newest copy of a finished training (only from it can the run be extended). By
    policy: the newest `keep_last` epochs, the best `keep_best` of all lines, and by `keep_epochs` all, or exponential
    ones. Distrusted copies stay in any case, and count for none of that: they are what a person may want to look at.
    """
    line = usable(ledger)
    trusted = [entry for entry in ledger.entries if not entry.distrusted]
    wanted = {*_newest(line, policy.keep_last), *_best(trusted, policy.keep_best)}
    wanted.update(*_beginnings(ledger), _newest_of_lines(trusted))
    wanted.update(_newest_of_lines(entry for entry in trusted if entry.state == DONE))
    wanted.update(entry.file for entry in ledger.entries if entry.distrusted)
    if policy.keep_epochs == "all":
        wanted.update(entry.file for entry in ledger.entries)
    elif policy.keep_epochs == "exponential":
        wanted.update(_exponential(line))
    return tuple(entry for entry in ledger.entries if entry.file in wanted)


def _newest(line: Sequence[Entry], count: int) -> list[str]:
    """The newest epochs, each once; each copy of unknown epoch counts as one."""
    by_epoch: dict[int | str, str] = {}
    for entry in line:
        by_epoch.setdefault(entry.epoch or entry.file, entry.file)
    return list(by_epoch.values())[: max(1, count)]


def _best(entries: Iterable[Entry], count: int) -> list[str]:
    measured = [entry for entry in entries if entry.map50_95 is not None]
    measured.sort(key=lambda entry: (entry.map50_95 or 0.0, *_age(entry)), reverse=True)
    return [entry.file for entry in measured[:count]]


def _beginnings(ledger: Ledger) -> list[list[str]]:
    """For each line the copy that it began with."""
    begun = [[one.file for one in usable(ledger, each.parent) if one.epoch == each.from_epoch] for each in ledger.lines]
    return [files[:1] for files in begun]


def _newest_of_lines(entries: Iterable[Entry]) -> list[str]:
    """The newest of these copies of each line."""
    return list({entry.line: entry.file for entry in sorted(entries, key=_age)}.values())


def _exponential(line: Sequence[Entry]) -> list[str]:
    """For each power of two the oldest copy that is younger than so many epochs: ever wider gaps.

    Of a run in epoch 100 whose every epoch was copied these are 100, 99, 97, 93, 89, 81, 65 and 1: of neighbours the
    one is at most three times as old as the other, and there are about log2(epochs) + 2 of them. That holds although
    each save forgets what does not fit: a copy moves from one power to the next as it grows older.
    """
    found: dict[int, str] = {}
    for entry in line:
        if entry.epoch:
            found[(line[0].epoch - entry.epoch).bit_length()] = entry.file  # later ones are older
    return list(found.values())
