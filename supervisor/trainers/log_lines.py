"""Lines of a training log as a person would see them: no colours, and of a progress bar only the last frame."""

from __future__ import annotations

import re

# CSI sequences (colours, cursor, erase) and OSC sequences (titles), ECMA-48 §5.4
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")


def clean_lines(data: bytes) -> list[str]:
    """Split at line ends, drop escape sequences, keep the last frame of lines that were redrawn with \\r.

    Invalid UTF-8 becomes U+FFFD; a hole that was punched into the log (zero bytes) vanishes. Never raises.
    """
    text = ESCAPES.sub("", data.replace(b"\0", b"").decode("utf-8", errors="replace"))
    return [_last_frame(line) for line in text.replace("\r\n", "\n").split("\n")]


def _last_frame(line: str) -> str:
    frames = [frame for frame in line.split("\r") if frame.strip()]
    return frames[-1] if frames else ""
