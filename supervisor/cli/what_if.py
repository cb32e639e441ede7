"""What another policy would have made of the failures of the past. Reads the journal, changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View, complete_run, settings, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, NoDaemon, NoSuchRun, Refused
from supervisor.cli.incidents import since_when
from supervisor.cli.screen import duration_text, time_text

if TYPE_CHECKING:
    from supervisor.core.diagnosis.what_if import Other, Replay
    from supervisor.core.model import Run
    from supervisor.journal import Journal

# a key of [defaults.restart] → the field of a job's Restart
_FIELDS = {
    "no_progress": "no_progress",
    "backoff": "backoff_s",
    "backoff_max": "backoff_max_s",
    "hang_after": "hang_after_s",
    "remedies": "remedies",
}
_PLAIN_JOB = b'command = ["true"]\ncheckpoint_files = []\nfamily = "custom"\n'  # all else comes from [defaults]
_ALL_ROWS = 10**9


@click.command(
    "what-if",
    epilog=examples(
        "yolo-supervisor what-if --policy patient.toml",
        "yolo-supervisor what-if --policy patient.toml truck --since 90d",
        "printf '[defaults.restart]\\nno_progress = 10\\n' > patient.toml",
    ),
)
@click.argument("name", required=False, shell_complete=complete_run)
@click.option("--policy", metavar="FILE", required=True, help="A TOML file with [defaults.restart] and [[rule]].")
@click.option("--since", metavar="DURATION", help="Only failures since then, such as 90d.")
@click.option("--all", "every", is_flag=True, help="Also failures that would have been decided the same.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@target_options
@click.pass_obj
def what_if_verb(
    target: Target, name: str | None, policy: str, since: str | None, *, every: bool, as_json: bool
) -> None:
    """Decide the failures of the past once more, under another policy, and tell what would have differed.

    FILE holds [defaults.restart], [[rule]], or both, as config.toml does. A key that it does not name stays as it was;
    a job file's own restart keys win, as always. With [[rule]] its rules take the place of those that were configured.

    What happened after a decision is known only for the one that was taken: of each run the replay ends at the first
    failure after which only one of the two policies would have made another attempt.
    """
    view = _replayed(target, name, _policy_of(Path(policy)), since_when(since))
    if as_json:
        screen.show_json(view)
        return
    for failure in view["failures"]:
        if every or failure["differs"]:
            _show_failure(failure)
    for line in _summary_lines(view["summary"]):
        click.echo(line)


def _policy_of(path: Path) -> Other:
    """The policy that FILE asks for. Raises UserError or BadInput."""
    from supervisor import config, jobspec, toml_errors
    from supervisor.core.diagnosis.tables import RULES
    from supervisor.core.diagnosis.what_if import Other

    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    table, source = toml_errors.read(data, str(path))
    _refuse_the_rest(table, source)
    parsed = config.parse(data, str(path), mountinfo=Path("/dev/null"))  # its folders are of no account
    plain = jobspec.parse(_PLAIN_JOB, path="job.toml", owner=0, defaults=parsed.defaults, now=0.0).job.restart
    named = table.get("defaults", {}).get("restart", {})
    restart = {_FIELDS[key]: getattr(plain, _FIELDS[key]) for key in named}
    rules = tuple(rule for rule in config.rules(parsed) if rule not in RULES)
    return Other(restart=restart, rules=rules if "rule" in table else None)


def _refuse_the_rest(table: Mapping[str, Any], source: Any) -> None:
    """Nothing else of a configuration takes part in these decisions: to read and ignore it would mislead."""
    from supervisor.errors import Problem
    from supervisor.toml_errors import refusal

    defaults = table.get("defaults", {})
    inner = [("defaults", key) for key in defaults if key != "restart"] if isinstance(defaults, dict) else []
    wrong = [*((key,) for key in table if key not in {"defaults", "rule"}), *inner]
    problem = Problem("what-if replays only [defaults.restart] and [[rule]]", hint="remove it from this file")
    if wrong:
        raise refusal(source.file, [source.problem(path, problem) for path in wrong])
    if not defaults and "rule" not in table:
        raise BadInput(f"{source.file}: there is neither [defaults.restart] nor [[rule]] in it")


def _replayed(target: Target, name: str | None, other: Other, since_at: float) -> View:
    from supervisor.core.diagnosis import what_if
    from supervisor.journal import Journal

    path = _journal_of(target)
    try:
        with closing(Journal.open(path, read_only=True)) as journal:
            runs = _chosen(journal, name, since_at)
            server = journal.server_rows()
            replays = [_replay(journal, run, server, other, since_at) for run in runs]
    except FileNotFoundError:
        raise NoDaemon(f"there is no journal at {path}") from None
    return what_if.view(replays, time.time())


def _journal_of(target: Target) -> Path:
    from supervisor.layout import journal_file

    if target.socket and not target.config:
        raise Refused("what-if reads the journal itself: name its configuration by --config, not its socket")
    return journal_file(settings(target).server.state_dir)


def _chosen(journal: Journal, name: str | None, since_at: float) -> list[Run]:
    """The run that was named, or all that were not over before."""
    from supervisor.core import views

    world = journal.load()
    if name is not None:
        run = views.find_run(world, name)
        if run is None:
            raise NoSuchRun(views.no_such_run(world, name))
        return [run]
    return [run for run in (*world.live.values(), *world.ended.values()) if run.phase_since >= since_at or run.busy]


def _replay(journal: Journal, run: Run, server: Sequence[Any], other: Other, since_at: float) -> Replay:
    from msgspec.structs import replace

    from supervisor.core.diagnosis import what_if

    own = _own_keys(journal.source(run.job.revision))
    restart = {field: value for field, value in other.restart.items() if field not in own}
    rows = journal.history(run.id, limit=_ALL_ROWS)
    return what_if.replay(run, rows, server, replace(other, restart=restart), since_at)


def _own_keys(data: bytes | None) -> set[str]:
    """The fields of Restart that the job file itself names: these win over any configuration."""
    from supervisor import toml_errors
    from supervisor.errors import UserError

    try:
        table = toml_errors.read(data, "job.toml")[0].get("restart", {}) if data else {}
    except UserError:
        return set()  # a file that cannot be read now (the rules became stricter) names nothing
    return {_FIELDS[key] for key in table if key in _FIELDS} if isinstance(table, dict) else set()


# ---- what a person reads
def _show_failure(failure: View) -> None:
    head = f"{time_text(failure['at'])[:16]}  {failure['run']} attempt {failure['attempt']}: {failure['title']}"
    click.echo(click.style(head, bold=True) if screen.colourful() else head)
    if failure["seen"]:
        _line("seen", failure["seen"])
    _line("was", _decision(failure["before"]) + ("" if failure["recorded"] else " (another version decided)"))
    _line("would be", _decision(failure["after"]) if failure["differs"] else "the same")
    if failure["person_s"]:
        _line("", f"it waited {duration_text(failure['person_s'])} for a person")
    if failure["end"]:
        _line("", f"{failure['end']}: the replay of this run ends here")


def _line(label: str, text: str) -> None:
    for line in screen.wrapped(text, label, 10):
        click.echo(line)


def _decision(decision: View) -> str:
    waits = decision["goes_on"] and not decision["waiting_for"] and "tried again" not in decision["what"]
    after = f" (after {duration_text(decision['delay_s'])})" if waits and decision["delay_s"] else ""
    cause = f" [{decision['cause']}]" if decision["cause"] else ""
    return f"{decision['what']}{after}{cause}"


def _summary_lines(summary: View) -> list[str]:
    if not summary["failures"]:
        return ["no failures to decide anew"]
    head = f"{summary['failures']} failures of {summary['runs']} runs"
    lines = [f"{head}: {summary['different']} decided differently, {summary['other_wait']} only after another wait"]
    saved_s = summary["saved_s"]
    told = (
        ("given up or held, where it went on", ", ".join(summary["ends_earlier"])),
        ("gone on, where it was given up or held", ", ".join(summary["goes_on_longer"])),
        ("waiting saved" if saved_s > 0 else "waiting added", duration_text(abs(saved_s)) if abs(saved_s) >= 1 else ""),
        ("spent waiting for a person instead", duration_text(summary["person_s"]) if summary["person_s"] else ""),
        ("failures after the end of a replay, of which nothing is known", str(summary["unknown"] or "")),
        ("failures that another version of the program had decided", str(summary["of_other_version"] or "")),
    )
    return [*lines, *(f"  {label}: {text}" for label, text in told if text)]
