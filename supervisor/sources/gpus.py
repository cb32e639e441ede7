"""What the GPUs do: runs the probe (sources.gpu_probe), survives whatever happens to it, and tells what it found.

The only thread here never calls NVML. It reads the probe's lines and looks at its board: a call that takes too long is
told by name, that GPU is left alone from then on, and another probe watches the rest.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from supervisor.clock import Clock, uptime_s, wait_for_boot
from supervisor.core.events import Event, GpusSeen
from supervisor.core.gpus import xids
from supervisor.core.gpus.model import GpuFacts, Holder
from supervisor.core.gpus.readings import LOST, UNKNOWN, Reading
from supervisor.core.model import World
from supervisor.machine import bounded, pci
from supervisor.machine.gpu_processes import Ours
from supervisor.sources.gpu_book import ORIGIN, Book
from supervisor.sources.gpu_driver import described, uptime_warning
from supervisor.sources.gpu_life import ProbeLife, Watching
from supervisor.sources.gpu_listing import NAMELESS, Listing
from supervisor.sources.gpu_probe_calls import NO_PERMISSION, OPERATING_SYSTEM, XID_EVENT
from supervisor.sources.gpu_record import Processes, Record
from supervisor.sources.rounds import Safely

log = logging.getLogger("yolo-supervisor")

PATIENT_S = 1.0
STOP_S = 5.0
BUS_S = 2.0  # a look at the bus asks devices, and one of them may not answer


class GpuSource:
    """Reports GpusSeen, GpuFound, GpuHeld and the Xids that NVML tells of. Its public functions are for any thread."""

    def __init__(
        self,
        watching: Watching,
        put: Callable[[Event], None],
        world: Callable[[], World],
        clock: Clock,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` is the probe's, by default this process's own."""
        self._watching = watching
        self._put = put
        self._world = world
        self._clock = clock
        self._listing = Listing(world)
        self._book = Book(watching, put, world, clock, self._listing.facts)
        given = dict(os.environ if environment is None else environment)
        self._life = ProbeLife(watching, given, self._listing, self._tell, self._on_silent)
        self._known: set[str] = set()
        self._early: list[Callable[[], None]] = []
        self._told: GpusSeen | None = None
        self._bus: dict[str, pci.Slot] = {}
        self._bus_at = 0.0
        self._count_at = 0.0
        self._requests: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._answers: dict[int, tuple[bool, str]] = {}
        self._number = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = threading.Event()
        self._safely = Safely("watching GPUs")
        self._thread = threading.Thread(target=self._work, name="gpus", daemon=True)

    # ---- from other threads
    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watching. A probe that hangs in the driver is not waited for."""
        self._stopping.set()
        self._wake()
        self._thread.join(STOP_S)

    def look_now(self, uuid: str | None = None) -> None:
        """Have a GPU (or all) read anew at once, with everything that is known about it; the bus too.

        One that was left alone because a call hung is tried again: something about it has changed.
        """
        self._request(partial(self._look_now, uuid))

    def ask(self, uuid: str, within_s: float) -> Reading | None:
        """Read a GPU anew and return everything; None if it did not answer within so long. Waits: not for the loop."""
        record = self._book.get(uuid)
        fast, slow = (record.fast_at, record.slow_at) if record is not None else (None, None)
        self.look_now(uuid)

        def is_new() -> bool:
            new = self._book.get(uuid)
            return new is not None and new.fast_at not in {None, fast} and new.slow_at not in {None, slow}

        with self._changed:
            if not self._changed.wait_for(is_new, within_s):
                return None
        return self._book.readings().get(uuid)

    def readings(self) -> dict[str, Reading]:
        """The newest reading of each GPU by its UUID, with the values of all tiers; what is too old is Stale."""
        return self._book.readings()

    def processes(self, uuid: str) -> Processes:
        """Pid and bytes in use (None: not told) of each process on a GPU, as last read."""
        record = self._book.get(uuid)
        return record.processes if record is not None else ()

    def graphics(self, uuid: str) -> Processes:
        """The same of the processes that only draw."""
        record = self._book.get(uuid)
        return record.graphics if record is not None else ()

    def owner(self, pid: int) -> Ours | Holder | None:
        """Whose a process is or was that was seen on a GPU; None if it was seen on none."""
        return self._book.processes.remembered(pid)

    @property
    def probe_pid(self) -> int:
        """The process number of the running probe; 0 if none runs."""
        child = self._life.child
        return child.pid if child is not None else 0

    def release(self, uuids: tuple[str, ...] = ()) -> bool:
        """Close NVML, for a reset of these GPUs; True when it is closed. Ends by `resume`, at the latest after a while.

        NVML is closed as a whole, so that no GPU is watched meanwhile.
        """
        log.info("GPUs are not watched while %s is treated", ", ".join(uuids) or "the driver")
        done: list[bool] = []
        self._request(lambda: done.append(self._life.release(uuids)))
        with self._changed:
            return self._changed.wait_for(lambda: bool(done), STOP_S) and done[0]

    def resume(self, uuids: tuple[str, ...] = ()) -> None:
        """Watch again; these GPUs, and those that were released, also if they were left alone."""
        self._request(partial(self._life.resume, uuids))

    def leave_alone(self, uuid: str) -> None:
        """Make no further call about a GPU until `resume`: its firmware answers nobody."""
        self._request(partial(self._life.leave_alone, uuid))

    def set_power(self, uuid: str, watts: float | None) -> tuple[bool, str]:
        """Limit the power of a GPU, within what the board allows; None: its default. What was set, or why not."""
        with self._changed:
            self._number += 1
            number = self._number
        self._request(partial(self._order_power, number, uuid, watts))
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._answers, self._watching.fast_deadline_s):
                return False, "the driver did not answer"
            return self._answers.pop(number)

    def _request(self, what: Callable[[], None]) -> None:
        self._requests.append(what)
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            return  # a full pipe wakes as well

    # ---- the thread
    def _work(self) -> None:
        self._safely(self._remember)
        while not self._stopping.is_set():
            self._safely(self._turn)
            self._wait()
        self._life.close()

    def _turn(self) -> None:
        now = time.monotonic()
        if not self._known:
            self._known = {gpu.uuid for gpu in self._world().gpus.values() if gpu.present}
        while self._requests:
            self._requests.popleft()()
            with self._changed:
                self._changed.notify_all()
        for line in self._life.lines():
            _HEARD[line["say"]](self, line)
        self._book.tell_totals()
        if now >= self._bus_at:
            self._bus_at = now + self._watching.slow_s
            self._look_at_bus()
            self._book.processes.forget_the_dead()
        if now >= self._count_at:
            self._count_at = now + self._watching.slow_s
            self._life.order("count")
            self._list()
        elif self._told is not None and self._told.state != "ok":
            self._list()
        self._life.turn(now)

    def _remember(self) -> None:
        """Leave alone what an earlier life of the daemon left alone, in this boot."""
        if self._world().gpus:
            wait_for_boot(self._world, self._stopping)
        for uuid in self._listing.silent_before():
            self._life.leave_alone(uuid)
        for uuid in self._listing.hung_before():
            self._life.hung_before(uuid)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self._life.child is not None:
            poll.register(self._life.child.lines_fd, select.POLLIN)
        patience_s = min(PATIENT_S, self._watching.fast_deadline_s / 4, self._watching.again_s)
        if self._wake_read in {descriptor for descriptor, _ in poll.poll(patience_s * 1000)}:
            try:
                while os.read(self._wake_read, 4096):
                    pass
            except BlockingIOError:
                return

    # ---- what is asked of us
    def _look_now(self, uuid: str | None) -> None:
        self._bus_at = 0.0
        if uuid is None:
            self._count_at = 0.0
            self._life.anything_changed()
        else:
            self._life.changed(uuid)
        self._life.order("look", gpu=uuid)

    def _order_power(self, number: int, uuid: str, watts: float | None) -> None:
        if not self._life.order("power", id=number, gpu=uuid, watts=watts):
            self._answers[number] = (False, "GPUs are not watched now")

    # ---- what the probe says
    def _on_driver(self, line: Mapping[str, Any]) -> None:
        self._early.clear()
        self._listing.begin(line["count"], line["state"], line["version"])
        self._life.opened()
        if line["state"] == "ok":
            self._list()
        else:
            self._tell(line["state"], line["text"])

    def _on_card(self, line: Mapping[str, Any]) -> None:
        index, facts = line["index"], line.get("facts")
        if facts is not None:
            self._listing.answered(index, facts, self._bus)
        else:
            uuids_by_driver = partial(pci.of_driver, pci.uuids_by_driver, self._watching.driver, dict[str, str]())
            self._listing.refused(index, line["error"][0], self._bus, uuids_by_driver)
            self._early.append(partial(self._take_refusal, index, *line["error"]))
        self._list()

    def _on_reading(self, line: Mapping[str, Any]) -> None:
        self._when_listed(line["gpu"], partial(self._take_reading, line))

    def _when_listed(self, uuid: str, what: Callable[[], None]) -> None:
        """Do it when the GPU was told of: nobody knows what to do with news of a GPU that nobody knows."""
        if uuid in self._known:
            what()
        else:
            self._early.append(what)

    def _take_refusal(self, index: int, code: int, name: str) -> None:
        """Whose handle it was is known only when all others have answered."""
        uuid = self._listing.uuid_of(index)
        if uuid:
            self._answered(self._book.refuse(uuid, code, name))

    def _take_reading(self, line: Mapping[str, Any]) -> None:
        self._answered(self._book.take(line))

    def _on_silent(self, uuid: str, text: str) -> None:
        """The probe's life goes on without this GPU: one without a name is known by its index alone."""
        if uuid.startswith(NAMELESS):
            log.warning("GPU %s: %s", uuid.removeprefix(NAMELESS), text)
        else:
            self._when_listed(uuid, partial(self._book.open, uuid, "unresponsive", "nvml", text))
        self._list()

    def _answered(self, record: Record) -> None:
        """It answered, if only with an error: it does not hang any more. An error of the whole is asked of the bus."""
        uuid = record.facts.uuid
        self._life.answered(uuid)
        self._book.close(uuid, "unresponsive", "nvml", "it answers again")
        bad = record.error is not None and record.error.code in {LOST, UNKNOWN}
        if bad and ("lost", "sysfs") not in record.told:
            self._look_at_bus()
        with self._changed:
            self._changed.notify_all()

    def _on_event(self, line: Mapping[str, Any]) -> None:
        uuid, number = line["gpu"], line["data"]
        if line["type"] & XID_EVENT and uuid:
            if self._book.is_counted_only(uuid, number):
                return  # one of a storm: to look anew each time would only burden the driver
            self._when_listed(uuid, partial(self._book.xid, uuid, number))
            if xids.row(number).stops_nvml:
                self._life.leave_alone(uuid)
        self._look_now(uuid or None)

    def _on_done(self, line: Mapping[str, Any]) -> None:
        with self._changed:
            self._answers[line["id"]] = (line["ok"], line["text"])
            self._changed.notify_all()

    def _on_recount(self, line: Mapping[str, Any]) -> None:
        log.info("the driver lists %s GPUs now", line["count"])

    # ---- telling
    def _list(self) -> None:
        """Tell of all GPUs as soon as each was asked once; then of what was heard of them meanwhile."""
        listing = self._listing
        if not listing.is_complete(self._life.left()) or self._life.is_doubtful():
            return
        if listing.all_refused({NO_PERMISSION, OPERATING_SYSTEM}):
            self._tell("no-permission", "no GPU may be opened")
            return
        gpus = listing.gpus()
        names, is_open = (
            {facts.name for facts in gpus},
            pci.of_driver(pci.is_open_module, self._watching.driver, otherwise=False),
        )
        warning = uptime_warning(listing.version, names, uptime_s(), open_module=is_open)
        self._tell("ok", ". ".join(filter(None, (listing.trouble(), warning))), gpus)
        self._known = {facts.uuid for facts in gpus}
        for facts in gpus:
            self._book.record(facts.uuid).facts = facts
        early, self._early = self._early, []
        for what in early:
            what()

    def _tell(self, state: str, detail: str, gpus: tuple[GpuFacts, ...] = ()) -> None:
        text = described(state, detail) or detail
        seen = GpusSeen(
            at=self._clock.now(), origin=ORIGIN, state=state, text=text, driver=self._listing.version, gpus=gpus
        )
        told = self._told
        same = told is not None and msgspec.structs.replace(told, at=seen.at) == seen
        if told is not None and same and seen.at - told.at < self._watching.static_s:
            return
        self._told = seen
        self._put(seen)

    # ---- the bus
    def _look_at_bus(self) -> None:
        """Ask the PCI bus, which knows nothing of the driver."""
        try:
            bus = bounded.ask(f"{self._watching.pci}", partial(pci.gpus, self._watching.pci), BUS_S)
        except OSError as error:
            log.warning("the PCI bus cannot be looked at: %s", error)
            return
        before, self._bus = self._bus, bus
        if not bus and not before:
            return  # a machine that shows no PCI devices: nothing can be said of any
        for record in self._book.records():
            self._judge_slot(record.facts.uuid, record.facts.bus_id, before, bus)
        if before and before.keys() != bus.keys():
            self._life.order("count")

    def _judge_slot(self, uuid: str, bus_id: str, before: dict[str, pci.Slot], bus: dict[str, pci.Slot]) -> None:
        slot = bus.get(bus_id)
        if slot is not None and slot.alive:
            self._book.close(uuid, "lost", "sysfs", "the PCI bus sees it again")
        elif slot is not None:
            self._book.open(uuid, "lost", "sysfs", f"the device at {bus_id} does not answer on the PCI bus")
        elif bus_id in before:
            self._book.open(uuid, "lost", "sysfs", f"the PCI bus has no device at {bus_id} any more")
        if bus_id in before and before[bus_id] != slot:
            self._life.changed(uuid)


_HEARD: dict[str, Callable[[GpuSource, Mapping[str, Any]], None]] = {
    "driver": GpuSource._on_driver,  # noqa: SLF001 - the table of its own functions
    "card": GpuSource._on_card,  # noqa: SLF001
    "reading": GpuSource._on_reading,  # noqa: SLF001
    "event": GpuSource._on_event,  # noqa: SLF001
    "done": GpuSource._on_done,  # noqa: SLF001
    "recount": GpuSource._on_recount,  # noqa: SLF001
}
