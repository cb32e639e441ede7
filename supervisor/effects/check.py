"""Check a job file against this machine: the answer to CheckJob."""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from supervisor import backup_config, jobspec, layout, toml_errors
from supervisor.clock import Clock
from supervisor.config import Config
from supervisor.core.actions import CheckJob
from supervisor.core.events import Event, JobAccepted, JobRefused
from supervisor.core.job import Mount
from supervisor.core.model import Job
from supervisor.core.placeholders import expand
from supervisor.core.variables import SYSTEM_PATH
from supervisor.effects import conda, gpu_stock
from supervisor.effects.gpu_stock import GpuStock
from supervisor.effects.interpreters import Interpreters
from supervisor.effects.train_arguments import Surroundings, argument_problems, locate, stage_problems
from supervisor.errors import Problem, UserError
from supervisor.machine import bounded, mounts, places
from supervisor.toml_errors import shown
from supervisor.units import format_size

_PYTHON = re.compile(r"python[\d.]*")
_FLAG = re.compile(r"-[bBdEiIOPqsSuvx]+")  # of python --help, those that take no value


class JobChecker:
    """Carries out CheckJob. Thread-safe."""

    def __init__(
        self,
        config: Config,
        runs_dir: Path,
        cache: Path,
        clock: Clock,
        *,
        gpus: Callable[[], GpuStock],
        describe: Path = layout.DESCRIBE,
        environ: Mapping[str, str] = os.environ,
        euid: int | None = None,
    ) -> None:
        """`cache` keeps what interpreters have.

        `gpus` tells which GPUs there are, or raises RetryableError: a job that wants any is checked again then.
        """
        self._config = config
        self._runs_dir = runs_dir
        self._clock = clock
        self._gpus = gpus
        self._environ = environ
        self._euid = os.geteuid() if euid is None else euid
        self._interpreters = Interpreters(cache, clock, describe=describe, environ=environ)

    def __call__(self, action: CheckJob) -> tuple[Event, ...]:
        """Answer with JobAccepted, whose job is resolved, or with JobRefused and all reasons that were found.

        Raises RetryableError while it is not known which GPUs there are.
        """
        now = self._clock.now()
        try:
            job = self.check(action.data, path=action.path, owner=action.owner)
        except UserError as error:
            refused = JobRefused(
                at=now, origin="check", path=action.path, revision=action.revision, problem=error.render()
            )
            return (refused,)
        return (JobAccepted(at=now, origin="check", path=action.path, job=job, note=action.note),)

    def check(self, data: bytes, *, path: str, owner: int) -> Job:
        """Return the job of a file, resolved for this machine. Raises UserError with file, lines and fixes.

        Raises RetryableError while it is not known which GPUs there are.
        """
        draft = jobspec.parse(data, path=path, owner=owner, defaults=self._config.defaults, now=self._clock.now())
        try:
            return self._resolve(draft)
        except UserError as error:
            raise toml_errors.refusal(path, list(_with_lines(error.problems, data))) from None

    def _resolve(self, draft: jobspec.JobDraft) -> Job:
        problems = [*self._server_problems(draft.job)]
        stock = self._gpus() if draft.gpus != 0 else GpuStock()
        count = gpu_stock.count_of(draft.gpus, stock)
        problems += gpu_stock.problems(draft.job.gpu, count, stock)
        wish = gpu_stock.settled(draft.job.gpu, count, stock)
        job = msgspec.structs.replace(self._with_run_dir(draft.job), gpus=count, gpu=wish)
        if job.cwd and not Path(job.cwd).is_dir():
            problems.append(Problem("this folder is not there", key="cwd", got=shown(job.cwd)))
        try:
            job = msgspec.structs.replace(job, python=self._python(draft))
            job = self._train(job) if job.train is not None else job
        except UserError as error:
            problems += error.problems
        else:
            problems += _program_problems(job)
        if problems:
            raise UserError(problems=tuple(problems))
        return msgspec.structs.replace(job, mounts=_mounts(job, self._runs_dir))

    def _server_problems(self, job: Job) -> Iterator[Problem]:
        if self._euid == 0 and not self._config.jobs.allow_root:
            hint = "run the daemon as a user of its own, or set allow_root = true under [jobs] in config.toml"
            yield Problem("this daemon is root, and jobs may not run as root", hint=hint)
        elif self._euid == 0 and job.owner != 0:
            hint = "let root submit it, or run a daemon as that user"
            wrong = "this daemon runs jobs as root, so it takes only files of root"
            yield Problem(wrong, expected="a file of uid 0", got=f"uid {job.owner}", hint=hint)
        free = shutil.disk_usage(_existing(self._runs_dir)).free
        if free < self._config.disk.pause_below:
            expected = f"at least {format_size(self._config.disk.pause_below)} (disk.pause_below)"
            message = f"the disk of {self._runs_dir} is nearly full"
            hint = "free some space, then save the job file again"
            yield Problem(message, expected=expected, got=f"{format_size(free)} free", hint=hint)
        names = [channel.name for channel in self._config.channel]
        for name in job.notify or ():
            if name not in names:
                expected = f"one of {', '.join(names)}" if names else "a [[channel]] in config.toml; there is none"
                yield Problem("there is no such channel", key="notify", expected=expected, got=shown(name))
        yield from _target_problems(job, [target.name for target in self._config.backup])

    def _with_run_dir(self, job: Job) -> Job:
        run_dir = str(layout.run_directory(self._runs_dir, job.project, job.name).root)
        patterns = tuple(expand(one, {"run_dir": glob.escape(run_dir)}) for one in job.checkpoint_files)
        done = msgspec.structs.replace(job.done, file=expand(job.done.file, {"run_dir": run_dir}))
        return msgspec.structs.replace(job, checkpoint_files=patterns, done=done)

    def _python(self, draft: jobspec.JobDraft) -> str:
        if draft.conda:
            return conda.find(draft.conda, _home(draft.job.owner, self._environ), self._environ)
        python = draft.job.python
        if python and not Path(python).is_file():
            raise UserError(problems=(Problem("this interpreter is not there", key="python", got=shown(python)),))
        if python and not os.access(python, os.X_OK):
            wrong = Problem("this interpreter may not be executed", key="python", got=shown(python))
            raise UserError(problems=(wrong,))
        return python

    def _train(self, job: Job) -> Job:
        known = self._interpreters.describe(job.python, job.env_pass)
        run_dir = layout.run_directory(self._runs_dir, job.project, job.name).root
        around = Surroundings.of(job, run_dir, known, allow_download=self._config.jobs.allow_download)
        train, missing = locate(job, around)
        problems = (*argument_problems(job, known), *stage_problems(job, known), *missing)
        if problems:
            raise UserError(problems=problems)
        return msgspec.structs.replace(job, train=train, trainer_version=known.ultralytics or "")


