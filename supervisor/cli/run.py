"""The verb that starts the daemon."""

from __future__ import annotations

from pathlib import Path

import click

from supervisor.cli.client import Target
from supervisor.cli.examples import examples


@click.command(
    "run",
    epilog=examples(
        "yolo-supervisor run",
        "yolo-supervisor run --config ~/yolo/config.toml",
    ),
)
@click.option("--config", metavar="FILE", help="The configuration; default: the user's, else the system's.")
@click.pass_context
def run_verb(ctx: click.Context, config: str | None) -> None:
    """Start the daemon in the foreground; systemd starts the same process.

    SIGTERM or Ctrl-C ends the daemon, not the trainings: the next daemon goes on with them (`drain` ends them).
    Exit codes: 78 for a bad configuration, 73 if another daemon runs on the same state directory.
    """
    from supervisor import daemon

    chosen = config or (ctx.find_object(Target) or Target()).config
    ctx.exit(daemon.main(Path(chosen).absolute() if chosen else None))
