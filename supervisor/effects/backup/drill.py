"""Rehearse a restore: fetch a run's newest checkpoint from a target into scratch, and train one batch from it.

A backup from which nobody has restored yet is a hope. What is fetched is hashed, looked into, compared with the
manifest, and loaded by the job's own Python as a resume would load it, on the CPU; see runner/drill.py.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from supervisor import layout
from supervisor.core import checkpoints as states
from supervisor.core.actions import Drill
from supervisor.core.backups.manifest import Checkpoint, Manifest, run_folder
from supervisor.core.events import Drilled
from supervisor.core.variables import SYSTEM_PATH, passed_on
from supervisor.effects import checkpoints, short_child
from supervisor.effects.backup import fetched
from supervisor.effects.backup.fetched import Fetcher, Holdings
from supervisor.effects.backup.targets.base import TargetError

if TYPE_CHECKING:
    from supervisor.effects.backup.targets.base import Target

TRAIN_S = (
    600.0  # an import of torch from a cold, slow disk takes a minute; one batch of two small pictures some seconds
)
SLOWEST_BYTES_PER_S = 20_000_000  # a busy disk: large files get so much more time
SAME_METRIC = 1e-6  # a manifest and a file may hold the same number with different digits
_PASSED_ON = ("LD_LIBRARY_PATH",)
_EXIT_CODES = frozenset({0, 1, 65})
_REFUSED = 65


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What runner/drill.py prints. `epoch` is 0-based, as stored."""

    ok: bool
    reason: str = ""
    loaded: bool = False
    epoch: int | None = None
    best_fitness: float | None = None
    map50_95: float | None = None
    trained: bool = False
    untrained: str = ""
    optimizer: str = ""
    loss: float | None = None
    refused: bool = False
    version: int = 1


@dataclass(frozen=True)
class _Chosen:
    """What is rehearsed: the newest checkpoint of a run's newest manifest."""

    folder: str
    manifest: Manifest
    checkpoint: Checkpoint

    @property
    def run(self) -> str:
        """The run's id, or where it lies if the manifest does not say."""
        return self.manifest.run or f"{self.manifest.project}/{self.manifest.name}"


