"""Waiting until a run has ended, or needs a person."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from supervisor.cli import screen
from supervisor.cli.client import Client, Target, View, complete_run, connect, run_path, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import NoDaemon, TryLater

LOOK_EVERY_S = 0.5
TIMED_OUT = 124  # as timeout(1)
EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 20, "CANCELLED": 21, "HELD": 22}


@click.command(
    "wait",
    epilog=examples(
        "yolo-supervisor wait truck && ./deploy.sh",
        "yolo-supervisor wait truck --timeout 2h; echo $?",
    ),
)
@click.argument("name", shell_complete=complete_run)
@click.option("--timeout", metavar="TIME", help="Give up after this time, such as 90s or 2h.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON when it has ended.")
@target_options
@click.pass_context
def wait_verb(ctx: click.Context, name: str, timeout: str | None, *, as_json: bool) -> None:
    """Wait until a run has ended or is held.

    Exit codes: 0 SUCCEEDED, 20 FAILED, 21 CANCELLED, 22 HELD, 124 time-out.
    """
    client = connect(ctx.find_object(Target) or Target())
    ctx.exit(wait_and_tell(client, name, deadline_of(timeout), as_json=as_json))


def deadline_of(timeout: str | None) -> float | None:
    """When to give up, by the monotonic clock. Raises UserError for what is no duration."""
    if timeout is None:
        return None
    from supervisor.units import parse_duration

    return time.monotonic() + parse_duration(timeout)


def wait_and_tell(client: Client, name: str, deadline: float | None, *, as_json: bool) -> int:
    """Wait for a run and print how it ended; the exit code."""
    view, code = wait_for(client, name, deadline)
    if as_json:
        screen.show_json(view)
    elif code == TIMED_OUT:
        screen.note(f"{view['id']} is still {view['phase']}: {view['explanation']}")
    else:
        click.echo(f"{view['id']} {screen.phase_text(view['phase'])}: {view['reason']}")
    return code


def wait_for(
    client: Client,
    name: str,
    deadline: float | None,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[View, int]:
    """Wait until the run has ended or is held, or until `deadline`: its view and the exit code.

    The run that carries the name now is waited for, even if a later one takes the name over. A daemon that is
    exchanged meanwhile is waited for too; only one that does not answer at the start raises NoDaemon.
    """
    view = client.get(run_path(name))
    silent = False
    while view["phase"] not in EXIT_CODES:
        if deadline is not None and time.monotonic() >= deadline:
            return view, TIMED_OUT
        sleep(LOOK_EVERY_S)
        try:
            view, silent = client.get(run_path(view["id"])), False
        except (NoDaemon, TryLater) as failure:
            if not silent:
                screen.note(f"{failure.message.splitlines()[0]}; still waiting")
            silent = True
    return view, EXIT_CODES[view["phase"]]
