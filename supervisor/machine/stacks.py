"""What a process does at this moment: its Python stacks, and where it waits in the kernel.

Nothing here changes what is looked at. py-spy reads the memory of the process and does not pause it. Where py-spy is
not installed or not allowed, a training that our runner drives is asked by a signal, and only if it catches that
signal and has our file of stacks open: to any other process the signal would be deadly.
"""

from __future__ import annotations

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
from supervisor.machine import bounded

SIGNAL = signal.SIGRTMIN + 6  # supervisor/runner/stacks.py registers it
STACKS_FILE = re.compile(r".*/attempts/\d+/stacks(-\d+)?")  # of the same module
PY_SPY_TRIES = 3  # without a pause its reading may cross a change: then it says so, and is right the next time
KILLED_S = 0.5  # what SIGKILL does not end in this time is in state D, and is left behind
QUIET_S = 0.1  # a dump is complete when its file has not grown for this long
LOOK_S = 0.02
TEXT_BYTES = 64 * 1024

NO_ANSWER = "it does not answer the signal for stacks"

_turns = threading.Condition()
_asking: set[Path] = set()  # the files of stacks that somebody writes into: processes that share one, one by one


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


def comparable(text: str) -> str:
    """Return the frames of a dump, equal for equal stacks: numbers, addresses, states and the order do not count."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith(("Thread ", "Current thread ")):
            blocks.append([])
        elif blocks and line.startswith(" "):  # before the first thread the command line stands, of any form
            blocks[-1].append(line.strip())
    return "\n\n".join(sorted("\n".join(frames) for frames in blocks if frames))


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
    deaf = _deaf(pid)
    if start_time is None or path is None or deaf:
        return Dump(refused=deaf or NO_ANSWER)
    try:
        about, until = f"stacks of {pid} since {start_time}", deadline - LOOK_S  # then it still has the time to answer
        return bounded.ask(about, lambda: _in_turn(pid, start_time, path, until), deadline - time.monotonic())
    except OSError as error:
        return Dump(refused=f"{path}: {error.strerror or error}")


def _deaf(pid: int) -> str:
    """Return why a process must not get the signal now, an empty text if it may."""
    if not attempt_files.catches(pid, SIGNAL):
        return NO_ANSWER
    return "it is stopped or waits in the kernel, and takes no signal" if state(pid) in {"D", "T", "t"} else ""


def _in_turn(pid: int, start_time: int, path: Path, deadline: float) -> Dump:
    """Ask when nobody else is asked who writes into that file. OSError where the file cannot be read.

    The disk of the file may not answer: then this stays behind, and with it only who writes into the same one.
    """
    with _turns:
        if not _turns.wait_for(lambda: path not in _asking, max(0.0, deadline - time.monotonic())):
            return Dump(refused="another process of the training was asked at the same time")
        _asking.add(path)
    try:
        return _ask(pid, start_time, path, deadline)
    finally:
        with _turns:
            _asking.discard(path)
            _turns.notify_all()


def _ask(pid: int, start_time: int, path: Path, deadline: float) -> Dump:
    """Send the signal and return what was added to the file. OSError where it cannot be."""
    before = path.stat().st_size
    if deaf := _deaf(pid):  # time has passed: to who has executed another program since, the signal would be deadly
        return Dump(refused=deaf)
    if time.monotonic() >= deadline or not attempt_files.signal_process(pid, start_time, SIGNAL):
        return Dump(refused="it has ended, or the time was up")
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
    return Dump(text=text, by="faulthandler") if text else Dump(refused=NO_ANSWER)


def _stacks_file(pid: int) -> Path | None:
    """Return the file that the runner opened for the stacks of this process, None where there is none."""
    return next((Path(target) for target in open_files(pid) or () if STACKS_FILE.fullmatch(target)), None)
