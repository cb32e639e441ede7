"""Object stores as a backup target, by the external program rclone, from 1.60 on.

An object is there whole or not at all, so each file has its name only when all of it arrived; a large one that was
interrupted begins again, the others are not sent twice. That is why what has folders (SFTP, WebDAV, a disk) is refused:
there rclone writes files under their own names, and there are other targets for it. No bucket is ever made: one that is
missing is an error, as a disk that is not mounted. Whether what lies there is what was sent is found out by reading it,
never by an ETag.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from supervisor import backup_config
from supervisor.effects.backup.targets import base, rclone_codes
from supervisor.effects.backup.targets.base import Facts, Found, TargetError, ignore
from supervisor.effects.backup.targets.programs import Ended, Line, Programs, nothing

log = logging.getLogger("yolo-supervisor")

PROGRAM = "rclone"
MISSING_FOLDER = 3  # rclone's exit code
#: rclone speaks at least every STATS_S seconds; a list of a large store is the longest that it is silent otherwise.
SILENCE_S = 600.0
STATS_S = 5
#: Pieces of large uploads that were interrupted lie there unseen and cost money until somebody takes them away.
SWEEP_EVERY_S = 86400.0
_PASSED_ON = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)
_OPTIONS = (
    "--ask-password=false",
    "--contimeout=15s",
    "--timeout=60s",
    "--retries=3",
    "--retries-sleep=2s",
    "--low-level-retries=4",
    "--s3-no-check-bucket",
    "--skip-links",
)
_MODIFIED = "immutable file modified"
_SCRATCH = "rclone-"


class RcloneTarget:
    """See base.Target. The remote's name and its keys are in rclone's own configuration, which only it reads."""

    def __init__(
        self,
        settings: backup_config.Backup,
        address: backup_config.Address,
        server: str,
        state_dir: Path,
        *,
        stop: threading.Event,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Nothing is asked of the remote yet."""
        self.name = settings.name
        self.append_only = settings.append_only
        self._to = str(address)
        self._base = f"{address.host}:{address.path.rstrip('/')}" if address.path != "/" else f"{address.host}:/"
        self._server = base.server_folder(server)
        self._scratch = state_dir / "backup" / settings.name
        self._programs = Programs(stop, pass_fds)
        limit = (f"--bwlimit={settings.bwlimit}B",) if settings.bwlimit else ()
        config = (f"--config={settings.rclone_config}",) if settings.rclone_config is not None else ()
        self._options = (*_OPTIONS, *config, *limit)
        self._others: dict[str, set[str]] = {}

    # ---- what is known
    def facts(self) -> Facts:
        """See base.Target. "absent": no such bucket, or no such folder where the remote has folders."""
        self._at("")  # is it a store?
        done = self._run("lsjson", "--max-depth=1", "--dirs-only", self._base)
        self._demand_good(done)
        done = self._run("about", "--json", self._base)
        known: Any = {}
        if not done.code:  # most object stores know no size
            with suppress(ValueError):
                known = json.loads(done.out)
        free, total = (known.get(key) if isinstance(known, dict) else None for key in ("free", "total"))
        return Facts(free, total, "")

    def listing(self, under: str) -> list[Found]:
        """See base.Target."""
        under = base.checked_folder(under)
        done = self._run("lsjson", "--recursive", "--files-only", "--no-mimetype", self._at(under))
        if done.code == MISSING_FOLDER:
            self.facts()  # a bucket that is gone must not look like one that is empty
            return []
        self._demand_good(done)
        rows = _decoded(done)
        prefix = f"{under}/" if under else ""
        return [Found(prefix + row["Path"], int(row["Size"]), _seconds(row.get("ModTime", ""))) for row in rows]

    # ---- sending
    def send(self, stage: Path, under: str, *, progress: base.Progress = ignore) -> None:
        """See base.Target. A file that is there with other bytes replaces nothing below a manifest."""
        under = base.checked_folder(under)
        told = _Progress(progress)
        if others := sorted(self._others.get(under, ())):
            self._overwrite(stage, under, others, told)
        done = self._copy(str(stage), self._at(under), "--immutable", progress=told)
        if done.code and _MODIFIED in done.out + done.errors:
            self._overwrite(stage, under, self._of_other_size(stage, under), told)
            done = self._copy(str(stage), self._at(under), "--immutable", progress=told)
        self._demand_good(done)
        self._others.pop(under, None)
        self._sweep()

    def _overwrite(self, stage: Path, under: str, files: Sequence[str], told: _Progress) -> None:
        """Send these again whatever is there: what an interrupted transfer left, or bytes that went bad."""
        if self._there(f"{under}/manifest.json" if under else "manifest.json") is not None:
            text = f"{under} is complete there, and {files[0] if files else 'a file'} of it would be replaced"
            raise TargetError("refused", text)
        with _list_of(files) as (option, handle):
            words = ("--ignore-times", option)
            done = self._copy(str(stage), self._at(under), *words, progress=told, pass_fds=(handle,))
        self._demand_good(done)

    def _of_other_size(self, stage: Path, under: str) -> list[str]:
        return self._checked_files(stage, under, "--size-only")

    def _sweep(self) -> None:
        """Let nothing of interrupted uploads stay: once a day, the pieces that no list shows."""
        if self.append_only:
            return
        mark = self._scratch / "swept"
        if mark.exists() and time.time() - mark.stat().st_mtime < SWEEP_EVERY_S:
            return
        done = self._run("backend", "cleanup", self._at(""), "-o", "max-age=1d")
        if done.code:  # not every store can, and the transfer itself was good
            log.info("%s: pieces of interrupted uploads were not looked for: %s", self.name, _text(done)[1])
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def differing(self, stage: Path, under: str) -> list[str]:
        """See base.Target: every byte is read back."""
        under = base.checked_folder(under)
        others = self._checked_files(stage, under, "--download")
        self._others[under] = set(others)
        return others

    def _checked_files(self, stage: Path, under: str, how: str) -> list[str]:
        """The files that are not there or are others. rclone ends with 1 for them, and for all else."""
        with self._scratch_folder() as folder:
            answer = folder / "combined"
            done = self._run("check", how, "--one-way", "--combined", str(answer), str(stage), self._at(under))
            if done.code == MISSING_FOLDER:
                self.facts()
                return sorted(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file())
            lines = answer.read_text("utf-8", "surrogateescape").splitlines() if answer.exists() else []
        wrong = [line[2:] for line in lines if line.startswith(("* ", "+ "))]
        failed = any(line.startswith("! ") for line in lines)
        if failed or (done.code and not wrong) or any(line[1:2] != " " for line in lines):
            self._demand_good(done)
            raise TargetError("failed", f"{self.name}: what lies there could not be compared")
        return sorted(wrong)

    def put(self, path: str, data: bytes) -> None:
        """See base.Target."""
        base.checked(path)
        with self._scratch_folder() as folder:
            source = folder / "file"
            source.write_bytes(data)
            self._demand_good(self._copyto(str(source), self._at(path)))

    # ---- getting
    def read(self, path: str) -> bytes | None:
        """See base.Target."""
        size = self._there(base.checked(path))
        if size is None:
            return None
        if size > base.MOST_READ_BYTES:
            raise TargetError("refused", f"{path} has {size} bytes, which is too large for what it should be")
        with self._scratch_folder() as folder:
            self._demand_good(self._copyto(self._at(path), str(folder / "file")))
            try:
                return (folder / "file").read_bytes()
            except FileNotFoundError:
                return None  # it went just now

    def _there(self, path: str) -> int | None:
        """The size of a file; None where there is none. Of an object that is missing rclone says it were a folder."""
        done = self._run("lsjson", "--stat", "--no-mimetype", self._at(path))
        if done.code == MISSING_FOLDER:
            self.facts()
            return None
        self._demand_good(done)
        (row,) = _decoded(done)
        return None if row.get("IsDir") else int(row["Size"])

    def fetch(self, files: Sequence[str], into: Path) -> None:
        """See base.Target. rclone says nothing of files that are not there: it is looked at afterwards."""
        chosen = [base.checked(path) for path in files]
        plain, odd = _by_writability(chosen)
        into.mkdir(parents=True, exist_ok=True)
        if plain:
            with _list_of(plain) as (option, handle):
                done = self._copy(self._at(""), str(into), "--no-traverse", option, pass_fds=(handle,))
            self._demand_good(done)
        for path in odd:
            self._demand_good(self._copyto(self._at(path), str(into / path)))
        missing = next((path for path in chosen if not (into / path).is_file()), None)
        if missing is not None:
            raise TargetError("failed", f"{missing!r} is not there")

    # ---- removing
    def remove(self, files: Sequence[str]) -> int:
        """See base.Target."""
        base.refuse_removal(self)
        plain, odd = _by_writability(base.removable(files))
        gone = 0

        def count(line: bytes) -> None:
            nonlocal gone
            record = rclone_codes.log_record(line.decode("utf-8", "replace"))
            gone += record is not None and record.get("msg") == "Deleted"

        if plain:
            with _list_of(plain) as (option, handle):
                # without --no-traverse 1.60 looks for the files by folder, finds none below the second one, and says 0
                words = ("delete", "-v", "--no-traverse", option, self._at(""))
                done = self._logged(words, count, pass_fds=(handle,))
            if done.code == MISSING_FOLDER:
                self.facts()
            else:
                self._demand_good(done)
        for path in odd:
            if self._there(path) is not None:
                self._demand_good(self._logged(("deletefile", "-v", self._at(path)), count))
        return gone

    # ---- the program
    def _at(self, path: str) -> str:
        """A place on the remote, as one word that begins with the remote's name: no path is taken for an option."""
        return f"{self._folder}/{path}" if path else self._folder

    @cached_property
    def _folder(self) -> str:
        """The server's folder there. TargetError for a remote that is no store of whole objects."""
        done = self._run("backend", "features", self._base)
        self._demand_good(done)
        features = _decoded(done)[0].get("Features")
        if not (isinstance(features, dict) and features.get("BucketBased")):
            hint = "give a path of this server, or USER@HOST:PATH"
            raise TargetError("refused", f"{self._to}: rclone is for object stores; {hint} for what has folders")
        return f"{self._base}{'' if self._base.endswith((':', '/')) else '/'}{self._server}"

    def _copy(
        self, source: str, there: str, *options: str, progress: _Progress | None = None, pass_fds: Sequence[int] = ()
    ) -> _Done:
        told = progress or _Progress(ignore)
        told.next()

        def line(text: bytes) -> None:
            count = rclone_codes.sent_bytes(text.decode("utf-8", "replace"))
            if count is not None:
                told(count)

        return self._logged(("copy", *options, source, there), line, pass_fds=pass_fds)

    def _copyto(self, source: str, there: str) -> _Done:
        return self._logged(("copyto", "--ignore-times", source, there), nothing)

    def _logged(self, words: Sequence[str], line: Line, *, pass_fds: Sequence[int] = ()) -> _Done:
        """Run rclone with its log, and how far it is, line by line on its standard output."""
        stats = ("--use-json-log", f"--stats={STATS_S}s", "--stats-log-level=NOTICE", "--log-file=/dev/stdout")
        return self._run(*words, *stats, line=line, pass_fds=pass_fds)

    def _run(self, *words: str, line: Line = nothing, pass_fds: Sequence[int] = ()) -> _Done:
        lines: list[bytes] = []

        def take(text: bytes) -> None:
            lines.append(text)
            line(text)

        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        argv = (PROGRAM, *words, *self._options)
        ended = self._programs.run(argv, silence_s=SILENCE_S, env=env, line=take, pass_fds=pass_fds)
        return _Done(ended, lines)

    def _demand_good(self, done: _Done) -> None:
        if done.code:
            cause, text = _text(done)
            raise TargetError(cause, f"{self._to}: {text}")

    @contextmanager
    def _scratch_folder(self) -> Iterator[Path]:
        """A folder of this machine for one answer."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        for left in self._scratch.glob(f"{_SCRATCH}*"):  # of a daemon that was killed
            if time.time() - left.stat().st_mtime > SWEEP_EVERY_S:
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Progress:
    """Adds up how far the parts of one transfer are."""

    def __init__(self, tell: base.Progress) -> None:
        self._tell = tell
        self._before = self._now = 0

    def __call__(self, count: int) -> None:
        """So many bytes of the present part are there."""
        self._now = count
        self._tell(self._before + count)

    def next(self) -> None:
        """Another part begins."""
        self._before, self._now = self._before + self._now, 0


class _Done:
    """How rclone ended, and what it wrote."""

    def __init__(self, ended: Ended, lines: Sequence[bytes]) -> None:
        self.code = ended.code
        self.errors = ended.errors
        self.out = b"\n".join(lines).decode("utf-8", "surrogateescape")


def _text(done: _Done) -> tuple[str, str]:
    """The cause of a failure, and what rclone said of it: in its log on standard output, or on standard error."""
    said = [line for line in done.out.splitlines() if rclone_codes.log_record(line) or line[:4].isdigit()]
    return rclone_codes.cause_of(done.code, [*said, *done.errors.splitlines()])


def _decoded(done: _Done) -> list[Mapping[str, Any]]:
    try:
        answer = json.loads(done.out)
    except ValueError:
        raise TargetError("protocol", "rclone answered with what is no list") from None
    return answer if isinstance(answer, list) else [answer]


def _seconds(text: str) -> float:
    """A time as rclone writes it, with more digits than Python 3.10 reads."""
    head, _, rest = text.partition(".")
    zone = rest.lstrip("0123456789")
    try:
        whole = datetime.fromisoformat((head + zone if rest else head).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
    digits = rest[: len(rest) - len(zone)]
    return whole + (float(f"0.{digits}") if digits else 0.0)


def _by_writability(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that can stand in a list of lines, and those that cannot."""
    odd = [path for path in files if "\n" in path or "\r" in path]
    return [path for path in files if path not in odd], odd


@contextmanager
def _list_of(files: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The option that names just these files, and the open file that it reads them from."""
    handle = os.memfd_create("files")
    try:
        text = "".join(f"{path}\n" for path in files).encode("utf-8", "surrogateescape")
        with os.fdopen(os.dup(handle), "wb") as writing:
            writing.write(text)
        os.lseek(handle, 0, os.SEEK_SET)
        yield f"--files-from-raw=/proc/self/fd/{handle}", handle
    finally:
        os.close(handle)
