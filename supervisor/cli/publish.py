"""The verb `publish`: weights of runs with their cards, to where their job files say."""

from __future__ import annotations

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, complete_run, connect, run_path, target_options
from supervisor.cli.examples import examples


@click.command("publish", epilog=examples("yolo-supervisor publish truck"))
@click.argument("name", metavar="NAME", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@target_options
@click.pass_obj
def publish_verb(target: Target, name: str, *, as_json: bool) -> None:
    """Copy a run's best weights, and its last checkpoint, to the folder or backup target that its job file names.

    A card (JSON) beside them says what they are; `adopt CARD` goes on with the training on another server. Finished
    runs with `publish` in their job file do that by themselves.
    """
    answer = connect(target).post(run_path(name, "publish"))
    if as_json:
        screen.show_json(answer)
        return
    click.echo(answer["next"])
