"""Bring all files of a run's snapshot into a folder, a part at a time; again goes on where it was interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.core.backups.manifest import Manifest, Stored
from supervisor.effects.backup import fetched, placing
from supervisor.effects.backup.fetched import Fetcher, Holdings
from supervisor.errors import UserError
from supervisor.units import format_size

if TYPE_CHECKING:
    from supervisor.effects.backup.targets.base import Target

PART_BYTES = 1024**3
FIRST = "token"  # whose folder it is must be known before anything else is in it

#: Told now and then: how many bytes of so many are in place.
Progress = Callable[[int, int], None]


def ignore(done_bytes: int, total_bytes: int) -> None:
    """Nobody wants to know."""


class NoSuchBackupError(UserError):
    """No run, or more than one, is meant by a name."""


@dataclass
class Brought:
    """What came of it: files in place, files that were there already, and by path what is not to be had and why."""

    files: int = 0
    bytes: int = 0
    there: int = 0
    wrong: dict[str, str] = field(default_factory=dict)


def missing(manifest: Manifest, root: Path) -> list[Stored]:
    """The files of a snapshot of which nothing of that name is below `root`, in the order in which they are brought."""
    files = [file for file in manifest.files if not _is_there(root / file.path)]
    return sorted(files, key=lambda file: (file.path != FIRST, file.path))


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def bring(
    holdings: Holdings,
    folder: str,
    manifest: Manifest,
    root: Path,
    scratch: Path,
    *,
    stop: threading.Event | None = None,
    progress: Progress = ignore,
) -> Brought:
    """Put every file that is missing below `root` in its place, compared with its sha256; nothing is replaced.

    `scratch` is used and removed. Raises TargetError, NoRoomError, OSError; what is in place then, stays.
    """
    files = missing(manifest, root)
    brought, total = Brought(there=len(manifest.files) - len(files)), sum(file.bytes for file in files)
    fetched.demand_room(root, total)
    root.mkdir(parents=True, exist_ok=True)
    by_path = {file.path: file for file in files}
    for part in fetched.batches(list(by_path), lambda path: by_path[path].bytes, PART_BYTES):
        with fetched.scratch_folder(scratch):
            fetcher = Fetcher(holdings, scratch, stop)
            _place(fetcher, folder, [by_path[path] for path in part], root, brought)
        progress(brought.bytes, total)
    return brought


def _place(fetcher: Fetcher, folder: str, files: Sequence[Stored], root: Path, brought: Brought) -> None:
    got = fetcher.fetch(folder, files)
    brought.wrong |= got.wrong
    for file in files:
        if file.path in got.files:
            placing.put_in_place(got.files[file.path], root, file)
            brought.files += 1
            brought.bytes += file.bytes


# ---- one run
def epoch_of(manifest: Manifest) -> int:
    """The epoch with which a restored run goes on; 0 without a checkpoint."""
    newest = manifest.newest()
    return newest.epoch if newest is not None else 0


def restore_one(target: Target, name: str, to: Path, say: Callable[[str], None]) -> tuple[Manifest, Brought]:
    """Fetch the newest backup of a run (NAME or PROJECT/NAME) into a new folder; works at any time.

    Raises NoSuchBackupError, UserError for a folder that has files, TargetError, NoRoomError, OSError.
    """
    if to.is_symlink() or (to.exists() and (not to.is_dir() or any(path.name != ".fetching" for path in to.iterdir()))):
        raise UserError(f"{to} is there already: give a folder that does not exist yet, or an empty one")
    holdings = Holdings(target)
    found = [folder for folder in holdings.folders if folder.endswith(f"/{name}") or folder == f"runs/{name}"]
    if len(found) != 1:
        raise NoSuchBackupError(_not_one(target.name, name, found, holdings))
    manifest = holdings.newest(found[0])
    if manifest is None:
        raise NoSuchBackupError(f"no manifest of {name} on {target.name} can be read")
    say(f"{manifest.snapshot}: {len(manifest.files)} files, {format_size(manifest.bytes)}, epoch {epoch_of(manifest)}")

    def progress(done_bytes: int, total_bytes: int) -> None:
        say(f"{format_size(done_bytes)} of {format_size(total_bytes)}")

    to.mkdir(parents=True, exist_ok=True)
    brought = bring(holdings, found[0], manifest, to, to / ".fetching", progress=progress)
    return manifest, brought


def _not_one(target: str, name: str, found: list[str], holdings: Holdings) -> str:
    if found:
        names = ", ".join(folder.removeprefix("runs/") for folder in found)
        return f"{name} could be any of {names}: give PROJECT/NAME"
    held = ", ".join(folder.removeprefix("runs/") for folder in holdings.folders[:20]) or "no run at all"
    return f"backup target {target} has no backup of a run {name}; it holds {held}"
