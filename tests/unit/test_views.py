"""The world as plain data: every number and every sentence that people and programs read."""

from __future__ import annotations

import json

import msgspec
import pytest

from supervisor.core import events, outlook, secrets, story, views, words
from supervisor.core.model import (
    Attempt,
    FileNote,
    Job,
    Phase,
    Policy,
    Progress,
    Run,
    StopOrder,
    Wanted,
    World,
)
from supervisor.journal import HistoryRow
from supervisor.sources.course import Live

NOW = 1_800_000_000.0


def a_run(name="truck", phase=Phase.RUNNING, **fields):
    job = fields.pop("job", None) or Job(name=name, revision="aa", train={"model": "m", "data": "d", "epochs": 10})
    return Run(id=f"{name}@1", job=job, phase=phase, created_at=NOW, phase_since=NOW, **fields)


def a_world(*runs, **fields):
    live = {run.id: run for run in runs if not run.phase.terminal}
    ended = {run.id: run for run in runs if run.phase.terminal}
    return World(live=live, ended=ended, latest={run.name: run.id for run in runs}, **fields)


def a_row(kind="StopAsked", body=None, **fields):
    known = {
        "seq": 1,
        "at": NOW,
        "origin": "api",
        "run": "truck@1",
        "phase_before": "",
        "phase_after": "",
        "reason": "",
    }
    known |= {"actions": (), "source": ""} if "source" in HistoryRow.__struct_fields__ else {"actions": ()}
    return HistoryRow(**{**known, "kind": kind, "body": body or {}, **fields})


# ---- numbers
def test_a_beat_is_newer_than_the_journal():
    """Epoch, saved epoch, metrics and speed come from the heartbeat where it knows more."""
    run = a_run(progress=Progress(epoch=3, epochs=10, saved_epoch=2, metrics={"metrics/mAP50-95(B)": 0.1}, epoch_s=60))
    live = Live(phase="train", epoch=5, epochs=10, saved_epoch=4, batch=5, batches=10, images_per_s=80.0, at=NOW)
    row = views.row(run, live, NOW)
    assert (row["epoch"], row["saved_epoch"], row["percent"], row["images_per_s"]) == (5, 4, 45.0, 80.0)
    assert row["map50_95"] == 0.1


def test_a_beat_of_a_run_that_is_over_is_forgotten():
    """What a heartbeat said counts only while a process may run."""
    row = views.row(a_run(phase=Phase.HELD), Live(epoch=5, epochs=10, images_per_s=80.0, at=NOW), NOW)
    assert (row["epoch"], row["images_per_s"], row["eta_s"]) == (0, None, None)


def test_what_is_not_known_is_none():
    """A run that just began has no ETA, no metric and no save to come: None, never 0."""
    row = views.row(a_run(), None, NOW)
    assert [row[key] for key in ("eta_s", "map50_95", "next_save_s", "images_per_s", "heard_of_at")] == [None] * 5
    command = a_run(job=Job(name="c", revision="r", command=("true",)))
    assert views.row(command, None, NOW)["percent"] is None


def test_an_eta_ages_and_never_becomes_negative():
    """Seconds to go shrink with the time since they were said."""
    live = Live(epoch=1, epochs=10, eta_s=100.0, next_save_s=10.0, at=NOW - 40)
    assert outlook.eta_s(a_run(), live, NOW) == 60
    assert outlook.next_save_s(live, NOW) == 0
    assert outlook.eta_s(a_run(progress=Progress(eta_s=100.0, at=NOW - 10)), None, NOW) == 90
    assert outlook.eta_s(a_run(phase=Phase.STOPPING), live, NOW) is None


def test_a_finished_run_is_at_100_percent():
    """A training that stopped early by patience is complete all the same."""
    assert views.row(a_run(phase=Phase.SUCCEEDED, progress=Progress(epoch=4, epochs=10)), None, NOW)["percent"] == 100


def test_what_an_end_now_would_lose():
    """The epochs since the newest checkpoint and the time that they took; nothing for a run without a process."""
    run = a_run(progress=Progress(epoch=3, epochs=10, saved_epoch=2, epoch_s=100))
    assert outlook.at_stake(run, Live(epoch=3, epochs=10, batch=1, batches=4, at=NOW)) == {
        "epochs": 0.25,
        "seconds": 25,
    }
    assert outlook.at_stake(run, None) == {"epochs": 0, "seconds": 0}
    assert outlook.at_stake(a_run(phase=Phase.HELD, progress=Progress(epoch=9)), None)["epochs"] == 0


