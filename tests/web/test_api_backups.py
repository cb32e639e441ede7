"""The API about backups: how they stand, who may order what, what is refused, and what came of it."""

from __future__ import annotations

import os

import pytest

from supervisor.core import actions, events
from supervisor.core.backups.model import TargetPolicy
from supervisor.core.model import Policy
from supervisor.web import api


@pytest.fixture
def server(daemon):
    """Two targets; a run of uid 0 that has kept epoch 3."""
    policy = Policy(max_running=4, server="test", backups=(TargetPolicy(name="nas"), TargetPolicy(name="oss")))
    daemon.put(events.Configured(at=daemon.clock.now(), policy=policy))
    run_id = daemon.launch("truck")
    daemon.progress(run_id, 3, 3)
    daemon.put(events.Kept(at=daemon.clock.now(), run=run_id, attempt=1, epoch=3, file="epoch3.pt"))
    view = daemon.config_view
    daemon.config_view = lambda: {
        **view(),
        "backup": [{"name": "nas", "to": "/mnt/nas"}, {"name": "oss", "to": "rclone:o:b"}],
    }
    daemon.api.stop()
    daemon.make()
    return daemon


def order(ask, verb, **body):
    return ask("POST", f"/v1/backups/{verb}", body)


def pending(server, kind):
    """The actions of a kind that no event has answered."""
    return [one for one in server.journal.pending() if isinstance(one, kind)]


def answer(server, action, kind, **fields):
    """An action is answered."""
    server.put(kind(at=server.clock.now(), target=action.target, answers=action.key, **fields))


def back_up_all(server):
    """All that is due arrives."""
    while waiting := pending(server, actions.BackUp):
        for one in waiting:
            run = server.world.run(one.run)
            epoch = run.kept_epoch if run is not None else 0
            answer(
                server,
                one,
                events.BackedUp,
                run=one.run,
                snapshot="snap-1",
                epoch=epoch,
                kept_epoch=epoch,
                ended=one.ended,
            )


def as_user(monkeypatch, uid):
    """Whoever asks is this user."""
    monkeypatch.setattr("supervisor.web.server.peer_of", lambda _socket: api.orders.Peer(1, uid, uid))


# ---- reading
def test_the_list_has_targets_runs_and_the_verdict(server, ask):
    """Where each target lies is of the configuration, all else of the world."""
    status, view = ask("GET", "/v1/backups")
    assert (status, view["version"]) == (200, 1)
    assert [(one["name"], one["to"]) for one in view["targets"]] == [("nas", "/mnt/nas"), ("oss", "rclone:o:b")]
    [run] = view["runs"]
    assert (run["name"], run["covered"], run["kept_epoch"]) == ("truck", False, 3)
    assert "no restore was proven yet" in view["lines"]
    assert ask("GET", "/v1/runs")[1]["runs"][0]["backed_up"] == "no"
    assert [one["target"] for one in ask("GET", "/v1/runs/truck")[1]["backups"]] == ["nas", "oss"]
    assert ask("GET", "/v1/status")[1]["backups"]["targets"] == 2


def test_one_run(server, ask):
    """By its name; an unknown one is 404 with what looks like it."""
    assert ask("GET", "/v1/backups?run=truck")[1]["runs"][0]["run"] == "truck@1"
    status, view = ask("GET", "/v1/backups?run=truk")
    assert status == 404
    assert "did you mean truck" in view["error"]


def test_a_server_without_targets(daemon, ask):
    """Lists nothing, and orders are refused with what is missing."""
    assert ask("GET", "/v1/backups")[1]["targets"] == []
    for verb in ("run", "verify", "drill"):
        status, view = order(ask, verb)
        assert status == 409
        assert "there is no [[backup]]" in view["error"]


# ---- sending
def test_a_run_is_sent_to_all_its_targets_or_to_one(server, ask):
    """The answer lists what is to come, and says from where on the results are told."""
    status, view = order(ask, "run", name="truck")
    assert (status, view["done"]) == (200, True)
    assert view["ordered"] == [
        {"verb": "run", "target": name, "run": "truck@1", "not_of": ""} for name in ("nas", "oss")
    ]
    assert view["next"] == "truck is sent to nas and oss now; `backup ls` shows how far it is"
    back_up_all(server)
    found = ask("GET", f"/v1/backups/answers?after={view['after']}")[1]
    assert {(one["kind"], one["target"], one["run"]) for one in found["answers"]} == {
        ("BackedUp", "nas", "truck@1"),
        ("BackedUp", "oss", "truck@1"),
    }
    assert ask("GET", f"/v1/backups/answers?after={found['next']}")[1]["answers"] == []
    assert ask("GET", "/v1/backups")[1]["runs"][0]["covered"]
    one = order(ask, "run", name="truck", target="oss")[1]
    assert [row["target"] for row in one["ordered"]] == ["oss"]
    assert one["next"].startswith("truck is sent to oss now")


def test_all_that_has_changed_is_sent_with_the_journal(server, ask):
    """Without a name: what is due, and the journal."""
    view = order(ask, "run", target="nas")[1]
    assert {(one["target"], one["run"]) for one in view["ordered"]} == {("nas", "truck@1"), ("nas", "")}


