"""What becomes of job files: new, edited, repeated, deleted, and two of one name."""

from __future__ import annotations

import pytest
from bench import Bench, edited, make_job

from supervisor.core import actions, events
from supervisor.core.model import Job, Phase
from supervisor.core.revisions import ALLOWED_TRAIN_KEYS, resume_differences

PATH = "/jobs/a.toml"
STARTED = [phase for phase in Phase if not phase.terminal and phase is not Phase.QUEUED]


def edit(bench, name="a", path=PATH, **fields):
    """Save another revision of the job file."""
    run = bench.run(name)
    job = edited(run.next_job or run.job, file=path, **fields)
    bench.tell(events.JobFileSeen, path=path, data=b"y", revision=job.revision, owner=0)
    bench.tell(events.JobAccepted, path=path, job=job)
    return job


def refusal(bench, path=PATH):
    """What the file was refused for, if it was."""
    return bench.world.files[path].refused


def test_a_new_file_is_checked_and_becomes_a_run():
    """Seen → checked once → accepted → a queued run, and an old .error file goes away."""
    bench = Bench()
    bench.submit(note="no final newline")
    assert bench.phase() is Phase.PREPARING
    assert bench.world.files[PATH].run == "a@1"
    assert [one.what for one in bench.of(actions.MarkFile)] == ["accepted"]
    assert "odd-file" in bench.said("a")
    bench.tell(events.JobFileSeen, path=PATH, data=b"x", revision="a-1", owner=0)
    assert len(bench.of(actions.CheckJob)) == 1


def test_a_refused_file_gets_its_reasons_and_pages():
    """The reasons go beside the file and to the channels, with what to do. Saved again, it is checked again."""
    bench = Bench()
    for _ in range(2):
        bench.tell(events.JobFileSeen, path=PATH, data=b"x", revision="r1", owner=0)
        bench.tell(events.JobRefused, path=PATH, revision="r1", problem="epochs: expected a number")
    marks = bench.of(actions.MarkFile)
    assert {mark.text for mark in marks} == {"epochs: expected a number"}
    assert len(bench.of(actions.CheckJob)) == 2
    assert bench.of(actions.Announce)[0].severity == "page"
    assert PATH in bench.of(actions.Announce)[0].todo
    assert bench.world.live == {}


def test_an_answer_about_an_older_revision_is_ignored():
    """The file was saved again while it was checked: only the newest content counts."""
    bench = Bench()
    for revision in ("r1", "r2"):
        bench.tell(events.JobFileSeen, path=PATH, data=b"x", revision=revision, owner=0)
    bench.tell(events.JobAccepted, path=PATH, job=make_job(revision="r1", file=PATH))
    bench.tell(events.JobRefused, path=PATH, revision="r1", problem="x")
    assert bench.world.live == {}
    assert refusal(bench) == ""
    bench.tell(events.JobAccepted, path=PATH, job=make_job(revision="r2", file=PATH))
    assert bench.run().job.revision == "r2"


def test_an_answer_about_a_file_that_is_gone_is_ignored():
    """Deleted while it was checked: nothing starts."""
    bench = Bench()
    bench.tell(events.JobFileSeen, path=PATH, data=b"x", revision="r1", owner=0)
    bench.tell(events.JobFileGone, path=PATH)
    bench.tell(events.JobAccepted, path=PATH, job=make_job(revision="r1", file=PATH))
    assert bench.world.live == {}


def test_an_edit_before_the_first_attempt_replaces():
    """Anything may change, epochs and model too: nothing of the old revision is left."""
    bench = Bench()
    bench.bring_to(Phase.QUEUED)
    train = {"model": "/other.yaml", "data": "/d.yaml", "epochs": 99}
    job = edit(bench, train=train, priority=3, start_after_at=None)
    assert bench.run().job == job
    assert bench.run().priority == 3
    assert bench.of(actions.Prepare)[-1].job == job
    assert refusal(bench) == ""


