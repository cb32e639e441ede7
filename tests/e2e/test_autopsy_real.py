"""Real trainings that hang: the one line names who holds the others up and on which file; then they are aborted."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor import attempt_files, layout
from supervisor.core.actions import Autopsy, Terminate
from supervisor.core.events import AutopsyDone
from supervisor.core.model import Job
from supervisor.effects.autopsy import Autopsist
from supervisor.engines.local import LocalEngine, free_port
from supervisor.machine import blocked_calls, stacks
from tests.shim.real_attempt import Attempt, until

pytestmark = pytest.mark.e2e

TRAIN_PYTHON = os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", "")
BOUND_S = 20.0
TOY = """
import multiprocessing, sys
def imread(path):
    with open(path, "rb") as file:
        return file.read()
def load(path, images):
    images.put(imread(path))
def train():
    images = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=load, args=(path, images)) for path in sys.argv[1:]]
    for worker in workers:
        worker.start()
    for worker in workers:
        images.get()
multiprocessing.set_start_method("fork")
train()
"""
SCAN = """
import sys
from multiprocessing.pool import ThreadPool
def verify(path):
    with open(path, "rb") as file:
        return file.read()
def cache_labels():
    with ThreadPool(4) as pool:
        for _ in pool.imap(verify, [__file__, sys.argv[1]]):
            pass
