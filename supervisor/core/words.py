"""What events, ends and waits are called when a person reads them; no code without its meaning."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.core.backups import words as backup_words
from supervisor.core.gpus import words as gpu_words
from supervisor.core.model import Phase, Run

Body = Mapping[str, Any]
_OURS = "(ours)"  # no field of an event is called so

RUNNER_CODES = {
    0: "the training ended by itself",
    1: "the trainer failed",
    2: "the trainer could not read what it was given",
    65: "the checkpoint was refused",
    66: "the model or the data is missing",
    75: "stopped, and can be resumed",
    76: "a person must look",
    77: "it had resumed from the wrong place",
}

WAITING = {
    "slot": "a free place: the server runs as many trainings as it may",
    "GPU": "free GPUs",
    "time": "its time",
    "drain": "the end of the drain",
    "disk": "free disk space",
    "mount": "a file system that is not mounted",
    "memory": "free memory",
    "shm": "room in /dev/shm",
    "restore": "its checkpoints, which are being fetched from a backup",
    "person": "the end of the training that a person started",
}

_ACTIONS = {
    "check": "check the job file",
    "mark": "leave a note beside the job file",
    "prepare": "make the run directory and choose the checkpoint",
    "launch": "start the trainer",
    "term": "ask the trainer to stop",
    "kill": "end the whole process tree",
    "terminate": "end the training",
    "examine": "look at what the attempt left behind",
    "announce": "tell the channels",
    "autopsy": "write down what each of its processes does",
    "keep": "keep a verified copy of the checkpoint",
    "compare": "compare the first epoch with those before the resume",
    "test": "test the GPU",
    "reset": "reset the GPU",
    "reboot": "restart the machine",
    "power": "set the GPU's power limit",
    "backup": "copy it to the backup target",
    "verify": "read the backup again",
    "drill": "rehearse a restore",
    "restore": "fetch it from the backup",
    "prune": "let go what the policy lets go",
    "publish": "publish its weights",
}


# What the steps of a plan are called; plain tries and changes say it themselves, in their reasons.
_STEPS = {
    "checkpoint": "an older checkpoint",
    "gpus": "other GPUs",
    "elsewhere": "other GPUs",
    "hold": "held for a person",
    "fail": "given up",
}


def size(count_bytes: float) -> str:
    """One unit, for people: 512 B, 1.5 GiB."""
    value, units = float(count_bytes), ("B", "KiB", "MiB", "GiB", "TiB")
    place = 0
    while value >= 1024 and place < len(units) - 1:
        value, place = value / 1024, place + 1
    return f"{value:.0f} {units[place]}" if value >= 100 or not place else f"{value:.1f} {units[place]}"


def duration(seconds: float) -> str:
    """Two units at most, for people: 42 s, 12 min, 3 h 20 min, 2 d 4 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def signal_name(number: int) -> str:
    """SIGKILL for 9; a number without a name stays a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(code: int | None, signal_number: int | None, *, ours: bool = False) -> str:
    """How a process ended; `ours`: it was our runner, whose exit codes have a meaning."""
    if signal_number is not None:
        return f"was ended by {signal_name(signal_number)}"
    if code is None:
        return "ended; nobody was there to see how"
    meaning = RUNNER_CODES.get(code) if ours else None
    return f"exit code {code} ({meaning})" if meaning else f"exit code {code}"


def waiting(waiting_for: str) -> str:
    """What a queued run waits for."""
    head, _, name = waiting_for.partition(": ")
    if head == "other run":
        return f"{name} to succeed"
    if head == "mount" and name:
        return f"{name} to be mounted"
    if head == "GPU" and name:
        return gpu_words.waiting(name)
    return WAITING.get(waiting_for, waiting_for)


def remedy(step: str, reason: str, fix: str = "") -> str:
    """What is done about a failure; `fix`, which is told by itself, is left out of the reason."""
    what = _waits_for(step) if step.startswith("wait-") else _STEPS.get(step, "")
    why = _one_line(reason.removesuffix(fix) if fix else reason).rstrip("; ")
    return ": ".join(filter(None, (what, why))) or step


def _waits_for(step: str) -> str:
    return f"waits for {waiting(step.removeprefix('wait-'))}"


def action(key: str) -> str:
    """What an action does, read from its key, such as `run@1/3/launch-1`; a key of another shape stays as it is."""
    for part in key.split("/"):
        verb = part.split("-")[0]
        if verb in _ACTIONS and "@" not in part:
            return _ACTIONS[verb]
    return key


def remedies(run: Run) -> tuple[str, ...]:
    """The commands that a person can give, the likeliest first; none for runs that go on by themselves."""
    if run.phase is Phase.RUNNING and run.stalled:
        return (run.stalled_todo,) if run.stalled_todo else ()
    verbs = {Phase.HELD: ("resume", "logs", "cancel"), Phase.FAILED: ("logs", "retry"), Phase.CANCELLED: ("retry",)}
    possible = [verb for verb in verbs.get(run.phase, ()) if verb != "logs" or run.attempts]
    accept = f"yolo-supervisor resume {run.name} --accept"
    if run.phase is Phase.HELD and accept in run.reason:  # without that word it would be held again at once
        return (accept, *(f"yolo-supervisor {verb} {run.name}" for verb in possible if verb != "resume"))
    return tuple(f"yolo-supervisor {verb} {run.name}" for verb in possible)


def sentence(kind: str, body: Body, *, ours: bool = False) -> str:
    """What happened, in one sentence. A kind that this version does not know is named, never an error.

    `ours`: the run is trained by our runner, whose exit codes have a meaning.
    """
    words = _SENTENCES.get(kind)
    if words is None:
        return f"something that another version of the program recorded as {kind}"
    return words({**body, _OURS: ours})


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _by(body: Body) -> str:
    return str(body.get("by") or "somebody")


def _because(body: Body) -> str:
    reason = _one_line(body.get("reason") or "")
    return f": {reason}" if reason else ""


def _file_seen(body: Body) -> str:
    note = body.get("note")
    return f"the job file {body.get('path', '')} was seen" + (f" ({_one_line(note)})" if note else "")


def _job_accepted(body: Body) -> str:
    note = body.get("note")
    return "the job file was checked and accepted" + (f" ({_one_line(note)})" if note else "")


def _stop_asked(body: Body) -> str:
    return f"{_by(body)} asked it to stop " + ("at once" if body.get("at_once") else "at the next saved epoch")


def _cancel_asked(body: Body) -> str:
    return f"{_by(body)} cancelled it" + (", at once" if body.get("at_once") else "")


def _drain_asked(body: Body) -> str:
    if body.get("off"):
        return f"{_by(body)} ended the drain: trainings start again"
    how = "at once" if body.get("at_once") else "gracefully"
    return f"{_by(body)} asked for a drain: all trainings end {how} and none starts"


def _prepared(body: Body) -> str:
    start, epoch, source = body.get("start"), body.get("from_epoch"), body.get("checkpoint", "")
    notes = "".join(f"; {_one_line(note)}" for note in body.get("notes") or ())
    texts = {
        "fresh": "the run directory is ready; it starts from the beginning",
        "resume": f"the run directory is ready; it resumes after epoch {epoch} from {source}",
        "finish": f"all {epoch} epochs are there; only the trainer's own ending is missing",
        "finished": "there is nothing left to train",
        "watch": "the training that a person started still runs: it is watched",
        "refused": "nothing was started",
    }
    return texts.get(str(start), f"the run directory is ready ({start})") + _because(body) + notes


def _prepare_failed(body: Body) -> str:
    waits = f"; it waits for {waiting(body['waiting_for'])}" if body.get("waiting_for") else ""
    return f"the run directory could not be prepared{_because(body)}{waits}"


def _exited(body: Body) -> str:
    if body.get("launch_error"):
        return f"the trainer could not be started: {_one_line(body['launch_error'])}"
    if body.get("lost"):
        return f"the trainer is gone: {_one_line(body['lost'])}"
    how = ending(body.get("code"), body.get("signal"), ours=bool(body.get(_OURS)))
    return f"the trainer ended with {how}" if how.startswith("exit code") else f"the trainer {how}"


def _examined(body: Body) -> str:
    saved = int(body.get("saved_epoch") or 0)
    kept = (f"; epoch {saved} is saved" if saved else "; no epoch is saved") + _evidence(body)
    if body.get("finished"):
        proof = _one_line(body.get("proof") or "")
        return "the training is finished" + (f" ({proof})" if proof else "") + kept
    return f"the training is not finished{_because(body)}{kept}"


def _evidence(body: Body) -> str:
    """What the examination saw besides: of many signs the first one, of the machine what tells most."""
    evidence = body.get("evidence") or {}
    parts = [_sign(evidence["signs"][0])] if evidence.get("signs") else []
    if not parts and evidence.get("error"):
        site = f", at {evidence['site']}" if evidence.get("site") else ""
        parts.append(f"{_one_line(evidence['error'])}{site}")
    if kills := evidence.get("oom_kills"):
        parts.append(f"the out-of-memory killer ended {_count(int(kills), 'process')}")
    for name, text in (("unmounted", "is not mounted"), ("missing", "is gone")):
        parts += [f"{one} {text}" for one in evidence.get(name) or ()]
    return "".join(f"; {part}" for part in parts)


def _sign(sign: Body) -> str:
    line = f", line {sign['number']}" if sign.get("number") else ""
    rank = f", rank {sign['rank']}" if sign.get("rank") is not None else ""
    return f"in its log{line}{rank}: {_one_line(sign.get('line', ''))}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "es" if thing.endswith("s") else "s")


def _confirmed(body: Body) -> str:
    epoch = int(body.get("from_epoch") or 0)
    return (
        f"the trainer confirmed that it goes on after epoch {epoch}" if epoch else "the trainer confirmed a fresh start"
    )


def _progressed(body: Body) -> str:
    epochs = f" of {body['epochs']}" if body.get("epochs") else ""
    saved = f" (epoch {body['saved_epoch']} is saved)" if body.get("saved_epoch") else ""
    since = f"; its losses are no numbers since epoch {body['diverged_from']}" if body.get("diverged_from") else ""
    return f"the training reached epoch {body.get('epoch', '?')}{epochs}{saved}{since}"


def _signal_sent(body: Body) -> str:
    if body.get("signal") == "LEAVE":
        return "the watcher was told to leave; the training itself got no signal"
    return f"{body.get('signal', '?')} was sent to {_count(int(body.get('count') or 0), 'process')}"


def _resume_asked(body: Body) -> str:
    return f"{_by(body)} asked it to go on" + (", and agreed to what has changed" if body.get("accept") else "")


def _kept(body: Body) -> str:
    if not body.get("epoch"):
        return f"no copy of a checkpoint was kept{_because(body)}"
    return f"a copy of epoch {body['epoch']} was verified and entered in the ledger"


def _compared(body: Body) -> str:
    findings = "; ".join(_one_line(finding) for finding in body.get("findings") or ())
    if body.get("continuous", True):
        fits = "no jump after the resume: the first epoch fits those before"
        return f"after the resume: {findings}" if findings else fits
    return f"a jump after the resume: {findings}"


def _save_seen(body: Body) -> str:
    return f"the trainer saved epoch {body['epoch']}" if body.get("epoch") else "the trainer saved a checkpoint"


def _hang_seen(body: Body) -> str:
    """The detector's own sentence, and what was concluded; without one, what is known of how long it stood still."""
    verdict = str(body.get("verdict", ""))
    phase = f" in {body['phase']}" if body.get("phase") else ""
    text = _one_line(body.get("text") or "") or f"nothing moved{phase} for {duration(float(body.get('quiet_s') or 0))}"
    if verdict == "moving":
        return f"the training moves again{': ' + text if body.get('text') else ''}"
    judged = {
        "hung": "the training hangs",
        "stopped": "the training is stopped by a signal or a debugger, and is left alone",
        "storage": "the training waits for a disk or a network file system, and is left alone",
    }
    told = bool(body.get("text")) or not body.get("limit_s")  # the detector's sentence has it already
    limit = "" if told else f"; {duration(float(body['limit_s']))} are allowed"
    return f"{judged.get(verdict, f'the training stands still ({verdict})')}: {text}{limit}"


def _autopsy_done(body: Body) -> str:
    where = f" ({body['directory']})" if body.get("directory") else ""
    found = f": {_one_line(body['summary'])}" if body.get("summary") else "; nothing could be learnt"
    return f"what its processes did was written down{where}{found}"


_SENTENCES: dict[str, Callable[[Body], str]] = {
    "DaemonStarted": lambda body: f"the daemon started (pid {body.get('pid')}, version {body.get('version')})",
    "DaemonStopped": lambda body: f"the daemon ended{_because(body)}; trainings go on",
    "Configured": lambda _: "the configuration was read",
    "TimePassed": lambda _: "its time came",
    "ProgressDue": lambda _: "it was time for the message about progress",
    "JobFileSeen": _file_seen,
    "JobFileGone": lambda body: f"the job file {body.get('path', '')} is gone; that alone stops nothing",
    "JobAccepted": _job_accepted,
    "JobRefused": lambda body: f"the job file was refused: {_one_line(body.get('problem', ''))}",
    "FileMarked": lambda body: f"the trace beside {body.get('path', '')} was left",
    "StopAsked": _stop_asked,
    "ResumeAsked": _resume_asked,
    "CancelAsked": _cancel_asked,
    "RetryAsked": lambda body: f"{_by(body)} asked for another run of it",
    "RewindAsked": lambda body: f"{_by(body)} asked to go back to epoch {body.get('epoch', '?')}",
    "ExtendAsked": lambda body: f"{_by(body)} asked for more epochs, {body.get('epochs', '?')} in all",
    "PriorityAsked": lambda body: f"{_by(body)} set its priority to {body.get('priority')}",
    "DrainAsked": _drain_asked,
    "Prepared": _prepared,
    "PrepareFailed": _prepare_failed,
    "Launched": lambda body: f"the trainer runs as process {body.get('pid')}",
    "LaunchFailed": lambda body: f"the trainer could not be started{_because(body)}",
    "SignalSent": _signal_sent,
    "Examined": _examined,
    "Announced": lambda body: f"{body.get('channel')} was told",
    "AnnounceFailed": lambda body: f"{body.get('channel')} could not be told{_because(body)}",
    "AttemptExited": _exited,
    "AttemptCleared": lambda _: "no process of the attempt is left",
    "Observed": lambda _: "the processes on this machine were compared with the records",
    "StartConfirmed": _confirmed,
    "Progressed": _progressed,
    "WrongStart": lambda body: f"the trainer's own log says that it starts from the wrong place{_because(body)}",
    "SaveSeen": _save_seen,
    "Kept": _kept,
    "Compared": _compared,
    "HangSeen": _hang_seen,
    "AutopsyDone": _autopsy_done,
    "WaitOver": lambda body: f"what it waited for is there: {waiting(str(body.get('what', '')))}",
    "UndoAsked": lambda body: f"{_by(body)} asked to take the changes back: the next attempt runs as the job file says",
    "Poisoned": lambda body: f"the supervisor has a bug; it held this run: {_one_line(body.get('error', ''))}",
    **gpu_words.sentences(duration),
    **backup_words.sentences(duration, size),
}
