"""Which checkpoint a run goes on from, for all states of the files."""

from __future__ import annotations

import itertools

import pytest
from bench import make_job

from supervisor.core.checkpoints import (
    BAD,
    GOES_ON,
    Candidate,
    Checkpoint,
    choose,
    choose_epoch,
    exactly,
    judged,
    next_looks,
    of_an_older_plan,
)

STATES = ("missing", *sorted(BAD), "finished", "done_not_stripped", "weights_only", "resumable")
TRAIN = make_job()
FAMILY = make_job(command=("python", "train.py"), family="yolov5")
COMMAND = make_job(command=("x",), resume_command=("x", "{checkpoint}"), checkpoint_files=("*.pt",))


def file(name, state, epoch=None, **more):
    """What a look at one file found."""
    stored = epoch if state in GOES_ON else None
    return Checkpoint(path=f"/run/{name}", state=state, epoch=stored, **{"size_bytes": 9, **more})


def picked(job, *found, scratch_allowed=False):
    """The start, and the name of the file."""
    choice = choose(job, found, scratch_allowed=scratch_allowed)
    return choice.start, choice.checkpoint.path.rpartition("/")[2] if choice.checkpoint else ""


@pytest.mark.parametrize("scratch_allowed", [False, True])
@pytest.mark.parametrize(("last", "best"), list(itertools.product(STATES, STATES)))
def test_every_pair_of_last_and_best(last, best, scratch_allowed):
    """All pairs of states: never from the start while a file has epochs, never into a finished training, never a bad file."""
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


@pytest.mark.parametrize("bad", sorted(BAD))
def test_no_bad_file_is_resumed_and_a_copy_takes_its_place(bad):
    """Torn, hostile, poisoned or refused: passed over for an older copy of the ledger, whatever epochs it claims."""
    found = (file("last.pt", bad, 7, has_optimizer=True), kept(5), kept(3))
    assert picked(TRAIN, *found, scratch_allowed=True) == ("resume", "epoch5-attempt1.pt")
    assert picked(FAMILY, *found) == ("resume", "epoch5-attempt1.pt")


def kept(epochs_done, state="resumable"):
    """A copy in the ledger."""
    return file(f"good/epoch{epochs_done}-attempt1.pt", state, epochs_done - 1, kept=True)


def test_the_file_in_place_is_taken_before_a_copy_of_the_same_epoch():
    """Nothing is copied where it is not needed."""
    assert picked(TRAIN, kept(4), file("epoch3.pt", "resumable", 3)) == ("resume", "epoch3.pt")
    assert picked(TRAIN, kept(4), file("last.pt", "resumable", 3)) == ("resume", "last.pt")
    assert picked(COMMAND, kept(4), file("a.pt", "resumable", 3)) == ("resume", "a.pt")


def test_a_finished_copy_says_nothing_of_the_run():
    """Only the trainer's own last.pt proves the end of its training."""
    finished = file("good/last.pt", "finished", kept=True)
    assert picked(TRAIN, finished, kept(3)) == ("resume", "epoch3-attempt1.pt")


def test_a_family_is_judged_like_ultralytics():
    """YOLOv5, v7 and v9: finished is finished, the last epoch is only finished properly."""
    assert picked(FAMILY, file("last.pt", "finished"), kept(3)) == ("finished", "last.pt")
    assert picked(FAMILY, judged(file("last.pt", "resumable", 9), 10)) == ("finish", "last.pt")


def test_a_command_that_our_hook_saw_needs_no_resume_command():
    """The hook turns its own training into a resume; without having seen it nobody knows that it can be."""
    plain = make_job(command=("x",), checkpoint_files=("*.pt",))
    found = (file("last.pt", "resumable", 3),)
    assert choose(plain, found, scratch_allowed=True, hooked=True).start == "resume"
    refused = choose(plain, found, scratch_allowed=True)
    assert refused.start == "refused"
    assert "no resume_command" in refused.reason


@pytest.mark.parametrize(
    ("state", "epoch", "epochs", "expected"),
    [
        ("resumable", 8, 10, "resumable"),
        ("resumable", 9, 10, "done_not_stripped"),
        ("done_not_stripped", 9, 12, "resumable"),
        ("done_not_stripped", 9, None, "done_not_stripped"),
        ("torn", None, 10, "torn"),
        ("finished", None, 10, "finished"),
        ("weights_only", 9, 10, "weights_only"),
    ],
)
def test_what_is_left_to_train_follows_from_the_number_of_epochs(state, epoch, epochs, expected):
    """A file is judged by the run's number of epochs where that is known; what is no good does not become good."""
    assert judged(Checkpoint(path="/run/last.pt", state=state, epoch=epoch), epochs).state == expected


