"""The mounts of a job: recorded when it is accepted, and looked at before each attempt."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from check_machine import Machine, accepted

from supervisor.core.actions import Prepare
from supervisor.core.events import Prepared, PrepareFailed
from supervisor.core.job import Mount
from supervisor.core.model import Job
from supervisor.effects.prepare import Preparer

SHM = Path("/dev/shm")


@pytest.fixture
def elsewhere():
    """A folder on a file system of its own."""
    if not SHM.is_mount():
        pytest.skip("needs /dev/shm as a file system of its own")
    folder = Path(tempfile.mkdtemp(dir=SHM))
    yield folder
    shutil.rmtree(folder)


def test_the_mounts_of_a_job_are_recorded_with_what_lies_there(tmp_path, elsewhere):
    """The data file lies on the root's disk, its images do not, and a link leads to where the job runs."""
    machine = Machine(tmp_path)
    (elsewhere / "images").mkdir()
    (tmp_path / "data.yaml").write_text(f"path: {elsewhere}\ntrain: images\nval: images\n")
    (elsewhere / "code").mkdir()
    (tmp_path / "code").symlink_to(elsewhere / "code")
    job = accepted(machine.checker(gpu_count=0), machine.text(head=f'cwd = "{tmp_path}/code"'))
    found = {(one.what, one.path, one.point, one.type) for one in job.mounts}
    assert found == {
        ("working folder", f"{tmp_path}/code", "/dev/shm", "tmpfs"),
        ("data", str(elsewhere), "/dev/shm", "tmpfs"),
        ("data", f"{elsewhere}/images", "/dev/shm", "tmpfs"),
    }


def test_a_job_on_the_root_file_system_needs_no_mount(tmp_path):
    """Unless the folder for tests is a file system of its own."""
    machine = Machine(tmp_path)
    job = accepted(machine.checker(gpu_count=0), machine.text())
    assert {one.point for one in job.mounts} <= {"/tmp", "/private", "/var"}


def test_a_job_of_an_older_journal_has_no_mounts():
    """It is loaded as it was written."""
    old = {"name": "truck", "revision": "r"}
    assert msgspec.convert(old, Job).mounts == ()


def prepared(tmp_path: Path, mount: Mount, *, scratch_allowed: bool):
    """Prepare the first attempt of a job that needs this mount."""
    preparer = Preparer(tmp_path / "runs", 0, lambda _revision: b"# job\n", lambda: 1000.0)
    job = Job(name="truck", project="p", revision="r1", train={"epochs": 8}, mounts=(mount,))
    (event,) = preparer(Prepare(key="k", run="truck@1", attempt=1, token=7, job=job, scratch_allowed=scratch_allowed))
    return event


def gone(what: str) -> Mount:
    """A mount that is not there."""
    return Mount(what=what, path="/nowhere/x", point="/nowhere", source="nas:/export", type="nfs4")


def test_nothing_is_made_while_a_mount_is_gone(tmp_path):
    """It is waited for by its name; a folder that is made now would be hidden when the mount comes back."""
    event = prepared(tmp_path, gone("data"), scratch_allowed=True)
    assert isinstance(event, PrepareFailed)
    assert (event.waiting_for, event.reason, event.at) == (
        "mount: /nowhere",
        "nas:/export is not mounted at /nowhere",
        1000.0,
    )
    assert not (tmp_path / "runs").exists()


def test_a_resume_does_not_wait_for_the_weights_that_it_began_with(tmp_path):
    """They are read by a first start only."""
    assert isinstance(prepared(tmp_path, gone("model"), scratch_allowed=True), PrepareFailed)
    assert isinstance(prepared(tmp_path, gone("model"), scratch_allowed=False), Prepared)
