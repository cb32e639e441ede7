"""What is seen at the end of an attempt. Facts only: what they mean is decided elsewhere."""

from __future__ import annotations

import msgspec


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a log that a rule matched.

    `number` counts the lines of the log from 1 (0: unknown). `rank` is that of a multi-GPU training, where the line
    tells it. `remedy` is the step that a user's own rule asks for, `means` and `fix` are its words for a cause of its
    own. `weak`: a warning, or told of single images; it counts where nothing else is known.
    """

    rule: str
    cause: str
    line: str
    number: int = 0
    rank: int | None = None
    remedy: str = ""
    means: str = ""
    weak: bool = False
    fix: str = ""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One file system that the run touches. `quota_left_bytes` is None where no quota is known.

    `lack`: that it has too little room, with what it has and what it needs, in words; empty where it has enough.
    """

    path: str
    what: str
    free_bytes: int
    free_inodes: int | None = None
    quota_left_bytes: int | None = None
    lack: str = ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen at the end of an attempt. None: nothing on this machine says so; never 0 for unknown.

    `signs` come in the order of the log, those of ranks by time. `error` is the last exception's own line (that of the
    log with the number `error_line`, 0: unknown), `site` where it was raised (`FILE:LINE in FUNCTION`, the innermost
    frame). `epoch` and `batch` count from 1: where the training stood; `exact` if the trainer itself told that at its
    end. `unmounted` are mount points that the job needs and that are not there now, `missing` paths that are gone
    although their mount is there. `unseen` names what could not be read, with the reason.
    """

    signs: tuple[Sign, ...] = ()
    error: str = ""
    error_line: int = 0
    site: str = ""
    sender: str = ""
    oom_kills: int | None = None
    kernel: tuple[str, ...] = ()
    memory_available_bytes: int | None = None
    memory_total_bytes: int | None = None
    shm_free_bytes: int | None = None
    shm_total_bytes: int | None = None
    disks: tuple[Disk, ...] = ()
    missing: tuple[str, ...] = ()
    unmounted: tuple[str, ...] = ()
    beat_age_s: float | None = None
    phase: str = ""
    epoch: int = 0
    batch: int = 0
    exact: bool = False
    unseen: tuple[str, ...] = ()


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """How far the plan of one cause is used up: the place of the next step, and when the last one was taken."""

    place: int
    at: float


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A rung that was taken: a train argument that differs from the job's since, and why."""

    name: str
    before: bool | int | float | str | None
    after: bool | int | float | str | None
    cause: str
    attempt: int
    at: float


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that went wrong: what was seen, what it means, what was done, and what it cost.

    Times are Unix seconds. `moved_at`: when the training last moved forward; `seen_at`: when the end (or the hang) was
    known; `relaunched_at`: when the next attempt ran, `began_at`: when that one trained; `closed_at`: when it was over,
    one way or the other. `lost_s` is the training time that must be done again. `outcome` is empty while it is open.
    `hung`: it was ended because it hung.
    """

    number: int
    attempt: int
    cause: str
    title: str
    seen: str = ""
    line: int = 0
    place: str = ""
    means: str = ""
    fix: str = ""
    step: str = ""
    done: str = ""
    epoch: int = 0
    moved_at: float = 0.0
    seen_at: float = 0.0
    relaunched_at: float | None = None
    closed_at: float | None = None
    lost_s: float = 0.0
    outcome: str = ""
    autopsy: str = ""
    began_at: float | None = None
    hung: bool = False
