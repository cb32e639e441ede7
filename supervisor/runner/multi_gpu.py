"""A multi-GPU training deletes its save directory before it starts its ranks: never one with a good checkpoint."""

from __future__ import annotations

import functools
import glob
import os
from typing import Any

from . import checkpoint
from .outcome import REFUSED
from .session import Session

#: Whatever is not one of these may be a checkpoint that somebody wants back.
WORTHLESS = frozenset({"torn", "missing", "weights_only"})


def precious(save_dir: str) -> tuple[str, str] | None:
    """Return a checkpoint in `save_dir` that a fresh start would destroy, with its state; None if there is none."""
    for path in sorted(glob.glob(os.path.join(glob.escape(save_dir), "weights", "*.pt"))):
        state = checkpoint.inspect(path)["state"]
        if state not in WORTHLESS:
            return path, state
    return None


def guard(session: Session, module: Any) -> None:
    """Wrap `generate_ddp_command` where the trainer calls it: just before, in the parent of the ranks.

    Ultralytics removes the whole save_dir there unless it resumes. The wrapper leaves with code 65 instead if
    that would cost a checkpoint, and makes the parent pass SIGTERM on to its ranks.
    """
    generate = module.generate_ddp_command

    @functools.wraps(generate)
    def generate_guarded(*given: Any, **keywords: Any) -> Any:
        trainer = keywords["trainer"] if "trainer" in keywords else given[-1]
        if not trainer.resume:
            found = precious(str(trainer.save_dir))
            if found:
                reason = f"a fresh multi-GPU start would delete {trainer.save_dir} with {found[0]} ({found[1]})"
                session.leave("refused", REFUSED, reason)
        session.launches_ranks()
        return generate(*given, **keywords)

    module.generate_ddp_command = generate_guarded
