"""The life of a run as one table: event kind and phase → what happens. A pair that does nothing says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from supervisor.core import (
    divergence,
    endings,
    events,
    hangs,
    incidents,
    keeping,
    launching,
    lineage,
    messages,
    orders,
    recovery,
    stages,
)
from supervisor.core.actions import Compare, Examine
from supervisor.core.gpus import growth, health
from supervisor.core.model import Phase, Progress, Run, StopOrder
from supervisor.core.policy import CLEARING_S, EXAMINING_S, OBSERVED_S, ORPHANED_S
from supervisor.core.turn import Turn

Handler = Callable[[Turn, Run, Any], None]
Row = Handler | str


# ---- an attempt at work
def confirmed(turn: Turn, run: Run, event: events.StartConfirmed) -> None:
    """The trainer says that it starts where it should; a wrong place ends in the runner's own exit code 77."""
    if run.attempt is not None:
        run = replace(run, attempt=replace(run.attempt, confirmed=True, from_epoch=event.from_epoch))
        turn.put(incidents.began(run, turn.now))


def progressed(turn: Turn, run: Run, event: events.Progressed) -> None:
    """The training moved on. A stop that waits for a saved epoch is carried out now, but the last epoch is finished."""
    before = run.progress
    progress = Progress(
        epoch=event.epoch,
        epochs=event.epochs or before.epochs,
        saved_epoch=max(before.saved_epoch, event.saved_epoch),
        losses=event.losses or before.losses,
        metrics=event.metrics or before.metrics,
        epoch_s=event.epoch_s or before.epoch_s,
        eta_s=event.eta_s,
        at=turn.now,
    )
    run = incidents.began(replace(run, progress=progress), turn.now)
    run = turn.put(incidents.progressed(run, turn.now))
    run = divergence.seen(turn, hangs.moving(turn, run), event)
    order = run.stop
    waits = run.phase is Phase.STOPPING and order is not None and order.how == "save"
    saved_now = progress.saved_epoch > before.saved_epoch
    if waits and saved_now and order is not None and progress.saved_epoch != progress.epochs:
        orders.term(turn, run, replace(order, reason=f"{order.reason}: epoch {progress.saved_epoch} is saved"))
    elif saved_now:
        _after_save(turn, run)


def _after_save(turn: Turn, run: Run) -> None:
    """A whole epoch was saved: compare the first one after a resume with those before; begin a stage that is due."""
    attempt, stage = run.attempt, stages.due(run)
    run = _compare(turn, run)
    if attempt is None or attempt.watched:
        return
    if stage is not None:
        orders.stop(turn, run, stages.order(stage))
    elif growth.pays(turn.world, run, turn.now):
        orders.stop(turn, run, growth.order(run))


def _compare(turn: Turn, run: Run) -> Run:
    """Order, once, to compare the first epoch of a resumed attempt with those before."""
    attempt = run.attempt
    if attempt is None or attempt.start != "resume" or attempt.compared:
        return run
    key = f"{run.id}/{attempt.number}/compare"
    turn.act(Compare(key=key, run=run.id, attempt=attempt.number, job=run.job, from_epoch=attempt.from_epoch))
    return turn.put(replace(run, attempt=replace(attempt, compared=True)))


def compared(turn: Turn, run: Run, event: events.Compared) -> None:
    """A resume that did not go on smoothly is told; nothing is done about it: the trainer may have its reasons."""
    run = turn.put(replace(run, findings=event.findings))
    if not event.continuous:
        text = f"After the resume of attempt {event.attempt}: {'; '.join(event.findings)}."
        turn.announce(run, "jump", "notice", f"{run.name}: a jump after the resume", text)


def wrong_start(turn: Turn, run: Run, event: events.WrongStart) -> None:
    """Started from the wrong place by its own words: end it before it can harm, then a person must look."""
    reason = f"it started from the wrong place: {event.reason}"
    order = StopOrder(how="kill", then=Phase.HELD, by="the check of the start", reason=reason, limit=True)
    orders.stop(turn, run, order)


