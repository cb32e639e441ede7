"""The verb `checkpoints`: a run's checkpoints, or with `verify` what any files are, also without a daemon."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, complete_run, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, Failure
from supervisor.units import format_size

if TYPE_CHECKING:
    from supervisor.core.checkpoints import Checkpoint
    from supervisor.effects.checkpoints import Deep

    Result = tuple[Checkpoint, Deep | None]

SOUND = frozenset({"resumable", "finished", "done_not_stripped", "weights_only"})
_HELP = ("-h", "--help")
_LIST = "list"
_NAME_WIDTH = 24  # of a file on a terminal: its end says more than its beginning

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class _NamesOrVerbs(click.Group):
    """A group in which a first word that is none of its verbs is the name of a run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        if not args or (args[0] not in self.commands and args[0] not in _HELP):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)


@click.group(
    "checkpoints",
    cls=_NamesOrVerbs,
    options_metavar="[NAME]...",
    subcommand_metavar="| verify PATH...",
    epilog=examples(
        "yolo-supervisor checkpoints truck",
        "yolo-supervisor checkpoints --json",
        "yolo-supervisor checkpoints verify runs/detect/train7/weights",
        "yolo-supervisor checkpoints verify --help",
    ),
)
def checkpoints_verb() -> None:
    """List the checkpoints of runs (all runs without a NAME), or verify any files."""


@checkpoints_verb.command(_LIST, hidden=True, epilog=examples("yolo-supervisor checkpoints truck"))
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_run)
@json_option
@target_options
@click.pass_obj
def list_verb(target: Target, names: tuple[str, ...], *, as_json: bool) -> None:
    """List the checkpoints of runs: those in the ledger and those that the trainer keeps."""
    _list(target, names, as_json=as_json)


def _list(target: Target, names: Sequence[str], *, as_json: bool) -> None:
    import_module("supervisor.cli.checkpoints_list").list_checkpoints(target, names, as_json=as_json)


@checkpoints_verb.command(
    "verify",
    epilog=examples(
        "yolo-supervisor checkpoints verify last.pt best.pt",
        "yolo-supervisor checkpoints verify --quick /data/runs",
        "yolo-supervisor checkpoints verify last.pt --deep --python ~/miniconda3/envs/yolo/bin/python",
        "yolo-supervisor checkpoints verify last.pt --deep --path ~/yolov5",
        "yolo-supervisor checkpoints verify weights --json | jq '.files[] | select(.ok | not) | .path'",
    ),
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Also load each whole file, with --python. A load runs what the file says.")
@click.option("--quick", is_flag=True, help="Do not search the tensors for NaN and Inf.")
@click.option("--python", metavar="PY", help="The Python with torch for --deep; default: the active environment's.")
@click.option(
    "--path", "modules", multiple=True, metavar="DIR", type=click.Path(path_type=Path),
    help="A folder with the trainer's own classes for --deep, such as a checkout of YOLOv5. May be repeated.",
)  # fmt: skip
@json_option
def verify_verb(
    paths: tuple[Path, ...], *, deep: bool, quick: bool, python: str | None, modules: tuple[Path, ...], as_json: bool
) -> None:
    """Tell what checkpoint files are, without a daemon and without running anything in them.

    A folder means all *.pt files below it. Checked are the structure of each file, the CRC of every record, the
    metadata, the size of every tensor, and that all numbers are finite. EPOCH counts complete epochs.

    Exit code 0: every file is whole and sane (resumable, finished, done_not_stripped or weights_only); 1: one is not.
    """
    interpreter = _interpreter(python) if deep else None
    try:
        files = list(dict.fromkeys(_files(paths)))
    except BadInput:
        if as_json:
            screen.show_json({"version": 1, "ok": False, "files": []})
        raise
    results = [_verify(file, not quick, interpreter, modules) for file in _with_progress(files)]
    if as_json:
        ok = all(_is_sound(result) for result in results)
        screen.show_json({"version": 1, "ok": ok, "files": [_as_data(result) for result in results]})
    else:
        _show(results, deep=deep)
    if not all(_is_sound(result) for result in results):
        raise SystemExit(1)


def _interpreter(python: str | None) -> str:
    from supervisor.drafts import active_interpreter

    # Not resolved: the link in a virtual environment is what makes it one.
    found = str(Path(python).expanduser().absolute()) if python else active_interpreter(os.environ)
    if not found:
        raise BadInput("no environment is active: name the Python that has torch with --python")
    if not os.access(found, os.X_OK) or not Path(found).is_file():
        raise BadInput(f"{found} is no Python that can be started")
    return found


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files that were named, and those below the folders that were named."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        below = sorted(
            Path(folder, name) for folder, _, names in os.walk(path) for name in names if name.endswith(".pt")
        )
        if not below:
            raise BadInput(f"there is no *.pt file below {path}")
        yield from below


