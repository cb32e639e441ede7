"""The daemon's side of an attempt directory: the files of shim and runner, and the attempt's processes.

Readers are tolerant: a shim may be weeks older than the daemon, or newer after a downgrade, so unknown fields
are skipped and only what both always knew is required. ``None`` means "not there"; a file that is there but
is no such record raises ValueError, for "cannot observe" is not "did not happen".
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from supervisor import durable

ATTEMPT_DIR_VARIABLE = "YOLO_SUPERVISOR_ATTEMPT_DIR"


class Train(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner needs beyond the process: the user's arguments, and where the training must go on."""

    args: dict[str, Any]
    device: str
    save_dir: str
    resume: str | None = None
    expected_epoch: int | None = None  # 0-based, as stored in the checkpoint
    run_token_file: str
    settings: dict[str, Any] = {}  # over the owner's Ultralytics settings
    mode: str = "runner"  # hook: argv is the user's own program, which loads our hook; finish: only the end is missing
    safe_saves: bool = True
    epochs_override: int | None = None
    stop_after: int | None = None  # 0-based: when this epoch is saved the next stage of the job begins
    changes: dict[str, Any] = {}  # of `args`: other than the job's after failures, or the job's once more


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """launch.json: what the shim executes."""

    run: str
    attempt: int
    token: int
    argv: tuple[str, ...]
    env: dict[str, str]  # the whole environment, nothing is inherited
    cwd: str
    umask: int
    log_max_bytes: int  # 0 = unlimited
    train: Train | None = None
    version: int = 1


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """started.json: who was started. Start times are clock ticks since boot (field 22 of /proc/PID/stat)."""

    shim_pid: int
    shim_start_time: int
    pid: int
    start_time: int
    boot_id: str
    pid1_start_time: int | None
    started_at: float
    host: str = ""
    watched: bool = False  # a person's training: the shim only watches it, and nobody of us may end it
    version: int = 1


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What the trainer and the children it waited for used."""

    user_s: float = 0.0
    system_s: float = 0.0
    max_rss_bytes: int = 0


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """exit.json: how the trainer ended, by `code` or by `signal`."""

    code: int | None
    signal: int | None
    signal_name: str | None = None
    ended_at: float
    started_at: float
    rusage: Usage = Usage()
    oom_kills: int | None = None  # None: nothing on this machine says so
    launch_error: str | None = None
    watched: bool = False  # then neither code nor signal is known
    detached: bool = False  # the watcher left; the training goes on
    version: int = 1


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """One line of beats.jsonl; `kind` tells which of the optional fields are there. Epochs are 0-based."""

    kind: str
    at: float
    phase: str | None = None
    pid: int | None = None
    python: str | None = None
    ultralytics: str | None = None
    torch: str | None = None
    from_epoch: int | None = None
    checkpoint: str | None = None
    save_dir: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    batch: int | None = None
    batches: int | None = None
    losses: dict[str, float | None] | None = None
    metrics: dict[str, float | None] | None = None
    images_per_s: float | None = None
    fitness: float | None = None
    epoch_s: float | None = None
    path: str | None = None
    best: str | bool | None = None  # of "end": the file; of "saved": whether this one is the best
    signal: int | None = None
    result: str | None = None
    code: int | None = None
    reason: str | None = None
    kept: str | None = None  # of "saved": a private copy that the runner left
    lr: dict[str, float | None] | None = None
    updates: int | None = None  # how often the averaged weights were updated
    text: str | None = None  # of "note"
    stacks_signal: int | None = None  # the signal on which the training writes its stacks
    v: int = 1


Record = TypeVar("Record", Started, Exit, Launch)


def _read(path: Path, kind: type[Record]) -> Record | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:  # a ValueError, but it does not say which file
        raise ValueError(f"{path}: {error}") from error


def read_started(att_dir: Path) -> Started | None:
    """Return started.json, None if it is not there; OSError or ValueError if it cannot be read."""
    return _read(att_dir / "started.json", Started)


def read_exit(att_dir: Path) -> Exit | None:
    """Return exit.json, None if it is not there; OSError or ValueError if it cannot be read."""
    return _read(att_dir / "exit.json", Exit)


def read_launch(att_dir: Path) -> Launch | None:
    """Return launch.json, None if it is not there; OSError or ValueError if it cannot be read."""
    return _read(att_dir / "launch.json", Launch)


def parse_beat(line: bytes) -> Beat | None:
    """Return one line of beats.jsonl, None for what is no beat (a line cut by a kill or a full disk)."""
    try:
        return msgspec.json.decode(line, type=Beat)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def write_launch(att_dir: Path, launch: Launch) -> None:
    """Write launch.json durably, readable by its owner only (it may hold keys). OSError if it cannot be."""
    _write(att_dir, "launch.json", launch)


def write_exit(att_dir: Path, record: Exit) -> None:
    """Write exit.json durably, in place of a shim that is gone. OSError if it cannot be."""
    _write(att_dir, "exit.json", record)


def _write(att_dir: Path, name: str, record: Launch | Exit) -> None:
    durable.write(att_dir / name, msgspec.json.encode(record))


def pid_namespace() -> int:
    """Return what tells this container's process numbers from another's: an inode, 0 where /proc is shut."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def lock_is_free(att_dir: Path) -> bool:
    """Tell whether no shim holds the attempt's lock. A missing file is free; nothing is created or changed.

    The probe holds a shared lock for microseconds; a shim that starts just then tries again for a second.
    """
    try:
        file = os.open(att_dir / "shim.lock", os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _stat_fields(pid: int) -> list[bytes] | None:
    """Return /proc/PID/stat from field 3 (state) on; the name before it may hold spaces and parentheses."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def process_start_time(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None if there is none with that number."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def boot_identity() -> tuple[str, int | None]:
    """Return boot id and start time of process 1: together they tell a restarted container too.

    The start time is None where /proc hides other users' processes.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(), process_start_time(1)


def is_same_boot(started: Started) -> bool:
    """Tell whether that attempt was started in this boot: only then its process numbers mean something."""
    return (started.boot_id, started.pid1_start_time) == boot_identity()


def signal_process(pid: int, start_time: int, number: int) -> bool:
    """Signal exactly that process; False if it is gone or the number belongs to another one now.

    Raises PermissionError where it is there but not ours to signal.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if process_start_time(pid) != start_time:  # looked at after the handle: what it holds cannot change any more
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def descendants_and_marked(att_dir: Path, shim_pid: int, pid: int) -> list[tuple[int, int]]:
    """Return (pid, start time) of every live process of the attempt but the shim itself, oldest first.

    Found by descent from the shim or the trainer, by the attempt's marker in the environment, and by the
    attempt's log as standard output or error (both survive when the shim was killed and the family is torn).
    The two numbers are believed only where started.json of this boot names them with the start time that they
    have now: a number that was given to a stranger has no descendants of ours. Zombies do not count.
    Of a watched training only what descends from it: its log is a person's, who may write more into it.
    """
    table = _process_table()
    roots = _believed(att_dir, {shim_pid, pid}, table)
    family = set(roots)
    while children := {child for child, (parent, _) in table.items() if parent in family} - family:
        family |= children
    known_shim = {shim_pid} & roots
    marker = f"{ATTEMPT_DIR_VARIABLE}={att_dir}".encode()
    strangers = set() if _is_watched(att_dir) else table.keys() - family
    marked = {other for other in strangers if _is_marked(other, marker, att_dir)}
    found = [(other, table[other][1]) for other in (family | marked) - known_shim - {os.getpid()}]
    return sorted(found, key=lambda item: (item[1], item[0]))


def descendants(pid: int, start_time: int) -> dict[int, tuple[int, int]]:
    """Return parent and start time of a process and of all that descends from it and lives; nothing if it has ended.

    Nothing but /proc/PID/stat is read, which never blocks: not even where a process hangs in the kernel with its
    memory locked, and its environment could not be read.
    """
    table = _process_table()
    family = {pid} if pid in table and table[pid][1] == start_time else set()
    while children := {child for child, (parent, _) in table.items() if parent in family} - family:
        family |= children
    return {member: table[member] for member in sorted(family, key=lambda member: (table[member][1], member))}


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for that signal; False if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith(b"SigCgt:")), b"0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def _is_watched(att_dir: Path) -> bool:
    started = read_started(att_dir)
    return started is not None and started.watched


def _believed(att_dir: Path, pids: set[int], table: dict[int, tuple[int, int]]) -> set[int]:
    """Return those of the numbers that still belong to the shim and the trainer of the attempt."""
    started = read_started(att_dir)
    if started is None or not is_same_boot(started):
        return set()
    named = {(started.shim_pid, started.shim_start_time), (started.pid, started.start_time)}
    return {pid for pid in pids if pid in table and (pid, table[pid][1]) in named}


def _process_table() -> dict[int, tuple[int, int]]:
    """Return parent and start time of every visible process that is no zombie."""
    table: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        fields = _stat_fields(int(entry.name)) if entry.name.isdigit() else None
        if fields and fields[0] != b"Z":
            table[int(entry.name)] = (int(fields[1]), int(fields[19]))
    return table


def _is_marked(pid: int, marker: bytes, att_dir: Path) -> bool:
    try:
        if marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return True
    except OSError:
        return False  # gone, or another user's: its files cannot be read either
    return any(_is_log(pid, standard, att_dir) for standard in (1, 2))


def _is_log(pid: int, standard: int, att_dir: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/fd/{standard}").samefile(att_dir / "log")
    except OSError:
        return False
