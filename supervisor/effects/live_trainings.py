"""Trainings that people started themselves, as /proc shows them: what runs, where it writes, where its log goes."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.attempt_files import process_start_time
from supervisor.core.plain_text import clean_lines

MARKS = ("args.yaml", "opt.yaml")  # what a training writes into its folder as it begins
LOG_BYTES = 1024 * 1024
SEARCH_DEPTH = 4
SEARCH_FOLDERS = 5000
MARK_BEFORE_S = 2.0  # the clock of /proc has ticks, that of a file system steps
_SKIPPED = {"images", "labels", "datasets", "node_modules", "site-packages", "wandb", "weights"}
_SAVES_TO = re.compile(r"(?:Logging results to|Results saved to)\s+(\S.*)")
_ACCESS_MODE = 0o3  # of open(2): 0 is reading only


@dataclass(frozen=True)
class Training:
    """One process. What /proc hides is empty."""

    pid: int
    start_time: int
    argv: tuple[str, ...]
    cwd: str = ""
    log: str = ""
    env: dict[str, str] = field(default_factory=dict)

    @property
    def started_at(self) -> float:
        """Unix seconds, to a clock tick."""
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_time / os.sysconf("SC_CLK_TCK")
        return time.time() - age_s

    @property
    def is_python(self) -> bool:
        """True for an interpreter with whatever it runs."""
        return bool(self.argv) and Path(self.argv[0]).name.startswith(("python", "pypy"))

    @property
    def words(self) -> tuple[str, ...]:
        """The command without the interpreter: `yolo …`, `train.py …` or `-m torch.distributed.run …`."""
        if not self.is_python:
            return self.argv
        place = next((place for place, word in enumerate(self.argv[1:], 1) if word == "-m" or word[:1] != "-"), 1)
        return self.argv[place:]

    @property
    def is_yolo_command(self) -> bool:
        """True for the command line of Ultralytics, asked to train."""
        words = self.words
        trains = "train" in words[1:] or "mode=train" in words[1:]
        return bool(words) and Path(words[0]).name in {"yolo", "ultralytics"} and trains

    @property
    def trains(self) -> bool:
        """True for what looks like a training: `yolo train`, or a script with train in its name."""
        scripts = (Path(word).name for word in self.words if word.endswith(".py"))
        return self.is_yolo_command or any("train" in name for name in scripts)


def read(pid: int) -> Training | None:
    """Look at one process; None where there is none, or where it is a kernel's or hidden."""
    start_time = process_start_time(pid)
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    if start_time is None or not line:
        return None
    argv = tuple(os.fsdecode(word) for word in line.rstrip(b"\0").split(b"\0"))
    return Training(pid, start_time, argv, cwd=_link(pid, "cwd"), log=_log(pid), env=_environment(pid))


def everyone() -> Iterator[Training]:
    """Every process of this machine that may be looked at, but this one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            found = read(int(entry.name))
            if found is not None:
                yield found


def sign_of_writing(training: Training, folder: Path) -> str:
    """How one sees that this process trains into `folder`, for a person; an empty text where nothing says so.

    Ultralytics holds no file of its folder open: a training says it by its arguments or by where it works.
    """
    below = os.path.realpath(folder) + os.sep
    for path in _open_for_writing(training.pid):
        if path.startswith(below):
            return f"writes {path}"
    if training.is_python and (said := _from_log(training)) is not None and os.path.realpath(said) + os.sep == below:
        return f"says so in {training.log}"
    if not training.trains:
        return ""
    if (training.cwd + os.sep).startswith(below):
        return f"works in {training.cwd}"
    for place in (_from_arguments(training), _named_place(training)):
        if place is not None and os.path.realpath(place) + os.sep == below:
            return f"was told to: {' '.join(training.words)[:200]}"
    return ""


def shows_itself(training: Training) -> bool:
    """True for a training whatever its script is called: it holds a file of a run's folder, or its log names one."""
    return _from_files(training) is not None or _from_log(training) is not None


def folders_of(training: Training) -> list[Path]:
    """Where it saves, the likeliest first: one folder where that is certain, several where a person must say."""
    for certain in (_from_files, _from_log, _from_arguments):
        if (folder := certain(training)) is not None:
            return [folder]
    return _from_marks(training)


def interpreter_of(training: Training) -> str:
    """The Python that it runs in, as its environment calls it: /proc/PID/exe names what a venv only links to."""
    first = training.argv[0]
    if Path(first).name.startswith("python"):
        if first.startswith("/"):
            return first
        if "/" in first and training.cwd:
            return os.path.normpath(Path(training.cwd) / first)
        found = shutil.which(first, path=training.env.get("PATH", ""))
        return found or _link(training.pid, "exe")
    return ""


# ---- where it saves
def _from_files(training: Training) -> Path | None:
    for path in _open_for_writing(training.pid):
        for folder in list(Path(path).parents)[:2]:
            if _is_marked(folder):
                return folder
    return None


