"""Ways in which a training fails, under a real daemon: each is made to happen, and what is expected of the daemon.

The tests assert it (test_faults_toy.py, test_faults_ultralytics.py), benchmarks/diagnosis.py measures it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon_harness import Site, alive, can, needs, site, until

HANG_AFTER = "4s"
PATIENCE_S = 120.0
AT_ONCE = 12
RULE = """
[[rule]]
name = "licence-server"
match = 'FlexLM: no free seats'
cause = "licence"
remedy = "hold"
means = "all seats are taken"
"""
#: The first is that of version 1.
CGROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
LIMITS = ("memory.limit_in_bytes", "memory.max")
#: The daemon and an interpreter or two fit into it.
CGROUP_BYTES = 400 * 1024 * 1024
ADDED = 'echo $$ > "$0"/cgroup.procs && exec "$@"'

Incidents = tuple[tuple[str, str], ...]


class Scene:
    """One fault on one server: its job has the fault's name."""

    def __init__(self, server: Site, name: str, undo: contextlib.ExitStack) -> None:
        """`undo` is carried out when the fault is over, whatever became of it."""
        self.server, self.name, self.undo = server, name, undo
        self.folder = server.root / f"of-{name}"
        self.folder.mkdir()
        self.struck_at = 0.0

    def train(self, fault: str = "", *flags: str, epochs: int = 6, **keys: object) -> None:
        """Start a toy that is trained as Ultralytics is, with a fault of toy_faults.py in one of its attempts."""
        words = ["--epoch-s", "0.4", *(["--fault", fault, "--fault-once"] if fault else []), *flags]
        self.server.train(self.name, " ".join(words), epochs=epochs, **keys)

    def command(self, *flags: str, epochs: int = 6, **keys: object) -> None:
        """Start a toy by a command."""
        self.server.toy(self.name, " ".join(("--epoch-s 0.4", *flags)), epochs=epochs, **keys)

    def trainer(self, number: int = 1, *, epoch: int = 2) -> int:
        """The trainer's process, once it is in that epoch (from 1)."""
        self.server.attempt(self.name, number).wait_for_beat("batch", PATIENCE_S, epoch=epoch - 1)
        return self.server.attempt(self.name, number).pid

    def signal(self, number: int, pid: int) -> None:
        """Send a signal; that is the moment of the fault."""
        self.struck_at = time.time()
        os.kill(pid, number)

    def mount(self, options: str, point: Path | None = None) -> Path:
        """A small file system, gone at the end."""
        point = point or self.folder / "disk"
        point.mkdir(exist_ok=True)
        needs(can("mount", "-t", "tmpfs", "-o", options, "yolo-test", str(point)), "root and mount")
        self.undo.callback(subprocess.run, ["umount", "-l", str(point)], capture_output=True, check=False)
        return point

    def run(self) -> dict[str, Any]:
        """The run as `ls` shows it; empty before there is one."""
        return self.server.run(self.name) or {}

    def shown(self) -> dict[str, Any]:
        """The run as `show` shows it."""
        return self.server.client.get(f"/v1/runs/{self.name}")

    def incidents(self) -> list[dict[str, Any]]:
        """What the daemon says went wrong, the newest last."""
        found: list[dict[str, Any]] = self.server.client.get(f"/v1/runs/{self.name}/incidents")["incidents"]
        return found

    def launched(self, number: int) -> dict[str, Any]:
        """The train arguments that an attempt was really given."""
        arguments: dict[str, Any] = self.server.attempt(self.name, number).json("launch.json")["train"]["args"]
        return arguments


def _nothing(_scene: Scene) -> None:
    """Nobody has to mend anything."""


@dataclass(frozen=True)
class Fault:
    """A way to fail. `play` starts the job and lets it fail; `mend` is what a person does then.

    Expected: each incident's cause (or one of several, as a|b) and first remedy, in this order, and the phase that the run ends in. `told`: no
    incident, but the run is said to stand still, in these words. `ground`: what server it needs, see GROUNDS.
    """

    name: str
    play: Callable[[Scene], None]
    incidents: Incidents = ()
    phase: str = "SUCCEEDED"
    mend: Callable[[Scene], None] = _nothing
    check: Callable[[Scene], None] = _nothing
    told: str = ""
    ground: str = "plain"
    slow: bool = False
    patience_s: float = PATIENCE_S


