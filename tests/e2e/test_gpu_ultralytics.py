"""Real Ultralytics trainings on GPUs of a fake driver: the CPU computes, all else is real."""

from __future__ import annotations

import json
import subprocess

import pytest
from daemon_harness import REPOSITORY, until
from gpu_room import TRAIN_PYTHON, gpu_site, gpus, real, seen_by, start

pytestmark = pytest.mark.e2e

SLOW_S = 90.0


def stored(server, name):
    """What the project's checkpoint reader says of last.pt."""
    program = REPOSITORY / "supervisor" / "runner" / "checkpoint.py"
    path = server.run_dir(name) / "train" / "weights" / "last.pt"
    done = subprocess.run([TRAIN_PYTHON, program, path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def by_uuid(server, uuid):
    """What the API says of one GPU."""
    return next(gpu for gpu in gpus(server) if gpu["uuid"] == uuid)


@pytest.mark.slow  # test_gpu_daemon has its shorter sister
def test_a_real_training_loses_its_gpu_and_is_finished_on_the_other_one(tmp_path):
    """Its GPU falls off the bus in epoch 3: it is ended at once, and resumed on the other GPU; each epoch once."""
    with gpu_site(tmp_path / "room", 2) as (server, driver):
        start(server, 2)
        real(server, "boxes", epochs=8)
        first = server.attempt("boxes", 1)
        first.wait_for_beat("saved", SLOW_S, epoch=1)
        [lost] = seen_by(server, "boxes", 1)
        index = [driver.uuid(0), driver.uuid(1)].index(lost)
        driver.lose(index)
        driver.xid(index, 79, "GPU has fallen off the bus.", pid=first.pid)

        second = server.attempt("boxes", 2)
        resumed = second.wait_for_beat("resumed", SLOW_S)
        assert seen_by(server, "boxes", 2) == [driver.uuid(1 - index)]
        assert resumed["from_epoch"] == max(beat["epoch"] for beat in first.beats("saved"))
        server.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
        assert server.attempts("boxes") == [1, 2]
        assert server.epochs_in_table("boxes") == [*range(1, 9)]
        assert stored(server, "boxes")["state"] == "finished"
        until(lambda: by_uuid(server, lost)["quarantine"], "the lost GPU is in quarantine")
        assert not by_uuid(server, driver.uuid(1 - index))["quarantine"]
