"""One backup after the other: what goes, what is not sent again, what is refused, and what is let go of."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3

import msgspec
import pytest

from supervisor import backup_config
from supervisor.core.backups.causes import KINDS
from supervisor.core.backups.events import BackedUp, BackupFailed
from supervisor.core.backups.manifest import is_snapshot
from supervisor.core.ledger import Distrust, Ledger, distrusting, usable
from supervisor.effects import ledger
from supervisor.effects.backup import locks, ownership
from supervisor.effects.backup.collect import Tree
from supervisor.effects.backup.targets.base import TargetError
from supervisor.errors import RetryableError
from tests.backup_room import BackupRoom
from tests.torch_files import checkpoint

MIB = 1024 * 1024


@pytest.fixture
def room(tmp_path):
    return BackupRoom(tmp_path)


def paths(room):
    """What the newest snapshot holds."""
    return {file.path for file in room.manifests()[0].files}


def failing(cause, call):
    """A target that fails at one kind of call."""

    def fails(asked):
        if asked == call:
            raise TargetError(cause, f"{call} failed")

    return fails


# ---- what goes
def test_a_backup_holds_the_run_and_its_verified_checkpoints(room):
    """All that a restore needs, each file with its hash; the file that the trainer rewrites is left to the ledger."""
    room.saved(1, 2, 3)
    done = room.back_up()
    assert isinstance(done, BackedUp)
    assert (done.epoch, done.kept_epoch, done.unchanged, done.ended) == (3, 3, False, False)
    assert paths(room) >= {"mark", "token", "job.toml", "train/args.yaml", "train/results.csv", "train/labels.jpg"}
    assert paths(room) >= {"attempts/1/log", "attempts/1/launch.json", "attempts/1/beats.jsonl", "good/ledger.json"}
    assert {path for path in paths(room) if path.endswith(".pt")} == {
        "good/epoch2-attempt1.pt",
        "good/epoch3-attempt1.pt",
    }
    manifest = room.manifests()[0]
    assert [one.epoch for one in manifest.checkpoints] == [2, 3]
    assert (manifest.server, manifest.name, manifest.phase, manifest.token) == ("gpu1", "truck", "RUNNING", 1)
    assert (manifest.epoch, manifest.epochs, manifest.metrics) == (3, 10, {"map": 0.5})
    assert room.wrong() == []
    assert (room.target.root / room.folder / "latest").read_text() == done.snapshot
    assert room.left_staged() == []


def test_what_is_no_part_of_a_training_stays_behind(room):
    """Links, pipes, caches, temporary files, older trainings and huge files stay; what a person may miss is told."""
    room.write("before-1/train/results.csv", b"x")
    room.write("attempts/1/aside/last.pt", b"x")
    room.write("attempts/1/final.pt", b"x")
    room.write("train/labels.cache", b"x")
    room.write("attempts/1/.exit.json.new", b"x")
    room.write("manifest.json", b"{}")
    room.write("train/weights/epoch5.pt", b"x")
    (room.run_dir / "train" / "link.png").symlink_to("/etc/passwd")
    (room.run_dir / "train" / "folder").symlink_to("/etc")
    os.mkfifo(room.run_dir / "train" / "pipe")
    with room.write("train/core", b"").open("r+b") as file:
        file.truncate(2 * 1024**3)
    room.write("train/new\nline.png", b"x")
    assert isinstance(room.back_up(), BackedUp)
    expected = {
        "mark", "token", "job.toml", "train/args.yaml", "train/results.csv", "train/labels.jpg", "attempts/1/log",
        "attempts/1/started.json", "attempts/1/launch.json", "attempts/1/beats.jsonl",
    }  # fmt: skip
    assert paths(room) == expected
    told = " ".join(room.manifests()[0].left_out)
    assert all(word in told for word in ("link.png", "train/folder", "pipe", "core: 2GiB", "control characters"))


def test_an_ended_run_takes_its_final_weights_along_if_they_are_whole(room):
    """best.pt and last.pt of an ended run go, looked into; torn ones do not; of a live run neither does."""
    room.save(checkpoint(9, stripped=True), room.dir.weights / "best.pt")
    room.write("train/weights/last.pt", b"torn")
    room.back_up()
    assert not any(path.startswith("train/weights") for path in paths(room))
    done = room.back_up(ended=True, phase="SUCCEEDED")
    assert done.ended
    assert {path for path in paths(room) if path.startswith("train/weights")} == {"train/weights/best.pt"}
    manifest = room.manifests()[0]
    assert [(one.path, one.state) for one in manifest.checkpoints] == [("train/weights/best.pt", "finished")]
    assert any("last.pt: torn" in one for one in manifest.left_out)
    again = room.back_up(ended=True, phase="SUCCEEDED")
    assert (again.unchanged, room.wrong()) == (True, [])


def test_a_log_with_a_hole_is_stored_without_it(room):
    """The log of a long run lost its middle: the target gets the data, not gigabytes of zeros; unchanged stays so."""
    log = room.run_dir / "attempts" / "1" / "log"
    with log.open("wb") as file:
        file.write(b"a" * 65536)
        file.seek(5 * 1024**3)
        file.write(b"z" * 65536)
    if log.stat().st_blocks * 512 > MIB:
        pytest.skip("this file system has no holes")
    done = room.back_up()
    stored = room.manifests()[0].stored("attempts/1/log")
    assert (stored.bytes, stored.bytes + stored.holes) == (131072, log.stat().st_size)
    assert done.sent_bytes < MIB
    assert (
        room.target.root / room.folder / done.snapshot / "attempts/1/log"
    ).read_bytes() == b"a" * 65536 + b"z" * 65536
    assert room.back_up().unchanged


def test_modes_are_kept_but_nothing_is_writable_for_others(room):
    """What only the owner may read is restored so; no right is added."""
    room.write("settings/Ultralytics/settings.json", b"{}").chmod(0o600)
    room.write("train/run.sh", b"x").chmod(0o4777)
    room.back_up()
    manifest = room.manifests()[0]
    assert manifest.stored("settings/Ultralytics/settings.json").mode == 0o600
    assert manifest.stored("train/run.sh").mode == 0o644


# ---- what is not sent again
def test_an_unchanged_run_makes_no_snapshot(room):
    """Again without a change: the answer names the snapshot that is there, and nothing is sent or left."""
    room.saved(1, 2)
    first, second = room.back_up(), room.back_up()
    assert (second.unchanged, second.snapshot, second.epoch, second.kept_epoch) == (True, first.snapshot, 2, 2)
    assert len(room.manifests()) == 1
    assert room.left_staged() == []


def test_only_what_changed_is_sent(room):
    """The second snapshot refers to the first one's bytes; the ledger's copies are sent once for all time."""
    room.saved(1, 2)
    first = room.back_up()
    room.target.sent.clear()
    room.write("train/results.csv", b"epoch,loss\n1,2\n2,1\n")
    room.saved(3)
    second = room.back_up()
    sent = {path.partition(second.snapshot)[2] for path in room.target.sent}
    assert sent == {"/train/results.csv", "/good/epoch3-attempt1.pt", "/good/ledger.json"}
    manifest = room.manifests()[0]
    assert manifest.stored("good/epoch2-attempt1.pt").at == first.snapshot
    assert manifest.stored("train/results.csv").at == second.snapshot
    assert (second.sent_files, room.wrong()) == (3, [])


def test_a_file_of_the_same_size_that_was_written_again_is_sent(room):
    """Size alone says nothing."""
    room.back_up()
    room.write("train/args.yaml", b"epochs: 20\n")
    room.back_up()
    assert room.wrong() == []
    assert (
        room.target.root / room.folder / room.manifests()[0].snapshot / "train/args.yaml"
    ).read_bytes() == b"epochs: 20\n"


def test_what_got_lost_or_rotten_there_is_sent_again(room):
    """A file that is missing there, cut there, or found damaged by a verification is no base for the next snapshot."""
    room.saved(1)
    first = room.back_up()
    base = room.target.root / room.folder / first.snapshot
    (base / "job.toml").unlink()
    (base / "good/epoch1-attempt1.pt").write_bytes(b"cut")
    damaged = f"{room.folder}/{first.snapshot}/train/labels.jpg"
    record = room.state_dir / "backup" / "nas" / "read.json"
    record.write_bytes(msgspec.json.encode({"damaged": {damaged: "other bytes"}}))
    second = room.back_up()
    manifest = room.manifests()[0]
    again = {"job.toml", "good/epoch1-attempt1.pt", "train/labels.jpg"}
    assert {file.path for file in manifest.files if file.at == second.snapshot} == again


def test_checkpoints_that_were_pruned_here_stay_in_the_backup_by_its_own_policy(tmp_path):
    """The target keeps the better and the older ones by [backup.keep]; its ledger has their whole entries."""
    room = BackupRoom(tmp_path, keep=backup_config.Keep(keep_last=5, keep_best=1))
    for epoch, metric in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.4), (5, 0.5), (6, 0.6), (7, 0.7)):
        room.saved(epoch, map50_95=metric)
        done = room.back_up()
    assert [entry.epoch for entry in room.ledger.entries] == [2, 5, 6, 7]
    assert [one.epoch for one in room.manifests()[0].checkpoints] == [2, 3, 4, 5, 6, 7]
    assert (done.epoch, done.kept_epoch, room.wrong()) == (7, 7, [])


def test_a_checkpoint_that_is_distrusted_here_is_not_what_a_restore_goes_on_from(room):
    """The snapshot's ledger has the mark, and the newest of its checkpoints is one that may be used."""
    room.saved(1, 2, 3)
    order = Distrust(from_epoch=3, attempt=2, line=1, reason="NaN")
    ledger.write(room.dir, distrusting(room.ledger, order))
    done = room.back_up()
    assert done.epoch == 2
    manifest = room.manifests()[0]
    data = (room.target.root / room.folder / manifest.stored("good/ledger.json").at / "good/ledger.json").read_bytes()
    assert usable(msgspec.json.decode(data, type=Ledger))[0].epoch == 2


