"""What a job would do, before it is submitted: interpreter, command, directory, device, start."""

from __future__ import annotations

import functools
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor import layout, toml_errors, trainers
from supervisor.cli.client import Client, Target, View, run_path, settings
from supervisor.cli.failures import NoSuchRun
from supervisor.cli.screen import duration_text, time_text
from supervisor.config import Config
from supervisor.core.actions import Launch
from supervisor.core.model import Job
from supervisor.core.placeholders import names_in
from supervisor.core.views import job_view
from supervisor.units import format_size

if TYPE_CHECKING:
    from supervisor.effects.gpu_stock import GpuStock


def configuration(target: Target, client: Client | None) -> Config:
    """The configuration that jobs are judged by: the daemon's, else the one that is found. Raises UserError."""
    if client is None:
        return settings(target)
    shown = client.get("/v1/config")["config"]
    channels = [{key: channel[key] for key in ("name", "kind", "url")} for channel in shown.get("channel", [])]
    table = {**_without_none(shown), "channel": channels}
    return toml_errors.convert(table, Config, toml_errors.Source("the daemon's configuration", ""))


def _without_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_none(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


def checked(data: bytes, file: str, config: Config, client: Client | None) -> Job:
    """The job of a file, checked against this machine as the daemon would. Raises UserError with all reasons."""
    from supervisor.clock import WallClock
    from supervisor.effects.check import JobChecker

    daemon_uid = Path(client.path).stat().st_uid if client is not None else os.geteuid()
    gpus = functools.partial(_stock, client)
    checker = JobChecker(config, config.server.runs_dir, interpreter_cache(), WallClock(), gpus=gpus, euid=daemon_uid)
    return checker.check(data, path=file, owner=os.getuid())


def _stock(client: Client | None) -> GpuStock:
    """The GPUs that the daemon knows; without one, or before its driver has answered, as many as the kernel lists."""
    from supervisor.core.gpus.model import STARTING
    from supervisor.effects import gpu_stock
    from supervisor.machine.gpu_count import count_gpus

    view = client.get("/v1/gpus") if client is not None else None
    if view is None or view["driver"]["state"] == STARTING:
        return gpu_stock.numbered(count_gpus())
    return gpu_stock.of_view(view)


def interpreter_cache() -> Path:
    """What interpreters have is kept per user: the daemon's own cache is not ours to write."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "yolo-supervisor" / "interpreters.json"


def plan(job: Job, config: Config, client: Client | None) -> View:
    """What would run, as data."""
    run_dir = layout.run_directory(config.server.runs_dir, job.project, job.name)
    order = Launch(
        key="", attempt=1, token=0, job=job, gpus=tuple(range(job.gpus)), start="fresh", checkpoint="", from_epoch=0
    )
    argv, _ = trainers.trainer_for(job).launch_spec(order, run_dir, port=0)
    return {
        "name": job.name,
        "project": job.project,
        "interpreter": job.python,
        "ultralytics": job.trainer_version,
        "argv": argv,
        "cwd": job.cwd or str(run_dir.root),
        "directory": str(run_dir.root),
        "device": device_words(job),
        "epochs": job.epochs,
        "start": _start(job, client),
        "waits_for": _waits(job),
        "notes": _notes(job),
        "job": job_view(job),
    }


def device_words(job: Job) -> str:
    """What the job will compute on: `2 GPUs, or 1 if the others are broken, with 20GiB each`."""
    if not job.gpus:
        return "CPU"
    wish = job.gpu
    words = [f"{job.gpus} GPU{'s' if job.gpus > 1 else ''}"]
    if wish.named:
        words = [", ".join(f"GPU {name}" if name.isdigit() else name for name in wish.named)]
    if 0 < wish.min < job.gpus:
        words.append(f"or {wish.min} if the others are broken")
    if wish.memory_bytes:
        words.append(f"with {format_size(wish.memory_bytes)}" + (" each" if job.gpus > 1 else ""))
    if wish.prefer == "numa" and job.gpus > 1:
        words.append("of one processor if possible")
    return ", ".join([*words, "shared with others" if wish.share else ""]).removesuffix(", ")


def _notes(job: Job) -> list[str]:
    """What is right, and yet not what its author may expect."""
    return [*_remedy_notes(job), *_gpu_notes(job)]


def _remedy_notes(job: Job) -> list[str]:
    from supervisor.core.diagnosis.rungs import ARGUMENTS
    from supervisor.core.job import Restart

    remedies = job.restart.remedies
    idle = [one for one in remedies if one in ARGUMENTS]
    if job.train is not None or not idle or remedies == Restart().remedies:
        return []
    return [f"restart.remedies: {', '.join(idle)} have no effect here, the arguments of a command are its own"]


def _gpu_notes(job: Job) -> list[str]:
    """What its number of GPUs means for the batch, and for a program that counts them itself."""
    from supervisor.core.gpus.leases import divides

    least = job.gpu.min or job.gpus
    odd = [str(count) for count in range(least, job.gpus) if not divides(job.train, count)]
    notes = [f"gpu.min: it never goes on with {' or '.join(odd)} GPUs, the batch has no such parts"] if odd else []
    if job.gpus > 1 and not divides(job.train, job.gpus):
        notes.append(f"its batch has no {job.gpus} equal parts: each GPU gets a whole part, the rest is left out")
    words = (*job.command, *job.resume_command)
    if job.command and least < job.gpus and not any("gpu_count" in names_in(word) for word in words):
        notes.append("gpu.min: its command starts as many ranks as it says, if they are fewer GPUs or not; "
                     "{gpu_count} in it is how many there are")  # fmt: skip
    if job.command and job.gpus and not job.checkpoints.hook:
        notes.append("without our hook it is not kept on its own GPUs if it sets CUDA_VISIBLE_DEVICES itself")
    return notes


def _start(job: Job, client: Client | None) -> str:
    run = known_run(job.name, client)
    if run is None and job.adopt:
        return f"from what lies in {job.adopt}, in place"
    if run is None:
        return "from the beginning"
    if run["job"]["revision"] == job.revision:
        return f"not at all: exactly this job is {run['id']} ({run['phase']})"
    if run["phase"] not in {"SUCCEEDED", "FAILED", "CANCELLED"}:
        return f"{run['id']} is {run['phase']}: this would be a new revision of it, from its next attempt on"
    return f"from the beginning; what {run['id']} left is set aside"


def known_run(name: str, client: Client | None) -> View | None:
    """The newest run of that name, if a daemon knows one."""
    try:
        return client.get(run_path(name)) if client is not None else None
    except NoSuchRun:
        return None


def _waits(job: Job) -> list[str]:
    waits = [f"{name} to succeed" for name in job.after]
    return waits + ([time_text(job.start_after_at)] if job.start_after_at else [])


def plan_lines(view: View) -> list[str]:
    """The plan for a person."""
    job = view["job"]
    limit = duration_text(job["time_limit_s"]) if job["time_limit_s"] else ""
    version = f" (Ultralytics {view['ultralytics']})" if view["ultralytics"] else ""
    facts = [
        ("interpreter", view["interpreter"] + version if view["interpreter"] else ""),
        ("command", shlex.join(view["argv"])),
        ("arguments", _arguments(job["train"])),
        ("resumes by", shlex.join(job["resume_command"])),
        ("directory", view["directory"]),
        ("cwd", view["cwd"]),
        ("device", view["device"]),
        ("epochs", str(view["epochs"] or "")),
        ("starts", view["start"]),
        ("waits for", ", ".join(view["waits_for"])),
        ("time limit", limit),
        ("priority", str(job["priority"])),
        ("gives up", f"after {job['restart']['no_progress']} failures in a row without a newly saved epoch"),
        *(("note", note) for note in view["notes"]),
    ]
    return [f"  {label:<12}{text}" for label, text in facts if text]


def _arguments(train: View | None) -> str:
    return " ".join(f"{key}={toml_errors.format_value(value)}" for key, value in (train or {}).items())
