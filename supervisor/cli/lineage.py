"""Verbs that begin where something was trained before: rewind, extend, branch."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from supervisor.cli import screen
from supervisor.cli.client import Client, Target, View, complete_run, connect, run_path, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, Refused
from supervisor.cli.submit import Submission, await_answer, place, tell
from supervisor.toml_errors import format_value

ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
name_argument = click.argument("name", metavar="NAME", shell_complete=complete_run)


def _tell(answer: View, *, as_json: bool) -> None:
    if as_json:
        screen.show_json(answer)
    else:
        click.echo(answer["next"])


@click.command("rewind", epilog=examples("yolo-supervisor rewind truck --epoch 30"))
@name_argument
@click.option("--epoch", type=click.IntRange(min=1), required=True, help="The epoch to go back to; 1 is the first.")
@json_option
@target_options
@click.pass_obj
def rewind_verb(target: Target, name: str, epoch: int, *, as_json: bool) -> None:
    """Open a new run of an ended or held one that goes on after an older epoch.

    The checkpoint of that epoch must be there and whole: in the ledger, or as a file of the trainer. What was trained
    after it stays in the ledger and in the run's directory, but the new run does not use it.
    """
    _tell(connect(target).post(run_path(name, "rewind"), epoch=epoch), as_json=as_json)


@click.command("extend", epilog=examples("yolo-supervisor extend truck --epochs 150"))
@name_argument
@click.option("--epochs", type=click.IntRange(min=1), required=True, help="How many epochs it is to have in all.")
@json_option
@target_options
@click.pass_obj
def extend_verb(target: Target, name: str, epochs: int, *, as_json: bool) -> None:
    """Train a finished run on, from its last copy that still has the optimizer's state.

    The trainer stretches its schedule over all epochs: the learning rate jumps up where it had ended, and the curve is
    not that of a training that was planned so long.
    """
    _tell(connect(target).post(run_path(name, "extend"), epochs=epochs), as_json=as_json)


@click.command(
    "branch",
    epilog=examples(
        "yolo-supervisor branch truck --at 30 truck-small-batch.toml",
        "yolo-supervisor branch truck --at 30 truck-adam.toml --from-weights",
    ),
)
@name_argument
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=False))
@click.option("--at", type=click.IntRange(min=1), help="After which epoch; otherwise after its newest whole one.")
@click.option("--from-weights", is_flag=True, help="Start a new training with the weights of that epoch.")
@json_option
@target_options
@click.pass_context
def branch_verb(ctx: click.Context, name: str, file: str, at: int | None, *, from_weights: bool, as_json: bool) -> None:
    """Submit a new job that begins at an epoch of another run: many experiments from one warm-up.

    It goes on with everything that the checkpoint holds. Ultralytics takes few changed keys at such a resume (batch,
    imgsz, workers, patience, close_mosaic and some more) and drops all others without a word, so these are refused;
    with --from-weights a new training starts from the weights, and every key counts. FILE itself is not changed.
    """
    client = connect(ctx.find_object(Target) or Target())
    _check_epoch(client, name, at, from_weights=from_weights)
    line = f"start_from = {{ run = {format_value(name)}, " + (f"epoch = {at}, " if at else "")
    submission = _with_first_line(file, f"{line}weights = {str(from_weights).lower()} }}\n", client)
    _check_name(client, submission)
    folder = Path(client.get("/v1/config")["config"]["jobs"]["folder"])
    since_at = int(time.time()) - 1
    path = place(submission, folder)
    answer = await_answer(client, submission, path, since_at)
    if answer["state"] == "refused":
        _take_back(client, submission, path)
    code = tell(client, [answer], as_json=as_json)
    if code == 0 and not as_json:
        click.echo(_origin_words(client.get(run_path(answer["run"]))["lineage"]["origin"]))
    ctx.exit(code)


def _check_epoch(client: Client, name: str, at: int | None, *, from_weights: bool) -> None:
    """Refuse an epoch that is not there before anything is submitted. Raises Refused."""
    found = client.get(run_path(name, "saved"), **({"epoch": at} if at else {}))
    stripped = " and ".join(found["stripped"])
    if at is None and found["epochs"] and not from_weights:
        _check_something_is_left(client, name, found["epochs"])
    if at in found["epochs"] or (at is None and (found["epochs"] or (from_weights and stripped))):
        return
    there = f"there are {', '.join(map(str, found['epochs']))}" if found["epochs"] else "there is none of any epoch"
    what = f"of epoch {at}" if at else "to go on from"
    weights = f"; {stripped} can be used as weights only (--from-weights without --at)" if stripped else ""
    raise Refused(f"{name} has no verified checkpoint {what}; {there}{weights}")


def _check_something_is_left(client: Client, name: str, found: Sequence[int]) -> None:
    """Raise BadInput where each checkpoint is of the last epoch. A budget of time has no last epoch."""
    run = client.get(run_path(name))
    end = run["epochs"] if "time" not in (run["job"]["train"] or {}) else None
    if end is not None and min(found) >= end:
        hint = "--from-weights starts a new training from the weights, where every key counts"
        raise BadInput(f"all {end} epochs of {name} are trained: nothing is left to go on with\n  fix: {hint}")


def _check_name(client: Client, submission: Submission) -> None:
    """Refuse the name of a live run before its job file is written over; the same branch again does no harm."""
    run = _live_run(client, submission.name)
    if run is None or run["job"]["revision"] == submission.revision:
        return
    hint = f'write name = "…" into {submission.file}, or `cancel {submission.name}` first'
    raise Refused(f"{run['id']} is {run['phase']}, and a name is of one run at a time\n  fix: {hint}")


def _take_back(client: Client, submission: Submission, path: Path) -> None:
    """Remove the refused file, if it is still the one that was written and no live run has its name."""
    with contextlib.suppress(FileNotFoundError):
        if _live_run(client, submission.name) is None and path.read_bytes() == submission.data:
            path.unlink()


def _live_run(client: Client, name: str) -> View | None:
    from supervisor.cli.plan import known_run

    run = known_run(name, client)
    return None if run is None or run["phase"] in ENDED else run


def _with_first_line(file: str, line: str, client: Client) -> Submission:
    """The job file with absolute paths and one line more. What is wrong in it is told by its own line numbers."""
    from supervisor import jobspec
    from supervisor.cli.absolute import make_absolute
    from supervisor.cli.plan import configuration

    path = Path(file)
    try:
        data = make_absolute(path.read_bytes(), path.absolute().parent, file)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    defaults, owner, now = configuration(Target(), client).defaults, os.getuid(), time.time()
    draft = jobspec.parse(data, path=file, owner=owner, defaults=defaults, now=now)
    if draft.job.start_from is not None:
        raise BadInput(f"{file} says start_from itself: remove that key, or give the file to `submit`")
    data = line.encode() + data
    jobspec.parse(data, path=file, owner=owner, defaults=defaults, now=now)
    return Submission(file, draft.job.name, data)


def _origin_words(origin: View) -> str:
    where = f"{origin['run']} after epoch {origin['epoch']}" if origin["epoch"] else origin["run"]
    how = "starts a new training with the weights of" if origin["weights"] else "goes on from"
    changed = "; ".join(origin["changed"])
    return f"it {how} {where}; " + (f"other than there: {changed}" if changed else "nothing else is different")