@pytest.mark.parametrize("phase", STARTED)
def test_an_allowed_edit_takes_effect_at_the_next_attempt(phase):
    """A change that a resume may make is told, does nothing to the attempt under way, and is used by the next one."""
    bench = Bench()
    old = bench.bring_to(phase).job
    new = edit(bench, train={**old.train, "imgsz": 512}, notes="x")
    assert (bench.run().job, bench.run().next_job) == (old, new)
    assert bench.phase() is phase
    text = next(one.text for one in bench.of(actions.Announce, "a") if one.what == "revised")
    assert "notes" in text
    assert "train.imgsz" in text
    bench.tell(events.CancelAsked, "a", by="x")


@pytest.mark.parametrize("phase", STARTED)
def test_a_refused_edit_changes_nothing(phase):
    """A change that a resume cannot make is refused with the reason, and the run goes on with the old revision."""
    bench = Bench()
    run = bench.bring_to(phase)
    edit(bench, train={**run.job.train, "epochs": 300})
    assert bench.run() == run
    assert "train.epochs" in refusal(bench)
    assert "goes on unchanged" in refusal(bench)


def test_the_next_attempt_takes_the_edit():
    """After the failure the new revision is what is prepared and launched."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    new = edit(bench, notes="second")
    bench.die(code=1)
    bench.wait(0.0)
    assert bench.of(actions.Prepare)[-1].job == new
    assert (bench.run().job, bench.run().next_job) == (new, None)
    assert bench.run().attempt.revision == new.revision


def test_an_edit_taken_back_before_it_took_effect():
    """The file is as it was: the next attempt runs the old revision."""
    bench = Bench()
    old = bench.bring_to(Phase.RUNNING).job
    edit(bench, notes="second")
    bench.tell(events.JobFileSeen, path=PATH, data=b"x", revision=old.revision, owner=0)
    bench.tell(events.JobAccepted, path=PATH, job=old)
    bench.die(code=1)
    bench.wait(0.0)
    assert bench.of(actions.Prepare)[-1].job == old


def test_a_deleted_file_stops_nothing():
    """The run goes on, and the message names the way to stop it."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.tell(events.JobFileGone, path=PATH)
    assert bench.phase() is Phase.RUNNING
    assert "yolo-supervisor cancel a" in bench.of(actions.Announce, "a")[-1].text
    bench.submit()
    assert len(bench.world.live) == 1
    assert bench.world.files[PATH].run == "a@1"


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED])
def test_the_same_content_never_runs_twice(phase):
    """An ended job dropped again unchanged is refused with the way to run it again."""
    bench = Bench()
    bench.bring_to(phase)
    bench.tell(events.JobFileGone, path=PATH)
    bench.submit()
    assert "yolo-supervisor retry a" in refusal(bench)
    assert bench.run().id == "a@1"


def test_other_content_under_an_ended_name_is_a_new_run():
    """What the older run left is set aside, not continued and not overwritten; attempts are counted on."""
    bench = Bench()
    bench.bring_to(Phase.SUCCEEDED)
    bench.submit(revision="a-2")
    run = bench.run()
    assert (run.id, run.predecessor, run.attempts) == ("a@2", "a@1", 2)
    prepare = bench.of(actions.Prepare)[-1]
    assert (prepare.set_aside, prepare.scratch_allowed) == (True, True)
    bench.launch()
    bench.save(2)
    bench.die(code=1)
    bench.wait(0.0)
    prepare = bench.of(actions.Prepare)[-1]
    assert (prepare.set_aside, prepare.scratch_allowed) == (False, False)


def test_an_ended_run_that_never_started_leaves_nothing_to_set_aside():
    """Cancelled in the queue: the next content under that name starts like any first one."""
    bench = Bench()
    bench.bring_to(Phase.QUEUED)
    bench.tell(events.CancelAsked, "a", by="ann")
    bench.submit(revision="a-2")
    assert bench.of(actions.Prepare)[-1].set_aside is False


def test_an_edit_of_a_new_run_under_an_old_name_replaces_too():
    """A new run has not started yet, even if its name has: any edit replaces it."""
    bench = Bench(max_running=1)
    bench.bring_to(Phase.SUCCEEDED)
    bench.submit("other")
    bench.submit(revision="a-2")
    assert bench.phase() is Phase.QUEUED
    job = edit(bench, train={"model": "/m.yaml", "data": "/d.yaml", "epochs": 99})
    assert refusal(bench) == ""
    assert bench.run().job == job
    bench.launch("other")
    bench.finish("other")
    assert bench.of(actions.Prepare)[-1].job == job
    assert bench.of(actions.Prepare)[-1].set_aside is True


