"""All checkpoints of one run as plain data: those in the ledger, the trainer's own, and the one to go on from."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from supervisor import layout
from supervisor.core.checkpoints import WHOLE, Candidate, Checkpoint, Choice, choose
from supervisor.core.ledger import Distrust, Entry, Ledger, usable
from supervisor.core.model import Run
from supervisor.core.views import VERSION, View
from supervisor.effects import checkpoints, distrust, ledger, survey

#: State of the older files of a run that saves every epoch under a name of its own: a look reads every byte.
NOT_LOOKED_AT = "not looked at"
NEWEST = 5
_CURRENT = frozenset({"last.pt", "best.pt", "final.pt"})


def checkpoints_view(run: Run, runs_dir: Path, now: float) -> View:
    """What `checkpoints NAME` shows. Epochs count from 1, None where nobody knows; times are Unix seconds.

    Of the trainer's own files the newest are looked into (not searched for NaN); copies are as they were proven when
    they were entered. Raises RetryableError where that cannot be done now, OSError where the folder cannot be read.
    """
    run_dir = layout.run_directory(runs_dir, run.job.project, run.name)
    kept = ledger.read(run_dir)
    looked = survey.of_run(run.job, run_dir, kept)
    copies = _as_found(run_dir, kept)
    own = _own(run_dir, [one for one in looked.candidates if not one.kept], copies)
    seen = [one for one in own if one.state != NOT_LOOKED_AT]
    choice = _choice(run, looked, [*seen, *copies])
    chosen = choice.checkpoint.path if choice.checkpoint is not None else ""
    rows = [
        *(_kept_row(run_dir, kept, entry) for entry in reversed(kept.entries)),
        *(_own_row(run_dir, one) for one in own),
    ]
    return {
        "version": VERSION,
        "at": now,
        "name": run.name,
        "id": run.id,
        "directory": str(run_dir.root),
        "line": kept.line,
        "lines": msgspec.to_builtins(kept.lines),
        "next_start": None if run.phase.terminal else _start(choice),
        "kept": {"count": len(kept.entries), "bytes": sum(entry.size_bytes for entry in kept.entries)},
        "checkpoints": [{**row, "next": row["path"] == chosen and not run.phase.terminal} for row in rows],
    }


# ---- looking
class _Looks:
    """What was found in one run's files. One look at a time; a file that did not change is looked at once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, int, int], Checkpoint] = {}
        self._one_at_a_time = threading.Lock()

    def at(self, paths: Sequence[Path]) -> dict[Path, Checkpoint]:
        """Look at files, and forget all others. Raises as checkpoints.survey."""
        with self._one_at_a_time:
            known = {path: self._found[key] for path in paths if (key := _key(path)) in self._found}
            new = checkpoints.survey([path for path in paths if path not in known])
            found = known | {Path(one.path): one for one in new}
            lasting = (one for one in found.values() if one.state not in {"unknown", "missing"})
            self._found = {(Path(one.path), one.size_bytes, one.mtime_ns): one for one in lasting}
        return found


@lru_cache(maxsize=256)
def _looks(_root: Path) -> _Looks:
    """The looks at the run in this folder."""
    return _Looks()


def _key(path: Path) -> tuple[Path, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return path, status.st_size, status.st_mtime_ns


def _own(run_dir: layout.RunDirectory, own: Sequence[Candidate], copies: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The run's own files: a look at the newest, and at older ones only where nothing newer can be gone on from."""
    paths = [Path(one.path) for one in own]
    always = {path for path in paths if path.name in _CURRENT}
    numbered = [
        Path(one.path) for one in sorted(own, key=lambda one: -(one.epoch or 0)) if Path(one.path) not in always
    ]
    looks, count = _looks(run_dir.root), NEWEST
    found = looks.at([*always, *numbered[:count]])
    while count < len(numbered) and not any(one.state in WHOLE for one in (*found.values(), *copies)):
        count += NEWEST
        found = looks.at([*always, *numbered[:count]])
    return [found.get(path) or _unseen(path) for path in paths]


def _unseen(path: Path) -> Checkpoint:
    _path, size_bytes, mtime_ns = _key(path) or (path, 0, 0)
    return Checkpoint(path=str(path), state=NOT_LOOKED_AT, size_bytes=size_bytes, mtime_ns=mtime_ns)


# ---- what is shown
def _choice(run: Run, looked: survey.Survey, found: Sequence[Checkpoint]) -> Choice:
    """The start by what was found. The real one looks closer before it takes a file."""
    fresh = not run.progress.saved_epoch
    if run.distrust_from:
        order = Distrust(from_epoch=run.distrust_from, attempt=run.attempts + 1, line=0, reason="it failed from there")
        older = [distrust.judging(looked.judge, order)(one) for one in found]
        choice = choose(run.job, older, scratch_allowed=False, hooked=looked.hooked)
        if choice.start == "resume":
            return choice
    return choose(run.job, [looked.judge(one) for one in found], scratch_allowed=fresh, hooked=looked.hooked)


def _as_found(run_dir: layout.RunDirectory, kept: Ledger) -> list[Checkpoint]:
    """The copies that the present line may use, as a look would find them."""
    return [
        Checkpoint(
            path=str(ledger.path_of(run_dir, entry)),
            state=entry.state,
            epoch=entry.epoch - 1 if entry.epoch else None,
            epochs=entry.epochs,
            size_bytes=entry.size_bytes,
            mtime_ns=entry.source_mtime_ns,
            kept=True,
        )
        for entry in usable(kept)
    ]


def _start(choice: Choice) -> dict[str, Any]:
    best = choice.checkpoint
    return {
        "kind": choice.start,
        "path": best.path if best is not None else None,
        "epoch": (best.done_epochs or None) if best is not None else None,
        "reason": choice.reason,
    }


def _kept_row(run_dir: layout.RunDirectory, kept: Ledger, entry: Entry) -> dict[str, Any]:
    path = ledger.path_of(run_dir, entry)
    return {
        "where": "ledger",
        "path": str(path),
        "file": str(path.relative_to(run_dir.root)),
        "state": distrust.DISTRUSTED if entry.distrusted else entry.state,
        "epoch": entry.epoch or None,
        "epochs": entry.epochs,
        "map50_95": entry.map50_95,
        "size_bytes": entry.size_bytes,
        "sha256": entry.sha256,
        "attempt": entry.attempt,
        "run": entry.run,
        "line": entry.line,
        "usable": entry in usable(kept),
        "kept_at": entry.kept_at,
        "trainer_version": entry.trainer_version or None,
        "reason": entry.distrusted or None,
    }


def _own_row(run_dir: layout.RunDirectory, found: Checkpoint) -> dict[str, Any]:
    path = Path(found.path)
    inside = path.is_relative_to(run_dir.root)
    return {
        "where": "runner" if path in ledger.finals(run_dir) else "trainer",
        "path": found.path,
        "file": str(path.relative_to(run_dir.root)) if inside else found.path,
        "state": found.state,
        "epoch": found.done_epochs or None,
        "epochs": found.epochs,
        "map50_95": found.map50_95,
        "size_bytes": found.size_bytes,
        "sha256": None,
        "attempt": None,
        "run": None,
        "line": None,
        "usable": None,
        "kept_at": None,
        "trainer_version": found.version,
        "reason": found.reason or None,
    }
