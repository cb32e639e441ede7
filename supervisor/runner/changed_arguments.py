"""Let a resumed training use the arguments that were changed because of a failure, whatever its version takes.

Ultralytics takes the arguments of a resume from the checkpoint, and some of its caller's: 8.4 all that save memory,
8.3.74 only `imgsz`, `batch`, `device` and `close_mosaic`. It decides that in
`BaseTrainer.check_resume`, before anything is built, so what is set right after it counts as if it had been taken
there. That happens in every rank of a multi-GPU training: each of them reads the checkpoint anew.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from .session import Session


def wrap(session: Session, module: ModuleType) -> None:
    """Wrap `check_resume` of `ultralytics.engine.trainer`, if the plan changes arguments."""
    changes: dict[str, Any] = session.plan.get("changes") or {}
    if not changes or not session.plan.get("resume"):
        return  # a fresh start takes all of its arguments
    check = module.BaseTrainer.check_resume

    @functools.wraps(check)
    def check_resume(trainer: Any, *given: Any, **keywords: Any) -> Any:
        checked = check(trainer, *given, **keywords)
        forced = {name: value for name, value in changes.items() if getattr(trainer.args, name, value) != value}
        if getattr(trainer, "resume", False) and forced:
            for name, value in forced.items():
                setattr(trainer.args, name, value)
            said = ", ".join(f"{name} = {value}" for name, value in forced.items())
            session.note_once(f"this version takes no {said} at a resume; set all the same")
        return checked

    module.BaseTrainer.check_resume = check_resume
