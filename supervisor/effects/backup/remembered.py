"""The newest manifest of each run on each target, as this server knows it without asking the target.

Written when a backup has succeeded, so it says what lay there verified at that moment. What happens to the target
later the journal knows: whoever counts on a manifest compares its snapshot with the journal's.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from supervisor import durable
from supervisor.core.backups.manifest import Manifest


def remembered_file(state_dir: Path, target: str, project: str, name: str) -> Path:
    """Where the manifest of a run lies."""
    return state_dir / "backup" / target / "manifests" / project / f"{name}.json"


def remember(state_dir: Path, target: str, manifest: Manifest) -> None:
    """Keep the manifest of a run in place of the one before, durably; one of the journal is not kept. Raises OSError.

    The same one again is not written.
    """
    if manifest.kind != "run" or remembered(state_dir, target, manifest.project, manifest.name) == manifest:
        return
    path = remembered_file(state_dir, target, manifest.project, manifest.name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.write(path, msgspec.json.encode(manifest))


def remembered(state_dir: Path, target: str, project: str, name: str) -> Manifest | None:
    """The newest manifest of a run on a target; None if it is not known, or what is written down is damaged."""
    try:
        found = msgspec.json.decode(remembered_file(state_dir, target, project, name).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if (found.kind, found.project, found.name) == ("run", project, name) else None
