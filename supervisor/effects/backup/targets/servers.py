"""Which servers have a folder on a target: what a person may have meant who named one that has none."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from supervisor import backup_config
from supervisor.effects.backup.targets import base, rsync_words
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.targets.rclone import RcloneTarget
from supervisor.effects.backup.targets.rsync import RsyncTarget

OWNER = "owner.json"


def servers(settings: backup_config.Backup, state_dir: Path) -> list[str]:
    """The names of the folders there that belong to a server. Raises TargetError."""
    address = backup_config.address(settings.to)
    if address is None:
        raise TargetError("refused", f"{settings.to!r} is no address of a backup target")
    if address.kind == "local":
        return _local(Path(address.path))
    kind = _Account if address.kind == "ssh" else _Store
    return sorted(kind(settings, address, "", state_dir, stop=threading.Event()).servers())


def _local(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir() if (path / OWNER).is_file())
    except FileNotFoundError:
        raise TargetError("absent", f"{root}: there is no such folder") from None
    except OSError as error:
        raise base.of_error(error, str(root)) from error


class _Account(RsyncTarget):
    def servers(self) -> list[str]:
        """The top folders with an owner, in one listing that goes no deeper."""
        found: list[str] = []

        def note(line: bytes) -> None:
            one = rsync_words.listed(line)
            if one is not None and one.path.endswith(f"/{OWNER}"):
                found.append(one.path.removeprefix("./").partition("/")[0])

        with self._room() as room:
            chosen = ["--include=/*/", f"--include=/*/{OWNER}", "--exclude=*"]
            self._pull(["--list-only", "-r", "-8", "--no-h", *chosen], room.path, room, line=note)
        return found


class _Store(RcloneTarget):
    def servers(self) -> list[str]:
        """As those of an account."""
        chosen = ("--recursive", "--max-depth=2", "--files-only", "--include", f"/*/{OWNER}")
        done = self._run("lsjson", "--no-mimetype", *chosen, self._base)
        self._demand_good(done)
        return [str(row["Path"]).partition("/")[0] for row in json.loads(done.out)]
