"""Following trainings: records, logs, tables and checkpoints of every shape, under a virtual clock."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.events import Progressed, SaveSeen, StartConfirmed
from supervisor.core.model import Attempt, Job, Phase, Progress, Run, World
from supervisor.core.plain_text import clean_lines, frames
from supervisor.layout import run_directory
from supervisor.sources.tail import Tail
from supervisor.sources.train_log import Board, ProgressSource
from supervisor.trainers.results_csv import parse_table, read_table
from supervisor.trainers.train_lines import TrainLines


class VirtualClock:
    """Time that passes when the test says so."""

    def __init__(self, now=1_000_000.0):
        self.time = now

    def now(self):
        """See Clock.now."""
        return self.time


class Room:
    """One run, its files, and the source that follows them."""

    def __init__(self, tmp_path, **job):
        self.clock = VirtualClock()
        self.events = []
        self.saves = []
        self.board = Board()
        self.directory = run_directory(tmp_path / "runs", "default", "truck")
        self.attempt = self.directory.attempt(1)
        self.attempt.root.mkdir(parents=True)
        job = job or {"train": {"epochs": 5}}
        self.run = Run(
            id="truck@1",
            job=Job(name="truck", revision="r", **job),
            phase=Phase.RUNNING,
            created_at=0.0,
            phase_since=0.0,
            attempt=Attempt(number=1, token=1, started_at=self.clock.time),
        )
        self.runs_dir = tmp_path / "runs"
        self.restart()

    def restart(self, **changes):
        """Start a new daemon that knows nothing but the world."""
        for name, value in changes.items():
            self.run = Run(**{**{key: getattr(self.run, key) for key in self.run.__struct_fields__}, name: value})
        self.source = ProgressSource(self.events.append, self.world, self.runs_dir, self.clock, self.board)

    def world(self):
        """The world with the one run."""
        return World(live={self.run.id: self.run})

    def beat(self, kind, **fields):
        """Let the runner write a record."""
        record = {"v": 1, "at": self.clock.time, "kind": kind, **fields}
        with self.attempt.beats.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def log(self, data):
        """Let the trainer print something."""
        with self.attempt.log.open("ab") as file:
            file.write(data)

    def table(self, text, name="train/results.csv"):
        """Replace a table, now."""
        self.write(name, text.encode())

    def write(self, name, data):
        """Write a file below the run directory, now."""
        path = self.directory.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (self.clock.time, self.clock.time))

    def poll(self, after_s=0.25):
        """Let time pass and the source look; return what it told. Saves, which have times of their own, go apart."""
        self.clock.time += after_s
        self.source.poll()
        told, self.events[:] = list(self.events), []
        self.saves += [event for event in told if isinstance(event, SaveSeen)]
        return [event for event in told if not isinstance(event, SaveSeen)]

    def saved(self, after_s=0.25):
        """Let time pass; return the saves that were told, as (epoch, path)."""
        self.saves.clear()
        self.poll(after_s)
        return [(event.epoch, event.path) for event in self.saves]

    @property
    def live(self):
        """What the board shows."""
        return self.board.snapshot()["truck@1"]


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


# ---- beats
def test_a_fresh_start_is_confirmed_once(room):
    """`fresh` becomes one StartConfirmed with 0 complete epochs; a daemon that knows it does not repeat it."""
    room.beat("start", pid=1, phase="import")
    assert room.poll() == []
    assert room.live.phase == "import"
    room.beat("fresh", save_dir="/runs/train", epochs=5)
    (event,) = room.poll()
    assert event == StartConfirmed(
        at=room.clock.time,
        origin="train_log",
        run="truck@1",
        attempt=1,
        from_epoch=0,
        save_dir="/runs/train",
    )
    assert room.poll() == []
    room.restart(attempt=Attempt(number=1, token=1, confirmed=True))
    assert room.poll() == []


def test_a_resume_is_confirmed_with_epochs_counted_from_one(room):
    """The checkpoint's epoch 7 (from 0) means 8 complete epochs."""
    room.beat("resumed", from_epoch=7, checkpoint="/last.pt", save_dir="/runs/train")
    confirmed, progressed = room.poll()
    assert confirmed.from_epoch == 8
    assert (progressed.epoch, progressed.saved_epoch) == (8, 8)


