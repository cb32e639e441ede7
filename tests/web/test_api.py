"""The API over its real socket: every route, and what is refused."""

from __future__ import annotations

import json

import pytest

from tests.web.fake_daemon import START_AT


def test_status_counts_phases_and_names_the_daemon(daemon, ask):
    """The status has a version, the number of runs in each phase, and the facts of the daemon apart from it."""
    daemon.launch("truck")
    daemon.accept("car")
    status, view = ask("GET", "/v1/status")
    assert status == 200
    assert view["version"] == 1
    assert view["phases"]["RUNNING"] == 1
    assert view["phases"]["QUEUED"] == 1
    assert view["daemon"] == {"pid": 7, "version": "0.0.0"}


def test_runs_lists_live_and_recent_runs(daemon, ask):
    """Runs that ended more than a day ago are only shown when asked for; busy ones come first."""
    daemon.end(daemon.launch("old"))
    daemon.clock.at += 2 * 24 * 3600
    daemon.end(daemon.launch("fresh"))
    daemon.launch("truck")
    daemon.accept("car")
    view = ask("GET", "/v1/runs")[1]
    assert [row["name"] for row in view["runs"]] == ["truck", "car", "fresh"]
    assert view["not_shown"] == 1
    assert [row["name"] for row in ask("GET", "/v1/runs?all=1")[1]["runs"]][-1] == "old"
    assert view["runs"][1]["waiting_for"] == "slot"


def test_one_run_by_name_and_by_id(daemon, ask):
    """A run is found by its name and by its id; its directory and its attempts are told."""
    run_id = daemon.launch("truck", project="vehicles")
    daemon.progress(run_id, 3, 2, metrics={"metrics/mAP50-95(B)": 0.25})
    for name in ("truck", "truck@1"):
        status, view = ask("GET", f"/v1/runs/{name}")
        assert status == 200
        assert (view["version"], view["id"], view["phase"]) == (1, "truck@1", "RUNNING")
        assert view["directory"] == str(daemon.runs_dir / "vehicles" / "truck")
        assert view["map50_95"] == 0.25
        assert [attempt["pid"] for attempt in view["attempts"]] == [11]


def test_unknown_runs_name_the_nearest(daemon, ask):
    """A misspelt name is answered with 404 and with the name that was meant."""
    daemon.accept("truck")
    status, view = ask("GET", "/v1/runs/trcuk")
    assert status == 404
    assert "did you mean truck?" in view["error"]


def test_why_tells_the_chain(daemon, ask):
    """`why` tells each event that changed the run, in order, with phases and reasons."""
    run_id = daemon.launch("truck")
    for epoch in (1, 2, 3):
        daemon.progress(run_id, epoch, epoch)
    daemon.end(run_id, finished=False, code=1, reason="CUDA error", saved_epoch=3)
    view = ask("GET", "/v1/runs/truck/why")[1]
    moves = [step["phase_after"] for step in view["steps"] if step["phase_after"] != step["phase_before"]]
    assert moves == ["PREPARING", "STARTING", "RUNNING", "COOLING"]
    assert [step["count"] for step in view["steps"] if step["kind"] == "Progressed"] == [3]
    examined = next(step for step in view["steps"] if step["kind"] == "Examined")
    assert "CUDA error" in examined["what"]
    assert "tried again at once" in examined["reason"]
    assert view["version"] == 1


def test_events_go_on_from_where_one_was(daemon, ask):
    """Events are read in pieces: `next` is the place to go on from, and nothing is told twice."""
    daemon.launch("truck")
    first = ask("GET", "/v1/events?after=1&limit=3")[1]
    assert len(first["events"]) == 3
    rest = ask("GET", f"/v1/events?after={first['next']}")[1]
    assert rest["events"][0]["seq"] > first["events"][-1]["seq"]


def test_secrets_and_bytes_of_job_files_stay_inside(daemon, ask):
    """Neither the environment's secrets nor the bytes of job files are told to whoever may read."""
    daemon.accept("truck", env={"WANDB_API_KEY": "hush-hush", "LANG": "C"})
    for path in ("/v1/runs/truck", "/v1/runs/truck/why", "/v1/events?after=1", "/v1/config"):
        text = json.dumps(ask("GET", path)[1])
        assert "hush" not in text, path
        assert '"data"' not in text.replace('"data": "/d.yaml"', ""), path
    assert ask("GET", "/v1/runs/truck")[1]["job"]["env"]["LANG"] == "C"


def test_files_tell_what_became_of_a_revision(daemon, ask):
    """A content is unknown, then pending, then accepted with its run or refused with the reasons."""
    daemon.accept("truck", revision="aa")
    daemon.refuse("/jobs/bad.toml", "bb", "line 3: no")
    assert ask("GET", "/v1/files?revision=aa")[1]["run"] == "truck@1"
    assert ask("GET", "/v1/files?revision=bb&path=/jobs/bad.toml")[1]["refused"] == "line 3: no"
    assert ask("GET", "/v1/files?revision=cc")[1]["state"] == "unknown"
    assert ask("GET", "/v1/files")[0] == 422


def test_a_content_seen_long_ago_is_not_the_answer_to_a_new_file(daemon, ask):
    """A run made from the same content long before the file was placed does not count as its answer."""
    daemon.accept("truck", revision="aa")
    later = int(START_AT + 1000)
    assert ask("GET", f"/v1/files?revision=aa&path=/jobs/other.toml&since={later}")[1]["state"] == "unknown"


@pytest.mark.parametrize("path", ["/v1/events?after=-1", "/v1/events?limit=many", "/v1/events?after=" + "9" * 30])
def test_numbers_that_are_none_are_refused(ask, path):
    """A query that is no number is answered with 422 and a reason, never with a traceback."""
    status, view = ask("GET", path)
    assert status == 422
    assert "whole number" in view["error"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"soon": true}', b'{"now": "yes"}', b"\xff", b"x" * 70_000])
def test_bodies_that_are_no_orders_change_nothing(daemon, ask, body):
    """A broken, unknown or huge body is refused, and the run stays as it is."""
    daemon.launch("truck")
    before = daemon.world
    status, view = ask("POST", "/v1/runs/truck/stop", body)
    assert status in {413, 422}
    assert view["error"]
    assert daemon.world is before


def test_unknown_paths_and_orders(daemon, ask):
    """What does not exist is answered with 404 and JSON."""
    daemon.accept("truck")
    assert ask("GET", "/v2/status")[0] == 404
    assert ask("POST", "/v1/runs/truck/explode", {})[0] == 404
    assert ask("DELETE", "/v1/runs")[0] == 405


def test_a_bug_in_a_view_is_answered_and_the_server_lives(daemon, ask):
    """If a view raises, the answer is 500 with a text, and the next request is served."""
    daemon.board.live = None
    daemon.board.snapshot = lambda: 1 / 0
    status, view = ask("GET", "/v1/runs")
    assert status == 500
    assert "ZeroDivisionError" in view["error"]
    assert ask("GET", "/v1/status")[0] == 200