def test_a_loss_is_accepted_for_one_run_only(server, ask):
    """The order carries it to the transaction; without a run it is refused."""
    order(ask, "run", name="truck", target="nas", accept_loss=True)
    [action] = pending(server, actions.BackUp)
    assert action.accept
    assert order(ask, "run", accept_loss=True)[0] == 422
    assert order(ask, "verify", target="nas", accept_loss=True)[0] == 422


@pytest.mark.parametrize("verb", ["run", "verify", "drill"])
def test_unknown_names_are_404_with_what_is_near(server, ask, verb):
    """Runs and targets alike."""
    status, view = order(ask, verb, target="nsa")
    assert status == 404
    assert "there is no backup target nsa; did you mean nas?" in view["error"]
    status, view = order(ask, verb, target="zzz")
    assert "there are nas, oss" in view["error"]
    assert order(ask, verb, name="car")[0] == 404
    assert order(ask, "publish")[0] == 404


def test_what_makes_no_sense_is_refused_with_the_reason(server, ask):
    """A run that wants another target, and one that has not trained."""
    server.accept("car", backup=("oss",))
    status, view = order(ask, "run", name="car", target="nas")
    assert (status, view["error"]) == (409, 'car is not backed up to nas: its job file says backup = ["oss"]')
    server.accept("van", backup=())
    assert "not backed up anywhere" in order(ask, "run", name="van")[1]["error"]
    server.accept("bus", after=("nothing",))
    status, view = order(ask, "run", name="bus")
    assert status == 409
    assert "has not trained yet" in view["error"]


# ---- reading again and rehearsing
def test_a_verification_of_all(server, ask):
    """Ordered at once; a second one, while it is under way, comes next: what the first comes to is not its answer."""
    view = order(ask, "verify", target="nas", whole=True)[1]
    assert view["ordered"] == [{"verb": "verify", "target": "nas", "run": "", "not_of": ""}]
    assert view["next"] == "all files on nas are read again now"
    [action] = pending(server, actions.VerifyBackup)
    assert action.whole
    status, second = order(ask, "verify", target="nas")
    assert status == 200
    assert second["ordered"] == [{"verb": "verify", "target": "nas", "run": "", "not_of": action.key}]
    assert second["next"].endswith("as soon as nas has done what is under way there")
    answer(server, action, events.BackupVerified, files=7, damaged=("runs/default/truck/x",))
    [found] = ask("GET", f"/v1/backups/answers?after={view['after']}")[1]["answers"]
    assert found["answers"] == action.key
    assert [one.key for one in pending(server, actions.VerifyBackup)] != [action.key]
    assert (found["kind"], found["damaged"]) == ("BackupVerified", ["runs/default/truck/x"])


def test_a_rehearsal_needs_a_checkpoint_there(server, ask):
    """Before the first backup there is nothing to rehearse; afterwards the target is taken that was proven longest ago."""
    status, view = order(ask, "drill", name="truck")
    assert status == 409
    assert "no checkpoint of truck lies on nas or oss yet; `backup run truck` sends it" in view["error"]
    order(ask, "run", name="truck")
    back_up_all(server)
    server.put(events.Drilled(at=server.clock.now(), target="nas", run="truck@1", ok=True, epoch=3, epoch_wanted=3))
    view = order(ask, "drill")[1]
    assert view["ordered"] == [{"verb": "drill", "target": "oss", "run": "", "not_of": ""}]
    assert order(ask, "drill", target="nas", name="truck")[1]["next"].startswith("a restore of truck from nas")
    assert {(one.target, one.name) for one in pending(server, actions.Drill)} == {("oss", ""), ("nas", "truck")}


# ---- who may
def test_owners_order_their_own_runs_and_nobody_elses(server, ask, monkeypatch):
    """Everybody may look; whole targets are for root and the daemon's user."""
    server.launch("car", owner=4321)
    as_user(monkeypatch, 4321)
    assert ask("GET", "/v1/backups")[0] == 200
    assert order(ask, "run", name="car")[0] == 200
    status, view = order(ask, "run", name="truck")
    assert status == 403
    assert "truck belongs to" in view["error"]
    for verb in ("run", "verify", "drill"):
        status, view = order(ask, verb, target="nas")
        assert status == 403
        assert "targets are everybody's" in view["error"]
    assert order(ask, "drill", name="truck")[0] == 403


def test_the_record_names_who_ordered_it(server, ask):
    """By name and id, as the kernel told them."""
    order(ask, "run", name="truck")
    why = ask("GET", "/v1/runs/truck/why")[1]["steps"]
    assert any(f"(uid {os.getuid()}) via CLI ordered a backup of it" in step["what"] for step in why)


def test_an_order_that_is_not_taken_yet_says_so(server, ask, monkeypatch):
    """202 while the daemon is busy."""
    monkeypatch.setattr(api, "EFFECT_WAIT_S", 0.05)
    server.deaf = True
    status, view = order(ask, "run", name="truck")
    assert (status, view["done"]) == (202, False)
    server.listen()


@pytest.mark.parametrize("body", [{"target": 5}, {"nmae": "truck"}])
def test_bodies_that_are_no_orders(server, ask, body):
    """Refused as such."""
    assert ask("POST", "/v1/backups/run", body)[0] == 422
