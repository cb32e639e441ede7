"""A run directory, launch files, and the runner as a real process in it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
#: The newest of the versions before 8.4.
OTHER_VERSION = "8.3.253"
RUNNER = REPOSITORY / "supervisor" / "runner"
FAKE = Path(__file__).resolve().parent / "fake_ultralytics"
TOKEN = 7


def write_checkpoint(path: Path, **content: object) -> Path:
    """Write a file with the outer form of torch's: a stored zip with one pickle, a tensor's record and a version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/data/0", bytes(range(256)) * 64)
        archive.writestr("archive/version", "3\n")
    return path


def interrupted(epoch: int, epochs: int = 5, save_dir: str = "/gone") -> dict[str, object]:
    """Return the content of a checkpoint in the middle of a training."""
    return {
        "epoch": epoch,
        "best_fitness": 0.25,
        "model": None,
        "ema": {"weights": 1},
        "optimizer": {"state": {0: 1}},
        "train_args": {"epochs": epochs, "save_dir": save_dir, "project": "", "name": "train", "resume": False},
    }


def finished(epochs: int = 5) -> dict[str, object]:
    """Return the content of a checkpoint that was stripped at the end of its training."""
    return {"epoch": -1, "model": {"weights": 1}, "ema": None, "optimizer": None, "train_args": {"epochs": epochs}}


@dataclass
class Process:
    """One started runner; every wait has a deadline."""

    popen: subprocess.Popen[bytes]
    beats_file: Path
    log_file: Path

    def wait(self, timeout_s: float = 60) -> int:
        """Return the exit code, negative for a signal."""
        return self.popen.wait(timeout_s)

    def wait_for_beat(self, timeout_s: float = 60, **wanted: object) -> dict[str, object]:
        """Return the first beat with these fields; fails when the process ends or the time is over before."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            alive = self.popen.poll() is None
            for beat in read_beats(self.beats_file):
                if wanted.items() <= beat.items():
                    return beat
            assert alive, f"ended with {self.popen.returncode} before {wanted}: {self.log()[-2000:]}"
            time.sleep(0.01)
        raise AssertionError(f"no beat {wanted} in {timeout_s} s: {self.log()[-2000:]}")

    def log(self) -> str:
        """Return what the process printed."""
        return self.log_file.read_text(errors="replace")

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(30)


def read_beats(path: Path) -> list[dict[str, object]]:
    """Return all complete beats of a file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@dataclass
