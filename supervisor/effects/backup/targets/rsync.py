"""A target behind ssh: rsync to a full account, or to one that `rrsync` restricts to one folder (facts of rrsync 3.5).

Every call names the same place there, the configured path with "/." at its end, so that rsync never makes that folder:
where it is missing, a disk is not mounted. Names of files go through rsync's own protocol, never through a shell.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor import durable
from supervisor.backup_config import Address, Backup
from supervisor.core.backups import manifest
from supervisor.effects.backup.targets import base, rsync_codes, rsync_words, ssh, ssh_files
from supervisor.effects.backup.targets.base import Facts, Found, TargetError
from supervisor.effects.backup.targets.programs import Ended, Programs, nothing
from supervisor.effects.backup.targets.ssh_share import Share
from supervisor.effects.backup.targets.workroom import Workroom, workroom

SILENCE_S = 60.0  # rsync's --timeout, and less than a dead link needs to be noticed otherwise
SLOW_DISK_BYTES = 20_000_000  # per second: while a disk reads a whole file for its checksum nothing is heard of it
GRACE_S = 60.0  # that our own patience is longer than rsync's: its message says more
PROBE_S = 45.0
PARTIAL_DIR = ".rsync-partial"  # of what is fetched
MOST_LEFTOVERS = 1000

KNOWS_FSYNC = (3, 2, 4)
KNOWS_QUOTING = (3, 2, 4)  # older ones hand the path to the shell of the other end as it is
_VANISHED = 24  # of names that were listed, or of folders that are not there

_WILD = re.compile(r"[*?\[\]\n]")
_FORMAT = "--out-format=%i %n"
_ITEM = 12  # characters of %i and the space behind it
#: A backup holds whatever a run wrote: it is nobody else's. The manifest knows the modes.
_RIGHTS = "--chmod=D0700,F0600"


@dataclass(frozen=True)
class _Account:
    """What the account may do, and what is at its end. `restricted`: it runs nothing but rsync."""

    restricted: bool
    version: rsync_codes.Version | None
    free_bytes: int | None = None
    total_bytes: int | None = None


class RsyncTarget:
    """A [[backup]] section with an address behind ssh; see base.Target.

    An account that may only write (`rrsync -wo`) can `send`, `put` and find what is `differing`; `read`, `fetch` and
    `listing` are "refused" there.
    """

    def __init__(
        self,
        settings: Backup,
        address: Address,
        server: str,
        state_dir: Path,
        *,
        stop: threading.Event,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """TargetError "refused" for a path that cannot be told to rsync or ssh."""
        if _WILD.search(address.path):
            raise TargetError("refused", f"{address.path!r}: a path behind ssh cannot hold * ? [ ] or an end of line")
        self.name = settings.name
        self.append_only = settings.append_only
        self._settings = settings
        self._address = address
        self._server = base.server_folder(server)
        self._folder = state_dir / "backup" / settings.name
        self._programs = Programs(stop, pass_fds)
        self._command = ssh.command(settings, address)
        self._share = Share()
        self._here = rsync_words.LocalVersion(settings.name)
        self._account: _Account | None = None
        self._protocol: int | None = None
        self._distrusted: set[str] = set()

    def close(self) -> None:
        """Give up the connection that the calls have shared; without this it ends by itself, seconds later."""
        self._share.close(lambda: [*self._ssh(), "-O", "exit", "--", self._address.host])

    def _ssh(self) -> list[str]:
        program, *options = self._command
        return [program, *self._share.options(), *ssh.preference(), *options]

    # ---- reachable
    def facts(self) -> Facts:
        """Ask the account what it is, and look at the folder: where its room can be told, it is there."""
        ssh_files.demand(self._settings)
        self._here.demand()
        account = self._account = self._asked()
        if account.free_bytes is None:
            self._protocol = self._reached()
        warning = rsync_codes.warning(self._here.version(), account.version, self._protocol)
        return Facts(account.free_bytes, account.total_bytes, warning)

    def _asked(self) -> _Account:
        """A full account tells the version there and the room; a restricted one refuses, which is an answer too."""
        said: list[bytes] = []
        path = self._path().removesuffix(".")
        order = f"rsync --version; df -Pk -- {rsync_words.quoted(path)}"
        ended = self._programs.run([*self._ssh(), "--", self._address.host, order], silence_s=PROBE_S, line=said.append)
        text = b"\n".join(said).decode("utf-8", "replace")
        version = rsync_codes.version_in(text)
        if version is None and (ended.code == 255 or re.search(r"rsync.*not found", ended.errors)):
            code = ended.code if ended.code == 255 else 127
            raise TargetError(*rsync_codes.cause_of(code, ended.errors))
        room = rsync_words.ROOM.search(text)
        if version is None or room is None:
            return _Account(restricted=version is None, version=version)
        return _Account(False, version, max(0, int(room["free"])) * 1024, int(room["total"]) * 1024)

    def _reached(self) -> int | None:
        """Look for the folder, by reading or, where only that is allowed, by sending nothing. The protocol there."""
        said: list[bytes] = []
        with self._room() as room:
            reading = ["--list-only", "-d", *self._names(room, [f"{self._server}/"]), "--ignore-missing-args"]
            try:
                self._pull(["--debug=proto", *reading], room.path, room, line=said.append)
            except TargetError as error:
                if error.cause != "refused":
                    raise
                empty = _made(room.path / "empty")
                self._push(["--debug=proto", "-d", "-O"], f"{empty}/", room, line=said.append)
        return rsync_codes.protocol_in(b"\n".join(said).decode("utf-8", "replace"))

    def _known(self) -> _Account:
        if self._account is None:
            self.facts()
        return self._account or _Account(restricted=True, version=None)

    # ---- sending
    def send(self, stage: Path, under: str, *, progress: base.Progress = base.ignore) -> None:
        """See base.Target.

        What arrives lies in `.~tmp~` of its folder until all of it is there, also when the transfer is interrupted: the
        next one goes on from it. Not in a --partial-dir: rrsync 3.5.0 makes another path of it, and nothing is kept.
        """
        under = base.checked_folder(under)
        self._known()
        options = ["-r", "-t", "-O", _RIGHTS, "--delay-updates", "--info=progress2", "--no-h"]
        options += [*self._fsync(), *self._leftovers(under), *(["-I"] if under in self._distrusted else [])]
        with self._room() as room:
            source = self._placed(room.path / "tree", stage, under)
            self._push(
                ["-R", *options], source, room, line=rsync_words.sent_bytes(progress), patience_s=_patience_s(stage)
            )
        self._distrusted.discard(under)

    def _placed(self, tree: Path, stage: Path, under: str) -> str:
        """The staging folder as if it lay in the tree of the target: so rsync makes the leading folders itself."""
        there = "/".join(part for part in (self._server, under) if part)
        link = tree / there
        link.parent.mkdir(parents=True)
        link.symlink_to(stage, target_is_directory=True)
        return f"{tree}/./{there}/"

    def _leftovers(self, under: str) -> list[str]:
        """Remove what a killed rsync left in the snapshot's own folder, `.NAME.XXXXXX`, and nothing else."""
        if self.append_only or not manifest.is_snapshot(under.rsplit("/", 1)[-1]):
            return []
        return ["--delete", f"--max-delete={MOST_LEFTOVERS}", "--filter=R .*.??????", "--filter=P *"]

    def _fsync(self) -> list[str]:
        """Both ends must know the option. Where the other one tells no version its protocol may prove it."""
        there = self._known().version
        knows = there >= KNOWS_FSYNC if there is not None else (self._protocol or 0) >= rsync_codes.FIXED_PROTOCOL
        return ["--fsync"] if knows and (self._here.version() or KNOWS_FSYNC) >= KNOWS_FSYNC else []

    def differing(self, stage: Path, under: str) -> list[str]:
        """See base.Target: both ends read their files and compare checksums; nothing is changed."""
        under = base.checked_folder(under)
        found: list[str] = []
        prefix = "".join(f"{part}/" for part in (self._server, under) if part)

        def note(line: bytes) -> None:
            if line[:2] in {b"<f", b">f"}:
                found.append(rsync_words.unescaped(line[_ITEM:]).removeprefix(prefix))

        with self._room() as room:
            source = self._placed(room.path / "tree", stage, under)
            options = ["-R", "-r", "-n", "-c", "-8", _FORMAT]
            self._push(options, source, room, line=note, patience_s=_patience_s(stage))
        if found:
            self._distrusted.add(under)
        return sorted(found)

    def put(self, path: str, data: bytes) -> None:
        """See base.Target."""
        path = base.checked(path)
        self._known()
        with self._room() as room:
            file = room.path / "tree" / self._server / path
            file.parent.mkdir(parents=True)
            file.write_bytes(data)
            source = f"{room.path}/tree/./{self._server}/{path}"
            self._push(["-R", "-I", "-t", "-O", _RIGHTS, *self._fsync()], source, room)

    # ---- reading
    def read(self, path: str) -> bytes | None:
        """See base.Target."""
        path = base.checked(path)
        with self._room() as room:
            got = _made(room.path / "got")
            names = self._names(room, [f"{self._server}/{path}"])
            self._pull([*names, "--ignore-missing-args", "--no-implied-dirs"], got, room)
            file = got / self._server / path
            if not file.is_file():
                return None
            if file.stat().st_size > base.MOST_READ_BYTES:
                raise TargetError("refused", f"{path} is too large: {file.stat().st_size} bytes")
            return file.read_bytes()

    def fetch(self, files: Sequence[str], into: Path) -> None:
        """See base.Target. What comes is on the disk when this returns."""
        chosen = [base.checked(path) for path in files]
        if not chosen:
            return
        with self._room() as room:
            names = self._names(room, [f"{self._server}/./{path}" for path in chosen])
            options = ["-t", "--no-implied-dirs", _RIGHTS, f"--partial-dir={PARTIAL_DIR}", "--info=progress2"]
            self._pull([*options, *names], into, room)
        for path in chosen:
            if not (into / path).is_file():
                raise TargetError("failed", f"{path} is no plain file there")
            durable.sync(into / path)

    def listing(self, under: str) -> list[Found]:
        """See base.Target."""
        under = base.checked_folder(under)
        top = f"{self._server}/"
        found = self._listed(f"{top}{under}/" if under else top, self._path())
        return [Found(one.path.removeprefix(top), one.bytes, one.mtime) for one in found]

    def _listed(self, folder: str, place: str) -> list[Found]:
        found: list[Found] = []

        def note(line: bytes) -> None:
            one = rsync_words.listed(line)
            if one is not None:
                found.append(one)

        with self._room() as room:
            options = ["--list-only", "-r", "-8", "--no-h", "--ignore-missing-args", *self._names(room, [folder])]
            self._pull(options, room.path, room, line=note, place=place, fine={0, _VANISHED})
        return sorted(found, key=lambda one: one.path)

    # ---- removing
    def remove(self, files: Sequence[str]) -> int:
        """See base.Target. Files are named one by one; a folder is removed only if it is empty."""
        base.refuse_removal(self)
        chosen = base.removable(files)
        if not chosen:
            return 0
        removed = self._deleted([f"{self._server}/{path}" for path in chosen], self._path())
        folders = [f"{self._server}/{path}" for path in base.parents(chosen)]
        while folders and (gone := self._deleted(folders, self._path())):  # each time those that have become empty
            folders = [path for path in folders if path not in gone]
        return len(removed)

    def _deleted(self, names: Sequence[str], place: str) -> set[str]:
        """Have exactly these removed: they are asked for from an empty folder, where each of them is missing."""
        gone: set[str] = set()
        if not names:
            return gone

        def note(line: bytes) -> None:
            if line.startswith(b"*deleting"):
                gone.add(rsync_words.unescaped(line[_ITEM:]).removesuffix("/"))

        with self._room() as room:
            empty = _made(room.path / "empty")
            options = ["--delete-missing-args", "--no-implied-dirs", "-8", _FORMAT, *self._names(room, names)]
            self._push(options, f"{empty}/", room, line=note, place=place, fine={0, _VANISHED})
        return gone

    # ---- running rsync
    @contextmanager
    def _room(self) -> Iterator[Workroom]:
        try:
            with workroom(self._folder) as room:
                yield room
        except OSError as error:
            raise TargetError("source", f"{self._folder}: {error.strerror or error}") from error

    def _names(self, room: Workroom, names: Iterable[str]) -> list[str]:
        """Names of files as rsync reads them from a list: nothing in them has a meaning."""
        (room.path / "names").write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
        return ["--from0", f"--files-from={room.path}/names"]

    def _path(self) -> str:
        """The configured folder there; "/." at its end: rsync does not make it."""
        path = self._address.path.removeprefix("~/").rstrip("/")
        if self._address.path.startswith("/"):
            return f"{path}/."
        return f"./{path}/." if path and path != "~" else "./."

    def _push(self, options: Sequence[str], source: str, room: Workroom, *, place: str = "", **rest: Any) -> None:
        self._rsync([*options, "--", source, self._there(place)], room, pulling=False, **rest)

    def _pull(self, options: Sequence[str], into: Path, room: Workroom, *, place: str = "", **rest: Any) -> None:
        self._rsync([*options, "--", self._there(place), f"{into}/"], room, pulling=True, **rest)

    def _rsync(
        self,
        argv: Sequence[str],
        room: Workroom,
        *,
        pulling: bool,
        line: Callable[[bytes], None] = nothing,
        patience_s: float = SILENCE_S,
        fine: Iterable[int] = (0,),
    ) -> Ended:
        """Run rsync; TargetError where it ended otherwise than `fine`."""
        shell = " ".join(ssh.shell_word(word) for word in self._ssh())
        limit = [f"--bwlimit={max(1, self._settings.bwlimit // 1024)}"] if self._settings.bwlimit else []
        common = ["rsync", "-e", shell, f"--timeout={patience_s:.0f}", "--outbuf=L", *limit]
        silence_s = patience_s + GRACE_S
        ended = self._programs.run([*common, *argv], silence_s=silence_s, line=line, pass_fds=room.held)
        if ended.code not in fine:
            raise TargetError(*rsync_codes.cause_of(ended.code, ended.errors, pulling=pulling))
        return ended

    def _there(self, place: str) -> str:
        path = place or self._path()
        if (self._here.version() or KNOWS_QUOTING) < KNOWS_QUOTING:
            path = rsync_words.quoted(path)
        return f"{self._address.host}:{path}"


def _patience_s(stage: Path) -> float:
    """How long one file may take to be read at both ends without a word."""
    largest = 0
    for folder, _, names in os.walk(stage):
        for name in names:
            largest = max(largest, os.lstat(os.path.join(folder, name)).st_size)  # noqa: PTH118 - of many files
    return SILENCE_S + largest / SLOW_DISK_BYTES


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
