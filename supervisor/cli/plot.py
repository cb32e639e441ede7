"""Drawing a run: loss and mAP over all its attempts, as a picture or as a chart in the terminal."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import click

from supervisor import layout
from supervisor.cli import screen
from supervisor.cli.client import Target, View, complete_run, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, Failure, TryLater
from supervisor.cli.offline import Reading, reading

SUFFIXES = (".png", ".svg")
DRAW_S = 120.0  # the first drawing of a user builds matplotlib's list of fonts
NO_MATPLOTLIB = 3  # exit code of runner/draw.py
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}


@click.command(
    "plot",
    epilog=examples(
        "yolo-supervisor plot truck",
        "yolo-supervisor plot truck --out curve.svg --dark",
        "yolo-supervisor plot truck --watch",
        "yolo-supervisor plot truck --json | jq '.points[-1].map50_95'",
    ),
)
@click.argument("name", shell_complete=complete_run)
@click.option("--out", metavar="FILE", multiple=True, help="A .png or .svg file; may be given again. Default: both.")
@click.option("--watch", "-w", is_flag=True, help="A chart in the terminal, drawn anew until the run ends or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the curve as JSON for programs.")
@click.option("--dark", is_flag=True, help="Bright lines on a dark ground.")
@target_options
@click.pass_obj
def plot_verb(target: Target, name: str, *, out: tuple[str, ...], watch: bool, as_json: bool, dark: bool) -> None:
    """Draw loss and mAP of a run over all its attempts: each epoch once, with the restarts and what was lost.

    Writes NAME.png and NAME.svg into the current folder. NAME is a run's name or id.
    """
    files = _files(name, out)
    if watch and (as_json or out):
        raise BadInput("--watch shows a chart; it goes neither with --json nor with --out")
    if watch and not screen.on_terminal():
        raise BadInput(
            "--watch needs a terminal; without one, `plot NAME --out FILE` draws a picture, --json prints it"
        )
    source = reading(target)
    if watch:
        from supervisor.cli.chart import watch_run

        watch_run(lambda: _curve(source, name))
        return
    view = _curve(source, name)
    if as_json:
        screen.show_json(view)
        return
    _check_epochs(view)
    draw(view, files, pythons(source, name), dark=dark)
    click.echo(f"{', '.join(files)}: {summary(view)}")


def _files(name: str, out: tuple[str, ...]) -> list[str]:
    for path in out:
        if Path(path).suffix.lower() not in SUFFIXES:
            raise BadInput(f"--out {path}: the name must end in {' or '.join(SUFFIXES)}")
        if not Path(path).absolute().parent.is_dir():
            raise BadInput(f"--out {path}: there is no folder {Path(path).absolute().parent}")
    return list(out) or [f"{name}{suffix}" for suffix in SUFFIXES]


def _curve(source: Reading, name: str) -> View:
    try:
        return source.curve(name)
    except OSError as error:  # without a daemon the files are read by this user
        raise Failure(f"the files of {name} cannot be read: {error}") from None


def _check_epochs(view: View) -> None:
    if view["points"]:
        return
    text = f"{view['id']} has no complete epoch to draw"
    raise Failure(text) if view["phase"] in ENDED else TryLater(f"{text} yet; it is {view['phase']}")


def summary(view: View) -> str:
    """How much is on the picture, in words."""
    restarts, lost = len(view["restarts"]), len(view["lost"])
    parts = [f"{len(view['points'])} epoch{'' if len(view['points']) == 1 else 's'}"]
    parts += [f"{restarts} restart{'' if restarts == 1 else 's'}"] if restarts else []
    parts += [f"{lost} lost epoch{'' if lost == 1 else 's'}"] if lost else []
    return ", ".join(parts)


def pythons(source: Reading, name: str) -> list[str]:
    """The interpreters that may draw: ours where it has matplotlib, else the job's, if the job is this user's own.

    Another user's interpreter is never started: it would run as whoever asks for a picture.
    """
    if importlib.util.find_spec("matplotlib") is not None:
        return [sys.executable]
    run = source.run(name)
    own = run["owner"] == os.getuid()
    return [run["job"]["python"]] if own and run["job"]["python"] else []


def draw(view: View, files: list[str], interpreters: list[str], *, dark: bool) -> None:
    """Let the first interpreter that can draw the curve into all files. Raises Failure with the fix."""
    tried = []
    for python in interpreters:
        command = [python, str(layout.DRAW), *(["--dark"] if dark else []), *map(os.path.abspath, files)]
        try:
            done = subprocess.run(
                command, input=json.dumps(view), capture_output=True, encoding="utf-8", timeout=DRAW_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            tried.append(str(error))
            continue
        if done.returncode == 0:
            return
        if done.returncode != NO_MATPLOTLIB:
            raise Failure(f"the picture was not drawn: {done.stderr.strip()[-2000:] or f'exit code {done.returncode}'}")
        tried.append(done.stderr.strip())
    raise Failure(_no_matplotlib(view, tried))


def _no_matplotlib(view: View, tried: list[str]) -> str:
    reason = "; ".join(tried) or "the job's own Python is another user's, or not known"
    return (
        f"no Python with matplotlib was found to draw {view['id']}: {reason}\n"
        f"  fix: `{sys.executable} -m pip install matplotlib`, or run `plot` as the owner of the job: its Python "
        "has it where Ultralytics is installed; --json and --watch need none"
    )
