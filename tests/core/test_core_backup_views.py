"""How backups stand, in words and as data: each state of a target, what is covered, and the verdict of `status`."""

from __future__ import annotations

import json

import pytest
from bench import START, Bench
from msgspec.structs import replace

from supervisor.core import events, words
from supervisor.core import views as run_views
from supervisor.core.backups import causes, views
from supervisor.core.backups.model import STATE, Backed, Due, Target, TargetPolicy
from supervisor.core.backups.words import sentences
from supervisor.core.model import Phase, Policy, World

NOW = 2_000_000.0
DAY = 86400.0


def world(*targets, policies=()):
    """A world of targets only."""
    policy = Policy(backups=policies or tuple(TargetPolicy(name=one.name) for one in targets))
    return World(targets={one.name: one for one in targets}, policy=policy)


def target_view(**fields):
    """How one target is shown."""
    one = Target(name="nas", **fields)
    return views.target_view(world(one), one, NOW)


DUE = {STATE: Due(why="the schedule", at=NOW - 5)}


@pytest.mark.parametrize(
    ("fields", "state", "text"),
    [
        ({"ok_at": NOW - 120}, "ok", "last backup 2 min ago"),
        ({}, "ok", "nothing has arrived yet"),
        ({"due": DUE}, "due", "1 task to come, nothing has arrived yet"),
        ({"due": DUE, "quiet": True}, "quiet", "quiet hours: 1 task to come"),
        ({"due": {STATE: replace(DUE[STATE], asked=True)}, "quiet": True}, "due", "1 task to come"),
        ({"verify_due": True, "drill_due": True, "quiet": True}, "quiet", "quiet hours: 2 tasks to come"),
        ({"quiet": True}, "ok", "nothing has arrived"),
        ({"doing": "server/backup-3/nas", "due": DUE}, "sending", "sends the journal"),
        ({"doing": "a@1/backup-3/nas", "doing_run": "a@1"}, "sending", "sends a@1"),
        ({"doing": "server/verify-3/nas"}, "verifying", "reads again what lies there"),
        ({"doing": "server/drill-3/nas"}, "drilling", "rehearses a restore"),
        (
            {"cause": "timeout", "said": "no answer in 60 s", "failing_since": NOW - 90, "retry_at": NOW + 60, "due": DUE},
            "waiting",
            "does not answer in time (no answer in 60 s), since 2 min, tried again in 1 min",
        ),
        (
            {"cause": "full", "said": "ENOSPC", "failing_since": NOW - 7200, "retry_at": NOW + 600, "ok_at": NOW - 9000},
            "trouble",
            "has no room (ENOSPC), since 2 h, tried again in 10 min, last backup 2 h 30 min ago",
        ),
        ({"cause": "timeout", "told": "timeout", "retry_at": NOW + 60}, "trouble", "does not answer in time"),
        ({"retry_at": NOW + 1, "due": DUE}, "waiting", "tried again in 1 s"),
    ],
)  # fmt: skip
def test_each_state_of_a_target_has_a_word_and_a_sentence(fields, state, text):
    """With the cause, since when, and when the next try is."""
    view = target_view(**fields)
    assert view["state"] == state
    assert state in views.STATES
    assert text in view["text"]


def test_every_cause_is_shown_with_what_to_do():
    """The table of causes has words for each; placeholders are filled in."""
    for name in causes.KINDS:
        view = target_view(cause=name, failing_since=NOW)
        assert causes.KINDS[name].means in view["text"]
        assert "{" not in (view["todo"] or "")


def test_what_is_not_known_is_none():
    """Never 0, and everything can be written as JSON."""
    view = target_view()
    for key in (
        "ok_at",
        "verified_at",
        "verified_from_at",
        "drilled_at",
        "proven",
        "retry_at",
        "free_bytes",
        "cause",
        "todo",
    ):
        assert view[key] is None, key
    json.dumps(view)


@pytest.fixture
def bench():
    """A server with two targets and a run that has kept epoch 3."""
    bench = Bench(backups=(TargetPolicy(name="nas"), TargetPolicy(name="oss")))
    bench.submit("truck")
    bench.launch("truck")
    bench.save(3, "truck")
    bench.tell(events.Kept, "truck", attempt=1, epoch=3, file="epoch3.pt")
    return bench


def backed_up(bench, target="nas", run="truck@1", **fields):
    """A backup arrived."""
    fields = {"snapshot": "snap-1", "epoch": 3, "kept_epoch": 3, "files": 9, "bytes": 999, **fields}
    bench.tell(events.BackedUp, target=target, run=run, **fields)


def on(bench, target="nas", now=None):
    """How the run stands on a target."""
    view = views.run_view(bench.world, bench.run("truck"), bench.now if now is None else now)
    return next(one for one in view["targets"] if one["target"] == target)


