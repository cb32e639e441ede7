"""The folder of a training that a person started: of which family it is, how far it came, and its job file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor import drafts
from supervisor.core.checkpoints import BAD, GOES_ON, Checkpoint
from supervisor.drafts import Environment
from supervisor.effects import checkpoints
from supervisor.errors import Problem, UserError
from supervisor.job_rules import PATH_TRAIN_KEYS
from supervisor.trainers import opt_yaml
from supervisor.trainers.scripts import FAMILIES
from supervisor.trainers.weights_folder import checkpoints_in

ULTRALYTICS = "ultralytics"
#: Options that only one family's train.py has, or had first.
_TELLING = {"yolov7": {"v5_metric", "loss_metric", "linear_lr"}, "yolov9": {"min_items", "flat_cos_lr", "fixed_lr"}}
#: Options that a fresh start of the script would be given again; a resume reads all from opt.yaml.
_KEPT = ("weights", "cfg", "data", "hyp", "epochs", "batch_size", "imgsz", "optimizer", "workers", "patience")
_LOCAL = ("weights", "cfg", "data")


@dataclass(frozen=True)
class RunFolder:
    """What lies in the folder. `options` are those of args.yaml or opt.yaml; `rows` those of the table of epochs."""

    path: Path
    family: str
    options: Mapping[str, Any]
    found: Sequence[Checkpoint] = field(default_factory=tuple)
    rows: tuple[int, ...] = ()

    @property
    def best(self) -> Checkpoint | None:
        """The checkpoint with the most epochs from which the training can go on; of equals last.pt."""
        going = [one for one in self.found if one.state in GOES_ON]
        return max(going, key=lambda one: (one.done_epochs, one.name == "last.pt"), default=None)

    @property
    def finished(self) -> bool:
        """True where the trainer reached its own end and stripped last.pt."""
        return any(one.name == "last.pt" and one.state == "finished" for one in self.found)

    @property
    def torn(self) -> tuple[Checkpoint, ...]:
        """The files that nobody may use."""
        return tuple(one for one in self.found if one.state in BAD)

    @property
    def epochs(self) -> int | None:
        """How many epochs the training was to have."""
        asked = str(self.options.get("epochs") or "")
        return int(asked) if asked.isascii() and asked.isdigit() else None

    @property
    def written_at(self) -> float:
        """When its newest checkpoint was written, in Unix seconds."""
        return max((one.mtime_ns for one in self.found), default=0) / 1e9

    @property
    def version(self) -> str:
        """The trainer's version, as its newest checkpoint tells it."""
        told = [one.version for one in (self.best, *self.found) if one is not None and one.version]
        return told[0] if told else ""


def read(path: Path, family: str = "") -> RunFolder:
    """Look at a folder. `family` says which it is where opt.yaml does not. Raises UserError, RetryableError."""
    path = Path(os.path.realpath(path))
    if not path.is_dir():
        raise UserError(problems=(Problem("this folder is not there", got=str(path)),))
    options, family = _options(path, family)
    numbered = [FAMILIES[family].numbered] if family in FAMILIES else []
    found = checkpoints.look(checkpoints_in(path / "weights", *numbered), finite=True)
    return RunFolder(path, family, options, tuple(found), tuple(_rows(path / "results.csv")))


def _options(path: Path, family: str) -> tuple[Mapping[str, Any], str]:
    arguments, options = path / "args.yaml", path / "opt.yaml"
    if arguments.is_file() and family in {"", ULTRALYTICS}:
        try:
            return drafts.parse_flat_yaml(arguments.read_text(encoding="utf-8")), ULTRALYTICS
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot be read: {error}", file=str(arguments)) from None
    if options.is_file() and family != ULTRALYTICS:
        told = opt_yaml.read(options)
        return told, family or _family(path, told)
    expected = "args.yaml (Ultralytics) or opt.yaml (YOLOv5, v7, v9), and weights/last.pt"
    hint = "give the folder of one training, such as runs/detect/train7"
    raise UserError(problems=(Problem("this is no folder of a training", got=str(path), expected=expected, hint=hint),))


