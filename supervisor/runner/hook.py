"""Follow an Ultralytics training through its own callbacks: heartbeats, the check of its start, a clean stop.

`install` waits for the library's import and then adds our callbacks to its table of defaults, so every trainer of
this process has them: in our own runner, in the plain `yolo` command, in a user's script and in rank 0 of a
multi-GPU training. No file of the library is changed. Five names are wrapped in memory, each where its module
says why: `generate_ddp_command` (multi_gpu.py), `strip_optimizer` (safe_saves.py), `get_save_dir` (own_gpus.py),
`check_resume` where arguments were changed after a failure (changed_arguments.py) and, outside our own runner,
`Model.train` (resume_override.py); `os.environ` is guarded (own_gpus.py).
Whatever of this fails is said once, and the training goes on without it.

The callbacks are plain functions of this module on purpose: Ultralytics deep-copies the table (which would
copy the object behind a bound method) and pickles it for the ranks of a multi-GPU training, where a function
is only a name. So this module has the same name, yolo_supervisor_runner.hook, in every process.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from types import ModuleType
from typing import Any, Callable

from . import (
    beats,
    changed_arguments,
    loggers,
    multi_gpu,
    own_gpus,
    resume_override,
    safe_saves,
    stopping,
    time_budget,
)
from .after_import import AfterImport
from .outcome import ERROR, FINISHED, STOPPED, WRONG_PLACE
from .session import Session, epoch_error, place_error, resume_error, tell

CALLBACK_TABLE = "ultralytics.utils.callbacks.base"
TRAINER, MODEL = "ultralytics.engine.trainer", "ultralytics.engine.model"
#: At most one heartbeat per this time while batches are trained; a training of days shall not fill the disk.
BATCH_BEAT_EVERY_S = 0.5
LATER_BATCH_BEAT_EVERY_S = 5.0
EARLY_S = 600.0

_session: Session | None = None
_complained = False


def install(attempt_dir: str, controlled: bool = False) -> Session:
    """Follow every Ultralytics training of this process, with beats in `attempt_dir`; return the one session.

    The callbacks reach the library when it is imported, or at once if it was imported before.
    """
    global _session  # noqa: PLW0603 -- one process, one training at a time
    if _session is None:
        own_gpus.hold()
        _session = Session(attempt_dir, controlled)
        if not _session.leads:
            _session.stop.force_after_s = stopping.FORCE_OTHER_RANK_AFTER_S
            _session.stop.listen(replace=False)
        if controlled:
            _session.arm_stacks()
        _wait_for_ultralytics(_session)
    return _session


def _wait_for_ultralytics(session: Session) -> None:
    after_import = AfterImport(session.note)
    after_import.when_imported(CALLBACK_TABLE, _add_callbacks)
    after_import.when_imported(TRAINER, functools.partial(_wrap_trainer, session))
    if not session.controlled:
        after_import.when_imported(MODEL, functools.partial(resume_override.wrap, session))


def _wrap_trainer(session: Session, module: ModuleType) -> None:
    multi_gpu.guard(session, module)
    own_gpus.tell_places(module)
    changed_arguments.wrap(session, module)


def _add_callbacks(table: ModuleType) -> None:
    if _session is not None and not _session.controlled:
        _session.arm_stacks()  # not earlier: most programs that load the hook never train
    for event, callback in CALLBACKS.items():
        registered = table.default_callbacks.setdefault(event, [])
        if callback not in registered:
            registered.append(callback)


def _callback(function: Callable[[Session, Any], None], every_rank: bool = False) -> Callable[[Any], None]:
    """Give a callback the session; an error of ours is said once and never reaches the training.

    Only the process that leads calls it, if not `every_rank`.
    """

    @functools.wraps(function)
    def called_by_trainer(source: Any) -> None:
        global _complained  # noqa: PLW0603 -- said once per process
        if _session is None or not (_session.leads or every_rank):
            return
        try:
            function(_session, source)
        except Exception as error:  # noqa: BLE001 -- whatever our bookkeeping does, the training goes on
            if not _complained:
                _complained = True
                tell(f"{function.__name__}: {error!r}")

    return called_by_trainer


_callback_of_every_rank = functools.partial(_callback, every_rank=True)


@_callback
def on_pretrain_routine_start(session: Session, trainer: Any) -> None:
    """Check the save_dir, which is known now, before data and model are loaded."""
    session.training_number += 1
    if not session.controlled:
        session.begin()
        session.stop.set_final(False)
        session.stop.listen(replace=False)
    if not session.started:
        session.start("setup")
    session.trainer = trainer
    session.enter("scan")
    session.check_fence()
    session.check_start(place_error, resume_error)
    _say_what_nobody_planned(session, trainer)
    _save_safely(session, trainer)
    session.stop_if_due()


def _say_what_nobody_planned(session: Session, trainer: Any) -> None:
    """Note a program's second training; leave if it starts anew over the one that was to be resumed.

    That is what a program does that tries again after an error, or in another process.
    """
    if session.plan.get("mode", "runner") != "hook":
        return
    if session.training_number > 1:
        session.note(f"training {session.training_number} of this program starts in {trainer.save_dir}")
    resume = session.plan.get("resume")
    unfinished = session.elsewhere or (session.training_number > 1 and not session.earlier_finished)
    if resume and unfinished and not getattr(trainer, "resume", False):
        home = session.plan.get("save_dir") or resume_override.home_of(resume)
        if home and os.path.realpath(home) == os.path.realpath(str(trainer.save_dir)):
            session.leave(
                "wrong_place", WRONG_PLACE, f"starts anew in {home}, over the training that was to be resumed"
            )


def _save_safely(session: Session, trainer: Any) -> None:
    if session.plan.get("safe_saves", True):
        try:
            safe_saves.arm(trainer, session.note_once, session.copies)
        except Exception as error:  # noqa: BLE001 -- it then saves as it always did
            session.note(f"safe saves could not be armed: {error!r}")


@_callback
def on_pretrain_routine_end(session: Session, _trainer: Any) -> None:
    """Offer a safe point: everything is loaded."""
    session.stop_if_due()


@_callback_of_every_rank
def on_train_start(session: Session, trainer: Any) -> None:
    """Confirm, before the first batch, where the training is; or leave without training anything.

    A `time` budget goes on in all ranks: each of them computes the learning rate.
    """
    if session.leads:
        _confirm_start(session, trainer)
    session.used_before_h = time_budget.go_on(session.plan, trainer)
    if session.leads and session.used_before_h:
        session.note(f"{session.used_before_h:.3f} of {trainer.args.time} hours were used before this start")


def _confirm_start(session: Session, trainer: Any) -> None:
    session.trainer = trainer
    session.check_start(place_error, epoch_error)
    start_epoch = int(trainer.start_epoch)
    save_dir = str(trainer.save_dir)
    if start_epoch > 0:
        checkpoint = session.plan.get("resume") or str(trainer.args.model)
        session.beats.write("resumed", from_epoch=start_epoch - 1, checkpoint=checkpoint, save_dir=save_dir)
    else:
        session.beats.write("fresh", save_dir=save_dir, epochs=trainer.epochs)
    session.training = True
    session.stop_if_due()


@_callback
def on_train_epoch_start(session: Session, _trainer: Any) -> None:
    """Begin an epoch, or the same one again after the trainer recovered from NaN or lack of memory."""
    loggers.flush()
    session.in_epoch = True
    session.stop.set_final(False)
    session.batch, session.batches = 0, None
    session.images, session.images_from_s = 0, time.monotonic()
    session.validated = False
    session.enter("train")
    session.check_fence()
    session.stop_if_due()


@_callback
def on_train_batch_end(session: Session, trainer: Any) -> None:
    """Count; report now and then. The losses are read only then: reading them waits for the GPU."""
    session.stop_if_due()
    session.batch += 1
    session.images += trainer.batch_size
    now_s = time.monotonic()
    every_s = BATCH_BEAT_EVERY_S if now_s - session.begun_s < EARLY_S else LATER_BATCH_BEAT_EVERY_S
    if session.last_beat_s is None or now_s - session.last_beat_s >= every_s:
        _report_batch(session, trainer, now_s)


def _report_batch(session: Session, trainer: Any, now_s: float) -> None:
    if session.batches is None:
        session.batches = len(trainer.train_loader)
    rate = session.images / max(now_s - session.images_from_s, 1e-6)  # validation is not counted
    session.images, session.images_from_s = 0, now_s
    session.last_beat_s = now_s
    session.beats.write(
        "batch",
        epoch=trainer.epoch,
        epochs=trainer.epochs,
        batch=session.batch,
        batches=session.batches,
        losses=beats.losses_of(trainer),
        images_per_s=round(rate, 1),
    )


@_callback_of_every_rank
def on_train_epoch_end(session: Session, trainer: Any) -> None:
    """Expect a checkpoint to be written from here to `on_fit_epoch_end`, except while validating."""
    if session.used_before_h:
        time_budget.count_all_epochs(trainer)
    if not session.leads:
        return
    session.check_fence()
    session.stop.set_writing(True)
    if not getattr(trainer.args, "val", True):
        session.enter("save")


@_callback
def on_val_start(session: Session, validator: Any) -> None:
    """Tell the validation of an epoch from the one after the last save, and from one that a user's callback makes."""
    if not session.training:
        _leave_if_finishing(session)
        return
    if not _is_of_epoch(validator):
        if not session.in_epoch and _is_last_epoch(session.trainer):
            _enter_final(session)
        return
    session.stop.set_writing(False)
    session.enter("val")
    session.stop_if_due()


