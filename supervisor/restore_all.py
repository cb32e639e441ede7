"""A dead server comes back: its journal, its runs and its job files, from a backup target, while no daemon runs.

Runs come first and the journal last, so that an interrupted restore is simply made again: what is in place stays. The
journal may be older than the run directories; `restored.json` tells the daemon how much they know.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from supervisor import durable, layout, restored_jobs
from supervisor.core.backups.manifest import STATE_FOLDER, Manifest, Stored
from supervisor.core.model import Run, World
from supervisor.effects.backup import fetched, ownership, refill, whole_run
from supervisor.effects.backup.fetched import Holdings
from supervisor.effects.backup.journal_copy import NAME as JOURNAL
from supervisor.errors import UserError
from supervisor.journal import Journal

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.effects.backup.targets.base import Target

SHOWN = 5
#: Actions that a restored journal still has to carry out; all others are of a machine that is gone.
OWED = ("Announce", "CheckJob", "MarkFile")
_ENDS = ("", "-wal", "-shm")  # SQLite's files of one database

Say = Callable[[str], None]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """restored.json: see events.StateRestored, which the daemon makes of it."""

    target: str
    token: int = 0
    attempts: dict[str, int] = {}
    moved: bool = False
    version: int = 1


class _Fence(msgspec.Struct, frozen=True):
    token: int = 0
    host: str = ""


@dataclass(frozen=True)
class RunPlan:
    """What becomes of one run's folder. `how` is new, merge (only what is missing is added) or skip, and `why`."""

    folder: str
    manifest: Manifest
    root: Path
    how: str
    why: str = ""
    files: int = 0
    bytes: int = 0

    @property
    def name(self) -> str:
        """PROJECT/NAME."""
        return f"{self.manifest.project}/{self.manifest.name}"


@dataclass(frozen=True)
class Plan:
    """What a restore would do. `damaged`: manifests there that cannot be read, so that older ones are taken."""

    target: str
    server: str
    journal: Manifest
    runs: tuple[RunPlan, ...]
    damaged: tuple[str, ...]
    holdings: Holdings
    state: Holdings

    @property
    def bytes(self) -> int:
        """What is to be fetched into the folder of the runs."""
        return sum(run.bytes for run in self.runs)


@dataclass
class Summary:
    """What came of it. `wrong`: files that are not to be had, and why; `notes`: what a person should look at."""

    runs: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    live: list[str] = field(default_factory=list)
    job_files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    token: int = 0
    moved: bool = False


# ---- the plan
def make_plan(config: Config, target: Target, server: str) -> Plan:
    """Look at what is there and what is here; nothing is changed.

    Raises UserError where this is no place for a restore (the journal here has runs), TargetError, OSError.
    """
    refuse_other_state(config.server.state_dir)
    scratch = _scratch(config, target.name)
    holdings, state = Holdings(target), Holdings(target, STATE_FOLDER)
    holdings.read_all(scratch)
    journal = next((one for one in state.manifests(STATE_FOLDER) if one.stored(JOURNAL) is not None), None)
    if journal is None:
        raise _no_journal(config, target.name, server, holdings)
    plans = tuple(_plan_run(config, holdings, folder) for folder in holdings.folders if holdings.newest(folder))
    damaged = [path for folder in holdings.folders for path in holdings.damaged(folder)]
    damaged += state.damaged(STATE_FOLDER)
    return Plan(target.name, server, journal, plans, tuple(damaged), holdings, state)


def _no_journal(config: Config, target: str, server: str, holdings: Holdings) -> UserError:
    held = ", ".join(folder.partition("/")[2] for folder in holdings.folders[:SHOWN])
    what = f"only runs: {held}" if held else "nothing"
    others = [name for name in _servers(config, target) if name != server]
    if others:
        fix = f"it holds the server{'s' if len(others) > 1 else ''} {', '.join(others)}: choose with --server NAME"
    else:
        fix = "give the old server's name with --server NAME"
    single = f"single runs come back with `yolo-supervisor backup restore NAME --from {target} --to FOLDER`"
    return UserError(
        f"backup target {target} has no journal of server {server}: it holds {what} of it\n  fix: {fix}; {single}"
    )


def _servers(config: Config, target: str) -> list[str]:
    """Whose folders lie there; nothing where that cannot be told."""
    from supervisor.effects.backup.targets.base import TargetError
    from supervisor.effects.backup.targets.servers import servers

    entry = next((one for one in config.backup if one.name == target), None)
    try:
        return servers(entry, config.server.state_dir) if entry is not None else []
    except TargetError:
        return []


