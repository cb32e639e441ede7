"""The judge of hangs: what is one, what is none, and how it is named."""

from __future__ import annotations

import pytest

from supervisor.core.diagnosis import hang
from supervisor.core.diagnosis.cadence import Cadence
from tests.core.hang_bench import Bench, history, main, worker

MINUTE_S = 60.0
HOUR_S = 3600.0


# ---- what hangs
def test_a_training_that_stands_still_hangs():
    """Batches came every second; now nothing moves, computes or is read: hung after two minutes and two windows."""
    bench = Bench()
    took_s = bench.stand_still(HOUR_S, until="hung")
    (verdict,) = bench.told
    assert 2 * MINUTE_S < took_s <= 2 * MINUTE_S + 90
    assert (verdict.verdict, verdict.phase, verdict.limit_s, verdict.cause) == ("hung", "train", 120.0, "hang")
    assert verdict.signs == ("quiet", "still")
    assert "nothing has moved for" in verdict.text
    assert "stand still" in verdict.text


def test_a_verdict_is_told_once():
    """However long it hangs, it is told once; when it moves after all, that is told too, and learned."""
    bench = Bench()
    bench.stand_still(2 * HOUR_S)
    assert bench.verdicts == ["hung"]
    bench.move()
    bench.look()
    assert bench.verdicts == ["hung", "moving"]
    bench.move()
    bench.look()
    assert bench.verdicts == ["hung", "moving"]


def test_two_windows_in_a_row_are_needed():
    """A training that goes on just after its limit is not called hung, although one window was over it."""
    bench = Bench()
    bench.stand_still(2 * MINUTE_S + 30)
    bench.move()
    bench.look()
    assert bench.told == []


def test_a_spin_in_a_collective_hangs():
    """Every rank computes, at the same lines in look after look, and nothing is read: NCCL waits for ever."""
    ranks = [main(pid, rank=pid - 1) for pid in (1, 2, 3, 4)]
    bench = Bench(*ranks)
    bench.cpu = dict.fromkeys((1, 2, 3, 4), 1.0)
    bench.stack = dict.fromkeys((1, 2, 3, 4), "all_reduce")
    took_s = bench.stand_still(HOUR_S, until="hung")
    assert 2 * MINUTE_S + hang.SAME_STACKS_S < took_s < 7 * MINUTE_S
    assert took_s >= 320, "three minutes at the same lines, from the first sample on"
    assert (bench.told[0].signs, bench.told[0].cause) == (("quiet", "same stacks"), "hang-collective")


@pytest.mark.parametrize("spoiled", ["changes", "unknown", "worker computes unseen", "reads"])
def test_computing_alone_is_no_hang(spoiled):
    """Computing processes hang only if all of them are seen at the same lines, and none reads or writes."""
    bench = Bench(main(1), worker(2))
    bench.cpu = {1: 1.0}
    bench.stack = {1: "a"}
    if spoiled == "worker computes unseen":
        bench.cpu[2] = 0.5
    if spoiled == "reads":
        bench.io = {2: 100_000}
    for number in range(2000):
        bench.stack[1] = {"changes": f"line {number // 5}", "unknown": ""}.get(spoiled, "a")
        bench.look()
    assert bench.told == []
    assert bench.asked > 3, "the judge wanted to see the stacks"


def test_healthy_trainings_are_never_asked_for_stacks():
    """Nobody is disturbed for a pause that is within its limit."""
    bench = Bench()
    for _ in range(50):
        bench.stand_still(100.0)
        bench.move()
        bench.look()
    assert (bench.asked, bench.told) == (0, [])


# ---- what does not
@pytest.mark.parametrize("what", ["cpu", "io", "unseen io"])
def test_what_works_is_not_hung(what):
    """A validation of two days that computes, or reads, or of which I/O cannot be seen, is left alone."""
    bench = Bench(main(1, io_bytes=None if what == "unseen io" else 0), phase="val", known=history("val", 60.0))
    if what == "cpu":
        bench.cpu = {1: 0.3}
    if what == "io":
        bench.io = {1: 5000}
    bench.stand_still(48 * HOUR_S)
    assert bench.told == []


