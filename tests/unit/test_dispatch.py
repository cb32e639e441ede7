"""Lanes carry out what was recorded: each key once at a time, retried until it is answered, kills never delayed."""

from __future__ import annotations

import errno
import itertools
import logging
import queue
import sqlite3
import threading
import time

import pytest

from supervisor.core import actions, events
from supervisor.core.model import Job
from supervisor.effects.dispatch import Dispatcher
from supervisor.errors import PermanentError, RetryableError

WAIT_S = 10.0


class Hands:
    """Handlers that do what a test says, and the inbox that gets what came of it."""

    def __init__(self):
        self.inbox = queue.SimpleQueue()
        self.answers = {}
        self.calls = queue.SimpleQueue()
        handlers = dict.fromkeys(
            (
                actions.Announce,
                actions.Terminate,
                actions.Prepare,
                actions.Launch,
                actions.Keep,
                actions.TestGpu,
                actions.TreatGpu,
            ),
            self.handle,
        )
        self.dispatcher = Dispatcher(handlers, self.inbox.put, lambda: 5.0)

    def handle(self, action):
        """Do what the test planned for this key."""
        self.calls.put(action.key)
        plan = self.answers.get(action.key, ())
        step = next(plan) if isinstance(plan, itertools.chain) else plan
        if isinstance(step, Exception):
            raise step
        if callable(step):
            return step(action)
        return (events.Announced(at=1.0, channel="ops", tries=1),)

    def answer(self):
        """The next event that came of an action."""
        return self.inbox.get(timeout=WAIT_S)

    def nothing_more(self):
        """True if no event is waiting."""
        return self.inbox.empty()


@pytest.fixture
def hands():
    """A dispatcher that is closed afterwards."""
    made = Hands()
    yield made
    made.dispatcher.close()


def message(key):
    """An action of the network lane."""
    return actions.Announce(key=key, channel="ops", what="x", severity="info", title="t", text="x")


def kill(key):
    """An action of the kill lane."""
    return actions.Terminate(key=key, run="a@1", attempt=1, how="kill", project="p", name="a")


def launch(key):
    """An action of the process lane."""
    job = Job(name="a", revision="r")
    return actions.Launch(
        key=key, run="a@1", attempt=1, token=1, job=job, gpus=(), start="fresh", checkpoint="", from_epoch=0
    )


def test_an_answer_names_its_action(hands):
    """The event carries the key, so that the journal knows what is done."""
    hands.dispatcher([message("m-1")])
    event = hands.answer()
    assert (type(event), event.answers) == (events.Announced, "m-1")


def test_a_retryable_error_is_tried_again(hands):
    """Nothing is reported until it worked."""
    again = RetryableError("not yet", 0.01)
    hands.answers["m-1"] = itertools.chain([again, again], itertools.repeat(()))
    hands.dispatcher([message("m-1")])
    assert hands.answer().answers == "m-1"
    assert [hands.calls.get(timeout=1) for _ in range(3)] == ["m-1"] * 3


@pytest.mark.parametrize(
    ("error", "text"),
    [(PermanentError("no such thing"), "no such thing"), (ValueError("x"), "internal error: ValueError: x")],
)
def test_what_can_never_work_is_reported(hands, error, text):
    """A permanent failure, or a bug in a handler, becomes the event that says so; the lane lives on."""
    logging.disable(logging.CRITICAL)
    hands.answers["l-1"] = error
    hands.dispatcher([launch("l-1")])
    event = hands.answer()
    logging.disable(logging.NOTSET)
    assert isinstance(event, events.LaunchFailed)
    assert (event.answers, event.reason, event.run, event.attempt) == ("l-1", text, "a@1", 1)
    hands.dispatcher([launch("l-2")])
    assert hands.answer().answers == "l-2"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EIO, "x"),
        OSError(errno.EMFILE, "x"),
        sqlite3.OperationalError("locked"),
    ],
)
def test_a_machine_in_trouble_is_no_verdict(hands, monkeypatch, error):
    """A full disk, an I/O error, too many open files: it is tried again and never counted against the job."""
    monkeypatch.setattr("supervisor.effects.dispatch.NOT_NOW_S", 0.01)
    hands.answers["l-1"] = itertools.chain(
        [error], itertools.repeat(lambda _: (events.LaunchFailed(at=1, run="a@1", attempt=1, reason="second"),))
    )
    hands.dispatcher([launch("l-1")])
    assert hands.answer().reason == "second"


def copy(key):
    """An action of the lane of copies."""
    return actions.Keep(key=key, run="a@1", attempt=1, token=1, job=Job(name="a", revision="r"))


def test_a_copy_that_hangs_does_not_stop_all_copies(hands):
    """One run's disk does not answer: the checkpoints of another run are copied all the same."""
    gate = threading.Event()

    def hang(_):
        gate.wait(WAIT_S)
        return (events.Kept(at=1.0, run="a@1", attempt=1),)

    hands.answers |= {"k-1": hang, "k-2": lambda _: (events.Kept(at=1.0, run="b@1", attempt=1),)}
    hands.dispatcher([copy("k-1"), copy("k-2")])
    assert hands.answer().answers == "k-2"
    gate.set()
    assert hands.answer().answers == "k-1"


