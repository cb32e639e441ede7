from __future__ import annotations

import os

import pytest
from msgspec.structs import replace

from supervisor.core.job import Job, PublishTo
from supervisor.effects import checkpoints, live_trainings
from supervisor.effects.prune import foreign
from supervisor.effects.prune.showing import Showing
from tests.prune_room import DAY, NOW, Room, snapshot
from tests.torch_files import checkpoint


@pytest.fixture
def room(tmp_path):
    """A pruner that was told of one folder with foreign runs."""
    folder = tmp_path / "yolo"
    folder.mkdir()
    room = Room(tmp_path, keep_tag=("gold",), folders=(folder,))
    room.folder = folder
    return room


def foreign_run(room, name="runs/detect/train", *, stripped=True, days=30.0, map50_95=0.5):
    """A run as Ultralytics leaves it."""
    path = room.folder / name
    (path / "weights").mkdir(parents=True)
    (path / "args.yaml").write_text("epochs: 2\n", encoding="utf-8")
    (path / "results.csv").write_text(f"epoch,metrics/mAP50-95(B)\n1,0.1\n2,{map50_95}\n", encoding="utf-8")
    (path / "weights" / "last.pt").write_bytes(checkpoint(1, stripped=stripped))
    age(path, days)
    return path


def age(path, days):
    """Let everything there be so old."""
    for one in (path, *path.rglob("*")):
        os.utime(one, (NOW - days * DAY, NOW - days * DAY), follow_symlinks=False)


def plan(room):
    """Action and reason of each foreign run, by its path below the folder."""
    rows = room.showing.plan()["rows"]
    return {os.path.relpath(row["path"], room.folder): row for row in rows if row["kind"] == "run"}


def test_finished_ones_go_into_the_trash_of_their_folder(room):
    """A finished run that no word wants goes whole into the folder's own trash, and can be taken back."""
    path = foreign_run(room)
    before = snapshot(path)
    event = room.prune()
    assert (event.moved_files, event.removed_runs) == (3, ())
    assert not path.exists()
    (held,) = room.showing.trash()["trash"]
    assert (room.folder / foreign.TRASH / held["id"]).is_dir()
    room.showing.undo(held["id"])
    assert snapshot(path) == before
    room.prune(key="2")
    room.now = NOW + 8 * DAY
    assert room.prune(key="3").purged_files == 3


def test_without_a_named_folder_nothing_is_touched(room):
    """Runs in folders that the user did not name are not even looked at."""
    path = foreign_run(room)
    room.settings = replace(room.settings, folders=())
    room.prune()
    assert path.exists()
    assert not (room.folder / foreign.TRASH).exists()
    assert plan(room) == {}


def test_the_same_words_hold(room):
    """keep_best and keep_last count among the runs of the folder."""
    foreign_run(room, "a", days=30, map50_95=0.9)
    foreign_run(room, "b", days=20, map50_95=0.1)
    foreign_run(room, "c", days=40, map50_95=0.2)
    room.settings = replace(room.settings, keep_last=1, keep_best=1)
    found = plan(room)
    assert {name: row["action"] for name, row in found.items()} == {"a": "keep", "b": "keep", "c": "delete"}
    assert "mAP50-95 0.9" in found["a"]["reason"]


def test_unfinished_ones_never_go(room):
    """What its trainer did not finish stays: not stripped, torn, without last.pt, or changed within a day."""
    foreign_run(room, "unstripped", stripped=False)
    torn = foreign_run(room, "torn")
    (torn / "weights/last.pt").write_bytes(checkpoint(1, stripped=True)[:-100])
    age(torn, 30)
    bare = foreign_run(room, "bare")
    (bare / "weights/last.pt").unlink()
    age(bare, 30)
    foreign_run(room, "young", days=0.9)
    event = room.prune(at_once=True)
    assert event.moved_files == 0
    found = plan(room)
    assert {row["action"] for row in found.values()} == {"keep"}
    assert "resumable" in found["unstripped"]["reason"]
    assert "torn" in found["torn"]["reason"]
    assert "no last.pt" in found["bare"]["reason"]
    assert "within the last day" in found["young"]["reason"]


def test_what_looks_like_no_run_is_not_listed(room):
    """Folders without all three marks, links to runs, and hidden folders are left alone."""
    for name in ("no-args", "no-results", "no-weights"):
        foreign_run(room, name)
    (room.folder / "no-args/args.yaml").unlink()
    (room.folder / "no-results/results.csv").unlink()
    (room.folder / "no-weights/weights/last.pt").unlink()
    (room.folder / "no-weights/weights").rmdir()
    foreign_run(room, ".hidden")
    real = foreign_run(room, "real")
    real.rename(room.outside / "real")
    (room.folder / "real").symlink_to(room.outside / "real")
    before = (snapshot(room.folder), snapshot(room.outside))
    assert plan(room) == {}
    room.prune(at_once=True)
    (room.folder / foreign.TRASH).rmdir()
    assert (snapshot(room.folder), snapshot(room.outside)) == before


