"""The shim: the parent process of one training attempt.

Started by the daemon as ``python -I -S -E shim.py /abs/attempt``. It detaches itself from the daemon, takes
``shim.lock``, starts what ``launch.json`` says, waits for its end, records it in ``exit.json``, ends what the
trainer left behind, and gives the lock back when no descendant is left. So these two always hold:

* the lock is free and ``exit.json`` is there: the attempt is over and nothing of it runs;
* the trainer ran one instruction of its own: ``started.json`` was durable before.

The trainer starts with the limit for core files at 0, always.

Started as ``shim.py --watch PID START_TIME /abs/attempt`` it starts nothing: it watches a training that a person
started, and never signals it. It records that it has ended (how cannot be known of a process that is no child),
and keeps the lock until what descended from it is gone too. SIGUSR1 makes it leave a training that goes on.

The starting process exits 0 once ``started.json`` is durable. Otherwise nothing was launched, one line on
stderr says why, and the code is one of the ``STARTER_`` constants below.

One file, standard library only, nothing of ours imported: a shim may be weeks older than the daemon that
reads its files. Many wait for days, so modules that cost memory (subprocess, pathlib, tempfile, typing) stay
out. Paths are bytes all the way: the locale may be GBK while file names and JSON are UTF-8.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import stat
import sys
import time

VERSION = 1
STARTER_BAD_LAUNCH = 2
STARTER_ALREADY_LAUNCHED = 17
STARTER_LOCKED = 18
STARTER_NO_PIDFD = 69
STARTER_SHIM_FAILED = 70
STARTER_CANNOT_WRITE = 73

NOT_FOUND_CODE = 127  # what a shell answers for a command that is not there
NOT_EXECUTABLE_CODE = 126  # and for one that cannot be executed
LOCK_PATIENCE_S = 1.0  # a daemon that probes the lock holds it (shared) for microseconds: that is no refusal
TERMINATE_GRACE_S = 3.0
ORPHAN_LOOK_S = 0.1
WATCH_LOOK_S = 2.0  # how often the descendants of a watched training are counted
LEAVE = signal.SIGUSR1  # only the daemon sends that; SIGTERM also comes when a service's control group is stopped
RETRY_S = 2.0  # exit.json that cannot be written, orphans that even SIGKILL does not end (state D)
LOG_LOOK_MAX_S = 5.0
LOG_LOOK_MIN_S = 0.05
UNLIMITED_LOOK_S = 60.0
LOG_HEAD_BYTES = 64 * 1024  # versions, arguments and the data set's scan stand there
BLOCK_BYTES = 4096
RESERVE_BYTES = BLOCK_BYTES
LAUNCH_ERROR_LIMIT = 1000
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
FALLOC_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02  # linux/falloc.h
CANNOT_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
FILE_MODE = 0o644  # and the daemon's umask
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
MARKER = b"YOLO_SUPERVISOR_ATTEMPT_DIR="

libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """Nothing was launched; ``code`` is the exit code of the starting process."""

    def __init__(self, code: int, reason: str) -> None:
        """Refuse with that exit code and one line for a person."""
        super().__init__(reason)
        self.code = code


class Launch:
    """What to execute, as bytes ready for the system calls."""

    def __init__(self, document: object) -> None:
        """Raise KeyError, TypeError or ValueError where ``document`` is not a launch.json of version 1."""
        if not isinstance(document, dict) or document["version"] != VERSION:
            raise ValueError("not a launch.json of version 1")
        self.argv = [encoded(word) for word in document["argv"]]
        if not self.argv or not self.argv[0]:
            raise ValueError("argv is empty")
        self.env = {encoded(name): encoded(value) for name, value in document["env"].items()}
        if any(not name or b"=" in name for name in self.env):
            raise ValueError("env holds a name that is empty or contains '='")
        self.cwd = encoded(document["cwd"])
        self.umask = int(document["umask"])
        self.log_max_bytes = int(document["log_max_bytes"])


def encoded(text: object) -> bytes:
    """Return UTF-8 whatever the locale is; ValueError for a NUL, which no argument or variable can hold."""
    if not isinstance(text, str) or "\0" in text:
        raise ValueError(f"expected text without NUL, got {text!r:.80}")
    return text.encode("utf-8", "surrogateescape")


def read_launch(directory: int) -> Launch:
    """Read launch.json; RefusedError if it is missing or wrong."""
    try:
        with open(os.open("launch.json", os.O_RDONLY, dir_fd=directory), "rb") as file:
            return Launch(json.loads(file.read()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"launch.json: {type(error).__name__}: {error}"
        raise RefusedError(STARTER_BAD_LAUNCH, reason) from error


def write_durably(directory: int, name: str, record: dict[str, object]) -> None:
    """Write a JSON file that a power loss leaves whole or not there at all. OSError if it cannot be."""
    data = json.dumps(record).encode() + b"\n"
    # No O_TRUNC: the blocks reserved for exit.json must stay its own on a full disk.
    file = os.open(f"{name}.tmp", WRITE_FLAGS, FILE_MODE, dir_fd=directory)
    try:
        rest = data
        while rest:
            rest = rest[os.write(file, rest) :]
        os.ftruncate(file, len(data))
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(f"{name}.tmp", name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def reserve_exit_record(directory: int) -> None:
    """Take the blocks of exit.json now: a training that dies of a full disk must still get its record."""
    file = os.open("exit.json.tmp", WRITE_FLAGS, FILE_MODE, dir_fd=directory)
    try:
        os.posix_fallocate(file, 0, RESERVE_BYTES)
    except OSError as error:
        if error.errno not in CANNOT_PUNCH:
            raise
    finally:
        os.close(file)


def read_bytes(path: str) -> bytes | None:
    """Return a small file of /proc or /sys, or None where it is gone or not ours to read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return None


