"""Build the fake driver with the system's compiler, once for each state of its source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent
SONAME = "libnvidia-ml.so.1"
FLAGS = ["-std=gnu11", "-O1", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"]


class NoCompilerError(RuntimeError):
    """There is no C compiler, so there is no fake driver."""


def compiler() -> str | None:
    """Return the system's C compiler; None if there is none."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def library(without: tuple[str, ...] = ()) -> Path:
    """Return the built library; `without` names calls that it shall not have, as an old driver's.

    In a test without a compiler the test is skipped, or fails where CI=true. Raises NoCompilerError elsewhere.
    """
    found = compiler()
    if found:
        return _built(found, without)
    if "PYTEST_CURRENT_TEST" not in os.environ:
        raise NoCompilerError("the fake driver needs a C compiler")
    if os.environ.get("CI") == "true":
        pytest.fail("this test needs a C compiler for the fake driver")
    pytest.skip("needs a C compiler for the fake driver")


def _built(found: str, without: tuple[str, ...]) -> Path:
    sources = sorted(SOURCE.glob("*.[ch]"))
    parts = [found, *FLAGS, *without, *(path.read_text(encoding="utf-8") for path in sources)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    target = _cache() / digest / SONAME
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        _compile(found, [path for path in sources if path.suffix == ".c"], without, target)
    return target


def _cache() -> Path:
    """A folder of this user alone: a library that somebody else laid there is never loaded."""
    folder = Path(tempfile.gettempdir()) / f"yolo-supervisor-fake-nvml-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to somebody else, or others may write there")
    return folder


def _compile(found: str, sources: list[Path], without: tuple[str, ...], target: Path) -> None:
    """Compile beside the target and rename, as several test processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        hidden = "".join(f"{name};" for name in without)
        script = Path(work) / "exports"
        script.write_text(f"{{ global: *; {f'local: {hidden}' if hidden else ''} }};\n", encoding="utf-8")
        made = Path(work) / SONAME
        link = [f"-Wl,-soname,{SONAME}", f"-Wl,--version-script={script}", "-o", str(made), *map(str, sources), "-ldl"]
        done = subprocess.run([found, *FLAGS, *link], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the fake driver does not compile:\n{done.stderr}")
        made.rename(target)
