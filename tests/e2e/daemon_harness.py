"""A real daemon in a folder of its own, with toy trainings; whatever a test does, nothing of it is left running.

Two kinds of toy job: `command` jobs that run tests/toy_trainer.py, and `[train]` jobs whose interpreter is a small
program that answers the daemon's questions as an environment with Ultralytics would and trains with the toy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from supervisor.cli.client import Client
from supervisor.cli.failures import Failure, NoDaemon
from supervisor.journal import HistoryRow, Journal
from supervisor.toml_errors import format_value

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "tests"
TOY = TESTS / "toy_trainer.py"
MODEL = TESTS / "models" / "tiny.yaml"
PATIENCE_S = 30.0
POLL_S = 0.02
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

TOY_INTERPRETER = """#!{python} -IS
import json, os, shlex, sys
if sys.argv[1] == "-I":  # does it start at all?
    sys.exit(0)
if sys.argv[1].endswith("describe.py"):
    known = dict.fromkeys(("model", "data"), {{"types": ["str"]}})
    known |= dict.fromkeys(("epochs", "imgsz", "batch", "workers", "patience"), {{"types": ["int"]}})
    print(json.dumps({{"python": "3.11", "ultralytics": "8.4.190", "train_args": known, "weights_dir": "/nowhere"}}))
    sys.exit(0)
if sys.argv[1].endswith("fingerprint.py"):
    told = os.environ.get("TOY_FINGERPRINT")
    print(open(told).read() if told else json.dumps({{"version": 1}}))
    sys.exit(0)
with open(os.path.join(sys.argv[2], "launch.json"), encoding="utf-8") as file:
    plan = json.load(file)["train"]
words = ["--save-dir", plan["save_dir"], "--epochs", str(plan["args"]["epochs"]), "--beats"]
words += ["--resume", plan["resume"]] if plan["resume"] else []
os.execv({python!r}, [{python!r}, {toy!r}, *words, *shlex.split(os.environ.get("TOY", ""))])
"""


def until(look: Callable[[], T | None], what: str | Callable[[], str], within_s: float = PATIENCE_S) -> T:
    """Return the first true answer of `look`; AssertionError with `what` (asked then) if none comes in time."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what() if callable(what) else what}")
        time.sleep(POLL_S)
    return found


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def needs(possible: bool, what: str) -> None:
    """Skip loudly where this machine cannot; where CI=true that is a failure, so that nothing is skipped unseen."""
    if not possible and os.environ.get("CI") == "true":
        pytest.fail(f"this test needs {what}")
    if not possible:
        pytest.skip(f"needs {what}")


def can(*command: str) -> bool:
    """Tell whether a command works here."""
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the children of a process with one thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processes_of(root: Path) -> list[int]:
    """Return every process whose arguments or environment name something below this folder."""
    marker = os.fsencode(root) + b"/"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if any(marker in (entry / name).read_bytes() for name in ("cmdline", "environ")):
                    found.append(int(entry.name))
    return found


def end_processes_of(root: Path) -> None:
    """Kill these, again and again until none is left."""
    deadline = time.monotonic() + 10
    while (left := [pid for pid in processes_of(root) if alive(pid)]) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    assert not left, f"these processes of a test cannot be ended: {left}"


class Attempt:
    """The files of one attempt, as the shim and the trainer wrote them."""

    def __init__(self, directory: Path) -> None:
        """Read below `directory`."""
        self.directory = directory

    def json(self, name: str) -> dict[str, Any]:
        """Return launch.json, started.json or exit.json once it is there."""
        path = self.directory / name
        until(path.exists, f"{path} is there")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def shim_pid(self) -> int:
        """The shim."""
        return int(self.json("started.json")["shim_pid"])

    @property
    def pid(self) -> int:
        """The trainer."""
        return int(self.json("started.json")["pid"])

    @property
    def env(self) -> dict[str, str]:
        """The environment that the trainer really has, or had at its start."""
        data = Path(f"/proc/{self.pid}/environ").read_bytes()
        return dict(os.fsdecode(item).split("=", 1) for item in data.split(b"\0") if item)

    def beats(self, kind: str = "") -> list[dict[str, Any]]:
        """Return the trainer's own records, all or of one kind."""
        path = self.directory / "beats.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [beat for beat in found if kind in {"", beat["kind"]}]

    def wait_for_beat(self, kind: str, within_s: float = PATIENCE_S, **wanted: object) -> dict[str, Any]:
        """Return the first record of this kind with these values; epochs count from 0 here."""
        return until(
            lambda: next((beat for beat in self.beats(kind) if wanted.items() <= beat.items()), None),
            f"{kind} {wanted} in {self.directory}",
            within_s,
        )


