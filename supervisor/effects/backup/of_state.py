"""The journal as what is backed up."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

from supervisor.core.backups.manifest import STATE_FOLDER, Manifest
from supervisor.effects.backup.guards import demand_room
from supervisor.effects.backup.journal_copy import NAME, copy_journal
from supervisor.effects.backup.retention import STATE_SNAPSHOTS
from supervisor.effects.backup.sources import Draft, Scene, stored
from supervisor.effects.backup.staging import Copied
from supervisor.effects.private_copy import sha256_of


class StateSource:
    """A Source: the journal of this server. What another journal left on the target keeps its newest snapshot."""

    folder = STATE_FOLDER
    snapshots = STATE_SNAPSHOTS
    epoch = 0

    def __init__(self, journal: Path, why: str) -> None:
        """`journal` is the database in use."""
        self._journal = journal
        self._why = why

    def stage(self, scene: Scene) -> Draft:
        """See Source. Raises sqlite3.Error where the journal is damaged."""
        demand_room(scene.folder, self._journal.stat().st_size)
        target = scene.folder / NAME
        word = copy_journal(self._journal, target)
        status = target.stat()
        copied = Copied(sha256_of(target), status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode))
        file = stored(NAME, copied, scene.record.snapshot)
        known = scene.there.get(NAME)
        if known is not None and (known.sha256, known.bytes) == (file.sha256, file.bytes):
            file = known
            target.unlink()
        manifest = Manifest(
            kind="state",
            server=scene.server,
            snapshot=scene.record.snapshot,
            created_at=scene.now,
            files=(file,),
            by=self._why,
            mark=word,
        )
        return Draft(manifest)

    def prove(self, scene: Scene, given_up: threading.Event) -> bool:  # noqa: ARG002 - hashed when it was copied
        """See Source."""
        return True

    def demand_ours(self) -> None:
        """See Source: nobody else has the journal of a running daemon."""

    def close(self) -> None:
        """See Source."""
