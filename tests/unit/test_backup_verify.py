"""What rots on a target is found within the set time, whatever is read when."""

from __future__ import annotations

import pytest

from supervisor import backup_config
from supervisor.core.actions import VerifyBackup
from supervisor.effects.backup import fetched, verify
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.verify import Verifier, known_damaged
from tests.backup_room import BackupRoom
from tests.unit.test_backup_fetched import flip

DAY_S = 86400.0


class VerifyRoom(BackupRoom):
    """A target with two backups of a run and one of the journal; a clock that goes by days."""

    def __init__(self, tmp_path, *, within_days=5, local=False, **options):
        super().__init__(tmp_path, snapshots=5)
        self.saved(1, 2)
        self.write("train/batch.jpg", bytes(100_000))
        self.back_up()
        self.saved(3)
        self.back_up()
        self.back_up_state()
        self.verifier = Verifier(
            self.state_dir,
            fetched.scratch_of(self.runs_dir, "verify"),
            lambda _name: self.target,
            lambda: self.now,
            verify_within_s=lambda _name: within_days * DAY_S,
            folder_of=lambda _name: self.target.root if local else None,
            stop=self.stop,
            **options,
        )

    def verify(self, *, whole=False, after_days=1.0):
        """Carry an order out, a day later."""
        self.now += after_days * DAY_S
        (answer,) = self.verifier(VerifyBackup(key="server/verify-1/nas", target="nas", whole=whole))
        return answer

    def files(self):
        """All files that manifests name, as paths on the target."""
        runs = {fetched.place(self.folder, file): file for one in self.manifests() for file in one.files}
        state = {fetched.place("state", file): file for one in self.manifests("state") for file in one.files}
        return {path: file for path, file in {**runs, **state}.items() if file.bytes}


@pytest.fixture(params=[False, True], ids=["fetched", "local"])
def room(request, tmp_path):
    """Verified by fetching, and in place."""
    return VerifyRoom(tmp_path, local=request.param)


def test_a_sound_target_is_read_whole_within_the_time(room):
    """Five days, five calls: each file is read at least once, and what was read longest ago is told."""
    files, read, count = room.files(), 0, 0
    for _ in range(5):
        answer = room.verify()
        assert (answer.damaged, answer.cause) == ((), "")
        read, count = read + answer.bytes, count + answer.files
    assert count >= len(files)
    assert read >= sum(file.bytes for file in files.values())
    assert answer.read_from >= room.now - 5 * DAY_S
    assert not (room.runs_dir / ".fetching" / "nas" / "verify").exists()


def test_a_part_is_a_part(room):
    """A day's share is not everything."""
    assert 0 < room.verify().files < len(room.files())


@pytest.mark.parametrize("number", [0, 9])
def test_a_flipped_bit_is_found_within_the_time(room, number):
    """Whichever file it is in; and at once where everything is read."""
    path = sorted(room.files())[number % len(room.files())]
    room.verify()
    flip(room.target.root / path)
    found = [room.verify().damaged for _ in range(5)]
    assert found[-1] == (path,)
    assert room.verify(whole=True).damaged == (path,)
    assert known_damaged(room.state_dir, "nas") == {path}


def test_a_flipped_bit_is_found_at_once_by_reading_everything(room):
    """Without any reading before."""
    path = max(room.files())
    flip(room.target.root / path)
    answer = room.verify(whole=True)
    assert answer.damaged == (path,)
    assert answer.files >= len(room.files())


def test_damage_is_remembered_until_it_is_mended(room):
    """Each answer tells all that is known; a file that is right again is damaged no more."""
    path = min(room.files())
    place = room.target.root / path
    data = place.read_bytes()
    flip(place)
    room.verify(whole=True)
    assert room.verify().damaged == (path,)
    place.write_bytes(data)
    assert room.verify().damaged == ()
    assert not known_damaged(room.state_dir, "nas")


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"cut")])
def test_missing_and_cut_files_are_seen_by_every_look(room, harm):
    """The listing shows them: nobody waits for their turn."""
    path = max(room.files(), key=lambda path: (room.files()[path].bytes, path))
    room.verify(whole=True)
    harm(room.target.root / path)
    assert room.verify(after_days=0.01).damaged == (path,)


@pytest.mark.parametrize("harm", [flip, lambda path: path.write_bytes(b"{")])
def test_a_manifest_that_changed_is_damaged(room, harm):
    """It is written once: other bytes than at the first look are damage, also where they can still be read."""
    room.verify()
    path = f"{room.folder}/{room.manifests()[0].snapshot}/manifest.json"
    harm(room.target.root / path)
    assert path in room.verify().damaged


def test_what_is_gone_is_forgotten(room):
    """The record does not grow for ever."""
    room.verify(whole=True)
    for manifest in room.manifests():
        (room.target.root / room.folder / manifest.snapshot / "manifest.json").unlink()
    room.verify()
    record = verify._read_record(verify.record_file(room.state_dir, "nas"))
    assert {path.partition("/")[0] for path in record.read} == {"state"}
    assert {path.partition("/")[0] for path in record.manifests} == {"state"}


def test_days_without_a_look_are_made_up_for(room):
    """A server that was off for a week reads what is due when it is back."""
    room.verify(whole=True)
    answer = room.verify(after_days=7)
    assert answer.files >= len(room.files())


def test_a_damaged_record_means_that_nothing_was_read(room):
    """It begins anew."""
    room.verify(whole=True)
    verify.record_file(room.state_dir, "nas").write_bytes(b"{")
    assert room.verify(whole=True).damaged == ()


def test_a_target_in_trouble_is_no_damage(tmp_path):
    """Its cause is the answer, and what was known stays known."""
    room = VerifyRoom(tmp_path)

    def fails(_call):
        raise TargetError("unreachable", "no route to host")

    room.target.fails = fails
    answer = room.verify()
    assert (answer.cause, answer.text, answer.damaged) == ("unreachable", "no route to host", ())


def test_a_verification_ends_with_the_daemon_and_goes_on_later(tmp_path):
    """What was read until then counts."""
    room = VerifyRoom(tmp_path, within_days=1)
    room.stop.set()
    assert room.verify(whole=True).cause == "stopped"
    room.stop.clear()
    assert room.verify(whole=True).cause == ""


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    """Files that must be fetched to be read need room."""
    room = VerifyRoom(tmp_path)
    monkeypatch.setattr(fetched, "free_bytes", lambda _folder: 1000)
    assert room.verify().cause == "no-room"


def test_an_empty_target_is_sound(tmp_path):
    """Nothing there, nothing wrong: everything was read until now."""
    room = BackupRoom(tmp_path)
    verifier = Verifier(
        room.state_dir, fetched.scratch_of(room.runs_dir, "verify"), lambda _: room.target, lambda: room.now
    )
    (answer,) = verifier(VerifyBackup(key="k", target="nas"))
    assert (answer.files, answer.damaged, answer.cause, answer.read_from) == (0, (), "", room.now)


def test_the_folder_of_a_local_target_is_known():
    """So that nothing is copied to be read; of others nothing is."""
    of = lambda to: verify.local_folder(backup_config.Backup(name="nas", to=to), "gpu 1")  # noqa: E731
    assert str(of("/mnt/nas")) == "/mnt/nas/gpu-1"
    assert of("me@host:backups") is None
