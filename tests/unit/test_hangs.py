"""The source that looks for hangs: which trainings it looks at, what counts as a movement, what it remembers."""

from __future__ import annotations

import os

import msgspec
import pytest

from supervisor.core.diagnosis import cadence, hang
from supervisor.core.diagnosis.cadence import Cadence
from supervisor.core.job import Restart
from supervisor.core.model import Attempt, Job, Phase, Run, World
from supervisor.hang_config import Hang
from supervisor.layout import run_directory
from supervisor.machine import bounded
from supervisor.sources import hangs
from supervisor.sources.course import Live
from supervisor.sources.hangs import HangSource
from supervisor.sources.train_log import Board
from tests.unit.fake_proc import FakeProc, started

HOUR_S = 3600.0
SHM = b"RuntimeError: unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)\n"


class WallClock:
    """Wall time that stands."""

    def now(self):
        """See Clock.now."""
        return 5000.0


class Room:
    """One run with files and processes, and a source whose clock a test moves."""

    def __init__(self, tmp_path, *, watched=False, **restart):
        self.runs_dir = tmp_path / "runs"
        self.directory = run_directory(self.runs_dir, "default", "truck")
        self.files = self.directory.attempt(1)
        self.files.root.mkdir(parents=True)
        self.directory.weights.mkdir(parents=True)
        self.files.started.write_bytes(msgspec.json.encode(started()))
        self.files.beats.write_text("{}\n")
        self.files.log.write_bytes(b"hello\n")
        self.proc = FakeProc(tmp_path / "proc")
        self.proc.add(1, parent=0)
        self.proc.add(10, parent=1)
        self.proc.add(11, parent=10)
        attempt = Attempt(number=1, token=1, started_at=1.0, start="watch" if watched else "fresh")
        job = Job(name="truck", revision="r", train={"epochs": 9}, restart=Restart(**restart))
        self.run = Run(id="truck@1", job=job, phase=Phase.RUNNING, created_at=0.0, phase_since=0.0, attempt=attempt)
        self.told, self.asked, self.now = [], [], 100.0
        self.acts = True  # as the core does about a hang, unless late news of its progress takes that back
        self.stack = "Thread 1 (idle)\n    f (a.py:1)\n"
        self.board = Board()
        self.restart()

    def restart(self):
        """Another daemon."""
        self.source = HangSource(
            Hang(),
            self._put,
            lambda: World(
                live={self.run.id: self.run} if not self.run.phase.terminal else {}, ended={self.run.id: self.run}
            ),
            self.runs_dir,
            WallClock(),
            board=self.board,
            stacks=self._stacks,
            monotonic=lambda: self.now,
            proc=self.proc.root,
        )

    def _put(self, event):
        self.told.append(event)
        if event.verdict == "hung" and self.acts:
            self.change(phase=Phase.STOPPING)

    def _stacks(self, pid, timeout_s):
        self.asked.append((pid, timeout_s))
        return self.stack

    def change(self, **fields):
        """Let the run be otherwise."""
        self.run = msgspec.structs.replace(self.run, **fields)

    def live(self, **fields):
        """Show on the board how far it is."""
        self.board.show("truck@1", Live(**{"phase": "train", "epoch": 1, "batch": 1, **fields}))

    def look(self, times=1, every_s=10.0):
        """Let time pass and the source look; return what was told since."""
        self.told.clear()
        for _ in range(times):
            self.now += every_s
            self.source.look()
        return [(event.verdict, event.cause) for event in self.told]

    def learn(self, phase="train", gap_s=1.0, times=100):
        """Give the run a history."""
        known = Cadence()
        for _ in range(times):
            known = known.with_gap(phase, gap_s)
        self.directory.cadence.write_bytes(cadence.encode(known))

    @property
    def learned(self):
        """What is written down, an empty record if nothing is."""
        if not self.directory.cadence.exists():
            return Cadence()
        return cadence.decode(self.directory.cadence.read_bytes())


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


