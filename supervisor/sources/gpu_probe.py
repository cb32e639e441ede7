"""The probe: the only process that loads NVML. Run as `python -m supervisor.sources.gpu_probe OPTIONS`.

NVML may hang for ever or bring its process down; the daemon may not. So the daemon starts this child, reads its lines
and looks at its board: sources.gpus. Standard library and pynvml only, so that it stays small.

It writes JSON lines to stdout (`say` is driver, card, reading, event, recount or done), takes JSON lines from stdin
(`do` is look, power, leave, watch or count) and ends at the end of stdin. OPTIONS is one JSON object: fast_s, slow_s
and static_s (seconds between readings of a tier), leave (indices of GPUs that no call may touch), events (whether to
wait for the driver's) and board (a file descriptor).

The board is shared memory with one 8-byte number per thread: in which call it is and since when. So the daemon knows
which call hangs, and which one a crash came from, without a line per call.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from supervisor.sources.gpu_board import EVENTS, FIRST_GPU, MAIN, MOST_GPUS, Board
from supervisor.sources.gpu_events import Watcher
from supervisor.sources.gpu_probe_calls import (
    FAST,
    LOST,
    SLOW,
    STATIC,
    Mark,
    MissingError,
    Reader,
    WholeGpuError,
    call,
    code_of,
    error_names,
    identity,
)
from supervisor.sources.gpu_refusals import INIT_STATES, refusal

_STACK_BYTES = 512 * 1024
_PHASES = 16
_OF_IDENTITY = tuple(
    question for question in (*FAST, *SLOW) if question.names[-1] in {"memory_total_bytes", "persistence", "mig"}
)


class Speaker:
    """Writes lines to the daemon. When nobody reads any more there is nobody to work for."""

    def __init__(self, descriptor: int) -> None:
        """Write to this descriptor."""
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def say(self, what: str, **facts: Any) -> None:
        """Write one line."""
        line = json.dumps({"say": what, **facts}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                os._exit(0)


class Card(threading.Thread):
    """Reads one GPU, tier by tier. Whatever happens to it, the others go on."""

    def __init__(self, probe: Probe, index: int) -> None:
        """`index` is NVML's."""
        super().__init__(name=f"gpu-{index}", daemon=True)
        self.index = index
        self.uuid = ""
        self.handle: Any = None
        self._probe = probe
        self._reader: Reader | None = None
        self._orders: list[dict[str, Any]] = []
        self._wake = threading.Event()
        self._is_left = False
        self._next = {"fast": 0.0, "slow": 0.0, "static": 0.0}

    def order(self, order: dict[str, Any]) -> None:
        """Have something done soon, in this GPU's own thread."""
        self._orders.append(order)
        self._wake.set()

    def leave(self) -> None:
        """Make no further call: neither for a reading nor to give anything back."""
        self._is_left = True
        self._wake.set()

    def run(self) -> None:
        """Read until the process ends, or until it is told to leave the GPU alone."""
        while True:
            self._wake.clear()
            if self._is_left:
                return
            self._obey()
            now = time.monotonic()
            due = {tier for tier, at in self._next.items() if at <= now}
            if self._reader is None and due:
                due = {"fast", "slow", "static"} if self._look_up() else set()
            if self._reader is not None and due:
                self._read(self._reader, due)
            for tier in due:
                self._next[tier] = self._next_at(tier, now)
            patience_s = min(self._next.values()) if self._reader is not None else self._next["slow"]
            self._wake.wait(max(0.0, patience_s - time.monotonic()))

    def _next_at(self, tier: str, now: float) -> float:
        """Each GPU has its own times: of calls that wait for each other in the driver the guilty one came first."""
        every_s: float = self._probe.every_s[tier]
        phase_s = every_s * (self.index % _PHASES) / _PHASES
        return ((now - phase_s) // every_s + 1) * every_s + phase_s

    def _mark(self, *, slow: bool) -> Mark:
        board, slot = self._probe.board, FIRST_GPU + self.index
        return lambda name: board.mark(slot, name, slow=slow)

    def _obey(self) -> None:
        while self._orders:
            order = self._orders.pop(0)
            if order["do"] == "look":
                self._next = dict.fromkeys(self._next, 0.0)
            else:
                self._set_power(order)

    def _look_up(self) -> bool:
        """Find the handle: the driver initialises the GPU here, which may take seconds, fail or hang.

        A failed attempt makes the driver try hard and write to the kernel log: it is made with the slow tier only.
        """
        nvml, mark = self._probe.nvml, self._mark(slow=True)
        mark("nvmlDeviceGetHandleByIndex")
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(self.index)
            facts = identity(nvml, handle, mark)
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            code = code_of(nvml, error)
            self._probe.say("card", index=self.index, error=[code, self._probe.names.get(code, "")])
            now = time.monotonic()
            self._next = {**dict.fromkeys(self._next, now), "slow": now + self._probe.every_s["slow"]}
            return False
        finally:
            mark("")
        self.handle, self.uuid = handle, facts["uuid"]
        self._reader = Reader(nvml, handle, mark)
        self._tell_identity(facts)
        self._probe.watcher.rebuild()
        return True

    def _tell_identity(self, facts: dict[str, Any]) -> None:
        reader = self._reader
        assert reader is not None  # noqa: S101 - set by the only caller
        try:
            reader.links()
            facts["peers"] = reader.peers()
            static = reader.ask(_OF_IDENTITY)
        except WholeGpuError:
            static = {}
        finally:
            self._mark(slow=True)("")
        numbers = {name: value for name, value in static.items() if isinstance(value, (int, float))}
        self._probe.say("card", index=self.index, facts={**facts, **numbers})

    def _read(self, reader: Reader, due: set[str]) -> None:
        mark = self._mark(slow="slow" in due or "static" in due)
        reader._mark = mark  # noqa: SLF001 - the two are one; a new object per tier would cost more than it tells
        values: dict[str, Any] = {}
        lists: dict[str, Any] = {"processes": None, "graphics": None}
        error: list[Any] | None = None
        try:
            if "static" in due:
                reader.forget()
            if "fast" in due:
                values.update(reader.ask(FAST))
                lists = {"processes": reader.processes(), "graphics": reader.graphics()}
            if "slow" in due:
                values.update(reader.ask(SLOW))
                values.update(reader.fields())
                values.update(reader.links())
            if "static" in due:
                values.update(reader.ask(STATIC))
        except WholeGpuError as trouble:
            error = [trouble.code, self._probe.names.get(trouble.code, "")]
        finally:
            mark("")
        self._probe.say("reading", gpu=self.uuid, tiers=sorted(due), values=values, error=error, **lists)
        self._probe.heard(self.index, refusal(values))
        if error is not None and error[0] == LOST:
            self._lose()

    def _lose(self) -> None:
        """A handle of a lost GPU is worth nothing, and harmful: it is looked up anew."""
        self._reader = self.handle = None
        self._next["slow"] = time.monotonic() + self._probe.every_s["slow"]
        self._probe.watcher.rebuild()

    def _set_power(self, order: dict[str, Any]) -> None:
        mark = self._mark(slow=True)
        mark("nvmlDeviceSetPowerManagementLimit")
        try:
            ok, text = True, f"{self._limit_power(order['watts']) / 1000:g} W"
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            code = code_of(self._probe.nvml, error)
            ok, text = False, str(error) if isinstance(error, MissingError) else self._probe.names.get(code, "")
        finally:
            mark("")
        self._probe.say("done", id=order["id"], ok=ok, text=text)

    def _limit_power(self, watts: float | None) -> int:
        """Set the limit, within what the board allows; None: its default. Return it in milliwatts."""
        if self.handle is None:
            raise MissingError("the GPU does not answer")
        nvml = self._probe.nvml
        if watts is None:
            milliwatts: int = call(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", self.handle)
        else:
            low, high = call(nvml, "nvmlDeviceGetPowerManagementLimitConstraints", self.handle)
            milliwatts = min(high, max(low, int(watts * 1000)))
        call(nvml, "nvmlDeviceSetPowerManagementLimit", self.handle, milliwatts)
        return milliwatts


class Probe:
    """One life of the probe."""

    def __init__(self, options: dict[str, Any], nvml: Any) -> None:
        """`nvml` is pynvml."""
        self.nvml = nvml
        self.names = error_names(nvml)
        self.every_s = {"fast": options["fast_s"], "slow": options["slow_s"], "static": options["static_s"]}
        self.board = Board(options["board"])
        self.cards: dict[int, Card] = {}
        self.say = _speaker.say
        self.watcher = Watcher(nvml, self.mark_of(EVENTS), self._handles, self.say, lambda: self.order({"do": "look"}))
        self._left = set(options["leave"])
        self._wants_events = options["events"]
        self._count = 0
        self._refusals: dict[int, int] = {}

    def heard(self, index: int, refusal: int) -> None:
        """End if the driver answers for no GPU any more: a library that was loaded before its upgrade never will."""
        self._refusals[index] = refusal
        refused = {self._refusals.get(card) or 0 for card in self.cards}
        if len(refused) == 1 and refusal in refused and refusal:
            self._refused(refusal)

    def _refused(self, code: int) -> None:
        self.say("driver", state=INIT_STATES[code], code=code, text=self.names.get(code, ""), version="", count=0)
        os._exit(0)

    def mark_of(self, slot: int) -> Mark:
        """The marker of a thread that is none of a GPU."""
        return lambda name: self.board.mark(slot, name, slow=True)

    def begin(self) -> bool:
        """Open NVML and start a thread per GPU; False where there is nothing to watch, after saying why."""
        mark = self.mark_of(MAIN)
        try:
            mark("nvmlInit")
            self.nvml.nvmlInit()
            version = _version(self.nvml)
            mark("nvmlDeviceGetCount")
            count = self.nvml.nvmlDeviceGetCount()
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            code = code_of(self.nvml, error)
            state = INIT_STATES.get(code, "error")
            self.say("driver", state=state, code=code, text=self.names.get(code, str(error)), version="", count=0)
            return False
        finally:
            mark("")
        self._count = count
        self.say("driver", state="ok" if count else "none", code=0, text="", version=version, count=count)
        for index in range(min(count, MOST_GPUS)):
            if index not in self._left:
                self._watch(index)
        if self._wants_events:
            self.watcher.start()
        return bool(count)

    def _watch(self, index: int) -> None:
        self.cards[index] = Card(self, index)
        self.cards[index].start()

    def _handles(self) -> list[tuple[Any, str]]:
        return [(card.handle, card.uuid) for card in self.cards.values() if card.handle is not None]

    def order(self, order: dict[str, Any]) -> None:
        """Carry out an order, or pass it on to the GPU that it names, or to all."""
        if order["do"] == "count":
            self._recount()
        elif order["do"] == "watch":
            if order["index"] not in self.cards:
                self._watch(order["index"])
        elif order["do"] == "leave":
            card = self.cards.pop(order["index"], None)
            if card is not None:
                card.leave()
        else:
            self._pass_on(order)

    def _pass_on(self, order: dict[str, Any]) -> None:
        wanted = order.get("gpu")
        cards = list(self.cards.values())
        named = [card for card in cards if not wanted or card.uuid == wanted]
        if order["do"] == "look" and not named:
            named = [card for card in cards if not card.uuid]  # it may be one that could not be named yet
        if order["do"] == "power" and not named:
            self.say("done", id=order["id"], ok=False, text="the GPU is not watched")
        for card in named:
            card.order(order)

    def _recount(self) -> None:
        """End if there are more GPUs or fewer than at the start: indices may mean others now."""
        mark = self.mark_of(MAIN)
        mark("nvmlDeviceGetCount")
        try:
            count = self.nvml.nvmlDeviceGetCount()
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            code = code_of(self.nvml, error)
            if code in INIT_STATES:
                self._refused(code)
            return
        finally:
            mark("")
        if count != self._count:
            self.say("recount", count=count)
            os._exit(0)


def _version(nvml: Any) -> str:
    try:
        version = nvml.nvmlSystemGetDriverVersion()
    except Exception as error:  # noqa: BLE001 - a bug is raised again
        code_of(nvml, error)
        return ""
    return version.decode() if isinstance(version, bytes) else str(version)


def _binding() -> Any:
    """Return pynvml, or None after saying what is wrong with it."""
    try:
        import pynvml  # a machine without it gets words, not a traceback
    except ImportError as error:
        _speaker.say(
            "driver", state="old-binding", code=0, text=f"pynvml cannot be imported: {error}", version="", count=0
        )
        return None
    if not hasattr(pynvml, "_nvmlGetFunctionPointer"):
        place = os.path.dirname(pynvml.__file__ or "")  # noqa: PTH120 - pathlib is not loaded otherwise
        _speaker.say("driver", state="old-binding", code=0, text=place, version="", count=0)
        return None
    return pynvml


_speaker = Speaker(os.dup(1))


def _bug(trouble: threading.ExceptHookArgs) -> None:
    """A thread that has ended would watch its GPU never more: the daemon starts another probe."""
    threading.__excepthook__(trouble)
    os._exit(70)


def main(options: dict[str, Any]) -> int:
    """Watch until stdin ends."""
    os.dup2(2, 1)  # what a library prints must not stand between our lines
    threading.stack_size(_STACK_BYTES)
    threading.excepthook = _bug
    nvml = _binding()
    if nvml is None:
        return 0
    probe = Probe(options, nvml)
    if not probe.begin():
        return 0
    for line in sys.stdin.buffer:
        probe.order(json.loads(line))
    os._exit(0)  # a call that hangs must not keep the process; its end closes NVML as nvmlShutdown would


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
