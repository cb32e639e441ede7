"""Folders that people trained in: what they are, whose they are, and how a run goes on in them, on real files."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from begun_by_hand import begin

from supervisor import attempt_files
from supervisor.clock import current_boot
from supervisor.core.actions import Prepare, Terminate
from supervisor.core.events import Prepared, PrepareFailed
from supervisor.core.job import Watch
from supervisor.core.model import Goal, Job
from supervisor.effects import adoption, live_trainings
from supervisor.effects.live_trainings import Training
from supervisor.effects.prepare import Preparer
from supervisor.engines import local
from supervisor.errors import PermanentError, RetryableError
from supervisor.layout import RunDirectory


@pytest.fixture
def runs_dir(tmp_path):
    """Where runs are kept."""
    return tmp_path / "runs"


@pytest.fixture
def run(runs_dir):
    """The directory of a run that adopts."""
    made = RunDirectory(runs_dir / "p" / "truck")
    made.root.mkdir(parents=True)
    return made


@pytest.fixture
def living():
    """A person's training that lives, as far as anybody can see."""
    process = subprocess.Popen(["sleep", "60"])
    yield own_watch(pid=process.pid, start_time=attempt_files.process_start_time(process.pid))
    process.kill()
    process.wait()


@pytest.fixture
def folder(tmp_path):
    """A person's folder: see begun_by_hand."""
    return begin(tmp_path)


def job(folder, **keys):
    """A job that goes on there."""
    return Job(
        **{"name": "truck", "project": "p", "revision": "r1", "train": {"epochs": 8}, "adopt": str(folder), **keys}
    )


def own_watch(**changes):
    """This very process as the one to watch."""
    pid = os.getpid()
    facts = {"pid": pid, "start_time": attempt_files.process_start_time(pid), "boot_id": current_boot().boot_id}
    return Watch(**{**facts, **changes})


def prepare(run, made, *, attempt=1, scratch=True, **keys):
    """Prepare an attempt as the daemon would."""
    preparer = Preparer(run.root.parents[1], 0, lambda _revision: b"# job\n", lambda: 1000.0)
    action = Prepare(
        key="k", run="truck@1", attempt=attempt, token=6 + attempt, job=made, scratch_allowed=scratch, **keys
    )
    [event] = preparer(action)
    return event


def listing(folder):
    """Every file below a folder, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- the link
def test_a_run_goes_on_in_the_folder_itself(run, folder):
    """The newest good checkpoint is resumed through the link; only the surplus row is cut, and kept aside by us."""
    before = listing(folder)
    event = prepare(run, job(folder))
    assert (event.start, event.from_epoch) == ("resume", 3)
    assert run.train.is_symlink()
    assert run.train.samefile(folder)
    after = listing(folder)
    assert after.pop("results.csv") == b"epoch,time\n1,1\n2,2\n3,3\n"
    assert (run.attempt(1).aside / "results.csv").read_bytes() == before.pop("results.csv")
    assert after == before


def test_the_link_is_made_once(run, runs_dir, folder):
    """A second preparation finds it and changes nothing."""
    adoption.link(run, job(folder), runs_dir)
    stamp = run.train.lstat().st_ino
    adoption.link(run, job(folder), runs_dir)
    assert run.train.lstat().st_ino == stamp


def test_an_empty_folder_makes_way_for_the_link(run, runs_dir, folder):
    """A folder `train` in which nothing lies is replaced."""
    run.train.mkdir()
    adoption.link(run, job(folder), runs_dir)
    assert run.train.is_symlink()


def test_a_folder_with_files_does_not(run, runs_dir, folder):
    """What a run made itself is not hidden by a link."""
    run.train.mkdir()
    (run.train / "results.csv").touch()
    with pytest.raises(PermanentError, match="files of its own"):
        adoption.link(run, job(folder), runs_dir)
    assert (run.train / "results.csv").exists()


def test_a_link_that_leads_elsewhere_is_not_followed(run, runs_dir, folder, tmp_path):
    """A job file that was edited must not change the folder of a run."""
    run.train.symlink_to(tmp_path)
    with pytest.raises(PermanentError, match="leads to"):
        adoption.link(run, job(folder), runs_dir)


def test_a_folder_is_continued_by_one_run_only(run, runs_dir, folder):
    """Two runs in one folder would be two writers of one last.pt."""
    other = RunDirectory(runs_dir / "q" / "bus")
    other.root.mkdir(parents=True)
    adoption.link(other, job(folder, name="bus", project="q"), runs_dir)
    assert adoption.owner_of(runs_dir, folder) == "q/bus"
    with pytest.raises(PermanentError, match="continued by q/bus"):
        adoption.link(run, job(folder), runs_dir)
    assert not run.train.exists()


def test_a_run_of_ours_is_not_adopted(run, runs_dir):
    """A folder below runs_dir is one of ours already."""
    ours = runs_dir / "q" / "bus" / "train"
    ours.mkdir(parents=True)
    with pytest.raises(PermanentError, match="a run of ours"):
        adoption.link(run, job(ours), runs_dir)


def test_a_new_job_of_the_name_moves_the_link_and_not_the_folder(run, folder):
    """What the person's folder holds stays where it is, when the run's leftovers are set aside."""
    prepare(run, job(folder))
    before = listing(folder)
    event = prepare(run, Job(name="truck", project="p", revision="r2", train={"epochs": 8}), attempt=2, set_aside=True)
    assert event.start == "fresh"
    assert not run.train.is_symlink()
    assert (run.root / "before-1" / "train").is_symlink()
    assert listing(folder) == before


def test_a_link_to_an_empty_folder_is_moved_as_well(run, runs_dir, tmp_path):
    """A new job of the name must not train in a person's folder, although nothing lies there any more."""
    (tmp_path / "mine").mkdir()
    adoption.link(run, job(tmp_path / "mine"), runs_dir)
    prepare(run, Job(name="truck", project="p", revision="r2", train={"epochs": 8}), set_aside=True)
    assert not run.train.is_symlink()