def exists(directory: int, name: str) -> bool:
    """Tell whether the directory holds that name."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def stat_fields(pid: int) -> list[bytes] | None:
    """Return /proc/PID/stat from field 3 (state) on; the name before it may hold spaces and parentheses."""
    stat = read_bytes(f"/proc/{pid}/stat")
    return stat.rpartition(b")")[2].split() if stat else None


def start_time_of(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat in clock ticks since boot, None where there is no such process."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def signal_process(pid: int, start_time: int, number: int) -> None:
    """Signal exactly that process. A number that was given to a stranger meanwhile gets nothing."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if start_time_of(pid) == start_time:
            signal.pidfd_send_signal(handle, number)
    except OSError:
        return  # ended, or belongs to another user: the next look tells
    finally:
        os.close(handle)


def process_table() -> dict[int, tuple[int, int]]:
    """Return parent and start time of every process that is visible."""
    table = {}
    for name in os.listdir("/proc"):
        fields = stat_fields(int(name)) if name.isdigit() else None
        if fields:
            table[int(name)] = (int(fields[1]), int(fields[19]))
    return table


def carries(pid: int, marker: bytes) -> bool:
    """Tell whether the process was started with the marker variable in its environment."""
    environment = read_bytes(f"/proc/{pid}/environ")
    return bool(environment) and marker in (environment or b"").split(b"\0")


def leftovers(marker: bytes, since: int) -> set[tuple[int, int]]:
    """Return (pid, start time) of all that descends from this process or carries the marker.

    ``since`` is the trainer's start time: what is older cannot be its doing, whatever its environment says.
    """
    table = process_table()
    own = os.getpid()
    family = {own}
    while children := {pid for pid, (parent, _) in table.items() if parent in family} - family:
        family |= children
    marked = {pid for pid, (_, start) in table.items() if start >= since and carries(pid, marker)}
    return {(pid, table[pid][1]) for pid in (family | marked) - {own}}


