"""The job files of a restored server: under their new places in the journal, and in the jobs folder of this server."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from supervisor import durable
from supervisor.core.model import Run, World
from supervisor.journal import Journal

if TYPE_CHECKING:
    from supervisor.restore_all import Summary

JOB_FILE_MODE = 0o644


def moves(world: World, folder: Path) -> dict[str, str]:
    """Where the job files of live runs lie now, by where they lay."""
    files = sorted({run.job.file for run in world.live.values() if run.job.file})
    moves: dict[str, str] = {}
    for file in files:
        new = str(folder / Path(file).name)
        if new not in moves.values():  # two old folders, one name: the second stays unwritten
            moves[file] = new
    return moves


def move_job_files(journal: Path, moves: dict[str, str]) -> None:
    """Let the journal know the files by their new places: as others they would be other jobs of the same names."""
    changed = {old: new for old, new in moves.items() if old != new}
    if not changed:
        return
    with contextlib.closing(sqlite3.connect(journal)) as connection, connection:
        for old, new in changed.items():
            connection.execute("UPDATE OR REPLACE rows SET key = ? WHERE space = 'file' AND key = ?", (new, old))
        rows = connection.execute("SELECT key, body FROM rows WHERE space = 'run'").fetchall()
        for key, body in rows:
            run = msgspec.json.decode(body, type=Run)
            if run.job.file in changed:
                data = msgspec.json.encode(_moved(run, changed))
                connection.execute("UPDATE rows SET body = ? WHERE space = 'run' AND key = ?", (data, key))


def _moved(run: Run, changed: dict[str, str]) -> Run:
    job = msgspec.structs.replace(run.job, file=changed[run.job.file])
    following = run.next_job
    if following is not None:
        following = msgspec.structs.replace(following, file=changed.get(following.file, following.file))
    return msgspec.structs.replace(run, job=job, next_job=following)


def sources(journal: Path, world: World) -> dict[str, bytes]:
    """The bytes of live runs' job files as they were seen last, by run id."""
    found = {}
    with contextlib.closing(Journal.open(journal, read_only=True)) as opened:
        for run in world.live.values():
            note = world.files.get(run.job.file)
            revision = note.revision if note is not None and note.run == run.id else run.job.revision
            data = opened.source(revision)
            if data is not None:
                found[run.id] = data
    return found


def write_job_files(
    folder: Path, world: World, sources: dict[str, bytes], moves: dict[str, str], summary: Summary
) -> None:
    """A deleted file of a live run changes nothing, but people look for it, and edit it. Nothing is overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in world.live.values():
        if run.job.file not in world.files or run.id not in sources:
            continue  # it was gone before
        path = Path(moves.get(run.job.file, ""))
        if run.job.file not in moves or (path.exists() and path.read_bytes() != sources[run.id]):
            summary.notes.append(f"the job file of {run.name} was not written: another one has its name")
            continue
        if not path.exists():
            durable.write(path, sources[run.id], mode=JOB_FILE_MODE)
            if os.geteuid() == 0:
                os.chown(path, run.job.owner, -1)
        summary.job_files.append(str(path))


def missing_here(world: World, summary: Summary) -> None:
    """What live runs need and this machine does not have."""
    for run in world.live.values():
        train = run.job.train or {}
        needed = [run.job.python, run.job.cwd, *(str(train.get(key) or "") for key in ("data", "model"))]
        gone = [path for path in needed if path.startswith("/") and not Path(path).exists()]
        if gone:
            summary.notes.append(f"{run.name} needs what is not here: {', '.join(gone)}")