def _with_progress(files: Sequence[Path]) -> Iterator[Path]:
    """Count on a person's terminal what has been done; the line is gone when the table comes."""
    shown = len(files) > 1 and sys.stderr.isatty()
    for number, file in enumerate(files, start=1):
        if shown:
            line = screen.cut(f"{number}/{len(files)}  {screen.escaped(str(file))}", screen.width() - 1)
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)
        yield file
    if shown:
        click.echo("\r\x1b[K", nl=False, err=True)


def _verify(file: Path, finite: bool, interpreter: str | None, modules: Sequence[Path]) -> Result:
    from supervisor.effects import checkpoints
    from supervisor.errors import RetryableError

    try:
        found = checkpoints.survey([file], finite=finite)[0]
    except RetryableError as error:
        raise Failure(str(error)) from None
    if interpreter is None or found.state not in SOUND:
        return found, None
    return found, checkpoints.deep(interpreter, file, modules=modules)


def _is_sound(result: Result) -> bool:
    found, deep = result
    return found.state in SOUND and (deep is None or deep.ok)


def _epoch(found: Checkpoint) -> int | None:
    return found.done_epochs or None


def _as_data(result: Result) -> dict[str, Any]:
    import msgspec

    found, deep = result
    content = msgspec.to_builtins(found)
    content.pop("kept", None)
    content |= {"ok": _is_sound(result), "epoch": _epoch(found), "stored_epoch": found.epoch}
    return {**content, "deep": None if deep is None else msgspec.to_builtins(deep)}


def _show(results: Sequence[Result], *, deep: bool) -> None:
    headers = ["FILE", "STATE", "EPOCH", "SIZE", "TRAINER", *(["DEEP"] if deep else []), "WHAT IT IS"]
    rows = [_row(result, deep=deep) for result in results]
    shortened = screen.show_table(headers, rows, whole_in_pipes=True)
    bad = sum(not _is_sound(result) for result in results)
    for place, result in enumerate(results):  # what the table has no room for
        path = screen.escaped(result[0].path)
        if (place in shortened or rows[place][0] != path) and (not _is_sound(result) or result[0].doubts):
            click.echo(f"{path}: {result[0].state}: {_reason(*result)}")
    if len(results) > 1:
        screen.note(
            f"{len(results)} files, {bad or 'none'} of them not sound" if bad else f"{len(results)} files, all sound"
        )


def _row(result: Result, *, deep: bool) -> list[str]:
    found, loaded = result
    epoch = _epoch(found)
    of = "" if epoch is None or found.epochs is None else f"/{found.epochs}"
    cells = [
        _short(found.path),
        found.state,
        "-" if epoch is None else f"{epoch}{of}",
        format_size(found.size_bytes) if found.size_bytes else "-",
        found.version or "-",
    ]
    return [*cells, *([_deep_word(loaded)] if deep else []), _reason(found, loaded)]


def _short(path: str) -> str:
    """A path whose end is seen on a terminal; the whole path everywhere else. Always on one line."""
    path = screen.escaped(path)
    return screen.end_of(path, _NAME_WIDTH) if screen.on_terminal() else path


def _deep_word(deep: Deep | None) -> str:
    if deep is None:
        return "-"
    if deep.ok:
        return "ok"
    return "refused" if deep.looked else "unknown"


def _reason(found: Checkpoint, deep: Deep | None) -> str:
    parts = [found.reason or ""]
    if deep is not None and not deep.ok:
        parts.insert(0, f"loaded: {deep.reason}")
    parts += [f"doubt: {doubt}" for doubt in found.doubts or ()]
    return "; ".join(part for part in parts if part)
