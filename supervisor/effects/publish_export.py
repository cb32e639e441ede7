"""Exports of published weights to other formats, each a step of its own in the job's own Python."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from supervisor import layout
from supervisor.core.model import Job
from supervisor.core.variables import SYSTEM_PATH, passed_on
from supervisor.effects import short_child

PROGRAM = layout.RUNNER / "export.py"
#: TensorRT builds an engine by trying out kernels: half an hour is usual for large models.
EXPORT_S = 2 * 3600.0
#: These are made for the GPU that they are made on.
ON_A_GPU = frozenset({"engine"})

_FORMAT = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_MISSING = re.compile(r"No module named '([\w.-]{1,80})'")
_PASSED_ON = ("LD_LIBRARY_PATH",)
_WEIGHTS = "weights.pt"


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What runner/export.py prints."""

    ok: bool
    path: str = ""
    text: str = ""
    version: int = 1


@dataclass(frozen=True)
class Exported:
    """What became of one format: the file, and how its name goes on after the weights' own; or why there is none."""

    path: Path | None = None
    ending: str = ""
    text: str = ""


@dataclass(frozen=True)
class Exporter:
    """Exports weights. `gpu` names a GPU that nobody uses (as CUDA_VISIBLE_DEVICES takes it), or nothing."""

    gpu: Callable[[], str] = str
    environ: Mapping[str, str] | None = None
    export_s: float = EXPORT_S

    def export(self, weights: Path, kind: str, job: Job, scratch: Path) -> Exported:
        """Export to `kind` inside the folder `scratch`, which is made anew. Never raises for what happens in there.

        OSError only where the folder cannot be made or the weights cannot be copied.
        """
        if not _FORMAT.fullmatch(kind):
            return Exported(text=f"{kind!r} is no format")
        gpu = self.gpu() if kind in ON_A_GPU else ""
        if kind in ON_A_GPU and not gpu:
            return Exported(text=f"{kind} is made for the GPU that it is made on, and none is free now")
        if not Path(job.python).is_file():
            return Exported(text=f"the job's Python is not there: {job.python or 'none is known'}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True, mode=0o700)
        shutil.copyfile(weights, scratch / _WEIGHTS)
        return self._run(scratch, kind, job, gpu)

    def _run(self, scratch: Path, kind: str, job: Job, gpu: str) -> Exported:
        device = "0" if gpu else "cpu"
        argv = [job.python, str(PROGRAM), "--tied", "--device", device, str(scratch / _WEIGHTS), kind]
        try:
            ended = short_child.run(argv, self._environment(job, gpu, scratch), self.export_s, tied=True)
        except OSError as error:
            return Exported(text=f"{job.python} cannot be started: {error.strerror}")
        return _understood(ended, scratch, job, self.export_s)

    def _environment(self, job: Job, gpu: str, scratch: Path) -> dict[str, str]:
        environ = os.environ if self.environ is None else self.environ
        return {
            **passed_on(environ, _PASSED_ON),
            "PATH": f"{Path(job.python).parent}:{SYSTEM_PATH}",
            "TMPDIR": str(scratch),
            "YOLO_CONFIG_DIR": str(scratch),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": gpu,
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def _understood(ended: short_child.Ended, scratch: Path, job: Job, export_s: float) -> Exported:
    if ended.late:
        return Exported(text=f"it was not done after {export_s / 60:.0f} minutes and was ended")
    lines = ended.out.strip().splitlines()
    try:
        answer = msgspec.json.decode(lines[-1] if lines else "", type=_Answer)
    except msgspec.DecodeError:
        last = " ".join(ended.errors.strip().splitlines()[-1:])[:300]
        return Exported(text=f"the export ended with {ended.code}: {last}")
    made = Path(answer.path)
    if not answer.ok:
        return Exported(text=_plainly(answer.text, job))
    stem = _WEIGHTS.removesuffix(".pt")
    if made.parent != scratch or not made.name.startswith(stem) or made.is_symlink():
        return Exported(text=f"the export lies where none is expected: {made}")
    ending = made.name.removeprefix(stem)
    return Exported(path=_packed(made), ending=f"{ending}.tar") if made.is_dir() else Exported(made, ending)


def _packed(folder: Path) -> Path:
    """A folder as one file, which is there whole or not at all, in a shared folder and in an object store."""
    archive = folder.with_name(f"{folder.name}.tar")
    with tarfile.open(archive, "w") as writing:
        writing.add(folder, arcname=folder.name)
    return archive


def _plainly(text: str, job: Job) -> str:
    """What a person must do about the failure that is met most."""
    missing = _MISSING.search(text)
    if missing is None:
        return text
    return f"{missing[1]} is not installed in {job.python}, and an export installs nothing by itself"
