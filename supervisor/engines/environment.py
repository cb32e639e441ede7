"""The environment of a training: built from nothing, by an allow-list, plus what the job asks for."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from supervisor import layout, trainers
from supervisor.core.actions import Launch
from supervisor.core.loggers import logger_environment
from supervisor.core.variables import SYSTEM_PATH, passed_on

MARKER_PREFIX = "YOLO_SUPERVISOR_"


def build(
    action: Launch,
    run_dir: layout.RunDirectory,
    inherited: Mapping[str, str],
    *,
    allow_download: bool,
) -> dict[str, str]:
    """The whole environment of one attempt. The job's own [env] wins over all but the markers of our processes."""
    job = action.job
    env = passed_on(inherited, job.env_pass)
    env.update(_interpreter(Path(job.python)) if job.python else {"PATH": SYSTEM_PATH})
    env.update(
        CUDA_DEVICE_ORDER="PCI_BUS_ID",
        CUDA_VISIBLE_DEVICES=_own_gpus(action),
        PYTHONUNBUFFERED="1",
        YOLO_CONFIG_DIR=str(run_dir.settings),
        YOLO_AUTOINSTALL="0",
    )
    if not allow_download:
        env["YOLO_OFFLINE"] = "1"
    env.update({name: value for name, value in job.env.items() if not name.startswith(MARKER_PREFIX)})
    if job.train is not None:
        env.update(logger_environment(job.trainer_version, _line(run_dir), env))
    env.update(trainers.trainer_for(job).environment(job, env))
    env.update(
        YOLO_SUPERVISOR_GPUS=_own_gpus(action),
        YOLO_SUPERVISOR_RUN=action.run,
        YOLO_SUPERVISOR_ATTEMPT=str(action.attempt),
        YOLO_SUPERVISOR_TOKEN=str(action.token),
        YOLO_SUPERVISOR_ATTEMPT_DIR=str(run_dir.attempt(action.attempt).root),
    )
    return env


def _own_gpus(action: Launch) -> str:
    """What CUDA is shown: UUIDs, because indices move when a GPU is lost; indices where nobody watches GPUs."""
    return ",".join(action.gpu_ids or map(str, action.gpus))


def _line(run_dir: layout.RunDirectory) -> str:
    """What names the curve of this training among all others: its folder's name, and the mark made when it began."""
    try:
        return f"{run_dir.root.name} {run_dir.mark.read_text(encoding='utf-8')}"
    except FileNotFoundError:  # prepared by an older version
        return f"{run_dir.root.name} {socket.gethostname()} {run_dir.root}"


def _interpreter(python: Path) -> dict[str, str]:
    """PATH with the environment's programs first, and what its activation would set."""
    prefix = python.parent.parent
    env = {"PATH": f"{python.parent}:{SYSTEM_PATH}"}
    if (prefix / "conda-meta").is_dir():
        env["CONDA_PREFIX"] = str(prefix)
    elif (prefix / "pyvenv.cfg").is_file():
        env["VIRTUAL_ENV"] = str(prefix)
    return env
