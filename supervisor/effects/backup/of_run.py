"""A run directory as what is backed up."""

from __future__ import annotations

import errno
import math
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path, PurePath

import msgspec

from supervisor import backup_config, layout
from supervisor.core.actions import BackUp
from supervisor.core.backups.manifest import Checkpoint, Manifest, Stored, run_folder
from supervisor.core.checkpoints import WHOLE
from supervisor.core.job import Job
from supervisor.core.ledger import Entry, Ledger
from supervisor.effects import checkpoints, ledger
from supervisor.effects.backup import guards, kept
from supervisor.effects.backup.collect import Collected, Seen, Tree, collect, is_final
from supervisor.effects.backup.guards import NotBackedUpError
from supervisor.effects.backup.sources import Draft, Scene, stored
from supervisor.effects.backup.staging import TRIES, ChangingError, Copied, Copier
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.private_copy import sha256_of
from supervisor.trainers import trainer_for

#: About this one file: the others can be had all the same.
_OF_ONE_FILE = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG})
HELD = "; an older copy is held"


class RunSource:
    """A Source: one run, as its directory is now."""

    def __init__(self, runs_dir: Path, action: BackUp, job: Job, settings: backup_config.Backup) -> None:
        """Raises NotBackedUpError where there is no such directory or it is somebody else's, OSError."""
        self.folder = run_folder(job.project, job.name)
        self.snapshots = settings.snapshots
        self._runs_dir = runs_dir
        self._action = action
        self._job = job
        self._policy = settings.keep
        self._dir = layout.run_directory(runs_dir, job.project, job.name)
        self._damaged: set[str] = set()
        self._new: dict[str, Entry] = {}
        self._tree = self._opened()
        try:
            self._token = guards.token_of(self._tree)
            guards.demand_fence(self._token, action.token, action.phase)
            self._ledger = ledger.read(self._dir)
        except BaseException:
            self._tree.close()
            raise
        self.epoch = kept.Kept(self._ledger, {}, {}).epoch

    def _opened(self) -> Tree:
        try:
            return Tree(self._runs_dir, self._job.project, self._job.name)
        except (FileNotFoundError, NotADirectoryError):
            if not (self._runs_dir / guards.VOLUME).exists():
                text = f"{self._dir.root} is not there, nor what marks the file system of {self._runs_dir}"
                raise NotBackedUpError("moved", text) from None
            raise NotBackedUpError("empty", f"{self._dir.root} is not there") from None

    def close(self) -> None:
        """See Source."""
        self._tree.close()

    def demand_ours(self) -> None:
        """See Source."""
        found = guards.token_of(self._tree)
        if found != self._token:
            raise NotBackedUpError("stale", f"the run directory's token became {found}, it was {self._token}")

    def stage(self, scene: Scene) -> Draft:
        """See Source."""
        mark = guards.mark_of(self._tree)
        volume = guards.volume_of(self._runs_dir, self._tree)
        found = collect(self._tree, self._checkpoint_paths(), ended=self._action.ended)
        self._guard(scene.before, found, mark, volume)
        copier = Copier(self._tree, scene.folder, scene.record.copied, scene.stop)
        same = guards.is_same_training(scene.before, mark)
        chosen, linked = self._linked(copier, scene, same=same)
        self._new = dict(chosen.new)
        files = {**chosen.there, **linked, **(self._finals_only_there(scene) if same else {})}
        self._stage_files(copier, scene, found, files)
        if chosen.ledger.entries:
            files[kept.LEDGER] = _ledger_file(copier, chosen.ledger, scene)
        finals = self._finals(scene, files, found, same=same)
        if not mark and scene.before is not None:
            mark = scene.before.mark
        wanted = {path for path, one in files.items() if one.at == scene.record.snapshot}
        _keep_only(scene.folder, wanted)
        manifest = self._manifest(scene, files, (*finals, *chosen.checkpoints()))
        named = msgspec.structs.replace(manifest, mark=mark, volume=volume, left_out=tuple(found.left_out))
        return Draft(named, chosen.kept_epoch(self._ledger))

    def _checkpoint_paths(self) -> Iterable[str]:
        for path in trainer_for(self._job).checkpoints(self._job, self._dir):
            if path.is_relative_to(self._dir.root):
                yield str(path.relative_to(self._dir.root))

    def _guard(self, before: Manifest | None, found: Collected, mark: str, volume: str) -> None:
        guards.demand_something(found.files, len(self._ledger.entries), self._dir.root)
        if self._action.accept:
            return
        guards.demand_place(before, mark, volume)
        if guards.is_same_training(before, mark):
            guards.demand_size(before, found.files)

    # ---- checkpoints
    def _linked(self, copier: Copier, scene: Scene, *, same: bool) -> tuple[kept.Kept, dict[str, Stored]]:
        """The checkpoints that the snapshot has; those that are new are staged, before anything that takes long.

        A save may push one out of the ledger just then, or replace it. Raises NotBackedUpError "changed" if that
        happens again and again.
        """
        for _ in range(TRIES):
            chosen = self._chosen(scene, same=same)
            try:
                linked = {path: _link(copier, path, one, scene.record.snapshot) for path, one in chosen.new.items()}
            except FileNotFoundError:
                linked = None
            before, self._ledger = self._ledger, ledger.read(self._dir)
            if linked is not None and not _replaced(before, self._ledger):
                return chosen, linked
        raise NotBackedUpError("changed", "its ledger changed whenever it was copied")

    def _chosen(self, scene: Scene, *, same: bool) -> kept.Kept:
        older: dict[str, Entry] = {}
        if scene.before is not None and same:
            names = {f"good/{entry.file}" for entry in self._ledger.entries} - {f"good/{one}" for one in self._damaged}
            if any(one.path.startswith("good/") and one.path not in names for one in scene.before.checkpoints):
                older = kept.older_entries(scene.target, self.folder, scene.before, self._dir)
        there = scene.there if same else {}
        return kept.choose(self._ledger, older, there, self._policy, self._damaged)

    def _finals_only_there(self, scene: Scene) -> dict[str, Stored]:
        """The final weights that only the target has: here they were left to it, or lost."""
        finals = {path: one for path, one in scene.there.items() if is_final(path) and path.startswith("train/")}
        return {path: one for path, one in finals.items() if not self._tree.has(path)}

    # ---- staging
    def _stage_files(self, copier: Copier, scene: Scene, found: Collected, files: dict[str, Stored]) -> None:
        """Enter all other files into `files`: those that lie there already, and those that are staged now."""
        changed = []
        for seen in found.files:
            known = scene.there.get(seen.path)
            if known is not None and (known.bytes + known.holes, known.mtime_ns) == (seen.bytes, seen.mtime_ns):
                files[seen.path] = known
            else:
                changed.append(seen)
        guards.demand_room(scene.folder, sum(min(one.bytes, one.blocks * 512) for one in changed))
        for seen in changed:
            self._stage_one(copier, seen, scene, found, files)

    def _stage_one(self, copier: Copier, seen: Seen, scene: Scene, found: Collected, files: dict[str, Stored]) -> None:
        """Stage one file; of one that cannot be had now the last snapshot's copy is held on to, if there is one."""
        try:
            files[seen.path] = stored(seen.path, copier.copy(seen), scene.record.snapshot)
        except FileNotFoundError:
            return
        except ChangingError as error:
            if is_final(seen.path):
                raise NotBackedUpError("changed", str(error)) from error
            self._leave(seen, f"{error}", scene, found, files)
        except OSError as error:
            if error.errno not in _OF_ONE_FILE:
                raise
            self._leave(seen, f"{seen.path}: {error.strerror}", scene, found, files)

    @staticmethod
    def _leave(seen: Seen, why: str, scene: Scene, found: Collected, files: dict[str, Stored]) -> None:
        older = scene.there.get(seen.path)
        if older is not None:
            files[seen.path] = older
        found.leave_out(f"{why}{HELD}" if older is not None else why)

    def _finals(self, scene: Scene, files: dict[str, Stored], found: Collected, *, same: bool) -> list[Checkpoint]:
        """What the weights of an ended run are, by a look into the staged copies; those that are not whole go out.

        The copy of the last snapshot is held on to then, if it is of the same training.
        """
        paths = [path for path in files if is_final(path) and path.startswith("train/")]
        staged = [path for path in paths if files[path].at == scene.record.snapshot]
        looked = zip(staged, checkpoints.look([scene.folder / path for path in staged]), strict=True)
        there = {*paths} - {*staged}
        result = []
        for path, one in looked:
            if one.state not in WHOLE:
                del files[path]
                older = scene.there.get(path) if same else None
                if older is not None:
                    files[path] = older
                    there.add(path)
                found.leave_out(f"{path}: {one.state}: {one.reason}{HELD if older is not None else ''}")
                continue
            epochs, epoch, attempt = one.epochs, one.done_epochs, self._action.attempt
            version = one.version or ""
            result.append(
                Checkpoint(
                    path=path, epoch=epoch, attempt=attempt, state=one.state, epochs=epochs, trainer_version=version
                )
            )
        result += [one for one in (scene.before.checkpoints if scene.before else ()) if one.path in there]
        return sorted(result, key=lambda checkpoint: checkpoint.path)

    # ---- proof and manifest
    def prove(self, scene: Scene, given_up: threading.Event) -> bool:
        """See Source: the ledger's copies were hashed when they were made; once more, before they are counted on."""
        for path, entry in self._new.items():
            if given_up.is_set() or scene.stop.is_set():
                raise TargetError("stopped", "interrupted")
            if not _is(scene.folder / path, entry):
                self._damaged.add(PurePath(path).name)
        return not self._damaged & {PurePath(path).name for path in self._new}

    def _manifest(self, scene: Scene, files: dict[str, Stored], found: tuple[Checkpoint, ...]) -> Manifest:
        action, job, progress = self._action, self._job, self._action.progress
        return Manifest(
            server=scene.server,
            snapshot=scene.record.snapshot,
            created_at=scene.now,
            run=action.run,
            project=job.project,
            name=job.name,
            phase=action.phase,
            revision=job.revision,
            attempt=action.attempt,
            token=self._token,
            epoch=progress.epoch,
            epochs=progress.epochs,
            metrics={name: value for name, value in progress.metrics.items() if math.isfinite(value)},
            trainer_version=job.trainer_version,
            python=job.python,
            files=tuple(files[path] for path in sorted(files)),
            checkpoints=found,
            ended=action.ended,
            by=action.why,
        )


