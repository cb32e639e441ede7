"""Where attempts start, with real files: rewinds, extensions, branches, copies from the ledger. Nothing is ever lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor import layout
from supervisor.core.actions import Prepare
from supervisor.core.checkpoints import GOES_ON, Candidate, Checkpoint, choose
from supervisor.core.job import Checkpoints, StartFrom
from supervisor.core.ledger import usable
from supervisor.core.model import Goal, Job
from supervisor.effects import checkpoints, ledger, start_point, survey
from supervisor.effects.prepare import Preparer
from supervisor.effects.private_copy import NoRoomError
from supervisor.errors import RetryableError
from tests.torch_files import ZEROS, checkpoint
from tests.toy_trainer import Checkpoint as Toy

JOB = Job(name="truck", project="p", revision="r1", train={"epochs": 8}, checkpoints=Checkpoints(keep_epochs="all"))
NAN = (*ZEROS, float("nan"))
HEADER = "epoch,time,train/box_loss\n"


class Place:
    """The folder of one run, and what is asked of it."""

    def __init__(self, root: Path, job: Job = JOB) -> None:
        self.runs_dir, self.job = root / "runs", job
        self.dir = layout.run_directory(self.runs_dir, job.project, job.name)
        self.weights, self.last, self.best = (
            self.dir.weights,
            self.dir.weights / "last.pt",
            self.dir.weights / "best.pt",
        )
        self.token = 6
        self.weights.mkdir(parents=True)

    def save(self, name: str, epochs_done: int, **more: object) -> Path:
        """A checkpoint after so many epochs."""
        path = self.weights / name
        path.write_bytes(checkpoint(epochs_done - 1, **{"epochs": 8, **more}))
        return path

    def trained(self, epochs_done: int, *, run: str = "truck@1", attempt: int = 1, **more: object) -> None:
        """Epochs that were saved one after the other, each kept in the ledger; best.pt is of the third one."""
        rows = [f"{epoch},1,0.5\n" for epoch in range(1, epochs_done + 1)]
        for epoch in range(1, epochs_done + 1):
            self.save("last.pt", epoch, map50_95=0.1 * min(epoch, 6 - epoch), **more)
            os.utime(self.last, (1000 + epoch, 1000 + epoch))
            ledger.enter(self.dir, self.last, run, attempt, self.job, 1000.0 + epoch)
        self.best.write_bytes(checkpoint(min(3, epochs_done) - 1, epochs=8))
        self.dir.results.write_text(HEADER + "".join(rows))

    def finish(self) -> None:
        """The trainer's own end."""
        for path in (self.last, self.best):
            path.write_bytes(checkpoint(stripped=True, epochs=8))

    def prepare(self, *, attempt: int = 2, run: str = "truck@1", **fields: object):
        """What the preparation of an attempt answers; each has a new token."""
        self.token += 1
        preparer = Preparer(self.runs_dir, 0, lambda _revision: b"# job\n", lambda: 1000.0)
        facts = {"key": "k", "run": run, "attempt": attempt, "token": self.token, "job": self.job}
        (event,) = preparer(Prepare(**{**facts, "scratch_allowed": False, **fields}))
        return event

    def aside(self, attempt: int = 2) -> list[str]:
        """What was put aside for an attempt."""
        folder = self.dir.attempt(attempt).aside
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def copies(self) -> dict[tuple[int, int], Path]:
        """The ledger: (line, epoch) → file."""
        entries = ledger.read(self.dir).entries
        return {(entry.line, entry.epoch): ledger.path_of(self.dir, entry) for entry in entries}

    def epochs_in_table(self) -> list[int]:
        """The first column of results.csv."""
        return [int(line.partition(",")[0]) for line in self.dir.results.read_text().splitlines()[1:]]

    def all_bytes(self) -> set[bytes]:
        """The content of every checkpoint anywhere below the run."""
        return {path.read_bytes() for path in self.dir.root.rglob("*.pt*")}


@pytest.fixture
def place(tmp_path):
    """An empty run."""
    return Place(tmp_path)


# ---- what is resumed in place
def test_what_is_resumed_in_place_is_in_the_ledger_first(place):
    """No copy of last.pt was made (adopted, or a crash right after the save): the next save, torn, does not cost it."""
    data = place.save("last.pt", 5).read_bytes()
    event = place.prepare()
    assert (event.start, event.from_epoch, event.kept_epoch, event.notes) == ("resume", 5, 5, ())
    assert place.copies()[(1, 5)].read_bytes() == data
    place.last.write_bytes(data[:1000])
    event = place.prepare(attempt=3)
    assert (event.start, event.from_epoch) == ("resume", 5)
    assert place.last.read_bytes() == data