def test_a_hang_is_told_with_what_the_judge_says(room):
    """Nothing moves for longer than the history allows: one event, for the attempt, at the wall's time."""
    room.learn()
    room.live()
    assert room.look(60) == [("hung", "hang")]
    (event,) = room.told
    assert (event.run, event.attempt, event.at, event.origin) == ("truck@1", 1, 5000.0, "hangs")
    assert (event.phase, event.limit_s, event.signs) == ("train", 120.0, ("quiet", "still"))
    assert room.look(60) == []


def test_a_hang_that_is_not_acted_upon_is_told_again(room):
    """Late news of progress may have taken the first word back: while it stands still and runs on, it is said again."""
    room.acts = False
    room.learn()
    room.live()
    assert room.look(20).count(("hung", "hang")) > 1
    room.change(phase=Phase.STOPPING)
    assert room.look(20) == []


@pytest.mark.parametrize("what", ["beats", "log", "table", "checkpoint", "board"])
def test_anything_that_moves_counts(room, what):
    """A heartbeat, a line in the log, a row in the table, a checkpoint, a batch on the board: each is a movement."""
    paths = {"beats": room.files.beats, "log": room.files.log, "table": room.directory.results}
    paths["checkpoint"] = room.directory.weights / "last.pt"
    room.learn()
    room.live()
    for number in range(40):
        room.look(9)
        if what == "board":
            room.live(batch=number + 2)
        else:
            with paths[what].open("a") as file:
                file.write("x")
            os.utime(paths[what], (number, number))
        assert room.look(1) == []


@pytest.mark.parametrize("ticks", [0, 100])
def test_processes_are_looked_at(room, ticks):
    """What computes at unknown lines is not hung; what does not is."""
    room.learn()
    room.live()
    room.stack = None
    told = []
    for number in range(60):
        room.proc.add(11, parent=10, ticks=(number * ticks, 0))
        told += room.look()
    assert told == ([] if ticks else [("hung", "hang")])


def test_what_moves_costs_no_look_at_processes(room, monkeypatch):
    """While trainings show that they move, nobody reads /proc."""
    reads = []
    monkeypatch.setattr(hangs.ProcessTable, "read", lambda *_: reads.append(1))
    for number in range(20):
        room.live(batch=number)
        room.look()
    assert reads == []


def test_stacks_are_asked_for_only_of_suspects(room):
    """Stacks are taken when the first sign holds, bounded in time, and not again after the verdict."""
    room.learn()
    room.live()
    room.look(12)
    assert room.asked == []
    room.look(100)
    assert {pid for pid, _ in room.asked} == {11}
    assert len(room.asked) <= 4
    assert all(0 < timeout_s <= hangs.STACKS_EACH_S for _, timeout_s in room.asked)


def test_a_persons_training_is_not_touched(tmp_path):
    """A watched training that hangs is told; its stacks are never asked for."""
    room = Room(tmp_path, watched=True)
    room.learn()
    room.live()
    assert room.look(60) == [("hung", "hang")]
    assert room.asked == []


@pytest.mark.parametrize(
    ("phase", "followed"), [("RUNNING", True), ("STOPPING", True), ("COOLING", False), ("HELD", False)]
)
def test_only_live_attempts_are_looked_at(room, phase, followed):
    """A run that waits, cools or is held is nobody's hang; one that waits for its save to stop may be."""
    room.learn()
    room.live()
    room.change(phase=Phase(phase))
    assert bool(room.look(100)) is followed


def test_a_run_without_a_history_has_half_an_hour(room):
    """The contract's start value, and the phase before the first batch has its own cause."""
    room.board.show("truck@1", Live(phase="scan"))
    assert room.look(180) == []
    assert room.look(20) == [("hung", "hang-start")]


def test_a_job_may_forbid_it(tmp_path):
    """restart.hang_after = "never" reaches the judge."""
    room = Room(tmp_path, hang_after_s=0.0)
    room.learn()
    room.live()
    assert room.look(1000) == []


def test_a_jobs_own_limit_reaches_the_judge(tmp_path):
    """restart.hang_after = "40s": hung after that, although nothing is known of the job."""
    room = Room(tmp_path, hang_after_s=40.0)
    room.live()
    assert room.look(8) == [("hung", "hang")]


