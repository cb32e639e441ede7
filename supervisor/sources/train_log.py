"""How far the trainings are: follows every live attempt and tells of what moved, a little at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor.clock import Clock
from supervisor.core.events import Event, Progressed, SaveSeen, StartConfirmed, WrongStart
from supervisor.core.model import Attempt, Phase, Run, World
from supervisor.layout import run_directory
from supervisor.sources.beats import BeatFollower
from supervisor.sources.command_progress import CommandFollower
from supervisor.sources.course import Course, Live
from supervisor.sources.rounds import Rounds
from supervisor.sources.start_watch import StartWatch
from supervisor.trainers.scripts import FAMILIES

log = logging.getLogger("yolo-supervisor")

POLL_S = 0.5
IDLE_POLL_S = 1.0
PROGRESS_S = 10.0  # one journal entry per run and this time, and one per saved epoch
FOLLOWED = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING})
_ORIGIN = "train_log"
_NEVER = float("-inf")


class Board:
    """The newest state of every followed run, for those who watch live. Any thread may read."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._live: dict[str, Live] = {}

    def snapshot(self) -> dict[str, Live]:
        """Return the newest state by run id. The dict is the caller's own."""
        with self._lock:
            return dict(self._live)

    def show(self, run_id: str, live: Live) -> None:
        """Replace what is known of a run."""
        with self._lock:
            self._live[run_id] = live

    def keep_only(self, run_ids: set[str]) -> None:
        """Forget all other runs."""
        with self._lock:
            self._live = {run_id: live for run_id, live in self._live.items() if run_id in run_ids}


class Follower:
    """One attempt: what its files say, and what of that was told already."""

    def __init__(self, run: Run, attempt: Attempt, runs_dir: Path) -> None:
        """Follow an attempt from the state that the journal knows."""
        self.run_id = run.id
        self.attempt = attempt.number
        self.course = Course()
        self.course.diverged_before(run.diverged_from)
        self.broken = ""
        directory = run_directory(runs_dir, run.job.project, run.job.name)
        files = directory.attempt(attempt.number)
        # A person's training was there before us: so are its tables.
        since = 0.0 if attempt.watched else attempt.started_at or run.phase_since
        self._beats = BeatFollower(files.beats, self.course, attempt.started_at)
        self._command: CommandFollower | None = None
        if run.job.train is None or attempt.watched:
            self._command = CommandFollower(run.job, directory, files, since, self.course)
        self._start: StartWatch | None = None
        if run.job.family in FAMILIES and not attempt.confirmed and not attempt.watched:
            self._start = StartWatch(directory, attempt, files, self.course)
        self._confirmed = attempt.confirmed
        self._told_at = _NEVER
        progress = run.progress
        self._known = (progress.epoch, progress.saved_epoch, progress.losses)
        self._told: Live | None = None
        if self._command is not None and progress.saved_epoch > attempt.from_epoch:
            self.course.saves.file_changed(progress.saved_epoch)  # was it copied before the daemon went? asked again

    def poll(self, now: float) -> list[Event]:
        """Read what is new; return what is worth telling. OSError where a file cannot be read."""
        self._beats.poll()
        if self._start is not None:
            self._start.poll()
        if self._command is not None:
            self._command.poll(now)
        return [*self._confirmation(now), *self._progress(now), *self._saves(now)]

    def _confirmation(self, now: float) -> list[Event]:
        if self._confirmed:
            return []
        if self.course.wrong_start:
            self._confirmed = True
            wrong = self.course.wrong_start
            return [WrongStart(at=now, origin=_ORIGIN, run=self.run_id, attempt=self.attempt, reason=wrong)]
        if self.course.start is None:
            return []
        self._confirmed = True
        from_epoch, save_dir = self.course.start
        return [
            StartConfirmed(
                at=now,
                origin=_ORIGIN,
                run=self.run_id,
                attempt=self.attempt,
                from_epoch=from_epoch,
                save_dir=save_dir,
            ),
        ]

    def _progress(self, now: float) -> list[Event]:
        live, told = self.course.live, self._told
        if live.epoch == 0:
            return []
        if told is None and (live.epoch, live.saved_epoch, live.losses) == self._known:
            self._told = told = live  # the daemon was restarted and the training stood still
        saved_before = self._known[1] if told is None else told.saved_epoch
        due = live.saved_epoch != saved_before or now - self._told_at >= PROGRESS_S
        if not due or (told is not None and _place(told) == _place(live)):
            return []
        tells_time = told is None or live.saved_epoch != saved_before
        self._told, self._told_at = live, now
        return [self._progressed(live, now, live.seconds if tells_time else {})]

    def _saves(self, now: float) -> list[Event]:
        due = self.course.saves.due(now)
        facts: dict[str, Any] = {"at": now, "origin": _ORIGIN, "run": self.run_id, "attempt": self.attempt}
        return [SaveSeen(**facts, epoch=save.epoch, path=save.kept) for save in due]

    def _progressed(self, live: Live, now: float, seconds: dict[str, float]) -> Progressed:
        return Progressed(
            at=now,
            origin=_ORIGIN,
            run=self.run_id,
            attempt=self.attempt,
            epoch=live.epoch,
            epochs=live.epochs,
            saved_epoch=live.saved_epoch,
            losses=live.losses,
            metrics=live.metrics,
            epoch_s=live.epoch_s,
            eta_s=live.eta_s,
            seconds=seconds,
            diverged_from=live.diverged_from,
        )


