"""The record: events, the actions that they caused, and the rows that make up the world. SQLite, one writer.

An event, its actions and every changed row are written in one transaction before anything is done (design: "No
record, no act"). Start-up loads the rows; the events serve `why`, the tests' replay and the API.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from supervisor.core.actions import Action, AnyAction
from supervisor.core.backups.events import Spot
from supervisor.core.backups.model import Target
from supervisor.core.events import AnyEvent, Event, JobFileSeen
from supervisor.core.gpus.model import Driver, Gpu
from supervisor.core.milestones import KINDS, OF_A_GPU, thinned
from supervisor.core.model import Boot, FileNote, Policy, Run, World

_GPU_KINDS = ", ".join(f"'{kind}'" for kind in OF_A_GPU)
SCHEMA_VERSION = 1
EVENT_VERSION = 1
RESERVE_BYTES = 8 * 1024 * 1024

SCHEMA = f"""
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL,
    run TEXT NOT NULL, origin TEXT NOT NULL, code TEXT NOT NULL, body BLOB NOT NULL, actions TEXT NOT NULL);
CREATE INDEX events_by_run ON events (run, seq);
CREATE INDEX events_of_gpus ON events (seq) WHERE kind IN ({_GPU_KINDS});
CREATE TABLE changes (
    seq INTEGER NOT NULL, run TEXT NOT NULL, phase_before TEXT NOT NULL, phase_after TEXT NOT NULL,
    reason TEXT NOT NULL, PRIMARY KEY (run, seq)) WITHOUT ROWID;
