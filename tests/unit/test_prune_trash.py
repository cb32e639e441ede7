from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from supervisor.effects.prune import handles, open_files
from supervisor.effects.prune.showing import Showing
from supervisor.errors import UserError
from tests.prune_room import DAY, NOW, Room, snapshot

CALLS = ("rename", "mkdir", "unlink", "rmdir", "link")


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nobody may catch it."""


@pytest.fixture
def room(tmp_path):
    """One run that goes, one whose old epochs go, one that is archived."""
    room = Room(tmp_path, keep_last=1, keep_epochs="none", archive_after=5 * DAY)
    room.both("live", "RUNNING", copies=(9,), epochs=(1, 2, 3))
    room.target()
    for name, days in (("kept", 10.0), ("gone", 20.0)):
        room.back_up(room.both(name, ended_days=days))
    room.back_up(room.world.run("live@1"), ended=False)
    return room


def files(folder):
    """The content of every file below, by name of the file alone: where it lies does not count."""
    found = [
        (path.rpartition("/")[2], content) for path, (kind, content) in snapshot(folder).items() if kind == 0o100000
    ]
    return sorted(one for one in found if one[0] != "record.json" and not one[0].startswith(".record"))


def only(room, what):
    """The id of what went as `what`."""
    (held,) = [held for held in room.showing.trash()["trash"] if held["what"] == what]
    return held["id"]


def test_undo_brings_everything_back(room):
    """Each thing in the trash can be taken back; then all is as it was, to the byte, and the trash is empty."""
    before = snapshot(room.runs_dir)
    event = room.prune()
    assert (event.removed_runs, event.archived) == (("gone@1",), ("kept@1",))
    assert snapshot(room.runs_dir) != before
    view = room.showing.trash()
    assert {held["what"] for held in view["trash"]} == {"run", "archive", "epochs"}
    assert all(held["until_at"] == NOW + 7 * DAY and held["items"][0]["reason"] for held in view["trash"])
    for held in view["trash"]:
        assert room.showing.undo(held["id"])["taken_back"]
    assert room.showing.trash()["trash"] == []
    room.trash.rmdir()
    assert snapshot(room.runs_dir) == before


def test_undo_replaces_nothing(room):
    """Where something lies in the place meanwhile, it stays, the trash keeps what it has, and both are said."""
    room.prune()
    room.dir("gone").root.mkdir()
    (room.dir("gone").root / "new").write_text("new", encoding="utf-8")
    with pytest.raises(UserError, match="there already"):
        room.showing.undo(only(room, "run"))
    assert (room.dir("gone").root / "new").read_text(encoding="utf-8") == "new"
    (room.dir("gone").root / "new").unlink()
    room.dir("gone").root.rmdir()
    room.showing.undo(only(room, "run"))
    assert room.dir("gone").weights.exists()


@pytest.mark.parametrize("identifier", ["", "..", "../..", "20261122T000000Z-00000000", "/etc"])
def test_undo_of_nothing(room, identifier):
    """An id that is none is refused with where to find one."""
    room.prune()
    with pytest.raises(UserError, match="prune trash"):
        room.showing.undo(identifier)


def test_undo_through_a_link_is_refused(room):
    """If the project is a link now, nothing goes back through it."""
    room.prune()
    (room.runs_dir / "p").rename(room.runs_dir / "q")
    (room.runs_dir / "p").symlink_to(room.outside)
    before = snapshot(room.outside)
    with pytest.raises(UserError):
        room.showing.undo(only(room, "run"))
    assert snapshot(room.outside) == before


def test_a_lost_record_repairs_itself(room):
    """A folder whose record is lost or damaged is still listed, can be taken back, and is never purged by itself."""
    room.prune()
    before = files(room.runs_dir)
    for held in room.trash.iterdir():
        (held / "record.json").write_text("{", encoding="utf-8")
    room.now = NOW + 365 * DAY
    assert room.prune(key="2").purged_files == 0
    assert files(room.runs_dir) == before
    for held in room.showing.trash()["trash"]:
        assert held["until_at"] is None
    assert {held["what"] for held in room.showing.trash()["trash"]} == {"stray"}


class Counter:
    """Lets the process end after the n-th call that changes the disk, which is before the next one."""

    def __init__(self, monkeypatch, at):
        self.at, self.count = at, 0
        for name in CALLS:
            monkeypatch.setattr(handles.os, name, self.wrapped(getattr(handles.os, name)))

    def wrapped(self, real):
        """The call; one that fails changes nothing, and does not count."""

        def call(*arguments, **keywords):
            found = real(*arguments, **keywords)
            self.count += 1
            if self.count == self.at:
                raise Killed
            return found

        return call


@pytest.fixture
def unused(monkeypatch):
    """Nobody uses a file: a look at all processes for each of hundreds of prunings would take a minute."""
    monkeypatch.setattr(open_files, "in_use", frozenset)


def killed(room, monkeypatch, at, **how):
    """Prune and be killed at a step; False if there is no such step."""
    with monkeypatch.context() as patch:
        Counter(patch, at)
        try:
            room.prune(**how)
        except Killed:
            return True
    return False


def test_killed_at_every_step(tmp_path, monkeypatch, unused):
    """Killed at any change of the disk: nothing is lost, and the next pruning ends as if nothing happened."""
    for step in itertools.count(1):
        room = _full(tmp_path / str(step))
        before = files(room.runs_dir)
        if not killed(room, monkeypatch, step):
            break
        assert files(room.runs_dir) == before, f"step {step}"
        event = _next(room).prune()
        assert files(room.runs_dir) == before, f"step {step}"
        assert event.removed_runs == ("gone@1",), f"step {step}"
        assert event.archived == ("kept@1",), f"step {step}"
        assert not room.dir("gone").root.exists()
        left = {path.name for path in room.dir("live").weights.iterdir()}
        assert left == {"last.pt", "best.pt", "epoch3.pt"}
        room.now = NOW + 30 * DAY
        _next(room).prune(key="later")
        assert list(room.trash.iterdir()) == [], f"step {step}"
    assert step > 20


def test_killed_at_every_step_of_a_purge(tmp_path, monkeypatch, unused):
    """Killed while the trash is emptied: the next pruning empties it, and nothing else is gone."""
    for step in itertools.count(1):
        room = _full(tmp_path / str(step))
        if not killed(room, monkeypatch, step, at_once=True):
            break
        _next(room).prune(at_once=True)
        assert list(room.trash.iterdir()) == [], f"step {step}"
        assert not room.dir("gone").root.exists()
        assert (room.dir("live").good / "epoch9-attempt1.pt").exists()
        assert (room.dir("kept").results).exists()
        assert room.outside.joinpath("canary").exists()
    assert step > 40


def test_killed_at_every_step_of_an_undo(tmp_path, monkeypatch, unused):
    """Killed while something is taken back: it is there, or in the trash, or can be taken back again."""
    for step in itertools.count(1):
        room = _full(tmp_path / f"undo{step}")
        before = snapshot(room.runs_dir)
        room.prune()
        ids = [held["id"] for held in room.showing.trash()["trash"]]
        done = False
        with monkeypatch.context() as patch:
            Counter(patch, step)
            try:
                for one in ids:
                    room.showing.undo(one)
                done = True
            except Killed:
                pass
        if done:
            break
        room = _next(room)
        for held in room.showing.trash()["trash"]:
            if held["items"]:
                try:
                    room.showing.undo(held["id"])
                except UserError as error:
                    assert "there already" in str(error), f"step {step}"  # noqa: PT017 - it may be both: killed between
        now = {path: found for path, found in snapshot(room.runs_dir).items() if not path.startswith(".trash")}
        assert now == before, f"step {step}"
    assert step > 5


def _full(folder):
    folder.mkdir()
    room = Room(folder, keep_last=1, keep_epochs="none", archive_after=5 * DAY)
    room.both("live", "RUNNING", copies=(9,), epochs=(1, 2, 3))
    room.target()
    for name, days in (("kept", 10.0), ("gone", 20.0)):
        room.back_up(room.both(name, ended_days=days))
    room.back_up(room.world.run("live@1"), ended=False)
    return room


def _next(room):
    """The next daemon: it knows nothing but the disk and the journal."""
    room.pruner = room.make_pruner()
    room.showing = Showing(room.pruner)
    return room


def test_something_else_moved_by_mistake_goes_back(room, monkeypatch):
    """If the folder is exchanged for another one just before the rename, that one is put back untouched."""
    other = room.runs_dir / "p" / "other"
    other.mkdir()
    (other / "precious").write_text("mine", encoding="utf-8")
    rename, done = handles.os.rename, []

    def swapped(source, target, **folders):
        if source == "gone" and not done:
            done.append(1)
            rename(room.dir("gone").root, room.runs_dir / "p" / "hidden")
            rename(other, room.dir("gone").root)
        rename(source, target, **folders)

    monkeypatch.setattr(handles.os, "rename", swapped)
    event = room.prune()
    assert event.removed_runs == ()
    assert any("exchanged" in text for text in event.skipped)
    assert (room.dir("gone").root / "precious").read_text(encoding="utf-8") == "mine"
    assert (room.runs_dir / "p" / "hidden" / "token").exists()
    assert "stray" not in {held["what"] for held in room.showing.trash()["trash"]}


def test_a_mistake_that_cannot_go_back_is_kept(room, monkeypatch):
    """If its place is taken as well, it stays in the trash, is said, and no purge ever takes it."""
    other = room.runs_dir / "p" / "other"
    other.mkdir()
    (other / "precious").write_text("mine", encoding="utf-8")
    rename, done = handles.os.rename, []

    def swapped(source, target, **folders):
        first = source == "gone" and not done
        if first:
            done.append(1)
            rename(room.dir("gone").root, room.runs_dir / "p" / "hidden")
            rename(other, room.dir("gone").root)
        rename(source, target, **folders)
        if first:
            rename(room.runs_dir / "p" / "hidden", room.dir("gone").root)

    monkeypatch.setattr(handles.os, "rename", swapped)
    event = room.prune()
    assert any("lies in .trash/" in text for text in event.skipped)
    room.now = NOW + 365 * DAY
    room.settings = replace(room.settings, keep_last=100)
    room.prune(key="2", at_once=True)
    assert [path.read_text(encoding="utf-8") for path in room.trash.rglob("precious")] == ["mine"]
    (room.dir("gone").root).rename(room.runs_dir / "p" / "elsewhere")
    room.showing.undo(only(room, "stray"))
    assert (room.dir("gone").root / "precious").exists()
