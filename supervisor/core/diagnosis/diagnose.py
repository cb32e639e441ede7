"""Evidence → Cause: what ended an attempt, and where. Ordered finders, the first that knows decides."""

from __future__ import annotations

import signal
from collections.abc import Callable

import msgspec

from supervisor.core import words
from supervisor.core.diagnosis.evidence import Sign
from supervisor.core.diagnosis.tables import CAUSES, RULES, Cause, expand
from supervisor.core.events import Examined
from supervisor.core.model import Run

#: Runner exit codes (contract) that name their cause themselves.
CODES = {2: "bad-job", 65: "checkpoint-refused", 66: "input-missing", 76: "needs-a-person", 77: "wrong-start"}
_FOLLOWS_A_KILL = {"host-oom", "killed", "worker-killed", "worker-died", "peer-gone", "rank-failed", "rendezvous"}
#: What a process may say that somebody asked to end; its workers die of the same signal.
INTERRUPTS = {"unknown", "terminated", "interrupted", "time-limit"} | _FOLLOWS_A_KILL
NO_ROOM_BYTES = 1024 * 1024  # below this nothing can be saved
FULL_SHM_BYTES = 16 * 1024 * 1024  # a dataloader hands batches over in blocks of this order
GPU_FAULT_S = 600.0  # whoever lives on for longer after an error of its GPU dies of something else
_OF_DATA = {"image-missing", "input-missing", "dataset-missing", "labels-missing", "io-error"}
_SAVES = ("runs", "checkpoints", "save folder")
_WRITTEN = (*_SAVES, "temporary files", "working folder", "home")  # a full disk of data only is no matter
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
_OF_SIGNALS: dict[int, str] = {signal.SIGKILL: "killed", signal.SIGXCPU: "cpu-time-limit"}
_KINDS = {rule.name: rule.kind for rule in RULES}  # a rule that is not in the table is a user's: it names causes


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt died of, and what that is concluded from.

    `seen` is a line of its log (at `line`, 0 for what stands elsewhere) or a fact in words. `mark` is the same for two
    failures of the same kind at the same place, and empty where the place is not known. `first`: the steps that a
    user's own rule asks for before the cause's plan.
    """

    cause: Cause
    seen: str = ""
    line: int = 0
    place: str = ""
    mark: str = ""
    first: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        """What is tried, in this order; the last one is an end."""
        return (*self.first, *self.cause.steps)

    @property
    def named(self) -> bool:
        """True if the cause says more than the exit itself."""
        return self.cause.name not in {"unknown", "code-error", "killed", "terminated"}


def diagnose(run: Run, event: Examined) -> Diagnosis:
    """Why the attempt ended. `run` is as it was before the event; the answer depends on nothing else."""
    for find in _FINDERS:
        found = find(run, event)
        if found is not None:
            return _placed(found, event)
    return _placed(Diagnosis(cause=CAUSES["unknown"], seen=event.reason), event)


def of_cause(name: str, seen: str) -> Diagnosis:
    """A diagnosis that needs no evidence: what failed is known."""
    return Diagnosis(cause=cause_named(name), seen=seen)


def cause_named(name: str, means: str = "", fix: str = "") -> Cause:
    """The cause of the table; for a name that only a user's rule knows, one that is tried again as often as others."""
    known = CAUSES.get(name)
    if known is not None:
        return known
    title = name.replace("-", " ")
    fix = fix or f"ask who wrote the rule for {name} in the configuration; `fix` in that rule would say it here"
    return Cause(name=name, title=title, means=means, fix=fix, plan=CAUSES["unknown"].plan)


# ---- finders, the surest one first
def _ordered(run: Run, _event: Examined) -> Diagnosis | None:
    """We ended it ourselves, because it hung."""
    order = run.stop
    return of_cause(order.cause, order.seen or order.reason) if order is not None and order.cause else None


def _gpu_fault(run: Run, _event: Examined) -> Diagnosis | None:
    """The driver said that one of its GPUs failed: whatever the training said then only follows from it."""
    attempt = run.attempt
    if attempt is None or not attempt.gpu_fault or (attempt.ended_at or 0.0) - attempt.gpu_fault_at > GPU_FAULT_S:
        return None
    return of_cause(attempt.gpu_fault, attempt.gpu_text)


def _unmounted(_run: Run, event: Examined) -> Diagnosis | None:
    """Whatever it said: a file system that it needs is not mounted."""
    gone = event.evidence.unmounted
    return of_cause("mount-gone", f"{', '.join(gone)} not mounted") if gone else None


def _runner_code(run: Run, event: Examined) -> Diagnosis | None:
    """The runner's own codes; `input-missing` may be said more closely by a line of the log."""
    code = run.attempt.code if run.attempt is not None else None
    name = CODES.get(code or 0) if run.job.train is not None else None
    if name is None:
        return None
    sign = _first(event, "cause") if name == "input-missing" else None
    return signed(sign) if sign is not None else of_cause(name, event.reason)


