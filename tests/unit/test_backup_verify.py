"""What rots on a target is found within the set time, whatever is read when."""

from __future__ import annotations

import errno
import os
import shutil
import threading

import msgspec
import pytest

from supervisor import backup_config
from supervisor.core.actions import VerifyBackup
from supervisor.effects.backup import fetched, looked, verify
from supervisor.effects.backup.read_record import known_damaged, read_record, record_file
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.verify import Verifier
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

    def verify(self, *, whole=False, after_days=1.0, **expected):
        """Carry an order out, a day later."""
        self.now += after_days * DAY_S
        order = VerifyBackup(key="server/verify-1/nas", target="nas", whole=whole, **expected)
        (answer,) = self.verifier(order)
        return answer

    def manifest(self, number=0):
        """The path of a manifest of the run on the target, the newest first."""
        return f"{self.folder}/{self.manifests()[number].snapshot}/manifest.json"

    def record(self):
        """What is written down."""
        return read_record(record_file(self.state_dir, "nas"))

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
    room.verify(after_days=8)
    room.verify()
    record = room.record()
    assert {path.partition("/")[0] for path in record.read} == {"state"}
    assert {path.partition("/")[0] for path in record.manifests} == {"state"}
    assert (record.damaged, record.since) == ({}, {})


# ---- what is not there any more
def test_a_run_that_is_wiped_there_is_missing(room):
    """Its newest manifest is named as damaged, for a week if nobody believes that it lies there."""
    room.verify(whole=True)
    newest = room.manifest()
    shutil.rmtree(room.target.root / room.folder)
    for _ in range(3):
        assert room.verify().damaged == (newest,)
    assert room.verify(after_days=8).damaged == ()


def test_what_the_journal_believes_to_lie_there_is_missing_for_good(room):
    """Also if it was never seen by a verification; however long it lasts."""
    newest = room.manifest()
    expected = {"default/truck": room.manifests()[0].snapshot}
    assert room.verify(expected=expected).damaged == ()
    shutil.rmtree(room.target.root / room.folder)
    assert room.verify(expected=expected).damaged == (newest,)
    assert room.verify(expected=expected, after_days=30).damaged == (newest,)
    other = {"default/never-seen": "snap-000001-20260101T000000Z-0a1b2c3d"}
    (path,) = room.verify(expected=other).damaged
    assert path == "runs/default/never-seen/snap-000001-20260101T000000Z-0a1b2c3d/manifest.json"


def test_a_backup_that_lost_its_manifest_is_missing_until_there_is_a_newer_one(room):
    """The one before it does not stand for it."""
    room.verify()
    newest = room.manifest()
    (room.target.root / newest).unlink()
    assert room.verify(expected={"default/truck": newest.split("/")[3]}).damaged == (newest,)
    room.saved(4)
    assert room.back_up().snapshot
    assert room.verify(expected={"default/truck": newest.split("/")[3]}).damaged == ()


def test_snapshots_that_were_let_go_of_are_not_missing(room):
    """Retention removes manifests: a newer one is there."""
    room.verify(whole=True)
    expected = {"default/truck": room.manifests()[0].snapshot}
    room.settings = msgspec.structs.replace(room.settings, snapshots=1)
    for epoch in (4, 5):
        room.saved(epoch)
        room.back_up()
    assert len(room.manifests()) == 1
    assert room.verify(expected=expected).damaged == ()


def test_a_new_folder_there_misses_nothing_of_the_old_one(room):
    """The disk was exchanged: what it does not hold yet is for those who send to find out."""
    room.verify(whole=True)
    shutil.rmtree(room.target.root)
    room.back_up_state()
    assert room.verify().damaged == ()


# ---- what matters
def test_damage_that_was_mended_by_a_newer_backup_ends(tmp_path):
    """An ended run is sent again and never more: the damaged file of the old snapshot is no damage then."""
    room = VerifyRoom(tmp_path)
    room.back_up(phase="SUCCEEDED", ended=True)
    path = next(path for path in room.files() if path.endswith("epoch2-attempt1.pt"))
    flip(room.target.root / path)
    assert room.verify(whole=True).damaged == (path,)
    room.back_up(phase="SUCCEEDED", ended=True)
    assert room.back_up(phase="SUCCEEDED", ended=True).unchanged
    assert room.verify(whole=True).damaged == ()
    assert known_damaged(room.state_dir, "nas") == {path}, "nothing is to be linked to it"


