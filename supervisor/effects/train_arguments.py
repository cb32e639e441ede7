"""Whether [train] fits the job's own Ultralytics: names and types of arguments, and where model and data lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.core.model import Job
from supervisor.effects.interpreters import Description, TrainArgument
from supervisor.errors import Problem
from supervisor.toml_errors import format_value, nearest, shown

_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
}
# yolo11n-seg.yaml means yolo11-seg.yaml at scale n (guess_model_scale and yaml_model_load in nn/tasks.py)
_SCALE = re.compile(r"(\d+)([nslmx])(.+)?$")
_NO_AMP_CHECK = (False, "bf16", "fp32")


@dataclass(frozen=True)
class Surroundings:
    """Where a job's Ultralytics would look for what is named without a path."""

    known: Description
    folder: Path
    weights_dir: Path
    datasets_dir: Path
    allow_download: bool

    @classmethod
    def of(cls, job: Job, run_dir: Path, known: Description, *, allow_download: bool) -> Surroundings:
        """Take the settings of the job before those of its owner; relative ones begin in the trainer's folder."""
        folder = Path(job.cwd) if job.cwd else run_dir
        weights = folder / str(job.settings.get("weights_dir") or known.folder("weights_dir"))
        datasets = folder / str(job.settings.get("datasets_dir") or known.folder("datasets_dir"))
        return cls(known, folder, weights, datasets, allow_download)


def argument_problems(job: Job, known: Description) -> Iterator[Problem]:
    """Find unknown names and wrong types in [train]. A library that tells no names is not judged by them."""
    who = _who(job, known)
    for key, value in (job.train or {}).items():
        argument = known.train_args.get(key)
        if argument is None and known.train_args:
            near = nearest(key, list(known.train_args))
            hint = f"did you mean `{near}`?" if near else "remove it, or choose an interpreter that knows it"
            expected = f"an argument known to {who}"
            yield Problem("unknown argument", key=f"train.{key}", expected=expected, got=f"`{key}`", hint=hint)
        elif argument is not None and not _fits(value, argument):
            yield _wrong_type(f"train.{key}", value, argument, who)


def stage_problems(job: Job, known: Description) -> Iterator[Problem]:
    """Find what this version would drop at the resume that begins a stage, and stages that are never reached."""
    who = _who(job, known)
    default = known.train_args.get("epochs", TrainArgument()).default
    epochs = job.epochs or default
    for place, stage in enumerate(job.stages):
        if isinstance(epochs, int) and stage.from_epoch > epochs:
            expected = f"an epoch up to {epochs}" + ("" if job.epochs else f", the default of {who}")
            key = f"stage.{place}.from_epoch"
            yield Problem("this stage is never reached", key=key, expected=expected, got=str(stage.from_epoch))
        for name, value in stage.args.items():
            argument = known.train_args.get(name)
            if known.resume_keys and name not in known.resume_keys:
                allowed = f"one of {', '.join(known.resume_keys)}, which is what {who} takes at a resume"
                wrong = "this version cannot change this in a stage: it drops it at a resume"
                yield Problem(wrong, key=f"stage.{place}.{name}", expected=allowed, got=f"`{name}`")
            elif argument is not None and not _fits(value, argument):
                yield _wrong_type(f"stage.{place}.{name}", value, argument, who)


def _who(job: Job, known: Description) -> str:
    return f"Ultralytics {known.ultralytics or ''}".strip() + f" in {job.python}"


def _wrong_type(key: str, value: Any, argument: TrainArgument, who: str) -> Problem:
    expected = f"{_kinds(argument)} ({who}; its default is {format_value(argument.default)})"
    return Problem("wrong value", key=key, expected=expected, got=shown(value))


def _kinds(argument: TrainArgument) -> str:
    names = [
        kind for kind in argument.types if kind in _TYPE_NAMES and (kind != "int" or "float" not in argument.types)
    ]
    return " or ".join(_TYPE_NAMES[kind] for kind in names)


def _fits(value: Any, argument: TrainArgument) -> bool:
    kinds = set(argument.types)
    if not kinds or not kinds <= {*_TYPE_NAMES, "null"}:
        return True  # a version that says nothing, or something new: its own check will speak
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, int):
        return bool(kinds & {"int", "float"})
    if isinstance(value, float):
        return "float" in kinds
    return ("list" if isinstance(value, list) else "str") in kinds