def _out_of_memory(run: Run, event: Examined) -> Diagnosis | None:
    """The kernel's own count: a line about a killed worker only follows from it.

    It may count for other trainings that share a cgroup, so it decides only what it can explain.
    """
    if run.attempt is not None and run.attempt.oom_text:
        return of_cause("host-oom", run.attempt.oom_text)
    kills = event.evidence.oom_kills
    sign = _first(event, "cause") or _first(event, "echo")
    killed = run.attempt is not None and run.attempt.signal == signal.SIGKILL
    explains = sign.cause in _FOLLOWS_A_KILL if sign is not None else not event.evidence.error
    if not kills or not (killed or explains):
        return None
    of_kills = (line for line in event.evidence.kernel if "Killed process" in line or "oom-kill" in line)
    seen = next(of_kills, f"the out-of-memory killer struck {kills} times")
    return of_cause("host-oom", seen)


def _line(_run: Run, event: Examined) -> Diagnosis | None:
    sign = _first(event, "cause", weak=False) or _first(event, "alarm")
    return signed(sign) if sign is not None else None


def _warning(_run: Run, event: Examined) -> Diagnosis | None:
    sign = _first(event, "cause")
    return signed(sign) if sign is not None else None


def _missing(_run: Run, event: Examined) -> Diagnosis | None:
    """What it needs is gone, and its mount is there: it will not come back by itself."""
    sign, missing = _first(event, "cause"), event.evidence.missing
    if not missing:
        return None
    follows = sign.cause in _OF_DATA if sign is not None else "FileNotFoundError" in event.evidence.error
    return of_cause("dataset-missing", f"{', '.join(missing)} is gone") if follows else None


def _full_disk(run: Run, event: Examined) -> Diagnosis | None:
    """No room where it writes. What has another explanation counts only where its checkpoints go."""
    explained = bool(event.evidence.error) or (run.attempt is not None and run.attempt.signal is not None)
    for disk in event.evidence.disks:
        if not disk.what.startswith(_SAVES if explained else _WRITTEN):
            continue
        if disk.free_bytes < NO_ROOM_BYTES or disk.free_inodes == 0 or disk.quota_left_bytes == 0:
            return of_cause("disk-full", f"no room is left under {disk.path} ({disk.what})")
    return None


def _exception(_run: Run, event: Examined) -> Diagnosis | None:
    evidence = event.evidence
    if not evidence.error:
        return None
    where = f" ({evidence.site})" if evidence.site else ""
    found = of_cause("code-error", f"{evidence.error}{where}")
    return msgspec.structs.replace(found, line=evidence.error_line)


def _gpu_hint(run: Run, _event: Examined) -> Diagnosis | None:
    """The driver said that this program did something wrong on its GPU, and its log says nothing."""
    attempt = run.attempt
    if attempt is None or not attempt.gpu_hint or (attempt.ended_at or 0.0) - attempt.gpu_fault_at > GPU_FAULT_S:
        return None
    return of_cause(attempt.gpu_hint, attempt.gpu_text)


def _signal(run: Run, event: Examined) -> Diagnosis | None:
    number = run.attempt.signal if run.attempt is not None else None
    if number is None:
        return None
    name = _OF_SIGNALS.get(number, "native-crash" if number in _CRASHES else "terminated")
    shm = event.evidence.shm_free_bytes
    if number == signal.SIGBUS and shm is not None and shm < FULL_SHM_BYTES:
        return of_cause("shm-full", f"{words.signal_name(number)}, and {shm} bytes are left in /dev/shm")
    by = f", sent by {event.evidence.sender}" if event.evidence.sender else ""
    return of_cause(name, f"{words.signal_name(number)}{by}")


def _echo(_run: Run, event: Examined) -> Diagnosis | None:
    sign = _first(event, "echo")
    return signed(sign) if sign is not None else None


_FINDERS: tuple[Callable[[Run, Examined], Diagnosis | None], ...] = (
    _ordered, _gpu_fault, _unmounted, _missing, _runner_code, _out_of_memory, _line, _full_disk, _exception, _gpu_hint,
    _signal, _warning, _echo,
)  # fmt: skip


def _first(event: Examined, kind: str, *, weak: bool = True) -> Sign | None:
    of_kind = (sign for sign in event.evidence.signs if _KINDS.get(sign.rule, "cause") == kind)
    return next((sign for sign in of_kind if weak or not sign.weak), None)


def signed(sign: Sign) -> Diagnosis:
    """What a line of the log is a sign of; the step of a user's own rule comes before the plan."""
    first = expand(sign.remedy) if sign.remedy else ()
    cause = cause_named(sign.cause, sign.means, sign.fix)
    if sign.fix:
        cause = msgspec.structs.replace(cause, fix=sign.fix)
    return Diagnosis(cause=cause, seen=sign.line, line=sign.number, first=first)


# ---- where
def _placed(found: Diagnosis, event: Examined) -> Diagnosis:
    evidence = event.evidence
    place = f"epoch {evidence.epoch}" if evidence.epoch else evidence.phase
    if evidence.epoch and evidence.batch:
        place += f", batch {evidence.batch}"
    return msgspec.structs.replace(found, place=place, mark=_mark(found, event))


def _mark(found: Diagnosis, event: Examined) -> str:
    """An exception counts with where it was raised; anything else needs the exact batch to be no coincidence."""
    evidence = event.evidence
    if evidence.exact:
        return f"{found.cause.name}/{evidence.epoch}/{evidence.batch}/{evidence.site}"
    if found.cause.name == "code-error" and evidence.site:
        return f"{found.cause.name}/{evidence.epoch}/{evidence.site}"
    return ""
