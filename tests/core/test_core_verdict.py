"""From stacks, as py-spy and faulthandler wrote them of real trainings, to one line that names the culprit."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.core.diagnosis.frames import main_thread
from supervisor.core.diagnosis.verdict import LINE_CHARACTERS, Seen, doing, summary

STACKS = Path(__file__).parents[1] / "data" / "stacks"
IMAGE = "/nas/truck/images/img_0412.jpg"
UNREAD = "waits in the kernel (anon_pipe_read); its Python stack could not be read"


def stack(name):
    """One captured stack."""
    return (STACKS / f"{name}.txt").read_text(encoding="utf-8")


def main(of="", **seen):
    """The process that was launched; its stack by name."""
    return Seen(**{"pid": 100, "parent": 1, "start": 10, "trainer": True, "name": "python", "state": "S", **seen},
        stack=stack(of) if of else "")  # fmt: skip


def worker(pid, of="dataloader_worker_idle", **seen):
    """A dataloader worker of the main process; younger with a higher number."""
    text = stack(of) if of else ""
    return Seen(**{"pid": pid, "parent": 100, "start": pid, "name": "pt_data_worker", "state": "S", **seen}, stack=text)


def rank(number, of, **seen):
    """A rank that torchrun started."""
    fields = {"pid": 200 + number, "parent": 150, "start": 20, "rank": number, "name": "python", "state": "S"}
    return Seen(**{**fields, **seen}, stack=stack(of))


LAUNCHED = (main("child"), Seen(pid=150, parent=100, start=15, name="pt_elastic", state="S", stack=stack("torchrun")))
BLOCKED = {"call": "openat", "path": IMAGE}
FUTEX = {"call": "futex"}


@pytest.mark.parametrize("by", ["", "_faulthandler"])
@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"call": "openat", "path": IMAGE}, f"is blocked in open of {IMAGE}"),
        ({"call": "read", "path": IMAGE}, f"is blocked in read of {IMAGE}"),
        (
            {"call": "read", "path": IMAGE, "mount": "nfs4 mount /nas", "state": "D", "wchan": "rpc_wait_bit_killable"},
            f"is blocked in read of {IMAGE} (nfs4 mount /nas, state D (rpc_wait_bit_killable))",
        ),
        (
            {"state": "D", "wchan": "folio_wait_bit_common"},
            "waits in the kernel (folio_wait_bit_common) in imread (loader.py:LINE)",
        ),
        ({"state": "T"}, "is stopped by a signal such as SIGSTOP"),
        ({"state": "t"}, "is stopped by a debugger"),
        ({"state": "R"}, "runs in imread (loader.py:LINE)"),
        (FUTEX, "waits for a lock in imread (loader.py:LINE)"),
    ],
)
def test_the_worker_that_holds_all_up_is_named(seen, words, by):
    """One of three workers does not get on: it comes first, with its file, and the main process waits for it."""
    text = f"dataloader_worker_imread{by}"
    family = [main(f"dataloader_main{by}"), worker(101), worker(102, text, **seen), worker(103)]
    words = words.replace("LINE", "11" if by else "10")  # that script had one line more
    assert summary(family) == f"dataloader worker 2 of 3 (pid 102) {words}; main process waits for it"


POOL = """Thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/usr/lib/python3.11/multiprocessing/pool.py", line 861 in next
  File "/x/site-packages/ultralytics/data/dataset.py", line 130 in cache_labels
