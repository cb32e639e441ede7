"""Runs that go on in a folder which a person's own training made: the link to it, and who else is at work there."""

from __future__ import annotations

import os
import select
from pathlib import Path

import msgspec

from supervisor import durable, layout
from supervisor.attempt_files import is_same_boot, pid_namespace, process_start_time, read_exit, read_started
from supervisor.clock import current_boot
from supervisor.core import events
from supervisor.core.actions import Prepare
from supervisor.core.job import Watch
from supervisor.core.model import Job
from supervisor.effects import live_trainings
from supervisor.errors import PermanentError, RetryableError


def meet(
    action: Prepare, run_dir: layout.RunDirectory, runs_dir: Path
) -> events.Prepared | events.PrepareFailed | None:
    """Take an adopted folder over, before anything in it is looked at. None: the run goes on as any other.

    A person's training that still runs is watched; whoever else trains there, or a folder that is not there, is
    waited for. Raises PermanentError where the folder cannot be this run's, RetryableError where /proc hides who it is.
    """
    job = action.job
    place = Path(job.adopt) if job.adopt else run_dir.train  # a link of ours, if the job was edited since
    if (job.adopt or place.is_symlink()) and not place.is_dir():
        return _failed(action, f"{os.path.realpath(place)} is not there", "mount")
    if not job.adopt:
        return None
    link(run_dir, job, runs_dir)
    if job.watch is not None and lives(job.watch):
        if action.goal is not None:
            return _failed(action, f"the training that a person started still runs in {job.adopt}", "person")
        return events.Prepared(at=0.0, origin="prepare", run=action.run, attempt=action.attempt, start="watch")
    for training in live_trainings.everyone():
        if sign := live_trainings.sign_of_writing(training, Path(job.adopt)):
            return _failed(action, f"process {training.pid} trains there: it {sign}", "person")
    return None


def _failed(action: Prepare, reason: str, waiting_for: str) -> events.PrepareFailed:
    return events.PrepareFailed(
        at=0.0,
        origin="prepare",
        run=action.run,
        attempt=action.attempt,
        reason=reason,
        waiting_for=waiting_for,
    )


def in_place(action: Prepare) -> Prepare:
    """The order for a run whose folder was there before it: what lies in it is to be continued, never set aside.

    From the beginning only where a person's training was watched: an interrupted one had something to lose.
    """
    if not action.job.adopt:
        return action
    scratch_allowed = action.scratch_allowed and action.job.watch is not None
    return msgspec.structs.replace(action, set_aside=False, scratch_allowed=scratch_allowed)


def link(run_dir: layout.RunDirectory, job: Job, runs_dir: Path) -> None:
    """Let `train` of the run be the adopted folder. Again does no harm. Raises PermanentError, touches nothing then."""
    train, target = run_dir.train, os.path.realpath(job.adopt)
    if train.is_symlink():
        if os.path.realpath(train) != target:
            raise PermanentError(f"{train} leads to {os.path.realpath(train)}, not to {job.adopt}")
        return
    if train.exists() and (not train.is_dir() or any(train.iterdir())):
        raise PermanentError(f"{train} holds files of its own: {job.adopt} cannot be continued under this name")
    if Path(target).is_relative_to(os.path.realpath(runs_dir)):
        raise PermanentError(f"{job.adopt} lies below {runs_dir}: it is a run of ours already")
    if owner := owner_of(runs_dir, Path(job.adopt)):
        raise PermanentError(f"{job.adopt} is continued by {owner} already")
    if train.exists():
        train.rmdir()
    run_dir.root.mkdir(parents=True, exist_ok=True)
    train.symlink_to(target, target_is_directory=True)
    durable.sync(run_dir.root)


def owner_of(runs_dir: Path, folder: Path) -> str:
    """Which run continues this folder already, as project/name; an empty text for none."""
    target = os.path.realpath(folder)
    for train in sorted(runs_dir.glob("*/*/train")):
        if train.is_symlink() and os.path.realpath(train) == target:
            return str(train.parent.relative_to(runs_dir))
    return ""


def lives(watch: Watch) -> bool:
    """Tell whether exactly that process still runs.

    Raises RetryableError where /proc hides which one it is, PermanentError where it lives in another container, whose
    processes cannot be seen from here.
    """
    if watch.boot_id != current_boot().boot_id:
        return False
    if watch.pid_namespace and watch.pid_namespace != pid_namespace():
        raise PermanentError(
            f"process {watch.pid} is of another container (pid namespace) and cannot be seen from here"
        )
    try:
        handle = os.pidfd_open(watch.pid)
    except ProcessLookupError:
        return False
    try:
        ended = bool(select.select([handle], [], [], 0)[0])
    finally:
        os.close(handle)
    found = process_start_time(watch.pid)
    if found is None and not ended:
        raise RetryableError(f"process {watch.pid} is there, but /proc does not show it", 30.0)
    return not ended and found == watch.start_time


def goes_on(attempt: Path, job: Job) -> bool:
    """Tell whether what lives of an older attempt is only the person's training that is to be watched again."""
    started, ended = read_started(attempt), read_exit(attempt)
    if started is None or ended is None or not ended.detached or not is_same_boot(started):
        return False
    return job.watch is not None and (started.pid, started.start_time) == (job.watch.pid, job.watch.start_time)
