from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest
from msgspec.structs import replace

from supervisor.core.job import Job, PublishTo, StartFrom
from supervisor.effects.prune import carry_out, handles
from supervisor.errors import RetryableError
from tests.prune_room import DAY, NOW, Room, snapshot


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


def test_a_run_goes_into_the_trash_and_then_for_good(room):
    """What no word wants is moved whole, told with its size, and purged when its time in the trash is over."""
    room.both("old")
    kept = room.both("gold", tags=("gold",))
    event = room.prune()
    assert event.removed_runs == ("old@1",)
    assert event.moved_files == 8
    assert not room.dir("old").root.exists()
    assert room.dir(kept.name).weights.exists()
    assert event.purged_files == 0
    assert room.prune(key="server/prune-2").moved_files == 0
    room.now = NOW + 8 * DAY
    event = room.prune(key="server/prune-3")
    assert event.purged_files == 8
    assert list(room.trash.iterdir()) == []


def test_at_once_gives_the_space_back(room):
    """When the disk is full the trash is emptied in the same pass: moving alone frees nothing."""
    room.both("old")
    event = room.prune(at_once=True)
    assert event.moved_files == event.purged_files == 8
    assert event.purged_bytes > 0
    assert list(room.trash.iterdir()) == []


def test_no_prune_section_prunes_nothing(room):
    """Without [prune] nothing is touched, and the answer says so."""
    room.both("old")
    room.settings = None
    assert "no [prune] section" in room.prune().text
    assert room.dir("old").root.exists()


def test_an_empty_policy_is_refused(tmp_path):
    """A policy without a keep word lets nothing go, neither runs nor epochs, and the answer says so."""
    room = Room(tmp_path, keep_tag=(), keep_epochs="none")
    room.both("old", epochs=(1, 2, 3))
    event = room.prune()
    assert "empty policy" in event.text
    assert event.moved_files == 0
    assert set(room.rows()) == set(room.rows("keep"))


def test_live_runs_lose_nothing_but_superseded_epochs(room):
    """A running training keeps all but those epochN.pt for which the ledger has a later verified copy."""
    room.settings = replace(room.settings, keep_epochs="none")
    room.both("live", "RUNNING", copies=(5,), epochs=(1, 2, 7, 8))
    before = snapshot(room.dir("live").root)
    event = room.prune()
    gone = set(before) - set(snapshot(room.dir("live").root))
    assert gone == {"train/weights/epoch1.pt", "train/weights/epoch2.pt"}
    assert event.moved_files == 2
    assert event.removed_runs == ()


def test_a_file_newer_than_the_copy_stays(room):
    """An epochN.pt that was written after the newest verified copy stays, whatever its number."""
    room.settings = replace(room.settings, keep_epochs="none")
    one = room.both("live", "RUNNING", copies=(9,), epochs=(1, 2, 3))
    os.utime(room.dir(one.name).weights / "epoch2.pt", (NOW, NOW))
    room.prune()
    assert {path.name for path in room.dir(one.name).weights.glob("epoch*")} == {"epoch2.pt", "epoch3.pt"}


def test_a_rotten_copy_supersedes_nothing(room):
    """The ledger's copy is read again before an epoch is let go because of it."""
    room.settings = replace(room.settings, keep_epochs="none")
    room.both("live", "RUNNING", copies=(9,), epochs=(1, 2, 3))
    copy = room.dir("live").good / "epoch9-attempt1.pt"
    data = bytearray(copy.read_bytes())
    data[5] ^= 1
    copy.write_bytes(data)
    event = room.prune()
    assert event.moved_files == 0
    assert "not what was entered" in event.skipped[0]


def test_failed_runs_stay_without_a_backup(room):
    """A run that can be retried keeps its records and copies; where a backup has it all, it goes."""
    one = room.both("bad", "FAILED")
    assert room.prune().moved_files == 0
    room.target()
    assert room.prune(key="2").moved_files == 0
    room.back_up(one, ended=False)
    assert room.prune(key="3").moved_files == 0
    room.back_up(one)
    assert room.prune(key="4").removed_runs == ("bad@1",)


