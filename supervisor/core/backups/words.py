"""What happens to backups, disks, prunings and publications, in sentences. An empty body has one too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from supervisor.core.backups import causes

Body = Mapping[str, Any]
Duration = Callable[[float], str]
Size = Callable[[float], str]


def sentences(duration: Duration, size: Size) -> dict[str, Callable[[Body], str]]:
    """By kind of event. `duration` and `size` say numbers as the other sentences do."""
    return {
        "BackupDue": lambda body: f"it is time for the backup to {_target(body)}",
        "BackupAsked": _asked,
        "QuietSeen": lambda body: f"the quiet hours of {_target(body)} {'begin' if body.get('quiet') else 'are over'}",
        "BackedUp": lambda body: _backed_up(body, size),
        "BackupFailed": lambda body: f"{_what(body)} to {_target(body)} {_cause(body)}{_text(body)}",
        "VerifyAsked": lambda body: f"{_by(body)}what lies on {_target(body)} is to be read again",
        "BackupVerified": lambda body: _verified(body, size),
        "DrillAsked": lambda body: f"{_by(body)}a restore from {_target(body)} is to be rehearsed",
        "Drilled": lambda body: _drilled(body, duration),
        "Restored": _restored,
        "StateRestored": lambda body: f"this journal came from backup target {_target(body)}",
        "PruneAsked": lambda body: f"{_by(body)}what the policy lets go is to be pruned",
        "Pruned": lambda body: _pruned(body, size),
        "TakenBack": lambda body: f"{_by(body)}its files were taken back from the trash",
        "DiskSeen": lambda body: _disk(body, size),
        "PublishAsked": lambda body: f"{_by(body)}its weights are to be published",
        "Published": _published,
    }


def _target(body: Body) -> str:
    return str(body.get("target") or "?")


def _by(body: Body) -> str:
    return f"by order of {body['by']}, " if body.get("by") else ""


def _text(body: Body) -> str:
    text = " ".join(str(body.get("text") or "").split())
    return f": {text}" if text else ""


def _what(body: Body) -> str:
    return "its backup" if body.get("run") else "the journal's backup"


def _cause(body: Body) -> str:
    kind = causes.kind(str(body.get("cause") or "failed"))
    return kind.means if kind.of_run else f"was not made, because the target {kind.means}"


def _asked(body: Body) -> str:
    what = "a backup of it" if body.get("run") else "a backup of everything"
    where = f" to {body['target']}" if body.get("target") else ""
    agreed = ", even where it holds less than the one before" if body.get("accept") else ""
    return f"{body.get('by') or 'a person'} ordered {what}{where}{agreed}"


def _backed_up(body: Body, size: Size) -> str:
    what = f"epoch {body['epoch']} lies" if body.get("epoch") else "it lies" if body.get("run") else "the journal lies"
    sent = f"; {size(body['sent_bytes'])} were sent" if body.get("sent_bytes") else ""
    same = "; nothing had changed" if body.get("unchanged") else ""
    return f"{what} verified on {_target(body)}{sent}{same}"


def _verified(body: Body, size: Size) -> str:
    if body.get("cause"):
        return f"{_target(body)} could not be read again, because it {_cause_of_target(body)}{_text(body)}"
    read = f"{body.get('files', 0)} files ({size(body.get('bytes') or 0)}) on {_target(body)} were read again"
    damaged = body.get("damaged") or ()
    return f"{read}: {len(damaged)} are damaged, such as {damaged[0]}" if damaged else f"{read}: all are as stored"


def _cause_of_target(body: Body) -> str:
    return causes.kind(str(body.get("cause"))).means


def _drilled(body: Body, duration: Duration) -> str:
    if body.get("cause"):
        return f"no restore from {_target(body)} could be rehearsed, because it {_cause_of_target(body)}{_text(body)}"
    if body.get("unable"):
        return f"a rehearsed restore from {_target(body)} could not be finished on this machine{_text(body)}"
    if not body.get("ok"):
        return f"a rehearsed restore from {_target(body)} did not work{_text(body)}"
    trained = " and trained on" if body.get("trained") else ""
    took = f" in {duration(float(body['seconds']))}" if body.get("seconds") else ""
    return f"a restore from {_target(body)} was rehearsed: epoch {body.get('epoch', '?')} was loaded{trained}{took}"


def _restored(body: Body) -> str:
    if not body.get("ok"):
        return f"nothing could be fetched from backup target {_target(body)}{_text(body)}"
    return f"epoch {body.get('epoch', '?')} was fetched from backup target {_target(body)}"


def _pruned(body: Body, size: Size) -> str:
    moved, purged = body.get("moved_files") or 0, body.get("purged_files") or 0
    parts = [
        f"{moved} files ({size(body.get('moved_bytes') or 0)}) went into the trash" if moved else "",
        f"{purged} files ({size(body.get('purged_bytes') or 0)}) are gone for good" if purged else "",
    ]
    return f"pruned: {', '.join(filter(None, parts)) or 'nothing was to go'}{_text(body)}"


def _disk(body: Body, size: Size) -> str:
    levels = {"ok": "has room", "low": "is filling up", "full": "is full"}
    where = f"the file system of {body.get('place') or '?'} ({body.get('what') or '?'})"
    return (
        f"{where} {levels.get(str(body.get('level')), '?')}: {size(body.get('free_bytes') or 0)} are free{_text(body)}"
    )


def _published(body: Body) -> str:
    if not body.get("ok"):
        return f"its weights could not be published{_text(body)}"
    return f"its weights were published: {', '.join(body.get('files') or ())}"
