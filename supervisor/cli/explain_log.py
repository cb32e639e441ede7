"""The verb `explain-log`: what the log of any training says about its end, without a daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
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
NO_TEXT = "no text"
_SILENT = "a log has no word of SIGKILL, of power or of the kernel; of a run, `yolo-supervisor why NAME` knows more"
_STDIN = "-"
_LONGEST_BYTES = 1024 * 1024
_WIDE = 120  # columns of a terminal with room for all that there is to a rule
_FEW = 3  # lines behind the last frame of a progress bar
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

    FILE is a log of Ultralytics, YOLOv5, v7, v9 or anything else in Python, the folder of an attempt or of a run (its
    newest attempt is meant), or - for standard input. Only the log is looked at: what the machine says (an
    out-of-memory kill, a mount that is gone) is not asked.
    """
    if not files and not list_rules:
        raise click.UsageError("Name a FILE, or - for standard input.")
    rules = _rules(config or target.config, asked=bool(config))
    if list_rules:
        _show_rules(rules, as_json=as_json)
        return
    views, problems = _explained(files, rules)
    if as_json:
        screen.show_json({"version": 1, "files": views})
    else:
        for view in views:
            _show(view)
    if problems:
        raise BadInput("\n".join(problems))


def _explained(files: Sequence[str], rules: Sequence[Rule]) -> tuple[list[dict[str, Any]], list[str]]:
    """A view for each file that can be read, and what is wrong with the others."""
    views: list[dict[str, Any]] = []
    problems = [problem for name in files if (problem := _explain(name, rules, views))]
    return views, problems


def _explain(name: str, rules: Sequence[Rule], views: list[dict[str, Any]]) -> str:
    """Add a view of this file; or return what is wrong with it."""
    try:
        path = _log_of(name)
        views.append(_view(str(path), _scanned(path, rules), rules))
    except BadInput as error:
        return error.message
    return ""


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
    """The log that is meant: a file, or that of an attempt's or a run's folder. Raises BadInput."""
    path = Path(name)
    if name == _STDIN or path.is_file():
        return path
    if not path.exists():
        raise BadInput(f"there is no file {screen.escaped(name)}")
    if not path.is_dir():
        raise BadInput(f"{screen.escaped(name)} is no regular file: pipe it, with - for standard input")
    for log in (AttemptDirectory(path).log, *_of_attempts(path)):
        if log.is_file():
            return log
    raise BadInput(f"there is no log in {screen.escaped(name)}: name a file, or the folder of an attempt or a run")


def _of_attempts(run: Path) -> Iterator[Path]:
    """The logs of a run's attempts, the newest first."""
    numbered = sorted((int(one.name) for one in run.glob("attempts/*") if one.name.isdecimal()), reverse=True)
    return (AttemptDirectory(run / "attempts" / str(number)).log for number in numbered)


def _scanned(path: Path, rules: Sequence[Rule]) -> Found:
    from supervisor.core.diagnosis.signs import scan
    from supervisor.effects.attempt_log import LogLines
    from supervisor.effects.log_scan import numbered

    try:
        if str(path) == _STDIN:
            return scan(_piped(sys.stdin.buffer), rules)
        log = LogLines(path, patient=True)  # the daemon has seconds for a huge log; a person may wait for all of it
        return numbered(scan(log, rules), log)
    except OSError as error:
        raise BadInput(f"cannot read {screen.escaped(str(path))}: {error.strerror}") from None


def _piped(file: BinaryIO) -> Iterator[str]:
    while line := file.readline(_LONGEST_BYTES):
        text = line.replace(b"\0", b"")
        yield from clean_lines(text) if text else ()


