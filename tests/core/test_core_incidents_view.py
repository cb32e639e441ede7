"""Incidents as people and programs read them: what was seen and done, what it cost, how it stands."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from supervisor.core import incidents_view, views, words
from supervisor.core.diagnosis.evidence import Incident
from supervisor.core.model import Attempt, Job, Phase, Progress, Run, World
from supervisor.journal import HistoryRow

NOW = 1_800_000_000.0


def incident(number=1, **fields):
    """A full GPU in attempt 2: last moved 4 s before it was seen."""
    known = {
        "attempt": 2,
        "cause": "cuda-oom",
        "title": "the GPU's memory is full",
        "seen": "CUDA out of memory. Tried to allocate 2.00 GiB",
        "line": 1234,
        "place": "epoch 12, batch 340",
        "fix": "a smaller batch",
        "step": "batch",
        "done": "batch = 32 instead of 64; tried again in 8 s",
        "epoch": 11,
        "moved_at": NOW - 4,
        "seen_at": NOW,
        "lost_s": 360.0,
    }
    return Incident(number=number, **{**known, **fields})


def a_run(*incidents, name="truck", phase=Phase.RUNNING, **fields):
    """A run with these incidents, now in its third attempt."""
    job = Job(name=name, revision="aa", train={"model": "m", "data": "d"})
    attempt = Attempt(number=3, token=3)
    known = {"created_at": NOW - 900, "phase_since": NOW, "attempts": 3, "attempt": attempt, "incidents": incidents}
    return Run(id=f"{name}@1", job=job, phase=phase, **{**known, **fields})


def a_world(*runs):
    """A world of these runs."""
    live = {run.id: run for run in runs if not run.phase.terminal}
    ended = {run.id: run for run in runs if run.phase.terminal}
    return World(live=live, ended=ended, latest={run.name: run.id for run in runs})


def a_row(kind, at, attempt):
    """A journalled event of an attempt."""
    body = {"attempt": attempt}
    return HistoryRow(1, at, kind, "", "truck@1", "", "", "", body, ())


def seen(run, now=NOW + 60, rows=()):
    """The newest incident of the run, as data."""
    return incidents_view.run_incidents(run, now, rows)[-1]


def test_the_log_line_is_named_with_its_place():
    """A person finds the line: which attempt's log, and which line of it."""
    assert seen(a_run(incident()))["log"] == "attempts/2/log line 1234"
    assert seen(a_run(incident(line=0)))["log"] == "attempts/2/log"


def test_the_cost_of_a_closed_incident():
    """Every part of the cost is the difference of the two times that it names, and they add up to the whole."""
    over = incident(relaunched_at=NOW + 10, closed_at=NOW + 600, outcome="recovered: epoch 12 is saved")
    rows = [a_row("Progressed", NOW + 20, 2), a_row("StartConfirmed", NOW + 41, 3), a_row("Progressed", NOW + 99, 3)]
    cost = seen(a_run(over), NOW + 5000, rows)["cost"]
    assert cost == {"detect_s": 4.0, "wait_s": 10.0, "start_s": 31.0, "redone_s": 360.0, "total_s": 405.0}
    over = replace(over, began_at=NOW + 30)
    assert seen(a_run(over), NOW + 5000)["cost"]["start_s"] == 20.0  # without the history too


def test_an_open_incident_costs_until_now():
    """What is not over goes on costing; what is not known is None, never 0."""
    cost = seen(a_run(incident(moved_at=0.0)), NOW + 60)["cost"]
    assert cost == {"detect_s": None, "wait_s": 60.0, "start_s": None, "redone_s": 360.0, "total_s": 420.0}


@pytest.mark.parametrize(
    ("fields", "state", "stands"),
    [
        ({"phase": Phase.HELD}, "held", "a person must act"),
        ({"phase": Phase.COOLING, "waiting_for": "mount: /nas"}, "open", "waits for /nas to be mounted"),
        ({"phase": Phase.COOLING}, "open", "has not begun"),
    ],
)
def test_how_an_open_incident_stands(fields, state, stands):
    """An open incident says whether a person must act, or what the run waits for."""
    shown = seen(a_run(incident(), **fields))
    assert (shown["open"], shown["state"]) == (True, state)
    assert stands in shown["stands"]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("recovered: epoch 12 is saved", "recovered"),
        ("the run succeeded", "recovered"),
        ("the run was given up", "failed"),
        ("cancelled", "cancelled"),
        ("something that only a later version says", "over"),
    ],
)
def test_how_a_closed_incident_ended(outcome, state):
    """A closed incident has one of few states, whatever words its outcome has."""
    shown = seen(a_run(incident(closed_at=NOW + 720, outcome=outcome), phase=Phase.HELD))
    assert (shown["open"], shown["state"]) == (False, state)
    assert shown["stands"] == f"{outcome} (after 12 min)"