def test_a_name_that_was_used_before_can_adopt(run, folder):
    """The leftovers of the older run go aside; the adopted folder is none of them."""
    run.train.mkdir()
    (run.train / "old").touch()
    event = prepare(run, job(folder), set_aside=True)
    assert (event.start, event.from_epoch) == ("resume", 3)
    assert (run.root / "before-1" / "train" / "old").exists()


def test_nothing_to_resume_is_never_begun_anew(run, folder):
    """A person's interrupted training with torn files only: a person must look, and nothing in the folder changes."""
    for name in ("last.pt", "best.pt"):
        (folder / "weights" / name).write_bytes(b"PK torn")
    before = listing(folder)
    event = prepare(run, job(folder))
    assert event.start == "refused"
    assert listing(folder) == before


def test_a_folder_that_is_not_there_is_waited_for(run, tmp_path):
    """Its disk may not be mounted yet."""
    event = prepare(run, job(tmp_path / "gone"))
    assert isinstance(event, PrepareFailed)
    assert event.waiting_for == "mount"


def test_a_link_to_a_folder_that_is_not_there_is_waited_for(run, folder):
    """Nor is it held, or trained into nowhere, when the job file names the folder no more."""
    prepare(run, job(folder))
    folder.rename(folder.with_name("away"))
    event = prepare(run, job(""), attempt=2)
    assert isinstance(event, PrepareFailed)
    assert event.waiting_for == "mount"
    assert str(folder) in event.reason
    folder.with_name("away").rename(folder)
    assert prepare(run, job(""), attempt=3).start == "resume"


# ---- a training that lives
def test_a_living_training_is_watched_and_nothing_of_it_touched(run, folder):
    """No row is cut and no checkpoint replaced under the hands of a training that runs."""
    before = listing(folder)
    event = prepare(run, job(folder, watch=own_watch()))
    assert isinstance(event, Prepared)
    assert event.start == "watch"
    assert listing(folder) == before


@pytest.mark.parametrize("changes", [{"start_time": 1}, {"boot_id": "an older boot"}], ids=["number", "boot"])
def test_another_process_with_its_number_is_not_it(run, folder, changes):
    """Gone, and its number given to a stranger: an ordinary resume."""
    watch = own_watch(**changes)
    assert not adoption.lives(watch)
    assert prepare(run, job(folder, watch=watch)).start == "resume"


def test_a_process_of_another_container_is_not_called_dead(folder):
    """It cannot be seen from here, so nothing may be started beside it: a person is asked."""
    with pytest.raises(PermanentError, match="another container"):
        adoption.lives(own_watch(pid_namespace=1))
    assert adoption.lives(own_watch(pid_namespace=attempt_files.pid_namespace()))


def test_a_process_that_ended_does_not_live(folder):
    """Dead but not asked by its parent yet (a zombie): it trains no more."""
    process = subprocess.Popen(["sleep", "60"])
    start_time = attempt_files.process_start_time(process.pid)
    watch = own_watch(pid=process.pid, start_time=start_time)
    assert adoption.lives(watch)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not adoption.lives(watch)
    process.wait()
    assert not adoption.lives(watch)