def test_progress_at_most_every_ten_seconds(room):
    """40 batches in 20 s are told twice; the board shows every one."""
    told = []
    for batch in range(1, 41):
        room.beat("batch", epoch=0, epochs=5, batch=batch, batches=40, losses={"box_loss": 1 / batch}, images_per_s=8.0)
        told += room.poll(0.5)
        assert (room.live.batch, room.live.images_per_s) == (batch, 8.0)
    assert [event.epoch for event in told] == [1, 1]
    assert told[-1].at - told[0].at == 10.0


def test_a_saved_epoch_is_told_at_once(room):
    """`stop` waits for the next saved epoch: that one is never held back."""
    room.beat("batch", epoch=0, epochs=5, batch=1, batches=1)
    assert len(room.poll()) == 1
    room.beat("epoch", epoch=0, epochs=5, losses={"box_loss": 1.5}, metrics={"metrics/mAP50(B)": 0.25}, epoch_s=12.0)
    assert room.poll() == []
    room.beat("saved", epoch=0, path="/last.pt", best=True)
    (event,) = room.poll()
    assert (event.epoch, event.epochs, event.saved_epoch) == (1, 5, 1)
    assert (event.losses, event.metrics) == ({"box_loss": 1.5}, {"metrics/mAP50(B)": 0.25})
    assert (event.epoch_s, event.eta_s) == (12.0, 48.0)


def test_nothing_is_told_while_nothing_moves(room):
    """A training that hangs is silent, however long it hangs."""
    room.beat("batch", epoch=0, epochs=5, batch=1, batches=9)
    assert len(room.poll()) == 1
    assert [event for _ in range(100) for event in room.poll(10.0)] == []


def test_eta_is_the_median_of_five_epochs_and_the_rest_of_this_one(room):
    """One epoch that took an hour (a pause, a full disk) does not spoil the estimate."""
    for epoch, seconds in enumerate([500.0, 10.0, 11.0, 3600.0, 10.0, 9.0]):
        room.beat("epoch", epoch=epoch, epochs=10, epoch_s=seconds)
    room.beat("batch", epoch=6, epochs=10, batch=3, batches=4)
    room.poll()
    assert room.live.epoch_s == 10.0
    assert room.live.eta_s == pytest.approx(3 * 10.0 + 2.5)
    assert room.live.next_save_s == pytest.approx(2.5)


def test_eta_within_the_first_epoch_comes_from_its_batches(room):
    """After 10 of 40 batches at 1 s each the first epoch is known to take about 40 s."""
    for batch in range(1, 12):
        room.beat("batch", epoch=0, epochs=2, batch=batch, batches=40)
        room.poll(1.0)
    assert room.live.epoch_s == pytest.approx(40.0)
    assert room.live.eta_s == pytest.approx(40.0 + 29.0)


def test_epoch_times_are_measured_where_the_runner_does_not_say(room):
    """Two ends of neighbouring epochs give the time of one."""
    for epoch in range(3):
        room.beat("epoch", epoch=epoch, epochs=5)
        room.poll(20.0)
    assert (room.live.epoch_s, room.live.eta_s) == (20.0, 40.0)


BAD_BEATS = [
    b"\xff\xfe not json",
    b"{",
    b"[]",
    b'{"kind":"batch","at":1,"epoch":-5}',
    b'{"kind":"batch","at":1,"epoch":99999999999}',
    b'{"kind":"batch","at":1,"epoch":"many"}',
    b'{"kind":"saved","at":NaN,"epoch":1}',
    b'{"kind":"invented","at":1,"epoch":3}',
    b'{"kind":"epoch","at":1,"extra":' + b"[" * 20000 + b"]" * 20000 + b"}",
    b'{"kind":"phase","at":1,"phase":"' + b"x" * 100_000 + b'"}',
]


