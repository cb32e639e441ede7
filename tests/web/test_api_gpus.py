"""The API about GPUs: the list, one GPU, and what people order."""

from __future__ import annotations

import pytest

from supervisor.core import events
from supervisor.web import api
from tests.web import gpu_room as room


@pytest.fixture
def server(daemon):
    """A daemon with eight GPUs."""
    room.install(daemon)
    return daemon


def rows(ask):
    return {row["index"]: row for row in ask("GET", "/v1/gpus")[1]["gpus"]}


def order(ask, gpu, what, **body):
    return ask("POST", f"/v1/gpus/{gpu}/orders", {"what": what, **body})


# ---- reading
def test_the_list_tells_states_values_and_leases(server, ask):
    """Eight GPUs, one of them lost: its values are errors, those of the others numbers, and who has which is told."""
    server.launch("truck", gpus=2)
    room.lose(server, 3)
    status, view = ask("GET", "/v1/gpus")
    assert status == 200
    assert (view["version"], view["usable"], view["driver"]["version"]) == (1, 7, "580.65.06")
    assert view["summary"] == "7 of 8 usable (GPU 3 is lost)"
    assert view["kernel_log"] == "followed"
    found = {row["index"]: row for row in view["gpus"]}
    assert {index: row["state"] for index, row in found.items()} == dict.fromkeys(range(8), "free") | {
        0: "busy",
        1: "busy",
        3: "lost",
    }
    assert found[3]["values"]["temperature_c"] == {"error": "GPU_IS_LOST"}
    assert found[4]["values"]["temperature_c"] == {"value": 41}
    assert found[0]["leases"][0]["run"] == "truck@1"
    assert found[3]["quarantine"]["needs"] == "reboot"


def test_a_server_that_says_nothing_of_gpus(daemon, ask):
    """Without GPUs the list is empty and the summary too."""
    view = ask("GET", "/v1/gpus")[1]
    assert (view["gpus"], view["summary"], view["queue"]) == ([], "", [])
    assert ask("GET", "/v1/status")[1]["gpu_summary"] == ""


def test_the_status_counts_usable_gpus(server, ask):
    """`status` has the same sentence as the list."""
    room.lose(server, 3)
    view = ask("GET", "/v1/status")[1]
    assert view["gpu_summary"] == "7 of 8 usable (GPU 3 is lost)"
    assert view["gpus"] == 8


def test_the_queue_names_who_is_in_the_way(server, ask):
    """A run that named a GPU says whose process is on it."""
    room.hold(server, 3)
    server.accept("truck", gpus=8)
    [waiting] = ask("GET", "/v1/gpus")[1]["queue"]
    assert waiting["name"] == "truck"
    assert "pid 4242 of alice holds 18 GiB" in waiting["text"]


@pytest.mark.parametrize("name", ["3", room.uuid(3), room.uuid(3)[:8], "3e:00.0", "0000:3e:00.0", "3F2E"])
def test_one_gpu_by_any_of_its_names(server, ask, name):
    """The view has the record and the newest events, the oldest first."""
    room.lose(server, 3)
    status, view = ask("GET", f"/v1/gpus/{name}")
    assert (status, view["index"], view["state"]) == (200, 3, "lost")
    assert view["passport"]["xids"][0]["xid"] == 79
    assert [event["kind"] for event in view["history"]] == ["XidSeen", "GpuFound"]
    assert ask("GET", f"/v1/gpus/{name}?events=1")[1]["history"][0]["kind"] == "GpuFound"
    assert ask("GET", f"/v1/gpus/{name}?events=0")[1]["history"] == []


def test_the_attempts_of_a_gpu_have_their_folders(server, ask):
    """So that whoever collects evidence finds their logs."""
    server.launch("truck", gpus=1, project="vehicles")
    [attempt] = ask("GET", "/v1/gpus/0")[1]["attempts"]
    assert attempt["directory"] == str(server.runs_dir / "vehicles/truck/attempts/1")


