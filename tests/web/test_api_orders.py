"""Orders over the API: who may, when they make sense, what they change, and what is said about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from supervisor.core.model import Phase, Wanted
from supervisor.web import api, orders
from supervisor.web.orders import Order, Peer, RefusedOrder

NOBODY = 65534


def test_stop_waits_for_the_next_save_and_says_when(daemon, ask):
    """`stop` holds the run at the next save; the answer shows the effect and when the save is expected."""
    run_id = daemon.launch("truck")
    daemon.progress(run_id, 3, 2)
    daemon.live(run_id, epoch=3, saved_epoch=2, next_save_s=240.0, epoch_s=300.0)
    status, view = ask("POST", "/v1/runs/truck/stop", {})
    assert status == 200
    assert view["version"] == 1
    assert view["run"]["phase"] == "STOPPING"
    assert "stops when the next epoch is saved, expected in about 4 min" in view["next"]
    daemon.progress(run_id, 3, 3)
    assert daemon.world.live[run_id].stop.how == "term"


def test_stop_now_says_what_is_lost(daemon, ask):
    """`stop --now` ends the tree at once and tells the epochs and the time since the newest checkpoint."""
    run_id = daemon.launch("truck")
    daemon.progress(run_id, 3, 2)
    daemon.live(run_id, epoch=3, saved_epoch=2, batch=20, batches=40, epoch_s=120.0)
    view = ask("POST", "/v1/runs/truck/stop", {"now": True})[1]
    assert "lost: 0.5 epochs (1 min of training) since epoch 2 was saved" in view["next"]
    assert daemon.world.live[run_id].stop.how == "kill"


def test_the_order_names_who_gave_it(daemon, ask):
    """The record names the person by name and id, as the kernel told them."""
    daemon.accept("truck")
    ask("POST", "/v1/runs/truck/stop", {})
    why = ask("GET", "/v1/runs/truck/why")[1]
    stopped = next(step for step in why["steps"] if step["kind"] == "StopAsked")
    assert f"{orders.user_name(os.getuid())} (uid {os.getuid()}) via CLI" in stopped["what"]


def test_resume_takes_back_a_stop_and_frees_a_held_run(daemon, ask):
    """`resume` takes back a stop that has not happened, and queues a held run again."""
    daemon.launch("truck")
    ask("POST", "/v1/runs/truck/stop", {})
    assert ask("POST", "/v1/runs/truck/resume", {})[1]["run"]["phase"] == "RUNNING"
    daemon.accept("car")
    ask("POST", "/v1/runs/car/stop", {})
    assert daemon.world.named("car").phase is Phase.HELD
    view = ask("POST", "/v1/runs/car/resume", {})[1]
    assert view["run"]["phase"] == "QUEUED"
    assert "waiting for a free place" in view["next"]


def test_cancel_ends_for_good_and_retry_starts_again(daemon, ask):
    """A waiting run is cancelled at once; `retry` opens a new run of it and answers with that one."""
    daemon.allow(1)
    daemon.launch("other")
    daemon.accept("truck")
    assert ask("POST", "/v1/runs/truck/cancel", {})[1]["run"]["phase"] == "CANCELLED"
    view = ask("POST", "/v1/runs/truck/retry", {})[1]
    assert view["run"]["id"] == "truck@2"
    assert "truck@2 is QUEUED" in view["next"]


def test_cancel_of_a_running_run_asks_it_to_end(daemon, ask):
    """`cancel` of a running run ends it politely, `--now` by force, and each says so."""
    run_id = daemon.launch("truck")
    assert "is asked to end" in ask("POST", "/v1/runs/truck/cancel", {})[1]["next"]
    assert daemon.world.live[run_id].wanted is Wanted.DOWN
    assert "being ended now" in ask("POST", "/v1/runs/truck/cancel", {"now": True})[1]["next"]
    assert daemon.world.live[run_id].stop.how == "kill"


def test_priority_is_set_within_its_range(daemon, ask):
    """A priority from -100 to 100 is set; any other is refused as a wrong value."""
    daemon.accept("truck")
    assert ask("POST", "/v1/runs/truck/priority", {"priority": -7})[1]["run"]["priority"] == -7
    for wrong in (101, -101, None):
        assert ask("POST", "/v1/runs/truck/priority", {"priority": wrong})[0] == 422


def test_drain_and_its_end(daemon, ask):
    """`drain` says which trainings end and when the last save is expected; `--off` takes it back."""
    run_id = daemon.launch("truck")
    daemon.live(run_id, epoch=1, next_save_s=60.0)
    view = ask("POST", "/v1/drain", {})[1]
    assert view["draining"] is True
    assert "1 training ends when its next epoch is saved (truck)" in view["next"]
    assert "in about 1 min" in view["next"]
    assert daemon.world.live[run_id].phase is Phase.STOPPING
    assert ask("POST", "/v1/drain", {"off": True})[1]["draining"] is False
    assert daemon.world.live[run_id].phase is Phase.RUNNING


@pytest.mark.parametrize(
    ("prepare", "verb", "words"),
    [
        ("end", "stop", "truck is SUCCEEDED: nothing to stop; `retry truck` starts it again"),
        ("end", "resume", "nothing to resume"),
        ("end", "cancel", "nothing to cancel"),
        ("end", "priority", "nothing to give a priority to"),
        ("launch", "resume", "truck is RUNNING, not held: it goes on by itself"),
        ("launch", "retry", "only ended runs are retried"),
        ("held", "stop", "truck is HELD already"),
        ("held", "retry", "`resume truck` lets it go on"),
        ("stopping", "stop", "`stop truck --now` ends it at once"),
        ("killing", "stop", "truck is stopping already"),
        ("killing", "resume", "is ending just now"),
        ("cancelling", "cancel", "is being cancelled already"),
        ("cancelling", "stop", "is being cancelled already"),
    ],
)
def test_orders_that_make_no_sense_are_refused_with_what_to_do(daemon, ask, prepare, verb, words):
    """An order that cannot have an effect is answered with 409 and the reason, and nothing changes."""
    run_id = daemon.launch("truck")
    {
        "launch": lambda: None,
        "end": lambda: daemon.end(run_id),
        "held": lambda: daemon.end(run_id, finished=False, code=66),
        "stopping": lambda: ask("POST", "/v1/runs/truck/stop", {}),
        "killing": lambda: ask("POST", "/v1/runs/truck/stop", {"now": True}),
        "cancelling": lambda: ask("POST", "/v1/runs/truck/cancel", {}),
    }[prepare]()
    before = daemon.world
    status, view = ask("POST", f"/v1/runs/truck/{verb}", {"priority": 1})
    assert status == 409, view
    assert words in view["error"]
    assert daemon.world is before


def test_retry_of_an_older_run_names_the_newest(daemon, ask):
    """Only the newest run of a name is retried: two runs must not share a directory."""
    daemon.end(daemon.launch("truck"))
    ask("POST", "/v1/runs/truck/retry", {})
    status, view = ask("POST", "/v1/runs/truck@1/retry", {})
    assert status == 409
    assert "truck@2" in view["error"]


def test_an_order_without_an_effect_yet_is_answered_as_not_done(daemon, ask, monkeypatch):
    """If the daemon cannot decide (its disk is full), the answer is 202 and says that it is not carried out yet."""
    monkeypatch.setattr(api, "EFFECT_WAIT_S", 0.1)
    daemon.launch("truck")
    daemon.deaf = True
    status, view = ask("POST", "/v1/runs/truck/stop", {})
    assert status == 202
    assert view["done"] is False
    assert "not carried out yet" in view["next"]


def test_the_answer_waits_for_the_effect(daemon, ask):
    """The answer comes when the world shows the effect, not before; other requests are answered meanwhile."""
    daemon.launch("other")
    daemon.accept("truck")
    daemon.deaf = True
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask("POST", "/v1/runs/truck/cancel", {})))
    thread.start()
    while not daemon.waiting:
        assert ask("GET", "/v1/status")[0] == 200
    assert answers == []
    daemon.listen()
    thread.join(5)
    assert answers[0][1]["run"]["phase"] == "CANCELLED"


def test_only_owner_root_and_the_daemon_may_order():
    """Owner, root and the daemon's own user pass; anybody else is refused with the owner's name."""
    for uid in (0, os.geteuid(), 4242):
        orders.check_permission(Peer(1, uid, 1), 4242, "truck")
    with pytest.raises(RefusedOrder, match="truck belongs to user \\(uid 4242\\); you are uid 4243"):
        orders.check_permission(Peer(1, 4243, 1), 4242, "truck")


def test_only_root_and_the_daemon_may_drain():
    """A drain stops everybody's trainings: an ordinary user is refused."""
    orders.check_drain(Peer(1, 0, 0))
    with pytest.raises(RefusedOrder, match="only root and"):
        orders.check_drain(Peer(1, os.geteuid() + 4243, 1))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can speak as somebody else")
