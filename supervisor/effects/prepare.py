"""Prepare an attempt: its directory, its fence token, its settings, and the checkpoint from which it starts."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from supervisor import durable, layout
from supervisor.attempt_files import descendants_and_marked, is_same_boot, lock_is_free, read_started
from supervisor.clock import current_boot
from supervisor.core import events
from supervisor.core.actions import Prepare
from supervisor.effects import adoption, consistency, start_point
from supervisor.effects.gpu_gate import Admission
from supervisor.errors import PermanentError, RetryableError
from supervisor.machine import conditions

Done = TypeVar("Done")
PATIENCE_S = 10.0  # for another run's directory, before a test of GPUs would be made again


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """The fence in a run directory: who may write there now. A stale holder stops and writes nothing."""

    token: int
    run: str
    attempt: int
    host: str
    boot_id: str
    version: int = 1


class Preparer:
    """Carries out Prepare."""

    def __init__(
        self,
        runs_dir: Path,
        pause_below_bytes: int,
        source_of: Callable[[str], bytes | None],
        now: Callable[[], float],
        wanted: Callable[[Prepare], bool] = lambda _action: True,
        *,
        gate: Callable[[Prepare], Admission] = lambda _action: Admission(),
    ) -> None:
        """`source_of` gives the bytes of a job file by their revision; `now` stamps the answer.

        `wanted` says whether the run still waits for this preparation: it may have been stopped meanwhile. `gate` looks
        at the GPUs of the attempt; see gpu_gate.
        """
        self._runs_dir = runs_dir
        self._pause_below_bytes = pause_below_bytes
        self._source_of = source_of
        self._now = now
        self._wanted = wanted
        self._gate = gate
        self._one_at_a_time = threading.Lock()

    def __call__(self, action: Prepare) -> tuple[events.Event, ...]:
        """See the module. Doing it twice does no harm: nothing runs before it is answered.

        Its GPUs are looked at and tested beside other preparations, as that may take minutes. Directories are prepared
        one at a time: a run that was stopped while it was prepared may be prepared again beside the late first one,
        which then finds a newer token and leaves.
        """
        run_dir = layout.run_directory(self._runs_dir, action.job.project, action.job.name)
        refused = self._alone(action, partial(self._refused, action, run_dir), 0.0)
        if refused is not None:
            return (refused,)
        admission = self._gate(action) if action.check_gpus or action.test_gpus else Admission()
        if admission.reason:
            failed = self._failed(action, admission.reason, f"GPU: {admission.reason}")
            return (*admission.events, msgspec.structs.replace(failed, busy=admission.busy))
        event = self._alone(action, partial(self._prepared, action, run_dir, admission.notes), PATIENCE_S)
        return (*admission.events, event)

    def _alone(self, action: Prepare, what: Callable[[], Done], wait_s: float) -> Done:
        """Do something while no other run is being prepared, if the run still waits for it."""
        if not self._one_at_a_time.acquire(timeout=wait_s):  # one that hangs must not block its lane
            raise RetryableError("another run is being prepared", 0.5)
        try:
            if not self._wanted(action):
                raise PermanentError("the run no longer waits for this preparation")
            return what()
        finally:
            self._one_at_a_time.release()

    def _refused(self, action: Prepare, run_dir: layout.RunDirectory) -> events.Event | None:
        waiting_for, reason = self._hindrance(action, run_dir)
        return self._failed(action, reason, waiting_for) if reason else None

    def _failed(self, action: Prepare, reason: str, waiting_for: str) -> events.PrepareFailed:
        return events.PrepareFailed(
            at=self._now(),
            origin="prepare",
            run=action.run,
            attempt=action.attempt,
            reason=reason,
            waiting_for=waiting_for,
        )

    def _prepared(self, action: Prepare, run_dir: layout.RunDirectory, of_gpus: tuple[str, ...]) -> events.Event:
        """Take the run over, furnish its directory and choose where the attempt starts."""
        _refuse_symlinks(self._runs_dir, run_dir.root)
        _fence(run_dir, action)
        notes = [*of_gpus, *self._furnish(run_dir, action)]
        met = adoption.meet(action, run_dir, self._runs_dir)
        if met is not None:
            return msgspec.structs.replace(met, at=self._now())
        action = adoption.in_place(action)
        choice = start_point.choose_start(action, run_dir, self._runs_dir)
        checked = consistency.check(action, run_dir, choice)
        if isinstance(checked, events.PrepareFailed):
            return msgspec.structs.replace(checked, at=self._now())
        choice = checked
        if choice.start in {"resume", "finish"}:
            choice = start_point.bring_into_place(choice, run_dir, action)
        return msgspec.structs.replace(choice, at=self._now(), notes=(*notes, *choice.notes))

    def _hindrance(self, action: Prepare, run_dir: layout.RunDirectory) -> tuple[str, str]:
        """Return what the machine lacks for an attempt, and why; looked at before anything is made or read.

        A folder that is made where a mount is missing would be hidden by it later. A model is read only by a first
        start.
        """
        needed = [mount for mount in action.job.mounts if mount.what != "model" or action.scratch_allowed]
        point, reason = conditions.missing_mount(needed)
        if point:
            return f"mount: {point}", reason
        return "disk", conditions.no_room_for(action.job, run_dir, self._pause_below_bytes)

    def _furnish(self, run_dir: layout.RunDirectory, action: Prepare) -> list[str]:
        notes = []
        if action.set_aside and (moved := _set_older_aside(run_dir)):
            notes.append(f"what an older run left is now in {moved}")
        source = self._source_of(action.job.revision)
        if source is not None:
            durable.write(run_dir.job, source)
        run_dir.attempt(action.attempt).root.mkdir(parents=True, exist_ok=True)
        _copy_settings(run_dir)
        if not run_dir.mark.exists():
            durable.write(run_dir.mark, secrets.token_hex(8).encode())
        return notes


def _refuse_symlinks(runs_dir: Path, root: Path) -> None:
    """A link planted below the runs folder could lead a run anywhere. Raises PermanentError."""
    path = root
    while path not in {runs_dir, path.parent}:
        if path.is_symlink():
            raise PermanentError(f"{path} is a symbolic link; run directories must be real folders")
        path = path.parent
    root.mkdir(parents=True, exist_ok=True)


def _fence(run_dir: layout.RunDirectory, action: Prepare) -> None:
    """Take the run over: proven that nothing of any attempt lives, and that nobody has taken it over since.

    Raises RetryableError while a process of another attempt is there, PermanentError if the directory knows of more
    than the journal does (a journal that was lost or restored): a person must look.
    """
    holder = _holder(run_dir)
    if (holder.token, holder.run) != (action.token, action.run) and holder.token >= action.token:
        raise PermanentError(f"{run_dir.token} holds token {holder.token} of {holder.run}, newer than ours")
    if run_dir.attempt(action.attempt).started.exists():
        raise PermanentError(f"{run_dir.attempt(action.attempt).root} was used before: was the journal lost?")
    for folder in sorted(path for path in (run_dir.root / "attempts").glob("*") if path.is_dir()):
        survives = _has_survivors(folder) and not adoption.goes_on(folder, action.job)
        if survives or not lock_is_free(folder):
            raise RetryableError(f"attempt {folder.name} still has processes", 2.0)
    token = Token(
        token=action.token,
        run=action.run,
        attempt=action.attempt,
        host=socket.gethostname(),
        boot_id=current_boot().boot_id,
    )
    durable.write(run_dir.token, msgspec.json.encode(token))


def _has_survivors(attempt: Path) -> bool:
    """True if the shim is gone but processes of its attempt are not: its lock says nothing then."""
    started = read_started(attempt)
    if started is None or not is_same_boot(started):
        return False
    return bool(descendants_and_marked(attempt, started.shim_pid, started.pid))


def _holder(run_dir: layout.RunDirectory) -> Token:
    """Who holds the run directory; token 0 if nobody ever did."""
    try:
        return msgspec.json.decode(run_dir.token.read_bytes(), type=Token)
    except FileNotFoundError:
        return Token(token=0, run="", attempt=0, host="", boot_id="")
    except msgspec.DecodeError as error:
        raise PermanentError(f"{run_dir.token} is damaged: {error}") from error


def _set_older_aside(run_dir: layout.RunDirectory) -> str:
    """Another job takes the name of an ended one: what that left is kept in a folder of its own."""
    ours = {run_dir.job.name, run_dir.token.name, run_dir.settings.name, run_dir.mark.name, "attempts"}
    left = [path for path in run_dir.root.iterdir() if path.name not in ours and not path.name.startswith("before-")]
    left = [path for path in left if path.is_symlink() or not path.is_dir() or any(path.iterdir())]
    # An attempt's folder stays, it launches once; an old training's last save and its place are none of the new one's.
    told = [path for name in ("final.pt", "beats.jsonl") for path in (run_dir.root / "attempts").glob(f"*/{name}")]
    if not left and not told:
        return ""
    number = 1
    while (target := run_dir.root / f"before-{number}").exists():
        number += 1
    target.mkdir()
    for path in (*(mark for mark in [run_dir.mark] if mark.exists()), *left):
        path.rename(target / path.name)
    for path in told:
        path.rename(target / f"{path.stem}-{path.parent.name}{path.suffix}")
    return target.name


def _copy_settings(run_dir: layout.RunDirectory) -> None:
    """The owner's Ultralytics settings, as they are now; a run must not change them, nor be changed by others."""
    base = os.environ.get("YOLO_CONFIG_DIR") or os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    source = Path(base) / "Ultralytics" / "settings.json"
    target = run_dir.settings / "Ultralytics" / "settings.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
