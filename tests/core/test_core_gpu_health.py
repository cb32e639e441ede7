"""What is done about what is found on GPUs: who is told, what is ended, what goes on elsewhere."""

from __future__ import annotations

import pytest

from supervisor.core import actions, events
from supervisor.core.gpus.findings import KINDS
from supervisor.core.model import Phase
from tests.core.bench import SECOND_BOOT
from tests.core.gpu_bench import GpuBench, facts, uuid


def test_a_lost_gpu_moves_its_training_at_once():
    """Kernel log and NVML agree: the attempt is asked to end, and the run goes on from its save on another GPU."""
    bench = GpuBench(2)
    bench.running()
    bench.lose(0)
    run = bench.run()
    assert (run.phase, run.stop.of_gpu, run.stop.cause) == (Phase.STOPPING, True, "gpu-lost")
    assert bench.of(actions.Terminate)[-1].how == "term"
    bench.ended()
    assert (bench.phase(), bench.on()) == (Phase.PREPARING, [1])
    assert bench.run().failures == 0, "a fault of a GPU is not the job's"


@pytest.mark.parametrize("first", ["xid", "nvml", "inventory", "sysfs"])
def test_one_source_ends_nothing(first):
    """A single witness keeps new trainings away, and what runs there goes on."""
    bench = GpuBench(2)
    bench.running()
    if first == "xid":
        bench.xid(79)
    elif first == "inventory":
        bench.seen(without=(0,))
        bench.found("lost", 0)  # NVML once more: no second source
    else:
        bench.found("lost", 0, source=first)
    assert bench.phase() is Phase.RUNNING
    bench.submit("b", gpus=2)
    assert bench.run("b").waiting_for.startswith("GPU: GPU 0 is")


def test_two_xids_are_one_source():
    """Whatever the kernel log says is one witness: two errors of one GPU in it end nothing."""
    bench = GpuBench(2)
    bench.running()
    bench.xid(79)
    bench.xid(62)
    assert bench.phase() is Phase.RUNNING


def test_a_gpu_lost_while_its_training_is_prepared_is_not_used():
    """Nothing runs yet: the run is queued again and gets another GPU."""
    bench = GpuBench(2)
    bench.submit("a", gpus=1)
    bench.lose(0)
    assert (bench.phase(), bench.on()) == (Phase.PREPARING, [1])


def test_a_gpu_lost_while_its_training_starts_ends_it_when_it_runs():
    """The order waits for the process."""
    bench = GpuBench(2)
    bench.submit("a", gpus=1)
    bench.tell(events.Prepared, "a", start="fresh")
    bench.lose(0)
    assert bench.phase() is Phase.STARTING
    bench.tell(events.Launched, "a", **bench.launched_facts())
    assert bench.phase() is Phase.STOPPING


def test_on_a_server_with_one_gpu_the_run_waits_for_it():
    """QUEUED with the reason, never HELD: it goes on when the GPU is back."""
    bench = GpuBench(1)
    bench.running()
    bench.lose(0)
    bench.ended()
    assert bench.phase() is Phase.QUEUED
    assert bench.run().waiting_for.startswith("GPU: GPU 0 is in quarantine")


def test_a_stop_that_waits_for_a_save_is_carried_out_at_once_when_the_gpu_is_lost():
    """Nothing will be saved any more; what the person wanted then follows."""
    bench = GpuBench(2)
    bench.running()
    bench.tell(events.StopAsked, "a", by="ann")
    bench.lose(0)
    assert bench.run().stop.how == "term"
    bench.die("a", code=75)
    assert bench.phase() is Phase.HELD


def test_other_trainings_do_not_notice():
    """Only who has the lost GPU is ended."""
    bench = GpuBench(2)
    bench.running("a")
    bench.running("b")
    bench.lose(0)
    assert (bench.phase("a"), bench.phase("b")) == (Phase.STOPPING, Phase.RUNNING)


def test_a_training_that_dies_after_an_xid_died_of_its_gpu():
    """What its log says then only follows from the GPU's error; the incident tells the driver's words."""
    bench = GpuBench(2)
    bench.running()
    bench.xid(95)
    bench.die("a", code=1)
    incident = bench.run().incidents[-1]
    assert incident.cause == "gpu-memory-error"
    assert "Xid 95" in incident.seen


