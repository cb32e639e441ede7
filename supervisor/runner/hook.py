"""Follow an Ultralytics training through its own callbacks: heartbeats, the check of its start, a clean stop.

`install` makes the next import of `ultralytics.utils.callbacks.base` add our callbacks to the library's table
of defaults, so every trainer of this process has them: in our own runner, in the plain `yolo` command, in a
user's script and in rank 0 of a multi-GPU training. No file and no function of the library is replaced.

The callbacks are plain functions of this module on purpose: Ultralytics deep-copies the table (which would
copy the object behind a bound method) and pickles it for the ranks of a multi-GPU training, where a function
is only a name. So this module has the same name, yolo_supervisor_runner.hook, in every process.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import time
from types import ModuleType
from typing import Any, Callable, Sequence

from . import beats, stopping
from .session import STOPPED, Session, epoch_error, place_error, resume_error

CALLBACK_TABLE = "ultralytics.utils.callbacks.base"
#: At most one heartbeat per this time while batches are trained; a training of days shall not fill the disk.
BATCH_BEAT_EVERY_S = 0.5
LATER_BATCH_BEAT_EVERY_S = 5.0
EARLY_S = 600.0
FINISHED, ERROR = 0, 1

_session: Session | None = None
_complained = False


def install(attempt_dir: str, controlled: bool = False) -> Session:
    """Follow every Ultralytics training of this process, with beats in `attempt_dir`; return the one session.

    The callbacks reach the library when it is imported, or at once if it was imported before.
    """
    global _session  # noqa: PLW0603 -- one process, one training at a time
    if _session is None:
        _session = Session(attempt_dir, controlled)
        if not _session.leads:
            _session.stop.force_after_s = stopping.FORCE_OTHER_RANK_AFTER_S
            _session.stop.listen(replace=False)
        if CALLBACK_TABLE in sys.modules:
            _add_callbacks(sys.modules[CALLBACK_TABLE])
        else:
            sys.meta_path.insert(0, _CallbackTableFinder())
    return _session


class _CallbackTableFinder(importlib.abc.MetaPathFinder):
    """Lets the import system load the callback table as always, and adds to it right after."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != CALLBACK_TABLE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_add(module: ModuleType) -> None:
                load(module)
                _add_callbacks(module)

            spec.loader.exec_module = load_and_add  # type: ignore[method-assign]
        return spec


def _add_callbacks(table: ModuleType) -> None:
    for event, callback in CALLBACKS.items():
        registered = table.default_callbacks.setdefault(event, [])
        if callback not in registered:
            registered.append(callback)


def _callback(function: Callable[[Session, Any], None]) -> Callable[[Any], None]:
    """Give a callback the session; an error of ours is said once and never reaches the training."""

    @functools.wraps(function)
    def called_by_trainer(source: Any) -> None:
        global _complained  # noqa: PLW0603 -- said once per process
        if _session is None or not _session.leads:
            return
        try:
            function(_session, source)
        except Exception as error:  # noqa: BLE001 -- whatever our bookkeeping does, the training goes on
            if not _complained:
                _complained = True
                print(f"yolo-supervisor: {function.__name__}: {error!r}", file=sys.stderr, flush=True)

    return called_by_trainer


@_callback
def on_pretrain_routine_start(session: Session, trainer: Any) -> None:
    """Check the save_dir, which is known now, before data and model are loaded."""
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
    session.stop_if_due()


@_callback
def on_pretrain_routine_end(session: Session, _trainer: Any) -> None:
    """Offer a safe point: everything is loaded."""
    session.stop_if_due()


@_callback
def on_train_start(session: Session, trainer: Any) -> None:
    """Confirm, before the first batch, where the training is; or leave without training anything."""
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
    session.stop.set_writing(False)
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


@_callback
def on_train_epoch_end(session: Session, trainer: Any) -> None:
    """Expect a checkpoint to be written from here to `on_fit_epoch_end`, except while validating."""
    session.check_fence()
    session.stop.set_writing(True)
    if not getattr(trainer.args, "val", True):
        session.enter("save")


@_callback
def on_val_start(session: Session, validator: Any) -> None:
    """Tell the validation inside the training from the one after the last save."""
    if not session.training:
        return
    if not getattr(validator, "training", True):
        _enter_final(session)
        return
    session.stop.set_writing(False)
    session.enter("val")
    session.stop_if_due()


@_callback
def on_val_batch_end(session: Session, _validator: Any) -> None:
    """Offer a safe point inside a long validation."""
    if session.training:
        session.stop_if_due()


@_callback
def on_val_end(session: Session, _validator: Any) -> None:
    """Let the save go ahead even when a stop is due: it takes seconds and keeps the epoch."""
    if not session.training or session.stop.final:
        return
    session.check_fence()
    session.stop.set_writing(True)
    session.validated = True
    session.enter("save")


@_callback
def on_model_save(session: Session, trainer: Any) -> None:
    """Report that last.pt, and maybe best.pt, were written."""
    best = getattr(trainer, "best_fitness", None) == getattr(trainer, "fitness", None)
    session.beats.write("saved", epoch=trainer.epoch, path=str(trainer.last), best=bool(best))


@_callback
def on_fit_epoch_end(session: Session, trainer: Any) -> None:
    """Report the epoch, which is over and saved.

    Ultralytics calls this once more, with a number too high, after the final validation.
    """
    if session.stop.final:
        return
    session.beats.write(
        "epoch",
        epoch=trainer.epoch,
        epochs=trainer.epochs,
        losses=beats.losses_of(trainer),
        metrics=beats.metrics_of(trainer) if session.validated else {},
        fitness=beats.number(getattr(trainer, "fitness", None)) if session.validated else None,
        epoch_s=beats.number(getattr(trainer, "epoch_time", None)),
    )
    if getattr(trainer, "stop", False) or trainer.epoch + 1 >= trainer.epochs:
        _enter_final(session)
        return
    session.stop.set_writing(False)
    session.stop_if_due()


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