class Orphans:
    """Ends what the trainer left behind: SIGTERM, a grace, then SIGKILL until nothing is left."""

    def __init__(self, marker: bytes, since: int) -> None:
        """Begin the grace now; ``since`` is the trainer's start time."""
        self._marker = marker
        self._since = since
        self._deadline = time.monotonic() + TERMINATE_GRACE_S
        self._asked: set[tuple[int, int]] = set()

    def look(self) -> float:
        """Signal those that are left; return the seconds until the next look, 0 when none is left."""
        reap_all()
        left = leftovers(self._marker, self._since)
        overdue = time.monotonic() >= self._deadline
        for pid, start_time in left:
            if overdue:
                signal_process(pid, start_time, signal.SIGKILL)
            elif (pid, start_time) not in self._asked:
                signal_process(pid, start_time, signal.SIGTERM)
                signal_process(pid, start_time, signal.SIGCONT)  # a stopped process would not see the SIGTERM
        self._asked |= left
        if not left:
            return 0.0
        immortal = time.monotonic() >= self._deadline + RETRY_S
        return RETRY_S if immortal else ORPHAN_LOOK_S


class Ended:
    """How a child ended: its wait status, and what it and its own children used."""

    def __init__(self, status: int, user_s: float, system_s: float, max_rss_bytes: int) -> None:
        """Keep what wait4 told."""
        self.status = status
        self.rusage = {"user_s": user_s, "system_s": system_s, "max_rss_bytes": max_rss_bytes}


def reap_all() -> dict[int, Ended]:
    """Collect every child that has ended; as subreaper we are the parent of the trainer's orphans too."""
    ended: dict[int, Ended] = {}
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = Ended(status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)


