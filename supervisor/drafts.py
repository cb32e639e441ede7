"""Job files made from what people have already: a `yolo train …` command, or the args.yaml of an old training."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor import toml_errors
from supervisor.errors import Problem, UserError
from supervisor.job_rules import PATH_TRAIN_KEYS, RESERVED_TRAIN_KEYS, reserved_option

_TASKS = ("detect", "segment", "semantic", "depth", "classify", "pose", "obb")
_OTHER_MODES = ("val", "predict", "export", "track", "benchmark", "solutions", "help", "checks", "settings")
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAT_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)[ \t]*:(?:[ \t]+(.*))?")
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')[ \t]*(?:#.*)?""")
_DEEPER = re.compile(r"[ \t]*(?:[{&*!|>]|\[.*[\[{])")  # tables, anchors, tags, texts of several lines, lists of lists
_YAML_WORDS = {"": None, "~": None, "null": None, "none": None, "true": True, "false": False}
_LEFT_OUT = frozenset({"mode", "resume", "save_dir", "exist_ok", "device", "project", "name", "cfg"})


@dataclass(frozen=True)
class Environment:
    """Where the command would have run. `known_defaults` are the library's own, where an interpreter told them."""

    cwd: Path
    python: str = ""
    conda: str = ""
    known_defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Keys of the job file that are certain already: name, project, gpus, adopt, watch.
    decided: Mapping[str, Any] = field(default_factory=dict)


def active_interpreter(environ: Mapping[str, str]) -> str:
    """Return the interpreter of the active virtual or conda environment, else the one beside `yolo`, else nothing."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        python = Path(environ.get(variable, "")) / "bin" / "python"
        if environ.get(variable, "").startswith("/") and python.is_file():
            return str(python)
    yolo = shutil.which("yolo", path=environ.get("PATH", ""))
    beside = Path(yolo).with_name("python") if yolo else None
    return str(beside) if beside is not None and beside.is_file() else ""


def draft_from_yolo_command(argv: list[str], environment: Environment) -> str:
    """Return a job file for a command such as `yolo detect train model=… data=… epochs=…`. Raises UserError."""
    words = argv[1:] if argv and Path(argv[0]).name == "yolo" else argv
    given: dict[str, Any] = {}
    mode = ""
    for word in _joined(words):
        key, equals, value = word.removeprefix("--").partition("=")
        if equals:
            given[key.strip()] = command_value(value.strip())
        elif key in _TASKS:
            given["task"] = key
        elif key == "train" or key in _OTHER_MODES:
            mode = mode or key
        elif _BARE.fullmatch(key):
            given[key] = True
        else:
            wrong = Problem("this word of the command is not understood", got=word, expected="KEY=VALUE")
            raise UserError(problems=(wrong,))
    mode = str(given.get("mode") or mode)
    if mode != "train":
        hint = "for example: yolo-supervisor new -- yolo detect train model=yolo11s.pt data=/data/my.yaml epochs=100"
        raise UserError(problems=(Problem("only trainings become jobs", expected="yolo … train …", hint=hint),))
    if isinstance(given.get("cfg"), str):
        given = {**_read_flat(environment.cwd / given["cfg"]), **given}
    return _draft(given, environment, "yolo " + " ".join(words))


def draft_from_args_yaml(text: str, environment: Environment) -> str:
    """Return a job file for the args.yaml that Ultralytics wrote into a run's folder. Raises UserError."""
    return draft_from_arguments(parse_flat_yaml(text), environment, "an args.yaml")


def draft_from_arguments(arguments: Mapping[str, Any], environment: Environment, origin: str) -> str:
    """Return a job file for the arguments of an Ultralytics training; `origin` tells a person where they are from."""
    return _draft(arguments, environment, origin)


def draft_from_script(family: str, command: Sequence[str], cwd: Path, environment: Environment, origin: str) -> str:
    """Return a job file for the train.py of a family: `command` without the options that are the supervisor's."""
    lines = [f"# Made from {_comment(origin)}", "", *_head({}, environment)]
    lines += [f"cwd = {toml_errors.format_value(cwd)}", f"family = {toml_errors.format_value(family)}"]
    lines += ["command = [", *(f"  {toml_errors.format_value(word)}," for word in ours_left_out(command)), "]"]
    return "\n".join(lines) + "\n"


