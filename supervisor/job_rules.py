"""The tables of a job file and the rules that types alone cannot say: each broken one becomes a Problem."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from supervisor import toml_errors
from supervisor.config import Defaults, Gpus, Priority, environment_problems
from supervisor.core.placeholders import PLACEHOLDERS, names_in
from supervisor.errors import Problem
from supervisor.toml_errors import AbsolutePath, Duration, Name, Size, Source, shown

RESERVED_TRAIN_KEYS = {
    "device": "use the job key gpus: the supervisor chooses which",
    "project": "use the job key project",
    "name": "use the job key name",
    "exist_ok": "remove it: each run has its own directory",
    "save_dir": "remove it: each run has its own directory, below runs_dir",
    "resume": "remove it: the supervisor resumes from the newest good checkpoint by itself",
    "mode": "remove it: a job trains",
    "cfg": "write the arguments themselves: `yolo-supervisor new -- yolo train cfg=…` does that",
}
PATH_TRAIN_KEYS = ("model", "data", "pretrained", "distill_model")

Line = Annotated[str, msgspec.Meta(max_length=1000, description="a text of one line")]
Words = tuple[Annotated[str, msgspec.Meta(max_length=100_000)], ...]


class LimitsTable(msgspec.Struct, frozen=True, kw_only=True):
    """`limits` of a job file."""

    log_max: Size | None = None


class RestartTable(msgspec.Struct, frozen=True, kw_only=True):
    """`restart` of a job file."""

    no_progress: Annotated[int, msgspec.Meta(ge=1, le=1000, description="a whole number from 1 to 1000")] | None = None
    backoff: Duration | None = None
    backoff_max: Duration | None = None


class DoneTable(msgspec.Struct, frozen=True, kw_only=True):
    """`done` of a job file."""

    exit: Annotated[int, msgspec.Meta(ge=0, le=255, description="an exit code from 0 to 255")] = 0
    log: str = ""
    file: str = ""


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """What may stand in a job file. Nothing here has a default: see `_settle`."""

    name: Name | None = None
    project: Name | None = None
    title: Line = ""
    notes: str = ""
    tags: tuple[Line, ...] = ()
    python: AbsolutePath | None = None
    conda: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    cwd: AbsolutePath | None = None
    priority: Priority | None = None
    gpus: Gpus | None = None
    after: tuple[Name, ...] = ()
    start_after: Any = None  # a text or a TOML time: msgspec knows no union of these
    time_limit: Duration | None = None
    limits: LimitsTable = LimitsTable()
    restart: RestartTable = RestartTable()
    notify: tuple[Name, ...] | None = None
    env: dict[str, str] = {}
    settings: dict[str, bool | int | float | str] = {}
    train: dict[str, Any] | None = None
    command: Words = ()
    resume_command: Words = ()
    checkpoint_files: Words = ()
    done: DoneTable | None = None


def problems_of(spec: JobFile, source: Source, defaults: Defaults) -> Iterator[Problem]:
    """Find everything wrong with a job file of which each value has the right type."""
    if not re.fullmatch(toml_errors.NAME, spec.name or ""):
        hint = 'write name = "…" into the file: 1 to 64 letters, digits, dots, dashes or underlines'
        yield Problem("the file's name cannot be the job's name", key="name", got=shown(spec.name), hint=hint)
    if spec.python is not None and spec.conda is not None:
        hint = "keep one of them"
        yield source.problem(("conda",), Problem("python and conda both name the interpreter", hint=hint))
    if spec.conda is not None and "/" in spec.conda:
        hint = f'python = "{spec.conda}/bin/python" names an environment by its folder'
        yield source.problem(("conda",), Problem("this is a path, not a name", got=shown(spec.conda), hint=hint))
    if spec.name in spec.after:
        yield source.problem(("after",), Problem("a job cannot wait for itself", got=shown(spec.name)))
    if spec.time_limit == 0:
        yield source.problem(("time_limit",), Problem("no training fits into no time", hint="remove the key"))
    for name, problem in environment_problems(spec.env):
        yield source.problem(("env", name), problem)
    first_wait_s = either(spec.restart.backoff, defaults.restart.backoff)
    if first_wait_s > either(spec.restart.backoff_max, defaults.restart.backoff_max):
        hint = "raise restart.backoff_max"
        yield source.problem(("restart",), Problem("the first wait is longer than the longest", hint=hint))
    if spec.train is not None and spec.command:
        yield source.problem(("command",), Problem("[train] and command exclude each other", hint="keep one of them"))
    yield from _command_problems(spec, source, has_python=_has_python(spec, defaults))
    if spec.train is not None and not _has_python(spec, defaults):
        hint = 'write python = "/…/bin/python" or conda = "NAME", or set one in [defaults] of config.toml'
        yield Problem("the job names no interpreter", key="python", expected="python or conda", hint=hint)


def either(own: Any, default: Any) -> Any:
    """Return the job's own value, else the default. An empty list and 0 are values of one's own."""
    return default if own is None else own


def _has_python(spec: JobFile, defaults: Defaults) -> bool:
    return any((spec.python, spec.conda, defaults.python, defaults.conda))


def train_problems(train: dict[str, Any], source: Source) -> Iterator[Problem]:
    """Find what is wrong with [train] whoever its Ultralytics is: names and types are asked from that later."""
    for key in ("model", "data"):
        if key not in train:
            yield source.problem(("train", key), Problem("this key is missing", expected="a path or a name"))
    for key, value in train.items():
        if problem := _train_value_problem(key, value):
            yield source.problem(("train", key), problem)


def _train_value_problem(key: str, value: Any) -> Problem | None:
    if key in RESERVED_TRAIN_KEYS:
        return Problem("this argument is the supervisor's", hint=RESERVED_TRAIN_KEYS[key])
    if not _is_plain(value):
        return Problem("wrong value", expected="a text, number, true, false or a list of these", got=shown(value))
    if key == "epochs" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        return Problem("wrong value", expected="a whole number from 1 on", got=shown(value))
    if key in {"model", "data"} and not (isinstance(value, str) and value.strip()):
        return Problem("wrong value", expected="a path or a name", got=shown(value))
    return _path_problem(value) if key in PATH_TRAIN_KEYS and isinstance(value, str) else None


def _path_problem(value: str) -> Problem | None:
    """Refuse what looks like a path but is not absolute; bare names such as yolo11s.yaml are names."""
    if value.startswith("/"):
        return None
    if re.match(r"[a-z][a-z0-9+.-]*:/", value):
        hint = "fetch it first, then write where it lies"
        return Problem("addresses are not fetched", expected="a path or a name", got=shown(value), hint=hint)
    if "/" in value or "\\" in value or value.startswith("~"):
        hint = f"write the whole path, from / on; `yolo-supervisor submit` does that for relative ones: {value}"
        return Problem("a relative path means nothing to a daemon", expected="an absolute path", hint=hint)
    return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, str | bool | int | float)


def _command_problems(spec: JobFile, source: Source, *, has_python: bool) -> Iterator[Problem]:
    commands = {"command": spec.command, "resume_command": spec.resume_command}
    for key, words in commands.items():
        allowed = PLACEHOLDERS if key == "resume_command" else PLACEHOLDERS[:-1]
        for problem in _word_problems(words, allowed, has_python=has_python):
            yield source.problem((key,), problem)
    others = {**commands, "checkpoint_files": spec.checkpoint_files, "done": spec.done}
    for key in [key for key, value in others.items() if value and key != "command" and not spec.command]:
        yield source.problem((key,), Problem("this key belongs to a job with command", hint="remove it"))
    if spec.resume_command and not spec.checkpoint_files:  # without them no checkpoint is found to resume from
        hint = 'write checkpoint_files = ["{run_dir}/**/last.pt"] or wherever the trainer saves'
        yield source.problem(("resume_command",), Problem("nobody says where checkpoints lie", hint=hint))
    for pattern in spec.checkpoint_files:
        if (wrong := _run_path_problem(pattern)) is not None:
            yield source.problem(("checkpoint_files",), wrong)
    if spec.done is not None and spec.done.file and (wrong := _run_path_problem(spec.done.file)) is not None:
        yield source.problem(("done", "file"), wrong)
    if spec.done is not None and (wrong := _expression_problem(spec.done.log)) is not None:
        yield source.problem(("done", "log"), wrong)


def _word_problems(words: tuple[str, ...], allowed: tuple[str, ...], *, has_python: bool) -> Iterator[Problem]:
    for name in (name for word in words for name in names_in(word)):
        if name not in allowed:
            names = " ".join(f"{{{known}}}" for known in allowed)
            hint = "double the braces where they are meant as such: {{…}}"
            yield Problem("unknown placeholder", expected=f"one of {names}", got=f"{{{name}}}", hint=hint)
        elif name == "python" and not has_python:
            yield Problem("{python} is used, and no interpreter named", hint="write python = … or conda = …")
    if words and not words[0].strip():
        yield Problem("the first word of a command is the program", got=shown(words[0]))
    if words and "/" in words[0] and not words[0].startswith(("/", "{run_dir}/")):
        hint = "write the whole path, from / on"
        yield Problem("a relative path means nothing to a daemon", got=shown(words[0]), hint=hint)


def _run_path_problem(text: str) -> Problem | None:
    expected = "an absolute path, or one that starts with {run_dir}/"
    if not text.startswith(("/", "{run_dir}/")):
        return Problem("a relative path means nothing to a daemon", expected=expected, got=shown(text))
    if ".." in Path(text).parts:
        return Problem("this path climbs", expected="a path without ..", got=shown(text))
    names = [name for name in names_in(text) if name != "run_dir"]
    return Problem("unknown placeholder", expected="{run_dir}", got=f"{{{names[0]}}}") if names else None


def _expression_problem(expression: str) -> Problem | None:
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        return Problem(f"this is not a regular expression: {error}", got=shown(expression))
    return None
