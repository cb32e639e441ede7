"""Is a training hanging? Pure: readings go in, one verdict per change comes out.

Nothing that advances hangs. Hung is what has shown no progress for longer than its phase is used to (cadence.py), at
the end of two windows in a row, with a second sign that does not depend on the first: processor time and I/O of the
whole tree stand still for as long, or every process that computes stands at the same lines, look after look. Who is
stopped (SIGSTOP, a debugger, a frozen control group) or waits in the kernel for storage is named, never called hung.

Time counts only while somebody looks: a restart of the daemon, a suspended machine or a stepped clock makes nobody
quiet. `now` may be any clock that does not run backwards much.
"""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.core.diagnosis import hang_words, waiting
from supervisor.core.diagnosis.cadence import BATCH_FLOOR_S, FACTOR, INNER, START, Cadence
from supervisor.core.diagnosis.hang_words import HUNG, MOVING, STOPPED, STORAGE
from supervisor.core.diagnosis.waiting import Process

WINDOW_S = 30.0
WINDOWS = 2
#: Of the time between two looks so much counts at most.
STEP_MAX_S = 30.0
#: "About zero", of each process: timers, loggers and the watchdogs of workers never rest.
STILL_CPU = 0.05
STILL_IO_BYTES_PER_S = 2048.0
SPINNING_CPU = 0.2
#: Stacks that are the same for a moment prove nothing: a hot line is often met, and on a crowded machine a line may
#: take twenty seconds. So long, and at least this share of the limit: in the simulation 60 s, and later a quarter of
#: the limit, ended a healthy training that validated for long.
SAME_STACKS_S = 180.0
SAME_STACKS_SHARE = 1.0
SAMPLES = 5
#: After a line that says that nothing will ever come again.
ALARM_S = 60.0
_LONG_AGO_S = 1e9

_EXCUSED = frozenset({STOPPED, STORAGE})


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at one attempt.

    `phase` is a word of cadence.py. `mark` is anything that differs when the training has moved. `processes` is its
    tree, empty where nobody looked. `stacks` are the Python stacks by pid, when `suspects` asked for them. `alarm` is
    the cause that an alarm line at the end of the log names, `alarm_line` that line. `hang_after_s` is the job's own
    limit; 0.0: never. `workers` counts the dataloader's processes. `blind`: files could not be looked at in time.
    """

    phase: str
    mark: Any
    processes: tuple[Process, ...] = ()
    stacks: dict[int, str] | None = None
    alarm: str = ""
    alarm_line: str = ""
    hang_after_s: float | None = None
    workers: int = 0
    blind: bool = False


class HangVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told: see events.HangSeen."""

    verdict: str
    phase: str
    quiet_s: float = 0.0
    limit_s: float = 0.0
    signs: tuple[str, ...] = ()
    cause: str = "hang"
    text: str = ""


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """The time since the training last moved. Seconds count only while somebody looked.

    `still_s`: neither processor time nor I/O, `silent_s`: no I/O, up to now without a break. `late`: windows in a row
    at whose end it had been quiet for too long. `calm_s`: since a process was last seen waiting for storage.
    """

    quiet_s: float = 0.0
    base: tuple[Process, ...] = ()
    window_s: float = 0.0
    late: int = 0
    still_s: float = 0.0
    silent_s: float = 0.0
    stopped_s: float = 0.0
    waiting_s: float = 0.0
    calm_s: float = _LONG_AGO_S
    shares: dict[int, float] = {}
    stacks: dict[int, str] = {}
    same_s: float = 0.0
    samples: int = 0
    sampled_at_s: float = -_LONG_AGO_S


