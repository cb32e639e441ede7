"""Private copies of checkpoints: when one is ordered, and what is known of them. At most one is under way per run.

That copies fail is told once: a run without new copies would lose epochs at its next torn file.
"""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.actions import Keep
from supervisor.core.backups import targets
from supervisor.core.model import Run
from supervisor.core.turn import Turn

TOLD_AFTER = 3  # failures in a row; a single one may be a save that came in between
POISONED = "poisoned"


def save_seen(turn: Turn, run: Run, event: events.SaveSeen) -> None:
    """The trainer wrote a checkpoint: have it copied, or once more when the copy that is under way is done."""
    if run.keeping and not event.path:
        turn.put(replace(run, keep_again=True))
    else:
        order_keep(turn, run, event.path)


def order_keep(turn: Turn, run: Run, path: str = "") -> Run:
    """Order a copy of the newest checkpoint of the present attempt."""
    attempt = run.attempt
    if attempt is None:
        return run
    key = f"{run.id}/{attempt.number}/keep-{run.keeps + 1}"
    run = turn.put(replace(run, keeping=key, keep_again=False, keeps=run.keeps + 1))
    turn.act(Keep(key=key, run=run.id, attempt=attempt.number, token=attempt.token, job=run.job, path=path))
    return run


def kept(turn: Turn, run: Run, event: events.Kept) -> None:
    """A copy stands in the ledger, or could not be made; a save that came meanwhile is copied now."""
    run = _counted(turn, replace(run, kept_epoch=event.epoch or run.kept_epoch), event)
    if event.file and not event.epoch and event.file != run.kept_file:
        run = replace(run, kept_file=event.file, kept_anew=True)
    if event.answers == run.keeping:
        run = replace(run, keeping="")
    run = turn.put(run)
    if event.best:
        targets.new_best(turn, run)
    if run.keep_again and not run.keeping:
        order_keep(turn, run)


def kept_late(turn: Turn, run: Run, event: events.Kept) -> None:
    """The last copy of a run that has ended meanwhile: its backup may have been made before."""
    if event.answers != run.keeping and event.epoch <= run.kept_epoch:
        return
    newer = event.epoch > run.kept_epoch
    run = turn.put(replace(run, keeping="", kept_epoch=max(event.epoch, run.kept_epoch)))
    if newer:
        targets.ended(turn, run)


def _counted(turn: Turn, run: Run, event: events.Kept) -> Run:
    """Count failures in a row, and tell people once: of NaN or Inf at once, of others after TOLD_AFTER of them."""
    if event.epoch or event.file:
        return replace(run, unkept=0, told_unkept="")
    if not event.fault:
        return run
    run = replace(run, unkept=run.unkept + 1)
    poisoned = event.fault == POISONED
    if run.told_unkept == POISONED or not (poisoned or (run.unkept >= TOLD_AFTER and not run.told_unkept)):
        return run
    title = "NaN or Inf in its checkpoint" if poisoned else f"the last {run.unkept} saves could not be copied"
    last = f"the newest verified copy is of epoch {run.kept_epoch}" if run.kept_epoch else "there is no verified copy"
    text = f"{event.reason}; {last}; nothing was ended"
    turn.announce(run, "copies", "notice", f"{run.name}: {title}", text)
    return replace(run, told_unkept=event.fault)
