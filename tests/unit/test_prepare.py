"""Preparing an attempt: directory, fence, settings and the checkpoint, on real files."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path

import pytest

from supervisor.core.actions import Prepare
from supervisor.core.events import Prepared, PrepareFailed
from supervisor.core.model import Job
from supervisor.effects.prepare import Preparer
from supervisor.errors import PermanentError, RetryableError
from supervisor.layout import RunDirectory
from supervisor.machine import resources
from supervisor.machine.bounded import NoAnswerError
from supervisor.machine.resources import Room

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy_trainer import Checkpoint, packed, unpacked

JOB = Job(name="truck", project="p", revision="r1", train={"epochs": 8})
GIB = 1024**3
HEADER = "epoch,time,train/box_loss\n"


@pytest.fixture
def run(tmp_path):
    """An empty run directory."""
    return RunDirectory(tmp_path / "runs" / "p" / "truck")


def checkpoint(path: Path, epoch: int, *, epochs: int = 8, stripped: bool = False) -> None:
    """A checkpoint as Ultralytics writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    toy = Checkpoint(path.parent, epochs)
    toy.files = (path,)
    toy.save(epoch, 0.5, torn=False)
    if stripped:
        path.write_bytes(packed({**unpacked(path), "epoch": -1, "model": "m", "ema": None, "optimizer": None}))


def prepare(run, *, attempt=2, token=7, scratch=False, set_aside=False, job=JOB, pause_below=0, source=b"# job\n"):
    preparer = Preparer(run.root.parents[1], pause_below, lambda _revision: source, lambda: 1000.0)
    action = Prepare(
        key="k", run="truck@1", attempt=attempt, token=token, job=job, scratch_allowed=scratch, set_aside=set_aside
    )
    (event,) = preparer(action)
    return event


def test_a_run_without_a_checkpoint_starts_from_the_beginning(run):
    """The directory is furnished: the bytes that were checked, the fence token, a folder for the attempt."""
    event = prepare(run, attempt=1, scratch=True)
    assert isinstance(event, Prepared)
    assert event.start == "fresh"
    assert run.job.read_bytes() == b"# job\n"
    assert json.loads(run.token.read_text())["token"] == 7
    assert run.attempt(1).root.is_dir()
    assert not run.train.exists()


def test_the_newest_epoch_wins_not_the_name(run):
    """last.pt of epoch 3 and epoch5.pt: the training goes on after six complete epochs, and last.pt is replaced."""
    checkpoint(run.weights / "last.pt", 3)
    checkpoint(run.weights / "epoch5.pt", 5)
    before = (run.weights / "last.pt").read_bytes()
    event = prepare(run)
    assert (event.start, event.from_epoch, event.checkpoint) == ("resume", 6, str(run.weights / "last.pt"))
    assert (run.weights / "last.pt").read_bytes() == (run.weights / "epoch5.pt").read_bytes()
    assert (run.attempt(2).aside / "last.pt").read_bytes() == before


def test_a_torn_last_checkpoint_is_replaced_and_kept_for_study(run):
    """best.pt holds the optimizer while the run is going: it takes the place of a torn last.pt."""
    checkpoint(run.weights / "best.pt", 4)
    (run.weights / "last.pt").write_bytes(b"")
    event = prepare(run)
    assert (event.start, event.from_epoch) == ("resume", 5)
    assert (run.attempt(2).aside / "last.pt").read_bytes() == b""
    assert any("torn" in note for note in event.notes)


def test_the_table_of_epochs_ends_with_the_checkpoint(run):
    """A row without its checkpoint, and one that stands twice, are cut; the whole table is kept aside."""
    checkpoint(run.weights / "last.pt", 1)
    table = f"{HEADER}1,1,9\n2,2,8\n2,1,7\n3,2,6\n"
    run.results.write_text(table)
    event = prepare(run)
    assert run.results.read_text() == f"{HEADER}1,1,9\n2,1,7\n"
    assert (run.attempt(2).aside / "results.csv").read_text() == table
    assert any("2 rows" in note for note in event.notes)


