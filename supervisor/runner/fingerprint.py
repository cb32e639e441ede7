"""Print, as one JSON object, what a training is made of: ``python fingerprint.py REQUEST``.

Run with the job's interpreter, which has PyYAML, in the trainer's working folder. REQUEST is a JSON object: `data` and
`model` as the job names them, `datasets_dir`, `root` (where a data file's relative `path` begins; null: as Ultralytics
does it) and `budget_s`. Names, counts, sizes and times of files are read, never an image: it takes seconds, and a walk
that would take longer than the budget ends early and says so. Where images lie is found as Ultralytics 8.4 finds it
(check_det_dataset and check_cls_dataset in data/utils.py, get_img_files in data/base.py). Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import heapq
import importlib
import importlib.metadata
import json
import os
import re
import sys
import time
from types import ModuleType
from typing import Any, Callable, Iterator

#: Of all versions from 8.1 on.
IMAGE_SUFFIXES = frozenset(
    ["avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "pfm", "png", "tif", "tiff", "webp"]
)
YAML_SUFFIXES = (".yaml", ".yml")
#: So many of the smallest hashes of file names are kept: a fair sample by which two listings are compared.
SKETCH = 256
BUDGET_S = 20.0
#: Larger weights are told apart by their size and time; reading them would take longer than it is worth.
HASHED_BYTES = 64 * 1024 * 1024
#: Of a data file, what is told in words of its own or says nothing about the training.
_SPOKEN_OF = frozenset({"path", "train", "val", "validation", "test", "minival", "names", "nc", "download"})
_CUDA = re.compile(r"""^cuda\s*(?::[^=]+)?=\s*['"]([^'"]+)['"]""", re.MULTILINE)
_PACKAGE = "yolo_supervisor_runner"

Clock = Callable[[], float]


def fingerprint(request: dict[str, Any], clock: Clock = time.monotonic) -> dict[str, Any]:
    """Return what is known; `problem` says what could not be found out. Never raises for what lies on the disk."""
    deadline = clock() + float(request.get("budget_s") or BUDGET_S)
    found: dict[str, Any] = {"version": 1, "versions": versions(), "data": None, "model": None, "problem": ""}
    try:
        found["model"] = model(str(request["model"])) if request.get("model") else None
        if request.get("data"):
            found["data"] = data(request, lambda: clock() > deadline)
    except Exception as error:  # noqa: BLE001 -- whatever lies there, the caller gets the reason
        found["problem"] = f"{type(error).__name__}: {error}"
    return found


# ---- versions
def versions() -> dict[str, str]:
    """Return the versions that would be imported, without importing them; those that are not there are left out."""
    source = _sibling("versions")
    found = {name: source.source_version(name) for name in ("ultralytics", "torch", "torchvision", "numpy")}
    found["numpy"] = found["numpy"] or _distribution("numpy")
    found["cuda"] = _cuda(source.package_folder("torch"))
    found["python"] = sys.version.split()[0]
    return {name: version for name, version in found.items() if version}


def _distribution(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda(torch: str | None) -> str | None:
    try:
        with open(os.path.join(torch or "", "version.py"), encoding="utf-8") as file:
            match = _CUDA.search(file.read())
    except OSError:
        return None
    return match.group(1) if match else None


def _sibling(name: str) -> ModuleType:
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{name}")


# ---- the model
def model(name: str) -> dict[str, Any]:
    """Return which file the model is, and a hash: of what a plan says, of the bytes of weights that are not huge."""
    path = name if os.path.exists(name) else _shipped("models", name) or name
    found: dict[str, Any] = {"name": name, "path": os.path.abspath(path), "sha256": "", "size_bytes": 0}
    try:
        found["size_bytes"] = os.path.getsize(path)
        if path.endswith(YAML_SUFFIXES):
            found["sha256"] = _hash_of(_read_yaml(path))
        elif found["size_bytes"] <= HASHED_BYTES:
            found["sha256"] = _file_hash(path)
    except FileNotFoundError:
        found["path"] = ""
    return found


def _shipped(kind: str, name: str) -> str | None:
    """Return the file of that name among those that the installed Ultralytics brings."""
    folder = _sibling("versions").package_folder("ultralytics")
    if folder is None or os.sep in name:
        return None
    for below, _folders, files in os.walk(os.path.join(folder, "cfg", kind)):
        if name in files:
            return os.path.join(below, name)
    return None


# ---- the data
def data(request: dict[str, Any], late: Callable[[], bool]) -> dict[str, Any]:
    """Return what the data set holds; `missing` names what is not there."""
    name, datasets = str(request["data"]), str(request.get("datasets_dir") or "")
    path = _data_path(name, datasets)
    if path is None:
        return {"name": name, "path": os.path.abspath(name), "missing": [name]}
    known: dict[str, Any] = {"name": name, "path": os.path.abspath(path), "missing": []}
    if os.path.isdir(path) and not _yaml_in(path):
        return {**known, **_classification(path, late)}
    file = _yaml_in(path) if os.path.isdir(path) else path
    if not file.endswith(YAML_SUFFIXES):  # an archive: what is in it is the trainer's to unpack
        return {**known, "sha256": _file_hash(file)}
    return {**known, **_described(file, request, datasets, late)}


def _data_path(name: str, datasets: str) -> str | None:
    places = [name, _shipped("datasets", name), os.path.join(datasets, name) if datasets else None]
    return next((place for place in places if place and os.path.exists(place)), None)


def _yaml_in(folder: str) -> str:
    """Return the one data file of a folder; an empty text if there is none, or none that stands out."""
    names = [name for name in sorted(os.listdir(folder)) if name.endswith(".yaml")]
    stem = os.path.basename(os.path.normpath(folder))
    names = [name for name in names if name == f"{stem}.yaml"] if len(names) > 1 else names
    return os.path.join(folder, names[0]) if names else ""


def _described(file: str, request: dict[str, Any], datasets: str, late: Callable[[], bool]) -> dict[str, Any]:
    """Return what a data file says and what it leads to."""
    told = _read_yaml(file)
    root = _root(told, file, request, datasets)
    if "val" not in told and "validation" in told:
        told["val"] = told["validation"]
    splits, missing = {}, []
    for split in ("train", "val", "test"):
        sources = [_place(root, source) for source in _listed(told.get(split))]
        absent = [source for source in sources if not os.path.exists(source)]
        missing += absent if split != "test" else []
        if sources:
            splits[split] = _census(root, sources, late)
    return {
        "sha256": _file_hash(file),
        "root": root,
        "names": _names(told),
        "others": {key: _text(value) for key, value in told.items() if key not in _SPOKEN_OF},
        "splits": splits,
        "missing": missing,
    }


def _root(told: dict[str, Any], file: str, request: dict[str, Any], datasets: str) -> str:
    """Return the folder that relative paths begin in: Ultralytics looks below its datasets_dir, the scripts do not."""
    base, path = request.get("root"), str(told.get("path") or "")
    if base:
        return os.path.realpath(os.path.join(base, path))
    root = path or os.path.dirname(os.path.abspath(file))
    if not os.path.isabs(root) and not os.path.exists(root):
        root = os.path.join(datasets, root)
    return os.path.realpath(root)


def _listed(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one]


def _place(root: str, source: str) -> str:
    path = os.path.realpath(os.path.join(root, source))
    if not os.path.exists(path) and source.startswith("../"):
        return os.path.realpath(os.path.join(root, source[len("../") :]))
    return path


def _names(told: dict[str, Any]) -> list[str] | None:
    """Return the classes in the order of their numbers, named as Ultralytics would name them."""
    names = told.get("names")
    if isinstance(names, dict):
        return [str(names[key]) for key in sorted(names, key=int)]
    if isinstance(names, list):
        return [str(name) for name in names]
    return [f"class_{number}" for number in range(int(told["nc"]))] if told.get("nc") else None


def _classification(folder: str, late: Callable[[], bool]) -> dict[str, Any]:
    """Return what a folder with one folder of images per class holds."""
    train = os.path.join(folder, "train")
    validations = ("val", "validation", "valid")
    validation = next((name for name in validations if os.path.isdir(os.path.join(folder, name))), "")
    names = sorted(entry.name for entry in os.scandir(train) if entry.is_dir()) if os.path.isdir(train) else None
    places = {"train": "train", "val": validation, "test": "test"}
    present = {split: os.path.join(folder, name) for split, name in places.items() if name}
    root = os.path.realpath(folder)
    return {
        "root": root,
        "names": names,
        "splits": {split: _census(root, [path], late) for split, path in present.items() if os.path.isdir(path)},
        "missing": [] if os.path.isdir(train) else [train],
    }


# ---- the images
def _census(root: str, sources: list[str], late: Callable[[], bool]) -> dict[str, Any]:
    """Return counts, sizes, times and hashes of the images of one split."""
    found, partial = [], False
    for source in sources:
        for image in _images(source, late):
            if image is None:
                partial = True
                break
            found.append(image)
    names = iter(_short(root, [path for path, _, _ in found]))
    rows = sorted((next(names), size, at) for _, size, at in found)
    hashes = (int.from_bytes(hashlib.sha256(_bytes(name)).digest()[:6], "big") for name, _, _ in rows)
    times = [at for _, _, at in rows]
    return {
        "sources": sources,
        "images": len(rows),
        "size_bytes": sum(size for _, size, _ in rows),
        "oldest_ns": min(times, default=0),
        "newest_ns": max(times, default=0),
        "listing": _rows_hash(f"{name}\t{size}" for name, size, _ in rows),
        "stamps": _rows_hash(f"{name}\t{size}\t{at}" for name, size, at in rows),
        "sketch": heapq.nsmallest(SKETCH, set(hashes)),
        "partial": partial,
    }


def _images(source: str, late: Callable[[], bool]) -> Iterator[tuple[str, int, int] | None]:
    """Yield the images of a folder, or of a text file that lists them; None at the end means that time was up."""
    paths = _walk(source, late) if os.path.isdir(source) else _list_file(source)
    for path in paths:
        if path is None or late():
            yield None
            return
        try:
            status = os.stat(path)
        except OSError:
            continue  # listed, but not there: it is no image
        yield path, status.st_size, status.st_mtime_ns


def _walk(folder: str, late: Callable[[], bool]) -> Iterator[str | None]:
    """Yield what `**/*.*` finds: through links, no hidden names. A folder is entered once, whatever leads there."""
    waiting, seen = [folder], set()
    while waiting:
        if late():
            yield None
            return
        here = waiting.pop()
        try:
            status = os.stat(here)
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_image(entry.name):
                yield entry.path
            elif entry.is_dir():
                waiting.append(entry.path)


def _list_file(source: str) -> list[str]:
    try:
        with open(source, encoding="utf-8-sig", errors="replace") as file:
            lines = file.read().strip().splitlines()
    except OSError:
        return []
    parent = os.path.dirname(source) + os.sep
    paths = [line.replace("./", parent, 1) if line.startswith("./") else line for line in lines]
    return [path for path in paths if _is_image(path)]


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_SUFFIXES and "." in name


def _short(root: str, paths: list[str]) -> list[str]:
    """Return names that stay the same when the whole data set moves: below its root, else below what they share."""
    prefix = os.path.join(root, "")
    outside = [os.path.abspath(path) for path in paths if not path.startswith(prefix)]
    shared = os.path.commonpath([os.path.dirname(path) for path in outside]) if outside else ""
    return [
        path[len(prefix) :] if path.startswith(prefix) else "~/" + os.path.relpath(os.path.abspath(path), shared)
        for path in paths
    ]


# ---- hashes
def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _rows_hash(rows: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_bytes(row) + b"\n")
    return digest.hexdigest()


def _file_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            block = file.read(1024 * 1024)
            if not block:
                return digest.hexdigest()
            digest.update(block)


def _text(value: Any) -> str:
    """Return a value in one spelling: the order of tables is no difference."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _hash_of(value: Any) -> str:
    return hashlib.sha256(_bytes(_text(value))).hexdigest()


def _read_yaml(path: str) -> dict[str, Any]:
    import yaml

    with open(path, encoding="utf-8", errors="ignore") as file:
        told = yaml.safe_load(file)
    if not isinstance(told, dict):
        raise ValueError(f"{path} is no table")  # noqa: TRY004 -- what lies there is wrong, not how we were called
    return told


def main(argv: list[str]) -> int:
    """Print the fingerprint; returns 0, or 2 where there is no request."""
    if len(argv) != 2:
        print("usage: fingerprint.py REQUEST", file=sys.stderr)
        return 2
    json.dump(fingerprint(json.loads(argv[1])), sys.stdout, ensure_ascii=True)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(here)]
    sys.exit(main(sys.argv))
