"""Where an attempt starts: the checkpoint that loses the least, put into the trainer's place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from supervisor import durable, layout, trainers
from supervisor.core import events
from supervisor.core.actions import Prepare
from supervisor.core.checkpoints import GOES_ON, Checkpoint, Choice, choose, choose_epoch, judged, of_an_older_plan
from supervisor.core.ledger import Distrust, Ledger, Line, distrusting, usable
from supervisor.core.model import Job
from supervisor.effects import branch_point, checkpoints, distrust, ledger, survey
from supervisor.effects.private_copy import NoRoomError
from supervisor.errors import RetryableError
from supervisor.trainers.command import left_undone


def choose_start(action: Prepare, run_dir: layout.RunDirectory, runs_dir: Path) -> events.Prepared:
    """What the files allow. Torn ones are kept aside before a start from the beginning.

    Raises RetryableError where this machine cannot look just now.
    """
    job, kept, finals = action.job, ledger.read(run_dir), list[str]()
    if _goal(action, kept):  # or they would be candidates of the new line
        finals = ledger.enter_finals(run_dir, _keeping_all(job), time.time())
        kept = ledger.read(run_dir)
    if _goal(action, kept) == "rewind":
        choice, notes = _choose_rewind(action, run_dir, kept)
    else:
        choice, notes = _choose_trusted(action, run_dir, kept)
    if action.set_aside and choice.start not in {"fresh", "refused"}:
        reason = "its checkpoints lie outside the run directory and are of an older run: move them away"
        choice = Choice("refused", reason=f"{reason} ({choice.checkpoint.path if choice.checkpoint else ''})")
    if choice.start == "fresh" and job.start_from is not None:
        return branch_point.begin(action, run_dir, runs_dir)
    return msgspec.structs.replace(prepared(action, choice, [*finals, *notes]), kept_epoch=newest_kept(kept))


def prepared(action: Prepare, choice: Choice, notes: Sequence[str] = ()) -> events.Prepared:
    """The choice as the answer to the action."""
    best = choice.checkpoint
    return events.Prepared(
        at=0.0,
        origin="prepare",
        run=action.run,
        attempt=action.attempt,
        start=choice.start,
        checkpoint=best.path if best is not None else "",
        from_epoch=best.done_epochs if best is not None else 0,
        notes=tuple(notes),
        reason=choice.reason,
        epochs_override=_override(action, choice),
        lacking=choice.lacking,
    )


def _override(action: Prepare, choice: Choice) -> int:
    """The number of epochs that must be written into the checkpoint; of an early end it may be fewer than it says."""
    goal, best = action.goal, choice.checkpoint
    if goal is None or goal.kind != "extend" or choice.start != "resume" or best is None:
        return survey.override(action.job, choice)
    return goal.epochs if best.epochs != goal.epochs else 0


def newest_kept(kept: Ledger) -> int:
    """The newest epoch in the ledger that the present line may use; 0 without one."""
    return next((entry.epoch for entry in usable(kept)), 0)


def _goal(action: Prepare, kept: Ledger) -> str:
    """What is still to be done of the goal: nothing once the run has opened its own line."""
    return action.goal.kind if action.goal is not None and kept.opened_by(action.run) is None else ""


# ---- choosing
def _choose_trusted(action: Prepare, run_dir: layout.RunDirectory, kept: Ledger) -> tuple[Choice, tuple[str, ...]]:
    """An older checkpoint where the newest is not to be used any more, if one is there that is proven good."""
    order = _order(action, kept)
    if order is None:
        return _choose(action, run_dir, kept)
    choice, notes = _choose_older(action, run_dir, kept, order)
    if choice.start == "resume":
        return choice, (*notes, distrust.words(order))
    choice, notes = _choose(action, run_dir, kept)
    return choice, (*notes, distrust.without_older(order))


def _order(action: Prepare, kept: Ledger) -> Distrust | None:
    """The order to go back that is still to be carried out; where a person wants to be comes first."""
    return None if _goal(action, kept) else distrust.order_of(action, kept)


def _choose_older(
    action: Prepare, run_dir: layout.RunDirectory, kept: Ledger, order: Distrust
) -> tuple[Choice, tuple[str, ...]]:
    look = survey.of_run(action.job, run_dir, distrusting(kept, order), _judge(action, kept))
    look.judge = distrust.judging(look.judge, order)
    choice = look.choose(lambda found: choose(action.job, found, scratch_allowed=False, hooked=look.hooked))
    return choice, look.notes


def _choose(action: Prepare, run_dir: layout.RunDirectory, kept: Ledger) -> tuple[Choice, tuple[str, ...]]:
    job, look = action.job, survey.of_run(action.job, run_dir, kept, _judge(action, kept))
    scratch = action.scratch_allowed and not kept.entries
    choice = look.choose(lambda found: choose(job, found, scratch_allowed=scratch, hooked=look.hooked))
    if choice.start == "fresh":
        _clear_the_way(action, run_dir, look.found)
    if choice.start == "finished" and look.hooked and (undone := left_undone(run_dir)):
        hint = "continue it by hand, or write a resume_command; `cancel` ends the run and keeps its files"
        choice = Choice("refused", reason=f"{undone}; {hint}")
    if choice.start == "refused" and _goal(action, kept) == "extend":
        reason = "nothing is left that could be trained further: no copy with the optimizer's state is there"
        choice = Choice("refused", reason=f"{reason}; start a new training with model = best.pt instead")
    return choice, look.notes


def _judge(action: Prepare, kept: Ledger) -> survey.Judge | None:
    """How the checkpoints of an extended run are judged: by the new number of epochs."""
    goal = action.goal
    if goal is None or goal.kind != "extend":
        return None
    begun = kept.opened_by(action.run) is not None

    def judge(found: Checkpoint) -> Checkpoint:
        return judged(found if begun else of_an_older_plan(found), goal.epochs)

    return judge


def _choose_rewind(action: Prepare, run_dir: layout.RunDirectory, kept: Ledger) -> tuple[Choice, tuple[str, ...]]:
    """Just the epoch that was asked for, from any line: one that is at hand before the newest copy of it."""
    job, epoch = action.job, action.goal.epoch if action.goal is not None else 0
    look = survey.of_run(job, run_dir, kept)
    of_others = [entry for entry in reversed(kept.entries) if entry not in usable(kept)]
    look.candidates = [*look.candidates, *survey.copies(run_dir, of_others)]
    choice = look.choose(lambda found: choose_epoch(found, epoch), only=epoch)
    return choice, look.notes


def _clear_the_way(action: Prepare, run_dir: layout.RunDirectory, found: Sequence[Checkpoint]) -> None:
    """Before a start from the beginning: torn checkpoints and the table of an aborted start are kept aside."""
    aside = run_dir.attempt(action.attempt).aside
    tables = trainers.trainer_for(action.job).tables(action.job, run_dir)  # some versions go on appending to it
    for path in (*(Path(one.path) for one in found), *tables):
        if path.exists():
            checkpoints.set_aside(path, aside)


# ---- bringing into place
def bring_into_place(choice: events.Prepared, run_dir: layout.RunDirectory, action: Prepare) -> events.Prepared:
    """Let the chosen checkpoint be the one that the trainer goes on writing, and the table of epochs end with it.

    It is entered in the ledger first: the trainer's next save is written over it. What stood there is kept: bad files
    in the attempt's folder `aside`, good ones in the ledger too. Copies are copied, never moved. Doing it again after a
    crash does no harm: the new line of a rewound or extended run is opened at the very end. Raises RetryableError where
    a copy was removed meanwhile, or where another one for this run is under way.
    """
    with ledger.exclusive(run_dir):
        order = _order(action, ledger.read(run_dir))
        if order is None or choice.from_epoch >= order.from_epoch:  # no older one is there: nothing is changed
            return _bring_into_place(_entered_first(choice, run_dir, action), run_dir, action)
        distrust.mark(run_dir, order)
        # what runners left of last saves, or the next start would take it
        finals = ledger.enter_finals(run_dir, _keeping_all(action.job), time.time())
        chosen = _entered_first(choice, run_dir, action)
        left = _leave_distrusted(chosen, run_dir, action, order)
        placed = _bring_into_place(chosen, run_dir, action)
        distrust.carried_out(run_dir, order)
        kept_epoch = newest_kept(ledger.read(run_dir))
        return msgspec.structs.replace(placed, notes=(*finals, *left, *placed.notes), kept_epoch=kept_epoch)


def _leave_distrusted(
    choice: events.Prepared, run_dir: layout.RunDirectory, action: Prepare, order: Distrust
) -> list[str]:
    """As _leave_behind, but only what the order is about. What stands in the trainer's place is entered first."""
    source = Path(choice.checkpoint)
    place = trainers.trainer_for(action.job).place(action.job, run_dir)
    stays = {source} if place is None else {source, place}
    notes = distrust.move_aside(action, run_dir, order, stays)
    if place is not None and not (best := place.with_name("best.pt")).exists():
        checkpoints.put_in_place(_best_until(choice, run_dir), best, run_dir.attempt(action.attempt).aside)
    return notes


