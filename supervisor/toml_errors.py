"""TOML files of people: every mistake at once, with its line, what was expected and what stood there.

msgspec stops at the first error and knows no lines; tomllib knows lines only for syntax. Both are used here,
and whatever they raise leaves as UserError.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from supervisor import units
from supervisor.errors import Problem, UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_FILE_BYTES = 256 * 1024
_DEEPEST = 12
_INTEGERS = range(-(2**63), 2**63)
_MOST_PROBLEMS = 50  # nobody reads more, and each message goes to a file, a log and a chat
_SHOWN = 80  # characters of a wrong value in a message

Duration = Annotated[float, msgspec.Meta(extra={"reader": "duration"})]
Interval = Annotated[float, msgspec.Meta(extra={"reader": "interval"})]
HangAfter = Annotated[float, msgspec.Meta(extra={"reader": "hang_after"})]
Size = Annotated[int, msgspec.Meta(extra={"reader": "size"})]
AbsolutePath = Annotated[Path, msgspec.Meta(extra={"reader": "path"})]
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"\A{NAME}\Z",
        description="1 to 64 letters, digits, dots, dashes or underlines, the first a letter or digit",
    ),
]

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_TABLE_LINE = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_KEY_LINE = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
# tomllib needs quadratic time for one key of many thousand parts; nobody writes such a key
_LONG_KEY = re.compile(r"(?<![\w\"'.-])(?:[\w\"'-]+[ \t]*\.[ \t]*){64}")
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_MSGSPEC = re.compile(r"Expected (?P<expected>.*?)(?:, got `[^`]*`)?(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True)
class Source:
    """The text of a TOML file and where each of its keys stands."""

    file: str
    text: str
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)

    def line(self, *path: str) -> int:
        """Find the line of a key (of a list of tables, its first one), of the nearest table around it, or 0."""
        for length in range(len(path), 0, -1):
            if line := self.lines.get(path[:length]) or self.lines.get((*path[:length], "0")):
                return line
        return 0

    def problem(self, path: tuple[str, ...], problem: Problem) -> Problem:
        """Return the problem with key and line filled in."""
        return replace(problem, key=dotted(path), line=self.line(*path))


def dotted(path: tuple[str, ...]) -> str:
    """Write a path as people do; numbers are places in a list, counted from 1."""
    return "".join(f"[{int(part) + 1}]" if part.isdigit() else f".{part}" for part in path).lstrip(".")


def read(data: bytes, file: str) -> tuple[dict[str, Any], Source]:
    """Parse UTF-8 TOML, with or without byte order mark and carriage returns. Raises UserError only."""
    text = _decode(data, file)
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise UserError(file=file, problems=(Problem("tables or lists are nested too deeply"),)) from None
    except ValueError as error:
        raise UserError(file=file, problems=(_syntax_problem(str(error), text),)) from None
    source = Source(file, text, _find_lines(text))
    problems = [source.problem(path, Problem(wrong, got=got)) for path, wrong, got in _unusable(table)]
    if problems:
        raise refusal(file, problems)
    return table, source


def convert(table: dict[str, Any], kind: type[T], source: Source, path: tuple[str, ...] = ()) -> T:
    """Turn the table into a struct, strictly. Raises one UserError with all unknown keys and wrong values."""
    problems: list[Problem] = []
    value: T = _struct(table, kind, source, path, problems)
    if problems:
        raise refusal(source.file, problems)
    return value


def refusal(file: str, problems: list[Problem]) -> UserError:
    """Return the error with all problems in the order of lines; of very many, the first ones."""
    ordered = sorted(problems, key=lambda problem: (problem.line, problem.key))
    rest = len(ordered) - _MOST_PROBLEMS
    tail = (Problem(f"{rest} more problems are not shown"),) if rest > 0 else ()
    return UserError(file=file, problems=(*ordered[:_MOST_PROBLEMS], *tail))


def nearest(word: str, known: list[str]) -> str:
    """Find the known word that was most likely meant, or an empty text."""
    folded = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else ""


def shown(value: Any) -> str:
    """Show a wrong value in a message: as TOML writes it, cut where it is long."""
    text = format_value(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def format_value(value: Any) -> str:
    """Write a value as TOML does, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        return _format_text(str(value))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    if isinstance(value, dict):
        inner = ", ".join(f"{format_key(key)} = {format_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return str(value)


def format_key(key: str) -> str:
    """Write a key as TOML does: bare where that is possible."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _format_text(key)


def _format_text(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _decode(data: bytes, file: str) -> str:
    if len(data) > LARGEST_FILE_BYTES:
        limit, size = units.format_size(LARGEST_FILE_BYTES), units.format_size(len(data))
        raise UserError(file=file, problems=(Problem("the file is too large", expected=f"at most {limit}", got=size),))
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _encoding_error(_guess_encoding(data), line, file) from None
    if "\0" in text:
        guess = "UTF-16" if text.count("\0") > len(text) // 4 else "a binary file"
        raise _encoding_error(guess, text.count("\n", 0, text.index("\0")) + 1, file)
    if long_key := _LONG_KEY.search(text):
        line = text.count("\n", 0, long_key.start()) + 1
        raise UserError(file=file, problems=(Problem("this key has too many parts", line=line),))
    return text


def _encoding_error(guess: str, line: int, file: str) -> UserError:
    hint = "save the file as UTF-8" if guess != "a binary file" else "is this the right file?"
    return UserError(file=file, problems=(Problem("this is not UTF-8 text", "", line, "UTF-8", guess, hint),))


def _guess_encoding(data: bytes) -> str:
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"} or data.count(0) > len(data) // 4:
        return "UTF-16"
    if 0 in data:
        return "a binary file"
    try:
        data.decode("gbk")
    except UnicodeDecodeError:
        return "another encoding, perhaps Latin-1 or Windows-1252"
    return "another encoding, perhaps GBK"


def _syntax_problem(message: str, text: str) -> Problem:
    place = _PLACE.search(message)
    line = int(place[1]) if place and place[1] else text.count("\n") + 1 if place else 0
    bare = message[: place.start()] if place else message
    if bare.startswith(("Cannot overwrite", "Cannot declare", "Duplicate", "Cannot mutate")):
        return Problem("this key or table stands twice", line=line, hint="keep one of them")
    if "integer string conversion" in bare:
        return Problem("a number has too many digits", line=line)
    hint = "close the quote, bracket or brace" if place and not place[1] else ""
    if bare.startswith("Invalid value"):
        hint = 'texts stand in quotes: key = "value"; true and false are written small'
    return Problem(f"this is not valid TOML ({bare})", line=line, hint=hint)


def _find_lines(text: str) -> dict[tuple[str, ...], int]:
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    counts: dict[tuple[str, ...], int] = {}
    inside_text = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not inside_text and (match := _TABLE_LINE.match(line)):
            table = _split_key(match[2])
            if match[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, str(counts[table]))
            lines.setdefault(table, number)
        elif not inside_text and (match := _KEY_LINE.match(line)):
            key = (*table, *_split_key(match[1]))
            for length in range(len(table) + 1, len(key) + 1):
                lines.setdefault(key[:length], number)
        inside_text = _text_after(line, inside_text)
    return lines


def _text_after(line: str, inside: str) -> str:
    """Return the quotes of the multi-line text that is still open at the end of this line."""
    for quotes in re.findall(r'"""|\'\'\'', line):
        if not inside:
            inside = quotes
        elif inside == quotes:
            inside = ""
    return inside


