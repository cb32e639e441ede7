"""Stacks that an attempt wrote because we aborted it: they tell of our signal, not of what went wrong before."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BEGIN = "Fatal Python error: Aborted"
# lines of faulthandler's dump (Python 3.9 to 3.14)
_OF_DUMP = re.compile(
    r"Fatal Python error: |(?:Current thread|Thread) 0x|Stack \(most recent call first\):|\s+File \".*\", line \d+ in "
    r"|\s+<no Python frame>|\s+\.\.\.\s*$|Extension modules: |Current thread's C stack trace|\s+Binary file "
)


def before_dump(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines before the dump; where its beginning is not among them, those that are none of it."""
    begin = next((place for place, line in enumerate(lines) if line.startswith(_BEGIN)), None)
    known = lines if begin is None else lines[:begin]
    return tuple(line for line in known if not _OF_DUMP.match(line))
