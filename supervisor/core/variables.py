"""Which environment variables a child of ours inherits: an allow-list, never everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

# What a login shell would give and a training may need; secrets of the daemon are never among it.
ALLOWED = (
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def passed_on(environ: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    """The allowed variables, and those that the administrator names or describes (`WANDB_*`)."""
    wanted = (*ALLOWED, *patterns)
    return {name: value for name, value in environ.items() if any(fnmatchcase(name, pattern) for pattern in wanted)}
