"""A run whose files are gone or damaged gets them back, and the next preparation resumes from there."""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest

from supervisor.backup_config import Keep
from supervisor.core.actions import Prepare, Restore
from supervisor.core.ledger import Distrust, Line, distrusting
from supervisor.effects import ledger
from supervisor.effects.backup import fetched, restore
from supervisor.effects.backup.restore import Restorer
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.prepare import Preparer
from supervisor.errors import RetryableError
from supervisor.layout import RunDirectory
from tests.backup_room import BackupRoom
from tests.torch_files import checkpoint
from tests.unit.test_backup_fetched import flip, stored

TABLE = b"epoch,time,metrics/mAP50-95(B)\n1,1,0.1\n2,2,0.4\n3,3,0.3\n"
TOKEN = {"token": 1, "run": "truck@1", "attempt": 1, "host": "gpu1", "boot_id": "b", "version": 1}
STARTED = {
    "shim_pid": 2, "shim_start_time": 1, "pid": 3, "start_time": 1, "boot_id": "another", "pid1_start_time": 1,
    "started_at": 1.0, "host": "gpu1", "version": 1,
}  # fmt: skip


class RestoreRoom(BackupRoom):
    """Epochs 1 to 3 were trained by attempt 1 and backed up, the second was the best."""

    def __init__(self, tmp_path, **options):
        super().__init__(tmp_path, snapshots=5, **options)
        self.write("train/results.csv", TABLE)
        self.write("token", json.dumps(TOKEN).encode())
        self.write("attempts/1/started.json", json.dumps(STARTED).encode())
        for epoch, metric in ((1, 0.1), (2, 0.4), (3, 0.3)):
            self.saved(epoch, map50_95=metric)
        self.back_up()
        self.restorer = Restorer(
            self.runs_dir, fetched.scratch_of(self.runs_dir, "restore"), lambda _name: self.target, lambda: self.now
        )

    def prepare(self, attempt=2, **fields):
        """Prepare an attempt; the answer."""
        preparer = Preparer(self.runs_dir, 0, lambda _revision: b"# job\n", lambda: self.now)
        facts = {"key": "p", "run": "truck@1", "attempt": attempt, "token": attempt, "job": self.job}
        (event,) = preparer(Prepare(**{**facts, "scratch_allowed": False, **fields}))
        return event

    def restore(self, attempt=2, **fields):
        """Carry an order out; nothing may be left of the fetching."""
        facts = {"key": "truck@1/2/restore-2", "run": "truck@1", "target": "nas", "job": self.job, "attempt": attempt}
        try:
            (answer,) = self.restorer(Restore(**{**facts, "token": attempt, **fields}))
        except RetryableError:
            return None
        assert answer.cause or not (self.runs_dir / ".fetching" / "nas" / "restore").exists()
        return answer

    def lose(self, *paths):
        """Remove files and folders of the run."""
        for path in paths:
            place = self.run_dir / path
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink()

    def resumes(self, epoch):
        """Prepare again and check where the training goes on."""
        event = self.prepare(scratch_allowed=False)
        assert (event.start, event.from_epoch) == ("resume", epoch), event
        assert event.kept_epoch == epoch
        kept = self.run_dir / "good" / f"epoch{epoch}-attempt1.pt"
        assert (self.run_dir / "train/weights/last.pt").read_bytes() == kept.read_bytes()
        return event


@pytest.fixture
def room(tmp_path):
    return RestoreRoom(tmp_path)


def test_a_run_whose_folder_is_gone_goes_on_from_its_backup(room):
    """Prepared, refused for want of a checkpoint, restored, prepared again: resumed after the third epoch."""
    mark = (room.run_dir / "mark").read_bytes()
    shutil.rmtree(room.run_dir)
    assert room.prepare().start == "refused"
    answer = room.restore()
    assert (answer.ok, answer.epoch, answer.run, answer.target) == (True, 3, "truck@1", "nas")
    assert answer.files > 5
    room.resumes(3)
    assert (room.run_dir / "train/results.csv").read_bytes() == TABLE
    assert (room.run_dir / "train/args.yaml").exists()
    assert (room.run_dir / "attempts/1/log").read_bytes() == b"Epoch 1/10\n"
    assert (room.run_dir / "mark").read_bytes() == mark, "the loggers' curve goes on"
    assert (room.run_dir / "train/weights/best.pt").read_bytes() == (
        room.run_dir / "good/epoch2-attempt1.pt"
    ).read_bytes()


