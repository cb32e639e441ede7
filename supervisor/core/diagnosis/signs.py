"""What a whole log says about the end of an attempt: signs of causes, the last exception, the last progress. Pure.

The log is read once, line by line, in any length; memory does not grow with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from supervisor.core.diagnosis import tracebacks
from supervisor.core.diagnosis.evidence import Sign
from supervisor.core.diagnosis.matching import matcher_of
from supervisor.core.diagnosis.tables import Rule
from supervisor.core.diagnosis.tracebacks import Failure, Tracebacks, decisive
from supervisor.core.progress_frames import FRAME

MOST_SIGNS = 20
LONGEST = 4096  # characters of a line that are looked at: its beginning and its end
SHOWN = 300  # characters of a line in a sign
_TOGETHER = 256  # lines that are searched at once
_FRAME_LENGTH = 1000
#: So many batches later a failure was none: the other ranks of a training run on for a batch or two after one died.
_RUN_ON_BATCHES = 3
_RANK = re.compile(r"\[(?:rank|default)(\d+)\]: ?")
_RANK_WITHIN = re.compile(r"\[Rank (\d+)\]")
_ROOT_RANK = re.compile(r"\s*rank\s*: (\d+)")
# lines that repeat what a person wrote, and no more: arguments, commands, folders
_CONFIGURATION = re.compile(
    r"engine[/\\]trainer: |train\w*: weights=|Namespace\(|hyperparameters: |DDP: debug command |[+$] |Command: "
    r"|(?:train|val|test): (?:Scanning|Caching|Fast image access|Slow image access)|Plotting labels to "
    r"|Logging results to |Results saved to |Optimizer stripped from |Validating |Resuming training "
    r"|Starting training for "
)
# how much a line of a cause says: an error most; less what happened to single images, and the sum of that; warnings
_WARNING = re.compile(r"WARNING|\S*Warning: |.*\bUserWarning: ")
_OF_IMAGES = re.compile(r".*(?:ignoring corrupt image/label|No (?:labels|valid images) found in )")
_FAILURES, _ROOT, _COMPLETED = "Failures:", "Root Cause (first observed failure)", "epochs completed in"
_WORDS = (tracebacks.BEGIN, _FAILURES, _ROOT, _COMPLETED, "Exception ignored in")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a log says. Lines count from 1, 0 is none.

    `signs`: what explains the end best comes first; signs of causes in the order of the log (those of the rank that
    torchrun names before all others), then what is told of single images and warned of, then echoes. `notes`: what is
    worth telling and explains no end. `error` and `site`: the exception that ended the training, and its innermost
    frame; echoes are left out. `progressed` is the line of the last progress frame.
    """

    signs: tuple[Sign, ...] = ()
    notes: tuple[Sign, ...] = ()
    error: str = ""
    error_line: int = 0
    site: str = ""
    rank: int | None = None
    progressed: int = 0
    lines: int = 0


@dataclass(frozen=True)
class _Place:
    """Where a training stood."""

    epoch: int
    batch: int
    batches: int

    def batches_since(self, other: _Place) -> int:
        return abs((self.epoch - other.epoch) * self.batches + self.batch - other.batch)


@dataclass(frozen=True)
class _Seen:
    """A sign with what is needed to judge it at the end of the log."""

    sign: Sign
    rule: Rule
    before: object
    text: str

    @property
    def group(self) -> int:
        if self.rule.kind == "echo":
            return 3
        return 2 if _WARNING.match(self.text) else int(_OF_IMAGES.match(self.text) is not None)


def scan(lines: Iterable[str], rules: Sequence[Rule]) -> Found:
    """Read the cleaned lines of an attempt's log (core/plain_text.py). Never raises, whatever they hold."""
    log = _Log(rules)
    stream = iter(lines)
    while together := list(islice(stream, _TOGETHER)):
        log.feed(together)
    return log.found()