cache_labels()
"""
LOADER = """
import sys, torch
from torch.utils.data import DataLoader, Dataset
class Images(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return torch.tensor(len(imread(sys.argv[1] if index == 5 else __file__)))
def imread(path):
    with open(path, "rb") as file:
        return file.read()
for batch in DataLoader(Images(), batch_size=1, num_workers=2):
    print(batch, flush=True)
"""
GLOO = """
import sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
one = torch.ones(4)
dist.all_reduce(one)
if dist.get_rank() == 2:
    open(sys.argv[1]).read()
print("second", flush=True)
dist.all_reduce(one)
"""
RANKS = """
import faulthandler, os, subprocess, sys, time
if sys.argv[1:] == ["rank"]:
    if "RANK" in os.environ:
        subprocess.Popen([sys.executable, "-X", "faulthandler", "-c", "import time; time.sleep(100)"])
    faulthandler.enable()
    worker = os.fork()
    print("rank", os.getpid(), worker, flush=True)
    time.sleep(100)
elif sys.argv[1:] == ["torchrun"]:
    ranks = [subprocess.Popen([sys.executable, __file__, "rank"], env={**os.environ, "RANK": str(n)}) for n in range(2)]
    time.sleep(100)
else:
    faulthandler.enable()
    subprocess.run([sys.executable, __file__, "torchrun"])
"""


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    """Give the first attempt of a run; what is left of it is killed."""
    made = Attempt(layout.run_directory(tmp_path, "p", "卡车").attempt(1).root)
    yield made
    made.end_all()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Give an image that never comes."""
    path = tmp_path / "img_0412.jpg"
    os.mkfifo(path)
    return path


def program(tmp_path: Path, code: str) -> str:
    """Write a training script."""
    path = tmp_path / "train.py"
    path.write_text(code, encoding="utf-8")
    return str(path)


def family(attempt: Attempt) -> dict[int, tuple[int, int]]:
    """Return the processes of the attempt, without the shim."""
    return attempt_files.descendants(attempt.started.pid, attempt.started.start_time)


def opener(attempt: Attempt, path: Path) -> Callable[[], int]:
    """Return a look for the process of the attempt that is blocked in the opening of this file."""
    wanted = blocked_calls.Call(name="openat", path=str(path))
    return lambda: next((pid for pid in family(attempt) if blocked_calls.blocked_call(pid) == wanted), 0)


def examine(tmp_path: Path) -> AutopsyDone:
    """Have the attempt examined, and check the promise on time and on what is stored."""
    action = Autopsy(key="k", run="卡车@1", attempt=1, job=Job(name="卡车", project="p", revision="r"), reason="hangs")
    begun = time.monotonic()
    [done] = Autopsist(tmp_path, time.time)(action)
    assert time.monotonic() - begun < BOUND_S
    assert isinstance(done, AutopsyDone)
    summary = msgspec.json.decode((Path(done.directory) / "summary.json").read_bytes())
    print(done.summary, summary["took_s"])
    assert summary["summary"] == done.summary
    return done


def pid_of(wanted: Callable[[], int], what: str, patience_s: float = 20.0) -> int:
    """Return the process once it is there."""
    until(wanted, what, patience_s)
    return wanted()


def test_a_worker_that_waits_for_an_image(tmp_path, attempt, fifo):
    """The worker and the file are named, and that the main process waits for it; nothing is ended by the look."""
    attempt.launch([sys.executable, program(tmp_path, TOY), str(fifo)])
    worker = pid_of(opener(attempt, fifo), "a worker opens the image")
    before = family(attempt)
    done = examine(tmp_path)
    name = stacks.threads(worker)[0].name
    assert done.summary == f"process {name} (pid {worker}) is blocked in open of {fifo}; main process waits for it"
    assert family(attempt) == before
    assert "imread" in (Path(done.directory) / f"stacks-{worker}.txt").read_text()


def test_a_scan_of_labels_that_waits_for_an_image(tmp_path, attempt, fifo):
    """Threads read while the main one waits for a lock: the file is what is told."""
    attempt.launch([sys.executable, program(tmp_path, SCAN), str(fifo)])
    wanted = blocked_calls.Call(name="openat", path=str(fifo))
    pid = attempt.started.pid
    until(lambda: wanted in [blocked_calls.blocked_call(pid, one.tid) for one in stacks.threads(pid)], "a thread opens")
    assert examine(tmp_path).summary == f"main process is blocked in open of {fifo}, in a thread that it waits for"
    [row] = msgspec.json.decode(
        (tmp_path / "p" / "卡车" / "attempts" / "1" / "autopsy" / "processes.json").read_bytes()
    )
    assert row["blocked_call_of_a_thread"]["path"] == str(fifo)


def test_a_stopped_worker(tmp_path, attempt, fifo):
    """SIGSTOP or a debugger is named as such: that is no hang of the training's own."""
    attempt.launch([sys.executable, program(tmp_path, TOY), str(fifo), str(fifo)])
    until(lambda: len(family(attempt)) == 3, "two workers")
    worker = max(family(attempt))
    os.kill(worker, signal.SIGSTOP)
    until(lambda: stacks.state(worker) == "T", "it stops")
    assert f"(pid {worker}) is stopped by a signal such as SIGSTOP (and" not in examine(tmp_path).summary
    assert f"(pid {worker}) is stopped by a signal such as SIGSTOP; main process" in examine(tmp_path).summary


def test_a_process_that_cannot_be_dumped(tmp_path, attempt, fifo, monkeypatch):
    """Neither py-spy nor a signal: in time, and the kernel's view names worker and file all the same."""
    monkeypatch.setattr(stacks, "_program", lambda: None)
    attempt.launch([sys.executable, program(tmp_path, TOY), str(fifo)])
    worker = pid_of(opener(attempt, fifo), "a worker opens the image")
    done = examine(tmp_path)
    assert f"(pid {worker}) is blocked in open of {fifo}; main process waits in the kernel" in done.summary
    assert done.summary.endswith("its Python stack could not be read")
    [row] = [
        row
        for row in msgspec.json.decode((Path(done.directory) / "processes.json").read_bytes())
        if row["pid"] == worker
    ]
    assert row["blocked_call"]["path"] == str(fifo)
    assert "Python stacks: py-spy is not installed; it does not answer the signal for stacks" in row["denied"]


@pytest.mark.skipif(not TRAIN_PYTHON, reason="needs an environment with torch")
def test_a_dataloader_worker_of_torch(tmp_path, attempt, fifo):
    """The second of two workers got the image that never comes; the other one waits for work."""
    script = program(tmp_path, LOADER)
    attempt.launch([TRAIN_PYTHON, script, str(fifo)], HOME=str(tmp_path))
    worker = pid_of(opener(attempt, fifo), "a worker opens the image", 60)
    until(lambda: "tensor" in attempt.log() and stacks.state(attempt.started.pid) == "S", "the others are used up")
    line = f"dataloader worker 2 of 2 (pid {worker}) is blocked in open of {fifo}; main process waits for it"
    assert examine(tmp_path).summary == line


@pytest.mark.slow
@pytest.mark.skipif(not TRAIN_PYTHON, reason="needs an environment with torch")
def test_the_odd_rank_of_a_real_collective(tmp_path, attempt, fifo):
    """Three ranks of torchrun with gloo: one never comes to the second all_reduce, because it waits for an image."""
    words = ["-m", "torch.distributed.run", "--nproc_per_node", "3", "--master_port", str(free_port())]
    attempt.launch([TRAIN_PYTHON, *words, program(tmp_path, GLOO), str(fifo)], HOME=str(tmp_path), OMP_NUM_THREADS="1")
    until(opener(attempt, fifo), "rank 2 opens the image", 90)
    until(lambda: attempt.log().count("second") == 2, "the others are at the second")
    until(lambda: "all_reduce" in examine(tmp_path).summary, "the others wait")
    line = f"every rank but 2 waits in all_reduce; rank 2 is blocked in open of {fifo}"
    assert examine(tmp_path).summary == line


# ---- the ladder behind it
def abort(tmp_path: Path) -> tuple[str, int]:
    """Order the abort; return which signal reached how many."""
    engine = LocalEngine(tmp_path, time.time, allow_download=False)
    [sent] = engine.terminate(Terminate(key="k", run="卡车@1", attempt=1, how="abort", project="p", name="卡车"))
    return sent.signal, sent.count


def test_an_abort_leaves_the_stacks_and_ends_the_training(tmp_path, attempt, fifo):
    """The trainer dies of SIGABRT with its stacks in the log, without a core file; its worker is ended by the shim."""
    attempt.launch([sys.executable, "-X", "faulthandler", program(tmp_path, TOY), str(fifo)])
    worker = pid_of(opener(attempt, fifo), "a worker opens the image")
    assert abort(tmp_path) == ("SIGABRT", 1)
    record = attempt.finish()
    assert record.signal_name == "SIGABRT"
    assert "Fatal Python error: Aborted" in attempt.log()
    assert "in train" in attempt.log()
    assert list(attempt.dir.rglob("core*")) == []
    assert attempt_files.process_start_time(worker) is None


def test_an_abort_reaches_the_ranks_and_not_their_workers(tmp_path, attempt):
    """Trainer and both ranks write their stacks; torchrun and what the ranks forked or started get nothing."""
    attempt.launch([sys.executable, program(tmp_path, RANKS)])
    until(lambda: attempt.log().count("rank") == 4, "two ranks, and the worker of each")
    assert len(family(attempt)) == 8
    assert abort(tmp_path) == ("SIGABRT", 3)
    attempt.finish()
    assert attempt.log().count("Fatal Python error: Aborted") == 3


@pytest.mark.parametrize("env", [{}, {"RANK": "0"}])
def test_an_abort_reaches_no_service_that_catches_it(tmp_path, attempt, env):
    """A logger in Go or Java catches SIGABRT too. Without a RANK, or with that of its parent, it is none of ours."""
    service = f"{sys.executable} -X faulthandler -c 'import time; print(1, flush=True); time.sleep(100)'"
    attempt.launch(["/bin/sh", "-c", f"{service} & wait"], **env)
    until(lambda: "1" in attempt.log(), "it runs")
    assert abort(tmp_path) == ("SIGABRT", 1)
    attempt.finish()
    assert "Fatal Python error" not in attempt.log()


def test_an_abort_of_what_has_ended_signals_nobody(tmp_path, attempt):
    """The order came late: no process, no signal, no error."""
    attempt.python("pass")
    attempt.finish()
    assert abort(tmp_path) == ("SIGABRT", 0)


def test_term_asks_the_trainer_alone(tmp_path, attempt, fifo):
    """A worker that got SIGTERM would die before the trainer could save: only the trainer is asked."""
    attempt.launch(
        [
            sys.executable,
            program(tmp_path, f"import signal\nsignal.signal(15, lambda *_: print('asked', flush=True))\n{TOY}"),
            str(fifo),
        ]
    )
    worker = pid_of(opener(attempt, fifo), "a worker opens the image")
    engine = LocalEngine(tmp_path, time.time, allow_download=False)
    [sent] = engine.terminate(Terminate(key="k", run="卡车@1", attempt=1, how="term", project="p", name="卡车"))
    assert (sent.signal, sent.count) == ("SIGTERM", 1)
    until(lambda: "asked" in attempt.log(), "the trainer is asked")
    assert attempt.log().count("asked") == 1
    assert worker in family(attempt)
