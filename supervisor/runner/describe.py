"""Print, as one JSON object, what this Python knows about training: ``python describe.py``.

Run with the job's interpreter, which may have any version of Ultralytics: argument names and types are asked from
that version itself, so that a job file is checked against what will really read it. What could not be found out is
null; if nothing could, the object has the key "error". Everything else that is printed goes to stderr.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import site
import sys
import sysconfig
from types import ModuleType
from typing import Any, Iterator

#: Import names, and the attribute that must be there: a torchvision built for another torch dies at its operators.
REQUIRED = (("ultralytics", "YOLO"), ("torch", "Tensor"), ("torchvision.ops", "nms"), ("cv2", "imread"))
#: Which set of the library's `cfg` module means which types.
_TYPE_SETS = {
    "CFG_FLOAT_KEYS": ("int", "float"),
    "CFG_FRACTION_KEYS": ("int", "float"),
    "CFG_INT_KEYS": ("int",),
    "CFG_BOOL_KEYS": ("bool",),
    "CFG_STR_KEYS": ("str",),
}
#: The library's own note on an argument in its default.yaml, such as "(int | list, optional)".
_NOTE = re.compile(r"^(\w+):[^#\n]*#\s*\(([^)]*)\)", re.MULTILINE)
_NOTED_TYPES = {"int": "int", "float": "float", "bool": "bool", "str": "str", "list": "list", "tuple": "list"}
_WEIGHTS = re.compile(r"^yolo[\w.-]*\.pt$")
#: Named in `check_resume` for other reasons than to be changed.
_NEVER_CHANGED = frozenset({"device", "mode", "model", "pretrained", "resume", "save_dir"})
_PACKAGE = "yolo_supervisor_runner"


def describe() -> dict[str, Any]:
    """Return all that is known of this interpreter; never raises."""
    versions = _sibling("versions")
    found: dict[str, Any] = {
        "version": 1,
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "site_packages": _site_packages(),
        "ultralytics": versions.source_version("ultralytics"),
        "ultralytics_path": versions.package_folder("ultralytics"),
        "torch": versions.source_version("torch"),
        "cuda": None,
    }
    found["missing_reasons"] = dict(_failed_imports())
    found["missing"] = sorted(found["missing_reasons"])
    try:
        found["cuda"] = None if "torch" in found["missing"] else _has_cuda()
        found.update(_of_ultralytics(found["ultralytics_path"]))
    except Exception as error:  # noqa: BLE001 -- whatever this version of the library does, the caller gets the reason
        found["error"] = f"{type(error).__name__}: {error}"
    return found


def _sibling(name: str) -> ModuleType:
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{name}")


def _site_packages() -> list[str]:
    """Return the folders in which packages of this interpreter lie: a change of their mtime is an installation."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def _failed_imports() -> Iterator[tuple[str, str]]:
    """Yield the packages that training needs and that do not import, each with the reason."""
    for name, attribute in REQUIRED:
        try:
            getattr(importlib.import_module(name), attribute)
        except Exception as error:  # noqa: BLE001, PERF203 -- an import runs code of any kind, four times
            yield name.split(".", maxsplit=1)[0], f"{type(error).__name__}: {error}"


def _has_cuda() -> bool:
    # Asks NVML, which leaves the GPU alone; CUDA itself would need memory on each.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return bool(importlib.import_module("torch").cuda.is_available())


def _of_ultralytics(folder: str) -> dict[str, Any]:
    """Return what its configuration, settings and files say; raises whatever its import raises."""
    cfg = importlib.import_module("ultralytics.cfg")
    settings = importlib.import_module("ultralytics.utils").SETTINGS
    return {
        "train_args": train_arguments(cfg, os.path.join(folder, "cfg", "default.yaml")),
        "model_cfgs": _yaml_names(os.path.join(folder, "cfg", "models")),
        "dataset_cfgs": _yaml_names(os.path.join(folder, "cfg", "datasets")),
        "weights_dir": os.path.abspath(str(settings["weights_dir"])),
        "datasets_dir": os.path.abspath(str(settings["datasets_dir"])),
        "settings": {name: str(settings[name]) for name in ("weights_dir", "datasets_dir")},
        "amp_check_weights": amp_check_weights(os.path.join(folder, "utils", "checks.py")),
        "resume_keys": resume_keys(os.path.join(folder, "engine", "trainer.py"), cfg.DEFAULT_CFG_DICT),
    }


def train_arguments(cfg: Any, default_yaml: str) -> dict[str, dict[str, Any]]:
    """Return each argument's types and default. Types: int float bool str list null; none at all = anything goes.

    The library checks some arguments by sets of names in its code and leaves the others to the notes in its
    default.yaml; both are asked, what either allows is listed.
    """
    notes = _notes(default_yaml)
    arguments = {}
    for name, default in cfg.DEFAULT_CFG_DICT.items():
        types = set(notes.get(name, ()))
        for set_name, meant in _TYPE_SETS.items():
            if name in getattr(cfg, set_name, ()):
                types.update(meant)
        if "float" in types:
            types.add("int")  # TOML writes 1 where 1.0 is meant
        if types and default is None:
            types.add("null")
        arguments[name] = {"types": sorted(types), "default": default}
    return arguments


def _notes(default_yaml: str) -> dict[str, set[str]]:
    try:
        with open(default_yaml, encoding="utf-8") as file:
            found = _NOTE.findall(file.read())
    except OSError:
        return {}
    notes = {}
    for name, note in found:
        words = set(re.findall(r"[a-z]+", note))
        types = {_NOTED_TYPES[word] for word in words if word in _NOTED_TYPES}
        notes[name] = types | ({"null"} if types and "optional" in words else set())
    return notes


def _yaml_names(folder: str) -> list[str]:
    files = (name for _folder, _folders, names in os.walk(folder) for name in names)
    return sorted(name for name in files if name.endswith((".yaml", ".yml")))


def amp_check_weights(checks_source: str) -> str | None:
    """Return the weights file that the library's check of mixed precision loads, read from its source; or None.

    Every start on a GPU loads it, or downloads it, which an offline machine cannot.
    """
    return next((text for text in _texts_in(checks_source, "check_amp") if _WEIGHTS.match(text)), None)


def resume_keys(trainer_source: str, known: Any) -> list[str]:
    """Return which arguments the library's `check_resume` takes from its caller, read from its source; `known` are all.

    None at all: this version says it in another way. Its own bookkeeping is left out.
    """
    return sorted(set(_texts_in(trainer_source, "check_resume")).intersection(known) - _NEVER_CHANGED)


def _texts_in(source: str, name: str) -> Iterator[str]:
    """Yield the text constants in the functions of that name; nothing of a file that cannot be read."""
    try:
        with open(source, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    for function in functions:
        for node in ast.walk(function):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def main() -> int:
    """Print the description; returns 0, or 1 if it holds an error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the library logs to stdout, native code too
    try:
        found = describe()
    except Exception as error:  # noqa: BLE001 -- the caller always gets JSON
        found = {"version": 1, "executable": sys.executable, "error": f"{type(error).__name__}: {error}"}
    with out:
        json.dump(found, out, default=str)
        out.write("\n")
    return 1 if "error" in found else 0


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(here)]
    sys.exit(main())
