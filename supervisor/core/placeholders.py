"""Placeholders in the commands and paths of a job file: {run_dir} and the like; {{ and }} are plain braces."""

from __future__ import annotations

import re

#: What a command may hold; the last one only where a checkpoint is resumed.
PLACEHOLDERS = ("python", "run_dir", "gpu_count", "port", "checkpoint")

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


def names_in(word: str) -> list[str]:
    """Return the names of the placeholders in a word, known or not."""
    return [match[1] for match in _PLACEHOLDER.finditer(word) if match[1]]


def expand(word: str, values: dict[str, str]) -> str:
    """Put values in the place of placeholders; doubled braces become single ones, unknown names stay."""
    return _PLACEHOLDER.sub(lambda match: match[0][0] if match[1] is None else values.get(match[1], match[0]), word)
