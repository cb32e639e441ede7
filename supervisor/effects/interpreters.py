"""What the jobs' own interpreters have: each is asked once, and again when its packages change."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from supervisor import layout
from supervisor.clock import Clock
from supervisor.core.variables import SYSTEM_PATH, passed_on
from supervisor.errors import Problem, UserError

log = logging.getLogger("yolo-supervisor")

DESCRIBE_LIMIT_S = 120.0  # a cold import of torch from a slow disk takes up to a minute
_FAILURE_KEPT_S = 60.0  # so that a thousand jobs with one broken interpreter do not ask it a thousand times
_SETTINGS_PLACES = ("XDG_CONFIG_HOME", "YOLO_CONFIG_DIR")


class TrainArgument(msgspec.Struct, frozen=True):
    """An argument of `YOLO.train`. Types are int, float, bool, str, list, null; none at all: anything goes."""

    types: tuple[str, ...] = ()
    default: Any = None


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What describe.py printed. Folders of settings may be relative: to the trainer's working folder."""

    python: str = ""
    ultralytics: str | None = None
    ultralytics_path: str | None = None
    train_args: dict[str, TrainArgument] = {}
    model_cfgs: tuple[str, ...] = ()
    dataset_cfgs: tuple[str, ...] = ()
    weights_dir: str = ""
    datasets_dir: str = ""
    settings: dict[str, Any] = {}
    amp_check_weights: str | None = None
    resume_keys: tuple[str, ...] = ()
    site_packages: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    missing_reasons: dict[str, str] = {}
    error: str | None = None

    def folder(self, setting: str) -> str:
        """Return weights_dir or datasets_dir as the settings say it."""
        return str(self.settings.get(setting) or getattr(self, setting))


class _Known(msgspec.Struct, frozen=True):
    fingerprint: list[str]
    description: Description


class _CacheFile(msgspec.Struct, frozen=True):
    interpreters: dict[str, _Known] = {}
    version: int = 1


class Interpreters:
    """Descriptions of interpreters, kept on disk. Thread-safe; two questions at once lead to one asking."""

    def __init__(
        self,
        cache: Path,
        clock: Clock,
        *,
        describe: Path = layout.DESCRIBE,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`cache` is read at once; one that cannot be read is begun anew."""
        self._cache = cache
        self._clock = clock
        self._describe = describe
        self._environ = environ
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._failures: dict[str, tuple[float, UserError]] = {}
        self._known = _read_cache(cache)

    def describe(self, python: str, pass_on: tuple[str, ...] = ()) -> Description:
        """Return what `python` has; `pass_on` names more variables that it may need. Raises UserError with the why."""
        with self._lock:
            asking = self._asking.setdefault(python, threading.Lock())
        with asking:
            known = self._known.get(python)
            if known is not None and known.fingerprint == self._fingerprint(python, known.description):
                return known.description
            at, failure = self._failures.get(python, (0.0, None))
            if failure is not None and self._clock.now() - at < _FAILURE_KEPT_S:
                raise failure
            return self._ask(python, pass_on)

    def _ask(self, python: str, pass_on: tuple[str, ...]) -> Description:
        try:
            description = self._run(python, pass_on)
        except UserError as error:
            self._failures[python] = (self._clock.now(), error)
            raise
        self._failures.pop(python, None)
        known = _Known(self._fingerprint(python, description), description)
        with self._lock:
            self._known = {**self._known, python: known}
            _write_cache(self._cache, self._known)
        return description

    def _run(self, python: str, pass_on: tuple[str, ...]) -> Description:
        env = passed_on(self._environ, (*_SETTINGS_PLACES, *pass_on))
        env |= {"PATH": f"{Path(python).parent}:{SYSTEM_PATH}", "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}
        try:
            done = subprocess.run(
                [python, str(self._describe)],
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=DESCRIBE_LIMIT_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise _refusal(python, f"it did not answer within {DESCRIBE_LIMIT_S:.0f} s") from None
        except OSError as error:
            raise _refusal(python, f"it cannot be started: {error.strerror}") from None
        return _understand(python, done)

    def _fingerprint(self, python: str, description: Description) -> list[str]:
        """Return what changes when the interpreter, its packages, the owner's settings or our questions change."""
        base = self._environ.get("YOLO_CONFIG_DIR") or self._environ.get("XDG_CONFIG_HOME")
        config = Path(base) if base else Path(self._environ.get("HOME", "/")) / ".config"
        paths = [python, *description.site_packages, str(self._describe), str(config / "Ultralytics/settings.json")]
        return [os.path.realpath(python), *(f"{path} {_mtime_ns(path)}" for path in paths)]


def _understand(python: str, done: subprocess.CompletedProcess[bytes]) -> Description:
    lines = done.stdout.strip().splitlines()
    try:
        description = msgspec.json.decode(lines[-1] if lines else b"", type=Description)
    except msgspec.DecodeError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        how = f"exit code {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
        raise _refusal(python, f"it could not be asked what it has ({how}): {' '.join(last)[:300]}") from None
    if description.missing:
        reasons = description.missing_reasons
        names = "; ".join(f"{name} ({reasons[name]})" if name in reasons else name for name in description.missing)
        raise _refusal(python, f"it cannot import what a training needs: {names[:600]}")
    if description.error:
        raise _refusal(python, f"it could not be asked what it has: {description.error[:300]}")
    return description


def _refusal(python: str, reason: str) -> UserError:
    hint = "install Ultralytics there, or name another interpreter with python or conda"
    return UserError(problems=(Problem(reason, key="python", got=python, hint=hint),))


def _mtime_ns(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def _read_cache(path: Path) -> dict[str, _Known]:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_CacheFile)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.warning("%s cannot be read and is begun anew: %s", path, error)
        return {}
    return dict(found.interpreters) if found.version == 1 else {}


def _write_cache(path: Path, known: dict[str, _Known]) -> None:
    """Only a cache: if it cannot be written, the interpreters are asked again after the next start."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(msgspec.to_builtins(_CacheFile(known)), indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)
