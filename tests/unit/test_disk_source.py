"""The source that watches the file systems, on disks of its own making and under a clock of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor.core.backups.events import Spot
from supervisor.core.events import DiskSeen
from supervisor.core.model import Job, Phase, Run, World
from supervisor.machine.bounded import NoAnswerError
from supervisor.machine.resources import Room
from supervisor.sources import disks
from supervisor.sources.disks import LOST_S, TOLD_AGAIN_S, DiskSource

GIB = 1024**3
MIB = 1024**2
RUNS, STATE, SHM, CKPT = "/runs", "/state", "/dev/shm", "/ckpt"


class Server:
    """File systems by path, and a world that takes over what it is told."""

    def __init__(self, *, checkpoints=(), env=None):
        self.at = 1_000_000.0
        self.disks = {}  # path: (device, Room fields), or an error
        for number, path in enumerate((RUNS, STATE, SHM), 1):
            self.set(path, 500 * GIB, device=number, total=1000 * GIB)
        self.told = []
        self.marks = (10 * GIB, 2 * GIB)
        self.heard = True
        job = Job(name="a", revision="r", checkpoint_files=checkpoints, env=env or {"TMPDIR": RUNS, "HOME": RUNS})
        self.run = Run(id="a@1", job=job, phase=Phase.RUNNING, created_at=0.0, phase_since=0.0)
        self.world = World(live={"a@1": self.run})
        self.source = self.daemon()

    def daemon(self):
        """The source of a new daemon."""
        return DiskSource(
            self.put, lambda: self.world, self, Path(RUNS), Path(STATE), lambda: self.marks, room=self.room
        )

    def now(self):
        """As a clock."""
        return self.at

    def set(self, path, free, *, device=None, total=None, inodes=10**7, **fields):
        """What is free there now."""
        old = self.disks.get(path)
        self.disks[path] = Room(
            device=device or old.device,
            total_bytes=total or old.total_bytes,
            free_bytes=free,
            free_inodes=inodes,
            read_only=fields.pop("read_only", False),
            total_inodes=10**8,
            **fields,
        )

    def room(self, path, within_s):
        """What a look at a path answers."""
        assert within_s > 0
        found = self.disks.get(str(path), self.disks[RUNS])
        if isinstance(found, OSError):
            raise found
        return found

    def put(self, event):
        """The world takes over what it hears."""
        self.told.append(event)
        if self.heard:
            spot = Spot(place=event.place, what=event.what, level=event.level)
            self.world = World(live=self.world.live, spots={**self.world.spots, event.place: spot})

    def look(self, after_s=30.0):
        """What is told by the next look."""
        self.at += after_s
        before = len(self.told)
        self.source.poll()
        return [(one.place, one.what, one.level) for one in self.told[before:]]

    def shown(self, place=RUNS):
        """What `status` shows of a place."""
        return next(one for one in self.source.view() if one["place"] == place)


def test_a_disk_in_order_is_no_event():
    """Readings are there for status only."""
    server = Server()
    assert [server.look() for _ in range(5)] == [[]] * 5
    assert [(one["place"], one["what"], one["level"]) for one in server.source.view()] == [
        (RUNS, "runs", "ok"),
        (STATE, "state", "ok"),
        (SHM, "shm", "ok"),
    ]
    assert server.shown()["free_bytes"] == 500 * GIB
    assert server.shown()["seen_at"] == server.at


def test_each_change_of_level_is_told_once_with_its_figures():
    """Down, further down, and back; with hysteresis, so that a disk at its mark is told once."""
    server = Server()
    server.set(RUNS, 9 * GIB)
    assert server.look() == [(RUNS, "runs", "low")]
    server.set(RUNS, 10 * GIB)
    assert server.look() == []
    server.set(RUNS, GIB)
    assert server.look() == [(RUNS, "runs", "full")]
    assert server.told[-1] == DiskSeen(
        at=server.at, origin="disks", place=RUNS, what="runs", level="full", free_bytes=GIB, total_bytes=1000 * GIB
    )
    server.set(RUNS, 2 * GIB)
    assert server.look() == []
    server.set(RUNS, 100 * GIB)
    assert server.look() == [(RUNS, "runs", "ok")]
    assert server.look(7200.0) == []


def test_a_disk_that_is_not_ok_is_told_again_every_ten_minutes():
    """One more training is paused, and the policy pruned again, as long as that lasts."""
    server = Server()
    server.set(RUNS, GIB)
    server.look()
    assert server.look(TOLD_AGAIN_S - 1) == []
    assert server.look(1.0) == [(RUNS, "runs", "full")]


def test_a_full_disk_that_fills_on_is_told_at_once():
    """A quarter of the rest is gone: the next one must be paused now, not in ten minutes."""
    server = Server()
    server.set(RUNS, 2 * GIB - 1)
    server.look()
    server.set(RUNS, 16 * GIB // 10)
    assert server.look() == []
    server.set(RUNS, 14 * GIB // 10)
    assert server.look() == [(RUNS, "runs", "full")]


def test_a_new_daemon_tells_what_the_record_has_otherwise():
    """Full in the record and ok now: told, or starts would wait for ever. Full and full: told again, to pause anew."""
    server = Server()
    server.set(RUNS, GIB)
    server.look()
    server.source = server.daemon()
    assert server.look() == [(RUNS, "runs", "full")]
    server.source = server.daemon()
    server.set(RUNS, 500 * GIB)
    assert server.look() == [(RUNS, "runs", "ok")]
    server.source = server.daemon()
    assert server.look() == []


def test_hysteresis_outlives_the_daemon():
    """A little above the mark a new daemon does not call that disk ok."""
    server = Server()
    server.set(RUNS, GIB)
    server.look()
    server.source = server.daemon()
    server.set(RUNS, 2 * GIB + 100 * MIB)
    assert server.look() == [(RUNS, "runs", "full")]


def test_what_was_told_and_lost_is_told_again():
    """The world still says otherwise after a minute: a journal that could not be written, or was restored."""
    server = Server()
    server.heard = False
    server.set(RUNS, GIB)
    assert server.look() == [(RUNS, "runs", "full")]
    assert server.look(LOST_S - 1) == []
    server.heard = True
    assert server.look(1.0) == [(RUNS, "runs", "full")]
    assert server.look(LOST_S) == []


def test_one_file_system_is_one_entry_under_its_most_important_name():
    """Runs before state before shared memory before what a job writes; nothing is told twice."""
    server = Server(checkpoints=("/ckpt/*.pt",), env={"TMPDIR": "/scratch", "HOME": "/home/ann"})
    for path in (STATE, CKPT, "/scratch"):
        server.disks[path] = server.disks[RUNS]
    server.set("/home/ann", 5 * GIB, device=3, total=10 * GIB)
    server.set(RUNS, GIB)
    for path in (STATE, CKPT, "/scratch"):
        server.disks[path] = server.disks[RUNS]
    assert server.look() == [(RUNS, "runs", "full")]
    assert [one["what"] for one in server.source.view()] == ["runs", "shm"]


def test_what_a_job_writes_elsewhere_is_watched_by_what_it_needs_there():
    """A disk of checkpoints by the same marks as the runs, a temporary folder only for being nearly empty of room."""
    server = Server(checkpoints=("/ckpt/*.pt",), env={"TMPDIR": "/scratch", "HOME": RUNS})
    server.set(CKPT, GIB, device=7, total=1000 * GIB)
    server.set("/scratch", GIB, device=8, total=1000 * GIB)
    assert server.look() == [(CKPT, "checkpoints", "full")]
    server.set("/scratch", 15 * MIB)
    assert server.look() == [("/scratch", "temporary files", "full")]


def test_a_place_that_no_job_writes_any_more_holds_nobody_back():
    """Its job has ended: the record's level is taken back, once."""
    server = Server(checkpoints=("/ckpt/*.pt",))
    server.set(CKPT, GIB, device=7, total=1000 * GIB)
    assert server.look() == [(CKPT, "checkpoints", "full")]
    server.world = World(spots=server.world.spots)
    assert server.look() == [(CKPT, "checkpoints", "ok")]
    assert server.told[-1].total_bytes == 0
    assert server.look() == []


