"""`submit --check` judges the GPUs of a job by what the daemon knows of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.core import events
from supervisor.core.gpus.events import GpusSeen
from supervisor.core.gpus.model import GpuFacts, GpuPolicy
from supervisor.core.model import Policy

UUIDS = ["GPU-aaaa1111-2222", "GPU-bbbb1111-2222"]


@pytest.fixture
def check(daemon, cli, tmp_path):
    """Check a job with these GPUs, at a daemon that has two L40S and is not root."""
    if os.geteuid() == 0:
        os.chown(daemon.socket_path, 1000, 1000)
    facts = [
        GpuFacts(uuid=uuid, index=place, name="NVIDIA L40S", memory_bytes=48 * 1024**3)
        for place, uuid in enumerate(UUIDS)
    ]

    def call(*lines, state="ok"):
        daemon.put(events.Configured(at=1.0, policy=Policy(gpu=GpuPolicy(watch=True))))
        daemon.put(GpusSeen(at=1.0, state=state, gpus=tuple(facts)))
        job = tmp_path / "truck.toml"
        job.write_text("\n".join([*lines, 'command = ["/bin/true"]\n']))
        return cli("submit", job, "--check")

    return call


def test_a_named_gpu_is_shown_by_its_uuid(check):
    """An index is translated, as it will be when the job is accepted."""
    done = check("gpus = [1]")
    assert done.exit_code == 0, done.output
    assert f"device      {UUIDS[1]}\n" in done.stdout


def test_what_the_daemon_has_not_is_refused(check):
    """With what it has."""
    done = check("gpus = [2]")
    assert done.exit_code == 2
    assert "gpus: there is no GPU 2; there are GPUs 0 to 1" in done.stderr
    named = check('gpus = ["GPU-ffff0000"]').stderr
    assert f"expected one of 0, NVIDIA L40S, {UUIDS[0]}; 1, NVIDIA L40S, {UUIDS[1]}; got" in named
    assert "expected at most 48GiB" in check("gpus = 1", 'gpu.memory = "80GiB"').stderr


def test_before_its_driver_has_answered_the_kernels_list_counts(check):
    """The check does not wait for a driver; this machine lists its GPUs itself."""
    listed = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    assert f"expected at most {listed}, which is what this server has" in check("gpus = 99", state="starting").stderr
