"""The world as plain data for people and programs: JSON-able dicts, each with a `version`. Pure.

Times are Unix seconds (`_at`), durations seconds (`_s`), epochs count from 1 as people count. A value that is
not known is None, never 0.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from supervisor.core import ancestry, incidents_view, outlook, secrets, stages, words
from supervisor.core.backups import views as backup_views
from supervisor.core.diagnosis import rungs
from supervisor.core.gpus import views as gpu_views
from supervisor.core.gpus import waits
from supervisor.core.model import Job, Phase, Run, World
from supervisor.core.story import Row, attempts_view, steps

VERSION = 1
RECENT_S = 24 * 3600.0  # ended runs of the last day stay in the plain list

_ORDER = (
    Phase.RUNNING, Phase.STOPPING, Phase.STARTING, Phase.PREPARING, Phase.COOLING, Phase.QUEUED, Phase.HELD,
    Phase.FAILED, Phase.CANCELLED, Phase.SUCCEEDED,
)  # fmt: skip
_LIVE = (
    "phase", "epoch", "epochs", "saved_epoch", "batch", "batches", "images_per_s", "epoch_s", "eta_s", "next_save_s",
    "at",
)  # fmt: skip
_RANK = {phase: rank for rank, phase in enumerate(_ORDER)}

View = dict[str, Any]


Board = Mapping[str, outlook.Live]


def find_run(world: World, name: str) -> Run | None:
    """The newest run of that name, or the run with that id (`truck@2`)."""
    return world.named(name) or world.run(name)


def no_such_run(world: World, name: str) -> str:
    """What to say about a name that no run has, with the names that look like it."""
    known = [*world.live, *world.ended] if "@" in name else list(world.latest)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"there is no run named {name}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def status_view(world: World, now: float) -> View:
    """How the server stands as a whole."""
    phases = Counter(run.phase for run in world.live.values())
    ended = Counter(run.phase for run in world.ended.values())
    policy = world.policy
    return {
        "version": VERSION,
        "at": now,
        "server": policy.server,
        "draining": world.draining,
        "phases": {phase.value: phases[phase] + ended[phase] for phase in Phase},
        "busy": sum(run.busy for run in world.live.values()),
        "max_running": policy.max_running or max(1, policy.gpu_count),
        "gpus": len(gpu_views.shown(world)),
        "gpu_summary": gpu_views.summary(world, now),
        "gpus_given": sum(
            run.attempt is not None and run.busy and len(run.attempt.gpus) for run in world.live.values()
        ),
        "channels": list(policy.channels),
        "backups": {**backup_views.summary(world, now), "targets": len(world.targets)},
        "refused_files": {path: note.refused for path, note in world.files.items() if note.refused},
    }


def runs_view(world: World, board: Board, now: float, *, every: bool = False) -> View:
    """All live runs and those that ended within a day and have no successor; with `every`, all runs ever.

    Busy ones come first.
    """
    ended = [
        run for run in world.ended.values() if every or (now - run.phase_since < RECENT_S and is_newest(world, run))
    ]
    runs = sorted([*world.live.values(), *ended], key=_place)
    who = waits.taken(world)
    shown = [(run, waits.as_seen(run, world, who)) for run in runs]
    rows = [
        {
            **row(seen, board.get(run.id), now),
            "newest": is_newest(world, run),
            "backed_up": backup_views.tick(world, run),
        }
        for run, seen in shown
    ]
    return {
        "version": VERSION,
        "at": now,
        "draining": world.draining,
        "runs": rows,
        "not_shown": len(world.ended) - len(ended),
    }


def is_newest(world: World, run: Run) -> bool:
    """True if no later run carries this name."""
    return world.latest.get(run.name, run.id) == run.id


def _place(run: Run) -> tuple[int, int, float, str]:
    age = -run.phase_since if run.phase.terminal else run.created_at
    return (_RANK[run.phase], -run.priority, age, run.id)


def row(run: Run, live: outlook.Live | None, now: float) -> View:
    """One line of the list of runs."""
    live = live if run.busy else None
    return {
        "name": run.name,
        "id": run.id,
        "project": run.job.project,
        "owner": run.job.owner,
        "phase": run.phase.value,
        "wanted": run.wanted.value,
        "phase_since_at": run.phase_since,
        "waiting_for": run.waiting_for,
        "reason": run.reason,
        "incident": incidents_view.open_title(run),
        "stalled": incidents_view.stalled(run, now),
        "priority": run.priority,
        "gpus": run.job.gpus,
        **_progress(run, live, now),
        "attempt": run.attempts,
        "restarts": max(0, run.attempts - 1),
        "failures": run.failures,
        "created_at": run.created_at,
        "started_at": run.attempt.started_at if run.attempt else None,
    }


def _progress(run: Run, live: outlook.Live | None, now: float) -> View:
    progress = run.progress
    epochs = (live.epochs if live else 0) or progress.epochs or run.job.epochs
    metrics = outlook.metrics_of(run, live)
    return {
        "epoch": max(progress.epoch, live.epoch) if live else progress.epoch,
        "epochs": epochs,
        "percent": outlook.percent(run, live, epochs),
        "saved_epoch": outlook.saved_epoch(run, live),
        "eta_s": outlook.eta_s(run, live, now),
        "epoch_s": (live.epoch_s if live else 0.0) or progress.epoch_s or None,
        "map50_95": outlook.map50_95(metrics),
        "metrics": metrics,
        "losses": dict(live.losses if live and live.losses else progress.losses),
        "images_per_s": (live.images_per_s or None) if live else None,
        "doing": live.phase if live else "",
        "heard_of_at": max(progress.at, live.at if live else 0.0) or None,
        "next_save_s": outlook.next_save_s(live, now),
    }


def run_view(
    run: Run, world: World, live: outlook.Live | None, rows: Sequence[Row], *, now: float, directory: str = ""
) -> View:
    """Everything about one run. `rows` is its history, `directory` where it lies on disk."""
    run = waits.as_seen(run, world)
    return {
        "version": VERSION,
        "at": now,
        **row(run, live, now),
        "directory": directory,
        "explanation": explanation(run, live, now),
        "commands": list(words.remedies(run)),
        "at_stake": outlook.at_stake(run, live),
        "live": _live(live) if live and run.busy else None,
        "last_incident": incidents_view.last_incident(run, now),
        "findings": list(run.findings),
        "stages": stages.view(run),
        "changes": rungs.changes_view(run),
        "avoid_gpus": list(run.avoided_gpus),
        "used_s": run.used_s,
        "deadline_at": run.deadline_at,
        "stop": msgspec.to_builtins(run.stop) if run.stop else None,
        "attempts": attempts_view(run.attempt, rows, ours=_ours(run)),
        "job": job_view(run.job),
        "next_job": job_view(run.next_job) if run.next_job else None,
        "predecessor": run.predecessor,
        "kept_epoch": run.kept_epoch or None,
        "backups": backup_views.run_view(world, run, now)["targets"],
        "published": run.published,
        "archived": run.archived,
        "lineage": ancestry.view(world, run),
        "newest": is_newest(world, run),
    }


def _ours(run: Run) -> bool:
    return run.job.train is not None


def explanation(run: Run, live: outlook.Live | None, now: float) -> str:
    """Where the run stands, in one sentence for a person."""
    if run.phase is Phase.QUEUED:
        return f"waits for {words.waiting(run.waiting_for)}" if run.waiting_for else run.reason
    if run.phase is Phase.COOLING and run.deadline_at is not None:
        return f"{run.reason} (in {words.duration(run.deadline_at - now)})"
    if run.phase is Phase.STOPPING and run.stop is not None and run.stop.how == "save":
        save_s = outlook.next_save_s(live, now)
        return run.reason + (f", in about {words.duration(save_s)}" if save_s is not None else "")
    if run.phase is Phase.RUNNING and run.stalled:
        return f"{incidents_view.stalled(run, now)} ({run.reason})"
    return run.reason


def _live(live: outlook.Live) -> View:
    return {name: getattr(live, name) for name in _LIVE} | {"losses": dict(live.losses)}


def job_view(job: Job) -> View:
    """A job as data. Values of its environment and settings that look secret are left out."""
    data: View = msgspec.to_builtins(job)
    data["env"] = secrets.hide(job.env)
    data["settings"] = secrets.hide(job.settings)
    return data


def why_view(run: Run, rows: Sequence[Row], live: outlook.Live | None, now: float) -> View:
    """What went wrong with the run, and the chain of events that brought it where it is."""
    return {
        "version": VERSION,
        "at": now,
        "name": run.name,
        "id": run.id,
        "phase": run.phase.value,
        "reason": run.reason,
        "explanation": explanation(run, live, now),
        "commands": list(words.remedies(run)),
        "incidents": incidents_view.run_incidents(run, now, rows),
        "steps": steps(rows, ours=_ours(run)),
    }


def files_view(world: World, revision: str, path: str = "", since_at: float = 0.0) -> View:
    """What became of a job file with this content: pending, accepted with its run, or refused and why.

    With `path` only the file there counts. Where no file has the content (any more), a run made from it counts that
    was opened at `since_at` or later. `unknown`: the daemon has not seen it yet.
    """
    for file, note in world.files.items():
        if note.revision == revision and path in {"", file}:
            state = "refused" if note.refused else "accepted" if note.run else "pending"
            return _file(revision, state, file, note.run, note.refused)
    for run in (*world.live.values(), *world.ended.values()):
        if run.job.revision == revision and run.created_at >= since_at:
            return _file(revision, "accepted", run.job.file, run.id, "")
    return _file(revision, "unknown", path, "", "")


def _file(revision: str, state: str, path: str, run: str, refused: str) -> View:
    return {
        "version": VERSION,
        "revision": revision,
        "state": state,
        "file": path,
        "run": run,
        "refused": refused,
    }
