"""Going back to an older checkpoint: what a preparation makes of it, also when it is cut short."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from test_start_point import JOB, Place

from supervisor.core.job import Checkpoints
from supervisor.core.ledger import Distrust, Entry, Ledger, Line, distrusting, keep, opening, under_order, usable
from supervisor.core.model import Attempt, Goal, Job, Phase, Progress, Run
from supervisor.effects import ledger, listing
from supervisor.errors import RetryableError
from tests.torch_files import checkpoint


@pytest.fixture
def place(tmp_path):
    """A run that trained five epochs in its first attempt, each kept in the ledger."""
    made = Place(tmp_path)
    made.trained(5)
    return made


def trusted(place):
    """The epochs that a start may go on from."""
    return sorted({entry.epoch for entry in usable(ledger.read(place.dir))})


def record(place):
    """ledger.json as it is on disk."""
    return json.loads((place.dir.good / ledger.RECORD).read_bytes())


def go_back(place, epoch, **more):
    """Prepare an attempt that is not to start from `epoch` or later."""
    return place.prepare(distrust_from=epoch, **more)


# ---- going back
def test_the_newest_checkpoint_is_left_for_the_one_before(place):
    """The attempt goes on after epoch 4: last.pt is that one, the table ends with it, and the reason is told."""
    newest = place.last.read_bytes()
    event = go_back(place, 5)
    assert (event.start, event.from_epoch, event.kept_epoch) == ("resume", 4, 4)
    assert event.checkpoint == str(place.last)
    assert place.last.read_bytes() == place.copies()[(1, 4)].read_bytes()
    assert place.epochs_in_table() == [1, 2, 3, 4]
    assert any("checkpoints of epoch 5 and later are not used" in note for note in event.notes)
    assert newest in place.all_bytes()


def test_distrusted_copies_stay_and_say_why(place):
    """Nothing is deleted: the copy of epoch 5 is there, marked in words; no start takes it."""
    go_back(place, 5)
    (marked,) = [entry for entry in ledger.read(place.dir).entries if entry.distrusted]
    assert (marked.epoch, ledger.path_of(place.dir, marked).is_file()) == (5, True)
    assert "attempts that went on from epoch 5 or later failed (since attempt 2)" in marked.distrusted
    assert trusted(place) == [1, 2, 3, 4]
    assert place.prepare(attempt=3).from_epoch == 4


def test_what_is_saved_after_it_is_trusted_again(place):
    """The next attempt trains epoch 5 anew: its save is a checkpoint like any other."""
    go_back(place, 5)
    place.save("last.pt", 5, map50_95=0.3)
    ledger.enter(place.dir, place.last, "truck@1", 2, JOB, 2000.0)
    assert trusted(place) == [1, 2, 3, 4, 5]
    assert place.prepare(attempt=3).from_epoch == 5
    assert go_back(place, 5, attempt=4).from_epoch == 4  # and can be distrusted in its turn
    assert trusted(place) == [1, 2, 3, 4]


def test_further_back_step_by_step(place):
    """Each order goes further: from 5 to 4, from 4 to 3."""
    assert go_back(place, 5).from_epoch == 4
    assert go_back(place, 4, attempt=3).from_epoch == 3
    assert place.epochs_in_table() == [1, 2, 3]
    assert trusted(place) == [1, 2, 3]


def test_the_trainers_own_files_of_these_epochs_are_set_aside(place):
    """epoch4.pt (the fifth epoch) and best.pt of epoch 5 are moved away and kept; best.pt is an older one again."""
    newer = {place.save("epoch4.pt", 5).read_bytes(), place.save("best.pt", 5, map50_95=0.9).read_bytes()}
    older = place.save("epoch3.pt", 4)
    go_back(place, 5)
    assert older.is_file()
    assert not (place.weights / "epoch4.pt").exists()
    assert {"epoch4.pt", "best.pt"} <= set(place.aside())
    assert newer <= place.all_bytes()
    assert place.best.read_bytes() == place.copies()[(1, 3)].read_bytes()  # the best of those that are left


def test_the_last_save_that_the_runner_left_is_not_taken_either(place):
    """A private copy that nobody entered yet is entered first, and distrusted with the others."""
    final = place.dir.attempt(1).final
    final.parent.mkdir(parents=True, exist_ok=True)
    final.write_bytes(checkpoint(5, epochs=8))
    assert go_back(place, 5).from_epoch == 4
    assert not final.exists()
    assert {entry.epoch for entry in ledger.read(place.dir).entries if entry.distrusted} == {5, 6}
    assert place.prepare(attempt=3).from_epoch == 4


def test_a_copy_that_comes_late_is_distrusted_too(place):
    """The keeper may enter a save of an older attempt after the order."""
    go_back(place, 5)
    late = place.dir.root / "late.pt"
    late.write_bytes(checkpoint(5, epochs=8))
    entered = ledger.enter(place.dir, late, "truck@1", 1, JOB, 2000.0)
    assert entered is not None
    assert entered.distrusted
    assert trusted(place) == [1, 2, 3, 4]


def test_without_an_older_checkpoint_nothing_is_changed(tmp_path):
    """The only checkpoint is the newest: it is used once more, nothing is marked or moved, and that is said."""
    place = Place(tmp_path)
    place.save("last.pt", 5)
    before = place.last.read_bytes()
    event = go_back(place, 5)
    assert (event.start, event.from_epoch, event.kept_epoch) == ("resume", 5, 5)
    assert place.last.read_bytes() == before
    assert (trusted(place), place.aside()) == ([5], [])
    assert any("no verified checkpoint before epoch 5 is kept" in note for note in event.notes)


@pytest.mark.parametrize("damage", [b"torn", checkpoint(3, epochs=8)[:-40]])
def test_an_older_checkpoint_that_is_not_good_does_not_count(tmp_path, damage):
    """A torn copy is no place to go back to: the newest is used."""
    place = Place(tmp_path)
    place.save("last.pt", 5)
    (place.weights / "epoch3.pt").write_bytes(damage)
    event = go_back(place, 5)
    assert event.from_epoch == 5
    assert trusted(place) == [5]


def test_the_trainers_older_file_is_good_enough(tmp_path):
    """Without any copy in the ledger a proven epochN.pt is gone back to; it is entered first."""
    place = Place(tmp_path)
    place.save("last.pt", 5)
    place.save("epoch2.pt", 3)
    event = go_back(place, 5)
    assert (event.start, event.from_epoch) == ("resume", 3)
    assert trusted(place) == [3]


def test_a_program_of_its_own_goes_back_too(tmp_path):
    """Its files of these epochs are moved away, so that its own search for the newest one finds the older one."""
    resume = ("x", "--resume", "{checkpoint}")
    job = Job(name="toy", project="p", revision="r", command=("x",), resume_command=resume,
              checkpoint_files=("{run_dir}/saves/*.pt",))  # fmt: skip
    place = Place(tmp_path, job)
    saves = place.dir.root / "saves"
    saves.mkdir()
    for done in (3, 4, 5):
        (saves / f"step{done}.pt").write_bytes(checkpoint(done - 1, epochs=8))
    event = go_back(place, 5, run="toy@1")
    assert (event.start, event.from_epoch) == ("resume", 4)
    assert sorted(path.name for path in saves.iterdir()) == ["step3.pt", "step4.pt"]
    assert place.prepare(attempt=3, run="toy@1").from_epoch == 4


def test_files_that_tell_no_epoch_are_left_alone(tmp_path):
    """Of a format that is not known nobody can say what is older: nothing is changed."""
    job = Job(name="toy", project="p", revision="r", command=("x",), resume_command=("x", "{checkpoint}"),
              checkpoint_files=("{run_dir}/saves/*.json",))  # fmt: skip
    place = Place(tmp_path, job)
    (place.dir.root / "saves").mkdir()
    for name in ("one", "two"):
        (place.dir.root / "saves" / f"{name}.json").write_text("{}")
    event = go_back(place, 5, run="toy@1")
    assert event.start == "resume"
    assert len(list((place.dir.root / "saves").iterdir())) == 2


def test_a_person_who_goes_back_to_a_distrusted_epoch_trusts_it(place):
    """`rewind` to epoch 5 finds the copy, and the new line may use it."""
    go_back(place, 5)
    event = place.prepare(attempt=3, run="truck@2", goal=Goal(kind="rewind", epoch=5))
    assert (event.start, event.from_epoch) == ("resume", 5)
    assert not [entry for entry in ledger.read(place.dir).entries if entry.distrusted]
    assert place.prepare(attempt=4, run="truck@2").from_epoch == 5


def test_a_copy_on_the_older_line_is_left_as_well(place):
    """Rewound to epoch 4 and failed before the first save: going back from there leaves the old line's epoch 4."""
    assert place.prepare(run="truck@2", goal=Goal(kind="rewind", epoch=4)).from_epoch == 4
    assert go_back(place, 4, attempt=3, run="truck@2").from_epoch == 3
    assert place.prepare(attempt=4, run="truck@2").from_epoch == 3


