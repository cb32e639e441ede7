"""Whether a resume would still train what the run trained before. Two fingerprints become a list of differences.

harmless (said, and the run goes on)
    The data file's bytes without its content; times of images; more images; up to 5 % of the images gone, or their
    total size changed by up to 20 %; anything about `test`: the training learns the same, or a little less or more.
    Other keys of the data file: the trainer reads them anew. Weights that the run began from, a model's file that is
    gone: a resume takes both from its checkpoint. Python, torch, torchvision, numpy, CUDA, how many GPUs and which: the
    checkpoint fits them all. imgsz and batch after an edit of the job file or by a stage: that was wanted.
repairable (said, and the trainer is told the new place)
    The data set, the root that its file names, or the run directory lies elsewhere.
held (a person must agree)
    Number, order or names of the classes, kpt_shape, channels: the labels would mean something else. More images
    gone or rewritten, another model: it would be another training under the old name. imgsz or batch without an edit
    of the job file: nobody asked for it. Ultralytics' version: how it resumes changes with it.

Data that is not there at all is no difference but a failure (`lost`). Nothing is compared with what could
not be looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, Literal

import msgspec

#: More of the images gone than this, and a person must look: a disk half copied, a folder moved away.
GONE_HELD = 0.05
#: The same for the change of their total size while their names stay.
REWRITTEN_HELD = 0.2

Kind = Literal["harmless", "repairable", "held"]

#: Versions of Ultralytics that harm a resume, each with its source (issues of ultralytics/ultralytics).
KNOWN_BAD = {
    "8.3.175": "is known to skip an epoch at a resume (issue 22363)",
    "8.3.193": "is known to resume into another folder, so that last.pt never advances (issue 21963)",
}
#: torch 2.6 loads only plain weights by default; Ultralytics before 8.2 did not know that yet (measured with 8.1.47).
_TORCH_REFUSES, _KNOWS_TORCH = (2, 6), (8, 2)


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """The images of one split: where they are listed, how many, how large, and hashes of names, sizes and times.

    `sketch` holds the smallest hashes of the names: of equal images, the same ones. `partial`: there were too many to
    walk through them in time.
    """

    sources: tuple[str, ...] = ()
    images: int = 0
    size_bytes: int = 0
    oldest_ns: int = 0
    newest_ns: int = 0
    listing: str = ""
    stamps: str = ""
    sketch: tuple[int, ...] = ()
    partial: bool = False


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """A data set: its file, its classes in their order, its splits, and the `missing` paths."""

    name: str
    path: str = ""
    sha256: str = ""
    root: str = ""
    names: tuple[str, ...] | None = None
    others: dict[str, str] = {}
    splits: dict[str, Split] = {}
    missing: tuple[str, ...] = ()


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The model that the run began with; without a `path` its file is not there. The hash is of what a plan says."""

    name: str
    path: str = ""
    sha256: str = ""
    size_bytes: int = 0

    @property
    def is_plan(self) -> bool:
        """True for a description, False for weights."""
        return PurePath(self.name).suffix in {".yaml", ".yml"}


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt was made of. `problem` says why data or model could not be looked at.

    `stage` is the epoch from which the planned stage that counts began; `arguments` are imgsz and batch. `gpu_names`:
    the products of its GPUs, empty where they are not known.
    """

    revision: str = ""
    run_dir: str = ""
    gpus: int | None = None
    gpu_names: tuple[str, ...] = ()
    stage: int = 0
    arguments: dict[str, Any] = {}
    data: Data | None = None
    model: Model | None = None
    versions: dict[str, str] = {}
    problem: str = ""


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as it was."""

    kind: Kind
    text: str


def compare(old: Fingerprint, new: Fingerprint) -> tuple[Difference, ...]:
    """Every difference between two attempts of a run, each classified by the table above."""
    found = [*_places(old, new), *_devices(old, new), *_arguments(old, new), *_versions(old.versions, new.versions)]
    if old.model is not None and new.model is not None:
        found += _model(old.model, new.model)
    if old.data is not None and new.data is not None and not old.data.missing and not new.data.missing:
        found += _data(old.data, new.data)
    return tuple(found)


def digest(held: Sequence[Difference]) -> str:
    """A short name of just these differences, for a person's agreement to them; nothing for none."""
    return hashlib.sha256("\n".join(one.text for one in held).encode()).hexdigest()[:16] if held else ""