def _is_of_epoch(validator: Any) -> bool:
    return bool(getattr(validator, "training", True))


@_callback
def on_val_batch_end(session: Session, _validator: Any) -> None:
    """Offer a safe point inside a long validation."""
    if session.training:
        session.stop_if_due()
    else:
        _leave_if_finishing(session)


def _leave_if_finishing(session: Session) -> None:
    """Offer a safe point in the validation after a finish without training; a program's own is left alone."""
    if session.final_record is not None:
        session.stop_if_due()


@_callback
def on_val_end(session: Session, validator: Any) -> None:
    """Let the save go ahead even when a stop is due: it takes seconds and keeps the epoch."""
    if not session.training or not _is_of_epoch(validator):
        return
    session.check_fence()
    session.stop.set_writing(True)
    session.validated = True
    session.enter("save")


@_callback
def on_model_save(session: Session, trainer: Any) -> None:
    """Report that last.pt, and maybe best.pt, were written; keep a copy of the last, which is stripped next."""
    best = getattr(trainer, "best_fitness", None) == getattr(trainer, "fitness", None)
    kept = session.keep_last_save(str(trainer.last)) if _is_last_epoch(trainer) else None
    extra = {"kept": kept} if kept else {}
    session.beats.write("saved", epoch=trainer.epoch, path=str(trainer.last), best=bool(best), **extra)


