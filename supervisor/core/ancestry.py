"""Where runs come from: branches, rewinds and extensions, what they change, and what a branch may not change. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace as with_fields
from typing import Any

from msgspec.structs import replace

from supervisor.core.model import Job, Run, World
from supervisor.core.revisions import resume_differences
from supervisor.errors import Problem

#: Older versions drop `save_dir` at a resume and write into the folder that the checkpoint names: the other run's.
SAVES_WHERE_TOLD = (8, 4)
#: Ultralytics' defaults of lrf and of the schedule: the final learning rate as a fraction of lr0.
DEFAULT_LRF = 0.01
_WEIGHTS = "`branch … --from-weights` (weights = true) starts a new training from the weights, where every key counts"


# ---- branches
def source_of(world: World, job: Job) -> Run | None:
    """The run that a job begins from, if it is known."""
    start = job.start_from
    return None if start is None else world.named(start.run) or world.run(start.run)


def branch_problem(world: World, job: Job) -> str:
    """Why this job cannot begin where its start_from says, or nothing. What the files hold is found out later."""
    source, start = source_of(world, job), job.start_from
    if start is None:
        return ""
    if source is None:
        wrong = Problem("there is no such run", key="start_from.run", got=repr(start.run), hint="`ls --all` lists them")
    elif source.name == job.name:
        hint = f"give the new job another name, or `rewind {job.name} --epoch N`"
        wrong = Problem("a run cannot begin from itself", key="start_from.run", got=repr(start.run), hint=hint)
    elif source.job.owner != job.owner:
        wrong = Problem("this run belongs to another user", key="start_from.run", got=repr(start.run))
    elif source.job.train is None:
        wrong = Problem("only a run with [train] can be branched", key="start_from.run", got=repr(start.run))
    else:
        return "" if start.weights else _resume_problem(source.job, job)
    return wrong.render()


def _resume_problem(source: Job, job: Job) -> str:
    """Why a branch cannot go on from the other run's state: what a resume would drop in silence is refused."""
    version = re.match(r"(\d+)\.(\d+)", job.trainer_version)
    if version is not None and (int(version[1]), int(version[2])) < SAVES_WHERE_TOLD:
        text = f"Ultralytics {job.trainer_version} resumes into the folder of the other run"
        return Problem(text, key="start_from", expected="8.4 or newer", hint=_WEIGHTS).render()
    _, refused = differences(source, job)
    epochs, start = source.epochs, job.start_from
    if not refused and start is not None and start.epoch is not None and epochs is not None and start.epoch >= epochs:
        wrong = Problem("nothing is left to train there", key="start_from.epoch", expected=f"at most {epochs - 1}")
        refused = [with_fields(wrong, got=str(start.epoch), hint=_WEIGHTS)]
    return "\n".join(problem.render() for problem in refused)


def differences(source: Job, job: Job) -> tuple[list[str], list[Problem]]:
    """The train keys that a branch changes: those that a resume takes over, and those that it would drop."""
    allowed, refused = resume_differences(replace(job, train=source.train), job)
    found = [with_fields(one, message=one.message.removesuffix("; not changed"), hint=_WEIGHTS) for one in refused]
    return allowed, found


def changed_keys(source: Job, job: Job) -> list[str]:
    """Every train key in which two jobs differ, with both values, as `lr0: 0.01 → 0.02`."""
    before, after = source.train or {}, job.train or {}
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return [f"{key}: {_shown(before.get(key))} → {_shown(after.get(key))}" for key in keys]


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


# ---- what is shown
def view(world: World, run: Run) -> dict[str, Any]:
    """Where a run comes from and what comes from it: `origin` (of a branch), `line`, `branches`."""
    source, start = source_of(world, run.job), run.job.start_from
    origin: dict[str, Any] | None = None
    if start is not None:
        origin = {"run": start.run, "epoch": start.epoch, "weights": start.weights}
        origin["changed"] = changed_keys(source.job, run.job) if source is not None else []
    return {
        "origin": origin,
        "line": [{"run": one.id, "how": how(one)} for one in ancestors(world, run)],
        "branches": [
            {"run": other.id, "epoch": other.job.start_from.epoch, "weights": other.job.start_from.weights}
            for other in (*world.live.values(), *world.ended.values())
            if other.job.start_from is not None and other.job.start_from.run in {run.name, run.id}
        ],
    }


def ancestors(world: World, run: Run) -> list[Run]:
    """The runs that trained in this directory one after the other, the first one first, this one last."""
    line = [run]
    while (before := world.run(line[0].predecessor)) is not None and not line[0].set_aside:
        line.insert(0, before)
    return line


def how(run: Run) -> str:
    """How a run began, in a few words."""
    goal, start = run.goal, run.job.start_from
    if goal is not None:
        return f"rewound to epoch {goal.epoch}" if goal.kind == "rewind" else f"extended to {goal.epochs} epochs"
    if run.predecessor and not run.set_aside:
        return "retried"
    if start is None:
        return "from the beginning"
    where = f"{start.run} after epoch {start.epoch}" if start.epoch is not None else start.run
    return f"with the weights of {where}" if start.weights else f"branched from {where}"


# ---- more epochs
def schedule_words(train: Mapping[str, Any], done: int, before: int, epochs: int) -> str:
    """What more epochs do to the learning rate: the schedule is stretched, so that it jumps up where it had ended.

    The schedule counts epochs from 0: the last one was trained at `done` - 1, the next one is at `done`.
    """
    old, new = _factor(train, done - 1, before), _factor(train, done, epochs)
    return (
        f"the learning-rate curve changes: the schedule of {before} epochs is stretched to {epochs}, so that after "
        f"epoch {done} the learning rate jumps from {old:.1%} of lr0 to {new:.1%}, and the losses with it"
    )


def _factor(train: Mapping[str, Any], epoch: int, epochs: int) -> float:
    """The learning rate in an epoch (from 0) as a fraction of lr0: Ultralytics' linear or cosine schedule."""
    final = train.get("lrf", DEFAULT_LRF)
    final = float(final) if isinstance(final, int | float) else DEFAULT_LRF
    part = min(1.0, epoch / max(1, epochs))
    if train.get("cos_lr"):
        return (1 - math.cos(part * math.pi)) / 2 * (final - 1) + 1
    return (1 - part) * (1 - final) + final
