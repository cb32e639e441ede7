"""The verb `prune`: what the [prune] policy would let go and why, doing it, and taking it back from the trash."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View, connect, settings, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import Failure, NoDaemon, Refused
from supervisor.core.words import size

PLAN_TIMEOUT_S = 600.0  # a disk with many runs is walked
LOOK_EVERY_S = 0.5
_INDENT = 2
_ACTIONS = ("delete", "archive", "keep")
_COLOURS = {"delete": "red", "archive": "yellow", "keep": "green"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@click.group(
    "prune",
    invoke_without_command=True,
    epilog=examples(
        "yolo-supervisor prune --dry-run",
        "yolo-supervisor prune --yes",
        "yolo-supervisor prune trash",
        "yolo-supervisor prune --undo 20261122T040000Z-1a2b3c4d",
    ),
)
@click.option("--dry-run", "-n", is_flag=True, help="Change nothing: show every file with keep or delete, and why.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--undo", metavar="ID", help="Take back from the trash what `prune trash` lists under this id.")
@json_option
@target_options
@click.pass_context
def prune_verb(ctx: click.Context, *, dry_run: bool, yes: bool, undo: str | None, as_json: bool) -> None:
    """Carry the [prune] policy out now, or show what it would do.

    What goes is first moved into a trash folder on the same disk, and is gone for good after [prune] trash. Never
    pruned: what has not ended, is open, or is not verified in its backup yet where there is one.
    """
    if ctx.invoked_subcommand is not None:
        return
    target = ctx.find_object(Target) or Target()
    if undo is not None:
        _undo(target, undo, as_json=as_json)
    elif dry_run:
        _show_plan(plan_of(target), as_json=as_json)
    else:
        _do(target, yes=yes, as_json=as_json)


@prune_verb.command("trash", epilog=examples("yolo-supervisor prune trash", "yolo-supervisor prune trash --json"))
@json_option
@target_options
@click.pass_obj
def trash_verb(target: Target, *, as_json: bool) -> None:
    """List what lies in the trash, and until when it can be taken back."""
    view = connect(target, PLAN_TIMEOUT_S).get("/v1/prune/trash")
    if as_json:
        screen.show_json(view)
        return
    rows = [_trash_row(held, view["at"]) for held in view["trash"]]
    if not rows:
        click.echo("the trash is empty")
        return
    screen.show_table(("ID", "WHAT", "SIZE", "GONE IN", "FROM"), rows)


def _trash_row(held: View, now: float) -> list[str]:
    paths = [item["path"] for item in held["items"]]
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    left = "-" if held["until_at"] is None else screen.duration_text(max(0.0, held["until_at"] - now))
    return [held["id"], held["what"], size(held["bytes"]), left, f"{paths[0] if paths else '-'}{more}"]


# ---- showing
def plan_of(target: Target) -> View:
    """What would be done: by the daemon, or, where none runs, by the journal and the disk as they are."""
    try:
        return connect(target, PLAN_TIMEOUT_S).get("/v1/prune")
    except NoDaemon as missing:
        return _offline_plan(target, missing)


def _offline_plan(target: Target, missing: NoDaemon) -> View:
    import sqlite3
    from contextlib import closing

    from supervisor.effects.prune.carry_out import Pruner
    from supervisor.effects.prune.showing import Showing
    from supervisor.journal import Journal
    from supervisor.layout import journal_file
    from supervisor.prune_config import local_folders

    if target.socket and not target.config:
        raise missing
    config = settings(target)
    try:
        with closing(Journal.open(journal_file(config.server.state_dir), read_only=True)) as journal:
            world = journal.load()
    except (OSError, sqlite3.Error) as error:
        raise NoDaemon(f"{missing.message}\n  its journal cannot be read: {error}") from None
    screen.note("daemon is not running; this is what its journal and the disk say (read-only)")
    server = config.server
    pruner = Pruner(
        lambda: config.prune,
        server.runs_dir,
        lambda: world,
        time.time,
        state_dir=server.state_dir,
        closed=lambda: local_folders(config.backup),
    )
    return {**Showing(pruner).plan(), "offline": True}


def _show_plan(view: View, *, as_json: bool) -> None:
    if as_json:
        screen.show_json(view)
    else:
        for line in _plan_lines(view):
            click.echo(line)
    for problem in view["problems"]:
        screen.note(f"not looked at: {problem}")
    if view["refused"]:
        raise Refused(view["refused"])


def _plan_lines(view: View) -> Iterator[str]:
    for run, rows in groupby(view["rows"], key=lambda row: (row["project"], row["name"])):
        yield from _run_lines(f"{run[0]}/{run[1]}", list(rows))
    if view["left_out"]:
        yield f"… and {view['left_out']} more rows"
    for action in _ACTIONS:
        total = view["totals"][action]
        yield f"{_styled(action)}: {total['runs']} runs, {total['files']} files, {size(total['bytes'])}"


def _run_lines(name: str, rows: Sequence[View]) -> Iterator[str]:
    """The run, then each of its files below what becomes of them and why; in a terminal these are counted."""
    first, *files = rows
    yield f"{_styled(first['action'])}  {name}  {size(first['bytes'])}"
    yield from screen.wrapped(first["reason"], "", _INDENT)
    groups: dict[tuple[str, str], list[View]] = {}
    for row in files:
        groups.setdefault((row["action"], row["reason"]), []).append(row)
    base = len(first["path"]) + 1
    for (action, reason), members in groups.items():
        if not screen.on_terminal():
            yield from screen.wrapped(f"{action}: {reason}", "", _INDENT)
            yield from (f"{'':<{_INDENT + 4}}{row['path'][base:]}  {size(row['bytes'])}" for row in members)
            continue
        named = ", ".join(row["path"][base:] for row in members[:3])
        more = f" and {len(members) - 3} more" if len(members) > 3 else ""
        total = size(sum(row["bytes"] for row in members))
        yield from screen.wrapped(f"{named}{more} ({total}): {reason}", f"  {_styled(action)}", 10)


def _styled(action: str) -> str:
    return click.style(action, fg=_COLOURS[action]) if screen.colourful() else action


# ---- doing
def _do(target: Target, *, yes: bool, as_json: bool) -> None:
    client = connect(target, PLAN_TIMEOUT_S)
    if not yes and sys.stdin.isatty() and not as_json:
        plan = client.get("/v1/prune")
        _show_plan(plan, as_json=False)
        if not any(plan["totals"][action]["files"] for action in ("delete", "archive")):
            click.echo("nothing is to go; what lay in the trash long enough is purged")
        if not click.confirm("Do this?", default=False):
            raise Failure("nothing was changed")
    client.post("/v1/prune")
    view = client.get("/v1/prune/newest")
    while view["pruning"]:
        time.sleep(LOOK_EVERY_S)
        view = client.get("/v1/prune/newest")
    if as_json:
        screen.show_json(view)
        return
    result = view["result"] or {}
    moved, purged = result.get("moved_files", 0), result.get("purged_files", 0)
    click.echo(f"{moved} files ({size(result.get('moved_bytes', 0))}) went into the trash")
    click.echo(f"{purged} files ({size(result.get('purged_bytes', 0))}) are gone for good")
    for skipped in result.get("skipped", ()):
        screen.note(f"not done: {skipped}")
    if result.get("text"):
        raise Refused(result["text"])


def _undo(target: Target, identifier: str, *, as_json: bool) -> None:
    answer = connect(target, PLAN_TIMEOUT_S).post("/v1/prune/undo", id=identifier)
    if as_json:
        screen.show_json(answer)
        return
    for path in answer["taken_back"]:
        click.echo(path)
    click.echo(answer["next"])
