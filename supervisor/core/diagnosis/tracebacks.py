"""Python's tracebacks in a log: which error ended the training, and where it was raised. Pure, line by line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BEGIN = "Traceback (most recent call last):"
_FRAME = re.compile(r'\s+File "(?P<file>.+?)", line (?P<line>\d+)(?:, in (?P<function>.+))?')
_ERROR = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?::\s|:$|$)")
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_LAUNCHER = re.compile(r"ChildFailedError|CalledProcessError: Command .*torch\.distributed|api\.SignalException")
_MOST_FRAMES = 200
_LONGEST_LINES = 1000  # a traceback that has not ended after so many lines was never finished
_KEPT = 32


@dataclass
class Failure:
    """One exception as it was printed, with those that it was chained to. `number`: the line where its story begins.

    `kind`: main; thread; ignored (Python went on); launcher (torchrun tells that a rank failed). `before` is what the
    reader of the log wants to remember of that moment.
    """

    rank: int | None
    number: int
    before: object
    kind: str = "main"
    error: str = ""
    error_number: int = 0
    site: str = ""
    frames: list[str] = field(default_factory=list)


class Tracebacks:
    """Follows the tracebacks of all ranks of a training."""

    def __init__(self) -> None:
        """Nothing was printed yet."""
        self._open: dict[int | None, Failure] = {}
        self._closed: dict[int | None, Failure] = {}
        self._chained: set[int | None] = set()
        self._kind: dict[int | None, str] = {}
        self.failures: list[Failure] = []

    @property
    def busy(self) -> bool:
        """True while a traceback is being printed."""
        return bool(self._open)

    def shows_code(self, text: str, rank: int | None) -> bool:
        """True for a line inside a traceback that shows the program: what it would say is not said."""
        return rank in self._open and text.startswith((" ", "\t"))

    def feed(self, text: str, rank: int | None, number: int, before: object) -> Failure | None:
        """Take the next line. Return the failure that it belongs to, if any."""
        if BEGIN in text:
            return self._begin(text, rank, number, before)
        opened = self._open.get(rank)
        if opened is not None:
            self._go_on(opened, text, rank, number)
            return opened
        if text.startswith(_CHAINED):
            self._chained.add(rank)
        elif text.startswith("Exception ignored in"):
            self._kind[rank] = "ignored"
        elif text.startswith("Exception in thread "):
            self._kind[rank] = "thread"
        return None

    def _begin(self, text: str, rank: int | None, number: int, before: object) -> Failure:
        inner = "Original Traceback" in text  # a worker's exception, printed as the message of another one
        last = self._closed.get(rank)
        if last is not None and (rank in self._chained or inner):
            failure = last
        else:
            failure = Failure(rank, number, before, self._kind.get(rank, "main"))
            self.failures.append(failure)
            del self.failures[_KEPT // 2 : -_KEPT // 2]  # the first and the last ones say most
        self._chained.discard(rank)
        self._kind.pop(rank, None)
        failure.frames = []
        self._open[rank] = failure
        return failure

    def _go_on(self, failure: Failure, text: str, rank: int | None, number: int) -> None:
        if match := _FRAME.match(text):
            where = f" in {match['function']}" if match["function"] else ""
            failure.site = f"{match['file']}:{match['line']}{where}"
            _remember(failure, text)
        elif text.startswith((" ", "\t")):
            _remember(failure, text)
        elif _ERROR.match(text):
            failure.error, failure.error_number = text.strip(), number
            if _LAUNCHER.search(text):
                failure.kind = "launcher"
            self._closed[rank] = self._open.pop(rank)
        elif number - failure.number > _LONGEST_LINES:
            self._open.pop(rank)


def _remember(failure: Failure, text: str) -> None:
    if len(failure.frames) < _MOST_FRAMES:
        failure.frames.append(text)
    else:
        failure.frames[-1] = text


def decisive(failures: list[Failure], root: int | None) -> Failure | None:
    """The failure that ended the training: the last one of the rank that failed first; `root` if torchrun names it."""
    told = [one for one in failures if one.error]
    own = [one for one in told if one.kind == "main"] or [one for one in told if one.kind == "thread"]
    if not own:
        return None
    of_root = [one for one in own if one.rank == root and root is not None]
    if of_root:
        return of_root[-1]
    ranked = [one for one in own if one.rank is not None]
    if ranked:
        return [one for one in ranked if one.rank == ranked[0].rank][-1]
    launched = any(one.kind == "launcher" for one in told)
    return own[0] if launched else own[-1]
