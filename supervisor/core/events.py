"""Facts, in the past tense. Each has a wall time and may answer an action by its key.

A kind's name is stored in the journal: it is never re-used for another meaning. New fields get defaults.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from supervisor.core.backups.events import (
    BackedUp,
    BackupAsked,
    BackupDue,
    BackupFailed,
    BackupVerified,
    DiskSeen,
    DrillAsked,
    Drilled,
    PruneAsked,
    Pruned,
    PublishAsked,
    Published,
    QuietSeen,
    Restored,
    StateRestored,
    TakenBack,
    VerifyAsked,
)
from supervisor.core.base_events import AttemptEvent, Event, RunEvent
from supervisor.core.diagnosis.evidence import Evidence
from supervisor.core.gpus.events import (
    GpuFound,
    GpuHeld,
    GpuOrdered,
    GpusSeen,
    GpuTested,
    GpuTreated,
    KernelSaid,
    XidSeen,
)
from supervisor.core.model import Boot, Job, Policy
from supervisor.core.numbers import keep_finite


# ---- the daemon itself
class DaemonStarted(Event, frozen=True, kw_only=True, tag=True):
    """The daemon opened its journal; `boot` tells whether the machine was restarted since."""

    pid: int
    version: str
    boot: Boot


class DaemonStopped(Event, frozen=True, kw_only=True, tag=True):
    """The daemon was asked to end; trainings go on."""

    reason: str


class Configured(Event, frozen=True, kw_only=True, tag=True):
    """The configuration was read, at start or by reload."""

    policy: Policy


class TimePassed(Event, frozen=True, kw_only=True, tag=True):
    """Some deadline has come; `step` finds out which, or carries out that of one `run`."""

    run: str = ""


class ProgressDue(Event, frozen=True, kw_only=True, tag=True):
    """It is time for the regular message about progress."""


# ---- job files
class JobFileSeen(Event, frozen=True, kw_only=True, tag=True):
    """A job file is complete; these are its bytes. `note` warns of something odd, such as no final newline."""

    path: str
    data: bytes
    revision: str
    owner: int
    note: str = ""


class JobFileGone(Event, frozen=True, kw_only=True, tag=True):
    """A job file was deleted or moved away."""

    path: str


class JobAccepted(Event, frozen=True, kw_only=True, tag=True):
    """A job file was parsed and checked against the machine."""

    path: str
    job: Job
    note: str = ""


class JobRefused(Event, frozen=True, kw_only=True, tag=True):
    """A job file cannot become a run; `problem` says file, key, expected, got and the fix."""

    path: str
    revision: str
    problem: str


class FileMarked(Event, frozen=True, kw_only=True, tag=True):
    """A job file was moved to done/, or its .error file was written or removed."""

    path: str


# ---- orders by people
class StopAsked(RunEvent, frozen=True, kw_only=True, tag=True):
    """A person wants the run to stop: at the next saved epoch, or now."""

    by: str
    at_once: bool = False


class ResumeAsked(RunEvent, frozen=True, kw_only=True, tag=True):
    """A person wants a held run to go on; `accept`: with the differences that it is held for."""

    by: str
    accept: bool = False


class CancelAsked(RunEvent, frozen=True, kw_only=True, tag=True):
    """A person wants the run to end for good."""

    by: str
    at_once: bool = False


class RetryAsked(RunEvent, frozen=True, kw_only=True, tag=True):
    """A person wants a new run of an ended one, on the same directory."""

    by: str


class RewindAsked(RunEvent, frozen=True, kw_only=True, tag=True):
    """A person wants a new run on the same directory that goes on after `epoch` complete epochs."""

    by: str
    epoch: int


class ExtendAsked(RunEvent, frozen=True, kw_only=True, tag=True):
    """A person wants a finished run to go on until `epochs` are trained."""

    by: str
    epochs: int


class PriorityAsked(RunEvent, frozen=True, kw_only=True, tag=True):
    """A person wants another priority."""

    by: str
    priority: int


class DrainAsked(Event, frozen=True, kw_only=True, tag=True):
    """A person wants all trainings to end gracefully and none to start; `off` takes that back."""

    by: str
    at_once: bool = False
    off: bool = False


# ---- what became of actions
class Prepared(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The run directory stands and the start was chosen.

    `start` is fresh, resume (from `checkpoint`, whose last complete epoch is `from_epoch`, counted from 1), finish
    (all epochs done, only the trainer's own ending is missing), finished (nothing left to do) or refused.
    `epochs_override`: the number of epochs that the trainer must write into its copy of the checkpoint first.
    `kept_epoch`: the newest verified epoch in the ledger. `differences`: a digest of what a person must agree to.
    `lacking`: it is refused because no checkpoint that is there can be resumed.
    """

    start: str
    checkpoint: str = ""
    from_epoch: int = 0
    notes: tuple[str, ...] = ()
    reason: str = ""
    epochs_override: int = 0
    kept_epoch: int = 0
    differences: str = ""
    lacking: bool = False