def test_nothing_starts_from_scratch_when_epochs_were_saved(run):
    """Every checkpoint torn or gone, although there were good ones: a person must look."""
    assert prepare(run).start == "refused"
    run.weights.mkdir(parents=True)
    (run.weights / "last.pt").write_bytes(b"torn")
    assert prepare(run).start == "refused"
    assert (run.weights / "last.pt").read_bytes() == b"torn"


def test_a_torn_file_of_a_run_that_never_saved_is_moved_aside(run):
    """Killed inside its very first save: the start from the beginning loses nothing, and finds no torn file."""
    run.weights.mkdir(parents=True)
    (run.weights / "last.pt").write_bytes(b"torn")
    assert prepare(run, scratch=True).start == "fresh"
    assert not (run.weights / "last.pt").exists()
    assert (run.attempt(2).aside / "last.pt").read_bytes() == b"torn"


def test_a_finished_run_is_never_trained_again(run):
    """Not even if a start from scratch were allowed."""
    checkpoint(run.weights / "last.pt", 7, stripped=True)
    assert prepare(run, scratch=True).start == "finished"


def test_a_run_whose_epochs_are_all_done_is_only_finished(run):
    """Killed between the last save and the strip: no epoch too many."""
    checkpoint(run.weights / "last.pt", 7)
    event = prepare(run)
    assert (event.start, event.from_epoch) == ("finish", 8)


def test_another_job_of_the_same_name_moves_the_old_result_aside(run):
    """Nothing is deleted, and the new run finds an empty place."""
    checkpoint(run.weights / "last.pt", 7, stripped=True)
    event = prepare(run, attempt=3, scratch=True, set_aside=True)
    assert event.start == "fresh"
    assert (run.root / "before-1" / "train" / "weights" / "last.pt").exists()
    assert not run.train.exists()
    again = prepare(run, attempt=3, scratch=True, set_aside=True)
    assert again.start == "fresh"
    assert not (run.root / "before-2").exists()


HOOKED = Job(name="truck", project="p", revision="r1", command=("python", "x.py"))


@pytest.fixture
def home(run, tmp_path):
    """Where an older run of the name trained, as its hook told: outside of the run directory."""
    made = tmp_path / "home"
    checkpoint(made / "weights" / "last.pt", 3)
    (made / "results.csv").write_text(f"{HEADER}1,1,1\n")
    run.attempt(1).root.mkdir(parents=True)
    run.attempt(1).beats.write_text(json.dumps({"v": 1, "kind": "fresh", "at": 1.0, "save_dir": str(made)}) + "\n")
    return made


@pytest.mark.parametrize("left", ["results.csv", "weights/last.pt"])
def test_another_job_of_the_name_touches_nothing_outside(run, home, left):
    """The older training's table and checkpoints stay in the user's folder: the new run does not know of it."""
    assert prepare(run, attempt=2, scratch=True, set_aside=True, job=HOOKED).start == "fresh"
    assert (home / left).exists()
    assert (run.root / "before-1" / "beats-1.jsonl").exists()


def test_another_job_of_the_name_never_goes_on_from_the_older_ones_folder(run, home):
    """That was away when the new run began, which died before it said where it trains: it begins once more."""
    home.rename(home.with_name("away"))
    assert prepare(run, attempt=2, scratch=True, set_aside=True, job=HOOKED).start == "fresh"
    home.with_name("away").rename(home)
    assert prepare(run, attempt=3, token=8, scratch=True, job=HOOKED).start == "fresh"


