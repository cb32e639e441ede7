"""The program `yolo-supervisor`: its verbs, each imported when it is used, so that every one starts quickly."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from supervisor.cli.failures import INTERRUPTED, BadInput

PROGRAM = "yolo-supervisor"

# section → verb → (module, help in one line); the function has the verb's name
VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "Jobs": {
        "new": ("new", "Print a job file made from a yolo command or an args.yaml."),
        "submit": ("submit", "Check job files and give them to the daemon."),
        "adopt": ("adopt", "Go on with a training that was begun without yolo-supervisor."),
        "wait": ("waiting", "Wait until a run has ended."),
    },
    "Looking": {
        "ls": ("read", "List the runs."),
        "show": ("read", "Show everything about one run."),
        "why": ("read", "Tell what went wrong with a run, and what was done."),
        "incidents": ("incidents", "List what went wrong, in one run or in all."),
        "what-if": ("what_if", "Tell what another policy would have decided."),
        "report": ("report", "Tell where the time of a run went, or of all."),
        "logs": ("logs", "Print or follow what the training wrote."),
        "plot": ("plot", "Draw loss and mAP over all attempts, with the restarts."),
        "explain-log": ("explain_log", "Tell what any training's log says about its end."),
        "checkpoints": ("checkpoints", "List a run's checkpoints, or verify any files."),
        "status": ("read", "Show how the server stands."),
    },
    "Orders": {
        "stop": ("orders", "Stop runs at their next saved epoch, or now."),
        "resume": ("orders", "Let held runs go on."),
        "cancel": ("orders", "End runs for good."),
        "retry": ("orders", "Start ended runs again."),
        "rewind": ("lineage", "Go back to an older epoch."),
        "extend": ("lineage", "Train a finished run on."),
        "branch": ("lineage", "Begin a new run at an epoch of another one."),
        "priority": ("orders", "Change which runs start first."),
        "publish": ("publish", "Copy a run's weights to where others take them."),
        "drain": ("orders", "End all trainings gracefully and start none."),
    },
    "GPUs": {
        "gpus": ("gpus", "List the GPUs: how they stand, and who uses them."),
        "gpu": ("gpus", "Show, drain, quarantine, release or test a GPU."),
    },
    "Backups": {
        "backup": ("backup", "List, run, verify, rehearse or restore backups."),
    },
    "Server": {
        "run": ("run", "Start the daemon in the foreground."),
        "prune": ("prune", "Show or do what the [prune] policy lets go."),
        "config": ("configure", "Check or show the configuration."),
        "version": ("configure", "Show versions."),
        "completion": ("configure", "Print the completion script of a shell."),
    },
}
_PLACES = {verb: place for verbs in VERBS.values() for verb, place in verbs.items()}


class Verbs(click.Group):
    """A group that knows its verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        return [*_PLACES, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        if cmd_name not in _PLACES:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"supervisor.cli.{_PLACES[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_verb")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest verb where one is misspelt."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise _with_nearest(error, args[0]) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs by section."""
        del ctx
        for section, verbs in VERBS.items():
            with formatter.section(section):
                formatter.write_dl([(verb, text) for verb, (_, text) in verbs.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Turn what is wrong with a person's file into exit code 2, and an interrupt into silence."""
        from supervisor.errors import UserError

        try:
            return super().invoke(ctx)
        except UserError as error:
            raise BadInput(str(error)) from error
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            _leave_pipe()
            raise SystemExit(0) from None


def _leave_pipe() -> None:
    """Whoever read our output has gone: let the flush at exit write to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _with_nearest(error: click.UsageError, word: str) -> click.UsageError:
    import difflib

    near = difflib.get_close_matches(word, list(_PLACES), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return click.UsageError(f"There is no verb '{word}'.{hint}", error.ctx)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", metavar="PATH", help="The daemon's socket.")
@click.option("--config", metavar="FILE", help="The configuration to find the daemon, or its journal, by.")
@click.pass_context
def program(ctx: click.Context, socket: str | None, config: str | None) -> None:
    """Keep YOLO trainings alive until they are finished.

    Drop a job file into the jobs folder or `submit` it; `ls` shows what became of it. `VERB --help` has examples.
    """
    from supervisor.cli.client import Target

    ctx.obj = Target(socket, config)