def test_what_is_finished_in_place_is_in_the_ledger_first(place):
    """The trainer's own end strips last.pt: only the copy can be extended later."""
    data = place.save("last.pt", 8).read_bytes()
    assert place.prepare().start == "finish"
    assert place.copies()[(1, 8)].read_bytes() == data


def test_an_epoch_that_is_in_the_ledger_is_not_copied_again(place):
    """A file of an epoch that the line has a copy of costs nothing, and replaces none that tells more."""
    place.trained(3)
    before = place.copies()[(1, 3)].read_bytes()
    place.save("last.pt", 3)
    assert place.prepare().from_epoch == 3
    assert place.copies()[(1, 3)].read_bytes() == before


@pytest.mark.parametrize("error", [NoRoomError("full"), OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "full")])
@pytest.mark.parametrize("stood", [None, 2])
def test_a_start_never_waits_for_room_for_a_copy(place, monkeypatch, error, stood):
    """Without room in the ledger the training goes on from where it is, and what it lacks is said."""

    def full(source, _target):
        raise error

    monkeypatch.setattr(ledger, "private_copy", full)
    place.save("last.pt", stood or 5)
    if stood is not None:
        place.save("epoch4.pt", 5)
    event = place.prepare()
    assert (event.start, event.from_epoch, event.kept_epoch) == ("resume", 5, 0)
    assert "could not be entered in the ledger" in event.notes[0]


def test_a_new_line_never_writes_over_the_old_ones_copy(place):
    """Nobody had entered epoch 5 before the rewind; the rewound attempt gets to its own epoch 5: both are kept."""
    place.save("epoch1.pt", 2)
    old = place.save("last.pt", 5).read_bytes()
    place.prepare(run="truck@2", goal=REWIND)
    place.save("last.pt", 5, map50_95=0.9)
    ledger.enter(place.dir, place.last, "truck@2", 2, place.job, 5000.0)
    assert place.copies()[(1, 5)].read_bytes() == old
    assert (2, 5) in place.copies()


# ---- copies from the ledger
@pytest.mark.parametrize("bad", [b"", b"torn", checkpoint(5, numbers=NAN)], ids=["empty", "torn", "poisoned"])
def test_a_bad_last_checkpoint_is_replaced_by_the_newest_copy(place, bad):
    """Torn or poisoned, last.pt is kept for study; a copy takes its place and stays in the ledger; best.pt is older."""
    place.trained(6)
    place.last.write_bytes(bad)
    event = place.prepare()
    assert (event.start, event.from_epoch, event.checkpoint) == ("resume", 6, str(place.last))
    assert place.last.read_bytes() == place.copies()[(1, 6)].read_bytes()
    assert (place.dir.attempt(2).aside / "last.pt").read_bytes() == bad
    assert event.kept_epoch == 6


def test_a_rotten_copy_is_passed_over(place):
    """The newest copy lost a byte on the disk: the one before it is taken, and the message says why."""
    place.trained(4)
    place.last.unlink()
    rotten = place.copies()[(1, 4)]
    data = bytearray(rotten.read_bytes())
    data[data.index(bytes(60))] ^= 1
    rotten.write_bytes(data)
    event = place.prepare()
    assert (event.start, event.from_epoch) == ("resume", 3)
    assert any("epoch4" in note and "torn" in note for note in event.notes)


def test_a_ledger_of_many_copies_is_not_read_whole(place, monkeypatch):
    """With a good last.pt no copy is looked at; without one only the newest few."""
    place.trained(8)
    looked = []
    look = checkpoints.look
    monkeypatch.setattr(checkpoints, "look", lambda paths, **more: looked.extend(paths) or look(paths, **more))
    place.save("last.pt", 8, epochs=9)
    assert place.prepare().from_epoch == 8
    assert not [path for path in looked if path.parent == place.dir.good]
    place.last.write_bytes(b"")
    looked.clear()
    assert place.prepare(attempt=3).from_epoch == 8
    assert len({path for path in looked if path.parent == place.dir.good}) <= 3


