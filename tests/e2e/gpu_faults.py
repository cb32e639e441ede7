"""Ways in which a GPU fails, under a real daemon with a fake driver: each is made to happen, and what must follow.

From the C library or the kernel log through the probe and the daemon to a toy that trains. test_gpu_daemon.py asserts
it, benchmarks/gpu_faults.py measures it. A server of its own for each: they cannot disturb one another.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon_harness import Site, alive, until
from gpu_room import gpu_site, gpus, start

from supervisor.cli.failures import Failure
from supervisor.journal import HistoryRow, Journal
from tests.fake_nvml.room import FakeDriver

PATIENCE_S = 25.0
#: What goes on for so long after the daemon knew was not ended: a second source is asked within a second.
SETTLED_S = 1.5
EPOCH_S = 0.2
EPOCHS = 400  # more than any of these lasts: it is ended with its server
AT_ONCE = 3
GRACE = "2s"
GIB = 1024**3
NAME = "train"
_GPU_EVENTS = ("GpuFound", "XidSeen", "GpusSeen", "GpuHeld", "GpuTested", "GpuTreated", "KernelSaid")


class GpuScene:
    """One fault on one server. The training that is looked at is called `train`; `victim` is the index of its GPU."""

    def __init__(self, server: Site, driver: FakeDriver, undo: contextlib.ExitStack) -> None:
        """`undo` is carried out when it is over, whatever became of it."""
        self.server, self.driver, self.undo = server, driver, undo
        self.victim = 0
        self.struck_at = 0.0

    # ---- trainings
    def job(self, name: str = NAME, *, gpus: object = 1, epochs: int = EPOCHS, flags: str = "", **keys: object) -> None:
        """Drop a toy that trains as Ultralytics does and wants GPUs."""
        self.server.train(name, f"--epoch-s {EPOCH_S} {flags}", epochs=epochs, gpus=gpus, **keys)

    def train(self, name: str = NAME, **keys: Any) -> int:
        """Start such a toy and wait until it is in its third epoch; the index of its first GPU."""
        self.job(name, **keys)
        self.under_way(name)
        gpu = self.gpus_of(name)[0]
        if name == NAME:
            self.victim = gpu
        return gpu

    def under_way(self, name: str = NAME, number: int = 1) -> None:
        """Wait until an attempt has saved an epoch and is in the next but one; the daemon knows of it."""
        self.server.attempt(name, number).wait_for_beat("saved", PATIENCE_S)
        until(lambda: (self.run(name).get("saved_epoch") or 0) >= 1, f"{name} is known to have saved", PATIENCE_S)

    def gpus_of(self, name: str = NAME, number: int = 1) -> tuple[int, ...]:
        """The indices of the GPUs that an attempt was really shown."""
        shown = self.server.attempt(name, number).json("launch.json")["env"]["CUDA_VISIBLE_DEVICES"]
        uuids = [self.driver.uuid(gpu) for gpu in range(self.driver.count)]
        return tuple(uuids.index(uuid) for uuid in shown.split(",") if uuid)

    def run(self, name: str = NAME) -> dict[str, Any]:
        """The run as `ls` shows it; empty before there is one, or while no daemon answers."""
        with contextlib.suppress(Failure):
            return self.server.run(name) or {}
        return {}

    def wait_run(self, name: str, phase: str, waiting_for: str = "") -> dict[str, Any]:
        """Wait until a run is in this phase, and waits for something that begins so."""

        def look() -> dict[str, Any] | None:
            run = self.run(name)
            fits = run.get("phase") == phase and (run.get("waiting_for") or "").startswith(waiting_for)
            return run if fits else None

        return until(look, lambda: f"{name} is {phase} {waiting_for}, but {self.run(name)}", PATIENCE_S)

    def incidents(self, name: str = NAME) -> list[dict[str, Any]]:
        """What the daemon says went wrong with a run, the newest last."""
        with contextlib.suppress(Failure):
            return list(self.server.client.get(f"/v1/runs/{name}/incidents")["incidents"])
        return []

    # ---- GPUs
    def gpu(self, index: int | None = None) -> dict[str, Any]:
        """A GPU as `gpus` shows it (the victim by default)."""
        wanted = self.driver.uuid(self.victim if index is None else index)
        with contextlib.suppress(Failure):
            return next((one for one in gpus(self.server) if one["uuid"] == wanted), {})
        return {}

    def stands(self, index: int | None = None) -> str:
        """How a GPU stands, in one of the words that faults expect."""
        return standing_of(self.gpu(index))

    def order(self, what: str, index: int | None = None, **body: object) -> None:
        """Give an order about a GPU over the API."""
        wanted = self.driver.uuid(self.victim if index is None else index)
        self.server.client.post(f"/v1/gpus/{wanted}/orders", what=what, **body)

    def struck(self) -> None:
        """That was the moment."""
        self.struck_at = time.time()

    def xid(self, code: int, text: str = "", gpu: int | None = None, **more: Any) -> None:
        """Let an Xid happen, as a line and as an event of NVML."""
        self.struck()
        self.driver.xid(self.victim if gpu is None else gpu, code, text, **more)

    def kernel(self, text: str, **more: Any) -> None:
        """Write a line into the kernel log; {bus} stands for the victim's bus id."""
        self.struck()
        self.driver.kernel(text.replace("{bus}", self.driver.bus_id(self.victim)), **more)

    def foreign(self, gpu: int = 0, memory_bytes: int = 18 * GIB) -> subprocess.Popen[bytes]:
        """Let a process of somebody else be on a GPU."""
        process = subprocess.Popen(["sleep", "600"])
        self.undo.callback(process.wait)
        self.undo.callback(process.kill)
        self.driver.process(gpu, process.pid, memory_bytes, name="sleep")
        return process

    # ---- what is on record
    def rows(self, *kinds: str) -> list[HistoryRow]:
        """The events about GPUs, the oldest first, also while no daemon is there."""
        if not self.server.journal_file.exists():
            return []
        with contextlib.closing(Journal.open(self.server.journal_file, read_only=True)) as journal:
            return [row for row in journal.recent(limit=100_000) if row.kind in (kinds or _GPU_EVENTS)]

    def records(self) -> dict[str, float]:
        """What was found, in the words that faults expect, and when that was first on record."""
        told: dict[str, float] = {}
        for row in self.rows():
            for word in words_of(row):
                told.setdefault(word, row.at)
        return told

    def wait_record(self, *wanted: str) -> None:
        """Wait until all of this is on record."""
        until(
            lambda: set(wanted) <= set(self.records()), lambda: f"{wanted} on record, but {self.records()}", PATIENCE_S
        )

    def ended_at(self, name: str = NAME, number: int = 1) -> float | None:
        """When an attempt was over; None if it is not."""
        path = self.server.attempt(name, number).directory / "exit.json"
        return path.stat().st_mtime if path.exists() else None

    def refusal(self, name: str = NAME) -> str:
        """Why a job file was refused; empty if it was not."""
        path = self.server.jobs / f"{name}.toml.error"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def is_alive(self, name: str = NAME, number: int = 1) -> bool:
        """True while the trainer of an attempt runs."""
        return self.ended_at(name, number) is None and alive(self.server.attempt(name, number).pid)

    def restart(self) -> None:
        """SIGKILL to the daemon; the next one finds the kernel log from its beginning, as a real one is."""
        self.server.end()
        self.start_again()

    def start_again(self) -> None:
        """Start a daemon after one that ended."""
        self.driver.log.again()
        self.server.start()

    def file(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file of this server."""
        path = self.server.root / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path


def words_of(row: HistoryRow) -> Iterator[str]:
    """Give the words for it: lost, lost is over, xid 79, driver no-driver, held, held no more, test passed, reset done."""
    body = row.body
    if row.kind == "GpuFound":
        yield body["finding"] if body.get("open", True) else f"{body['finding']} is over"
    elif row.kind == "XidSeen":
        yield f"xid {body['xid']}"
    elif row.kind == "GpusSeen":
        yield f"driver {body['state']}"
    elif row.kind == "GpuHeld":
        yield "held" if body.get("holders") else "held no more"
    elif row.kind == "GpuTested":
        yield "test passed" if body["ok"] else "test failed" if body.get("ran", True) else "test not made"
    elif row.kind == "GpuTreated":
        yield f"{body['what']} done" if body["ok"] else f"{body['what']} failed"
    elif row.kind == "KernelSaid":
        yield f"kernel {body['what']}"


def standing_of(gpu: Mapping[str, Any]) -> str:
    """How a GPU stands: usable, blocked, drained, held, unreachable, or quarantine with what it needs."""
    if not gpu:
        return "not shown"
    if gpu["quarantine"]:
        return f"quarantine: {gpu['quarantine']['needs']}"
    if gpu["drain"]:
        return "drained"
    if gpu["usable"]:
        return "usable"
    return "held" if gpu["holders"] else "unreachable" if gpu["state"] == "unreachable" else "blocked"


def _nothing(_scene: GpuScene) -> None:
    """Nothing more."""


@dataclass(frozen=True)
class GpuFault:
    """A way to fail. `play` starts trainings and lets it happen; the rest is what must follow.

    `job` is what becomes of `train`: goes on, elsewhere, same GPU, fewer GPUs, began anew (the newest attempt, against the first one), starts
    (the first attempt), waits (QUEUED for a GPU), refused, queued, held, cancelled; one of several, as "a or b". `found`: what
    must be on record, see words_of. `gpu`: how the victim stands then, see standing_of. `cause`: of the newest incident.
    `attempts`: how many there were (0: any). `gpus`: how many the server has; `tables`: more of its configuration.
    """

    name: str
    play: Callable[[GpuScene], None]
    found: tuple[str, ...]
    gpu: str
    job: str
    cause: str = ""
    attempts: int = 0
    check: Callable[[GpuScene], None] = _nothing
    compound: bool = False
    gpus: int = 2
    tables: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    quick: bool = False

    @property
    def jobs(self) -> list[str]:
        """What may have become of the training."""
        return self.job.split(" or ")

    @property
    def ends(self) -> bool:
        """True if an attempt is to be ended for its GPU."""
        return self.cause.startswith("gpu-")


@dataclass(frozen=True)
class GpuMet:
    """What the daemon made of it. `found_s`: from the fault to its record; `ended_s`: to the end of the attempt."""

    fault: GpuFault
    found: tuple[str, ...]
    gpu: str
    job: str
    cause: str
    attempts: int
    found_s: float | None
    ended_s: float | None
    took_s: float
    trouble: str = ""

    @property
    def as_expected(self) -> bool:
        """True if all is as the list says."""
        return not self.differences()

    def differences(self) -> str:
        """What is not as expected, in words."""
        wanted = self.fault
        pairs = [(name, getattr(wanted, name), getattr(self, name)) for name in ("gpu", "cause")]
        pairs += [] if self.job in wanted.jobs else [("job", wanted.job, self.job)]
        if wanted.attempts:
            pairs.append(("attempts", wanted.attempts, self.attempts))
        told = [f"{name} {got!r} instead of {expected!r}" for name, expected, got in pairs if expected != got]
        missing = [word for word in wanted.found if word not in self.found]
        told += [f"not on record: {', '.join(missing)}"] if missing else []
        return "; ".join([*told, *([self.trouble] if self.trouble else [])])


# ---- one fault
def meet(fault: GpuFault, directory: Path) -> GpuMet:
    """Let one fault happen on a server of its own, in a new folder, and see what becomes of it."""
    begun = time.monotonic()
    with contextlib.ExitStack() as undo:
        tables = {"queue": {"max_running": 20, "stop_grace": GRACE}, **fault.tables}
        server, driver = undo.enter_context(gpu_site(directory, fault.gpus, **tables))
        server.toy_python()
        scene = GpuScene(start(server, fault.gpus), driver, undo)
        trouble = _play(scene, fault)
        return _seen(scene, fault, trouble, time.monotonic() - begun)


def _play(scene: GpuScene, fault: GpuFault) -> str:
    """Play it, and wait until all is as expected or will not be any more. What went wrong, in words."""
    try:
        fault.play(scene)
        until(lambda: set(fault.found) <= set(scene.records()), lambda: f"{fault.found} on record", PATIENCE_S)
        until(lambda: job_word(scene, fault.job) in fault.jobs, lambda: f"{fault.job}: {scene.run()}", PATIENCE_S)
        until(lambda: scene.stands() == fault.gpu, lambda: f"GPU {fault.gpu}: {scene.gpu()}", PATIENCE_S)
        fault.check(scene)
    except (AssertionError, Failure, OSError, KeyError, ValueError, IndexError) as error:
        return f"{type(error).__name__}: {error}"[:1500]
    return ""


def _seen(scene: GpuScene, fault: GpuFault, trouble: str, took_s: float) -> GpuMet:
    records, struck, incidents = scene.records(), scene.struck_at, scene.incidents()
    known = [at - struck for word, at in records.items() if word in fault.found and at >= struck]
    ended = scene.ended_at() if fault.ends else None
    return GpuMet(
        fault,
        tuple(records),
        scene.stands(),
        job_word(scene, fault.job),
        incidents[-1]["cause"] if incidents else "",
        len(scene.server.attempts(NAME)),
        min(known, default=None),
        ended - struck if ended is not None and struck and ended >= struck else None,
        took_s,
        trouble,
    )


def job_word(scene: GpuScene, wanted: str) -> str:
    """What became of the training `train`, in the words of faults; `wanted` chooses among those that are true at once."""
    run, numbers = scene.run(), scene.server.attempts(NAME)
    phase = run.get("phase", "refused" if scene.refusal() else "gone")
    if phase == "QUEUED" and (run.get("waiting_for") or "").startswith("GPU"):
        return "waits"
    if phase in {"SUCCEEDED", "HELD", "FAILED", "CANCELLED"}:
        return {"SUCCEEDED": "succeeds"}.get(phase, phase.lower())
    if phase != "RUNNING" or not numbers or not scene.server.attempt(NAME, numbers[-1]).beats("batch"):
        return phase.lower()
    if numbers == [1]:
        return _first_attempt(scene, wanted)
    return _moved(scene, numbers[-1])


def _first_attempt(scene: GpuScene, wanted: str) -> str:
    if "starts" in wanted:
        return "starts"
    beats = scene.server.attempt(NAME).beats("batch")
    known_at = max([scene.struck_at, *(at for at in scene.records().values() if at >= scene.struck_at)])
    return "goes on" if scene.is_alive() and beats[-1]["at"] > known_at + SETTLED_S else "running"


def _moved(scene: GpuScene, number: int) -> str:
    """Where the newest attempt is, against the first one; it must have gone on behind what was saved."""
    if not scene.server.attempt(NAME, number).beats("resumed"):
        return "began anew"
    first, last = scene.gpus_of(NAME, 1), scene.gpus_of(NAME, number)
    if len(last) < len(first):
        return "fewer GPUs"
    return "same GPU" if set(first) == set(last) else "elsewhere"


def meet_all(faults: Sequence[GpuFault], folder: Path, at_once: int = AT_ONCE) -> list[GpuMet]:
    """Let faults happen, a few at a time. Raises what the first one raises that cannot."""
    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(lambda fault: meet(fault, folder / fault.name), faults))


def must_be_expected(met: Sequence[GpuMet]) -> None:
    """Print what became of them. AssertionError if anything is not that of the list."""
    wrong = [f"{one.fault.name}: {one.differences()}" for one in met if not one.as_expected]
    for one in met:
        ended = f", ended after {one.ended_s:.1f} s" if one.ended_s is not None else ""
        print(f"{one.fault.name}: {one.job}, GPU {one.gpu}{ended}; {one.took_s:.1f} s in all")
    assert not wrong, "\n".join(wrong)