def ours_left_out(command: Sequence[str]) -> list[str]:
    """Return a script's command without project, name, device, resume and their like, which the supervisor gives."""
    kept: list[str] = []
    skipping = False
    for word in command:
        if reserved_option(word):
            skipping = "=" not in word
        elif not (skipping and not word.startswith("-")):
            skipping = False
            kept.append(word)
        else:
            skipping = False
    return kept


def command_value(text: str) -> Any:
    """Read a value as the `yolo` command does: none, true, false, a Python number or list, else a text."""
    lowered = text.lower()
    if lowered in {"none", "true", "false"}:
        return {"none": None, "true": True, "false": False}[lowered]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple) else value


def parse_flat_yaml(text: str) -> dict[str, Any]:
    """Read `key: value` lines, with lists of plain values. Raises UserError for anything deeper: this is no YAML."""
    found: dict[str, Any] = {}
    key = ""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#") or stripped in {"---", "..."}:
            continue
        item = stripped.startswith("- ") and not _DEEPER.match(stripped[2:]) and not _FLAT_LINE.match(stripped[2:])
        if item and key and (found[key] is None or isinstance(found[key], list)):
            found[key] = [*(found[key] or []), _yaml_value(stripped[2:])]
        elif (match := _FLAT_LINE.fullmatch(line.rstrip())) is not None and not _DEEPER.match(match[2] or ""):
            key = match[1]
            found[key] = _yaml_value(match[2] or "")
        else:
            hint = "write the job file by hand, or name the arguments in a yolo command"
            wrong = Problem(
                "only lines of the form KEY: VALUE are understood", line=number, got=stripped[:60], hint=hint
            )
            raise UserError(problems=(wrong,))
    return found


def _yaml_value(text: str) -> Any:
    text = text.strip()
    if (quoted := _QUOTED.fullmatch(text)) is not None:
        return _unquoted(quoted[1])
    text = re.split(r"(?:^|[ \t])#", text, maxsplit=1)[0].strip()
    if text.startswith("[") and text.endswith("]"):
        return [_yaml_value(part) for part in text[1:-1].split(",") if part.strip()]
    if text.lower() in _YAML_WORDS:
        return _YAML_WORDS[text.lower()]
    return _number(text)


def _unquoted(text: str) -> str:
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1]


def _number(text: str) -> Any:
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?", text):
        return float(text)
    return text


def _joined(words: list[str]) -> Iterator[str]:
    """Join `imgsz =640`, `imgsz= 640` and `imgsz = 640`, which the `yolo` command takes too."""
    text = ""
    for word in words:
        if text.endswith("=") or (text and "=" not in text and word.startswith("=")):
            text += word
            continue
        if text:
            yield text
        text = word
    if text:
        yield text


def _read_flat(path: Path) -> dict[str, Any]:
    try:
        return parse_flat_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", file=str(path)) from None
    except UserError as error:
        raise UserError(file=str(path), problems=error.problems) from None


def _draft(given: Mapping[str, Any], environment: Environment, origin: str) -> str:
    train = {
        key: _absolute(key, value, environment.cwd)
        for key, value in given.items()
        if key not in _LEFT_OUT and value is not None
    }
    dropped = [
        key
        for key, value in train.items()
        if key not in {"model", "data", "epochs"} and _is_default(key, value, environment.known_defaults)
    ]
    lines = [f"# Made from {_comment(origin)}", "# Submit it with: yolo-supervisor submit THIS_FILE", ""]
    lines += [*_head(given, environment), "", "[train]"]
    lines += [f'# {key} = "…"  # missing: write it here' for key in ("model", "data") if key not in train]
    lines += [
        f"{toml_errors.format_key(key)} = {toml_errors.format_value(train[key])}"
        for key in sorted(train, key=_reading_order)
        if key not in dropped
    ]
    ours = [key for key in given if key in RESERVED_TRAIN_KEYS and given[key] not in (None, False, "")]
    remarks = [f"# {key} was left out: {RESERVED_TRAIN_KEYS[key]}" for key in ours if key in _EXPLAINED]
    if "adopt" in environment.decided:
        remarks = []  # where it saves is just what stays
    if dropped:
        remarks.append(f"# left out, as they are the library's defaults: {', '.join(sorted(dropped))}")
    return "\n".join([*lines, *([""] if remarks else []), *remarks]) + "\n"


