"""With a real NVIDIA GPU: the probe, the lease, the self-test, and a real training that is killed and resumed.

    pytest -m gpu

The training needs an interpreter with Ultralytics and a torch with CUDA (YOLO_SUPERVISOR_TRAIN_PYTHON).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import pytest
from daemon_harness import MODEL, REPOSITORY, job, needs, site, until
from gpu_room import TRAIN_PYTHON, data_of, gpus, seen_by, toy

pytestmark = [pytest.mark.e2e, pytest.mark.gpu, pytest.mark.timeout(400)]

PATIENCE_S = 60.0
SLOW_S = 180.0
SELF_TEST = REPOSITORY / "supervisor" / "runner" / "gpu_test.py"


def listed() -> list[str]:
    """The UUIDs of the GPUs that the driver lists, by the driver's own tool; none without one."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        words = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        return [line.strip() for line in done.stdout.splitlines() if line.startswith("GPU-")]
    return []


@pytest.fixture(scope="module")
def there():
    """The GPUs of this machine; without any the test is skipped."""
    found = listed()
    if not found:
        pytest.skip("needs an NVIDIA GPU (nvidia-smi lists none here)")
    return found


@pytest.fixture(scope="module")
def with_cuda(there):
    """An interpreter whose torch can use the GPU. It is asked in a process of its own: nothing here imports torch."""
    needs(TRAIN_PYTHON.exists(), f"an interpreter with Ultralytics at {TRAIN_PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    code = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([TRAIN_PYTHON, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    if done.stdout.strip() != "True":
        pytest.skip(f"needs a torch with CUDA in {TRAIN_PYTHON}")
    return TRAIN_PYTHON


@pytest.fixture
def server(there):
    """A server that watches the real GPUs, without processes of others counting: the machine may be shared."""
    gpu = {"watch": True, "fast": "1s", "slow": "5s", "self_test": "quarantine", "foreign": "ignore"}
    with site(gpu=gpu) as made:
        passed_on = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        made.extra_env.update(passed_on)
        made.start()
        until(lambda: len(gpus(made)) == len(there), lambda: f"{there}, but {gpus(made)}", PATIENCE_S)
        yield made


def test_the_probe_reads_what_the_driver_tells(server, there):
    """Every GPU is shown by its UUID; memory, temperature and power are numbers or said to be absent, never missing."""
    assert {one["uuid"] for one in gpus(server)} == set(there)
    values = until(lambda: _read(server), "the values were read", PATIENCE_S)
    assert values["memory_total_bytes"]["value"] > 1 << 30
    assert 0 < values["temperature_c"]["value"] < 120
    assert set(values["power_w"]) & {"value", "absent"}


def _read(server):
    values = gpus(server)[0]["values"]
    return values if "value" in values["temperature_c"] and "unknown" not in values["power_w"] else None


def test_a_training_gets_its_gpu_alone(server, there):
    """Trainings see one GPU each, by its UUID; one more than there are GPUs waits, and starts when one is free."""
    names = [f"toy-{number}" for number in range(len(there) + 1)]
    server.tables["queue"]["max_running"] = len(names)
    for name in names[:-1]:
        toy(server, name)
        server.attempt(name).wait_for_beat("batch", PATIENCE_S)
    given = [uuid for name in names[:-1] for uuid in seen_by(server, name)]
    assert sorted(given) == sorted(there)
    toy(server, names[-1])
    until(lambda: (server.run(names[-1]) or {}).get("waiting_for", "").startswith(("GPU", "slot")), "it waits")
    server.order("cancel", names[0], now=True)
    server.attempt(names[-1]).wait_for_beat("batch", PATIENCE_S)
    assert seen_by(server, names[-1]) == given[:1]


def test_the_self_test_passes(with_cuda, there):
    """A healthy GPU passes it: memory holds its patterns, products are exact."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": there[0], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    words = [str(with_cuda), str(SELF_TEST), "--quick", "--uuid", there[0]]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"ok": true' in done.stdout


def real_training(server, name, epochs):
    """Drop a real training on one GPU."""
    arguments = {
        "model": str(MODEL), "data": str(data_of(server)), "epochs": epochs, "batch": 4, "imgsz": 64, "workers": 0,
        "plots": False, "amp": False,
    }  # fmt: skip
    settings = {"name": name, "python": str(TRAIN_PYTHON), "gpus": 1, "train": arguments}
    server.drop(f"{name}.toml", job(settings))


def test_a_real_training_is_killed_and_resumed_on_a_gpu(server, with_cuda, there):
    """SIGKILL in its third epoch; it goes on behind the last saved one, on a GPU, each epoch once, to its end."""
    assert with_cuda
    real_training(server, "boxes", epochs=8)
    first = server.attempt("boxes", 1)
    first.wait_for_beat("batch", SLOW_S, epoch=2)
    assert set(seen_by(server, "boxes")) <= set(there)
    os.kill(first.pid, signal.SIGKILL)
    resumed = server.attempt("boxes", 2).wait_for_beat("resumed", SLOW_S)
    assert resumed["from_epoch"] == max(beat["epoch"] for beat in first.beats("saved"))
    server.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
    assert server.epochs_in_table("boxes") == list(range(1, 9))
    log = (server.attempt("boxes", 2).directory / "log").read_text(errors="replace")
    assert "CUDA:0" in log


def test_a_gpu_comes_back_from_quarantine_by_its_self_test(server, with_cuda, there):
    """A person wants a GPU tested: a training has told which interpreter has torch, and the GPU is given out again."""
    assert with_cuda
    real_training(server, "boxes", epochs=1)
    server.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
    server.client.post(f"/v1/gpus/{there[0]}/orders", what="test")
    look = lambda: server.client.get(f"/v1/gpus/{there[0]}")  # noqa: E731
    until(lambda: look()["quarantine"] is None, lambda: f"it is given out again: {look()['quarantine']}", SLOW_S)
    assert any(note["what"] == "released" for note in look()["passport"]["notes"])