def _entered_first(choice: events.Prepared, run_dir: layout.RunDirectory, action: Prepare) -> events.Prepared:
    """The choice, once its epoch is in the ledger; of the runner's private copy nothing else is left then."""
    source, kept = Path(choice.checkpoint), ledger.read(run_dir)
    epochs = {entry.epoch for entry in usable(kept, kept.line_of(action.run))} - {0}
    if choice.from_epoch in epochs or source.is_relative_to(run_dir.good):
        return choice
    taken = _enter(action, run_dir, source)
    if taken.entry is not None and not source.exists():
        source = ledger.path_of(run_dir, taken.entry)
    notes = tuple(filter(None, (*choice.notes, taken.reason)))
    return msgspec.structs.replace(choice, checkpoint=str(source), notes=notes)


def _bring_into_place(choice: events.Prepared, run_dir: layout.RunDirectory, action: Prepare) -> events.Prepared:
    job, aside = action.job, run_dir.attempt(action.attempt).aside
    source, goal = Path(choice.checkpoint), _goal(action, ledger.read(run_dir))
    target = _target(action, run_dir, source)
    notes = list(choice.notes)
    if target is not None and (goal == "rewind" or source != target):
        notes += _save_what_is_left(action, run_dir, target)
    if goal == "rewind" and target is not None:
        notes += _leave_behind(choice, run_dir, action, target)
    if goal == "extend":
        _keep_finished(run_dir.weights / "best.pt", aside)
    if target is not None and source != target:
        notes += _replace(source, target, run_dir, action)
    place = target if target is not None else source
    notes += trainers.trainer_for(job).make_ready(job, run_dir, from_epoch=choice.from_epoch, aside=aside)
    if goal:
        _open_line(action, run_dir, choice.from_epoch)
    kept_epoch = newest_kept(ledger.read(run_dir))
    return msgspec.structs.replace(choice, checkpoint=str(place), notes=tuple(notes), kept_epoch=kept_epoch)