def test_what_was_over_at_once_has_no_duration():
    """A failure that ended the run at once was not open for any time."""
    shown = seen(a_run(incident(closed_at=NOW, outcome="the run was given up"), phase=Phase.FAILED))
    assert shown["stands"] == "the run was given up"


def test_an_older_open_incident_is_not_the_one_that_waits():
    """Of two failures without an epoch in between only the last one says what the run waits for."""
    first, last = incidents_view.run_incidents(a_run(incident(1), incident(2), phase=Phase.HELD), NOW)
    assert (first["state"], first["open"]) == ("superseded", False)
    assert "failed again" in first["stands"]
    assert last["state"] == "held"


def test_a_superseded_incident_costs_nothing_more():
    """It failed again before it got further: from then on the newer one counts, and only that one is open."""
    first = incident(1, relaunched_at=NOW + 10, began_at=NOW + 12, lost_s=0.0)
    run = a_run(first, incident(2, attempt=3, moved_at=NOW + 40, seen_at=NOW + 44))
    shown = incidents_view.run_incidents(run, NOW + 5000)[0]
    assert shown["cost"]["total_s"] == 4.0 + 10.0 + 2.0
    never_ran = a_run(replace(first, relaunched_at=None), run.incidents[1])
    assert incidents_view.run_incidents(never_ran, NOW + 5000)[0]["cost"]["total_s"] == 4.0 + 40.0
    listed = incidents_view.server_view(a_world(run), NOW + 50, is_open=True)["incidents"]
    assert [one["number"] for one in listed] == [2]


def test_what_stands_still_says_for_how_long_by_now_and_what_to_do():
    """The sentence was written when it was seen; time has passed since, and no end is near."""
    attempt = Attempt(number=3, token=3, moved_at=NOW - 120)
    text, todo = "nothing has moved for 2 min while training batches; it is stopped", "kill -CONT 7"
    run = a_run(attempt=attempt, stalled=text, stalled_todo=todo, progress=Progress(eta_s=100.0, at=NOW))
    later = NOW + 3480
    expected = "nothing has moved for 1 h while training batches; it is stopped"
    row = views.row(run, None, later)
    assert (row["stalled"], row["eta_s"]) == (expected, None)
    assert views.explanation(run, None, later).startswith(expected)
    assert words.remedies(run) == (todo,)
    view = incidents_view.server_view(a_world(run), later, is_open=True)
    assert view["stalled"] == [{"run": "truck@1", "name": "truck", "text": expected, "todo": todo}]


def test_a_relaunched_run_says_what_is_still_missing():
    """While the next attempt has saved nothing, the incident is open."""
    assert "attempt 3 runs" in seen(a_run(incident(relaunched_at=NOW + 8)))["stands"]


def test_commands_are_for_this_run():
    """The NAME of the table of causes is the run's name; the fix is not told twice."""
    fix = "bring it back, then `yolo-supervisor resume NAME`"
    shown = seen(a_run(incident(step="hold", done=f"it failed twice; {fix}", fix=fix)))
    assert shown["fix"] == "bring it back, then `yolo-supervisor resume truck`"
    assert shown["what"] == "held for a person: it failed twice"


def test_the_server_lists_incidents_of_live_and_ended_runs_by_time():
    """All runs' incidents, the newest last, whether their run lives or not."""
    ended = a_run(incident(seen_at=NOW + 5, closed_at=NOW + 6), name="car", phase=Phase.FAILED)
    view = incidents_view.server_view(a_world(a_run(incident(1), incident(2, seen_at=NOW + 9)), ended), NOW + 60)
    assert [(one["run"], one["number"]) for one in view["incidents"]] == [("truck@1", 1), ("car@1", 1), ("truck@1", 2)]
    assert json.loads(json.dumps(view))["version"] == 1