def _split_key(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, key))


def _unusable(table: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Values that TOML allows and no program of ours can carry: walked without recursion, however deep."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((key,), value) for key, value in table.items()]
    while waiting:
        path, value = waiting.pop()
        if len(path) > _DEEPEST:
            yield path[:3], "tables or lists are nested too deeply", ""
            return
        if isinstance(value, dict):
            waiting.extend(((*path, key), inner) for key, inner in value.items())
        elif isinstance(value, list):
            waiting.extend(((*path, str(place)), inner) for place, inner in enumerate(value))
        elif isinstance(value, str) and (bad := _control_character(value)):
            yield path, f"the text holds the control character {bad}", ""
        elif isinstance(value, int) and value not in _INTEGERS:
            yield path, "this number is larger than 64 bits hold", ""
        elif isinstance(value, float) and not math.isfinite(value):
            yield path, "this is not a finite number", str(value)
        if bad := _control_character(path[-1]):
            yield path[:-1], f"a key holds the control character {bad}", ""


def _control_character(text: str) -> str:
    for character in text:
        if (character < " " and character not in "\t\n\r") or character == "\x7f":
            return f"U+{ord(character):04X}"
    return ""


def _struct(table: Any, kind: type[T], source: Source, path: tuple[str, ...], problems: list[Problem]) -> Any:
    if not isinstance(table, dict):
        wrong = Problem("this must be a table", expected="a table", got=shown(table))
        problems.append(source.problem(path, wrong))
        return None
    fields = {known.encode_name: known for known in msgspec.structs.fields(kind)}
    unknown = table.keys() - fields.keys()
    problems.extend(source.problem((*path, key), unknown_key(key, list(fields))) for key in unknown)
    values: dict[str, Any] = {}
    for key, known in fields.items():
        if key in table:
            values[known.name] = _value(table[key], known.type, source, (*path, key), problems)
        elif known.required:
            problems.append(source.problem((*path, key), Problem("this key is missing")))
    return None if problems else kind(**values)


#: What people write into a job file, and what is of the configuration.
_OF_CONFIG = {
    "rule": "[[rule]] belongs into config.toml: it is for all jobs",
    "channel": "[[channel]] belongs into config.toml; a job names the channels that it wants in `notify`",
    "hang": "[hang] belongs into config.toml; a job has restart.hang_after",
}


def unknown_key(key: str, known: list[str], where: str = "") -> Problem:
    """Describe an unknown key, with the nearest right one, or all of them where none is near."""
    near = nearest(key, known)
    hint = f"did you mean `{near}`?" if near else _OF_CONFIG.get(key, "remove it: this version does not know it")
    expected = f"`{near}`" if near else "one of " + ", ".join(sorted(known))
    return Problem(f"unknown key{where}", expected=expected, got=f"`{key[:_SHOWN]}`", hint=hint)


def _value(value: Any, kind: Any, source: Source, path: tuple[str, ...], problems: list[Problem]) -> Any:
    if (inner := _struct_in(kind)) is not None:
        return _struct(value, inner, source, path, problems)
    if get_origin(kind) is tuple and (inner := _struct_in(get_args(kind)[0])) is not None:
        if not isinstance(value, list):
            wrong = Problem(f"write [[{path[-1]}]]", expected="a list of tables", got=shown(value))
            problems.append(source.problem(path, wrong))
            return ()
        return tuple(_struct(item, inner, source, (*path, str(i)), problems) for i, item in enumerate(value))
    try:
        return _scalar(value, kind)
    except UserError as error:
        problems.extend(source.problem(path, problem) for problem in error.problems)
        return None


def _scalar(value: Any, kind: Any) -> Any:
    if reader := READERS.get(reader_of(kind)):
        return reader(value)
    if get_origin(kind) is tuple and isinstance(value, list) and reader_of(get_args(kind)[0]):
        return tuple(_scalar(item, get_args(kind)[0]) for item in value)
    metas = list(_metas(kind))
    secret = any(meta.extra and meta.extra.get("secret") for meta in metas)
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        described = next((meta.description for meta in metas if meta.description), "")
        got = "(not shown)" if secret else shown(value)
        expected = described or _expected(str(error), kind)
        raise UserError(problems=(Problem("wrong value", expected=expected, got=got),)) from None


def _expected(message: str, kind: Any) -> str:
    choices = [choice for part in (kind, *get_args(kind)) if get_origin(part) is Literal for choice in get_args(part)]
    if choices and message.startswith("Invalid enum"):
        return "one of " + ", ".join(format_value(choice) for choice in choices)
    match = _MSGSPEC.match(message)
    if match is None:
        return message
    names = {" | null": "", "`str`": "a text", "`int`": "a whole number", "`float`": "a number"}
    names |= {"`bool`": "true or false", "`array`": "a list", "`object`": "a table"}
    expected = match["expected"]
    for machine, human in names.items():
        expected = expected.replace(machine, human)
    return f"{expected} in each place" if "[" in (match["path"] or "") else expected


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    for part in _members(kind):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
    return None


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)


