"""Read the version of an installed package without importing it."""

from __future__ import annotations

import importlib.util
import os
import re

_VERSION = re.compile(r"""^__version__\s*(?::[^=]+)?=\s*(?:TorchVersion\()?['"]([^'"]+)['"]""", re.MULTILINE)


def package_folder(package: str) -> str | None:
    """Return the folder that `import package` would load from, or None."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(spec.submodule_search_locations), None)


def source_version(package: str) -> str | None:
    """Return the version written in the package's own files, or None.

    The metadata of a distribution would be the wrong place to ask: the same package may be installed under
    another distribution name, or lie on PYTHONPATH in front of the installed one.
    """
    folder = package_folder(package)
    if folder is None:
        return None
    for name in ("version.py", "_version.py", "__init__.py"):
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                found = _VERSION.search(file.read())
        except (OSError, UnicodeDecodeError):
            continue
        if found:
            return found.group(1)
    return None
