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
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from supervisor import durable
from supervisor.backup_config import Backup, address
from supervisor.core.actions import VerifyBackup
from supervisor.core.backups.manifest import MANIFEST, STATE_FOLDER, Stored
from supervisor.core.backups.model import TargetPolicy
from supervisor.core.events import BackupVerified
from supervisor.effects.backup import fetched
from supervisor.effects.backup.fetched import Holdings
from supervisor.effects.backup.targets.base import TargetError, server_folder

if TYPE_CHECKING:
    from supervisor.effects.backup.targets.base import Target

DAY_S = 86400.0
SLACK_S = 1.5 * DAY_S  # the schedule's next call may come that late
MOST_TOLD = 1000  # damaged paths in one answer: it is written to the journal
SAVE_EVERY_S = 60.0
SMALL_BATCH_BYTES = 64 * 1024 * 1024
DEFAULT_VERIFY_S = TargetPolicy(name="").verify_s


class Record(msgspec.Struct, kw_only=True):
    """read.json. `read`: when each file was read last; `damaged`: what was wrong with it then.

    `manifests`: the sha256 of each manifest as it was first seen: they never change.
    """

    read: dict[str, float] = {}
    damaged: dict[str, str] = {}
    manifests: dict[str, str] = {}
    version: int = 1


def record_file(state_dir: Path, target: str) -> Path:
    """Where the record of a target lies."""
    return state_dir / "backup" / target / "read.json"


def known_damaged(state_dir: Path, target: str) -> frozenset[str]:
    """The paths on a target that are known not to be what was stored: a backup must not count on these."""
    return frozenset(_read_record(record_file(state_dir, target)).damaged)