@dataclass(frozen=True)
class Met:
    """What the daemon made of a fault. `seconds`: from the fault to the decision on record; None without one."""

    fault: Fault
    incidents: Incidents
    phase: str
    seconds: float | None
    reason: str
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def as_expected(self) -> bool:
        """True if causes, remedies and the end are those of the fault."""
        return (
            self.phase == self.fault.phase
            and len(self.incidents) == len(self.fault.incidents)
            and all(
                cause in expected.split("|") and step == wanted
                for (cause, step), (expected, wanted) in zip(self.incidents, self.fault.incidents, strict=True)
            )
        )

    def words(self) -> str:
        """One line for a person."""
        chain = ", ".join(f"{cause} -> {step}" for cause, step in self.incidents) or self.fault.told or "no incident"
        after = f" after {self.seconds:.1f} s" if self.seconds is not None else ""
        return f"{self.fault.name}: {chain}{after}; {self.phase}"


def meet(server: Site, fault: Fault) -> Met:
    """Let one fault happen and see it through. AssertionError where the run ends nowhere."""
    with contextlib.ExitStack() as undo:
        scene = Scene(server, fault.name, undo)
        fault.play(scene)
        begun = time.time()
        if fault.told:
            until(
                lambda: fault.told in (scene.run().get("stalled") or ""), _where(scene, "is told of"), fault.patience_s
            )
        elif fault.incidents:
            until(lambda: _decided(scene), _where(scene, "has an incident"), fault.patience_s)
        seconds = time.time() - (scene.struck_at or begun) if fault.told else None
        fault.mend(scene)
        ends = {"SUCCEEDED", "FAILED", "CANCELLED", fault.phase, *(["HELD"] if fault.mend is _nothing else [])}
        run = until(lambda: _ended(scene, ends), _where(scene, fault.phase), fault.patience_s)
        records = scene.incidents()
        met = Met(fault, _pairs(records), run["phase"], seconds or _delay_s(scene, records), run["reason"], records)
        if met.as_expected:
            fault.check(scene)
        return met


def _decided(scene: Scene) -> bool:
    """True when it is on record what follows."""
    refusal = scene.server.jobs / f"{scene.name}.toml.error"
    assert not refusal.exists(), refusal.read_text()
    return bool(scene.run()) and bool(scene.incidents())


def _ended(scene: Scene, phases: set[str]) -> dict[str, Any] | None:
    run = scene.run()
    return run if run.get("phase") in phases else None


def _where(scene: Scene, what: str) -> Callable[[], str]:
    return lambda: f"{scene.name}: {what}, but {scene.run()} {[(x['cause'], x['step']) for x in scene.incidents()]}"


def _pairs(records: Sequence[dict[str, Any]]) -> Incidents:
    return tuple((one["cause"], one["step"]) for one in records)


def _delay_s(scene: Scene, records: Sequence[dict[str, Any]]) -> float | None:
    """From the fault, or from the last movement where the training failed by itself, to the record of the incident."""
    return records[0]["seen_at"] - (scene.struck_at or records[0]["moved_at"]) if records else None


def meet_all(faults: Sequence[Fault], at_once: int = AT_ONCE) -> list[Met]:
    """Let faults of one ground happen beside each other on one server. Raises what the first one raises that cannot."""
    [ground] = {fault.ground for fault in faults}
    with GROUNDS[ground]() as server, ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(lambda fault: meet(server, fault), faults))


def must_be_expected(met: Sequence[Met]) -> None:
    """Print what became of them. AssertionError if a cause, a remedy or an end is not that of the list."""
    for one in met:
        print(one.words())
    wrong = [
        f"{one.words()} ({one.reason}); expected {one.fault.incidents} {one.fault.phase}"
        for one in met
        if not one.as_expected
    ]
    assert not wrong, "\n".join(wrong)