def test_the_server_lists_by_openness_and_time():
    """`is_open` leaves out what is over; `since_at` what was over before, but never what is open."""
    old = incident(1, closed_at=NOW + 10, outcome="recovered: epoch 12 is saved")
    world = a_world(a_run(old, incident(2)))
    assert [one["number"] for one in incidents_view.server_view(world, NOW, is_open=True)["incidents"]] == [2]
    later = incidents_view.server_view(world, NOW + 99, since_at=NOW + 20)["incidents"]
    assert [one["number"] for one in later] == [2]
    assert len(incidents_view.server_view(world, NOW + 99, since_at=NOW + 5)["incidents"]) == 2


def test_one_runs_incidents_only():
    """With a run only its own are listed."""
    truck, car = a_run(incident()), a_run(incident(), name="car")
    view = incidents_view.server_view(a_world(truck, car), NOW, run=car)
    assert [one["name"] for one in view["incidents"]] == ["car"]


def test_the_list_of_runs_names_the_open_incident():
    """A row has the title of what is wrong now, and nothing once the run got further."""
    assert views.row(a_run(incident()), None, NOW)["incident"] == "the GPU's memory is full"
    assert views.row(a_run(incident(closed_at=NOW)), None, NOW)["incident"] == ""
    assert views.row(a_run(), None, NOW)["incident"] == ""


def test_what_stands_still_is_explained():
    """A running run that stands still says so before anything else."""
    run = a_run(stalled="it waits for the file server", reason="resumes after epoch 3")
    assert views.explanation(run, None, NOW) == "it waits for the file server (resumes after epoch 3)"
    assert views.explanation(replace(run, stalled=""), None, NOW) == "resumes after epoch 3"


def test_why_has_the_incidents_and_the_steps():
    """The view of `why` keeps the chain of events and gains the incidents."""
    view = views.why_view(a_run(incident()), [a_row("AttemptCleared", NOW, 2)], None, NOW)
    assert [one["number"] for one in view["incidents"]] == [1]
    assert [one["kind"] for one in view["steps"]] == ["AttemptCleared"]


HANG = {"phase": "batches", "quiet_s": 720.0, "limit_s": 120.0}


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (
            "HangSeen",
            {"verdict": "hung", "text": "no batch for 12 min", **HANG},
            "the training hangs: no batch for 12 min",
        ),
        (
            "HangSeen",
            {"verdict": "storage", **HANG, "limit_s": 0},
            "and is left alone: nothing moved in batches for 12 min",
        ),
        (
            "HangSeen",
            {"verdict": "stopped", "text": "state T"},
            "by a signal or a debugger, and is left alone: state T",
        ),
        ("HangSeen", {"verdict": "moving"}, "the training moves again"),
        (
            "AutopsyDone",
            {"summary": "worker 3 reads", "directory": "/r/autopsy"},
            "was written down (/r/autopsy): worker 3",
        ),
        ("AutopsyDone", {}, "was written down; nothing could be learnt"),
        ("WaitOver", {"what": "mount: /nas"}, "what it waited for is there: /nas to be mounted"),
        ("UndoAsked", {"by": "anna"}, "anna asked to take the changes back"),
    ],
)
def test_sentences_of_hangs_and_waits(kind, body, text):
    """Each new event is a sentence that says what was concluded from what."""
    assert text in words.sentence(kind, body)


def test_an_examination_tells_the_first_sign():
    """Of many signs the first one is told, with line and rank; other facts of the machine besides."""
    signs = [{"line": "NCCL timeout", "number": 40, "rank": 2}, {"line": "echo", "number": 41}]
    text = words.sentence("Examined", {"evidence": {"signs": signs, "oom_kills": 1, "unmounted": ["/nas"]}})
    assert "in its log, line 40, rank 2: NCCL timeout" in text
    assert "echo" not in text
    assert "the out-of-memory killer ended 1 process; /nas is not mounted" in text


def test_an_examination_without_signs_tells_the_exception():
    """Where no rule matched, the exception and its place are told."""
    text = words.sentence("Examined", {"evidence": {"error": "ValueError: x", "site": "a.py:3 in f"}})
    assert text.endswith("; ValueError: x, at a.py:3 in f")


@pytest.mark.parametrize(
    ("step", "reason", "text"),
    [
        ("wait-disk", "it goes on when that is back", "waits for free disk space: it goes on when that is back"),
        ("backoff", "failure 1 of 3: tried again in 7 s", "failure 1 of 3: tried again in 7 s"),
        ("fail", "", "given up"),
        ("retry", "", "retry"),
    ],
)
def test_remedies_in_words(step, reason, text):
    """What is done is told in words; a step without a reason is still named."""
    assert words.remedy(step, reason) == text
