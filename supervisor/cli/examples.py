"""Examples below the help of a verb."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """The epilogue of a verb's help. The first line tells click to leave the line breaks as they are."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