# ---- servers
@contextlib.contextmanager
def plain(prefix: Sequence[str] = (), **tables: dict[str, object]) -> Iterator[Site]:
    """A server that looks for hangs every second, gives little grace, and knows a rule of its users."""
    queue = {"max_running": 60, "stop_grace": "2s"}
    with site(hang={"every": "1s"}, queue=queue, **tables) as made:
        made.config.write_text(made.config.read_text(encoding="utf-8") + RULE, encoding="utf-8")
        made.prefix = list(prefix)
        made.toy_python()
        yield made.start()


@contextlib.contextmanager
def small_disk(options: str = "size=64m") -> Iterator[Site]:
    """A server whose runs lie on a small disk of their own; its state lies elsewhere."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(site(hang={"every": "1s"}))
        made.runs_dir = made.root / "runs"
        made.runs_dir.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(made.runs_dir)]
        needs(can(*mount), "root and mount, for a disk that can be filled")
        stack.callback(subprocess.run, ["umount", "-l", str(made.runs_dir)], check=True)
        made.tables["server"]["runs_dir"] = str(made.runs_dir)
        made.write_config()
        yield made.start()


@contextlib.contextmanager
def little_memory() -> Iterator[Site]:
    """A server in a control group that may use little memory."""
    group = next(folder for folder in CGROUPS if folder.is_dir()) / f"yolo-test-{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            group.mkdir()
            stack.callback(_remove, group)
        limit = next((group / name for name in LIMITS if (group / name).exists()), None)
        needs(limit is not None and os.access(limit, os.W_OK), "root and control groups for memory")
        assert limit is not None
        limit.write_text(str(CGROUP_BYTES), encoding="ascii")
        yield stack.enter_context(plain(["sh", "-c", ADDED, str(group)]))


def _remove(group: Path) -> None:
    until(lambda: not (group / "cgroup.procs").read_text(encoding="ascii").strip(), f"{group} is empty")
    group.rmdir()


GROUNDS: dict[str, Callable[[], contextlib.AbstractContextManager[Site]]] = {
    "plain": plain,
    "small disk": small_disk,
    "few inodes": lambda: small_disk("size=64m,nr_inodes=3000"),
    "little memory": little_memory,
}


# ---- what is done to a run from outside
def killed(scene: Scene) -> None:
    """A person kills the trainer."""
    scene.train()
    scene.signal(signal.SIGKILL, scene.trainer())


def asked_to_end(scene: Scene) -> None:
    """A person, or a service manager, asks it to end."""
    scene.train()
    scene.signal(signal.SIGTERM, scene.trainer())


def stopped(scene: Scene) -> None:
    """A person suspends it."""
    scene.train(restart={"hang_after": HANG_AFTER})
    scene.signal(signal.SIGSTOP, scene.trainer())


def goes_on(scene: Scene) -> None:
    """It has stood still for twice as long as would be a hang, and lives; now it may go on."""
    pid = scene.server.attempt(scene.name).pid
    until(lambda: time.time() - scene.struck_at > 10, "ten seconds are over")
    assert alive(pid)
    os.kill(pid, signal.SIGCONT)


def same_attempt(scene: Scene) -> None:
    """Nobody ended it."""
    assert scene.server.attempts(scene.name) == [1]


def resumed(scene: Scene) -> None:
    """It went on behind the first epoch at least; no epoch was done from scratch, none stands twice."""
    last = scene.server.attempts(scene.name)[-1]
    assert scene.server.attempt(scene.name, last).beats("resumed"), "it began anew"
    epochs = scene.server.epochs_in_table(scene.name)
    assert epochs == sorted(set(epochs))


def fewer_workers(scene: Scene) -> None:
    """Half of the eight that are the default, in what the trainer really got, and that is shown."""
    assert scene.launched(2)["workers"] == 4
    assert [change["after"] for change in scene.shown()["changes"]] == [4]
    resumed(scene)


def named(*either: str) -> Callable[[Scene], None]:
    """The incident tells one of these words, and `why` tells the incident."""

    def look(scene: Scene) -> None:
        [first, *_] = scene.incidents()
        told = f"{first['seen']} {first['autopsy']} {first['place']}"
        assert any(word in told for word in either), told
        why = scene.server.cli("why", scene.name)
        assert first["title"].casefold() in why.stdout.casefold(), why.stdout + why.stderr

    return look
