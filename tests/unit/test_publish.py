"""Publishing: what lies there afterwards, what is never replaced, what is refused, and how exports fail."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor import backup_config
from supervisor.core import cards
from supervisor.core.actions import Publish
from supervisor.core.job import Job, PublishTo
from supervisor.core.model import Progress
from supervisor.effects import publish_places
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.publish import STAGING, TRIES, Publisher
from supervisor.effects.publish_places import Folder, NotAllowedError, TakenError
from supervisor.errors import RetryableError
from tests.torch_files import checkpoint
from tests.unit.ledger_room import NOW, Room

STEM = "default_tiny_trucks_3_0.532"


class Workshop:
    """A run with three epochs in its ledger, best.pt, and a shared folder."""

    def __init__(self, tmp_path):
        self.share = tmp_path / "share"
        self.job = Job(
            name="truck",
            revision="r",
            owner=os.getuid(),
            python=sys.executable,
            train={"epochs": 10, "model": "/models/tiny.yaml", "data": "/data/trucks.yaml"},
            env={"SOME_TOKEN": "not-for-others"},
            publish=PublishTo(to=str(self.share)),
        )
        self.room = Room(tmp_path, self.job)
        for epoch in range(3):
            self.room.save(checkpoint(epoch, map50_95=0.4 + epoch / 100))
            self.room.keep()
        self.best = self.room.dir.weights / "best.pt"
        self.best.write_bytes(checkpoint(stripped=True, map50_95=0.5319))
        self.room.dir.job.write_text('name = "truck"\nenv = { SOME_TOKEN = "not-for-others" }\n')
        self.stop = threading.Event()
        self.backups = ()

    def publisher(self):
        """Who carries orders out."""
        runs_dir = self.room.runs_dir
        return Publisher(runs_dir, runs_dir.parent, "gpu one", self.backups, lambda: NOW, stop=self.stop)

    def action(self, **wish):
        """An order."""
        job = replace(self.job, publish=replace(self.job.publish, **wish))
        return Publish(key="truck@1/publish-1", run="truck@1", job=job, progress=Progress(saved_epoch=3, epochs=10))

    def publish(self, **wish):
        """Carry the order out; the answer."""
        (event,) = self.publisher()(self.action(**wish))
        assert not list((self.room.runs_dir / STAGING).iterdir())
        return event

    def names(self):
        """What lies in the shared folder."""
        return sorted(path.name for path in self.share.iterdir())


@pytest.fixture
def workshop(tmp_path):
    """One for each test."""
    return Workshop(tmp_path)


def test_best_and_last_lie_there_with_their_card(workshop):
    """Best as the trainer left it, last as the ledger verified it, and a card whose hashes are those of the files."""
    event = workshop.publish()
    assert event.ok, event.text
    assert workshop.names() == [f"{STEM}-best.pt", f"{STEM}-last.pt", f"{STEM}.json"]
    assert event.files == tuple(str(workshop.share / name) for name in workshop.names())
    card = cards.decode((workshop.share / f"{STEM}.json").read_bytes())
    assert (card.run, card.epoch, card.epochs, card.server) == ("truck@1", 3, 10, "gpu one")
    assert card.metrics == {"metrics/mAP50-95(B)": 0.5319}
    assert [file.epoch for file in card.files] == [0, 3]
    for file in card.files:
        assert hashlib.sha256((workshop.share / file.name).read_bytes()).hexdigest() == file.sha256
    assert (workshop.share / f"{STEM}-best.pt").read_bytes() == workshop.best.read_bytes()
    assert "not-for-others" not in (workshop.share / f"{STEM}.json").read_text()


def test_one_file_alone_has_the_plain_name(workshop):
    """With only the best there is nothing to tell apart."""
    assert workshop.publish(include=("best",)).ok
    assert workshop.names() == [f"{STEM}.json", f"{STEM}.pt"]


def test_the_same_again_changes_nothing(workshop):
    """The same weights under the same name are left as they are, their card too, and no second copy appears."""
    first = workshop.publish()
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in workshop.share.iterdir()}
    assert workshop.publish().files == first.files
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in workshop.share.iterdir()} == before


def test_other_weights_under_the_same_name_get_a_number(workshop):
    """What lies there is never replaced, be it ours of yesterday or a file of somebody else's."""
    workshop.publish()
    before = {name: (workshop.share / name).read_bytes() for name in workshop.names()}
    workshop.best.write_bytes(checkpoint(stripped=True, map50_95=0.5319, numbers=(1.0,) * 16))
    assert workshop.publish().ok
    assert {name: (workshop.share / name).read_bytes() for name in before} == before
    assert set(workshop.names()) - set(before) == {f"{STEM}-2{end}" for end in ("-best.pt", "-last.pt", ".json")}