def test_unverified_in_the_backup_stays(room):
    """With a backup configured a finished run waits for it, on every target, and for all that its ledger has."""
    one = room.both("good", copies=(9, 10))
    room.target("a")
    room.target("b")
    room.back_up(one, target="a", epoch=10)
    assert "not verified in its backup" in room.rows()["p/good"]["reason"]
    assert room.prune().moved_files == 0
    room.back_up(one, target="b", epoch=9)
    assert room.prune(key="2").moved_files == 0
    room.back_up(one, target="b", epoch=10)
    assert room.prune(key="3").removed_runs == ("good@1",)


def test_archive(tmp_path):
    """After archive_after only weights go; row, curves, logs and records stay, and it is done once."""
    room = Room(tmp_path, keep_last=5, archive_after=5 * DAY)
    room.target()
    one = room.both("good", epochs=(3,))
    room.back_up(one)
    assert "keep_epochs = all" in room.rows()["p/good/train/weights/epoch3.pt"]["reason"]
    event = room.prune()
    assert event.archived == ("good@1",)
    left = {path for path, (kind, _) in snapshot(room.dir("good").root).items() if kind == 0o100000}
    assert left == {
        "attempts/1/log",
        "attempts/1/shim.lock",
        "good/ledger.json",
        "token",
        "train/results.csv",
        "train/weights/epoch3.pt",
    }
    room.put(replace(room.world.run(one.id), archived=True))
    assert room.prune(key="2").archived == ()


@pytest.mark.parametrize("what", ["none", "damaged", "other", "newer"])
def test_only_marked_directories(room, what):
    """A directory without our token, with a damaged one, one of another run or a newer one is never touched."""
    one = room.both("old")
    token = room.dir("old").root / "token"
    if what == "none":
        token.unlink()
    elif what == "damaged":
        token.write_text("{", encoding="utf-8")
    elif what == "other":
        token.write_text(json.dumps({"token": 1, "run": "someone@1"}), encoding="utf-8")
    else:
        room.mark(one, token=99)
    assert room.prune().moved_files == 0
    assert "token" in room.rows()["p/old"]["reason"]


def test_unknown_folders_are_not_ours(room):
    """What no run of the journal has is neither listed nor touched."""
    (room.runs_dir / "p" / "stranger").mkdir(parents=True)
    (room.runs_dir / "p" / "stranger" / "token").write_text('{"token":1,"run":"stranger@1"}', encoding="utf-8")
    before = snapshot(room.runs_dir)
    room.prune()
    (room.trash).rmdir()
    assert snapshot(room.runs_dir) == before


def test_the_newest_run_decides(room):
    """Runs that share a directory are decided by the newest: a live retry keeps what the failed run left."""
    room.both("twice", "FAILED", run_id="twice@1")
    again = room.run("twice", "QUEUED", run_id="twice@2", attempts=0)
    room.target()
    room.back_up(room.world.run("twice@1"))
    assert "unfinished: QUEUED" in room.rows()["p/twice"]["reason"]
    assert room.prune().moved_files == 0
    room.put(replace(again, phase=again.phase.CANCELLED))
    assert room.prune(key="2").removed_runs == ("twice@2",), "the backup of the run that worked there counts"


def test_what_others_need_stays(room):
    """A run that a live one begins from or names, one being backed up, and one to be published stay, and say why."""
    for name in ("source", "named", "saving"):
        room.both(name)
    job = Job(name="printed", revision="r", project="p", publish=PublishTo(to="/nas"))
    room.disk(room.run("printed", job=job))
    weights = room.dir("named").weights / "best.pt"
    room.run("child", "QUEUED", attempts=0, job=Job(name="child", revision="r", start_from=StartFrom(run="source")))
    room.run("user", "HELD", attempts=0, job=Job(name="user", revision="r", train={"model": str(weights)}))
    room.target()
    for name in ("source", "named", "saving", "printed"):
        room.back_up(room.world.run(f"{name}@1"))
    room.world = replace(
        room.world, targets={"nas": replace(room.world.targets["nas"], doing="x", doing_run="saving@1")}
    )
    before = snapshot(room.runs_dir / "p")
    assert room.prune().moved_files == 0
    assert snapshot(room.runs_dir / "p") == before
    rows = room.rows()
    for name, word in {"source": "child", "named": "user", "saving": "backed up", "printed": "publish"}.items():
        assert word in rows[f"p/{name}"]["reason"]


