"""What the backups of a run hold, by the manifests of their newest snapshots: pruning counts on nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from supervisor.core.backups import targets
from supervisor.core.backups.manifest import Manifest
from supervisor.core.checkpoints import TORCH_SUFFIXES
from supervisor.core.ledger import Entry
from supervisor.core.model import Run, World
from supervisor.effects.backup.remembered import remembered

#: What a person could not have again if it went: what a backup left out of these holds the run.
WEIGHTS_SUFFIXES = TORCH_SUFFIXES | {".ckpt", ".safetensors", ".onnx", ".engine", ".torchscript"}
_MORE = "and more"


class Proof:
    """The manifests of all targets that a run is backed up to; without any nothing is proven."""

    def __init__(self, manifests: Sequence[Manifest] = ()) -> None:
        """Of the newest snapshot on each target."""
        self._manifests = tuple(manifests)
        self._files = [{file.path: file for file in one.files} for one in manifests]
        self._contents = [{(file.bytes, file.sha256) for file in one.files} for one in manifests]
        self._sizes = [{file.bytes for file in one.files} for one in manifests]

    @property
    def snapshots(self) -> tuple[str, ...]:
        """Which ones they are; none if nothing is proven."""
        return tuple(one.snapshot for one in self._manifests)

    @property
    def ended(self) -> bool:
        """True if each of them was made after the run's end."""
        return bool(self._manifests) and all(one.ended for one in self._manifests)

    @property
    def has_copy(self) -> bool:
        """True if each of them has a checkpoint of an epoch that is known."""
        newest = [one.newest() for one in self._manifests]
        known = [one is not None and one.epoch > 0 for one in newest]
        return bool(known) and all(known)

    def may_have(self, path: str, size: int) -> bool:
        """True if each has a file of that path and size: its content is compared before it goes."""
        stored = [files.get(path) for files in self._files]
        return bool(stored) and all(one is not None and one.bytes == size and not one.holes for one in stored)

    def has(self, path: str, size: int, sha256: str) -> bool:
        """True if each has just this file at this path."""
        return self.may_have(path, size) and all(files[path].sha256 == sha256 for files in self._files)

    def may_have_content(self, size: int) -> bool:
        """True if each has a file of that size, at whatever path."""
        return bool(self._sizes) and all(size in sizes for sizes in self._sizes)

    def has_content(self, size: int, sha256: str) -> bool:
        """True if each has these bytes, at whatever path."""
        return bool(self._contents) and all((size, sha256) in contents for contents in self._contents)

    def of_copies(self, copies: Iterable[Entry], folder: str) -> tuple[Entry, ...]:
        """Those of the ledger's copies that each of them has."""
        return tuple(one for one in copies if self.has(f"{folder}/{one.file}", one.size_bytes, one.sha256))

    def left_out(self, there: Iterable[str]) -> str:
        """What is `there` and was left out of one of them, if a person could not have it again; empty if nothing."""
        paths = frozenset(there)
        for line in (line for one in self._manifests for line in one.left_out):
            path, _, why = line.partition(": ")
            is_link = why in {"a symbolic link", "no plain file"}  # nothing of what it leads to is removed
            if line == _MORE:
                return "more than anybody could list"
            if path in paths and not is_link and PurePath(path).suffix in WEIGHTS_SUFFIXES:
                return path
        return ""


def of(state_dir: Path, world: World, run: Run) -> Proof:
    """What is known of a run's backups now.

    A manifest counts only while the journal has its snapshot as the run's newest one (that is forgotten there as soon
    as anything is found damaged) and its target answered since the daemon started. Where one does not count, none does.
    """
    manifests = []
    for target in targets.of_run(world, run):
        backed = run.backups.get(target)
        found = remembered(state_dir, target, run.job.project, run.name)
        if not world.targets[target].confirmed:
            return Proof()
        if backed is None or found is None or not backed.snapshot or found.snapshot != backed.snapshot:
            return Proof()
        manifests.append(found)
    return Proof(manifests)
