"""All about backups, prunings, disks and publications in one daemon, put together."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from supervisor import layout, prune_config
from supervisor.backup_config import Backup
from supervisor.clock import Clock
from supervisor.config import Config
from supervisor.core import actions
from supervisor.core.events import Event, StateRestored
from supervisor.core.model import World
from supervisor.effects.backup import fetched, locks, verify
from supervisor.effects.backup.drill import Driller
from supervisor.effects.backup.gentle import Gentle
from supervisor.effects.backup.restore import Restorer
from supervisor.effects.backup.staging import forget_others
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import Target, TargetError, closing
from supervisor.effects.backup.transaction import STAGING, BackerUp, Places
from supervisor.effects.backup.verify import Verifier
from supervisor.effects.prune.carry_out import Pruner
from supervisor.effects.prune.showing import Showing
from supervisor.effects.publish import Publisher
from supervisor.restore_all import Restored
from supervisor.sources.disks import DiskSource
from supervisor.sources.timetable import Entries, Timetable

log = logging.getLogger("yolo-supervisor")

Handler = Callable[..., tuple[Event, ...]]
Opening = Callable[[str], Target]


class BackupWatch:
    """The parts, and what the rest of the daemon asks of them."""

    def __init__(
        self,
        settings: Callable[[], Config],
        put: Callable[[Event], None],
        world: Callable[[], World],
        clock: Clock,
    ) -> None:
        """`settings` are the newest ones."""
        config, now = settings(), clock.now
        runs_dir, state_dir = config.server.runs_dir, config.server.state_dir
        self._settings = settings
        self._put = put
        self._now = now
        self._state_dir = state_dir
        self._stop = threading.Event()
        self._timetable = Timetable(settings, world, put, now)
        self._disks = DiskSource(put, world, clock, runs_dir, state_dir, self._marks)
        pruner = Pruner(
            lambda: settings().prune,
            runs_dir,
            world,
            now,
            state_dir=state_dir,
            targets=lambda: [one.name for one in settings().backup],
            closed=lambda: prune_config.local_folders(settings().backup),
            stopping=self._stop.is_set,
        )
        self.pruning = Showing(pruner)
        places = Places(runs_dir, state_dir, layout.journal_file(state_dir))
        scratch = partial(fetched.scratch_of, runs_dir)
        self._forgetting = threading.Thread(
            target=self._forget_others, args=(runs_dir,), name="forget-targets", daemon=True
        )
        self._handlers: dict[type[actions.Action], Handler] = {
            actions.BackUp: Gentle(BackerUp(settings, places, now, self._stop)),
            actions.VerifyBackup: self._alone(
                lambda opened: Verifier(
                    state_dir,
                    scratch("verify"),
                    opened,
                    now,
                    verify_within_s=self._verify_within_s,
                    snapshots_of=self._snapshots,
                    folder_of=self._local_folder,
                    stop=self._stop,
                )
            ),
            actions.Drill: self._alone(lambda opened: Driller(scratch("drill"), opened, now, stop=self._stop)),
            actions.Restore: self._alone(
                lambda opened: Restorer(runs_dir, scratch("restore"), opened, now, stop=self._stop), locks.RESTORE
            ),
            actions.Prune: pruner,
            actions.Publish: Publisher(
                runs_dir,
                state_dir,
                config.server.name or socket.gethostname(),
                config.backup,
                now,
                stop=self._stop,
            ),
        }

    # ---- its life
    def start(self) -> None:
        """Begin to watch the disks, and remove what lies here for targets that are not configured any more."""
        self._disks.start()
        self._forgetting.start()

    def stop(self) -> None:
        """End: a transfer that is under way is cut off, and gone on with by the next daemon."""
        self._stop.set()
        self._disks.stop()

    # ---- for the others
    @property
    def handlers(self) -> Mapping[type[actions.Action], Handler]:
        """Who carries out what is ordered."""
        return self._handlers

    def entries(self) -> Entries:
        """What is due by the clock; to be asked again when the configuration was read again."""
        return self._timetable.entries()

    def disks(self) -> list[dict[str, Any]]:
        """The newest readings of the file systems."""
        return self._disks.view()

    def restored(self) -> StateRestored | None:
        """What a restored journal does not know of its run directories; None if this is no restored journal."""
        path = layout.restored_file(self._state_dir)
        try:
            told = msgspec.json.decode(path.read_bytes(), type=Restored)
        except FileNotFoundError:
            return None
        return StateRestored(
            at=self._now(),
            origin="restore",
            target=told.target,
            token=told.token,
            attempts=told.attempts,
            moved=told.moved,
        )

    def restored_is_noted(self) -> None:
        """It stands in the journal now."""
        layout.restored_file(self._state_dir).unlink(missing_ok=True)

    # ---- parts
    def _marks(self) -> tuple[int, int]:
        disk = self._settings().disk
        return disk.prune_below, disk.pause_below

    def _verify_within_s(self, target: str) -> float:
        return next((one.verify_within for one in self._settings().backup if one.name == target), 0.0)

    def _snapshots(self, target: str) -> int:
        return next((one.snapshots for one in self._settings().backup if one.name == target), verify.DEFAULT_SNAPSHOTS)

    def _forget_others(self, runs_dir: Path) -> None:
        """In a thread of its own: folders of a hundred thousand files take their time."""
        names = {one.name for one in self._settings().backup}
        try:
            for folder in (STAGING, fetched.FETCHING):
                forget_others(runs_dir / folder, names)
        except OSError as error:
            log.warning("what lies here for former backup targets cannot be removed: %s", error)

    def _chosen(self, name: str) -> tuple[Backup, str]:
        """What is configured for a target, and our own name there. Raises TargetError."""
        config = self._settings()
        chosen = next((one for one in config.backup if one.name == name), None)
        if chosen is None:
            raise TargetError("failed", f"there is no [[backup]] named {name!r} any more")
        return chosen, config.server.name or socket.gethostname()

    def _alone(self, made: Callable[[Opening], Handler], lock: str = locks.WORK) -> Handler:
        """Work on a target that holds a lock, as the programs that it starts do; its connection ends with it.

        Nobody waits for it but for a restore, which alone is not nice.
        """

        def handle(action: Any) -> tuple[Event, ...]:
            with locks.alone(self._state_dir, action.target, lock) as held, ExitStack() as ending:

                def opened(name: str) -> Target:
                    target = self._open_target(name, held=held)
                    ending.enter_context(closing(target))
                    return target

                return made(opened)(action)

        return handle if lock == locks.RESTORE else Gentle(handle)

    def _open_target(self, name: str, *, held: int) -> Target:
        chosen, server = self._chosen(name)
        return open_target(chosen, server, self._state_dir, stop=self._stop, pass_fds=(held,))

    def _local_folder(self, name: str) -> Path | None:
        """Where a target's files can be read in place."""
        return verify.local_folder(*self._chosen(name))
