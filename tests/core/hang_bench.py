"""One training before the judge of hangs: a clock, processes that a test sets, and the verdicts that were told."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core.diagnosis import hang
from supervisor.core.diagnosis.cadence import Cadence
from supervisor.core.diagnosis.hang import HangState, Reading
from supervisor.core.diagnosis.waiting import MAIN, WORKER, Process

LOOK_S = 10.0


def history(phase="train", gap_s=1.0, times=100):
    """What a job has learned whose gaps all were alike."""
    found = Cadence()
    for _ in range(times):
        found = found.with_gap(phase, gap_s)
    return found


def main(pid=1, **fields):
    """A process that trains."""
    return Process(**{"pid": pid, "start_time": 1, "cpu_s": 0.0, "io_bytes": 0, "role": MAIN, **fields})


def worker(pid, **fields):
    """A process that loads images."""
    return main(pid, role=WORKER, **fields)


class Bench:
    """Looks every ten seconds. `cpu`, `io`: cores and bytes per second by pid."""

    def __init__(self, *processes, phase="train", known=None, **reading):
        self.processes = processes or (main(),)
        self.state = HangState(cadence=history() if known is None else known)
        self.now = 1000.0
        self.phase, self.mark, self.reading = phase, 0, reading
        self.cpu, self.io, self.stack = {}, {}, {}
        self.told = []
        self.asked = 0
        self.move()
        self.look()

    def move(self):
        """Let the training show that it moves."""
        self.mark += 1

    def look(self, step_s=LOOK_S, blind=False):
        """Let time pass and the judge look once."""
        self.now += step_s
        self.processes = tuple(
            replace(
                process,
                cpu_s=process.cpu_s + self.cpu.get(process.pid, 0.0) * step_s,
                io_bytes=None
                if process.io_bytes is None
                else process.io_bytes + int(self.io.get(process.pid, 0) * step_s),
            )
            for process in self.processes
        )
        wanted = hang.suspects(self.state)
        self.asked += bool(wanted)
        stacks = {pid: self.stack[pid] for pid in wanted if self.stack.get(pid)} if wanted else None
        reading = Reading(
            phase=self.phase,
            mark=self.mark,
            processes=self.processes,
            stacks=stacks,
            workers=sum(process.role == WORKER for process in self.processes),
            blind=blind,
            **self.reading,
        )
        self.state, found = hang.judge(self.state, reading, self.now)
        if found is not None:
            self.told.append(found)
        return found

    def set(self, pid, **fields):
        """Change one process."""
        self.processes = tuple(replace(one, **fields) if one.pid == pid else one for one in self.processes)

    def gone(self, pid):
        """One process is no more."""
        self.processes = tuple(one for one in self.processes if one.pid != pid)

    def stand_still(self, seconds, until=None):
        """Look for so long without a movement, or until a verdict; return the seconds that passed."""
        begun = self.now
        while self.now - begun < seconds:
            found = self.look()
            if until is not None and found is not None and found.verdict == until:
                break
        return self.now - begun

    @property
    def verdicts(self):
        """The verdicts that were told, in order."""
        return [found.verdict for found in self.told]
