"""What goes into a bundle about a GPU. Each part is bounded in size and time, and says why it is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from supervisor import __version__, attempt_files
from supervisor.config import Config
from supervisor.core.gpus.xids import normal_bus_id
from supervisor.core.plain_text import clean_lines, one_line, plain
from supervisor.core.redact import Redactor
from supervisor.effects import short_child
from supervisor.machine import bounded
from supervisor.machine.kernel_log import KERNEL, KernelLog

ATTEMPTS = 10  # the newest ones
TRIES = 60  # attempts whose launch is looked at for that
LOG_BYTES = 64 * 1024
FILE_BYTES = 256 * 1024
FILES = 12  # of one autopsy
KERNEL_LINES = 3000
KERNEL_BYTES = 1024 * 1024
LOOK_S = 5.0
KERNEL_S = 10.0
SMI_S = 20.0
#: Lines of the driver, of the bus, and of the hardware's own reports of errors.
KERNEL_WORDS = ("NVRM", "nvidia", "pcieport", "AER:", "pciehp", "Hardware Error", "mce:", "EDAC", "DMAR", "nvlink")
_SMI = "nvidia-smi"
_SYSFS = (
    "vendor", "device", "subsystem_vendor", "subsystem_device", "revision", "class", "numa_node", "enable",
    "power_state", "current_link_speed", "current_link_width", "max_link_speed", "max_link_width",
    "aer_dev_correctable", "aer_dev_nonfatal", "aer_dev_fatal",
)  # fmt: skip
_DRIVER = Path("/proc/driver/nvidia/version")
_SYSTEM = Path("/etc/os-release")
_RECORDS = ("started.json", "exit.json")  # not launch.json: it holds the whole environment

View = Mapping[str, Any]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the bundle: a text, or data that becomes JSON. `cut`: what is not in it."""

    name: str
    what: str
    body: str = ""
    data: Any = None
    cut: str = ""

    @property
    def text(self) -> str:
        """All of it as text, as it was found."""
        return self.body if self.data is None else json.dumps(self.data, ensure_ascii=False)

    def rendered(self, redactor: Redactor) -> str:
        """What goes out."""
        if self.data is None:
            return redactor.text(self.body)
        return json.dumps(redactor.data(self.data), ensure_ascii=False, indent=1) + "\n"


class Missing(msgspec.Struct, frozen=True):
    """What is not in the bundle, and why."""

    what: str
    why: str


Found = Iterator[Member | Missing]


def gather(view: View, settings: Config, redactor: Redactor, deadline: float) -> Found:
    """Yield everything, the most telling first. `redactor` learns what the attempts' environments hold as secrets."""
    yield from _known(view)
    yield Member(name="versions.json", what="versions of programs, driver and kernel", data=versions(view))
    looks: tuple[tuple[str, Callable[[], Found]], ...] = (
        ("pci.json", lambda: _pci(view, settings)),
        ("nvidia-smi.txt", lambda: _smi(view)),
        ("kernel-log.txt", lambda: _kernel_log(settings.gpu.kmsg)),
        ("kernel-journal.txt", _kernel_journal),
        ("attempts", lambda: _attempts(view, redactor, deadline)),
    )
    for name, look in looks:
        if time.monotonic() > deadline:
            yield Missing(name, "there was no time left for it")
            continue
        try:
            yield from look()
        except OSError as error:
            yield Missing(name, _reason(error))


def _reason(error: OSError) -> str:
    return one_line(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))


def _known(view: View) -> Found:
    """What the supervisor itself knows."""
    apart = {"passport", "history"}
    told = {key: value for key, value in view.items() if key not in apart}
    yield Member(name="gpu.json", what="how the GPU stands, and the newest values that were read", data=told)
    yield Member(name="passport.json", what="its record for life", data=view["passport"])
    yield Member(name="events.json", what="what was reported about it, the newest last", data=list(view["history"]))


def versions(view: View) -> dict[str, Any]:
    """What runs here."""
    system = dict(line.split("=", 1) for line in _lines(_SYSTEM) if "=" in line)
    try:
        binding = metadata.version("nvidia-ml-py")
    except metadata.PackageNotFoundError:
        binding = "not installed"
    return {
        "yolo-supervisor": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": system.get("PRETTY_NAME", "").strip('"'),
        "driver": view["driver"]["version"],
        "driver_module": next(iter(_lines(_DRIVER)), "not loaded"),
        "nvidia-ml-py": binding,
    }


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []


