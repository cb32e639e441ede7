"""Whether a run still trains what it trained before: its data, its model, its versions, its devices.

A fingerprint is taken at every start, in the job's own Python. RUN/fingerprint.json holds the one that counts (of the
first start, or of the last difference that a person accepted) and that of the last attempt, so that each difference
is told once.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from supervisor import durable, layout
from supervisor.core import events, stages
from supervisor.core.actions import Prepare
from supervisor.core.consistency import Difference, Fingerprint, compare, digest, lost
from supervisor.core.model import Job
from supervisor.core.variables import SYSTEM_PATH, passed_on
from supervisor.effects import checkpoints
from supervisor.errors import RetryableError
from supervisor.trainers.scripts import FAMILIES, option_value, script_place

PROGRAM = layout.RUNNER / "fingerprint.py"
FILE = "fingerprint.json"
BUDGET_S = 20.0
TIMEOUT_S = 90.0  # the walk, and a cold start of the interpreter from a slow disk
_SETTINGS = Path("Ultralytics") / "settings.json"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """RUN/fingerprint.json. `before` is what `reference` and `last` were before this attempt was prepared."""

    attempt: int
    reference: Fingerprint
    last: Fingerprint
    before: tuple[Fingerprint, Fingerprint] | None = None
    attempts: dict[str, dict[str, str]] = {}
    version: int = 1


def check(
    action: Prepare, run_dir: layout.RunDirectory, choice: events.Prepared
) -> events.Prepared | events.PrepareFailed:
    """Return the start that was chosen with what has changed since the first one in its notes; or refused for that.

    What the run trained on and is not there at all is a failure: no person's agreement brings it back, and no waiting
    either, for every mount that was recorded is there when this is asked.
    Raises OSError where the record cannot be written, RetryableError where it cannot be read.
    """
    if choice.start not in {"fresh", "watch", "resume"} or not is_followed(action.job):
        return choice
    count = len(action.gpu_ids) or action.job.gpus  # it may have got fewer than it asks for
    new = take(action.job, run_dir, choice.from_epoch)
    new = msgspec.structs.replace(new, gpus=count, gpu_names=action.gpu_names)
    record = _read(run_dir)
    if choice.start == "watch":
        _write(run_dir, action, record, record.reference if record is not None else new, new)
        return choice
    if choice.start == "fresh":
        _write(run_dir, action, record, new, new)
        return _with_notes(choice, action, run_dir, _at_first(action.job, new))
    old = _older(record, action, run_dir)
    if old is not None and (gone := lost(old[0], new)):
        return _data_gone(action, gone)
    reference, last = old if old is not None else (_from_checkpoint(action, choice, new), None)
    found = compare(reference, new)
    held = [one for one in found if one.kind == "held"]
    if held and action.accepted != digest(held):
        return _refused(choice, action.job, held)
    _write(run_dir, action, record, new if held else _completed(reference, new), new)
    return _with_notes(choice, action, run_dir, [*_said(found, reference, last), *_stage(action, choice, last, new)])


def is_followed(job: Job) -> bool:
    """Return whether it is known how to find a job's data and model: [train], and scripts of a known family."""
    return bool(job.python) and (job.train is not None or job.family in FAMILIES)


# ---- what is compared, and what is said
def _data_gone(action: Prepare, gone: str) -> events.PrepareFailed:
    reason = f"what it trains on is gone, although its file system is mounted: {gone}"
    return events.PrepareFailed(
        at=0.0, origin="prepare", run=action.run, attempt=action.attempt, reason=reason, cause="dataset-missing"
    )


def _refused(choice: events.Prepared, job: Job, held: Sequence[Difference]) -> events.Prepared:
    way = f"`yolo-supervisor resume {job.name} --accept` goes on with it as it is now"
    reason = f"what it trains is not what it was: {'; '.join(one.text for one in held)}; {way}"
    differences = digest(held)
    return msgspec.structs.replace(
        choice, start="refused", checkpoint="", from_epoch=0, reason=reason, differences=differences
    )