# ---- again, and cut short
class Cut(BaseException):
    """The daemon is gone at this point."""


def cut_at(monkeypatch, step):
    """Die before the file operation of this number; returns the list that counts them."""
    done: list[str] = []

    def counted(name, operation):
        def operate(path, *arguments, **named):
            if len(done) == step:
                raise Cut
            done.append(name)
            return operation(path, *arguments, **named)

        return operate

    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(Path, name, counted(name, getattr(Path, name)))
    return done


def state(place):
    """What the next attempts depend on: files in place, what may be used, what is marked."""
    kept = ledger.read(place.dir)
    marks = sorted((entry.file, entry.distrusted) for entry in kept.entries)
    files = {path.name: path.read_bytes() for path in place.weights.iterdir()}
    return files, marks, place.dir.results.read_bytes(), kept.distrust


def test_cut_short_anywhere_it_is_the_same_in_the_end(tmp_path, monkeypatch):
    """Killed before any of its file operations and done again: the same start, the same files, nothing lost."""
    place = Place(tmp_path)
    place.trained(5)
    place.save("epoch4.pt", 5)
    place.save("best.pt", 5, map50_95=0.9)
    saved, pristine = place.all_bytes(), tmp_path / "pristine"
    shutil.copytree(place.runs_dir, pristine)
    assert go_back(place, 5).from_epoch == 4
    wanted, step, whole = state(place), 0, False
    while not whole:
        shutil.rmtree(place.runs_dir)
        shutil.copytree(pristine, place.runs_dir)
        whole = cut_short(place, monkeypatch, step)
        event = go_back(place, 5)
        assert (event.from_epoch, state(place)) == (4, wanted), f"cut before operation {step}"
        assert saved <= place.all_bytes()
        step += 1
    assert step > 10