def test_a_training_that_lives_on_does_not_die_of_an_old_xid():
    """An error that it survived for ten minutes is not what it died of."""
    bench = GpuBench(2)
    bench.running()
    bench.xid(94)
    bench.wait(700.0)
    bench.die("a", code=1)
    assert bench.run().incidents[-1].cause == "unknown"


def test_cleaning_up_after_our_own_kill_is_no_news():
    """Xid 45 follows each kill: nothing is told, counted or put in quarantine."""
    bench = GpuBench(2)
    bench.running()
    bench.tell(events.CancelAsked, "a", by="ann", at_once=True)
    before = bench.said()
    bench.xid(45)
    assert (bench.said(), bench.gpu().xids, bench.gpu().quarantine) == (before, (), None)


def test_kernel_log_and_nvml_tell_of_one_xid_once():
    """The second report of the same error is neither counted nor told."""
    bench = GpuBench(2)
    bench.xid(31)
    bench.xid(31, source="nvml")
    assert bench.gpu().passport.xids == {"31": 1}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_finding_is_told_once(kind):
    """One message when it begins, none when it is told again."""
    bench = GpuBench(2)
    bench.found(kind)
    told = [one for one in bench.of(actions.Announce) if one.title.startswith("GPU 0")]
    bench.found(kind)
    again = [one for one in bench.of(actions.Announce) if one.title.startswith("GPU 0")]
    assert len(told) == len(again) == 1
    assert told[0].todo
    assert "{" not in told[0].todo


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_finding_blocks_as_its_row_says(kind):
    """New trainings stay away from a GPU exactly where the table says so."""
    bench = GpuBench(1)
    bench.found(kind)
    bench.submit("a", gpus=1)
    blocked = KINDS[kind].blocks or bool(KINDS[kind].needs)
    assert (bench.phase() is Phase.QUEUED) is blocked


def test_a_machine_without_gpus_says_so_once_and_runs_cpu_jobs():
    """GPU watching is off: one message, and none at the next look or the next start of the daemon."""
    bench = GpuBench(gpus=())
    bench.seen(state="none")
    bench.seen(state="none")
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=bench.world.boot)
    bench.seen(state="none")
    assert bench.said().count("gpus-none") == 1
    bench.submit("a", gpus=0)
    assert bench.phase() is Phase.PREPARING


def test_a_machine_that_had_gpus_yesterday_is_an_incident():
    """All are gone: one page for all of them."""
    bench = GpuBench(4)
    bench.seen(state="none")
    assert [one.severity for one in bench.of(actions.Announce) if one.what == "gpus-missing"] == ["page"]
    assert bench.said().count("gpu-quarantine") == 0
    bench.submit("a", gpus=1)
    assert bench.phase() is Phase.QUEUED


def test_a_driver_that_was_upgraded_holds_new_starts_only():
    """What runs goes on; new GPU trainings wait and say why; then all is well again."""
    bench = GpuBench(2)
    bench.running("a")
    bench.seen(state="version-mismatch", text="the driver was upgraded without a restart")
    bench.submit("b", gpus=1)
    assert bench.phase("a") is Phase.RUNNING
    assert "upgraded" in bench.run("b").waiting_for
    bench.seen()
    assert bench.phase("b") is Phase.PREPARING
    assert bench.said().count("gpu-driver") == bench.said().count("gpus-back") == 1


def test_without_the_library_gpus_are_given_by_index():
    """NVML is not there, the GPUs are: trainings run, and somebody is told that nobody watches."""
    bench = GpuBench(gpus=(), gpu_count=2, first="no-library")
    bench.running("a")
    assert bench.run("a").attempt.gpu_ids == ("0",)


def test_a_new_daemon_waits_for_its_probe():
    """What was known before may be old: no GPU is given out before the driver has answered."""
    bench = GpuBench(2)
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=bench.world.boot)
    bench.tell(events.Configured, policy=bench.world.policy)
    bench.submit("a", gpus=1)
    assert bench.run().waiting_for == "GPU: the driver has not answered yet"
    bench.seen()
    assert bench.phase() is Phase.PREPARING


