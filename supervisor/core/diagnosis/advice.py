"""What a person can do about a failure: the words of its cause, with what is known of the line and of the run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from supervisor.core.checkpoints import knows_its_end
from supervisor.core.diagnosis import rungs
from supervisor.core.diagnosis.diagnose import Diagnosis
from supervisor.core.diagnosis.tables import OPT_IN
from supervisor.core.model import Run

#: What stands for something that the line of the failure tells, and how it stands there.
_TOLD = {
    "PATH": re.compile(r"['\"](/[^'\"]+)['\"]|(?<![\w/:.])(/[\w.+@-]+(?:/[\w.+@-]+)+)"),
    "FILE": re.compile(r"(/[^\s'\"]+\.pt)\b"),
    "IMAGE": re.compile(r"(/[^\s'\"]+\.(?:jpe?g|png|bmp|tiff?|webp|dng|mpo|heic))\b", re.IGNORECASE),
    "PORT": re.compile(r"\bport:? ?(\d{2,5})\b|:(\d{2,5})\b"),
    "MODULE": re.compile(r"No module named '(\w+)"),
    "POINT": re.compile(r"(/\S+) not mounted"),
}
_WORD = re.compile(rf"\b({'|'.join(_TOLD)})\b")
_COMMAND = re.compile(r"`[^`]*`")
_PLAIN = re.compile(r"[\w@%+=:,./-]+")
_NAME = re.compile(r"\bNAME\b")


def advice(found: Diagnosis, run: Run) -> str:
    """What helps against this failure of this run. Commands that this job does not know are left out."""
    parts = filled(found.cause.fix, found.seen, python=run.job.python).split("; ")
    if not knows_its_end(run.job):
        parts = [part for part in parts if "rewind" not in part] or parts[:1]
    attempt = run.attempt.number if run.attempt is not None else run.attempts
    text = "; ".join((*parts, *_leave(found, run)))
    return _NAME.sub(lambda _: run.name, text.replace("attempts/N/", f"attempts/{attempt}/"))


def filled(fix: str, seen: str, *, python: str = "") -> str:
    """The words of a cause, with what the line tells; a command that lacks something is left out with its clause."""
    parts = (_COMMAND.sub(lambda command: _command(command[0], seen, python), part) for part in fix.split("; "))
    return "; ".join(part for part in parts if not _lacks(part))


def _command(text: str, seen: str, python: str) -> str:
    text = text.replace("PYTHON", _quoted(python) if python else "python")
    return _WORD.sub(lambda word: _told(word[0], seen), text)


def _told(word: str, seen: str) -> str:
    match = _TOLD[word].search(seen)
    return _quoted(next(filter(None, match.groups()))) if match else word


def _quoted(word: str) -> str:
    """A word for the shell (POSIX: nothing is special between single quotes but the next one)."""
    return word if _PLAIN.fullmatch(word) else "'" + word.replace("'", "'\"'\"'") + "'"


def _lacks(part: str) -> bool:
    return any(_WORD.search(command) for command in _COMMAND.findall(part))


def _leave(found: Diagnosis, run: Run) -> Iterator[str]:
    """What the job might allow besides, because the plan knows it and there is something to change."""
    allowed = run.job.restart.remedies
    more = [one for one in OPT_IN if one in found.steps and one not in allowed and rungs.next_change(one, run, "", 0.0)]
    if more:
        listed = ", ".join(f'"{one}"' for one in (*allowed, *more))
        yield f"or allow {' and '.join(_RUNGS[one] for one in more)}: restart.remedies = [{listed}]"


_RUNGS = {"batch": "a smaller batch", "imgsz": "smaller images", "freeze": "frozen layers"}