def test_a_pause_of_the_whole_tree_is_measured_from_its_begin():
    """Two hours of reading labels, then a minute of nothing: the minute counts, not the two hours."""
    bench = Bench(phase="scan", known=Cadence())
    bench.io = {1: 50_000}
    bench.stand_still(2 * HOUR_S)
    bench.io = {}
    bench.stand_still(20 * MINUTE_S)
    assert bench.told == []
    assert bench.stand_still(HOUR_S, until="hung") < 15 * MINUTE_S


def test_a_new_process_is_a_movement():
    """A compiler that is started again and again computes, although each one is gone when the next look comes."""
    bench = Bench(main(1), phase="first", known=Cadence())
    for number in range(700):
        bench.gone(100 + number - 1)
        bench.processes += (main(100 + number, start_time=number, role="other", cpu_s=2.0),)
        bench.look()
    assert bench.told == []


def test_noise_of_many_processes_is_no_movement():
    """Sixteen idle workers with timers and a logger that writes a line now and then still hang."""
    bench = Bench(main(1), *(worker(pid) for pid in range(2, 18)))
    bench.cpu = dict.fromkeys(range(1, 18), 0.01)
    bench.io = dict.fromkeys(range(1, 18), 500)
    assert bench.stand_still(HOUR_S, until="hung") < 4 * MINUTE_S


@pytest.mark.parametrize(
    "fields", [{"state": "T"}, {"state": "t"}, {"wchan": "do_freezer_trap"}, {"state": "D", "wchan": "__refrigerator"}]
)
def test_a_stopped_training_is_told_and_never_hung(fields):
    """SIGSTOP, a debugger, a frozen control group: told once, not killed in a week; going on is told as well."""
    bench = Bench()
    bench.set(1, **fields)
    assert bench.stand_still(HOUR_S, until="stopped") <= 80
    bench.stand_still(7 * 24 * HOUR_S)
    assert bench.verdicts == ["stopped"]
    assert "(pid 1) is" in bench.told[0].text
    bench.set(1, state="S", wchan="")
    bench.look()
    assert bench.verdicts == ["stopped", "moving"]


def test_who_was_stopped_has_all_its_time_again():
    """After SIGCONT a training that hangs is hung after its limit, not at once."""
    bench = Bench()
    bench.set(1, state="T")
    bench.stand_still(HOUR_S)
    bench.set(1, state="S")
    assert bench.stand_still(HOUR_S, until="hung") > 2 * MINUTE_S
    assert bench.verdicts == ["stopped", "moving", "hung"]


def test_a_stopped_worker_is_told_and_named():
    """A dataloader's worker that somebody stopped: the main process waits for it, and nothing is killed."""
    bench = Bench(main(1, wchan="unix_stream_data_wait"), worker(2, state="T"))
    bench.stand_still(24 * HOUR_S)
    (verdict,) = bench.told
    assert (verdict.verdict, verdict.cause) == ("stopped", "hang-loader")
    assert "dataloader worker (pid 2) is stopped by a signal" in verdict.text


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "D", "wchan": "folio_wait_bit_common"},
        {"state": "D"},
        {"wchan": "nfs4_proc_lookup"},
        {"wchan": "request_wait_answer", "where": "/data (nas:/data)"},
    ],
)
def test_waiting_for_storage_is_told_and_never_hung(fields):
    """D state, or a wait for a server of files: named after two minutes, never killed; going on is told."""
    bench = Bench()
    bench.set(1, **fields)
    assert bench.stand_still(HOUR_S, until="storage") <= 3 * MINUTE_S
    bench.stand_still(48 * HOUR_S)
    assert bench.verdicts == ["storage"]
    if fields.get("where"):
        assert "/data (nas:/data)" in bench.told[0].text
    bench.set(1, state="S", wchan="", where="")
    bench.look()
    assert bench.verdicts == ["storage", "moving"]


