"""GPUs that fail under trainings, from the C driver and the kernel log through the whole daemon."""

from __future__ import annotations

import json

import pytest
from gpu_fault_list import GPU_FAULTS
from gpu_faults import meet_all, must_be_expected
from gpu_room import gpu_site, real, seen_by, start

from tests.fake_nvml.room import LOST

pytestmark = pytest.mark.e2e

QUICK = [fault for fault in GPU_FAULTS if fault.quick]
#: Some at a time, so that one that goes wrong is told with few others.
GROUP = 12
OTHERS = [fault for fault in GPU_FAULTS if not fault.quick]
SLOW_S = 90.0


def test_what_happens_to_gpus_most(tmp_path):
    """A dozen faults: each is found, and the GPU and the training get what they should, no more and no less."""
    must_be_expected(meet_all(QUICK, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("first", range(0, len(OTHERS), GROUP))
def test_what_happens_to_gpus(tmp_path, first):
    """All the other faults, by dozens."""
    must_be_expected(meet_all(OTHERS[first : first + GROUP], tmp_path))


def test_there_are_as_many_faults_as_promised():
    """At least 60 distinct ones, 15 of them compound; each name is there once."""
    assert len({fault.name for fault in GPU_FAULTS}) == len(GPU_FAULTS) >= 60
    assert sum(fault.compound for fault in GPU_FAULTS) >= 15


def test_a_real_training_loses_its_gpu_and_finishes_on_another(tmp_path):
    """Ultralytics trains; its GPU falls off the bus; it goes on from the verified checkpoint, on the other GPU, to its end."""
    with gpu_site(tmp_path / "room", 2) as (made, driver):
        server = start(made, 2)
        real(server, "boxes", epochs=3)
        first = server.attempt("boxes", 1)
        first.wait_for_beat("batch", SLOW_S, epoch=1)
        [its] = seen_by(server, "boxes")
        victim = [driver.uuid(gpu) for gpu in range(2)].index(its)
        driver.lose(victim, LOST)
        driver.xid(victim, 79, "GPU has fallen off the bus.", pid="'<unknown>'")
        resumed = server.attempt("boxes", 2).wait_for_beat("resumed", SLOW_S)
        done = server.wait("boxes", "SUCCEEDED", within_s=SLOW_S)
        [other] = json.loads((server.attempt("boxes", 2).directory / "launch.json").read_text())["env"][
            "CUDA_VISIBLE_DEVICES"
        ].split(",")
        saved = max(beat["epoch"] for beat in first.beats("saved"))
        assert other == driver.uuid(1 - victim)
        assert resumed["from_epoch"] == saved
        assert server.attempts("boxes") == [1, 2]
        assert server.epochs_in_table("boxes") == [1, 2, 3]
        [incident] = server.client.get("/v1/runs/boxes/incidents")["incidents"]
        assert (incident["cause"], incident["step"]) == ("gpu-lost", "elsewhere")
        assert done["failures"] == 0
