"""The families of train.py scripts: YOLOv5, YOLOv7 and YOLOv9, and the forks that keep their options and files.

All of them take `--resume PATH`, then read every other option from `opt.yaml` two folders above that file, and write
`weights/last.pt` in place. What differs stands in FAMILIES. A job gives the command of a fresh start; we add where it
saves, and at a resume replace its options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor import layout
from supervisor.core.actions import Launch
from supervisor.core.checkpoints import Checkpoint
from supervisor.core.model import Job
from supervisor.core.placeholders import expand, names_in
from supervisor.errors import PermanentError
from supervisor.layout import RunDirectory
from supervisor.trainers import opt_yaml
from supervisor.trainers.base import Spec, Trainer
from supervisor.trainers.command import command_line, hook_path
from supervisor.trainers.results_csv import trim_to
from supervisor.trainers.weights_folder import EPOCH_FILE, checkpoints_in

#: torch >= 2.6 refuses whole models in plain torch.load calls: at --resume, for pretrained weights, at the final strip.
_WHOLE_MODELS = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class Family:
    """What differs between the families."""

    name: str
    #: Checkpoints besides last.pt and best.pt that hold everything; the number is the stored epoch, from 0.
    numbered: re.Pattern[str] = EPOCH_FILE
    #: Its table of epochs, which starts at 0.
    table: str = "results.csv"
    #: True where the table is rewritten from the checkpoint at a resume: then there is nothing to cut.
    table_in_checkpoint: bool = False
    #: True where a resume fails without opt.yaml; the others then take the options from the checkpoint.
    needs_options: bool = False


FAMILIES = {
    "yolov5": Family("yolov5"),
    # init.pt, written at every start, is a bare model
    "yolov7": Family(
        "yolov7",
        numbered=re.compile(r"(?:epoch|best)_(\d+)\.pt"),
        table="results.txt",
        table_in_checkpoint=True,
        needs_options=True,
    ),
    "yolov9": Family("yolov9"),
}


def script_place(words: Sequence[str]) -> int | None:
    """Return which word of a command is the script: options before it are the interpreter's or torchrun's."""
    return next((place for place, word in enumerate(words) if word.endswith(".py")), None)


def script_folder(job: Job, run_dir: RunDirectory | None = None) -> Path | None:
    """Return where a script's own modules lie: beside it, links in its path followed, as Python looks for them.

    Without the run's directory a script that is named by {run_dir} lies nowhere.
    """
    place = script_place(job.command)
    word = job.command[place] if place is not None else ""
    if not word or (run_dir is None and "run_dir" in names_in(word)):
        return None
    values = {"python": job.python, "run_dir": str(run_dir.root) if run_dir is not None else ""}
    home = Path(job.cwd) if job.cwd or run_dir is None else run_dir.root
    script = home / expand(word, values)
    return script.resolve().parent if script.is_absolute() else None


def option_value(words: Sequence[str], option: str) -> str:
    """Return the value of an option, whole or shortened, with = or without; an empty text where it is not given."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if len(name) >= len("--xx") and option.startswith(name):
            return value if equals else "".join(words[place + 1 : place + 2])
    return ""


