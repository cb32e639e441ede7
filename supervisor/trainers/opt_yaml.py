"""opt.yaml, the options of a YOLOv5, v7 or v9 run: reading and changing plain values at its top level.

Not a YAML library: these files are written by PyYAML's dump of a flat table, and what is not touched must stay as it
is, byte for byte.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from supervisor import durable

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*):(?:[ \t]+(.*))?$")
_DOUBLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "e": "\x1b", "a": "\a", "b": "\b", "_": "\xa0"}
# in double quotes: a line that ends with a backslash goes on without a blank; the next may begin with an escaped one
_FOLD = re.compile(r"(?<!\\)((?:\\\\)*)\\ (?:\\(?= ))?")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


def read(path: Path) -> dict[str, str]:
    """Return the plain values at the top level as texts; of a file that is not there, nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    return {key: _value(lines) for key, lines in _entries(text) if key}


def repair(path: Path, wanted: Mapping[str, str], aside: Path) -> list[str]:
    """Let the file hold these texts; the old one is kept in `aside`. Whole or not at all. What changed, for people."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    entries = list(_entries(text))
    known = {key: _value(lines) for key, lines in entries if key}
    changed = {key: value for key, value in wanted.items() if known.get(key) != value}
    if not changed:
        return []
    kept = [line for key, lines in entries if key not in changed for line in lines]
    if kept and not kept[-1].endswith("\n"):
        kept[-1] += "\n"
    new = "".join(kept) + "".join(f"{key}: {_quoted(value)}\n" for key, value in changed.items())
    _replace(path, new.encode("utf-8", "surrogateescape"), aside)
    return [f"opt.yaml: {key} was {known.get(key, 'not there') or 'empty'}, is now {value or 'empty'}"
            for key, value in changed.items()]  # fmt: skip


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """Return each top-level key with its lines: values may go on in indented lines, lists at the margin."""
    key = ""
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        match = _KEY.match(line.rstrip("\r\n"))
        if match and lines:
            yield key, lines
            lines = []
        key = match[1] if match else key
        lines.append(line)
    if lines:
        yield key, lines


def _value(lines: list[str]) -> str:
    match = _KEY.match(lines[0].rstrip("\r\n"))
    folded = " ".join([(match[2] or "").strip() if match else "", *(line.strip() for line in lines[1:])]).strip()
    if len(folded) >= 2 and folded[0] == folded[-1] == "'":
        return folded[1:-1].replace("''", "'")
    if len(folded) >= 2 and folded[0] == folded[-1] == '"':
        return _ESCAPE.sub(_unescaped, _FOLD.sub(r"\1", folded[1:-1]))
    return "" if folded in {"null", "~"} else folded


def _unescaped(match: re.Match[str]) -> str:
    number = match[1] or match[2] or match[3]
    if number:
        code = int(number, 16)
        return chr(code) if code < 0x110000 else "\ufffd"
    return _DOUBLE_ESCAPES.get(match[4], match[4])


def _quoted(text: str) -> str:
    """Return a text as YAML, in ASCII whatever is in it: the trainers open the file with the locale's encoding."""
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else _escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _replace(path: Path, data: bytes, aside: Path) -> None:
    aside.mkdir(parents=True, exist_ok=True)
    if not (aside / path.name).exists():  # a second preparation must not replace the file as it was found
        shutil.copyfile(path, aside / path.name)
    durable.replace(path, data, by=aside)