CREATE INDEX changes_by_event ON changes (seq);
CREATE TABLE actions (
    key TEXT PRIMARY KEY, seq INTEGER NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE sources (revision TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE rows (space TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (space, key)) WITHOUT ROWID;
"""


class Entry(msgspec.Struct, frozen=True):
    """One step: what happened, when it was decided, what the world was and became, and what is to be done."""

    event: Event
    now: float
    before: World
    after: World
    actions: tuple[Action, ...]


class HistoryRow(msgspec.Struct, frozen=True):
    """One event as `why` needs it, with what it changed in one run."""

    seq: int
    at: float
    kind: str
    origin: str
    run: str
    phase_before: str
    phase_after: str
    reason: str
    body: dict[str, Any]
    actions: tuple[str, ...]


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the world that belongs to no run and no file."""

    policy: Policy
    boot: Boot
    booted_at: float
    draining: bool
    next_token: int
    next_number: int
    last_launch_at: float
    driver: Driver = Driver()
    kernel_seq: int = -1
    kernel_boot: Boot = Boot()
    told: dict[str, float] = {}
    targets: dict[str, Target] = {}
    spots: dict[str, Spot] = {}
    pruning: str = ""
    pruned_at: float = 0.0


class Journal:
    """See the module. Not thread-safe: the loop owns the writer, readers open their own."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Use `open` instead."""
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Journal:
        """Open (and create or migrate, unless `read_only`) the journal at `path`.

        Raises sqlite3.Error if that cannot be done, FileNotFoundError for a read-only journal that is not there.
        """
        if read_only:
            return cls(_connect_read_only(path), path)
        fresh = not path.exists()
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA busy_timeout = 5000")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 8388608")
            _migrate(connection, fresh=fresh)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    # ---- reading
    def load(self) -> World:
        """The world as the last commit left it."""
        rows = self._rows()
        runs = [_decode(body, Run) for _, body in rows["run"]]
        server = next((_decode(body, ServerRow) for _, body in rows["server"]), None)
        world = World(
            live={run.id: run for run in runs if not run.phase.terminal},
            ended={run.id: run for run in runs if run.phase.terminal},
            latest={key: _decode(body, str) for key, body in rows["latest"]},
            files={key: _decode(body, FileNote) for key, body in rows["file"]},
            gpus={key: _decode(body, Gpu) for key, body in rows["gpu"]},
        )
        return world if server is None else msgspec.structs.replace(world, **msgspec.structs.asdict(server))

    def _rows(self) -> dict[str, list[tuple[str, bytes]]]:
        """All rows by space, read by one statement: between two of them the writer may commit."""
        found: dict[str, list[tuple[str, bytes]]] = {"run": [], "server": [], "latest": [], "file": [], "gpu": []}
        with closing(self._connection.execute("SELECT space, key, body FROM rows")) as cursor:
            for space, key, body in cursor.fetchall():
                found.setdefault(space, []).append((key, body))
        return found

    def pending(self) -> list[Action]:
        """The actions that no event has answered yet, oldest first. Kinds of a newer version are left alone."""
        query = "SELECT body FROM actions ORDER BY seq, rowid"
        with closing(self._connection.execute(query)) as cursor:
            bodies = cursor.fetchall()
        return list(_known(bodies, AnyAction))

    def source(self, revision: str) -> bytes | None:
        """The bytes of a job file as they were read, by their sha256."""
        query = "SELECT data FROM sources WHERE revision = ?"
        with closing(self._connection.execute(query, (revision,))) as cursor:
            row = cursor.fetchone()
        return row[0] if row is not None else None

    def events(self) -> Iterator[tuple[Event, float]]:
        """Every event with the time at which it was decided, for a replay. Unknown kinds are skipped."""
        query = "SELECT body, at FROM events ORDER BY seq"
        with closing(self._connection.execute(query)) as cursor:
            rows = cursor.fetchall()
        for body, now in rows:
            for event in _known([(body,)], AnyEvent):
                yield event, now

    def history(self, run_id: str, limit: int = 1000) -> list[HistoryRow]:
        """What concerned a run, oldest first: of the reports of each epoch, and of all else, the newest `limit`.

        So the reports of a long training do not push out how it began.
        """
        regular = "'Progressed', 'SaveSeen', 'Kept'"
        query = f"""
            WITH mine AS (SELECT seq, kind IN ({regular}) AS regular FROM events WHERE seq IN
                          (SELECT seq FROM changes WHERE run = ?1 UNION SELECT seq FROM events WHERE run = ?1))
            SELECT e.seq, e.at, e.kind, e.origin, ?1, coalesce(c.phase_before, ''), coalesce(c.phase_after, ''),
                   coalesce(c.reason, ''), e.body, e.actions
            FROM (SELECT * FROM (SELECT seq FROM mine WHERE regular ORDER BY seq DESC LIMIT ?2)
                  UNION SELECT * FROM (SELECT seq FROM mine WHERE NOT regular ORDER BY seq DESC LIMIT ?2)) AS s
            JOIN events AS e ON e.seq = s.seq LEFT JOIN changes AS c ON c.seq = s.seq AND c.run = ?1
            ORDER BY e.seq"""  # noqa: S608 - `regular` is a constant
        return self._history(query, (run_id, limit))

    def recent(self, after_seq: int = 0, limit: int = 200) -> list[HistoryRow]:
        """The first `limit` events after `after_seq`, oldest first; with `after_seq` 0 the newest ones.

        An event that changed several runs has a row for each.
        """
        order = "ASC" if after_seq else "DESC"
        query = f"""
            SELECT e.seq, e.at, e.kind, e.origin, coalesce(c.run, e.run) AS run, coalesce(c.phase_before, ''),
                   coalesce(c.phase_after, ''), coalesce(c.reason, ''), e.body, e.actions
            FROM (SELECT * FROM events WHERE seq > ?1 ORDER BY seq {order} LIMIT ?2) AS e
            LEFT JOIN changes AS c ON c.seq = e.seq
            ORDER BY e.seq, c.run"""  # noqa: S608 - `order` is one of two constants
        return self._history(query, (after_seq, limit))

    def milestones(self, run_id: str) -> list[HistoryRow]:
        """What tells how a run spent its time (see core.goodput), oldest first: all of it, however long the run is.

        Of the reports of progress only the first one of each saved epoch, and the last one before anything else.
        """
        query = f"""
            WITH mine AS (SELECT seq FROM changes WHERE run = ?1 UNION SELECT seq FROM events WHERE run = ?1)
            SELECT e.seq, e.at, e.kind, e.origin, ?1, coalesce(c.phase_before, ''), coalesce(c.phase_after, ''),
                   coalesce(c.reason, ''), e.body, e.actions
            FROM mine JOIN events AS e ON e.seq = mine.seq LEFT JOIN changes AS c ON c.seq = mine.seq AND c.run = ?1
            WHERE e.kind IN ({", ".join(f"'{kind}'" for kind in KINDS)}) OR c.phase_before != c.phase_after
            ORDER BY e.seq"""  # noqa: S608 - KINDS are constants
        with closing(self._connection.execute(query, (run_id,))) as cursor:
            return [_history_row(row) for row in thinned(cursor, kind=2, body=8)]

    def gpu_history(self, uuid: str, limit: int = 200) -> list[HistoryRow]:
        """The newest `limit` events about a GPU, oldest first; of those of all GPUs the newest 20000 are looked at."""
        query = f"""
            SELECT seq, at, kind, origin, run, '', '', '', body, actions
            FROM (SELECT * FROM events WHERE kind IN ({_GPU_KINDS}) ORDER BY seq DESC LIMIT 20000)
            WHERE json_extract(CAST(body AS TEXT), '$.gpu') = ?1 ORDER BY seq DESC LIMIT ?2"""  # noqa: S608 - constants
        return self._history(query, (uuid, limit))[::-1]

    def server_rows(self) -> list[HistoryRow]:
        """How the daemon was started and configured, oldest first."""
        query = """
            SELECT seq, at, kind, origin, run, '', '', '', body, actions FROM events
            WHERE kind IN ('DaemonStarted', 'Configured') ORDER BY seq"""
        return self._history(query, ())

    def _history(self, query: str, parameters: tuple[object, ...]) -> list[HistoryRow]:
        with closing(self._connection.execute(query, parameters)) as cursor:
            rows = cursor.fetchall()
        return [_history_row(row) for row in rows]

    # ---- writing
    def commit(self, entries: Sequence[Entry]) -> None:
        """Write all entries in one transaction, on disk when this returns; or raise sqlite3.Error and write nothing."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for entry in entries:
                self._write(entry)
            connection.executemany(
                "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
                [(space, key, msgspec.json.encode(value)) for space, key, value in _changed_rows(entries)],
            )
            connection.executemany("DELETE FROM rows WHERE space = ? AND key = ?", _gone(entries))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _write(self, entry: Entry) -> None:
        event, connection = entry.event, self._connection
        run = getattr(event, "run", "")
        keys = msgspec.json.encode([action.key for action in entry.actions])
        seq = connection.execute(
            "INSERT INTO events (at, kind, version, run, origin, code, body, actions) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (entry.now, _kind(event), EVENT_VERSION, run, event.origin, CODE_VERSION, msgspec.json.encode(event), keys),
        ).lastrowid
        if isinstance(event, JobFileSeen):
            connection.execute("INSERT OR IGNORE INTO sources VALUES (?, ?)", (event.revision, event.data))
        connection.executemany("INSERT INTO changes VALUES (?, ?, ?, ?, ?)", _changes(entry, seq))
        if event.answers:
            connection.execute("DELETE FROM actions WHERE key = ?", (event.answers,))
        connection.executemany(
            "INSERT OR IGNORE INTO actions VALUES (?, ?, ?, ?, ?)",
            [(action.key, seq, _kind(action), EVENT_VERSION, msgspec.json.encode(action)) for action in entry.actions],
        )


def _code_version() -> str:
    from supervisor import __version__

    return __version__


CODE_VERSION = _code_version()


def _history_row(row: tuple[Any, ...]) -> HistoryRow:
    *head, body, keys = row
    named = dict(zip(HistoryRow.__struct_fields__, head, strict=False))
    return HistoryRow(**named, body=msgspec.json.decode(body), actions=tuple(msgspec.json.decode(keys)))


def _kind(thing: Event | Action) -> str:
    return type(thing).__name__


def _decode(body: bytes, kind: type[Any]) -> Any:
    return msgspec.json.decode(body, type=kind)


def _known(bodies: Sequence[tuple[bytes]], union: Any) -> Iterator[Any]:
    decoder = msgspec.json.Decoder(union)
    for (body,) in bodies:
        try:
            yield decoder.decode(body)
        except msgspec.ValidationError:  # noqa: PERF203 - one bad row must not hide the others
            continue  # written by a newer version: kept and shown, never fatal


def _changes(entry: Entry, seq: int | None) -> Iterator[tuple[object, ...]]:
    """What an event changed in which run. The periodic look at all runs is no news of any of them."""
    before = entry.before
    for run_id, run in _differing(before.live, entry.after.live) + _differing(before.ended, entry.after.ended):
        old = before.run(run_id)
        same = old is not None and (old.phase, old.reason, old.waiting_for) == (
            run.phase,
            run.reason,
            run.waiting_for,
        )
        if same and getattr(entry.event, "run", "") != run_id:
            continue
        yield seq, run_id, old.phase.value if old is not None else "", run.phase.value, run.reason


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The items that are not the very same object: cheap, because values are replaced and never changed."""
    return [] if before is after else [(key, value) for key, value in after.items() if before.get(key) is not value]


def _changed_rows(entries: Sequence[Entry]) -> Iterator[tuple[str, str, Any]]:
    before, after = entries[0].before, entries[-1].after
    for space, old, new in (
        ("run", before.live, after.live),
        ("run", before.ended, after.ended),
        ("latest", before.latest, after.latest),
        ("file", before.files, after.files),
        ("gpu", before.gpus, after.gpus),
    ):
        for key, value in _differing(old, new):
            yield space, key, value
    server = _server_row(after)
    if server != _server_row(before):
        yield "server", "server", server


def _server_row(world: World) -> ServerRow:
    return ServerRow(**{name: getattr(world, name) for name in ServerRow.__struct_fields__})


def _gone(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """The rows whose thing is there no more: job files, and GPUs that a person had forgotten."""
    before, after = entries[0].before, entries[-1].after
    pairs: tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...]
    pairs = (("file", before.files, after.files), ("gpu", before.gpus, after.gpus))
    return [(space, key) for space, old, new in pairs if old is not new for key in old if key not in new]


def _migrate(connection: sqlite3.Connection, *, fresh: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(
            f"the journal was written by a newer yolo-supervisor (schema {version}, this one knows {SCHEMA_VERSION})",
        )
    if version == 0:
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif fresh:
        raise sqlite3.DatabaseError("a new journal claims to have a schema already")


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """A reader. Where the folder cannot be written (SQLite needs its -shm file), the main file is read as it is."""
    if not path.exists():
        raise FileNotFoundError(path)
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    mode = "mode=ro" if os.access(path.parent, os.W_OK) else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"file:{quoted}?{mode}", uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 2000")
    return connection


def make_reserve(path: Path) -> None:
    """Keep room on the disk for the journal: given up when the disk is full. Raises OSError if there is no room."""
    if path.exists() and path.stat().st_size >= RESERVE_BYTES:
        return
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
    except OSError:
        path.unlink()  # half a reserve would take the last blocks from the journal
        raise
    finally:
        os.close(descriptor)


def replay(events: Sequence[tuple[Event, float]]) -> World:
    """The world that today's `step` makes of recorded events; for tests and for `why`, never for start-up."""
    from supervisor.core.step import step

    world = World()
    for event, now in events:
        world, _ = step(world, event, now)
    return world