class ScriptTrainer(Trainer):
    """See Trainer."""

    def __init__(self, family: Family) -> None:
        """Serve one family."""
        self._family = family

    def launch_spec(self, order: Launch, run_dir: RunDirectory, port: int) -> Spec:
        """See Trainer. A checkpoint of the last epoch is finished by us: the script would train nothing and fail."""
        job, start = order.job, order.start
        if start != "fresh" and not order.checkpoint:
            raise PermanentError(f"a start by {start} needs a checkpoint")
        epochs = self.epochs(job, run_dir)
        if start == "finish" or (start == "resume" and epochs is not None and order.from_epoch >= epochs):
            return _finish(order, run_dir)
        words = list(job.command)
        if start == "fresh":
            words += ["--project", "{run_dir}", "--name", run_dir.train.name, "--exist-ok"]
        elif job.resume_command:
            words = list(job.resume_command)
        else:
            place = script_place(words)
            if place is None:
                raise PermanentError("the command names no .py script that could be given --resume")
            words = [*words[: place + 1], "--resume", "{checkpoint}"]
        return command_line(words, order, run_dir, port), None

    def environment(self, job: Job, env: Mapping[str, str]) -> dict[str, str]:
        """See Trainer. The files that are loaded are the job's own. Of our hook only the guard of its GPUs is there."""
        given = {} if _WHOLE_MODELS in env else {_WHOLE_MODELS: "1"}
        return {**given, **hook_path(env), "YOLO_SUPERVISOR_HOOK": "gpus"} if job.checkpoints.hook else given

    def checkpoints(self, job: Job, run_dir: RunDirectory) -> list[Path]:  # noqa: ARG002
        """See Trainer."""
        return checkpoints_in(run_dir.weights, self._family.numbered)

    def tables(self, job: Job, run_dir: RunDirectory) -> list[Path]:  # noqa: ARG002
        """See Trainer."""
        return [run_dir.train / self._family.table]

    def place(self, job: Job, run_dir: RunDirectory) -> Path | None:  # noqa: ARG002
        """See Trainer: opt.yaml is looked for two folders above."""
        return run_dir.weights / "last.pt"

    def make_ready(self, job: Job, run_dir: RunDirectory, *, from_epoch: int, aside: Path) -> list[str]:
        """See Trainer: opt.yaml says where this run saves now and where its data lie now, and nothing of devices."""
        options = _options(run_dir)
        notes = []
        if options.is_file():
            notes += opt_yaml.repair(options, _wanted_options(job, run_dir), aside)
        elif self._family.needs_options:
            raise PermanentError(f"{options} is missing, and {self._family.name} cannot be resumed without it")
        if not self._family.table_in_checkpoint:
            notes += trim_to(run_dir.results, from_epoch, aside, zero_based=True)
        return notes

    def epochs(self, job: Job, run_dir: RunDirectory) -> int | None:
        """See Trainer: opt.yaml, which a resume obeys, else what the command asks for."""
        stored = opt_yaml.read(_options(run_dir)).get("epochs", "")
        asked = option_value(job.command, "--epochs")
        return next((int(text) for text in (stored, asked) if text.isascii() and text.isdigit()), None)

    def proof_of_end(
        self, job: Job, run_dir: RunDirectory, code: int | None, found: Sequence[Checkpoint]
    ) -> tuple[bool, str] | None:
        """See Trainer. The script's own end state is proof, whatever it died of afterwards.

        Without it exit code 0 is none, unless tests of the job's own say more.
        """
        last = next((one for one in found if one.path == str(run_dir.weights / "last.pt")), None)
        if last is not None and last.state == "finished":
            return True, f"finished: the trainer stripped last.pt at its own end{_although(code)}"
        return None if job.done.log or job.done.file else (False, "")


def _finish(order: Launch, run_dir: RunDirectory) -> Spec:
    """Return the start of our own ending of a training whose last epoch is saved: runner/finish_script.py.

    Raises PermanentError where no interpreter is known that could load the checkpoint.
    """
    job, checkpoint = order.job, order.checkpoint
    if not job.python:
        raise PermanentError(f"{checkpoint} is complete but not stripped, and the job names no python to do that with")
    folder = script_folder(job, run_dir)
    section = {
        "mode": "finish",
        "args": {"import_from": [str(folder)] if folder is not None else []},
        "device": "cpu",
        "save_dir": str(run_dir.train),
        "resume": checkpoint,
        "expected_epoch": order.from_epoch - 1,
        "run_token_file": str(run_dir.token),
    }
    return [job.python, str(layout.FINISH_SCRIPT), str(run_dir.attempt(order.attempt).root)], section


def _options(run_dir: RunDirectory) -> Path:
    return run_dir.train / "opt.yaml"


def _wanted_options(job: Job, run_dir: RunDirectory) -> dict[str, str]:
    """Return what opt.yaml must say. An index in `device` would mean the machine's GPU, not the first of ours."""
    data = option_value(job.command, "--data")
    place = run_dir.train.resolve() if job.adopt else run_dir.train  # its person looks for an adopted run where it was
    wanted = {"save_dir": str(place), "project": str(place.parent), "name": place.name, "device": ""}
    return {**wanted, "data": data} if data.startswith("/") else wanted


def _although(code: int | None) -> str:
    if code == 0:
        return ""
    return ", although it was killed after that" if code is None else f", although exit code {code}"