def test_a_run_is_covered_where_all_that_is_kept_lies(bench):
    """A newer epoch in the ledger uncovers it; the age counts from the last backup, or from its beginning."""
    assert not on(bench)["covered"]
    assert on(bench, now=START + 500)["age_s"] == 500
    assert views.tick(bench.world, bench.run("truck")) == "no"
    backed_up(bench)
    assert (on(bench)["covered"], on(bench)["epoch"], on(bench)["age_s"]) == (True, 3, None)
    assert views.tick(bench.world, bench.run("truck")) == "no"  # not on the other one
    backed_up(bench, "oss")
    assert views.tick(bench.world, bench.run("truck")) == "yes"
    bench.wait(100)
    bench.save(4, "truck")
    bench.tell(events.Kept, "truck", attempt=1, epoch=4, file="epoch4.pt")
    assert (on(bench)["covered"], on(bench)["age_s"]) == (False, 100)


def test_a_run_that_cannot_be_backed_up_says_why(bench):
    """In its row, in its tick and in the warnings."""
    bench.tell(events.BackupFailed, target="nas", run="truck@1", cause="shrunken", text="12 files are gone")
    assert on(bench)["text"].startswith("its backup was not replaced by much less")
    assert views.tick(bench.world, bench.run("truck")) == "trouble"
    assert any(
        one.startswith("truck: its backup to nas was not") for one in views.summary(bench.world, bench.now)["warnings"]
    )


def test_runs_that_want_no_backup_have_no_tick(bench):
    """An empty list in the job file is none; without any target there is no tick at all."""
    bench.submit("car", backup=())
    assert views.tick(bench.world, bench.run("car")) == "none"
    assert views.tick(world(), bench.run("truck")) is None
    rows = run_views.runs_view(bench.world, {}, bench.now)["runs"]
    assert {row["name"]: row["backed_up"] for row in rows} == {"truck": "no", "car": "none"}


def test_the_verdict_names_the_last_proven_restore_and_the_work_at_stake(bench):
    """What `status` shows: each target, what was proven last, and the oldest work that is not backed up."""
    lines = views.summary(bench.world, START + 2040)["lines"]
    assert lines[-2:] == ["no restore was proven yet", "backup age max 34 min"]
    backed_up(bench)
    backed_up(bench, "oss")
    fields = {"epoch": 3, "epoch_wanted": 3, "ok": True, "run": "truck@1"}
    bench.tell(events.Drilled, target="nas", **fields)
    found = views.summary(bench.world, bench.now + 2 * DAY)
    assert found["lines"][-2:] == [
        "last proven restore 2 d ago of truck at epoch 3 from nas",
        "every verified checkpoint of the live runs is backed up",
    ]
    assert found["proven"] == {"target": "nas", "at": bench.now, "run": "truck@1", "epoch": 3}
    assert found["max_age_s"] is None
    status = run_views.status_view(bench.world, bench.now)["backups"]
    assert (status["targets"], len(status["lines"])) == (2, 4)


def test_without_targets_nothing_is_said():
    """Neither lines nor warnings."""
    assert views.summary(World(), NOW) == {"proven": None, "max_age_s": None, "warnings": [], "lines": []}
    assert views.backups_view(World(), NOW)["targets"] == []


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"damaged": ("runs/p/truck/x.pt",), "state_at": NOW}, "nas: 1 damaged files, such as runs/p/truck/x.pt"),
        ({"unproven": "epoch 3 is not 4"}, "a rehearsed restore did not work: epoch 3 is not 4"),
        ({"verified_from": NOW - 31 * DAY}, "some files were last read 31 d ago, and 20 d is wanted"),
        ({"proven_at": NOW - 11 * DAY}, "no restore was proven for 11 d"),
        ({"ok_at": NOW}, "the journal itself was not backed up yet"),
        ({"warning": "rsync 3.2.7 there"}, "nas: rsync 3.2.7 there"),
    ],
)
def test_warnings(fields, warning):
    """What works and will not for ever."""
    [found] = views.summary(world(Target(name="nas", **fields)), NOW)["warnings"]
    assert warning in found


def test_nothing_is_warned_of_in_time():
    """A reading that is due tomorrow is none, and what was turned off is never late."""
    standing = Target(name="nas", ok_at=NOW, state_at=NOW, verified_from=NOW - 25 * DAY, proven_at=NOW - 8 * DAY)
    assert views.summary(world(standing), NOW)["warnings"] == []
    late = replace(standing, verified_from=1.0, proven_at=1.0)
    off = (TargetPolicy(name="nas", verify_s=0.0, drill_s=0.0),)
    assert views.summary(world(late, policies=off), NOW)["warnings"] == []


def test_ended_runs_are_listed_until_they_are_covered(bench):
    """Those of a day, and older ones of which not all lies there; the others with `every`."""
    bench.tell(events.AttemptExited, "truck", code=0, ended_at=bench.now)
    bench.tell(events.AttemptCleared, "truck")
    bench.tell(events.Examined, "truck", finished=True, saved_epoch=3)
    assert bench.run("truck").phase is Phase.SUCCEEDED
    later = bench.now + 2 * DAY
    assert [one["name"] for one in views.backups_view(bench.world, later)["runs"]] == ["truck"]
    for name in ("nas", "oss"):
        backed_up(bench, name, ended=True)
    assert views.backups_view(bench.world, later)["runs"] == []
    assert len(views.backups_view(bench.world, later, every=True)["runs"]) == 1
    assert len(views.backups_view(bench.world, later, run=bench.run("truck"))["runs"]) == 1
    view = views.backups_view(bench.world, later, addresses={"nas": "/mnt/nas"})
    assert [one["to"] for one in view["targets"]] == ["/mnt/nas", None]


