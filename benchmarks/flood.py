"""A thousand job files at once, and how quick the command line is with them."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.lab import (
    PROGRAM,
    Lab,
    command_job,
    count_events,
    daemon,
    drop,
    environment,
    journal_reader,
    laboratory,
    wait_for,
)
from benchmarks.real_training import make_inputs, train_job, training_python

JOBS = 1000
FEW = 8
ACCEPT_GOAL_S = 10.0
LS_GOAL_MS = 300.0
START_GOAL_MS = 250.0
WINDOW = struct.pack("HHHH", 50, 120, 0, 0)


def measure(repeats: int = 20) -> list[Figure]:
    """Drop the files on a daemon whose one place is taken, so that nothing but accepting goes on; then list them."""
    with laboratory(max_running=1) as lab, daemon(lab):
        _take_the_place(lab)
        figures = [_few(lab, repeats), _help(lab, repeats), _accept(lab)]
        for words in (("ls",), ("ls", "--json")):
            how = f"whole process, median of {repeats}, with {JOBS} waiting runs"
            name = f"{' '.join(words)}, {JOBS} runs"
            figures.append(Figure(name, _median_ms(lab, words, repeats), "ms", LS_GOAL_MS, how))
    return figures


def _take_the_place(lab: Lab) -> None:
    """Let one training run, and some wait that a list can show."""
    drop(lab, {"sleeper": command_job(["/bin/sleep", "100000"])})
    wait_for("the sleeper to start", lambda: lab.started("sleeper"))
    drop(lab, {f"early-{number}": command_job(["/bin/sleep", "1"]) for number in range(FEW - 1)})
    with journal_reader(lab) as connection:
        wait_for("the few to be accepted", lambda: count_events(connection, "JobAccepted") == FEW)


def _few(lab: Lab, repeats: int) -> Figure:
    how = f"whole process on a terminal, median of {repeats}, {FEW} runs"
    return Figure(f"ls, {FEW} runs", _median_ms(lab, ("ls",), repeats), "ms", START_GOAL_MS, how)


def _help(lab: Lab, repeats: int) -> Figure:
    how = f"whole process on a terminal, median of {repeats}"
    return Figure("--help", _median_ms(lab, ("--help",), repeats), "ms", START_GOAL_MS, how)


def _accept(lab: Lab) -> Figure:
    python = training_python()
    if python is None:
        kind = "command jobs; no interpreter with ultralytics was found for [train]"
        texts = [command_job(["/bin/sleep", "1"], f"# {number}") for number in range(JOBS)]
    else:
        kind = "[train] jobs whose interpreter was asked before"
        inputs = make_inputs(lab.root, python)
        _ask_interpreter(lab, python, inputs)
        texts = [train_job(python, inputs, epochs=number + 1) for number in range(JOBS)]
    with journal_reader(lab) as connection:
        before = count_events(connection, "JobAccepted")
        began_s = time.monotonic()
        drop(lab, {f"flood-{number:04d}": text for number, text in enumerate(texts)})
        wait_for("all to be accepted", lambda: count_events(connection, "JobAccepted") == before + JOBS, 120.0)
        seconds = time.monotonic() - began_s
        refused = count_events(connection, "JobRefused")
    how = f"{JOBS} job files ({kind}) renamed into the folder, until the last JobAccepted is committed"
    return Figure(f"{JOBS} jobs accepted", seconds, "s", ACCEPT_GOAL_S, how, details={"refused": refused})


def _ask_interpreter(lab: Lab, python: str, inputs: Path) -> None:
    with journal_reader(lab) as connection:
        before = count_events(connection, "JobAccepted")
        drop(lab, {"first-of-its-kind": train_job(python, inputs, epochs=1)})
        wait_for("the first job", lambda: count_events(connection, "JobAccepted") > before, 120.0)


def _median_ms(lab: Lab, words: Sequence[str], repeats: int) -> float:
    """Median wall time of a command, started from nothing, its output read on a terminal of 120 columns."""
    _time_s(lab, words)  # what is on disk may come from the cache: nobody lists runs once a day only
    return 1000.0 * median(_time_s(lab, words) for _ in range(repeats))


def _time_s(lab: Lab, words: Sequence[str]) -> float:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, WINDOW)
    began_s = time.monotonic()
    process = subprocess.Popen([str(PROGRAM), *words], env=environment(lab), stdout=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    _read_to_end(ours)
    code = process.wait()
    seconds = time.monotonic() - began_s
    os.close(ours)
    if code:
        raise subprocess.CalledProcessError(code, [str(PROGRAM), *words])
    return seconds


def _read_to_end(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        return  # the last writer has closed the terminal
