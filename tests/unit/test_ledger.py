"""What is entered in the ledger and what is not, with real files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time

import pytest
from ledger_room import NOW, TRAIN, Room
from msgspec.structs import replace

from supervisor import layout
from supervisor.core.job import Checkpoints
from supervisor.core.ledger import usable
from supervisor.core.model import Job
from supervisor.effects import ledger, private_copy
from supervisor.errors import RetryableError
from tests.torch_files import ZEROS, checkpoint, packed

NAN = (*ZEROS, float("nan"))


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


# ---- entering
def test_a_save_is_copied_and_described(room):
    """Epoch, metric, size, hash, attempt, run and version are in the ledger; the copy has the source's time."""
    data = checkpoint(2, map50_95=0.4)
    room.save(data)
    kept = room.keep()
    assert (kept.epoch, kept.file, kept.reason) == (3, "epoch3-attempt1.pt", "")
    (entry,) = room.recorded().entries
    assert (entry.epoch, entry.epochs, entry.state, entry.map50_95) == (3, 10, "resumable", 0.4)
    assert (entry.run, entry.attempt, entry.line, entry.trainer_version) == ("truck@1", 1, 1, "8.4.190")
    assert (entry.size_bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (entry.source_bytes, entry.source_mtime_ns) == (len(data), room.last.stat().st_mtime_ns)
    assert entry.kept_at == room.now
    copy = ledger.path_of(room.dir, entry)
    assert copy.stat().st_mtime_ns == room.last.stat().st_mtime_ns
    assert ledger.verify_entry(room.dir, entry)


def test_a_copy_is_private(room):
    """The trainer rewrites its file in place: the copy is another file and keeps what it had."""
    room.saved(1)
    (entry,) = room.ledger.entries
    before = ledger.path_of(room.dir, entry).read_bytes()
    room.save(b"half of a che")
    assert ledger.path_of(room.dir, entry).stat().st_ino != room.last.stat().st_ino
    assert ledger.path_of(room.dir, entry).read_bytes() == before
    ledger.path_of(room.dir, entry).write_bytes(before[:-1] + b"x")
    assert not ledger.verify_entry(room.dir, entry)


def test_the_same_file_is_entered_once(room):
    """Asked again, also after a touch or in a later attempt, the entry that is there is the answer."""
    first = room.saved(1)
    (entry,) = room.ledger.entries
    number = ledger.path_of(room.dir, entry).stat().st_ino
    assert (room.keep().file, room.keep().epoch) == (first.file, 1)
    room.save(room.last.read_bytes())
    room.begin(2)
    assert room.keep().file == first.file
    assert room.ledger.entries == (entry,)
    assert ledger.path_of(room.dir, entry).stat().st_ino == number


@pytest.mark.parametrize(
    ("data", "state"),
    [
        (checkpoint(4)[:-60], "torn"),
        (b"", "torn"),
        (checkpoint(4, numbers=NAN), "poisoned"),
        (checkpoint(4, stripped=True), "finished"),
        (checkpoint(4, optimizer=None), "weights_only"),
        (packed({"epoch": 4, "model": os.system}), "hostile"),
    ],
    ids=["torn", "empty", "poisoned", "finished", "weights only", "hostile"],
)
def test_what_cannot_be_resumed_is_not_entered(room, data, state):
    """A bad file leaves nothing in good/ and takes nothing from it; the answer says what it is, and there is no retry."""
    room.saved(3)
    room.save(data)
    kept = room.keep()
    assert (kept.epoch, kept.file) == (0, "")
    assert f"last.pt is {state}" in kept.reason
    assert kept.fault == (state if state in {"torn", "poisoned", "hostile"} else "")
    assert room.copies == ["epoch3-attempt1.pt"]


def test_a_second_save_of_the_same_epoch_replaces_the_first(room):
    """One name per epoch and attempt; the ledger describes what stands there."""
    room.saved(1, 2)
    data = checkpoint(1, numbers=(1.0,))
    room.save(data)
    room.keep()
    assert room.copies == ["epoch1-attempt1.pt", "epoch2-attempt1.pt"]
    assert [entry.epoch for entry in room.ledger.entries] == [1, 2]
    assert room.ledger.entries[-1].sha256 == hashlib.sha256(data).hexdigest()


def test_a_stale_holder_writes_nothing(room):
    """Once another attempt holds the token, a late order for the older one is refused; without a token too."""
    room.save(checkpoint(0))
    room.begin(2)
    late = room.keep(attempt=1, token=1)
    assert late.epoch == 0
    assert "another attempt" in late.reason
    room.dir.token.unlink()
    assert "another attempt" in room.keep().reason
    assert not room.dir.good.exists()


def test_nothing_to_copy(room):
    """Without a checkpoint the answer says so."""
    assert room.keep().reason == "no checkpoint is there"


# ---- the runner's private copy of the last save
def test_the_last_save_is_taken_from_the_runners_copy(room):
    """final.pt is entered before the trainer's own file, which is stripped by now, and then removed."""
    final = room.save(checkpoint(9), room.dir.attempt(1).final)
    room.save(checkpoint(9, stripped=True))
    kept = room.keep(path=str(final))
    assert (kept.epoch, kept.file) == (10, "epoch10-attempt1.pt")
    assert room.ledger.entries[0].state == "done_not_stripped"
    assert not final.exists()


def test_a_path_from_a_heartbeat_is_not_believed(room, tmp_path):
    """The job's user writes heartbeats: a path outside the attempt is neither copied nor removed."""
    foreign = room.save(checkpoint(7), tmp_path / "final.pt")
    assert room.keep(path=str(foreign)).reason == "no checkpoint is there"
    assert foreign.exists()


def test_a_bad_private_copy_does_not_hide_the_trainers_file(room):
    """A torn final.pt goes aside for study, and last.pt is entered; the next order does not look at it again."""
    final = room.save(checkpoint(9)[:-70], room.dir.attempt(1).final)
    kept = room.saved(9)
    assert kept.epoch == 9
    assert "final.pt is torn" in kept.reason
    assert not final.exists()
    assert (room.dir.attempt(1).aside / "final.pt").exists()
    assert room.saved(10).reason == ""


def refused(monkeypatch, *paths, error=errno.EACCES):
    """Let these files not be copied."""

    def copy(source, target, real=private_copy.private_copy):
        if source in paths:
            raise OSError(error, os.strerror(error))
        return real(source, target)

    monkeypatch.setattr(ledger, "private_copy", copy)


def test_an_unreadable_private_copy_does_not_hide_the_trainers_file(room, monkeypatch):
    """final.pt cannot be read now: it stays where it is, and last.pt is entered."""
    final = room.save(checkpoint(9), room.dir.attempt(1).final)
    refused(monkeypatch, final)
    kept = room.saved(9)
    assert (kept.epoch, kept.fault) == (9, "unreadable")
    assert "Permission denied" in kept.reason
    assert final.exists()


def test_an_order_looks_at_no_other_attempts_private_copy(room, monkeypatch):
    """What attempt 1 left, good or bad, costs the copies of attempt 2 nothing; it is entered when a new line begins."""
    old = room.save(checkpoint(9), room.dir.attempt(1).final)
    room.begin(2)
    room.begin(3)
    bad = room.save(checkpoint(9), room.dir.attempt(2).final)
    refused(monkeypatch, bad)
    assert room.saved(7).reason == ""
    assert old.exists()
    assert ["Permission denied" in one for one in ledger.enter_finals(room.dir, room.job, NOW)] == [True]
    assert [(entry.epoch, entry.attempt, entry.run) for entry in room.ledger.entries] == [
        (7, 3, "truck@1"), (10, 1, "truck@1"),
    ]  # fmt: skip
    assert (old.exists(), bad.exists()) == (False, True)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_a_disk_in_trouble_is_told(room, monkeypatch, error):
    """The trainer's next save has an order of its own: this one is answered, and the fault is the disk's."""
    refused(monkeypatch, room.last, error=error)
    kept = room.saved(1)
    assert (kept.file, kept.fault, os.strerror(error) in kept.reason) == ("", "disk", True)


def test_the_last_save_waits_for_room(room, monkeypatch):
    """final.pt does not come again: on a full disk the order is tried again until there is room."""
    refused(monkeypatch, room.save(checkpoint(9), room.dir.attempt(1).final), error=errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        room.saved(9)


# ---- files that are being written
def test_an_unrecorded_save_must_be_quiet_first(room):
    """Without heartbeats a file is left alone until it was not written for two seconds."""
    room.dir.attempt(1).beats.unlink()
    room.save(checkpoint(0))
    room.now += 0.5
    with pytest.raises(RetryableError) as waits:
        room.keep()
    assert waits.value.after_s == pytest.approx(1.5, abs=0.01)
    assert room.copies == []
    room.now += 1.5
    assert room.keep().epoch == 1


@contextlib.contextmanager
def writer(path, *parts):
    """A thread that writes the parts into a file in place, over and over."""
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for data in parts:
                with path.open("r+b") as file:
                    file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_file_that_is_written_meanwhile_is_no_copy(room):
    """Rewritten while it is copied: the order is tried again later, and nothing is left of it."""
    room.saved(1)
    data = checkpoint(1, padding=64 * 1024 * 1024)
    room.save(data)
    with writer(room.last, data[:4096]), pytest.raises(RetryableError, match="written while it was copied"):
        room.keep()
    assert room.copies == ["epoch1-attempt1.pt"]


def test_a_hot_writer_never_gets_a_torn_copy_in(room):
    """In-place rewriting without a pause: whatever is entered is whole, and each is one of the two files written."""
    parts = [checkpoint(epoch, padding=2_000_000, numbers=(float(epoch),)) for epoch in (3, 4)]
    whole = {hashlib.sha256(data).hexdigest() for data in parts}
    room.save(parts[0])
    with writer(room.last, *parts):
        for _ in range(25):
            with contextlib.suppress(RetryableError):
                room.keep()
    for entry in room.ledger.entries:
        assert entry.sha256 in whole
        assert ledger.verify_entry(room.dir, entry)
    assert not [name for name in room.copies if name.startswith(".")]


def test_a_pipe_in_the_place_of_a_checkpoint_blocks_nothing(room):
    """Something that is no plain file is no checkpoint."""
    os.mkfifo(room.last)
    kept = ledger.enter(room.dir, room.last, "truck@1", 1, TRAIN, NOW)
    assert kept is None


def test_shared_blocks_are_hashed_from_the_copy(room, monkeypatch):
    """Where the file system shares blocks instead of copying, the hash is that of the copy."""

    def clone(reading, writing):
        os.sendfile(writing, reading, 0, os.fstat(reading).st_size)
        return True

    monkeypatch.setattr(private_copy, "_clone", clone)
    monkeypatch.setattr(private_copy, "_transfer", None)
    room.saved(2)
    assert ledger.verify_entry(room.dir, room.ledger.entries[0])


def test_two_writers_at_once_lose_nothing(room):
    """The copies of two threads both stand in the ledger."""
    room.job = replace(TRAIN, checkpoints=Checkpoints(keep_last=50))
    paths = [room.save(checkpoint(epoch), room.dir.weights / f"epoch{epoch}.pt") for epoch in range(8)]

    def enter(mine):
        for path in mine:
            while True:  # as a lane does
                with contextlib.suppress(RetryableError):
                    assert ledger.enter(room.dir, path, "truck@1", 1, room.job, NOW) is not None
                    break

    threads = [threading.Thread(target=enter, args=(paths[place::2],)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.epoch for entry in room.recorded().entries) == list(range(1, 9))


def test_a_copy_that_hangs_holds_nobody_up(room):
    """While one thread copies for a run, another one that wants to is sent away within two seconds, to come again."""
    room.save(checkpoint(0))
    sent_away = []

    def keep():
        with pytest.raises(RetryableError, match="is under way"):
            room.keep()
        sent_away.append(time.monotonic() - began)

    began = time.monotonic()
    with ledger.exclusive(room.dir):
        thread = threading.Thread(target=keep)
        thread.start()
        thread.join(30.0)
    assert sent_away
    assert sent_away[0] < 5.0, "the limit is one second; a busy machine may add some"


def test_two_threads_never_get_a_lock_each(room, monkeypatch):
    """Both want a run directory that nobody used before, at the same moment: one after the other has it."""
    meeting, inside = threading.Barrier(2), threading.Lock()

    class Slow(type(room.dir.root)):
        """A path that lets the other thread run whenever a dictionary looks at it."""

        def __hash__(self):
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(0.2)
            return super().__hash__()

    alone = []

    def work():
        with ledger.exclusive(layout.RunDirectory(Slow(room.dir.root))):
            alone.append(inside.acquire(blocking=False))
            left.wait(0.2)
            inside.release()

    left = threading.Event()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone == [True, True]


# ---- other trainers
def test_a_command_that_does_not_say_its_epoch(tmp_path):
    """A whole PyTorch file without an epoch is entered as a save of unknown epoch; each is one of its own."""
    room = Room(tmp_path, Job(name="x", revision="r", command=("x",), checkpoint_files=("{run_dir}/train/weights/*",)))
    for number in range(3):
        room.save(packed({"net": "y", "step": number}))
        kept = room.keep()
    assert (kept.epoch, kept.file, kept.reason) == (0, "save3-attempt1.pt", "")
    assert [entry.file for entry in usable(room.ledger)] == [f"save{number}-attempt1.pt" for number in (3, 2, 1)]


def test_a_command_with_a_format_of_its_own(tmp_path):
    """Of a file that is not PyTorch's only the emptiness is known; it keeps its suffix."""
    room = Room(tmp_path, Job(name="x", revision="r", command=("x",), checkpoint_files=("{run_dir}/train/weights/*",)))
    path = room.save(b"anything", room.dir.weights / "state.ckpt")
    assert room.keep().file == "save1-attempt1.ckpt"
    room.save(b"", path)
    assert room.keep().file == ""
    assert room.copies == ["save1-attempt1.ckpt"]


def test_the_metric_of_a_family_comes_from_its_table(tmp_path):
    """YOLOv5 stores no metric in last.pt: results.csv has it, also of an older row."""
    room = Room(tmp_path, Job(name="x", revision="r", command=("x",), family="yolov5"))
    room.dir.results.write_text("epoch, train/box_loss, metrics/mAP_0.5:0.95\n0, 0.1, 0.25\n1, 0.1, 0.5\n")
    room.save(checkpoint(0, train_metrics=None, opt={"epochs": 10}))
    room.keep()
    assert room.ledger.entries[0].map50_95 == 0.25


def test_a_new_best_is_said_once(tmp_path):
    """A copy with a higher mAP than all others: that is sent to the backups at once. The same file again is no news."""
    room = Room(tmp_path)
    found = [room.saved(epoch, map50_95=value).best for epoch, value in ((1, 0.2), (2, 0.1), (3, 0.3), (4, 0.3))]
    assert found == [True, False, True, False]
    room.save(checkpoint(4, map50_95=0.9))
    assert room.keep().best
    room.now += 1.0
    assert not room.keep().best
    assert not room.saved(6).best, "no metric, no best"
