"""What a process does at this moment: its Python stacks, and where it waits in the kernel.

Nothing here changes what is looked at. py-spy reads the memory of the process and does not pause it. Where py-spy is
not installed or not allowed, a training that our runner drives is asked by a signal, and only if it catches that
signal and has our file of stacks open: to any other process the signal would be deadly.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from supervisor import attempt_files

SIGNAL = signal.SIGRTMIN + 6  # supervisor/runner/stacks.py registers it
STACKS_FILE = re.compile(r".*/attempts/\d+/stacks(-\d+)?")  # of the same module
PY_SPY_TRIES = 3  # without a pause its reading may cross a change: then it says so, and is right the next time
KILLED_S = 0.5  # what SIGKILL does not end in this time is in state D, and is left behind
QUIET_S = 0.1  # a dump is complete when its file has not grown for this long
LOOK_S = 0.02
TEXT_BYTES = 64 * 1024

_one_dump = threading.Lock()  # the processes of one training write into one file: one after the other


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """Python stacks as text, innermost frame first; `by` says who wrote them. Or, `text` empty, why there are none."""

    text: str = ""
    by: str = ""
    refused: str = ""


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """One thread: its state as the kernel names it (R, S, D, T, t, Z …) and the function that it waits in."""

    tid: int
    name: str
    state: str
    wchan: str = ""


def python_stacks(pid: int, timeout_s: float) -> str | None:
    """Return the Python stacks of all threads of a process, within `timeout_s`; None where they cannot be had.

    For the reason, see `dump`. Never raises, never pauses the process.
    """
    return dump(pid, timeout_s).text or None


def dump(pid: int, timeout_s: float) -> Dump:
    """Return the Python stacks of all threads, or why they cannot be had, within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    first = _py_spy(pid, deadline)
    if first.text or time.monotonic() >= deadline:
        return first
    second = _by_signal(pid, deadline)
    return second if second.text else Dump(refused="; ".join(filter(None, (first.refused, second.refused))))


def digest(stack_text: str) -> str:
    """Return a word that is equal for equal stacks: process and thread numbers, addresses and states do not count."""
    threads_seen: list[list[str]] = []
    for line in stack_text.splitlines():
        if line.startswith(("Thread ", "Current thread ")):
            threads_seen.append([])
        elif threads_seen and line.startswith(" "):  # before the first thread the command line stands, of any form
            threads_seen[-1].append(line.strip())
    text = "\0".join(sorted("\n".join(frames) for frames in threads_seen))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


# ---- the kernel's view
def kernel_stack(pid: int) -> str | None:
    """Return where the main thread stands in the kernel, None where that is not ours to read (it takes root)."""
    return _read(f"/proc/{pid}/stack") or None


def wchan(pid: int) -> str:
    """Return the kernel function that the main thread waits in; empty where it runs or it is secret."""
    return _wchan(f"/proc/{pid}/wchan")


def threads(pid: int) -> tuple[Thread, ...]:
    """Return the threads of a process, the main one first; none where it is gone."""
    try:
        found = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return ()
    in_order = sorted(found, key=lambda tid: (tid != pid, tid))
    return tuple(thread for thread in (_thread(pid, tid) for tid in in_order) if thread is not None)


def state(pid: int) -> str:
    """Return the state of the main thread as the kernel names it, empty where the process is gone."""
    main = _thread(pid, pid)
    return main.state if main is not None else ""


def open_files(pid: int) -> tuple[str, ...] | None:
    """Return what the descriptors of a process lead to, as text: nothing is touched. None where that is secret."""
    found = []
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.append(os.readlink(entry))  # noqa: PTH115 -- as text, whatever it names
    except OSError:
        return None
    return tuple(found)


def _thread(pid: int, tid: int) -> Thread | None:
    folder = f"/proc/{pid}/task/{tid}"
    name, _, rest = _read(f"{folder}/stat").partition("(")[2].rpartition(")")
    fields = rest.split()
    return Thread(tid=tid, name=name, state=fields[0], wchan=_wchan(f"{folder}/wchan")) if fields else None


def _wchan(path: str) -> str:
    found = _read(path)
    return "" if found == "0" else found


def _read(path: str) -> str:
    """Return a small file of /proc, empty where it is gone or not ours to read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- many of them for each process
            return file.read(TEXT_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""


# ---- py-spy
def _py_spy(pid: int, deadline: float) -> Dump:
    program = _program()
    if program is None:
        return Dump(refused="py-spy is not installed")
    said = ""
    for _ in range(PY_SPY_TRIES):
        code, out, said = _run([program, "dump", "--nonblocking", "--pid", str(pid)], deadline)
        if code == 0 and "\nThread " in out:
            return Dump(text=out[:TEXT_BYTES], by="py-spy")
        if code is None or "Permission denied" in said or "not permitted" in said:
            break
    return Dump(refused=f"py-spy: {said or 'no stack'}")


def _program() -> str | None:
    """Return py-spy of our own environment, whose folder need not be in PATH; else any."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def _run(argv: list[str], deadline: float) -> tuple[int | None, str, str]:
    """Return exit code, output and the first line of the errors; no code where it did not end in time."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", env={}
        )
    except OSError as error:
        return None, "", str(error)
    try:
        out, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=KILLED_S)
        return None, "", "no answer in time"
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return process.returncode, out.decode("utf-8", "replace"), lines[0].removeprefix("Error: ") if lines else ""


# ---- the signal
def _by_signal(pid: int, deadline: float) -> Dump:
    start_time = attempt_files.process_start_time(pid)
    path = _stacks_file(pid)
    if start_time is None or path is None or not attempt_files.catches(pid, SIGNAL):
        return Dump(refused="it does not answer the signal for stacks")
    if state(pid) in {"D", "T", "t"}:
        return Dump(refused="it is stopped or waits in the kernel, and takes no signal")
    if not _one_dump.acquire(timeout=max(0.0, deadline - time.monotonic())):
        return Dump(refused="another process of the training was asked at the same time")
    try:
        return _ask(pid, start_time, path, deadline)
    except OSError as error:
        return Dump(refused=f"{path}: {error}")
    finally:
        _one_dump.release()


def _ask(pid: int, start_time: int, path: Path, deadline: float) -> Dump:
    """Send the signal and return what was added to the file. OSError where it cannot be."""
    before = path.stat().st_size
    if not attempt_files.signal_process(pid, start_time, SIGNAL):
        return Dump(refused="it has ended")
    seen, since = before, time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(LOOK_S)
        size = path.stat().st_size
        if size != seen:
            seen, since = size, time.monotonic()
        elif size > before and time.monotonic() - since >= QUIET_S:
            break
    with path.open("rb") as file:
        file.seek(before)
        text = file.read(TEXT_BYTES).decode("utf-8", "replace")
    return Dump(text=text, by="faulthandler") if text else Dump(refused="it did not answer the signal for stacks")


def _stacks_file(pid: int) -> Path | None:
    """Return the file that the runner opened for the stacks of this process, None where there is none."""
    return next((Path(target) for target in open_files(pid) or () if STACKS_FILE.fullmatch(target)), None)
