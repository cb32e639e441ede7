"""What is let go of on a target. Whatever moment it is interrupted at, each manifest there has all of its files.

The manifest of a dropped snapshot goes first: from then on its folder is that of no snapshot, and what no manifest
needs is removed from there, now or by a later backup. Folders of snapshots that stay lose nothing but the rests of
interrupted transfers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from supervisor.core.backups.manifest import MANIFEST, Manifest, is_snapshot
from supervisor.effects.backup.fetched import Holdings
from supervisor.effects.backup.targets.base import MOST_REMOVED, Target

STATE_SNAPSHOTS = 3
MOST_DROPPED = 20  # snapshots that one backup lets go of: more is odd, and the next one goes on
MOST_CALLS = 4
#: Of rsync (partial folder, temporary name) and of our own copies: see targets/.
_REST = re.compile(
    r"(.*/)?(\.rsync-partial/.*|\.~tmp~/.*|\.[^/]+\.[A-Za-z0-9]{6}|\.[^/]+\.part|[^/]+\.partial)", re.DOTALL
)


def chosen(manifests: Sequence[Manifest], snapshots: int) -> tuple[list[Manifest], list[Manifest]]:
    """Those that stay and those that go, of all (the newest first): the newest `snapshots` of the present training.

    Of each older training of that name (and of each lost journal) the newest one stays: nothing here can say that
    nobody wants it any more.
    """
    kept: list[Manifest] = []
    dropped: list[Manifest] = []
    seen: dict[str, int] = {}
    for manifest in manifests:
        most = snapshots if manifest.mark == manifests[0].mark else 1
        seen[manifest.mark] = seen.get(manifest.mark, 0) + 1
        (kept if seen[manifest.mark] <= most else dropped).append(manifest)
    return kept, dropped


def unreferenced(folder: str, paths: Collection[str], kept: Sequence[Manifest], current: str) -> list[str]:
    """Of the files below a run's folder on a target those that nobody needs, as paths there.

    `current` is the snapshot just made, or "": what an earlier try sent into its folder and its manifest does not name,
    goes.
    """
    needed = {f"{folder}/{one.at}/{one.path}" for manifest in kept for one in manifest.files}
    staying = {manifest.snapshot for manifest in kept} - {current}
    found = []
    for path in paths:
        snapshot, _, rest = path.removeprefix(f"{folder}/").partition("/")
        if not rest or not is_snapshot(snapshot) or path in needed:
            continue
        if rest == MANIFEST and snapshot in staying | {current}:
            continue
        if snapshot not in staying or _REST.fullmatch(rest):
            found.append(path)
    return sorted(found)


def let_go(
    target: Target, folder: str, holdings: Holdings, newest: Manifest, snapshots: int, *, just_made: bool
) -> int:
    """Let go of what is too old there, a bounded part of it; how many files were removed. Raises TargetError.

    `holdings` is the folder as it was listed when `newest` was there; `just_made`: by this very transaction. Where one
    manifest cannot be read nothing is removed: nobody knows which files it needs.
    """
    current = newest if just_made else None
    if target.append_only or not _has_too_much(folder, holdings, current, snapshots):
        return 0
    manifests = list(holdings.manifests(folder))
    if holdings.damaged(folder) or not any(one.snapshot == newest.snapshot for one in manifests):
        return 0
    kept, dropped = chosen(manifests, snapshots)
    going, later = dropped[-MOST_DROPPED:], dropped[:-MOST_DROPPED]
    gone = [f"{folder}/{one.snapshot}/{MANIFEST}" for one in going]
    removed = target.remove(gone) if gone else 0
    paths = [path for path in holdings.sizes if path.startswith(f"{folder}/") and path not in gone]
    files = unreferenced(folder, paths, [*kept, *later], current.snapshot if current is not None else "")
    return removed + remove(target, files)


def _has_too_much(folder: str, holdings: Holdings, current: Manifest | None, snapshots: int) -> bool:
    """False where a look at the names is enough: then no manifest is read."""
    whole = set(holdings.snapshots(folder))
    own = {file.path for file in current.files if file.at == current.snapshot} | {MANIFEST} if current else set()
    for path in holdings.sizes:
        name, _, rest = path.removeprefix(f"{folder}/").partition("/")
        if current is not None and name == current.snapshot and rest not in own:
            return True
        if is_snapshot(name) and (name not in whole or _REST.fullmatch(rest)):
            return True
    return len(whole) > snapshots


def remove(target: Target, files: Sequence[str]) -> int:
    """Remove files, a bounded number; how many were there. Raises TargetError."""
    batches = [files[start : start + MOST_REMOVED] for start in range(0, len(files), MOST_REMOVED)]
    return sum(target.remove(batch) for batch in batches[:MOST_CALLS])
