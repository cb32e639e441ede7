"""How backups stand, as plain data for people and programs. Pure.

Times are Unix seconds (`_at`), durations seconds (`_s`), epochs count from 1. What is not known is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor.core import words
from supervisor.core.backups import causes, targets
from supervisor.core.backups.model import STATE, Backed, Due, Target
from supervisor.core.disk_spots import BY
from supervisor.core.model import Run, World

View = dict[str, Any]

VERSION = 1
RECENT_S = 24 * 3600.0  # as the list of runs
STATES = ("ok", "due", "sending", "verifying", "drilling", "quiet", "waiting", "trouble")
_DOING = {"backup": "sending", "verify": "verifying", "drill": "drilling"}
PAUSED = "paused: "  # how the reason of such a run begins; see core/disks.py
_LATE = 1.5  # what is due within a time is only warned of when it is late by half of it


def backups_view(
    world: World,
    now: float,
    *,
    addresses: Mapping[str, str] | None = None,
    run: Run | None = None,
    every: bool = False,
) -> View:
    """All targets, and how the runs stand on them: live ones, and of the ended ones those of a day or not yet covered.

    With `run` only that one, with `every` all that were ever backed up. `addresses`: where the targets lie, by name.
    """
    shown = [run] if run is not None else [one for one in _runs(world) if every or _is_shown(world, one, now)]
    known = addresses or {}
    return {
        "version": VERSION,
        "at": now,
        "targets": [{**target_view(world, one, now), "to": known.get(one.name)} for one in world.targets.values()],
        "runs": [run_view(world, one, now) for one in shown],
        **summary(world, now),
    }


def _runs(world: World) -> list[Run]:
    """What could be backed up, the newest first."""
    newest = [one for one in world.ended.values() if world.latest.get(one.name) == one.id]
    found = [one for one in (*world.live.values(), *newest) if one.attempts or one.backups]
    return sorted(found, key=lambda one: (one.phase.terminal, -one.created_at, one.id))


def _is_shown(world: World, run: Run, now: float) -> bool:
    if not run.phase.terminal or now - run.phase_since < RECENT_S:
        return True
    gone = any(backed.gone for backed in run.backups.values())
    return bool(targets.of_run(world, run)) and not gone and not targets.covered(world, run)


# ---- a target
def target_view(world: World, target: Target, now: float) -> View:
    """One target: `state` is one of STATES, `text` a sentence with the cause and when the next try is."""
    policy = targets.policy_of(world, target.name)
    state = _state(target, now)
    return {
        "name": target.name,
        "state": state,
        "text": _words(world, target, state, now),
        "doing": _run_name(world, target.doing_run) if target.doing else None,
        "cause": target.cause or None,
        "said": target.said or None,
        "todo": _todo(world, target),
        "failures": target.failures,
        "since_at": target.failing_since or None,
        "retry_at": target.retry_at if target.retry_at > now else None,
        "quiet": target.quiet,
        "due": [_due_view(world, run, order) for run, order in target.due.items()],
        "verify_due": target.verify_due,
        "drill_due": target.drill_due,
        "ok_at": target.ok_at or None,
        "state_at": target.state_at or None,
        "verified_at": target.verified_at or None,
        "verified_from_at": target.verified_from or None,
        "verify_within_s": policy.verify_s or None,
        "damaged": list(target.damaged),
        "drilled_at": target.drilled_at or None,
        "drill_every_s": policy.drill_s or None,
        "proven": _proven(target),
        "unproven": target.unproven or None,
        "free_bytes": target.free_bytes,
        "warning": target.warning or None,
        "runs": sum(target.name in run.backups for run in (*world.live.values(), *world.ended.values())),
    }


def troubles(world: World, now: float) -> list[View]:
    """What is wrong with targets now, as open incidents are listed: each with its cause and what a person can do."""
    return [row for target in world.targets.values() for row in _troubles_of(world, target, now)]


def _troubles_of(world: World, target: Target, now: float) -> list[View]:
    about: View = {"target": target.name, "since_at": None, "retry_at": None}
    found: list[View] = []
    if target.cause:
        kind = causes.kind(target.cause)
        waits = target.retry_at if target.retry_at > now else None
        said = {"title": kind.means, "text": target.said, "todo": _todo(world, target)}
        since = target.failing_since or None
        found.append({**about, "cause": target.cause, **said, "since_at": since, "retry_at": waits})
    if target.damaged:
        text = f"{target.damaged[0]}" + (f" and {len(target.damaged) - 1} more" if len(target.damaged) > 1 else "")
        todo = f"look at its disk; `yolo-supervisor backup verify {target.name} --whole` reads all of it again"
        found.append({**about, "cause": "damaged-there", "title": "has damaged files", "text": text, "todo": todo})
    if target.unproven:
        title = "no restore is proven" if target.unable else "a rehearsed restore did not work"
        todo = f"mend what the text says, then `yolo-supervisor backup drill {target.name}`"
        found.append({**about, "cause": "unproven", "title": title, "text": target.unproven, "todo": todo})
    if target.state_told:
        kind = causes.kind(target.state_told)
        title = f"the journal {kind.means}"
        todo = "look at the disk of [server] state_dir"
        found.append({**about, "cause": target.state_told, "title": title, "text": "", "todo": todo})
    return found


def _state(target: Target, now: float) -> str:
    if target.doing:
        return _DOING.get(_verb(target.doing), "sending")
    if target.cause and (target.told or causes.kind(target.cause).page):
        return "trouble"
    if target.retry_at > now:
        return "waiting"
    waits = any(not order.asked for order in target.due.values()) or target.verify_due or target.drill_due
    if target.quiet and waits:
        return "quiet"
    return "due" if target.due else "ok"


def _verb(key: str) -> str:
    return key.split("/")[-2].partition("-")[0] if key.count("/") else ""


def _words(world: World, target: Target, state: str, now: float) -> str:
    doing = {
        "sending": f"sends {_run_name(world, target.doing_run)}",
        "verifying": "reads again what lies there",
        "drilling": "rehearses a restore",
        "quiet": f"quiet hours: {_count(target)} to come",
        "due": f"{_count(target)} to come",
        "waiting": f"tried again in {words.duration(target.retry_at - now)}",
    }
    said = f" ({target.said})" if target.said and target.said != target.cause else ""
    trouble = f"{causes.kind(target.cause).means}{said}" if target.cause else ""
    since = f"since {words.duration(now - target.failing_since)}" if target.cause and target.failing_since else ""
    again = doing["waiting"] if target.retry_at > now and state != "sending" else ""
    parts = [trouble, since, again if state in {"trouble", "waiting"} else doing.get(state, "")]
    last = f"last backup {words.duration(now - target.ok_at)} ago" if target.ok_at else "nothing has arrived yet"
    return ", ".join([*filter(None, parts), last])


def _count(target: Target) -> str:
    count = len(target.due) + target.verify_due + target.drill_due
    return "1 task" if count == 1 else f"{count} tasks"


def _todo(world: World, target: Target) -> str | None:
    to = targets.policy_of(world, target.name).to
    return (causes.todo(target.cause, target.name, to) or None) if target.cause else None


def _due_view(world: World, run: str, order: Due) -> View:
    return {
        "run": run or None,
        "name": _run_name(world, run),
        "why": order.why,
        "at": order.at,
        "asked": order.asked,
        "failures": order.failures,
    }


def _proven(target: Target) -> View | None:
    if not target.proven_at:
        return None
    return {"at": target.proven_at, "run": target.proven_run, "epoch": target.proven_epoch}


def _run_name(world: World, run_id: str) -> str:
    """How people call it; the journal has no run."""
    run = world.run(run_id) if run_id else None
    return run.name if run is not None else run_id or "the journal"


# ---- a run
def run_view(world: World, run: Run, now: float) -> View:
    """How a run stands on each target that it is backed up to, or was."""
    wanted = targets.of_run(world, run)
    names = [*wanted, *(name for name in run.backups if name in world.targets and name not in wanted)]
    return {
        "run": run.id,
        "name": run.name,
        "project": run.job.project,
        "phase": run.phase.value,
        "epoch": run.progress.epoch or None,
        "kept_epoch": run.kept_epoch or None,
        "covered": targets.covered(world, run),
        "archived": run.archived,
        "restoring": run.restoring or None,
        "targets": [_on_target(world, run, name, now, wanted=name in wanted) for name in names],
    }


def _on_target(world: World, run: Run, name: str, now: float, *, wanted: bool) -> View:
    backed = run.backups.get(name)
    order = world.targets[name].due.get(run.id)
    cause = run.unbacked.get(name)
    there = backed is not None and bool(backed.snapshot)
    return {
        "target": name,
        "wanted": wanted,
        "covered": is_covered(run, backed),
        "epoch": (backed.epoch or None) if backed is not None else None,
        "at": backed.at if backed is not None and there else None,
        "age_s": age_s(run, backed, now) if wanted else None,
        "snapshot": backed.snapshot if backed is not None and there else None,
        "files": backed.files if backed is not None and there else None,
        "bytes": backed.bytes if backed is not None and there else None,
        "complete": backed is not None and backed.ended,
        "gone": backed is not None and backed.gone,
        "due": order is not None,
        "cause": cause,
        "text": f"its backup {causes.kind(cause).means}" if cause else None,
    }


def is_covered(run: Run, backed: Backed | None) -> bool:
    """True if all that the run's ledger has lies verified there."""
    return backed is not None and bool(backed.snapshot) and backed.kept_epoch >= run.kept_epoch