def test_a_run_whose_folder_is_gone_is_not_at_stake(bench):
    """What cannot be backed up any more is not waited for."""
    run = replace(bench.run("truck"), backups={"nas": Backed(snapshot="", gone=True)})
    assert views.age_s(run, run.backups["nas"], NOW) is None


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
    [
        ("BackedUp", {"target": "nas", "run": "a@1", "epoch": 4, "sent_bytes": 2048}, "epoch 4 lies verified on nas; 2.0 KiB were sent"),
        ("BackedUp", {"target": "nas", "unchanged": True}, "the journal lies verified on nas; nothing had changed"),
        ("BackupFailed", {"target": "nas", "run": "a@1", "cause": "full", "text": "ENOSPC"}, "its backup to nas was not made, because the target has no room: ENOSPC"),
        ("BackupFailed", {"target": "nas", "run": "a@1", "cause": "shrunken", "text": "x"}, "its backup to nas was not replaced by much less: files of the run are missing: x"),
        ("BackupVerified", {"target": "nas", "files": 3, "bytes": 10}, "3 files (10 B) on nas were read again: all are as stored"),
        ("BackupVerified", {"target": "nas", "files": 3, "bytes": 10, "damaged": ["x"]}, "1 are damaged, such as x"),
        ("BackupVerified", {"target": "nas", "cause": "absent", "text": "no"}, "nas could not be read again, because it is not there"),
        ("Drilled", {"target": "nas", "ok": True, "epoch": 4, "trained": True, "seconds": 9}, "epoch 4 was loaded and trained on in 9 s"),
        ("Drilled", {"target": "nas", "ok": False, "text": "torn"}, "a rehearsed restore from nas did not work: torn"),
        ("Restored", {"target": "nas", "ok": True, "epoch": 7}, "epoch 7 was fetched from backup target nas"),
        ("Pruned", {"moved_files": 2, "moved_bytes": 10}, "pruned: 2 files (10 B) went into the trash"),
        ("DiskSeen", {"place": "/d", "what": "runs", "level": "full"}, "the file system of /d (runs) is full: 0 B are free"),
        ("QuietSeen", {"target": "nas", "quiet": True}, "the quiet hours of nas begin"),
        ("BackupAsked", {"by": "ann", "run": "a@1", "target": "nas", "accept": True}, "ann ordered a backup of it to nas, even where it holds less"),
    ],
)  # fmt: skip
def test_events_in_sentences(kind, body, sentence):
    """As `why --events` tells them."""
    assert sentence in sentences(words.duration, words.size)[kind](body)


def test_nothing_is_called_backed_up_where_it_is_not_known(bench):
    """The sentence that all is backed up stands only where it is so."""
    lonely = world_of(bench, kept_epoch=0)
    line = "no live run that is to be backed up has a verified checkpoint yet"
    assert views.summary(lonely, bench.now)["lines"][-1] == line
    backed_up(bench)
    backed_up(bench, "oss")
    sure = "every verified checkpoint of the live runs is backed up"
    assert views.summary(bench.world, bench.now)["lines"][-1] == sure
    nas = replace(bench.world.targets["nas"], confirmed=False)
    unsure = replace(bench.world, targets={**bench.world.targets, "nas": nas})
    assert "have yet to answer" in views.summary(unsure, bench.now)["lines"][-1]


def world_of(bench, **fields):
    """The bench's world with its live runs changed."""
    live = {name: replace(run, **fields) for name, run in bench.world.live.items()}
    return replace(bench.world, live=live)


def test_troubles_of_targets_are_listed_like_incidents(bench):
    """The cause, since when, the next try, and what to do; nothing where all is well."""
    assert views.troubles(bench.world, bench.now) == []
    bad = {"cause": "full", "said": "No space left", "failing_since": bench.now - 60, "retry_at": bench.now + 600}
    nas = replace(bench.world.targets["nas"], **bad, unproven="not proven: x", unable=True)
    world = replace(bench.world, targets={**bench.world.targets, "nas": nas})
    first, second = views.troubles(world, bench.now)
    assert (first["target"], first["cause"], first["title"]) == ("nas", "full", "has no room")
    assert (first["since_at"], first["retry_at"]) == (bench.now - 60, bench.now + 600)
    assert first["todo"].startswith("free space on backup target nas")
    assert (second["cause"], second["title"]) == ("unproven", "no restore is proven")


def test_paused_runs_are_named(bench):
    """Those that the disk stopped."""
    assert views.paused(bench.world) == []
    [found] = views.paused(world_of(bench, reason="paused: 1 GiB is free under /data"))
    assert found["name"] == "truck"
