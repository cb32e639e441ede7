"""A real daemon with a fake driver; toys that want GPUs, and real trainings that take the CPU for their GPUs."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon_harness import MODEL, REPOSITORY, TESTS, Site, job, needs, site, until

from tests.fake_nvml.room import FakeDriver

TRAIN_PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
#: On PYTHONPATH of a real training it takes device "0" for the CPU, and "0,1" for two ranks with gloo.
CUDA_STANDIN = TESTS / "gloo_standin"
KNOWN_WITHIN_S = 30.0


@contextlib.contextmanager
def gpu_site(
    directory: Path, count: int = 2, *, folder: str = "", **tables: Mapping[str, object]
) -> Iterator[tuple[Site, FakeDriver]]:
    """A server with a fake driver, quick to look; its daemon is not started. `directory` is new."""
    driver = FakeDriver(directory, count)
    gpu = {**driver.table, "fast": "500ms", "slow": "1s", "self_test": "never", **tables.pop("gpu", {})}
    with contextlib.closing(driver), site(folder, gpu=gpu, **tables) as made:
        made.extra_env.update(driver.environment)
        yield made, driver


def gpus(server: Site) -> list[dict[str, Any]]:
    """What the API says of every GPU."""
    found: list[dict[str, Any]] = server.client.get("/v1/gpus")["gpus"]
    return found


def start(server: Site, count: int) -> Site:
    """Start the daemon and wait until it knows so many GPUs: jobs wait for GPUs until then."""
    server.start()
    until(lambda: len(gpus(server)) == count, lambda: f"{count} GPUs, but {gpus(server)}", KNOWN_WITHIN_S)
    return server


def seen_by(server: Site, name: str, attempt: int = 1) -> list[str]:
    """The UUIDs that the trainer of an attempt is shown."""
    return server.attempt(name, attempt).env["CUDA_VISIBLE_DEVICES"].split(",")


def toy(server: Site, name: str, flags: str = "", *, wants: object = 1, epochs: int = 400, **keys: object) -> Path:
    """Drop a toy that trains for long and wants GPUs."""
    return server.train(name, f"--epoch-s 0.2 {flags}", epochs=epochs, gpus=wants, **keys)


def real(server: Site, name: str, *, wants: object = 1, epochs: int, batch: int = 4, **keys: object) -> Path:
    """Drop a real Ultralytics training that wants GPUs. Skips loudly where there is no interpreter for it."""
    needs(TRAIN_PYTHON.exists(), f"an interpreter with Ultralytics at {TRAIN_PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    arguments = {
        "model": str(MODEL), "data": str(data_of(server)), "epochs": epochs, "batch": batch, "imgsz": 64, "workers": 0,
        "plots": False, "amp": False,
    }  # fmt: skip
    env = {"PYTHONPATH": str(CUDA_STANDIN), "OMP_NUM_THREADS": "1"}
    settings = {"name": name, "python": str(TRAIN_PYTHON), "gpus": wants, "env": env, **keys, "train": arguments}
    return server.drop(f"{name}.toml", job(settings))


def data_of(server: Site) -> Path:
    """The data set of this server; made when it is first asked for."""
    data = server.root / "data"
    if not data.exists():
        command = [str(TRAIN_PYTHON), str(TESTS / "training_data.py"), str(data), "--train", "48"]
        subprocess.run(command, check=True, capture_output=True)
    return data / "data.yaml"
