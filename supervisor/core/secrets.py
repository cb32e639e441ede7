"""Which values must not be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"

_SECRET_NAME = re.compile(r"key|token|secret|passw|pwd|credential|auth", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """True for a name whose value must not be shown."""
    return _SECRET_NAME.search(name) is not None


def hide(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with the values of secret-looking names hidden, at every depth."""
    return {
        name: HIDDEN if is_secret(name) else hide(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }
