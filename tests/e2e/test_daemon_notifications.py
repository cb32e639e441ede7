"""State changes reach people, while their server is away too, each once, and the loop never waits for it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from daemon_harness import needs, until

from tests.webhook_receiver import Receiver

pytestmark = pytest.mark.e2e


def free_port():
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tell(server, port):
    """Give the server a generic and a Slack channel at this port."""
    server.channels = [
        {"name": "hook", "kind": "webhook", "url": f"http://127.0.0.1:{port}/hook"},
        {"name": "slack", "kind": "slack", "url": f"http://127.0.0.1:{port}/slack"},
    ]
    server.write_config()


def types(messages):
    """The kinds of messages that came on the generic channel."""
    return [message["body"]["type"] for message in messages if message["path"] == "/hook"]


def wait_for_type(receiver, wanted, within_s=30.0):
    """Wait for a message of this type on the generic channel."""
    deadline = time.monotonic() + within_s
    count = 1
    while wanted not in types(receiver.received):
        count = len(receiver.wait_for(count, max(0.1, deadline - time.monotonic()))) + 1


def test_both_channels_hear_of_start_death_resume_and_end(still):
    """In order, with run, server, epoch and reason; the Slack channel gets the same story as text."""
    with Receiver() as receiver:
        tell(still, receiver.port)
        still.start()
        still.train("truck", "--signal-after KILL@2.1 --fault-once", epochs=3)
        still.wait("truck", "SUCCEEDED")
        wait_for_type(receiver, "run.succeeded")
        assert types(receiver.received) == ["run.started", "run.failed-attempt", "run.resumed", "run.succeeded"]
        hook = [message["body"]["data"] for message in receiver.received if message["path"] == "/hook"]
        assert {data["run"] for data in hook} == {"truck@1"}
        assert {data["server"] for data in hook} == {"testbed"}
        assert "SIGKILL" in hook[1]["text"]
        assert "after epoch 1/3" in hook[2]["title"]
        slack = receiver.wait_for(8, 15)
        assert any("truck" in str(message["body"]) for message in slack if message["path"] == "/slack")


def test_messages_wait_while_the_receiver_is_down(still):
    """Nobody listens: the training is not held up; when somebody does, every message comes once, with its id."""
    port = free_port()
    tell(still, port)
    still.start()
    still.train("truck", epochs=2)
    began = time.monotonic()
    still.wait("truck", "SUCCEEDED")
    assert time.monotonic() - began < 10
    with Receiver((503, {}, b"busy"), port=port) as receiver:
        until(lambda: {"run.started", "run.succeeded"} <= {*types(receiver.received[1:])}, "both messages")
        taken = [message for message in receiver.received[1:] if message["path"] == "/hook"]
        if receiver.received[0]["path"] == "/hook":
            assert receiver.received[0]["headers"]["webhook-id"] in [one["headers"]["webhook-id"] for one in taken]
        assert sorted(types(taken)) == ["run.started", "run.succeeded"]
        identifiers = [message["headers"]["webhook-id"] for message in taken]
        assert len(set(identifiers)) == 2


def test_a_message_that_was_not_delivered_is_delivered_by_the_next_daemon(still):
    """It stands in the journal: a SIGKILL between the event and its delivery loses nothing."""
    port = free_port()
    tell(still, port)
    still.start()
    still.train("truck", epochs=1)
    still.wait("truck", "SUCCEEDED")
    still.end()
    with Receiver(port=port) as receiver:
        still.start()
        wait_for_type(receiver, "run.succeeded", 10)
        wait_for_type(receiver, "run.started", 10)
    assert sorted(types(receiver.received)) == ["run.started", "run.succeeded"]


def test_what_a_person_must_act_on_names_one_command(still):
    """FAILED and a refused file are pages: each says what to do."""
    with Receiver() as receiver:
        tell(still, receiver.port)
        still.start()
        still.train("truck", "--exit 1", epochs=1, restart={"no_progress": 1})
        still.drop("bad.toml", "x = 1\n")
        wait_for_type(receiver, "run.failed")
        wait_for_type(receiver, "supervisor.refused")
        pages = {m["body"]["type"]: m["body"]["data"] for m in receiver.received if m["path"] == "/hook"}
        for kind, words in (("run.failed", "yolo-supervisor retry truck"), ("supervisor.refused", "bad.toml")):
            assert pages[kind]["severity"] == "page"
            assert words in pages[kind]["todo"]


def test_a_machine_without_gpus_says_so_once(still):
    """Watching is off where there is nothing to watch: one message, and none when the daemon starts again."""
    needs(not any(Path("/dev").glob("nvidia[0-9]*")), "a machine without NVIDIA GPUs")
    with Receiver() as receiver:
        tell(still, receiver.port)
        still.tables["gpu"]["watch"] = True
        still.write_config()
        still.start()
        wait_for_type(receiver, "supervisor.gpus-none")
        still.restart()
        still.train("truck", epochs=1)
        wait_for_type(receiver, "run.succeeded")
        told = [one for one in receiver.received if "supervisor.gpus-none" in types([one])]
        assert len({one["headers"]["webhook-id"] for one in told}) == 1  # the first daemon may die before it knows