def test_a_start_from_the_beginning_never_passes_over_a_copy(place):
    """last.pt is gone and nothing was ever told of an epoch: the copy in the ledger counts all the same."""
    place.trained(1)
    place.last.unlink()
    place.best.unlink()
    event = place.prepare(scratch_allowed=True)
    assert (event.start, event.from_epoch) == ("resume", 1)
    for path in place.copies().values():
        path.write_bytes(path.read_bytes()[:-30] + bytes(30))
    place.last.unlink()
    assert place.prepare(attempt=3, scratch_allowed=True).start == "refused"


def test_the_runners_copy_of_the_last_save_counts(place):
    """Killed while it stripped: last.pt is torn, and the epoch that nobody has entered yet is in final.pt."""
    place.trained(7)
    place.last.write_bytes(b"torn")
    final = place.dir.attempt(1).final
    final.parent.mkdir(parents=True)
    data = checkpoint(7, epochs=8)
    final.write_bytes(data)
    event = place.prepare()
    assert (event.start, event.from_epoch) == ("finish", 8)
    assert place.last.read_bytes() == data
    assert place.copies()[(1, 8)].read_bytes() == data
    assert not final.exists()


def test_an_older_last_checkpoint_is_kept_when_a_newer_one_replaces_it(place):
    """Both are good: the older one is entered in the ledger before the newer one takes its place."""
    older = place.save("last.pt", 2).read_bytes()
    place.save("epoch4.pt", 5)
    assert place.prepare().from_epoch == 5
    assert place.copies()[(1, 2)].read_bytes() == older


def test_a_command_never_writes_over_a_copy(tmp_path):
    """Another trainer resumes from a path: it gets a file at its own place, not the ledger's."""
    job = Job(name="truck", project="p", revision="r", command=("x",), resume_command=("x", "{checkpoint}"),
        checkpoint_files=("{run_dir}/train/weights/last.pt",))  # fmt: skip
    place = Place(tmp_path, job)
    place.save("last.pt", 4)
    ledger.enter(place.dir, place.last, "truck@1", 1, job, 1.0)
    place.last.write_bytes(b"torn")
    event = place.prepare()
    assert (event.start, event.from_epoch, event.checkpoint) == ("resume", 4, str(place.last))
    assert place.aside() == ["last.pt"]


def test_loggers_files_are_never_touched(place):
    """Wandb finds its run by its folder, TensorBoard by its files: a fall-back and a rewind leave both as they are."""
    place.trained(5)
    (place.dir.train / "wandb" / "run-1-x").mkdir(parents=True)
    (place.dir.train / "events.out.tfevents.1").write_bytes(b"x")
    place.last.write_bytes(b"")
    place.prepare()
    place.prepare(attempt=3, run="truck@2", goal=Goal(kind="rewind", epoch=2))
    assert (place.dir.train / "wandb" / "run-1-x").is_dir()
    assert (place.dir.train / "events.out.tfevents.1").read_bytes() == b"x"


# ---- rewind
REWIND = Goal(kind="rewind", epoch=2)


def test_rewind_goes_on_after_just_that_epoch(place):
    """last.pt is the copy of epoch 2, the table ends there, what came later is in the ledger and aside, on a new line."""
    place.trained(5)
    place.save("epoch1.pt", 2)
    place.save("epoch3.pt", 4)
    newest = place.last.read_bytes()
    event = place.prepare(run="truck@2", goal=REWIND)
    assert (event.start, event.from_epoch, event.checkpoint) == ("resume", 2, str(place.last))
    assert place.last.read_bytes() in {place.copies()[(1, 2)].read_bytes(), (place.weights / "epoch1.pt").read_bytes()}
    assert place.epochs_in_table() == [1, 2]
    assert place.aside() == ["best.pt", "epoch3.pt", "last.pt", "results.csv"]
    assert place.copies()[(1, 5)].read_bytes() == newest
    [line] = ledger.read(place.dir).lines
    assert (line.parent, line.from_epoch, line.run) == (1, 2, "truck@2")
    assert event.kept_epoch == 2
    [best] = checkpoints.look([place.best])
    assert (best.state, best.done_epochs) == ("resumable", 2)


def test_after_a_rewind_the_old_line_is_not_taken_again(place):
    """Two attempts later, with a torn last.pt: the new line's newest copy, not the old line's fifth epoch."""
    place.trained(5)
    place.prepare(run="truck@2", goal=REWIND)
    place.save("last.pt", 3, map50_95=0.9)
    ledger.enter(place.dir, place.last, "truck@2", 2, place.job, 5000.0)
    place.last.write_bytes(b"torn")
    event = place.prepare(attempt=3, run="truck@2", goal=REWIND)
    assert (event.start, event.from_epoch) == ("resume", 3)
    assert place.last.read_bytes() == place.copies()[(2, 3)].read_bytes()
    assert len(ledger.read(place.dir).lines) == 1