def test_two_files_of_one_name():
    """The second file is refused while the first one is there and its run lives."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    bench.submit(path="/jobs/b.toml", revision="b-1")
    assert "has this name" in refusal(bench, "/jobs/b.toml")
    assert len(bench.world.live) == 1


def test_another_name_in_the_file_of_a_live_run():
    """Renaming the job in its file would leave the live run without one: refused."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING)
    job = make_job("b", file=PATH, revision="b-1")
    bench.tell(events.JobFileSeen, path=PATH, data=b"x", revision="b-1", owner=0)
    bench.tell(events.JobAccepted, path=PATH, job=job)
    assert "belongs to the live run a" in refusal(bench)
    assert bench.world.named("b") is None


def test_the_file_of_an_ended_run_goes_to_done_once():
    """The mark names the revision, so that a file that was edited meanwhile stays."""
    bench = Bench()
    run = bench.bring_to(Phase.SUCCEEDED)
    done = [one for one in bench.of(actions.MarkFile) if one.what == "done"]
    assert [(one.path, one.revision, one.key) for one in done] == [(PATH, run.job.revision, "a@1/mark-done")]
    bench.tell(events.RetryAsked, "a", by="ann")
    bench.launch(start="resume", from_epoch=1)
    bench.finish()
    assert len([one for one in bench.of(actions.MarkFile) if one.what == "done"]) == 1


# ---- what a resume may take over
def changed(**fields):
    """The allowed and the refused keys of one edit."""
    old = make_job(command=("x",)) if "command" in fields else make_job()
    allowed, refused = resume_differences(old, edited(old, **fields))
    return allowed, [problem.key for problem in refused]


@pytest.mark.parametrize(
    "field", sorted(set(Job.__struct_fields__) - {"revision", "file", "env_pass", "trainer_version"})
)
def test_every_field_of_a_job_is_allowed_or_refused(field):
    """No key of a job file changes silently: each one is taken over or refused with a reason."""
    values = {"train": {"model": "/x.yaml"}, "tags": ("x",), "env": {"A": "1"}, "settings": {"a": 1}, "owner": 7}
    other = {"restart": make_job().restart.__class__(no_progress=9), "done": make_job().done.__class__(exit=3)}
    other["gpu"] = make_job().gpu.__class__(min=1)
    other["checkpoints"] = make_job().checkpoints.__class__(keep_last=9)
    default = {str: "other", int: 7, float: 7.0, tuple: ("x",), type(None): 7.0, dict: {"a": 1}}
    known = {**values, **other}
    value = known[field] if field in known else default[type(getattr(make_job(), field))]
    if field == "command":
        value = ("y",)
    allowed, refused = changed(**{field: value})
    assert bool(allowed) != bool(refused)


@pytest.mark.parametrize("key", sorted(ALLOWED_TRAIN_KEYS))
def test_train_keys_that_a_resume_takes(key):
    """What Ultralytics takes from its caller on a resume may be edited."""
    train = dict(make_job().train)
    assert changed(train={**train, key: 3})[0] == [f"train.{key}"]


@pytest.mark.parametrize("key", ["epochs", "model", "optimizer", "lr0", "unheard_of"])
def test_train_keys_that_a_resume_drops(key):
    """What a resume would silently take from the checkpoint is refused instead."""
    assert changed(train={**make_job().train, key: 3}) == ([], [f"train.{key}"])


def test_a_removed_key_is_refused():
    """Leaving a key out does not bring its default back on a resume: refused, not ignored."""
    old = make_job(train={"model": "/m", "data": "/d", "epochs": 3, "imgsz": 320})
    _, refused = resume_differences(old, edited(old, train={"model": "/m", "data": "/d", "epochs": 3}))
    assert [problem.key for problem in refused] == ["train.imgsz"]


def test_nothing_that_matters_changed():
    """A new revision with the same meaning (a comment was edited) is taken over and refused for nothing."""
    assert changed() == ([], [])
