"""What is let go because a backup has it, and what is not: the manifests of the newest snapshots alone prove it."""

from __future__ import annotations

import os

import msgspec
import pytest
from msgspec.structs import replace

from supervisor.core.job import Job, PublishTo
from supervisor.core.ledger import Ledger
from supervisor.effects.backup.remembered import remembered, remembered_file
from supervisor.effects.prune import carry_out
from tests.prune_room import DAY, NOW, Room

MINE = "train/weights/swa_final.pt"


@pytest.fixture
def room(tmp_path):
    """Runs that end are archived after five days; those that no word wants go."""
    room = Room(tmp_path, keep_tag=("gold",), archive_after=5 * DAY)
    room.target()
    return room


def write(room, name, path, data=b"mine"):
    """A file in a run's directory."""
    file = room.dir(name).root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def weights(room, name):
    """What lies there that was trained."""
    root = room.dir(name).root
    return {str(path.relative_to(root)) for path in root.rglob("*.pt")}


# ---- archiving
def test_only_what_the_manifest_has_is_archived(room):
    """Copies beyond the backup's own policy, and weights that a user made, stay here with that reason."""
    one = room.both("a", copies=(5, 7, 9), tags=("gold",))
    write(room, "a", MINE)
    room.back_up(one, without=("good/epoch7-attempt1.pt",))
    rows = room.rows()
    for path in ("good/epoch7-attempt1.pt", MINE):
        assert (rows[f"p/a/{path}"]["action"], "in no backup" in rows[f"p/a/{path}"]["reason"]) == ("keep", True)
    event = room.prune()
    assert (event.archived, event.moved_files, event.skipped) == (("a@1",), 4, ())
    assert weights(room, "a") == {"good/epoch7-attempt1.pt", MINE}
    room.put(replace(room.world.run("a@1"), archived=True))
    assert room.prune(key="2").archived == ()


def test_another_content_of_the_same_size_is_not_what_the_backup_has(room):
    """It is read just before it goes; what was exchanged or rotted since stays and is told."""
    one = room.both("a", tags=("gold",))
    room.back_up(one)
    best = room.dir("a").weights / "best.pt"
    best.write_bytes(bytes(best.stat().st_size))
    event = room.prune()
    assert weights(room, "a") == {"train/weights/best.pt"}
    assert [text for text in event.skipped if "best.pt: in no backup" in text]


def test_every_target_must_have_it(room):
    """What one of two targets has not, stays."""
    room.target("s3")
    one = room.both("a", tags=("gold",))
    room.back_up(one)
    room.back_up(one, target="s3", without=("train/weights/last.pt",))
    room.prune()
    assert weights(room, "a") == {"train/weights/last.pt"}


def test_without_any_weights_in_the_backup_nothing_is_archived(room):
    """It is not told as archived, and the reason says why."""
    one = room.both("a", copies=(), tags=("gold",))
    room.back_up(one, epoch=5, without=("train/weights/last.pt", "train/weights/best.pt"))
    assert "no weights of it are in its backup" in room.rows()["p/a"]["reason"]
    assert (room.prune().archived, len(weights(room, "a"))) == ((), 2)


# ---- what is known of a backup
@pytest.mark.parametrize("what", ["never", "damaged", "older", "unfinished", "unconfirmed"])
@pytest.mark.parametrize("tags", [(), ("gold",)])
def test_a_backup_that_is_not_known_proves_nothing(room, what, tags):
    """Neither an archive nor a removal where the manifest is missing, unreadable, not the newest, or not of the end."""
    one = room.both("a", tags=tags)
    room.back_up(one, remembered=what != "never")
    run = room.world.run("a@1")
    if what == "damaged":
        remembered_file(room.state_dir, "nas", "p", "a").write_bytes(b"{")
    if what == "older":
        room.put(replace(run, backups={"nas": replace(run.backups["nas"], snapshot="snap-000009-20991122T183000Z-0")}))
    if what == "unfinished":
        room.back_up(one, ended=False)
        room.put(run)
        known = remembered(room.state_dir, "nas", "p", "a")
        room.put(replace(run, backups={"nas": replace(run.backups["nas"], snapshot=known.snapshot)}))
    if what == "unconfirmed":
        targets = room.world.targets
        room.world = replace(room.world, targets={"nas": replace(targets["nas"], confirmed=False)})
    assert room.prune().moved_files == 0
    assert "not verified in its backup yet" in room.rows()["p/a"]["reason"]