def test_a_rewound_run_can_return_to_the_old_line(place):
    """Rewound to 2 and trained to 3, a person wants epoch 5 of the old line after all: it is still there."""
    place.trained(5)
    place.prepare(run="truck@2", goal=REWIND)
    event = place.prepare(attempt=3, run="truck@3", goal=Goal(kind="rewind", epoch=5))
    assert (event.start, event.from_epoch) == ("resume", 5)
    assert [(line.parent, line.from_epoch) for line in ledger.read(place.dir).lines] == [(1, 2), (1, 5)]
    assert usable(ledger.read(place.dir))[0].epoch == 5


def test_the_default_policy_lets_a_person_return_to_the_old_line(place):
    """With keep_last = 3 the new line's saves push no copy of the old line's end out."""
    place.job = replace(JOB, checkpoints=Checkpoints())
    place.trained(5)
    place.prepare(run="truck@2", goal=Goal(kind="rewind", epoch=3))
    place.save("last.pt", 4, map50_95=0.9)
    ledger.enter(place.dir, place.last, "truck@2", 2, place.job, 5000.0)
    event = place.prepare(attempt=3, run="truck@3", goal=Goal(kind="rewind", epoch=5))
    assert (event.start, event.from_epoch) == ("resume", 5)


def test_a_rewind_takes_what_runners_left_into_the_old_line(place):
    """final.pt of an older attempt is entered before a line begins, or it would be that line's newest; bad ones are told."""
    place.trained(3)
    for attempt, data in ((1, checkpoint(4, epochs=8)), (2, b"torn")):
        place.dir.attempt(attempt).root.mkdir(parents=True, exist_ok=True)
        place.dir.attempt(attempt).final.write_bytes(data)
    event = place.prepare(attempt=3, run="truck@2", goal=REWIND)
    assert (event.start, event.from_epoch) == ("resume", 2)
    assert (1, 5) in place.copies()
    assert "final.pt is torn" in event.notes[0]
    assert (place.dir.attempt(2).aside / "final.pt").read_bytes() == b"torn"


def test_a_rewind_to_what_is_in_place_moves_only_what_is_newer(place):
    """last.pt is of that epoch already: other files of it and of older ones stay, as does the checkpoint itself."""
    for name, epochs_done in (("last.pt", 2), ("epoch1.pt", 2), ("epoch0.pt", 1), ("epoch2.pt", 3), ("best.pt", 1)):
        place.save(name, epochs_done)
    before = place.last.read_bytes()
    event = place.prepare(run="truck@2", goal=REWIND)
    assert (event.start, event.from_epoch) == ("resume", 2)
    assert place.last.read_bytes() == before
    assert place.aside() == ["epoch2.pt"]


def test_a_last_save_that_nobody_entered_belongs_to_the_old_line(place):
    """The runner left epoch 8 in final.pt: after a rewind it is in the ledger, and the new line does not take it."""
    place.trained(4)
    final = place.dir.attempt(1).final
    final.parent.mkdir(parents=True)
    final.write_bytes(checkpoint(7, epochs=8))
    place.prepare(run="truck@2", goal=REWIND)
    assert (1, 8) in place.copies()
    place.last.write_bytes(b"torn")
    event = place.prepare(attempt=3, run="truck@2", goal=REWIND)
    assert (event.start, event.from_epoch) == ("resume", 2)


def test_rewind_of_a_finished_run(place):
    """The stripped files are kept aside; the training goes on at the older epoch."""
    place.trained(7)
    place.finish()
    finished = place.last.read_bytes()
    event = place.prepare(run="truck@2", goal=REWIND)
    assert (event.start, event.from_epoch) == ("resume", 2)
    assert (place.dir.attempt(2).aside / "last.pt").read_bytes() == finished
    assert (place.dir.attempt(2).aside / "best.pt").read_bytes() == finished


