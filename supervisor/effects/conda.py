"""Find the interpreter of a conda environment by its name, without starting conda."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from supervisor.errors import Problem, UserError

_ROOT_NAMES = ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba", "miniconda", "anaconda")
_SYSTEM_ROOTS = (
    "/opt/conda",
    *(f"/opt/{name}" for name in _ROOT_NAMES),
    *(f"/usr/local/{name}" for name in _ROOT_NAMES),
)


def find(name: str, home: Path, environ: Mapping[str, str], system_roots: tuple[str, ...] = _SYSTEM_ROOTS) -> str:
    """Return the interpreter of environment `name`. Raises UserError where there is none, or more than one."""
    roots = list(dict.fromkeys(_roots(home, environ, system_roots)))
    folders = [folder for folder in _registered(home) if folder.name == name]
    folders += [folder / name for folder in _environment_folders(home, environ)]
    folders += roots if name == "base" else [root / "envs" / name for root in roots]
    found = {os.path.realpath(folder): folder for folder in reversed(folders) if _python(folder)}
    if len(found) == 1:
        return _python(next(iter(found.values())))
    if not found:
        places = [str(home / ".conda/environments.txt"), *(str(root / "envs") for root in roots if root.is_dir())]
        hint = f'looked in {", ".join(places)}; python = "/…/envs/{name}/bin/python" names it by its path'
        wrong = Problem("there is no such conda environment", key="conda", got=f'"{name}"', hint=hint)
    else:
        hint = "name the one that is meant: " + " or ".join(f'python = "{_python(one)}"' for one in found.values())
        wrong = Problem("several conda environments have this name", key="conda", got=f'"{name}"', hint=hint)
    raise UserError(problems=(wrong,))


def _python(folder: Path) -> str:
    path = folder / "bin" / "python"
    return str(path) if path.is_file() and os.access(path, os.X_OK) else ""


def _registered(home: Path) -> list[Path]:
    """Return the environments that conda itself wrote down when it made them."""
    try:
        lines = (home / ".conda" / "environments.txt").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [Path(line.strip()) for line in lines if line.strip().startswith("/")]


def _roots(home: Path, environ: Mapping[str, str], system_roots: tuple[str, ...]) -> Iterator[Path]:
    if environ.get("CONDA_EXE", "").startswith("/"):
        yield Path(environ["CONDA_EXE"]).parent.parent
    if environ.get("MAMBA_ROOT_PREFIX", "").startswith("/"):
        yield Path(environ["MAMBA_ROOT_PREFIX"])
    yield from (home / name for name in _ROOT_NAMES)
    yield from map(Path, system_roots)


def _environment_folders(home: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    yield home / ".conda" / "envs"
    yield from (Path(part) for part in environ.get("CONDA_ENVS_PATH", "").split(":") if part.startswith("/"))
    try:
        text = (home / ".condarc").read_text(errors="replace")
    except OSError:
        return
    block = re.search(r"^envs_dirs:[ \t]*\n((?:[ \t]*-[^\n]*\n?)+)", text, re.MULTILINE)
    for line in block[1].splitlines() if block else ():
        folder = line.strip().removeprefix("-").strip().strip("\"'")
        yield home / folder[2:] if folder.startswith("~/") else Path(folder)
