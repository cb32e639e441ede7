"""The verb `explain-log`: what the log of any training says about its end, without a daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from supervisor.cli import screen
from supervisor.cli.client import Target
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput
from supervisor.core.plain_text import clean_lines
from supervisor.layout import AttemptDirectory

if TYPE_CHECKING:
    from supervisor.core.diagnosis.evidence import Sign
    from supervisor.core.diagnosis.signs import Found
    from supervisor.core.diagnosis.tables import Rule

NOTHING = "nothing that explains a failure"
_STDIN = "-"
_LONGEST_BYTES = 1024 * 1024
_WHOLE = sys.maxsize  # the daemon looks at head and tail of a huge log; a person who asks may wait for all of it
_LABELS = 9  # columns of the longest label and a gap


@click.command(
    "explain-log",
    epilog=examples(
        "yolo-supervisor explain-log runs/train.log",
        "yolo-supervisor explain-log --config new.toml attempts/3",
        "yolo train data=coco8.yaml 2>&1 | yolo-supervisor explain-log -",
        "yolo-supervisor explain-log *.log --json | jq -r '.files[] | [.path, .cause] | @tsv'",
        "yolo-supervisor explain-log --rules",
    ),
)
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--config", metavar="FILE", help="The configuration whose [[rule]]s are tried first.")
@click.option("--rules", "list_rules", is_flag=True, help="List the rules instead, in the order that they are tried.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.pass_obj
def explain_log_verb(
    target: Target, files: tuple[str, ...], *, config: str | None, list_rules: bool, as_json: bool
) -> None:
    """Tell what the log of a training says about its end, and what would be done about it. Needs no daemon.

    FILE is a log of Ultralytics, YOLOv5, v7, v9 or anything else in Python, a folder of an attempt, or - for standard
    input. Only the log is looked at: what the machine says (an out-of-memory kill, a mount that is gone) is not asked.
    """
    if not files and not list_rules:
        raise click.UsageError("Name a FILE, or - for standard input.")
    rules = _rules(config or target.config, asked=bool(config))
    if list_rules:
        _show_rules(rules, as_json=as_json)
        return
    logs = [_log_of(name) for name in files]
    views = [_view(str(path), _scanned(path, rules), rules) for path in logs]
    if as_json:
        screen.show_json({"version": 1, "files": views})
        return
    for view in views:
        _show(view)


def _rules(config: str | None, *, asked: bool) -> tuple[Rule, ...]:
    """The rules of the configuration before the built-in ones; a configuration that nobody named may be unreadable."""
    from supervisor.config import load, rules
    from supervisor.core.diagnosis.tables import RULES
    from supervisor.errors import UserError

    try:
        return rules(load(Path(config) if config else None))
    except UserError as error:
        if asked:
            raise
        screen.note(f"only the built-in rules are tried: {error}")
        return RULES


def _log_of(name: str) -> Path:
    path = Path(name)
    if name == _STDIN or path.is_file():
        return path
    if not path.exists():
        raise BadInput(f"there is no file {screen.escaped(name)}")
    log = AttemptDirectory(path).log
    if not log.is_file():
        raise BadInput(f"there is no log in {screen.escaped(name)}: name a file, or the folder of an attempt")
    return log


def _scanned(path: Path, rules: Sequence[Rule]) -> Found:
    from supervisor.core.diagnosis.signs import scan
    from supervisor.effects.attempt_log import LogLines

    lines: Iterable[str] = _piped(sys.stdin.buffer) if str(path) == _STDIN else LogLines(path, head_bytes=_WHOLE)
    try:
        return scan(lines, rules)
    except OSError as error:
        raise BadInput(f"cannot read {screen.escaped(str(path))}: {error.strerror}") from None


def _piped(file: BinaryIO) -> Iterator[str]:
    while line := file.readline(_LONGEST_BYTES):
        yield from clean_lines(line)


def _view(path: str, found: Found, rules: Sequence[Rule]) -> dict[str, Any]:
    """What was found in one log, as programs get it."""
    import msgspec

    from supervisor.core.diagnosis.explain import of_log, plan_words

    diagnosis = of_log(found, rules)
    cause = diagnosis.cause if diagnosis is not None else None
    steps = diagnosis.steps if diagnosis is not None else ()
    view = {
        "path": path,
        "cause": cause.name if cause is not None else None,
        "title": cause.title if cause is not None else NOTHING,
        "means": cause.means if cause is not None else "",
        "fix": cause.fix if cause is not None else "",
        "line": diagnosis.line if diagnosis is not None else 0,
        "seen": diagnosis.seen if diagnosis is not None else "",
        "steps": list(steps),
        "plan": plan_words(steps),
    }
    content: dict[str, Any] = msgspec.to_builtins(found)
    content["notes"] = [{**note, "means": _note_means(sign)} for note, sign in _pairs(content["notes"], found.notes)]
    return view | content


def _pairs(plain: Sequence[dict[str, Any]], signs: Sequence[Sign]) -> Iterator[tuple[dict[str, Any], Sign]]:
    return zip(plain, signs, strict=True)


def _note_means(sign: Sign) -> str:
    """What a note says; of a sign that came too late to be a cause, that."""
    return sign.means or "another process had failed before: this follows from it"


def _show(view: dict[str, Any]) -> None:
    head = screen.escaped(view["path"]) if view["path"] != _STDIN else "standard input"
    cause = view["cause"]
    click.echo(f"{head}: {cause}: {view['title']}" if cause else f"{head}: {NOTHING}")
    for label, text in _facts(view):
        for line in screen.wrapped(text, label, _LABELS):
            click.echo(line)


def _facts(view: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if view["cause"]:
        yield "seen", f"line {view['line']}: {view['seen']}"
        if view["site"] and view["site"] not in view["seen"]:
            yield "raised", view["site"]
        yield "means", view["means"]
        yield "plan", view["plan"]
        yield "you can", view["fix"]
    for note in view["notes"]:
        yield "note", f"line {note['number']}: {note['means']}"


def _show_rules(rules: Sequence[Rule], *, as_json: bool) -> None:
    if as_json:
        import msgspec

        screen.show_json({"version": 1, "rules": [msgspec.to_builtins(rule) for rule in rules]})
        return
    rows = [[rule.name, rule.cause, rule.kind, rule.scope, rule.match] for rule in rules]
    screen.show_table(["RULE", "CAUSE", "KIND", "SCOPE", "MATCHES"], rows, whole_in_pipes=True)