def test_rewind_to_an_epoch_that_is_not_there_touches_nothing(place):
    """It is refused and names the epochs that are."""
    place.trained(3)
    place.copies()[(1, 2)].write_bytes(b"rotten")
    before = place.all_bytes()
    event = place.prepare(run="truck@2", goal=REWIND)
    assert event.start == "refused"
    assert "no good checkpoint of epoch 2" in event.reason
    assert place.all_bytes() == before
    assert ledger.read(place.dir).lines == ()


def test_the_newest_epoch_is_not_pruned_away_with_the_one_that_is_wanted(tmp_path):
    """The ledger keeps two epochs: entering last.pt before a rewind must not push out the copy that is wanted."""
    place = Place(tmp_path, replace(JOB, checkpoints=Checkpoints(keep_last=2, keep_best=0)))
    place.trained(3)
    place.save("last.pt", 4)
    event = place.prepare(run="truck@2", goal=REWIND)
    assert (event.start, event.from_epoch) == ("resume", 2)
    assert (1, 4) in place.copies()


class PowerCut(BaseException):
    """The daemon ends here."""


@pytest.mark.parametrize("goal", [REWIND, Goal(kind="extend", epochs=12)], ids=["rewind", "extend"])
@pytest.mark.parametrize("step", range(9))
def test_a_crash_between_any_two_steps_repeats_harmlessly(place, monkeypatch, goal, step):
    """Killed before or after any change of a rewind or extend, it is done to the end next time; nothing is lost."""
    place.trained(8 if goal.kind == "extend" else 6)
    if goal.kind == "extend":
        place.finish()
    before = place.all_bytes()
    left = [step]

    def cut(function, *, after):
        def run(*arguments, **more):
            if not left[0] and not after:
                raise PowerCut
            left[0] -= 1
            result = function(*arguments, **more)
            if after and not left[0]:
                raise PowerCut
            return result

        return run

    with monkeypatch.context() as patch:
        for module, name in (
            (checkpoints, "set_aside"), (checkpoints, "put_in_place"), (ledger, "enter"), (ledger, "open_line"),
        ):  # fmt: skip
            patch.setattr(module, name, cut(getattr(module, name), after=step % 2))
        try:
            place.prepare(run="truck@2", goal=goal)
        except PowerCut:
            assert before <= place.all_bytes()
    event = place.prepare(run="truck@2", goal=goal)
    expected = (8, 12) if goal.kind == "extend" else (2, 0)
    assert (event.start, event.from_epoch, event.epochs_override) == ("resume", *expected)
    assert before <= place.all_bytes()
    assert [line.run for line in ledger.read(place.dir).lines] == ["truck@2"]
    assert place.epochs_in_table() == list(range(1, event.from_epoch + 1))


# ---- extend
EXTEND = Goal(kind="extend", epochs=12)
LONGER = replace(JOB, train={"epochs": 12})


def test_extend_goes_on_from_the_last_copy_with_the_optimizer(place):
    """The unstripped copy of epoch 8 of 8 is trained on; the finished files are kept, best.pt stays usable."""
    place.trained(8)
    place.finish()
    finished = place.best.read_bytes()
    event = place.prepare(run="truck@2", goal=EXTEND, job=LONGER)
    assert (event.start, event.from_epoch, event.epochs_override) == ("resume", 8, 12)
    assert checkpoints.look([place.last])[0].done_epochs == 8
    assert place.best.read_bytes() == finished
    assert place.aside() == ["best.pt", "last.pt"]
    assert place.epochs_in_table() == list(range(1, 9))


def test_an_extended_run_is_finished_only_by_its_new_end(place):
    """Before the trainer rewrote the epochs, after it, torn, and at its own end: each time what is right."""
    place.trained(8)
    place.finish()
    place.prepare(run="truck@2", goal=EXTEND, job=LONGER)
    again = place.prepare(attempt=3, run="truck@2", goal=EXTEND, job=LONGER)
    assert (again.start, again.from_epoch, again.epochs_override) == ("resume", 8, 12)
    place.save("last.pt", 9, epochs=12)
    later = place.prepare(attempt=4, run="truck@2", goal=EXTEND, job=LONGER)
    assert (later.start, later.from_epoch, later.epochs_override) == ("resume", 9, 0)
    place.last.write_bytes(b"torn")
    torn = place.prepare(attempt=5, run="truck@2", goal=EXTEND, job=LONGER)
    assert (torn.start, torn.from_epoch, torn.epochs_override) == ("resume", 9, 0)
    place.save("last.pt", 12, epochs=12)
    assert place.prepare(attempt=6, run="truck@2", goal=EXTEND, job=LONGER).start == "finish"
    place.last.write_bytes(checkpoint(stripped=True, epochs=12))
    assert place.prepare(attempt=7, run="truck@2", goal=EXTEND, job=LONGER).start == "finished"