def test_what_is_distrusted_here_is_distrusted_there_although_it_was_pruned_here(tmp_path):
    """The order holds for the copies that only the target has: what is left is an older one of those."""
    room = BackupRoom(tmp_path, keep=backup_config.Keep(keep_last=6))
    for epoch in range(1, 7):
        room.saved(epoch)
        room.back_up()
    assert [entry.epoch for entry in room.ledger.entries] == [4, 5, 6]
    ledger.write(room.dir, distrusting(room.ledger, Distrust(from_epoch=3, attempt=2, line=1, reason="NaN")))
    done = room.back_up()
    assert (done.epoch, done.kept_epoch, room.wrong()) == (2, 6, [])


def test_another_training_of_that_name_does_not_inherit_checkpoints(room):
    """The older training's newest snapshot stays for ever, but the new one refers to none of its checkpoints."""
    room.saved(1, 2)
    old = room.back_up()
    shutil.rmtree(room.dir.good)
    room.write("mark", b"fedcba9876543210")
    room.saved(1)
    for number in range(5):
        room.write("train/results.csv", bytes(number + 1))
        room.back_up()
    assert [one.epoch for one in room.manifests()[0].checkpoints] == [1]
    assert old.snapshot in {manifest.snapshot for manifest in room.manifests()}
    assert (len(room.manifests()), room.wrong()) == (4, [])


