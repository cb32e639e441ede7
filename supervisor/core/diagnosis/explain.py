"""What a log alone tells of an end: the cause that it names, and in words what would be done. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from supervisor.core.diagnosis.diagnose import Diagnosis, of_cause, signed
from supervisor.core.diagnosis.evidence import Sign
from supervisor.core.diagnosis.signs import Found
from supervisor.core.diagnosis.tables import Rule

STEPS = {
    "retry": "try again at once",
    "backoff": "wait a little and try again",
    "wait-disk": "wait until the disk has space",
    "wait-memory": "wait until the machine has memory",
    "wait-mount": "wait until it is mounted again",
    "wait-shm": "wait until /dev/shm has space",
    "workers": "try with fewer workers",
    "cache": "try without the image cache in memory",
    "checkpoint": "go back to an older checkpoint",
    "gpus": "try on other GPUs",
    "elsewhere": "go on where GPUs are in order",
    "batch": "try a smaller batch, if the job allows that",
    "imgsz": "try smaller images, if the job allows that",
    "freeze": "try with frozen layers, if the job allows that",
    "hold": "hold it for a person",
    "fail": "give it up",
}


def of_log(found: Found, rules: Sequence[Rule]) -> Diagnosis | None:
    """The cause that a log names; None if nothing in it explains a failure. Machine evidence is not asked."""
    kinds = {rule.name: rule.kind for rule in rules}
    by_kind: dict[str, Sign] = {}
    for sign in found.signs:
        by_kind.setdefault("weak" if sign.weak else kinds.get(sign.rule, "cause"), sign)
    if (told := by_kind.get("cause") or by_kind.get("alarm")) is not None:
        return signed(told)
    if found.error:
        where = f" ({found.site})" if found.site else ""
        return msgspec.structs.replace(of_cause("code-error", f"{found.error}{where}"), line=found.error_line)
    last = by_kind.get("weak") or by_kind.get("echo")
    return signed(last) if last is not None else None


def plan_words(steps: Sequence[str]) -> str:
    """What a plan does, in words; equal steps in a row are counted."""
    return "; then ".join(_counted(steps))


def _counted(steps: Sequence[str]) -> Iterator[str]:
    for step, group in groupby(steps):
        count = len(list(group))
        yield f"{STEPS[step]} (up to {count} times)" if count > 1 else STEPS[step]