def test_a_worker_at_a_servers_socket_waits_for_storage():
    """An object store that does not answer is storage too; the same wait of a main process is a collective's."""
    bench = Bench(main(1, wchan="do_poll"), worker(2, wchan="sk_wait_data"))
    bench.stand_still(HOUR_S)
    assert bench.verdicts == ["storage"]
    other = Bench(main(1, wchan="sk_wait_data"))
    other.stand_still(HOUR_S)
    assert other.verdicts == ["hung"]


def test_a_driver_is_not_called_a_disk():
    """A process in D state inside the GPU's driver waits for that."""
    bench = Bench()
    bench.set(1, state="D", wchan="os_acquire_rwlock_write")
    bench.stand_still(10 * MINUTE_S)
    assert "for the GPU driver" in bench.told[0].text


def test_reads_that_are_often_slow_are_no_stall():
    """A loader that is found in D state at most looks, and reads on, is neither storage nor hung."""
    bench = Bench(main(1), worker(2))
    bench.io = {2: 20_000}
    for number in range(2000):
        bench.set(2, state="D" if number % 7 else "S")
        bench.look()
    assert bench.told == []


@pytest.mark.parametrize("io", [0, 50_000])
def test_who_is_in_d_state_now_and_then_is_not_hung(io):
    """Every second look finds a worker in D state: whether bytes come or not, storage is slow, and nothing is killed."""
    bench = Bench(main(1), worker(2))
    bench.io = {2: io}
    for number in range(500):
        bench.set(2, state="D" if number % 2 else "S")
        bench.look()
    assert bench.told == []
    bench.io = {}
    bench.set(2, state="S")
    assert bench.stand_still(HOUR_S, until="hung") <= 3 * MINUTE_S


def test_who_is_always_in_d_state_but_reads_is_no_stall():
    """A disk that is busy all the time brings bytes: there is nothing to tell."""
    bench = Bench(main(1), worker(2, state="D"))
    bench.io = {2: 50_000}
    bench.stand_still(10 * HOUR_S)
    assert bench.told == []


def test_after_a_hang_nothing_else_is_told():
    """What is being ended dies in D state now and then: that is no second verdict."""
    bench = Bench()
    bench.stand_still(HOUR_S)
    bench.set(1, state="D")
    bench.stand_still(HOUR_S)
    assert bench.verdicts == ["hung"]


# ---- the job's own limit
def test_a_users_limit_counts_alone():
    """hang_after = 5 minutes: nothing moved for so long, so it is hung, whatever it computes."""
    bench = Bench(main(1), phase="val", known=history("val", HOUR_S), hang_after_s=300.0)
    bench.cpu, bench.io = {1: 1.0}, {1: 10**6}
    took_s = bench.stand_still(HOUR_S, until="hung")
    assert 300 < took_s <= 300 + 90
    assert bench.told[0].signs == ("quiet", "hang_after")


@pytest.mark.parametrize(("fields", "verdict"), [({"state": "T"}, "stopped"), ({"state": "D"}, "storage")])
def test_a_users_limit_kills_nobody_who_is_stopped_or_waits_for_storage(fields, verdict):
    """Not even the job's own limit ends what a debugger holds or a dead disk blocks."""
    bench = Bench(hang_after_s=60.0)
    bench.set(1, **fields)
    bench.stand_still(HOUR_S)
    assert bench.verdicts == [verdict]


def test_never_means_never():
    """hang_after = "never": not hung in a week, also after an alarm; a stop is told all the same."""
    bench = Bench(hang_after_s=0.0, alarm="hang-shm", alarm_line="shm")
    bench.stand_still(7 * 24 * HOUR_S)
    assert bench.told == []
    bench.set(1, state="T")
    bench.stand_still(5 * MINUTE_S)
    assert bench.verdicts == ["stopped"]