def signal_sent(turn: Turn, run: Run, event: events.SignalSent) -> None:
    """A stop signal was delivered; the end itself is another event."""
    if run.attempt is not None and run.attempt.watched:
        return  # only our own watcher was told
    turn.put(replace(run, reason=f"{run.reason} ({event.signal} sent to {event.count})"))


def resumed(turn: Turn, run: Run, event: events.ResumeAsked) -> None:
    """A person lets it go on; a GPU that failed meanwhile does not."""
    orders.order_resume(turn, run, event)
    health.resumed(turn, run.id)


# ---- an attempt on its way out
def exited(turn: Turn, run: Run, event: events.AttemptExited) -> None:
    """The trainer is gone. What it left is read when no process of the attempt is left."""
    if run.attempt is None:
        return
    attempt = replace(run.attempt, code=event.code, signal=event.signal, ended_at=event.ended_at or turn.now)
    how = event.lost or event.launch_error or messages.ending(attempt)
    within_s = ORPHANED_S if event.lost else CLEARING_S
    reason = f"{how}: waits until nothing of it is left"
    turn.move(run, Phase.COOLING, reason, within_s=within_s, attempt=attempt, stalled="")


def exited_while_held(turn: Turn, run: Run, event: events.AttemptExited) -> None:
    """A held run whose training still lived: note the end, stay held."""
    if run.attempt is not None:
        ended = replace(run.attempt, code=event.code, signal=event.signal, ended_at=event.ended_at or turn.now)
        turn.put(replace(run, attempt=ended))


def cleared(turn: Turn, run: Run, _event: events.AttemptCleared) -> None:
    """Nothing of the attempt is left: read what it left behind. Not before its end is known, which is told again."""
    attempt = run.attempt
    if attempt is None or attempt.cleared or attempt.ended_at is None:
        return
    run = turn.put(replace(run, attempt=replace(attempt, cleared=True)))
    if run.phase is Phase.COOLING:
        examine(turn, run)


def examine(turn: Turn, run: Run) -> None:
    """Order the reading of what an attempt left."""
    attempt = run.attempt
    if attempt is None:
        return
    turn.move(
        run,
        Phase.COOLING,
        run.reason.replace("waits until nothing of it is left", "reading what it left"),
        within_s=EXAMINING_S,
    )
    run = keeping.order_keep(turn, turn.world.live[run.id])
    turn.act(
        Examine(
            key=f"{run.id}/{attempt.number}/examine",
            run=run.id,
            attempt=attempt.number,
            job=run.job,
            code=attempt.code,
            signal=attempt.signal,
            moved_at=attempt.moved_at if run.stop is not None and run.stop.cause else 0.0,
        ),
    )


def examined(turn: Turn, run: Run, event: events.Examined) -> None:
    """Decide, once."""
    if run.attempt is not None and not run.attempt.examined:
        if event.saved_epoch > run.attempt.from_epoch:  # it may have died before any of its saves was seen
            run = _compare(turn, run)
        endings.conclude(turn, run, event)


def observed(turn: Turn, run: Run, _event: events.Observed) -> None:
    """The attempt was seen alive: its next look is due later."""
    waits_for_save = run.phase is Phase.STOPPING and run.stop is not None and run.stop.how == "save"
    if run.phase is Phase.RUNNING:
        turn.put(replace(run, deadline_at=turn.now + launching.running_within_s(turn, run)))
    elif waits_for_save and run.stop is not None and not run.stop.limit:
        turn.put(replace(run, deadline_at=turn.now + OBSERVED_S))


def poisoned(turn: Turn, run: Run, event: events.Poisoned) -> None:
    """A bug in deciding about this run: a person must look; nothing else is touched."""
    endings.hold(turn, run, f"internal error, please report it: {event.error}")


def _rows(handler: Handler, *phases: Phase, **ignored: str) -> dict[Phase, Row]:
    """The row of one event kind: `handler` in `phases`, and the reason for doing nothing in all others."""
    rest = ignored.pop("otherwise")
    return {phase: handler if phase in phases else ignored.get(phase.value.lower(), rest) for phase in Phase}


