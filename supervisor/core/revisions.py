"""Which edits of a job file a live run can take over at its next attempt, and why the others cannot."""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.core.model import Job
from supervisor.errors import Problem

#: Known to us alone, or to the machine: an edit of the file does not speak about these.
_NOT_THE_FILES = frozenset({"revision", "file", "env_pass", "trainer_version"})

_ALLOWED = {
    "priority": "priority",
    "title": "title",
    "notes": "notes",
    "tags": "tags",
    "notify": "notify",
    "backup": "backup",
    "publish": "publish",
    "restart": "restart",
    "log_max_bytes": "limits",
    "time_limit_s": "time_limit",
    "env": "env",
    "settings": "settings",
    "after": "after",
    "start_after_at": "start_after",
    "resume_command": "resume_command",
    "checkpoint_files": "checkpoint_files",
    "done": "done",
    "checkpoints": "checkpoints",
    "stages": "stage",
    "gpu": "gpu",
    "gpus": "gpus",  # the total batch is kept, see core/consistency.py
}

#: What Ultralytics takes from its caller on a resume (`check_resume` in engine/trainer.py, 8.4); it drops the rest.
ALLOWED_TRAIN_KEYS = frozenset({
    "imgsz", "batch", "close_mosaic", "save_period", "workers", "cache", "patience", "time", "freeze", "val",
    "plots", "data", "channels_last", "distill_model",
})  # fmt: skip

_NEW_RUN = "give the job another name to train anew; cancel this run first if it is not wanted any more"
_REASONS = {
    "project": "the run's directory lies below its project",
    "owner": "the file now belongs to another user, and a run stays its owner's",
    "cwd": "the trainer's paths may depend on its folder",
    "python": "another interpreter may read the checkpoint differently",
    "command": "the first start is over, and resume_command continues it",
    "checkpoint_files": "the checkpoints of this run were written where the first revision said",
}
_TRAIN_REASONS = {
    "epochs": "epochs cannot be changed by a resume: the trainer takes their number from the checkpoint, and the "
    "learning rate's schedule follows it",
    "model": "a resume continues the model of the checkpoint",
    "optimizer": "a resume continues the optimizer of the checkpoint, whose state fits no other",
}


def resume_differences(old: Job, new: Job) -> tuple[list[str], list[Problem]]:
    """Compare two revisions of a job.

    Returns the changed keys that the next attempt may take, in the words of the job file, and the refused changes.
    """
    allowed: list[str] = []
    refused: list[Problem] = []
    for field in Job.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if before == after or field in _NOT_THE_FILES:
            continue
        if field in _ALLOWED:
            allowed.append(_ALLOWED[field])
        elif field == "train" and before is not None and after is not None:
            _compare_train(before, after, allowed, refused)
        else:
            reason = _REASONS.get(field, f"{field} is fixed by the first start")
            refused.append(_refusal(field, reason, before, after))
    return allowed, refused


def _compare_train(before: dict[str, Any], after: dict[str, Any], allowed: list[str], refused: list[Problem]) -> None:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if key in before and key in after and old == new:
            continue
        if key in ALLOWED_TRAIN_KEYS and key in after:
            allowed.append(f"train.{key}")
            continue
        default = f"a resume takes {key} from the checkpoint and drops what the job says"
        refused.append(_refusal(f"train.{key}", _TRAIN_REASONS.get(key, default), old, new))


def _refusal(key: str, reason: str, before: Any, after: Any) -> Problem:
    return Problem(f"{reason}; not changed", key=key, expected=_shown(before), got=_shown(after), hint=_NEW_RUN)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "nothing"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:79] + "…"
