"""Watching where a training starts that knows nothing of us: by what its log says before the first batch."""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.core.model import Attempt
from supervisor.core.plain_text import frames
from supervisor.layout import AttemptDirectory, RunDirectory
from supervisor.sources.course import Course
from supervisor.sources.tail import Tail
from supervisor.trainers.resume_evidence import (
    StartEvidence,
    confirmed_folder,
    contradiction,
    resume_evidence,
    wrong_folder,
)


class StartWatch:
    """Tells a Course where one attempt of a YOLOv5, v7 or v9 training started, or why that is the wrong place.

    Reads the log from its very beginning, also after a restart of the daemon: a line that was missed must not look like
    one that was never written. Says nothing where the beginning was given back to the disk.
    """

    def __init__(self, run: RunDirectory, attempt: Attempt, files: AttemptDirectory, course: Course) -> None:
        """Watch an attempt that was started as `attempt` says."""
        self._attempt = attempt
        self._course = course
        self._log_file = files.log
        self._log = Tail(files.log)
        self._folder = str(run.train)
        self._evidence = StartEvidence()
        self._over = attempt.start not in {"fresh", "resume"}

    def poll(self) -> None:
        """Take all that was written since. OSError where the log is there but cannot be read."""
        while not self._over:
            lines = self._log.read()
            whole_frames = self._log.rest.rpartition(b"\r")[0]
            if not lines and not whole_frames:
                return
            if _begins_with_hole(self._log_file):
                self._over = True
                return
            self._evidence = resume_evidence(frames(lines + whole_frames), self._evidence)
            self._judge()
            if not lines:
                return

    def _judge(self) -> None:
        """Confirm as soon as the right words are there, or once it trains and nothing is surely wrong."""
        found, attempt, wrong = self._evidence, self._attempt, self._wrong()
        after = attempt.from_epoch if attempt.start == "resume" else None
        seen = confirmed_folder(found, self._folder, from_epoch=after)
        self._over = bool(seen) or found.complete
        if wrong:
            self._course.wrong_start = wrong
        elif self._over:
            self._course.begins_after(after or 0, seen)

    def _wrong(self) -> str:
        found, attempt = self._evidence, self._attempt
        if attempt.start != "resume":
            return wrong_folder(found, self._folder)
        return contradiction(found, from_epoch=attempt.from_epoch, checkpoint=attempt.checkpoint, folder=self._folder)


def _begins_with_hole(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.lseek(handle, 0, os.SEEK_DATA) > 0
    except OSError:  # nothing but a hole, or a file system without holes
        return False
    finally:
        os.close(handle)