class _Log:
    """What was read so far."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._matcher = matcher_of(tuple(rules), _WORDS)
        self._number = 0
        self._first: _Place | None = None
        self._last: _Place | None = None
        self._progressed = 0
        self._completed = 0
        self._seen: dict[str, _Seen] = {}
        self._tracebacks = Tracebacks()
        self._block = ""
        self._root: int | None = None

    def feed(self, lines: list[str]) -> None:
        """Take some lines, all at once where nothing in them is suspicious."""
        lines = [line if len(line) <= LONGEST else _cut(line) for line in lines]
        text = "\n".join(lines)
        if self._tracebacks.busy or self._block or self._matcher.suspicious(text):
            for line in lines:
                self._line(line)
            return
        if "%" in text:
            self._frames(lines)
        self._number += len(lines)

    def _frames(self, lines: list[str]) -> None:
        """Note the last frame of some lines, and the first one of the log."""
        if self._first is None:
            self._first = next(filter(None, map(_place, lines)), None)
        for behind, line in enumerate(reversed(lines)):
            if (place := _place(line)) is not None:
                self._last, self._progressed = place, self._number + len(lines) - behind
                return

    def _line(self, line: str) -> None:
        self._number += 1
        if (place := _place(line)) is not None:
            self._first = self._first or place
            self._last, self._progressed = place, self._number
        if _COMPLETED in line:
            self._completed = self._number
        rank, text = _without_rank(line)
        if self._in_block(text):
            return
        failure = self._tracebacks.feed(text, rank, self._number, self._last)
        if not self._matcher.suspicious(text) or _CONFIGURATION.match(text):
            return
        if failure is None or not (failure.kind == "ignored" or self._tracebacks.shows_code(text, rank)):
            self._match(text, rank, failure)

    def _match(self, text: str, rank: int | None, failure: Failure | None) -> None:
        rule = self._matcher.rule_of(text, failure.frames if failure is not None else ())
        if rule is None or not self._is_news(rule):
            return
        within = _RANK_WITHIN.search(text)
        sign = Sign(
            rule=rule.name,
            cause=rule.cause,
            line=" ".join(text[: 2 * SHOWN].split())[:SHOWN],
            number=self._number,
            rank=int(within[1]) if within and rank is None else rank,
            remedy=rule.remedy,
            means=rule.means,
            fix=rule.fix,
        )
        self._seen[rule.name] = _Seen(sign, rule, self._last, text)

    def _is_news(self, rule: Rule) -> bool:
        """True for the first match of a rule, and the first one after the training went on."""
        seen = self._seen.get(rule.name)
        return seen is None or self._is_past(seen.rule.scope, seen.before, seen.sign.number)

    def _in_block(self, text: str) -> bool:
        """Follow torchrun's summary: the rank that failed first is the root; what the others got is no cause."""
        if text.startswith(_FAILURES):
            self._block = "failures"
        elif text.startswith(_ROOT):
            self._block = "root"
        elif self._block and text.startswith("====="):
            self._block = ""
        elif self._block == "root" and self._root is None and (match := _ROOT_RANK.match(text)):
            self._root = int(match[1])
        return self._block == "failures"

    def _is_past(self, scope: str, before: object, number: int) -> bool:
        """True if the training went on after this line: it was no end."""
        if scope == "anywhere":
            return False
        if number < self._completed:
            return True
        base = before if isinstance(before, _Place) else _start_of(self._first)
        return base is not None and self._last is not None and self._last.batches_since(base) > _RUN_ON_BATCHES

    def found(self) -> Found:
        """Judge what was seen."""
        failures = [one for one in self._tracebacks.failures if not self._is_past("end", one.before, one.number)]
        failure = decisive([one for one in failures if not self._is_echo(one)], self._root)
        live = [one for one in self._seen.values() if not self._is_past(one.rule.scope, one.before, one.sign.number)]
        notes = [one.sign for one in live if one.rule.kind == "info"]
        signs = [one for one in live if one.rule.kind != "info"]
        late = [one.sign for one in signs if _is_late(one.sign, failure)]
        signs = sorted((one for one in signs if one.sign not in late), key=self._order)
        explains = self._matcher.rule_of(failure.error, failure.frames) if failure is not None else None
        return Found(
            signs=tuple(_weighed(one, explains) for one in signs[:MOST_SIGNS]),
            notes=tuple(sorted([*notes, *late], key=lambda sign: sign.number))[:MOST_SIGNS],
            error=failure.error[:SHOWN] if failure is not None else "",
            error_line=failure.error_number if failure is not None else 0,
            site=failure.site[:SHOWN] if failure is not None else "",
            rank=failure.rank if failure is not None and failure.rank is not None else self._root,
            progressed=self._progressed,
            lines=self._number,
        )

    def _is_echo(self, failure: Failure) -> bool:
        """True for an exception that only follows; a launcher's own one still tells that there were ranks."""
        rule = self._matcher.rule_of(failure.error) if failure.kind != "launcher" else None
        return rule is not None and rule.kind == "echo"

    def _order(self, seen: _Seen) -> tuple[int, bool, int]:
        return seen.group, self._root is not None and seen.sign.rank not in {None, self._root}, seen.sign.number


def _is_late(sign: Sign, failure: Failure | None) -> bool:
    """True for what other ranks said after one had failed: they only lost their partner."""
    if failure is None or failure.rank is None or sign.rank is None:
        return False
    return sign.rank != failure.rank and sign.number > failure.error_number


def _weighed(seen: _Seen, explains: Rule | None) -> Sign:
    """The sign; weak if it is told of single images or warned of, and the exception at the end is not the same."""
    weak = seen.group in {1, 2} and seen.rule is not explains and seen.rule.scope == "end"
    return msgspec.structs.replace(seen.sign, weak=True) if weak else seen.sign


def _start_of(first: _Place | None) -> _Place | None:
    return None if first is None else _Place(first.epoch, 0, first.batches)


def _place(line: str) -> _Place | None:
    if "%" not in line or (match := FRAME.match(line[:_FRAME_LENGTH] + " ")) is None:
        return None
    return _Place(int(match[1]), int(match[5]), int(match[6]))


def _without_rank(line: str) -> tuple[int | None, str]:
    if line.startswith("[") and (match := _RANK.match(line)):
        return int(match[1]), line[match.end() :]
    return None, line


def _cut(line: str) -> str:
    return f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