def _target(action: Prepare, run_dir: layout.RunDirectory, source: Path) -> Path | None:
    """Where the checkpoint must lie; None where it may stay. No trainer ever writes over a copy in the ledger."""
    job, trainer = action.job, trainers.trainer_for(action.job)
    place = trainer.place(job, run_dir)
    if place is not None or not source.is_relative_to(run_dir.good):
        return place
    stood = next(iter(trainer.checkpoints(job, run_dir)), None)
    return stood if stood is not None else run_dir.root / f"restored{source.suffix}"


def _save_what_is_left(action: Prepare, run_dir: layout.RunDirectory, place: Path) -> list[str]:
    """Enter the checkpoint that is about to be replaced in the ledger, if it is good and not there yet; notes."""
    if not place.is_file() or checkpoints.look([place])[0].state not in GOES_ON:
        return []
    return list(filter(None, [_enter(action, run_dir, place).reason]))


def _enter(action: Prepare, run_dir: layout.RunDirectory, path: Path) -> ledger.Taken:
    """Enter a file that an attempt before this one wrote, under that number: names tell the lines' copies apart.

    Without room for a copy the training goes on all the same, as it would without a ledger.
    """
    maker = ledger.Maker(action.run, action.attempt - 1, _keeping_all(action.job), time.time())
    try:
        return ledger.take(run_dir, path, maker)
    except (NoRoomError, OSError) as error:
        return ledger.Taken(None, f"{path.name} could not be entered in the ledger: {error}")


