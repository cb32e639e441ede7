"""The verb `backup restore`: a whole server comes back from a target, or one run's files into a new folder."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, settings, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, Failure, NoSuchRun, Refused, TryLater

if TYPE_CHECKING:
    from supervisor import restore_all
    from supervisor.config import Config
    from supervisor.effects.backup.targets.base import Target as BackupTarget

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@click.command(
    "restore",
    epilog=examples(
        "yolo-supervisor backup restore --all --from nas",
        "yolo-supervisor backup restore --all --from nas --server gpu-07 --yes",
        "yolo-supervisor backup restore truck --from nas --to /data/truck-restored",
    ),
)
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Bring the whole server back: journal, runs and job files.")
@click.option(
    "--from", "source", metavar="TARGET", required=True, help="The name of a [[backup]] of the configuration."
)
@click.option("--to", "folder", metavar="DIR", help="The new folder for the files of one run.")
@click.option("--server", metavar="NAME", help="Whose backups; default: this server's own name.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@target_options
@click.pass_context
def restore_verb(
    ctx: click.Context,
    *,
    name: str | None,
    everything: bool,
    source: str,
    folder: str | None,
    server: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring back what a backup target holds.

    With --all, on a new server, before its daemon is started: all runs, their job files and the journal. Then start the
    daemon, and unfinished runs go on from their checkpoints. A run's folder that is there already only gets what it
    lacks, or is left alone where it knows more than the backup. An interrupted restore is simply made again.

    With NAME and --to: the newest backup of one run (NAME or PROJECT/NAME) into a new folder, at any time. Runs whose
    files are gone are restored by the daemon itself: nothing is to be done for these.

    Exit codes: 0 done, 1 files are damaged or missing there, 2 wrong input, 4 refused, 5 no such run there, 75 the
    target cannot be used just now.
    """
    if everything == bool(name):
        raise click.UsageError("give either NAME or --all")
    if everything and folder:
        raise click.UsageError("--all restores to the places of the configuration: --to is for one run")
    if name and not folder:
        raise click.UsageError("give --to DIR: the folder in which the run's files are to lie")
    config = settings(ctx.find_object(Target) or Target())
    with _told(config, source), _opened(config, source, server) as target:
        if name and folder:
            code = _one(target, name, Path(folder).absolute(), as_json=as_json)
        else:
            code = _all(config, target, server or _name(config), yes=yes, as_json=as_json)
    ctx.exit(code)


@contextlib.contextmanager
def _opened(config: Config, name: str, server: str | None) -> Iterator[BackupTarget]:
    from supervisor.effects.backup.targets import open_target

    entry = next((one for one in config.backup if one.name == name), None)
    if entry is None:
        names = ", ".join(one.name for one in config.backup) or "none"
        raise BadInput(
            f"the configuration has no backup target {name}; it has {names}\n"
            f'  fix: write a [[backup]] section with name = "{name}" and where it lies into the configuration'
        )
    target = open_target(entry, server or _name(config), config.server.state_dir, stop=threading.Event())
    target.facts()  # can it be used at all?
    yield target


def _name(config: Config) -> str:
    return config.server.name or socket.gethostname()


@contextlib.contextmanager
def _told(config: Config, name: str) -> Iterator[None]:
    """What goes wrong, in the words and exit codes of the command line. `name`: of the target."""
    from supervisor.core.backups import causes
    from supervisor.effects.backup.fetched import NoRoomError
    from supervisor.effects.backup.targets.base import TargetError
    from supervisor.errors import RetryableError
    from supervisor.state_lock import SecondDaemonError

    try:
        yield
    except TargetError as error:
        kind = causes.kind(error.cause)
        where = next((one.to for one in config.backup if one.name == name), name)
        todo = kind.todo.format(target=name, to=where)
        fix = f"\n  fix: {todo}" if todo else ""
        raise TryLater(f"backup target {name} {kind.means}: {error} ({error.cause}){fix}") from error
    except NoRoomError as error:
        raise Refused(str(error)) from error
    except SecondDaemonError as error:
        raise Refused(f"{error}\n  fix: stop the daemon first; nothing was changed") from error
    except RetryableError as error:
        raise TryLater(str(error)) from error
    except OSError as error:
        raise Failure(f"{error.filename or 'the restore'}: {error.strerror or error}") from error


def _say(text: str) -> None:
    screen.note(text)