def _from_log(training: Training) -> Path | None:
    if not training.log:
        return None
    try:
        with Path(training.log).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES) if _is_huge(file.fileno()) else 0)
            lines = clean_lines(file.read(LOG_BYTES))
    except OSError:
        return None
    said = [match[1].strip() for line in lines if (match := _SAVES_TO.search(line))]
    folder = Path(training.cwd or "/") / said[-1] if said else None
    return folder if folder is not None and _is_marked(folder) else None


def _is_huge(descriptor: int) -> bool:
    return os.fstat(descriptor).st_size > LOG_BYTES


def _from_arguments(training: Training) -> Path | None:
    """A resumed training was given its checkpoint: two folders above is where it goes on."""
    for word in training.argv:
        path = Path(training.cwd or "/") / word.rpartition("=")[2]
        if path.suffix == ".pt" and path.parent.name == "weights" and _is_marked(path.parents[1]):
            resumes = "resume" in word or any("resume" in other for other in training.argv)
            if resumes:
                return path.parents[1]
    return None


def _named_place(training: Training) -> Path | None:
    """The folder that project and name, or save_dir, call for; one that was there before may get a number added."""
    given = dict(_options(training.argv))
    base = Path(training.cwd or "/")
    if "save_dir" in given:
        return base / given["save_dir"]
    return base / given["project"] / given["name"] if {"project", "name"} <= given.keys() else None


def _options(argv: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The options of a command: `name=value`, `--name=value` and `--name value`."""
    for place, word in enumerate(argv):
        name, equals, value = word.lstrip("-").partition("=")
        if equals:
            yield name, value
        elif word.startswith("--"):
            yield name, "".join(argv[place + 1 : place + 2])


def _from_marks(training: Training) -> list[Path]:
    """The folders that were begun after the process was; the one that was begun first is the likeliest."""
    since = training.started_at - MARK_BEFORE_S
    found = {}
    for root in dict.fromkeys(_places(training)):
        for folder in _folders(root):
            with suppress(OSError):
                begun = [(folder / name).stat().st_mtime for name in MARKS if (folder / name).is_file()]
                if begun and min(begun) >= since:
                    found[folder] = min(begun)
    return sorted(found, key=found.__getitem__)


def _places(training: Training) -> Iterator[Path]:
    """Where folders of trainings are looked for: its project, its working folder, and what its settings say."""
    if not training.cwd:
        return
    given = dict(_options(training.argv))
    if given.get("project"):
        yield Path(training.cwd) / given["project"]
    yield Path(training.cwd)
    if runs_dir := _runs_dir(training.env):
        yield Path(training.cwd) / runs_dir


def _runs_dir(env: Mapping[str, str]) -> str:
    """The `runs_dir` of Ultralytics' settings of whoever started it: relative projects begin there since 8.4."""
    base = env.get("YOLO_CONFIG_DIR") or env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME", "/")) / ".config")
    try:
        text = (Path(base) / "Ultralytics" / "settings.json").read_text(encoding="utf-8")
        found = json.loads(text).get("runs_dir")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _folders(root: Path) -> Iterator[Path]:
    """The folders below `root`, itself too, breadth first and not without end."""
    level, count = [root], 0
    for _ in range(SEARCH_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            yield folder
            count += 1
            if count >= SEARCH_FOLDERS:
                return
            with suppress(OSError):
                deeper += [one for one in folder.iterdir() if _is_searched(one)]
        level = deeper


def _is_searched(folder: Path) -> bool:
    name = folder.name
    return not name.startswith(".") and name not in _SKIPPED and folder.is_dir() and not folder.is_symlink()


def _is_marked(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MARKS)


# ---- /proc
def _open_for_writing(pid: int) -> list[str]:
    """The files that a process could write to, now; nothing where that is secret."""
    found = []
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                path = str(entry.readlink())
                if path.startswith("/") and _writes(pid, entry.name) and stat.S_ISREG(entry.stat().st_mode):
                    found.append(path)
    return found


def _writes(pid: int, descriptor: str) -> bool:
    for line in Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines():
        if line.startswith("flags:"):
            return bool(int(line.split()[1], 8) & _ACCESS_MODE)
    return False


def _link(pid: int, name: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return ""


def _log(pid: int) -> str:
    """The file that it writes its output to; nothing for a terminal or a pipe."""
    for standard in ("fd/1", "fd/2"):
        path = _link(pid, standard)
        with suppress(OSError):
            if path and Path(path).is_file() and Path(path).samefile(f"/proc/{pid}/{standard}"):
                return path
    return ""


def _environment(pid: int) -> dict[str, str]:
    try:
        items = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(item).partition("=") for item in items if b"=" in item)
    return {name: value for name, _, value in pairs}


def at_work(folder: Path) -> tuple[Training, str] | None:
    """Return a training that writes into a folder or began there, with how that is known; None if there is none."""
    for training in everyone():
        sign = sign_of_writing(training, folder)
        if not sign and training.trains and "YOLO_SUPERVISOR_RUN" not in training.env:
            known = [os.path.realpath(path) for path in folders_of(training)]
            sign = "began it" if os.path.realpath(folder) in known else ""
        if sign:
            return training, sign
    return None
