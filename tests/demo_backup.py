"""The demo's acts about backups: the finished run lies on a target, a restore from there works, and what may be pruned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from demo_room import NAME, Demo, command, expect, say, wait_for

TARGET = "shelf"
#: What a user would write into config.toml; {out} is the demo's folder.
CONFIG = f"""
[[backup]]
name = "{TARGET}"
to = "{{out}}/backup"   # a demo has one disk only; yours is another disk, an account behind ssh, or an object store

[prune]
keep_last = 10
keep_best = 3
"""


def prove_backup(demo: Demo) -> None:
    """The end of a run is a reason for a backup: nobody orders this one."""
    row = wait_for(demo, "the backup of the finished run", lambda: _on_target(demo), 60)
    manifest = _manifest(demo, row["snapshot"])
    wrong = [file["path"] for file in manifest["files"] if not _is_there(demo, file)]
    demo.facts["snapshot"], demo.facts["backed_epoch"] = row["snapshot"], manifest["checkpoints"][-1]["epoch"]
    expect(
        "the finished run lies in the backup, by its own checksums",
        not wrong and bool(manifest["files"]),
        f"{len(manifest['files'])} files, newest verified checkpoint of epoch {demo.facts['backed_epoch']}"
        + (f"; damaged: {', '.join(wrong)}" if wrong else ""),
    )


def prove_journal(demo: Demo) -> None:
    """All that the daemon knows goes too, by the schedule or for whoever asks: a dead server comes back as it was."""
    command(demo, "backup", "run", "--wait")
    latest = demo.out / "backup" / "demo" / "state" / "latest"
    snapshot = latest.read_text().strip() if latest.exists() else ""
    expect("the journal lies there, too", (latest.parent / snapshot / "manifest.json").is_file(), snapshot)


def _on_target(demo: Demo) -> dict[str, Any] | None:
    """How the run stands on the target, once everything of it is there."""
    (run,) = json.loads(command(demo, "backup", "ls", NAME, "--json").stdout)["runs"]
    found = next((one for one in run["targets"] if one["target"] == TARGET), None)
    return found if found is not None and found["covered"] and found["complete"] else None


def _folder(demo: Demo) -> Path:
    """Where the run's snapshots lie: backups are files, and can be read without us."""
    return demo.out / "backup" / "demo" / "runs" / "demo" / NAME


def _manifest(demo: Demo, snapshot: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((_folder(demo) / snapshot / "manifest.json").read_bytes())
    return manifest


def _is_there(demo: Demo, file: dict[str, Any]) -> bool:
    path = _folder(demo) / file["at"] / file["path"]
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]


def prove_drill(demo: Demo) -> None:
    """A backup is one when something was restored from it: fetched into scratch, loaded, a batch trained."""
    found = json.loads(command(demo, "backup", "drill", "--json", check=False).stdout or "{}")
    wanted = demo.facts["backed_epoch"]
    expect(
        "a restore from the backup works, and its epoch is the manifest's",
        bool(found.get("loaded")) and found["epoch"] == found["epoch_wanted"] == wanted,
        f"epoch {found.get('epoch')} of {wanted} loaded, {_trained(found)}, {found.get('seconds', 0.0):.1f} s"
        if found.get("loaded")
        else found.get("text") or "no answer",
    )
    demo.facts["drill"] = f"epoch {found['epoch']} restored into scratch and {_trained(found)}"


def _trained(found: dict[str, Any]) -> str:
    return "one batch trained from it" if found.get("trained") else f"not trained ({found.get('untrained')})"


def prove_plan(demo: Demo) -> None:
    """Before anything is let go one can see what, and why."""
    plan = json.loads(command(demo, "prune", "--dry-run", "--json").stdout)
    files = [row for row in plan["rows"] if row["kind"] == "file"]
    told = bool(files) and all(row["action"] in {"keep", "delete", "archive"} and row["reason"] for row in files)
    going = [row["path"] for row in files if row["action"] != "keep"]
    expect(
        "`prune --dry-run` has a reason for each file, and lets nothing go here",
        told and not going,
        f"{len(files)} files, such as {Path(files[0]['path']).name}: {files[0]['reason']}" if files else "no files",
    )
    say(f"   {command(demo, 'backup', 'ls').stdout.strip()}".replace("\n", "\n   "))