def _at_first(job: Job, new: Fingerprint) -> list[str]:
    """Return what is odd at a start from the beginning."""
    accepted, now = job.trainer_version, new.versions.get("ultralytics", "")
    changed = job.train is not None and accepted and now and accepted != now
    notes = [f"it was checked against Ultralytics {accepted}, and {now} is installed now"] if changed else []
    return [*notes, *_unseen(new)]


def _from_checkpoint(action: Prepare, choice: events.Prepared, new: Fingerprint) -> Fingerprint:
    """Return what is known of a run without a fingerprint, of an adopted one: which version wrote its checkpoint.

    A checkpoint that does not say it was written by the version that the job was accepted with.
    """
    found = checkpoints.look([Path(choice.checkpoint)])
    version = next((one.version for one in found if one.version), None) or action.job.trainer_version
    ultralytics = {"ultralytics": version} if version and action.job.train is not None else {}
    return msgspec.structs.replace(new, gpus=action.gpus, gpu_names=(), versions={**new.versions, **ultralytics})


def _completed(reference: Fingerprint, new: Fingerprint) -> Fingerprint:
    """Return the reference with what it could not know when it was taken, and with what moved since."""
    data = reference.data
    if data is None or data.missing:
        data = new.data
    elif new.data is not None and not new.data.missing:
        data = msgspec.structs.replace(data, name=new.data.name, path=new.data.path, root=new.data.root)
    return msgspec.structs.replace(
        reference,
        revision=new.revision,
        run_dir=new.run_dir,
        gpus=new.gpus,
        gpu_names=new.gpu_names,
        stage=new.stage,
        arguments=new.arguments,
        data=data,
        model=reference.model or new.model,
        versions={**new.versions, **reference.versions},
    )


def _said(found: tuple[Difference, ...], reference: Fingerprint, last: Fingerprint | None) -> list[str]:
    """Return the differences in words, without those that were told at the last attempt already."""
    told = {one.text for one in compare(reference, last)} if last is not None else set()
    held = [f"accepted by a person: {one.text}" for one in found if one.kind == "held"]
    return [*held, *(one.text for one in found if one.kind != "held" and one.text not in told)]


def _stage(action: Prepare, choice: events.Prepared, last: Fingerprint | None, new: Fingerprint) -> list[str]:
    """Return which planned stage it is in, and what could not be looked at."""
    now = stages.current(action.job, choice.from_epoch)
    notes = [stages.words(now)] if now is not None else []
    if last is not None and last.stage > new.stage:
        notes.append(f"it is before the stage from epoch {last.stage} again")
    return [*notes, *_unseen(new)]


def _unseen(new: Fingerprint) -> list[str]:
    return [f"its data could not be looked at: {new.problem}"] if new.problem else []


def _with_notes(
    choice: events.Prepared, action: Prepare, run_dir: layout.RunDirectory, notes: list[str]
) -> events.Prepared:
    """Say the notes to people, and at the head of the attempt's log. Nothing of the attempt runs yet."""
    if notes:
        lines = [f"yolo-supervisor: attempt {action.attempt}: {note}\n" for note in notes]
        run_dir.attempt(action.attempt).log.write_text("".join(lines), encoding="utf-8")
    return msgspec.structs.replace(choice, notes=(*choice.notes, *notes))


# ---- the record
def _read(run_dir: layout.RunDirectory) -> Record | None:
    return _record(run_dir.root / FILE)


