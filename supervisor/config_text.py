"""The configuration in effect as plain data and as TOML text, in the words of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from supervisor import toml_errors


def plain(value: Any, kind: Any = None) -> Any:
    """Return a value of the configuration as plain data; durations and sizes as a person writes them."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        return {known.name: plain(getattr(value, known.name), known.type) for known in fields}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    written = toml_errors.write(value, kind)
    return str(written) if isinstance(written, Path) else written


def text(tables: Mapping[str, Any]) -> str:
    """Write tables as TOML. A table that is None is not there; of the others, what is None is left out."""
    lines: list[str] = []
    for name, table in tables.items():
        if table is None:
            continue
        for inner in table if isinstance(table, list) else [table]:
            lines += ["", f"[[{name}]]" if isinstance(table, list) else f"[{name}]"]
            known = ((key, _without_none(value)) for key, value in inner.items() if value is not None)
            lines += [f"{toml_errors.format_key(key)} = {toml_errors.format_value(value)}" for key, value in known]
    return "\n".join(lines[1:]) + "\n"


def _without_none(value: Any) -> Any:
    """Leave out what is not set: TOML has no word for it."""
    if isinstance(value, list):
        return [_without_none(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return value
