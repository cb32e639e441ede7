"""Turn the first training of a user's own program into the resume that the supervisor planned.

The program may say `resume=False` and load whatever model it likes: `Model.train` is wrapped, and its first call
trains on from the plan's checkpoint. Later calls, and those of other processes that the program starts, are the
program's own business.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any, Callable

from . import arguments, checkpoint, finish, rewrite
from .outcome import ERROR, FINISHED, REFUSED, WRONG_PLACE, Leave
from .session import Session

#: In the attempt's folder: the process that took the resume. Only one may, or two would write one last.pt.
CLAIM = "resumed-by"


def wrap(session: Session, module: ModuleType) -> None:
    """Wrap `Model.train` of `ultralytics.engine.model`."""
    train = module.Model.train

    @functools.wraps(train)
    def train_as_planned(model: Any, /, *given: Any, **keywords: Any) -> Any:  # `yolo` gives a `model` keyword
        trainer = given[0] if given else keywords.get("trainer")
        if _takes_the_resume(session):
            keywords, done = resumed(session, model, trainer, keywords)
            if done:
                return finished(session, model, keywords)
            given, keywords = (), {**keywords, "trainer": trainer}
        try:
            return train(model, *given, **keywords)
        except Exception as error:
            # Before 8.4 the trainer has no teardown after an error: then this is the only place that sees it.
            if not session.stop.forwards:  # rank 0 tells how a multi-GPU training ended
                session.end("error", ERROR, f"{type(error).__name__}: {error}")
            raise
        finally:
            session.stop.stop_listening()  # what the program does next dies of SIGTERM as always

    module.Model.train = train_as_planned


def _takes_the_resume(session: Session) -> bool:
    if not session.plan.get("resume") or session.training_number > 0 or session.resume_taken:
        return False
    # The ranks of a program that the user starts with torchrun are one training, and all call `train`.
    session.resume_taken = session.rank >= 0 or _claim(os.path.join(session.attempt_dir, CLAIM))
    if not session.resume_taken:
        session.elsewhere = True
        session.note("another process of this attempt has taken the resume; this one trains what its program says")
    return session.resume_taken


def _claim(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    os.write(descriptor, f"{os.getpid()}\n".encode())
    os.close(descriptor)
    return True


def resumed(session: Session, model: Any, trainer: Any, keywords: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the arguments that make `Model.train` resume the plan's checkpoint, and whether nothing is left of it.

    Leaves if it cannot be resumed. The model object stays the program's own, so that what the program does
    afterwards sees the trained weights.
    """
    session.stop.listen(replace=False)
    if not session.started:
        session.start("setup")
    adapted, found = _look(session, keywords)
    if found["state"] == "done_not_stripped":
        return {**adapted, "found": found}, True
    honoured = _honoured(trainer or _trainer_class(model))
    try:
        rewrite.new_home(adapted["resume"], found, adapted["save_dir"], honoured)
    except Leave as failed:
        session.leave(failed.result, failed.code, failed.reason)
    model.ckpt_path = adapted["resume"]  # 8.2 and 8.3 resume this, whatever path their caller gives
    session.note(f"the program's train() resumes {adapted['resume']} after {found['epoch'] + 1} epochs")
    return arguments.for_resume(adapted, honoured), False


def _look(session: Session, keywords: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a plan as our own runner's, with the program's arguments, and what its checkpoint is; or leave."""
    plan = session.plan
    found = checkpoint.inspect(plan["resume"])
    if found["state"] not in {"resumable", "done_not_stripped"}:
        session.leave("refused", REFUSED, f"{plan['resume']} is {found['state']}: {found['reason']}")
    if plan.get("expected_epoch") not in {None, found["epoch"]}:
        reason = f"{plan['resume']} holds epoch {found['epoch']}, expected {plan['expected_epoch']}"
        session.leave("wrong_place", WRONG_PLACE, reason)
    try:
        found = rewrite.more_epochs(plan, found) or found
    except Leave as refused:
        session.leave(refused.result, refused.code, refused.reason)
    save_dir = plan.get("save_dir") or home_of(plan["resume"]) or found["save_dir"] or ""
    return {**plan, "args": keywords, "device": _device(plan, keywords.get("device")), "save_dir": save_dir}, found


def _device(plan: dict[str, Any], asked: Any) -> Any:
    """Return what the program asks for, as far as the attempt has so many GPUs.

    Never the checkpoint's own: that one counts the GPUs of the attempt that wrote it.
    """
    own = [place for place in str(plan.get("device") or "").split(",") if place.isdigit()]
    if asked is None or asked == "":
        return own[0] if own else plan.get("device")
    parts = asked.split(",") if isinstance(asked, str) else asked if isinstance(asked, (list, tuple)) else [asked]
    return ",".join(own) if own and len(parts) > len(own) else asked


def finished(session: Session, model: Any, adapted: dict[str, Any]) -> Any:
    """Finish a training of which no epoch is left, as if `Model.train` had returned; return its metrics or None."""
    session.training_number += 1  # no trainer starts, which would count; the program's next one is its own business
    try:
        reason, fields, results = finish.finish(session, adapted, adapted["found"])
    except Leave as failed:
        session.leave(failed.result, failed.code, failed.reason)
    finally:
        session.stop.stop_listening()
    session.train_ended = True
    session.end("finished", FINISHED, reason, **fields)
    weights = fields["best"] or os.path.join(adapted["save_dir"], "weights", "last.pt")
    vars(model).update(vars(type(model)(weights)))  # the program's own object, with the trained weights
    return results


def home_of(path: str) -> str:
    """Return the run's folder of a checkpoint that lies in its `weights` folder, else nothing."""
    folder = os.path.dirname(os.path.realpath(path))
    return os.path.dirname(folder) if os.path.basename(folder) == "weights" else ""


def _trainer_class(model: Any) -> Any:
    load: Callable[[str], Any] = model._smart_load  # noqa: SLF001 -- how `train` itself finds the class of its task
    return load("trainer")


def _honoured(trainer_class: Any) -> frozenset[str]:
    try:
        return arguments.honoured_on_resume(trainer_class)
    except (OSError, TypeError, AttributeError, SyntaxError):  # no source to read: what every version honours
        return frozenset({"imgsz", "batch", "device"})