class ProgressSource:
    """One thread that looks at the files of all live attempts, twice a second."""

    def __init__(
        self,
        put: Callable[[Event], None],
        world: Callable[[], World],
        runs_dir: Path,
        clock: Clock,
        board: Board,
        *,
        poll_s: float = POLL_S,
    ) -> None:
        """Tell `put` what moved and show the rest on `board`."""
        self._put = put
        self._world = world
        self._runs_dir = runs_dir
        self._clock = clock
        self._board = board
        self._poll_s = poll_s
        self._followers: dict[tuple[str, int], Follower] = {}
        self._rounds = Rounds("following the trainings", self.poll, self._pause_s)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End within 2 s."""
        self._rounds.stop()

    def poll(self) -> None:
        """Look once at everything. Called by the thread; tests call it by themselves."""
        self._follow(self._world())
        for follower in self._followers.values():
            self._poll_one(follower)
        self._board.keep_only({run_id for run_id, _ in self._followers})

    def _pause_s(self) -> float:
        return self._poll_s if self._followers else max(self._poll_s, IDLE_POLL_S)

    def _follow(self, world: World) -> None:
        wanted = {
            (run.id, run.attempt.number): (run, run.attempt)
            for run in world.live.values()
            if run.phase in FOLLOWED and run.attempt is not None
        }
        for key in self._followers.keys() - wanted.keys():
            del self._followers[key]
        for key in wanted.keys() - self._followers.keys():
            self._followers[key] = Follower(*wanted[key], self._runs_dir)

    def _poll_one(self, follower: Follower) -> None:
        """Poll one attempt. What one job writes must not end the following of the others."""
        try:
            events = follower.poll(self._clock.now())
        except OSError as error:
            if follower.broken != str(error):
                log.warning("cannot follow attempt %d of %s: %s", follower.attempt, follower.run_id, error)
            follower.broken = str(error)
            return
        except Exception as error:
            if follower.broken != repr(error):
                log.exception("a bug: following attempt %d of %s failed", follower.attempt, follower.run_id)
            follower.broken = repr(error)
            return
        follower.broken = ""
        for event in events:
            self._put(event)
        self._board.show(follower.run_id, follower.course.live)


def _place(live: Live) -> tuple[object, ...]:
    """Return what moves when a training moves."""
    return (live.epoch, live.epochs, live.saved_epoch, live.batch, live.losses, live.metrics)