def age_s(run: Run, backed: Backed | None, now: float) -> float | None:
    """How long ago the work was done that would be lost with this server; None where nothing would be lost.

    That is the time since the last backup, or since the run began, if the ledger has more epochs than the backup.
    """
    if is_covered(run, backed) or not run.kept_epoch or (backed is not None and backed.gone):
        return None
    since = backed.at if backed is not None and backed.snapshot else run.created_at
    return max(0.0, now - since)


def tick(world: World, run: Run) -> str | None:
    """One word for the list of runs; None on a server without targets.

    `yes`: all lies verified on each target of the run. `no`: not all of it, or nothing yet. `trouble`: people were told
    why not. `none`: it has nothing to back up, or its job wants none.
    """
    if not world.targets:
        return None
    names = targets.of_run(world, run)
    if not names or not run.attempts:
        return "none"
    if any(name in run.unbacked for name in names):
        return "trouble"
    return "yes" if targets.covered(world, run) else "no"


def paused(world: World) -> list[View]:
    """The runs that stand still, or are about to, until there is room on a disk."""
    return [
        {"run": run.id, "name": run.name, "text": run.reason}
        for run in world.live.values()
        if (run.stop is not None and run.stop.by == BY) or run.reason.startswith(PAUSED)
    ]


# ---- the verdict
def summary(world: World, now: float) -> View:
    """What `status` says of backups: what was proven last, the work at stake, and warnings. Empty without targets."""
    if not world.targets:
        return {"proven": None, "max_age_s": None, "warnings": [], "lines": []}
    proven = max(world.targets.values(), key=lambda one: one.proven_at)
    max_age_s = _max_age_s(world, now)
    warnings = _warnings(world, now)
    lines = [*(f"{one.name}: {_words(world, one, _state(one, now), now)}" for one in world.targets.values())]
    lines += [_proven_line(world, proven, now), _age_line(world, max_age_s)]
    return {
        "proven": {"target": proven.name, **(_proven(proven) or {})} if proven.proven_at else None,
        "max_age_s": max_age_s,
        "warnings": warnings,
        "lines": lines,
    }