def refuse_other_state(state_dir: Path) -> None:
    """Raise UserError where a journal with runs is: nothing of it may be lost. A damaged one is moved aside later."""
    path = layout.journal_file(state_dir)
    try:
        with contextlib.closing(Journal.open(path, read_only=True)) as journal:
            world = journal.load()
    except (FileNotFoundError, sqlite3.Error, msgspec.DecodeError):
        return
    names = sorted({run.name for run in (*world.live.values(), *world.ended.values())})
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise UserError(
            f"{path} has {len(names)} runs already ({', '.join(names[:SHOWN])}{more}): this is for a new server\n"
            "  fix: single runs come back with `yolo-supervisor backup restore NAME --from TARGET --to FOLDER`; to put "
            f"the backup's state in the place of this one, stop the daemon and move {path.name}* away first"
        )


def _plan_run(config: Config, holdings: Holdings, folder: str) -> RunPlan:
    manifest = holdings.newest(folder)
    if manifest is None:
        raise UserError(f"{folder} has no manifest that can be read")
    root = layout.run_directory(config.server.runs_dir, manifest.project, manifest.name).root
    how, why = _how(root, manifest)
    files = whole_run.missing(manifest, root) if how != "skip" else []
    return RunPlan(folder, manifest, root, how, why, len(files), sum(file.bytes for file in files))


def _how(root: Path, manifest: Manifest) -> tuple[str, str]:
    """A folder that knows more than the backup is left alone; one that knows less gets what it lacks."""
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        return "skip", f"{root} is no folder"
    if not root.exists() or not any(root.iterdir()):
        return "new", ""
    fence = _fence(root)
    if fence is None:
        return "skip", f"{root} has files and no token: nobody knows whose they are"
    if fence.token > manifest.token:
        return "skip", f"{root} holds token {fence.token}, the backup {manifest.token}: what is there is newer"
    return "merge", f"{root} is there: only what is missing is added"


def _fence(root: Path) -> _Fence | None:
    try:
        return msgspec.json.decode((root / "token").read_bytes(), type=_Fence)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _scratch(config: Config, target: str) -> Path:
    return fetched.scratch_of(config.server.runs_dir, "restore-all")(target)


# ---- carrying it out
def carry_out(config: Config, plan: Plan, say: Say, stop: threading.Event | None = None) -> Summary:
    """Do it; to be called with the state lock held. `say` is told each step.

    Raises UserError where the journal there is damaged, NoRoomError before anything is fetched, TargetError, OSError;
    made again it goes on.
    """
    state_dir, summary = config.server.state_dir, Summary()
    journal_bytes = sum(file.bytes for file in plan.journal.files)
    fetched.demand_room(config.server.runs_dir, plan.bytes)
    fetched.demand_room(state_dir, journal_bytes)
    with _journal(config, plan) as journal:  # first, for without it all else is in vain
        for number, run in enumerate(plan.runs, 1):
            _restore_run(config, plan, run, summary, place=f"{number} of {len(plan.runs)}", say=say, stop=stop)
        world = _world(journal)
        moves = restored_jobs.moves(world, config.jobs.folder)
        restored_jobs.move_job_files(journal, moves)
        summary.live = sorted(run.name for run in world.live.values())
        told = _told(config, plan, world, summary)
        durable.write(layout.restored_file(state_dir), msgspec.json.encode(told))
        if plan.server == (config.server.name or socket.gethostname()):
            _take_over(plan, state_dir, summary)
        sources = restored_jobs.sources(journal, world)
        _put_journal(journal, state_dir, summary)
    restored_jobs.write_job_files(config.jobs.folder, world, sources, moves, summary)
    restored_jobs.missing_here(world, summary)
    say(f"the journal of {plan.server} is in place: {len(world.live)} live runs")
    return summary


def _take_over(plan: Plan, state_dir: Path, summary: Summary) -> None:
    """The old server's folders are ours from now on; one that cannot be written to just now, at the next backup."""
    from supervisor.effects.backup.targets.base import TargetError

    try:
        ownership.take_over(plan.holdings.target, state_dir)
    except TargetError as error:
        summary.notes.append(f"{plan.target} could not be told that this server takes the old one's place: {error}")
    summary.notes.append(
        f"never start the old {plan.server} again as it was: its trainings would run twice, and {plan.target} is this "
        "server's now"
    )