def test_a_moved_folder_of_runs_leaves_no_full_disk_behind():
    """The record knows a full disk under a path that the configuration does not name any more."""
    server = Server()
    server.world = World(spots={"/old": Spot(place="/old", what="runs", level="full")})
    assert server.look() == [("/old", "runs", "ok")]


def test_a_forgotten_place_is_told_of_again_only_after_a_minute():
    """The record cannot be written just now: it is not flooded with the same news."""
    server = Server()
    server.world = World(spots={"/old": Spot(place="/old", what="runs", level="full")})
    server.heard = False
    assert server.look() == [("/old", "runs", "ok")]
    assert server.look(LOST_S - 1) == []
    assert server.look(1.0) == [("/old", "runs", "ok")]


@pytest.mark.parametrize("error", [NoAnswerError(RUNS, 3.0), OSError(5, "Input/output error")])
def test_what_does_not_answer_is_unknown_and_changes_no_level(error):
    """Neither to full nor from it: what cannot be observed is not failed, and not mended either."""
    server = Server()
    server.set(RUNS, GIB)
    server.look()
    good = server.disks[RUNS]
    server.disks[RUNS] = error
    server.disks[STATE] = Room(2, 1000 * GIB, 500 * GIB, None, False)
    assert server.look(7200.0) == []
    assert (server.shown()["level"], server.shown()["free_bytes"]) == ("unknown", None)
    server.disks[RUNS] = good
    assert server.look() == [(RUNS, "runs", "full")]