@pytest.mark.parametrize("line", BAD_BEATS, ids=range(len(BAD_BEATS)))
def test_broken_records_are_skipped(room, line):
    """Whatever a job writes into its own records, the next good one is understood."""
    with room.attempt.beats.open("ab") as file:
        file.write(line + b"\n")
    assert room.poll() == []
    room.beat("batch", epoch=2, epochs=5, batch=1, batches=9)
    (event,) = room.poll()
    assert event.epoch == 3


def test_a_record_in_pieces_is_taken_when_its_line_is_whole(room):
    """Half a line is not guessed at."""
    with room.attempt.beats.open("ab", buffering=0) as file:
        file.write(b'{"kind":"batch","at":5,"ep')
        assert room.poll() == []
        file.write(b'och":1,"epochs":5,"batch":1,"batches":2}\n')
        assert room.poll()[0].epoch == 2


def test_values_that_are_no_numbers_are_left_out(room):
    """The journal is JSON: null (the runner's word for NaN) never gets there."""
    room.beat("batch", epoch=0, epochs=5, batch=1, batches=2, losses={"box_loss": None, "cls_loss": 2.0})
    assert room.poll()[0].losses == {"cls_loss": 2.0}


def test_losses_that_are_no_numbers_for_two_epochs_are_told(room):
    """With the first such epoch; one epoch may be a step that overflowed, and a number ends it. A restart forgets nothing."""
    course = []
    for epoch, loss in enumerate([0.5, None, 0.5, None, None, None, 0.4]):
        room.beat("epoch", epoch=epoch, epochs=9, losses={"box_loss": loss, "cls_loss": loss})
        course += [event.diverged_from for event in room.poll(11.0)]
    assert course == [0, 0, 0, 0, 4, 4, 0]
    room.beat("epoch", epoch=7, epochs=9, losses={})
    assert [event.diverged_from for event in room.poll(11.0)] == [0]
    room.restart(diverged_from=8)
    room.attempt.beats.unlink()
    room.beat("epoch", epoch=8, epochs=9, losses={"box_loss": None})
    assert [event.diverged_from for event in room.poll(11.0)] == [8]


def test_a_table_without_numbers_is_told_too(command_room):
    """A command that reports nothing: its results.csv says nan, epoch after epoch."""
    room, told = command_room, []
    for epoch in range(1, 5):
        rows = "".join(f"{one},{one},{'0.5' if one == 1 else 'nan'}\n" for one in range(1, epoch + 1))
        room.table(f"epoch,time,train/box_loss\n{rows}")
        told += [event.diverged_from for event in room.poll(11.0)]
    assert told[-1] == 2


def test_a_restarted_daemon_tells_only_the_newest_state(room):
    """50 epochs of records are read at once and told once; nothing is told if the training stood still."""
    room.beat("fresh", save_dir="/t", epochs=100)
    for epoch in range(50):
        for batch in range(20):
            room.beat("batch", epoch=epoch, epochs=100, batch=batch, batches=20)
        room.beat("epoch", epoch=epoch, epochs=100, epoch_s=10.0)
        room.beat("saved", epoch=epoch, path="/last.pt")
    told = room.poll()
    assert [type(event) for event in told] == [StartConfirmed, Progressed]
    assert (told[1].epoch, told[1].saved_epoch, told[1].eta_s) == (50, 50, 500.0)
    attempt = Attempt(number=1, token=1, confirmed=True)
    room.restart(attempt=attempt, progress=Progress(epoch=50, epochs=100, saved_epoch=50))
    assert room.poll() == []
    room.restart(attempt=attempt, progress=Progress(epoch=49, epochs=100, saved_epoch=49))
    assert [event.saved_epoch for event in room.poll()] == [50]


