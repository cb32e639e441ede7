"""Verbs about GPUs: the list, and for one of them show, drain, undrain, quarantine, release, test and bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import gpu_show, gpu_table, screen
from supervisor.cli.client import Target, View, complete_gpu, connect, gpu_path, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, Failure, NoDaemon
from supervisor.cli.offline import reading

if TYPE_CHECKING:
    from supervisor.config import Config

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
gpu_argument = click.argument("gpu", metavar="GPU", shell_complete=complete_gpu)
_EVENTS = 50
_BUNDLED_EVENTS = 2000
WATCH_EVERY_S = 2.0
LONGEST_DRAIN_S = 366 * 86400.0  # as the daemon takes it


@click.command(
    "gpus",
    epilog=examples(
        "yolo-supervisor gpus",
        "yolo-supervisor gpus --watch",
        "yolo-supervisor gpus --json | jq -r '.gpus[] | select(.usable | not) | [.index, .state, .why] | @tsv'",
    ),
)
@click.option("--watch", "-w", is_flag=True, help="Show it anew every 2 s until Ctrl-C.")
@json_option
@target_options
@click.pass_obj
def gpus_verb(target: Target, *, watch: bool, as_json: bool) -> None:
    """List the GPUs: how they stand, what they do, who has them, and which runs wait for one.

    STATE is free, busy, held (by processes of others), resting (was busy a moment ago), draining, drained, testing,
    quarantined, hot, unreadable, failing, reset-needed, reboot-needed, unresponsive, unreachable, missing or lost.
    Below the table stands what is wrong, and what you can do. In the table - means that the GPU does not tell.
    """
    source = reading(target)
    view = source.gpus()
    while watch:
        if screen.on_terminal() and not as_json:
            screen.clear()
        _show(view, as_json=as_json)
        time.sleep(WATCH_EVERY_S)
        try:
            view = source.gpus()
        except NoDaemon:  # it is being exchanged; each look is a new connection
            screen.note("the daemon does not answer just now")
    _show(view, as_json=as_json)


def _show(view: View, *, as_json: bool) -> None:
    if as_json:
        screen.show_json(view)
    else:
        gpu_table.show_gpus(view)


@click.group(
    "gpu",
    epilog=examples(
        "yolo-supervisor gpu show 3",
        "yolo-supervisor gpu drain 3 --for 2h",
        'yolo-supervisor gpu quarantine 3 --reason "its fan rattles"',
        "yolo-supervisor gpu bundle 3",
    ),
)
def gpu_verb() -> None:
    """Look at one GPU, or decide about it.

    GPU is its index as `gpus` shows it, its UUID or the beginning of it, or its bus id such as 3b:00.0.
    """


@gpu_verb.command(
    "show",
    short_help="Show everything about a GPU, with its record.",
    epilog=examples("yolo-supervisor gpu show 3", "yolo-supervisor gpu show 3b:00.0 --json"),
)
@gpu_argument
@json_option
@target_options
@click.pass_obj
def show_verb(target: Target, gpu: str, *, as_json: bool) -> None:
    """Show everything about a GPU, with its record for life: attempts, failures, Xids, remapped rows, quarantines."""
    view = reading(target).gpu(gpu, _EVENTS)
    if as_json:
        screen.show_json(view)
    else:
        gpu_show.show_gpu(view)


def _order(target: Target, gpu: str, what: str, *, as_json: bool, **body: object) -> None:
    answer = connect(target).post(gpu_path(gpu, "orders"), what=what, **body)
    if as_json:
        screen.show_json(answer)
    else:
        click.echo(answer["next"])


@gpu_verb.command(
    "drain",
    short_help="Start nothing new on a GPU.",
    epilog=examples("yolo-supervisor gpu drain 3", "yolo-supervisor gpu drain 3 --for 2h"),
)
@gpu_argument
@click.option("--for", "duration", metavar="TIME", help="End the drain by itself after this time, such as 2h.")
@click.option("--reason", default="", help="Why, for the record.")
@json_option
@target_options
@click.pass_obj
def drain_verb(target: Target, gpu: str, duration: str | None, reason: str, *, as_json: bool) -> None:
    """Start nothing new on a GPU; what runs there goes on. Draining it twice does no harm."""
    for_s = _seconds(duration)
    _order(target, gpu, "drain", as_json=as_json, reason=reason, **({} if for_s is None else {"for_s": for_s}))


def _seconds(duration: str | None) -> float | None:
    from supervisor.errors import UserError
    from supervisor.units import parse_duration

    if duration is None:
        return None
    try:
        seconds = parse_duration(duration)
    except UserError as error:
        raise BadInput(f"--for: {error}") from None
    if seconds <= 0:
        raise BadInput("--for: a drain of no time drains nothing")
    if seconds > LONGEST_DRAIN_S:
        raise BadInput("--for: at most a year; without --for it lasts until `gpu undrain`")
    return seconds


@gpu_verb.command("undrain", short_help="End the drain of a GPU.", epilog=examples("yolo-supervisor gpu undrain 3"))
@gpu_argument
@json_option
@target_options
@click.pass_obj
def undrain_verb(target: Target, gpu: str, *, as_json: bool) -> None:
    """End the drain of a GPU: trainings start there again."""
    _order(target, gpu, "undrain", as_json=as_json)


@gpu_verb.command(
    "quarantine",
    short_help="Take a GPU out of use until a person releases it.",
    epilog=examples('yolo-supervisor gpu quarantine 3 --reason "its fan rattles"'),
)
@gpu_argument
@click.option("--reason", default="", help="Why, for whoever comes next.")
@json_option
@target_options
@click.pass_obj
def quarantine_verb(target: Target, gpu: str, reason: str, *, as_json: bool) -> None:
    """Take a GPU out of use until a person releases it; what runs there goes on."""
    _order(target, gpu, "quarantine", as_json=as_json, reason=reason)


@gpu_verb.command(
    "release",
    short_help="Give a GPU out again, without a test.",
    epilog=examples("yolo-supervisor gpu release 3", "yolo-supervisor gpu release GPU-1f2e --force"),
)
@gpu_argument
@click.option("--force", is_flag=True, help="Also one that cannot be read; forget one that was taken out.")
@click.option("--reason", default="", help="Why, for the record.")
@json_option
@target_options
@click.pass_obj
def release_verb(target: Target, gpu: str, reason: str, *, force: bool, as_json: bool) -> None:
    """Give a GPU out again that is in quarantine, without a test. `gpu test` tests it before."""
    _order(target, gpu, "release", as_json=as_json, reason=reason, force=force)


@gpu_verb.command("test", short_help="Test a GPU as soon as it is idle.", epilog=examples("yolo-supervisor gpu test 3"))
@gpu_argument
@click.option("--reason", default="", help="Why, for the record.")
@json_option
@target_options
@click.pass_obj
def test_verb(target: Target, gpu: str, reason: str, *, as_json: bool) -> None:
    """Test a GPU as soon as it is idle, in a job's Python.

    When it passes it is given out again, unless a person took it out of use, or it needs a person or a reboot first.
    """
    _order(target, gpu, "test", as_json=as_json, reason=reason)


@gpu_verb.command(
    "bundle",
    short_help="Collect the evidence about a GPU in one file.",
    epilog=examples("yolo-supervisor gpu bundle 3", "yolo-supervisor gpu bundle 3 -o /tmp/gpu3.tar.gz"),
)
@gpu_argument
@click.option("--output", "-o", metavar="FILE", help="Where to write it; default gpu-INDEX-TIME.tar.gz here.")
@click.option("--no-redact", is_flag=True, help="Leave user names, home folders and the host's name in. Secrets never.")
@json_option
@target_options
@click.pass_obj
def bundle_verb(target: Target, gpu: str, output: str | None, *, no_redact: bool, as_json: bool) -> None:
    """Collect the evidence about a GPU in one file, for its vendor or a bug report.

    How it stands, its record, events, lines of the kernel log, what `nvidia-smi -q` says, and the ends of the logs of
    the trainings that ran on it. Passwords, keys and tokens are taken out, and user names, home folders and the host's
    name are replaced; MANIFEST.json tells what is in it, and what is not. Look into it before you give it away.
    """
    from supervisor.effects import gpu_bundle

    view = reading(target).gpu(gpu, _BUNDLED_EVENTS)
    path = Path(output) if output else Path(f"gpu-{view['index']}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    settings = _settings(target)
    try:
        manifest = gpu_bundle.write(path, view, settings, redact=not no_redact)
    except FileExistsError:
        raise BadInput(f"{path} is there already; give another one with -o") from None
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error}") from error
    if as_json:
        screen.show_json({"version": 1, "file": str(path.absolute()), **manifest})
        return
    _tell(path, manifest)


def _settings(target: Target) -> Config:
    """The configuration for the paths and secrets in it; the built-in one where it may not be read."""
    from supervisor.cli.client import settings
    from supervisor.config import Config
    from supervisor.errors import UserError

    try:
        return settings(target)
    except UserError:
        screen.note("the configuration cannot be read: what is secret in it is only taken out where it looks so")
        return Config()


def _tell(path: Path, manifest: View) -> None:
    from supervisor.units import format_size

    click.echo(f"{path}: {len(manifest['members'])} files, {format_size(path.stat().st_size)}")
    for missing in manifest["left_out"]:
        screen.note(f"not in it: {missing['what']}: {missing['why']}")
    click.echo("look into it before you give it away")
