"""Which checkpoint a run goes on from, for all states of the files."""

from __future__ import annotations

import itertools

import pytest
from bench import make_job

from supervisor.core.checkpoints import Checkpoint, choose

STATES = ("missing", "torn", "finished", "done_not_stripped", "weights_only", "resumable")
TRAIN = make_job()
COMMAND = make_job(command=("x",), resume_command=("x", "{checkpoint}"), checkpoint_files=("*.pt",))


def file(name, state, epoch=None, **more):
    """What a look at one file found."""
    stored = epoch if state in {"resumable", "done_not_stripped"} else None
    return Checkpoint(path=f"/run/{name}", state=state, epoch=stored, **{"size_bytes": 9, **more})


def picked(job, *found, scratch_allowed=False):
    """The start, and the name of the file."""
    choice = choose(job, found, scratch_allowed=scratch_allowed)
    return choice.start, choice.checkpoint.path.rpartition("/")[2] if choice.checkpoint else ""


@pytest.mark.parametrize("scratch_allowed", [False, True])
@pytest.mark.parametrize(("last", "best"), list(itertools.product(STATES, STATES)))
def test_every_pair_of_last_and_best(last, best, scratch_allowed):
    """All 36 pairs: never from the start while a file has epochs, never into a finished training, never a bad file."""
    found = (file("last.pt", last, 7), file("best.pt", best, 4))
    start, name = picked(TRAIN, *found, scratch_allowed=scratch_allowed)
    states = {"last.pt": last, "best.pt": best}
    if last == "finished":
        expected = ("finished", "last.pt")
    elif "done_not_stripped" in (last, best):
        expected = ("finish", "last.pt" if last == "done_not_stripped" else "best.pt")
    elif "resumable" in (last, best):
        expected = ("resume", "last.pt" if last == "resumable" else "best.pt")
    elif scratch_allowed and {last, best} <= {"missing", "torn"}:
        expected = ("fresh", "")
    else:
        expected = ("refused", "")
    assert (start, name) == expected
    assert start != "resume" or states[name] == "resumable"


def test_the_most_epochs_win():
    """A snapshot that is newer by its content wins over last.pt, whatever its name or age."""
    found = (
        file("last.pt", "resumable", 4, mtime_ns=9),
        file("epoch6.pt", "resumable", 6, mtime_ns=1),
        file("best.pt", "resumable", 2, mtime_ns=99),
    )
    assert picked(TRAIN, *found) == ("resume", "epoch6.pt")


def test_of_equals_last_is_taken():
    """last.pt and best.pt of the same epoch: last.pt, because it is in place already."""
    assert picked(TRAIN, file("best.pt", "resumable", 3), file("last.pt", "resumable", 3)) == ("resume", "last.pt")


def test_without_any_file():
    """Nothing there: from the beginning if nothing was ever saved, else a person looks (is a disk not mounted?)."""
    assert picked(TRAIN, scratch_allowed=True) == ("fresh", "")
    choice = choose(TRAIN, (), scratch_allowed=False)
    assert choice.start == "refused"
    assert "mounted" in choice.reason


def test_a_refusal_names_every_file_and_why():
    """A person reads which file is what."""
    found = (file("last.pt", "torn", reason="no end of central directory"), file("best.pt", "weights_only"))
    reason = choose(TRAIN, found, scratch_allowed=False).reason
    assert "last.pt is torn (no end of central directory)" in reason
    assert "best.pt is weights_only" in reason


def test_weights_alone_are_never_overwritten_by_a_fresh_start():
    """Weights without an optimizer cannot be resumed, but a start from the beginning would write over them."""
    assert picked(TRAIN, file("last.pt", "weights_only"), scratch_allowed=True) == ("refused", "")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scratch_allowed", [False, True])
def test_a_command_resumes_from_whole_pytorch_files_only(state, scratch_allowed):
    """Another trainer's .pt file is resumed if it is whole; what cannot be read may hold epochs: a person must look."""
    start, _ = picked(COMMAND, file("a.pt", state, 3), scratch_allowed=scratch_allowed)
    if state in {"resumable", "done_not_stripped", "weights_only"}:
        assert start == "resume"
    elif state == "missing" and scratch_allowed:
        assert start == "fresh"
    else:
        assert start == "refused"


def test_a_command_takes_epochs_before_age():
    """The file that tells more epochs wins; where none tells any, the newest."""
    old, new = file("a.pt", "resumable", 9, mtime_ns=1), file("b.pt", "resumable", 2, mtime_ns=9)
    assert picked(COMMAND, new, old) == ("resume", "a.pt")
    assert picked(COMMAND, file("a.bin", "torn", mtime_ns=1), file("b.bin", "torn", mtime_ns=9)) == ("resume", "b.bin")


def test_an_empty_file_of_another_format_is_no_checkpoint():
    """Of other formats nothing is known but their size: an empty one is not resumed."""
    assert picked(COMMAND, file("a.bin", "torn", size_bytes=0), scratch_allowed=True) == ("fresh", "")


def test_a_command_without_a_resume_command_never_starts_over():
    """A checkpoint is there and cannot be resumed: starting again would lose it, so a person decides."""
    job = make_job(command=("x",), checkpoint_files=("*.pt",))
    choice = choose(job, (file("a.pt", "resumable", 3),), scratch_allowed=True)
    assert choice.start == "refused"
    assert "resume_command" in choice.reason


def test_epochs_count_from_one():
    """`done_epochs` counts complete epochs as people do; a finished file tells none."""
    assert file("a.pt", "resumable", 0).done_epochs == 1
    assert Checkpoint(path="x", state="finished", epoch=-1).done_epochs == 0
    assert Checkpoint(path="x", state="missing").done_epochs == 0