def test_a_huge_file_of_records_is_read_from_its_ends(room):
    """Days of records: the confirmed start and the last saved epoch are found, quickly and whatever lies between."""
    filler = json.dumps({"v": 1, "at": 5.0, "kind": "batch", "epoch": 7, "epochs": 9, "batch": 1, "batches": 2}) + "\n"
    room.beat("resumed", from_epoch=4, save_dir="/t")
    with room.attempt.beats.open("a") as file:
        file.write(filler * 60_000)
    room.beat("saved", epoch=6, path="/last.pt")
    with room.attempt.beats.open("a") as file:
        file.write(filler * 20_000)
    room.beat("batch", epoch=7, epochs=9, batch=2, batches=2)
    confirmed, progressed = room.poll()
    assert confirmed.from_epoch == 5
    assert (progressed.epoch, progressed.saved_epoch) == (8, 7)
    assert (room.live.batch, room.live.batches) == (2, 2)


def test_runs_that_are_not_alive_are_not_followed(room):
    """A run that cools down leaves the board; its next attempt begins anew with its own files."""
    room.beat("batch", epoch=0, epochs=5, batch=1, batches=9)
    room.poll()
    room.run = Run(id="truck@1", job=room.run.job, phase=Phase.COOLING, created_at=0.0, phase_since=0.0)
    assert room.poll() == []
    assert room.board.snapshot() == {}


# ---- saves
def test_each_save_is_told_once(room):
    """One event for a save, with its epoch from 1; none for what was told, and none for a resume."""
    room.beat("resumed", from_epoch=2, checkpoint="/last.pt", save_dir="/runs/train")
    assert room.saved() == []
    room.beat("saved", epoch=3, path="/last.pt", best=True)
    room.poll()
    assert room.saves == [SaveSeen(at=room.clock.time, origin="train_log", run="truck@1", attempt=1, epoch=4)]
    assert room.saved(20.0) == []


def test_fast_saves_are_told_every_two_seconds(room):
    """Four epochs a second for 6 s: the first at once, then the newest of each two seconds, none of them lost for good."""
    told = []
    for epoch in range(24):
        room.beat("saved", epoch=epoch, path="/last.pt")
        told += room.saved(0.25)
    assert told == [(1, ""), (9, ""), (17, "")]
    assert room.saved(1.5) == [(24, "")]
    assert room.saved(60.0) == []


def test_a_kept_copy_and_the_last_epoch_do_not_wait(room):
    """A private copy of the runner is told at once with its path, and the save of the last epoch too."""
    room.beat("fresh", save_dir="/runs/train", epochs=5)
    room.beat("saved", epoch=1, path="/last.pt")
    assert room.saved() == [(2, "")]
    room.beat("saved", epoch=2, path="/last.pt")
    room.beat("saved", epoch=3, path="/last.pt", kept="/runs/attempts/1/final.pt")
    assert room.saved() == [(4, "/runs/attempts/1/final.pt")]
    room.beat("saved", epoch=4, path="/last.pt")
    assert room.saved() == [(5, "")]
    assert room.saved(60.0) == []


def test_a_restarted_daemon_tells_the_newest_save_once(room):
    """Nobody knows whether it was copied before the old daemon died."""
    for epoch in range(3):
        room.beat("saved", epoch=epoch, path="/last.pt")
        room.saved(10.0)
    room.restart()
    assert room.saved() == [(3, "")]
    assert room.saved(60.0) == []


def test_the_save_of_a_command_is_told_after_its_quiet_time(tmp_path):
    """Without records: when the file was left alone for two seconds; also where nobody says which epoch it holds."""
    room = Room(tmp_path, command=("x",), checkpoint_files=("{run_dir}/out/*.pt",))
    assert room.saved(5.0) == []
    room.write("out/last.pt", b"new")
    assert room.saved(2.5) == []
    assert room.saved(2.5) == [(0, "")]
    assert room.saved(60.0) == []
    room.write("out/last.pt", b"newer")
    assert room.saved(0.5) + room.saved(2.5) == [(0, "")]
    room.restart(progress=Progress(saved_epoch=4, epoch=4))
    assert room.saved() == [(4, "")]


def test_a_hooked_command_tells_each_save_once(tmp_path):
    """The hook's record tells the save; the file that changed with it is the same one."""
    room = Room(tmp_path, command=("x",), checkpoint_files=("{run_dir}/out/*.pt",))
    room.poll(5.0)
    room.write("out/last.pt", b"new")
    room.beat("saved", epoch=0, path="/last.pt")
    assert room.saved(2.5) == [(1, "")]
    assert [room.saved(5.0) for _ in range(5)] == [[]] * 5