def test_damage_of_what_only_an_old_snapshot_holds_is_told_for_a_week(room):
    """It cannot be sent again; the newest backup is whole."""
    path = next(path for path in room.files() if path.endswith("results.csv"))
    room.write("train/results.csv", b"epoch,loss\n1,2\n2,1\n")
    room.back_up()
    flip(room.target.root / path)
    assert room.verify(whole=True).damaged == (path,)
    assert room.verify(whole=True, after_days=5).damaged == (path,)
    assert room.verify(whole=True, after_days=5).damaged == ()


def test_a_newest_manifest_that_changed_is_made_anew(tmp_path):
    """Whatever it says now: the next backup does not take it for its own, and then the damage has an end."""
    room = VerifyRoom(tmp_path)
    room.verify(whole=True)
    path = room.manifest()
    place = room.target.root / path
    place.write_bytes(place.read_bytes().replace(b'"gpu1"', b'"gpu2"'))
    assert room.verify().damaged == (path,)
    assert not room.back_up().unchanged
    assert room.verify(whole=True).damaged == ()


def test_each_run_is_told_of_however_much_is_damaged(room, monkeypatch):
    """A thousand files of one run do not hide another one."""
    monkeypatch.setattr(looked, "MOST_TOLD", 1)
    for path in room.files():
        (room.target.root / path).unlink()
    folders = {path.split("/")[0] for path in room.verify().damaged}
    assert folders == {"runs", "state"}


# ---- clocks
def test_a_clock_that_was_wrong_puts_no_reading_off(room):
    """What was stored or read years ahead is read now."""
    right = room.now
    room.now += 20 * 365 * DAY_S
    room.write("train/new.jpg", b"new" * 1000)
    room.back_up()
    room.verify(whole=True)
    room.now = right
    flip(next(room.target.root.rglob("new.jpg")))
    answer = room.verify()
    assert [path.rpartition("/")[2] for path in answer.damaged] == ["new.jpg"]
    assert right <= answer.read_from <= room.now


# ---- a mount that dies
def test_a_mount_that_does_not_answer_is_left(tmp_path, monkeypatch):
    """The lane goes on; the cause is the target's, and no file is damaged."""
    room, back = VerifyRoom(tmp_path, local=True), threading.Event()
    monkeypatch.setattr(verify, "SILENCE_S", 0.2)
    monkeypatch.setattr(verify.direct, "forget", lambda _handle: back.wait(20))
    answer = room.verify()
    back.set()
    assert (answer.cause, answer.damaged) == ("timeout", ())


def test_an_error_of_the_mount_is_no_damage(tmp_path, monkeypatch):
    """A stale handle says nothing about a file; a block that cannot be read does."""
    room = VerifyRoom(tmp_path, local=True)

    def fails(number):
        def forget(_handle):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(verify.direct, "forget", forget)
        return room.verify(whole=True)

    answer = fails(errno.ESTALE)
    assert (answer.cause, answer.damaged) == ("unreachable", ())
    answer = fails(errno.EIO)
    assert answer.cause == ""
    assert len(answer.damaged) > 3


def test_a_link_in_the_place_of_a_file_is_damage(tmp_path):
    """Nobody is led elsewhere by it."""
    room = VerifyRoom(tmp_path, local=True)
    path = max(room.files())
    copy = tmp_path / "copy"
    (room.target.root / path).rename(copy)
    (room.target.root / path).symlink_to(copy)
    assert room.verify(whole=True).damaged == (path,)


def test_days_without_a_look_are_made_up_for(room):
    """A server that was off for a week reads what is due when it is back."""
    room.verify(whole=True)
    answer = room.verify(after_days=7)
    assert answer.files >= len(room.files())


def test_a_damaged_record_means_that_nothing_was_read(room):
    """It begins anew."""
    room.verify(whole=True)
    record_file(room.state_dir, "nas").write_bytes(b"{")
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