def _target_problems(job: Job, known: list[str]) -> Iterator[Problem]:
    """Find backup targets that nobody configured."""
    yield from (replace(found, key="backup") for found in backup_config.name_problems(job.backup, known))
    if job.publish is not None and not job.publish.to.startswith("/"):
        yield from (replace(found, key="publish.to") for found in backup_config.name_problems([job.publish.to], known))


def _mounts(job: Job, runs_dir: Path) -> tuple[Mount, ...]:
    """The file systems that the job needs, other than the root's: an absent one is waited for later on."""
    data = (job.train or {}).get("data")
    about = f"what {job.file} reads: {job.project}/{job.name} {job.revision} in {job.cwd}, {data}"
    try:
        read = bounded.ask(about, lambda: places.read(job), mounts.LOOK_S)
    except OSError:
        read = []  # a disk that does not answer now is not known to be needed
    touched = [places.Place("runs", str(_existing(runs_dir))), *read]
    found = [mounts.recorded(one.what, one.path) for one in touched]
    return tuple(dict.fromkeys(mount for mount in found if mount is not None))


def _program_problems(job: Job) -> Iterator[Problem]:
    """Look for the programs that a command job starts, as its own environment will."""
    default = f"{Path(job.python).parent}:{SYSTEM_PATH}" if job.python else SYSTEM_PATH
    path = job.env.get("PATH", default)
    for key, words in (("command", job.command), ("resume_command", job.resume_command)):
        program = expand(words[0], {"python": job.python}) if words else ""
        if program.startswith("{run_dir}"):
            continue  # it may be put there before the start
        if program and shutil.which(program, path=path) is None:
            hint = "write its whole path" if "/" not in program else ""
            expected = "a program that may be executed" + (f", on PATH {path}" if "/" not in program else "")
            yield Problem("this program is not there", key=key, expected=expected, got=shown(program), hint=hint)
        elif (script := _script(words, job.cwd)) is not None and _is_missing(script):
            hint = "correct its name, or cwd: relative paths begin there" if job.cwd else ""
            yield Problem("this script is not there", key=key, got=shown(str(script)), hint=hint)


def _script(words: Sequence[str], cwd: str) -> Path | None:
    """Return the script that Python is told to run; None where it is not certain where that will lie.

    That is in the run's own folder, which may be filled before the start, or behind an option that takes a value.
    """
    name = Path(words[0]).name if words else ""
    if name != "{python}" and not _PYTHON.fullmatch(name):
        return None
    first = next((word for word in words[1:] if not _FLAG.fullmatch(word)), "")
    if not first.endswith(".py") or "{" in first or not (cwd or first.startswith("/")):
        return None
    return Path(cwd or "/") / first


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # what may not be looked at may be there
    return False


def _with_lines(problems: tuple[Problem, ...], data: bytes) -> Iterator[Problem]:
    _, source = toml_errors.read(data, "")
    for problem in problems:
        yield replace(problem, line=source.line(*problem.key.split("."))) if problem.key else problem


def _existing(path: Path) -> Path:
    """Return the nearest folder that is there already."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _home(owner: int, environ: Mapping[str, str]) -> Path:
    """Return the home of a job's owner: conda environments are the owner's, not the daemon's."""
    try:
        return Path(pwd.getpwuid(owner).pw_dir)
    except KeyError:
        return Path(environ.get("HOME", "/"))
