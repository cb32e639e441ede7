"""The verb `new`: a job file from a command that people know already, or from an old training's args.yaml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, Failure
from supervisor.cli.screen import note

if TYPE_CHECKING:
    from supervisor.drafts import Environment


@click.command(
    "new",
    epilog=examples(
        "yolo-supervisor new -- yolo detect train model=yolo11s.pt data=truck.yaml epochs=300 > truck.toml",
        "yolo-supervisor new --from runs/detect/train7/args.yaml -o truck.toml",
    ),
    context_settings={"ignore_unknown_options": True},
)
@click.argument("command", nargs=-1, metavar="[-- yolo …]")
@click.option("--from", "args_yaml", metavar="FILE", help="An args.yaml that Ultralytics wrote.")
@click.option("--output", "-o", metavar="FILE", help="Write it there; default: standard output.")
def new_verb(command: tuple[str, ...], args_yaml: str | None, output: str | None) -> None:
    """Print a job file with comments, absolute paths and the interpreter of the active environment."""
    if bool(command) == bool(args_yaml):
        raise click.UsageError("give either a command after --, or --from FILE")
    text = _from_file(Path(args_yaml)) if args_yaml else _from_command(list(command))
    if output is None:
        click.echo(text, nl=False)
        return
    _write_new(Path(output), text)
    note(f"{output} is written; look it through, then `yolo-supervisor submit {output}`")


def _from_command(command: list[str]) -> str:
    from supervisor.drafts import draft_from_yolo_command

    return draft_from_yolo_command(command, _environment())


def _from_file(path: Path) -> str:
    from supervisor.drafts import draft_from_args_yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    return draft_from_args_yaml(text, _environment(ask=True))


def _environment(*, ask: bool = False) -> Environment:
    """Where we are; with `ask` the interpreter is asked for its defaults, which an args.yaml is full of."""
    from supervisor.drafts import Environment, active_interpreter

    python = active_interpreter(os.environ)
    return Environment(Path.cwd(), python=python, known_defaults=defaults_of(python) if ask and python else {})


def defaults_of(python: str) -> dict[str, Any]:
    """The defaults of the Ultralytics in that environment; none where it cannot be asked."""
    from supervisor.cli.plan import interpreter_cache
    from supervisor.clock import WallClock
    from supervisor.effects.interpreters import Interpreters
    from supervisor.errors import UserError

    try:
        known = Interpreters(interpreter_cache(), WallClock()).describe(python)
    except UserError as error:
        note(f"the library's defaults are not known, so all arguments are written: {error}")
        return {}
    return {name: argument.default for name, argument in known.train_args.items()}


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(f"{path} is there already; choose another name or remove it") from None
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}") from None
