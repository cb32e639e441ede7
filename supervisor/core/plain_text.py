"""Text that others wrote, as a person may see it: no colours, no control characters, no overwritten frames."""

from __future__ import annotations

import re

# ECMA-48: CSI sequences (colours, cursor), OSC strings up to BEL or ST (titles), two-byte escapes
ESCAPES = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])"
_ESCAPES = re.compile(ESCAPES)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FRAME_END = re.compile(r"[\r\n]")
# C0 but tab and line end, C1, zero width spaces, bidi marks, overrides and isolates, line separators, lone surrogates
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]",
)


def plain(text: str) -> str:
    """Return a text of printable characters, tabs and line ends; nothing reverses its reading direction."""
    return _HARMFUL.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def one_line(text: str) -> str:
    """Return a plain text without line ends and runs of blanks."""
    return " ".join(plain(text).split())


def frames(data: bytes) -> list[str]:
    """Return every line and every frame of a progress bar, cleaned; empty ones are left out."""
    return [_CONTROL.sub("", frame) for frame in _FRAME_END.split(_decoded(data)) if frame.strip()]


def clean_lines(data: bytes) -> list[str]:
    r"""Return what a terminal would show: one text per line; of frames that overwrite each other (\r) the last.

    Bytes that are no UTF-8 become replacement characters. Never raises.
    """
    lines = _decoded(data).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [_CONTROL.sub("", _last_frame(line)) for line in lines]


def _decoded(data: bytes) -> str:
    return _ESCAPES.sub("", data.decode("utf-8", "replace"))


def _last_frame(line: str) -> str:
    return next((frame for frame in reversed(line.split("\r")) if frame.strip()), "")
