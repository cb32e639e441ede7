"""The end of a training that was killed after its last epoch was saved: strip, validate, nothing trained."""

from __future__ import annotations

import os
from typing import Any

from . import beats, checkpoint, whole_files
from .outcome import ERROR, FINISHED, Leave
from .session import Session

#: What the final validation takes from the training's own arguments, as far as the version has them.
_AS_TRAINED = (
    "imgsz",
    "conf",
    "iou",
    "max_det",
    "single_cls",
    "split",
    "save_json",
    "save_txt",
    "agnostic_nms",
    "nms",
    "classes",
    "workers",
    "fraction",
    "plots",
    "data",
    "task",
)
#: The trainer validates with twice its batch, except for tasks whose images are large.
_BATCH_AS_TRAINED = frozenset({"obb", "semantic", "depth"})


def finish_without_training(session: Session, plan: dict[str, Any], found: dict[str, Any]) -> None:
    """Do what is left of a training, see `finish`; raises Leave."""
    reason, fields, _results = finish(session, plan, found)
    raise Leave("finished", FINISHED, reason, **fields)


def finish(session: Session, plan: dict[str, Any], found: dict[str, Any]) -> tuple[str, dict[str, Any], Any]:
    """Strip last.pt and best.pt, then validate best.pt into the same folder.

    Returns the reason and fields of the end record, and what `YOLO.val` returned or None. Some versions refuse to
    resume such a file, others train an epoch too many. Once the files are stripped the run is finished: a
    validation that fails, or a stop in its middle, costs the final metrics only. Raises Leave if stripping fails.
    """
    session.stop.set_final(True)
    session.enter("end")
    _keep(session, plan, found)
    _strip_both(session, plan)
    best = os.path.join(plan["save_dir"], "weights", "best.pt")
    state = checkpoint.inspect(best)["state"]
    said = f"all {found['epochs']} epochs were trained before; last.pt is stripped now, best.pt is {state}"
    fields = {"epoch": found["epoch"], "epochs": found["epochs"], "best": best if state == "finished" else None}
    results = None
    if state == "finished":
        session.files_are_final(f"{said}; the final validation was left out for a stop", fields)
        try:
            results, plots = _validate(plan, best)
            fields["metrics"] = _metrics(results)
            if plots:
                _plot_course(plan["save_dir"])
        except Exception as error:  # noqa: BLE001 -- whatever it is, the files are final
            failed = "final validation" if results is None else "plot of the results"
            said += f"; the {failed} failed: {type(error).__name__}: {error}"
        session.final_record = None
    session.stop.set_final(True)
    return said, fields, results


def _keep(session: Session, plan: dict[str, Any], found: dict[str, Any]) -> None:
    kept = session.keep_last_save(plan["resume"])
    if kept:
        best = checkpoint.inspect(os.path.join(plan["save_dir"], "weights", "best.pt"))["epoch"] == found["epoch"]
        session.beats.write("saved", epoch=found["epoch"], path=plan["resume"], best=best, kept=kept)


def _strip_both(session: Session, plan: dict[str, Any]) -> None:
    """Strip into temporary files, and put them in place last.pt last: while it is whole, this can be repeated."""
    from ultralytics.utils.torch_utils import strip_optimizer

    weights = os.path.join(plan["save_dir"], "weights")
    last, best = (os.path.join(weights, name) for name in ("last.pt", "best.pt"))
    with whole_files.replacing(last, session.note_once) as stripped:
        content = strip_optimizer(plan["resume"], s=stripped)
        _demand_finished(plan["resume"], stripped)
        if checkpoint.inspect(best)["state"] in {"resumable", "done_not_stripped"}:
            with whole_files.replacing(best, session.note_once) as stripped_best:
                # As the trainer does: best.pt carries the whole course of the training, which only last.pt knows.
                course = (content or {}).get("train_results")
                updates = {"updates": {"train_results": course}} if course else {}
                strip_optimizer(best, s=stripped_best, **updates)
                _demand_finished(best, stripped_best)


def _demand_finished(source: str, stripped: str) -> None:
    state = checkpoint.inspect(stripped)["state"]
    if state != "finished":
        raise Leave("error", ERROR, f"stripping {source} gave a file that is {state}")


def _validate(plan: dict[str, Any], best: str) -> tuple[Any, bool]:
    """Validate `best` as the trainer does at its end, into the same folder; return the results, and whether to plot."""
    from ultralytics import YOLO

    model = YOLO(best)
    wanted = validation_arguments(plan, dict((model.ckpt or {}).get("train_args") or {}))
    return model.val(**wanted), bool(wanted.get("plots"))


def _metrics(results: Any) -> dict[str, Any]:
    metrics = dict(results.results_dict)
    metrics.pop("fitness", None)
    return {str(name): beats.number(value) for name, value in metrics.items()}


def validation_arguments(plan: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `YOLO.val` that make it the trainer's own final validation.

    `trained` are the arguments that the checkpoint remembers; what the plan says about data and plots wins.
    """
    from ultralytics.utils import DEFAULT_CFG_DICT

    known = {**trained, **{name: plan["args"][name] for name in ("data", "plots") if name in plan["args"]}}
    wanted = {name: known[name] for name in _AS_TRAINED if known.get(name) is not None and name in DEFAULT_CFG_DICT}
    project, name = os.path.split(os.path.normpath(plan["save_dir"]))
    wanted.update(project=project, name=name, exist_ok=True)
    device = plan["device"]
    if device is not None:
        wanted["device"] = str(device).split(",")[0]  # a validation alone runs on one GPU
    if trained.get("amp") and str(device) != "cpu":
        precision = {"quantize": 16} if "quantize" in DEFAULT_CFG_DICT else {"half": True}
        wanted.update(precision)  # the trainer validates in half precision on a GPU
    batch = trained.get("batch")
    if isinstance(batch, int) and batch > 0:
        wanted["batch"] = batch if trained.get("task") in _BATCH_AS_TRAINED else batch * 2
    return wanted


def _plot_course(save_dir: str) -> None:
    from ultralytics.utils.plotting import plot_results

    plot_results(file=os.path.join(save_dir, "results.csv"))
