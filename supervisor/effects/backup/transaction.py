"""Carries out BackUp: ten steps, after each of which the machine may lose power and nothing good is lost.

Nothing is torn: files are staged as private copies, and what is sent is read back there. Nothing is replaced: a
snapshot has a folder of its own. Nothing is believed too early: the manifest, put last, makes it a snapshot, and only
then it counts. A transaction that was cut off goes on where it was, under the same name, also after a failure of the
target: what it had sent is not sent again, and what changed meanwhile is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from supervisor import backup_config
from supervisor.core.actions import BackUp
from supervisor.core.backups.manifest import LATEST, MANIFEST, Manifest, snapshot_name
from supervisor.core.events import BackedUp, BackupFailed
from supervisor.effects.backup import locks, ownership, retention
from supervisor.effects.backup.fetched import Holdings, place, stored_at
from supervisor.effects.backup.guards import NotBackedUpError
from supervisor.effects.backup.of_run import RunSource
from supervisor.effects.backup.of_state import StateSource
from supervisor.effects.backup.read_record import known_damaged
from supervisor.effects.backup.remembered import remember
from supervisor.effects.backup.sources import Draft, Scene, Source, is_unchanged
from supervisor.effects.backup.staging import OLDEST_S, Record, Staging, forget_others
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import Facts, Target, TargetError, closing
from supervisor.effects.private_copy import NoRoomError
from supervisor.errors import RetryableError

log = logging.getLogger("yolo-supervisor")

STAGING = ".staging"  # in the folder of the runs: no project can have that name
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Opening(Protocol):
    """Opens a target; see targets.open_target."""

    def __call__(
        self,
        settings: backup_config.Backup,
        server: str,
        state_dir: Path,
        *,
        stop: threading.Event,
        pass_fds: Sequence[int] = (),
    ) -> Target:
        """Return it; TargetError."""


class _Server(Protocol):
    @property
    def name(self) -> str: ...


class Settings(Protocol):
    """The part of the configuration that is needed here."""

    @property
    def server(self) -> _Server:
        """[server]."""

    @property
    def backup(self) -> Sequence[backup_config.Backup]:
        """[[backup]]."""


@dataclass(frozen=True)
class Places:
    """Where things lie on this server."""

    runs_dir: Path
    state_dir: Path
    journal: Path

    def staging(self, target: str, *, state: bool) -> Path:
        """The folder for private copies: on the disk of what is copied."""
        return self.state_dir / "backup" / target / "staging" if state else self.runs_dir / STAGING / target


def _nothing(step: str) -> None:
    """Nobody wants to know which step comes."""


class BackerUp:
    """Carries out BackUp."""

    def __init__(
        self,
        settings_of: Callable[[], Settings],
        places: Places,
        now: Callable[[], float],
        stop: threading.Event,
        *,
        opening: Opening = open_target,
        before_step: Callable[[str], None] = _nothing,
    ) -> None:
        """`now` is the files' clock. Once `stop` is set, transfers end with the cause "stopped".

        `before_step` is told each step before it is taken.
        """
        self._settings_of = settings_of
        self._places = places
        self._now = now
        self._stop = stop
        self._opening = opening
        self._before_step = before_step

    def __call__(self, action: BackUp) -> tuple[BackedUp | BackupFailed, ...]:
        """Answer with BackedUp or BackupFailed. Again goes on where it was cut off, and does no harm.

        Raises RetryableError while a program of an earlier daemon still works on the target.
        """
        began = time.monotonic()
        settings = self._settings_of()
        chosen = next((one for one in settings.backup if one.name == action.target), None)
        if chosen is None:
            return (self._failed(action, "failed", f"there is no [[backup]] named {action.target!r} any more"),)
        with locks.alone(self._places.state_dir, action.target) as lock, self._told(action) as problems:
            forget_others(self._places.runs_dir / STAGING, {one.name for one in settings.backup})
            server = settings.server.name or socket.gethostname()
            target = self._opening(chosen, server, self._places.state_dir, stop=self._stop, pass_fds=(lock,))
            with closing(target):
                done = self._back_up(action, chosen, target, server)
            return (msgspec.structs.replace(done, seconds=round(time.monotonic() - began, 3)),)
        return tuple(problems)

    def _back_up(self, action: BackUp, settings: backup_config.Backup, target: Target, server: str) -> BackedUp:
        staging = Staging(self._places.staging(action.target, state=action.job is None))
        self._before_step("target")
        facts = target.facts()
        vault = ownership.claim(target, self._places.state_dir, server, self._now())
        with contextlib.closing(self._source(action, settings)) as source:
            noted = partial(remember, self._places.state_dir, action.target)
            transaction = _Transaction(
                action, source, target, staging, server, self._now, self._stop, self._before_step, facts, noted
            )
            done = transaction.run(known_damaged(self._places.state_dir, action.target))
        return msgspec.structs.replace(done, vault=vault)

    def _source(self, action: BackUp, settings: backup_config.Backup) -> Source:
        if action.job is None:
            return StateSource(self._places.journal, action.why)
        return RunSource(self._places.runs_dir, action, action.job, settings)

    @contextlib.contextmanager
    def _told(self, action: BackUp) -> Iterator[list[BackupFailed]]:
        """Turn what goes wrong into an answer."""
        problems: list[BackupFailed] = []
        try:
            yield problems
        except (TargetError, NotBackedUpError) as error:
            problems.append(self._failed(action, error.cause, str(error)))
        except NoRoomError as error:
            problems.append(self._failed(action, "no-room", str(error)))
        except (RetryableError, sqlite3.Error) as error:
            problems.append(self._failed(action, "source", str(error)))
        except OSError as error:
            cause = "no-room" if error.errno in _NO_ROOM else "source"
            problems.append(self._failed(action, cause, f"{error.filename or action.run}: {error.strerror or error}"))

    def _failed(self, action: BackUp, cause: str, text: str) -> BackupFailed:
        return BackupFailed(
            at=self._now(), origin="backup", target=action.target, run=action.run, cause=cause, text=text
        )


@dataclass
class _Transaction:
    """One snapshot of one source on one target."""

    action: BackUp
    source: Source
    target: Target
    staging: Staging
    server: str
    now: Callable[[], float]
    stop: threading.Event
    before_step: Callable[[str], None]
    facts: Facts
    remember: Callable[[Manifest], None]

    def run(self, damaged: frozenset[str]) -> BackedUp:
        """All steps; or, where an earlier try of this action came as far as the manifest, the last ones."""
        folder = self.source.folder
        self.before_step("listing")
        holdings = Holdings(self.target, folder)
        record = self.staging.record(self.now())
        if record is not None and record.key == self.action.key:
            made = holdings.manifest(folder, record.snapshot) if _is_whole(record, holdings) else None
            if made is not None:
                newest = made.newest()
                return self._finished(Draft(made, newest.epoch if newest is not None else 0))
        if record is not None:
            record = self._taken_up(record, holdings)
        before = _believed(folder, holdings, damaged)
        there = _there(folder, before, holdings, damaged)
        record = record or self._begun(holdings)
        scene = Scene(
            self.target, self.server, before, there, record, self.staging.folder(record), self.now(), self.stop
        )
        return self._made(scene, holdings)

    # ---- which snapshot
    def _taken_up(self, record: Record, holdings: Holdings) -> Record | None:
        """The snapshot of this source that was under way, to be gone on with; any other one is let go of."""
        is_ours = record.folder == self.source.folder and not _is_whole(record, holdings)
        if is_ours and self.now() - record.begun_at < OLDEST_S:
            return self.staging.begin(msgspec.structs.replace(record, key=self.action.key))
        self._abandon(record, Holdings(self.target, record.folder))
        return None

    def _abandon(self, record: Record, left: Holdings) -> None:
        """Remove what an interrupted snapshot left, there and here. One that has its manifest is none."""
        self.before_step("abandon")
        prefix = f"{record.folder}/{record.snapshot}/"
        if _is_whole(record, left):
            self.target.put(f"{record.folder}/{LATEST}", left.snapshots(record.folder)[0].encode())
        elif not self.target.append_only:
            retention.remove(self.target, [path for path in left.sizes if path.startswith(prefix)])
        self.staging.clear()

    def _begun(self, holdings: Holdings) -> Record:
        """A new one. It is the newest by its name, whatever the clock says."""
        self.before_step("begin")
        folder, now = self.source.folder, self.now()
        newest = max(map(stored_at, holdings.snapshots(folder)[:1]), default=0.0)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(max(now, newest + 1.0)))
        name = snapshot_name(self.source.epoch, stamp, secrets.token_hex(4))
        return self.staging.begin(Record(key=self.action.key, folder=folder, snapshot=name, begun_at=now, boot=""))

    # ---- making it
    def _made(self, scene: Scene, holdings: Holdings) -> BackedUp:
        while True:
            self.before_step("stage")
            draft = self.source.stage(scene)
            self.staging.note(scene.record)
            if is_unchanged(draft.manifest, scene.before):
                return self._unchanged(scene, draft, holdings)
            if self._sent(scene, draft):
                break
            holdings = Holdings(self.target, self.source.folder)
        self.before_step("fence")
        self.source.demand_ours()
        self.before_step("manifest")
        self._put_manifest(draft.manifest)
        return self._finished(draft)

    def _sent(self, scene: Scene, draft: Draft) -> bool:
        """Send and read back, while the ledger's copies are hashed beside it. False: some are not what they were."""
        given_up = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="backup-hash") as pool:
            proof = pool.submit(self.source.prove, scene, given_up)
            try:
                self._send(scene, draft)
            except BaseException:
                given_up.set()
                raise
            return proof.result()

    def _send(self, scene: Scene, draft: Draft) -> None:
        if not draft.sent:
            return
        under = f"{self.source.folder}/{scene.record.snapshot}"
        self.before_step("send")
        self.target.send(scene.folder, under)
        self.before_step("read back")
        if self.target.differing(scene.folder, under):
            self.before_step("send again")
            self.target.send(scene.folder, under)
            wrong = self.target.differing(scene.folder, under)
            if wrong:
                raise TargetError("broken", f"{len(wrong)} files came out otherwise there, among them {wrong[0]}")

    def _put_manifest(self, manifest: Manifest) -> None:
        path = f"{self.source.folder}/{manifest.snapshot}/{MANIFEST}"
        data = msgspec.json.encode(manifest)
        self.target.put(path, data)
        if self.target.read(path) != data:
            if not self.target.append_only:
                self.target.remove([path])
            raise TargetError("broken", f"{path} came out otherwise there")

    # ---- afterwards
    def _finished(self, draft: Draft) -> BackedUp:
        """It is a snapshot now: point at it, let go of old ones, and forget what was staged."""
        folder, made = self.source.folder, draft.manifest
        self.before_step("latest")
        self.target.put(f"{folder}/{LATEST}", made.snapshot.encode())
        self.before_step("let go")
        left = Holdings(self.target, folder)
        removed = retention.let_go(self.target, folder, left, made, self.source.snapshots, just_made=True)
        self.before_step("clear")
        self.staging.clear()
        self.before_step("answer")
        sent = draft.sent
        return self._event(draft, removed=removed, sent_files=len(sent), sent_bytes=sum(one.bytes for one in sent))

    def _unchanged(self, scene: Scene, draft: Draft, holdings: Holdings) -> BackedUp:
        """Nothing is new: the last snapshot stands for this one."""
        self.before_step("unchanged")
        self._abandon(scene.record, holdings)
        removed = 0
        if scene.before is not None:
            draft = Draft(scene.before, draft.kept_epoch)
            folder, most = self.source.folder, self.source.snapshots
            removed = retention.let_go(self.target, folder, holdings, scene.before, most, just_made=False)
        return self._event(draft, removed=removed, unchanged=True)

    def _event(self, draft: Draft, **facts: Any) -> BackedUp:
        manifest = draft.manifest
        newest = manifest.newest()
        self.remember(manifest)
        if manifest.left_out:
            log.info("%s: left out: %s", self.action.key, "; ".join(manifest.left_out[:5]))
        return BackedUp(
            at=self.now(),
            origin="backup",
            target=self.action.target,
            run=self.action.run,
            snapshot=manifest.snapshot,
            epoch=newest.epoch if newest is not None else 0,
            kept_epoch=draft.kept_epoch,
            files=len(manifest.files),
            bytes=manifest.bytes,
            ended=manifest.ended,
            free_bytes=self.facts.free_bytes,
            warning=self.facts.warning,
            **facts,
        )


def _is_whole(record: Record, holdings: Holdings) -> bool:
    return record.snapshot in holdings.snapshots(record.folder)


def _believed(folder: str, holdings: Holdings, damaged: frozenset[str]) -> Manifest | None:
    """The newest manifest that can be read, and that nobody found to be another one than it was."""
    manifests = holdings.manifests(folder)
    return next((one for one in manifests if f"{folder}/{one.snapshot}/{MANIFEST}" not in damaged), None)


def _there(folder: str, before: Manifest | None, holdings: Holdings, damaged: frozenset[str]) -> dict[str, Any]:
    """Of the last snapshot's files those that lie there with their size, and that nobody found damaged."""
    if before is None:
        return {}
    paths = ((file, place(folder, file)) for file in before.files)
    return {file.path: file for file, path in paths if holdings.sizes.get(path) == file.bytes and path not in damaged}
