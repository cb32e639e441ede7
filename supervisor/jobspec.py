"""A job file's bytes as a Job. Pure: the machine is not looked at here, and two readings give the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from supervisor import gpu_config, publish_config, toml_errors
from supervisor.config import Defaults
from supervisor.core.job import Checkpoints, Done, Restart, Stage, StartFrom, Watch
from supervisor.core.model import Job
from supervisor.errors import Problem, UserError
from supervisor.job_rules import DoneTable, JobFile, either, problems_of, train_problems
from supervisor.toml_errors import Source, shown
from supervisor.units import AUTO_S

_ONLY_IN_DEFAULTS = {"env_pass": "only the administrator passes variables on: [defaults] in config.toml"}
_SNAPSHOTS = "checkpoints are saved after whole epochs only; keep_last, keep_best and keep_epochs say which are kept"


class JobDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed job before the machine was asked which interpreter `conda` is, and which GPUs there are.

    `job.gpu.named` holds what the file says: indices, and UUIDs or beginnings of them.
    """

    job: Job
    conda: str = ""
    gpus: int | Literal["auto"] = "auto"


def parse(data: bytes, *, path: str, owner: int, defaults: Defaults, now: float) -> JobDraft:
    """Read a job file that was accepted at `now` (Unix seconds). Raises UserError with all problems found."""
    table, source = toml_errors.read(data, path)
    problems = list(_early_problems(table, source))
    spec: JobFile | None = None
    try:
        spec = toml_errors.convert(_known(table), JobFile, source)
    except UserError as error:
        problems += error.problems
    if spec is not None:
        spec = _with_name(spec, path)
        problems += problems_of(spec, source, defaults)
    if problems or spec is None:
        raise toml_errors.refusal(path, problems)
    start_after_at = _start_after(spec.start_after, source, now)
    revision = hashlib.sha256(data).hexdigest()
    return _settle(spec, defaults, path=path, owner=owner, revision=revision, start_after_at=start_after_at)


def _settle(spec: JobFile, defaults: Defaults, *, start_after_at: float | None, **known: Any) -> JobDraft:
    """Job, else [defaults], else built-in: the only place where these meet. Tables meet key by key."""
    own_interpreter = spec.python is not None or spec.conda is not None
    python = spec.python if own_interpreter else defaults.python
    conda = spec.conda if own_interpreter else defaults.conda
    done = spec.done or DoneTable()
    gpus = either(spec.gpus, defaults.gpus)
    job = Job(
        name=spec.name or "",
        project=spec.project or defaults.project,
        title=spec.title,
        notes=spec.notes,
        tags=spec.tags,
        owner=known["owner"],
        file=known["path"],
        revision=known["revision"],
        python=str(python or ""),
        cwd=str(spec.cwd or ""),
        priority=either(spec.priority, defaults.priority),
        gpu=gpu_config.wish(gpus, spec.gpu, defaults.gpu),
        after=spec.after,
        start_after_at=start_after_at,
        time_limit_s=either(spec.time_limit, defaults.time_limit),
        log_max_bytes=either(spec.limits.log_max, defaults.limits.log_max),
        restart=_restart(spec, defaults),
        notify=either(spec.notify, defaults.notify),
        backup=either(spec.backup, defaults.backup),
        publish=publish_config.as_job(spec.publish),
        env={**defaults.env, **spec.env},
        env_pass=defaults.env_pass,
        settings={**defaults.settings, **spec.settings},
        train=spec.train,
        command=spec.command,
        resume_command=spec.resume_command,
        checkpoint_files=spec.checkpoint_files,
        done=Done(exit=done.exit, log=done.log, file=done.file),
        family=spec.family or "",
        checkpoints=_checkpoints(spec, defaults),
        stages=tuple(_stage(table) for table in spec.stage),
        start_from=None if spec.start_from is None else StartFrom(**msgspec.structs.asdict(spec.start_from)),
        adopt=str(spec.adopt or ""),
        watch=None if spec.watch is None else Watch(**msgspec.structs.asdict(spec.watch)),
    )
    return JobDraft(job=job, conda=conda or "", gpus=len(gpus) if isinstance(gpus, tuple) else gpus)


