"""Which values must not be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"

_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)


def hide(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with the values of secret-looking names hidden, at every depth."""
    return {
        name: HIDDEN if _SECRET.search(name) else hide(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }
