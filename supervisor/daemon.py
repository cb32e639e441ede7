"""The daemon put together: opens and closes every thread in one ExitStack, and runs the loop."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import psutil
from msgspec.structs import replace

from supervisor import __version__, config, layout
from supervisor.backup_watch import BackupWatch
from supervisor.clock import WallClock, current_boot
from supervisor.config import Config
from supervisor.core import actions, events, messages
from supervisor.core.checkpoints import Saved
from supervisor.core.model import Phase, Run, World
from supervisor.core.views import View
from supervisor.effects import gpu_stock, listing, survey
from supervisor.effects.autopsy import Autopsist
from supervisor.effects.check import JobChecker
from supervisor.effects.compare import Comparer
from supervisor.effects.dispatch import Dispatcher
from supervisor.effects.examine import Examiner
from supervisor.effects.job_files import JobFileMarker
from supervisor.effects.keeper import Keeper
from supervisor.effects.notify import Notifier
from supervisor.effects.prepare import Preparer
from supervisor.engines.local import LocalEngine
from supervisor.errors import UserError
from supervisor.gpu_watch import GpuWatch
from supervisor.init_reaper import reap_as_init
from supervisor.journal import Journal, make_reserve
from supervisor.loop import Loop
from supervisor.machine.gpu_count import count_gpus
from supervisor.machine.stacks import python_stacks
from supervisor.sd_notify import SdNotify
from supervisor.sources.hangs import HangSource
from supervisor.sources.processes import ProcessSource
from supervisor.sources.schedules import RESYNC_S, Schedules
from supervisor.sources.spool import Spool
from supervisor.sources.train_log import Board, ProgressSource
from supervisor.sources.waits import WaitSource
from supervisor.state_lock import SecondDaemonError, state_lock
from supervisor.web.server import ApiServer

log = logging.getLogger("yolo-supervisor")

EXIT_BAD_CONFIG = 78
EXIT_SECOND_DAEMON = 73
STATUS_EVERY_S = 5.0
MACHINE_S = 15.0
UNJOURNALLED_EVERY_S = 3600.0


class Daemon:
    """One life of the daemon."""

    def __init__(self, config_path: Path | None, settings: Config) -> None:
        """`settings` were read from `config_path`, which SIGHUP reads again."""
        self._config_path = config_path
        self._settings = settings
        self._clock = WallClock()
        self._manager = SdNotify()
        self._stopping = ""
        self._reload = False
        self._next_status_at = 0.0
        self._next_alarm_at = 0.0
        self._journal_path = layout.journal_file(settings.server.state_dir)
        self._gpu_count = count_gpus()
        self._machine: dict[str, int] = {}
        self._world: Callable[[], World] = World

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; trainings go on afterwards. The exit code."""
        settings = self._settings
        settings.server.state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)  # jobs' [env] is in the journal
        settings.server.runs_dir.mkdir(parents=True, exist_ok=True)
        _make_jobs_folder(settings.jobs.folder)
        with ExitStack() as stack:
            stack.enter_context(state_lock(settings.server.state_dir))
            journal = Journal.open(self._journal_path)
            stack.callback(journal.close)
            self._make_reserve()
            loop = self._assemble(stack, journal)
            self._serve(loop)
        return 0

    # ---- putting together
    def _assemble(self, stack: ExitStack, journal: Journal) -> Loop:
        now = self._clock.now
        put: Callable[[events.Event], None] = lambda event: loop.put(event)  # noqa: E731, PLW0108 - the loop comes after
        self._world = lambda: loop.world
        self._gpus = gpus = GpuWatch(lambda: self._settings, put, self._world, self._clock)
        self._backups = backups = BackupWatch(lambda: self._settings, put, self._world, self._clock)
        dispatcher = self._dispatch = Dispatcher({**self._handlers(gpus), **backups.handlers}, put, now)
        loop = Loop(journal.load(), journal, self._clock, dispatcher)
        pending = journal.pending()
        processes = ProcessSource(self._settings.server.runs_dir, lambda: loop.world, loop.put, now)
        board = Board()
        progress = ProgressSource(loop.put, lambda: loop.world, self._settings.server.runs_dir, self._clock, board)
        spool = self._spool(loop)
        runs_dir, pause_below = self._settings.server.runs_dir, self._settings.disk.pause_below
        waits = WaitSource.of(runs_dir, pause_below, loop.put, lambda: loop.world, now)
        world, clock = self._world, self._clock
        hangs = HangSource(self._settings.hang, loop.put, world, runs_dir, clock, board=board, stacks=python_stacks)
        loop.after_step.append(_on_new_attempts(loop, processes.wake))
        self._open(loop, stack)
        self._clockwork = self._schedules(loop, processes, spool)
        for part in (
            processes,
            gpus,
            progress,
            hangs,
            waits,
            spool,
            self._clockwork,
            self._api(loop, board, gpus),
            backups,
        ):
            part.start()
            stack.callback(part.stop)
        stack.callback(dispatcher.close)
        dispatcher(pending)
        return loop

    def _open(self, loop: Loop, stack: ExitStack) -> None:
        """Say who we are before anything else is decided; handle signals."""
        now = self._clock.now()
        policy = config.policy(self._settings, self._gpu_count)
        loop.put(  # first: nothing may be placed under the boot before this one
            events.DaemonStarted(at=now, origin="daemon", pid=os.getpid(), version=__version__, boot=current_boot())
        )
        restored = self._backups.restored()
        if restored is not None:
            loop.put(restored)
        loop.put(events.Configured(at=now, origin="daemon", policy=policy))
        for number, handler in (
            (signal.SIGTERM, functools.partial(self._stop_on, loop)),
            (signal.SIGINT, functools.partial(self._stop_on, loop)),
            (signal.SIGHUP, functools.partial(self._reload_on, loop)),
        ):
            stack.callback(signal.signal, number, signal.signal(number, handler))

    def _handlers(self, gpus: GpuWatch) -> dict[type[actions.Action], Callable[..., tuple[events.Event, ...]]]:
        settings, now = self._settings, self._clock.now
        runs_dir = settings.server.runs_dir
        engine = LocalEngine(runs_dir, now, allow_download=settings.jobs.allow_download)
        cache = layout.interpreter_cache(settings.server.state_dir)
        stock = lambda: gpu_stock.of_world(self._world(), now())  # noqa: E731 - one expression
        self._checker = JobChecker(settings, runs_dir, cache, self._clock, gpus=stock)
        return {
            actions.CheckJob: self._checker,
            actions.MarkFile: JobFileMarker(now),
            actions.Prepare: self._preparer(gpus),
            actions.Launch: engine.launch,
            actions.Terminate: engine.terminate,
            actions.Autopsy: Autopsist(runs_dir, now),
            actions.Examine: Examiner(runs_dir, now, lambda: config.rules(self._settings), settings.disk.pause_below),
            actions.Keep: Keeper(runs_dir, now),
            actions.Compare: Comparer(runs_dir, now),
            **gpus.handlers,
            actions.Announce: Notifier(settings.channel, self._clock, settings.server.name or socket.gethostname()),
        }

    def _preparer(self, gpus: GpuWatch) -> Preparer:
        settings, now = self._settings, self._clock.now
        return Preparer(
            settings.server.runs_dir, settings.disk.pause_below, self._source_of, now, self._is_wanted, gate=gpus.admit
        )

    def _is_wanted(self, action: actions.Prepare) -> bool:
        """False for a preparation that its run has left behind."""
        run = self._world().run(action.run)
        attempt = run.attempt if run is not None and run.phase is Phase.PREPARING else None
        return attempt is not None and attempt.token == action.token

    def _source_of(self, revision: str) -> bytes | None:
        reader = Journal.open(self._journal_path, read_only=True)
        try:
            return reader.source(revision)
        finally:
            reader.close()

    def _spool(self, loop: Loop) -> Spool:
        jobs = self._settings.jobs
        known = lambda: {path: note.revision for path, note in loop.world.files.items()}  # noqa: E731 - one expression
        return Spool(jobs.folder, loop.put, self._clock, jobs.settle, jobs.rescan, known=known)

    def _schedules(self, loop: Loop, processes: ProcessSource, spool: Spool) -> Schedules:
        jobs = self._settings.jobs
        return Schedules(
            timed=self._backups.entries(),
            entries={
                "rescan": (jobs.rescan, spool.rescan),
                "machine": (MACHINE_S, lambda: self._look_at_machine(loop)),
                "resync": (RESYNC_S, processes.observe),
                "progress": (
                    jobs.progress_every,
                    lambda: loop.put(events.ProgressDue(at=self._clock.now(), origin="schedule")),
                ),
            },
        )

    def _api(self, loop: Loop, board: Board, gpus: GpuWatch) -> ApiServer:
        settings = self._settings
        return ApiServer(
            world=lambda: loop.world,
            put=loop.put,
            board=board,
            history=lambda: Journal.open(self._journal_path, read_only=True),
            config_view=lambda: config.show(self._settings),
            clock=self._clock,
            socket_path=settings.server.socket,
            runs_dir=settings.server.runs_dir,
            server=lambda: self._facts(loop),
            saved=self._saved,
            checkpoints=self._checkpoints,
            gpu_readings=gpus.readings,
            kernel_state=gpus.kernel_state,
            pruning=self._backups.pruning,
        )

    def _checkpoints(self, run: Run) -> View:
        """All checkpoints of a run. Called in a thread of the API's."""
        return listing.checkpoints_view(run, self._settings.server.runs_dir, self._clock.now())

    def _saved(self, run: Run, epoch: int | None) -> Saved:
        """The epochs that a run can go back to. Called in a thread of the API's."""
        directory = layout.run_directory(self._settings.server.runs_dir, run.job.project, run.name)
        return survey.saved(run.job, directory, epoch)

    def _facts(self, loop: Loop) -> dict[str, object]:
        """What `status` shows beside the runs; sizes in bytes."""
        machine = {**self._machine, "disks": self._backups.disks()}
        return {"pid": os.getpid(), "version": __version__, "degraded": loop.degraded, **machine}

    def _look_at_machine(self, loop: Loop) -> None:
        """What `status` shows of the machine, and how many GPUs there are: the driver may come after the daemon.

        Runs in the scheduler's thread: a disk that hangs makes the figures old, and nothing else slow.
        """
        count = count_gpus()
        if count != self._gpu_count:
            self._gpu_count = count
            policy = replace(loop.world.policy, gpu_count=count)
            loop.put(events.Configured(at=self._clock.now(), origin="machine", policy=policy))
        self._machine = {
            "memory_available_bytes": psutil.virtual_memory().available,
            "free_bytes": psutil.disk_usage(str(self._settings.server.runs_dir)).free,
        }

    # ---- running
    def _serve(self, loop: Loop) -> None:
        while loop.run_once(block=False):
            pass  # what was decided at start is on record before anybody is told that we are ready
        if not loop.degraded:
            self._backups.restored_is_noted()
        self._manager.tell(READY="1", STATUS=self._status(loop), MAINPID=str(os.getpid()))
        log.info("ready: %s", self._status(loop))
        while not self._stopping:
            loop.run_once(at_most_s=max(0.0, self._next_status_at - self._clock.now()))
            self._tell_manager(loop)
            if self._reload:
                self._reload = False
                self._read_config_again(loop)
        self._manager.tell(STOPPING="1")
        log.info("stopping (%s); trainings go on", self._stopping)
        loop.put(events.DaemonStopped(at=self._clock.now(), origin="daemon", reason=self._stopping))
        loop.run_once(block=False)

    def _tell_manager(self, loop: Loop) -> None:
        """Feed the watchdog from the loop that does the work, and say how we are."""
        now = self._clock.now()
        if now < self._next_status_at:
            return
        self._next_status_at = now + min(STATUS_EVERY_S, self._manager.watchdog_s / 2 or STATUS_EVERY_S)
        self._manager.tell(WATCHDOG="1", STATUS=self._status(loop))
        if loop.degraded:
            self._live_without_record(loop)
        else:
            self._make_reserve()

    def _live_without_record(self, loop: Loop) -> None:
        """The journal cannot be written: give up the reserve, and tell people directly, once an hour."""
        with suppress(OSError):
            layout.reserve_file(self._settings.server.state_dir).unlink()
        now = self._clock.now()
        if now < self._next_alarm_at:
            return
        self._next_alarm_at = now + UNJOURNALLED_EVERY_S
        for channel in loop.world.policy.channels:
            self._dispatch((messages.degraded(channel, loop.degraded, now),))

    def _make_reserve(self) -> None:
        with suppress(OSError):  # no room for the reserve: it is tried again every few seconds
            make_reserve(layout.reserve_file(self._settings.server.state_dir))

    def _status(self, loop: Loop) -> str:
        if loop.degraded:
            return f"DEGRADED: the journal cannot be written ({loop.degraded}); nothing is decided"
        runs = loop.world.live.values()
        running = sum(run.busy for run in runs)
        held = sum(run.phase.value == "HELD" for run in runs)
        return f"{running} running, {len(runs) - running - held} waiting, {held} held"

    def _stop_on(self, loop: Loop, number: int, _frame: object) -> None:
        self._stopping = signal.Signals(number).name
        loop.wake()

    def _reload_on(self, loop: Loop, _number: int, _frame: object) -> None:
        self._reload = True
        loop.wake()

    def _read_config_again(self, loop: Loop) -> None:
        """Take over what may change while running: limits and rules. A broken file changes nothing."""
        self._manager.tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            settings = config.load(self._config_path)
        except UserError as error:
            log.error("configuration not reloaded, the old one stays: %s", error)  # noqa: TRY400 - a message for a person
            self._manager.tell(READY="1", STATUS=f"bad configuration, the old one stays: {error}"[:200])
            return
        self._settings, ignored = config.reloaded(self._settings, settings)
        if ignored:
            log.warning("changed in the configuration, but needs a restart: %s", ", ".join(ignored))
        policy = config.policy(self._settings, self._gpu_count)
        loop.put(events.Configured(at=self._clock.now(), origin="reload", policy=policy))
        self._clockwork.change(self._backups.entries())
        self._manager.tell(READY="1")


