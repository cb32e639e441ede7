"""The run directories of the fake machine room: trainings, their files, the ledger, and how failures are counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from fates import SILENT
from msgspec.structs import replace

from supervisor.core.checkpoints import GOES_ON, Checkpoint
from supervisor.core.diagnosis.evidence import Evidence
from supervisor.core.ledger import Entry, Ledger, keep, usable
from supervisor.core.model import Boot, Job


class WrongError(BaseException):
    """Something happened that must never happen; a BaseException, so that nothing in the daemon catches it."""


@dataclass
class Training:
    """One attempt's shim, trainer and children."""

    run: str
    number: int
    token: int
    job: Job
    gpus: tuple[int, ...]
    boot: Boot
    pid: int
    epoch: int
    started_at: float
    alive: bool = True
    children: int = 0
    hung: bool = False
    deaf: bool = False
    finished: bool = False
    code: int | None = None
    signal: int | None = None
    recorded: bool = False
    proven: bool = False  # it really hung when that was reported, and the core has not let it go on since
    hung_once: bool = False
    evidence: Evidence = SILENT
    saved: list[int] = field(default_factory=list)

    @property
    def cleared(self) -> bool:
        """Nothing of it is left."""
        return not self.alive and not self.children


@dataclass
class Folder:
    """One run directory."""

    token: int = 0
    files: dict[str, Checkpoint] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    begun_at: dict[str, int] = field(default_factory=dict)
    attempts: dict[int, Training] = field(default_factory=dict)
    saved_ever: int = 0
    misread: bool = False
    failures: int = 0
    saved_at_failure: int = 0
    counted: str = ""
    last_place: Evidence = SILENT
    lost: bool = False  # everything in it was lost at some time
    same_place: bool = False  # the last two failures were the same, without an epoch in between

    def saved_before(self, run: str) -> int:
        """The newest epoch that runs before this one saved in this folder; of a rewound run where it begins."""
        if run in self.begun_at:
            return self.begun_at[run]
        return max((epoch for one in self.attempts.values() if one.run != run for epoch in one.saved), default=0)

    def good(self) -> list[Checkpoint]:
        """The files from which a training can go on."""
        return [one for one in self.found() if one.state in GOES_ON]

    def found(self) -> list[Checkpoint]:
        """Everything that a look at the trainer's files and at the copies of the present line finds."""
        return [*self.files.values(), *map(copy_of, usable(self.ledger))]

    def enter(self, source: Checkpoint, run: str, attempt: int, job: Job) -> Entry:
        """Copy a good checkpoint into the ledger, and prune that as the real one is pruned."""
        epoch, line = source.done_epochs, self.ledger.line
        name = f"epoch{epoch}-attempt{attempt}-{line}.pt"
        entry = Entry(file=name, epoch=epoch, run=run, attempt=attempt, line=line, state=source.state)
        others = tuple(one for one in self.ledger.entries if one.file != name)
        self.ledger = replace(self.ledger, entries=(*others, entry))
        newest = usable(self.ledger)[:1]
        self.ledger = replace(self.ledger, entries=keep(self.ledger, job.checkpoints))
        if usable(self.ledger)[:1] != newest:
            raise WrongError(f"the newest verified copy was removed: {newest}")
        return entry

    def distrust(self, epoch: int) -> None:
        """Do without the checkpoints from that epoch on, if there is an older one to go on from."""
        if any(0 < one.done_epochs < epoch for one in self.good()):
            trusted = {
                name: one for name, one in self.files.items() if one.state not in GOES_ON or one.done_epochs < epoch
            }
            older = tuple(entry for entry in self.ledger.entries if entry.epoch < epoch)
            self.files, self.ledger = trusted, replace(self.ledger, entries=older)

    def _begin_to_count(self, run: str) -> None:
        """A new run is new."""
        if run != self.counted:
            self.counted, self.failures, self.saved_at_failure = run, 0, self.saved_before(run)

    def count_progress(self, run: str) -> None:
        """The attempt was stopped from outside, which is no failure; what it saved counts for those before."""
        self._begin_to_count(run)
        if self.saved_ever > self.saved_at_failure:
            self.failures, self.saved_at_failure, self.same_place = 0, self.saved_ever, False

    def count_failure(self, run: str, evidence: Evidence = SILENT) -> None:
        """Count as the contract does: an epoch saved since the last failure makes this one free; a new run is new."""
        self.same_place = bool(evidence.site) and evidence == self.last_place
        self.last_place = evidence
        self._begin_to_count(run)
        self.failures = 0 if self.saved_ever > self.saved_at_failure else self.failures + 1
        self.saved_at_failure = max(self.saved_ever, self.saved_at_failure)


def copy_of(entry: Entry) -> Checkpoint:
    """What a look at a copy finds."""
    return Checkpoint(path=f"/good/{entry.file}", state=entry.state, epoch=entry.epoch - 1, size_bytes=9, kept=True)