class Driller:
    """Carries out Drill. Nothing of a run is touched, and what was fetched is removed in every case."""

    def __init__(
        self,
        scratch_of: Callable[[str], Path],
        open_target: Callable[[str], Target],
        now: Callable[[], float],
        *,
        environ: Mapping[str, str] = os.environ,
        script: Path = layout.DRILL,
        train_s: float = TRAIN_S,
        stop: threading.Event | None = None,
    ) -> None:
        """`scratch_of` names, by target, a folder that is used for what is fetched, and removed afterwards."""
        self._scratch_of = scratch_of
        self._open_target = open_target
        self._now = now
        self._environ = environ
        self._script = script
        self._train_s = train_s
        self._stop = stop or threading.Event()

    def __call__(self, action: Drill) -> tuple[Drilled, ...]:
        """Answer with Drilled. Raises RetryableError where this machine cannot look into the file just now."""
        began = time.monotonic()
        try:
            drilled = self._drilled(action)
        except TargetError as error:
            drilled = self._told(action, ok=False, cause=error.cause, text=str(error))
        except fetched.NoRoomError as error:
            drilled = self._told(action, ok=False, cause="no-room", text=str(error))
        return (msgspec.structs.replace(drilled, seconds=round(time.monotonic() - began, 3)),)

    def _told(self, action: Drill, **facts: Any) -> Drilled:
        return Drilled(at=self._now(), origin="backup", target=action.target, **facts)

    def _drilled(self, action: Drill) -> Drilled:
        named = run_folder(action.project, action.name) if action.name else ""
        holdings = Holdings(self._open_target(action.target), named or fetched.RUNS_FOLDER)
        chosen = _choose(holdings, action.seed)
        if chosen is None:
            what = f"a checkpoint of {action.project}/{action.name}" if named else "any run with a checkpoint"
            return self._told(action, ok=False, text=f"there is no backup of {what}")  # no restore failed
        scratch = self._scratch_of(action.target)
        with fetched.scratch_folder(scratch):
            return self._rehearsed(action, holdings, chosen, scratch)

    def _rehearsed(self, action: Drill, holdings: Holdings, chosen: _Chosen, scratch: Path) -> Drilled:
        checkpoint, manifest = chosen.checkpoint, chosen.manifest
        about: dict[str, Any] = {
            "run": chosen.run, "snapshot": manifest.snapshot, "epoch_wanted": checkpoint.epoch,
            "metric_wanted": checkpoint.map50_95,
        }  # fmt: skip
        file = manifest.stored(checkpoint.path)
        if file is None:
            return self._told(action, ok=False, text=f"the manifest names no file {checkpoint.path}", **about)
        got = Fetcher(holdings, scratch, self._stop).fetch(chosen.folder, [file])
        if checkpoint.path in got.wrong:
            return self._told(action, ok=False, text=got.wrong[checkpoint.path], **about)
        path = got.files[checkpoint.path]
        (seen,) = checkpoints.look([path], finite=True)
        about |= {"epoch": seen.done_epochs, "metric": seen.map50_95}
        problem = difference(checkpoint, seen)
        if problem:
            return self._told(action, ok=False, text=f"{checkpoint.path}: {problem}", **about)
        modules = _modules(holdings, chosen, scratch)
        python = action.pythons.get(f"{manifest.project}/{manifest.name}") or manifest.python
        answer = self._train(python, path, scratch, modules)
        return self._judged(action, chosen, answer, about, [*got.damaged, *holdings.damaged(chosen.folder)])

    def _judged(
        self, action: Drill, chosen: _Chosen, answer: Answer, about: dict[str, Any], damaged: list[str]
    ) -> Drilled:
        """What all that says: a file that was refused, or loads as another one, is no backup.

        One that could not be loaded here may be good: it is not damaged, and not proven.
        """
        problem = answer.reason if answer.refused else _loaded_otherwise(chosen.checkpoint, answer)
        unable = not answer.refused and not answer.loaded
        whole = f"epoch {about['epoch']} came back whole from {chosen.manifest.snapshot}"
        untrained = answer.untrained or ("" if answer.trained else answer.reason)
        words = [f"not proven: {whole}, and could not be loaded here: {answer.reason}" if unable else whole]
        words += [f"not trained: {untrained}" if untrained and not unable else ""]
        words += [f"{', '.join(damaged[:3])} is damaged there, and others took its place" if damaged else ""]
        return self._told(
            action,
            ok=not problem and not unable,
            loaded=answer.loaded and not answer.refused,
            unable=unable,
            trained=answer.trained and not problem and not unable,
            untrained=untrained,
            loss=answer.loss if answer.loss is not None and math.isfinite(answer.loss) else None,
            text=problem or "; ".join(filter(None, words)),
            **{**about, **({"metric": answer.map50_95} if answer.map50_95 is not None else {})},
        )

    # ---- the job's Python
    def _train(self, python: str, path: Path, scratch: Path, modules: list[str]) -> Answer:
        if not python:
            return Answer(ok=False, reason="no interpreter of its job is known")
        if not os.access(python, os.X_OK):
            return Answer(ok=False, reason=f"its interpreter {python} is not there")
        options = [word for folder in modules for word in ("--path", folder)]
        argv = [python, str(self._script), "--tied", *options, "--", str(path)]
        limit_s = self._train_s + path.stat().st_size / SLOWEST_BYTES_PER_S
        try:
            ended = short_child.run(argv, self._environment(python, scratch), limit_s, tied=True)
        except OSError as error:
            return Answer(ok=False, reason=f"{python} cannot be started: {error.strerror}")
        return _understood(ended, limit_s)

    def _environment(self, python: str, scratch: Path) -> dict[str, str]:
        """What every child of ours gets; no GPU, no network, and settings of its own."""
        return {
            **passed_on(self._environ, _PASSED_ON),
            "PATH": f"{Path(python).parent}:{SYSTEM_PATH}",
            "CUDA_VISIBLE_DEVICES": "",
            "YOLO_OFFLINE": "1",
            "YOLO_AUTOINSTALL": "0",
            "YOLO_CONFIG_DIR": str(scratch / ".settings"),
            "MPLCONFIGDIR": str(scratch / ".settings"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


# ---- choosing
def _choose(holdings: Holdings, seed: str) -> _Chosen | None:
    """The run that chance chooses of those with a checkpoint; with the same seed the same. Raises TargetError."""
    folders = holdings.folders
    random.Random(seed).shuffle(folders)  # noqa: S311 - which run is rehearsed is no secret
    for folder in folders:
        for manifest in holdings.manifests(folder):
            checkpoint = manifest.newest()
            if checkpoint is not None:
                return _Chosen(folder, manifest, checkpoint)
            break
    return None


def difference(wanted: Checkpoint, seen: states.Checkpoint) -> str:
    """What a file that came back has otherwise than its manifest says; empty if nothing. A pure comparison."""
    torch_file = Path(seen.path).suffix in states.TORCH_SUFFIXES
    if torch_file and seen.state not in states.WHOLE:
        return f"it is {seen.state}: {seen.reason}"
    if seen.done_epochs != wanted.epoch:
        return f"it holds epoch {seen.done_epochs}, the manifest says {wanted.epoch}"
    return _other_metric(wanted, seen.map50_95)


def _loaded_otherwise(wanted: Checkpoint, answer: Answer) -> str:
    if not answer.loaded:
        return ""
    epochs = 0 if answer.epoch is None else max(0, answer.epoch + 1)
    if epochs != wanted.epoch:
        return f"loaded, it holds epoch {epochs}, the manifest says {wanted.epoch}"
    return _other_metric(wanted, answer.map50_95)


def _other_metric(wanted: Checkpoint, found: float | None) -> str:
    """Compared where both know one: some trainers' files hold none, and the manifest's came from the table."""
    if wanted.map50_95 is None or found is None or math.isclose(wanted.map50_95, found, abs_tol=SAME_METRIC):
        return ""
    return f"its mAP50-95 is {found:g}, the manifest says {wanted.map50_95:g}"


def _modules(holdings: Holdings, chosen: _Chosen, scratch: Path) -> list[str]:
    """Where a script's own classes lie, as the newest launch in the backup tells: YOLOv5 cannot be loaded without."""
    launches = [file for file in chosen.manifest.files if file.path.endswith("/launch.json")]
    newest = max(launches, key=lambda file: file.mtime_ns, default=None)
    if newest is None:
        return []
    got = Fetcher(holdings, scratch).fetch(chosen.folder, [newest]).files.get(newest.path)
    try:
        launch = json.loads(got.read_bytes()) if got is not None else {}
    except (OSError, ValueError):
        return []
    return list(dict.fromkeys(_folders(launch))) if isinstance(launch, dict) else []


def _folders(launch: dict[str, Any]) -> Iterator[str]:
    cwd, argv, train = str(launch.get("cwd") or "/"), launch.get("argv"), launch.get("train")
    if isinstance(train, dict) and train.get("mode", "runner") == "runner":
        return  # a program of ours: Ultralytics has the classes
    for word in argv if isinstance(argv, list) else []:
        if isinstance(word, str) and word.endswith(".py"):
            yield str((Path(cwd) / word).parent)
    if cwd != "/":
        yield cwd


# ---- what the child said
def _understood(ended: short_child.Ended, limit_s: float) -> Answer:
    """What it told, or what its end says: nothing about the file."""
    lines = ended.out.strip().splitlines()
    if ended.code in _EXIT_CODES and lines:
        try:
            answer = msgspec.json.decode(lines[-1], type=Answer)
        except msgspec.DecodeError:
            return Answer(ok=False, reason="the answer of the job's Python cannot be read")
        return msgspec.structs.replace(answer, refused=ended.code == _REFUSED)
    if ended.late:
        return Answer(ok=False, reason=f"the job's Python did not end within {limit_s:.0f} s")
    if ended.code is not None and ended.code < 0:
        return Answer(ok=False, reason=f"the job's Python died of {signal.Signals(-ended.code).name}")
    last = (ended.errors.strip().splitlines() or [""])[-1][:300]
    return Answer(ok=False, reason=f"the job's Python ended with exit code {ended.code}: {last}")
