"""What happens to backups, to what may be pruned, to disks and to what is published."""

from __future__ import annotations

import msgspec

from supervisor.core.base_events import Event


class BackupDue(Event, frozen=True, kw_only=True, tag=True):
    """It is time for a backup to a target: what changed since the last one is due."""

    target: str


class BackupAsked(Event, frozen=True, kw_only=True, tag=True):
    """A person wants a backup now: of one run or (empty) of all and the journal, to one target or (empty) to all.

    `accept`: also where it would hold less than the one before.
    """

    by: str
    run: str = ""
    target: str = ""
    accept: bool = False


class QuietSeen(Event, frozen=True, kw_only=True, tag=True):
    """The quiet hours of a target have begun, or are over."""

    target: str
    quiet: bool


class BackedUp(Event, frozen=True, kw_only=True, tag=True):
    """A run (empty: the journal) lies on a target, verified there. `epoch` 0: without a checkpoint.

    `sent_files`, `sent_bytes`: what had to be sent. `kept_epoch`: the newest epoch of the ledger then. `removed`:
    files of older snapshots that were let go. `unchanged`: the newest snapshot holds all this already. `vault` names
    the folder there; a new one has another name.
    """

    target: str
    run: str = ""
    snapshot: str
    epoch: int = 0
    kept_epoch: int = 0
    files: int = 0
    bytes: int = 0
    sent_files: int = 0
    sent_bytes: int = 0
    removed: int = 0
    seconds: float = 0.0
    ended: bool = False
    unchanged: bool = False
    free_bytes: int | None = None
    warning: str = ""
    vault: str = ""


class BackupFailed(Event, frozen=True, kw_only=True, tag=True):
    """A run (empty: the journal) could not be backed up. `cause` is a name of core.backups.causes."""

    target: str
    run: str = ""
    cause: str
    text: str


class VerifyAsked(Event, frozen=True, kw_only=True, tag=True):
    """A target's files shall be read again: `by` a person (then `whole`: all of them), or by the schedule."""

    target: str
    by: str = ""
    whole: bool = False


class BackupVerified(Event, frozen=True, kw_only=True, tag=True):
    """Files of a target were read again. `damaged`: those that are not what was stored, as paths on the target.

    `read_from` is when the oldest of all latest readings was made: everything was read since. `cause` and `text`: why
    it could not be done.
    """

    target: str
    files: int = 0
    bytes: int = 0
    damaged: tuple[str, ...] = ()
    read_from: float = 0.0
    seconds: float = 0.0
    cause: str = ""
    text: str = ""


class DrillAsked(Event, frozen=True, kw_only=True, tag=True):
    """A restore shall be rehearsed: of a run, or (empty) of one that chance chooses; `by` empty: by the schedule."""

    target: str
    run: str = ""
    by: str = ""


class Drilled(Event, frozen=True, kw_only=True, tag=True):
    """A restore was rehearsed. `ok`: fetched, whole, `loaded`, its epoch and metric those of the manifest.

    `unable`: this machine could not try to load it, which says nothing about the backup.

    `metric` is the checkpoint's mAP50-95, `metric_wanted` that of the manifest. `trained`: one batch was trained from
    it in the job's Python on the CPU; else `untrained` says why not. `cause`: what is wrong with the target, if it
    could not even be asked.
    """

    target: str
    run: str = ""
    snapshot: str = ""
    ok: bool
    epoch: int = 0
    epoch_wanted: int = 0
    metric: float | None = None
    metric_wanted: float | None = None
    trained: bool = False
    untrained: str = ""
    loss: float | None = None
    seconds: float = 0.0
    text: str = ""
    cause: str = ""
    loaded: bool = False
    unable: bool = False


class Restored(Event, frozen=True, kw_only=True, tag=True):
    """What a run lacked was fetched from a backup; or, not `ok`, was not. `epoch`: of the newest verified copy.

    `cause`: what is wrong with the target, if it could not be asked: then it is asked again later.
    """

    run: str
    target: str
    ok: bool
    epoch: int = 0
    files: int = 0
    text: str = ""
    cause: str = ""


class StateRestored(Event, frozen=True, kw_only=True, tag=True):
    """This journal is a copy that came from a backup; what lies in the run directories may be younger than it.

    `token` is the highest that a run directory knows, `attempts` the highest attempt folder by run id. `moved`: this is
    another machine, so that its GPUs are others.
    """

    target: str
    token: int = 0
    attempts: dict[str, int] = {}
    moved: bool = False


class PruneAsked(Event, frozen=True, kw_only=True, tag=True):
    """What the policy lets go shall be pruned; `by` empty: by the schedule."""

    by: str = ""


class Pruned(Event, frozen=True, kw_only=True, tag=True):
    """What the policy let go lies in the trash, and what lay there long enough is gone.

    `moved_*` went into the trash, `purged_*` out of it for good. `archived`: run ids whose weights are only in the
    backup now. `removed_runs`: run ids whose folder is gone. `skipped`: what was to go and could not, and why.
    """

    moved_files: int = 0
    moved_bytes: int = 0
    purged_files: int = 0
    purged_bytes: int = 0
    archived: tuple[str, ...] = ()
    removed_runs: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    by: str = ""
    text: str = ""


class TakenBack(Event, frozen=True, kw_only=True, tag=True):
    """A person took a run's files back from the trash."""

    run: str
    by: str


class DiskSeen(Event, frozen=True, kw_only=True, tag=True):
    """A file system has come to another level: ok, low (below disk.prune_below) or full (below disk.pause_below).

    `what` says what lies there: runs, state, shm, or a place that a job writes. `full_in_s`: at the present pace, None
    if it does not fill up. `inodes`: these are what runs out.
    """

    place: str
    what: str
    level: str
    free_bytes: int = 0
    total_bytes: int = 0
    full_in_s: float | None = None
    inodes: bool = False
    quota: bool = False
    text: str = ""


class PublishAsked(Event, frozen=True, kw_only=True, tag=True):
    """A person wants a run published."""

    run: str
    by: str


class Published(Event, frozen=True, kw_only=True, tag=True):
    """A run's weights were published with their card; or, not `ok`, were not. `files`: where they lie.

    `exports`: format → file, or what went wrong; a failed export is no failure of the publication.
    """

    run: str
    ok: bool
    files: tuple[str, ...] = ()
    exports: dict[str, str] = {}
    text: str = ""


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """The newest known level of a file system; see DiskSeen."""

    place: str
    what: str
    level: str = "ok"
    since: float = 0.0
    free_bytes: int = 0
    total_bytes: int = 0
    full_in_s: float | None = None
    text: str = ""