# ---- guards
def test_a_run_without_its_folder_does_not_replace_its_backup(room):
    """Gone or empty: the old snapshot stays, and the cause is told."""
    room.saved(1)
    first = room.back_up()
    shutil.rmtree(room.run_dir)
    failed = room.back_up()
    assert (failed.cause, type(failed)) == ("empty", BackupFailed)
    room.run_dir.mkdir()
    assert room.back_up(token=0).cause == "empty"
    assert [manifest.snapshot for manifest in room.manifests()] == [first.snapshot]


def test_an_unmounted_disk_is_not_taken_for_a_lost_run(room):
    """Where even the mark of the file system is missing the run is not gone, its disk is."""
    room.back_up()
    shutil.rmtree(room.runs_dir)
    room.runs_dir.mkdir()
    assert room.back_up(ended=True, phase="FAILED").cause == "moved"


def test_a_run_that_shrank_by_half_is_refused_until_somebody_agrees(room):
    """By number or by bytes, logs and tables aside; a person may agree."""
    for number in range(12):
        room.write(f"train/plot{number}.png", bytes(200_000))
    first = room.back_up()
    for number in range(11):
        (room.run_dir / "train" / f"plot{number}.png").unlink()
    assert room.back_up().cause == "shrunken"
    assert [one.snapshot for one in room.manifests()] == [first.snapshot]
    done = room.back_up(accept=True)
    assert (done.snapshot, room.wrong()) == (room.manifests()[0].snapshot, [])