def test_a_foreign_card_is_not_replaced(workshop):
    """A file that only has the card's name counts as taken."""
    workshop.share.mkdir()
    (workshop.share / f"{STEM}.json").write_text("mine")
    assert workshop.publish().ok
    assert (workshop.share / f"{STEM}.json").read_text() == "mine"
    assert f"{STEM}-2.json" in workshop.names()


def test_what_a_crash_left_is_completed(workshop):
    """Weights without a card, and half a file under a temporary name: the next try makes one whole publication."""
    workshop.publish()
    (workshop.share / f"{STEM}.json").unlink()
    (workshop.share / f".{STEM}.json.publishing").write_text("{")
    workshop.publish()
    assert workshop.names() == [f"{STEM}-best.pt", f"{STEM}-last.pt", f"{STEM}.json"]


def test_torn_weights_are_not_published(workshop):
    """A best.pt that is not whole stays here and is said; a damaged copy of the ledger gives way to an older one."""
    workshop.best.write_bytes(workshop.best.read_bytes()[:-30])
    newest = workshop.room.dir.good / "epoch3-attempt1.pt"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    event = workshop.publish()
    assert event.ok
    assert "best.pt is torn" in event.exports["best"]
    card = cards.decode(Path(event.files[-1]).read_bytes())
    assert [(file.role, file.epoch) for file in card.files] == [("last", 2)]


def test_nothing_to_publish_is_said(workshop):
    """Without any weights there is no card either."""
    workshop.best.unlink()
    event = workshop.publish(include=("best",))
    assert (event.ok, "there is no" in event.text) == (False, True)
    assert not workshop.share.exists()


def test_a_missing_disk_is_not_made_up_for(workshop, tmp_path):
    """The folder is made where its parent is there; a longer path that is missing is a disk that is not mounted."""
    event = workshop.publish(to=str(tmp_path / "mnt" / "nas"))
    assert (event.ok, "not mounted" in event.text) == (False, True)
    assert not (tmp_path / "mnt").exists()


@pytest.mark.parametrize(("wish", "words"), [({"to": "nas"}, "neither a folder nor"), ({"name": "{x}.pt"}, "{x}")])
def test_a_wish_that_cannot_be_met_is_explained(workshop, wish, words):
    """An unknown target and an unknown placeholder are named."""
    event = workshop.publish(**wish)
    assert (event.ok, words in event.text) == (False, True)


