"""Looking at a run's checkpoints: only as far as it can change what is chosen, and what is chosen with more care.

A ledger of hundreds of copies is not read whole: the newest that is proven good ends the search.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from supervisor import layout, trainers
from supervisor.core.checkpoints import (
    BAD,
    GOES_ON,
    Candidate,
    Checkpoint,
    Choice,
    Saved,
    judged,
    knows_its_end,
    next_looks,
)
from supervisor.core.ledger import Entry, Ledger, usable
from supervisor.core.model import Job
from supervisor.effects import checkpoints, ledger
from supervisor.trainers.scripts import script_folder

Pick = Callable[[Sequence[Checkpoint]], Choice]
Judge = Callable[[Checkpoint], Checkpoint]

_NUMBERED = re.compile(r"[a-z]+_?(\d+)\.pth?")


@dataclass
class Survey:
    """What is known so far of the checkpoints of one run. Looks at more of them as it is asked for a choice."""

    job: Job
    candidates: Sequence[Candidate]
    judge: Judge
    hooked: bool = False
    found: list[Checkpoint] = field(default_factory=list)

    def choose(self, pick: Pick, *, only: int | None = None) -> Choice:
        """What `pick` takes of everything that it could take, proven good: bad files are put in its way until then.

        Raises RetryableError where this machine cannot look just now.
        """
        proven: set[str] = set()
        while True:
            self._look_on(only)
            choice = pick(self.found)
            chosen = choice.checkpoint
            if chosen is None or chosen.path in proven or not self._needs_proof(chosen):
                return choice
            proven.add(chosen.path)
            self.found = [self._prove(one) if one.path == chosen.path else one for one in self.found]

    def _look_on(self, only: int | None) -> None:
        while batch := next_looks(self.candidates, self.found, only=only):
            kept = {one.path for one in batch if one.kept}
            seen = checkpoints.look([Path(one.path) for one in batch])
            self.found += [self.judge(msgspec.structs.replace(one, kept=one.path in kept)) for one in seen]

    def _needs_proof(self, chosen: Checkpoint) -> bool:
        """Nothing is known of what other programs keep in their files: infinite may be what they mean."""
        return chosen.state in GOES_ON and (self.hooked or knows_its_end(self.job))

    def _prove(self, chosen: Checkpoint) -> Checkpoint:
        proven = prove(Path(chosen.path), self.job)
        return self.judge(msgspec.structs.replace(proven, kept=chosen.kept))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wrong with the files that were looked at, for people."""
        return tuple(f"{one.name} is {one.state}: {one.reason}" for one in self.found if one.state in BAD)


def prove(path: Path, job: Job) -> Checkpoint:
    """Look at a checkpoint as closely as possible before a training goes on from it.

    Its numbers must be finite; where the cheap look leaves doubts, the job's own Python loads it.
    """
    [found] = checkpoints.look([path], finite=True)
    if found.state not in GOES_ON or not found.doubts or not Path(job.python).is_file():
        return found
    deep = checkpoints.deep(job.python, path, expected_epoch=found.epoch, modules=_modules(job))
    if deep.ok or not deep.looked:  # that Python cannot look: then the trainer's own start is the test
        return found
    return msgspec.structs.replace(found, state="refused", reason=f"{deep.reason} (loaded by {job.python})")


def _modules(job: Job) -> list[Path]:
    """Where a script's own classes lie: beside it, and in the folder that it is started from."""
    beside = script_folder(job)
    return [*([beside] if beside is not None else []), *([Path(job.cwd)] if job.cwd else [])]


def of_run(job: Job, run_dir: layout.RunDirectory, kept: Ledger, judge: Judge | None = None) -> Survey:
    """The survey of a run's own checkpoints: the trainer's files, and the copies that its present line may use."""
    trainer = trainers.trainer_for(job)
    own = [Candidate(path=str(path), epoch=claim(job, path)) for path in trainer.checkpoints(job, run_dir)]
    hooked = job.train is None and not job.resume_command and trainer.place(job, run_dir) is not None
    told = trainer.epochs(job, run_dir)
    finals = [Candidate(path=str(path)) for path in ledger.finals(run_dir)]  # on their way into the ledger
    candidates = [*own, *finals, *copies(run_dir, usable(kept))]
    return Survey(job, candidates, judge or (lambda one: judged(one, wanted_epochs(job, one, told))), hooked)


def wanted_epochs(job: Job, found: Checkpoint, told: int | None = None) -> int | None:
    """How many epochs a training that goes on from this file is to have; `told` is what the trainer will read.

    Ultralytics reads it from the file. Where the job wants more, as an extended one does, it is written into the file
    first; a budget of time lets the trainer write its own estimate there.
    """
    if job.train is None or found.epochs is None:
        return told
    return found.epochs if "time" in job.train else max(found.epochs, job.epochs or 0)


def override(job: Job, choice: Choice) -> int:
    """The number of epochs that must be written into the chosen file before it is resumed; 0 where it is right."""
    chosen = choice.checkpoint
    if choice.start != "resume" or chosen is None or chosen.epochs is None or job.train is None:
        return 0
    wanted = wanted_epochs(job, chosen)
    return wanted if wanted is not None and wanted != chosen.epochs else 0


def copies(run_dir: layout.RunDirectory, entries: Sequence[Entry]) -> list[Candidate]:
    """Entries of a ledger whose files are there, in their order."""
    places = [(ledger.path_of(run_dir, entry), entry.epoch) for entry in entries]
    return [Candidate(path=str(path), epoch=epoch, kept=True) for path, epoch in places if path.is_file()]


def claim(job: Job, path: Path) -> int | None:
    """The complete epochs that a numbered file's name claims; of other programs' files names say nothing."""
    match = _NUMBERED.fullmatch(path.name) if knows_its_end(job) else None
    return int(match[1]) + 1 if match else None


def saved(job: Job, run_dir: layout.RunDirectory, epoch: int | None = None) -> Saved:
    """The epochs that the run can go back to. `epoch`: look until that one is proven, if it can be.

    What the ledger holds was proven when it was entered; it is looked at once more before it is used.
    """
    entries = ledger.read(run_dir).entries
    kept = {one.epoch for one in copies(run_dir, entries) if one.epoch is not None}
    own = [one for one in of_run(job, run_dir, Ledger()).candidates if one.epoch not in kept]
    wanted = [one for one in own if one.epoch in {None, epoch}] if epoch not in kept or epoch is None else []
    found = checkpoints.look([Path(one.path) for one in wanted])
    there = kept | {one.done_epochs for one in found if one.state in GOES_ON}
    there |= {one.epoch for one in own if one.epoch is not None and one.epoch != epoch}
    stripped = tuple(sorted(one.name for one in found if one.state == "finished"))
    return Saved(epochs=tuple(sorted(there - {0})), stripped=stripped)
