"""A fake machine room: run directories, trainings, shims and channels that carry out what the core orders.

It promises what the real effects promise (an attempt starts at most once, nothing is prepared while an older attempt
lives, a stale token starts nothing) and breaks where a machine breaks: see fates.py and the flags of MachineRoom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fates import EVIDENCE
from folders import Folder, Training, WrongError, copy_of
from msgspec.structs import replace

from supervisor.core import actions, events
from supervisor.core.checkpoints import GOES_ON, Checkpoint, Choice, choose, choose_epoch, judged, of_an_older_plan
from supervisor.core.ledger import Ledger, Line, usable
from supervisor.core.model import Attempt, Boot, Job, Run, World
from supervisor.errors import PermanentError, RetryableError


class MachineRoom:
    """Everything outside the daemon."""

    #: What a self-test says: see cards.py.
    tested: Callable[[MachineRoom, actions.TestGpu], tuple[events.Event, ...]]
    #: What backups do: see vaults.py.
    back_up: Callable[[MachineRoom, actions.BackUp], tuple[events.Event, ...]]
    restore: Callable[[MachineRoom, actions.Restore], tuple[events.Event, ...]]

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.boot = Boot("boot-1", 1)
        self.folders: dict[str, Folder] = {}
        self.jobs: dict[str, Job] = {}  # what stands in the jobs folder, by path
        self.moved: list[str] = []
        self.heard: list[str] = []  # keys of delivered messages
        self.told_to_end: set[str] = set()
        self.disk_full = False
        self.cards: list[Any] = []  # see cards.py
        self.vaults: dict[str, Any] = {}  # see vaults.py
        self.excused: set[str] = set()  # orders that a dead GPU was the reason of
        self.pids = 100

    def folder(self, name: str) -> Folder:
        """The run directory of a job."""
        return self.folders.setdefault(name, Folder())

    def alive(self) -> list[Training]:
        """All trainings whose trainer lives."""
        return [one for folder in self.folders.values() for one in folder.attempts.values() if one.alive]

    # ---- effects
    def carry_out(self, action: actions.Action) -> tuple[events.Event, ...]:
        """Do what is asked; may be asked twice. Raises RetryableError and PermanentError as the real effects do."""
        name = type(action).__name__.lower()
        handler = getattr(self, f"_{name}")
        return tuple(replace(event, answers=action.key) for event in handler(action))

    def _checkjob(self, action: actions.CheckJob) -> tuple[events.Event, ...]:
        job = msgspec.json.decode(action.data, type=Job)
        if job.gpus > 2:
            problem = "gpus: expected at most 2"
            return (events.JobRefused(at=self.now, path=action.path, revision=action.revision, problem=problem),)
        return (events.JobAccepted(at=self.now, path=action.path, job=job),)

    def _markfile(self, action: actions.MarkFile) -> tuple[events.Event, ...]:
        job = self.jobs.get(action.path)
        if action.what == "done" and job is not None and job.revision == action.revision:
            del self.jobs[action.path]
            self.moved.append(action.path)
        return (events.FileMarked(at=self.now, path=action.path),)

    def _prepare(self, action: actions.Prepare) -> tuple[events.Event, ...]:
        about: dict[str, Any] = {"at": self.now, "run": action.run, "attempt": action.attempt}
        if self.disk_full:
            return (events.PrepareFailed(**about, reason="the disk is full", waiting_for="disk"),)
        folder = self.folder(action.job.name)
        if folder.token > action.token:
            raise PermanentError("a newer attempt holds the run")
        if any(not one.cleared for number, one in folder.attempts.items() if number < action.attempt):
            raise RetryableError("an older attempt still has processes")
        folder.token = action.token
        if action.set_aside and action.attempt not in folder.attempts:
            folder.files, folder.saved_ever, folder.saved_at_failure, folder.failures = {}, 0, 0, 0
            folder.ledger = Ledger()
        if action.distrust_from and action.goal is None:
            folder.distrust(action.distrust_from)
        choice = self._choose(action, folder)
        best = choice.checkpoint
        if choice.start == "fresh":
            folder.files.clear()
        elif choice.start in {"resume", "finish"} and best is not None and not best.path.endswith("last.pt"):
            folder.files["last.pt"] = replace(best, path=_path(action.job, "last.pt"))
        checkpoint = _path(action.job, "last.pt") if best is not None else ""
        epoch = best.done_epochs if best is not None else 0
        found = {"start": choice.start, "checkpoint": checkpoint, "from_epoch": epoch, "reason": choice.reason}
        found["lacking"] = choice.lacking
        return (events.Prepared(**about, **found),)

    def _choose(self, action: actions.Prepare, folder: Folder) -> Choice:
        goal, found = action.goal, folder.found()
        begun = folder.ledger.opened_by(action.run) is not None
        if goal is not None and goal.kind == "rewind" and not begun:
            return self._rewind(action, folder, goal.epoch)
        if goal is not None and goal.kind == "extend":
            found = [judged(one if begun else of_an_older_plan(one), goal.epochs) for one in found]
        choice = choose(action.job, found, scratch_allowed=action.scratch_allowed and not folder.ledger.entries)
        if goal is not None and not begun and choice.checkpoint is not None:
            self._open_line(action, folder, choice.checkpoint)
        return choice

    def _rewind(self, action: actions.Prepare, folder: Folder, epoch: int) -> Choice:
        copies = [copy_of(entry) for entry in folder.ledger.entries]
        choice = choose_epoch([*folder.files.values(), *copies], epoch)
        if choice.checkpoint is not None:
            last = folder.files.get("last.pt")
            if last is not None and last.state in GOES_ON:
                folder.enter(last, action.run, action.attempt, action.job)
            self._open_line(action, folder, choice.checkpoint)
        return choice

    def _open_line(self, action: actions.Prepare, folder: Folder, start: Checkpoint) -> None:
        folder.files = {"last.pt": replace(start, path=_path(action.job, "last.pt"), kept=False)}
        epoch = folder.saved_ever = folder.begun_at[action.run] = start.done_epochs
        parent, number = folder.ledger.line, len(folder.ledger.lines) + 2
        if not any(entry.epoch == epoch for entry in usable(folder.ledger)):
            parent = next((entry.line for entry in folder.ledger.entries if entry.epoch == epoch), parent)
        line = Line(number=number, parent=parent, from_epoch=epoch, run=action.run)
        folder.ledger = replace(folder.ledger, lines=(*folder.ledger.lines, line))

    def _launch(self, action: actions.Launch) -> tuple[events.Event, ...]:
        folder = self.folder(action.job.name)
        training = folder.attempts.get(action.attempt)
        if training is None:
            if folder.token != action.token:
                raise PermanentError("the run is held by another token")
            training = folder.attempts[action.attempt] = self._start(action, folder)
        about: dict[str, Any] = {"at": self.now, "run": action.run, "attempt": action.attempt}
        who = {"pid": training.pid, "shim_pid": training.pid + 1, "boot": training.boot}
        return (events.Launched(**about, **who, started_at=training.started_at),)

    def _start(self, action: actions.Launch, folder: Folder) -> Training:
        for other in folder.attempts.values():
            if not other.cleared:
                raise WrongError(f"attempts {other.number} and {action.attempt} of {action.run} live at once")
        taken = {gpu for other in self.alive() for gpu in other.gpus}
        if taken & set(action.gpus):
            raise WrongError(f"{action.run} was given GPUs {action.gpus}, taken are {taken}")
        if not set(action.changes) <= set(action.job.restart.remedies):
            raise WrongError(f"{action.run} is launched with {action.changes}, which its job does not allow")
        if action.start == "fresh" and (folder.good() or (folder.saved_ever and not folder.misread)):
            raise WrongError(f"{action.run} starts from scratch over {folder.saved_ever} saved epochs")
        if action.start == "resume" and action.from_epoch < folder.saved_ever:  # what is lost is no progress any more
            folder.saved_at_failure = folder.saved_ever
        self.pids += 2
        epoch = 0 if action.start == "fresh" else action.from_epoch
        return Training(
            action.run, action.attempt, action.token, action.job, action.gpus, self.boot, self.pids, epoch, self.now
        )

    def _terminate(self, action: actions.Terminate) -> tuple[events.Event, ...]:
        training = self.folder(action.name).attempts.get(action.attempt)
        count = 0
        if training is not None and training.boot == self.boot and not training.cleared:
            count = self._signal(training, action.how)
        about: dict[str, Any] = {"at": self.now, "run": action.run, "attempt": action.attempt}
        return (events.SignalSent(**about, signal=f"SIG{action.how.upper()}", count=count),)

    def _signal(self, training: Training, how: str) -> int:
        died = any(card.index in training.gpus and card.was_dead(training.started_at) for card in self.cards)
        if training.alive and training.run not in self.told_to_end and not training.proven and not died:
            raise WrongError(f"{training.run} was healthy and nobody ordered its end")
        if how == "kill":
            self.end(training, signal=9)
            training.children = 0
        elif how == "abort" and not training.deaf:
            self.end(training, signal=6)
        elif training.alive and not training.deaf and not training.hung:
            self.end(training, code=75)
        return 1

    def _autopsy(self, action: actions.Autopsy) -> tuple[events.Event, ...]:
        training = self.folder(action.job.name).attempts[action.attempt]
        if training.alive and not training.hung_once:
            raise WrongError(f"{training.run} never hung and is to be ended for that")
        about: dict[str, Any] = {"at": self.now, "run": action.run, "attempt": action.attempt}
        return (events.AutopsyDone(**about, summary="the main process waits for worker 3"),)

    def _examine(self, action: actions.Examine) -> tuple[events.Event, ...]:
        training = self.folder(action.job.name).attempts[action.attempt]
        by_record = action.job.train is not None and training.finished and action.code in {0, None}
        finished = by_record or (action.job.train is None and action.code == 0)
        saved = max(training.saved, default=0)
        if action.job.train is None:
            saved = max((one.done_epochs for one in self.folder(action.job.name).good()), default=0)
        about: dict[str, Any] = {"at": self.now, "run": action.run, "attempt": action.attempt}
        found = {"evidence": training.evidence, "seconds": {"training": 9.0, "unsaved": 5.0}, "moved_at": self.now - 1}
        proof = "seen" if finished else ""
        return (events.Examined(**about, finished=finished, proof=proof, saved_epoch=saved, **found),)

    def _keep(self, action: actions.Keep) -> tuple[events.Event, ...]:
        """Copy what is whole into the ledger; nothing where the run is held by a newer attempt."""
        folder = self.folder(action.job.name)
        about: dict[str, Any] = {"at": self.now, "run": action.run, "attempt": action.attempt}
        last = folder.files.get("last.pt")
        if folder.token != action.token or last is None or last.state not in GOES_ON:
            return (events.Kept(**about, reason="nothing to keep"),)
        entry = folder.enter(last, action.run, action.attempt, action.job)
        return (events.Kept(**about, epoch=entry.epoch, file=entry.file, best=entry.epoch % 2 == 1),)

    def _compare(self, action: actions.Compare) -> tuple[events.Event, ...]:
        about: dict[str, Any] = {"at": self.now, "run": action.run, "attempt": action.attempt}
        return (events.Compared(**about, continuous=action.attempt % 2 == 0, findings=("a jump",)),)

    def _testgpu(self, action: actions.TestGpu) -> tuple[events.Event, ...]:
        return self.tested(self, action)

    def _backup(self, action: actions.BackUp) -> tuple[events.Event, ...]:
        return self.back_up(self, action)

    def _restore(self, action: actions.Restore) -> tuple[events.Event, ...]:
        return self.restore(self, action)

    def _verifybackup(self, action: actions.VerifyBackup) -> tuple[events.Event, ...]:
        cause = self.vaults[action.target].trouble
        return (events.BackupVerified(at=self.now, target=action.target, cause=cause),)

    def _drill(self, action: actions.Drill) -> tuple[events.Event, ...]:
        cause = self.vaults[action.target].trouble
        return (events.Drilled(at=self.now, target=action.target, ok=not cause, run="a@1", cause=cause),)

    def _prune(self, action: actions.Prune) -> tuple[events.Event, ...]:
        return (events.Pruned(at=self.now, moved_files=1, by=action.by),)

    def _announce(self, action: actions.Announce) -> tuple[events.Event, ...]:
        self.heard.append(action.key)
        return (events.Announced(at=self.now, channel=action.channel, tries=1),)

    # ---- what trainings do
    def train(self, training: Training, fate: str, why: int = 0) -> list[events.Event]:
        """One epoch of a training, with what befalls it. What is reported of it, if it came to that.

        `why` chooses among the causes of which it may die.
        """
        training.hung = training.hung or fate == "hang"
        training.deaf = training.deaf or fate == "deaf"
        if fate == "fork":
            training.children += 1
        verb, _, number = fate.partition(" ")
        if verb == "exit":
            self.end(training, code=int(number))
        elif verb == "kill":
            self.end(training, signal=9)
        elif verb == "die":
            training.evidence = EVIDENCE[why % len(EVIDENCE)]
            self.end(training, code=1)
        elif verb == "torn":
            self._tear(training)
            self.end(training, signal=9)
        elif not training.hung:
            return self._epoch(training)
        return []

    def _epoch(self, training: Training) -> list[events.Event]:
        epochs = training.job.epochs or 3
        if training.epoch < epochs:
            training.epoch += 1
            self._save(training, epochs)
            about: dict[str, Any] = {"at": self.now, "run": training.run, "attempt": training.number}
            saved = training.epoch if training.saved else 0
            return [
                events.Progressed(**about, epoch=training.epoch, epochs=epochs, saved_epoch=saved),
                events.SaveSeen(**about, epoch=saved),
            ]
        files = self.folder(training.job.name).files
        if training.job.train is not None and "last.pt" not in files:  # lost before the trainer could read it
            self.end(training, code=1)
            return []
        training.finished = True
        if training.job.train is not None:
            files["last.pt"] = replace(files["last.pt"], state="finished")
            files["best.pt"] = replace(files.get("best.pt", files["last.pt"]), state="finished")
        self.end(training, code=0)
        return []

    def _save(self, training: Training, epochs: int) -> None:
        job, folder = training.job, self.folder(training.job.name)
        if folder.token != training.token:
            raise WrongError(f"{training.run} writes with token {training.token}, the run is held by {folder.token}")
        if job.train is None and not job.checkpoint_files:
            return
        state = "done_not_stripped" if training.epoch == epochs else "resumable"
        for name in ("last.pt", "best.pt")[: 1 + training.epoch % 2]:
            path = _path(job, name)
            folder.files[name] = Checkpoint(path=path, state=state, epoch=training.epoch - 1, size_bytes=9)
        training.saved.append(training.epoch)
        folder.saved_ever = max(folder.saved_ever, training.epoch)

    def _tear(self, training: Training) -> None:
        job = training.job
        if job.train is not None or job.checkpoint_files:
            torn = Checkpoint(path=_path(job, "last.pt"), state="torn", size_bytes=5)
            self.folder(job.name).files["last.pt"] = torn

    def end(self, training: Training, *, code: int | None = None, signal: int | None = None) -> None:
        """The trainer ends; its shim records how, and lives on while children do."""
        if not training.alive:
            return
        training.alive, training.code, training.signal, training.recorded = False, code, signal, True
        finished = training.finished or (training.job.train is None and code == 0)
        folder = self.folder(training.job.name)
        if not finished and (code != 75 or training.proven):
            folder.count_failure(training.run, training.evidence)
        elif not finished:
            folder.count_progress(training.run)

    def reboot(self, *, torn: bool) -> None:
        """Every process is gone and nobody recorded how; a file that was just written may be torn."""
        self.boot = Boot(f"boot-{int(self.boot.boot_id[5:]) + 1}", 1)
        for folder in self.folders.values():
            for training in folder.attempts.values():
                if torn and training.alive:
                    self._tear(training)
                    folder.files.update({name: replace(one, state="torn") for name, one in folder.files.items()})
                training.alive, training.children = False, 0


def _path(job: Job, name: str) -> str:
    return f"/runs/{job.name}/train/weights/{name}"


class FakeProcessSource:
    """What sources/processes.py does, on the room: reports ends once, and again when it is asked for all that it knows."""

    def __init__(self, room: MachineRoom) -> None:
        self._room = room
        self._exit_sent: set[tuple[str, int]] = set()
        self._cleared_sent: set[tuple[str, int]] = set()

    def look(self, world: World) -> list[events.Event]:
        """One round over all attempts that may have processes."""
        found: list[events.Event] = []
        for run, attempt in _followed(world):
            training = self._room.folder(run.name).attempts.get(attempt.number)
            if training is not None and not training.alive:
                found += self._bury(run, attempt, training)
        return found

    def _bury(self, run: Run, attempt: Attempt, training: Training) -> list[events.Event]:
        key = (run.id, attempt.number)
        about: dict[str, Any] = {"at": self._room.now, "run": run.id, "attempt": attempt.number}
        found: list[events.Event] = []
        if attempt.ended_at is None and key not in self._exit_sent:
            how = {"code": training.code, "signal": training.signal, "lost": "" if training.recorded else "lost"}
            found.append(events.AttemptExited(**about, **how, ended_at=self._room.now))
        self._exit_sent.add(key)
        if training.cleared and key not in self._cleared_sent:
            self._cleared_sent.add(key)
            found.append(events.AttemptCleared(**about))
        return found

    def resync(self, world: World) -> list[events.Event]:
        """The full list of the living, and everything else once more."""
        self._exit_sent.clear()
        self._cleared_sent.clear()
        alive = tuple((one.run, one.number) for one in self._room.alive())
        return [*self.look(world), events.Observed(at=self._room.now, alive=alive)]


def _followed(world: World) -> list[tuple[Run, Attempt]]:
    return [
        (run, run.attempt)
        for run in world.live.values()
        if run.attempt is not None and run.attempt.launches > 0 and not run.attempt.cleared
    ]