class Site:
    """One server: configuration, state, jobs folder, and the daemon that is started and killed."""

    def __init__(self, folder: str = "", **tables: Mapping[str, object]) -> None:
        """Write a configuration; `tables` adds to its tables. `folder` may hold spaces: the socket lies elsewhere."""
        self.top = Path(tempfile.mkdtemp(prefix="ys-", dir="/tmp"))
        self.root = self.top / folder if folder else self.top
        self.jobs, self.state, self.runs_dir = self.root / "jobs", self.root / "state", self.root / "state" / "runs"
        self.config, self.log, self.socket = self.root / "config.toml", self.root / "daemon.log", self.top / "s"
        self.home = self.root / "home"
        for path in (self.jobs, self.state, self.home):
            path.mkdir(parents=True)
        self.extra_env: dict[str, str] = {}
        self.prefix: list[str] = []
        self.daemon: subprocess.Popen[bytes] | None = None
        self.tables: dict[str, dict[str, object]] = {
            "server": {"name": "testbed", "state_dir": str(self.state), "socket": str(self.socket)},
            "jobs": {"folder": str(self.jobs), "allow_root": True, "settle": "1s", "rescan": "1s"},
            "queue": {"max_running": 4, "stop_grace": "5s"},
            "disk": {"prune_below": "2MiB", "pause_below": "1MiB"},
            "defaults": {"restart.backoff": "1s", "restart.backoff_max": "2s", "gpus": 0},
            "gpu": {"watch": False, "kmsg": ""},  # what this machine has is not what is tested: see gpu_room
        }
        self.channels: list[dict[str, object]] = []
        self.targets: list[dict[str, object]] = []
        for name, table in tables.items():
            self.tables.setdefault(name, {}).update(table)
        self.write_config()

    # ---- the daemon
    def write_config(self) -> None:
        """Write config.toml from `tables` and `channels`."""
        lines = []
        for name, table in self.tables.items():
            lines += [f"[{name}]", *(f"{key} = {format_value(value)}" for key, value in table.items())]
        for kind, entries in (("channel", self.channels), ("backup", self.targets)):
            for entry in entries:
                lines += [f"[[{kind}]]", *(f"{key} = {format_value(value)}" for key, value in entry.items())]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon, and the command line, run with."""
        return {"PATH": SYSTEM_PATH, "HOME": str(self.home), "LANG": "C.UTF-8", **self.extra_env}

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start a daemon and do not wait for it; its words go to the log."""
        command = [*self.prefix, sys.executable, "-m", "supervisor", "run", "--config", str(self.config)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, env=self.environment, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start(self) -> Site:
        """Start the daemon and wait until it answers."""
        assert self.daemon is None, "one daemon at a time"
        self.daemon = self.spawn()
        until(self._answers, "the daemon is ready")
        return self

    def _answers(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"the daemon ended with {self.daemon.returncode}: {self.said()[-2000:]}"
        try:
            self.client.get("/v1/status")
        except NoDaemon:
            return False
        return True

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send the daemon a signal and wait for its end; its exit code."""
        daemon, self.daemon = self.daemon, None
        assert daemon is not None
        daemon.send_signal(number)
        return daemon.wait(PATIENCE_S)

    def restart(self) -> Site:
        """SIGKILL, and the next daemon."""
        self.end()
        return self.start()

    def said(self) -> str:
        """What the daemons wrote to their log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        """End everything that was started here."""
        end_processes_of(self.top)
        if self.daemon is not None:
            self.daemon.wait(PATIENCE_S)
        shutil.rmtree(self.top, ignore_errors=True)

    # ---- what people do
    @property
    def client(self) -> Client:
        """The API."""
        return Client(str(self.socket))

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a person would."""
        command = [sys.executable, "-m", "supervisor", "--config", str(self.config), *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )

    def order(self, verb: str, name: str, **body: object) -> dict[str, Any]:
        """Give an order over the API. Raises Failure where the daemon refuses it."""
        return self.client.post(f"/v1/runs/{name}/{verb}", **body)

    def drop(self, file: str, text: str | bytes) -> Path:
        """Let a job file appear whole, by a rename."""
        data = text if isinstance(text, bytes) else text.encode()
        temporary = self.root / f"dropping-{time.monotonic_ns()}"
        temporary.write_bytes(data)
        return temporary.rename(self.jobs / file)

    def toy(self, name: str, flags: str = "", *, epochs: int = 3, file: str = "", **keys: object) -> Path:
        """Drop a `command` job that trains with the toy. `keys` are top-level keys of the job file."""
        words = [sys.executable, str(TOY), "--save-dir", "{run_dir}/train", "--epochs", str(epochs), "--beats"]
        words += shlex.split(flags)
        settings = {
            "name": name,
            "command": words,
            "resume_command": [*words, "--resume", "{checkpoint}"],
            "checkpoint_files": ["{run_dir}/train/weights/last.pt"],
            "done": {"log": "epochs completed"},
            **keys,
        }
        return self.drop(file or f"{name}.toml", job(settings))

    def train(self, name: str, flags: str = "", *, epochs: int = 3, **keys: object) -> Path:
        """Drop a `[train]` job on the toy interpreter."""
        env = {"TOY": flags, **keys.pop("env", {})}  # type: ignore[dict-item]
        arguments = {"model": str(MODEL), "data": str(MODEL), "epochs": epochs, **keys.pop("train", {})}  # type: ignore[dict-item]
        settings = {"name": name, "python": str(self.toy_python()), "env": env, **keys, "train": arguments}
        return self.drop(f"{name}.toml", job(settings))

    def toy_python(self, folder: str = "env") -> Path:
        """An interpreter that looks like one of a virtual environment with Ultralytics."""
        prefix = self.top / folder
        python = prefix / "bin" / "python"
        if not python.exists():
            python.parent.mkdir(parents=True)
            (prefix / "pyvenv.cfg").touch()
            python.write_text(TOY_INTERPRETER.format(python=sys.executable, toy=str(TOY)))
            python.chmod(0o755)
        return python

    # ---- what is seen
    def all_runs(self) -> dict[str, dict[str, Any]]:
        """Every run by id."""
        return {run["id"]: run for run in self.client.get("/v1/runs", all=1)["runs"]}

    def run(self, name: str) -> dict[str, Any] | None:
        """The newest run of a name; None before there is one."""
        found = [run for run in self.all_runs().values() if run["name"] == name]
        return max(found, key=lambda run: int(run["id"].rpartition("@")[2]), default=None)

    def wait(self, name: str, *phases: str, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Return the run once it is in one of the phases; one that ended otherwise fails the test at once."""

        def look() -> dict[str, Any] | None:
            run = self.run(name)
            if run is None or run["phase"] in phases:
                refusal = self.jobs / f"{name}.toml.error"
                assert run or not refusal.exists(), refusal.read_text()
                return run
            assert run["phase"] not in {"SUCCEEDED", "FAILED", "CANCELLED"}, f"{run['phase']}: {run['reason']}"
            return None

        return until(look, lambda: f"{name} is {' or '.join(phases)}, but {self._shown(name)}", within_s)

    def _shown(self, name: str) -> str:
        with contextlib.suppress(Failure):
            run = self.run(name)
            return f"it is {run['phase']}: {run['reason']}" if run else "there is no such run"
        return "no daemon answers"

    def wait_saved(self, name: str, epoch: int, **wait: float) -> dict[str, Any]:
        """Return the run once this epoch (from 1) is known to be saved."""
        look = lambda: next((run for run in [self.run(name)] if run and (run["saved_epoch"] or 0) >= epoch), None)  # noqa: E731
        return until(look, f"epoch {epoch} of {name} is saved", **wait)

    @property
    def journal_file(self) -> Path:
        """Where the record is."""
        return self.state / "journal.sqlite"

    def history(self, run_id: str, kind: str = "") -> list[HistoryRow]:
        """What the journal says of a run, also while no daemon is there."""
        with contextlib.closing(Journal.open(self.journal_file, read_only=True)) as journal:
            return [row for row in journal.history(run_id) if kind in {"", row.kind}]

    def run_dir(self, name: str, project: str = "default") -> Path:
        """The folder of a run."""
        return self.runs_dir / project / name

    def attempt(self, name: str, number: int = 1) -> Attempt:
        """The files of an attempt."""
        return Attempt(self.run_dir(name) / "attempts" / str(number))

    def attempts(self, name: str) -> list[int]:
        """The numbers of the attempts that were really started."""
        return sorted(int(path.parent.name) for path in self.run_dir(name).glob("attempts/*/started.json"))

    def epochs_in_table(self, name: str) -> list[int]:
        """The epochs of results.csv in the order of its rows."""
        lines = (self.run_dir(name) / "train" / "results.csv").read_text().splitlines()[1:]
        return [int(float(line.partition(",")[0])) for line in lines]

    def error_beside(self, path: Path) -> str:
        """The text of NAME.toml.error once it is there."""
        error = path.with_name(path.name + ".error")
        until(error.exists, f"{error.name} is there")
        return error.read_text(encoding="utf-8")


def job(keys: Mapping[str, object]) -> str:
    """Write a job file; `train` comes last, as a table."""
    lines = [f"{key} = {format_value(value)}" for key, value in keys.items() if key != "train"]
    train = keys.get("train")
    if isinstance(train, Mapping):
        lines += ["[train]", *(f"{key} = {format_value(value)}" for key, value in train.items())]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def site(folder: str = "", **tables: Mapping[str, object]) -> Iterator[Site]:
    """A server that is torn down whatever happens; on failure it shows what its daemon said."""
    made = Site(folder, **tables)
    try:
        yield made
    except BaseException:
        print(made.said()[-6000:])
        raise
    finally:
        made.close()