def test_a_torn_last_pt_without_a_ledger_goes_on_from_the_backup(room):
    """What was trained and saved once is not trained again."""
    room.lose("good")
    torn = checkpoint(3)[:100]
    room.last.write_bytes(torn)
    assert room.prepare().start == "refused"
    assert room.restore().epoch == 3
    room.resumes(3)
    assert (room.run_dir / "attempts/2/aside/last.pt").read_bytes() == torn


def test_copies_that_rotted_here_are_replaced_by_those_of_the_backup(room):
    """A file of the right size with other bytes is no copy."""
    room.last.unlink()
    for name in room.copies:
        flip(room.run_dir / "good" / name)
    assert room.prepare().start == "refused"
    assert room.restore().epoch == 3
    room.resumes(3)
    assert {entry.epoch for entry in room.ledger.entries if ledger.verify_entry(room.dir, entry)} == {2, 3}


def test_a_table_that_is_gone_or_short_comes_back(room):
    """With the rows up to the checkpoint; the short one is kept aside."""
    room.lose("good", "train/weights/last.pt", "train/results.csv")
    room.prepare()
    room.write("train/results.csv", TABLE[: TABLE.index(b"2,2")])
    room.restore()
    assert (room.run_dir / "train/results.csv").read_bytes() == TABLE
    assert (room.run_dir / "attempts/2/aside/results.csv").read_bytes() == TABLE[: TABLE.index(b"2,2")]
    room.resumes(3)


def test_a_longer_table_stays(room):
    """It knows more than the backup."""
    longer = TABLE + b"4,4,0.5\n"
    room.lose("good", "train/weights/last.pt")
    room.write("train/results.csv", longer)
    room.prepare()
    room.restore()
    assert (room.run_dir / "train/results.csv").read_bytes() == longer


def test_nothing_that_is_there_is_replaced(room):
    """Files of attempts and of the trainer stay as they are, and the token is the run's own."""
    room.lose("good", "train/weights/last.pt")
    room.write("attempts/1/log", b"what this disk has")
    room.write("train/labels.jpg", b"a newer plot")
    room.prepare()
    token = (room.run_dir / "token").read_bytes()
    mark = (room.run_dir / "mark").read_bytes()
    assert room.restore().ok
    assert (room.run_dir / "attempts/1/log").read_bytes() == b"what this disk has"
    assert (room.run_dir / "train/labels.jpg").read_bytes() == b"a newer plot"
    assert (room.run_dir / "token").read_bytes() == token
    assert (room.run_dir / "mark").read_bytes() == mark


def test_no_folder_of_this_or_a_later_attempt_comes_back(room):
    """A journal that is older than the backup must not find its next attempt used."""
    for number in ("2", "3"):
        room.write(f"attempts/{number}/started.json", json.dumps(STARTED).encode())
    room.write("attempts/1/shim.lock", b"")
    room.back_up()
    shutil.rmtree(room.run_dir)
    room.prepare()
    assert room.restore().ok
    assert not (room.run_dir / "attempts/2/started.json").exists()
    assert not (room.run_dir / "attempts/3").exists()
    assert not (room.run_dir / "attempts/1/shim.lock").exists()
    room.resumes(3)


@pytest.mark.parametrize("token", [1, 3, None])
def test_a_run_that_was_taken_over_is_not_touched(room, token):
    """Whoever holds another token than the directory's writes nothing."""
    room.lose("good", "train/weights/last.pt")
    room.prepare()
    (room.run_dir / "token").unlink()
    if token is not None:
        (room.run_dir / "token").write_bytes(msgspec.json.encode({"token": token}))
    before = sorted(room.run_dir.rglob("*"))
    answer = room.restore()
    assert (answer.ok, answer.files) == (False, 0)
    assert "another attempt" in answer.text
    assert sorted(room.run_dir.rglob("*")) == before