_LATE = "late news of an attempt that the run has left behind"
_HELD = "the run is held; its progress is read when it is resumed"
_KNOWN = "its end is known already"
_ONLY_ENDED = "only ended runs are retried"
_ENDED = "the run is over: terminal phases are never left"
Q, P, S, R, T, C, H = (
    Phase.QUEUED,
    Phase.PREPARING,
    Phase.STARTING,
    Phase.RUNNING,
    Phase.STOPPING,
    Phase.COOLING,
    Phase.HELD,
)

TABLE: dict[type[events.Event], dict[Phase, Row]] = {
    events.Prepared: _rows(launching.prepared, P, otherwise=_LATE),
    events.PrepareFailed: _rows(launching.prepare_failed, P, otherwise=_LATE),
    events.Launched: {
        **_rows(launching.launched, S, otherwise=_LATE),
        **dict.fromkeys((R, T, C, H), launching.noted_launch),
    },
    events.LaunchFailed: _rows(
        launching.launch_failed, S, R, T, H, cooling="it was started: its end is known", otherwise=_LATE
    ),
    events.StartConfirmed: _rows(confirmed, S, R, T, otherwise=_LATE),
    events.Progressed: _rows(progressed, S, R, T, C, held=_HELD, otherwise=_LATE),
    events.SignalSent: _rows(signal_sent, R, T, otherwise="the attempt ended before the signal was reported"),
    events.AttemptExited: {**_rows(exited, S, R, T, cooling=_KNOWN, otherwise=_LATE), H: exited_while_held},
    events.AttemptCleared: _rows(cleared, C, H, otherwise="nothing is cleared before it has exited"),
    events.Examined: _rows(examined, C, otherwise=_LATE),
    events.StopAsked: _rows(orders.order_stop, Q, P, S, R, T, C, held="it is held already", otherwise=_ENDED),
    events.CancelAsked: _rows(orders.order_cancel, Q, P, S, R, T, C, H, otherwise=_ENDED),
    events.ResumeAsked: {
        **_rows(resumed, T, H, otherwise="it is not held"),
        **dict.fromkeys((P, S, C), orders.take_back),
        **dict.fromkeys((Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED), _ENDED),
    },
    events.RetryAsked: _rows(orders.order_retry, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, otherwise=_ONLY_ENDED),
    events.RewindAsked: {
        **_rows(lineage.order_rewind, H, otherwise="only ended and held runs are rewound"),
        **dict.fromkeys((Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED), lineage.order_rewind),
    },
    events.ExtendAsked: {
        **_rows(lineage.order_extend, Phase.SUCCEEDED, otherwise="only finished runs are extended"),
    },
    events.SaveSeen: _rows(keeping.save_seen, S, R, T, C, H, otherwise=_LATE),
    events.Kept: {
        **_rows(keeping.kept, Q, P, S, R, T, C, H, otherwise=""),
        **dict.fromkeys((Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED), keeping.kept_late),
    },
    events.Compared: _rows(compared, Q, P, S, R, T, C, H, otherwise="the run is over: its curve is there to see"),
    events.WrongStart: _rows(wrong_start, S, R, T, held=_HELD, otherwise=_LATE),
    events.HangSeen: _rows(hangs.hang_seen, R, T, otherwise=_LATE),
    events.AutopsyDone: _rows(hangs.autopsy_done, R, T, C, H, otherwise=_LATE),
    events.WaitOver: _rows(recovery.wait_over, C, otherwise="it does not wait for that any more"),
    events.UndoAsked: _rows(orders.order_undo, Q, P, S, R, T, C, H, otherwise=_ENDED),
    events.PriorityAsked: _rows(orders.order_priority, Q, P, S, R, T, C, H, otherwise=_ENDED),
    events.Poisoned: _rows(poisoned, Q, P, S, R, T, C, H, otherwise=_ENDED),
}  # fmt: skip


def apply(turn: Turn, event: events.RunEvent) -> None:
    """Let an event about a run have its effect. News of an older attempt has none."""
    run = turn.world.run(event.run)
    if run is None:
        return
    if isinstance(event, events.AttemptEvent) and (run.attempt is None or run.attempt.number != event.attempt):
        return
    row = TABLE[type(event)][run.phase]
    if not isinstance(row, str):
        row(turn, run, event)