# ---- command jobs
V5_HEADER = b"      Epoch    GPU_mem   box_loss   obj_loss   cls_loss  Instances       Size\n"


def v5_frame(epoch, last, percent, batch, batches):
    return (
        f"\r       {epoch}/{last}         0G     0.1071    0.03427        nan        103        640: "
        f"{percent:3}%|#####     | {batch}/{batches} [00:03<00:03,  1.22it/s]"
    ).encode()


def new_frame(epoch, epochs, percent, batch, batches):
    return (
        f"\r\x1b[K      {epoch}/{epochs}       1.5G        1.1        2.2        nan         16         64: "
        f"{percent}% ━━━━━━━━━─── {batch}/{batches} 2.5it/s 0.1s<1.2s"
    ).encode()


@pytest.fixture
def command_room(tmp_path):
    return Room(tmp_path, command=("train",), checkpoint_files=("{run_dir}/out/weights/last.pt",))


def test_yolov5_log_counts_from_zero(command_room):
    """`0/299` is the first epoch of 300, losses are named by the header, and NaN is left out."""
    command_room.log(b"Starting training for 300 epochs...\n\n" + V5_HEADER + v5_frame(0, 299, 50, 4, 8))
    (event,) = command_room.poll()
    assert (event.epoch, event.epochs) == (1, 300)
    assert event.losses == {"box_loss": 0.1071, "obj_loss": 0.03427}
    assert (command_room.live.batch, command_room.live.batches) == (4, 8)


def test_yolov5_resumed_log_counts_from_zero(command_room):
    """A resumed log never shows epoch 0: the announced total tells that `6/9` is the seventh of ten."""
    command_room.log(b"Resuming training from runs/exp/last.pt from epoch 6 to 10 total epochs\n")
    command_room.log(v5_frame(6, 9, 50, 4, 8))
    assert command_room.poll()[0].epoch == 7


def test_ultralytics_log_counts_from_one(command_room):
    """`1/3` is the first epoch of 3, in the new progress bar's format with its cursor codes."""
    command_room.log(b"\x1b[34m\x1b[1mStarting training for 3 epochs...\x1b[0m\n" + new_frame(1, 3, 25, 1, 4))
    assert command_room.poll()[0].epoch == 1
    command_room.log(new_frame(2, 3, 100, 4, 4) + b"\n")
    command_room.poll(10.0)
    assert (command_room.live.epoch, command_room.live.batch, command_room.live.phase) == (2, 4, "train")


def test_a_late_reader_of_a_long_log_knows_the_total_from_its_head(command_room):
    """The daemon comes back to a log of megabytes: only head and end are read."""
    command_room.log(b"Starting training for 10 epochs...\n" + V5_HEADER + b"x" * 100 + b"\n")
    command_room.log(b"noise\n" * 200_000 + v5_frame(6, 9, 50, 4, 8))
    assert command_room.poll()[0].epoch == 7
    assert command_room.live.losses == {"box_loss": 0.1071, "obj_loss": 0.03427}


def test_table_and_checkpoint_of_a_command(command_room):
    """results.csv gives the epoch; the checkpoint counts as saved once it was quiet for 2 s, as the known epoch."""
    command_room.write("out/weights/last.pt", b"from an earlier attempt")
    command_room.log(b"Starting training for 10 epochs...\n" + v5_frame(3, 9, 100, 8, 8) + b"\n")
    assert command_room.poll()[0].saved_epoch == 0
    command_room.table("     epoch,  train/box_loss, metrics/mAP_0.5\n 0, 0.5, 0.1\n 3, 0.2, 0.3\n", "out/results.csv")
    command_room.clock.time += 1
    command_room.write("out/weights/last.pt", b"half")
    told = command_room.poll()
    command_room.clock.time += 1
    command_room.write("out/weights/last.pt", b"whole")
    command_room.log(v5_frame(4, 9, 12, 1, 8))
    told += command_room.poll(0.5) + command_room.poll(1.0)
    assert not any(event.saved_epoch for event in told)
    told = command_room.poll(1.0) + command_room.poll(1.0)
    assert [(event.epoch, event.saved_epoch) for event in told] == [(5, 4)]
    assert told[0].metrics == {"metrics/mAP_0.5": 0.3}


