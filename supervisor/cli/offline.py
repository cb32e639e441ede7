"""Looking while the daemon is down: the journal, read-only. What it says is as old as its last event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from supervisor.cli.client import Client, Target, View, connect, gpu_path, run_path, settings
from supervisor.cli.failures import NoDaemon, NoSuchGpu, NoSuchRun, TryLater
from supervisor.cli.screen import note, time_text


class Reading(Protocol):
    """Where reading verbs get their views from: the daemon, or the journal."""

    def runs(self, *, every: bool) -> View:
        """The list of runs; see views.runs_view."""
        ...

    def run(self, name: str) -> View:
        """One run; see views.run_view."""
        ...

    def why(self, name: str) -> View:
        """The chain of events of a run; see views.why_view."""
        ...

    def incidents(self, name: str | None, *, is_open: bool, since_at: float) -> View:
        """What went wrong, of one run or of all; see incidents_view.server_view."""
        ...

    def report(self, name: str | None, *, since_at: float) -> View:
        """Where the time of one run went, or of all; see goodput_view."""
        ...

    def checkpoints(self, name: str) -> View:
        """The checkpoints of a run; see listing.checkpoints_view."""
        ...

    def curve(self, name: str) -> View:
        """Loss and metrics over all attempts of a run; see curve.view."""
        ...

    def status(self) -> View:
        """The server; see views.status_view."""
        ...

    def backups(self, name: str | None, *, every: bool) -> View:
        """The backup targets and how the runs, or one, stand on them; see backups.views.backups_view."""
        ...

    def gpus(self) -> View:
        """All GPUs; see gpus.views.gpus_view."""
        ...

    def gpu(self, name: str, events: int = 0) -> View:
        """One GPU with its newest events; see gpus.views.gpu_view."""
        ...


class Online:
    """The daemon's own views."""

    def __init__(self, client: Client) -> None:
        """Ask `client`."""
        self._client = client

    def runs(self, *, every: bool) -> View:
        """See Reading."""
        return self._client.get("/v1/runs", **({"all": 1} if every else {}))

    def run(self, name: str) -> View:
        """See Reading."""
        return self._client.get(run_path(name))

    def why(self, name: str) -> View:
        """See Reading."""
        return self._client.get(run_path(name, "why"))

    def incidents(self, name: str | None, *, is_open: bool, since_at: float) -> View:
        """See Reading."""
        path = run_path(name, "incidents") if name else "/v1/incidents"
        return self._client.get(path, open=int(is_open), since=max(0, int(since_at)))

    def report(self, name: str | None, *, since_at: float) -> View:
        """See Reading."""
        path = run_path(name, "report") if name else "/v1/report"
        return self._client.get(path, **({"since": int(since_at)} if since_at > 0 else {}))

    def checkpoints(self, name: str) -> View:
        """See Reading."""
        return self._client.get(run_path(name, "checkpoints"))

    def curve(self, name: str) -> View:
        """See Reading."""
        return self._client.get(run_path(name, "curve"))

    def status(self) -> View:
        """See Reading."""
        return self._client.get("/v1/status")

    def backups(self, name: str | None, *, every: bool) -> View:
        """See Reading."""
        asked = {**({"run": name} if name else {}), **({"all": 1} if every else {})}
        return self._client.get("/v1/backups", **asked)

    def gpus(self) -> View:
        """See Reading."""
        return self._client.get("/v1/gpus")

    def gpu(self, name: str, events: int = 0) -> View:
        """See Reading."""
        return self._client.get(gpu_path(name), events=events)