def _make_jobs_folder(folder: Path) -> None:
    """The folder where jobs are dropped: code runs from it, so others may not write there unless told so."""
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o755)


def _on_new_attempts(loop: Loop, wake: Callable[[], None]) -> Callable[[], None]:
    """A watcher that wakes the process source when a launch was ordered, and when its process is there."""
    seen: set[tuple[str, int, int]] = set()

    def look() -> None:
        launched = {
            (run.id, run.attempt.number, run.attempt.pid)
            for run in loop.world.live.values()
            if run.attempt is not None and run.attempt.launches > 0
        }
        if launched != seen:
            seen.clear()
            seen.update(launched)
            wake()

    return look


def main(config_path: Path | None = None) -> int:
    """`yolo-supervisor run`: the exit code of the daemon (contract: 78 bad config, 73 second daemon)."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=_log_format())
    for library in ("apscheduler", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        settings = config.load(config_path)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before the daemon lives, this is a command's answer
        return EXIT_BAD_CONFIG
    exit_code = reap_as_init()
    if exit_code is not None:
        return exit_code
    try:
        return Daemon(config_path, settings).run()
    except SecondDaemonError as error:
        print(error, file=sys.stderr)  # noqa: T201 - as above
        return EXIT_SECOND_DAEMON
    except (UserError, sqlite3.Error, msgspec.MsgspecError) as error:  # the last: a journal of another version
        log.critical("cannot start: %s", error)
        return 1


def _log_format() -> str:
    """Systemd's journal adds the time itself."""
    return "%(levelname)s %(message)s" if "JOURNAL_STREAM" in os.environ else "%(asctime)s %(levelname)s %(message)s"
