"""What `checkpoints NAME` shows of a run with many files: little is read, and nothing twice."""

from __future__ import annotations

import os
import threading

import pytest
from msgspec.structs import replace

from supervisor.core.model import Job, Phase, Progress, Run
from supervisor.effects import checkpoints, listing
from supervisor.layout import run_directory
from tests.torch_files import checkpoint

SURVEY = checkpoints.survey
JOB = Job(name="truck", project="p", revision="r1", train={"epochs": 30})


class Place:
    """A run that saves every epoch under a name of its own, and the looks at its files."""

    def __init__(self, root, monkeypatch):
        self.runs_dir = root
        self.weights = run_directory(root, "p", "truck").weights
        self.weights.mkdir(parents=True)
        self.looks = []
        self.look = SURVEY
        monkeypatch.setattr(checkpoints, "survey", self._survey)

    def _survey(self, paths, *, finite=False):
        if finite:  # the ledger's own
            return SURVEY(paths, finite=True)
        self.looks.append(sorted(path.name for path in paths))
        return self.look(paths)

    def save(self, name, epoch, at_s=1000):
        """A checkpoint; `epoch` None: a torn one."""
        path = self.weights / name
        path.write_bytes(b"torn" if epoch is None else checkpoint(epoch, epochs=30))
        os.utime(path, (at_s, at_s))

    def view(self):
        """State by file name, and what the next start would take."""
        run = Run(
            id="truck@1", job=JOB, phase=Phase.RUNNING, created_at=0, phase_since=0, progress=Progress(saved_epoch=9)
        )
        view = listing.checkpoints_view(run, self.runs_dir, 1.0)
        self.rows = {row["file"].rpartition("/")[2]: row for row in view["checkpoints"]}
        return {name: row["state"] for name, row in self.rows.items()}, view["next_start"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Twelve epochs, each in a file."""
    made = Place(tmp_path, monkeypatch)
    for number in range(12):
        made.save(f"epoch{number}.pt", number)
    made.save("last.pt", 11)
    made.save("best.pt", 4)
    return made


def test_older_files_are_named_and_not_read(place):
    """Looked at are last.pt, best.pt and the five newest epochs; the others are there with their size."""
    states, start = place.view()
    newest = {f"epoch{number}.pt" for number in range(7, 12)}
    assert {name for name, state in states.items() if state == "resumable"} == {"last.pt", "best.pt", *newest}
    assert states["epoch6.pt"] == "not looked at"
    assert (place.rows["epoch6.pt"]["size_bytes"], place.rows["epoch6.pt"]["epoch"]) == (len(checkpoint(6)), None)
    assert (start["kind"], start["epoch"]) == ("resume", 12)


def test_what_did_not_change_is_read_once(place):
    """A second view reads nothing, one after a save only what was written."""
    place.view()
    place.looks.clear()
    place.view()
    place.save("last.pt", 12, at_s=2000)
    place.view()
    assert place.looks == [[], ["last.pt"]]
    assert place.rows["last.pt"]["epoch"] == 13


def test_a_file_that_could_not_be_read_is_looked_at_again(place):
    """Nothing was learned about it."""
    place.look = lambda paths: [replace(one, state="unknown") for one in SURVEY(paths)]
    assert place.view()[0]["last.pt"] == "unknown"
    place.look = SURVEY
    assert place.view()[0]["last.pt"] == "resumable"


def test_older_files_are_read_where_nothing_newer_is_good(place):
    """What is said of the next start is true: a start would look further, too."""
    for name in ("last.pt", "best.pt", *(f"epoch{number}.pt" for number in range(6, 12))):
        place.save(name, None)
    states, start = place.view()
    assert (start["kind"], start["epoch"]) == ("resume", 6)
    assert (states["epoch5.pt"], states["epoch1.pt"]) == ("resumable", "not looked at")


def test_one_look_at_a_time(place):
    """A second caller waits for the first one's answers, and reads nothing itself."""
    reading, go_on = threading.Event(), threading.Event()

    def slow(paths):
        reading.set()
        assert go_on.wait(30)
        return SURVEY(paths)

    place.look = slow
    callers = [threading.Thread(target=place.view) for _ in range(2)]
    for caller in callers:
        caller.start()
    assert reading.wait(30)
    reading.clear()
    assert not reading.wait(0.3)  # the second one would read by now
    go_on.set()
    for caller in callers:
        caller.join()
    assert len([names for names in place.looks if names]) == 1