def _family(path: Path, options: Mapping[str, Any]) -> str:
    told = (name for name, telling in _TELLING.items() if telling & options.keys())
    return next(told, "yolov7" if (path / "results.txt").is_file() else "yolov5")


def _rows(table: Path) -> Iterator[int]:
    """The epochs of a table as they stand there; a line that was cut by a kill is none."""
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        if re.fullmatch(r"\s*\d{1,9}\s*", line.partition(",")[0]):
            yield int(line.partition(",")[0])


def rows_to_cut(folder: RunFolder, done_epochs: int) -> int:
    """How many rows of results.csv are of epochs beyond the checkpoint, or of epochs that come twice."""
    shift = 0 if folder.family == ULTRALYTICS else 1
    return len(folder.rows) - len({row for row in folder.rows if row + shift <= done_epochs})


# ---- its job file
def draft(folder: RunFolder, environment: Environment, command: Sequence[str] = ()) -> str:
    """Return the job file that goes on in this folder. `command` is that of a family's script, with its interpreter.

    Names and relative paths of the old command are looked for where it may have been given. Raises UserError.
    """
    origin = f"{folder.path}: the training goes on there"
    if folder.family == ULTRALYTICS:
        return drafts.draft_from_arguments(dict(_located(folder, environment.cwd)), environment, origin)
    return drafts.draft_from_script(folder.family, command, environment.cwd, environment, origin)


def _located(folder: RunFolder, cwd: Path) -> Iterator[tuple[str, Any]]:
    """The arguments of args.yaml, paths absolute. What a resume needs no more and is gone is not asked for again."""
    last = folder.path / "weights" / "last.pt"
    for key, value in folder.options.items():
        if key not in PATH_TRAIN_KEYS or not isinstance(value, str):
            yield key, value
        elif (path := locate(value, cwd, folder.path)) is not None:
            yield key, str(path)
        elif key == "data" and "/" in value and not value.startswith("/"):
            hint = "give --cwd FOLDER, the one in which the training was started"
            wrong = Problem("the data set was named by a relative path", key="data", got=value, hint=hint)
            raise UserError(problems=(wrong,))
        elif key == "model" and value.endswith(".pt") and folder.best is not None and last.exists():
            yield key, str(last)  # a resume reads its model from there
        elif key in {"model", "data"}:
            yield key, value


def locate(value: str, cwd: Path, folder: Path) -> Path | None:
    """Find a file that a command named: below its working folder, which mostly is above the folder of the run."""
    if value.startswith(("/", "~")):
        path = Path(value).expanduser()
        return path if path.exists() else None
    found = (base / value for base in (cwd, *folder.parents[:5]) if (base / value).exists())
    return next((Path(os.path.normpath(path)) for path in found), None)


def script_of(folder: RunFolder) -> Path | None:
    """The train.py beside runs/train/exp, as these repositories are laid out; None where there is not just one."""
    for base in folder.path.parents[:4]:
        scripts = [base / name for name in ("train.py", "train_dual.py", "train_aux.py") if (base / name).is_file()]
        if scripts and (base / "models").is_dir():
            return scripts[0] if len(scripts) == 1 else None
    return None


def command_of(folder: RunFolder, script: Path, cwd: Path) -> list[str]:
    """The command of a family's script with the options that opt.yaml tells."""
    words = ["{python}", str(script)]
    hyp = folder.path / "hyp.yaml"
    for key in _KEPT:
        value = str(folder.options.get(key) or "")
        if key == "hyp" and hyp.is_file():
            value = str(hyp)
        elif key in _LOCAL and value:
            value = str(locate(value, cwd, folder.path) or value)
        if value and value[0] not in "[{-":
            words += [f"--{key.replace('_', '-')}", value.replace("{", "{{").replace("}", "}}")]
    return words