_EXPLAINED = frozenset({"resume", "save_dir", "exist_ok"})


def _head(given: Mapping[str, Any], environment: Environment) -> Iterator[str]:
    decided = environment.decided
    name = as_name(decided.get("name") or given.get("name"))
    yield f'name = "{name}"' if name else '# name = "…"  # without it, the name of this file'
    project = as_name(decided.get("project") or (Path(str(given["project"])).name if given.get("project") else None))
    yield f'project = "{project}"' if project else '# project = "default"  # the folder below runs_dir'
    if environment.python:
        yield f"python = {toml_errors.format_value(environment.python)}{_active(environment)}"
    elif environment.conda:
        yield f"conda = {toml_errors.format_value(environment.conda)}"
    else:
        yield '# python = "/…/bin/python"  # no environment was active: that of [defaults] in config.toml is taken'
    yield from _gpus(given, decided)
    yield "# priority = 0  # -100 to 100"
    yield '# time_limit = "3d"'
    for key in ("adopt", "watch"):
        if decided.get(key):
            yield f"{key} = {toml_errors.format_value(decided[key])}"


def _active(environment: Environment) -> str:
    return "" if "adopt" in environment.decided else "  # the active environment's"


def _gpus(given: Mapping[str, Any], decided: Mapping[str, Any]) -> Iterator[str]:
    if decided.get("gpus") is not None:
        yield f"gpus = {toml_errors.format_value(decided['gpus'])}"
    elif given.get("device") in (None, ""):
        yield 'gpus = "auto"  # one if the server has any'
    else:
        count = gpu_count(given["device"])
        yield f"gpus = {count}  # was device={_comment(str(given['device']))}{_just_these(given['device'], count)}"
        if count > 1:
            yield "# gpu = { min = 1 }  # goes on with fewer when the others are broken; the total batch stays"


def _just_these(device: Any, count: int) -> str:
    """How to name the GPUs, where that was meant: the numbers of `device` are the machine's, ours are free ones."""
    named = re.findall(r"\d+", str(device))
    return f"; gpus = [{', '.join(named)}] takes just these" if count and len(named) == count else ""


def gpu_count(device: Any) -> int:
    """Count the devices that `device=` names; which ones is the supervisor's choice."""
    if isinstance(device, list):
        return len(device)
    text = str(device).strip().strip("()[]").lower()
    if text in {"cpu", "mps"}:
        return 0
    return max(1, len([part for part in text.split(",") if part.strip()]))


def as_name(value: Any) -> str:
    """Turn a value into a name that the contract allows; empty where nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(value or "")).strip("-._")[:64].rstrip("-._")


def _absolute(key: str, value: Any, cwd: Path) -> Any:
    if key not in PATH_TRAIN_KEYS or not isinstance(value, str) or "://" in value:
        return value
    path = Path(value).expanduser() if value.startswith("~") else Path(value)
    looks_like_path = "/" in value or value.startswith("~") or (cwd / path).exists()
    return str(_without_dots(cwd / path)) if looks_like_path else value


def _without_dots(path: Path) -> Path:
    """Resolve "." and ".." where that is safe: past a symbolic link ".." means another folder."""
    return path.resolve() if ".." in path.parts else path


def _is_default(key: str, value: Any, known: Mapping[str, Any]) -> bool:
    return key in known and known[key] == value and isinstance(known[key], bool) == isinstance(value, bool)


def _reading_order(key: str) -> tuple[int, str]:
    order = ("task", "model", "data", "epochs", "imgsz", "batch")
    return (order.index(key), "") if key in order else (len(order), key)


def _comment(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= 300 else shown[:299] + "…"