def test_the_kernel_log_is_read_on_from_where_it_was():
    """The number of the newest record stays over a restart of the daemon, and counts for its own boot only."""
    bench = GpuBench(2)
    bench.xid(31, seq=41)
    bench.tell(events.KernelSaid, what="io-error", text="sda", device="sda", seq=44)
    assert (bench.world.kernel_seq, bench.world.kernel_boot) == (44, bench.world.boot)
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=SECOND_BOOT)
    bench.xid(31, seq=3)
    assert (bench.world.kernel_seq, bench.world.kernel_boot) == (3, SECOND_BOOT)


def test_errors_of_one_disk_are_told_once_a_day():
    """A failing disk writes thousands of lines."""
    bench = GpuBench(1)
    for _ in range(3):
        bench.tell(events.KernelSaid, what="io-error", text="sda", device="sda")
    bench.tell(events.KernelSaid, what="io-error", text="sdb", device="sdb")
    assert bench.said().count("io-error") == 2
    bench.wait(90_000.0)
    bench.tell(events.KernelSaid, what="io-error", text="sda", device="sda")
    assert bench.said().count("io-error") == 3


def test_heat_lowers_the_power_and_gives_it_back():
    """Where the administrator wants it: once lowered, once restored, not before all heat is over."""
    bench = GpuBench(1, gpu={"power_cap": 0.8})
    bench.found("throttled")
    bench.found("too-hot")
    bench.found("throttled", open=False)
    assert [one.share for one in bench.of(actions.TreatGpu)] == [0.8]
    bench.found("too-hot", open=False)
    assert [one.share for one in bench.of(actions.TreatGpu)] == [0.8, 1.0]


def powered(bench, *, share, ok=True, watts=0.0):
    """The answer to the last order about power."""
    key = bench.of(actions.TreatGpu)[-1].key
    bench.tell(events.GpuTreated, answers=key, gpu=uuid(0), what="power", ok=ok, text="x", share=share, watts=watts)


def limited(watts=300.0):
    """A bench whose hot GPU has less power, and had so much before."""
    bench = GpuBench(1, gpu={"power_cap": 0.8})
    bench.found("throttled")
    powered(bench, share=0.8, watts=watts)
    return bench


def test_a_cool_gpu_gets_the_limit_that_it_had():
    """Not the board's default: an administrator may have set a lower one."""
    bench = limited(300.0)
    assert (bench.gpu().power_limited, bench.gpu().power_before_w) == (True, 300.0)
    bench.found("throttled", open=False)
    order = bench.of(actions.TreatGpu)[-1]
    assert (order.share, order.watts) == (1.0, 300.0)
    powered(bench, share=1.0)
    assert (bench.gpu().power_limited, bench.gpu().power_before_w) == (False, 0.0)


def test_a_limit_that_could_not_be_set_is_none():
    """Nothing is lifted afterwards, and the next heat tries it once more."""
    bench = GpuBench(1, gpu={"power_cap": 0.8})
    bench.found("throttled")
    powered(bench, share=0.8, ok=False)
    assert not bench.gpu().power_limited
    bench.found("throttled", open=False)
    assert [one.share for one in bench.of(actions.TreatGpu)] == [0.8]
    bench.found("throttled")
    assert [one.share for one in bench.of(actions.TreatGpu)] == [0.8, 0.8]


@pytest.mark.parametrize(("before_w", "command"), [(300.0, "-pl 300"), (0.0, "-pl WATTS")])
def test_a_limit_that_could_not_be_lifted_is_told(before_w, command):
    """The GPU is slower than it need be: somebody hears it, with the command; it is tried again after the next heat."""
    bench = limited(before_w)
    bench.found("throttled", open=False)
    powered(bench, share=1.0, ok=False)
    (told,) = [one for one in bench.of(actions.Announce) if one.what == "gpu-power" and one.channel == "ops"]
    assert told.todo.endswith(command)
    assert (bench.gpu().power_limited, bench.gpu().power_before_w) == (True, before_w)
    bench.found("throttled")
    bench.found("throttled", open=False)
    assert [one.share for one in bench.of(actions.TreatGpu)] == [0.8, 1.0, 1.0]