def test_a_backup_target_takes_publications(workshop, tmp_path):
    """They lie in the folder `published` of the server there, verified; again changes nothing, others get a number."""
    (tmp_path / "disk").mkdir()
    workshop.backups = (backup_config.Backup(name="nas", to=str(tmp_path / "disk")),)
    event = workshop.publish(to="nas")
    assert event.ok, event.text
    folder = tmp_path / "disk" / "gpu-one" / "published"
    names = [f"{STEM}-best.pt", f"{STEM}-last.pt", f"{STEM}.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert event.files[-1] == f"nas:published/{STEM}.json"
    assert workshop.publish(to="nas").files == event.files
    workshop.best.write_bytes(checkpoint(stripped=True, map50_95=0.5319, numbers=(1.0,) * 16))
    assert workshop.publish(to="nas").files[-1] == f"nas:published/{STEM}-2.json"


def test_a_target_that_is_away_is_tried_a_few_times(workshop):
    """What passes is tried again and then told; what does not pass is told at once."""
    workshop.backups = (backup_config.Backup(name="nas", to="/no/such/disk"),)
    event = workshop.publish(to="nas")
    assert (event.ok, bool(event.text)) == (False, True)
    workshop.stop.set()
    with pytest.raises(RetryableError):
        workshop.publish(export=("onnx",))


def test_an_export_that_fails_fails_alone(workshop):
    """Without the library the weights lie there all the same, and the text says what to install and where."""
    event = workshop.publish(export=("onnx", "engine", "../x"))
    assert event.ok
    assert event.exports["onnx"].startswith(f"ultralytics is not installed in {sys.executable}")
    assert "none is free" in event.exports["engine"]
    assert "no format" in event.exports["../x"]
    assert f"{STEM}.json" in workshop.names()


def test_a_place_that_the_owner_may_not_write_is_refused(workshop, monkeypatch, tmp_path):
    """A daemon that is root writes for the owner of a job only where they could write themselves."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(publish_places, "_groups", lambda _uid: set())
    workshop.share.mkdir(mode=0o755)
    for path in (workshop.share, workshop.share / "new"):
        with pytest.raises(NotAllowedError):
            Folder(path, 65534)
    assert list(workshop.share.iterdir()) == []
    workshop.share.chmod(0o777)
    Folder(workshop.share, 65534).close()


def test_a_name_that_is_taken_meanwhile_is_left_alone(workshop, tmp_path):
    """Between the look and the rename somebody else puts a file there: it stays, link or not."""
    workshop.share.mkdir()
    source = tmp_path / "source"
    source.write_text("ours")
    (workshop.share / "x.pt").symlink_to(tmp_path / "victim")
    place = Folder(workshop.share, os.getuid())
    with pytest.raises(TakenError):
        place.put(source, "x.pt")
    place.close()
    assert not (tmp_path / "victim").exists()
    assert workshop.names() == ["x.pt"]


@pytest.mark.parametrize(
    "made",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.mkdir(),
        lambda path: os.truncate(path.touch() or path, 10**12),
    ],
    ids=["pipe", "link", "folder", "huge"],
)
def test_what_is_no_card_is_somebody_elses(workshop, made):
    """A pipe that nobody writes to, a link, a folder, a file of a terabyte: it is not read, and stays."""
    workshop.share.mkdir()
    made(workshop.share / f"{STEM}.json")
    before = (workshop.share / f"{STEM}.json").lstat()
    assert workshop.publish().ok
    assert f"{STEM}-2.json" in workshop.names()
    assert (workshop.share / f"{STEM}.json").lstat().st_ino == before.st_ino
    assert f"{STEM}-best.pt" not in workshop.names(), "nothing lies there without its own card"


def test_a_mount_that_does_not_answer_is_left(workshop, monkeypatch):
    """The only lane of publications goes on; it is tried again a few times, and then told."""
    back = threading.Event()
    monkeypatch.setattr(publish_places, "_demand_writable", lambda *_: back.wait(20))
    with pytest.raises(TargetError) as late:
        Folder(workshop.room.runs_dir, os.getuid(), silence_s=0.2)
    assert late.value.cause == "timeout"
    monkeypatch.setattr(publish_places.Folder, "_know", lambda *_: None)
    with pytest.raises(TargetError, match="still does not answer"):
        Folder(workshop.room.runs_dir, os.getuid(), silence_s=0.2)
    monkeypatch.setattr(Folder, "__init__", _times_out)
    publisher, action = workshop.publisher(), workshop.action()
    for _ in range(TRIES - 1):
        with pytest.raises(RetryableError):
            publisher(action)
    (event,) = publisher(action)
    back.set()
    assert (event.ok, event.text) == (False, "no answer")


def _times_out(*_arguments, **_options):
    raise TargetError("timeout", "no answer")


def test_a_stop_ends_a_copy(workshop, tmp_path):
    """The next daemon begins anew; no half of it is left."""
    place = Folder(tmp_path, os.getuid(), stop=workshop.stop)
    source = tmp_path / "source"
    source.write_bytes(b"x")
    workshop.stop.set()
    with pytest.raises(TargetError, match="stops"):
        place.put(source, "x.pt")
    assert not (tmp_path / "x.pt").exists()


def test_a_folder_that_takes_its_place_is_not_written_to(workshop, tmp_path):
    """Between two files of one publication."""
    (tmp_path / "a").mkdir()
    place = Folder(tmp_path / "a", os.getuid())
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    with pytest.raises(NotAllowedError, match="another folder"):
        place.put(workshop.best, "x.pt")


def test_a_card_is_readable_json(workshop):
    """People open it in an editor: indented, with the words of the job."""
    event = workshop.publish()
    text = Path(event.files[-1]).read_text()
    assert json.loads(text)["config"]["epochs"] == 10
    assert "\n  " in text
