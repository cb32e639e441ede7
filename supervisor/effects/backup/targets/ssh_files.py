"""The files that ssh needs on this machine: looked at before it is called, because it says little."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from supervisor.backup_config import Backup
from supervisor.effects.backup.targets.base import TargetError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def demand(settings: Backup) -> None:
    """TargetError "auth" or "host-unknown" where ssh would not use a file; it names the file, its mode and the mend.

    Only files that the configuration names: without it ssh finds its own.
    """
    if settings.ssh_key is not None:
        _demand_key(settings.ssh_key)
    if settings.known_hosts is not None:
        known = settings.known_hosts
        _demand_readable("host-unknown", "known_hosts", known, "make it as docs/backup.md says: ssh-keyscan, compare")
        if not known.stat().st_size:
            raise TargetError("host-unknown", f"known_hosts {known} is empty: no host key is pinned in it")


def _demand_key(key: Path) -> None:
    _demand_readable("auth", "ssh_key", key, f"ssh-keygen -t ed25519 -N '' -f {key}")
    found = key.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS and found.st_uid == os.geteuid():  # as ssh itself: of somebody else's it does not mind
        raise TargetError("auth", f"ssh_key {key} has mode {mode:04o}: others may read it. Mend it: chmod 600 {key}")


def _demand_readable(cause: str, name: str, path: Path, mend: str) -> None:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise TargetError(cause, f"{name} {path} is no plain file")
        with path.open("rb"):
            return
    except FileNotFoundError:
        raise TargetError(cause, f"{name} {path} is not there. Mend it: {mend}") from None
    except PermissionError:
        owner = _owner(path)
        text = f"{name} {path}{owner} may not be read by uid {os.geteuid()}. Mend it: chown {os.geteuid()} {path}"
        raise TargetError(cause, text) from None
    except OSError as error:
        raise TargetError(cause, f"{name} {path}: {error.strerror or error}") from error


def _owner(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return ""
    return f" (uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})"