def lost(old: Fingerprint, new: Fingerprint) -> str:
    """What of the data is not there at all: its file, a folder, a whole split."""
    if old.data is None or new.data is None:
        return ""
    missing = [path for path in new.data.missing if path not in old.data.missing]
    if missing:
        return f"{missing[0]} is not there"
    nothing = None if new.data.sha256 else Split()  # a folder per split: without a file that no longer names it
    for name in ("train", "val"):
        had, has = old.data.splits.get(name), new.data.splits.get(name, nothing)
        if had is not None and had.images and has is not None and not has.images and not has.partial:
            return f"{', '.join(has.sources or had.sources)} held {had.images} images and holds none"
    return ""


# ---- the job's side
def _places(old: Fingerprint, new: Fingerprint) -> Iterator[Difference]:
    if old.run_dir and new.run_dir and old.run_dir != new.run_dir:
        text = f"the run directory moved from {old.run_dir} to {new.run_dir}: the trainer is told"
        yield Difference("repairable", text)


def _devices(old: Fingerprint, new: Fingerprint) -> Iterator[Difference]:
    known = bool(old.gpu_names and new.gpu_names) and all((*old.gpu_names, *new.gpu_names))
    other_model = known and sorted(old.gpu_names) != sorted(new.gpu_names)
    if old.gpus is None or new.gpus is None or (old.gpus == new.gpus and not other_model):
        return
    yield Difference("harmless", f"moves from {_places_of(old)} to {_places_of(new)}; {_batch(new)}")


def _batch(new: Fingerprint) -> str:
    """What becomes of the total batch: each GPU gets the same whole part of it."""
    batch = new.arguments.get("batch")
    if not isinstance(batch, int | float) or batch < 1:
        return "the total batch in the checkpoint is kept"
    rest = int(batch) % max(1, new.gpus or 1)
    return f"the total batch of {batch:g} is kept" + (f", but for {rest} that no equal parts can hold" if rest else "")


def _places_of(one: Fingerprint) -> str:
    """Such as `2 x NVIDIA A100`, `1 x NVIDIA A100, 1 x NVIDIA L40S`, `2 GPUs` or `the CPU`."""
    if one.gpus and all(one.gpu_names) and len(one.gpu_names) == one.gpus:
        return ", ".join(f"{one.gpu_names.count(name)} x {name}" for name in dict.fromkeys(sorted(one.gpu_names)))
    return "the CPU" if not one.gpus else "1 GPU" if one.gpus == 1 else f"{one.gpus} GPUs"


def _arguments(old: Fingerprint, new: Fingerprint) -> Iterator[Difference]:
    if old.stage != new.stage:
        return  # the plan changed them, and says so itself
    for name in sorted(old.arguments.keys() & new.arguments.keys()):
        before, now = old.arguments[name], new.arguments[name]
        if before == now:
            continue
        if old.revision == new.revision:
            text = f"{name} was {before} and is {now}, and the job file was not edited"
            yield Difference("held", text)
        else:
            yield Difference("harmless", f"{name} is {now} from now on, it was {before}: the job says so now")


def _versions(old: dict[str, str], new: dict[str, str]) -> Iterator[Difference]:
    for name in sorted(old.keys() & new.keys()):
        if old[name] == new[name]:
            continue
        if name == "ultralytics":
            why = "a resume may read the checkpoint otherwise, and go on otherwise"
            yield Difference("held", f"Ultralytics was {old[name]} and is {new[name]}: {_known_bad(new) or why}")
        else:
            title = {"python": "Python", "cuda": "CUDA"}.get(name, name)
            yield Difference("harmless", f"{title} was {old[name]} and is {new[name]}")
    if old.get("torch") != new.get("torch") and old.get("ultralytics") == new.get("ultralytics") and _unreadable(new):
        yield Difference("held", f"Ultralytics {_known_bad(new)}")


def _known_bad(versions: dict[str, str]) -> str:
    """What is known against a version of Ultralytics, with its torch; or nothing."""
    version = versions.get("ultralytics", "")
    if _unreadable(versions):
        return f"{version} cannot read its own checkpoints with torch {versions['torch']}: it needs torch below 2.6"
    return f"{version} {KNOWN_BAD[version]}" if version in KNOWN_BAD else ""


def _unreadable(versions: dict[str, str]) -> bool:
    torch, ultralytics = _numbers(versions.get("torch", "")), _numbers(versions.get("ultralytics", ""))
    return bool(torch and ultralytics) and torch >= _TORCH_REFUSES and ultralytics < _KNOWS_TORCH


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor; nothing for what is no version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else ()


# ---- the model
def _model(old: Model, new: Model) -> Iterator[Difference]:
    same = bool(old.sha256) and old.sha256 == new.sha256
    if not new.path:
        yield Difference(
            "harmless", f"the model's file {new.name} is gone; a resume takes the model from its checkpoint"
        )
    elif old.name != new.name and not same:
        yield Difference("held", f"the model was {old.name} and is {new.name}: a resume would go on with the old one")
    elif old.name != new.name:
        yield Difference("repairable", f"the model's file moved from {old.name} to {new.name}")
    elif same or not old.path or (old.sha256 == new.sha256 and old.size_bytes == new.size_bytes):
        return
    elif new.is_plan:
        yield Difference("held", f"{new.name} describes another model now: a resume would go on with the old one")
    else:
        yield Difference("harmless", f"{new.name} holds other weights now; a resume takes those of its checkpoint")


# ---- the data
def _data(old: Data, new: Data) -> Iterator[Difference]:
    found = [*_moved(old, new), *_classes(old, new), *_others(old.others, new.others)]
    for name in sorted(old.splits.keys() | new.splits.keys()):
        found += _split(name, old.splits.get(name), new.splits.get(name))
    yield from found
    if not found and old.sha256 != new.sha256:
        yield Difference("harmless", f"{new.path} was edited, but what it says is the same")


def _moved(old: Data, new: Data) -> Iterator[Difference]:
    if old.path != new.path:
        yield Difference("repairable", f"the data set moved from {old.path} to {new.path}: the trainer is told")
    elif old.root != new.root:
        yield Difference("repairable", f"the images moved from {old.root} to {new.root}, as {new.path} says")


def _classes(old: Data, new: Data) -> Iterator[Difference]:
    before, now = old.names, new.names
    if before is None or now is None or before == now:
        return
    if len(before) != len(now):
        more = [name for name in now if name not in before]
        less = [name for name in before if name not in now]
        words = [f"new: {_some(more)}"] if more else []
        words += [f"gone: {_some(less)}"] if less else []
        text = f"the data set had {len(before)} classes and has {len(now)} ({'; '.join(words) or 'names twice'})"
    elif sorted(before) == sorted(now):
        text = f"the order of the classes changed: {_first_changes(before, now)}"
    else:
        text = f"classes have other names: {_first_changes(before, now)}"
    yield Difference("held", text)


def _first_changes(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    changes = [
        f"{number} was {one} and is {other}"
        for number, (one, other) in enumerate(zip(before, now, strict=True))
        if one != other
    ]
    return _some(changes)


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _others(old: dict[str, str], new: dict[str, str]) -> Iterator[Difference]:
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if before == now:
            continue
        kind: Kind = "held" if key in {"kpt_shape", "channels"} else "harmless"
        text = f"{key} of the data file was {_short(before)} and is {_short(now)}"
        yield Difference(kind, text)


def _short(value: str | None) -> str:
    if value is None:
        return "not there"
    return value if len(value) <= 60 else value[:59] + "…"


def _split(name: str, old: Split | None, new: Split | None) -> Iterator[Difference]:
    trained = name != "test"
    if old is None or new is None:
        what = f"{name}: there are {new.images} images now" if new is not None else f"{name} is not named any more"
        yield Difference("held" if trained and new is None else "harmless", what)
        return
    if old.partial or new.partial:
        yield Difference("harmless", f"{name}: too many images to count them in time; they were not compared")
        return
    if old.listing == new.listing:
        if old.stamps != new.stamps:
            yield Difference("harmless", f"{name}: images were touched, none was added, removed or resized")
        return
    share = gone(old, new)
    much = share > GONE_HELD or (old.images == new.images and _resized(old, new) > REWRITTEN_HELD)
    yield Difference("held" if trained and much else "harmless", f"{name}: {_change(old, new, share)}")


def gone(old: Split, new: Split) -> float:
    """The share of the old images whose names are not there any more, 0 to 1; of large sets, estimated.

    Both sketches are the smallest hashes of their names. Up to the largest hash in the new sketch every new name is
    in it, so there the old names that are missing are counted; a set that only grew is never said to have lost any.
    """
    complete = len(new.sketch) >= new.images
    known = set(new.sketch)
    sample = [one for one in old.sketch if complete or one <= max(known, default=-1)]
    counted = sum(one not in known for one in sample) / len(sample) if sample else 0.0
    return max(counted, 1 - new.images / old.images if old.images else 0.0)


def _resized(old: Split, new: Split) -> float:
    return abs(new.size_bytes - old.size_bytes) / max(1, old.size_bytes)


def _change(old: Split, new: Split, share: float) -> str:
    counts = f"{old.images} images → {new.images}"
    if share:
        return f"{counts}; {_percent(share)} of the old ones are gone or have other names"
    if old.images == new.images:
        return f"images were rewritten: {old.size_bytes} bytes → {new.size_bytes}"
    return f"{counts}; none of the old ones is gone"


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