def test_extend_without_any_copy_is_refused(place):
    """Stripped files have no optimizer: the answer names the way that is left, and nothing is touched."""
    place.finish()
    before = place.all_bytes()
    event = place.prepare(run="truck@2", goal=EXTEND, job=LONGER)
    assert event.start == "refused"
    assert "model = best.pt" in event.reason
    assert place.all_bytes() == before


def test_an_older_epoch_of_an_extended_run_has_the_new_number_of_epochs(place):
    """Extended to 12 and then rewound to 2: the file says 8 epochs, and 12 are wanted."""
    place.trained(8)
    place.finish()
    place.prepare(run="truck@2", goal=EXTEND, job=LONGER)
    event = place.prepare(attempt=3, run="truck@3", goal=REWIND, job=LONGER)
    assert (event.start, event.from_epoch, event.epochs_override) == ("resume", 2, 12)


def test_a_budget_of_time_keeps_the_trainers_own_estimate(place):
    """With `time` the trainer writes its estimate of epochs into the file: that is not overruled."""
    place.save("last.pt", 3, epochs=5)
    event = place.prepare(job=replace(JOB, train={"epochs": 100, "time": 1.0}))
    assert (event.start, event.epochs_override) == ("resume", 0)


# ---- branch
def branch(tmp_path, *, weights=False, epoch=3, name="car"):
    """The place of a new run that begins at `truck`."""
    start = StartFrom(run="truck", epoch=epoch, weights=weights)
    return Place(tmp_path, Job(name=name, project="q", revision="b", train={"epochs": 8}, start_from=start))


def begin(car, **fields):
    """The first preparation of the branch."""
    return car.prepare(attempt=1, run="car@1", scratch_allowed=True, origin="p/truck", **fields)


def test_a_branch_goes_on_where_the_other_run_was(place, tmp_path):
    """A copy of epoch 3 is its last.pt, with three rows of the table; the other run is as it was."""
    place.trained(5)
    car, before = branch(tmp_path), place.all_bytes()
    event = begin(car)
    assert (event.start, event.from_epoch, event.checkpoint) == ("resume", 3, str(car.last))
    assert car.last.read_bytes() == place.copies()[(1, 3)].read_bytes()
    assert car.epochs_in_table() == [1, 2, 3]
    assert not any("cut" in note for note in event.notes)
    assert place.all_bytes() == before
    assert any("truck after epoch 3" in note for note in event.notes)
    assert car.copies()[(1, 3)].read_bytes() == car.last.read_bytes()
    again = begin(car)
    assert (again.start, again.from_epoch) == ("resume", 3)


def test_a_branch_that_has_trained_goes_on_with_its_own(place, tmp_path):
    """Its second attempt looks at its own files, although the other run trained on."""
    place.trained(5)
    car = branch(tmp_path)
    begin(car)
    car.save("last.pt", 4)
    event = car.prepare(attempt=2, run="car@1", origin="p/truck")
    assert (event.start, event.from_epoch) == ("resume", 4)


def test_a_branch_with_weights_starts_anew(place, tmp_path):
    """The copy lies beside the trainer's folder; the start is a fresh one, again too while nothing is saved."""
    place.trained(5)
    car = branch(tmp_path, weights=True)
    for _ in range(2):
        event = begin(car)
        assert (event.start, event.from_epoch, event.checkpoint) == ("fresh", 0, str(car.dir.start))
        assert car.dir.start.read_bytes() == place.copies()[(1, 3)].read_bytes()
    car.save("last.pt", 1)
    assert car.prepare(attempt=2, run="car@1", scratch_allowed=True, origin="p/truck").start == "resume"


def test_a_stripped_checkpoint_gives_weights_only(place, tmp_path):
    """Of a finished run without copies: weights of best.pt, never a resume."""
    place.finish()
    car = branch(tmp_path, epoch=None)
    event = begin(car)
    assert event.start == "refused"
    assert "best.pt and last.pt can only give weights" in event.reason
    car.job = replace(car.job, start_from=StartFrom(run="truck", weights=True))
    event = begin(car)
    assert (event.start, event.checkpoint) == ("fresh", str(car.dir.start))
    assert car.dir.start.read_bytes() == place.best.read_bytes()


