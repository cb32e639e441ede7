"""Relative paths in a job file, made absolute by its author's folder. Comments and layout of the file stay."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervisor import toml_errors
from supervisor.errors import Problem, UserError
from supervisor.toml_errors import Source, format_value

Place = tuple[str | int, ...]

_ALWAYS_PATHS: tuple[Place, ...] = (("python",), ("cwd",))
_WITH_A_SLASH: tuple[Place, ...] = (("command", 0), ("resume_command", 0), ("publish", "to"))  # others are names
_MAYBE_PATHS: tuple[Place, ...] = (
    ("train", "model"),
    ("train", "data"),
    ("train", "pretrained"),
    ("train", "distill_model"),
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def make_absolute(data: bytes, base: Path, file: str) -> bytes:
    """The job file with every relative path absolute, and with an end to its last line.

    A bare name such as `yolo11s.pt` stays a name, unless a file of that name lies in `base`. Raises UserError where
    the file is no TOML, or where a path cannot be replaced safely.
    """
    table, source = toml_errors.read(data, file)
    text, wanted = source.text, copy.deepcopy(table)
    for place, value in _relative(table, base):
        path = os.path.normpath(base / Path(value).expanduser())  # links stay: venvs are found by them
        text = _replaced(text, source, place, value, path)
        _put(wanted, place, path)
    result = text if text.endswith("\n") or not text else text + "\n"
    if toml_errors.read(result.encode(), file)[0] != wanted:
        raise UserError(file=file, problems=(Problem("write absolute paths; this file is too unusual to change"),))
    return result.encode()


def _relative(table: dict[str, Any], base: Path) -> Iterator[tuple[Place, str]]:
    for place in (*_ALWAYS_PATHS, *_WITH_A_SLASH, *_MAYBE_PATHS):
        value = _get(table, place)
        if not isinstance(value, str) or not value or value.startswith(("/", "{")) or _ADDRESS.match(value):
            continue
        looks_like_path = "/" in value or value.startswith("~")
        is_beside = place in _MAYBE_PATHS and (base / value).exists()
        if place in _ALWAYS_PATHS or looks_like_path or is_beside:
            yield place, value


def _get(table: Any, place: Place) -> Any:
    for part in place:
        if isinstance(part, int):
            table = table[part] if isinstance(table, list) and len(table) > part else None
        else:
            table = table.get(part) if isinstance(table, dict) else None
    return table


def _put(table: Any, place: Place, value: str) -> None:
    for part in place[:-1]:
        table = table[part]
    table[place[-1]] = value


def _replaced(text: str, source: Source, place: Place, value: str, path: str) -> str:
    """Replace the first literal of `value` from the line of its key on; where that was wrong the caller finds out."""
    line = source.line(*[part for part in place if isinstance(part, str)])
    start = _offset(text, line)
    literals = (format_value(value), f'"{value}"', f"'{value}'")
    found = [(at, literal) for literal in literals if (at := text.find(literal, start)) >= 0]
    if not found:
        wrong = Problem("this relative path cannot be replaced", got=value, hint=f"write {format_value(path)}")
        key = ".".join(str(part) for part in place)
        raise UserError(file=source.file, problems=(source.problem((key,), wrong),))
    at, literal = min(found)
    return text[:at] + format_value(path) + text[at + len(literal) :]


def _offset(text: str, line: int) -> int:
    at = 0
    for _ in range(line - 1):
        at = text.find("\n", at) + 1
    return at