def oom_kills() -> int | None:
    """Return how often the kernel killed for memory in our cgroup, None where nothing says so."""
    for line in (read_bytes("/proc/self/cgroup") or b"").decode("utf-8", "surrogateescape").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            files = [f"{root}{path}/memory.events" for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")]
        elif "memory" in controllers.split(","):
            files = [f"/sys/fs/cgroup/memory{part}/memory.oom_control" for part in (path, "")]
        else:
            continue
        for file in files:
            for entry in (read_bytes(file) or b"").splitlines():
                if entry.startswith(b"oom_kill "):
                    return int(entry.split()[1])
    return None


def punch_hole(file: int, start: int, length: int) -> None:
    """Give blocks inside a file back, its size and all offsets stay; OSError where that cannot be."""
    if libc.fallocate(file, FALLOC_KEEP_SIZE_AND_PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


class LogLimit:
    """Keeps the log's disk usage below a limit while the trainer writes it.

    The oldest part behind the first 64 KiB becomes a hole (reads as zeros), so writers and readers keep their
    offsets. Where the file system has no holes the newest half moves to ``log.1``; the log begins anew at 0.
    """

    def __init__(self, directory: int, limit_bytes: int) -> None:
        """Open the log; ``limit_bytes`` 0 means no limit. OSError if it cannot be opened."""
        self._directory = directory
        self._limit_bytes = limit_bytes
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.file = os.open("log", flags, FILE_MODE, dir_fd=directory)
        self._hole_start = self._hole_end = 0
        self._can_punch = True
        self._seen_bytes = 0
        self._seen_at = time.monotonic()
        self._look_s = LOG_LOOK_MIN_S

    def keep(self) -> float:
        """Make room if needed; return the seconds until the next look, which also retries what failed now."""
        if not self._limit_bytes:
            return UNLIMITED_LOOK_S
        try:
            self._make_room()
            return self._next_look()
        except OSError:
            return LOG_LOOK_MAX_S

    def _make_room(self) -> None:
        if self._can_punch and self._usage_bytes() > self._limit_bytes:
            try:
                self._punch()
            except OSError as error:
                if error.errno not in CANNOT_PUNCH:
                    raise
                self._can_punch = False
        if not self._can_punch and self._usage_bytes() > self._limit_bytes // 2:
            self._rotate()

    def _usage_bytes(self) -> int:
        status = os.fstat(self.file)
        if status.st_size < self._hole_end:
            self._hole_start = self._hole_end = 0  # somebody emptied the log
        # Not st_blocks: XFS counts what it keeps ready behind the end, others count nothing.
        return status.st_size - self._hole_end + self._hole_start + BLOCK_BYTES

    def _punch(self) -> None:
        status = os.fstat(self.file)
        block = status.st_blksize
        head_bytes = min(LOG_HEAD_BYTES, self._limit_bytes // 4)
        tail_bytes = self._limit_bytes * 3 // 4 - head_bytes  # a quarter of room until the next time
        start = -(-head_bytes // block) * block
        end = (status.st_size - tail_bytes) // block * block
        if end > max(start, self._hole_end):
            punch_hole(self.file, start, end - start)
            self._hole_start, self._hole_end = start, end

    def _rotate(self) -> None:
        copy = os.open("log.1.tmp", WRITE_FLAGS | os.O_TRUNC, FILE_MODE, dir_fd=self._directory)
        try:
            offset = max(0, os.fstat(self.file).st_size - self._limit_bytes // 2)
            while sent := os.sendfile(copy, self.file, offset, 1 << 20):
                offset += sent
            os.fsync(copy)
        finally:
            os.close(copy)
        os.rename("log.1.tmp", "log.1", src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.ftruncate(self.file, 0)

    def _next_look(self) -> float:
        """Look again in half the time in which the room left would be full, at the speed seen last."""
        now, size = time.monotonic(), os.fstat(self.file).st_size
        speed = max(0.0, (size - self._seen_bytes) / max(now - self._seen_at, 1e-3))
        self._seen_bytes, self._seen_at = size, now
        self._look_s = min(LOG_LOOK_MAX_S, self._look_s * 2)
        if speed:
            room_bytes = max(0, self._limit_bytes - self._usage_bytes())
            self._look_s = max(LOG_LOOK_MIN_S, min(self._look_s, room_bytes / speed / 2))
        return self._look_s


def become_trainer(launch: Launch, log: int, gate: int, errors: int) -> None:
    """Run in the child: wait for the gate, then become the trainer. Never returns."""
    code = NOT_EXECUTABLE_CODE
    try:
        if os.read(gate, 1) != b"g":
            os._exit(NOT_EXECUTABLE_CODE)  # the shim died or gave up before started.json was durable
        clean_process(launch, log, errors)
        execute(launch)
    except BaseException as error:  # noqa: BLE001  whatever it is, two shims must not go on from here
        code = NOT_FOUND_CODE if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE_CODE
        text = str(error) if isinstance(error, OSError) else repr(error)
        os.write(errors, text.encode("utf-8", "replace")[:LAUNCH_ERROR_LIMIT])
    finally:
        os._exit(code)


def forget_oom_protection() -> None:
    """Be an ordinary process for the out-of-memory killer: the daemon's unit protects the daemon, not trainings."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        pass  # /proc is not writable: then the score is what it was


def forbid_core_files() -> None:
    """Leave no core dump, whatever the daemon's own limit is: one of a training is as large as its memory.

    A training that hangs is ended by SIGABRT, for the stacks that it writes then. A limit of 0 forbids files only:
    where core_pattern names a program (systemd-coredump, apport) the dump is piped to it all the same (core(5)). For 1
    the kernel leaves out that too (fs/coredump.c), and one byte is too little for a file. The hard limit stays: a
    program that wants its core dump can still ask for it.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def clean_process(launch: Launch, log: int, errors: int) -> None:
    """Undo what the trainer must not inherit: exec keeps ignored signals, and Python ignores SIGPIPE."""
    os.setpgid(0, 0)
    forget_oom_protection()
    forbid_core_files()
    set_all_signals(signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    close_others({0, 1, 2, errors})  # now, not by exec: chdir may hang, and the starter waits for our copies
    os.umask(launch.umask)
    try:
        os.chdir(launch.cwd)
    except OSError as error:
        raise OSError(error.errno, f"cwd: {error.strerror}", readable(launch.cwd)) from error


def set_all_signals(disposition: signal.Handlers) -> None:
    """Ignore, or put back to the default, every signal that may be."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, disposition)


def execute(launch: Launch) -> None:
    """Replace this process. OSError if nothing in PATH can be executed: the first refusal, or 'not there'."""
    name = launch.argv[0]
    folders = [b""] if b"/" in name else launch.env.get(b"PATH", os.defpath.encode()).split(b":")
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), readable(name))
    refusal: OSError | None = None
    for folder in folders:
        candidate = os.path.join(folder, name)
        try:
            os.execve(candidate, launch.argv, launch.env)  # noqa: S606  no shell is the point
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refusal = refusal or OSError(error.errno, error.strerror, readable(candidate))
    raise refusal or missing


def readable(path: bytes) -> str:
    """Return a path for a message, independent of the locale."""
    return path.decode("utf-8", "backslashreplace")


def close_others(kept: set[int]) -> None:
    """Close every open file but those. The list is walked, not the limit: that may be a thousand million."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError as error:
                if error.errno != errno.EBADF:  # the folder's own descriptor is gone already
                    raise


class Attempt:
    """The attempt directory, locked, and what was read from it."""

    def __init__(self, path: bytes, *, writes_log: bool = True) -> None:
        """Take the lock. RefusedError if it is held, the directory launched once, or launch.json is bad.

        Without ``writes_log`` the log is somebody else's: it is neither made nor kept small.
        """
        try:
            self.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RefusedError(STARTER_BAD_LAUNCH, str(error)) from error
        try:
            self._refuse_second_launch()
            self.launch = read_launch(self.directory)
            self.marker = MARKER + self.launch.env.get(MARKER[:-1], path)
            self.lock = os.open("shim.lock", WRITE_FLAGS, FILE_MODE, dir_fd=self.directory)
            self._take_lock()
            self._refuse_second_launch()  # again: only now that we hold the lock nobody else can write them
            reserve_exit_record(self.directory)
            self._log_limit = LogLimit(self.directory, self.launch.log_max_bytes) if writes_log else None
        except OSError as error:
            raise RefusedError(STARTER_CANNOT_WRITE, str(error)) from error

    @property
    def files(self) -> set[int]:
        """Return the open files that the shim needs."""
        return {self.directory, self.lock} | ({self._log_limit.file} if self._log_limit else set())

    def keep_log(self) -> float:
        """Keep the log below its limit; return the seconds until the next look."""
        return self._log_limit.keep() if self._log_limit else UNLIMITED_LOOK_S

    def _refuse_second_launch(self) -> None:
        for name in ("started.json", "exit.json"):
            if exists(self.directory, name):
                raise RefusedError(STARTER_ALREADY_LAUNCHED, f"{name} exists: an attempt directory launches once")

    def _take_lock(self) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                return fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise RefusedError(STARTER_LOCKED, "shim.lock is held by another process") from error
            time.sleep(0.01)

    def is_deleted(self) -> bool:
        """Tell whether somebody removed the directory: then nothing can be recorded in it any more."""
        try:
            return os.fstat(self.directory).st_nlink == 0
        except OSError:
            return False  # a file server that does not answer may come back


def started_record(process: Trainer | Watched, *, watched: bool = False) -> dict[str, object]:
    """Return what stands in started.json."""
    boot_id = (read_bytes("/proc/sys/kernel/random/boot_id") or b"").decode().strip()
    return {
        "version": VERSION,
        "shim_pid": os.getpid(),
        "shim_start_time": start_time_of(os.getpid()),
        "pid": process.pid,
        "start_time": process.start_time,
        "boot_id": boot_id,
        "pid1_start_time": start_time_of(1),
        "started_at": process.started_at,
        "host": os.uname().nodename,
        "watched": watched,
    }


class Trainer:
    """The forked child, waiting at its gate or running."""

    def __init__(self, attempt: Attempt) -> None:
        """Fork the child; it does nothing of its own before ``open_gate``."""
        self.oom_kills_before = oom_kills()
        gate_reader, self._gate = os.pipe()
        self._errors, errors_writer = os.pipe()
        log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, dir_fd=attempt.directory)
        self.started_at = time.time()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)  # else the child would keep its own gate from ending
            become_trainer(attempt.launch, log, gate_reader, errors_writer)
        for file in (gate_reader, errors_writer, log):
            os.close(file)
        start_time = start_time_of(self.pid)
        if start_time is None:  # the child waits at its gate or is our zombie, so it is /proc that is missing
            raise RefusedError(STARTER_SHIM_FAILED, "/proc does not show our own child")
        self.start_time = start_time

    def give_up(self) -> None:
        """End the waiting child: its gate closes without the word."""
        os.close(self._gate)
        os.waitpid(self.pid, 0)

    def open_gate(self) -> str | None:
        """Let the child execute; return None once it has, or why it could not."""
        try:
            os.write(self._gate, b"g")
        except BrokenPipeError:
            return None  # killed at the gate: its status tells
        finally:
            os.close(self._gate)
        with open(self._errors, "rb") as file:
            return file.read().decode("utf-8", "replace") or None

    def wait(self, attempt: Attempt) -> Ended:
        """Wait for the trainer's end, reap what else ends, and keep the log small meanwhile."""
        while True:
            ended = reap_all().get(self.pid)
            if ended:
                return ended
            signal.sigtimedwait({signal.SIGCHLD}, attempt.keep_log())

    def exit_record(self, ended: Ended, launch_error: str | None) -> dict[str, object]:
        """Return what stands in exit.json."""
        number = os.WTERMSIG(ended.status) if os.WIFSIGNALED(ended.status) else None
        known = {int(item): item.name for item in signal.Signals}
        before, after = self.oom_kills_before, oom_kills()
        return {
            "version": VERSION,
            "code": None if number else os.WEXITSTATUS(ended.status),
            "signal": number,
            "signal_name": known.get(number, f"SIG{number}") if number else None,
            "ended_at": time.time(),
            "started_at": self.started_at,
            "rusage": ended.rusage,
            "oom_kills": None if before is None or after is None else after - before,
            "launch_error": launch_error,
        }


class Watched:
    """A training that a person started. It is looked at through a handle, and never signalled."""

    def __init__(self, pid: int, start_time: int) -> None:
        """Get the handle; a process that is gone already is one that has ended. RefusedError if it is hidden."""
        self.pid = pid
        self.start_time = start_time
        self.started_at = time.time()
        self._family = {(pid, start_time)}
        self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._told_to_leave = False
        self._handle = handle_of(pid, start_time)
        signal.set_wakeup_fd(self._wakes[1], warn_on_full_buffer=False)
        signal.signal(LEAVE, self._leave)

    def _leave(self, _number: int, _frame: object) -> None:
        self._told_to_leave = True

    def wait(self) -> bool:
        """Wait until the training has ended, or until told to leave; tell whether it has ended."""
        if self._handle < 0:
            return True
        poll = select.poll()
        for file in (self._handle, self._wakes[0]):
            poll.register(file, select.POLLIN)
        while True:
            ready = {file for file, _ in poll.poll(WATCH_LOOK_S * 1000)}
            if self._handle in ready:
                return True
            if self._told_to_leave:
                return False
            if self._wakes[0] in ready:
                os.read(self._wakes[0], BLOCK_BYTES)
            self.count()

    def count(self) -> int:
        """Return how many processes are left: the training, and what descended from it at this or an older look."""
        table = process_table()
        family = {pid for pid, start in self._family if pid in table and table[pid][1] == start and not is_zombie(pid)}
        while children := {pid for pid, (parent, _) in table.items() if parent in family} - family:
            family |= children
        self._family = {(pid, table[pid][1]) for pid in family}
        return len(family)

    def exit_record(self, *, ended: bool) -> dict[str, object]:
        """Return what stands in exit.json: only a parent is told how a process ended."""
        return {
            "version": VERSION,
            "code": None,
            "signal": None,
            "signal_name": None,
            "ended_at": time.time(),
            "started_at": self.started_at,
            "rusage": {"user_s": 0.0, "system_s": 0.0, "max_rss_bytes": 0},
            "oom_kills": None,
            "launch_error": None,
            "watched": True,
            "detached": not ended,
        }


def handle_of(pid: int, start_time: int) -> int:
    """Return a handle on exactly that process, -1 where it has ended. RefusedError where /proc hides which it is."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    found = start_time_of(pid)  # looked at after the handle: what it holds cannot change any more
    if found == start_time:
        return handle
    if found is None and not select.select([handle], [], [], 0)[0]:
        raise RefusedError(STARTER_SHIM_FAILED, f"process {pid} is there, but /proc does not show it")
    os.close(handle)
    return -1


def is_zombie(pid: int) -> bool:
    """Tell whether the process has ended and only waits for its parent to ask how."""
    fields = stat_fields(pid)
    return bool(fields) and (fields or [b""])[0] == b"Z"


def link_log(directory: int, pid: int) -> None:
    """Let ``log`` lead to the file that the process writes to; where it writes to none, to a line that says so."""
    places = [place for place in map(output_of, (pid, pid), (1, 2)) if place]
    file = next((path for path, is_file in places if is_file), None)
    if exists(directory, "log.tmp"):
        os.unlink("log.tmp", dir_fd=directory)  # a shim was killed here
    if file is not None:
        os.symlink(file, "log.tmp", dir_fd=directory)
    else:
        where = ", ".join(sorted({path for path, _ in places})) or "a place that may not be read"
        text = f"This training was started by a person and writes to {where}: its output is not kept.\n"
        with open(os.open("log.tmp", WRITE_FLAGS, FILE_MODE, dir_fd=directory), "wb") as out:
            out.write(text.encode("utf-8", "surrogateescape"))
    os.rename("log.tmp", "log", src_dir_fd=directory, dst_dir_fd=directory)


def output_of(pid: int, standard: int) -> tuple[str, bool] | None:
    """Return where a process writes to, and whether that is a file that is still there; None where it is secret."""
    link = f"/proc/{pid}/fd/{standard}"
    try:
        path = os.readlink(link)
        status = os.stat(link)
    except OSError:
        return None
    try:
        return path, stat.S_ISREG(status.st_mode) and os.path.samestat(status, os.stat(path))
    except OSError:
        return path, False


def detach(attempt: Attempt, report: int) -> None:
    """Become independent of the daemon, and the parent of what the trainer will leave behind."""
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    close_others({0, 1, 2, report} | attempt.files)
    # A stop of the service's whole control group reaches the shim too: it stays until the trainer is gone.
    set_all_signals(signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would throw the exit status away
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGCHLD})
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def begin(attempt: Attempt) -> Trainer:
    """Fork the trainer and make its start durable; it still waits. RefusedError if there is no record."""
    trainer = Trainer(attempt)
    try:
        write_durably(attempt.directory, "started.json", started_record(trainer))
    except OSError as error:
        trainer.give_up()
        forget_start(attempt.directory)
        raise RefusedError(STARTER_CANNOT_WRITE, f"started.json: {error}") from error
    return trainer


def begin_watching(attempt: Attempt, pid: int, start_time: int) -> Watched:
    """Get hold of a person's training and make that durable. RefusedError if there is no record."""
    watched = Watched(pid, start_time)
    watched.count()  # it may die the next moment, and what descends from it is only seen while it lives
    try:
        link_log(attempt.directory, pid)
        write_durably(attempt.directory, "started.json", started_record(watched, watched=True))
    except OSError as error:
        forget_start(attempt.directory)
        raise RefusedError(STARTER_CANNOT_WRITE, f"started.json: {error}") from error
    return watched


def watch(attempt: Attempt, watched: Watched) -> None:
    """Watch to the last descendant's end, or until told to leave; the lock goes when this process does."""
    ended = watched.wait()
    signal.signal(LEAVE, signal.SIG_IGN)  # an end is an end; what is left holds the lock
    record = watched.exit_record(ended=ended)
    while not write_exit_record(attempt, record) and not attempt.is_deleted():
        time.sleep(RETRY_S)
    while ended and watched.count():
        time.sleep(WATCH_LOOK_S / 4)


def supervise(attempt: Attempt, trainer: Trainer) -> None:
    """Run the attempt to its last descendant's end; the lock goes when this process does."""
    launch_error = trainer.open_gate()
    ended = trainer.wait(attempt)
    finish(attempt, trainer, trainer.exit_record(ended, launch_error))


def forget_start(directory: int) -> None:
    """Take back a start that was perhaps renamed but is not durable; if even that fails it counts as lost."""
    try:
        os.unlink("started.json", dir_fd=directory)
    except OSError:
        return


def finish(attempt: Attempt, trainer: Trainer, record: dict[str, object]) -> None:
    """Write exit.json, however long it takes, and end the orphans; return when both are done."""
    written = write_exit_record(attempt, record)  # before anything else: the daemon waits for it
    orphans = Orphans(attempt.marker, trainer.start_time)
    while True:
        try:
            look_s = orphans.look()
        except OSError:
            look_s = RETRY_S  # /proc could not be read: that is no proof that nothing is left
        attempt.keep_log()
        written = written or write_exit_record(attempt, record)
        if not look_s and (written or attempt.is_deleted()):
            return
        signal.sigtimedwait({signal.SIGCHLD}, look_s or RETRY_S)


def write_exit_record(attempt: Attempt, record: dict[str, object]) -> bool:
    """Tell whether exit.json is durable now."""
    try:
        write_durably(attempt.directory, "exit.json", record)
    except OSError:
        return False
    return True


def shim_process(attempt: Attempt, report: int, person: tuple[int, int] | None) -> None:
    """Be the shim; never returns. What goes wrong before the start is told to the starting process."""
    begun: Trainer | Watched | None = None
    try:
        detach(attempt, report)
        begun = begin(attempt) if person is None else begin_watching(attempt, *person)
        tell(report, 0, "")
        if isinstance(begun, Watched):
            watch(attempt, begun)
        else:
            supervise(attempt, begun)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  two processes must never go on from here
        if begun is None:
            code = error.code if isinstance(error, RefusedError) else STARTER_SHIM_FAILED
            tell(report, code, str(error) if isinstance(error, RefusedError) else repr(error))
    finally:
        os._exit(STARTER_SHIM_FAILED)


def tell(report: int, code: int, reason: str) -> None:
    """Answer the starting process; that it was killed meanwhile changes nothing for the attempt."""
    try:
        os.write(report, bytes([code]) + reason.encode("utf-8", "replace"))
    except BrokenPipeError:
        return
    finally:
        os.close(report)


def start(path: bytes, person: tuple[int, int] | None) -> None:
    """Launch the attempt and return when its start is durable; RefusedError if nothing was launched.

    ``person`` is (pid, start time) of a training that is only watched.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise RefusedError(STARTER_NO_PIDFD, f"needs pidfd (Linux 5.3): {error}") from error
    while (null := os.open("/dev/null", os.O_RDWR)) <= 2:
        continue  # started without standard files: what we open must not get their numbers
    os.close(null)
    attempt = Attempt(path, writes_log=person is None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored it would leave no child to wait for
    answer, report = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork():
            os._exit(0)  # so the shim becomes a child of init, and the daemon need not reap it
        shim_process(attempt, report, person)
    os.close(report)
    os.waitpid(middle, 0)
    with open(answer, "rb") as file:
        said = file.read() or bytes([STARTER_SHIM_FAILED]) + b"the shim ended before its start was durable"
    if said[0]:
        raise RefusedError(said[0], said[1:].decode("utf-8", "replace"))


def main(arguments: list[str]) -> int:
    """Return the exit code of the starting process."""
    *options, path = arguments or [""]
    person = tuple(int(word) for word in options[1:] if word.isdigit())
    well_formed = not options or (options[0] == "--watch" and len(options) == 3 and len(person) == 2)
    if not well_formed or not os.path.isabs(path):
        sys.stderr.write("shim: usage: shim.py [--watch PID START_TIME] /absolute/attempt/directory\n")
        return STARTER_BAD_LAUNCH
    try:
        start(os.fsencode(path), (person[0], person[1]) if options else None)
    except RefusedError as error:
        sys.stderr.write("shim: " + " ".join(str(error).split()) + "\n")
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