# ---- one run
def _one(target: BackupTarget, name: str, folder: Path, *, as_json: bool) -> int:
    from supervisor.effects.backup.whole_run import NoSuchBackupError, epoch_of, restore_one

    try:
        manifest, brought = restore_one(target, name, folder, _say)
    except NoSuchBackupError as error:
        raise NoSuchRun(str(error)) from error
    if as_json:
        view = {
            "version": 1, "run": manifest.run, "project": manifest.project, "name": manifest.name,
            "snapshot": manifest.snapshot, "epoch": epoch_of(manifest), "folder": str(folder), "files": brought.files,
            "bytes": brought.bytes, "wrong": brought.wrong,
        }  # fmt: skip
        screen.show_json(view)
    else:
        click.echo(f"{brought.files} files of {manifest.project}/{manifest.name} are in {folder}")
    _tell_wrong(brought.wrong)
    return Failure.exit_code if brought.wrong else 0


def _tell_wrong(wrong: dict[str, str]) -> None:
    for path, why in sorted(wrong.items()):
        screen.note(f"not restored: {path}: {why}")


# ---- the whole server
def _all(config: Config, target: BackupTarget, server: str, *, yes: bool, as_json: bool) -> int:
    from supervisor import restore_all
    from supervisor.errors import UserError
    from supervisor.state_lock import state_lock

    config.server.state_dir.mkdir(parents=True, exist_ok=True)
    with state_lock(config.server.state_dir):
        try:
            restore_all.refuse_other_state(config.server.state_dir)
        except UserError as error:
            raise Refused(str(error)) from error
        plan = restore_all.make_plan(config, target, server)
        if not as_json:
            _show_plan(config, plan)
        _confirm(yes=yes)
        summary = restore_all.carry_out(config, plan, _say)
    if as_json:
        screen.show_json({"version": 1, "plan": _plan_view(plan), "restored": _summary_view(summary)})
    else:
        _show_summary(summary)
    _tell_wrong(summary.wrong)
    return Failure.exit_code if summary.wrong else 0


def _confirm(*, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("nobody is there to be asked: give --yes; nothing was changed")
    if not click.confirm("Restore this?", default=False):
        raise Failure("nothing was changed")


def _show_plan(config: Config, plan: restore_all.Plan) -> None:
    from supervisor.units import format_size

    rows = [
        [run.name, run.how, str(_epoch(run)), str(run.files), format_size(run.bytes), run.why or run.manifest.phase]
        for run in plan.runs
    ]
    if rows:
        screen.show_table(["RUN", "HOW", "EPOCH", "FILES", "SIZE", "WHY"], rows, whole_in_pipes=True)
    made = screen.time_text(plan.journal.created_at)
    click.echo(
        f"The journal of {plan.server}, of {made}, goes into {config.server.state_dir}; "
        f"{format_size(plan.bytes)} go into {config.server.runs_dir}."
    )
    for path in plan.damaged:
        screen.note(f"damaged there, an older one is taken: {path}")


def _epoch(run: restore_all.RunPlan) -> int:
    from supervisor.effects.backup.whole_run import epoch_of

    return epoch_of(run.manifest)


def _plan_view(plan: restore_all.Plan) -> dict[str, Any]:
    runs = [
        {
            "run": run.name, "how": run.how, "why": run.why, "snapshot": run.manifest.snapshot, "epoch": _epoch(run),
            "files": run.files, "bytes": run.bytes, "folder": str(run.root),
        }
        for run in plan.runs
    ]  # fmt: skip
    return {
        "target": plan.target, "server": plan.server, "journal": plan.journal.snapshot,
        "journal_at": plan.journal.created_at, "runs": runs, "damaged": list(plan.damaged),
    }  # fmt: skip


def _summary_view(summary: restore_all.Summary) -> dict[str, Any]:
    return {
        "runs": summary.runs, "skipped": summary.skipped, "wrong": summary.wrong, "live": summary.live,
        "job_files": summary.job_files, "notes": summary.notes, "moved": summary.moved,
    }  # fmt: skip


def _show_summary(summary: restore_all.Summary) -> None:
    files = sum(summary.runs.values())
    click.echo(f"{len(summary.runs)} runs ({files} files) and {len(summary.job_files)} job files came back.")
    for note in summary.notes:
        screen.note(note)
    names = f": {', '.join(summary.live)}" if summary.live else ""
    click.echo(f"{len(summary.live)} runs go on when the daemon starts{names}.")
    click.echo("next: `systemctl start yolo-supervisor`, or `yolo-supervisor run`")
