"""Does a training hang? Looks at every running attempt now and then, and tells when the verdict changes.

What moves costs next to nothing: the board of progress and the size of four files. Processes are looked at only while
these stand still, stacks only when a training seems to hang. Judging is core.diagnosis.hang's business.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from supervisor import attempt_files, durable
from supervisor.attempt_files import Started
from supervisor.clock import Clock
from supervisor.core.diagnosis import cadence, hang
from supervisor.core.diagnosis.cadence import Cadence
from supervisor.core.diagnosis.hang_words import HUNG
from supervisor.core.diagnosis.tables import RULES
from supervisor.core.diagnosis.waiting import WORKER, Process
from supervisor.core.events import Event, HangSeen
from supervisor.core.model import Attempt, Phase, Run, World
from supervisor.core.plain_text import frames
from supervisor.hang_config import Hang
from supervisor.layout import AttemptDirectory, RunDirectory, run_directory
from supervisor.machine import bounded
from supervisor.machine.stacks import comparable
from supervisor.sources.course import Live
from supervisor.sources.process_tree import Entry, ProcessTable, Roles, processes
from supervisor.sources.rounds import Rounds
from supervisor.sources.train_log import Board

log = logging.getLogger("yolo-supervisor")

#: A run directory on a dead mount answers never; then nobody knows whether the training moves.
FILES_S = 2.0
#: What the kernel tells of a process may wait for a lock that the process holds while it hangs.
PROCESSES_S = 1.0
STOP_S = 5.0  # for the last look and for all that is to be written down
SAVE_EVERY_S = 300.0
SAY_AGAIN_S = 30.0
STACKS_S = 4.0  # for all processes of one training together
STACKS_EACH_S = 2.0
LOG_BYTES = 8192
LOG_LINES = 20
CADENCE_BYTES = 256 * 1024
FOLLOWED = frozenset({Phase.RUNNING, Phase.STOPPING})
_RANK_PREFIX = re.compile(r"^\[rank\d+\]:\s*")
_ALARMS = tuple((rule.cause, rule.pattern) for rule in RULES if rule.kind == "alarm")

Stacks = Callable[[int, float], "str | None"]


class Files(msgspec.Struct, frozen=True):
    """What the files of an attempt say: time and size of each (0, 0 where there is none), and an alarm in the log."""

    stamps: tuple[tuple[int, int], ...]
    has_beats: bool
    alarm: tuple[str, str] = ("", "")


class Follower:
    """One attempt, as far as its hanging goes."""

    def __init__(self, run: Run, attempt: Attempt, directory: RunDirectory, factor: float) -> None:
        """Know nothing yet, not even what earlier attempts taught: that is read with the first look."""
        self.run = run
        self.attempt = attempt
        self.state = hang.HangState(factor=factor)
        self.broken = ""
        #: The device of the run directory, None while it was never seen.
        self.device: int | None = None
        #: How often in a row its files did not answer; and whether they were not asked or did not answer this time.
        self.unanswered = 0
        self.dead = False
        self._name = f"{run.id}/{attempt.number}"
        self._directory = directory
        self._files_of = directory.attempt(attempt.number)
        self._files: Files | None = None
        self._started: Started | None = None
        self._roles: Roles | None = None
        self._known: Cadence | None = None
        self._written = Cadence()
        self._write_at = 0.0
        self._hung: hang.HangVerdict | None = None
        self._say_at = 0.0

    def look(
        self, live: Live, machine: _Once, stacks: Stacks, now: float, *, files: bool = True
    ) -> hang.HangVerdict | None:
        """Look once; the verdict where it changed, and a hang again while nothing is done about it.

        `now` counts seconds of a clock that a suspend stops. Without `files` these are not asked: their disk is dead.
        """
        self.dead = not files
        blind = not (files and self._look_at_files())
        if self._files is None:
            return None
        begun = live.batch > 0 or live.epoch > self.attempt.from_epoch
        phase = cadence.phase_of(live.phase, has_beats=self._files.has_beats, begun=begun)
        mark = (live, self._files.stamps)
        reading = hang.Reading(phase=phase, mark=mark, blind=blind, hang_after_s=self.run.job.restart.hang_after_s)
        if mark == self.state.mark and phase == self.state.phase:
            reading = self._closer(reading, machine, stacks)
        self.state, found = hang.judge(self.state, reading, now)
        if found is not None and found.verdict == HUNG:
            self._hung, self._say_at = found, now + SAY_AGAIN_S
        return found or self._again(now)

    def _again(self, now: float) -> hang.HangVerdict | None:
        """The hang that was told before: late news of its progress may have taken that back."""
        ignored = self.run.phase is Phase.RUNNING and self.run.stop is None and not self.attempt.watched
        if self._hung is None or self.state.told != HUNG or not ignored or now < self._say_at:
            return None
        self._say_at = now + SAY_AGAIN_S
        return self._hung

    # ---- what moves
    def _look_at_files(self) -> bool:
        """Take what the files say. False where the disk does not answer, or cannot be read."""
        same_for_long = self.state.quiet.quiet_s > 0
        try:
            seen = bounded.ask(f"files of {self._name}", lambda: self._ask(read_log=same_for_long), FILES_S)
        except OSError as error:
            self.dead = isinstance(error, bounded.NoAnswerError)
            self.unanswered += self.dead
            return False
        self.unanswered = 0
        self._files, known, self._started, self.device = seen
        if self._known is None and known is not None:
            self._known = known
            both = cadence.merged(known, self.state.cadence)
            self.state, self._written = msgspec.structs.replace(self.state, cadence=both), both
        return True

    def _ask(self, *, read_log: bool) -> tuple[Files, Cadence | None, Started | None, int]:
        """All that touches the run directory, in a thread that may be left behind."""
        directory, files = self._directory, self._files_of
        stamps = tuple(map(_stamp, (files.beats, files.log, directory.results, directory.weights / "last.pt")))
        alarm = _alarm(files) if read_log else ("", "")
        known = _read_cadence(directory.cadence) if self._known is None else None
        started = self._started or attempt_files.read_started(files.root)
        return Files(stamps, stamps[0][1] > 0, alarm), known, started, directory.root.stat().st_dev

    # ---- what does not
    def _closer(self, reading: hang.Reading, machine: _Once, stacks: Stacks) -> hang.Reading:
        """The same reading with the processes, and their stacks if they are wanted."""
        if self._started is None or self._files is None:
            return reading
        found = self._processes(self._started, machine)
        return msgspec.structs.replace(
            reading,
            processes=found,
            workers=sum(process.role == WORKER for process in found),
            stacks=None if reading.blind else self._stacks(found, stacks),
            alarm=self._files.alarm[0],
            alarm_line=self._files.alarm[1],
        )

    def _processes(self, started: Started, machine: _Once) -> tuple[Process, ...]:
        """The processes of the attempt; none where the kernel does not tell in time: then nobody is still."""
        if self._roles is None:
            self._roles = Roles(started.pid, machine.proc)
        roles, tree, mounts = self._roles, machine.table().tree(started), self.run.job.mounts
        closely = self.state.quiet.quiet_s >= hang.WINDOW_S

        def look() -> tuple[list[Entry], tuple[Process, ...]]:
            return tree, processes(tree, roles.of(tree), mounts, closely=closely, proc=machine.proc)

        try:
            of_tree, found = bounded.ask(f"processes of {self._name}", look, PROCESSES_S)
        except OSError:
            return ()
        return found if of_tree is tree else ()  # an earlier question was answered: that was true then

    def _stacks(self, found: tuple[Process, ...], stacks: Stacks) -> dict[int, str] | None:
        """The stacks that the judge wants. Nobody touches a person's own training, not even for that."""
        there = {process.pid for process in found}
        wanted = [pid for pid in hang.suspects(self.state) if pid in there]
        if not wanted or self.attempt.watched:
            return None
        deadline, answers = time.monotonic() + STACKS_S, dict[int, str]()
        for pid in wanted:
            left_s = min(STACKS_EACH_S, deadline - time.monotonic())
            text = stacks(pid, left_s) if left_s > 0 else None
            if text:
                answers[pid] = comparable(text)
        return answers

    # ---- what was learned
    def save(self, now: float, *, at_once: bool = False, within_s: float = FILES_S) -> None:
        """Write down what was learned, now and then. What cannot be written is tried again later."""
        learned = self.state.cadence
        if self._known is None or self.dead or learned == self._written or not (at_once or now >= self._write_at):
            return
        self._write_at = now + SAVE_EVERY_S
        path, data = self._directory.cadence, cadence.encode(learned)
        try:
            bounded.ask(f"cadence of {self._name}", lambda: durable.write(path, data, mode=0o644), within_s)
        except OSError as error:
            log.info("what was learned of %s is not written down: %s", self.run.id, error)
        else:
            self._written = learned

    def end(self, attempt: Attempt | None, now: float) -> None:
        """Take leave of an attempt that is over. One that ended well has shown how long its last phase takes."""
        if attempt is not None and attempt.number == self.attempt.number and attempt.code == 0:
            self.state = msgspec.structs.replace(self.state, cadence=hang.ended(self.state))
        self.save(now, at_once=True)