def test_a_branch_of_a_finished_run_begins_at_its_newest_copy_before_the_end(place, tmp_path):
    """Epoch 8 of 8 leaves nothing to train, and last.pt is stripped: epoch 7; where that is torn, epoch 6."""
    place.trained(8)
    place.finish()
    first = begin(branch(tmp_path, epoch=None))
    assert (first.start, first.from_epoch) == ("resume", 7)
    place.copies()[(1, 7)].write_bytes(b"torn")
    assert begin(branch(tmp_path, epoch=None, name="bus")).from_epoch == 6


def test_a_branch_of_a_finished_run_without_older_copies_is_refused(place, tmp_path):
    """Only the last epoch is there: the answer names the weights."""
    place.trained(8)
    place.finish()
    for (_, epoch), path in place.copies().items():
        if epoch < 8:
            path.unlink()
    event = begin(branch(tmp_path, epoch=None))
    assert event.start == "refused"
    assert "all 8 epochs are done there" in event.reason
    assert "weights = true" in event.reason


def test_a_branch_of_a_running_run_begins_at_its_last_save(place, tmp_path):
    """last.pt is newer than all copies."""
    place.trained(3)
    place.save("last.pt", 5)
    assert begin(branch(tmp_path, epoch=None)).from_epoch == 5


def test_a_branch_takes_no_copy_that_is_not_bit_by_bit_what_was_entered(place, tmp_path):
    """Whole, of the same epoch and finite, but not the bytes of the record: it is looked at again later."""
    place.trained(3)
    entry = place.copies()[(1, 3)]
    data = checkpoint(2, epochs=8, map50_95=0.3, numbers=(1.0, *ZEROS[1:]))
    assert len(data) == entry.stat().st_size
    entry.write_bytes(data)
    with pytest.raises(RetryableError, match="changed while it was copied"):
        begin(branch(tmp_path))


def test_a_branch_of_nothing_is_refused(place, tmp_path):
    """No such epoch, nothing left to train, or a run that is not known: refused with the reason."""
    place.trained(8)
    car = branch(tmp_path, epoch=8)
    assert "nothing is left" in begin(car).reason
    event = car.prepare(attempt=1, run="car@1", scratch_allowed=True, origin="")
    assert "no run named truck" in event.reason
    car.job = replace(car.job, start_from=StartFrom(run="truck", epoch=9))
    event = begin(car)
    assert event.start == "refused"
    assert "no good checkpoint of epoch 9" in event.reason


def test_a_branch_of_an_older_run_means_its_line(place, tmp_path):
    """truck@1 trained epoch 3, truck@2 was rewound and trained another one: each name gets its own."""
    place.trained(4)
    place.prepare(run="truck@2", goal=REWIND)
    place.save("last.pt", 3, map50_95=0.9)
    ledger.enter(place.dir, place.last, "truck@2", 2, place.job, 5000.0)
    for name, line in (("truck@1", 1), ("truck", 2)):
        car = branch(tmp_path / name)
        car.runs_dir, car.job = (
            place.runs_dir,
            replace(car.job, start_from=StartFrom(run=name, epoch=3), name=f"c{line}"),
        )
        car.dir = layout.run_directory(car.runs_dir, "q", car.job.name)
        begin(car)
        assert (car.dir.weights / "last.pt").read_bytes() == place.copies()[(line, 3)].read_bytes()


# ---- what can be gone back to
def test_the_epochs_that_can_be_gone_back_to(place):
    """Those in the ledger, and those in files that were looked at; stripped files are named."""
    place.trained(3)
    place.save("last.pt", 5)
    place.save("epoch3.pt", 4)
    found = survey.saved(JOB, place.dir, 5)
    assert found.epochs == (1, 2, 3, 4, 5)
    place.save("epoch3.pt", 4)
    (place.weights / "epoch3.pt").write_bytes(b"torn")
    assert 4 not in survey.saved(JOB, place.dir, 4).epochs
    place.finish()
    assert survey.saved(JOB, place.dir, 1).stripped in {(), ("best.pt", "last.pt"), ("last.pt", "best.pt")}
    assert set(survey.saved(JOB, place.dir).stripped) == {"best.pt", "last.pt"}