def _metas(kind: Any) -> Iterator[msgspec.Meta]:
    for part in _members(kind):
        if get_origin(part) is Annotated:
            inner, *metas = get_args(part)
            yield from (meta for meta in metas if isinstance(meta, msgspec.Meta))
            if get_origin(inner) in {Union, types.UnionType}:
                yield from _metas(inner)


def reader_of(kind: Any) -> str:
    """Name the reader of a field's type, as in READERS; an empty text for plain values."""
    return next((meta.extra["reader"] for meta in _metas(kind) if meta.extra and "reader" in meta.extra), "")


def _read_path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        hint = "a daemon has no folder of its own: write the whole path, from / on"
        raise UserError(problems=(Problem("wrong value", expected="an absolute path", got=shown(value), hint=hint),))
    return Path(value)


READERS: dict[str, Callable[[Any], Any]] = {
    "duration": units.parse_duration,
    "interval": units.parse_interval,
    "hang_after": units.parse_hang_after,
    "size": units.parse_size,
    "path": _read_path,
}


def write(value: Any, kind: Any) -> Any:
    """Return a value as its reader would read it; one without a reader, or None, as it is."""
    reader = reader_of(kind)
    if value is None or reader in {"", "path"}:
        return value
    if reader == "size":
        return units.format_size(value, exact=True)
    return units.format_hang_after(value) if reader == "hang_after" else units.format_duration(value, exact=True)