def test_a_table_that_a_resume_cut_is_no_loss(room):
    """results.csv and logs may become shorter, and a pruned ledger is no loss of the run."""
    room.write("train/results.csv", bytes(3 * MIB))
    room.saved(1, 2, padding=MIB)
    room.back_up()
    room.write("train/results.csv", b"x")
    shutil.rmtree(room.dir.good)
    done = room.back_up()
    assert (type(done), done.epoch, done.kept_epoch) == (BackedUp, 2, 0)


def test_another_file_system_is_refused_unless_the_training_came_along(room):
    """A fresh folder on the disk below a mount point is not the run; one that was moved or restored as a whole is."""
    room.back_up()
    (room.runs_dir / ".volume").write_text("another")
    room.write("job.toml", b"changed")
    assert isinstance(room.back_up(), BackedUp)
    (room.runs_dir / ".volume").write_text("a third")
    room.write("mark", b"other")
    assert room.back_up().cause == "moved"
    assert isinstance(room.back_up(accept=True), BackedUp)


def test_a_stale_holder_writes_nothing(room):
    """A newer token, or one being prepared, stops it; an attempt that was never prepared does not."""
    assert room.back_up(token=0).cause == "stale"
    assert room.back_up(token=9, phase="PREPARING").cause == "stale"
    assert room.target.sent == []
    assert isinstance(room.back_up(token=9, phase="FAILED"), BackedUp)


def test_a_holder_that_becomes_stale_while_it_sends_makes_no_snapshot(room):
    """The token is read again before the manifest; what was sent is used by the next one."""
    room.saved(1)

    def taken_over(step):
        if step == "fence":
            room.write("token", msgspec.json.encode({"token": 2}))

    assert room.back_up(before_step=taken_over).cause == "stale"
    assert room.manifests() == []
    room.target.sent.clear()
    done = room.back_up(token=2)
    sent = {path.partition(done.snapshot)[2] for path in room.target.sent}
    assert (sent, room.wrong(), room.left_staged()) == ({"/token", "/good/ledger.json"}, [], [])


def test_a_copy_that_rotted_here_is_not_sent_for_good(room):
    """An older one is left out; with the newest one nothing is made at all, and that is told."""
    room.saved(1, 2)
    rot(room.dir.good / "epoch1-attempt1.pt")
    done = room.back_up()
    assert (done.epoch, [one.epoch for one in room.manifests()[0].checkpoints]) == (2, [2])
    assert not any("epoch1-" in path for path in room.there())
    room.saved(3)
    rot(room.dir.good / "epoch3-attempt1.pt")
    assert room.back_up().cause == "damaged"
    assert (len(room.manifests()), room.wrong()) == (1, [])


@pytest.mark.parametrize("epoch", [2, 6])
def test_a_ledger_that_changes_just_then_is_read_again(room, monkeypatch, epoch):
    """A save pushes the copy that is being staged out, or replaces it by another one of that epoch."""
    room.saved(1, 2)
    real, saves = os.link, [epoch]

    def link(*args, **keywords):
        if saves:
            last = saves.pop()
            room.saved(*range(2, last + 1), numbers=(1.0, 2.0))
        return real(*args, **keywords)

    monkeypatch.setattr(os, "link", link)
    assert room.back_up().epoch == epoch
    assert room.wrong() == []


def test_a_ledger_on_another_file_system_is_copied(room, monkeypatch):
    """Where no hard link can be, a copy is."""

    def link(*_args, **_keywords):
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(os, "link", link)
    room.saved(1)
    assert (room.back_up().epoch, room.wrong()) == (1, [])


def test_an_unchanged_run_is_not_read(room, monkeypatch):
    """However much it is: only who holds it, and which training it is, is looked up."""
    room.saved(1)
    with room.write("train/huge.bin", b"x").open("r+b") as file:
        file.truncate(MIB)
    room.back_up()
    opened, real = [], Tree.opened

    def noted(tree, path):
        opened.append(path)
        return real(tree, path)

    monkeypatch.setattr(Tree, "opened", noted)
    assert room.back_up().unchanged
    assert set(opened) == {"token", "mark"}


