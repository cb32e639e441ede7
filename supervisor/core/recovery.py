"""What follows a failure: the remedy is chosen, carried out, told and kept as an incident."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import endings, events, incidents, messages
from supervisor.core.diagnosis.diagnose import Diagnosis, diagnose, of_cause
from supervisor.core.diagnosis.evidence import Evidence, Incident
from supervisor.core.diagnosis.own_dump import before_dump
from supervisor.core.diagnosis.remedies import Remedy, choose, has_progressed
from supervisor.core.model import Phase, Run
from supervisor.core.policy import WAITING_S
from supervisor.core.turn import Turn


def after_death(turn: Turn, run: Run, event: events.Examined, how: str) -> None:
    """An attempt failed by itself, or hung: find out why and do what helps. `how` is how it ended, in words."""
    found = diagnose(run, event)
    remedy = choose(run, found, event.evidence, turn.world.policy, turn.now)
    run = incidents.opened(run, found, remedy, event, turn.now)
    run = _noted(replace(run, stop=None), found, remedy, turn.now)
    tail = before_dump(event.log_tail) if run.incidents[-1].hung else event.log_tail
    _carry_out(turn, run, remedy, _reason(run.incidents[-1], found, remedy, how), tail)


def _reason(incident: Incident, found: Diagnosis, remedy: Remedy, how: str) -> str:
    """How it ended, what that means and what is done, in few words. Of a hang the signal that ended it was our own."""
    title = found.cause.title if found.named else ""
    return "; ".join(filter(None, ("" if incident.hung else how, ": ".join(filter(None, (title, remedy.reason))))))


def after_reboot(turn: Turn, run: Run, event: events.Examined) -> None:
    """The machine restarted: no failure of the training, but work is lost, and people want to know."""
    remedy = Remedy(step="retry", reason="it goes on by itself", failures=run.failures, spent=run.spent)
    run = incidents.opened(run, of_cause("reboot", "the machine restarted"), remedy, event, turn.now)
    endings.queue_again(turn, run, "the machine restarted; that is not counted as a failure")


def hung_before_its_end(turn: Turn, run: Run, event: events.Examined) -> Run:
    """It was to end anyway, or did, but it hung: that is kept as an incident all the same."""
    found = diagnose(run, event)
    ordered = Remedy(step="stop", reason=run.stop.reason if run.stop is not None else "", failures=run.failures)
    return turn.put(incidents.opened(run, found, ordered, event, turn.now))


def after_failed_launch(turn: Turn, run: Run, reason: str) -> None:
    """No process was made."""
    _not_begun(turn, run, of_cause("not-launched", reason), f"could not be launched: {reason}")


def after_failed_preparation(turn: Turn, run: Run, event: events.PrepareFailed) -> None:
    """Nothing was started, for something that the table of causes knows."""
    _not_begun(turn, run, of_cause(event.cause, event.reason), event.reason)


def _not_begun(turn: Turn, run: Run, found: Diagnosis, how: str) -> None:
    """Carry the plan of a cause out before anything ran: no attempt is there whose place or time would count."""
    remedy = choose(replace(run, attempt=None), found, Evidence(), turn.world.policy, turn.now)
    run = _noted(incidents.opened(run, found, remedy, None, turn.now), found, remedy, turn.now)
    _carry_out(turn, run, remedy, "; ".join(filter(None, (how, remedy.reason))), ())


def _noted(run: Run, found: Diagnosis, remedy: Remedy, now: float) -> Run:
    """The run after the failure, with what is spent."""
    return replace(
        run,
        failures=remedy.failures,
        failed_at_epoch=max(run.progress.saved_epoch, run.failed_at_epoch),
        spent=remedy.spent,
        last_failure=found.mark,
        last_failed_at=now,
        kept_anew=False,
        interruptions=0 if has_progressed(run) else run.interruptions,
        distrust_from=remedy.distrust_from,
    )


def _carry_out(turn: Turn, run: Run, remedy: Remedy, reason: str, tail: tuple[str, ...]) -> None:
    if remedy.step == "fail":
        endings.finish(turn, run, Phase.FAILED, reason, tail, incident=run.incidents[-1])
    elif remedy.step == "hold":
        endings.hold(turn, run, reason, tail, incident=run.incidents[-1])
    elif remedy.waiting_for:
        _wait(turn, run, reason, remedy.waiting_for)
    else:
        run = endings.cool(turn, _with_change(run, remedy), reason, remedy.delay_s)
        messages.failed_attempt(turn, run, tail)


def _with_change(run: Run, remedy: Remedy) -> Run:
    """The run with the rung that was taken; of one argument only the newest change counts."""
    if remedy.step in {"gpus", "elsewhere"} and run.attempt is not None:
        blamed = run.attempt.gpu_blamed  # the others of a run are in order
        return replace(run, avoided_gpus=(blamed,) if blamed and run.attempt.gpu_fault else run.attempt.gpu_ids)
    if remedy.change is None:
        return run
    changes = (*(one for one in run.changes if one.name != remedy.change.name), remedy.change)
    return replace(run, changes=changes)


def _wait(turn: Turn, run: Run, reason: str, waiting_for: str) -> None:
    run = turn.move(run, Phase.COOLING, reason, within_s=WAITING_S, waiting_for=waiting_for)
    endings.tell_waiting(turn, run, reason, run.incidents[-1])


def wait_over(turn: Turn, run: Run, event: events.WaitOver) -> None:
    """What it waited for is back. An attempt that is not cleared away yet goes its own way."""
    over = run.attempt is None or run.attempt.over
    if over and run.waiting_for == event.what:
        endings.queue_again(turn, run, f"{run.reason}; it is back")