def _replaced(before: Ledger, after: Ledger) -> bool:
    """True if a name of the ledger stands for other bytes now. One that is gone does no harm once it is staged."""
    known = {entry.file: entry.sha256 for entry in before.entries}
    return any(known.get(entry.file, entry.sha256) != entry.sha256 for entry in after.entries)


def _link(copier: Copier, path: str, entry: Entry, snapshot: str) -> Stored:
    status = copier.link(path)
    copied = Copied(entry.sha256, status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode) & 0o644)
    return stored(path, copied, snapshot)


def _ledger_file(copier: Copier, chosen: Ledger, scene: Scene) -> Stored:
    """good/ledger.json as the snapshot has it: it names the copies that are in the snapshot, and no others.

    So what is restored is a ledger already, with its lines and with what is distrusted.
    """
    known = scene.there.get(kept.LEDGER)
    copied = copier.write(kept.LEDGER, msgspec.json.encode(chosen), int(scene.now * 1e9))
    if known is not None and known.sha256 == copied.sha256:
        return known
    return stored(kept.LEDGER, copied, scene.record.snapshot)


def _is(path: Path, entry: Entry) -> bool:
    try:
        return path.stat().st_size == entry.size_bytes and sha256_of(path) == entry.sha256
    except OSError:  # a disk that cannot give the bytes back has lost them
        return False


def _keep_only(folder: Path, wanted: set[str]) -> None:
    """Remove what an interrupted try staged and this one does not send."""
    paths = {f"{folder}/{path}" for path in wanted}
    for parent, _, names in os.walk(folder):
        for name in names:
            if f"{parent}/{name}" not in paths:
                Path(parent, name).unlink()
