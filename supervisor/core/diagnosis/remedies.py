"""Cause → Remedy: the next step of the cause's plan that can be taken, and why it is taken.

Each cause has a budget of its own, which is its plan. It is used up step by step while no epoch is saved in between,
and begins anew after verified progress, or when its last step lies a day back: a run of three weeks does not die of
its fifth unrelated failure. Plain tries, of whatever cause, are also bounded by the job's `no_progress`.
"""

from __future__ import annotations

import msgspec

from supervisor.core.diagnosis import rungs
from supervisor.core.diagnosis.advice import advice
from supervisor.core.diagnosis.diagnose import Diagnosis
from supervisor.core.diagnosis.evidence import Change, Evidence, Spent
from supervisor.core.diagnosis.tables import ENDS, RUNGS
from supervisor.core.model import Policy, Run
from supervisor.core.policy import after_failure, backoff_s

WINDOW_S = 24 * 3600.0
AT_ONCE_S = 1.0
PLAIN = ("retry", "backoff")
QUOTA = "disk-quota"
_ARGUMENTS = frozenset(RUNGS) - {"checkpoint", "gpus"}


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about a failure. `step` is a word of tables.STEPS.

    `spent` is how far the plans of all causes are used up afterwards, `failures` the failures in a row without a saved
    epoch that were simply tried again. `fix` is what a person can do, whatever is done here.
    """

    step: str
    reason: str
    delay_s: float = 0.0
    waiting_for: str = ""
    change: Change | None = None
    distrust_from: int = 0
    failures: int = 0
    spent: dict[str, Spent] = {}
    fix: str = ""


def has_progressed(run: Run) -> bool:
    """True if an epoch was saved since the last failure, or a checkpoint verified whose epoch nothing tells."""
    return run.progress.saved_epoch > run.failed_at_epoch or run.kept_anew


def _is_long_ago(run: Run, at: float, now: float) -> bool:
    """True if a failure counts no more: a day without one. Attempts that last longer without a save are no proof."""
    began_at = run.attempt.started_at if run.attempt is not None and run.attempt.started_at else now
    return now - at >= max(WINDOW_S, 3.0 * (now - began_at))


class _Case(msgspec.Struct, frozen=True):
    """One failure: all that its remedy depends on."""

    run: Run
    found: Diagnosis
    evidence: Evidence
    policy: Policy
    now: float
    spent: dict[str, Spent]


def choose(run: Run, found: Diagnosis, evidence: Evidence, policy: Policy, now: float) -> Remedy:
    """The remedy for this failure. Pure: the same run, diagnosis and time give the same answer."""
    return msgspec.structs.replace(_chosen(run, found, evidence, policy, now), fix=advice(found, run))


def _chosen(run: Run, found: Diagnosis, evidence: Evidence, policy: Policy, now: float) -> Remedy:
    if run.last_failed_at and _is_long_ago(run, run.last_failed_at, now):
        run = msgspec.structs.replace(run, failures=0)
    case = _Case(run, found, evidence, policy, now, {} if has_progressed(run) else run.spent)
    if _only_the_end_is_missing(run):
        reason = "all epochs are saved: only the trainer's own ending is repeated"
        return Remedy(step="retry", reason=reason, delay_s=AT_ONCE_S, failures=run.failures, spent=case.spent)
    if _no_chance(case):
        return _end(case, f"it failed in the same way at the same place twice ({found.place})")
    before = case.spent.get(found.cause.name)
    place = before.place if before is not None and not _is_long_ago(run, before.at, now) else 0
    return _from(place, case)


def _from(place: int, case: _Case, why: str = "") -> Remedy:
    """The first step that can be taken, from a place of the plan on. `why`, if there is none but the end."""
    why = why or _all_tried(place, case)
    steps = case.found.steps
    for index in range(place, len(steps)):
        if _can(steps[index], case):
            spent = {**case.spent, case.found.cause.name: Spent(place=index + 1, at=case.now)}
            return _taken(index, msgspec.structs.replace(case, spent=spent), why)
    return _end(case, why)


def _all_tried(place: int, case: _Case) -> str:
    """That nothing of the plan is left, and what of it was never tried, with the reason."""
    left_out = _left_out(case)
    if not left_out:
        return "all that may be tried was tried"
    return f"{'nothing more' if place else 'nothing'} can be tried here ({left_out})"


def _left_out(case: _Case) -> str:
    """The rungs of the plan that cannot be taken, each with the reason."""
    because: dict[str, list[str]] = {}
    for rung in dict.fromkeys(step for step in case.found.steps if step in RUNGS):
        because.setdefault(rungs.why_not(rung, case.run, case.policy), []).append(rung)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in because.items() if reason)


def _only_the_end_is_missing(run: Run) -> bool:
    """True if the attempt trained the last epoch and died after it: the next one strips and validates. Once."""
    saved = run.progress.saved_epoch
    done = 0 < run.progress.epochs <= saved
    return done and run.attempt is not None and not run.attempt.watched and run.attempt.from_epoch < saved


def _no_chance(case: _Case) -> bool:
    same = bool(case.found.mark) and case.found.mark == case.run.last_failure
    before_any_epoch = not case.evidence.epoch and "site-packages" in case.evidence.site
    return same and case.found.cause.random and not before_any_epoch and not has_progressed(case.run)


def _can(step: str, case: _Case) -> bool:
    if step == "wait-mount":
        return bool(case.evidence.unmounted)
    if step == "wait-disk" and case.found.cause.name == QUOTA:  # servers of files do not tell: it would be no wait
        return any(one.lack for one in case.evidence.disks)
    return step not in RUNGS or rungs.applicable(step, case.run, case.policy)


def _taken(index: int, case: _Case, why: str) -> Remedy:
    step = case.found.steps[index]
    if step in ENDS and _may_go_on(case):
        return _again(index, case)
    if step in ENDS:
        return _end(case, "" if index == 0 else why, step)
    if step in PLAIN:
        return _again(index, case)
    if step.startswith("wait-"):
        what = step.removeprefix("wait-")
        waiting_for = f"mount: {case.evidence.unmounted[0]}" if what == "mount" else what
        failures = 0 if has_progressed(case.run) else case.run.failures  # no try, and nothing new either
        lacks = [one.lack for one in case.evidence.disks if one.lack and what == "disk"]
        reason = "; ".join((*lacks[:1], "it goes on by itself when that is back"))
        return Remedy(step=step, reason=reason, waiting_for=waiting_for, failures=failures, spent=case.spent)
    if step == "elsewhere":
        return _elsewhere(case)
    return _changed(step, case)


def _elsewhere(case: _Case) -> Remedy:
    """A GPU is to blame: another try, and no failure of the job. At once if that GPU is known and given out no more."""
    attempt = case.run.attempt
    known = attempt is not None and bool(attempt.gpu_fault)
    delay_s = AT_ONCE_S if known else backoff_s(case.run.job.restart, 1, case.run.id, case.run.attempts)
    reason = (
        "goes on as soon as GPUs are free that are in order" if known else "goes on, on other GPUs if some are free"
    )
    failures = 0 if has_progressed(case.run) else case.run.failures
    return Remedy(step="elsewhere", reason=reason, delay_s=delay_s, failures=failures, spent=case.spent)


def _may_go_on(case: _Case) -> bool:
    """All is changed that may be changed, and it still got further each time: so it may go on like that."""
    steps = case.found.steps
    return has_progressed(case.run) and steps[0] not in ENDS and not _ARGUMENTS.isdisjoint(steps)


def _again(index: int, case: _Case) -> Remedy:
    """Try the same once more; when `no_progress` allows no more of that, what the plan has behind its plain tries."""
    step, verdict = case.found.steps[index], after_failure(case.run, case.run.progress.saved_epoch)
    if verdict.delay_s is None:
        steps = case.found.steps
        behind = next((place for place in range(index, len(steps)) if steps[place] not in PLAIN), index)
        left_out = _left_out(case)
        return _from(behind, case, verdict.reason + (f"; not tried: {left_out}" if left_out else ""))
    reason, delay_s = verdict.reason, verdict.delay_s
    if step == "retry" and verdict.failures:
        reason, delay_s = f"{reason.partition(':')[0]}: tried again at once", AT_ONCE_S
    step = step if step in PLAIN else "backoff"
    return Remedy(step=step, reason=reason, delay_s=delay_s, failures=verdict.failures, spent=case.spent)


def _changed(step: str, case: _Case) -> Remedy:
    """Take a rung. What is changed is a new try: plain failures are counted from the beginning."""
    run = case.run
    delay_s = backoff_s(run.job.restart, 1, run.id, run.attempts)
    again, spent = f"tried again in {delay_s:.0f} s", case.spent
    if step == "checkpoint":
        newest = max(run.progress.saved_epoch, run.attempt.from_epoch if run.attempt is not None else 0)
        reason = f"goes back to a checkpoint before epoch {newest}; {again}"
        return Remedy(step=step, reason=reason, delay_s=delay_s, distrust_from=newest, spent=spent)
    if step == "gpus":
        return Remedy(step=step, reason=f"on other GPUs, if some are free; {again}", delay_s=delay_s, spent=spent)
    change = rungs.next_change(step, run, case.found.cause.name, case.now)
    if change is None:
        return Remedy(step="backoff", reason=again, delay_s=delay_s, spent=spent)
    reason = f"{change.name} = {change.after} instead of {change.before}; {again}"
    return Remedy(step=step, reason=reason, delay_s=delay_s, change=change, spent=spent)


def _end(case: _Case, why: str, step: str = "") -> Remedy:
    last = step or case.found.steps[-1]
    return Remedy(step=last if last in ENDS else "hold", reason=why, failures=case.run.failures + 1, spent=case.spent)