def test_a_run_that_is_taken_over_meanwhile_is_left_at_once(room):
    """The token is read again before each write."""
    room.lose("good", "train/weights/last.pt")
    room.prepare()

    def after(call):
        if call == "fetch":
            (room.run_dir / "token").write_bytes(msgspec.json.encode({"token": 9}))

    room.target.after = after
    assert not room.restore().ok
    assert not (room.run_dir / "good").exists()


def test_a_damaged_newest_copy_costs_an_epoch_not_the_run(room):
    """The next one is taken, and it is said which is damaged."""
    flip(stored(room, "good/epoch3-attempt1.pt")[1])
    shutil.rmtree(room.run_dir)
    room.prepare()
    answer = room.restore()
    assert (answer.ok, answer.epoch) == (True, 2)
    assert "epoch3-attempt1.pt" in answer.text


def test_a_backup_that_knows_nothing_newer_is_of_no_help(room):
    """What is here is as good."""
    answer = room.restore(beyond=3, token=1)
    assert (answer.ok, answer.epoch) == (False, 0)
    assert "after epoch 3" in answer.text


def test_an_older_backup_helps_where_the_newest_is_damaged(room):
    """Its manifest is skipped."""
    room.saved(4)
    room.back_up()
    (room.target.root / room.folder / room.manifests()[0].snapshot / "manifest.json").write_bytes(b"{")
    shutil.rmtree(room.run_dir)
    room.prepare()
    assert room.restore().epoch == 3


def test_another_job_of_the_same_name_is_of_no_help(room):
    """Its checkpoints are of another training; the same job as an earlier run is the same training."""
    shutil.rmtree(room.run_dir)
    other = msgspec.structs.replace(room.job, revision="another")
    room.prepare(run="truck@2", job=other)
    assert not room.restore(run="truck@2", job=other).ok
    assert room.restore(run="truck@2").ok


def test_lines_and_distrust_come_back_with_the_copies(room):
    """What a person decided about epochs is not forgotten with the disk."""
    kept = room.ledger
    kept = msgspec.structs.replace(
        kept, lines=(Line(number=2, parent=1, from_epoch=2, run="truck@1", reason="rewound"),)
    )
    ledger.write(room.dir, distrusting(kept, Distrust(from_epoch=2, attempt=2, line=2, reason="it diverged")))
    room.write("train/args.yaml", b"changed: yes\n")
    room.back_up()
    shutil.rmtree(room.run_dir)
    room.prepare()
    assert not room.restore(beyond=1).ok, "what is left of this line is distrusted"
    restored = room.ledger
    assert restored.line == 2
    assert {one.epoch: one.distrusted for one in restored.entries if one.epoch == 2} in ({}, {2: "it diverged"})


def test_a_ledger_without_its_record_is_made_from_the_manifest(room):
    """The manifest says all that is needed."""
    stored(room, "good/ledger.json")[1].unlink()
    shutil.rmtree(room.run_dir)
    room.prepare()
    assert room.restore().epoch == 3
    entry = next(one for one in room.ledger.entries if one.epoch == 3)
    assert (entry.attempt, entry.line, entry.state, entry.map50_95) == (1, 1, "resumable", 0.3)
    room.resumes(3)


def test_twice_does_no_harm(room):
    """The daemon may be killed at any moment, and carries the order out again."""
    shutil.rmtree(room.run_dir)
    room.prepare()
    first = room.restore()
    before = {path: path.stat().st_mtime_ns for path in room.run_dir.rglob("*") if path.is_file()}
    again = room.restore()
    assert (first.ok, again.ok, again.epoch) == (True, True, 3)
    assert {path: path.stat().st_mtime_ns for path in room.run_dir.rglob("*") if path.is_file()} == before


def test_only_what_is_needed_to_go_on_is_fetched(tmp_path):
    """Of a hundred kept epochs the newest and the best: the run waits for them."""
    room = RestoreRoom(tmp_path, keep=Keep(keep_last=3, keep_epochs="all"))
    job = msgspec.structs.replace(
        room.job, checkpoints=msgspec.structs.replace(room.job.checkpoints, keep_last=1, keep_epochs="all")
    )
    shutil.rmtree(room.run_dir)
    room.prepare()
    assert room.restore(job=job).ok
    assert sorted(room.copies) == ["epoch2-attempt1.pt", "epoch3-attempt1.pt"]