def test_a_data_set_that_is_gone_is_a_cause(run, tmp_path):
    """Its file system is mounted: nothing is put in place, and what is there again is resumed as ever."""
    facts = tmp_path / "facts.json"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat '{facts}'\n")
    python.chmod(0o755)
    there = {"version": 1, "data": {"name": "d", "splits": {"train": {"images": 8}}}}
    facts.write_text(json.dumps(there))
    job = Job(name="truck", project="p", revision="r1", python=str(python), train={"data": "d", "epochs": 8})
    prepare(run, attempt=1, token=6, scratch=True, job=job)
    checkpoint(run.weights / "epoch5.pt", 5)
    facts.write_text(json.dumps({"version": 1, "data": {"name": "d", "missing": ["/mnt/d"]}}))
    event = prepare(run, job=job)
    assert isinstance(event, PrepareFailed)
    assert (event.cause, event.waiting_for, event.at) == ("dataset-missing", "", 1000.0)
    assert not (run.weights / "last.pt").exists()
    facts.write_text(json.dumps(there))
    assert prepare(run, job=job).start == "resume"


def test_preparing_twice_does_no_harm(run):
    """The daemon may die between doing and noting it."""
    checkpoint(run.weights / "epoch5.pt", 5)
    (run.weights / "last.pt").write_bytes(b"torn")
    first, second = prepare(run), prepare(run)
    assert (first.start, first.from_epoch, first.checkpoint) == (second.start, second.from_epoch, second.checkpoint)
    assert [path.name for path in run.attempt(2).aside.iterdir()] == ["last.pt"]


def test_a_preparation_that_the_run_has_left_behind_touches_nothing(run):
    """It was stopped while it was prepared: no token, no checkpoint is moved."""
    checkpoint(run.weights / "epoch5.pt", 5)
    preparer = Preparer(run.root.parents[1], 0, lambda _revision: b"", lambda: 1000.0, lambda _action: False)
    action = Prepare(key="k", run="truck@1", attempt=2, token=7, job=JOB, scratch_allowed=False)
    with pytest.raises(PermanentError, match="no longer waits"):
        preparer(action)
    assert not run.token.exists()
    assert not (run.weights / "last.pt").exists()


def test_what_is_kept_of_an_older_run_is_no_checkpoint_of_this_one(run):
    """A pattern with ** finds the files in before-1 and in attempts: they are not the run's."""
    job = Job(
        name="truck",
        project="p",
        revision="r",
        command=("train",),
        resume_command=("train", "{checkpoint}"),
        checkpoint_files=("{run_dir}/**/*.pt",),
    )
    checkpoint(run.root / "exp" / "last.pt", 3)
    event = prepare(run, job=job, scratch=True, set_aside=True)
    assert event.start == "fresh"
    assert (run.root / "before-1" / "exp" / "last.pt").exists()


def test_a_late_preparation_finds_a_newer_fence_and_leaves(run):
    """The run was stopped and prepared anew meanwhile: the old order touches nothing."""
    checkpoint(run.weights / "last.pt", 3)
    prepare(run, attempt=3, token=8)
    with pytest.raises(PermanentError, match="token 8"):
        prepare(run, attempt=2, token=7)
    assert json.loads(run.token.read_text())["token"] == 8
    assert not run.attempt(2).root.exists()


def test_a_directory_that_knows_more_than_the_journal_is_not_touched(run):
    """The journal was lost and counts from 1 again: a living training must not lose its fence, nor an old one its files."""
    used = run.attempt(1).root
    used.mkdir(parents=True)
    (used / "started.json").write_text(
        json.dumps(
            {
                "version": 1,
                "shim_pid": 1,
                "shim_start_time": 1,
                "pid": 2,
                "start_time": 1,
                "boot_id": "older",
                "pid1_start_time": 1,
                "started_at": 1.0,
            }
        )
    )
    with pytest.raises(PermanentError, match="journal lost"):
        prepare(run, attempt=1, scratch=True)
    assert not run.token.exists()


