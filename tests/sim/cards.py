"""The GPUs of the simulated server: what happens to them, and what must never be done for it."""

from __future__ import annotations

from typing import Any

import msgspec
from folders import WrongError
from machine_room import MachineRoom

from supervisor.core import actions, events
from supervisor.core.gpus import xids
from supervisor.core.gpus.health import SIGN_S
from supervisor.core.gpus.model import GpuFacts, Holder
from supervisor.core.model import Phase
from supervisor.loop import Loop

COUNT = 2
STRANGER = Holder(pid=7, user="alice", used_bytes=5 << 30)
#: Findings that are no sign of a dead GPU, whatever comes with them.
HARMLESS = ("throttled", "too-hot", "ecc-rate", "remap-pending", "pcie-narrow", "unknown-error")
#: Xids that say that a GPU cannot go on; alone they end nothing.
ALARMING = (79, 62, 95, 119)
ENDING = tuple(number for number, row in xids.TABLE.items() if row.attempt == "end" and not row.by_severity)
OF_APPLICATIONS = (13, 31, 45, 43)


class Card(msgspec.Struct):
    """One GPU.

    `dead`: it really cannot go on; `dead_until`: when it last could not; `xid`: what the kernel log says of that;
    `released`: a person gave it out all the same. `source`: who says so although it can.
    """

    uuid: str
    index: int
    dead: bool = False
    dead_until: float = 0.0
    xid: int = 0
    released: bool = False
    source: str = ""
    held: bool = False
    findings: set[str] = set()

    def was_dead(self, since: float) -> bool:
        """True if it could not go on at some time since then."""
        return self.dead or self.dead_until >= since


