"""The tables of a job file and the rules that types alone cannot say: each broken one becomes a Problem."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from supervisor import publish_config, toml_errors
from supervisor.config import Count, Defaults, KeepEpochs, KeepLast, Priority, environment_problems
from supervisor.core.placeholders import PLACEHOLDERS, names_in
from supervisor.core.revisions import ALLOWED_TRAIN_KEYS
from supervisor.errors import Problem
from supervisor.gpu_config import Gpus, GpuTable, name_problems, wish_problems
from supervisor.hang_config import Remedies, twice
from supervisor.toml_errors import AbsolutePath, Duration, HangAfter, Name, Size, Source, shown
from supervisor.trainers.scripts import script_place

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
_SUPERVISORS_OPTION = "remove it: the supervisor adds it itself, for the run's own directory"
#: Options of the families' train.py that are ours to give; argparse takes beginnings of them too.
RESERVED_OPTIONS = {
    "--project": _SUPERVISORS_OPTION,
    "--name": _SUPERVISORS_OPTION,
    "--exist-ok": _SUPERVISORS_OPTION,
    "--device": "remove it and use the job key gpus: the supervisor chooses which",
    "--resume": "remove it: the supervisor resumes from the newest good checkpoint by itself",
    "--evolve": "remove it: an evolution is many trainings, and none of them can be resumed",
}
_SHORTEST_OPTION = 5  # "--dev" is read as --device

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
    hang_after: HangAfter | None = None
    remedies: Remedies | None = None


class DoneTable(msgspec.Struct, frozen=True, kw_only=True):
    """`done` of a job file."""

    exit: Annotated[int, msgspec.Meta(ge=0, le=255, description="an exit code from 0 to 255")] = 0
    log: str = ""
    file: str = ""


class CheckpointsTable(msgspec.Struct, frozen=True, kw_only=True):
    """`checkpoints` of a job file."""

    keep_last: KeepLast | None = None
    keep_best: Count | None = None
    keep_epochs: KeepEpochs | None = None
    hook: bool | None = None


class StartFromTable(msgspec.Struct, frozen=True, kw_only=True):
    """`start_from` of a job file."""

    run: Annotated[
        str,
        msgspec.Meta(
            pattern=rf"\A{toml_errors.NAME}(@[1-9][0-9]{{0,8}})?\Z", description='a run, such as "truck" or "truck@2"'
        ),
    ]
    epoch: Annotated[int, msgspec.Meta(ge=1, le=10**9, description="an epoch, counted from 1")] | None = None
    weights: bool = False


class WatchTable(msgspec.Struct, frozen=True, kw_only=True):
    """`watch` of a job file, as `adopt --pid` writes it: a number means nothing without when it was given out."""

    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31, description="the number of a process")]
    start_time: Annotated[int, msgspec.Meta(ge=0, description="clock ticks since boot")]
    boot_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    pid_namespace: Annotated[int, msgspec.Meta(ge=0, description="the inode of /proc/PID/ns/pid")] = 0


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
    gpu: GpuTable = GpuTable()
    after: tuple[Name, ...] = ()
    start_after: Any = None  # a text or a TOML time: msgspec knows no union of these
    time_limit: Duration | None = None
    limits: LimitsTable = LimitsTable()
    restart: RestartTable = RestartTable()
    notify: tuple[Name, ...] | None = None
    backup: tuple[Name, ...] | None = None
    publish: publish_config.PublishTable | None = None
    env: dict[str, str] = {}
    settings: dict[str, bool | int | float | str] = {}
    train: dict[str, Any] | None = None
    command: Words = ()
    resume_command: Words = ()
    checkpoint_files: Words = ()
    done: DoneTable | None = None
    family: Literal["yolov5", "yolov7", "yolov9", "custom"] | None = None
    checkpoints: CheckpointsTable = CheckpointsTable()
    stage: tuple[dict[str, Any], ...] = ()
    start_from: StartFromTable | None = None
    adopt: AbsolutePath | None = None
    watch: WatchTable | None = None

    @property
    def script_family(self) -> str:
        """Return the family whose train.py is started, whose options and folders are known; else an empty text."""
        return "" if self.family in {None, "custom"} else str(self.family)


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
    yield from _restart_problems(spec.restart, source, defaults)
    yield from _gpu_problems(spec, source, defaults)
    if spec.train is not None and spec.command:
        yield source.problem(("command",), Problem("[train] and command exclude each other", hint="keep one of them"))
    yield from _command_problems(spec, source, has_python=_has_python(spec, defaults))
    yield from _family_problems(spec, source)
    yield from _stage_problems(spec, source)
    yield from _start_problems(spec, source)
    for key, problem in publish_config.problems(spec.publish) if spec.publish is not None else ():
        yield source.problem(("publish", key), problem)
    if (spec.train is not None or spec.script_family) and not _has_python(spec, defaults):
        hint = 'write python = "/…/bin/python" or conda = "NAME", or set one in [defaults] of config.toml'
        yield Problem("the job names no interpreter", key="python", expected="python or conda", hint=hint)


def _restart_problems(own: RestartTable, source: Source, defaults: Defaults) -> Iterator[Problem]:
    first_wait_s = either(own.backoff, defaults.restart.backoff)
    if first_wait_s > either(own.backoff_max, defaults.restart.backoff_max):
        hint = "raise restart.backoff_max"
        yield source.problem(("restart",), Problem("the first wait is longer than the longest", hint=hint))
    if (again := twice(own.remedies or ())) is not None:
        yield source.problem(("restart", "remedies"), again)


def _gpu_problems(spec: JobFile, source: Source, defaults: Defaults) -> Iterator[Problem]:
    for problem in () if spec.gpus is None else name_problems(spec.gpus):
        yield source.problem(("gpus",), problem)
    for key, problem in wish_problems(either(spec.gpus, defaults.gpus), spec.gpu):
        yield source.problem(("gpu", key), problem)


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
    where_is_said = spec.checkpoint_files or spec.script_family
    if spec.resume_command and not where_is_said:  # no checkpoint would be found to resume from
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


def _family_problems(spec: JobFile, source: Source) -> Iterator[Problem]:
    """Find what a family's train.py may not be given, because we give it."""
    if spec.family is not None and not spec.command:
        hint = "remove it" if spec.train is not None else 'write command = ["{python}", "train.py", …]'
        yield source.problem(("family",), Problem("this key belongs to a job with command", hint=hint))
    if not spec.script_family or not spec.command:
        return
    place = script_place(spec.command)
    if place is None:
        expected = "a word that ends with .py, such as train.py"
        yield source.problem(("command",), Problem("no script is started here", expected=expected))
    elif not spec.command[place].startswith(("/", "{run_dir}/")) and spec.cwd is None:
        hint = 'write cwd = "/…" with the folder of the script'
        yield source.problem(("command",), Problem("nobody says where the script lies", hint=hint))
    if spec.checkpoint_files:
        hint = "remove it: the family saves into {run_dir}/train/weights"
        yield source.problem(("checkpoint_files",), Problem("the family says where checkpoints lie", hint=hint))
    for word in spec.command[place or 0 :]:  # options before it are torchrun's
        if option := reserved_option(word):
            wrong = Problem("this option is the supervisor's", got=shown(word), hint=RESERVED_OPTIONS[option])
            yield source.problem(("command",), wrong)