class Offline:
    """The journal's last state. Opened for each view and closed at once."""

    def __init__(self, journal: Path, runs_dir: Path) -> None:
        """Read the journal at this path; runs lie in `runs_dir`."""
        self._journal = journal
        self._runs_dir = runs_dir

    @contextmanager
    def _open(self) -> Iterator[Any]:
        from supervisor.journal import Journal

        with closing(Journal.open(self._journal, read_only=True)) as journal:
            yield journal

    def state_at(self) -> float:
        """When the last event was written, in Unix seconds; 0 for an empty journal."""
        with self._open() as journal:
            rows = journal.recent(0, 1)
        return rows[-1].at if rows else 0.0

    def runs(self, *, every: bool) -> View:
        """See Reading."""
        from supervisor.core import views

        with self._open() as journal:
            return self._marked(views.runs_view(journal.load(), {}, self.state_at(), every=every))

    def run(self, name: str) -> View:
        """See Reading."""
        from supervisor.core import views
        from supervisor.layout import run_directory

        with self._open() as journal:
            world = journal.load()
            run = _find(world, name)
            directory = str(run_directory(self._runs_dir, run.job.project, run.name).root)
            rows = journal.history(run.id)
            view = views.run_view(run, world, None, rows, now=self.state_at(), directory=directory)
        return self._marked(view)

    def why(self, name: str) -> View:
        """See Reading."""
        from supervisor.core import views

        with self._open() as journal:
            run = _find(journal.load(), name)
            return self._marked(views.why_view(run, journal.history(run.id), None, self.state_at()))

    def incidents(self, name: str | None, *, is_open: bool, since_at: float) -> View:
        """See Reading."""
        from supervisor.core import incidents_view
        from supervisor.core.backups import views as backup_views

        with self._open() as journal:
            world = journal.load()
        run = _find(world, name) if name else None
        now = self.state_at()
        view = incidents_view.server_view(world, now, run=run, is_open=is_open, since_at=since_at)
        return self._marked({**view, "targets": backup_views.troubles(world, now) if run is None else []})

    def report(self, name: str | None, *, since_at: float) -> View:
        """See Reading."""
        from supervisor.core import goodput_view

        since = int(since_at) if since_at > 0 else None
        with self._open() as journal:
            world, now = journal.load(), self.state_at()
            if name is None:
                view = goodput_view.server_view(world, journal.milestones, now, board={}, since_at=since)
            else:
                run = _find(world, name)
                view = goodput_view.report_view(run, journal.milestones(run.id), now, live=None, since_at=since)
        return self._marked(view)

    def checkpoints(self, name: str) -> View:
        """See Reading. The files may be newer than the journal."""
        from supervisor.effects.listing import checkpoints_view
        from supervisor.errors import RetryableError

        with self._open() as journal:
            run = _find(journal.load(), name)
        try:
            return self._marked(checkpoints_view(run, self._runs_dir, self.state_at()))
        except (RetryableError, OSError) as error:
            raise TryLater(f"the checkpoints of {run.name} cannot be looked at: {error}") from error

    def curve(self, name: str) -> View:
        """See Reading. The files may be newer than the journal."""
        from supervisor import curve_files
        from supervisor.core.ancestry import ancestors

        with self._open() as journal:
            world = journal.load()
            run = _find(world, name)
            rows = [row for one in ancestors(world, run) for row in journal.history(one.id)]
        return self._marked(curve_files.curve_view(run, self._runs_dir, rows, self.state_at()))

    def status(self) -> View:
        """See Reading."""
        from supervisor.core import views

        with self._open() as journal:
            return self._marked(views.status_view(journal.load(), self.state_at()))

    def backups(self, name: str | None, *, every: bool) -> View:
        """See Reading."""
        from supervisor.core.backups import views

        with self._open() as journal:
            world = journal.load()
        run = _find(world, name) if name else None
        return self._marked(views.backups_view(world, self.state_at(), run=run, every=every))

    def gpus(self) -> View:
        """See Reading. Nobody reads the GPUs now: their values are not known."""
        from supervisor.core.gpus import views

        with self._open() as journal:
            return self._marked(views.gpus_view(journal.load(), {}, self.state_at()))

    def gpu(self, name: str, events: int = 0) -> View:
        """See Reading."""
        from supervisor.core.gpus import leases, lookup, views
        from supervisor.layout import with_directories

        with self._open() as journal:
            world = journal.load()
            gpus = leases.devices(world)
            found = lookup.matches(gpus, name)
            if len(found) != 1:
                raise NoSuchGpu(lookup.no_such_gpu(gpus, name))
            rows = journal.gpu_history(found[0].uuid, events) if events else ()
            view = views.gpu_view(world, found[0].uuid, {}, self.state_at(), rows=rows)
        return self._marked(with_directories(view, self._runs_dir))

    @staticmethod
    def _marked(view: Mapping[str, Any]) -> View:
        return {**view, "offline": True}


def _find(world: Any, name: str) -> Any:
    from supervisor.core import views

    run = views.find_run(world, name)
    if run is None:
        raise NoSuchRun(views.no_such_run(world, name))
    return run


def reading(target: Target) -> Reading:
    """The daemon if one answers, else the journal, and then the person is told so.

    Raises NoDaemon where neither can be read.
    """
    try:
        return Online(connect(target))
    except NoDaemon as missing:
        return _offline(target, missing)


def _offline(target: Target, missing: NoDaemon) -> Offline:
    import sqlite3

    from supervisor.layout import journal_file

    if target.socket and not target.config:
        raise missing  # somebody else's daemon: its journal is not the one that our configuration names
    server = settings(target).server
    journal = journal_file(server.state_dir)
    offline = Offline(journal, server.runs_dir)
    try:
        at = offline.state_at()
    except FileNotFoundError:
        raise NoDaemon(f"{missing.message}\n  there is no journal at {journal} either") from None
    except (OSError, sqlite3.Error) as error:
        raise NoDaemon(f"{missing.message}\n  its journal {journal} cannot be read: {error}") from None
    note(f"daemon is not running; this is the state of {time_text(at)} (read-only)")
    return offline