def test_a_short_limit_has_short_windows():
    """With a limit of a few seconds the two windows take no minute."""
    bench = Bench(hang_after_s=4.0)
    for _ in range(10):
        if bench.look(step_s=1.0):
            break
    assert bench.verdicts == ["hung"]


# ---- alarms
def test_an_alarm_in_the_log_makes_it_short():
    """After a line that says that nothing will come again, a minute of stillness is enough, also without a history."""
    bench = Bench(known=Cadence(), alarm="hang-shm", alarm_line="unable to allocate shared memory(shm)")
    assert bench.stand_still(HOUR_S, until="hung") <= 100
    assert (bench.told[0].cause, bench.told[0].signs) == ("hang-shm", ("alarm", "still"))
    assert "unable to allocate shared memory" in bench.told[0].text


def test_an_alarm_alone_kills_nobody():
    """While anything computes or is read, the line is only a line."""
    bench = Bench(known=Cadence(), alarm="hang-shm", alarm_line="x")
    bench.io = {1: 50_000}
    bench.stand_still(20 * MINUTE_S)
    assert bench.told == []


# ---- names
@pytest.mark.parametrize(
    ("phase", "processes", "stack", "cause"),
    [
        ("start", (main(1),), "", "hang-start"),
        ("scan", (main(1),), "", "hang-start"),
        ("first", (main(1),), "", "hang-start"),
        ("train", (main(1),), "", "hang"),
        ("val", (main(1),), "", "hang"),
        ("train", (main(1, wchan="do_poll"), worker(2)), "", "hang-loader"),
        ("train", (main(1, wchan="futex_wait_queue"), worker(2)), "_try_get_data (dataloader.py:1246)", "hang-loader"),
        ("train", (main(1, wchan="futex_wait_queue"), worker(2)), "backward (graph.py:865)", "hang"),
        ("first", (main(1, wchan="pipe_read"), worker(2)), "", "hang-loader"),
        ("train", (main(1, rank=0), main(2, rank=1)), "", "hang-collective"),
    ],
)  # fmt: skip
def test_the_cause_is_named(phase, processes, stack, cause):
    """Workers that are waited for, ranks, the time before the first batch, or just a hang: each has its own cause."""
    bench = Bench(*processes, phase=phase, known=history(phase, 1.0))
    bench.stack = {1: stack}
    bench.stand_still(HOUR_S, until="hung")
    assert bench.told[0].cause == cause


def test_a_lost_worker_is_counted():
    """A worker that died while the training waited: the cause is the loader, and the number is told."""
    bench = Bench(main(1), worker(2), worker(3))
    bench.look()
    bench.gone(3)
    bench.stand_still(HOUR_S, until="hung")
    assert bench.told[0].cause == "hang-loader"
    assert "1 of 2 dataloader workers are gone" in bench.told[0].text


@pytest.mark.parametrize(
    ("cpu", "stacks", "odd"),
    [
        ({1: 1.0, 2: 1.0, 3: 0.0, 4: 1.0}, {}, "rank 2 does something else"),
        ({1: 1.0, 2: 0.0}, {}, "rank 1 does something else"),
        (dict.fromkeys((1, 2, 3, 4), 1.0), {1: "a", 2: "b", 3: "b", 4: "b"}, "rank 0 does something else"),
        (dict.fromkeys((1, 2, 3, 4), 1.0), {}, ""),
        ({1: 1.0, 2: 1.0, 3: 0.0, 4: 0.0}, {}, ""),
    ],
)
def test_the_odd_rank_out_is_named(cpu, stacks, odd):
    """The one rank that waits while the others spin, or stands elsewhere; where nobody can say, nobody is named."""
    bench = Bench(*(main(pid, rank=pid - 1) for pid in cpu))
    bench.cpu = cpu
    bench.stack = {pid: stacks.get(pid, "all_reduce") for pid in cpu}
    bench.stand_still(HOUR_S, until="hung")
    assert (odd in bench.told[0].text) if odd else ("something else" not in bench.told[0].text)
