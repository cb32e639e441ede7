"""Watching the log of a YOLOv5, v7 or v9 training for where it starts: what is told, and what must never be told."""

from __future__ import annotations

import os

import msgspec
import pytest

from supervisor.core.events import StartConfirmed, WrongStart
from supervisor.core.model import Attempt, Job, Phase, Run
from supervisor.layout import run_directory
from supervisor.sources.course import Course
from supervisor.sources.start_watch import StartWatch
from supervisor.sources.train_log import Follower

FRAME = "      {}/29     1.21G   0.0412   0.0321   0.0123        52       640:  12%|█▏        | 1/8 [00:05<00:00]"


class Room:
    """A resumed attempt of a YOLOv5 run after three epochs, and what follows it."""

    def __init__(self, tmp_path):
        self.directory = run_directory(tmp_path, "default", "truck")
        self.files = self.directory.attempt(2)
        self.files.root.mkdir(parents=True)
        self.checkpoint = str(self.directory.weights / "last.pt")
        self.attempt = Attempt(number=2, token=1, start="resume", from_epoch=3, checkpoint=self.checkpoint)
        self.runs_dir = tmp_path
        self.resuming = f"Resuming training from {self.checkpoint} from epoch 3 to 30 total epochs\n"
        self.folder = f"Logging results to \x1b[1m{self.directory.train}\x1b[0m\nStarting training for 30 epochs...\n"

    def follower(self, family="yolov5", **changes):
        """A daemon that has just begun to look."""
        run = Run(
            id="truck@1",
            job=Job(name="truck", revision="r", family=family, command=("python", "train.py")),
            phase=Phase.RUNNING,
            created_at=0.0,
            phase_since=0.0,
        )
        return Follower(run, msgspec.structs.replace(self.attempt, **changes), self.runs_dir)

    def log(self, text):
        """Let the trainer print something."""
        with self.files.log.open("ab") as file:
            file.write(text.encode())


@pytest.fixture
def room(tmp_path):
    """A room of one's own."""
    return Room(tmp_path)


def starts(events):
    """What was told about the start."""
    return [event for event in events if isinstance(event, StartConfirmed | WrongStart)]


def test_the_right_resume_is_confirmed_once(room):
    """After both lines; the epoch counts from 1, and the course knows it too."""
    follower = room.follower()
    room.log("train: Scanning\r" * 9 + "\n" + room.resuming)
    assert starts(follower.poll(1.0)) == []
    room.log(room.folder)
    [event] = starts(follower.poll(2.0))
    assert (event.from_epoch, event.save_dir, event.attempt) == (3, str(room.directory.train), 2)
    assert follower.course.live.saved_epoch == 3
    room.log(FRAME.format(3) + "\n" + room.folder)
    assert starts(follower.poll(3.0)) == []


def test_v7_is_confirmed_by_its_first_frame(room):
    """Its words name no epoch; its bar does, also while that line has no end yet."""
    follower = room.follower("yolov7")
    room.log(room.resuming.partition(" from epoch")[0] + "\n" + room.folder)
    assert starts(follower.poll(1.0)) == []
    room.log("\r" + FRAME.format(3) + "\r" + FRAME.format(3)[:9])
    [event] = starts(follower.poll(2.0))
    assert event.from_epoch == 3


@pytest.mark.parametrize("wrong", ["epoch", "folder", "fresh", "frame"])
def test_a_wrong_start_is_told_once(room, wrong):
    """Another epoch, another folder, no resume at all; v7 where its first frame shows it."""
    text = {
        "epoch": room.resuming.replace("epoch 3", "epoch 2") + room.folder + FRAME.format(2) + "\n",
        "folder": room.resuming + room.folder.replace("/train\x1b", "/train2\x1b") + FRAME.format(3) + "\n",
        "fresh": room.folder + FRAME.format(0) + "\n",
        "frame": room.resuming.partition(" from epoch")[0] + "\n" + room.folder + FRAME.format(0) + "\n",
    }[wrong]
    follower = room.follower("yolov7" if wrong == "frame" else "yolov9")
    room.log(text)
    [event] = starts(follower.poll(1.0))
    assert isinstance(event, WrongStart)
    room.log(text)
    assert starts(follower.poll(2.0)) == []


def test_a_restarted_daemon_reads_from_the_beginning(room):
    """A line that was written before it came must not look like one that never was."""
    room.log(room.resuming)
    room.log("x" * 99 + "\n" * 9000 + "y" * 400_000 + "\n")
    room.log(room.folder)
    [event] = starts(room.follower().poll(1.0))
    assert isinstance(event, StartConfirmed)


def test_a_log_without_its_beginning_says_nothing(room):
    """Given back to the disk: nobody knows what stood there, so no training is ended for it."""
    room.log("x" * 8192 + "\n" + room.folder)
    with room.files.log.open("r+b") as file:
        text = file.read()[8192:]
        file.truncate(0)
        file.seek(1 << 20)
        file.write(text)
    handle = os.open(room.files.log, os.O_RDONLY)
    sparse = os.lseek(handle, 0, os.SEEK_DATA) > 0
    os.close(handle)
    if not sparse:
        pytest.skip("needs a file system with holes")
    assert starts(room.follower().poll(1.0)) == []


def test_half_a_line_is_no_evidence(room):
    """The folder's name is not cut where a write was."""
    follower = room.follower()
    room.log(room.resuming + room.folder[: room.folder.index("train")])
    assert starts(follower.poll(1.0)) == []
    room.log(room.folder[room.folder.index("train") :])
    [event] = starts(follower.poll(2.0))
    assert isinstance(event, StartConfirmed)


def test_a_fresh_start_is_confirmed_by_its_folder(room):
    """Whatever epoch it shows; in another folder it is wrong."""
    follower = room.follower(start="fresh", from_epoch=0, checkpoint="")
    room.log(room.folder)
    [event] = starts(follower.poll(1.0))
    assert (event.from_epoch, event.save_dir) == (0, str(room.directory.train))
    other = room.follower(start="fresh", from_epoch=0, checkpoint="")
    room.files.log.write_text(room.folder.replace("/train\x1b", "/train2\x1b") + FRAME.format(0) + "\n")
    [event] = starts(other.poll(1.0))
    assert isinstance(event, WrongStart)


def test_what_we_finish_ourselves_is_not_watched(room):
    """No training starts there."""
    course = Course()
    watch = StartWatch(room.directory, msgspec.structs.replace(room.attempt, start="finish"), room.files, course)
    room.log(room.folder)
    watch.poll()
    assert (course.start, course.wrong_start) == (None, "")


def test_a_link_in_the_path_is_the_same_folder(tmp_path):
    """Trainers that resolve their folder say another name for it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    room = Room(tmp_path / "link")
    follower = room.follower()
    room.log((room.resuming + room.folder).replace("/link/", "/real/"))
    [event] = starts(follower.poll(1.0))
    assert isinstance(event, StartConfirmed)