def _is_last_epoch(trainer: Any) -> bool:
    return bool(getattr(trainer, "stop", False)) or trainer.epoch + 1 >= trainer.epochs


@_callback
def on_fit_epoch_end(session: Session, trainer: Any) -> None:
    """Report the epoch, which is over and saved.

    Ultralytics calls this once more, with a number too high, after the final validation.
    """
    if not session.in_epoch:
        return
    session.in_epoch = False
    session.beats.write(
        "epoch",
        epoch=trainer.epoch,
        epochs=trainer.epochs,
        losses=beats.losses_of(trainer),
        metrics=beats.metrics_of(trainer) if session.validated else {},
        fitness=beats.number(getattr(trainer, "fitness", None)) if session.validated else None,
        epoch_s=beats.number(getattr(trainer, "epoch_time", None)),
        lr=beats.learning_rates_of(trainer),
        updates=beats.updates_of(trainer),
    )
    if _is_last_epoch(trainer):
        _enter_final(session)
        return
    session.stop.set_writing(False)
    session.stop_if_due()
    session.stop_for_next_stage(trainer.epoch)


def _enter_final(session: Session) -> None:
    """Note that only stripping and the final validation are left.

    A stop from here on would only make a finished run look cut.
    """
    session.stop.set_final(True)
    session.enter("end")


@_callback
def on_train_end(session: Session, _trainer: Any) -> None:
    """Note that the trainer finished everything, its final validation too."""
    session.train_ended = True


@_callback
def teardown(session: Session, trainer: Any) -> None:
    """Say how it ended, in a program that is not ours; called for whatever reason the trainer is gone."""
    session.training = False
    if session.controlled:
        return
    error = sys.exc_info()[1]
    if session.train_ended:
        session.end("finished", FINISHED, "the trainer reached its end")
    elif session.stop.due:  # for instance a dataloader worker that got the same signal
        session.end("stopped", STOPPED, f"stopped by signal {session.stop.signal_number}: {error!r}")
    elif error is not None:
        session.end("error", ERROR, f"{type(error).__name__}: {error}")
    session.stop.stop_listening()
    session.trainer = trainer


CALLBACKS: dict[str, Callable[[Any], None]] = {
    callback.__name__: callback
    for callback in (
        on_pretrain_routine_start,
        on_pretrain_routine_end,
        on_train_start,
        on_train_epoch_start,
        on_train_batch_end,
        on_train_epoch_end,
        on_val_start,
        on_val_batch_end,
        on_val_end,
        on_model_save,
        on_fit_epoch_end,
        on_train_end,
        teardown,
    )
}