def _record(path: Path) -> Record | None:
    """Return the record; None where there is none, or a damaged one: it is begun anew then."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise RetryableError(f"{path} cannot be read: {error}", 30.0) from error


def _older(
    record: Record | None, action: Prepare, run_dir: layout.RunDirectory
) -> tuple[Fingerprint, Fingerprint] | None:
    """Return the reference and the last attempt's, as they were before this attempt; a branch has its origin's."""
    if record is not None and record.attempt == action.attempt:
        return record.before
    if record is not None:
        return record.reference, record.last
    project, slash, name = action.origin.partition("/")
    origin = _record(run_dir.root.parents[1] / project / name / FILE) if slash else None
    if origin is None:
        return None
    here = {"run_dir": str(run_dir.root), "revision": ""}  # it lies elsewhere and was edited on purpose
    return (
        msgspec.structs.replace(origin.reference, **here),
        msgspec.structs.replace(origin.last, **here),
    )


def _write(
    run_dir: layout.RunDirectory, action: Prepare, record: Record | None, reference: Fingerprint, last: Fingerprint
) -> None:
    """Put the record on disk, whole or not at all."""
    used = {**(record.attempts if record is not None else {}), str(action.attempt): last.versions}
    before = _older(record, action, run_dir)
    new = Record(attempt=action.attempt, reference=reference, last=last, before=before, attempts=used)
    durable.write(run_dir.root / FILE, msgspec.json.format(msgspec.json.encode(new), indent=1))


# ---- taking one
def take(job: Job, run_dir: layout.RunDirectory, epoch: int, environ: Mapping[str, str] = os.environ) -> Fingerprint:
    """Return what an attempt that goes on after `epoch` complete epochs is made of. Never raises: see `problem`."""
    stage = stages.current(job, epoch)
    found = _ask(job, run_dir, _request(job, run_dir), environ)
    versions = found.versions if job.train is not None else {**found.versions, "ultralytics": ""}
    return msgspec.structs.replace(
        found,
        revision=job.revision,
        run_dir=str(run_dir.root),
        gpus=job.gpus,
        stage=stage.from_epoch if stage is not None else 0,
        arguments={name: value for name, value in _arguments(job, epoch).items() if name in {"imgsz", "batch"}},
        versions={name: version for name, version in versions.items() if version},
    )


def _arguments(job: Job, epoch: int) -> dict[str, Any]:
    if job.train is not None:
        return job.train_after(epoch) or {}
    options = {"imgsz": "--imgsz", "batch": "--batch-size", "data": "--data"}
    told = {name: option_value(job.command, option) for name, option in options.items()}
    told["model"] = option_value(job.command, "--cfg") or option_value(job.command, "--weights")
    return {name: _number(value) for name, value in told.items() if value}


def _number(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdigit() else text


def _request(job: Job, run_dir: layout.RunDirectory) -> dict[str, Any]:
    arguments = _arguments(job, 0)
    return {
        "data": arguments.get("data"),
        "model": arguments.get("model"),
        "datasets_dir": _datasets_dir(job, run_dir),
        "root": None if job.train is not None else _script_folder(job, run_dir),
        "budget_s": BUDGET_S,
    }


def _datasets_dir(job: Job, run_dir: layout.RunDirectory) -> str:
    """Return where Ultralytics looks for data sets without a path: the job's settings before its owner's."""
    try:
        settings = msgspec.json.decode((run_dir.settings / _SETTINGS).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        settings = {}
    return str(job.settings.get("datasets_dir") or settings.get("datasets_dir") or "")


def _script_folder(job: Job, run_dir: layout.RunDirectory) -> str:
    """Return where YOLOv5 and its kin begin the paths of a data file: beside the script; YOLOv7 where it runs."""
    folder = _folder(job, run_dir)
    place = script_place(job.command)
    if job.family == "yolov7" or place is None:
        return str(folder)
    return str((folder / job.command[place]).parent)


def _folder(job: Job, run_dir: layout.RunDirectory) -> Path:
    return Path(job.cwd) if job.cwd else run_dir.root


def _ask(job: Job, run_dir: layout.RunDirectory, request: dict[str, Any], environ: Mapping[str, str]) -> Fingerprint:
    env = passed_on(environ, job.env_pass) | {"PATH": f"{Path(job.python).parent}:{SYSTEM_PATH}"} | job.env
    argv = [job.python, str(PROGRAM), msgspec.json.encode(request).decode()]
    try:
        done = subprocess.run(
            argv,
            env=env,
            cwd=_folder(job, run_dir),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            start_new_session=True,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Fingerprint(problem=f"{job.python} could not be asked: {error}")
    try:
        return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Fingerprint)
    except (msgspec.DecodeError, IndexError):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return Fingerprint(problem=f"{job.python} gave no answer (exit code {done.returncode}): {''.join(last)[:200]}")