@pytest.mark.parametrize("how", ["reset", "reboot"])
def test_a_reset_ends_the_limit(how):
    """The board forgets it: nothing is left to be lifted."""
    bench = limited()
    if how == "reset":
        bench.tell(events.GpuTreated, gpu=uuid(0), what="reset", ok=True, text="x")
    else:
        bench.tell(events.DaemonStarted, pid=2, version="test", boot=SECOND_BOOT)
    assert (bench.gpu().power_limited, bench.gpu().power_before_w) == (False, 0.0)
    bench.found("throttled", open=False)
    assert [one.share for one in bench.of(actions.TreatGpu)] == [0.8]


def test_heat_alone_changes_no_power():
    """It is opt-in."""
    bench = GpuBench(1)
    bench.found("throttled")
    assert bench.of(actions.TreatGpu) == []


def test_replay_gives_the_same_world():
    """All of it is a pure function of the events."""
    bench = GpuBench(2)
    bench.running()
    bench.lose(0)
    bench.ended()
    assert bench.replayed() == bench.world


def test_the_passport_counts_for_life():
    """Trainings, hours, failures and errors stay when all else is over."""
    bench = GpuBench(2)
    bench.running()
    bench.wait(100.0)
    bench.lose(0)
    bench.ended()
    passport = bench.gpu().passport
    assert (passport.attempts, passport.failures, passport.xids, passport.quarantines) == (1, 1, {"79": 1}, 1)
    assert passport.busy_s == pytest.approx(100.0)


def test_an_xid_of_an_unknown_gpu_touches_nobody():
    """It is told once, and no GPU of ours is blamed."""
    bench = GpuBench(1)
    for _ in range(2):
        bench.tell(events.XidSeen, xid=79, gpu="", bus_id="0000:ff:00.0", text="x")
    assert bench.said().count("xid") == 1
    assert bench.gpu().quarantine is None


def test_an_xid_that_the_table_lacks_is_told_and_not_held_against_the_gpu():
    """Newer drivers know more codes."""
    bench = GpuBench(1)
    bench.xid(999)
    assert bench.said().count("xid") == 1
    assert bench.gpu().quarantine is None


def test_a_gpu_that_is_forgotten_is_no_more_waited_for():
    """A card that was taken out for good is released, and counts no more."""
    bench = GpuBench(2)
    bench.seen(without=(1,))
    bench.tell(events.GpuOrdered, gpu=uuid(1), what="release", by="ann")
    assert set(bench.world.gpus) == {uuid(0)}
    assert bench.world.policy.gpu_count == 1


def test_a_gpu_may_get_another_number():
    """The index is that of the newest list; the GPU is known by its UUID."""
    bench = GpuBench(2)
    bench.facts = [facts(0, uuid=uuid(1)), facts(1, uuid=uuid(0))]
    bench.seen()
    assert [bench.gpu(0).index, bench.gpu(1).index] == [1, 0]


def test_a_driver_that_is_known_to_hang_is_warned_of_once():
    """The look that works tells of what will happen: one message for each boot."""
    bench = GpuBench(1)
    for _ in range(2):
        bench.seen(text="after 66 days this driver hangs")
    assert bench.said().count("gpu-driver") == 1
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=SECOND_BOOT)
    bench.seen(text="after 66 days this driver hangs")
    assert bench.said().count("gpu-driver") == 2


def test_the_kernels_words_count_more_than_the_number_of_nvml():
    """NVML was faster: what the driver asks for stands in the kernel's line, and it is one error all the same."""
    bench = GpuBench(2)
    bench.running()
    bench.xid(154, source="nvml")
    assert bench.gpu().quarantine is None
    bench.xid(154, action="reboot")
    assert bench.gpu().quarantine.needs == "reboot"
    assert bench.gpu().passport.xids == {"154": 1}


def test_whom_the_kernel_killed_for_memory_died_of_that():
    """The line names the process; nothing else has to say so."""
    bench = GpuBench(1)
    bench.running()
    bench.tell(events.KernelSaid, what="oom", text="Killed process 100", pid=100, run=bench.run().id)
    bench.die("a", signal=9)
    assert bench.run().incidents[-1].cause == "host-oom"


