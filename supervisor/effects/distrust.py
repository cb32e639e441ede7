"""Going back to an older checkpoint because every try from the newest one failed. Nothing is deleted.

The copies from an epoch on are marked in the ledger, and the trainer's own files of those epochs are moved out of its
way. It begins only where an older checkpoint was proven good; without one everything stays as it is. The order stands
in the ledger from its first mark until the trainer's folder is as it must be, so a preparation that was cut short is
finished by the next one.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from supervisor import layout, trainers
from supervisor.core.actions import Prepare
from supervisor.core.checkpoints import Checkpoint
from supervisor.core.ledger import Distrust, Ledger, distrusting
from supervisor.effects import checkpoints, ledger, survey

#: State of a whole file that is not to be used.
DISTRUSTED = "distrusted"


def order_of(action: Prepare, kept: Ledger) -> Distrust | None:
    """What this preparation must carry out: one that was cut short, or an order of its own; None if there is neither.

    Carried out once more, for an answer that was lost, an order changes nothing.
    """
    standing = kept.distrust if kept.distrust is not None and kept.distrust.line == kept.line else None
    if standing is not None and not standing.done and action.distrust_from in {0, standing.from_epoch}:
        return standing
    if not action.distrust_from:
        return None
    reason = f"attempts that went on from epoch {action.distrust_from} or later failed (since attempt {action.attempt})"
    return Distrust(from_epoch=action.distrust_from, attempt=action.attempt, line=kept.line, reason=reason)


def judging(judge: survey.Judge, order: Distrust) -> survey.Judge:
    """As `judge`, but a file of an epoch that the order is about is of no use."""

    def judged(found: Checkpoint) -> Checkpoint:
        if found.done_epochs < order.from_epoch:
            return judge(found)
        return msgspec.structs.replace(found, state=DISTRUSTED, reason=order.reason)

    return judged


def mark(run_dir: layout.RunDirectory, order: Distrust) -> None:
    """Let the order stand in the ledger. Raises as ledger.read and ledger.write; to be called as the only writer."""
    kept = ledger.read(run_dir)
    if (marked := distrusting(kept, order)) != kept:
        run_dir.good.mkdir(parents=True, exist_ok=True)
        ledger.write(run_dir, marked)


def carried_out(run_dir: layout.RunDirectory, order: Distrust) -> None:
    """Note that the trainer's folder is as the order wants it."""
    mark(run_dir, msgspec.structs.replace(order, done=True))


def move_aside(action: Prepare, run_dir: layout.RunDirectory, order: Distrust, stays: set[Path]) -> list[str]:
    """Move the trainer's own files that the order is about out of its way, but for those that stay; notes."""
    job, aside = action.job, run_dir.attempt(action.attempt).aside
    own = [path for path in trainers.trainer_for(job).checkpoints(job, run_dir) if path not in stays]
    moved = [checkpoints.set_aside(path, aside).name for path in own if _is_of(order, path, survey.claim(job, path))]
    return [f"{', '.join(moved)} went into {aside}"] if moved else []


def _is_of(order: Distrust, path: Path, claim: int | None) -> bool:
    """By what is in the file; of one that tells nothing by what its name claims."""
    [found] = checkpoints.look([path])
    return (found.done_epochs or claim or 0) >= order.from_epoch


def words(order: Distrust) -> str:
    """What is done, for people."""
    return f"checkpoints of epoch {order.from_epoch} and later are not used: {order.reason}; they are kept"


def without_older(order: Distrust) -> str:
    """What is said where there is nothing to go back to."""
    return f"no verified checkpoint before epoch {order.from_epoch} is kept, so it goes on from the newest one again"
