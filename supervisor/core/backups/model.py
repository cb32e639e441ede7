"""What is known of backups: of each target as a whole, and of each run on it. Frozen values."""

from __future__ import annotations

import msgspec

#: Stands for the server's own state (the journal) where a run's id could stand.
STATE = ""


class TargetPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of one target, as far as deciding needs it. Durations in seconds, 0: never.

    `verify_s`: within so long everything there is read again. `drill_s`: so often a restore is rehearsed.
    """

    name: str
    to: str = ""
    on_best: bool = True
    verify_s: float = 20 * 86400.0
    drill_s: float = 7 * 86400.0


class Backed(msgspec.Struct, frozen=True, kw_only=True):
    """The newest backup of a run on one target, verified there. `epoch` counts from 1, 0: no checkpoint yet.

    `kept_epoch`: the newest epoch that the run's ledger had then. `ended`: it was made after the run's end, so that it
    holds everything. `gone`: the run has ended and its folder is not there, so that nothing can be backed up.
    """

    snapshot: str
    epoch: int = 0
    kept_epoch: int = 0
    at: float = 0.0
    files: int = 0
    bytes: int = 0
    ended: bool = False
    gone: bool = False


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that is to be made: why, from when on, and whether a person asked for it (then quiet hours are none).

    `failures` in a row that were not the target's fault.
    """

    why: str
    at: float
    asked: bool = False
    accept: bool = False
    failures: int = 0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """How a target stands. At most one thing is under way on it: `doing` is the action's key, `doing_order` its order.

    `vault` names the folder that answers there: another one holds nothing of what the old one held. `confirmed`: this
    very folder took something since the daemon started and the last trouble; before that nobody may rely on it.

    `due` by run id, STATE for the journal. A target in trouble has a `cause` (a name of causes.KINDS), what was `said`,
    `failures` in a row since `failing_since`, and is tried again at `retry_at`, with one backup first. `told` is the
    cause that people know of, `state_told` why the journal alone could not be sent. `proven_at`: when a restore was
    last rehearsed well, of the run `proven_run` at `proven_epoch`. `unproven`: what the newest rehearsal found instead;
    `unable`: this machine could not even try to load it. `damaged`: files there that are not what was stored, until a
    verification finds none. `verify_by` and `drill_by`: the person who asked for what is due (`verify_since`,
    `drill_since`), if one did: of the whole target (`verify_whole`), of one run (`drill_run`).
    """

    name: str
    quiet: bool = False
    due: dict[str, Due] = {}
    doing: str = ""
    doing_run: str = ""
    doing_order: Due | None = None
    vault: str = ""
    confirmed: bool = False
    ok_at: float = 0.0
    state_at: float = 0.0
    state_told: str = ""
    cause: str = ""
    said: str = ""
    failures: int = 0
    failing_since: float = 0.0
    retry_at: float = 0.0
    told: str = ""
    verify_due: bool = False
    verify_since: float = 0.0
    verify_by: str = ""
    verify_whole: bool = False
    verified_at: float = 0.0
    verified_from: float = 0.0
    drill_due: bool = False
    drill_since: float = 0.0
    drill_by: str = ""
    drill_run: str = ""
    drilled_at: float = 0.0
    proven_at: float = 0.0
    proven_run: str = ""
    proven_epoch: int = 0
    unproven: str = ""
    unable: bool = False
    damaged: tuple[str, ...] = ()
    free_bytes: int | None = None
    warning: str = ""
