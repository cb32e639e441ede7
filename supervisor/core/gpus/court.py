"""Who is to blame for an Xid: the job, the GPU, or nobody yet. Decided from what the same Xid did elsewhere.

The same error of a program on two GPUs in one job is the job's; on one GPU in two jobs it is that GPU's. How often an
Xid came counts by attempts, not by lines: one crash writes many.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from supervisor.core.gpus.model import Gpu, XidNote
from supervisor.core.gpus.xids import ATTEMPT_ACTIONS, GPU_ACTIONS, Repeat, Row
from supervisor.core.model import World

WINDOW_S = 24 * 3600.0
KEPT = 20  # notes of each Xid of a GPU; the passport counts them all


class Judgement(msgspec.Struct, frozen=True):
    """What follows from an Xid, and who is blamed: job, gpu or nobody; `why` in words."""

    gpu: str
    attempt: str
    blamed: str = ""
    why: str = ""


def judge(row: Row, gpu: Gpu, note: XidNote, world: World) -> Judgement:
    """What follows from an Xid that was just noted on `gpu`."""
    if row.fault == "app" and note.name:
        other = _elsewhere(row, gpu, note, world)
        if other:
            return Judgement("none", row.attempt, "job", f"{note.name} had it on {other} too, so the job is to blame")
        others = _other_jobs(row, gpu, note)
        if others:
            worst = max(row.gpu, "test", key=GPU_ACTIONS.index)
            return Judgement(worst, "elsewhere", "gpu", f"{others} had it on this GPU too, so the GPU is to blame")
    found = _repeated(row, gpu, note)
    if found is None:
        return Judgement(row.gpu, row.attempt)
    count, rule = found
    worst = max(row.gpu, rule.gpu or "none", key=GPU_ACTIONS.index)
    attempt = max(row.attempt, rule.attempt or "none", key=ATTEMPT_ACTIONS.index)
    where = f" at {note.place}" if rule.same_place and note.place else ""
    within_h = rule.within_s / 3600
    return Judgement(worst, attempt, "gpu" if rule.gpu else "", f"it came {count} times{where} in {within_h:g} h")


def _recent(gpu: Gpu, xid: int, now: float, within_s: float = WINDOW_S) -> list[XidNote]:
    return [note for note in gpu.xids if note.xid == xid and now - note.at <= within_s]


def _elsewhere(row: Row, gpu: Gpu, note: XidNote, world: World) -> str:
    """Another GPU on which the same job had the same Xid."""
    for other in world.gpus.values():
        if other.uuid != gpu.uuid and any(one.name == note.name for one in _recent(other, row.xid, note.at)):
            return other.label
    return ""


def _other_jobs(row: Row, gpu: Gpu, note: XidNote) -> str:
    """Another job that had the same Xid on this GPU."""
    names = (one.name for one in _recent(gpu, row.xid, note.at) if one.name and one.name != note.name)
    return next(names, "")


def _repeated(row: Row, gpu: Gpu, note: XidNote) -> tuple[int, Repeat] | None:
    """The last rule of repetition that holds, with the count that it holds for."""
    found = None
    for rule in row.repeat:
        notes = _recent(gpu, row.xid, note.at, rule.within_s)
        happened = _occurrences(notes, row.burst_s)
        if rule.same_place:  # one that hits many units at once is a program's
            happened = [one for one in happened if note.place and {each.place for each in one} == {note.place}]
        count = len(happened)
        if count >= rule.count:
            found = count, rule
    return found


def _occurrences(notes: Sequence[XidNote], burst_s: float) -> list[list[XidNote]]:
    """What happened, each time with all its notes: what one attempt reports, or what comes in one burst, is once."""
    happened: list[list[XidNote]] = []
    of_attempts: dict[tuple[str, int], list[XidNote]] = {}
    for note in sorted(notes, key=lambda one: one.at):
        key = (note.run, note.attempt)
        last = happened[-1] if happened else []
        if note.run and key in of_attempts:
            of_attempts[key].append(note)
        elif not note.run and last and not last[-1].run and note.at - last[-1].at <= burst_s:
            last.append(note)
        else:
            happened.append([note])
            of_attempts[key] = happened[-1]
    return happened


def noted(gpu: Gpu, note: XidNote, row: Row) -> Gpu:
    """The GPU with one more note; what this Xid cancels is taken back."""
    kept = [one for one in gpu.xids if note.at - one.at <= 30 * WINDOW_S and one.xid != (row.cancels or -1)]
    kept = [one for one in kept if not _is_the_same(one, note, row.burst_s)]
    same = [one for one in kept if one.xid == note.xid]
    spare = same[: max(0, len(same) - KEPT + 1)]
    return replace(gpu, xids=(*(one for one in kept if one not in spare), note))


def _is_the_same(one: XidNote, other: XidNote, burst_s: float) -> bool:
    """True for two lines of one burst that differ in nothing that counts."""
    alike = replace(one, at=other.at, last=other.last) == other
    return alike and abs(one.at - other.at) <= burst_s