def test_without_a_table_the_log_tells_which_epoch_was_saved(command_room):
    """A checkpoint written after epoch 4's last batch holds epoch 4, though epoch 5 is on the screen by now."""
    command_room.log(b"Starting training for 10 epochs...\n" + v5_frame(3, 9, 100, 8, 8))
    command_room.poll(5.0)
    command_room.write("out/weights/last.pt", b"new")
    command_room.log(v5_frame(4, 9, 12, 1, 8))
    told = command_room.poll(2.5) + command_room.poll(2.5)
    assert told[-1].saved_epoch == 4


def test_tables_of_earlier_trainings_are_left_alone(command_room):
    """A table that was not touched since the attempt began says nothing about it."""
    command_room.clock.time -= 1000
    command_room.table("epoch,train/box_loss\n9,0.5\n", "out/results.csv")
    command_room.clock.time += 1000
    assert command_room.poll() == []


def test_a_log_that_cannot_be_read_harms_no_other_run(command_room, caplog):
    """What is broken is said once, and the records are still followed afterwards."""
    command_room.attempt.beats.mkdir()
    command_room.attempt.beats.rmdir()
    command_room.attempt.log.symlink_to(command_room.attempt.log)
    assert command_room.poll() + command_room.poll() == []
    assert len([record for record in caplog.records if "cannot follow" in record.message]) == 1
    command_room.attempt.log.unlink()
    command_room.log(v5_frame(0, 9, 50, 4, 8))
    assert command_room.poll()[0].epoch == 1


class BrokenFollower:
    """A follower with a bug."""

    run_id, attempt, broken = "other@1", 1, ""

    def poll(self, now):
        """Fail as only a bug fails."""
        raise ZeroDivisionError


def test_a_bug_in_following_one_run_harms_no_other_run(room, caplog):
    """It is said once, and every other training is still followed."""
    room.poll()
    room.beat("batch", epoch=2, epochs=5, batch=1, batches=9)
    broken = BrokenFollower()
    room.source._followers = {("other@1", 1): broken, **room.source._followers}
    room.source._follow = lambda world: None
    assert [event.epoch for event in room.poll()] == [3]
    room.poll()
    assert len([record for record in caplog.records if "a bug" in record.message]) == 1


@pytest.mark.parametrize(
    ("text", "epochs", "newest"),
    [
        ("epoch,time,train/box_loss\n1,2.5,3\n2,5,2\n", [1, 2], 2),
        ("                  epoch,      train/box_loss\n                      0,    0.1\n  1, 0.2\n", [1, 2], 2),
        ("                  epoch,      train/box_loss\n                      1,    0.1\n  2, 0.2\n", [1, 2], 2),
        ("epoch,train/box_loss\n1,1\n2,2\n3,3\n2,22\n", [1, 2, 3], 2),
        ("epoch,train/box_loss\n1,1\n2,2", [1], 1),
        ("epoch,train/box_loss\n1,1\n2\n\n,\nx,y\n", [1], 1),
        ("epoch,train/box_loss\n1,nan\n2,inf\n", [1, 2], 2),
        ("nonsense\n1\n", [], None),
        ("", [], None),
    ],
)
def test_tables_of_all_families(text, epochs, newest):
    """Padded or plain, from 0 or from 1, repeated, cut and broken rows: epochs come out counted from 1."""
    table = parse_table(text.encode())
    assert sorted(table.rows) == epochs
    assert (table.newest.epoch if table.newest else None) == newest


def test_of_repeated_epochs_the_last_row_counts():
    """After a resume an epoch is trained again: the first try's numbers are history."""
    table = parse_table(b"epoch,time,train/box_loss,metrics/mAP\n1,1,1,0.1\n2,9,5,0.2\n2,4,7,0.3\n")
    assert table.rows[2].losses == {"box_loss": 7.0}
    assert table.rows[2].metrics == {"metrics/mAP": 0.3}
    assert table.epoch_s == 3.0