def _restore_run(
    config: Config, plan: Plan, run: RunPlan, summary: Summary, *, place: str, say: Say, stop: threading.Event | None
) -> None:
    from supervisor.units import format_size

    if run.how == "skip":
        summary.skipped[run.name] = run.why
        say(f"[{place}] {run.name} is left as it is: {run.why}")
        return
    say(f"[{place}] {run.name}: {run.files} files, {format_size(run.bytes)}, epoch {whole_run.epoch_of(run.manifest)}")

    def progress(done_bytes: int, total_bytes: int) -> None:
        if done_bytes < total_bytes:
            say(f"[{place}] {run.name}: {format_size(done_bytes)} of {format_size(total_bytes)}")

    brought = whole_run.bring(
        plan.holdings, run.folder, run.manifest, run.root, _scratch(config, plan.target), stop=stop, progress=progress
    )
    refill.relist(layout.RunDirectory(run.root), run.manifest, run.manifest.run)
    summary.runs[run.name] = brought.files
    summary.wrong |= {f"{run.name}/{path}": why for path, why in brought.wrong.items()}


# ---- the journal
@contextlib.contextmanager
def _journal(config: Config, plan: Plan) -> Iterator[Path]:
    """The fetched journal, looked through; removed unless it gets its place. Raises UserError if all are damaged."""
    scratch = config.server.state_dir / ".restoring"
    with fetched.scratch_folder(scratch):
        path, problems = None, list[str]()
        for manifest in [plan.journal, *plan.state.manifests(STATE_FOLDER)]:
            file = manifest.stored(JOURNAL)
            if file is not None and (path := _fetched_journal(plan, file, scratch / manifest.snapshot, problems)):
                break
        if path is None:
            raise UserError(f"no journal on backup target {plan.target} is whole: {'; '.join(problems[:SHOWN])}")
        yield path


def _fetched_journal(plan: Plan, file: Stored, scratch: Path, problems: list[str]) -> Path | None:
    scratch.mkdir(exist_ok=True)
    got = fetched.Fetcher(plan.state, scratch).fetch(STATE_FOLDER, [file])
    problems += got.wrong.values()
    path = got.files.get(JOURNAL)
    if path is None:
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        if found == ["ok"]:
            _world(path)
            return path
        problems.append(f"{file.at}/{JOURNAL} is damaged: {'; '.join(found)}")
    except (sqlite3.Error, msgspec.DecodeError) as error:
        problems.append(f"{file.at}/{JOURNAL} cannot be read: {error}")
    return None


def _world(path: Path) -> World:
    with contextlib.closing(Journal.open(path)) as journal:
        return journal.load()


def _put_journal(path: Path, state_dir: Path, summary: Summary) -> None:
    """Give it its name; an older one without runs, or a damaged one, is kept beside it."""
    place = layout.journal_file(state_dir)
    for end in _ENDS:
        old = place.with_name(f"{place.name}{end}")
        if old.exists():
            aside = old.with_name(f"journal.before-restore.sqlite{end}")
            old.replace(aside)
            if not end:
                summary.notes.append(f"the journal that was here is now {aside}")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        _drop_actions(connection)
        connection.execute("PRAGMA journal_mode = DELETE")  # one file
    path.chmod(0o600)
    durable.sync(path)
    path.replace(place)
    durable.sync(state_dir)


def _drop_actions(connection: sqlite3.Connection) -> None:
    """What was under way on the server that is gone is not under way here; only messages and marks are still owed."""
    owed = ", ".join(f"'{kind}'" for kind in OWED)
    with connection:
        connection.execute(f"DELETE FROM actions WHERE kind NOT IN ({owed})")  # noqa: S608 - constants


# ---- what the run directories know
def _told(config: Config, plan: Plan, world: World, summary: Summary) -> Restored:
    """The highest token and attempts that any folder or manifest knows; whether this is another machine."""
    fences = [fence for run in plan.runs if (fence := _fence(run.root)) is not None]
    tokens = [world.next_token - 1, *(fence.token for fence in fences), *(run.manifest.token for run in plan.runs)]
    attempts = {run.id: number for run in world.live.values() if (number := _attempts(config, run))}
    hosts = {fence.host for fence in fences} - {""}
    here = socket.gethostname()
    summary.token = max(tokens)
    summary.moved = here not in hosts if hosts else plan.server != here
    return Restored(target=plan.target, token=summary.token, attempts=attempts, moved=summary.moved)


def _attempts(config: Config, run: Run) -> int:
    folder = layout.run_directory(config.server.runs_dir, run.job.project, run.name).root / "attempts"
    try:
        names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)
