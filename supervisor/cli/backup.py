"""Verbs about backups: how they stand, and orders to send, read again, rehearse or restore."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from supervisor.cli import backup_table, screen
from supervisor.cli.backup_waiting import show_drill, wait_for
from supervisor.cli.client import Target, View, complete_backup_target, complete_run, connect, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput
from supervisor.cli.offline import reading

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
target_argument = click.argument(
    "target_name", metavar="[TARGET]", required=False, shell_complete=complete_backup_target
)
wait_option = click.option(
    "--wait",
    is_flag=True,
    help="Wait for what comes of it; exit code 1: it does not work, 75: the target is in trouble.",
)


class BackupVerbs(click.Group):
    """The group; `restore` needs much that the other verbs do not, and is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        return [*super().list_commands(ctx), "restore"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        if cmd_name != "restore":
            return super().get_command(ctx, cmd_name)
        command: click.Command = import_module("supervisor.cli.restore").restore_verb
        return command


@click.group(
    "backup",
    cls=BackupVerbs,
    epilog=examples(
        "yolo-supervisor backup ls",
        "yolo-supervisor backup run truck --wait",
        "yolo-supervisor backup verify nas --whole --wait",
        "yolo-supervisor backup drill nas",
        "yolo-supervisor backup restore --all --from nas",
    ),
)
def backup_verb() -> None:
    """Look at backups, or order one.

    Targets are the [[backup]] tables of the configuration; docs/backup.md tells how one is set up. Backups are made by
    the schedule, after each new best and at the end of a run: nothing here must be called for that.
    """


@backup_verb.command(
    "ls",
    short_help="List the targets, and what of which run lies there.",
    epilog=examples(
        "yolo-supervisor backup ls",
        "yolo-supervisor backup ls truck",
        "yolo-supervisor backup ls --json | jq -r '.runs[] | select(.covered | not) | .name'",
    ),
)
@click.argument("name", required=False, shell_complete=complete_run)
@click.option("--all", "-a", "every", is_flag=True, help="Also runs that ended more than a day ago and are backed up.")
@json_option
@target_options
@click.pass_obj
def ls_verb(target: Target, name: str | None, *, every: bool, as_json: bool) -> None:
    """List the targets and how the runs stand on them, or only the run NAME; below it what was proven, and warnings.

    STATE of a target is ok, due, sending, verifying, drilling, quiet (it is not its hour), waiting (for the next try)
    or trouble. A run is "covered" where all its verified checkpoints lie there, verified again.
    """
    view = reading(target).backups(name, every=every)
    if as_json:
        screen.show_json(view)
    else:
        backup_table.show(view)


@backup_verb.command(
    "run",
    short_help="Back up now: a run, or all that has changed.",
    epilog=examples(
        "yolo-supervisor backup run",
        "yolo-supervisor backup run truck --to nas --wait",
        "yolo-supervisor backup run truck --accept-loss",
    ),
)
@click.argument("name", required=False, shell_complete=complete_run)
@click.option("--to", "target_name", metavar="TARGET", default="", help="Only to this target; default: to all of them.")
@click.option(
    "--accept-loss", is_flag=True, help="Also where it holds less than the backup before: files are gone here."
)
@wait_option
@json_option
@target_options
@click.pass_context
def run_verb(
    ctx: click.Context, name: str | None, target_name: str, *, accept_loss: bool, wait: bool, as_json: bool
) -> None:
    """Back up the run NAME now, or all that has changed and the journal; in quiet hours too.

    A run whose folder is empty, has moved to another disk, or lacks files that it had is not backed up over what is
    there: --accept-loss agrees to it, for this one time.
    """
    if accept_loss and not name:
        raise BadInput("--accept-loss: name the run that has lost something")
    _order(ctx, "run", wait=wait, as_json=as_json, name=name or "", target=target_name, accept_loss=accept_loss)


@backup_verb.command(
    "verify",
    short_help="Read again what lies on a target.",
    epilog=examples("yolo-supervisor backup verify nas --wait", "yolo-supervisor backup verify nas --whole --wait"),
)
@target_argument
@click.option("--whole", is_flag=True, help="All files, not only the part that was not read for longest.")
@wait_option
@json_option
@target_options
@click.pass_context
def verify_verb(ctx: click.Context, target_name: str | None, *, whole: bool, wait: bool, as_json: bool) -> None:
    """Read files on TARGET, or on all targets, again and compare them with their checksums.

    That is done each day by itself, so that everything is read within `verify_within`. What is found damaged is told,
    and sent anew where it is still here.
    """
    _order(ctx, "verify", wait=wait, as_json=as_json, target=target_name or "", whole=whole)


@backup_verb.command(
    "drill",
    short_help="Rehearse a restore, and prove that it works.",
    epilog=examples(
        "yolo-supervisor backup drill",
        "yolo-supervisor backup drill nas --run truck",
        "yolo-supervisor backup drill --json | jq '{ok, loaded, trained, epoch, epoch_wanted}'",
    ),
)
@target_argument
@click.option("--run", "name", metavar="NAME", default="", shell_complete=complete_run, help="This run; default: any.")
@click.option("--wait/--no-wait", default=True, help="Wait for the result (the default), or only order it.")
@json_option
@target_options
@click.pass_context
def drill_verb(ctx: click.Context, target_name: str | None, name: str, *, wait: bool, as_json: bool) -> None:
    """Fetch a backed-up run into a scratch folder, check it, and train one batch from it on the CPU.

    The epoch and the metric are compared with those that were noted when it was backed up. Nothing of the run itself is
    touched. Without TARGET the one is taken that was proven longest ago. Exit code 0 if it is proven, 1 if it does not
    work or could not be loaded here, which proves nothing, 75 if the target could not be asked.
    """
    _order(ctx, "drill", wait=wait, as_json=as_json, target=target_name or "", name=name)


def _order(ctx: click.Context, verb: str, *, wait: bool, as_json: bool, **body: Any) -> None:
    client = connect(ctx.find_object(Target) or Target())
    taken: View = client.post(f"/v1/backups/{verb}", **{key: value for key, value in body.items() if value})
    if not wait:
        screen.show_json(taken) if as_json else click.echo(taken["next"])
        return
    screen.note(taken["next"])
    results, code = wait_for(client, taken)
    if verb == "drill":
        show_drill(results[0], as_json=as_json)
    elif as_json:
        screen.show_json({"version": 1, "results": results})
    ctx.exit(code)