def test_a_backup_that_changes_in_that_moment_stops_it(room, monkeypatch):
    """What was decided by one manifest is not done under another one."""
    one = room.both("a")
    room.back_up(one)
    real = carry_out.decide
    monkeypatch.setattr(carry_out, "decide", lambda *words: (real(*words), room.back_up(one, without=(MINE,)))[0])
    event = room.prune()
    assert (event.moved_files, event.skipped) == (0, ("p/a: its backup has changed just now",))


# ---- removing
@pytest.mark.parametrize("path", ["before-1/good/epoch90-attempt1.pt", "attempts/2/aside/last.pt", MINE])
def test_weights_in_no_backup_hold_their_directory(room, path):
    """What an older training left, what was put aside, and what a user made: the reason names it."""
    one = room.both("a")
    file = write(room, "a", path)
    room.back_up(one)
    assert f"{path} is in no backup" in room.rows()["p/a"]["reason"]
    assert room.prune(at_once=True).removed_runs == ()
    file.write_bytes(b"")
    assert room.prune(key="2").removed_runs == ("a@1",), "an empty file is nobody's work"


def test_what_is_in_the_backup_under_another_name_holds_nothing(room):
    """A second name of the same bytes is no loss."""
    one = room.both("a")
    room.back_up(one)
    write(room, "a", "before-1/last.pt", (room.dir("a").weights / "last.pt").read_bytes())
    assert room.prune().removed_runs == ("a@1",)


def test_the_newest_copy_must_be_in_the_backup(room):
    """That the journal knows of as late an epoch there is not enough."""
    one = room.both("a", copies=(8, 9))
    room.back_up(one, without=("good/epoch9-attempt1.pt",))
    assert "good/epoch9-attempt1.pt is in no backup" in room.rows()["p/a"]["reason"]
    assert room.prune().removed_runs == ()


@pytest.mark.parametrize(
    ("line", "held"),
    [
        ("train/weights/best.onnx: 2 GiB and no checkpoint", "train/weights/best.onnx"),
        ("and more", "more than anybody could list"),
        ("train/weights/best.onnx: a symbolic link", ""),
        ("gone.onnx: 2 GiB and no checkpoint", ""),
        ("core: 2 GiB and no checkpoint", ""),
    ],
)
def test_weights_that_were_left_out_hold_their_directory(room, line, held):
    """As far as they are still there; a link leads to what nobody removes, and a core is nobody's work."""
    one = room.both("a")
    write(room, "a", "train/weights/best.onnx")
    write(room, "a", "core")
    room.back_up(one, left_out=(line,))
    assert not held or held in room.rows()["p/a"]["reason"]
    assert room.prune().removed_runs == (() if held else ("a@1",))


def test_weights_that_were_exchanged_hold_their_directory(room):
    """They are read just before the directory goes."""
    one = room.both("a")
    room.back_up(one)
    best = room.dir("a").weights / "best.pt"
    best.write_bytes(bytes(best.stat().st_size))
    event = room.prune()
    assert (event.removed_runs, event.skipped) == ((), ("p/a: train/weights/best.pt is in no backup",))


def test_without_a_backup_the_policy_alone_decides(tmp_path):
    """Who configured no backup is not held by the want of one."""
    room = Room(tmp_path)
    room.both("a")
    write(room, "a", "before-1/last.pt")
    assert room.prune().removed_runs == ("a@1",)


# ---- epochN.pt
def test_epochs_are_covered_only_by_a_copy_that_is_here_and_there(room):
    """Not by what an older attempt sent: after a rollback its later epochs are no longer of this training."""
    room.settings = replace(room.settings, keep_epochs="none")
    one = room.both("a", "RUNNING", copies=(9,), epochs=(1, 2, 3))
    room.back_up(one, ended=False)
    ledger = room.dir("a").good / "ledger.json"
    old = msgspec.json.decode(ledger.read_bytes(), type=Ledger).entries
    room.ledger(one, (6,))
    new = msgspec.json.decode(ledger.read_bytes(), type=Ledger).entries
    distrusted = tuple(replace(entry, distrusted="its loss was no number") for entry in old)
    ledger.write_bytes(msgspec.json.encode(Ledger(entries=(*distrusted, *new))))
    assert room.prune().moved_files == 0
    assert "both in the ledger and in its backup" in room.rows()["p/a/train/weights/epoch1.pt"]["reason"]
    room.back_up(one, ended=False)
    assert room.prune(key="2").moved_files == 2