@pytest.mark.parametrize(
    ("metrics", "value"),
    [
        ({"metrics/mAP50-95(M)": 0.2, "metrics/mAP50-95(B)": 0.3, "metrics/mAP50(B)": 0.9}, 0.3),
        ({"metrics/mAP50-95(P)": 0.4}, 0.4),
        ({"metrics/mAP_0.5:0.95": 0.5, "metrics/mAP_0.5": 0.6}, 0.5),
        ({"metrics/accuracy_top1": 0.9}, None),
        ({}, None),
    ],
)
def test_the_metric_of_several_families(metrics, value):
    """mAP50-95 is found by the names of Ultralytics and YOLOv5; boxes come before masks and poses."""
    assert outlook.map50_95(metrics) == value


# ---- lists
def test_runs_are_listed_by_what_they_do():
    """Running ones first, then waiting ones by priority and age, then those that need a person, then the ended."""
    runs = [
        a_run("held", Phase.HELD),
        a_run("late", Phase.QUEUED, priority=1),
        a_run("first", Phase.QUEUED, priority=5),
        a_run("done", Phase.SUCCEEDED),
        a_run("works", Phase.RUNNING),
    ]
    assert [row["name"] for row in views.runs_view(a_world(*runs), {}, NOW)["runs"]] == [
        "works",
        "first",
        "late",
        "held",
        "done",
    ]


def test_old_runs_are_counted_not_hidden_silently():
    """Runs that ended more than a day ago are left out and counted; `every` shows them."""
    world = a_world(a_run("done", Phase.FAILED))
    later = NOW + views.RECENT_S + 1
    assert views.runs_view(world, {}, later)["not_shown"] == 1
    assert len(views.runs_view(world, {}, later, every=True)["runs"]) == 1


def test_a_run_with_a_successor_is_listed_only_on_demand():
    """After a retry the list shows the new run; with `every` the old one too, marked as not the newest."""
    old, new = a_run(phase=Phase.FAILED), msgspec.structs.replace(a_run(), id="truck@2")
    world = World(live={new.id: new}, ended={old.id: old}, latest={"truck": "truck@2"})
    assert [row["id"] for row in views.runs_view(world, {}, NOW)["runs"]] == ["truck@2"]
    assert [row["newest"] for row in views.runs_view(world, {}, NOW, every=True)["runs"]] == [True, False]


def test_views_are_json_with_a_version():
    """Every view survives JSON and carries version 1."""
    run = a_run(
        phase=Phase.STOPPING,
        stop=StopOrder(how="save", then=Phase.HELD, by="x", reason="stopped by x"),
        attempt=Attempt(number=1, token=1, gpus=(0,), pid=5, started_at=NOW, launches=1),
        attempts=1,
    )
    world = a_world(run, policy=Policy(server="s", channels=("ops",)), files={"/j/x.toml": FileNote("bb", "", "no")})
    live = Live(phase="train", epoch=1, epochs=10, next_save_s=30.0, at=NOW)
    rows = [a_row(body={"by": "x"})]
    made = (
        views.status_view(world, NOW),
        views.runs_view(world, {run.id: live}, NOW),
        views.run_view(run, world, live, rows, now=NOW, directory="/runs/truck"),
        views.why_view(run, rows, live, NOW),
        views.files_view(world, "bb"),
        story.events_view(rows),
    )
    assert [json.loads(json.dumps(view))["version"] for view in made] == [1] * 6
    assert made[0]["refused_files"] == {"/j/x.toml": "no"}
    assert "in about 30 s" in made[2]["explanation"]


# ---- names
def test_names_find_the_newest_and_ids_find_their_run():
    """A name means the newest run that carries it, an id its own run."""
    old, new = a_run(phase=Phase.FAILED), msgspec.structs.replace(a_run(), id="truck@2")
    world = World(live={new.id: new}, ended={old.id: old}, latest={"truck": "truck@2"})
    assert views.find_run(world, "truck") is new
    assert views.find_run(world, "truck@1") is old
    assert views.find_run(world, "car") is None
    assert "did you mean truck?" in views.no_such_run(world, "trcuk")
    assert "did you mean truck@" in views.no_such_run(world, "truck@3")
    assert "did you mean" not in views.no_such_run(world, "zzz")


