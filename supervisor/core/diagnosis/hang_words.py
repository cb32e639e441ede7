"""A verdict about a training that stands still, in words: which cause, who is the odd one out, one sentence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from supervisor.core.diagnosis.cadence import BEFORE_TRAINING
from supervisor.core.diagnosis.waiting import MAIN, WORKER, Process, Stuck, who_is_stopped, who_waits
from supervisor.core.words import duration

HUNG, STOPPED, STORAGE, MOVING = "hung", "stopped", "storage", "moving"
_SPINNING_CPU = 0.2
#: In these kernel functions a process waits for another one's words.
_PIPE_WAITS = ("pipe_", "anon_pipe_", "unix_stream_", "do_poll", "do_sys_poll", "poll_schedule", "ep_poll", "do_select")
_LOADER_LINES = ("dataloader.py", "_get_data", "pin_memory")
_PHASES = {
    "start": "at its start",
    "scan": "while scanning the data set",
    "first": "before its first batch",
    "train": "while training batches",
    "val": "in the validation",
    "save": "while saving",
    "end": "at its end",
}


def cause_of(
    phase: str, processes: tuple[Process, ...], stacks: Mapping[int, str], *, lost_workers: int, alarm: str = ""
) -> str:
    """The cause in the table of causes that fits a hang in this phase."""
    if alarm:
        return alarm
    if lost_workers or _waits_for_worker(processes, stacks):
        return "hang-loader"
    if len(_ranks(processes)) > 1:
        return "hang-collective"
    return "hang-start" if phase in BEFORE_TRAINING else "hang"


def _waits_for_worker(processes: tuple[Process, ...], stacks: Mapping[int, str]) -> bool:
    """True if there are dataloader workers, one of them is stopped or a main process waits for them."""
    if not any(process.role == WORKER for process in processes):
        return False
    mains = [process for process in processes if process.role == MAIN]
    at_loader = any(line in stacks.get(process.pid, "") for process in mains for line in _LOADER_LINES)
    in_pipe = any(process.wchan.startswith(_PIPE_WAITS) for process in mains)
    return at_loader or in_pipe or any(process.is_stopped for process in processes if process.role == WORKER)


def odd_rank(processes: tuple[Process, ...], shares: Mapping[int, float], stacks: Mapping[int, str]) -> int | None:
    """The rank that does something else than all others: it waits while they spin, or stands elsewhere."""
    ranks = _ranks(processes)
    spins = {rank: shares.get(process.pid, 0.0) >= _SPINNING_CPU for rank, process in ranks.items()}
    places = {rank: stacks[process.pid] for rank, process in ranks.items() if process.pid in stacks}
    if len(ranks) == 2 and len(set(spins.values())) == 2:
        return next(rank for rank, spin in spins.items() if not spin)  # who spins waits for the other one
    return _alone(spins) if _alone(spins) is not None else _alone(places)


def _ranks(processes: Iterable[Process]) -> dict[int, Process]:
    return {process.rank: process for process in processes if process.role == MAIN and process.rank is not None}


def _alone(values: Mapping[int, object]) -> int | None:
    """The one key whose value no other has, where all others agree; of two nobody can say which."""
    counted = Counter(values.values())
    if len(counted) != 2 or len(values) < 3 or min(counted.values()) != 1:
        return None
    rare = min(counted, key=counted.__getitem__)
    return next(key for key, value in values.items() if value == rare)


def sentence(verdict: str, phase: str, quiet_s: float, limit_s: float, *, own_limit: bool = False) -> str:
    """What is seen, in words; `own_limit`: the job's own one (restart.hang_after) decides."""
    where = _PHASES.get(phase, "")
    still = f"{_STILL}{duration(quiet_s)}" + (f" {where}" if where else "")
    if verdict == HUNG:
        allowed = f"restart.hang_after allows {duration(limit_s)}" if own_limit else f"{duration(limit_s)} are usual"
        return f"{still} ({allowed})"
    return f"it moves again after {duration(quiet_s)}" if verdict == MOVING else still


_STILL = "nothing has moved for "
_STOOD = re.compile(rf"{_STILL}\d+ (?:s|min|h|d)(?: \d+ (?:min|h))?")


def aged(text: str, quiet_s: float) -> str:
    """A sentence as it reads later: with how long nothing has moved by now."""
    return _STOOD.sub(f"{_STILL}{duration(quiet_s)}", text, count=1)


def second_sign(signs: tuple[str, ...], alarm_line: str) -> str:
    """What else is seen of a hang, in words; nothing where the job's own limit was enough."""
    words = {
        "still": "processor time and I/O of the whole tree stand still",
        "same stacks": "its processes compute at the same lines, look after look",
        "alarm": f"its log says: {alarm_line}",
    }
    return ", ".join(words[sign] for sign in signs if sign in words)


def excuse(verdict: str, stuck: Stuck) -> str:
    """Why it is no hang."""
    return who_is_stopped(stuck) if verdict == STOPPED else who_waits(stuck)