def test_nothing_is_touched_while_an_older_attempt_has_processes(run):
    """Its shim holds the lock: come again later."""
    older = run.attempt(1).root
    older.mkdir(parents=True)
    with (older / "shim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RetryableError, match="attempt 1"):
            prepare(run)
        assert not run.token.exists()


def test_a_stray_file_beside_the_attempts_is_no_attempt(run):
    """A note that somebody left there has no processes."""
    run.attempt(1).root.mkdir(parents=True)
    (run.root / "attempts" / "notes.txt").write_text("mine")
    assert prepare(run, scratch=True).start == "fresh"
    assert (run.root / "attempts" / "notes.txt").read_text() == "mine"


def test_too_little_space_waits_for_the_disk(run):
    """Nothing is started on a full disk; the run says what it waits for."""
    event = prepare(run, pause_below=2**62)
    assert isinstance(event, PrepareFailed)
    assert event.waiting_for == "disk"
    assert "disk.pause_below" in event.reason


def test_every_place_that_it_writes_must_have_room(run, tmp_path, monkeypatch):
    """A full temporary folder or disk of checkpoints ends a training as surely: it waits before it begins."""
    plenty = Room(1, 1000 * GIB, 500 * GIB, None, False)
    rooms = {}
    monkeypatch.setattr(resources, "room", lambda path, _within_s=0: rooms.get(str(path), plenty))
    monkeypatch.setenv("TMPDIR", "/scratch")
    job = Job(name="truck", project="p", revision="r1", command=("x",), checkpoint_files=("/ckpt/*.pt",))
    for place in ("/scratch", "/ckpt"):
        rooms = {place: Room(2, 1000 * GIB, 0, None, False)}
        event = prepare(run, job=job, scratch=True)
        assert (type(event), event.waiting_for) == (PrepareFailed, "disk")
        assert place in event.reason
        assert not run.root.exists()
    rooms = {}
    assert isinstance(prepare(run, job=job, scratch=True), Prepared)


def test_there_must_be_room_for_the_next_checkpoints(run, monkeypatch):
    """Three of the newest one, wherever disk.pause_below is: the first save would be the end of it."""
    checkpoint(run.weights / "last.pt", 3)
    size = (run.weights / "last.pt").stat().st_size
    for free, waits in ((3 * size - 1, True), (3 * size, False)):
        found = Room(1, 1000 * GIB, free, None, False)
        plenty = Room(2, 1000 * GIB, 500 * GIB, None, False)
        monkeypatch.setattr(
            resources, "room", lambda path, _=0, found=found, plenty=plenty: found if path == run.root else plenty
        )
        event = prepare(run)
        assert isinstance(event, PrepareFailed) is waits
        assert not waits or "next checkpoints" in event.reason


def test_a_place_that_does_not_answer_is_waited_for_and_one_that_is_forbidden_is_not(run, monkeypatch):
    """A training on a dead temporary folder would hang; what nobody may look at need not be full."""
    plenty = Room(1, 1000 * GIB, 500 * GIB, None, False)
    monkeypatch.setenv("TMPDIR", "/scratch")
    for error, waits in ((NoAnswerError("/scratch", 1.0), True), (PermissionError(13, "no"), False)):

        def room(path, _within_s=0, error=error):
            if str(path) == "/scratch":
                raise error
            return plenty

        monkeypatch.setattr(resources, "room", room)
        event = prepare(run, scratch=True)
        assert isinstance(event, PrepareFailed) is waits
        assert not waits or "/scratch (temporary files) does not answer" in event.reason


def test_a_planted_link_leads_nowhere(run, tmp_path):
    """A run directory that is a symbolic link could be anybody's folder."""
    run.root.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    run.root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermanentError, match="symbolic link"):
        prepare(run, scratch=True)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_command_job_without_a_way_to_resume_is_refused(run):
    """Its checkpoint is there, but starting it again would begin from scratch."""
    job = Job(name="truck", project="p", revision="r", command=("train",), checkpoint_files=("{run_dir}/w/*.pt",))
    checkpoint(run.root / "w" / "last.pt", 3)
    event = prepare(run, job=job, scratch=True)
    assert event.start == "refused"
    assert "resume_command" in event.reason
    resumable = Job(
        **{**{name: getattr(job, name) for name in job.__struct_fields__}, "resume_command": ("train", "{checkpoint}")}
    )
    event = prepare(run, job=resumable)
    assert (event.start, event.checkpoint) == ("resume", str(run.root / "w" / "last.pt"))