def test_a_worker_that_died_is_missed(room):
    """The loader's processes are counted: one less than before is the loader's hang."""
    room.learn()
    room.live()
    room.proc.add(12, parent=11, name="pt_data_worker")
    room.look(3)
    room.proc.remove(12)
    assert room.look(60) == [("hung", "hang-loader")]


# ---- alarms
def test_an_alarm_at_the_end_of_the_log_makes_it_short(room):
    """Shared memory is full, torch waits for ever: after a minute of stillness it is hung, with that cause."""
    room.live()
    room.look(3)
    with room.files.log.open("ab") as file:
        file.write(b"\x1b[31m[rank0]: " + SHM + b"\n")
    assert room.look(12) == [("hung", "hang-shm")]
    assert "unable to allocate shared memory" in room.told[0].text


def test_an_alarm_that_is_long_past_is_none(room):
    """After it the training went on: twenty more lines say so."""
    with room.files.log.open("ab") as file:
        file.write(SHM + b"and on it went\n" * 30)
    room.live()
    assert room.look(60) == []


# ---- what is learned
def test_what_was_learned_is_written_down(room):
    """Every few minutes, and when the daemon ends; the next daemon begins with it."""
    for number in range(100):
        room.live(batch=number)
        room.look()
    assert room.learned.phases["train"].total > 50
    room.live(batch=1000)
    room.look()
    room.source.stop()
    kept = room.learned
    room.restart()
    room.live(batch=1001)
    room.look(2)
    assert room.source._followers[("truck@1", 1)].state.cadence == kept


def test_it_is_not_written_with_every_look(room):
    """Five minutes lie between two writes: the disk belongs to the training."""
    stamps = set()
    for number in range(120):
        room.live(batch=number)
        room.look()
        if room.directory.cadence.exists():
            stamps.add(room.directory.cadence.stat().st_mtime_ns)
    assert 1 <= len(stamps) <= 1 + 120 * 10 // hangs.SAVE_EVERY_S


@pytest.mark.parametrize(("code", "times"), [(0, 1), (1, 0)])
def test_the_end_of_an_attempt_is_learned_if_it_was_good(room, code, times):
    """The last phase has shown its length when the attempt ended well; a crash shows nothing."""
    room.live()
    room.look(2)
    room.live(phase="end")
    room.look(5)
    room.change(phase=Phase.SUCCEEDED, attempt=msgspec.structs.replace(room.run.attempt, code=code))
    room.look()
    found = room.learned.phases.get("end")
    assert (found.total if found is not None else 0) == times


def test_a_damaged_record_is_no_history(room):
    """Whatever stands in cadence.json, the training is looked at, and the file is made anew."""
    room.directory.cadence.write_bytes(b"\xff{")
    for number in range(60):
        room.live(batch=number)
        assert room.look() == []
    assert room.learned.phases["train"].total > 30


# ---- trouble
def test_a_disk_that_does_not_answer_makes_nobody_hung(room, monkeypatch):
    """While the run directory cannot be read nobody knows anything; afterwards the time begins anew."""

    def dead(*_):
        raise TimeoutError

    room.learn()
    room.live()
    room.look(3)
    with monkeypatch.context() as patched:
        patched.setattr(hangs.bounded, "ask", dead)
        assert room.look(500) == []
    room.live(batch=9)
    assert room.look(5) == []


def test_a_bug_in_one_look_does_not_end_the_others(room, caplog):
    """What goes wrong with one attempt is said once, and the others are looked at."""
    room.learn()
    room.live()
    room.look()
    other = msgspec.structs.replace(room.run, id="other@1", job=msgspec.structs.replace(room.run.job, name="other"))
    followers = room.source._followers
    room.source._world = lambda: World(live={"other@1": other, "truck@1": room.run})
    room.look()
    followers[("other@1", 1)].look = None
    assert room.look(60) == [("hung", "hang")]
    assert sum("looking whether other@1 hangs failed" in record.message for record in caplog.records) == 1


