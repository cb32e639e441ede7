"""Read what lies on a target again: a part each day, so that everything is read within a set time.

A file that was right when it was sent may rot there, be cut, or vanish. Sizes and missing files are seen in the
listing, each time; bytes are compared with the manifest's sha256. What was read when is kept in
STATE_DIR/backup/TARGET/read.json.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from supervisor.backup_config import Backup, address
from supervisor.core.actions import VerifyBackup
from supervisor.core.backups.manifest import STATE_FOLDER, Stored
from supervisor.core.backups.model import TargetPolicy
from supervisor.core.events import BackupVerified
from supervisor.effects.backup import fetched, ownership
from supervisor.effects.backup.fetched import Holdings
from supervisor.effects.backup.looked import Look
from supervisor.effects.backup.read_record import Record, read_record, record_file, write_record
from supervisor.effects.backup.targets import direct, local_files
from supervisor.effects.backup.targets.base import TargetError, of_error, server_folder
from supervisor.effects.backup.targets.local import SILENCE_S
from supervisor.effects.backup.targets.watched import Going, watched

if TYPE_CHECKING:
    from supervisor.effects.backup.targets.base import Target

DAY_S = 86400.0
SLACK_S = 1.5 * DAY_S  # the schedule's next call may come that late
SAVE_EVERY_S = 60.0
SMALL_BATCH_BYTES = 64 * 1024 * 1024
DEFAULT_VERIFY_S = TargetPolicy(name="").verify_s
DEFAULT_SNAPSHOTS = Backup(name="default", to="/").snapshots
#: Errors of the whole mount; any other one is the file's own.
_OF_THE_MOUNT = frozenset({"timeout", "unreachable"})


class Verifier:
    """Carries out VerifyBackup. Doing it twice reads on where the first one ended."""

    def __init__(
        self,
        state_dir: Path,
        scratch_of: Callable[[str], Path],
        open_target: Callable[[str], Target],
        now: Callable[[], float],
        *,
        verify_within_s: Callable[[str], float] = lambda _target: DEFAULT_VERIFY_S,
        snapshots_of: Callable[[str], int] = lambda _target: DEFAULT_SNAPSHOTS,
        folder_of: Callable[[str], Path | None] = lambda _target: None,
        stop: threading.Event | None = None,
    ) -> None:
        """`scratch_of` names, by target, a folder that is used for what must be fetched to be read, and removed.

        `verify_within_s` says, by target, within how many seconds everything is to be read once; 0 counts as the
        default. `snapshots_of`: how many manifests of each run stay there. `folder_of` is the server's folder on a
        target that is a folder of this machine (see local_folder): its files are read where they lie. `stop` ends a
        verification.
        """
        self._state_dir = state_dir
        self._scratch_of = scratch_of
        self._open_target = open_target
        self._now = now
        self._verify_within_s = verify_within_s
        self._snapshots_of = snapshots_of
        self._folder_of = folder_of
        self._stop = stop or threading.Event()

    def __call__(self, action: VerifyBackup) -> tuple[BackupVerified, ...]:
        """Answer with BackupVerified: damaged files are all that are known of now and that matter (see Look.told)."""
        began = time.monotonic()
        try:
            look = self._verified(action)
        except TargetError as error:
            return (self._answer(action, began, cause=error.cause, text=str(error)),)
        except fetched.NoRoomError as error:
            return (self._answer(action, began, cause="no-room", text=str(error)),)
        now = self._now()
        oldest = min((look.record.last(path, file, now) for path, file in look.files.items()), default=now)
        answer = self._answer(
            action, began, files=look.count, bytes=look.bytes, damaged=look.told(), read_from=oldest
        )  # fmt: skip
        return (answer,)

    def _answer(self, action: VerifyBackup, began: float, **facts: object) -> BackupVerified:
        seconds = round(time.monotonic() - began, 3)
        return msgspec.structs.replace(
            BackupVerified(at=self._now(), origin="backup", target=action.target, seconds=seconds), **facts
        )

    def _verified(self, action: VerifyBackup) -> Look:
        target, scratch = self._open_target(action.target), self._scratch_of(action.target)
        path = record_file(self._state_dir, action.target)
        look = Look(_of_this_vault(read_record(path), target), self._now())
        for under in (fetched.RUNS_FOLDER, STATE_FOLDER):
            holdings = Holdings(target, under)
            holdings.read_all(scratch)
            look.collect(holdings, self._snapshots_of(action.target))
        look.miss(action.expected)
        look.forget()
        try:
            for batch in self._plan(look, action):
                self._read(look, target, batch, scratch)
                if time.monotonic() - look.saved_at > SAVE_EVERY_S:
                    self._save(path, look)
        finally:
            self._save(path, look)
        return look

    # ---- which
    def _plan(self, look: Look, action: VerifyBackup) -> list[list[str]]:
        """The files to read now: those not read for longest, in groups that are fetched at once."""
        now, record = self._now(), look.record
        waiting = [path for path in look.files if path not in look.damaged]
        waiting.sort(key=lambda path: (path not in record.damaged, record.last(path, look.files[path], now), path))
        chosen = waiting if action.whole else self._share(look, waiting, self._verify_within_s(action.target))
        return list(fetched.batches(chosen, lambda path: look.files[path].bytes, SMALL_BATCH_BYTES))

    def _share(self, look: Look, waiting: Sequence[str], within_s: float) -> list[str]:
        """A day's share of all bytes, known damage, and whatever would be too late tomorrow."""
        within_s, now = within_s or DEFAULT_VERIFY_S, self._now()
        days = max(1, int(within_s // DAY_S))
        wanted = -(-sum(file.bytes for file in look.files.values()) // days)
        late = now - max(0.0, within_s - SLACK_S)
        chosen, taken = [], 0
        for path in waiting:
            again = path in look.record.damaged
            if taken >= wanted and not again and look.record.last(path, look.files[path], now) > late:
                break
            chosen.append(path)
            taken += 0 if again else look.files[path].bytes
        return chosen

    # ---- reading
    def _read(self, look: Look, target: Target, batch: Sequence[str], scratch: Path) -> None:
        self._demand_going_on()
        files = {path: look.files[path] for path in batch}
        folder = self._folder_of(target.name)
        problems = _in_place(folder, files, self._stop) if folder else self._fetched(target, files, scratch)
        for path in batch:
            look.count += 1
            look.bytes += look.files[path].bytes
            look.record.read[path] = self._now()
            if problems[path]:
                look.damaged[path] = problems[path]
            else:
                look.record.damaged.pop(path, None)

    def _fetched(self, target: Target, files: dict[str, Stored], scratch: Path) -> dict[str, str]:
        fetched.demand_room(scratch, sum(file.bytes for file in files.values()))
        with fetched.scratch_folder(scratch):
            wrong = fetched.bring(target, list(files), scratch)
            return {
                path: wrong.get(path) or fetched.difference(scratch / path, file, self._demand_going_on)
                for path, file in files.items()
            }

    def _demand_going_on(self) -> None:
        if self._stop.is_set():
            raise TargetError("stopped", "interrupted by the end of the daemon")

    def _save(self, path: Path, look: Look) -> None:
        look.note()
        write_record(path, look.record)
        look.saved_at = time.monotonic()


def _of_this_vault(record: Record, target: Target) -> Record:
    """The record, without what it knows of another folder that was there before: nobody misses that in this one."""
    try:
        owner = ownership.owner_of(target)
    except TargetError as error:
        if error.cause != "foreign":  # whose it is cannot be read: to be seen in what is read below
            raise
        owner = None
    if owner is None or owner.place == record.vault:
        return record
    return Record(vault=owner.place) if record.vault else msgspec.structs.replace(record, vault=owner.place)


# ---- a folder of this machine
def local_folder(settings: Backup, server: str) -> Path | None:
    """The server's folder on a target that is a folder of this machine; None for others."""
    place = address(settings.to)
    return Path(place.path) / server_folder(server) if place is not None and place.kind == "local" else None


def _in_place(folder: Path, files: dict[str, Stored], stop: threading.Event) -> dict[str, str]:
    """What is wrong with files that are read where they lie. TargetError "timeout" where the mount does not answer."""

    def work(going: Going) -> dict[str, str]:
        with local_files.opened_root(folder) as root:
            return {path: _problem(root, path, file, going.on) for path, file in files.items()}

    return watched(str(folder.parent), work, Going(stop), SILENCE_S)


def _problem(root: int, path: str, file: Stored, step: Callable[[], None]) -> str:
    """As fetched.difference; read from the disk, where a bit may have rotted, not from what the kernel knows of it."""
    step()
    parent, _, name = path.rpartition("/")
    try:
        with local_files.opened_folder(root, parent) as folder:
            handle = local_files.opened_file(folder, name)
        if handle is None:
            return "is no plain file"
        try:
            direct.forget(handle)
            return fetched.difference_of_open(handle, file, step)
        finally:
            os.close(handle)
    except OSError as error:
        trouble = of_error(error, path)
        if trouble.cause in _OF_THE_MOUNT:
            raise trouble from error
        return "is not there" if local_files.is_missing(error) else f"cannot be read: {error.strerror or error}"
