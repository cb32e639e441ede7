"""What can go wrong inside a training, for the toy trainer: each is the real thing, in this very process.

Whatever needs a limit sets one for itself alone. A fault raises, ends the process, or never comes back.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1024 * 1024
NOBODY = 65534
SHM_LINE = (
    "RuntimeError: unable to allocate shared memory(shm) for file </torch_2114_3365428781_37>: "
    "No space left on device (28)"
)


def memory(_options: argparse.Namespace) -> None:
    """Take more memory than the limit of its address space allows."""
    _little_memory()
    bytearray(1024 * MIB)


def threads(_options: argparse.Namespace) -> None:
    """Start a thread for whose stack no address space is left."""
    threading.stack_size(512 * MIB)
    _little_memory()
    threading.Thread(target=time.sleep, args=(1,)).start()


def _little_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    allowed = pages * resource.getpagesize() + 64 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def eat(_options: argparse.Namespace) -> None:
    """Use memory until the kernel ends the process: only for a control group with a limit."""
    held = []
    for _ in range(4096):
        held.append(bytearray(b"\1" * MIB))
        time.sleep(0.001)


def files(_options: argparse.Namespace) -> None:
    """Open more files than the limit allows."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    held = [open(os.devnull, encoding="ascii") for _ in range(64)]  # noqa: SIM115, PTH123 -- to be too many
    print(len(held))


def module(_options: argparse.Namespace) -> None:
    """Import what is not installed."""
    importlib.import_module("a_module_that_nobody_has")


def bug(_options: argparse.Namespace) -> None:
    """Fail in the code itself, always at the same line."""
    anchors: list[float] = []
    print(sum(anchors) / len(anchors))


def crash(_options: argparse.Namespace) -> None:
    """Read at the address zero: SIGSEGV, in compiled code."""
    ctypes.string_at(0)


def abort(_options: argparse.Namespace) -> None:
    """End by SIGABRT, as the C library does when its heap is damaged."""
    print("free(): invalid pointer", flush=True)
    os.abort()


def port(_options: argparse.Namespace) -> None:
    """Listen on a port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        socket.create_server(first.getsockname())


def permission(options: argparse.Namespace) -> None:
    """Open an image that this user may not read."""
    image = options.save_dir / "img_0412.jpg"
    image.touch(mode=0)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    image.read_bytes()


def unreadable(_options: argparse.Namespace) -> None:
    """Read what the system answers with an input/output error."""
    with open("/proc/self/mem", "rb") as file:  # noqa: PTH123 -- no page lies at its beginning
        file.read(1)


def new_file(options: argparse.Namespace) -> None:
    """Make one more file, as a plot or a numbered checkpoint is."""
    (options.save_dir / f"epoch{time.monotonic_ns()}.pt").write_text("weights", encoding="ascii")


def data(options: argparse.Namespace) -> None:
    """Read an image of the data set at `--data`."""
    (options.data / "img_0001.jpg").read_bytes()


def image(_options: argparse.Namespace) -> None:
    """Say what a decoder says of a cut image."""
    raise OSError("image file is truncated (12 bytes not processed)")


def nan(_options: argparse.Namespace) -> None:
    """Give up, as Ultralytics does when the loss stays NaN."""
    raise RuntimeError("Training failed: NaN persisted for 3 epochs")


def terminated(_options: argparse.Namespace) -> None:
    """Be ended by a signal that nobody here sent, without a word."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def interrupted(_options: argparse.Namespace) -> None:
    """Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def processor_time(_options: argparse.Namespace) -> None:
    """Use more processor time than a limit from outside allows."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed + 5))
    _compute()


def rank(_options: argparse.Namespace) -> None:
    """One rank of two is killed: the launcher tells it and leaves."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        child.kill()
        code = child.wait()
    print(
        f"E1122 09:10:11 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: {code}) local_rank: 1"
    )
    raise ChildProcessError(f"Signal {-code} (SIGKILL) received by PID {child.pid}")


# ---- what never comes back
def spin(_options: argparse.Namespace) -> None:
    """Compute for ever, at the same line."""
    _compute()


def _compute() -> None:
    while True:
        pass


def silent(_options: argparse.Namespace) -> None:
    """Wait for ever for a lock that the process holds itself."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def stubborn(_options: argparse.Namespace) -> None:
    """Wait for ever, and let no signal but SIGKILL end that."""
    for number in (signal.SIGTERM, signal.SIGABRT):
        signal.signal(number, signal.SIG_IGN)
    silent(_options)


def fifo(options: argparse.Namespace) -> None:
    """Wait for a worker that waits for an image which never comes."""
    image_file = options.data / "img_0412.jpg"
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.close(read_end)
        os.write(write_end, image_file.read_bytes()[:1])
        os._exit(0)
    os.close(write_end)
    os.read(read_end, 1)


def shared_memory(options: argparse.Namespace) -> None:
    """Say what a worker says that finds /dev/shm full, and wait for its batch for ever, as torch does."""
    print(SHM_LINE, flush=True)
    silent(options)


FAULTS: dict[str, Callable[[argparse.Namespace], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        memory, threads, eat, files, module, bug, crash, abort, port, permission, unreadable, new_file, data,
        image, nan, terminated, interrupted, processor_time, rank, spin, silent, stubborn, fifo, shared_memory,
    )
}  # fmt: skip


def strike(options: argparse.Namespace) -> None:
    """Let the fault of `--fault` happen; with `--fault-once` in one attempt of the run only."""
    mark = Path(os.environ["YOLO_SUPERVISOR_ATTEMPT_DIR"]).parents[1] / "struck"
    if not (options.fault_once and mark.exists()):
        mark.touch()
        FAULTS[options.fault[0]](options)
