"""Looking at checkpoints from the outside, and putting one in place.

The daemon itself runs no pickle machine: a short child with hard limits reads the metadata, and only the job's own
Python ever loads one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from supervisor import durable, layout
from supervisor.core.checkpoints import Checkpoint
from supervisor.core.variables import SYSTEM_PATH, passed_on
from supervisor.errors import RetryableError

CHECK_TIMEOUT_S = 120.0  # CRC of a 228 MB file takes 0.1 s; a network file system may take a minute
DEEP_TIMEOUT_S = 300.0  # a cold import of torch and the trainer from a slow disk takes up to a minute
SLOWEST_BYTES_PER_S = 20_000_000  # a busy network file system; large files get so much more time
TIMES_UNTIL_TORN = 3  # a busy machine is not busy for ever; 30 s lie between the tries of `look`

#: How a child ends that went beyond its limits; 71 is OUT_OF_MEMORY of runner/checkpoint.py.
_LIMITS = {-signal.SIGXCPU: "time", 71: "memory"}
_times_beyond: Counter[tuple[str, int, int]] = Counter()
_PASSED_TO_DEEP = ("YOLO_CONFIG_DIR", "XDG_CONFIG_HOME", "LD_LIBRARY_PATH")
_DEEP_EXIT_CODES = frozenset({0, 1, 65})


class Deep(msgspec.Struct, frozen=True, kw_only=True):
    """What a real load found. `looked` is False where nothing was learned about the file: no torch, no time.

    `epoch` is 0-based, as stored.
    """

    path: str
    ok: bool
    reason: str = ""
    looked: bool = True
    epoch: int | None = None
    optimizer: bool = False
    ema: bool = False
    tensors: int = 0
    finite: bool | None = None
    version: int = 1


def look(paths: Sequence[Path], *, finite: bool = False) -> list[Checkpoint]:
    """Look at files without loading them: zip, CRC, metadata; with `finite` also for NaN and Inf in the tensors.

    Raises RetryableError if that cannot be done now.
    """
    found = survey(paths, finite=finite)
    unknown = next((checkpoint for checkpoint in found if checkpoint.state == "unknown"), None)
    if unknown is not None:
        raise RetryableError(f"{unknown.path} cannot be read: {unknown.reason}", 30.0)
    return found


def survey(paths: Sequence[Path], *, finite: bool = False) -> list[Checkpoint]:
    """Look as `look` does, but tell what cannot be read as `unknown`. Raises RetryableError if no child can look."""
    found, exit_code = _look(paths, finite) if paths else ([], 0)
    lost = paths[len(found) :]  # the child answers in order; it may have died on one of them
    if len(paths) > 1:  # each of the others gets a child of its own
        return found + [checkpoint for path in lost for checkpoint in survey([path], finite=finite)]
    if lost and exit_code not in _LIMITS:  # the machine's trouble, not the file's
        raise RetryableError(f"{lost[0]} could not be looked at: the child ended with {exit_code}", 30.0)
    return found + [_beyond_limits(path, _LIMITS[exit_code]) for path in lost]


def _beyond_limits(path: Path, limit: str) -> Checkpoint:
    """What is known of a file over which a child went beyond its limits: the machine may have been busy.

    Nothing, until that has happened again and again with the same content.
    """
    try:
        status = path.stat()
    except OSError as error:
        return Checkpoint(path=str(path), state="unknown", reason=str(error))
    key = (str(path), status.st_size, status.st_mtime_ns)
    _times_beyond[key] += 1
    state = "unknown" if _times_beyond[key] < TIMES_UNTIL_TORN else "torn"
    return Checkpoint(
        path=str(path),
        state=state,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        reason=f"its metadata could not be read within the limit of {limit}",
    )


def _look(paths: Sequence[Path], finite: bool) -> tuple[list[Checkpoint], int]:
    options = ["--finite"] if finite else []
    argv = [sys.executable, "-I", "-S", str(layout.CHECKPOINT), *options, *map(str, paths)]
    limit_s = CHECK_TIMEOUT_S + sum(map(_size, paths)) / SLOWEST_BYTES_PER_S
    try:
        done = subprocess.run(argv, capture_output=True, timeout=limit_s, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RetryableError(f"checkpoints could not be looked at: {error}", 30.0) from error
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    found = (msgspec.json.decode(line, type=Checkpoint) for line in lines)
    # The child cannot print every file name; its answers come in the order of the paths.
    named = zip(found, paths, strict=False)
    return [msgspec.structs.replace(one, path=str(path)) for one, path in named], done.returncode


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def deep(
    python: str,
    path: Path,
    *,
    expected_epoch: int | None = None,
    env: Mapping[str, str] | None = None,
    modules: Sequence[Path] = (),
) -> Deep:
    """Have the job's Python load a checkpoint and look at what came out; see runner/deep_check.py.

    `expected_epoch` is 0-based; `modules` are folders with the trainer's classes (YOLOv5, YOLOv9). The child gets
    `env`, else what every child of ours may inherit, runs in "/", and sees no GPU. Never raises for what happens in it.
    """
    options = [] if expected_epoch is None else ["--expected-epoch", str(expected_epoch)]
    options += [word for folder in modules for word in ("--path", str(folder.absolute()))]
    argv = [python, str(layout.DEEP_CHECK), *options, "--", str(path.absolute())]
    try:
        done = subprocess.run(
            argv,
            env=_deep_environment(python, env),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEEP_TIMEOUT_S + _size(path) / SLOWEST_BYTES_PER_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        return _not_looked(path, f"the load took longer than {error.timeout:.0f} s")
    except OSError as error:
        return _not_looked(path, f"{python} cannot be started: {error.strerror}")
    return _understand(path, done)


def _deep_environment(python: str, env: Mapping[str, str] | None) -> dict[str, str]:
    base = passed_on(os.environ, _PASSED_TO_DEEP) if env is None else dict(env)
    base.setdefault("PATH", f"{Path(python).parent}:{SYSTEM_PATH}")
    offline = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "CUDA_VISIBLE_DEVICES": ""}
    return {**base, **offline, "PYTHONDONTWRITEBYTECODE": "1"}


def _not_looked(path: Path, reason: str) -> Deep:
    return Deep(path=str(path), ok=False, looked=False, reason=reason)


def _understand(path: Path, done: subprocess.CompletedProcess[bytes]) -> Deep:
    """Turn the child's answer into ours. One that died, of whatever signal, says nothing about the file."""
    lines = done.stdout.strip().splitlines()
    if done.returncode in _DEEP_EXIT_CODES and lines:
        try:
            answer = msgspec.json.decode(lines[-1], type=Deep)
        except msgspec.DecodeError:
            return _not_looked(path, "the answer of the child cannot be read")
        return msgspec.structs.replace(answer, path=str(path), looked=done.returncode != 1)
    how = f"exit code {done.returncode}" if done.returncode >= 0 else signal.Signals(-done.returncode).name
    last = " ".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])[:300]
    return _not_looked(path, f"the load ended with {how}: {last}" if last else f"the load ended with {how}")


def put_in_place(source: Path, target: Path, aside: Path) -> None:
    """Let `target` be a copy of `source`; what stood there is kept in `aside`. Whole or not at all.

    The copy is made in `aside`: nothing of ours lies in the trainer's folder, not even after a crash.
    """
    temporary = beside(target, aside) / f".{target.name}.copy"
    shutil.copyfile(source, temporary)
    durable.sync(temporary)
    if target.exists():
        set_aside(target, aside)
    temporary.replace(target)
    durable.sync(target.parent)


def beside(target: Path, aside: Path) -> Path:
    """A folder from which a file can be renamed to `target`: ours, unless that lies on another file system."""
    aside.mkdir(parents=True, exist_ok=True)
    return aside if aside.stat().st_dev == target.parent.stat().st_dev else target.parent


def set_aside(path: Path, folder: Path) -> Path:
    """Move a file out of the trainer's way, for study. Nothing is overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    number = 1
    while target.exists():
        target = folder / f"{path.name}.{number}"
        number += 1
    try:
        path.rename(target)
    except OSError:
        shutil.move(path, target)
    return target
