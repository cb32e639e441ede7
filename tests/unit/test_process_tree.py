"""The processes of an attempt as /proc shows them: who belongs to it, who is who, who waits for what."""

from __future__ import annotations

import os

import pytest

from supervisor.core.job import Mount
from supervisor.sources import process_tree
from supervisor.sources.process_tree import ProcessTable, Roles
from tests.unit.fake_proc import FakeProc, started

NFS = Mount(what="data", path="/data/x", point="/data", source="nas:/data", type="nfs4")


@pytest.fixture
def proc(tmp_path):
    """A machine with a shim (10), its trainer (11) and a stranger."""
    made = FakeProc(tmp_path / "proc")
    made.add(1, parent=0, name="init")
    made.add(10, parent=1, name="python")
    made.add(11, parent=10, name="python", cmdline="python train.py")
    made.add(50, parent=1, name="stranger (a) b")
    return made


def roles(proc, **options):
    """Role and rank of every process of the attempt."""
    table = ProcessTable.read(proc.root)
    return Roles(11, proc.root).of(table.tree(started(**options)))


def looked(proc, mounts=(), *, closely=False):
    """Every process of the attempt, by pid."""
    tree = ProcessTable.read(proc.root).tree(started())
    found = process_tree.processes(tree, Roles(11, proc.root).of(tree), mounts, closely=closely, proc=proc.root)
    return {process.pid: process for process in found}


def test_the_tree_is_all_that_descends_from_the_trainer(proc):
    """Trainer, children and grandchildren, without the shim, strangers and zombies."""
    proc.add(12, parent=11)
    proc.add(13, parent=12)
    proc.add(14, parent=11, state="Z")
    assert sorted(looked(proc)) == [11, 12, 13]


def test_an_orphan_of_the_shim_belongs_to_it(proc):
    """What the shim adopted when its parent died counts as well."""
    proc.add(20, parent=10)
    assert sorted(looked(proc)) == [11, 20]


def test_without_its_shim_the_trainer_is_still_found(proc):
    """A shim that was killed changes nothing."""
    proc.remove(10)
    assert sorted(looked(proc)) == [11]


def test_a_number_that_another_process_has_now_is_not_believed(proc):
    """The start time must be that of the record."""
    table = ProcessTable.read(proc.root)
    assert table.tree(started(start_time=999)) == table.tree(started(start_time=999, shim_start_time=10)) != []
    assert table.tree(started(start_time=999, shim_start_time=998)) == []


def test_workers_are_told_from_their_trainer(proc):
    """By the name that torch gives them, by being a fork that never executed, or by multiprocessing's words."""
    proc.add(12, parent=11, name="pt_data_worker")
    proc.add(13, parent=11, name="python", cmdline="python train.py")
    proc.add(14, parent=11, name="python", cmdline="python -c from multiprocessing.spawn import spawn_main")
    proc.add(15, parent=11, name="wandb-core", cmdline="wandb-core --port 1")
    assert roles(proc) == {
        11: ("main", None),
        12: ("worker", None),
        13: ("worker", None),
        14: ("worker", None),
        15: ("other", None),
    }


def test_ranks_are_told_by_their_variable(proc):
    """Processes of torchrun with RANK are the training ones, whoever started them is not, and children are nobody new."""
    proc.add(12, parent=11, cmdline="python -m torch.distributed.run")
    for rank in (0, 1):
        proc.add(20 + rank, parent=12, cmdline="python ddp.py", environ=f"LOCAL_RANK=0\0RANK={rank}\0WORLD_SIZE=2")
        proc.add(30 + rank, parent=20 + rank, cmdline="python ddp.py", environ=f"RANK={rank}")
        proc.add(40 + rank, parent=20 + rank, cmdline="logger", environ=f"RANK={rank}")
    found = roles(proc)
    assert {pid for pid, (role, _) in found.items() if role == "main"} == {20, 21}
    assert (found[21], found[31], found[41]) == (("main", 1), ("worker", 1), ("other", 1))
    assert found[11][0] == found[12][0] == "other"


def test_what_a_process_used_is_summed_up(proc):
    """User and system time in seconds, and bytes through calls and to the disk."""
    proc.add(
        11, parent=10, ticks=(150, 50), io={"rchar": 1, "wchar": 20, "syscr": 9, "read_bytes": 300, "write_bytes": 4000}
    )
    seen = looked(proc)[11]
    assert seen.cpu_s == 200 / os.sysconf("SC_CLK_TCK")
    assert seen.io_bytes == 4321


def test_what_may_not_be_seen_is_unknown(proc):
    """Without /proc/PID/io nobody says zero."""
    proc.add(11, parent=10, io=None)
    assert looked(proc)[11].io_bytes is None


def test_a_closer_look_finds_threads_that_wait_for_storage(proc):
    """The first thread waits on a lock while others read labels: only the closer look tells."""
    proc.add(11, parent=10, wchan="futex_wait_queue", threads={77: ("D", "folio_wait_bit_common")})
    assert looked(proc)[11].state == "S"
    assert (looked(proc, closely=True)[11].state, looked(proc, closely=True)[11].wchan) == (
        "D",
        "folio_wait_bit_common",
    )


def test_the_slow_mount_is_named(proc):
    """By an open file on it; or, in a network file system's own wait, by the only one that the job needs."""
    proc.add(11, parent=10, state="D", files=["/dev/null", "/data/images/1.jpg"])
    assert looked(proc, (NFS,))[11].where == "/data (nas:/data)"
    proc.add(11, parent=10, state="D", wchan="rpc_wait_bit_killable", files=["/dev/null"])
    assert looked(proc, (NFS,))[11].where == "/data (nas:/data)"
    proc.add(11, parent=10, state="D", wchan="folio_wait_bit_common", files=["/database/x"])
    assert looked(proc, (NFS,))[11].where == ""


def test_this_process_is_seen_as_it_is():
    """The real /proc of this test: its own entry, with time used and bytes read."""
    table = ProcessTable.read()
    mine = table.by_pid[os.getpid()]
    record = started(pid=mine.pid, start_time=mine.start_time)
    (me,) = [one for one in table.tree(record) if one.pid == mine.pid]
    (seen,) = process_tree.processes([me], {}, (), closely=True)
    assert seen.cpu_s > 0
    assert (seen.io_bytes or 0) > 0
    assert not seen.is_stopped


def test_children_that_have_ended_count_as_work(proc):
    """A training that starts a program for each image computes, though none of them is there at any look."""
    proc.add(11, parent=10, ticks=(100, 50), ended_ticks=(300, 50))
    assert looked(proc)[11].cpu_s == 500 / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("children", "seen"), [(20, 20), (21, 0)])
def test_of_a_tree_that_is_too_large_nothing_is_said(proc, monkeypatch, children, seen):
    """A part that stands still says nothing about the whole."""
    monkeypatch.setattr(process_tree, "MOST_PROCESSES", 22)  # shim, trainer, and twenty more
    for number in range(children):
        proc.add(100 + number, parent=11 if number < 2 else 98 + number)
    tree = ProcessTable.read(proc.root).tree(started())
    assert len(tree) == (seen + 1 if seen else 0)


def test_the_nearest_processes_come_first(proc):
    """Ranks before what they started."""
    proc.add(12, parent=11)
    proc.add(20, parent=12)
    proc.add(13, parent=11)
    first, *_, last = ProcessTable.read(proc.root).tree(started())
    assert (first.pid, last.pid) == (11, 20)
