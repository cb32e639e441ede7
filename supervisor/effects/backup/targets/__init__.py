"""Where backups go: a folder, an account behind ssh, or an object store. What they promise is said in `base`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from supervisor import backup_config
from supervisor.effects.backup.targets.base import Target, TargetError


def open_target(
    settings: backup_config.Backup,
    server: str,
    state_dir: Path,
    *,
    stop: threading.Event,
    pass_fds: Sequence[int] = (),
) -> Target:
    """Return the target of a [[backup]] section, for the folder of `server` in it. Nothing is asked of it yet.

    Once `stop` is set whatever is under way ends with the cause "stopped". Programs that it starts inherit `pass_fds`
    (a lock that they are to hold as long as they run). TargetError for an address that nobody understands.
    """
    address = backup_config.address(settings.to)
    if address is None:
        raise TargetError("refused", f"{settings.to!r} is no address of a backup target")
    if address.kind == "local":
        from supervisor.effects.backup.targets.local import LocalTarget

        return LocalTarget(settings, address, server, state_dir, stop=stop)
    if address.kind == "ssh":
        from supervisor.effects.backup.targets.rsync import RsyncTarget

        return RsyncTarget(settings, address, server, state_dir, stop=stop, pass_fds=pass_fds)
    from supervisor.effects.backup.targets.rclone import RcloneTarget

    return RcloneTarget(settings, address, server, state_dir, stop=stop, pass_fds=pass_fds)
