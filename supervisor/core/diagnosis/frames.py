"""Stacks of Python as text, read back: both py-spy and faulthandler write the innermost frame first."""

from __future__ import annotations

import re

import msgspec

_PY_SPY_THREAD = re.compile(r'^Thread (?P<number>\S+) \([^)]*\)(?:: "(?P<name>.*)")?$')
_FAULTHANDLER_THREAD = re.compile(
    r"^(?:Current t|T)hread 0x[0-9a-f]+(?: \[(?P<name>[^\]]*)\])?(?P<number>) \(most recent"
)
_PY_SPY_PROCESS = re.compile(r"Process (\d+): ")
_PY_SPY_FRAME = re.compile(r"^ {4}(?P<function>\S.*) \((?P<file>[^()]+):(?P<line>\d+)\)$")
_FAULTHANDLER_FRAME = re.compile(r'^ {2}File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$')
_LIBRARY = re.compile(r".*/(?:site-packages|dist-packages|lib(?:64)?/python\d[\d.]*)/")
# Where a forked process begins: what is further out is the stack of the parent at the time of the fork.
_FORKED_AT = ("_bootstrap", "multiprocessing/process.py")


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One call: `function` without its class, `file` from the package on (torch/utils/data/dataloader.py)."""

    function: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """The frame as a person reads it."""
        return f"{self.function} ({self.file}:{self.line})"


def main_thread(text: str) -> tuple[Frame, ...]:
    """Return the frames of the main thread, innermost first; those from before a fork are left out.

    py-spy knows names only where `threading` is loaded; the main thread has the number of the process. faulthandler of
    Python before 3.14 names no threads, and writes the main one last.
    """
    threads = _threads(text)
    process = _PY_SPY_PROCESS.match(text)
    main = {"MainThread", process[1] if process else "MainThread"}
    named = [frames for words, frames in threads if main & words]
    frames = (named or [frames for _, frames in threads[-1:]] or [()])[0]
    for number, frame in enumerate(frames):
        if (frame.function, frame.file) == _FORKED_AT:
            return frames[:number]
    return frames


def _threads(text: str) -> list[tuple[set[str], tuple[Frame, ...]]]:
    """Return number and name of each thread, and its frames."""
    found: list[tuple[set[str], list[Frame]]] = []
    for line in text.splitlines():
        begins = _PY_SPY_THREAD.match(line) or _FAULTHANDLER_THREAD.match(line)
        if begins:
            found.append(({begins["number"], begins["name"] or ""}, []))
            continue
        frame = _PY_SPY_FRAME.match(line) or _FAULTHANDLER_FRAME.match(line)
        if frame and found:
            function = frame["function"].rpartition(".")[2]
            found[-1][1].append(Frame(function=function, file=_short(frame["file"]), line=int(frame["line"])))
    return [(words, tuple(frames)) for words, frames in found]


def _short(file: str) -> str:
    """Return the path from the package on; a script by its name alone."""
    inside = _LIBRARY.sub("", file)
    return inside if inside != file else file if not file.startswith("/") else file.rpartition("/")[2]