def rot(path):
    """Flip a bit; size and time stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_full_disk_here_is_told(room, monkeypatch):
    """The copies must fit beside what the trainings still need."""
    monkeypatch.setattr("supervisor.effects.backup.guards.LEAST_FREE_BYTES", 2**62)
    assert room.back_up().cause == "no-room"


def test_two_servers_of_one_name_do_not_mix(room):
    """The folder of another installation is left alone; a restored server takes it over."""
    room.back_up()
    ownership.id_file(room.state_dir).unlink()
    failed = room.back_up()
    assert (failed.cause, "installation" in failed.text) == ("foreign", True)
    assert ownership.take_over(room.target, room.state_dir)
    assert room.back_up().unchanged


def test_causes_are_ones_that_people_are_told_of(room):
    """Every cause that is answered stands in the table of causes."""
    for cause in (
        "empty",
        "moved",
        "shrunken",
        "stale",
        "damaged",
        "no-room",
        "foreign",
        "changed",
        "source",
        "stopped",
    ):
        assert cause in KINDS


# ---- trouble on the way
@pytest.mark.parametrize("call", ["facts", "read", "listing", "send", "differing", "put"])
def test_a_target_in_trouble_is_an_answer_and_leaves_nothing_behind_for_ever(room, call):
    """Whatever fails, the cause is the target's; the next backup goes on, and no leftover stays."""
    room.saved(1, 2)
    room.target.fails = failing("full", call)
    assert room.back_up().cause == "full"
    room.target.fails = lambda _call: None
    done = room.back_up()
    assert (room.wrong(), room.left_staged()) == ([], [])
    assert {path.partition("/")[0] for path in room.there()} == {done.snapshot, "latest"}


def test_what_was_sent_before_a_failure_is_not_sent_again(room):
    """Another action, a day's end later, goes on where the link broke: same snapshot, only what changed."""
    room.saved(1, 2)
    room.target.fails = failing("unreachable", "differing")
    room.back_up()
    room.target.fails = lambda _call: None
    room.target.sent.clear()
    room.write("train/results.csv", b"longer than before")
    done = room.back_up()
    sent = {path.partition(done.snapshot)[2] for path in room.target.sent}
    assert sent == {"/train/results.csv", "/good/ledger.json"}
    assert room.wrong() == []


def test_what_an_abandoned_try_sent_is_removed(room):
    """After a day it begins anew; what had been sent goes, there and here."""
    room.saved(1)
    room.target.fails = failing("unreachable", "differing")
    room.back_up()
    room.target.fails = lambda _call: None
    room.now += 2 * 86400
    done = room.back_up()
    assert {path.partition("/")[0] for path in room.there()} == {done.snapshot, "latest"}


def test_a_try_of_another_run_is_tidied_up(room):
    """The next transaction on the target, whatever it copies, removes what the last one left."""
    room.saved(1)
    room.target.fails = failing("unreachable", "differing")
    room.back_up()
    room.target.fails = lambda _call: None
    other = msgspec.structs.replace(room.job, name="bus")
    shutil.copytree(room.run_dir, room.run_dir.with_name("bus"))
    assert isinstance(room.back_up(job=other, run="bus@1"), BackedUp)
    assert (room.there(), room.left_staged()) == (set(), [])


def test_bytes_that_came_out_otherwise_are_sent_once_more(room):
    """A flipped bit there is seen before the manifest; if it happens again the target is to blame, and nothing counts."""
    spoiled = []

    def once(path):
        if path.name == "args.yaml" and not spoiled:
            spoiled.append(path)
            rot(path)

    room.target.spoils = once
    assert (type(room.back_up()), room.wrong()) == (BackedUp, [])
    room.write("train/args.yaml", b"epochs: 30\n")
    room.target.spoils = rot
    assert room.back_up().cause == "broken"
    assert len(room.manifests()) == 1


def test_a_stop_is_answered(room):
    """The end of the daemon is no failure of the target."""
    room.stop.set()
    assert room.back_up().cause == "stopped"
    room.stop.clear()
    assert isinstance(room.back_up(), BackedUp)


