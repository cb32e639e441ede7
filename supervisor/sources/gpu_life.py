"""The life of the probe: started, ended when a call hangs, started without the GPU that hung, after a crash later."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from supervisor.machine import bounded
from supervisor.machine.pci import DEVICES, DRIVER, has_traces
from supervisor.sources.gpu_board import EVENT_WAIT_S, EVENTS, FIRST_GPU, MAIN
from supervisor.sources.gpu_child import Child
from supervisor.sources.gpu_listing import NAMELESS, Listing
from supervisor.sources.gpu_silence import THE_DRIVER, Silences

log = logging.getLogger("yolo-supervisor")

CRASHES, CRASHES_WITHIN_S = 3, 60.0
BACKOFF_MAX_S = 60.0
TRACES_S = 0.5
DOUBTFUL_S = 10.0  # how long a probe must have lived after crashes before it is believed that it is over


class Watching(msgspec.Struct, frozen=True, kw_only=True):
    """How GPUs are watched. Seconds: of the tiers, of the deadlines of calls, and until something is tried again.

    A GPU that hung is tried again when something about it changed, else after `retry_s`, then ever more seldom up to
    `retry_max_s`. `again_s`: how often a driver that cannot be used is asked anew. `backoff_s`: how long
    nothing is started after a first crash; it doubles with each. `off_s`: how long the probe stays
    away after `release` if nobody resumes it. `pci` and `driver` are folders of the kernel. `limits`: the tables of
    the configuration for a GPU, by its UUID; the last one counts most.
    """

    fast_s: float = 5.0
    slow_s: float = 60.0
    static_s: float = 3600.0
    fast_deadline_s: float = 15.0
    slow_deadline_s: float = 45.0
    retry_s: float = 30.0
    retry_max_s: float = 1800.0
    again_s: float = 60.0
    backoff_s: float = 1.0
    off_s: float = 180.0
    pci: Path = DEVICES
    driver: Path = DRIVER
    limits: Callable[[str], tuple[dict[str, Any], ...]] = lambda _uuid: ()

    @property
    def every_s(self) -> dict[str, float]:
        """Seconds between two readings of a tier."""
        return {"fast": self.fast_s, "slow": self.slow_s, "static": self.static_s}


class ProbeLife:
    """Keeps one probe running where there is something to watch. For one thread; no function waits over a second."""

    def __init__(
        self,
        watching: Watching,
        environment: Mapping[str, str],
        listing: Listing,
        on_state: Callable[[str, str], None],
        on_silent: Callable[[str, str], None],
    ) -> None:
        """`on_state` gets a state of the driver and details; `on_silent` a GPU that is left alone now, and why."""
        self._watching = watching
        self._environment = environment
        self._listing = listing
        self._on_state = on_state
        self._on_silent = on_silent
        self._silences = Silences(watching.retry_s, watching.retry_max_s)
        self.child: Child | None = None
        self._start_at = 0.0
        self._off_until: float | None = None
        self._crashes: deque[tuple[float, frozenset[int]]] = deque(maxlen=CRASHES)
        self._in_a_row = 0
        #: What the probe said of the driver as a whole: it tells why one ends that ends in order.
        self._last_word: dict[str, Any] | None = None
        self._blamed: dict[str, float] = {}
        self._doubted: set[str] = set()
        self._wants_events = True
        self._released: tuple[str, ...] = ()

    # ---- each turn
    def turn(self, now: float) -> None:
        """End what hangs, try again what the time has come for, start what should run."""
        if self.child is not None:
            self._look_at_board(self.child, now)
        for uuid in self._silences.over(now):
            self._watch_again(uuid)
        self._start_if_due(now)

    def lines(self) -> list[dict[str, Any]]:
        """Return what the probe has said. Its end is noticed here, after its last words."""
        child = self.child
        if child is None:
            return []
        code = child.ended()
        lines = child.lines()
        for line in lines:
            if line["say"] in {"driver", "recount"}:
                self._last_word = line
        if code is not None:
            self.child = None
            child.close()
            self._on_end(child, code, self._last_word)
        return lines

    def close(self) -> None:
        """End the probe; one that hangs is left."""
        if self.child is not None:
            self.child.end()
            self.child.close()
            self.child = None

    def opened(self) -> None:
        """The driver could be opened, or said why not: it does not hang there."""
        self._silences.end(THE_DRIVER)

    def is_doubtful(self) -> bool:
        """Tell whether the probe is so young after crashes that it cannot be said that they are over."""
        young = self.child is None or time.monotonic() - self.child.started_at < DOUBTFUL_S
        return self._in_a_row >= CRASHES and young

    def left(self) -> set[int]:
        """Return the indices of the GPUs that are left alone."""
        found = {self._listing.index(uuid) for uuid in self._silences.names()}
        return {index for index in found if index is not None}

    @property
    def stuck(self) -> int:
        """How many probes hang in the driver and cannot be ended."""
        return self._silences.stuck

    # ---- orders
    def order(self, what: str, **facts: Any) -> bool:
        """Give the probe an order; False if there is none."""
        return self.child is not None and self.child.order(what, **facts)

    def changed(self, uuid: str) -> None:
        """Something about a GPU changed: it may be tried again if it hung."""
        if self._silences.changed(uuid):
            self._watch_again(uuid)

    def anything_changed(self) -> None:
        """Try again all that hung; ask a driver at once that could not be used."""
        for uuid in self._silences.names():
            self.changed(uuid)
        if self.child is None and self._listing.state != "ok":
            self._start_at = min(self._start_at, time.monotonic())

    def answered(self, uuid: str) -> None:
        """A GPU answers."""
        self._silences.answered(uuid)
        if self._doubted:
            self._doubted.discard(uuid)

    def leave_alone(self, uuid: str) -> None:
        """Make no further call about a GPU until it is resumed."""
        self._silences.leave(uuid)
        index = self._listing.index(uuid)
        if index is not None:
            self.order("leave", index=index)

    def hung_before(self, uuid: str) -> None:
        """Leave a GPU alone as after a hang: an earlier life of the daemon ended while it did not answer."""
        self._silences.begin(uuid, None, time.monotonic())

    def release(self, uuids: tuple[str, ...]) -> bool:
        """End the probe and start none until `resume`, or until the patience is over.

        False if it hangs in the driver and cannot be ended: then the GPU in which it does is left alone, nothing else.
        `uuids` are to be treated: they are resumed with all others, even if they were left alone.
        """
        child, self.child = self.child, None
        gone = child is None or child.end()
        if child is not None:
            child.close()
        if child is not None and not gone:
            self._note_stuck(child)
            return False
        self._released = uuids
        self._off_until = time.monotonic() + self._watching.off_s
        return True

    def _note_stuck(self, child: Child) -> None:
        """A probe that should end hangs in a call: it is treated as if the call had taken too long."""
        busy = [(slot, call) for slot, call, _, _ in child.board.busy() if slot != EVENTS]
        slot, call = busy[0] if busy else (MAIN, "the end of the probe")
        self._start_at = time.monotonic()
        self._blame(slot, f"{call} hangs", child)

    def resume(self, uuids: tuple[str, ...]) -> None:
        """Watch again, also these GPUs if they were left alone."""
        self._off_until = None
        self._start_at = 0.0
        self._wants_events = True
        uuids, self._released = (*uuids, *self._released), ()
        for uuid in uuids:
            self._silences.end(uuid)
            self._watch_again(uuid)

    def _watch_again(self, uuid: str) -> None:
        index = self._listing.index(uuid)
        if index is not None:
            self.order("watch", index=index)

    # ---- begin and end
    def _start_if_due(self, now: float) -> None:
        if self._off_until is not None and now >= self._off_until:
            log.warning("nobody said that the treatment of the GPU is over: GPUs are watched again")
            self._off_until = None
        if self.child is not None or self._off_until is not None or now < self._start_at:
            return
        if not self._silences.driver_may_be_asked():
            return
        watching = self._watching
        self._start_at = now + watching.again_s
        if not self._has_traces():
            self._listing.begin(0, "none")
            self._on_state("none", "")
            return
        tiers = {f"{tier}_s": every_s for tier, every_s in watching.every_s.items()}
        options = {**tiers, "leave": sorted(self.left()), "events": self._wants_events}
        self._last_word = None
        self.child = Child(options, self._environment)

    def _has_traces(self) -> bool:
        """A look at folders of the kernel and of the linker: one that does not answer is of something that is there."""
        watching, path = self._watching, self._environment.get("LD_LIBRARY_PATH", "")
        try:
            return bounded.ask(f"traces {path}", partial(has_traces, watching.pci, watching.driver, path), TRACES_S)
        except OSError:
            return True

    def _on_end(self, child: Child, code: int, last: Mapping[str, Any] | None) -> None:
        """The probe ended by itself."""
        now = time.monotonic()
        if code == 0 and last is not None and last["say"] == "recount":
            self._start_at = now
        elif code == 0 and last is not None and last["state"] != "ok":
            self._start_at = now + self._watching.again_s
        else:
            self._on_crash(child, code, now)

    def _on_crash(self, child: Child, code: int, now: float) -> None:
        """Start anew, later each time. Where it is always the same GPU, that one is left alone."""
        busy = [(slot, call) for slot, call, _, _ in child.board.busy()]
        self._crashes.append((now, frozenset(slot for slot, _ in busy)))
        recent = [slots for at, slots in self._crashes if now - at <= CRASHES_WITHIN_S]
        self._in_a_row = self._in_a_row + 1 if now - child.started_at < CRASHES_WITHIN_S else 1
        self._start_at = now + min(BACKOFF_MAX_S, self._watching.backoff_s * 2 ** (self._in_a_row - 1))
        where = ", ".join(f"{call} of {_whose(slot)}" for slot, call in busy if slot != EVENTS) or "no call of a GPU"
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        log.warning("the probe of the GPUs ended %s in %s", how, where)
        guilty = frozenset.intersection(*recent) - {EVENTS}  # that one is always in a call
        names = [self._name(slot) for slot in guilty if slot >= FIRST_GPU]
        again = len(names) == 1 and self._silences.was_silent(names[0])
        if len(recent) < CRASHES and not again:
            return
        if not again:
            self._listing.state = "crashed"
            self._on_state("crashed", f"{len(recent)} times within a minute {how}, in {where}")
        if len(names) == len(guilty) == 1:
            call = next(call for slot, call in busy if slot in guilty)
            self._crashes.clear()
            self._in_a_row = 0
            self._start_at = now + self._watching.backoff_s
            self._silence(names[0], None, now, f"{call} brings down the library of the driver")

    # ---- what hangs
    def _look_at_board(self, child: Child, now: float) -> None:
        """End a probe in which a call takes too long. Others may wait for that call: only the longest is blamed."""
        watching = self._watching
        for slot, call, since, slow in child.board.busy():
            limit_s = watching.slow_deadline_s if slow else watching.fast_deadline_s
            if now - since < limit_s + (EVENT_WAIT_S if slot == EVENTS else 0.0):
                continue
            self.child = None
            gone = child.end()
            child.close()
            self._start_at = time.monotonic()
            self._blame(slot, f"{call} did not answer for {now - since:.0f} s", None if gone else child)
            return

    def _blame(self, slot: int, text: str, child: Child | None) -> None:
        """Leave alone what hangs. `child` is the probe that is still there, hung in the driver."""
        now = time.monotonic()
        if slot >= FIRST_GPU:
            self._doubt_others(self._name(slot), now)
            self._blamed[self._name(slot)] = now
            self._silence(self._name(slot), child, now, text)
        elif slot == EVENTS:
            log.warning("%s: the driver's events are not waited for any more", text)
            self._wants_events = False
        else:
            self._start_at = now + self._silences.of_driver(child, now)
            self._listing.state = "unresponsive"
            self._on_state("unresponsive", text)

    def _doubt_others(self, blamed: str, now: float) -> None:
        """Who was blamed a moment ago may only have waited for the one that hangs now too: it is tried again, once."""
        if blamed in self._doubted:
            return  # it was tried again and hangs: that says nothing of others
        moment_s = self._watching.fast_deadline_s + self._watching.slow_deadline_s
        for uuid in [uuid for uuid, at in self._blamed.items() if now - at <= moment_s and uuid not in self._doubted]:
            self._doubted.add(uuid)
            self._silences.changed(uuid)

    def _name(self, slot: int) -> str:
        index = slot - FIRST_GPU
        return self._listing.uuid_of(index) or f"{NAMELESS}{index}"

    def _silence(self, uuid: str, child: Child | None, now: float, text: str) -> None:
        self._silences.begin(uuid, child, now)
        stuck = "; the process that asked hangs in the kernel" if child is not None else ""
        self._on_silent(uuid, text + stuck)


def _whose(slot: int) -> str:
    return f"GPU {slot - FIRST_GPU}" if slot >= FIRST_GPU else "the driver"