class Cards:
    """The moves of GPUs; the other half is Simulation."""

    room: MachineRoom
    loop: Loop

    def now(self) -> float:
        """The clock of the loop."""
        raise NotImplementedError

    def _put(self, found: Any, how: int) -> None:
        raise NotImplementedError

    def seen(self, **more: Any) -> events.Event:
        """The driver's list of GPUs, as the probe of a new daemon tells it."""
        facts = tuple(GpuFacts(uuid=card.uuid, index=card.index, name="L40S") for card in self.room.cards)
        return events.GpusSeen(at=self.now(), **{"state": "ok", "gpus": facts, **more})

    def told_again(self, loop: Loop) -> list[events.Event]:
        """What the probe of a new daemon tells besides: what is so, and what is not so any more."""
        found: list[events.Event] = []
        for card in self.room.cards:
            known = loop.world.gpus[card.uuid].findings if card.uuid in loop.world.gpus else {}
            kinds = {one.kind for one in known.values()}
            found += [self._found(card, kind) for kind in sorted(card.findings - kinds)]
            found += [self._found(card, kind, is_open=False) for kind in sorted(kinds - card.findings)]
            signs = loop.world.gpus[card.uuid].signs if card.uuid in loop.world.gpus else ()
            fresh = [one for one in signs if self.now() - one.at < SIGN_S]
            if card.dead and not card.released and not fresh:  # a line that was not read yet
                found.append(events.XidSeen(at=self.now(), xid=card.xid, gpu=card.uuid, text="x"))
            found.append(events.GpuHeld(at=self.now(), gpu=card.uuid, holders=(STRANGER,) if card.held else ()))
        return found

    # ---- what happens
    def _move_card(self, pick: int, how: int) -> None:
        card = self.room.cards[pick % COUNT]
        kinds = (
            self._dies, self._is_doubted, self._warns, self._application_fails, self._stranger, self._well_again,
            self._ordered, self._driver,
        )  # fmt: skip
        kinds[how % len(kinds)](card, how // len(kinds))

    def _dies(self, card: Card, how: int) -> None:
        """Two sources say so, in either order."""
        if card.source:  # a second source would be true now: then it must be
            self._well_again(card, 0)
        card.dead, card.xid, card.released = True, ENDING[how % len(ENDING)], False
        xid = events.XidSeen(at=self.now(), xid=card.xid, gpu=card.uuid, text="x")
        lost = self._found(card, "lost")
        first, second = (xid, lost) if how % 2 else (lost, xid)
        self.loop.put(first)
        self.loop.put(second)

    def _is_doubted(self, card: Card, how: int) -> None:
        """One source says so, as often as it likes; it is not true."""
        if card.dead or card.source:
            return
        card.source = "kernel" if how % 2 else "nvml"
        for number in range(1 + how % 3):
            if card.source == "kernel":
                xid = ALARMING[(how + number) % len(ALARMING)]
                self.loop.put(events.XidSeen(at=self.now(), xid=xid, gpu=card.uuid, text="x"))
            else:
                self.loop.put(self._found(card, "lost"))

    def _warns(self, card: Card, how: int) -> None:
        kind = HARMLESS[how % len(HARMLESS)]
        self.loop.put(self._found(card, kind, is_open=kind not in card.findings))

    def _application_fails(self, card: Card, how: int) -> None:
        run = next((one for one in self.room.alive() if card.index in one.gpus), None)
        about = {"run": run.run, "attempt": run.number, "pid": run.pid} if run is not None else {}
        number = OF_APPLICATIONS[how % len(OF_APPLICATIONS)]
        self._put([events.XidSeen(at=self.now(), xid=number, gpu=card.uuid, text="x", **about)], how)

    def _stranger(self, card: Card, _how: int) -> None:
        card.held = not card.held
        self.loop.put(events.GpuHeld(at=self.now(), gpu=card.uuid, holders=(STRANGER,) if card.held else ()))

    def _well_again(self, card: Card, _how: int) -> None:
        """Nothing is wrong any more, and the probe says so. What the kernel log said is some time ago by then."""
        for kind in sorted(card.findings):
            self.loop.put(self._found(card, kind, is_open=False))
        self.room.now += 700.0
        card.dead_until = self.room.now if card.dead else card.dead_until
        card.dead, card.source = False, ""

    def _ordered(self, card: Card, how: int) -> None:
        what = ("drain", "undrain", "quarantine", "release", "test")[how % 5]
        card.released = card.released or what == "release"
        self.loop.put(events.GpuOrdered(at=self.now(), gpu=card.uuid, what=what, by="ann"))

    def _driver(self, _card: Card, how: int) -> None:
        state = ("version-mismatch", "crashed", "ok", "ok")[how % 4]
        self.loop.put(self.seen() if state == "ok" else self.seen(state=state, gpus=()))

    def _found(self, card: Card, kind: str, *, is_open: bool = True) -> events.Event:
        (card.findings.add if is_open else card.findings.discard)(kind)
        return events.GpuFound(at=self.now(), gpu=card.uuid, finding=kind, text="x", open=is_open)

    # ---- what must hold
    def check_cards(self) -> None:
        """No training is ended for a GPU that can go on."""
        for run in self.loop.world.live.values():
            order, attempt = run.stop, run.attempt
            if order is None or attempt is None or not order.of_gpu or order.reason in self.room.excused:
                continue
            since = attempt.started_at or 0.0  # what was told while the journal was broken is decided about later
            if not any(card.was_dead(since) for card in self.room.cards if card.uuid in attempt.gpu_ids):
                raise WrongError(f"{run.id} is ended for a GPU that can go on: {order.reason}")
            self.room.excused.add(order.reason)

    def check_the_dead(self) -> None:
        """Whoever runs on a GPU that two sources call dead is being ended."""
        for card in self.room.cards:
            if not card.dead or card.released:
                continue
            for run in self.loop.world.live.values():
                on_it = run.attempt is not None and card.uuid in run.attempt.gpu_ids
                if on_it and run.phase is Phase.RUNNING and run.stop is None:
                    raise WrongError(f"{run.id} runs on {card.uuid}, which is dead")

    def heal_cards(self) -> None:
        """Everything is mended, and a person gives all GPUs out again."""
        for card in self.room.cards:
            card.held = False
            self._well_again(card, 0)
            self.loop.put(events.GpuHeld(at=self.now(), gpu=card.uuid))
        self.loop.put(self.seen())
        for card in self.room.cards:
            for what in ("undrain", "release"):
                self.loop.put(events.GpuOrdered(at=self.now(), gpu=card.uuid, what=what, by="ann"))


def tested(room: MachineRoom, action: actions.TestGpu) -> tuple[events.Event, ...]:
    """The self-test tells the truth."""
    card = next(card for card in room.cards if card.uuid == action.gpu)
    on_it = [one.run for one in room.alive() if card.index in one.gpus]
    if on_it:
        raise WrongError(f"{action.gpu} is tested while {on_it} is on it")
    return (events.GpuTested(at=room.now, gpu=action.gpu, ok=not card.dead, text="tested"),)
