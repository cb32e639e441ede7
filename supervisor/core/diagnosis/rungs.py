"""The rungs of the ladder: what may be changed for the next try, and to what.

Arguments are changed for our own runner only: it hands them to the trainer at every resume. The scripts of other
families read theirs from files of their own, and what a command means by its words only its author knows.

A change wins over the job's stages, also over one that begins later and names the argument itself: what the machine
could not carry before it will not carry then. `resume --undo-changes`, or an edit of the job file, takes it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from supervisor.core.checkpoints import knows_its_end
from supervisor.core.diagnosis.evidence import Change
from supervisor.core.diagnosis.tables import CAUSES
from supervisor.core.model import Job, Policy, Run

#: What Ultralytics (8.0 to 8.4, cfg/default.yaml) takes where the job says nothing.
DEFAULTS: dict[str, Any] = {"workers": 8, "cache": False, "batch": 16, "imgsz": 640, "freeze": None}
#: Below this side of the images detectors of the YOLO family are of little use: it is half of what they are made for.
LEAST_IMGSZ = 320
#: The largest stride of the usual models: Ultralytics rounds other sizes up.
STRIDE = 32
IMGSZ_SHRINK = 0.75
#: Layers of the backbone from YOLOv8 to YOLO26, as Ultralytics' own guide to fine-tuning freezes them.
BACKBONE_LAYERS = 10

Value = bool | int | float | str | None
_NOTHING_LEFT = object()


def applicable(rung: str, run: Run, policy: Policy) -> bool:
    """True if the job allows this rung and there is something left to change. Other GPUs need no leave."""
    if rung == "gpus":
        given = run.attempt.gpus if run.attempt is not None else ()
        return policy.gpu_count > run.job.gpus > 0 and bool(given)
    if rung not in run.job.restart.remedies:
        return False
    if rung == "checkpoint":
        return _may_go_back(run)
    return next_change(rung, run, "", 0.0) is not None


def why_not(rung: str, run: Run, policy: Policy) -> str:
    """Why a rung cannot be taken, in words; nothing if it can."""
    if applicable(rung, run, policy):
        return ""
    if rung == "gpus":
        return "no other one is there"
    if run.job.train is None and rung in _STEPS:
        return "the arguments of a command are its own"
    if rung not in run.job.restart.remedies:
        return "not in restart.remedies"
    return "no older one is known" if rung == "checkpoint" else "nothing is left to change"


def newest_checkpoint(run: Run) -> int:
    """The epoch of the newest checkpoint that the failed attempt started from or saved; 0 without one."""
    return max(run.progress.saved_epoch, run.attempt.from_epoch if run.attempt is not None else 0)


def _may_go_back(run: Run) -> bool:
    """True if an older checkpoint may be there, and is known by its epoch. Whether it is, the preparation finds out."""
    newest = newest_checkpoint(run)
    tells_epochs = run.kept_epoch > 0 or knows_its_end(run.job)
    return newest > 1 and tells_epochs and run.distrust_from != newest


def next_change(rung: str, run: Run, cause: str, at: float) -> Change | None:
    """The change that this rung makes now, or None where it is none of arguments or nothing is left to change."""
    step = _STEPS.get(rung)
    if step is None or run.job.train is None:
        return None
    present = present_value(rung, run)
    after = _NOTHING_LEFT if present is _NOTHING_LEFT else step(present, run.job)
    if after is _NOTHING_LEFT:
        return None
    return Change(name=rung, before=_plain(present), after=after, cause=cause, attempt=run.attempts, at=at)


def present_value(name: str, run: Run) -> Any:
    """What the last attempt trained with: earlier changes first, then the job. No value where nobody here knows it."""
    changed = {one.name: one.after for one in run.changes}
    return changed[name] if name in changed else job_value(name, run.job, run.progress.saved_epoch)


def job_value(name: str, job: Job, epoch: int) -> Any:
    """What the job file, with its stages, asks for after `epoch` complete epochs; else the trainer's default.

    No value where the job leaves it to a file of its own (`cfg`).
    """
    wanted: Mapping[str, Any] = job.train_after(epoch) or {}
    if name not in wanted and wanted.get("cfg"):
        return _NOTHING_LEFT
    return wanted.get(name, DEFAULTS[name])


def _plain(value: Any) -> Value:
    """A value as it is shown: a list (of frozen layers) as text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fewer_workers(present: Any, _job: Job) -> Any:
    """Half of them, down to none: then the main process loads the images itself."""
    return present // 2 if _is_whole(present) and present > 0 else _NOTHING_LEFT


def _no_cache(present: Any, _job: Job) -> Any:
    """No cache instead of one in memory.

    Not one on disk: that writes some ten times the size of the data set beside the images, which nobody asked for, and
    a full disk or a read-only data set would be the next failure. Off is only slower.
    """
    return False if present is True or present == "ram" else _NOTHING_LEFT


def _smaller_batch(present: Any, job: Job) -> Any:
    """Half of it; the trainer's nominal batch stays, so that it gathers gradients over more steps.

    On several GPUs each one gets the same number of images, at least one. An automatic size is the trainer's own to
    choose.
    """
    gpus = max(1, job.gpus)
    half = present // 2 // gpus * gpus if _is_whole(present) else 0
    return half if half >= gpus else _NOTHING_LEFT


def _smaller_images(present: Any, _job: Job) -> Any:
    if not _is_whole(present) or present <= LEAST_IMGSZ:
        return _NOTHING_LEFT
    return max(LEAST_IMGSZ, int(present * IMGSZ_SHRINK) // STRIDE * STRIDE)


def _frozen(present: Any, _job: Job) -> Any:
    """The backbone is not trained further: no gradients and no activations of it need to be kept, which is most memory.

    It changes what is learned, so only where the job allows it. A list of layers is somebody's own choice and stays.
    """
    frozen = 0 if present is None or present == [] else present
    return BACKBONE_LAYERS if _is_whole(frozen) and frozen < BACKBONE_LAYERS else _NOTHING_LEFT


_STEPS: dict[str, Callable[[Any, Job], Any]] = {
    "workers": _fewer_workers,
    "cache": _no_cache,
    "batch": _smaller_batch,
    "imgsz": _smaller_images,
    "freeze": _frozen,
}
#: The rungs that change arguments of the trainer.
ARGUMENTS = frozenset(_STEPS)


# ---- what is shown
def changes_view(run: Run) -> list[dict[str, Any]]:
    """What differs from the job file for the next attempt: each with what the job asks for as `before`."""
    return [
        {
            "name": one.name,
            "before": _before(one, run),
            "after": one.after,
            "cause": one.cause,
            "because": CAUSES[one.cause].title if one.cause in CAUSES else one.cause,
            "attempt": one.attempt,
            "at": one.at,
        }
        for one in run.changes
    ]


def _before(change: Change, run: Run) -> Value:
    value = job_value(change.name, run.job, run.progress.saved_epoch) if change.name in DEFAULTS else _NOTHING_LEFT
    return change.before if value is _NOTHING_LEFT else _plain(value)


def words(change: Mapping[str, Any]) -> str:
    """`workers 4 instead of 8`, from a row of `changes_view`."""
    return f"{change['name']} {_word(change['after'])} instead of {_word(change['before'])}"


def _word(value: Value) -> str:
    if value is None or value is False:
        return "off"
    return "on" if value is True else str(value)