def _proven_line(world: World, target: Target, now: float) -> str:
    if not target.proven_at:
        return "no restore was proven yet"
    of = f" from {target.name}" if len(world.targets) > 1 else ""
    ago, run = words.duration(now - target.proven_at), _run_name(world, target.proven_run)
    return f"last proven restore {ago} ago of {run} at epoch {target.proven_epoch}{of}"


def _age_line(world: World, max_age_s: float | None) -> str:
    """The work at stake; that nothing is only where it is so."""
    if max_age_s is not None:
        return f"backup age max {words.duration(max_age_s)}"
    kept = [run for run in world.live.values() if run.kept_epoch]
    meant = [run for run in kept if targets.of_run(world, run)]
    if not meant:
        return "no live run that is to be backed up has a verified checkpoint yet"
    nowhere = f"; {len(kept) - len(meant)} more are backed up nowhere: their jobs want no target"
    beside = nowhere if len(meant) < len(kept) else ""
    if all(targets.covered(world, run) for run in meant):
        return f"every verified checkpoint of the live runs is backed up{beside}"
    return f"every verified checkpoint of the live runs was backed up, to targets that have yet to answer now{beside}"


def _max_age_s(world: World, now: float) -> float | None:
    ages = [
        age
        for run in world.live.values()
        for name in targets.of_run(world, run)
        if (age := age_s(run, run.backups.get(name), now)) is not None
    ]
    return max(ages, default=None)


def _warnings(world: World, now: float) -> list[str]:
    found = [warning for one in world.targets.values() for warning in _of_target(world, one, now)]
    for run in world.live.values():
        for name, cause in run.unbacked.items():
            found.append(f"{run.name}: its backup to {name} {causes.kind(cause).means}")
    return found


def _of_target(world: World, target: Target, now: float) -> list[str]:
    policy = targets.policy_of(world, target.name)
    found = []
    if target.damaged:
        found.append(f"{target.name}: {len(target.damaged)} damaged files, such as {target.damaged[0]}")
    if target.unproven:
        found.append(f"{target.name}: {'' if target.unable else 'a rehearsed restore did not work: '}{target.unproven}")
    if policy.verify_s and target.verified_from and now - target.verified_from > policy.verify_s * _LATE:
        ago = words.duration(now - target.verified_from)
        found.append(
            f"{target.name}: some files were last read {ago} ago, and {words.duration(policy.verify_s)} is wanted"
        )
    if policy.drill_s and target.proven_at and now - target.proven_at > policy.drill_s * _LATE:
        found.append(f"{target.name}: no restore was proven for {words.duration(now - target.proven_at)}")
    if target.state_told:
        found.append(f"{target.name}: the journal {causes.kind(target.state_told).means}")
    elif target.ok_at and not target.state_at and STATE not in target.due and not target.doing:
        found.append(f"{target.name}: the journal itself was not backed up yet")
    if target.warning:
        found.append(f"{target.name}: {target.warning}")
    return found
