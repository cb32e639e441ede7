"""The documented account that never removes anything: `rrsync -no-del`, over a real sshd."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from supervisor.core.actions import VerifyBackup
from supervisor.core.backups.manifest import Manifest
from supervisor.effects.backup import fetched
from supervisor.effects.backup.restore import Restorer
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.verify import Verifier
from tests.backup_room import SERVER
from tests.sshd_room import sshd
from tests.unit.test_backup_restore import RestoreRoom

pytestmark = pytest.mark.slow


def test_it_is_backed_up_to_verified_and_restored_from(tmp_path: Path) -> None:
    """Two backups and more than are kept, with all checks; nothing is ever removed, and a lost run comes back."""
    room = RestoreRoom(tmp_path)
    with sshd(tmp_path / "sshd", tmp_path / "served") as server:
        (server.root / "backups").mkdir()
        room.settings = msgspec.structs.replace(
            room.settings,
            to=server.to("rrsync-no-del", "/backups"),
            ssh_key=server.key("rrsync-no-del"),
            known_hosts=server.known_hosts,
            append_only=True,
            snapshots=1,
        )
        room.target = target = open_target(room.settings, SERVER, room.state_dir, stop=room.stop)
        assert room.back_up().sent_files > 5
        room.saved(4, map50_95=0.5)
        second = room.back_up()
        assert (second.kept_epoch, second.removed) == (4, 0)
        assert room.back_up().unchanged
        folder = server.root / "backups" / SERVER / room.folder
        manifests = [msgspec.json.decode(path.read_bytes(), type=Manifest) for path in folder.glob("*/manifest.json")]
        assert len(manifests) == 2
        assert (folder / "latest").read_text() == second.snapshot

        verifier = Verifier(
            room.state_dir, fetched.scratch_of(room.runs_dir, "verify"), lambda _name: target, lambda: room.now
        )
        expected = {"default/truck": second.snapshot}
        (verified,) = verifier(VerifyBackup(key="v", target="nas", whole=True, expected=expected))
        assert (verified.damaged, verified.cause, verified.text) == ((), "", "")
        assert verified.files >= len(manifests[0].files)

        shutil.rmtree(room.run_dir)
        assert room.prepare().start == "refused"
        room.restorer = Restorer(
            room.runs_dir, fetched.scratch_of(room.runs_dir, "restore"), lambda _name: target, lambda: room.now
        )
        assert room.restore().epoch == 4
        room.resumes(4)