class HangState(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered between looks.

    `gap_s`: the longest gap of this phase so far, `whole`: it was seen from its beginning, and nothing excuses it;
    `sure`: so was the present gap.
    `told`: the verdict that stands. `workers`: the most that were seen.
    """

    cadence: Cadence = Cadence()
    factor: float = FACTOR
    at: float | None = None
    phase: str = START
    mark: Any = None
    gap_s: float = 0.0
    whole: bool = False
    sure: bool = False
    told: str = ""
    workers: int = 0
    quiet: Quiet = Quiet()


_CALM = Quiet()


def judge(state: HangState, reading: Reading, now: float) -> tuple[HangState, HangVerdict | None]:
    """The next state, and the verdict where it has changed."""
    step_s = 0.0 if state.at is None else min(max(now - state.at, 0.0), STEP_MAX_S)
    if reading.mark != state.mark or reading.phase != state.phase or state.at is None:
        return _moved(state, reading, now, step_s)
    stuck = waiting.look(reading.processes)
    if reading.blind and not (stuck.stopped or stuck.waiting):
        return msgspec.structs.replace(state, at=now), None
    quiet = _longer(state.quiet, reading, stuck, step_s)
    if _was_released(state, quiet):
        return _released(state, reading, now)
    limit_s = limit_of(state, reading)
    if quiet.window_s >= window_of(limit_s):
        quiet = _window_closed(quiet, reading, limit_s)
    after = msgspec.structs.replace(
        state,
        at=now,
        workers=max(state.workers, reading.workers),
        quiet=quiet,
    )
    found = _verdict(after, reading, limit_s)
    if found is None or found.verdict == state.told:
        return after, None
    whole = after.whole and found.verdict not in _EXCUSED
    return msgspec.structs.replace(after, told=found.verdict, whole=whole), found


def limit_of(state: HangState, reading: Reading) -> float:
    """How long this training may stand still now, in seconds."""
    return reading.hang_after_s or state.cadence.limit_s(state.phase, state.factor)


def window_of(limit_s: float) -> float:
    """The length of a window: shorter where a job's own limit is."""
    return min(WINDOW_S, limit_s / 4)


def suspects(state: HangState) -> tuple[int, ...]:
    """Whose Python stacks the next reading should have: of a training that seems to hang; mostly nobody's."""
    quiet = state.quiet
    excused = quiet.stopped_s or quiet.calm_s < WINDOW_S or state.told == HUNG
    if not quiet.late or excused or quiet.quiet_s - quiet.sampled_at_s < WINDOW_S - 1e-6:
        return ()
    busy = {pid for pid, share in quiet.shares.items() if share >= SPINNING_CPU}
    mains = {process.pid for process in quiet.base if process.role == waiting.MAIN}
    return tuple(sorted(busy | mains))


def ended(state: HangState) -> Cadence:
    """What is known when the attempt has ended well: its last phase is over."""
    if state.phase in INNER or not state.whole:
        return state.cadence
    return state.cadence.with_gap(state.phase, max(state.gap_s, state.quiet.quiet_s))


# ---- it moves
def _moved(state: HangState, reading: Reading, now: float, step_s: float) -> tuple[HangState, HangVerdict | None]:
    changed = reading.phase != state.phase
    after = HangState(
        cadence=_learned(state, step_s, phase_is_over=changed) if state.at is not None else state.cadence,
        factor=state.factor,
        at=now,
        phase=reading.phase,
        mark=reading.mark,
        gap_s=0.0 if changed else max(state.gap_s, state.quiet.quiet_s + step_s),
        whole=(changed and state.at is not None) or (state.whole and not changed),
        sure=state.at is not None,
        workers=max(state.workers, reading.workers),
        quiet=_CALM,
    )
    return after, _moving(state)


def _learned(state: HangState, step_s: float, *, phase_is_over: bool) -> Cadence:
    """Each gap between batches; of any other phase the longest one, which is all of it if nothing is told in between.

    What a debugger or a dead disk stretched teaches nothing.
    """
    if state.phase in INNER:
        if not state.sure or state.told in _EXCUSED:
            return state.cadence
        return state.cadence.with_gap(state.phase, state.quiet.quiet_s + step_s)
    if phase_is_over and state.whole:
        return state.cadence.with_gap(state.phase, max(state.gap_s, state.quiet.quiet_s + step_s))
    return state.cadence


def _moving(state: HangState) -> HangVerdict | None:
    if not state.told:
        return None
    quiet_s = state.quiet.quiet_s
    text = hang_words.sentence(MOVING, state.phase, quiet_s, 0.0)
    return HangVerdict(verdict=MOVING, phase=state.phase, quiet_s=quiet_s, text=text)


def _was_released(state: HangState, quiet: Quiet) -> bool:
    """True when it was stopped, or waited for storage for long, and now it is not."""
    before = state.quiet
    let_go = before.stopped_s > 0 and not quiet.stopped_s
    return let_go or (before.waiting_s >= WINDOW_S and not quiet.waiting_s)


def _released(state: HangState, reading: Reading, now: float) -> tuple[HangState, HangVerdict | None]:
    """It has all its time again: while it could not move it was not quiet."""
    workers = max(state.workers, reading.workers)
    after = msgspec.structs.replace(
        state,
        at=now,
        whole=False,
        sure=False,
        told="",
        workers=workers,
        quiet=_CALM,
    )
    return after, _moving(state) if state.told in _EXCUSED else None


# ---- it does not
def _longer(quiet: Quiet, reading: Reading, stuck: waiting.Stuck, step_s: float) -> Quiet:
    """The same time, one look later."""
    stacks = _sampled(quiet, reading, step_s)
    return msgspec.structs.replace(
        quiet,
        quiet_s=quiet.quiet_s + step_s,
        base=quiet.base or reading.processes,
        window_s=quiet.window_s + step_s if quiet.base else 0.0,
        stopped_s=quiet.stopped_s + max(step_s, 1e-9) if stuck.stopped else 0.0,
        waiting_s=quiet.waiting_s + step_s if stuck.waiting else 0.0,
        calm_s=0.0 if stuck.waiting else quiet.calm_s + step_s,
        **stacks,
    )


def _sampled(quiet: Quiet, reading: Reading, step_s: float) -> dict[str, Any]:
    """What a sample of stacks changes. One that lacks somebody proves nothing, and the next one begins anew."""
    if reading.stacks is None:
        return {}
    at_s = quiet.quiet_s + step_s
    if quiet.samples and reading.stacks == quiet.stacks:
        return {"samples": quiet.samples + 1, "same_s": quiet.same_s + at_s - quiet.sampled_at_s, "sampled_at_s": at_s}
    return {"stacks": reading.stacks, "samples": int(bool(reading.stacks)), "same_s": 0.0, "sampled_at_s": at_s}


def _window_closed(quiet: Quiet, reading: Reading, limit_s: float) -> Quiet:
    """Compare the processes with those at the window's beginning; the next window begins."""
    moved = waiting.between(quiet.base, reading.processes, quiet.window_s)
    io_bytes = moved.most_io_bytes
    silent = io_bytes is not None and io_bytes <= STILL_IO_BYTES_PER_S * quiet.window_s
    still = silent and moved.most_cpu <= STILL_CPU
    return msgspec.structs.replace(
        quiet,
        base=reading.processes,
        window_s=0.0,
        late=quiet.late + 1 if quiet.quiet_s > limit_s else 0,
        still_s=quiet.still_s + quiet.window_s if still else 0.0,
        silent_s=quiet.silent_s + quiet.window_s if silent else 0.0,
        shares=moved.shares,
    )


# ---- what it means
def _verdict(state: HangState, reading: Reading, limit_s: float) -> HangVerdict | None:
    if state.told == HUNG:
        return None
    quiet, both_s = state.quiet, WINDOWS * window_of(limit_s)
    if quiet.stopped_s >= both_s:
        return _told(state, reading, STOPPED, limit_s)
    if quiet.stopped_s:
        return None
    if quiet.waiting_s >= both_s and quiet.quiet_s >= min(BATCH_FLOOR_S, limit_s) and quiet.still_s >= both_s:
        return _told(state, reading, STORAGE, limit_s)
    if quiet.calm_s < both_s or reading.hang_after_s == 0.0:
        return None
    signs = _signs_of_hang(quiet, reading, limit_s)
    return _told(state, reading, HUNG, limit_s, signs) if signs else None


def _signs_of_hang(quiet: Quiet, reading: Reading, limit_s: float) -> tuple[str, ...]:
    """The signs that make a hang, each in a word; nothing where they do not suffice."""
    window_s = window_of(limit_s)
    if reading.alarm and min(quiet.quiet_s, quiet.still_s) >= min(ALARM_S, limit_s):
        return ("alarm", "still")
    if quiet.late < WINDOWS:
        return ()
    signs = ["quiet"]
    if quiet.still_s >= limit_s - window_s:  # the first window had some of the last movement
        signs.append("still")
    if _stands_at_the_same_lines(quiet, limit_s):
        signs.append("same stacks")
    if reading.hang_after_s:
        signs.append("hang_after")
    return tuple(signs) if len(signs) > 1 else ()


def _stands_at_the_same_lines(quiet: Quiet, limit_s: float) -> bool:
    """True if all that computes did not leave its lines for long, and nothing was read or written meanwhile."""
    seen = all(pid in quiet.stacks for pid, share in quiet.shares.items() if share >= SPINNING_CPU)
    long_s = max(SAME_STACKS_S, SAME_STACKS_SHARE * limit_s)
    return quiet.samples >= SAMPLES and seen and quiet.same_s >= long_s and quiet.silent_s >= WINDOWS * WINDOW_S


def _told(state: HangState, reading: Reading, verdict: str, limit_s: float, signs: tuple[str, ...] = ()) -> HangVerdict:
    quiet, processes = state.quiet, reading.processes
    lost = max(0, state.workers - reading.workers)
    alarm = reading.alarm if "alarm" in signs else ""
    return HangVerdict(
        verdict=verdict,
        phase=state.phase,
        quiet_s=quiet.quiet_s,
        limit_s=limit_s,
        signs=signs or (verdict,),
        cause=hang_words.cause_of(state.phase, processes, quiet.stacks, lost_workers=lost, alarm=alarm),
        text="; ".join(_parts(state, reading, verdict, limit_s, signs)),
    )


def _parts(state: HangState, reading: Reading, verdict: str, limit_s: float, signs: tuple[str, ...]) -> list[str]:
    """The parts of the sentence that tells a verdict."""
    quiet, lost = state.quiet, state.workers - reading.workers
    own_limit = "hang_after" in signs
    parts = [hang_words.sentence(verdict, state.phase, quiet.quiet_s, limit_s, own_limit=own_limit)]
    if verdict in _EXCUSED:
        return [*parts, hang_words.excuse(verdict, waiting.look(reading.processes))]
    parts += filter(None, [hang_words.second_sign(signs, reading.alarm_line)])
    odd = hang_words.odd_rank(reading.processes, quiet.shares, quiet.stacks)
    if odd is not None:
        parts.append(f"rank {odd} does something else than all others")
    if lost > 0:
        parts.append(f"{lost} of {state.workers} dataloader workers are gone")
    return parts
