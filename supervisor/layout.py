"""The only place that knows paths: of a run, of the state directory, of the files beside a job file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
SHIM = PACKAGE / "shim.py"
RUNNER = PACKAGE / "runner"
TRAIN = RUNNER / "train.py"
CHECKPOINT = RUNNER / "checkpoint.py"
DEEP_CHECK = RUNNER / "deep_check.py"
DESCRIBE = RUNNER / "describe.py"
DRAW = RUNNER / "draw.py"
DRILL = RUNNER / "drill.py"
FINISH_SCRIPT = RUNNER / "finish_script.py"
GPU_TEST = RUNNER / "gpu_test.py"
INJECT = RUNNER / "inject"

IGNORED_SUFFIXES = ("~", ".swp", ".swx", ".part", ".tmp", ".crdownload", ".error")


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run. Nothing of ours lies inside `train`: a multi-GPU start of Ultralytics deletes it."""

    root: Path

    @property
    def job(self) -> Path:
        """The bytes that were checked: what was checked is what runs."""
        return self.root / "job.toml"

    @property
    def token(self) -> Path:
        """The fence: who holds the run now."""
        return self.root / "token"

    @property
    def train(self) -> Path:
        """The trainer's save_dir."""
        return self.root / "train"

    @property
    def weights(self) -> Path:
        """Where Ultralytics keeps last.pt and best.pt."""
        return self.train / "weights"

    @property
    def results(self) -> Path:
        """The trainer's table of epochs."""
        return self.train / "results.csv"

    @property
    def mark(self) -> Path:
        """A random word that names this training among all others, such as for the loggers' curves."""
        return self.root / "mark"

    @property
    def good(self) -> Path:
        """The ledger: verified private copies of checkpoints."""
        return self.root / "good"

    @property
    def cadence(self) -> Path:
        """What was learned about how long this training is used to stand still."""
        return self.root / "cadence.json"

    @property
    def start(self) -> Path:
        """The checkpoint of another run with whose weights this one begins."""
        return self.root / "start.pt"

    @property
    def settings(self) -> Path:
        """YOLO_CONFIG_DIR of the run: a copy of the owner's Ultralytics settings."""
        return self.root / "settings"

    def attempt(self, number: int) -> AttemptDirectory:
        """The folder of one attempt."""
        return AttemptDirectory(self.root / "attempts" / str(number))


@dataclass(frozen=True)
class AttemptDirectory:
    """The folder of one attempt, shared with the shim and the runner."""

    root: Path

    @property
    def launch(self) -> Path:
        """What the shim and the runner are told."""
        return self.root / "launch.json"

    @property
    def lock(self) -> Path:
        """Held by the shim until nothing of the attempt is left."""
        return self.root / "shim.lock"

    @property
    def started(self) -> Path:
        """The shim's record of the start."""
        return self.root / "started.json"

    @property
    def exit(self) -> Path:
        """The shim's record of the end."""
        return self.root / "exit.json"

    @property
    def log(self) -> Path:
        """Standard output and error of the trainer."""
        return self.root / "log"

    @property
    def beats(self) -> Path:
        """Heartbeats of the runner, one JSON object a line."""
        return self.root / "beats.jsonl"

    @property
    def final(self) -> Path:
        """The runner's copy of the last save, made before the trainer strips it."""
        return self.root / "final.pt"

    @property
    def autopsy(self) -> Path:
        """What a hanging attempt did before it was ended."""
        return self.root / "autopsy"

    @property
    def aside(self) -> Path:
        """What was replaced before this attempt: bad checkpoints, the untrimmed results.csv."""
        return self.root / "aside"


def run_directory(runs_dir: Path, project: str, name: str) -> RunDirectory:
    """The folder of a run. Both names were checked against the contract's pattern: they cannot climb."""
    return RunDirectory(runs_dir / project / name)


def with_directories(view: dict[str, Any], runs_dir: Path) -> dict[str, Any]:
    """A view whose `attempts` name run and number, with the folder of each."""
    attempts = [
        {**one, "directory": str(run_directory(runs_dir, one["project"], one["name"]).attempt(one["attempt"]).root)}
        for one in view["attempts"]
    ]
    return {**view, "attempts": attempts}


def journal_file(state_dir: Path) -> Path:
    """The SQLite database with events, actions and rows."""
    return state_dir / "journal.sqlite"


def reserve_file(state_dir: Path) -> Path:
    """Space given up when the disk is full, so that the journal can be written once more."""
    return state_dir / "journal.reserve"


def lock_file(state_dir: Path) -> Path:
    """Held by the one daemon of this state directory; holds its pid."""
    return state_dir / "daemon.lock"


def kernel_place(state_dir: Path) -> Path:
    """How far the kernel log was read."""
    return state_dir / "kernel-log.json"


def reboot_record(state_dir: Path) -> Path:
    """By which order the machine was restarted last: no order does it twice."""
    return state_dir / "reboot.json"


def restored_file(state_dir: Path) -> Path:
    """Says that the journal came from a backup, until the daemon has taken note of it."""
    return state_dir / "restored.json"


def interpreter_cache(state_dir: Path) -> Path:
    """What is known about the jobs' interpreters."""
    return state_dir / "interpreters.json"


def error_file(job_file: Path) -> Path:
    """Where the reasons of a refusal are written: NAME.toml.error beside NAME.toml."""
    return job_file.with_name(job_file.name + ".error")


def done_folder(jobs_folder: Path) -> Path:
    """Where the job files of ended runs go."""
    return jobs_folder / "done"


def is_job_file(name: str) -> bool:
    """True for names that are taken as jobs: *.toml, but no dotfile, backup, swap or half-copied file."""
    return name.endswith(".toml") and not name.startswith((".", "#")) and not name.endswith(IGNORED_SUFFIXES)
