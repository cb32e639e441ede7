"""The judge of hangs, put before simulated trainings: how many healthy ones it would kill, how many hangs it sees."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from supervisor.core.diagnosis import hang, waiting
from supervisor.core.diagnosis.cadence import phase_of
from supervisor.core.diagnosis.hang import HangState, HangVerdict, Reading
from tests.sim.hang_room import DAY_S, HANGS, NEVER, Actor, Room, Stretch

LOOK_S = 10.0
#: A hang that nobody has seen by then is a missed one.
MISSED_S = 2 * DAY_S


@dataclass
class Figures:
    """What is counted."""

    run_days: float = 0.0
    looks: int = 0
    false: list[str] = field(default_factory=list)
    injected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HANGS, 0))
    delays_s: dict[str, list[float]] = field(default_factory=lambda: {what: [] for what in HANGS})
    named: dict[str, dict[str, int]] = field(default_factory=lambda: {what: {} for what in HANGS})
    told: dict[str, int] = field(default_factory=dict)


class Watch:
    """One training under the judge's eyes."""

    def __init__(self, seed: int, figures: Figures, hang_after_s: float | None = None) -> None:
        """Open a room of its own. `hang_after_s`: the job's own limit, which needs no second sign."""
        self.hang_after_s = hang_after_s
        self.room = Room(seed)
        self.chance = random.Random(seed + 1)
        self.figures = figures
        self.now = 0.0
        self.next_look = LOOK_S
        self.state = HangState()
        self.marks = count()
        self.mark = 0
        self.begun = False
        self.attempt = 0
        self.spent: list[list[float]] = []
        self.lines: list[int] = []
        self.begun_at = 0.0

    def run(self, days: float) -> None:
        """Let it train for so many days, then hang; count what is told."""
        end = days * DAY_S
        phase = "train"
        for stretch in self.room.healthy():
            if stretch.phase == "import":
                self._new_attempt()
            phase = stretch.phase
            cut = min(stretch.seconds, end - self.now)
            self._pass(stretch, cut)
            if self.now >= end:
                break
        self.figures.run_days += days
        self._hang(phase)

    def _new_attempt(self) -> None:
        """Another process, and what was learned of the job."""
        self.state = HangState(cadence=hang.ended(self.state))
        self.begun, self.attempt = False, self.attempt + 1

    def _hang(self, phase: str) -> None:
        what = self.chance.choice(self.room.possible_hangs())
        if what == "nccl spin" and phase in {"import", "setup", "scan"}:
            what = "futex"
        self.figures.injected[what] += 1
        self.state = self.state if self.state.told != "hung" else HangState(cadence=self.state.cadence)
        found = self._pass(self.room.hung(what, phase), MISSED_S, healthy=False)
        if found is not None:
            self.figures.delays_s[what].append(self.now - self.begun_at)
            named = self.figures.named[what]
            named[found.cause] = named.get(found.cause, 0) + 1

    # ---- a stretch, look by look
    def _pass(self, stretch: Stretch, seconds: float, *, healthy: bool = True) -> HangVerdict | None:
        self._move()  # a stretch begins with something that was done
        self.begun_at, end = self.now, self.now + seconds
        self.spent = [[0.0, 0.0] for _ in stretch.actors]
        self.lines = [0 for _ in stretch.actors]
        self.begun = self.begun or (stretch.phase == "train" and stretch.mark_s > 0)
        next_mark = self.now + stretch.mark_s if stretch.mark_s else NEVER
        found: HangVerdict | None = None
        while self.next_look <= end:
            self.now = self.next_look
            self.next_look += LOOK_S
            if next_mark <= self.now:
                self._move()
                next_mark += ((self.now - next_mark) // stretch.mark_s + 1) * stretch.mark_s
            found = self._look(stretch)
            if found is not None:
                self._count(found, stretch, healthy=healthy)
                if found.verdict == hang.HUNG and not healthy:
                    return found
        self.now = end
        return None

    def _move(self) -> None:
        self.mark = next(self.marks)

    def _look(self, stretch: Stretch) -> HangVerdict | None:
        kind = self.room.kind
        phase = phase_of(stretch.phase, has_beats=kind.has_beats, begun=self.begun)
        processes: tuple[waiting.Process, ...] = ()
        stacks = None
        workers = sum(actor.name == "worker" for actor in stretch.actors) if self.begun else 0
        if self.mark == self.state.mark:  # as the source does: who moves is not looked at
            self._work(stretch)
            processes = tuple(self._process(place, actor) for place, actor in enumerate(stretch.actors))
            wanted = hang.suspects(self.state)
            stacks = {pid: self._stack(pid, stretch.actors[pid - 1]) for pid in wanted} if wanted else None
        reading = Reading(
            phase=phase,
            mark=self.mark,
            processes=processes,
            stacks=stacks,
            workers=workers,
            hang_after_s=self.hang_after_s,
        )
        self.state, found = hang.judge(self.state, reading, self.now)
        self.figures.looks += 1
        return found

    def _work(self, stretch: Stretch) -> None:
        """Let the processes do what they do between two looks."""
        for place, actor in enumerate(stretch.actors):
            self.spent[place][0] += actor.cpu * LOOK_S * self.chance.uniform(0.5, 1.5)
            self.spent[place][1] += actor.io * LOOK_S * self.chance.uniform(0.5, 1.5)
            if actor.line_s < NEVER and self.chance.expovariate(1.0) * actor.line_s < LOOK_S:
                self.lines[place] = self.chance.randrange(10)

    def _process(self, place: int, actor: Actor) -> waiting.Process:
        waits = actor.waiting > 0 and self.chance.random() < actor.waiting
        cpu_s, io_bytes = self.spent[place]
        return waiting.Process(
            pid=place + 1,
            start_time=self.attempt,
            role=waiting.WORKER if actor.name == "worker" else waiting.MAIN,
            rank=actor.rank,
            cpu_s=cpu_s,
            io_bytes=int(io_bytes),
            state="D" if waits else "R" if actor.cpu > 0.5 else "S",
            wchan="folio_wait_bit_common" if waits else actor.sleeps_in,
        )

    def _stack(self, pid: int, actor: Actor) -> str:
        return f"line {self.lines[pid - 1]} of {actor.stands} in process {pid}"

    def _count(self, found: HangVerdict, stretch: Stretch, *, healthy: bool) -> None:
        told = self.figures.told
        told[found.verdict] = told.get(found.verdict, 0) + 1
        if healthy and found.verdict == hang.HUNG:
            self.figures.false.append(f"{stretch.phase} of {stretch.seconds:.0f} s: {found.signs} {found.text}")


def summary(figures: dict[str, Any]) -> str:
    """What was measured, in a few lines for a person."""
    lines = [
        f"{figures['run_days']:.0f} run-days, {figures['looks']} looks: {figures['false_kills']} false kills",
        f"{figures['seen']} of {figures['injected']} hangs seen ({figures['seen_share']:.2%})",
        f"delay p50 {figures['delay_p50_s']:.0f} s, p95 {figures['delay_p95_s']:.0f} s",
    ]
    for what, found in figures["by_kind"].items():
        lines.append(
            f"  {what}: {found['seen']} of {found['injected']}, p50 {found['delay_p50_s']:.0f} s, {found['causes']}"
        )
    return "\n".join(lines)


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def measure(run_days: int, seed: int = 1, *, days_each: int = 2, hang_after_s: float | None = None) -> dict[str, Any]:
    """Simulate so many days of healthy, slow trainings, each of which hangs at its end.

    Returns false kills and the share of hangs that were seen, with the delays (seconds) from hang to verdict.
    """
    begun, figures = time.perf_counter(), Figures()
    for number in range(max(1, run_days // days_each)):
        Watch(seed * 1_000_003 + number, figures, hang_after_s).run(days_each)
    delays = [delay for each in figures.delays_s.values() for delay in each]
    injected = sum(figures.injected.values())
    return {
        "run_days": figures.run_days,
        "looks": figures.looks,
        "false_kills": len(figures.false),
        "false_kills_at": figures.false,
        "injected": injected,
        "seen": len(delays),
        "seen_share": len(delays) / injected,
        "delay_p50_s": percentile(delays, 0.5),
        "delay_p95_s": percentile(delays, 0.95),
        "by_kind": {
            what: {
                "injected": figures.injected[what],
                "seen": len(figures.delays_s[what]),
                "delay_p50_s": percentile(figures.delays_s[what], 0.5),
                "causes": figures.named[what],
            }
            for what in HANGS
        },
        "verdicts": figures.told,
        "wall_s": round(time.perf_counter() - begun, 1),
    }