# ---- doubts
def test_a_doubtful_checkpoint_is_loaded_by_the_jobs_python(place, monkeypatch, tmp_path):
    """What the cheap look cannot settle the job's own Python settles: refused there, the next one is taken."""
    python = tmp_path / "python"
    python.touch()
    place.job = replace(JOB, python=str(python))
    place.trained(3)
    Toy(place.weights, 8).save(3, 0.5, torn=False)  # it has a record that belongs to no tensor
    place.best.unlink()
    assert checkpoints.look([place.last])[0].doubts
    asked = []

    def deep(python, path, *, expected_epoch, modules):
        asked.append((python, path, expected_epoch, modules))
        return checkpoints.Deep(path=str(path), ok=False, reason="no EMA in it", looked=True)

    monkeypatch.setattr(checkpoints, "deep", deep)
    event = place.prepare()
    assert asked == [(str(python), place.last, 3, [])]
    assert (event.start, event.from_epoch) == ("resume", 3)
    assert any("no EMA in it" in note for note in event.notes)


def test_a_python_that_cannot_look_says_nothing(place, monkeypatch, tmp_path):
    """No torch in it: the cheap look stands, and the trainer's own start is the test."""
    python = tmp_path / "python"
    python.touch()
    place.job = replace(JOB, python=str(python))
    Toy(place.weights, 8).save(3, 0.5, torn=False)  # it has a record that belongs to no tensor
    answer = checkpoints.Deep(path="", ok=False, looked=False, reason="no torch")
    monkeypatch.setattr(checkpoints, "deep", lambda *_arguments, **_more: answer)
    assert place.prepare().from_epoch == 4


# ---- any state of any file
FILES = ("last.pt", "best.pt", "epoch2.pt", "epoch5.pt")
STATES = ("missing", "torn", "hostile", "poisoned", "weights_only", "finished", "done_not_stripped", "resumable")


@st.composite
def rooms(draw):
    """Files and copies in any state: (candidates, what each of them really is)."""
    candidates, truth = [], {}
    names = [*FILES, *(f"/good/epoch{epoch}-attempt1.pt" for epoch in draw(st.sets(st.integers(1, 9), max_size=6)))]
    for name in names:
        kept = name.startswith("/good")
        state = draw(st.sampled_from(STATES if not kept else ("torn", "poisoned", "resumable", "done_not_stripped")))
        claim = int("".join(filter(str.isdigit, name.partition("-")[0]))) if any(map(str.isdigit, name)) else None
        claim = claim + 1 if claim is not None and not kept else claim
        epoch = (claim or draw(st.integers(1, 9))) - 1
        path = name if kept else f"/run/{name}"
        candidates.append(Candidate(path=path, epoch=claim, kept=kept))
        stored = epoch if state in {"poisoned", *GOES_ON} else None
        truth[path] = Checkpoint(path=path, state=state, epoch=stored, size_bytes=9)
    return candidates, truth


@settings(deadline=None, max_examples=300)
@given(rooms(), st.booleans())
def test_nothing_bad_is_ever_resumed_and_nothing_good_ever_lost(room, scratch_allowed):
    """For any mixture of files: a good one is resumed if there is one, the one with the most epochs, never a bad one.

    Looking lazily gives what looking at everything would give, and a poisoned file shows only when it is looked at
    closely.
    """
    candidates, truth = room
    job = Job(name="a", revision="r", train={"epochs": 10})

    def look(paths, *, finite=False):
        found = [truth[str(path)] for path in paths]
        return [replace(one, state="resumable") if one.state == "poisoned" and not finite else one for one in found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "look", look)
        seen = survey.Survey(job, candidates, lambda one: one)
        choice = seen.choose(lambda found: choose(job, found, scratch_allowed=scratch_allowed))
    good = [one for one in truth.values() if one.state in GOES_ON]
    if truth["/run/last.pt"].state == "finished":
        assert choice.start == "finished"
    elif good:
        assert choice.start in {"resume", "finish"}
        chosen = truth[choice.checkpoint.path]
        assert chosen.state in GOES_ON
        done = [one for one in good if one.state == "done_not_stripped"]
        assert chosen.done_epochs == max(one.done_epochs for one in good) or (done and choice.start == "finish")
    else:
        assert choice.start in {"fresh", "refused"}
        assert choice.start == "refused" or scratch_allowed


def test_the_answer_can_be_journalled(place):
    """What a preparation answers is plain data."""
    place.trained(2)
    event = place.prepare()
    assert msgspec.json.decode(msgspec.json.encode(event), type=type(event)) == event
    assert start_point.newest_kept(ledger.read(place.dir)) == 2