def test_a_copy_that_can_never_be_made_counts_as_failed(hands):
    """People are told of copies that fail again and again, of whatever kind the failure is."""
    hands.answers["k-1"] = PermanentError("no such thing")
    hands.dispatcher([copy("k-1")])
    event = hands.answer()
    assert (event.reason, event.fault) == ("no such thing", "failed")


def test_one_key_is_under_way_at_most_once(hands):
    """Ordered again while it is still being done: it is done once; ordered after its end: it is done again."""
    gate = threading.Event()

    def slow(_):
        gate.wait(WAIT_S)
        return (events.Announced(at=1.0, channel="ops", tries=1),)

    hands.answers["m-1"] = slow
    hands.dispatcher([message("m-1")])
    assert hands.calls.get(timeout=WAIT_S) == "m-1"
    hands.dispatcher([message("m-1"), message("m-2")])
    assert hands.answer().answers == "m-2"
    gate.set()
    assert hands.answer().answers == "m-1"
    assert hands.calls.get(timeout=1) == "m-2"
    assert hands.calls.empty()
    assert hands.nothing_more()


def test_a_kill_never_waits_for_other_lanes(hands):
    """Disk, network and process lanes hang: a kill is carried out all the same."""
    gate = threading.Event()
    slow = lambda _: gate.wait(WAIT_S) and ()  # noqa: E731 - one expression
    busy = [message("m-1"), message("m-2"), launch("l-1")]
    for action in busy:
        hands.answers[action.key] = slow
    hands.dispatcher(busy)
    for _ in busy:
        hands.calls.get(timeout=WAIT_S)
    hands.dispatcher([kill("k-1")])
    assert hands.answer().answers == "k-1"
    gate.set()


def test_a_retry_delays_nobody_behind_it(hands):
    """While an action waits for its next try, the lane does the others."""
    hands.answers["l-1"] = itertools.chain([RetryableError("x", 3600.0)])
    hands.dispatcher([launch("l-1"), launch("l-2")])
    assert hands.answer().answers == "l-2"


def test_several_facts_are_all_reported_and_the_last_one_is_the_answer(hands):
    """A crash between two of them must not leave an action answered whose answer was never written."""
    fact = events.Announced(at=1.0, channel="ops", tries=1)
    hands.answers["m-1"] = lambda _: (fact, fact)
    hands.dispatcher([message("m-1")])
    assert [hands.answer().answers for _ in range(2)] == ["", "m-1"]


@pytest.mark.parametrize("what", ["test", "treat"])
def test_what_cannot_be_done_with_a_gpu_is_answered(hands, what):
    """A test that could not be made says nothing of the GPU; a treatment that failed is told as such."""
    ordered = {
        "test": actions.TestGpu(key="g-1", gpu="GPU-a", python="/p"),
        "treat": actions.TreatGpu(key="g-1", gpu="GPU-a", what="reset"),
    }[what]
    hands.answers["g-1"] = PermanentError("no such thing")
    hands.dispatcher([ordered])
    event = hands.answer()
    assert (event.answers, event.gpu, event.ok, event.text) == ("g-1", "GPU-a", False, "no such thing")
    assert getattr(event, "ran", False) is False


def test_closing_leaves_the_rest_to_the_next_daemon(hands):
    """What is under way is waited for; what has not begun stays undone, for it is in the journal."""
    gate, begun = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        gate.wait(WAIT_S)
        return (events.LaunchFailed(at=1.0, run="a@1", attempt=1, reason="x"),)

    hands.answers["l-1"] = slow
    hands.dispatcher([launch("l-1"), launch("l-2")])
    assert begun.wait(WAIT_S)
    hands.dispatcher.close(timeout_s=0.0)
    gate.set()
    assert hands.answer().answers == "l-1"
    assert hands.nothing_more()


def test_all_lanes_end_within_one_deadline(hands):
    """However many hang: a shutdown has that long, and no lane begins anything while another one is waited for."""
    free, begun = threading.Event(), queue.SimpleQueue()

    def hang(_action):
        begun.put(1)
        free.wait(20)
        return ()

    orders = [message("m-1"), message("m-2"), kill("k-1"), launch("l-1")]
    for order in orders:
        hands.answers[order.key] = hang
    hands.dispatcher(orders)
    for _ in orders:
        begun.get(timeout=WAIT_S)
    hands.dispatcher([message("m-3"), kill("k-2"), launch("l-2")])
    ended = threading.Thread(target=hands.dispatcher.close, args=(0.5,))
    began = time.monotonic()
    ended.start()
    ended.join(WAIT_S)
    took_s = time.monotonic() - began
    free.set()
    assert 0.4 < took_s < 1.0
    calls = {hands.calls.get(timeout=1) for _ in orders}
    assert calls == {order.key for order in orders}
    hands.dispatcher.close()
    assert hands.calls.empty(), "what was not begun is left for the next daemon"


def test_a_closed_dispatcher_begins_nothing(hands):
    """Also in a lane that there was not yet."""
    hands.dispatcher.close()
    hands.dispatcher([actions.Drill(key="d-1", target="new")])
    hands.dispatcher.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "lane-backup-new-0"]
