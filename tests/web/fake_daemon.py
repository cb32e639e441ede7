"""A daemon without hands: the real decisions, the real journal and the real API, but nothing is ever carried out."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path

from supervisor.core import events
from supervisor.core.checkpoints import Saved
from supervisor.core.model import Boot, Job, Policy, World
from supervisor.core.step import step
from supervisor.effects import listing
from supervisor.effects.prune.carry_out import Pruner
from supervisor.effects.prune.showing import Showing
from supervisor.journal import Entry, Journal
from supervisor.sources.course import Live
from supervisor.web.server import ApiServer

START_AT = 1_800_000_000.0
BOOT = Boot("boot", 1)


class FakeClock:
    """A clock that moves a second with every event."""

    def __init__(self):
        self.at = START_AT

    def now(self):
        """See Clock."""
        return self.at


class FakeBoard:
    """Heartbeats as the test wants them."""

    def __init__(self):
        self.live = {}

    def snapshot(self):
        """See Board."""
        return dict(self.live)


def job(name, *, revision="", owner=0, epochs=10, **fields):
    """A training job as a checked job file would give it."""
    fields.setdefault("train", {"model": "/m.yaml", "data": "/d.yaml", "epochs": epochs})
    revision = revision or hashlib.sha256(name.encode()).hexdigest()
    return Job(name=name, revision=revision, owner=owner, file=f"/jobs/{name}.toml", python="/env/bin/python", **fields)


class FakeDaemon:
    """Events are decided at once, in the thread that puts them; `deaf` lets them wait until `listen`."""

    def __init__(self, root):
        self.root = root
        self.clock, self.board = FakeClock(), FakeBoard()
        self.journal_path = root / "state" / "journal.sqlite"
        self.runs_dir, self.jobs_folder = root / "runs", root / "jobs"
        for folder in (self.journal_path.parent, self.runs_dir, self.jobs_folder):
            folder.mkdir()
        self.journal = Journal.open(self.journal_path)
        self.world, self.deaf, self.waiting = World(), False, []
        self.saved = lambda _run, _epoch: Saved()
        self.readings, self.kernel = {}, "followed"
        self.prune = None  # the [prune] table
        self.pruner = Pruner(
            lambda: self.prune, self.runs_dir, lambda: self.world, self.clock.now, state_dir=root / "state"
        )
        self.lock = threading.Lock()
        self.socket_path = root / "socket"
        self.api = self.make_api()
        self.put(events.DaemonStarted(at=START_AT, pid=1, version="0", boot=BOOT))
        self.allow(1)

    def make_api(self):
        """An API on this daemon's socket."""
        return ApiServer(
            world=lambda: self.world,
            put=self.put,
            board=self.board,
            history=lambda: Journal.open(self.journal_path, read_only=True),
            config_view=self.config_view,
            clock=self.clock,
            socket_path=self.socket_path,
            runs_dir=self.runs_dir,
            server=lambda: {"pid": 7, "version": "0.0.0"},
            saved=lambda run, epoch: self.saved(run, epoch),  # noqa: PLW0108 - a test may change it
            checkpoints=lambda run: listing.checkpoints_view(run, self.runs_dir, self.clock.now()),
            gpu_readings=lambda: dict(self.readings),
            kernel_state=lambda: self.kernel,
            pruning=Showing(self.pruner),
        )

    def make(self):
        """A new API in place of the one that was stopped."""
        self.api = self.make_api()
        self.api.start()

    def config_view(self):
        """What config.show gives, in small."""
        return {
            "server": {"state_dir": str(self.journal_path.parent), "runs_dir": str(self.runs_dir)},
            "jobs": {"folder": str(self.jobs_folder)},
            "defaults": {"python": "/bin/sh", "env": {"API_KEY": "hush"}, "time_limit": None},
            "channel": [],
        }

    def write_config(self):
        """A config.toml that names this daemon's folders and socket."""
        path = self.root / "config.toml"
        path.write_text(
            f'[server]\nstate_dir = "{self.journal_path.parent}"\nruns_dir = "{self.runs_dir}"\n'
            f'socket = "{self.socket_path}"\n[jobs]\nfolder = "{self.jobs_folder}"\nallow_root = true\n'
            '[defaults]\npython = "/bin/sh"\n[disk]\npause_below = "0B"\n',
        )
        return path

    def put(self, event):
        """See Loop.put."""
        with self.lock:
            self.waiting.append(event)
        if not self.deaf:
            self.listen()

    def listen(self):
        """Decide all that waits."""
        with self.lock:
            waiting, self.waiting = self.waiting, []
            for event in waiting:
                self.clock.at += 1
                before, now = self.world, self.clock.now()
                after, actions = step(before, event, now)
                self.journal.commit([Entry(event, now, before, after, actions)])
                self.world = after

    def allow(self, max_running):
        """Let so many runs start."""
        policy = Policy(max_running=max_running, server="test")
        self.put(events.Configured(at=self.clock.now(), policy=policy))

    def accept(self, name, path=None, **fields):
        """A job file that was dropped, checked and accepted; the id of its run."""
        accepted = job(name, **fields)
        path = str(path or accepted.file)
        seen = events.JobFileSeen(at=self.clock.now(), path=path, data=b"", revision=accepted.revision, owner=0)
        self.put(seen)
        self.put(events.JobAccepted(at=self.clock.now(), path=path, job=accepted))
        return self.world.latest[name]

    def refuse(self, path, revision, problem):
        """A job file that was dropped and refused."""
        self.put(events.JobFileSeen(at=self.clock.now(), path=path, data=b"", revision=revision, owner=0))
        self.put(events.JobRefused(at=self.clock.now(), path=path, revision=revision, problem=problem))

    def launch(self, name, **fields):
        """A job that runs."""
        run_id = self.accept(name, **fields)
        at, number = self.clock.now(), self.world.live[run_id].attempts
        self.put(events.Prepared(at=at, run=run_id, attempt=number, start="fresh"))
        self.put(events.Launched(at=at, run=run_id, attempt=number, pid=11, shim_pid=10, boot=BOOT, started_at=at))
        return run_id

    def progress(self, run_id, epoch, saved_epoch, **fields):
        """The training moved on, and the live board says the same."""
        at, number = self.clock.now(), self.world.live[run_id].attempts
        fields = {"epochs": 10, "epoch_s": 60.0, **fields}
        self.put(events.Progressed(at=at, run=run_id, attempt=number, epoch=epoch, saved_epoch=saved_epoch, **fields))

    def live(self, run_id, **fields):
        """What the newest heartbeat says."""
        self.board.live[run_id] = Live(at=self.clock.now(), **{"phase": "train", "epochs": 10, **fields})

    def end(self, run_id, *, finished=True, code=0, **fields):
        """The attempt ends and everything about its end is known."""
        at, number = self.clock.now(), self.world.live[run_id].attempts
        who = {"at": at, "run": run_id, "attempt": number}
        self.put(events.AttemptExited(**who, code=code, ended_at=at))
        self.put(events.AttemptCleared(**who))
        self.put(events.Examined(**who, finished=finished, proof="end record" if finished else "", **fields))

    def close(self):
        """Stop everything."""
        self.api.stop()
        self.journal.close()


def short_folder():
    """A folder with a short path that other users may enter: a socket's path holds 108 bytes."""
    folder = tempfile.TemporaryDirectory(prefix="ys-", dir="/tmp")
    Path(folder.name).chmod(0o755)
    return folder
