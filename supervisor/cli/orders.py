"""Verbs that order: stop, resume, cancel, retry, priority, drain. Each tells what happens next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View, complete_run, connect, run_path, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import Failure, NoDaemon

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
names_argument = click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=complete_run)


def _give(target: Target, names: Sequence[str], verb: str, *, as_json: bool, **body: object) -> None:
    """Order the same of several runs. All are tried; the exit code is that of the first one that failed."""
    client = connect(target)
    _all(names, lambda name: client.post(run_path(name, verb), **body), as_json=as_json)


def _all(names: Sequence[str], order: Callable[[str], View], *, as_json: bool) -> None:
    first: Failure | None = None
    answers = []
    for name in dict.fromkeys(names):
        try:
            answers.append(order(name))
        except NoDaemon:
            raise
        except Failure as failure:
            failure.show()
            first = first or failure
            continue
        if not as_json:
            click.echo(answers[-1]["next"])
    if as_json:
        screen.show_json({"version": 1, "orders": answers})
    if first is not None:
        raise click.exceptions.Exit(first.exit_code)


@click.command("stop", epilog=examples("yolo-supervisor stop truck", "yolo-supervisor stop truck car --now"))
@names_argument
@click.option("--now", is_flag=True, help="End the whole tree at once; what is lost is told.")
@json_option
@target_options
@click.pass_obj
def stop_verb(target: Target, names: tuple[str, ...], *, now: bool, as_json: bool) -> None:
    """Stop runs at their next saved epoch; they are HELD then, and `resume` lets them go on from there."""
    _give(target, names, "stop", as_json=as_json, now=now)


@click.command(
    "resume",
    epilog=examples(
        "yolo-supervisor resume truck",
        "yolo-supervisor resume truck --accept",
        "yolo-supervisor resume truck --undo-changes",
    ),
)
@names_argument
@click.option(
    "--accept",
    is_flag=True,
    help="Agree to what has changed: data set, classes, model, Ultralytics' version.",
)
@click.option(
    "--undo-changes",
    "undo",
    is_flag=True,
    help="Take back what was changed after failures, in whatever phase: it counts from the next attempt on.",
)
@json_option
@target_options
@click.pass_obj
def resume_verb(target: Target, names: tuple[str, ...], *, accept: bool, undo: bool, as_json: bool) -> None:
    """Let held runs go on from their newest good checkpoint; a stop that has not happened yet is taken back.

    A run that is held because its data or its trainer is not what it was goes on with --accept only.

    With --undo-changes alone the run stays where it is: only the arguments (and GPUs) that were changed after failures
    (`show NAME` lists them) are the job file's again when it starts the next time.
    """
    if accept and undo:
        raise click.UsageError("--accept and --undo-changes exclude each other: give one order after the other")
    if undo:
        _give(target, names, "undo", as_json=as_json)
        return
    _give(target, names, "resume", as_json=as_json, **({"accept": True} if accept else {}))


@click.command("cancel", epilog=examples("yolo-supervisor cancel truck", "yolo-supervisor cancel truck --now"))
@names_argument
@click.option("--now", is_flag=True, help="End the whole tree at once; what is lost is told.")
@json_option
@target_options
@click.pass_obj
def cancel_verb(target: Target, names: tuple[str, ...], *, now: bool, as_json: bool) -> None:
    """End runs for good: the training is asked to end, and its files stay where they are."""
    _give(target, names, "cancel", as_json=as_json, now=now)


@click.command("retry", epilog=examples("yolo-supervisor retry truck"))
@names_argument
@json_option
@target_options
@click.pass_obj
def retry_verb(target: Target, names: tuple[str, ...], *, as_json: bool) -> None:
    """Open a new run of ended ones, on the same directory: it goes on from the newest good checkpoint."""
    _give(target, names, "retry", as_json=as_json)


@click.command(
    "priority",
    epilog=examples("yolo-supervisor priority truck 50", "yolo-supervisor priority truck -- -10"),
    context_settings={"ignore_unknown_options": True},  # -10 is a number, no option
)
@names_argument
@click.argument("number", type=click.IntRange(-100, 100), metavar="NUMBER")
@json_option
@target_options
@click.pass_obj
def priority_verb(target: Target, names: tuple[str, ...], number: int, *, as_json: bool) -> None:
    """Change the priority of runs, -100 to 100: a higher one starts first. Running runs keep their places."""
    _give(target, names, "priority", as_json=as_json, priority=number)


@click.command(
    "drain",
    epilog=examples(
        "yolo-supervisor drain",
        "yolo-supervisor drain --now",
        "yolo-supervisor drain --off",
    ),
)
@click.option("--now", is_flag=True, help="Ask all trainings to end at once, not at their next saved epoch.")
@click.option("--off", is_flag=True, help="End the drain: trainings start again.")
@json_option
@target_options
@click.pass_obj
def drain_verb(target: Target, *, now: bool, off: bool, as_json: bool) -> None:
    """End all trainings gracefully and start none, such as before a reboot. A new daemon starts them again."""
    if now and off:
        raise click.UsageError("--now and --off exclude each other")
    answer = connect(target).post("/v1/drain", now=now, off=off)
    if as_json:
        screen.show_json(answer)
        return
    click.echo(answer["next"])