class HangSource:
    """One thread that looks at all live attempts."""

    def __init__(
        self,
        settings: Hang,
        put: Callable[[Event], None],
        world: Callable[[], World],
        runs_dir: Path,
        clock: Clock,
        *,
        board: Board,
        stacks: Stacks,
        monotonic: Callable[[], float] = time.monotonic,
        proc: str = "/proc",
    ) -> None:
        """Tell `put`; `board` says how far each training is, `stacks` what a process does: stacks.python_stacks."""
        self._settings = settings
        self._put = put
        self._world = world
        self._runs_dir = runs_dir
        self._clock = clock
        self._board = board
        self._stacks = stacks
        self._monotonic = monotonic
        self._proc = proc
        self._followers: dict[tuple[str, int], Follower] = {}
        self._rounds = Rounds("looking for hangs", self.look, lambda: settings.every)

    def start(self) -> None:
        """Begin, unless the configuration wants nobody to look."""
        if self._settings.enabled:
            self._rounds.start()

    def stop(self) -> None:
        """End within STOP_S; what was learned is written down, as far as the disk answers."""
        deadline = time.monotonic() + STOP_S
        self._rounds.stop(FILES_S)
        for follower in list(self._followers.values()):  # the thread may still be there
            left_s = deadline - time.monotonic()
            if left_s > 0:
                follower.save(self._monotonic(), at_once=True, within_s=min(FILES_S, left_s))

    def look(self) -> None:
        """Look once at everything. Called by the thread; tests call it by themselves."""
        self._follow(self._world())
        live, table = self._board.snapshot(), _Once(self._proc)
        dead = set[int | None]()
        for follower in sorted(self._followers.values(), key=lambda one: one.unanswered):  # so each gets its turn
            if self._rounds.over:
                return
            self._look_at(follower, live.get(follower.run.id, Live()), table, files=follower.device not in dead)
            if follower.dead:  # once a round is enough: each such look takes its time
                dead.add(follower.device)

    def _follow(self, world: World) -> None:
        wanted = {
            (run.id, run.attempt.number): (run, run.attempt)
            for run in world.live.values()
            if run.phase in FOLLOWED and run.attempt is not None
        }
        for key in self._followers.keys() - wanted.keys():
            run = world.run(key[0])
            self._followers.pop(key).end(run.attempt if run is not None else None, self._monotonic())
        for key, (run, attempt) in wanted.items():
            if key not in self._followers:
                directory = run_directory(self._runs_dir, run.job.project, run.job.name)
                self._followers[key] = Follower(run, attempt, directory, self._settings.factor)
            self._followers[key].run, self._followers[key].attempt = run, attempt

    def _look_at(self, follower: Follower, live: Live, table: _Once, *, files: bool) -> None:
        """Look at one attempt. What is odd about one must not end the looking at the others."""
        now = self._monotonic()
        try:
            found = follower.look(live, table, self._stacks, now, files=files)
            follower.save(now)
        except Exception as error:
            if follower.broken != repr(error):
                log.exception("a bug: looking whether %s hangs failed", follower.run.id)
            follower.broken = repr(error)
            return
        if found is not None:
            facts: dict[str, Any] = msgspec.structs.asdict(found)
            at, run, number = self._clock.now(), follower.run.id, follower.attempt.number
            self._put(HangSeen(at=at, origin="hangs", run=run, attempt=number, **facts))


class _Once:
    """The processes of the machine, read when they are first asked for."""

    def __init__(self, proc: str) -> None:
        self.proc = proc
        self._table: ProcessTable | None = None

    def table(self) -> ProcessTable:
        if self._table is None:
            self._table = ProcessTable.read(self.proc)
        return self._table


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _alarm(files: AttemptDirectory) -> tuple[str, str]:
    """Cause and line of an alarm at the end of the log: after it the training will never move by itself."""
    try:
        with files.log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_BYTES))
            lines = frames(file.read(LOG_BYTES))[-LOG_LINES:]
    except FileNotFoundError:
        return "", ""
    for line in reversed([_RANK_PREFIX.sub("", line).strip() for line in lines]):
        for cause, pattern in _ALARMS:
            if pattern.search(line):
                return cause, line[:300]
    return "", ""


def _read_cadence(path: Path) -> Cadence:
    try:
        with path.open("rb") as file:
            return cadence.decode(file.read(CADENCE_BYTES))
    except FileNotFoundError:
        return Cadence()