def test_a_file_that_never_rests_is_left_out_and_told(room, monkeypatch):
    """An older copy is held where there is one; nothing torn is sent."""
    monkeypatch.setattr("supervisor.effects.backup.staging.AGAIN_S", 0.0)
    room.back_up()
    real = os.pread

    def restless(handle, count, place):
        data = real(handle, count, place)
        if b"restless" in data:
            room.write("train/state.bin", b"restless" * (2 + room.serial % 7))
        return data

    monkeypatch.setattr(os, "pread", restless)
    room.write("train/state.bin", b"restless")
    room.write("job.toml", b"changed")
    assert isinstance(room.back_up(), BackedUp)
    assert "train/state.bin" not in paths(room)
    assert any("state.bin was written" in one for one in room.manifests()[0].left_out)


def test_final_weights_that_never_rest_stop_the_backup(room, monkeypatch):
    """What must be whole is waited for, with a cause."""
    monkeypatch.setattr("supervisor.effects.backup.staging.AGAIN_S", 0.0)
    real = os.pread

    def restless(handle, count, place):
        data = real(handle, count, place)
        if data.startswith(b"half"):
            room.write("train/weights/last.pt", b"half" * (2 + room.serial % 7))
        return data

    monkeypatch.setattr(os, "pread", restless)
    assert room.back_up(ended=True).cause == "changed"


def test_a_log_that_grows_meanwhile_is_whole_up_to_where_it_was(room, monkeypatch):
    """Append-only files are taken as they were when the copy began."""
    real = os.pread

    def growing(handle, count, place):
        with (room.run_dir / "attempts/1/log").open("ab") as file:
            file.write(b"more\n")
        return real(handle, count, place)

    monkeypatch.setattr(os, "pread", growing)
    done = room.back_up()
    log = (room.target.root / room.folder / done.snapshot / "attempts/1/log").read_bytes()
    assert log.startswith(b"Epoch 1/10\n")
    assert room.wrong() == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_one_file_that_cannot_be_read_costs_no_other(room, monkeypatch, number):
    """A bad block or a right that is missing: that file is left out and told, the rest goes."""
    real = os.open

    def bad(path, *args, **keywords):
        if path == "labels.jpg":
            raise OSError(number, os.strerror(number), path)
        return real(path, *args, **keywords)

    monkeypatch.setattr(os, "open", bad)
    assert isinstance(room.back_up(), BackedUp)
    assert "train/labels.jpg" not in paths(room)
    assert any("labels.jpg" in one for one in room.manifests()[0].left_out)


def test_a_program_of_a_killed_daemon_is_waited_for(room):
    """While it holds the lock nothing is sent; the action is tried again."""
    with locks.alone(room.state_dir, "nas"), pytest.raises(RetryableError, match="under way"):
        room.back_up()
    assert isinstance(room.back_up(), BackedUp)


def test_a_target_that_is_not_configured_any_more_is_an_answer(room):
    """The action came from an older configuration."""
    assert room.back_up(target="tape").cause == "failed"


def test_what_was_staged_for_a_target_that_is_gone_is_removed(room):
    """It would hold on to blocks of the disk for ever."""
    left = room.runs_dir / ".staging" / "old-nas" / "snap"
    left.mkdir(parents=True)
    room.back_up()
    assert not left.parent.exists()


# ---- what is let go of
def test_old_snapshots_go_and_every_one_that_stays_is_whole(tmp_path):
    """The newest three stay with all their files, wherever the bytes lie; nothing that nobody names is left."""
    room = BackupRoom(tmp_path, snapshots=3)
    for number in range(8):
        room.saved(number + 1)
        room.write(f"train/plot{number % 3}.png", bytes([number]) * 100)
        room.back_up()
        assert room.wrong() == []
    assert len(room.manifests()) == 3
    named = {f"{file.at}/{file.path}" for manifest in room.manifests() for file in manifest.files}
    others = {"latest"} | {f"{manifest.snapshot}/manifest.json" for manifest in room.manifests()}
    assert room.there() == named | others


