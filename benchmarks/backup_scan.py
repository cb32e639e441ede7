"""How long a backup looks at a large run of which nothing has changed since the last one."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.backup_place import Shop, local_place, make_run, make_small_files
from benchmarks.figures import Figure
from benchmarks.lab import MeasurementError
from supervisor.core.backups.manifest import MANIFEST, Manifest, run_folder
from supervisor.core.ledger import Ledger
from supervisor.effects import ledger
from supervisor.layout import RunDirectory

GOAL_S = 5.0
GB = 1_000_000_000
LARGE = 5  # checkpoints
LARGE_BYTES = 10 * GB
FIRST_BYTES = 1_000_000
SMALL_BYTES = 2000
REPEATS = 5


def measure(folder: Path, small_files: int) -> list[Figure]:
    """Back a run up, make its checkpoints 10 GB each here and there (they take no room), and back it up again."""
    shop = Shop(folder, local_place(folder / "target"))
    job, run = make_run(shop, "large", copies=LARGE, copy_bytes=FIRST_BYTES)
    make_small_files(run / "train" / "more", small_files, SMALL_BYTES)
    first = shop.back_up(job)
    there = shop.place.folder / "bench" / run_folder(job.project, job.name) / first.snapshot
    _grow(RunDirectory(run), there)
    taken_s = []
    for _ in range(REPEATS):
        before_s = time.perf_counter()
        done = shop.back_up(job)
        taken_s.append(time.perf_counter() - before_s)
        if not done.unchanged:
            raise MeasurementError(f"something had changed: {done.sent_files} files were sent")
    how = (
        f"{done.files} files, {done.bytes / GB:.1f} GB (checkpoints are sparse), nothing changed: a whole order, from "
        f"the look at the target to the answer, median of {REPEATS}"
    )
    details = {"all_s": taken_s, "steps_s": shop.seconds_of_steps()}
    return [Figure("look at an unchanged run", median(taken_s), "s", GOAL_S, how, details=details)]


def _grow(run: RunDirectory, there: Path) -> None:
    """Let the checkpoints be large, and all records say so: the ledger, its copy on the target, the manifest."""
    book = ledger.read(run)
    grown = Ledger(entries=tuple(msgspec.structs.replace(one, size_bytes=LARGE_BYTES) for one in book.entries))
    ledger.write(run, grown)
    manifest = msgspec.json.decode((there / MANIFEST).read_bytes(), type=Manifest)
    record = f"good/{ledger.RECORD}"
    data = msgspec.json.encode(grown)
    (there / record).write_bytes(data)
    files = {file.path: file for file in manifest.files}
    digest = hashlib.sha256(data).hexdigest()
    files[record] = msgspec.structs.replace(files[record], bytes=len(data), sha256=digest)
    for entry in grown.entries:
        path = f"good/{entry.file}"
        for each in (run.good / entry.file, there / path):
            os.truncate(each, LARGE_BYTES)
        files[path] = msgspec.structs.replace(files[path], bytes=LARGE_BYTES)
    changed = msgspec.structs.replace(manifest, files=tuple(files.values()))
    (there / MANIFEST).write_bytes(msgspec.json.encode(changed))
