"""One server with one target, for tests of backups: a run with its ledger, a journal, and a folder as the target."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec

from supervisor import backup_config, layout
from supervisor.core.actions import BackUp
from supervisor.core.backups.manifest import Manifest, run_folder
from supervisor.core.ledger import Ledger
from supervisor.core.model import Progress
from supervisor.effects.backup.fetched import Holdings, place
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import Target
from supervisor.effects.backup.transaction import BackerUp, Places
from supervisor.effects.keeper import Keeper
from supervisor.effects.private_copy import sha256_of
from supervisor.journal import Journal
from tests.unit.ledger_room import NOW, TRAIN, Room

SERVER = "gpu1"


class WatchedTarget:
    """A local target with a book of what was asked of it, and with trouble.

    `fails` raises for a call before it is carried out, `after` may do something afterwards, `spoils` changes a file that
    was just sent. `root` is the server's folder.
    """

    def __init__(self, settings: backup_config.Backup, state_dir: Path, stop: threading.Event) -> None:
        self._target = open_target(settings, SERVER, state_dir, stop=stop)
        self.name = settings.name
        self.append_only = settings.append_only
        self.root = Path(settings.to) / SERVER
        self.calls: list[str] = []
        self.sent: list[str] = []
        self.fails: Callable[[str], None] = lambda _call: None
        self.spoils: Callable[[Path], None] = lambda _path: None
        self.after: Callable[[str], None] = lambda _call: None

    def __getattr__(self, call: str) -> Callable[..., object]:
        """Each call of a target."""
        real = getattr(self._target, call)

        def asked(*arguments: object, **keywords: object) -> object:
            self.calls.append(call)
            self.fails(call)
            before = self._files() if call == "send" else {}
            answer = real(*arguments, **keywords)
            if call == "send":
                self._note(before)
            self.after(call)
            return answer

        return asked

    def _files(self) -> dict[str, int]:
        found = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.stat().st_ino for path in found}

    def _note(self, before: dict[str, int]) -> None:
        new = [path for path, number in self._files().items() if before.get(path) != number]
        self.sent += new
        for path in new:
            self.spoils(self.root / path)


class BackupRoom(Room):
    """A server: the run of Room, a journal and a target. On a folder that is one already it goes on with that."""

    def __init__(self, tmp_path: Path, **settings: object) -> None:
        fresh = not (tmp_path / "runs").exists()
        if fresh:
            super().__init__(tmp_path)
        else:
            self._go_on(tmp_path)
        self.state_dir = tmp_path / "state"
        self.state_dir.mkdir(exist_ok=True)
        self.journal = self.state_dir / "journal.sqlite"
        Journal.open(self.journal).close()
        (tmp_path / "target").mkdir(exist_ok=True)
        self.settings = backup_config.Backup(name="nas", to=str(tmp_path / "target"), **settings)
        self.stop = threading.Event()
        self.target = WatchedTarget(self.settings, self.state_dir, self.stop)
        self.steps: list[str] = []
        self.serial = 0
        self.run_dir = self.dir.root
        self.folder = run_folder(self.job.project, self.job.name)
        if fresh:
            self.fill()

    def _go_on(self, tmp_path: Path) -> None:
        self.runs_dir, self.job, self.now = tmp_path / "runs", TRAIN, NOW + 86400.0
        self.dir = layout.run_directory(self.runs_dir, self.job.project, self.job.name)
        self.run, self.attempt = "truck@1", 1
        self.last = self.dir.weights / "last.pt"
        self.keeper = Keeper(self.runs_dir, lambda: self.now)

    def fill(self) -> None:
        """What a training leaves, besides its checkpoints."""
        self.write("mark", b"0123456789abcdef")
        self.write("job.toml", b'name = "truck"\n')
        self.write("train/args.yaml", b"epochs: 10\n")
        self.write("train/results.csv", b"epoch,loss\n1,2\n")
        self.write("train/labels.jpg", b"\xff\xd8" + bytes(5000))
        self.write("attempts/1/log", b"Epoch 1/10\n")
        self.write("attempts/1/started.json", b"{}")
        self.write("train/weights/last.pt", b"half of a checkp")

    def write(self, path: str, data: bytes) -> Path:
        """Let a file of the run hold that, with a time of its own."""
        target = self.run_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.serial += 1
        os.utime(target, ns=(10**18 + self.serial, 10**18 + self.serial))
        return target

    def backer(self, before_step: Callable[[str], None] | None = None) -> BackerUp:
        """Who carries the orders out."""
        settings = SimpleNamespace(server=SimpleNamespace(name=SERVER), backup=(self.settings,))

        def noted(step: str) -> None:
            self.steps.append(step)
            if before_step is not None:
                before_step(step)

        return BackerUp(
            lambda: settings,
            Places(self.runs_dir, self.state_dir, self.journal),
            lambda: self.now,
            self.stop,
            opening=lambda *_, **__: self.target,
            before_step=noted,
        )

    def back_up(self, *, key: str = "", before_step: Callable[[str], None] | None = None, **fields: object):
        """Carry an order out; its answer. The clock goes on meanwhile."""
        self.now += 60.0
        facts = {
            "key": key or f"truck@1/backup-{self.serial}-{self.now}/nas",
            "run": self.run,
            "target": "nas",
            "job": self.job,
            "token": self.attempt,
            "attempt": self.attempt,
            "phase": "RUNNING",
            "progress": Progress(epoch=3, epochs=10, metrics={"map": 0.5, "bad": float("nan")}),
        }
        (answer,) = self.backer(before_step)(BackUp(**{**facts, **fields}))
        return answer

    def back_up_state(self, **fields: object):
        """Back the journal up."""
        return self.back_up(**{"run": "", "job": None, "token": 0, "attempt": 0, "phase": "", **fields})

    def manifests(self, folder: str = "") -> list[Manifest]:
        """What lies there, the newest first."""
        folder = folder or self.folder
        return list(Holdings(self._reader(), folder).manifests(folder))

    def _reader(self) -> Target:
        return open_target(self.settings, SERVER, self.state_dir, stop=threading.Event())

    def there(self) -> set[str]:
        """All paths on the target, below the run's folder."""
        base = self.target.root / self.folder
        return {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}

    def wrong(self, folder: str = "") -> list[str]:
        """What a person who restores would complain about."""
        folder = folder or self.folder
        found = []
        for manifest in self.manifests(folder):
            for file in manifest.files:
                path = self.target.root / place(folder, file)
                if not path.is_file() or sha256_of(path) != file.sha256 or path.stat().st_size != file.bytes:
                    found.append(f"{manifest.snapshot}: {file.path} is not what the manifest says")
            record = manifest.stored("good/ledger.json")
            if record is not None:
                named = msgspec.json.decode((self.target.root / place(folder, record)).read_bytes(), type=Ledger)
                files = {f"good/{entry.file}": entry.sha256 for entry in named.entries}
                held = {file.path: file.sha256 for file in manifest.files if file.path in files}
                if files != held:
                    found.append(f"{manifest.snapshot}: its ledger names {sorted(files)}, it has {sorted(held)}")
        return found

    def left_staged(self) -> list[str]:
        """What staging left here."""
        roots = (self.runs_dir / ".staging" / "nas", self.state_dir / "backup" / "nas" / "staging")
        return [str(path) for root in roots if root.exists() for path in root.rglob("*")]
