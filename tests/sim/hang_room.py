"""Trainings as a machine shows them, for whoever judges whether they hang: healthy ones, slow ones, hung ones.

Made from what trainings do (see the discriminator of GPU monitoring: who computes, who reads, who waits, in which
phase), with heavy tails: stalls and phases follow Pareto's law with alpha 1.5, label scans on NFS take two hours,
a validation takes twenty times as long as the others. Nothing here knows how anybody detects a hang: this module
imports only the standard library.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

DAY_S = 86400.0
ALPHA = 1.5
NEVER = math.inf
#: A TCP connection to a host that does not answer is given up after this long (Linux, six retries).
CONNECT_S = 127.0
#: Where the Python of a main process stands that waits for its workers.
LOADER = "torch/utils/data/dataloader.py _try_get_data"
HANGS = ("loader deadlock", "dead worker", "futex", "nccl spin")


@dataclass(frozen=True)
class Actor:
    """One process: cores and bytes per second that it uses, how it waits, how long its stack stays the same.

    `waiting` is the share of looks that find it in an uninterruptible wait; `line_s` is a mean.
    """

    name: str
    rank: int | None = None
    cpu: float = 0.0
    io: float = 0.0
    waiting: float = 0.0
    sleeps_in: str = ""
    line_s: float = NEVER
    stands: str = "compute"


@dataclass(frozen=True)
class Stretch:
    """A time in which a training behaves alike. `mark_s`: so often it shows that it moved (0: not before the end)."""

    phase: str
    seconds: float
    actors: tuple[Actor, ...]
    mark_s: float = 0.0


@dataclass(frozen=True)
class Kind:
    """What a training is like, drawn once. Times in seconds, rates per second."""

    batch_s: float
    epoch_s: float
    validation_s: float
    scan_s: float
    stall_every_s: float
    stall_s: float
    ranks: int
    workers: int
    cached: bool
    remote: bool
    has_beats: bool
    validates_alone: bool
    attempt_s: float


def pareto(chance: random.Random, least: float) -> float:
    """A time of at least `least`; every tenfold time is 32 times as rare."""
    return least * chance.paretovariate(ALPHA)


def around(chance: random.Random, middle: float, spread: float = 0.6) -> float:
    """A time around `middle`."""
    return chance.lognormvariate(math.log(middle), spread)


def draw_kind(chance: random.Random) -> Kind:
    """A training: small or large, on a fast disk or on NFS, on one GPU or on eight."""
    remote = chance.random() < 0.5
    return Kind(
        batch_s=around(chance, 0.4, 1.2),
        epoch_s=around(chance, 600.0, 1.2),
        validation_s=around(chance, 90.0, 1.2),
        scan_s=pareto(chance, 1200.0 if remote else 20.0),
        stall_every_s=around(chance, 1800.0 if remote else 7200.0, 0.8),
        stall_s=around(chance, 10.0 if remote else 3.0),
        ranks=chance.choice((1, 1, 1, 2, 4, 8)),
        workers=chance.choice((0, 2, 2, 2)),
        cached=chance.random() < 0.3,
        remote=remote,
        has_beats=chance.random() < 0.8,
        validates_alone=chance.random() < 0.3,
        attempt_s=around(chance, 2 * DAY_S, 1.0),
    )


class Room:
    """One training's days."""

    def __init__(self, seed: int) -> None:
        """Draw what it is like."""
        self.chance = random.Random(seed)
        self.kind = draw_kind(self.chance)

    def healthy(self) -> Iterator[Stretch]:
        """The stretches of a healthy training without end, with its restarts: `import` begins an attempt."""
        while True:
            yield from self._start()
            left_s = self.kind.attempt_s
            while left_s > 0:
                for stretch in self._epoch():
                    left_s -= stretch.seconds
                    yield stretch
            yield from self._end()

    # ---- phases
    def _start(self) -> Iterator[Stretch]:
        chance, kind = self.chance, self.kind
        yield Stretch("import", around(chance, 15.0), self._mains(cpu=0.9, io=3e6, line_s=0.5))
        if chance.random() < 0.2:  # no network: downloads are tried again and again
            waits = chance.randint(1, 6) * CONNECT_S
            yield Stretch("setup", waits, self._mains(cpu=0.001, sleeps_in="inet_wait_for_connect"))
        scan_s = kind.scan_s * chance.uniform(0.7, 1.5)
        if kind.remote and chance.random() < 0.3:
            scan_s = chance.uniform(1.5, 2.5) * 3600.0
        yield from self._scan(scan_s)
        yield Stretch("train", pareto(chance, 3.0), self._mains(cpu=1.0, io=2e4, line_s=4.0))

    def _scan(self, seconds: float) -> Iterator[Stretch]:
        """Reading every label: a pool of threads, with a progress bar in the log or without, with stalls."""
        chance = self.chance
        bar_s = chance.choice((0.0, around(chance, 5.0)))
        rate = 10 ** chance.uniform(4.3, 7.0)
        busy = self._mains(cpu=chance.uniform(0.08, 2.0), io=rate, line_s=2.0, waiting=0.7 if self.kind.remote else 0.1)
        while seconds > 0:
            part = min(seconds, around(chance, 900.0))
            yield Stretch("scan", part, busy, mark_s=bar_s)
            seconds -= part
            if seconds > 0 and self.kind.remote:
                yield Stretch("scan", pareto(chance, 2.0), self._mains(cpu=0.002, waiting=1.0))

    def _epoch(self) -> Iterator[Stretch]:
        chance, kind = self.chance, self.kind
        left_s = kind.epoch_s * chance.uniform(0.8, 1.25)
        while left_s > 0:
            part = min(left_s, chance.expovariate(1 / kind.stall_every_s))
            yield Stretch("train", part, self._training(), mark_s=kind.batch_s)
            left_s -= part
            if left_s > 0:
                yield self._stall()
        yield from self._validation()
        yield Stretch("save", pareto(chance, 0.5), self._mains(cpu=0.3, io=5e7, waiting=0.5))

    def _stall(self) -> Stretch:
        """A batch that comes late: slow files, a server that is away, heavy augmentation, a crowded machine."""
        chance, kind = self.chance, self.kind
        seconds = pareto(chance, kind.stall_s)
        what = chance.choice(("slow", "away", "augment", "crowded") if kind.remote else ("augment", "crowded"))
        at_loader = {"cpu": 0.003, "sleeps_in": chance.choice(("do_poll", "futex_wait_queue")), "stands": LOADER}
        if what == "slow":
            reading = {"cpu": 0.03, "io": 10 ** chance.uniform(4.5, 6.5), "waiting": 0.6}
            return Stretch("train", seconds, self._team(at_loader if kind.workers else reading, reading))
        if what == "away":
            where = chance.choice(("D", "request_wait_answer", "wait_woken"))
            gone = {"waiting": 1.0} if where == "D" or not kind.workers else {"sleeps_in": where}
            return Stretch("train", seconds, self._team(at_loader if kind.workers else gone, gone))
        if what == "augment":
            busy = {"cpu": chance.uniform(0.5, 1.0), "line_s": chance.uniform(0.3, 4.0)}
            return Stretch("train", seconds, self._team(at_loader if kind.workers else busy, busy))
        slow = {"cpu": chance.uniform(0.1, 0.4), "line_s": chance.uniform(1.0, 20.0)}
        return Stretch("train", seconds, self._team(slow, {**slow, "io": 1e4}))

    def _validation(self) -> Iterator[Stretch]:
        """Inference, then metrics, then plots. Sometimes it takes twenty times as long."""
        chance, kind = self.chance, self.kind
        seconds = kind.validation_s * chance.uniform(0.8, 1.3)
        if chance.random() < 0.02:
            seconds *= 20
        if chance.random() < 0.05:
            seconds = pareto(chance, seconds)
        rate = 0.0 if kind.cached else 10 ** chance.uniform(5.0, 7.5)
        infer = {"cpu": chance.uniform(0.4, 1.2), "line_s": chance.uniform(0.5, 8.0)}
        load = {"cpu": chance.uniform(0.2, 1.0), "io": rate, "waiting": 0.3, "line_s": chance.uniform(0.3, 4.0)}
        compute = {"cpu": 1.0, "line_s": chance.uniform(2.0, 25.0)}
        plot = {"cpu": 0.9, "io": 3e4, "line_s": 3.0}
        for share, leader, workers in ((0.6, infer, load), (0.3, compute, {}), (0.1, plot, {})):
            yield Stretch("val", seconds * share, self._team(leader, workers, alone=kind.validates_alone))

    def _end(self) -> Iterator[Stretch]:
        chance = self.chance
        yield Stretch("end", around(chance, 20.0), self._mains(cpu=0.5, io=2e7, waiting=0.5))
        yield Stretch("end", pareto(chance, self.kind.validation_s), self._mains(cpu=1.0, io=1e5, line_s=5.0))

    # ---- processes
    def _training(self) -> tuple[Actor, ...]:
        return self._team(
            {"cpu": 0.6, "line_s": 0.3}, {"cpu": 0.7, "io": 0.0 if self.kind.cached else 5e6, "line_s": 0.3}
        )

    def _mains(self, **leader: float | str) -> tuple[Actor, ...]:
        return self._team(dict(leader), {})

    def _team(
        self, leader: dict[str, float | str], workers: dict[str, float | str], *, alone: bool = False
    ) -> tuple[Actor, ...]:
        """All processes. `alone`: only rank 0 works, the others spin in a collective until it comes."""
        kind = self.kind
        actors = []
        for rank in range(kind.ranks):
            waits = {"cpu": 1.0} if alone and rank else leader
            number = rank if kind.ranks > 1 else None
            actors.append(replace(Actor("main", number), **waits))  # type: ignore[arg-type]
            actors += [replace(Actor("worker", number), **workers) for _ in range(kind.workers)]  # type: ignore[arg-type]
        return tuple(actors)

    # ---- what hangs
    def possible_hangs(self) -> tuple[str, ...]:
        """The hangs that a training of this kind can have."""
        kind = self.kind
        loader = HANGS[:2] if kind.workers else ()
        return (*loader, "futex", *(("nccl spin",) if kind.ranks > 1 else ()))

    def hung(self, what: str, phase: str) -> Stretch:
        """A training that will not move again, with the little noise that hung ones make."""
        chance, kind = self.chance, self.kind
        timers = chance.choice((0.0, 0.001, 0.01))
        noise = chance.choice((0.0, 0.0, 300.0))
        asleep = {"cpu": timers, "io": noise, "sleeps_in": "futex_wait_queue"}
        if what == "nccl spin":
            actors = list(self._team({"cpu": chance.uniform(0.9, 1.05), "io": noise}, {"cpu": timers}))
            if chance.random() < 0.5:
                odd = chance.randrange(kind.ranks) * (1 + kind.workers)
                actors[odd] = replace(actors[odd], cpu=0.0, sleeps_in="futex_wait_queue")
            return Stretch(phase, NEVER, tuple(actors))
        if what == "futex":
            return Stretch(phase, NEVER, self._team(asleep, {**asleep, "io": 0.0}))
        sleeps_in = chance.choice(("do_poll", "unix_stream_data_wait", "futex_wait_queue"))
        at_loader = {**asleep, "sleeps_in": sleeps_in, "stands": LOADER}
        team = self._team(
            at_loader, {"cpu": timers / 10, "sleeps_in": chance.choice(("pipe_read", "futex_wait_queue"))}
        )
        if what == "dead worker":
            place = next(number for number, actor in enumerate(team) if actor.name == "worker")
            team = (*team[:place], *team[place + 1 :])
        return Stretch(phase, NEVER, team)