def test_a_held_lock_keeps_a_directory(room):
    """Where a shim of any attempt still holds its lock nothing goes."""
    room.both("old")
    with (room.dir("old").root / "attempts/1/shim.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert room.prune().moved_files == 0
        assert "still has processes" in room.rows()["p/old"]["reason"]
    assert room.prune(key="2").removed_runs == ("old@1",)


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["open", "mapped", "working"])
def test_what_a_process_uses_stays(room, how):
    """A directory with an open or mapped file below, or that a shell works in, is skipped and said; also in the trash."""
    room.both("old")
    best = room.dir("old").weights / "best.pt"
    code = {
        "open": "f = open(path)",
        "mapped": "import mmap; f = open(path, 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); f.close()",
        "working": "import os; os.chdir(os.path.dirname(path))",
    }[how]
    program = f"import sys; path = {str(best)!r}; {code}; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert room.prune().moved_files == 0
        assert "open" in room.rows()["p/old"]["reason"]
        process.stdin.close()
    assert room.prune(key="2").moved_files == 8


@pytest.mark.e2e
def test_open_files_hold_the_trash_too(room):
    """What is open in the trash is not purged before it is closed."""
    room.both("old")
    path = str(room.dir("old").weights / "best.pt")
    room.prune()
    (held,) = room.trash.iterdir()
    path = str(held / "things/p/old/train/weights/best.pt")
    program = f"import sys; f = open({path!r}); print('ready', flush=True); sys.stdin.read()"
    room.now = NOW + 30 * DAY
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        event = room.prune(key="2")
        assert event.purged_files == 0
        assert "open" in event.skipped[0]
        process.stdin.close()
    assert room.prune(key="3").purged_files == 8


def test_a_backup_that_is_damaged_holds_the_trash(room):
    """What was let go because a backup has it is not purged when that backup was found damaged since."""
    room.target()
    one = room.both("old")
    room.back_up(one)
    room.prune()
    room.put(replace(room.world.run(one.id), backups={}))
    room.now = NOW + 30 * DAY
    event = room.prune(key="2")
    assert event.purged_files == 0
    assert "backup is not whole" in event.skipped[0]
    room.back_up(one)
    assert room.prune(key="3").purged_files == 8


def test_links_are_never_followed(room):
    """A project, a run directory or a folder in it that is a link is skipped; a link inside goes as a link."""
    real = room.both("real")
    (room.dir(real.name).root / "to-outside").symlink_to(room.outside)
    room.both("linked")
    room.dir("linked").root.rename(room.outside / "linked")
    room.dir("linked").root.symlink_to(room.outside / "linked")
    before = snapshot(room.outside)
    event = room.prune(at_once=True)
    assert event.removed_runs == ("real@1",)
    assert snapshot(room.outside) == before
    assert room.dir("linked").root.is_symlink()