def test_a_rewind_waits_for_the_living_training(run, folder):
    """Going back under the hands of a training that runs would ruin it."""
    event = prepare(run, job(folder, watch=own_watch()), goal=Goal(kind="rewind", epoch=2))
    assert isinstance(event, PrepareFailed)
    assert event.waiting_for == "person"


def test_somebody_at_work_in_the_folder_is_waited_for(run, folder, monkeypatch):
    """Another training was begun there by hand: nothing second is started."""
    training = Training(77, 1, ("python", "/env/bin/yolo", "train", f"resume={folder}/weights/last.pt"), cwd="/")
    monkeypatch.setattr(live_trainings, "everyone", lambda: iter([training]))
    event = prepare(run, job(folder))
    assert isinstance(event, PrepareFailed)
    assert "process 77 trains there" in event.reason


def started(run, number, watch, **record):
    """The files of an attempt that watched this process."""
    attempt = run.attempt(number).root
    attempt.mkdir(parents=True)
    boot_id, pid1 = attempt_files.boot_identity()
    facts = {"shim_pid": 2**22 + 1, "shim_start_time": 1, "pid": watch.pid, "start_time": watch.start_time}
    known = {**facts, "boot_id": boot_id, "pid1_start_time": pid1, "started_at": 1.0, "watched": True}
    (attempt / "started.json").write_text(json.dumps(known))
    if record:
        attempt_files.write_exit(
            attempt, attempt_files.Exit(code=None, signal=None, ended_at=2.0, started_at=1.0, **record)
        )
    return attempt


def test_a_watched_training_that_lives_keeps_the_fence_closed(run, folder, living):
    """Its watcher was killed and it still trains: no second trainer, although no lock is held."""
    watch = living
    started(run, 1, watch)
    with pytest.raises(RetryableError, match="attempt 1 still has processes"):
        prepare(run, job(folder), attempt=2)
    with pytest.raises(RetryableError, match="attempt 1 still has processes"):
        prepare(run, job(folder, watch=watch), attempt=2)


def test_a_training_that_was_let_go_can_be_watched_again(run, folder, living):
    """The watcher left by order; the next attempt watches the same process."""
    watch = living
    started(run, 1, watch, watched=True, detached=True)
    assert prepare(run, job(folder, watch=watch), attempt=2).start == "watch"


def test_a_training_that_was_let_go_is_no_reason_to_start_beside_it(run, folder, living):
    """The job file lost its `watch`: the living process still keeps the fence closed."""
    started(run, 1, living, watched=True, detached=True)
    with pytest.raises(RetryableError, match="still has processes"):
        prepare(run, job(folder), attempt=2)


# ---- no signal ever
@pytest.mark.parametrize("how", ["term", "abort", "kill"])
def test_an_end_is_ordered_of_the_watcher_only(run, runs_dir, how, monkeypatch):
    """Neither the training nor a child of it gets a signal, whatever is ordered; a dead watcher's record is made."""
    sent = []
    monkeypatch.setattr(attempt_files, "signal_process", lambda *words: sent.append(words) or True)
    attempt = started(run, 1, own_watch())
    engine = local.LocalEngine(runs_dir, lambda: 5.0, allow_download=False)
    order = Terminate(key="k", run="truck@1", attempt=1, how=how, project="p", name="truck")
    [event] = engine.terminate(order)
    assert (sent, event.signal) == ([], "LEAVE")
    record = attempt_files.read_exit(attempt)
    assert record is not None
    assert record.detached
    assert sent == []


def test_not_even_the_killing_of_a_tree_touches_it(run, living):
    """The one function that sends SIGKILL refuses a watched training by itself."""
    attempt = started(run, 1, living)
    assert local.kill_tree(attempt, attempt_files.read_started(attempt)) == 0
    assert adoption.lives(living)


@pytest.mark.parametrize("how", ["term", "abort", "kill"])
def test_what_a_dead_training_left_is_not_ended(run, runs_dir, how, monkeypatch):
    """Ranks may train on without their parent: the watcher is not sent away either, it waits for them."""
    sent = []
    monkeypatch.setattr(attempt_files, "signal_process", lambda *words: sent.append(words) or True)
    attempt = started(run, 1, own_watch(start_time=1))
    engine = local.LocalEngine(runs_dir, lambda: 5.0, allow_download=False)
    [event] = engine.terminate(Terminate(key="k", run="truck@1", attempt=1, how=how, project="p", name="truck"))
    assert (sent, event.count) == ([], 0)
    assert attempt_files.read_exit(attempt) is None