def _view(path: str, found: Found, rules: Sequence[Rule]) -> dict[str, Any]:
    """What was found in one log, as programs get it."""
    import msgspec

    from supervisor.core.diagnosis.advice import filled
    from supervisor.core.diagnosis.explain import of_log, plan_words

    diagnosis = of_log(found, rules)
    cause = diagnosis.cause if diagnosis is not None else None
    steps = diagnosis.steps if diagnosis is not None else ()
    view = {
        "path": path,
        "cause": cause.name if cause is not None else None,
        "title": cause.title if cause is not None else NOTHING if found.lines else NO_TEXT,
        "means": cause.means if cause is not None else "",
        "fix": filled(cause.fix, diagnosis.seen) if cause is not None and diagnosis is not None else "",
        "line": diagnosis.line if diagnosis is not None else 0,
        "seen": diagnosis.seen if diagnosis is not None else "",
        "steps": list(steps),
        "plan": plan_words(steps),
    }
    content: dict[str, Any] = msgspec.to_builtins(found)
    content["cut"] = _is_cut(found)
    content["notes"] = [{**note, "means": _note_means(sign)} for note, sign in _pairs(content["notes"], found.notes)]
    return view | content


def _is_cut(found: Found) -> bool:
    """True for a log that ends within its training: whatever ended that wrote nothing."""
    return 0 < found.progressed >= found.lines - _FEW and not found.signs and not found.error


def _pairs(plain: Sequence[dict[str, Any]], signs: Sequence[Sign]) -> Iterator[tuple[dict[str, Any], Sign]]:
    return zip(plain, signs, strict=True)


def _note_means(sign: Sign) -> str:
    """What a note says; of a sign that came too late to be a cause, that."""
    return sign.means or "another process had failed before: this follows from it"


def _show(view: dict[str, Any]) -> None:
    head = screen.escaped(view["path"]) if view["path"] != _STDIN else "standard input"
    cause = view["cause"]
    click.echo(f"{head}: {cause}: {view['title']}" if cause else f"{head}: {view['title']}")
    for label, text in _facts(view):
        for line in screen.wrapped(text, label, _LABELS):
            click.echo(line)


def _facts(view: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if view["cause"]:
        yield "seen", f"line {view['line']}: {view['seen']}"
        if view["site"] and view["site"] not in view["seen"]:
            yield "raised", f"{view['error']} ({view['site']})" if view["error"] not in view["seen"] else view["site"]
        yield "means", view["means"]
        yield "plan", view["plan"]
        yield "you can", view["fix"]
    elif view["cut"]:
        yield "", _SILENT
    for note in view["notes"]:
        yield "note", f"line {note['number']}: {note['means']}"


def _show_rules(rules: Sequence[Rule], *, as_json: bool) -> None:
    """All rules in the order in which they are tried, and the plan of each cause."""
    from supervisor.core.diagnosis.diagnose import cause_named
    from supervisor.core.diagnosis.tables import CAUSES

    own = [rule for rule in rules if rule.cause not in CAUSES]
    causes = [*CAUSES.values(), *{rule.cause: cause_named(rule.cause, rule.means, rule.fix) for rule in own}.values()]
    if as_json:
        import msgspec

        shown = {"rules": msgspec.to_builtins(tuple(rules)), "causes": msgspec.to_builtins(causes)}
        screen.show_json({"version": 1, **shown})
        return
    screen.show_table(*_rules_table(rules), whole_in_pipes=True)
    click.echo("")
    first = {rule.cause: f"{rule.remedy}, " for rule in own if rule.remedy}
    plans = [[cause.name, first.get(cause.name, "") + ", ".join(cause.plan)] for cause in causes]
    screen.show_table(["CAUSE", "PLAN"], plans, whole_in_pipes=True)


def _rules_table(rules: Sequence[Rule]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows; kind and scope, which most rules share, only where there is room for them."""
    if screen.on_terminal() and screen.width() < _WIDE:
        return ["RULE", "CAUSE", "MATCHES"], [[rule.name, rule.cause, rule.match] for rule in rules]
    rows = [[rule.name, rule.cause, rule.kind, rule.scope, rule.match] for rule in rules]
    return ["RULE", "CAUSE", "KIND", "SCOPE", "MATCHES"], rows
