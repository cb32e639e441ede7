"""The record: all or nothing, loaded as it was, readable beside a writer, and honest about what it cannot write."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading

import msgspec
import pytest
from journal_bench import BOOT, journal, path, reader, writer

from supervisor.core import events
from supervisor.core.actions import CheckJob
from supervisor.core.job import Done, Restart
from supervisor.core.model import Phase, World
from supervisor.journal import Journal, replay

__all__ = ["journal", "path", "writer"]  # fixtures


# ---- what is written is what is loaded
def test_a_new_journal_is_an_empty_world(journal):
    """Nothing was written: nothing is known, nothing is to be done."""
    assert journal.load() == World()
    assert journal.pending() == []
    assert journal.recent() == []


def test_the_loaded_world_is_the_live_world(writer, path):
    """After every commit a second daemon would load exactly the world of the first, in every field."""
    writer.submit("rich", tags=("x", "y"), env={"A": "ä 中"}, settings={"n": None, "deep": {"l": [1, 2.5, True]}},
        restart=Restart(no_progress=7, backoff_s=0.1), notify=(), after=("b",), done=Done(log="x"), time_limit_s=1e-9,
        train={"epochs": 3, "big": 2**63, "lr0": 1 / 3})  # fmt: skip
    writer.submit("b")
    writer.tell(events.CancelAsked(at=1.0, run="rich@1", by="ann"))
    writer.tell(events.JobFileGone(at=1.0, path="/jobs/b.toml"))
    with reader(path) as other:
        assert other.load() == writer.world
    assert {run.phase for run in writer.world.ended.values()} == {Phase.CANCELLED}


def test_it_is_loaded_after_a_restart(writer, path):
    """Closed and opened again, the world, the pending actions and the sources are still there."""
    writer.submit()
    pending = writer.journal.pending()
    writer.journal.close()
    with contextlib.closing(Journal.open(path)) as again:
        assert again.load() == writer.world
        assert again.pending() == pending
        assert again.source("a-1") == b"name\n"
        assert again.source("unknown") is None


def test_a_replay_is_the_same_world(writer):
    """The recorded events, told once more, make the same world."""
    writer.submit()
    writer.tell(events.Prepared(at=1.0, run="a@1", attempt=1, start="fresh", answers="a@1/1/prepare-1"))
    assert replay(list(writer.journal.events())) == writer.world


def test_one_transaction_for_many_events(writer, path):
    """A batch is written at once: rows show its end, the history each step."""
    told = [events.JobFileSeen(at=1.0, path=f"/{number}", data=b"x", revision="r", owner=0) for number in range(300)]
    before = len(writer.journal.recent(limit=10_000))
    writer.tell(*told)
    with reader(path) as other:
        assert other.load() == writer.world
        assert len(other.recent(limit=10_000)) == before + 300
        assert len(other.pending()) == 300


# ---- actions
def test_an_action_is_pending_until_it_is_answered(writer):
    """Written with the event that caused it, gone with the event that answers it, in the order of their causes."""
    writer.submit()
    assert [action.key for action in writer.journal.pending()] == ["mark-2", "a@1/1/prepare-1"]
    writer.tell(events.Prepared(at=1.0, run="a@1", attempt=1, start="fresh", answers="a@1/1/prepare-1"))
    assert [action.key for action in writer.journal.pending()] == ["mark-2", "a@1/1/launch-1"]


def test_an_answer_may_come_twice(writer):
    """A second answer to the same action changes nothing and is no error."""
    for _ in range(2):
        writer.tell(events.FileMarked(at=1.0, path="/x", answers="mark-2"))
    assert writer.journal.pending() == []


def test_pending_actions_are_whole(writer):
    """What the next daemon carries out is what was ordered, bytes included."""
    event = events.JobFileSeen(at=1.0, path="/x", data=bytes(range(256)), revision="r", owner=3, note="ä")
    writer.tell(event)
    (action,) = writer.journal.pending()
    assert isinstance(action, CheckJob)
    assert (action.data, action.owner, action.note) == (event.data, 3, "ä")


# ---- history
def test_the_history_of_a_run_tells_each_change(writer):
    """Phase before and after, the reason, the event as data and the keys of what it ordered, oldest first."""
    writer.submit("a")
    writer.submit("b")
    writer.tell(events.CancelAsked(at=5.0, run="a@1", by="ann", origin="api"))
    rows = writer.journal.history("a@1")
    assert [(row.kind, row.phase_before, row.phase_after) for row in rows] == [
        ("JobAccepted", "", "PREPARING"),
        ("CancelAsked", "PREPARING", "CANCELLED"),
    ]
    assert "cancelled by ann" in rows[-1].reason
    assert (rows[-1].origin, rows[-1].body["by"]) == ("api", "ann")
    assert "a@1/1/prepare-1" in rows[0].actions
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)


def test_the_history_is_cut_at_its_old_end(writer):
    """A limit keeps the newest events."""
    writer.submit("a")
    for priority in range(20):
        writer.tell(events.PriorityAsked(at=1.0, run="a@1", by="ann", priority=priority))
    assert [row.body["priority"] for row in writer.journal.history("a@1", limit=3)] == [17, 18, 19]


def test_reports_of_epochs_do_not_push_out_how_it_began(writer):
    """However many epochs were reported, the start of the run and its other events stay in its history."""
    writer.submit("a")
    writer.tell(events.Prepared(at=1.0, run="a@1", attempt=1, start="fresh", answers="a@1/1/prepare-1"))
    for epoch in range(1, 20):
        writer.tell(events.Kept(at=1.0, run="a@1", attempt=1, epoch=epoch, file=f"epoch{epoch}.pt"))
    rows = writer.journal.history("a@1", limit=3)
    assert [row.kind for row in rows] == ["JobAccepted", "Prepared", "Kept", "Kept", "Kept"]
    assert rows[-1].body["epoch"] == 19


def test_recent_pages_through_everything(writer):
    """Page by page after the last seq that was seen, nothing is missed, even where one event changes many runs."""
    for name in "abcdefgh":
        writer.submit(name)
    writer.tell(events.DrainAsked(at=1.0, by="ann"))
    everything = writer.journal.recent(limit=10_000)
    drained = [row.run for row in everything if row.kind == "DrainAsked"]
    assert drained == [f"{name}@1" for name in "abcdefgh"]
    seen, after_seq = [], 1
    while page := writer.journal.recent(after_seq, limit=3):
        seen += page
        after_seq = page[-1].seq
    assert seen == [row for row in everything if row.seq > 1]


def test_recent_without_a_start_is_the_newest(writer):
    """`recent()` alone shows the last events, oldest of them first."""
    for number in range(30):
        writer.tell(events.JobFileSeen(at=1.0, path=f"/{number}", data=b"x", revision="r", owner=0))
    assert [row.body["path"] for row in writer.journal.recent(limit=2)] == ["/28", "/29"]


def test_a_look_at_all_runs_is_no_news(writer):
    """The periodic list of the living does not fill the history of each run."""
    writer.submit("a")
    writer.tell(events.Prepared(at=1.0, run="a@1", attempt=1, start="fresh"))
    writer.tell(events.Launched(at=1.0, run="a@1", attempt=1, pid=5, shim_pid=4, boot=BOOT, started_at=1.0))
    before = writer.journal.history("a@1")
    writer.tell(events.Observed(at=1.0, alive=(("a@1", 1),)))
    assert writer.journal.history("a@1") == before


# ---- other versions
def test_unknown_kinds_are_kept_and_shown(writer, path):
    """A newer version wrote an event and an action that this one does not know: both stay, the event is shown."""
    writer.submit()
    raw = sqlite3.connect(path)
    body = b'{"kind":"GpuMelted","at":1.0,"run":"a@1","gpu":3}'
    columns = "(at, kind, version, run, origin, code, body, actions)"
    raw.execute(f"INSERT INTO events {columns} VALUES (9, 'GpuMelted', 1, 'a@1', 'gpu', '9.9', ?, '[]')", (body,))
    raw.execute("INSERT INTO actions VALUES ('x', 1, 'Extinguish', 1, ?)", (b'{"kind":"Extinguish","key":"x"}',))
    raw.commit()
    raw.close()
    assert "x" not in [action.key for action in writer.journal.pending()]
    last = writer.journal.history("a@1")[-1]
    assert (last.kind, last.body["gpu"]) == ("GpuMelted", 3)
    assert writer.journal.recent()[-1].kind == "GpuMelted"
    assert replay(list(writer.journal.events())) == writer.world
    writer.tell(events.PriorityAsked(at=1.0, run="a@1", by="ann", priority=4))
    kept = sqlite3.connect(path)
    assert kept.execute("SELECT count(*) FROM actions WHERE key = 'x'").fetchone() == (1,)
    kept.close()


def test_fields_of_a_newer_version_are_ignored(writer, path):
    """A field that this version does not know, in a row or an action, does not keep the daemon from starting."""
    run = writer.submit()
    body = {**msgspec.to_builtins(run), "mood": "good"}
    raw = sqlite3.connect(path)
    raw.execute("UPDATE rows SET body = ? WHERE space = 'run'", (msgspec.json.encode(body),))
    raw.commit()
    raw.close()
    assert writer.journal.load() == writer.world


def test_a_newer_schema_is_refused(path):
    """A journal of a newer version is not touched, and the message says why."""
    Journal.open(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(sqlite3.DatabaseError, match="newer yolo-supervisor"):
        Journal.open(path)
    assert path.read_bytes() == before


def test_what_is_no_journal_is_refused(path):
    """Some other file at that place is not overwritten."""
    path.write_text("no database at all, but long enough to be looked at" * 50, encoding="utf-8")
    with pytest.raises(sqlite3.DatabaseError):
        Journal.open(path)
    assert path.read_text(encoding="utf-8").startswith("no database")


# ---- readers
def test_a_reader_needs_a_journal(path):
    """Reading what is not there says so, and creates nothing."""
    with pytest.raises(FileNotFoundError):
        Journal.open(path, read_only=True)
    assert not path.exists()


def test_a_reader_cannot_write(writer, path):
    """Opened read-only it refuses a commit."""
    entry = writer.entry(events.JobFileSeen(at=1.0, path="/x", data=b"x", revision="r", owner=0))
    with reader(path) as other, pytest.raises(sqlite3.OperationalError, match="readonly"):
        other.commit([entry])


def test_readers_and_the_writer_do_not_disturb_each_other(writer, path):
    """While the daemon writes, each read sees a whole world: the same number of runs as of names, and none goes wrong."""
    problems = []
    done = threading.Event()

    def read():
        while not done.is_set():
            with reader(path) as other:
                world = other.load()
                if len(world.live) != len(world.latest):
                    problems.append(world)
                other.recent()

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(60):
        writer.submit(f"j{number}")
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(writer.world.live) == 60


def test_an_open_reader_sees_the_next_commit(writer, path):
    """A reader holds no old state: its next question is answered from the newest commit."""
    with reader(path) as other:
        assert other.load() == writer.world
        writer.submit()
        assert other.load() == writer.world


def test_a_killed_writer_leaves_the_last_commit(path):
    """The process dies by SIGKILL in the middle of a transaction: the world is that of the last commit."""
    script = """if True:
        import os, signal, sys
        from pathlib import Path
        from supervisor.core import events
        from supervisor.core.model import World
        from supervisor.core.step import step
        from supervisor.journal import Entry, Journal
        journal = Journal.open(Path(sys.argv[1]))
        world = journal.load()
        for number in range(3):
            event = events.JobFileSeen(at=1.0, path=f"/{number}", data=b"x", revision="r", owner=0)
            after, actions = step(world, event, 1.0)
            if number == 2:
                journal._write_rows = None
                journal._connection.execute("BEGIN IMMEDIATE")
                journal._write(Entry(event, 1.0, world, after, actions))
                os.kill(os.getpid(), signal.SIGKILL)
            journal.commit([Entry(event, 1.0, world, after, actions)])
            world = after
    """
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    with contextlib.closing(Journal.open(path)) as again:
        assert sorted(again.load().files) == ["/0", "/1"]
        assert len(again.pending()) == len(again.recent()) == 2