def test_epochs_that_are_younger_than_the_copy_stay(room):
    """A copy in the backup covers only what was written before it."""
    room.settings = replace(room.settings, keep_epochs="none")
    one = room.both("a", "RUNNING", copies=(9,), epochs=(1, 2, 3))
    room.back_up(one, ended=False)
    os.utime(room.dir("a").weights / "epoch2.pt", (NOW, NOW))
    room.prune()
    assert {path.name for path in room.dir("a").weights.glob("epoch*")} == {"epoch2.pt", "epoch3.pt"}


def test_epochs_wait_for_a_target_that_has_not_answered(room):
    """A folder that was exchanged since has nothing of it: before it is known again it covers no epoch."""
    room.settings = replace(room.settings, keep_epochs="none")
    room.back_up(room.both("a", "RUNNING", epochs=(1, 2, 3)), ended=False)
    target = room.world.targets["nas"]
    room.world = replace(room.world, targets={"nas": replace(target, confirmed=False)})
    assert room.prune().moved_files == 0
    room.world = replace(room.world, targets={"nas": target})
    assert room.prune(key="2").moved_files == 2


def test_no_epoch_is_archived_for_a_copy_that_rotted(room):
    """The ledger's copy is read before an epochN.pt goes because of it, whatever else goes."""
    room.settings = replace(room.settings, keep_epochs="none")
    one = room.both("a", epochs=(1, 2), tags=("gold",))
    room.back_up(one)
    copy = room.dir("a").good / "epoch9-attempt1.pt"
    copy.write_bytes(bytes(copy.stat().st_size))
    event = room.prune()
    assert (event.moved_files, "not what was entered" in event.skipped[0]) == (0, True)


# ---- the trash
@pytest.mark.parametrize("tags", [(), ("gold",)])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_trash_of_a_run_that_lives_again_is_not_purged(room, tags, at_once):
    """Neither after its time nor on a full disk; the reason says how it is taken back. At its end the trash goes."""
    room.back_up(room.both("a", tags=tags))
    room.prune()
    (held,) = room.showing.trash()["trash"]
    again = room.run("a", "HELD", run_id="a@2", predecessor="a@1", tags=tags)
    room.now += 8 * DAY
    event = room.prune(key="2", at_once=at_once)
    assert event.purged_files == 0
    assert f"prune --undo {held['id']}" in event.skipped[0]
    room.put(replace(again, phase=again.phase.CANCELLED, phase_since=room.now))
    room.put(replace(room.world.run("a@2"), backups=room.world.run("a@1").backups))
    assert room.prune(key="3").purged_files > 0


def test_superseded_epochs_of_a_live_run_are_purged(room):
    """They were let go while it lived."""
    room.settings = replace(room.settings, keep_epochs="none")
    room.back_up(room.both("a", "RUNNING", epochs=(1, 2, 3)), ended=False)
    room.prune()
    room.now += 8 * DAY
    assert room.prune(key="2").purged_files == 2


def test_archived_weights_that_the_backup_lost_stay_in_the_trash(room):
    """A later snapshot without them is known: what lies in the trash may be the last copy."""
    one = room.both("a", tags=("gold",))
    room.back_up(one)
    room.prune()
    room.now += 8 * DAY
    room.back_up(one)  # the directory has no weights any more, and this snapshot holds on to none
    event = room.prune(key="2")
    assert event.purged_files == 0
    assert "is in no backup any more; `yolo-supervisor prune --undo" in event.skipped[0]


# ---- publications
def test_a_failed_publication_holds_the_run(tmp_path):
    """Weights that are to be published stay until they are; that somebody tried is not enough."""
    room = Room(tmp_path)
    one = room.run("a", job=Job(name="a", revision="r", project="p", publish=PublishTo(to="/nas")))
    room.disk(one)
    room.put(replace(room.world.run("a@1"), published="the share is full"))
    assert room.prune().moved_files == 0
    assert "not published yet" in room.rows()["p/a"]["reason"]
    room.put(replace(room.world.run("a@1"), published="/nas/a.pt", published_ok=True))
    assert room.prune(key="2").removed_runs == ("a@1",)
