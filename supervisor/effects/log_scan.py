"""Search an attempt's log for signs: by the built-in rules in the daemon, by rules of a configuration in a child.

A pattern that somebody wrote in a hurry can take for ever on one line, and Python lets no other thread run meanwhile.
The child is killed then, and the built-in rules alone say what the log shows.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from supervisor.core.diagnosis.evidence import Sign
from supervisor.core.diagnosis.matching import fixed_words
from supervisor.core.diagnosis.signs import LONGEST, Found, scan
from supervisor.core.diagnosis.tables import RULES, Rule
from supervisor.core.plain_text import clean_lines
from supervisor.effects.attempt_log import LogLines, chunks
from supervisor.errors import PermanentError

#: More than a huge log takes with rules that behave (attempt_log: 10 s, twice 3 s to count, 4 s for its end).
CPU_S = 30
#: On a machine that is busy.
LIMIT_S = 90.0
TRY_CPU_S = 3
TRY_LIMIT_S = 20.0
_FILLERS = ("a", "1", " ", "a ", "1 ", "a.", "a=1, ")
#: What SIGKILL does not end in this time hangs in the kernel, and is left behind.
KILLED_S = 0.5
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_CHILD = f"import sys; sys.path.insert(0, {str(_PACKAGE_ROOT)!r}); from {__name__} import main; main(sys.argv[1:])"


class Scanned(msgspec.Struct, frozen=True, kw_only=True):
    """What a log says, its signs with their numbers in the file; and what was not searched, for people."""

    found: Found
    unseen: tuple[str, ...] = ()


class _NoAnswerError(Exception):
    """The child gave no answer; the text says why."""


def scanned(path: Path, rules: Sequence[Rule]) -> Scanned:
    """Search a log, in bounded time whatever the rules are. Raises OSError where it cannot be read."""
    own = [rule.name for rule in rules if rule not in RULES]
    if not own:
        return _scanned_here(path, rules)
    try:
        return _by_child(path, rules, CPU_S, LIMIT_S)
    except _NoAnswerError as error:
        found = _scanned_here(path, [rule for rule in rules if rule in RULES])
        told = f"the log by your [[rule]] {', '.join(own)}: {error}; only the built-in rules were tried"
        return msgspec.structs.replace(found, unseen=(told, *found.unseen))


def _scanned_here(path: Path, rules: Sequence[Rule]) -> Scanned:
    log = LogLines(path)
    found = scan(log, rules)
    return Scanned(found=numbered(found, log), unseen=(log.unread,) if log.unread else ())


def numbered(found: Found, log: LogLines) -> Found:
    """Return what was found with the numbers that its lines have in the file, 0 where they are not known."""

    def of(number: int) -> int:
        return log.number(number) if number else 0

    def told(signs: Sequence[Sign]) -> tuple[Sign, ...]:
        return tuple(msgspec.structs.replace(sign, number=of(sign.number)) for sign in signs)

    return msgspec.structs.replace(
        found, signs=told(found.signs), notes=told(found.notes), error_line=of(found.error_line)
    )


def try_out(rule: Rule) -> str:
    """Return why a rule should not be used, an empty text if it behaves on long lines that almost match.

    That finds what is slow on repeated letters, digits or words, no more. A child does it, within a few seconds.
    """
    beginnings = ("", *fixed_words(rule.match))
    lines = [beginning + filler * (LONGEST // len(filler)) + "!" for beginning in beginnings for filler in _FILLERS]
    with tempfile.NamedTemporaryFile(prefix="yolo-supervisor-") as file:
        file.write("\n".join(lines).encode())
        file.flush()
        try:
            _by_child(Path(file.name), (rule,), TRY_CPU_S, TRY_LIMIT_S)
        except _NoAnswerError as error:
            return f"{len(lines)} lines of {LONGEST} characters: {error}"
    return ""


def matches(path: Path, pattern: str, *, cpu_s: int = CPU_S, limit_s: float = LIMIT_S) -> bool:
    """Return whether a line of a log matches a job's own pattern, in bounded time. False where there is no log.

    Raises PermanentError if the search does not come to an end: then nothing is known.
    """
    if not path.exists():
        return False
    try:
        return msgspec.json.decode(_asked(path, pattern, cpu_s, limit_s), type=bool)
    except (_NoAnswerError, msgspec.DecodeError) as error:
        raise PermanentError(f"the log could not be searched for done.log = {pattern!r}: {error}") from error


# ---- the child
def _by_child(path: Path, rules: Sequence[Rule], cpu_s: int, limit_s: float) -> Scanned:
    out = _asked(path, rules, cpu_s, limit_s)
    try:
        return msgspec.json.decode(out, type=Scanned)
    except msgspec.DecodeError as error:
        raise _NoAnswerError(f"the search failed: {error}") from error


def _asked(path: Path, what: Sequence[Rule] | str, cpu_s: int, limit_s: float) -> bytes:
    """What the child prints: for rules a Scanned, for a pattern whether a line matches it."""
    argv = [sys.executable, "-I", "-c", _CHILD, str(path), str(cpu_s)]
    try:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")
    except OSError as error:
        raise _NoAnswerError(f"no process could be started: {error.strerror}") from error
    try:
        out, errors = child.communicate(msgspec.json.encode(what), limit_s)
    except subprocess.TimeoutExpired as error:
        child.kill()
        with suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=KILLED_S)
        raise _NoAnswerError(f"not done within {limit_s:.0f} s") from error
    if child.returncode < 0:
        raise _NoAnswerError(f"not done within {cpu_s} s of processor time")
    if child.returncode:
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise _NoAnswerError(f"the search failed: {last or f'exit code {child.returncode}'}")
    return out


def main(arguments: Sequence[str]) -> None:
    """Search the log `arguments[0]` by what is on standard input, within so many seconds; print what was found.

    For a list of rules that is a Scanned as JSON, for a pattern true or false.
    """
    path, cpu_s = Path(arguments[0]), int(arguments[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    what = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[Rule, ...] | str)
    answer = _matches_here(path, what) if isinstance(what, str) else _scanned_here(path, what)
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def _matches_here(path: Path, pattern: str) -> bool:
    expression = re.compile(pattern)
    with path.open("rb") as file:
        return any(expression.search(line) for chunk in chunks(file) for line in clean_lines(chunk))