# ---- the hardware
def _pci(view: View, settings: Config) -> Found:
    bus_id = normal_bus_id(view["bus_id"] or "")
    if not bus_id:
        yield Missing("pci.json", "its place on the bus is not known")
        return
    folder = settings.gpu.pci / bus_id
    found = bounded.ask(
        f"bundle of {folder}", lambda: {"device": _sysfs(folder), "port": _sysfs(_port(folder))}, LOOK_S
    )
    if found["device"]:
        yield Member(name="pci.json", what="the device and its port, as the kernel sees them", data=found)
    else:
        yield Missing("pci.json", f"the kernel does not know {bus_id}")


def _port(folder: Path) -> Path:
    return Path(os.path.realpath(folder)).parent


def _sysfs(folder: Path) -> dict[str, str]:
    found = {}
    for name in _SYSFS:
        with suppress(OSError):
            found[name] = (folder / name).read_text(encoding="ascii", errors="replace").strip()[:4096]
    return found


def _smi(view: View) -> Found:
    """Ask the vendor's own program; not where the driver hangs, for then it would hang too."""
    program = shutil.which(_SMI)
    if program is None:
        yield Missing("nvidia-smi.txt", "nvidia-smi is not installed")
    elif "unresponsive" in (view["state"], view["driver"]["state"]):
        yield Missing("nvidia-smi.txt", "not asked: the driver does not answer, and one more call would hang as well")
    else:
        text = _said([program, "-q", "-i", view["uuid"] or str(view["index"])], SMI_S, FILE_BYTES)
        yield Member(name="nvidia-smi.txt", what="nvidia-smi -q", body=plain(text))


def _said(command: list[str], limit_s: float, kept_bytes: int) -> str:
    """What a program writes, its end. Raises TimeoutError: one that hangs in the kernel is left behind."""
    ended = short_child.run(command, os.environ, limit_s, kept_bytes=kept_bytes)
    if ended.late:
        raise TimeoutError(0, f"no answer within {limit_s:.0f} s", command[0])
    return ended.out + ended.errors


# ---- the kernel
def _kernel_log(kmsg: str) -> Found:
    path = Path(kmsg)
    if not kmsg:
        yield Missing("kernel-log.txt", "the kernel's log is not followed ([gpu] kmsg)")
    elif stat.S_ISFIFO(path.stat().st_mode):
        yield Missing("kernel-log.txt", f"{kmsg} is a pipe: what is read here would be missing elsewhere")
    else:
        lines = bounded.ask(f"bundle of {kmsg}", lambda: _records(path), KERNEL_S)
        what = "lines of the driver, the bus and the hardware since the last start of the machine"
        yield _kernel_member("kernel-log.txt", what, lines)


def _records(path: Path) -> deque[str]:
    """The newest lines that matter; only the kernel's own, for anybody may write into its log."""
    kept: deque[str] = deque(maxlen=KERNEL_LINES)
    with closing(KernelLog(path)) as log:
        for record in log.records():
            if record.facility == KERNEL and any(word in record.text for word in KERNEL_WORDS):
                kept.append(f"[{record.at_s:12.6f}] {one_line(record.text)}")
    return kept


def _kernel_journal() -> Found:
    """What systemd kept of it, over restarts of the machine: a GPU that was lost often needed one."""
    program = shutil.which("journalctl")
    if program is None:
        yield Missing("kernel-journal.txt", "journalctl is not installed")
        return
    words = "|".join(KERNEL_WORDS)
    asked = [program, "-q", "_TRANSPORT=kernel", "-g", words, "--case-sensitive=yes", "-o", "short-iso", "--no-pager",
        "--no-hostname", "-n", str(KERNEL_LINES)]  # fmt: skip
    lines = deque(_said(asked, KERNEL_S, KERNEL_BYTES).splitlines(), maxlen=KERNEL_LINES)
    what = "the same from systemd's journal, over restarts of the machine"
    yield _kernel_member("kernel-journal.txt", what, lines)


def _kernel_member(name: str, what: str, lines: deque[str]) -> Member | Missing:
    if not lines:
        return Missing(name, "nothing of the driver, the bus or the hardware stands in it")
    text = "\n".join(map(one_line, lines))
    cut = f"only the newest {KERNEL_LINES} lines" if len(lines) == KERNEL_LINES else ""
    return Member(name=name, what=what, body=text[-KERNEL_BYTES:] + "\n", cut=cut)