class Lab:
    """One run directory and the interpreter that trains in it."""

    run_dir: Path
    data: Path
    python: Path = Path(sys.executable)
    real: bool = False
    env: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    processes: list[Process] = field(default_factory=list)

    @property
    def save_dir(self) -> Path:
        """The trainer's folder."""
        return self.run_dir / "train"

    @property
    def last(self) -> Path:
        """The trainer's newest checkpoint."""
        return self.save_dir / "weights" / "last.pt"

    @property
    def attempt_dir(self) -> Path:
        """The newest attempt's folder."""
        return self.run_dir / "attempts" / str(self.attempts)

    def launch(self, **plan: object) -> Path:
        """Write the launch file of a new attempt; `plan` overrides keys of its train section."""
        self.attempts += 1
        self.attempt_dir.mkdir(parents=True)
        train = {
            "args": self.arguments(),
            "device": "cpu",
            "save_dir": str(self.save_dir),
            "resume": None,
            "expected_epoch": None,
            "run_token_file": str(self.run_dir / "token"),
            **plan,
        }
        launch = {"version": 1, "run": "truck@1", "attempt": self.attempts, "token": TOKEN, "train": train}
        (self.run_dir / "token").write_text(json.dumps({"version": 1, "token": TOKEN}))
        (self.attempt_dir / "launch.json").write_text(json.dumps(launch))
        return self.attempt_dir

    def arguments(self, **changes: object) -> dict[str, object]:
        """Return the train arguments of a tiny training."""
        model = REPOSITORY / "tests" / "models" / "tiny.yaml"
        given = {"model": str(model), "data": str(self.data), "epochs": 2, "imgsz": 64, "batch": 16}
        return {**given, "plots": False, "amp": False, **changes}

    def environment(self, **extra: str) -> dict[str, str]:
        """Return a whole environment: nothing of the developer's own settings, never the network."""
        config = self.run_dir / "config"
        config.mkdir(parents=True, exist_ok=True)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.run_dir),
            "LANG": "C.UTF-8",
            "YOLO_CONFIG_DIR": str(config),
            "YOLO_OFFLINE": "1",
            "YOLO_AUTOINSTALL": "0",
            "YOLO_SUPERVISOR_ATTEMPT_DIR": str(self.attempt_dir),
        }
        if not self.real:
            env["PYTHONPATH"] = str(FAKE)
        return {**env, **self.env, **extra}

    def start(self, *command: str | Path, **extra_env: str) -> Process:
        """Start the runner on the newest attempt, or another command in its environment."""
        argv = command or (self.python, RUNNER / "train.py", self.attempt_dir)
        log_file = self.attempt_dir / "log"
        with log_file.open("wb") as log:
            popen = subprocess.Popen(
                [str(part) for part in argv],
                env=self.environment(**extra_env),
                cwd=self.run_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(Process(popen, self.attempt_dir / "beats.jsonl", log_file))
        return self.processes[-1]

    def run(self, **extra_env: str) -> tuple[int, list[dict[str, object]], str]:
        """Run the newest attempt to its end; return exit code, beats and log."""
        process = self.start(**extra_env)
        code = process.wait()
        return code, read_beats(process.beats_file), process.log()

    def terminate(self, process: Process) -> int:
        """Send SIGTERM and return the exit code."""
        process.popen.send_signal(signal.SIGTERM)
        return process.wait(20)


def names(folder: Path) -> list[str]:
    """Return the names in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())


def kinds(beats: list[dict[str, object]]) -> list[object]:
    """Return the kinds of beats, with the phase where it is one."""
    return [beat.get("phase") if beat["kind"] == "phase" else beat["kind"] for beat in beats]


def resume(lab: Lab, epoch: int = 1) -> None:
    """Prepare an attempt that resumes a training interrupted after `epoch`."""
    write_checkpoint(lab.last, **interrupted(epoch, save_dir=str(lab.save_dir)))
    lab.launch(resume=str(lab.last), expected_epoch=epoch)


def end_of(beats: list[dict[str, object]]) -> dict[str, object]:
    """Return the end record, which is the last line and the only one of its kind."""
    assert [beat["kind"] for beat in beats].count("end") == 1
    assert beats[-1]["kind"] == "end"
    return beats[-1]


def hook_script(lab: Lab, *calls: str, **arguments: object) -> Path:
    """Write a user's own training script with a hard-coded resume=False; `calls` replace its one training."""
    given = {"data": str(lab.data), "epochs": 5, "project": str(lab.run_dir), "name": "train", "exist_ok": True}
    train = ", ".join(f"{name}={value!r}" for name, value in {**given, "resume": False, **arguments}.items())
    body = calls or (f"model = YOLO({str(lab.arguments()['model'])!r})", "metrics = model.train(TRAIN)")
    lines = "\n    ".join(call.replace("TRAIN", train) for call in body)
    script = lab.run_dir / "train_dual.py"
    script.write_text(f"from ultralytics import YOLO\n\nif __name__ == '__main__':\n    {lines}\n", encoding="utf-8")
    return script


def launch_hook(lab: Lab, **plan: object) -> None:
    """Write the launch file of a command job with the hook."""
    lab.launch(**{"args": {}, "mode": "hook", "save_dir": "", **plan})


def start_hooked(lab: Lab, *command: str | Path, **extra_env: str) -> Process:
    """Start a program of the user's own with the hook on its path."""
    inherited = lab.environment().get("PYTHONPATH")
    inject = str(RUNNER / "inject") + (os.pathsep + inherited if inherited else "")
    return lab.start(*command, **{"PYTHONPATH": inject, **extra_env})


class RealLabs:
    """Makes run directories for the real library and ends what is left in them."""

    def __init__(self, python: Path, data: Path, folder: Callable[[str], Path]) -> None:
        self._python, self._data, self._folder = python, data, folder
        self._labs: list[Lab] = []

    def make(self, name: str, **env: str) -> Lab:
        """Return a new run directory; `env` is added to the environment of its trainings."""
        run_dir = self._folder(name) / "run"
        run_dir.mkdir()
        self._labs.append(Lab(run_dir, self._data, self._python, real=True, env=env))
        return self._labs[-1]

    def end_all(self) -> None:
        """Kill what still runs."""
        for made in self._labs:
            for process in made.processes:
                process.end()