def test_nothing_is_removed_from_an_append_only_target(tmp_path):
    """It only ever grows, and that is no error."""
    room = BackupRoom(tmp_path, append_only=True, snapshots=1)
    for number in range(3):
        room.write("train/results.csv", bytes(number + 1))
        assert isinstance(room.back_up(), BackedUp)
    assert len(room.manifests()) == 3
    assert "remove" not in room.target.calls


def test_a_manifest_that_cannot_be_read_stops_all_removing(tmp_path):
    """Nobody knows which files it needs."""
    room = BackupRoom(tmp_path, snapshots=1)
    first = room.back_up()
    (room.target.root / room.folder / first.snapshot / "manifest.json").write_bytes(b"{rotten")
    for number in range(3):
        room.write("train/results.csv", bytes(number + 1))
        assert room.back_up().removed == 0
    assert (room.target.root / room.folder / first.snapshot / "job.toml").exists()


def test_rests_of_interrupted_transfers_go(tmp_path):
    """Partial files in the folders of snapshots that stay, and folders without a manifest; a person's file stays."""
    room = BackupRoom(tmp_path, snapshots=1)
    first = room.back_up()
    base = room.target.root / room.folder
    for path in (
        f"{first.snapshot}/.rsync-partial/last.pt",
        f"{first.snapshot}/train/.~tmp~/last.pt",
        f"{first.snapshot}/train/.x.pt.a1B2c3",
        "snap-000001-20200101T000000Z-00000000/x",
    ):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(b"rest")
    (base / first.snapshot / "README").write_bytes(b"mine")
    (base / "notes").write_bytes(b"mine")
    assert room.back_up().unchanged
    assert {
        path for path in room.there() if "rsync" in path or "~" in path or "a1B2c3" in path or "2020" in path
    } == set()
    assert {f"{first.snapshot}/README", "notes"} <= room.there()


def test_a_clock_that_was_set_back_makes_no_older_snapshot(room):
    """The newest by name is the newest made."""
    first = room.back_up()
    room.now -= 86400.0
    room.write("job.toml", b"changed")
    second = room.back_up()
    assert second.snapshot.split("-")[2] > first.snapshot.split("-")[2]
    assert all(is_snapshot(one.snapshot) for one in (first, second))


# ---- the journal
def test_the_journal_is_copied_whole_and_three_copies_stay(room):
    """A restored server reads it; each is one file that passes SQLite's own check."""
    for number in range(5):
        with sqlite3.connect(room.journal) as connection:
            connection.execute("INSERT INTO rows VALUES ('test', ?, ?)", (str(number), b"x"))
        connection.close()
        assert isinstance(room.back_up_state(), BackedUp)
    manifests = room.manifests("state")
    assert ([one.kind for one in manifests], room.wrong("state")) == (["state"] * 3, [])
    copy = room.target.root / "state" / manifests[0].snapshot / "journal.sqlite3"
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM rows WHERE space = 'test'").fetchone() == (5,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert room.left_staged() == []
    assert room.back_up_state().unchanged


def test_a_damaged_or_missing_journal_replaces_nothing(room):
    """What is broken here must not push out what is whole there."""
    room.back_up_state()
    data = bytearray(room.journal.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    room.journal.write_bytes(data)
    assert room.back_up_state().cause == "source"
    room.journal.unlink()
    assert room.back_up_state().cause == "source"
    assert len(room.manifests("state")) == 1


def test_the_journal_that_was_lost_keeps_its_newest_copy(room):
    """A new journal's copies push the old one's newest copy never out."""
    insert = "INSERT INTO events VALUES (1, ?, 'x', 1, '', '', '', x'', '')"
    with sqlite3.connect(room.journal) as connection:
        connection.execute(insert, (1.0,))
    connection.close()
    old = room.back_up_state()
    room.journal.unlink()
    shutil.copyfile(room.target.root / "state" / old.snapshot / "journal.sqlite3", room.journal)
    for number in range(5):
        with sqlite3.connect(room.journal) as connection:
            connection.execute("UPDATE events SET at = 2.0")
            connection.execute("INSERT INTO rows VALUES ('test', ?, ?)", (str(number), b"x"))
        connection.close()
        room.back_up_state()
    names = [one.snapshot for one in room.manifests("state")]
    assert (len(names), old.snapshot in names) == (4, True)