# ---- the trainings
def _attempts(view: View, redactor: Redactor, deadline: float) -> Found:
    """The newest attempts on this GPU: the ends of their logs, how they ended, and what was seen of their hanging."""
    found = list(_on_this_gpu(view))
    if not found:
        yield Missing("attempts", "no attempt on this GPU is known")
    for place, (name, folder) in enumerate(found):
        if time.monotonic() > deadline:
            yield Missing(f"attempts of {name}", "there was no time left for it")
            continue
        if place >= ATTEMPTS:
            yield Missing(name, f"only the newest {ATTEMPTS} attempts are in the bundle")
            continue
        try:
            yield from bounded.ask(f"bundle of {folder}", partial(_attempt, name, folder, redactor), LOOK_S)
        except OSError as error:
            yield Missing(name, _reason(error))


def _on_this_gpu(view: View) -> Iterator[tuple[str, Path]]:
    """The attempts that had it, by run: those that the supervisor knows, and older ones whose launch names it."""
    known = [(one["run"], Path(one["directory"])) for one in view["attempts"] if one.get("directory")]
    seen = {folder for _, folder in known}
    yield from ((f"{run}/{folder.name}", folder) for run, folder in known)
    others = [(run, older) for run, folder in known for older in _older(folder)]
    for run, folder in others[:TRIES]:
        if folder in seen:
            continue
        seen.add(folder)
        with suppress(OSError):
            launch = bounded.ask(f"launch of {folder}", partial(attempt_files.read_launch, folder), LOOK_S)
            shown = launch.env.get("CUDA_VISIBLE_DEVICES", "").split(",") if launch is not None else []
            if view["uuid"] in shown:
                yield f"{run.partition('@')[0]}/{folder.name}", folder


def _older(folder: Path) -> list[Path]:
    """The attempts before this one, the newest first."""
    number = int(folder.name) if folder.name.isdigit() else 0
    return [folder.with_name(str(older)) for older in range(number - 1, max(0, number - ATTEMPTS), -1)]


def _attempt(name: str, folder: Path, redactor: Redactor) -> list[Member | Missing]:
    _learn(folder, redactor)
    base = f"attempts/{name.replace('/', '-').replace('@', '-')}"
    found: list[Member | Missing] = [_log_tail(f"{base}/log.txt", folder / "log")]
    for record in _RECORDS:
        with suppress(OSError):
            text = _start_of(folder / record)[0]
            found.append(Member(name=f"{base}/{record}", what="the record of its start or end", data=_parsed(text)))
    found += _autopsy(base, folder / "autopsy")
    return found


def _learn(folder: Path, redactor: Redactor) -> None:
    """What was secret for the training is secret in its log."""
    launch = attempt_files.read_launch(folder)
    if launch is not None:
        settings = launch.train.settings if launch.train is not None else {}
        redactor.learn_from({"env": launch.env, "argv": list(launch.argv), "settings": settings})


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _log_tail(name: str, path: Path) -> Member | Missing:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES))
            data = file.read(LOG_BYTES)
    except OSError as error:
        return Missing(name, _reason(error))
    cut = f"the first {size - len(data)} bytes" if size > len(data) else ""
    if cut:  # the first line may be the rest of one: half a secret would not be known as one
        data = data.partition(b"\n")[2]
    return Member(name=name, what="the end of the training's log", body="\n".join(clean_lines(data)) + "\n", cut=cut)


def _autopsy(base: str, folder: Path) -> Iterator[Member | Missing]:
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    except OSError:  # most attempts never hang
        return
    for path in files[:FILES]:
        name = f"{base}/autopsy/{path.name}"
        try:
            text, cut = _start_of(path)
        except OSError as error:
            yield Missing(name, _reason(error))
            continue
        yield Member(name=name, what="what it did while it hung", body=plain(text), cut=cut)
    if len(files) > FILES:
        yield Missing(f"{base}/autopsy", f"{len(files) - FILES} more files")


def _start_of(path: Path) -> tuple[str, str]:
    with path.open("rb") as file:
        data = file.read(FILE_BYTES + 1)
    cut = f"all after {FILE_BYTES} bytes" if len(data) > FILE_BYTES else ""
    return data[:FILE_BYTES].decode("utf-8", "replace"), cut