def _restart(spec: JobFile, defaults: Defaults) -> Restart:
    own, default = spec.restart, defaults.restart
    hang_after_s = either(own.hang_after, default.hang_after)
    return Restart(
        no_progress=either(own.no_progress, default.no_progress),
        backoff_s=either(own.backoff, default.backoff),
        backoff_max_s=either(own.backoff_max, default.backoff_max),
        hang_after_s=None if hang_after_s == AUTO_S else hang_after_s,
        remedies=either(own.remedies, default.remedies),
    )


def _checkpoints(spec: JobFile, defaults: Defaults) -> Checkpoints:
    own, default = spec.checkpoints, defaults.checkpoints
    return Checkpoints(
        keep_last=either(own.keep_last, default.keep_last),
        keep_best=either(own.keep_best, default.keep_best),
        keep_epochs=either(own.keep_epochs, default.keep_epochs),
        hook=either(own.hook, default.hook),
    )


def _stage(table: dict[str, Any]) -> Stage:
    return Stage(from_epoch=table["from_epoch"], args={key: table[key] for key in table if key != "from_epoch"})


def _known(table: dict[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in table.items() if key not in _ONLY_IN_DEFAULTS}
    if isinstance(known.get("checkpoints"), dict):
        known["checkpoints"] = {key: value for key, value in known["checkpoints"].items() if key != "snapshot_every"}
    return known


def _early_problems(table: dict[str, Any], source: Source) -> Iterator[Problem]:
    """Find what has a reason of its own, before types are looked at."""
    for key in table.keys() & _ONLY_IN_DEFAULTS.keys():
        yield source.problem((key,), Problem("unknown key in a job file", hint=_ONLY_IN_DEFAULTS[key]))
    checkpoints = table.get("checkpoints")
    if isinstance(checkpoints, dict) and "snapshot_every" in checkpoints:
        path = ("checkpoints", "snapshot_every")
        yield source.problem(path, Problem("unknown key: there are no snapshots inside an epoch", hint=_SNAPSHOTS))
    if "train" not in table and "command" not in table:
        hint = "write [train] with model, data and epochs below it, or command = […]"
        yield Problem("this job does nothing", expected="[train] or command", hint=hint)
    if isinstance(table.get("train"), dict):
        yield from train_problems(table["train"], source)


def _with_name(spec: JobFile, path: str) -> JobFile:
    return spec if spec.name else msgspec.structs.replace(spec, name=Path(path).stem)


def _start_after(value: Any, source: Source, now: float) -> float | None:
    """Return Unix seconds of "22:00" (the next such local time after `now`) or of a TOML date with time."""
    if value is None:
        return None
    clock = _clock_time(value)
    try:
        if isinstance(value, datetime):
            return value.timestamp()
        if clock is not None:
            today = datetime.combine(datetime.fromtimestamp(now).astimezone().date(), clock)
            at = today.timestamp()
            return at if at > now else (today + timedelta(days=1)).timestamp()
    except (ValueError, OverflowError, OSError):
        pass  # a year that no clock of this machine can show
    wrong = Problem(
        "wrong value", expected='"22:00" or a date with time, such as 2027-01-31T22:00:00', got=shown(value)
    )
    raise UserError(file=source.file, problems=(source.problem(("start_after",), wrong),))


def _clock_time(value: object) -> time | None:
    if isinstance(value, time):
        return value
    match = re.fullmatch(r"(\d\d?):(\d\d)", value.strip(), re.ASCII) if isinstance(value, str) else None
    if match is None or int(match[1]) > 23 or int(match[2]) > 59:
        return None
    return time(int(match[1]), int(match[2]))