def test_an_error_of_its_own_explains_a_silent_death():
    """Xid 31 with its pid, and then a signal: the program did that, says the incident; another pid's says nothing."""
    for of_ours in (True, False):
        bench = GpuBench(2)
        bench.running()
        bench.xid(31, pid=100, run=bench.run().id if of_ours else "", attempt=1)
        bench.die("a", signal=11)
        assert (bench.run().incidents[-1].cause == "cuda-illegal-access") is of_ours


@pytest.mark.parametrize("first", ["xid", "lost"])
def test_what_is_told_of_the_trainings_on_a_gpu_is_true(first):
    """With one witness it goes on, with two it is ended: the message that comes with the second one says so."""
    bench = GpuBench(2)
    bench.running("a")
    bench.xid(79) if first == "xid" else bench.found("lost")
    told = [one for one in bench.of(actions.Announce) if one.severity == "page"]
    assert "a runs there and goes on" in told[-1].text
    bench = GpuBench(2)
    bench.running("a")
    bench.found("lost", source="sysfs")
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="release", by="ann")
    bench.found("lost", source="sysfs")
    bench.lose(0)
    assert bench.run("a").stop.of_gpu


def test_two_kinds_of_heat_are_one_message():
    """Throttled and too hot are one thing for a person; it is over when both are."""
    bench = GpuBench(1)
    bench.found("throttled")
    bench.found("too-hot")
    bench.found("throttled", open=False)
    assert [one.severity for one in bench.of(actions.Announce)].count("page") == 1
    assert "gpu-over" not in bench.said()
    bench.found("too-hot", open=False)
    assert bench.said().count("gpu-over") == 1


def test_only_the_gpu_that_failed_is_avoided():
    """The other ones of a run are in order: it may have them again at once."""
    bench = GpuBench(4)
    bench.running("a", gpus=2)
    bench.lose(0)
    bench.ended("a")
    assert bench.run("a").avoided_gpus == (uuid(0),)
    assert bench.on("a") == [1, 2]


def test_the_passport_names_the_attempts_that_died_there():
    """For the bundle: which run, which attempt, of what."""
    bench = GpuBench(2)
    bench.running("a")
    bench.lose(0)
    bench.ended("a")
    (note,) = [one for one in bench.gpu().passport.notes if one.what == "failed attempt"]
    assert (note.run, note.attempt) == ("a@1", 1)


@pytest.mark.parametrize("xid_first", [True, False])
def test_the_order_of_the_witnesses_does_not_matter(xid_first):
    """Whoever comes second ends the attempt, and the order stands."""
    bench = GpuBench(2)
    bench.running("a")
    for what in ("xid", "lost") if xid_first else ("lost", "xid"):
        bench.xid(79) if what == "xid" else bench.found("lost")
    assert (bench.phase("a"), bench.run("a").stop.cause) == (Phase.STOPPING, "gpu-lost")


def test_a_gpu_that_is_doubted_but_not_taken_out_is_avoided():
    """Xid 44 keeps the GPU in use: whoever died of it goes on elsewhere all the same."""
    bench = GpuBench(2)
    bench.running("a")
    bench.xid(44)
    bench.die("a", signal=9)
    bench.wait(30.0)
    assert (bench.gpu().quarantine, bench.on("a")) == (None, [1])


def test_a_contained_error_is_no_reason_to_move():
    """Xid 94: the same GPU, as its row says."""
    bench = GpuBench(2)
    bench.running("a")
    bench.xid(94, pid=100, run=bench.run().id, attempt=1)
    bench.die("a", signal=9)
    bench.wait(30.0)
    assert bench.on("a") == [0]


def test_a_kernel_log_that_cannot_be_read_is_told():
    """One of the witnesses is missing: somebody hears that, once a day, and how to mend it."""
    bench = GpuBench(1)
    for _ in range(2):
        bench.tell(events.KernelSaid, what="unreadable", text="permission denied")
    (told,) = [one for one in bench.of(actions.Announce) if one.what == "unreadable"]
    assert "CAP_SYSLOG" in told.todo