def test_one_at_which_somebody_works_stays(room, monkeypatch):
    """A training that says it works there keeps the run, even if nothing of it is open."""
    path = foreign_run(room)
    training = live_trainings.Training(4242, 1, ("python", "train.py"))
    monkeypatch.setattr(live_trainings, "at_work", lambda folder: (training, "began it") if folder == path else None)
    event = room.prune()
    assert event.moved_files == 0
    assert "4242" in event.skipped[0]


def test_one_that_changes_stays(room, monkeypatch):
    """A run that is written between the look and the move is not moved."""
    path = foreign_run(room)
    real = foreign.demand_same

    def changed(*arguments):
        (path / "new").write_text("new", encoding="utf-8")
        real(*arguments)

    monkeypatch.setattr(foreign, "demand_same", changed)
    assert room.prune().moved_files == 0
    assert (path / "new").exists()


def test_one_that_a_live_run_names_stays(room):
    """A foreign run from which one of ours starts is needed."""
    path = foreign_run(room)
    job = Job(name="child", revision="r", train={"model": str(path / "weights/best.pt")})
    room.run("child", "QUEUED", attempts=0, job=job)
    assert room.prune().moved_files == 0
    assert "child" in plan(room)["runs/detect/train"]["reason"]


def test_folders_of_ours_are_not_foreign(room):
    """A named folder that holds our own runs, or lies in them, is skipped: the rules for ours are stricter."""
    one = room.both("gold", tags=("gold",))
    foreign_like = room.dir(one.name).root
    (foreign_like / "args.yaml").touch()
    room.settings = replace(room.settings, folders=(room.tmp_path, room.runs_dir / "p"))
    room.prune()
    assert foreign_like.exists()
    assert not (room.tmp_path / foreign.TRASH).exists()


def test_the_child_that_looks_follows_the_handle(room, monkeypatch):
    """last.pt is looked at by the folder's handle: a folder that is exchanged meanwhile is not mistaken for it."""
    foreign_run(room, stripped=False)
    other = foreign_run(room, "runs/detect/z-other")
    target = room.folder / "runs/detect/train"
    real = checkpoints.survey

    def exchanged(paths, **options):
        if target.exists() and not target.is_symlink():
            target.rename(room.folder / "runs/detect/aside")
            target.symlink_to(other)
        return real(paths, **options)

    monkeypatch.setattr(checkpoints, "survey", exchanged)
    assert "resumable" in plan(room)["runs/detect/train"]["reason"]


@pytest.mark.parametrize("mark", ["owner.json", "manifest.json"])
def test_backups_hold_no_foreign_runs(room, mark):
    """What lies in a backup of whichever server, or in a snapshot, is never looked at."""
    path = foreign_run(room, "gpu2/runs/a")
    (room.folder / "gpu2" / mark).write_text("{}", encoding="utf-8")
    assert plan(room) == {}
    assert room.prune().moved_files == 0
    (room.folder / "gpu2" / mark).unlink()
    assert list(plan(room)) == [os.path.relpath(path, room.folder)]


def test_an_interrupted_snapshot_is_no_foreign_run(room):
    """It has no manifest yet, but its name."""
    foreign_run(room, "snap-000009-20261122T183000Z-0123abcd/train")
    assert plan(room) == {}


def test_a_folder_inside_a_backup_is_refused(room):
    """Also where the mark lies above the folder that was named; nothing goes, and that is told."""
    foreign_run(room, "a")
    (room.folder.parent / "owner.json").write_text("{}", encoding="utf-8")
    event = room.prune()
    assert (event.moved_files, "lies in a backup" in event.skipped[0]) == (0, True)
    assert "lies in a backup" in room.showing.plan()["problems"][0]


@pytest.mark.parametrize("inside", [True, False])
def test_folders_of_targets_are_closed(room, inside):
    """A target below the folder is left out; where the folder lies in a target nothing of it is looked at."""
    foreign_run(room, "nas/a")
    foreign_run(room, "b")
    folder = room.folder / "nas" if inside else room.folder.parent
    room.showing = Showing(room.make_pruner(closed=lambda: [folder]))
    assert list(plan(room)) == (["b"] if inside else [])
    assert bool(room.showing.plan()["problems"]) is not inside


def test_folders_of_publications_are_closed(room):
    """Also where the user named the folder by a link: published weights are for others."""
    link = room.folder.parent / "link"
    link.symlink_to(room.folder)
    room.settings = replace(room.settings, folders=(link,))
    foreign_run(room, "models/a")
    foreign_run(room, "b")
    job = Job(name="x", revision="r", project="p", publish=PublishTo(to=str(link / "models")))
    room.run("x", job=job)
    assert list(plan(room)) == ["b"]
