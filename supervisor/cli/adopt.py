"""The verb `adopt`: go on with a training that a person began, after it was interrupted, or watch it until then."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import screen
from supervisor.cli.client import Client, Target, connect, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, Failure, NoDaemon, Refused
from supervisor.cli.interpreter import must_start
from supervisor.cli.proposal import Proposal, Wishes

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.effects.live_trainings import Training
    from supervisor.effects.run_folders import RunFolder

_FAMILIES = ("ultralytics", "yolov5", "yolov7", "yolov9")
_ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
_FRESH_S = 600.0  # a checkpoint younger than that may be of a training that goes on
_OURS = "YOLO_SUPERVISOR_RUN"  # in the environment of every training that we started


@click.command(
    "adopt",
    epilog=examples(
        "yolo-supervisor adopt runs/detect/train7",
        "yolo-supervisor adopt --pid 4242",
        "yolo-supervisor adopt ~/yolov5/runs/train/exp3 --script ~/yolov5/train.py --python ~/venv/bin/python",
        "yolo-supervisor adopt runs/detect/train7 --dry-run > train7.toml",
        "yolo-supervisor adopt /share/truck.json --epochs 200 --data /data/truck.yaml",
    ),
)
@click.argument("folder", required=False, metavar="[DIR|CARD]", type=click.Path())
@click.option("--pid", type=click.IntRange(min=1), metavar="N", help="Watch this live training; never end it.")
@click.option("--dir", "saves_to", metavar="DIR", help="With --pid: where it saves, if that cannot be seen.")
@click.option("--name", metavar="NAME", default="", help="The run's name; default: the old one's.")
@click.option("--project", metavar="NAME", default="", help="The run's project; default: the old one's.")
@click.option("--python", metavar="FILE", default="", help="The interpreter; default: the active environment's.")
@click.option("--conda", metavar="NAME", default="", help="The conda environment.")
@click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="How many GPUs; default: as many as it had.")
@click.option("--script", metavar="FILE", default="", help="The train.py of YOLOv5, v7 or v9.")
@click.option("--cwd", metavar="DIR", default="", help="Where the training was started.")
@click.option("--data", metavar="FILE", default="", help="With CARD: the data set, where it lies elsewhere here.")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="With CARD: how many epochs in all.")
@click.option("--into", metavar="DIR", default="", help="With CARD: the new folder; default: the name, here.")
@click.option("--family", type=click.Choice(_FAMILIES), default=None, help="Where the folder does not tell it.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Print the job file; say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@target_options
@click.pass_context
def adopt_verb(ctx: click.Context, /, *, yes: bool, dry_run: bool, as_json: bool, **said: Any) -> None:
    """Go on with the training in DIR, in place, from its newest good checkpoint; or watch a live one.

    With CARD, the JSON file beside published weights, the training of another server is gone on with here, in a new
    folder and from a copy of its last checkpoint. With --pid the training is watched and never touched. When it has
    died before its end, it is resumed.
    """
    wishes = Wishes(**said)
    if (wishes.folder is None) == (wishes.pid is None):
        raise click.UsageError("give either DIR or CARD, or --pid N")
    from_card = wishes.folder is not None and Path(wishes.folder).is_file()
    if not from_card and (wishes.data or wishes.epochs or wishes.into):
        raise click.UsageError("--data, --epochs and --into belong to a CARD, a file that ends with .json")
    target = ctx.find_object(Target) or Target()
    client = _client(target, needed=not dry_run)
    proposal = _propose_card(target, client, wishes) if from_card else _propose(target, client, wishes)
    _show(proposal, dry_run=dry_run, as_json=as_json)
    if dry_run or client is None:
        return
    if not (yes or as_json):
        _confirm(proposal)
    if proposal.bring is not None:
        proposal.bring()
    ctx.exit(_submit(client, proposal, as_json=as_json))


def _client(target: Target, *, needed: bool) -> Client | None:
    try:
        return connect(target)
    except NoDaemon:
        if needed:
            raise
        screen.note("daemon is not running: what it knows is not looked at")
        return None


# ---- what would be done
def _propose_card(target: Target, client: Client | None, wishes: Wishes) -> Proposal:
    from supervisor.cli import adopt_card
    from supervisor.cli.plan import configuration

    return adopt_card.propose(configuration(target, client), client, wishes)


def _propose(target: Target, client: Client | None, wishes: Wishes) -> Proposal:
    from supervisor.cli.plan import configuration
    from supervisor.effects import run_folders
    from supervisor.errors import RetryableError

    config = configuration(target, client)
    check_interpreter(wishes, config)
    training = _training(wishes) if wishes.pid is not None else None
    told = wishes.folder or wishes.saves_to
    path = _folder_of(training) if training is not None and not told else Path(told or "")
    try:
        found = run_folders.read(path, wishes.family or "")
    except RetryableError as error:
        raise Failure(f"{path} cannot be looked at: {error}") from None
    _refuse(found, config, training)
    name = wishes.name or _name(found)
    refuse_name(name, client)
    text = _job_file(found, training, wishes, name)
    check_job(text, name, config)
    interpreter = next((line for line in text.splitlines() if line.startswith(("python = ", "conda = "))), "")
    plan = (*_plan(found, training), f"as the run {name}" + (f", with {interpreter}" if interpreter else ""))
    return Proposal(name, text, found, training, plan)


def _name(found: RunFolder) -> str:
    from supervisor import drafts

    return drafts.as_name(found.options.get("name")) or drafts.as_name(found.path.name) or "adopted"


def check_interpreter(wishes: Wishes, config: Config) -> None:
    """Raise BadInput where no interpreter is named anywhere, or the named one does not run."""
    from supervisor import drafts

    if wishes.python:
        must_start(str(Path(wishes.python).expanduser().absolute()))
    known = wishes.conda or wishes.pid or config.defaults.python or config.defaults.conda
    if not (wishes.python or known or drafts.active_interpreter(os.environ)):
        hint = "give --python FILE or --conda NAME, or activate the environment first"
        raise BadInput(f"no environment is active, and nobody says which Python the training needs\n  fix: {hint}")


def _training(wishes: Wishes) -> Training:
    from supervisor.effects import live_trainings

    pid = wishes.pid or 0
    training = live_trainings.read(pid)
    if training is None:
        raise BadInput(f"there is no process {pid}, or it may not be looked at")
    if _OURS in training.env:
        raise Refused(f"process {pid} is of {training.env[_OURS]}: it is supervised already")
    if not (wishes.saves_to or training.trains or live_trainings.shows_itself(training)):
        hint = "give the number of the process that trains, as `ps` shows it; say where it saves with --dir DIR"
        raise BadInput(f"process {pid} does not look like a training: {' '.join(training.argv)[:200]}\n  fix: {hint}")
    return training


def _folder_of(training: Training) -> Path:
    from supervisor.effects import live_trainings

    found = live_trainings.folders_of(training)
    if len(found) == 1:
        return found[0]
    several = "".join(f"\n  perhaps {path}" for path in found[:5])
    raise BadInput(f"it cannot be seen where process {training.pid} saves{several}\n  fix: say it with --dir DIR")


def _refuse(found: RunFolder, config: Config, training: Training | None) -> None:
    """Everything for which this folder cannot be gone on with."""
    from supervisor.effects import adoption, live_trainings

    runs_dir = Path(os.path.realpath(config.server.runs_dir))
    if found.path.is_relative_to(runs_dir):
        raise Refused(f"{found.path} lies below {runs_dir}: it is a run of ours; see `yolo-supervisor ls --all`")
    if owner := adoption.owner_of(runs_dir, found.path):
        name = owner.rpartition("/")[2]
        raise Refused(f"{found.path} is continued by {owner} already; `show {name}` and `retry {name}` know it")
    if training is not None:
        return
    if live := live_trainings.at_work(found.path):
        hint = f"watch it until it ends: yolo-supervisor adopt --pid {live[0].pid}"
        raise Refused(f"process {live[0].pid} trains in {found.path}: it {live[1]}\n  fix: {hint}")
    if found.finished:
        last = found.path / "weights" / "last.pt"
        text = "this training is finished: its last.pt is stripped, and nothing can be resumed from it"
        raise Refused(f"{found.path}: {text}\n  fix: begin a new training from it, with model = {last}")
    if found.best is None:
        states = "".join(f"\n  {one.name} is {one.state}: {one.reason or ''}" for one in found.found)
        raise Refused(f"nothing in {found.path}/weights can be resumed{states or ': no checkpoint is there'}")


def refuse_name(name: str, client: Client | None) -> None:
    """Raise Refused where a run of this name has not ended."""
    from supervisor.cli.plan import known_run

    run = known_run(name, client)
    if run is not None and run["phase"] not in _ENDED:
        raise Refused(f"{run['id']} is {run['phase']}, and a name is of one run at a time\n  fix: give --name NAME")


def check_job(text: str, name: str, config: Config) -> None:
    """Raise UserError where the daemon would refuse the job file for what stands in it."""
    from supervisor import jobspec

    jobspec.parse(text.encode(), path=f"{name}.toml", owner=os.getuid(), defaults=config.defaults, now=time.time())


# ---- the job file
def _job_file(found: RunFolder, training: Training | None, wishes: Wishes, name: str) -> str:
    from supervisor import drafts
    from supervisor.cli.new import defaults_of
    from supervisor.effects import live_trainings, run_folders

    python = str(Path(wishes.python).expanduser().absolute()) if wishes.python else ""
    if not python and not wishes.conda:
        python = live_trainings.interpreter_of(training) if training else drafts.active_interpreter(os.environ)
    decided: dict[str, Any] = {
        "name": name,
        "project": wishes.project,
        "gpus": _gpus(found, training, wishes),
        "adopt": str(found.path),
        "watch": _watch(training),
    }
    environment = drafts.Environment(
        _cwd(training, wishes),
        python=python,
        conda=wishes.conda,
        known_defaults=defaults_of(python) if python and found.family == run_folders.ULTRALYTICS else {},
        decided=decided,
    )
    if found.family == run_folders.ULTRALYTICS:
        return run_folders.draft(found, environment)
    script, command = _script(found, training, wishes, environment.cwd)
    cwd = environment.cwd if training is not None or wishes.cwd else script.parent
    return run_folders.draft(found, replace(environment, cwd=cwd), command)


def _watch(training: Training | None) -> dict[str, Any] | None:
    from supervisor.attempt_files import pid_namespace
    from supervisor.clock import current_boot

    if training is None:
        return None
    where = {"boot_id": current_boot().boot_id, "pid_namespace": pid_namespace()}
    return {"pid": training.pid, "start_time": training.start_time, **where}


def _gpus(found: RunFolder, training: Training | None, wishes: Wishes) -> int | None:
    """As many as it was given; a variable of its environment says it where its options do not."""
    from supervisor import drafts

    if wishes.gpus is not None:
        return wishes.gpus
    device = found.options.get("device")
    visible = training.env.get("CUDA_VISIBLE_DEVICES") if training is not None else None
    if device in {None, ""} and visible is not None:
        return int(any(part.strip() not in {"", "-1"} for part in visible.split(",")))  # it takes the first one
    return drafts.gpu_count(device) if device not in {None, ""} and found.family != "ultralytics" else None


def _cwd(training: Training | None, wishes: Wishes) -> Path:
    if wishes.cwd:
        return Path(wishes.cwd).expanduser().absolute()
    return Path(training.cwd) if training is not None and training.cwd else Path.cwd()


def _script(found: RunFolder, training: Training | None, wishes: Wishes, cwd: Path) -> tuple[Path, list[str]]:
    """The script of a family, and the command that begins with it. Raises BadInput where nobody says which it is."""
    from supervisor import drafts
    from supervisor.effects import run_folders

    words = list(training.words) if training is not None and not wishes.script else []
    place = next((place for place, word in enumerate(words) if word.endswith(".py")), None)
    if place is not None:
        words[place] = str(cwd / words[place])
        braces = [word.replace("{", "{{").replace("}", "}}") for word in drafts.ours_left_out(words)]
        return Path(words[place]), ["{python}", *braces]
    chosen = Path(wishes.script).expanduser().absolute() if wishes.script else run_folders.script_of(found)
    if chosen is None:
        hint = "say it with --script FILE, such as --script ~/yolov5/train.py"
        raise BadInput(f"{found.path} does not say which script of {found.family} made it\n  fix: {hint}")
    if not chosen.is_file():
        raise BadInput(f"this script is not there: {chosen}")
    return chosen, run_folders.command_of(found, chosen, Path(wishes.cwd or chosen.parent))


# ---- telling and asking
def _plan(found: RunFolder, training: Training | None) -> list[str]:
    from supervisor.effects.run_folders import rows_to_cut

    best, of = found.best, f" of {found.epochs}" if found.epochs else ""
    trainer = f"{found.family} {found.version}".strip()
    lines = [f"{found.path} is a training of {trainer}"]
    lines += [f"  {one.name}: {_state(one)}" for one in found.found]
    if training is not None:
        lines.append(f"process {training.pid} would be watched: {' '.join(training.words)[:200]}")
        lines.append(f"  its output: {training.log or 'not kept, as it goes to no file'}")
        lines.append("  it is never ended; when it has died before its end, it is resumed in place")
        return lines
    if best is None:
        return lines
    age_s = time.time() - found.written_at
    if age_s < _FRESH_S:
        lines.append(
            f"CAUTION: it was written {age_s:.0f} s ago. If that training goes on where it cannot be seen from"
        )
        lines.append("  here (a container, another machine), two would write one folder: be sure that it has ended")
    if best.state == "done_not_stripped":
        lines.append(f"all epochs are trained: only the end that is missing would be made up for, from {best.name}")
    else:
        lines.append(f"would resume after epoch {best.done_epochs}{of} in place, from {best.name}")
    rows = rows_to_cut(found, best.done_epochs)
    if rows:
        lines.append(f"  results.csv would be cut from {len(found.rows)} to {len(found.rows) - rows} rows")
    lines += [f"  the {one.state} {one.name} would be kept aside" for one in found.torn if one.name == "last.pt"]
    return lines


def _state(one: Any) -> str:
    epoch = f", epoch {one.done_epochs}" if one.done_epochs else ""
    of = f" of {one.epochs}" if one.epochs and one.done_epochs else ""
    bad = one.state not in {"resumable", "finished", "done_not_stripped"}
    return f"{one.state}{epoch}{of}" + (f" ({one.reason})" if one.reason and bad else "")


def _show(proposal: Proposal, *, dry_run: bool, as_json: bool) -> None:
    if as_json and dry_run:
        screen.show_json(proposal.view)
        return
    if dry_run:
        click.echo(proposal.text, nl=False)
    for line in () if as_json else proposal.plan:
        screen.note(line)


def _confirm(proposal: Proposal) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked: give --yes, or --dry-run to look only")
    click.echo(proposal.text)
    if not click.confirm("Submit this job?", default=False):
        raise Failure("nothing was done")


def _submit(client: Client, proposal: Proposal, *, as_json: bool) -> int:
    from supervisor.cli.submit import Submission, await_answer, place, tell

    submission = Submission(f"{proposal.name}.toml", proposal.name, proposal.text.encode())
    folder = Path(client.get("/v1/config")["config"]["jobs"]["folder"])
    since_at = int(time.time()) - 1
    path = place(submission, folder)
    answer = await_answer(client, submission, path, since_at)
    if as_json:
        screen.show_json({**proposal.view, "answer": answer})
        return BadInput.exit_code if answer["state"] == "refused" else 0 if answer["state"] == "accepted" else 75
    return tell(client, [answer], as_json=False)
