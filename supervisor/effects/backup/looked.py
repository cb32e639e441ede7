"""What there is on a target by its manifests, what is wrong with it, and how much of that matters.

Of each training the newest manifest is what a restore takes: whatever is wrong with its files matters until it is
mended. What only older snapshots hold cannot be sent again: it is told for a while where nothing else there has the
same bytes, and then nobody can do anything about it any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from supervisor.core.backups.manifest import MANIFEST, Manifest, Stored, newest_first
from supervisor.effects.backup import fetched, retention
from supervisor.effects.backup.fetched import Holdings
from supervisor.effects.backup.read_record import Record

MOST_TOLD = 1000  # damaged paths in one answer, besides one of each run: it is written to the journal
TOLD_S = 7 * 86400.0
MISSING = "is missing"


@dataclass
class Look:
    """One verification: what there is, what is to be read, what was found."""

    record: Record
    now: float
    files: dict[str, Stored] = field(default_factory=dict)  # by path on the target
    damaged: dict[str, str] = field(default_factory=dict)
    urgent: set[str] = field(default_factory=set)  # paths that a restore would need
    manifests: set[str] = field(default_factory=set)  # that are there, as paths
    count: int = 0
    bytes: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    # ---- what there is
    def collect(self, holdings: Holdings, snapshots: int) -> None:
        """All files of the manifests that stay (see retention.chosen); what needs no reading is known at once."""
        for folder in holdings.folders:
            names = holdings.snapshots(folder)
            self.manifests |= {f"{folder}/{name}/{MANIFEST}" for name in names}
            self.urgent.add(f"{folder}/{names[0]}/{MANIFEST}")
            manifests = list(holdings.manifests(folder))
            for manifest in manifests:
                self._compare_manifest(holdings, folder, manifest.snapshot)
            self._collect_files(holdings, folder, retention.chosen(manifests, snapshots)[0] if manifests else [])
            self.damaged |= dict.fromkeys(holdings.damaged(folder), "cannot be read")

    def _collect_files(self, holdings: Holdings, folder: str, manifests: Iterable[Manifest]) -> None:
        trainings: set[str] = set()
        for manifest in manifests:
            newest = manifest.mark not in trainings
            trainings.add(manifest.mark)
            for file in manifest.files:
                path = fetched.place(folder, file)
                self.files[path] = file
                size = holdings.sizes.get(path)
                if size != file.bytes:
                    self.damaged[path] = MISSING if size is None else f"has {size} bytes, not {file.bytes}"
                if newest:
                    self.urgent.add(path)

    def _compare_manifest(self, holdings: Holdings, folder: str, snapshot: str) -> None:
        data, path = holdings.bytes_of(folder, snapshot), f"{folder}/{snapshot}/{MANIFEST}"
        digest = sha256(data or b"").hexdigest()
        known = self.record.manifests.get(path) or digest  # empty: it was missing, and nobody had seen it
        self.record.manifests[path] = known
        if known != digest:
            self.damaged[path] = "is not what it was"

    # ---- what is not there any more
    def miss(self, expected: Mapping[str, str]) -> None:
        """Notice snapshots that are gone: `expected` ones by project/name, and the newest ever seen of each folder.

        A newer one that is there will do: then older ones were let go of.
        """
        there = _newest(self.manifests)
        wanted = {f"{fetched.RUNS_FOLDER}/{name}": snapshot for name, snapshot in expected.items()}
        for folder, snapshot in [*_newest(self.record.manifests).items(), *wanted.items()]:
            newest = newest_first([snapshot, *([there[folder]] if folder in there else [])])
            if not newest or there.get(folder) == newest[0]:
                continue
            path = f"{folder}/{snapshot}/{MANIFEST}"
            if wanted.get(folder) == snapshot:
                self.urgent.add(path)
            self.damaged[path] = MISSING
            self.record.manifests.setdefault(path, "")

    # ---- what matters
    def forget(self) -> None:
        """What no manifest names any more has no place in the record: it stays as large as the listing."""
        record = self.record
        record.read = {path: at for path, at in record.read.items() if path in self.files}
        record.damaged = {path: why for path, why in record.damaged.items() if path in self.files}
        found = {**record.damaged, **self.damaged}
        record.since = {path: record.since.get(path, self.now) for path in found}
        staying = self.manifests | {path for path in self.damaged if path in self.urgent or self._is_recent(path)}
        record.manifests = {path: digest for path, digest in record.manifests.items() if path in staying}

    def note(self) -> None:
        """Let the record have what was found: known damage stays until the file is read again and right."""
        self.damaged = {**self.record.damaged, **self.damaged}
        self.record.damaged = dict(self.damaged)
        self.record.since = {path: self.record.since.get(path, self.now) for path in self.damaged}

    def told(self) -> tuple[str, ...]:
        """The damaged paths that matter, in order; at least one of each run, and at most MOST_TOLD more."""
        whole: set[tuple[str, str, int]] = set()
        if any(path not in self.urgent for path in self.damaged):
            whole = {_content(path, file) for path, file in self.files.items() if path not in self.damaged}
        told = sorted(path for path in self.damaged if path in self.urgent or self._is_told(path, whole))
        first = {_folder(path): path for path in reversed(told)}
        more = [path for path in told if first[_folder(path)] != path]
        return tuple(sorted([*first.values(), *more[:MOST_TOLD]]))

    def _is_told(self, path: str, whole: set[tuple[str, str, int]]) -> bool:
        """Of an older snapshot: a file that nothing else there can stand for, a manifest that is gone; for a time."""
        file = self.files.get(path)
        lacking = path not in self.manifests if file is None else _content(path, file) not in whole
        return lacking and self._is_recent(path)

    def _is_recent(self, path: str) -> bool:
        return self.now - self.record.since.get(path, self.now) < TOLD_S


def _folder(path: str) -> str:
    """The folder of a run (or the state's) that a path of a snapshot lies in."""
    return "/".join(path.split("/")[: 3 if path.startswith(f"{fetched.RUNS_FOLDER}/") else 1])


def _content(path: str, file: Stored) -> tuple[str, str, int]:
    """What is the same for all places that can stand for one another."""
    return (_folder(path), file.sha256, file.bytes)


def _newest(manifests: Iterable[str]) -> dict[str, str]:
    """Of paths of manifests the newest snapshot of each folder."""
    names: dict[str, list[str]] = {}
    for path in manifests:
        folder, _, name = path.removesuffix(f"/{MANIFEST}").rpartition("/")
        names.setdefault(folder, []).append(name)
    return {folder: newest[0] for folder, found in names.items() if (newest := newest_first(found))}
