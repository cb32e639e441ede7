"""How an attempt may end: exit codes, and the exception that carries one with its reason."""

from __future__ import annotations

from typing import Any

#: The exit codes of train.py (docs of the job file name the same). STOPPED is EX_TEMPFAIL, REFUSED EX_DATAERR.
FINISHED, ERROR, BAD_LAUNCH, REFUSED, MISSING, STOPPED, PERSON_NEEDED, WRONG_PLACE = 0, 1, 2, 65, 66, 75, 76, 77


class Leave(Exception):  # noqa: N818 -- read as a word: raise Leave
    """This attempt ends here: the result and code of its end record, and the reason for a person."""

    def __init__(self, result: str, code: int, reason: str, **fields: Any) -> None:
        super().__init__(reason)
        self.result = result
        self.code = code
        self.reason = reason
        self.fields = fields
