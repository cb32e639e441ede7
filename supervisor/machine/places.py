"""Which places of the machine a training touches: what it reads and cannot do without, and what it writes."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from supervisor.core.consistency import Data
from supervisor.core.model import Job
from supervisor.layout import RunDirectory
from supervisor.trainers.scripts import FAMILIES, option_value

#: Of a data file, as Ultralytics and the scripts read it (check_det_dataset): where its paths begin, and its splits.
_FOLDERS = re.compile(r"^(path|train|val):[ \t]*(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)
_COMMENT = re.compile(r"(^|[ \t])#.*", re.MULTILINE)
_PUNCTUATION = re.compile(r"""^[ \t]*-[ \t]|[\[\],"']|\n""", re.MULTILINE)
_DATA_BYTES = 1024 * 1024
_BRACKETS = re.compile(r"\[([*?[])\]")  # as glob.escape writes them
_QUOTED = re.compile(r"""['"](/[^'"]+)['"]""")
#: A data set may name thousands of folders; each one costs a look when the training has ended. So many speak for all.
MOST_PLACES = 64
_MODELS = ("model", "pretrained", "distill_model")


class Place(msgspec.Struct, frozen=True):
    """`what` of the job lies at `path`: runs, data, model, interpreter, working folder, temporary files or home."""

    what: str
    path: str


def read(job: Job, data: Data | None = None, datasets_dir: str = "") -> list[Place]:
    """Return what the training reads. `data` is what is known of its data set; else its data file is asked.

    What Ultralytics ships, what is named without a path and plans of models (a scale in their names, yolo11n.yaml, is
    none of the file's) are left out, and what is beyond MOST_PLACES. May hang where a data file's disk is dead.
    """
    arguments = _arguments(job)
    models = [str(arguments.get(name) or "") for name in _MODELS]
    places = [Place("interpreter", job.python), Place("working folder", job.cwd)]
    places += [Place("model", path) for path in models if not path.endswith((".yaml", ".yml"))]
    named = _absolute(str(arguments.get("data") or ""), job.cwd)
    folders = of_data(data) if data is not None else _named_folders(named, job.cwd, datasets_dir)
    places += [Place("data", path) for path in (named, *folders)]
    return [place for place in dict.fromkeys(places) if place.path.startswith("/")][:MOST_PLACES]


def _arguments(job: Job) -> Mapping[str, Any]:
    if job.train is not None:
        return job.train
    options = {"data": "--data", "model": "--weights"} if job.family in FAMILIES else {}
    return {name: option_value(job.command, option) for name, option in options.items()}


def _absolute(path: str, cwd: str) -> str:
    return os.path.normpath(Path(cwd or "/") / path) if path.startswith("/") or (cwd and "/" in path) else ""


def of_data(data: Data) -> list[str]:
    """Return the folders and lists of a data set; those that are not there too."""
    sources = [source for name, split in data.splits.items() if name != "test" for source in split.sources]
    return [path for path in (data.path, data.root, *sources) if path]


def _named_folders(named: str, cwd: str, datasets_dir: str) -> list[str]:
    """Return what a data file names, as far as it is there. It may be written in ways that are not understood here."""
    try:
        with Path(named).open("rb") as file:
            text = file.read(_DATA_BYTES).decode(errors="replace")
    except OSError:  # a folder is named itself
        return []
    text = _COMMENT.sub("", text)
    told = {match[1]: _values(match[2]) for match in _FOLDERS.finditer(text)}
    below = "".join(told.pop("path", [])[:1])
    begins = [cwd, datasets_dir, str(Path(named).parent)] if below else [str(Path(named).parent)]
    roots = [root for root in (Path(begin) / below for begin in begins if begin) if root.exists()][:1]
    return [str(path) for root in roots for path in (root, *_there(root, told.values()))]


def _values(text: str) -> list[str]:
    """Return the texts of one YAML value: a plain one, or a list in either form."""
    return [value.strip() for value in _PUNCTUATION.sub("\0", text).split("\0") if value.strip()]


def _there(root: Path, told: Iterable[list[str]]) -> Iterator[Path]:
    named = islice((root / source for sources in told for source in sources), MOST_PLACES)
    return (path for path in named if path.exists())


def written(job: Job, run_dir: RunDirectory, env: Mapping[str, str] | None = None) -> list[Place]:
    """Return where the training writes. `env` is that of an attempt; else what the next one would get."""
    env = {**os.environ, **job.env} if env is None else env
    temporary = env.get("TMPDIR") or "/tmp"  # noqa: S108 - the trainer's default, nothing of ours goes there
    places = [Place("runs", str(run_dir.root))]
    places += [Place("checkpoints", _folder(job.cwd or str(run_dir.root), one)) for one in job.checkpoint_files]
    places += [Place("temporary files", temporary), Place("home", env.get("HOME", ""))]
    places += [Place("working folder", job.cwd)]
    return [place for place in dict.fromkeys(places) if place.path.startswith("/")]


def _folder(base: str, pattern: str) -> str:
    """Return the folder in which all that a glob can match lies; a character in brackets stands for itself there."""
    folder = Path(base)
    for part in Path(pattern).parent.parts:
        if glob.has_magic(_BRACKETS.sub("", part)):
            break
        folder /= _BRACKETS.sub(r"\1", part)
    return str(folder)


def named(line: str) -> str:
    """Return the path that a line of a log names in quotes, as errors of the system do; empty if there is none."""
    match = _QUOTED.search(line)
    return match[1] if match else ""