def cut_short(place, monkeypatch, step):
    """Prepare until the operation of this number; True if it was not reached."""
    with monkeypatch.context() as patch:
        cut_at(patch, step)
        try:
            go_back(place, 5)
        except Cut:
            return False
    return True


def test_what_was_cut_short_is_finished_by_the_next_attempt(place, monkeypatch):
    """Stopped and resumed meanwhile, the run does not start from what was being left."""
    real = ledger.write
    writes: list[Ledger] = []

    def once(run_dir, kept):
        real(run_dir, kept)
        writes.append(kept)
        raise RetryableError("the disk is slow", 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write", once)
        with pytest.raises(RetryableError):
            go_back(place, 5)
    assert writes[0].distrust is not None
    assert not writes[0].distrust.done
    assert place.prepare(attempt=3).from_epoch == 4
    assert trusted(place) == [1, 2, 3, 4]


def test_preparing_again_changes_nothing_more(place):
    """The same order once more (its answer was lost): the same start, the same ledger, nothing else set aside."""
    first = go_back(place, 5)
    before, aside = state(place), place.aside()
    again = go_back(place, 5)
    assert (again.start, again.from_epoch, again.checkpoint) == (first.start, 4, first.checkpoint)
    assert (state(place), place.aside()) == (before, aside)


def test_an_older_ledger_has_no_marks(place):
    """ledger.json of an earlier version is read as it is: everything is trusted."""
    known = record(place)
    for entry in known["entries"]:
        entry.pop("distrusted")
    known.pop("distrust")
    (place.dir.good / ledger.RECORD).write_bytes(json.dumps(known).encode())
    assert trusted(place) == [1, 2, 3, 4, 5]


# ---- any ledger
def copies(draw_epochs):
    """Entries of a line, attempt by attempt."""
    return tuple(
        Entry(file=f"epoch{number}-attempt{attempt}.pt", epoch=number, run="a@1", attempt=attempt, line=line)
        for number, attempt, line in draw_epochs
    )


ENTRIES = st.sets(st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(1, 2)), max_size=12).map(copies)
LINES = st.one_of(
    st.just(()), st.integers(0, 9).map(lambda epoch: (Line(number=2, parent=1, from_epoch=epoch, run="a@2"),))
)