class Disks:
    """Bounded questions whose answers a test withholds; `asked` are their names."""

    def __init__(self, monkeypatch):
        self.asked, self.dead = [], ()
        self._real = bounded.ask
        monkeypatch.setattr(hangs.bounded, "ask", self._ask)

    def _ask(self, about, look, within_s):
        self.asked.append(about)
        if about.startswith(self.dead):
            raise bounded.NoAnswerError(about, within_s)
        return self._real(about, look, within_s)


def with_another(room):
    """A second run beside the first, on the same disk."""
    other = msgspec.structs.replace(room.run, id="other@1", job=msgspec.structs.replace(room.run.job, name="other"))
    directory = run_directory(room.runs_dir, "default", "other")
    directory.attempt(1).root.mkdir(parents=True)
    directory.attempt(1).started.write_bytes(msgspec.json.encode(started()))
    room.source._world = lambda: World(live={"truck@1": room.run, "other@1": other})


def test_a_dead_disk_is_waited_for_once_in_a_round(room, monkeypatch):
    """Forty trainings on one dead mount must not cost forty times two seconds; each one gets its turn to ask."""
    with_another(room)
    room.look()
    disks = Disks(monkeypatch)
    disks.dead = ("files of",)
    room.look(4)
    asked = [about for about in disks.asked if about.startswith("files of")]
    assert sorted(asked) == ["files of other@1/1"] * 2 + ["files of truck@1/1"] * 2


def test_no_stacks_are_asked_for_while_the_files_do_not_answer(room, monkeypatch):
    """Those by signal are read from the same disk, and what they show would prove nothing now."""
    room.learn()
    room.live()
    room.look()
    while not hang.suspects(room.source._followers[("truck@1", 1)].state):
        assert room.look() == []
    assert room.asked == []
    disks = Disks(monkeypatch)
    disks.dead = ("files of",)
    room.look()
    assert room.asked == []
    disks.dead = ("nothing",)
    room.look()
    assert room.asked != []


def test_processes_that_are_not_told_in_time_make_nobody_hung(room, monkeypatch):
    """A hang that holds the lock on its own memory lets every look at its environment hang: nobody calls it still."""
    room.learn()
    room.live()
    room.look()
    Disks(monkeypatch).dead = ("processes of",)
    assert room.look(500) == []


def test_the_answer_to_an_earlier_question_is_not_believed(room, monkeypatch):
    """It says how the processes were when it was asked: two of them alike would look like a standstill."""
    room.learn()
    room.live()
    room.look()
    real, late = bounded.ask, {}

    def ask(about, look, within_s):
        if not about.startswith("processes of"):
            return real(about, look, within_s)
        return late.setdefault(about, look())

    monkeypatch.setattr(hangs.bounded, "ask", ask)
    assert room.look(500) == []


def test_two_attempts_of_one_run_do_not_share_an_answer(room, monkeypatch):
    """A look at the files of the first that still hangs must not be taken for one at the second."""
    disks = Disks(monkeypatch)
    room.look()
    room.change(attempt=msgspec.structs.replace(room.run.attempt, number=2))
    room.look()
    assert {"files of truck@1/1", "files of truck@1/2"} <= set(disks.asked)


def test_the_end_waits_for_no_dead_disk(room, monkeypatch):
    """All that is to be written down has a few seconds together, whatever is followed."""
    for number in range(20):
        room.live(batch=number)
        room.look()
    follower = room.source._followers[("truck@1", 1)]
    follower._written = Cadence()
    waits = []

    def silent(about, look, within_s):
        waits.append(within_s)
        elapsed[0] += within_s
        raise bounded.NoAnswerError(about, within_s)

    elapsed = [1000.0]
    monkeypatch.setattr(hangs.bounded, "ask", silent)
    monkeypatch.setattr(hangs.time, "monotonic", lambda: elapsed[0])
    room.source._followers.update({(f"{number}@1", 1): follower for number in range(40)})
    room.source.stop()
    assert waits == [hangs.FILES_S, hangs.FILES_S, 1.0]
