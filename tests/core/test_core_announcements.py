"""What people are told: each end once per channel, to the channels that the job names, and what to do about a page."""

from __future__ import annotations

import itertools

import pytest
from bench import Bench

from supervisor.core import actions, events
from supervisor.core.diagnosis.evidence import Evidence, Sign
from supervisor.core.diagnosis.tables import CAUSES
from supervisor.core.model import Phase

WORDS = {Phase.SUCCEEDED: "succeeded", Phase.FAILED: "failed", Phase.CANCELLED: "cancelled"}


@pytest.mark.parametrize("phase", list(WORDS))
def test_an_end_is_told_once_per_channel(phase):
    """Whatever happens afterwards, late events and orders too, each channel has exactly one message of the end."""
    bench = Bench(channels=("ops", "log"))
    bench.bring_to(phase)
    for kind, fields in (
        (events.StopAsked, {"by": "x"}),
        (events.CancelAsked, {"by": "x"}),
        (events.Examined, {"finished": True}),
        (events.AttemptExited, {"code": 0}),
        (events.Poisoned, {"error": "x"}),
    ):
        bench.tell(kind, "a", **fields)
    bench.wait(1e6)
    ends = [one for one in bench.of(actions.Announce, "a") if one.what in WORDS.values()]
    assert sorted((one.what, one.channel) for one in ends) == [(WORDS[phase], "log"), (WORDS[phase], "ops")]


def test_keys_are_never_given_twice():
    """A message is known by its key: no two of a long life share one."""
    bench = Bench(channels=("ops", "log"))
    for name in ("a", "b"):
        bench.bring_to(Phase.FAILED, name)
        bench.tell(events.RetryAsked, name, by="ann")
        bench.launch(name, start="resume", from_epoch=1)
        bench.finish(name)
    bench.tell(events.ProgressDue)
    keys = [one.key for one in bench.ordered]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("notify", "expected"),
    [(None, {"ops", "log"}), (("log",), {"log"}), ((), set()), (("gone",), set())],
)
def test_the_job_chooses_its_channels(notify, expected):
    """`notify` picks among the configured channels; without it all of them are told."""
    bench = Bench(channels=("ops", "log"))
    bench.bring_to(Phase.SUCCEEDED, notify=notify)
    assert {one.channel for one in bench.of(actions.Announce, "a")} == expected


def test_every_page_says_what_to_do():
    """A person who is woken up reads one thing to do; every message has a title and a text."""
    bench = Bench(stop_grace_s=1.0, max_running=99)
    for number, phase in enumerate(Phase):
        bench.bring_to(phase, f"j{number}", time_limit_s=3000.0)
        bench.now += 1
    bench.tell(events.JobFileSeen, path="/jobs/x.toml", data=b"", revision="r", owner=0)
    bench.tell(events.JobRefused, path="/jobs/x.toml", revision="r", problem="x")
    for run in list(bench.world.live.values()):
        bench.tell(events.CancelAsked, run.name, by="ann", at_once=run.phase is Phase.RUNNING)
    bench.wait(8000.0)
    told = bench.of(actions.Announce)
    pages = [one for one in told if one.severity == "page"]
    assert {one.what for one in pages} >= {"refused", "failed", "held", "unkillable"}
    assert all(one.todo for one in pages)
    assert all(one.title and one.text and one.severity in {"page", "notice", "info"} for one in told)


def test_a_stop_by_a_person_wakes_nobody():
    """Whoever stopped the run knows: HELD is info then, and a page when nobody asked for it."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING, "a")
    bench.tell(events.StopAsked, "a", by="ann", at_once=True)
    bench.die("a", signal=9)
    bench.bring_to(Phase.HELD, "b")
    severity = {run: one.severity for run in "ab" for one in bench.of(actions.Announce, run) if one.what == "held"}
    assert severity == {"a": "info", "b": "page"}


def test_starts_and_resumes_are_told_apart():
    """The first start, a resume with its epoch, and a start from the beginning that says that it is one."""
    bench = Bench()
    bench.submit()
    bench.launch()
    bench.die(code=1)
    bench.wait(700.0)
    bench.launch()
    bench.save(4)
    bench.die(code=1)
    bench.wait(0.0)
    bench.launch(start="resume", from_epoch=4)
    told = [one for one in bench.of(actions.Announce, "a") if one.what in {"started", "resumed"}]
    assert [one.what for one in told] == ["started", "started", "resumed"]
    assert "from the beginning" in told[1].text
    assert "epoch 4/10" in told[2].title


def test_the_progress_message_names_every_live_run():
    """One message for all, none when there is nothing to tell."""
    bench = Bench()
    assert bench.tell(events.ProgressDue) == ()
    for name in "abc":
        bench.submit(name)
    (message,) = bench.tell(events.ProgressDue)
    assert [line.partition(":")[0] for line in message.text.splitlines()] == ["a", "b", "c"]


def test_a_channel_that_is_broken_for_good_changes_nothing():
    """A message that can never be delivered is recorded; the run does not care."""
    bench = Bench()
    bench.bring_to(Phase.SUCCEEDED)
    before = bench.world
    bench.tell(events.AnnounceFailed, channel="ops", reason="no such webhook", answers="x")
    bench.tell(events.Announced, channel="ops", tries=1, answers="x")
    assert bench.world == before


def test_a_reboot_names_the_runs_that_it_cut_off():
    """One message for the machine, naming what was running; none for a mere restart of the daemon."""
    bench = Bench()
    bench.bring_to(Phase.RUNNING, "a")
    bench.bring_to(Phase.QUEUED, "b")
    boot = bench.world.boot
    for pid, again in itertools.product((2, 3), (boot,)):
        bench.tell(events.DaemonStarted, pid=pid, version="x", boot=again)
    assert "rebooted" not in bench.said()
    bench.tell(events.DaemonStarted, pid=4, version="x", boot=type(boot)("other", 1))
    (message,) = [one for one in bench.of(actions.Announce) if one.what == "rebooted"]
    assert message.text.endswith(": a.")


def test_a_failure_is_told_with_what_shows_it_what_is_done_and_what_helps():
    """Each message of a failure: what happened, the line and its place, what follows, what a person can do. Once."""
    seen = "PermissionError: [Errno 13] Permission denied: '/d/x'"
    for cause, what in (
        ("cuda-oom", "failed-attempt"),
        ("disk-full", "waits"),
        ("permission", "held"),
        ("bad-argument", "failed"),
    ):
        bench = Bench()
        bench.bring_to(Phase.RUNNING)
        sign = Sign(rule="x", cause=cause, line=seen, number=812)
        bench.die(code=1, evidence=Evidence(signs=(sign,), epoch=4, batch=17), reason=f"exit code 1: {seen}")
        message = next(one for one in reversed(bench.of(actions.Announce, "a")) if one.what == what)
        told = f"{message.text}\n{message.todo}"
        title = CAUSES[cause].title
        assert title[1:] in told
        assert f"Seen: {seen} (line 812 of attempts/1/log, epoch 4, batch 17)" in told
        assert "\nDone: " in told
        assert bench.run().incidents[-1].fix in told
        assert told.count(seen) == 1
        assert told.count("by itself") <= 2  # once for what is done, once in what helps
