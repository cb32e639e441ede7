"""The verb `submit`: check job files here, put them into the jobs folder, and hear what the daemon says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from supervisor import durable
from supervisor.cli import screen
from supervisor.cli.client import Client, Target, View, connect, run_path, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput, Failure, NoDaemon
from supervisor.cli.waiting import deadline_of, wait_and_tell

ANSWER_WITHIN_S = 180.0  # an interpreter that was never asked before is asked now: a cold import of torch
LOOK_EVERY_S = 0.1
FILE_MODE = 0o644
TRY_LATER = 75


@dataclass(frozen=True)
class Submission:
    """A job file that was read and found right."""

    file: str
    name: str
    data: bytes

    @property
    def revision(self) -> str:
        """The hash that the daemon knows this content by."""
        return hashlib.sha256(self.data).hexdigest()


@click.command(
    "submit",
    epilog=examples(
        "yolo-supervisor submit truck.toml",
        "yolo-supervisor submit *.toml --check",
        "yolo-supervisor submit truck.toml --wait && ./deploy.sh",
        "yolo-supervisor new -- yolo train model=yolo11s.pt data=truck.yaml | yolo-supervisor submit - --name truck",
    ),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(allow_dash=True))
@click.option("--name", metavar="NAME", help="The job's name, for a file read from standard input (-).")
@click.option("--check", is_flag=True, help="Only say what would run; nothing is submitted.")
@click.option("--wait", is_flag=True, help="Wait until the runs have ended; exit codes as of `wait`.")
@click.option("--timeout", metavar="TIME", help="With --wait: give up after this time, such as 2h.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@target_options
@click.pass_context
def submit_verb(
    ctx: click.Context,
    files: tuple[str, ...],
    name: str | None,
    timeout: str | None,
    *,
    check: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Check job files and give them to the daemon. Relative paths are made absolute by the file's own folder.

    The file is copied: later changes of it have no effect until it is submitted again.
    """
    target = ctx.find_object(Target) or Target()
    deadline = deadline_of(timeout)
    if check:
        _check(target, files, name, as_json=as_json)
        return
    client = connect(target)
    submissions = _read_all(target, files, name, client)
    folder = Path(client.get("/v1/config")["config"]["jobs"]["folder"])
    since_at = int(time.time()) - 1
    placed = [(one, place(one, folder)) for one in submissions]
    answers = [await_answer(client, one, path, since_at) for one, path in placed]
    code = tell(client, answers, as_json=as_json and not wait)
    if wait and code == 0:
        codes = [wait_and_tell(client, answer["run"], deadline, as_json=as_json) for answer in answers]
        code = next((bad for bad in codes if bad), 0)
    ctx.exit(code)


def _read_all(target: Target, files: Sequence[str], name: str | None, client: Client | None) -> list[Submission]:
    """Read all files before any is placed: either all are right, or nothing happens."""
    from supervisor import jobspec
    from supervisor.cli.plan import configuration

    defaults = configuration(target, client).defaults
    found = []
    for file in files:
        label, data = _read(file, name)
        draft = jobspec.parse(data, path=label, owner=os.getuid(), defaults=defaults, now=time.time())
        found.append(Submission(label, draft.job.name, data))
    names = [one.name for one in found]
    if twice := next((one for one in found if names.count(one.name) > 1), None):
        raise BadInput(f"two of these files have the name {twice.name}; a name is of one run at a time")
    return found


def _read(file: str, name: str | None) -> tuple[str, bytes]:
    """A job file with absolute paths, and what to call it in messages."""
    from supervisor.cli.absolute import make_absolute

    if file == "-":
        if not name:
            raise click.UsageError("a job from standard input needs --name")
        label, base, data = f"{name}.toml", Path.cwd(), sys.stdin.buffer.read()
    else:
        label, base = file, Path(file).absolute().parent
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    return label, make_absolute(data, base, label)


# ---- --check
def _check(target: Target, files: Sequence[str], name: str | None, *, as_json: bool) -> None:
    from supervisor.cli import plan

    client = _client_if_any(target)
    config = plan.configuration(target, client)
    plans: list[View] = []
    for one in _read_all(target, files, name, client):
        job = plan.checked(one.data, one.file, config, client)
        plans.append({"file": one.file, "plan": plan.plan(job, config, client)})
    if as_json:
        screen.show_json({"version": 1, "files": plans})
        return
    for entry in plans:
        click.echo(f"{entry['file']} is right; {entry['plan']['name']} would run as")
        for line in plan.plan_lines(entry["plan"]):
            click.echo(line)


def _client_if_any(target: Target) -> Client | None:
    try:
        return connect(target)
    except NoDaemon:
        screen.note("daemon is not running: checked by the configuration file alone")
        return None


# ---- placing
def place(submission: Submission, folder: Path) -> Path:
    """Put a job file into the jobs folder in one step; nobody ever sees half of it. Raises Failure."""
    path = folder / f"{submission.name}.toml"
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        _write(temporary, submission.data)
        temporary.replace(path)
        durable.sync(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        hint = "ask the administrator for the right to write there" if isinstance(error, PermissionError) else ""
        raise Failure(f"{path} cannot be written: {error.strerror}" + (f"\n  fix: {hint}" if hint else "")) from None
    return path


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


# ---- the daemon's answer
def await_answer(client: Client, submission: Submission, path: Path, since_at: int) -> View:
    """What the daemon makes of the file: state accepted with its run, or refused with the reasons, or pending."""
    give_up = time.monotonic() + ANSWER_WITHIN_S
    while True:
        query = {"revision": submission.revision, "path": str(path), "since": since_at}
        answer = client.get("/v1/files", **query)
        if answer["state"] in {"accepted", "refused"} or time.monotonic() >= give_up:
            return {**answer, "name": submission.name, "source": submission.file}
        time.sleep(LOOK_EVERY_S)


def tell(client: Client, answers: Sequence[View], *, as_json: bool) -> int:
    """Show what the daemon answered; the exit code."""
    if as_json:
        screen.show_json({"version": 1, "files": list(answers)})
    for answer in answers:
        _tell_one(client, answer, quiet=as_json)
    states = {answer["state"] for answer in answers}
    return BadInput.exit_code if "refused" in states else 0 if states == {"accepted"} else TRY_LATER


def _tell_one(client: Client, answer: View, *, quiet: bool) -> None:
    if answer["state"] == "refused":
        screen.note(f"{answer['source']} was refused:\n{answer['refused']}")
    elif answer["state"] != "accepted":
        screen.note(f"{answer['source']} lies in the jobs folder, but was not taken yet; `ls` will show it")
    elif not quiet:
        view = client.get(run_path(answer["run"]))
        click.echo(f"{view['id']} is {screen.phase_text(view['phase'])}: {view['explanation']}")
