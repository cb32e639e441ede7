"""Any other training program: the job file says how it starts, how it resumes and where it saves."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from supervisor.core.model import Job
from supervisor.core.placeholders import expand
from supervisor.errors import PermanentError
from supervisor.layout import AttemptDirectory, RunDirectory


class CommandTrainer:
    """See Trainer."""

    def launch_spec(
        self,
        job: Job,
        run_dir: RunDirectory,
        attempt_dir: AttemptDirectory,  # noqa: ARG002
        *,
        start: str,
        checkpoint: str,
        from_epoch: int,  # noqa: ARG002 - the program reads its own checkpoint
        gpus: tuple[int, ...],
        port: int,
    ) -> tuple[list[str], dict[str, Any] | None]:
        """See Trainer. Never starts from scratch where a resume was asked for."""
        if start != "fresh" and not job.resume_command:
            raise PermanentError("the job has no resume_command; starting it again would begin from scratch")
        values = {
            "python": job.python,
            "run_dir": str(run_dir.root),
            "gpu_count": str(len(gpus)),
            "port": str(port),
            "checkpoint": checkpoint,
        }
        words = job.command if start == "fresh" else job.resume_command
        return [expand(word, values) for word in words], None

    def checkpoints(self, job: Job, run_dir: RunDirectory) -> list[Path]:
        """See Trainer: what the globs of checkpoint_files match, the newest file first."""
        values = {"run_dir": glob.escape(str(run_dir.root))}
        found: dict[Path, int] = {}
        for pattern in job.checkpoint_files:
            for name in glob.iglob(expand(pattern, values), recursive=True):  # noqa: PTH207 - Path globs only relative
                path = Path(name)
                if path.is_file() and not _set_aside(path, run_dir):
                    found[path] = path.stat().st_mtime_ns
        return sorted(found, key=lambda path: (-found[path], str(path)))


def _set_aside(path: Path, run_dir: RunDirectory) -> bool:
    """True for what we keep of older runs and of replaced files: a `**` finds it, but it is not this run's."""
    if not path.is_relative_to(run_dir.root):
        return False
    top = path.relative_to(run_dir.root).parts[0]
    return top == "attempts" or top.startswith("before-")