def test_an_adopted_folder_gets_nothing(room):
    """It is a person's: the copies in the ledger are enough to go on."""
    elsewhere = room.run_dir.parent / "elsewhere"
    shutil.rmtree(room.run_dir)
    room.prepare()
    elsewhere.mkdir()
    RunDirectory(room.run_dir).train.symlink_to(elsewhere)
    assert room.restore().ok
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("cause", ["unreachable", "timeout", "auth"])
def test_what_is_wrong_with_the_target_is_told(room, cause):
    """Whoever decides then waits for it: nothing is trained again that lies there."""

    def fails(_call):
        raise TargetError(cause, "no answer")

    room.target.fails = fails
    answer = room.restore(token=1)
    assert (answer.ok, answer.cause, answer.text) == (False, cause, "no answer")


def test_an_end_of_the_daemon_is_no_answer(room):
    """The next one carries the order out."""

    def fails(_call):
        raise TargetError("stopped", "the daemon ends")

    room.target.fails = fails
    assert room.restore(token=1) is None


def test_a_full_disk_is_waited_for(room, monkeypatch):
    """A start from the beginning would lose what the backup has."""
    room.lose("good", "train/weights/last.pt")
    room.prepare()
    monkeypatch.setattr(fetched, "free_bytes", lambda _folder: 1000)
    assert room.restore() is None
    assert not (room.runs_dir / ".fetching" / "nas" / "restore").exists()


def test_a_copy_that_is_not_what_its_manifest_says_is_not_entered(room):
    """Its hash is right, but the file is torn: somebody backed up rubbish."""
    path = room.target.root / room.folder / room.manifests()[0].snapshot / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["checkpoints"][-1]["epoch"] = 9
    path.write_text(json.dumps(manifest))
    room.lose("good", "train/weights/last.pt")
    room.prepare()
    answer = room.restore(beyond=3)
    assert not answer.ok
    assert "it holds epoch 3, the manifest says 9" in answer.text


# ---- bad links, and little room
def test_over_a_link_that_breaks_every_minute_a_restore_arrives(room, monkeypatch):
    """What a try has brought is not brought again, however often the next one breaks off."""
    monkeypatch.setattr(fetched, "BATCH_FILES", 1)
    shutil.rmtree(room.run_dir)
    room.prepare()
    brought, left = [], 0

    def fails(call):
        nonlocal left
        if call == "fetch":
            left -= 1
            if left < 0:
                raise TargetError("unreachable", "the link broke")
            brought.append(call)

    room.target.fails = fails
    for tries in range(1, 100):
        left = 2
        answer = room.restore(key=f"truck@1/2/restore-{tries}")
        if not answer.cause:
            break
    assert (answer.ok, answer.epoch) == (True, 3)
    room.target.fails = lambda _call: None
    room.resumes(3)
    held = len(room.manifests()[0].files)
    assert tries > 3
    assert len(brought) <= held + 2 * tries


def test_room_for_a_part_is_enough(room, monkeypatch):
    """Fetched files are put in place a part at a time: nothing has to be there twice."""
    for number in range(6):
        room.write(f"train/plot{number}.jpg", bytes([number]) * 100_000)
    room.back_up()
    shutil.rmtree(room.run_dir)
    room.prepare()
    monkeypatch.setattr(fetched, "free_bytes", lambda _folder: fetched.LEAST_ROOM_BYTES + 250_000)
    monkeypatch.setattr(restore, "PART_BYTES", 200_000)
    assert room.restore().ok
    assert len(list((room.run_dir / "train").glob("plot*.jpg"))) == 6


def test_copies_that_are_here_are_not_fetched(room):
    """Whole ones stay; only the one that is lacking comes."""
    room.lose("good/epoch3-attempt1.pt", "train/weights/last.pt")
    room.prepare()
    calls = []
    room.target._target.fetch = _noting(room.target._target.fetch, calls)
    assert room.restore(beyond=2).epoch == 3
    assert [path for path in calls if path.endswith(".pt")] == [
        next(path for path in calls if path.endswith("epoch3-attempt1.pt"))
    ]


def _noting(real, calls):
    def fetch(files, into):
        calls.extend(files)
        real(files, into)

    return fetch
