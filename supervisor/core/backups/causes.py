"""Why a backup could not be made, for people: what it means, what to do, and whether waiting helps."""

from __future__ import annotations

import msgspec


class Kind(msgspec.Struct, frozen=True):
    """A cause. `means` completes "TARGET: …"; `todo` is what a person can do, with {target} and {to}.

    `after_s`: seconds until the first retry, doubled up to an hour; `page`: told at once as something to act on, others
    are told after three failures in a row. `of_run`: it is about the run, not about the target.
    """

    means: str
    todo: str
    after_s: float = 60.0
    page: bool = False
    of_run: bool = False


KINDS: dict[str, Kind] = {
    "unreachable": Kind("cannot be reached", "look whether the host of {to} is up and its name and port are right"),
    "timeout": Kind("does not answer in time", "look at the network to {to}, and at its disk"),
    "host-key": Kind(
        "shows another host key than the pinned one",
        "somebody may be listening in, or the server was set up anew: compare its key, then mend the known_hosts file",
        3600.0, page=True,
    ),
    "host-unknown": Kind(
        "is not in the known_hosts file",
        "compare the host's key with its administrator's, then add it", 3600.0, page=True,
    ),
    "auth": Kind("refuses our key", "add the public key to the account's authorized_keys on {to}", 3600.0, page=True),
    "full": Kind("has no room", "free space on {to}, or keep less there (keep_last, snapshots)", 600.0, page=True),
    "quota": Kind("has reached a quota", "raise the quota on {to}, or keep less there", 600.0, page=True),
    "read-only": Kind(
        "is mounted read-only", "look at the disk of {to}, then mount it writable again", 600.0, page=True
    ),
    "permission": Kind("does not let us write", "let the account write below {to}", 3600.0, page=True),
    "absent": Kind("is not there: no folder, or not mounted", "mount it, or make the folder {to}", 300.0, page=True),
    "foreign": Kind(
        "belongs to another server", "give this server a folder of its own, or another [server] name", 3600.0, page=True
    ),
    "no-rsync": Kind("has no rsync (or this server has none)", "install rsync on both ends", 3600.0, page=True),
    "no-rclone": Kind("needs rclone, which is not installed here", "install rclone", 3600.0, page=True),
    "refused": Kind(
        "refuses what was asked of it", "look at the text, and at the account's restrictions", 3600.0, page=True
    ),
    "broken": Kind("returned other bytes than were sent", "look at the disk and the memory of {to}", 60.0, page=True),
    "busy": Kind(
        "is in use by another transfer of this account",
        "let {to} run `rrsync -no-lock`, and give each server a folder of its own", 30.0,
    ),
    "protocol": Kind("broke the connection off", "look at the network, and at rsync on {to}"),
    "failed": Kind("failed for a reason that is not known", "look at the text", 300.0),
    "stopped": Kind("was interrupted by our own end", "", 1.0),
    "changed": Kind("could not be copied: it changed all the time", "", 30.0, of_run=True),
    "empty": Kind(
        "was not replaced by nothing: the run's folder is empty or gone", "look whether a disk is not mounted",
        300.0, page=True, of_run=True,
    ),
    "shrunken": Kind(
        "was not replaced by much less: files of the run are missing",
        "look what became of the run's folder; `backup run NAME --accept-loss` agrees to it",
        3600.0, page=True, of_run=True,
    ),
    "moved": Kind(
        "was not replaced: the run's folder lies on another file system than before",
        "mount what is missing; `backup run NAME --accept-loss` agrees to it",
        3600.0, page=True, of_run=True,
    ),
    "damaged": Kind(
        "was not replaced by damaged files", "look at the disk of the runs", 3600.0, page=True, of_run=True
    ),
    "no-room": Kind("could not be prepared: the disk of the runs is full", "free space on it", 300.0, of_run=True),
    "source": Kind("could not be read here", "look at the disk of the runs", 300.0, of_run=True),
    "stale": Kind("was not made: the run directory belongs to another attempt", "", 10.0, of_run=True),
}  # fmt: skip


def todo(cause: str, target: str, to: str) -> str:
    """What a person can do; `to` is where the target lies, or empty."""
    return kind(cause).todo.format(target=target, to=to or f"backup target {target}")


def kind(name: str) -> Kind:
    """The row of a cause; of one that an older or newer version knew, that of "failed"."""
    return KINDS.get(name, KINDS["failed"])
