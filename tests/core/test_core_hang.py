"""The judge of hangs: what is one, what is none, and how it is named."""

from __future__ import annotations

import pytest

from supervisor.core.diagnosis import hang
from supervisor.core.diagnosis.cadence import Cadence
from tests.core.hang_bench import LOOK_S, Bench, history, main, worker

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


# ---- time
def test_time_when_nobody_looked_does_not_count():
    """A daemon that was away, a machine that slept for a night: one look later nothing is hung."""
    bench = Bench()
    bench.look(step_s=12 * HOUR_S)
    bench.look(step_s=12 * HOUR_S)
    assert bench.told == []
    assert bench.state.quiet.quiet_s <= 2 * hang.STEP_MAX_S


def test_a_clock_that_jumps_back_is_harmless():
    """Time that runs backwards counts as none."""
    bench = Bench()
    bench.stand_still(60.0)
    bench.look(step_s=-5 * HOUR_S)
    bench.stand_still(30.0)
    assert bench.told == []
    assert bench.state.quiet.quiet_s == pytest.approx(90.0)


def test_a_new_daemon_begins_to_count_anew():
    """The first look of a daemon says nothing about how long a training has been quiet already."""
    bench = Bench()
    bench.stand_still(2 * MINUTE_S)
    bench.state = hang.HangState(cadence=bench.state.cadence)
    bench.look()
    assert bench.stand_still(HOUR_S, until="hung") > 2 * MINUTE_S


def test_looks_that_saw_nothing_do_not_count():
    """While the run directory's disk does not answer, nobody knows whether the training moves."""
    bench = Bench()
    for _ in range(500):
        bench.look(blind=True)
    assert bench.told == []
    assert bench.state.quiet.quiet_s == 0.0


def test_a_dead_disk_is_named_although_it_blinds():
    """The run directory and the data lie on the same dead mount: the training's D state says so."""
    bench = Bench()
    bench.set(1, state="D", wchan="rpc_wait_bit_killable")
    for _ in range(50):
        bench.look(blind=True)
    assert bench.verdicts == ["storage"]


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


# ---- learning
def test_gaps_between_batches_are_learned():
    """A training whose batches take a minute gets a limit of five."""
    bench = Bench(known=Cadence())
    for _ in range(100):
        bench.stand_still(50.0)
        bench.move()
        bench.look()
    assert 5 * 60 <= bench.state.cadence.limit_s("train") <= 5 * 60 * 1.11


def test_whole_phases_are_learned_by_their_longest_gap():
    """Of a validation that tells nothing its whole length is learned, once, when it is over."""
    bench = Bench(known=Cadence())
    for _ in range(4):
        bench.phase = "val"
        bench.stand_still(600.0)
        bench.phase = "train"
        bench.look()
    assert bench.state.cadence.phases["val"].total == 4
    assert 5 * 600 <= bench.state.cadence.limit_s("val") <= 5 * 610 * 1.11


def test_a_phase_that_was_not_seen_from_its_begin_teaches_nothing():
    """A daemon that starts in the middle of a validation does not believe that validations are short."""
    bench = Bench(phase="val", known=Cadence())
    bench.stand_still(60.0)
    bench.phase = "train"
    bench.look()
    assert "val" not in bench.state.cadence.phases


@pytest.mark.parametrize("fields", [{"state": "T"}, {"state": "D"}])
def test_what_was_held_up_teaches_nothing(fields):
    """A day under a debugger, or before a dead disk, is no gap of the training."""
    bench = Bench()
    bench.move()
    bench.look()
    before = bench.state.cadence
    bench.set(1, **fields)
    bench.stand_still(24 * HOUR_S)
    bench.move()
    bench.look()
    assert bench.state.cadence == before


@pytest.mark.parametrize("stopped_s", [20.0, HOUR_S])
def test_a_phase_that_was_held_up_teaches_nothing(stopped_s):
    """A validation in which somebody stopped the training, for an hour or a moment, says nothing about validations."""
    bench = Bench()
    bench.phase = "val"
    bench.look()
    bench.set(1, state="T")
    bench.stand_still(stopped_s)
    bench.set(1, state="S")
    bench.stand_still(MINUTE_S)
    bench.phase = "train"
    bench.look()
    assert "val" not in bench.state.cadence.phases


def test_of_a_phase_with_signs_in_between_the_longest_gap_counts():
    """A scan with a progress bar: its longest gap is learned, neither the whole of it nor the last one."""
    bench = Bench()
    bench.phase = "scan"
    for gap_s in (20.0, 300.0, 20.0):
        bench.look()
        bench.stand_still(gap_s)
        bench.move()
    bench.phase = "train"
    bench.look()
    assert 300 <= bench.state.cadence.phases["scan"].percentile_s(1.0) <= 330 * 1.1


def test_the_first_gap_after_a_start_is_not_known():
    """A daemon that just began does not know since when the training has been quiet."""
    bench = Bench()
    bench.state = hang.HangState()
    bench.look()
    bench.stand_still(50.0)
    bench.phase = "val"
    bench.look()
    assert bench.state.cadence == Cadence()


def test_a_hang_that_was_none_is_learned():
    """What went on after it was called hung will not be called so soon again."""
    bench = Bench()
    for _ in range(5):
        bench.stand_still(10 * MINUTE_S)
        bench.move()
        bench.look()
    assert bench.verdicts.count("hung") == 1 + bench.verdicts.count("moving") - 1
    assert bench.state.cadence.limit_s("train") > 10 * MINUTE_S


def test_the_last_phase_is_learned_at_a_good_end():
    """When an attempt has ended well, its end phase was as long as it was."""
    bench = Bench()
    bench.phase = "end"
    bench.stand_still(100.0)
    learned = hang.ended(bench.state)
    assert learned.phases["end"].total == 1
    assert hang.ended(bench.state).phases["train"] == bench.state.cadence.phases["train"]
    assert learned.phases["end"].percentile_s(1.0) >= 100.0 - LOOK_S