def locate(job: Job, around: Surroundings) -> tuple[dict[str, Any], list[Problem]]:
    """Return [train] with model, data and the like as absolute paths where they are files, and what is missing."""
    train = dict(job.train or {})
    problems: list[Problem] = []
    for key in ("model", "data", "pretrained", "distill_model"):
        if isinstance(train.get(key), str):
            found = _data(train[key], around) if key == "data" else _model(key, train[key], around)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                train[key] = found
    if job.gpus and train.get("amp", True) not in _NO_AMP_CHECK:
        problems += _amp_problems(around)
    return train, problems


def _model(key: str, name: str, around: Surroundings) -> str | Problem:
    if name.startswith("/"):
        path = Path(name)
        if path.is_file() or (path.suffix in {".yaml", ".yml"} and path.with_name(_unscaled(path.name)).is_file()):
            return name
        return Problem("this file is not there", key=f"train.{key}", got=shown(name), hint="is its disk mounted?")
    if name.endswith((".yaml", ".yml")):
        return _model_plan(key, name, around)
    file = name if Path(name).suffix else f"{name}.pt"
    for folder in (around.folder, around.weights_dir):
        if (folder / file).is_file():
            return str(folder / file)
    if around.allow_download:
        return name
    hint = f"put the file at {around.weights_dir / file}, or write its whole path; jobs.allow_download fetches it"
    return Problem("these weights are not on this machine", key=f"train.{key}", got=shown(name), hint=hint)


def _model_plan(key: str, name: str, around: Surroundings) -> str | Problem:
    if (around.folder / name).is_file():
        return str(around.folder / name)
    shipped = around.known.model_cfgs
    if name in shipped or _unscaled(name) in shipped:
        return name
    near = nearest(name, list(shipped))
    hint = f"did you mean `{near}`? A file of your own needs its whole path" if near else "write its whole path"
    expected = f"a model that Ultralytics {around.known.ultralytics} ships, or an absolute path"
    return Problem("there is no such model", key=f"train.{key}", expected=expected, got=shown(name), hint=hint)


def _unscaled(name: str) -> str:
    return _SCALE.sub(r"\1\3", name)


def _data(name: str, around: Surroundings) -> str | Problem:
    if name.startswith("/"):
        if Path(name).exists():
            return name
        hint = "is its disk mounted?"
        return Problem("this data set is not there", key="train.data", got=shown(name), hint=hint)
    if (around.folder / name).exists():
        return str(around.folder / name)
    if not name.endswith((".yaml", ".yml")):
        folder = around.datasets_dir / name
        hint = f"put it at {folder}, or write its whole path"
        return str(folder) if folder.is_dir() else _no_data(name, hint)
    if name not in around.known.dataset_cfgs:
        near = nearest(name, list(around.known.dataset_cfgs))
        hint = f"did you mean `{near}`? " if near else ""
        return _no_data(name, f"{hint}A data set of your own needs its whole path")
    folder = around.datasets_dir / _dataset_folder(name, around.known)
    return (
        name if folder.is_dir() else _no_data(name, f"Ultralytics ships the list, not the images: put them at {folder}")
    )


def _no_data(name: str, hint: str) -> Problem:
    return Problem("this data set is not on this machine", key="train.data", got=shown(name), hint=hint)


def _dataset_folder(name: str, known: Description) -> str:
    """Read where a shipped data set keeps its images: `path:` of its file, mostly the file's stem."""
    try:
        text = (Path(known.ultralytics_path or "") / "cfg" / "datasets" / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return Path(name).stem
    match = re.search(r"^path:[ \t]*([^\s#]+)", text, re.MULTILINE)
    return match[1] if match else Path(name).stem


def _amp_problems(around: Surroundings) -> Iterator[Problem]:
    name = around.known.amp_check_weights
    if not name or around.allow_download:
        return
    if not any((folder / name).is_file() for folder in (around.weights_dir, around.folder)):
        hint = f"put the file at {around.weights_dir / name}, or set amp = false in [train]"
        message = f"before it trains on a GPU, Ultralytics tests mixed precision with {name}, which is not there"
        yield Problem(message, key="train.amp", hint=hint)