@pytest.mark.e2e
def test_the_kernel_says_who_asks(daemon):
    """Another user's process reaches the owner's run with no order: the kernel, not the request, tells who asks."""
    daemon.socket_path.chmod(0o666)
    daemon.accept("truck", owner=0)
    daemon.accept("mine", owner=NOBODY)
    assert as_nobody(daemon, "/v1/runs/truck/cancel") == 403
    assert as_nobody(daemon, "/v1/drain") == 403
    assert as_nobody(daemon, "/v1/runs/mine/cancel") == 200


def as_nobody(daemon, path):
    script = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(f'POST {sys.argv[2]} HTTP/1.1\\r\\nHost: x\\r\\nX-Uid: 0\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}'.encode())\n"
        "print(s.recv(100).split()[1].decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(daemon.socket_path), path], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("verb", orders.VERBS)
def test_each_order_becomes_its_event(verb, daemon):
    """Every verb has an event that carries the run and who ordered it."""
    run_id = daemon.launch("truck")
    run = daemon.world.live[run_id]
    event = orders.order_event(verb, run, Order(priority=3), "somebody", 1.0)
    assert type(event).__name__ == f"{verb.capitalize()}Asked"
    assert (event.run, event.by) == (run.id, "somebody")


def test_answers_are_json_with_a_version(ask):
    """Even refusals are JSON with a version."""
    assert ask("GET", "/v1/runs/nobody")[1]["version"] == 1
    assert json.dumps(ask("POST", "/v1/drain", {})[1])