@pytest.mark.parametrize(
    ("name", "text"), [("9", "there are GPUs 0 to 7"), ("GPU", "may mean"), ("GPU-zz", "there is no GPU GPU-zz")]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_gpu_is_404_with_those_that_are_there(server, ask, name, text, method):
    """For looks and orders alike."""
    path = f"/v1/gpus/{name}" + ("/orders" if method == "POST" else "")
    status, view = ask(method, path, {"what": "drain"} if method == "POST" else None)
    assert status == 404
    assert text in view["error"]


# ---- orders
def test_a_drain_keeps_new_trainings_away_and_says_who_goes_on(server, ask):
    """What runs there goes on; a second drain says that it is drained; with a time it ends by itself."""
    server.launch("truck", gpus=1)
    status, view = order(ask, 0, "drain")
    assert (status, view["done"], view["gpu"]["state"]) == (200, True, "draining")
    assert view["next"] == "nothing new starts on GPU 0 until `gpu undrain 0`; truck goes on there"
    before = server.world
    assert "is drained already" in order(ask, 0, "drain")[1]["next"]
    assert server.world is before
    assert "for 2 h" in order(ask, 0, "drain", for_s=7200)[1]["next"]
    assert server.world.gpus[room.uuid(0)].drain.until_at == pytest.approx(server.clock.now() + 7200, abs=2)


def test_an_undrain_is_told_and_never_an_error(server, ask):
    """Of a GPU that is not drained it says so; of one that is otherwise not given out it says that."""
    assert "nothing was changed" in order(ask, 0, "undrain")[1]["next"]
    order(ask, 0, "drain")
    assert order(ask, 0, "undrain")[1]["next"] == "the drain of GPU 0 is over; it is given out again"
    order(ask, 1, "drain")
    room.hold(server, 1)
    assert "but it is in use by others: pid 4242" in order(ask, 1, "undrain")[1]["next"]


def test_a_quarantine_by_a_person_waits_for_one(server, ask):
    """With the reason of the person, and a second one says what it was for."""
    view = order(ask, 5, "quarantine", reason="its fan\n rattles")[1]
    assert (view["gpu"]["state"], view["gpu"]["quarantine"]["reason"]) == ("quarantined", "its fan rattles")
    assert "until a person releases it" in view["next"]
    assert "it was already: its fan rattles" in order(ask, 5, "quarantine", reason="still")[1]["next"]


def test_a_release_gives_the_gpu_back(server, ask):
    """Out of quarantine, untested; one that is not in quarantine is refused with what to do instead."""
    order(ask, 5, "quarantine")
    assert order(ask, 5, "release")[1]["next"] == "GPU 5 is out of quarantine, untested; it is given out again"
    order(ask, 5, "drain")
    status, view = order(ask, 5, "release")
    assert status == 409
    assert "`gpu undrain 5` ends its drain" in view["error"]


def test_a_gpu_that_cannot_be_read_is_released_by_force_only(server, ask):
    """It would be lost to the next training; a person who knows better may."""
    room.lose(server, 3)
    status, view = order(ask, 3, "release")
    assert status == 409
    assert "GPU_IS_LOST" in view["error"]
    assert "--force" in view["error"]
    assert order(ask, 3, "release", force=True)[0] == 200
    assert server.world.gpus[room.uuid(3)].quarantine is None


def test_a_gpu_that_is_gone_is_forgotten_by_force_only(server, ask):
    """Releasing it does not bring it back; a test cannot be made."""
    gpus = tuple(room.facts(index) for index in range(7))
    server.put(events.GpusSeen(at=server.clock.now(), state="ok", gpus=gpus))
    status, view = order(ask, 7, "release")
    assert status == 409
    assert "is not there" in view["error"]
    assert order(ask, 7, "test")[0] == 409
    status, view = order(ask, 7, "release", force=True)
    assert (status, view["gpu"]) == (200, None)
    assert "is forgotten" in view["next"]
    assert ask("GET", "/v1/gpus/7")[0] == 404


def test_a_test_is_made_when_the_gpu_is_idle(server, ask):
    """One that is in use is tested afterwards."""
    server.launch("truck", gpus=1)
    assert "is tested when truck has ended there" in order(ask, 0, "test")[1]["next"]
    said = order(ask, 4, "test")[1]["next"]
    assert said.startswith("GPU 4 is")
    assert said.endswith("It comes back when it has passed.")
    assert server.world.gpus[room.uuid(4)].quarantine is not None


def test_no_test_brings_back_what_needs_more_than_that(server, ask):
    """A GPU that a person took out stays out; one that needs a restart of the machine needs it all the same."""
    order(ask, 0, "quarantine")
    assert order(ask, 0, "test")[1]["next"].endswith("It stays out until a person releases it.")
    found = events.GpuFound(
        at=server.clock.now(), gpu=room.uuid(1), finding="recovery-reboot", source="nvml", text="action 2"
    )
    server.put(found)
    assert order(ask, 1, "test")[1]["next"].endswith(
        "After a reboot it is tested, and comes back by itself if it passes."
    )


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"what": "melt"}, 422, "expected one of drain, undrain, quarantine, release, test, got 'melt'"),
        ({}, 422, "what: expected one of"),
        ({"what": "drain", "for_s": 0}, 422, "for_s"),
        ({"what": "drain", "for_s": 1e12}, 422, "for_s"),
        ({"what": "release", "for_s": 5}, 422, "for_s"),
        ({"what": "drain", "reason": "x" * 501}, 422, "reason"),
        ({"what": "drain", "wat": 1}, 422, "not an order"),
        (b"{", 422, "not an order"),
    ],
)
def test_wrong_orders_are_refused_by_name(server, ask, body, status, text):
    """Nothing is changed."""
    before = server.world
    answer = ask("POST", "/v1/gpus/0/orders", body)
    assert answer[0] == status
    assert text in answer[1]["error"]
    assert server.world is before


def test_where_nobody_watches_nothing_is_ordered(daemon, ask):
    """A GPU that is given out by its index cannot be held back."""
    policy = daemon.world.policy.__class__(max_running=1, gpu_count=2)
    daemon.put(events.Configured(at=daemon.clock.now(), policy=policy))
    status, view = order(ask, 1, "drain")
    assert status == 409
    assert "nobody watches GPUs here" in view["error"]


def test_others_may_look_and_not_order(server, ask, monkeypatch):
    """A GPU is everybody's: only root and the daemon's own user decide about it."""
    monkeypatch.setattr("supervisor.web.server.peer_of", lambda _socket: api.orders.Peer(1, 4321, 4321))
    assert ask("GET", "/v1/gpus")[0] == 200
    status, view = order(ask, 0, "drain")
    assert status == 403
    assert "GPUs are everybody's" in view["error"]


def test_an_order_that_is_not_carried_out_yet_says_so(server, ask, monkeypatch):
    """202 while the daemon is busy; it is carried out later all the same."""
    monkeypatch.setattr(api, "EFFECT_WAIT_S", 0.05)
    server.deaf = True
    status, view = order(ask, 0, "drain")
    assert (status, view["done"]) == (202, False)
    server.listen()
    assert rows(ask)[0]["state"] == "drained"