def _keeping_all(job: Job) -> Job:
    """The job for an entry for which nothing is pruned: the copy that is about to be used could be what goes."""
    return msgspec.structs.replace(job, checkpoints=msgspec.structs.replace(job.checkpoints, keep_epochs="all"))


def _replace(source: Path, target: Path, run_dir: layout.RunDirectory, action: Prepare) -> list[str]:
    branch_point.bring_table(action, run_dir, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        checkpoints.put_in_place(source, target, run_dir.attempt(action.attempt).aside)
    except FileNotFoundError as error:
        raise RetryableError(f"{source} was removed while it was copied", 1.0) from error
    if source.name == branch_point.STAGED:
        source.unlink()
        return []
    return [f"{source.name} took the place of {target.name}"]


def _open_line(action: Prepare, run_dir: layout.RunDirectory, from_epoch: int) -> None:
    kept, goal = ledger.read(run_dir), action.goal
    extended = goal is not None and goal.kind == "extend"
    reason = f"extended to {goal.epochs} epochs" if goal is not None and extended else f"rewound to epoch {from_epoch}"
    number = max([1, *(line.number for line in kept.lines)]) + 1
    line = Line(number=number, parent=_parent(kept, from_epoch), from_epoch=from_epoch, run=action.run, reason=reason)
    ledger.open_line(run_dir, line)


def _parent(kept: Ledger, epoch: int) -> int:
    """The line that the epoch is of: the present one, if it can go on from there, else the newest that trained it."""
    if any(entry.epoch == epoch for entry in usable(kept)):
        return kept.line
    return max((entry.line for entry in kept.entries if entry.epoch == epoch), default=kept.line)


def _leave_behind(choice: events.Prepared, run_dir: layout.RunDirectory, action: Prepare, place: Path) -> list[str]:
    """Move what was trained beyond the chosen epoch out of the trainer's folder; give best.pt its older content.

    The chosen file itself and last.pt, which is replaced later, stay.
    """
    job, aside = action.job, run_dir.attempt(action.attempt).aside
    others = [
        path
        for path in trainers.trainer_for(job).checkpoints(job, run_dir)
        if path not in {place, Path(choice.checkpoint)} and _is_beyond(path, job, choice.from_epoch)
    ]
    moved = [checkpoints.set_aside(path, aside).name for path in others]
    best = place.with_name("best.pt")
    if not best.exists():
        checkpoints.put_in_place(_best_until(choice, run_dir), best, aside)
    return [f"{', '.join(moved)} went into {aside}"] if moved else []


def _is_beyond(path: Path, job: Job, epoch: int) -> bool:
    claim = survey.claim(job, path)
    if claim is not None:
        return claim > epoch
    [found] = checkpoints.look([path])
    return found.state not in GOES_ON or found.done_epochs > epoch


def _best_until(choice: events.Prepared, run_dir: layout.RunDirectory) -> Path:
    """The best copy until the chosen epoch, else the chosen one: the trainer validates best.pt at its end."""
    kept = ledger.read(run_dir)
    older = [entry for entry in usable(kept) if entry.epoch <= choice.from_epoch and entry.map50_95 is not None]
    for entry in sorted(older, key=lambda one: (one.map50_95 or 0.0, one.epoch), reverse=True):
        path = ledger.path_of(run_dir, entry)
        if path.is_file() and checkpoints.look([path])[0].state in GOES_ON:
            return path
    return Path(choice.checkpoint)


def _keep_finished(best: Path, aside: Path) -> None:
    """best.pt of a finished run stays where it is until a better epoch replaces it, and is kept for good."""
    if best.is_file() and not (aside / best.name).exists():
        aside.mkdir(parents=True, exist_ok=True)
        temporary = aside / f".{best.name}.copy"
        shutil.copyfile(best, temporary)
        durable.sync(temporary)
        temporary.replace(aside / best.name)
