"""Text that others control, made harmless: no control characters, no colours, no reversed reading direction."""

from __future__ import annotations

import re

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# C0 but tab and line end, C1, zero width spaces, bidi marks, overrides and isolates, line separators, lone surrogates
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]",
)


def plain(text: str) -> str:
    """Return a text of printable characters, tabs and line ends."""
    return _HARMFUL.sub("", _ANSI.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def one_line(text: str) -> str:
    """Return a plain text without line ends and runs of blanks."""
    return " ".join(plain(text).split())