def reserved_option(word: str) -> str:
    """Return which option of ours a word of a command is, whole or shortened, with = or without; or nothing."""
    name = word.partition("=")[0]
    if len(name) < _SHORTEST_OPTION:
        return ""
    return next((option for option in RESERVED_OPTIONS if option.startswith(name)), "")


def _stage_problems(spec: JobFile, source: Source) -> Iterator[Problem]:
    """Find what a resume of Ultralytics would not take over, and stages that do not follow each other."""
    before = 1
    for place, stage in enumerate(spec.stage):
        path = ("stage", str(place))
        epoch = stage.get("from_epoch")
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch <= before:
            expected = f"an epoch from {before + 1} on: the first stage is [train], and each one begins after the last"
            got = shown(epoch) if "from_epoch" in stage else "nothing"
            yield source.problem((*path, "from_epoch"), Problem("wrong value", expected=expected, got=got))
        else:
            before = epoch
        for key in stage.keys() - {"from_epoch"}:
            if wrong := _stage_value_problem(key, stage[key]):
                yield source.problem((*path, key), wrong)
        if not stage.keys() - {"from_epoch"}:
            yield source.problem(path, Problem("this stage changes nothing", hint="write what it changes"))
    if spec.stage and spec.train is None:
        yield source.problem(("stage", "0"), Problem("this table belongs to a job with [train]", hint="remove it"))
    epochs = (spec.train or {}).get("epochs")
    if spec.stage and isinstance(epochs, int) and before > epochs:
        wrong = Problem("this stage is never reached", expected=f"an epoch up to {epochs}", got=str(before))
        yield source.problem(("stage", str(len(spec.stage) - 1), "from_epoch"), wrong)


def _stage_value_problem(key: str, value: Any) -> Problem | None:
    allowed = sorted(ALLOWED_TRAIN_KEYS - {"data"})
    if key not in allowed:
        return Problem(
            "a stage cannot change this: Ultralytics drops this at a resume", expected=f"one of {', '.join(allowed)}"
        )
    return _train_value_problem(key, value)


def _start_problems(spec: JobFile, source: Source) -> Iterator[Problem]:
    """Find beginnings that exclude each other."""
    if spec.start_from is not None and spec.train is None:
        wrong = Problem("this key belongs to a job with [train]", hint="give the checkpoint in the command")
        yield source.problem(("start_from",), wrong)
    if spec.start_from is not None and spec.adopt is not None:
        wrong = Problem("adopt and start_from both say where the run begins", hint="keep one of them")
        yield source.problem(("start_from",), wrong)
    if spec.adopt is not None and spec.train is None and not spec.script_family:
        hint = "write [train], or family and the command that began it"
        yield source.problem(("adopt",), Problem("nobody says how this is resumed", hint=hint))
    if spec.watch is not None and spec.adopt is None:
        wrong = Problem("watch belongs to adopt", hint="`yolo-supervisor adopt --pid N` writes both")
        yield source.problem(("watch",), wrong)


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