def test_a_huge_table_is_read_from_its_ends(tmp_path):
    """200,000 epochs are no reason to read 20 MB once per epoch, and the base of counting is still known."""
    rows = "".join(f"{epoch},0.123456789,0.123456789\n" for epoch in range(200_000))
    (tmp_path / "results.csv").write_text("epoch,train/box_loss,metrics/mAP\n" + rows)
    table = read_table(tmp_path / "results.csv")
    assert table.newest.epoch == 200_000
    assert table.zero_based


# ---- bytes
@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"10%\r50%\r100%\ndone\n", ["100%", "done"]),
        (b"\r\x1b[K10%\r\x1b[K50%", ["50%"]),
        (b"50%\r\n", ["50%"]),
        (b"\x1b[34m\x1b[1mblue\x1b[0m\x07\n", ["blue"]),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", ["link"]),
        (b"caf\xc3\xa9 \xff\n", ["café \ufffd"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"", []),
        (b"\x00\x00x\n", ["x"]),
    ],
)
def test_clean_lines_show_what_a_terminal_would(data, lines):
    """Colours go, frames collapse to the last one, bytes that are no text are marked, nothing raises."""
    assert clean_lines(data) == lines


@given(st.binary(max_size=300))
def test_clean_lines_never_contain_control_characters(data):
    """Any bytes give text without control characters but tabs."""
    for text in clean_lines(data) + frames(data):
        assert all(character >= " " or character == "\t" for character in text)
        assert "\x1b" not in text


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_a_tail_gives_every_byte_once(tmp_path_factory, pieces):
    """However a file is written, the lines and the rest together are the file (without the zeros before a line)."""
    path = tmp_path_factory.mktemp("tail") / "log"
    tail = Tail(path)
    got = b""
    with path.open("ab", buffering=0) as file:
        for piece in pieces:
            file.write(piece.replace(b"\0", b"0"))
            got += tail.read()
    assert got + tail.rest == b"".join(pieces).replace(b"\0", b"0")


def test_a_tail_begins_anew_after_truncation_and_rotation(tmp_path):
    """`copytruncate` and `rename` both lead to the new content, from its start."""
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.read() == b""
    path.write_bytes(b"one\ntwo\n")
    assert tail.read() == b"one\ntwo\n"
    path.write_bytes(b"three\n")
    assert tail.read() == b"three\n"
    path.rename(tmp_path / "log.1")
    assert tail.read() == b""
    path.write_bytes(b"four, which is longer\n")
    assert tail.read() == b"four, which is longer\n"


def test_a_tail_skips_the_hole_at_the_head(tmp_path):
    """A log whose head was given back to the disk is read from where its data begin."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.seek(50 * 1024 * 1024 + 100)
        file.write(b"after the hole\n")
    assert Tail(path).read() == b"after the hole\n"


def test_a_tail_far_behind_goes_on_near_the_end(tmp_path):
    """A job that prints megabytes between two looks costs no more than the newest part, whole lines only."""
    path = tmp_path / "log"
    path.write_bytes(b"0123456789\n" * 1000)
    tail = Tail(path, newest_bytes=100)
    assert tail.read() == b"0123456789\n" * 9


def test_a_progress_bar_that_never_ends_its_line_costs_no_memory(tmp_path):
    """An hour of frames in one line is kept as its newest frames."""
    path = tmp_path / "log"
    tail = Tail(path)
    with path.open("ab", buffering=0) as file:
        for number in range(2000):
            file.write(b"\rframe %d of very many frames of one epoch" % number)
            tail.read()
    assert len(tail.rest) < 5000
    assert frames(tail.rest)[-1] == "frame 1999 of very many frames of one epoch"


def test_an_endless_line_does_not_stall_the_reader():
    """A line made to be slow for pattern matching is passed over."""
    assert TrainLines().newest_frame(["1/2 0G " + ": 1%" * 100_000]) is None
