"""Compare the first epochs after a resume with those before: reads what all attempts left, and lets core judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from supervisor import attempt_files, curve_files, layout
from supervisor.core.actions import Compare
from supervisor.core.continuity import judge, planned_changes
from supervisor.core.curve import Point, Rows, Trace, join
from supervisor.core.events import Compared, Event
from supervisor.errors import RetryableError

RECORD_S = 10.0  # the trainer reports an epoch right after it has saved it; a clock may be a little off
LOOK_AGAIN_S = 1.0


class Comparer:
    """Carries out Compare."""

    def __init__(self, runs_dir: Path, now: Callable[[], float]) -> None:
        """`now` stamps the answer."""
        self._runs_dir = runs_dir
        self._now = now

    def __call__(self, action: Compare) -> tuple[Event, ...]:
        """See the module. Raises RetryableError while the epoch's record is still to come."""
        job = action.job
        run_dir = layout.run_directory(self._runs_dir, job.project, job.name)
        traces = [trace for trace in curve_files.read_traces(run_dir) if trace.number <= action.attempt]
        before, after = split(traces, curve_files.read_rows(job, run_dir), action.attempt, action.from_epoch)
        if _is_to_come(traces[-1:], action.attempt, self._now()):
            raise RetryableError(f"the record of the first epoch of attempt {action.attempt} is to come", LOOK_AGAIN_S)
        planned = (*planned_changes(job, action.from_epoch + 1), *changed_after_failure(run_dir, action.attempt))
        verdict = judge(before, after, from_epoch=action.from_epoch, planned=planned)
        compared = Compared(
            at=self._now(),
            origin="compare",
            run=action.run,
            attempt=action.attempt,
            continuous=verdict.continuous,
            findings=verdict.findings,
        )
        return (compared,)


def changed_after_failure(run_dir: layout.RunDirectory, attempt: int) -> tuple[str, ...]:
    """The arguments with which this attempt trains otherwise than the one before, because of a failure."""
    try:
        ours, older = (attempt_files.read_launch(run_dir.attempt(number).root) for number in (attempt, attempt - 1))
    except (OSError, ValueError):  # then nothing is known to be changed
        return ()
    if ours is None or ours.train is None:
        return ()
    before = older.train.args if older is not None and older.train is not None else {}
    return tuple(name for name, value in ours.train.changes.items() if name not in before or before[name] != value)


def split(
    traces: Sequence[Trace], rows: Rows, attempt: int, from_epoch: int
) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """The epochs up to `from_epoch` of the attempts before `attempt`, and all that `attempt` trained."""
    older = join([trace for trace in traces if trace.number < attempt], rows)
    before = tuple(point for point in older.points if point.epoch <= from_epoch)
    reports = any(trace.points for trace in traces if trace.number == attempt)
    whole = join(traces, rows)
    ours = [point for point in whole.points if point.attempt == attempt]
    after = ours if reports else [point for point in whole.points if point.epoch > from_epoch]
    return before, tuple(after)


def _is_to_come(newest: Sequence[Trace], attempt: int, now: float) -> bool:
    """True in the moment between a save and the report of its epoch. One that was killed there never reports it."""
    trace = newest[0] if newest and newest[0].number == attempt else None
    if trace is None or trace.points or trace.saved_at is None or trace.ending:
        return False
    return abs(now - trace.saved_at) < RECORD_S