def test_disks_that_hang_cost_a_bounded_time(monkeypatch):
    """Each waits only for what is left of one patience, however many places of jobs lie on the dead server."""
    server = Server(checkpoints=tuple(f"/dead/{number}/*.pt" for number in range(20)))
    waited = []
    monkeypatch.setattr(disks, "time", SimpleNamespace(monotonic=lambda: sum(waited)))
    answers = server.room

    def room(path, within_s):
        if "dead" not in str(path):
            return answers(path, within_s)
        waited.append(within_s)
        raise NoAnswerError(str(path), within_s)

    server.room = room
    server.source = server.daemon()
    assert server.look() == []
    assert len(waited) == 20
    assert sum(waited) <= disks.PATIENCE_S + 20 * disks.LEAST_S


def test_inodes_run_out_too():
    """A thousand are needed; that is told as such, with the number that is left."""
    server = Server()
    server.set(RUNS, 500 * GIB, inodes=500)
    assert server.look() == [(RUNS, "runs", "full")]
    assert server.told[-1].inodes
    assert "only 500 more files" in server.told[-1].text
    server.set(RUNS, GIB, inodes=500)  # both: bytes come first
    server.look(TOLD_AGAIN_S)
    assert not server.told[-1].inodes
    assert server.told[-1].text == ""


def test_a_quota_is_named():
    """The disk has room, this user has not: the words say so."""
    server = Server()
    server.set(RUNS, GIB, quota=True)
    server.look()
    assert server.told[-1].quota
    assert "of the quota" in server.told[-1].text


def test_shared_memory_is_full_by_what_a_training_needs_and_not_for_a_moment():
    """Its mark is that of the waits for it; batches that come and go between two looks are no full memory."""
    server = Server()
    server.set(SHM, 64 * MIB, total=64 * MIB)
    server.look()
    server.set(SHM, 20 * MIB)
    assert server.look() == []
    server.set(SHM, 40 * MIB)
    assert server.look() == []
    server.set(SHM, 20 * MIB)
    assert server.look() == []
    assert server.look() == [(SHM, "shm", "full")]
    server.set(SHM, 60 * MIB)
    assert server.look() == [(SHM, "shm", "ok")]


def test_a_small_disk_is_not_low_for_ever():
    """5 GiB with the marks of a server: ok while half of it is free, and again when half of it is."""
    server = Server()
    server.set(RUNS, 4 * GIB, total=5 * GIB)
    assert server.look() == []
    server.set(RUNS, GIB)
    assert server.look() == [(RUNS, "runs", "full")]
    server.set(RUNS, 3 * GIB)
    assert server.look() == [(RUNS, "runs", "ok")]


def test_new_marks_count_from_the_next_look():
    """The configuration was read again."""
    server = Server()
    server.look()
    server.marks = (600 * GIB, 2 * GIB)
    server.set(RUNS, 400 * GIB)
    assert server.look() == [(RUNS, "runs", "low")]


def test_the_time_to_full_is_told_and_shown():
    """At 1 GiB a look from 500 GiB on; and with the event when the level changes."""
    server = Server()
    for number in range(20):
        server.set(RUNS, (500 - number) * GIB)
        server.look()
    assert server.shown()["full_in_s"] == pytest.approx(481 * 30.0)
    for free in range(480, 8, -1):
        server.set(RUNS, free * GIB)
        server.look()
    assert server.told[-1].full_in_s == pytest.approx(server.told[-1].free_bytes / GIB * 30.0)


def test_it_looks_more_often_while_something_is_short(monkeypatch):
    """What waits for room goes on within seconds; a disk in order is looked at every half minute."""
    server = Server()
    every_s = server.source._rounds._every_s
    assert every_s() == disks.FIRST_LOOK_S
    server.look()
    assert every_s() == disks.LOOK_EVERY_S
    server.set(STATE, GIB)
    server.look()
    assert every_s() == disks.WATCH_EVERY_S


def test_a_read_only_place_of_a_job_is_not_full():
    """Nothing is written there; only our own folders count all the same."""
    server = Server(env={"TMPDIR": "/ro", "HOME": RUNS})
    server.set("/ro", 0, device=9, total=GIB, read_only=True)
    assert server.look() == []
    server.set(RUNS, 0, read_only=True)
    assert server.look() == [(RUNS, "runs", "full")]


def test_the_real_machine_is_looked_at(tmp_path):
    """With the real looks: the test's own disk is there, with figures that are those of statvfs."""
    told = []
    source = DiskSource(told.append, World, Server(), tmp_path, tmp_path, lambda: (1, 1))
    source.poll()
    assert source.view()[0]["place"] == str(tmp_path)
    assert source.view()[0]["total_bytes"] > 0
    assert source.view()[0]["level"] == "ok"
    source.start()
    source.stop()