def test_a_link_as_trash_is_refused(room):
    """A trash folder that is a link, or in which others may write, is not used: nothing is moved."""
    room.both("old")
    room.trash.symlink_to(room.outside)
    assert room.prune().moved_files == 0
    room.trash.unlink()
    room.trash.mkdir()
    room.trash.chmod(0o777)
    event = room.prune(key="2")
    assert event.moved_files == 0
    assert "others may write" in event.skipped[0]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_begins_in_that_moment(room, monkeypatch, moment):
    """A retry between the look and the move, or right after the rename, wins: the directory is where it was."""
    room.both("old")
    before = snapshot(room.dir("old").root)

    def begin():
        room.run("old", "PREPARING", run_id="old@2")
        room.mark(room.world.run("old@2"))

    if moment == "before":
        real = carry_out.decide
        monkeypatch.setattr(carry_out, "decide", lambda *arguments: (begin(), real(*arguments))[1])
    else:
        rename = os.rename

        def renamed(source, target, **folders):
            rename(source, target, **folders)
            if source == "old" and room.world.run("old@2") is None:
                room.run("old", "PREPARING", run_id="old@2")

        monkeypatch.setattr(os, "rename", renamed)
    event = room.prune()
    assert event.moved_files == 0
    after = snapshot(room.dir("old").root)
    assert {**after, "token": before["token"]} == before
    assert list(room.trash.iterdir()) == []


def test_an_unknown_target_holds_everything(room):
    """Before the world knows a target that is configured nothing is pruned: nobody could say what it has."""
    room.both("old")
    room.pruner = room.make_pruner(targets=lambda: ["nas"])
    with pytest.raises(RetryableError):
        room.prune()
    assert room.dir("old").root.exists()


def test_a_mount_inside_is_not_entered(room, monkeypatch):
    """A directory with another file system below it is left alone."""
    room.both("old")
    real = handles.look

    def other_device(parent, name):
        found = real(parent, name)
        if name != "weights" or found is None:
            return found
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))

    monkeypatch.setattr(handles, "look", other_device)
    assert room.prune().moved_files == 0
    assert "another file system" in room.rows()["p/old"]["reason"]


def test_every_file_has_a_row(room):
    """The plan names every file with an action and a reason, and its totals are those of the rows."""
    room.both("old", epochs=(1, 2))
    room.both("gold", tags=("gold",), epochs=(1, 2))
    room.both("live", "RUNNING")
    view = room.showing.plan()
    listed = {os.path.relpath(row["path"], room.runs_dir) for row in view["rows"]}
    on_disk = {f"p/{path}" for path, (kind, _) in snapshot(room.runs_dir / "p").items() if kind != 0o040000}
    assert listed == on_disk | {"p/old", "p/gold", "p/live"}
    assert all(row["reason"] and row["action"] in {"keep", "delete", "archive"} for row in view["rows"])
    assert view["totals"]["delete"]["runs"] == 1
    assert view["totals"]["delete"]["bytes"] == sum(
        row["bytes"] for row in view["rows"] if row["action"] == "delete" and row["kind"] == "file"
    )
    assert not room.trash.exists(), "a dry run changes nothing"


def test_marker_and_lock_readers_bear_anything(tmp_path):
    """A token that is a pipe or a folder, and attempts that are a file, are no bug but a reason."""
    room = Room(tmp_path)
    room.both("a")
    (room.dir("a").root / "token").unlink()
    os.mkfifo(room.dir("a").root / "token")
    room.both("b")
    assert "cannot be looked at" in room.rows()["p/a"]["reason"]
    assert room.prune().removed_runs == ("b@1",)


def test_a_full_disk_is_helped_all_the_same(room, monkeypatch):
    """Where not even a record fits on the disk, at once means at once: moved without one, checked, and purged."""
    room.settings = replace(room.settings, keep_epochs="none")
    room.both("live", "RUNNING", copies=(9,), epochs=(1, 2, 3))
    room.both("old")
    room.trash.mkdir(mode=0o700)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(handles, "write", full)
    event = room.prune()
    assert event.moved_files == 0
    assert room.dir("old").root.exists()
    event = room.prune(at_once=True, key="2")
    assert event.removed_runs == ("old@1",)
    assert event.purged_files == event.moved_files == 10
    assert not room.dir("old").root.exists()
    assert {path.name for path in room.dir("live").weights.iterdir()} == {"last.pt", "best.pt", "epoch3.pt"}
    assert not [path for path in room.trash.iterdir() if path.name.endswith((".gone", ".unsure"))]