@given(ENTRIES, LINES, st.integers(1, 9), st.integers(1, 5))
def test_distrust_takes_just_what_it_is_about(entries, lines, since, attempt):
    """Of what the line could use it takes the epochs from there on of older attempts; no copy is lost; again is same."""
    kept = Ledger(entries=entries, lines=lines)
    order = Distrust(from_epoch=since, attempt=attempt, line=kept.line, reason="because")
    after = distrusting(kept, order)
    assert [entry.file for entry in after.entries] == [entry.file for entry in kept.entries]
    left = [one for one in usable(kept) if one.epoch < since or one.attempt >= attempt]
    assert list(usable(after)) == left
    assert distrusting(after, order) == after
    assert all(under_order(after, entry) in after.entries for entry in kept.entries if entry in usable(kept))


@example(copies([(4, 1, 1), (5, 1, 1), (6, 3, 2)]), (Line(number=2, parent=1, from_epoch=5, run="a@2"),), 5, 1, 0)
@given(ENTRIES, LINES, st.integers(1, 9), st.integers(1, 3), st.integers(0, 2))
def test_no_policy_removes_a_distrusted_copy_or_the_newest_trusted_one(entries, lines, since, last, best):
    """Whatever is pruned: what a person may want to look at stays, and so does what the next start needs."""
    kept = Ledger(entries=entries, lines=lines)
    after = distrusting(kept, Distrust(from_epoch=since, attempt=3, line=kept.line, reason="because"))
    staying = keep(after, Checkpoints(keep_last=last, keep_best=best))
    assert {entry for entry in after.entries if entry.distrusted} <= set(staying)
    assert set(usable(after)[:1]) <= set(staying)
    for line in (1, 2):  # also the newest of a line that one may return to
        newest = max((one.epoch for one in after.entries if one.line == line and not one.distrusted), default=None)
        assert newest is None or any((one.line, one.epoch, one.distrusted) == (line, newest, "") for one in staying)


@given(ENTRIES, st.integers(1, 9), st.integers(1, 9))
def test_a_new_line_can_use_where_it_begins(entries, since, epoch):
    """A person who goes back to an epoch of which there is a copy may use one, distrusted or not."""
    entries = tuple(replace(entry, line=1) for entry in entries)
    kept = distrusting(Ledger(entries=entries), Distrust(from_epoch=since, attempt=9, line=1, reason="because"))
    opened = opening(kept, Line(number=2, parent=1, from_epoch=epoch, run="a@2"))
    there = any(entry.epoch == epoch for entry in entries)
    assert any(entry.epoch == epoch for entry in usable(opened)) == there


# ---- what is shown
def test_checkpoints_shows_what_is_distrusted(place):
    """`checkpoints NAME` names the state and the reason, and which file the next start takes instead."""
    run = Run(id="truck@1", job=JOB, phase=Phase.COOLING, created_at=0.0, phase_since=0.0, attempts=1,
              progress=Progress(saved_epoch=5), attempt=Attempt(number=1, token=1))  # fmt: skip
    waiting = listing.checkpoints_view(replace(run, distrust_from=5), place.runs_dir, 0.0)
    assert waiting["next_start"]["epoch"] == 4
    go_back(place, 5)
    view = listing.checkpoints_view(run, place.runs_dir, 0.0)
    (row,) = [row for row in view["checkpoints"] if row["state"] == "distrusted"]
    assert (row["epoch"], row["usable"]) == (5, False)
    assert "since attempt 2" in row["reason"]
    assert view["next_start"]["epoch"] == 4
