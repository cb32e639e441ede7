"""What a backup holds on to although it is not here any more, and what is remembered here of what it holds."""

from __future__ import annotations

import shutil

import pytest

from supervisor.effects.backup.remembered import remembered, remembered_file
from supervisor.effects.backup.targets.base import TargetError
from tests.backup_room import BackupRoom
from tests.torch_files import checkpoint


@pytest.fixture
def room(tmp_path):
    return BackupRoom(tmp_path)


def failing(call):
    """A target to which nothing can be sent."""
    if call == "send":
        raise TargetError("full", "no room")


def test_final_weights_that_are_only_there_stay_there(tmp_path):
    """An archived run that is sent again keeps best.pt and last.pt on the target, however often; files and checkpoints."""
    room = BackupRoom(tmp_path, snapshots=1)
    room.saved(1, 2, 3)
    for name in ("best.pt", "last.pt"):
        room.write(f"train/weights/{name}", checkpoint(3))
    room.back_up(ended=True, phase="SUCCEEDED")
    before = room.manifests()[0]
    shutil.rmtree(room.run_dir / "train/weights")
    assert room.back_up(ended=True, phase="SUCCEEDED").unchanged
    for number in range(3):
        room.write("attempts/1/log", bytes(number + 1))
        room.back_up(ended=True, phase="SUCCEEDED")
    (manifest,) = room.manifests()
    assert manifest.checkpoints == before.checkpoints
    assert {"train/weights/best.pt", "train/weights/last.pt"} <= {one.path for one in manifest.files}
    assert room.wrong() == []


def test_final_weights_of_another_training_are_not_held(room):
    """A run that begins anew under the name has none of the old run's."""
    room.saved(1)
    room.write("train/weights/last.pt", checkpoint(3))
    room.back_up(ended=True, phase="SUCCEEDED")
    (room.run_dir / "train/weights/last.pt").unlink()
    room.write("mark", b"fedcba9876543210")
    room.back_up()
    assert "train/weights/last.pt" not in {one.path for one in room.manifests()[0].files}


def test_damaged_final_weights_replace_no_whole_ones(room):
    """The copy of the last snapshot is held on to, and that is said."""
    room.saved(1)
    room.write("train/weights/last.pt", checkpoint(3))
    room.back_up(ended=True, phase="FAILED")
    before = room.manifests()[0]
    room.write("train/weights/last.pt", checkpoint(3)[:-100])
    room.write("attempts/1/log", b"more")
    room.back_up(ended=True, phase="FAILED")
    after = room.manifests()[0]
    assert after.snapshot != before.snapshot
    assert (after.stored("train/weights/last.pt"), after.checkpoints) == (
        before.stored("train/weights/last.pt"),
        before.checkpoints,
    )
    assert "older copy is held" in after.left_out[0]


def test_what_a_snapshot_holds_is_remembered_here(room):
    """As soon as it is backed up, and again where that was lost; what failed, and the journal, leave no trace."""
    room.target.fails = failing
    room.back_up()
    path = remembered_file(room.state_dir, "nas", room.job.project, "truck")
    assert not path.exists()
    room.target.fails = lambda _call: None
    room.saved(1)
    done = room.back_up()
    assert remembered(room.state_dir, "nas", room.job.project, "truck") == room.manifests()[0]
    assert room.manifests()[0].snapshot == done.snapshot
    for lost in (path.unlink, lambda: path.write_bytes(b"{")):
        lost()
        assert remembered(room.state_dir, "nas", room.job.project, "truck") is None
        assert room.back_up().unchanged
        assert remembered(room.state_dir, "nas", room.job.project, "truck") == room.manifests()[0]
    room.back_up_state()
    assert [one.name for one in (room.state_dir / "backup/nas/manifests").rglob("*.json")] == ["truck.json"]