"""
HELPED = {"helper_call": "openat", "helper_path": IMAGE}


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (HELPED, f"main process is blocked in open of {IMAGE}, in a thread that it waits for"),
        (
            {**HELPED, "helper_mount": "nfs4 mount /nas"},
            f"main process is blocked in open of {IMAGE}, in a thread that it waits for (nfs4 mount /nas)",
        ),
        ({}, "main process waits for a lock, called from cache_labels (ultralytics/data/dataset.py:130)"),
    ],
)
def test_a_thread_that_waits_for_a_file_is_named(seen, line):
    """Labels are read by threads while the main one waits for them: the file says more than the lock."""
    process = Seen(pid=100, parent=1, trainer=True, state="S", call="futex", stack=POOL, **seen)
    assert summary([process]) == line


def test_a_thread_is_no_excuse_for_a_main_one_that_works():
    """A logger that writes a file beside a training that runs is none of its business."""
    frame = 'Thread 0x00007f (most recent call first):\n  File "/x/train.py", line 3 in step\n'
    process = Seen(pid=100, parent=1, trainer=True, state="R", stack=frame, **HELPED)
    assert summary([process]) == "main process runs in step (train.py:3)"


def test_several_workers_in_the_same_trouble_are_counted():
    """The oldest is named, the others are a number."""
    blocked = [worker(pid, "dataloader_worker_imread", **BLOCKED) for pid in (103, 101, 102)]
    line = f"dataloader worker 1 of 3 (pid 101) is blocked in open of {IMAGE} (and 2 more); main process waits for it"
    assert summary([main("dataloader_main"), *blocked]) == line


@pytest.mark.parametrize(
    ("family", "line"),
    [
        ([], "no process of the training was there"),
        ([main("sleep", call="clock_nanosleep")], "main process sleeps in train_step (small.py:4)"),
        ([main("lock", **FUTEX)], "main process waits for a lock in train_step (small.py:6)"),
        (
            [main("queue", **FUTEX)],
            "main process waits in queue.get (queue.py:171), called from train_step (small.py:7)",
        ),
        ([main("spin", state="R")], "main process runs in train_step (small.py:14)"),
        ([main("rank_imread", call="openat", path=IMAGE)], f"main process is blocked in open of {IMAGE}"),
        ([main("dataloader_main", state="T")], "main process is stopped by a signal such as SIGSTOP"),
        (
            [main("dataloader_main"), worker(101), worker(102)],
            "main process waits for its dataloader workers, and all 2 of them wait for work",
        ),
        ([main("dataloader_main")], "main process waits for its dataloader workers, and none is there"),
        (
            [main("dataloader_main"), worker(101, "", wchan="futex_do_wait")],
            "main process waits for its dataloader workers, whose stacks could not be read",
        ),
        (
            [main("", wchan="anon_pipe_read")],
            f"main process {UNREAD}",
        ),
        ([main("", state="")], "main process could not be looked at"),
        (
            [main("", wchan="anon_pipe_read"), worker(101, "spin"), worker(102, "", **BLOCKED)],
            f"dataloader worker 2 of 2 (pid 102) is blocked in open of {IMAGE}; main process {UNREAD}",
        ),
        ([main("spin", state="R"), worker(101, **BLOCKED)], "main process runs in train_step (small.py:14)"),
        (
            [main("child"), Seen(pid=9, parent=100, name="sleep", state="S", wchan="hrtimer_nanosleep")],
            "main process waits for a child process, called from train_step (small.py:8)",
        ),
        (
            [
                main("join"),
                Seen(pid=9, parent=100, name="python", state="S", call="read", path=IMAGE, stack=stack("spin")),
            ],
            f"process python (pid 9) is blocked in read of {IMAGE}; main process waits for it",
        ),
        (
            [main("pool_main"), worker(101, "pool_worker", name="python", call="clock_nanosleep")],
            "process python (pid 101) sleeps in mapstar (multiprocessing/pool.py:48); main process waits for it",
        ),
    ],
)
def test_a_single_training(family, line):
    """Where nothing better is known the line says where the main process stands; what could not be seen is said."""
    assert summary(family) == line


def test_a_process_of_the_family_that_waits_for_its_own_pipe_is_no_culprit_with_a_file():
    """A pipe is no file: who reads from one waits for another process."""
    seen = Seen(pid=9, parent=1, trainer=True, state="S", call="read", path="pipe:[4711]", stack=stack("spin"))
    assert doing(seen).kind == "children"
    assert summary([seen]) == "main process waits for a pipe in train_step (small.py:14)"


@pytest.mark.parametrize(
    ("ranks", "line"),
    [
        (
            [
                rank(0, "rank_all_reduce", **FUTEX),
                rank(1, "rank_all_reduce", **FUTEX),
                rank(2, "rank_imread", **BLOCKED),
            ],
            f"every rank but 2 waits in all_reduce; rank 2 is blocked in open of {IMAGE}",
        ),
        (
            [rank(0, "rank_all_reduce"), rank(1, "rank_all_reduce"), rank(2, "rank_imread")],
            "every rank but 2 waits in all_reduce; rank 2 is in imread (ranks.py:5)",
        ),
        (
            [rank(0, "rank_backward", **FUTEX), rank(1, "sleep", call="clock_nanosleep")],
            "rank 0 waits in backward; rank 1 sleeps in train_step (small.py:4)",
        ),
        (
            [rank(0, "rank_all_reduce"), rank(1, "rank_all_reduce"), rank(2, "sleep"), rank(3, "rank_imread")],
            "ranks 0 and 1 wait in all_reduce; rank 2 is in train_step (small.py:4); rank 3 is in imread (ranks.py:5)",
        ),
        ([rank(number, "rank_all_reduce") for number in range(4)], "every rank waits in all_reduce"),
        (  # with NCCL no rank is in a collective: all of them ask the GPU, from the same line
            [
                rank(0, "spin", state="R"),
                rank(1, "spin", state="R"),
                rank(2, "rank_imread", state="D", wchan="nfs_wait"),
            ],
            "every rank but 2 runs in train_step (small.py:14); rank 2 waits in the kernel (nfs_wait) in imread (ranks.py:5)",
        ),
        (
            [rank(0, "rank_all_reduce"), rank(1, "rank_all_reduce"), rank(2, "rank_all_reduce", state="T")],
            "every rank but 2 waits in all_reduce; rank 2 is stopped by a signal such as SIGSTOP",
        ),
    ],
)
def test_the_odd_rank_out(ranks, line):
    """Which rank does not do what the others do, and what it does instead; torchrun and our parent are no news."""
    assert summary([*ranks, *LAUNCHED]) == line


def test_the_worker_of_the_odd_rank_is_named():
    """Rank 1 waits for its worker, which waits for an image; a worker inherits the rank of its parent."""
    waits = rank(1, "dataloader_main")
    own = Seen(
        pid=300, parent=waits.pid, start=30, rank=1, state="S", stack=stack("dataloader_worker_imread"), **BLOCKED
    )
    idle = Seen(pid=301, parent=200, start=31, rank=0, state="S", stack=stack("dataloader_worker_idle"))
    line = summary([*LAUNCHED, rank(0, "rank_all_reduce"), waits, rank(2, "rank_all_reduce"), own, idle])
    culprit = f"dataloader worker 1 of 1 (pid 300) is blocked in open of {IMAGE}, rank 1 waits for it"
    assert line == f"every rank but 1 waits in all_reduce; {culprit}"


def test_the_line_is_one_line_of_bounded_length():
    """A path of 4,000 characters does not fill the messages."""
    line = summary([main("spin", call="read", path="/x" * 2000)])
    assert (len(line), line[-1]) == (LINE_CHARACTERS, "…")


@pytest.mark.parametrize(
    "text", ["", "no stack at all", 'Thread 1 (idle): "MainThread"\n', "\0\n  File", "Thread 0x1 (most recent"]
)
def test_what_is_no_stack_has_no_frames(text):
    """Whatever text comes, there is no error."""
    assert main_thread(text) == ()


def test_frames_from_before_a_fork_are_left_out():
    """The worker was forked inside `DataLoader.__iter__`: that is where its parent was, not the worker."""
    for by in ("", "_faulthandler"):
        frames = main_thread(stack(f"dataloader_worker_imread{by}"))
        assert [frame.function for frame in frames][-2:] == ["_worker_loop", "run"]
        assert frames[0].file == "loader.py"
        assert frames[-2].file == "torch/utils/data/_utils/worker.py"


@pytest.mark.parametrize("threads", [(1, 7), (7, 1)])
def test_the_main_thread_is_known_by_its_number(threads):
    """A small program loads no `threading`: its threads have no names."""
    text = "Process 7: python -c\n    main (no.py:1)\nPython v3.12.1 (/usr/bin/python)\n\n"
    text += "".join(f"Thread {number} (idle)\n    f{number} (x.py:1)\n" for number in threads)
    assert [frame.function for frame in main_thread(text)] == ["f7"]