def _read_record(path: Path) -> Record:
    """A damaged record, or none, means that nothing was read yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Record()


@dataclass
class _Look:
    """One verification: what there is, what is to be read, what was found."""

    holdings: Holdings
    record: Record
    files: dict[str, Stored] = field(default_factory=dict)  # by path on the target
    damaged: dict[str, str] = field(default_factory=dict)
    count: int = 0
    bytes: int = 0
    saved_at: float = field(default_factory=time.monotonic)


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
        folder_of: Callable[[str], Path | None] = lambda _target: None,
        stop: threading.Event | None = None,
    ) -> None:
        """`scratch_of` names, by target, a folder that is used for what must be fetched to be read, and removed.

        `verify_within_s` says, by target, within how many seconds everything is to be read once; 0 counts as the
        default. `folder_of` is the server's folder on a target that is a folder of this machine (see local_folder):
        its files are read where they lie. `stop` ends a verification between two files.
        """
        self._state_dir = state_dir
        self._scratch_of = scratch_of
        self._open_target = open_target
        self._now = now
        self._verify_within_s = verify_within_s
        self._folder_of = folder_of
        self._stop = stop or threading.Event()

    def __call__(self, action: VerifyBackup) -> tuple[BackupVerified, ...]:
        """Answer with BackupVerified: damaged files are all that are known of now, not only those read this time."""
        began = time.monotonic()
        try:
            look = self._verified(action)
        except TargetError as error:
            return (self._answer(action, began, cause=error.cause, text=str(error)),)
        except fetched.NoRoomError as error:
            return (self._answer(action, began, cause="no-room", text=str(error)),)
        answer = self._answer(
            action,
            began,
            files=look.count,
            bytes=look.bytes,
            damaged=tuple(sorted(look.damaged)[:MOST_TOLD]),
            read_from=min((_last(look.record, path, file) for path, file in look.files.items()), default=self._now()),
        )
        return (answer,)

    def _answer(self, action: VerifyBackup, began: float, **facts: object) -> BackupVerified:
        seconds = round(time.monotonic() - began, 3)
        return msgspec.structs.replace(
            BackupVerified(at=self._now(), origin="backup", target=action.target, seconds=seconds), **facts
        )

    def _verified(self, action: VerifyBackup) -> _Look:
        target, scratch = self._open_target(action.target), self._scratch_of(action.target)
        path = record_file(self._state_dir, action.target)
        look = _Look(Holdings(target, fetched.RUNS_FOLDER), _read_record(path))
        state = Holdings(target, STATE_FOLDER)
        for holdings in (look.holdings, state):
            holdings.read_all(scratch)
            _collect(look, holdings)
        look.holdings.sizes |= state.sizes
        _forget(look)
        try:
            for batch in self._plan(look, action):
                self._read(look, target, batch, scratch)
                if time.monotonic() - look.saved_at > SAVE_EVERY_S:
                    self._save(path, look)
        finally:
            self._save(path, look)
        return look

    # ---- which
    def _plan(self, look: _Look, action: VerifyBackup) -> list[list[str]]:
        """The files to read now: those not read for longest, in groups that are fetched at once."""
        waiting = [path for path in look.files if path not in look.damaged]
        waiting.sort(
            key=lambda path: (path not in look.record.damaged, _last(look.record, path, look.files[path]), path)
        )
        chosen = waiting if action.whole else self._share(look, waiting, self._verify_within_s(action.target))
        return list(fetched.batches(chosen, lambda path: look.files[path].bytes, SMALL_BATCH_BYTES))

    def _share(self, look: _Look, waiting: Sequence[str], within_s: float) -> list[str]:
        """A day's share of all bytes, known damage, and whatever would be too late tomorrow."""
        within_s = within_s or DEFAULT_VERIFY_S
        days = max(1, int(within_s // DAY_S))
        wanted = -(-sum(file.bytes for file in look.files.values()) // days)
        late = self._now() - max(0.0, within_s - SLACK_S)
        chosen, taken = [], 0
        for path in waiting:
            again = path in look.record.damaged
            if taken >= wanted and not again and _last(look.record, path, look.files[path]) > late:
                break
            chosen.append(path)
            taken += 0 if again else look.files[path].bytes
        return chosen

    # ---- reading
    def _read(self, look: _Look, target: Target, batch: Sequence[str], scratch: Path) -> None:
        if self._stop.is_set():
            raise TargetError("stopped", "interrupted by the end of the daemon")
        folder = self._folder_of(target.name)
        if folder is not None:
            problems = {path: _problem(folder / path, look.files[path]) for path in batch}
        else:
            problems = self._fetched(look, target, batch, scratch)
        for path in batch:
            look.count += 1
            look.bytes += look.files[path].bytes
            look.record.read[path] = self._now()
            if problems[path]:
                look.damaged[path] = problems[path]
            else:
                look.record.damaged.pop(path, None)

    def _fetched(self, look: _Look, target: Target, batch: Sequence[str], scratch: Path) -> dict[str, str]:
        fetched.demand_room(scratch, sum(look.files[path].bytes for path in batch))
        with fetched.scratch_folder(scratch):
            wrong = fetched.bring(target, batch, scratch)
            return {path: wrong.get(path) or fetched.difference(scratch / path, look.files[path]) for path in batch}

    def _save(self, path: Path, look: _Look) -> None:
        """Remember what was read, and what was wrong: known damage stays until the file is read again and right."""
        look.damaged = {**look.record.damaged, **look.damaged}
        look.record.damaged = dict(look.damaged)
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, msgspec.json.encode(look.record))
        look.saved_at = time.monotonic()


def local_folder(settings: Backup, server: str) -> Path | None:
    """The server's folder on a target that is a folder of this machine; None for others."""
    place = address(settings.to)
    return Path(place.path) / server_folder(server) if place is not None and place.kind == "local" else None


def _problem(place: Path, file: Stored) -> str:
    """As fetched.difference; read from the disk, not from what the kernel still knows of it."""
    try:
        _forget_pages(place)
        return fetched.difference(place, file)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _forget_pages(place: Path) -> None:
    """A bit that rotted on the disk cannot be seen in memory."""
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


# ---- what there is
def _collect(look: _Look, holdings: Holdings) -> None:
    """All files that a manifest names; what is missing, cut, or a damaged manifest is known without reading."""
    for folder in holdings.folders:
        for manifest in holdings.manifests(folder):
            _compare_manifest(look, holdings, folder, manifest.snapshot)
            for file in manifest.files:
                path = fetched.place(folder, file)
                look.files[path] = file
                size = holdings.sizes.get(path)
                if size != file.bytes:
                    look.damaged[path] = "is missing" if size is None else f"has {size} bytes, not {file.bytes}"
        look.damaged |= dict.fromkeys(holdings.damaged(folder), "cannot be read")


def _compare_manifest(look: _Look, holdings: Holdings, folder: str, snapshot: str) -> None:
    data, path = holdings.bytes_of(folder, snapshot), f"{folder}/{snapshot}/{MANIFEST}"
    digest = sha256(data or b"").hexdigest()
    if look.record.manifests.setdefault(path, digest) != digest:
        look.damaged[path] = "is not what it was"


def _forget(look: _Look) -> None:
    """What no manifest names any more has no place in the record: it stays as large as the listing."""
    record, manifests = look.record, {path for path in look.holdings.sizes if path.endswith(f"/{MANIFEST}")}
    record.read = {path: at for path, at in record.read.items() if path in look.files}
    record.manifests = {path: digest for path, digest in record.manifests.items() if path in manifests}
    record.damaged = {path: why for path, why in record.damaged.items() if path in look.files}


def _last(record: Record, path: str, file: Stored) -> float:
    """When a file was read last; when it was stored it was read back."""
    return record.read.get(path, fetched.stored_at(file.at))