# ---- files
def test_files_pending_accepted_refused_unknown():
    """Each state of a job file's content has its name."""
    files = {"/a": FileNote("p"), "/b": FileNote("a", "truck@1"), "/c": FileNote("r", "", "no")}
    world = a_world(a_run(), files=files)
    states = [views.files_view(world, revision)["state"] for revision in "parx"]
    assert states == ["pending", "accepted", "refused", "unknown"]
    assert views.files_view(world, "r", "/a")["state"] == "unknown"


def test_a_file_that_is_gone_already_is_known_by_its_run():
    """A run that began and ended before anybody asked answers for its file, but not a run of long ago."""
    world = a_world(a_run(phase=Phase.SUCCEEDED))
    assert views.files_view(world, "aa", "/j/truck.toml", NOW - 1)["run"] == "truck@1"
    assert views.files_view(world, "aa", "/j/truck.toml", NOW + 1)["state"] == "unknown"


# ---- stories
KINDS = [kind.__name__ for kind in events.AnyEvent.__args__]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_event_has_a_sentence(kind):
    """Each kind that exists is told in words, even with an empty body."""
    text = words.sentence(kind, {})
    assert text
    assert "another version" not in text


def test_exit_codes_of_other_trainers_have_no_meaning_of_ours():
    """What our runner means by 75 is not what a command means by it."""
    assert words.sentence("AttemptExited", {"code": 75}) == "the trainer ended with exit code 75"
    assert words.ending(75, None) == "exit code 75"


def test_unknown_kinds_are_named():
    """An event of a newer version is shown, never an error."""
    assert "TeleportAsked" in words.sentence("TeleportAsked", {"x": 1})


@pytest.mark.parametrize(
    ("kind", "body", "part"),
    [
        ("StopAsked", {"by": "ann", "at_once": True}, "ann asked it to stop at once"),
        ("DrainAsked", {"by": "ann", "off": True}, "ended the drain"),
        ("Prepared", {"start": "resume", "from_epoch": 7, "checkpoint": "/l.pt"}, "resumes after epoch 7 from /l.pt"),
        (
            "Prepared",
            {"start": "refused", "reason": "all\nbroken"},
            "nothing was started: all broken",
        ),
        ("PrepareFailed", {"reason": "full", "waiting_for": "disk"}, "it waits for free disk space"),
        ("AttemptExited", {"code": 75}, "exit code 75 (stopped, and can be resumed)"),
        ("AttemptExited", {"signal": 9}, "was ended by SIGKILL"),
        ("AttemptExited", {"lost": "after a reboot"}, "is gone: after a reboot"),
        ("AttemptExited", {}, "nobody was there to see how"),
        (
            "Examined",
            {"finished": True, "proof": "end record", "saved_epoch": 3},
            "finished (end record); epoch 3 is saved",
        ),
        ("StartConfirmed", {"from_epoch": 4}, "goes on after epoch 4"),
        ("SignalSent", {"signal": "SIGKILL", "count": 3}, "SIGKILL was sent to 3 processes"),
        ("ResumeAsked", {"by": "ann", "accept": True}, "ann asked it to go on, and agreed to what has changed"),
        ("RewindAsked", {"by": "ann", "epoch": 4}, "ann asked to go back to epoch 4"),
        ("ExtendAsked", {"by": "ann", "epochs": 150}, "ann asked for more epochs, 150 in all"),
        ("SaveSeen", {"epoch": 4}, "the trainer saved epoch 4"),
        ("Kept", {"epoch": 4, "file": "/g"}, "a copy of epoch 4 was verified and entered in the ledger"),
        ("Kept", {"epoch": 0, "reason": "the disk is full"}, "no copy of a checkpoint was kept: the disk is full"),
        ("Compared", {"continuous": True}, "no jump after the resume: the first epoch fits those before"),
        ("Compared", {"continuous": True, "findings": ("nothing to compare",)}, "after the resume: nothing to compare"),
        ("Compared", {"continuous": False, "findings": ["a", "b"]}, "a jump after the resume: a; b"),
        ("WrongStart", {"reason": "epoch 1"}, "starts from the wrong place: epoch 1"),
    ],
)
def test_sentences(kind, body, part):
    """A sentence says who, what and why."""
    assert part in words.sentence(kind, body, ours=True)