def test_the_end_of_an_older_plan_is_no_end():
    """A finished file of a run that is trained further holds weights, and no more."""
    assert of_an_older_plan(file("last.pt", "finished")).state == "weights_only"
    assert of_an_older_plan(file("last.pt", "resumable", 3)).state == "resumable"


def test_just_one_epoch_can_be_asked_for():
    """Exactly it or nothing; the refusal names the epochs that are there and the files that are bad."""
    found = (file("last.pt", "resumable", 6), file("epoch3.pt", "torn", reason="cut"), kept(3))
    assert choose_epoch(found, 3).checkpoint.name == "epoch3-attempt1.pt"
    assert choose_epoch((*found, file("last.pt", "done_not_stripped", 2)), 3).start == "finish"
    refused = choose_epoch(found, 4)
    assert refused.start == "refused"
    assert "there are epochs 3, 7" in refused.reason
    assert "epoch3.pt is torn: cut" in refused.reason
    assert exactly(found, 0) is None


# ---- in which order files are looked at
LEDGER = [Candidate(path=f"/run/good/epoch{epoch}-attempt1.pt", epoch=epoch, kept=True) for epoch in range(300, 0, -1)]
OWN = [Candidate(path="/run/last.pt"), Candidate(path="/run/best.pt"), Candidate(path="/run/epoch99.pt", epoch=100)]


def names(looks):
    """The files to look at."""
    return [one.path.rpartition("/")[2] for one in looks]


def test_files_that_claim_no_epoch_are_looked_at_first():
    """last.pt and best.pt: nobody knows what is in them."""
    assert names(next_looks([*OWN, *LEDGER], [])) == ["last.pt", "best.pt"]


def test_nothing_more_is_looked_at_than_can_be_better():
    """A good last.pt with as many epochs as any copy claims ends the search; a torn one opens the newest few."""
    best = file("best.pt", "resumable", 120)
    assert next_looks([*OWN, *LEDGER], [file("last.pt", "resumable", 299), best]) == []
    torn = [file("last.pt", "torn"), best]
    assert names(next_looks([*OWN, *LEDGER], torn)) == [f"epoch{epoch}-attempt1.pt" for epoch in (300, 299, 298)]
    newest = [Checkpoint(path=one.path, state="torn") for one in LEDGER[:3]]
    assert names(next_looks([*OWN, *LEDGER], [*torn, *newest]))[0] == "epoch297-attempt1.pt"
    found = Checkpoint(path=LEDGER[3].path, state="resumable", epoch=296)
    assert next_looks([*OWN, *LEDGER], [*torn, *newest, found]) == []


@pytest.mark.parametrize("end", [file("last.pt", "finished"), file("best.pt", "done_not_stripped", 9)])
def test_the_end_of_the_training_ends_the_search(end):
    """No epoch can be more than all."""
    other = file("best.pt" if end.name == "last.pt" else "last.pt", "torn")
    assert next_looks([*OWN, *LEDGER], [end, other]) == []


def test_for_one_epoch_only_files_that_may_hold_it_are_looked_at():
    """A rewind does not read the ledger; when the epoch is found, it is over."""
    own = [file("last.pt", "resumable", 299), file("best.pt", "torn")]
    assert names(next_looks([*OWN, *LEDGER], own, only=100)) == ["epoch99.pt", "epoch100-attempt1.pt"]
    assert next_looks([*OWN, *LEDGER], [*own, kept(100)], only=100) == []


def test_a_copy_of_unknown_epoch_is_the_last_resort():
    """It is looked at where nothing else is whole."""
    unknown = Candidate(path="/run/good/save1-attempt1.pt", epoch=0, kept=True)
    torn = file("a.pt", "torn")
    first = Candidate(path="/run/a.pt")
    assert names(next_looks([first, unknown], [torn])) == ["save1-attempt1.pt"]
    assert next_looks([first, unknown], [file("a.pt", "weights_only")]) == []


def test_the_metric_of_a_checkpoint():
    """The mAP50-95 of boxes, whatever else it holds; None where it holds none."""
    metrics = {"metrics/mAP50-95(M)": 0.2, "metrics/mAP50-95(B)": 0.5, "metrics/mAP50(B)": None}
    assert file("last.pt", "resumable", 3, metrics=metrics).map50_95 == 0.5
    assert file("last.pt", "resumable", 3, metrics=None).map50_95 is None


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
