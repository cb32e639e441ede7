"""Verbs about the program itself: config, version, completion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View, connect
from supervisor.cli.examples import examples
from supervisor.cli.failures import Failure

if TYPE_CHECKING:
    from supervisor.config import Config

LIBRARIES = (
    "apscheduler", "click", "h11", "msgspec", "nvidia-ml-py", "psutil", "requests", "rich", "starlette", "uvicorn",
    "watchdog",
)  # fmt: skip

config_option = click.option("--config", metavar="FILE", help="The file; default: the user's, else the system's.")


@click.group("config")
def config_verb() -> None:
    """Check or show the configuration."""


@config_verb.command(
    "check",
    epilog=examples(
        "yolo-supervisor config check",
        "yolo-supervisor config check --config /etc/yolo-supervisor/config.toml",
    ),
)
@config_option
@click.pass_obj
def check_verb(target: Target, config: str | None) -> None:
    """Read the configuration and name every mistake in it; exit code 2 if there is one.

    Each [[rule]] is tried on long lines, which the daemon does not do when it starts.
    """
    path, settings = _read(target, config)
    _try_rules(str(path), settings)
    if path is None:
        click.echo("there is no configuration file: the built-in defaults hold")
    else:
        click.echo(f"{path} is valid")
    if settings.prune is None:
        screen.note("note: there is no [prune] table: nothing is ever pruned")


def _try_rules(file: str, settings: Config) -> None:
    if not settings.rule:
        return
    from supervisor.config import rules
    from supervisor.effects.log_scan import try_out
    from supervisor.errors import Problem
    from supervisor.toml_errors import refusal, shown

    slow = [(rule, why) for rule in rules(settings)[: len(settings.rule)] if (why := try_out(rule))]
    if slow:
        hint = "repeat nothing that repeats itself, such as (a+)+ or (.*x)*; see `explain-log`"
        words = "this pattern takes too long"
        problems = [
            Problem(f"{words} on {why}", key=f"rule {rule.name}", got=shown(rule.match), hint=hint)
            for rule, why in slow
        ]
        raise refusal(file, problems)


@config_verb.command(
    "show",
    epilog=examples(
        "yolo-supervisor config show",
        "yolo-supervisor config show --running --json",
    ),
)
@config_option
@click.option("--running", is_flag=True, help="Ask the running daemon instead of reading the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.pass_obj
def show_verb(target: Target, config: str | None, *, running: bool, as_json: bool) -> None:
    """Show the configuration in effect, defaults included and secrets left out."""
    if running:
        shown = connect(Target(target.socket, config or target.config)).get("/v1/config")["config"]
    else:
        from supervisor.config import show

        _, settings = _read(target, config)
        shown = show(settings)
    if as_json:
        screen.show_json({"version": 1, "config": shown})
    else:
        click.echo(_as_toml(shown), nl=False)


def _read(target: Target, config: str | None) -> tuple[Path | None, Config]:
    from supervisor.config import find_config, load

    chosen = config or target.config
    path = Path(chosen) if chosen else find_config()
    return path, load(path)


def _as_toml(shown: View) -> str:
    from supervisor.toml_errors import format_key, format_value

    blocks = []
    for name, table in shown.items():
        for inner in table if isinstance(table, list) else [table]:
            head = f"[[{name}]]" if isinstance(table, list) else f"[{name}]"
            known = [(key, value) for key, value in inner.items() if value is not None]
            lines = [f"{format_key(key)} = {format_value(_without_none(value))}" for key, value in known]
            blocks.append("\n".join((head, *lines, "")))
    return "\n".join(blocks)


def _without_none(value: Any) -> Any:
    """TOML has no null."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


@click.command("version", epilog=examples("yolo-supervisor version", "yolo-supervisor version --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def version_verb(*, as_json: bool) -> None:
    """Show the versions of this program, of Python and of the libraries that it uses."""
    from supervisor import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    libraries = {name: _library_version(name) for name in LIBRARIES}
    if as_json:
        view = {"version": 1, "yolo_supervisor": __version__, "python": python, "libraries": libraries}
        screen.show_json(view)
        return
    click.echo(f"yolo-supervisor {__version__}")
    click.echo(f"python {python} ({sys.executable})")
    for name, version in libraries.items():
        click.echo(f"{name} {version or 'not installed'}")


def _library_version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@click.command(
    "completion",
    epilog=examples(
        "yolo-supervisor completion bash > ~/.local/share/bash-completion/completions/yolo-supervisor",
        "yolo-supervisor completion zsh > ~/.zfunc/_yolo-supervisor",
        "yolo-supervisor completion fish > ~/.config/fish/completions/yolo-supervisor.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_verb(shell: str) -> None:
    """Print the script that makes a shell complete verbs, options and names of runs."""
    from click.shell_completion import get_completion_class

    from supervisor.cli.program import PROGRAM, program

    kind = get_completion_class(shell)
    if kind is None:
        raise Failure(f"this version of click knows no completion for {shell}")
    click.echo(kind(program, {}, PROGRAM, "_YOLO_SUPERVISOR_COMPLETE").source())