def test_progress_reports_in_a_row_are_one_step():
    """A night of progress is one line with its count, its beginning and its newest place."""
    rows = [a_row("Progressed", {"epoch": epoch}, seq=epoch, at=NOW + epoch) for epoch in range(1, 6)]
    steps = story.steps([*rows, a_row(seq=6), a_row("Progressed", {"epoch": 6}, seq=7)])
    assert [(step["kind"], step["count"]) for step in steps] == [("Progressed", 5), ("StopAsked", 1), ("Progressed", 1)]
    assert (steps[0]["since_at"], steps[0]["at"]) == (NOW + 1, NOW + 5)


def test_deliveries_are_left_out_of_the_story():
    """Bookkeeping that changed nothing is not told."""
    assert story.steps([a_row("Announced"), a_row("Observed"), a_row("FileMarked")]) == []
    kept, failed = a_row("Kept", {"epoch": 3}), a_row("Kept", {"reason": "the disk is full"})
    assert [step["what"] for step in story.steps([a_row("SaveSeen", {"epoch": 3}), kept, failed])] == [
        "no copy of a checkpoint was kept: the disk is full",
    ]


def test_an_attempt_shows_whether_it_went_on_smoothly():
    """The comparison after a resume is part of the attempt."""
    rows = [a_row("Compared", {"attempt": 2, "continuous": False, "findings": ["a jump"]})]
    [attempt] = story.attempts_view(None, rows)
    assert (attempt["continuous"], attempt["findings"]) == (False, ["a jump"])


def test_attempts_are_gathered_from_the_history():
    """Each attempt is told with its start and its end; the present one from the world."""
    rows = [
        a_row("Prepared", {"attempt": 1, "start": "fresh"}),
        a_row("Launched", {"attempt": 1, "pid": 5, "started_at": NOW}),
        a_row("AttemptExited", {"attempt": 1, "signal": 9, "ended_at": NOW + 9}),
    ]
    current = Attempt(number=2, token=2, start="resume", from_epoch=3, gpus=(1,), started_at=NOW + 20)
    first, second = story.attempts_view(current, rows)
    assert (first["pid"], first["ending"]) == (5, "was ended by SIGKILL")
    assert (second["from_epoch"], second["gpus"], second["ending"]) == (3, [1], "")


def test_actions_are_told_by_what_they_do():
    """Keys of actions become words; names of runs that look like verbs do not mislead; unknown keys stay."""
    assert words.action("truck@1/3/launch-1") == "start the trainer"
    assert words.action("mark-x@1/2/kill-1") == "end the whole process tree"
    assert words.action("check-7") == "check the job file"
    assert words.action("teleport/1") == "teleport/1"


@pytest.mark.parametrize(
    ("phase", "attempts", "commands"),
    [
        (Phase.HELD, 2, ["resume", "logs", "cancel"]),
        (Phase.HELD, 0, ["resume", "cancel"]),
        (Phase.FAILED, 1, ["logs", "retry"]),
        (Phase.CANCELLED, 0, ["retry"]),
        (Phase.RUNNING, 1, []),
    ],
)
def test_remedies(phase, attempts, commands):
    """A run that waits for a person names the commands that can be given."""
    assert [command.split()[1] for command in words.remedies(a_run(phase=phase, attempts=attempts))] == commands


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "1 h"), (3660, "1 h 1 min"), (90000, "1 d 1 h"), (-5, "0 s")],
)
def test_durations(seconds, text):
    """Two units at most."""
    assert words.duration(seconds) == text


def test_explanations():
    """Where a run stands is one sentence: what it waits for, or when it goes on."""
    queued = a_run(phase=Phase.QUEUED, waiting_for="other run: car (RUNNING)", wanted=Wanted.UP)
    assert views.explanation(queued, None, NOW) == "waits for car (RUNNING) to succeed"
    cooling = a_run(phase=Phase.COOLING, reason="it died", deadline_at=NOW + 90)
    assert views.explanation(cooling, None, NOW) == "it died (in 2 min)"


# ---- secrets
def test_secrets_are_hidden_at_every_depth():
    """Values of secret-looking names are hidden, others are shown."""
    shown = secrets.hide({"WANDB_API_KEY": "x", "LANG": "C", "inner": {"password": "y", "n": 1}})
    assert shown == {"WANDB_API_KEY": "(hidden)", "LANG": "C", "inner": {"password": "(hidden)", "n": 1}}
    body = story.clean_body({"data": "bytes", "job": {"env": {"HF_TOKEN": "x"}, "name": "truck"}})
    assert body == {"job": {"env": {"HF_TOKEN": "(hidden)"}, "name": "truck"}}
