"""Any other training program: the job file says how it starts, how it resumes and where it saves.

Where the program trains with Ultralytics, our hook tells the rest: it is on PYTHONPATH, says where the training saves,
and turns the program's own training into a resume, whatever the program says.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supervisor import attempt_files, layout
from supervisor.core.actions import Launch
from supervisor.core.model import Job
from supervisor.core.placeholders import expand
from supervisor.errors import PermanentError
from supervisor.layout import AttemptDirectory, RunDirectory
from supervisor.trainers.base import Spec, Trainer
from supervisor.trainers.results_csv import trim_to
from supervisor.trainers.ultralytics import device
from supervisor.trainers.weights_folder import checkpoints_in

_NEVER_OURS = ("attempts", "good")  # folders of the run that hold copies


class CommandTrainer(Trainer):
    """See Trainer."""

    def launch_spec(self, order: Launch, run_dir: RunDirectory, port: int) -> Spec:
        """See Trainer. Never starts from scratch where a resume was asked for."""
        job, checkpoint = order.job, order.checkpoint
        hook_resumes = order.start != "fresh" and not job.resume_command
        if hook_resumes and not job.checkpoints.hook:
            raise PermanentError("the job has no resume_command; starting it again would begin from scratch")
        words = job.command if order.start == "fresh" or hook_resumes else job.resume_command
        argv = command_line(words, order, run_dir, port)
        if not job.checkpoints.hook:
            return argv, None
        home = _home_of(checkpoint) if hook_resumes else None
        section: dict[str, Any] = {
            "mode": "hook",
            "args": {},
            "device": device(order.gpus),
            "save_dir": str(home or ""),
            "resume": checkpoint if hook_resumes else None,
            "expected_epoch": order.from_epoch - 1 if hook_resumes else None,
            "run_token_file": str(run_dir.token),
        }
        return argv, section

    def environment(self, job: Job, env: Mapping[str, str]) -> dict[str, str]:
        """See Trainer: our hook is loaded."""
        return hook_path(env) if job.checkpoints.hook else {}

    def checkpoints(self, job: Job, run_dir: RunDirectory) -> list[Path]:
        """See Trainer: what the globs of checkpoint_files match, the newest first; else where the hook saw it save."""
        if not job.checkpoint_files:
            home = _seen_home(run_dir) if job.checkpoints.hook else None
            return checkpoints_in(home / "weights") if home is not None else []
        values = {"run_dir": glob.escape(str(run_dir.root))}
        found: dict[Path, int] = {}
        for pattern in job.checkpoint_files:
            for name in glob.iglob(expand(pattern, values), recursive=True):  # noqa: PTH207 - Path globs only relative
                path = Path(name)
                if path.is_file() and not _is_copy(path, run_dir):
                    found[path] = path.stat().st_mtime_ns
        return sorted(found, key=lambda path: (-found[path], str(path)))

    def tables(self, job: Job, run_dir: RunDirectory) -> list[Path]:  # noqa: ARG002
        """See Trainer: where the hook saw it save, else where Ultralytics would by our own choice."""
        home = _seen_home(run_dir)
        return [home / "results.csv" if home is not None else run_dir.results]

    def place(self, job: Job, run_dir: RunDirectory) -> Path | None:
        """See Trainer: Ultralytics resumes into the folder of its checkpoint; any other program reads any path."""
        home = _seen_home(run_dir)
        by_hook = job.checkpoints.hook and not job.resume_command
        return home / "weights" / "last.pt" if by_hook and home is not None else None

    def make_ready(self, job: Job, run_dir: RunDirectory, *, from_epoch: int, aside: Path) -> list[str]:
        """See Trainer. Of a program that is not known nothing but an Ultralytics table is touched.

        And that only where it is known how many epochs the checkpoint holds.
        """
        home = _seen_home(run_dir)
        if home is None or not job.checkpoints.hook or from_epoch < 1:
            return []
        return trim_to(home / "results.csv", from_epoch, aside)


def hook_path(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that loads our hook into each Python: its folder comes first, then the job's own."""
    own = env.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{layout.INJECT}{os.pathsep}{own}" if own else str(layout.INJECT)}


def command_line(words: Sequence[str], order: Launch, run_dir: RunDirectory, port: int) -> list[str]:
    """Return the words of a command with their placeholders filled in."""
    values = {
        "python": order.job.python,
        "run_dir": str(run_dir.root),
        "gpu_count": str(len(order.gpus)),
        "port": str(port),
        "checkpoint": order.checkpoint,
    }
    return [expand(word, values) for word in words]


def _home_of(checkpoint: str) -> Path | None:
    """Return the folder of the training that a checkpoint lies in, where the layout is the YOLO family's."""
    weights = Path(checkpoint).parent
    return weights.parent if weights.name == "weights" else None


def _seen_home(run_dir: RunDirectory) -> Path | None:
    """Return where the newest attempt that trained has saved, as its hook said before the first batch."""
    folders = (run_dir.root / "attempts").glob("*/")
    numbers = sorted((int(folder.name) for folder in folders if folder.name.isdigit()), reverse=True)
    return next((home for number in numbers if (home := _told_home(run_dir.attempt(number)))), None)


def left_undone(run_dir: RunDirectory) -> str:
    """Why a hooked command is not over although its first training is finished; empty if that was all it did.

    A script may train several times, or export afterwards: what of that is left nobody can know. A kill in the
    training's own last validation leaves nothing undone.
    """
    homes, ended = set(), False
    for path in (run_dir.root / "attempts").glob("*/beats.jsonl"):
        with path.open("rb") as file:
            beats = [attempt_files.parse_beat(line) for line in file if b'"images_per_s"' not in line]
        homes |= {beat.save_dir for beat in beats if beat is not None and beat.kind in {"fresh", "resumed"}}
        ended = ended or any(beat is not None and beat.kind == "end" and beat.result == "finished" for beat in beats)
    if len(homes) > 1:
        return f"the command runs several trainings ({len(homes)} folders): which of them are left cannot be known"
    return "its training is finished, but the command did not reach its own end" if ended else ""


def _told_home(attempt: AttemptDirectory) -> Path | None:
    """Return the folder of the first training of an attempt; the later ones of a script are not what is resumed."""
    try:
        with attempt.beats.open("rb") as file:
            for line in file:
                beat = attempt_files.parse_beat(line)
                if beat is not None and beat.kind in {"fresh", "resumed"} and beat.save_dir:
                    return Path(beat.save_dir) if beat.save_dir.startswith("/") else None
                if beat is not None and beat.kind == "batch":
                    return None
    except FileNotFoundError:
        pass  # it never came so far
    return None


def _is_copy(path: Path, run_dir: RunDirectory) -> bool:
    """True for what we keep of older runs and of replaced files: a `**` finds it, but it is not this run's."""
    if not path.is_relative_to(run_dir.root):
        return False
    top = path.relative_to(run_dir.root).parts[0]
    return top in _NEVER_OURS or top.startswith("before-")
