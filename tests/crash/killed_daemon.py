"""The real daemon, which ends itself by SIGKILL right before or right after its N-th journal commit. For tests only.

    python killed_daemon.py CONFIG COUNT_FILE before|after N

Every commit adds a byte to COUNT_FILE. With N = 0 nothing is killed: the size of the file is the number of commits.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from supervisor.daemon import main
from supervisor.journal import Entry, Journal

config, count_file, when, at = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
numbers = itertools.count(1)
commit = Journal.commit


def deadly_commit(self: Journal, entries: Sequence[Entry]) -> None:
    """See Journal.commit."""
    number = next(numbers)
    if (when, number) == ("before", at):
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self, entries)
    with open(count_file, "ab", buffering=0) as file:  # noqa: PTH123 - as few words as possible between two commits
        file.write(b".")
    if (when, number) == ("after", at):
        os.kill(os.getpid(), signal.SIGKILL)


Journal.commit = deadly_commit  # type: ignore[method-assign]
sys.exit(main(config))