class PrepareFailed(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The run directory could not be prepared; `waiting_for` names what it waits for, if waiting helps.

    `cause` names a row of the table of causes, if what is in the way is one: then its plan says what is done.
    `busy`: GPUs (UUIDs) that were found busy, and what follows the name of each in a sentence.
    """

    reason: str
    waiting_for: str = ""
    cause: str = ""
    busy: dict[str, str] = {}


class Kept(RunEvent, frozen=True, kw_only=True, tag=True):
    """The newest checkpoint was copied, verified and entered in the ledger; or, `epoch` 0, it was not.

    `epoch` counts from 1; `file` is the private copy. `reason` says why nothing was kept; `fault` names what is wrong
    with the file or the disk (torn, poisoned, no room …), and is empty where nothing is. `best`: no copy of the run has
    a higher mAP.
    """

    attempt: int
    epoch: int = 0
    file: str = ""
    reason: str = ""
    fault: str = ""
    best: bool = False


class Compared(RunEvent, frozen=True, kw_only=True, tag=True):
    """The first epoch after a resume was compared with those before; `findings` are jumps beyond the run's noise.

    It may come when the next attempt has begun.
    """

    attempt: int
    continuous: bool
    findings: tuple[str, ...] = ()


class Launched(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The trainer runs (or ran): its start is on record."""

    pid: int
    shim_pid: int
    boot: Boot
    started_at: float


class LaunchFailed(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """No process was started and none will be; `waiting_for` names what the machine lacks, if waiting helps."""

    reason: str
    waiting_for: str = ""


class SignalSent(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """A stop signal reached `count` processes."""

    signal: str
    count: int


class Examined(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """All that the attempt left behind was read; or, `unknown`, it could not be.

    `seconds`: how long the attempt was in each class of time (see core.goodput), as its own records tell; what they
    do not tell is left out. `moved_at`: when the training last moved forward, 0 if that is unknown.
    """

    finished: bool
    unknown: bool = False
    proof: str = ""
    result: str = ""
    reason: str = ""
    saved_epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = {}
    log_tail: tuple[str, ...] = ()
    evidence: Evidence = Evidence()
    seconds: dict[str, float] = {}
    moved_at: float = 0.0

    def __post_init__(self) -> None:
        """Keep finite numbers only."""
        keep_finite(self, "metrics", "seconds")


class Announced(Event, frozen=True, kw_only=True, tag=True):
    """A channel confirmed a message."""

    channel: str
    tries: int


class AnnounceFailed(Event, frozen=True, kw_only=True, tag=True):
    """A channel will never take this message."""

    channel: str
    reason: str


# ---- what was observed
class AttemptExited(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The trainer's process has ended. Neither code nor signal: nobody was there to see how."""

    code: int | None = None
    signal: int | None = None
    ended_at: float = 0.0
    launch_error: str = ""
    lost: str = ""


class AttemptCleared(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """No process of the attempt is left: the shim's lock is free."""


class Observed(Event, frozen=True, kw_only=True, tag=True):
    """The full list of attempts that were seen alive, as (run, attempt)."""

    alive: tuple[tuple[str, int], ...]


class StartConfirmed(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """Before its first batch the trainer said where it starts: after `from_epoch` complete epochs."""

    from_epoch: int
    save_dir: str = ""


class WrongStart(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The trainer's own log says that it starts where it should not."""

    reason: str


class HangSeen(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The training stands still for longer than its own history allows; or, `moving`, it moves again.

    `verdict`: hung (two independent signs, two windows in a row: it must be ended), stopped (a debugger or SIGSTOP),
    storage (it waits in the kernel for a disk or a network file system) or moving. Only hung is acted upon. `phase` is
    what the trainer was doing, `quiet_s` how long nothing moved, `limit_s` how long that may take. `cause` names one
    of the hangs in the table of causes. `text` is the verdict in a sentence.
    """

    verdict: str
    phase: str = ""
    quiet_s: float = 0.0
    limit_s: float = 0.0
    signs: tuple[str, ...] = ()
    cause: str = "hang"
    text: str = ""


class AutopsyDone(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """What a hanging attempt did was written down; `summary` is one line, `directory` has the rest."""

    summary: str = ""
    directory: str = ""


class WaitOver(RunEvent, frozen=True, kw_only=True, tag=True):
    """What the run waited for (`what`, as in its waiting_for) is back."""

    what: str


class UndoAsked(RunEvent, frozen=True, kw_only=True, tag=True):
    """A person wants the changes of the ladder taken back: the next attempt runs as the job file says."""

    by: str


class SaveSeen(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The trainer wrote a checkpoint: `epoch` counts from 1, 0 if unknown; `path` is a copy that was left for us."""

    epoch: int = 0
    path: str = ""


class Progressed(AttemptEvent, frozen=True, kw_only=True, tag=True):
    """The training moved on. Epochs count from 1; `saved_epoch` is the newest one in a checkpoint.

    `seconds`: what the attempt did until now (see core.attempt_seconds), with its first report and with each save.
    `diverged_from`: the first of the epochs (two at least) whose losses are no numbers; 0 while some are.
    """

    epoch: int
    epochs: int
    saved_epoch: int
    losses: dict[str, float] = {}
    metrics: dict[str, float] = {}
    epoch_s: float = 0.0
    eta_s: float | None = None
    seconds: dict[str, float] = {}
    diverged_from: int = 0

    def __post_init__(self) -> None:
        """Keep finite numbers only."""
        keep_finite(self, "losses", "metrics", "seconds")
        if not math.isfinite(self.epoch_s):
            msgspec.structs.force_setattr(self, "epoch_s", 0.0)
        if self.eta_s is not None and not math.isfinite(self.eta_s):
            msgspec.structs.force_setattr(self, "eta_s", None)


class Poisoned(RunEvent, frozen=True, kw_only=True, tag=True):
    """Deciding about an event raised: that is a bug. The run is held; `event` is the culprit as data."""

    error: str
    event: dict[str, Any] = {}


AnyEvent = (
    DaemonStarted | DaemonStopped | Configured | TimePassed | ProgressDue | JobFileSeen | JobFileGone | JobAccepted
    | JobRefused | FileMarked | StopAsked | ResumeAsked | CancelAsked | RetryAsked | PriorityAsked | DrainAsked
    | Prepared | PrepareFailed | Launched | LaunchFailed | SignalSent | Examined | Announced | AnnounceFailed
    | AttemptExited | AttemptCleared | Observed | StartConfirmed | Progressed | Poisoned | RewindAsked | ExtendAsked
    | Kept | Compared | WrongStart | SaveSeen | HangSeen | AutopsyDone | WaitOver | UndoAsked | GpusSeen | GpuFound
    | GpuHeld | XidSeen | KernelSaid | GpuTested | GpuTreated | GpuOrdered | BackupDue | BackupAsked | QuietSeen
    | BackedUp | BackupFailed | VerifyAsked | BackupVerified | DrillAsked | Drilled | Restored | StateRestored
    | PruneAsked | Pruned | TakenBack | DiskSeen | PublishAsked | Published
)  # fmt: skip
