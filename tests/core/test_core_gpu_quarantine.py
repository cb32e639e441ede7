"""In and out of quarantine; whose fault an Xid is."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from supervisor.core import actions, events
from supervisor.core.gpus import court, xids
from supervisor.core.gpus.model import GpuWish, Holder, XidOverride
from supervisor.core.model import Phase
from tests.core.bench import SECOND_BOOT
from tests.core.gpu_bench import GpuBench, uuid


def quarantined(needs="test", **more):
    """A bench whose GPU 0 is in quarantine; the interpreter for a test is known from a run on it."""
    bench = GpuBench(2, **more)
    bench.running("earlier")
    bench.finish("earlier")
    rma = next(number for number, row in xids.TABLE.items() if row.gpu in {"quarantine", "rma"} and not row.by_severity)
    code = {"test": 31, "reset": 62, "reboot": 79, "person": rma}[needs]
    if needs == "test":  # as the court sends it there
        for name in ("one", "two"):
            bench.running(name, gpu=GpuWish(named=("0",)))
            bench.xid(code)
            bench.finish(name)
    else:
        bench.xid(code)
    assert bench.gpu().quarantine.needs == needs
    return bench


def order_of(bench):
    """The newest order for a self-test."""
    return bench.of(actions.TestGpu)[-1]


def answer(bench, ok, **more):
    """The self-test comes to an end."""
    bench.tell(events.GpuTested, gpu=uuid(0), ok=ok, text="2 s", answers=order_of(bench).key, **more)


def test_a_gpu_comes_back_by_passing_its_test():
    """Tested in a job's interpreter when nobody uses it; then it is given out again, and somebody is told."""
    bench = quarantined()
    bench.wait(700.0)
    assert (order_of(bench).gpu, order_of(bench).python) == (uuid(0), "/env/bin/python")
    answer(bench, ok=True)
    assert bench.gpu().quarantine is None
    assert "gpu-released" in bench.said()


def test_a_failed_test_is_for_a_person():
    """What computes or remembers wrongly once is not given out because it did not the next time; told at once."""
    bench = under_test(quarantined("reset"), met=True)
    answer(bench, ok=False)
    assert bench.gpu().quarantine.needs == "person"
    page = [one for one in bench.of(actions.Announce) if one.what == "gpu-quarantine"][-1]
    assert (page.severity, "2 s" in page.text, "gpu bundle 0" in page.todo) == ("page", True, True)
    bench.wait(90_000.0)
    assert len(bench.of(actions.TestGpu)) == 1


def test_a_test_that_could_not_be_made_says_nothing_of_the_gpu():
    """No torch there: it is tried again, and after some tries a person is told, once."""
    bench = quarantined()
    for _ in range(10):
        bench.wait(700.0)
        answer(bench, ok=False, ran=False)
    assert bench.gpu().quarantine.tests == 0
    assert bench.said().count("gpu-untested") == 1


@pytest.mark.parametrize("needs", ["reset", "reboot"])
def test_what_it_needs_comes_before_the_test(needs):
    """Without the reset or the restart it is not even tested."""
    bench = quarantined(needs)
    bench.wait(90_000.0)
    assert bench.of(actions.TestGpu) == []


def test_after_a_restart_of_the_machine_it_is_tested():
    """A restart is as good as a reset."""
    bench = quarantined("reset")
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=SECOND_BOOT)
    bench.tell(events.Configured, policy=bench.world.policy)
    bench.seen()
    bench.wait(60.0)
    answer(bench, ok=True)
    assert bench.gpu().quarantine is None
    assert bench.gpu().passport.reboots == 1


def test_two_restarts_that_did_not_help_ask_for_an_inspection():
    """The third time a person must look at the hardware, with the evidence."""
    bench = quarantined("reboot")
    for number in (2, 3):
        bench.tell(events.DaemonStarted, pid=number, version="t", boot=SECOND_BOOT.__class__(f"boot-{number}", 1))
        bench.tell(events.Configured, policy=bench.world.policy)
        bench.seen()
        bench.xid(79)
    quarantine = bench.gpu().quarantine
    assert quarantine.needs == "person"
    assert "inspect the hardware" in quarantine.reason
    pages = [one for one in bench.of(actions.Announce) if one.what == "gpu-quarantine"]
    assert "gpu bundle 0" in pages[-1].todo


def test_resets_are_only_asked_for():
    """By default nothing is reset; the message has the command."""
    bench = quarantined("reset")
    assert bench.of(actions.TreatGpu) == []
    page = next(one for one in bench.of(actions.Announce) if one.what == "gpu-quarantine")
    assert f"nvidia-smi --gpu-reset -i {uuid(0)}" in page.todo


def test_a_reset_that_is_allowed_waits_for_an_idle_gpu():
    """Once, when nothing runs there any more; then it is tested."""
    bench = GpuBench(2, gpu={"reset": True})
    bench.running("a")
    bench.xid(62)
    assert bench.of(actions.TreatGpu) == []
    bench.ended("a")
    (order,) = bench.of(actions.TreatGpu)
    assert (order.what, order.gpu) == ("reset", uuid(0))
    bench.tell(events.GpuTreated, gpu=uuid(0), what="reset", ok=True, answers=order.key)
    bench.wait(30.0)
    assert len(bench.of(actions.TestGpu)) == 1
    assert bench.gpu().passport.resets == 1


def test_a_reset_that_fails_asks_for_a_person():
    """It is not tried for ever."""
    bench = quarantined("reset", gpu={"reset": True})
    (order,) = bench.of(actions.TreatGpu)
    bench.tell(events.GpuTreated, gpu=uuid(0), what="reset", ok=False, text="in use", answers=order.key)
    bench.wait(90_000.0)
    assert bench.gpu().quarantine.needs == "person"
    assert len(bench.of(actions.TreatGpu)) == 1


def test_a_reboot_that_is_allowed_ends_no_training():
    """It waits until nothing of ours runs."""
    bench = GpuBench(2, gpu={"reboot": True})
    bench.running("a", gpu=GpuWish(named=("1",)))
    bench.xid(79, 0)
    assert bench.of(actions.TreatGpu) == []
    bench.finish("a")
    assert [one.what for one in bench.of(actions.TreatGpu)] == ["reboot"]


def test_a_person_decides():
    """Out and in again by order: no test is made of what a person took out, and no page is sent for it."""
    bench = GpuBench(1)
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="quarantine", by="ann", reason="new fan")
    bench.submit("a", gpus=1)
    assert bench.run().waiting_for == "GPU: GPU 0 is in quarantine: new fan"
    bench.wait(90_000.0)
    assert bench.of(actions.TestGpu) == []
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="release", by="ann")
    assert bench.phase() is Phase.PREPARING
    assert {one.severity for one in bench.of(actions.Announce) if one.what == "gpu-quarantine"} == {"info"}


def test_a_released_gpu_begins_anew():
    """What was held against it counts no more: one new error is one again."""
    bench = quarantined("reboot")
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="release", by="ann")
    assert (bench.gpu().xids, bench.gpu().signs) == ((), ())
    assert bench.gpu().passport.xids == {"79": 1}


def test_a_self_test_that_is_off_leaves_it_to_a_person():
    """The message says so."""
    bench = quarantined(gpu={"self_test": "never"})
    bench.wait(90_000.0)
    assert bench.of(actions.TestGpu) == []
    page = next(one for one in bench.of(actions.Announce) if one.what == "gpu-quarantine")
    assert "until a person releases it" in page.text


# ---- the court
def test_one_job_on_two_gpus_is_to_blame_itself():
    """Xid 31 follows the job to another GPU: no GPU is taken out, and the job is named."""
    bench = GpuBench(2)
    bench.running("a")
    bench.xid(31, 0)
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="drain", by="ann")
    bench.die("a", code=1)
    bench.wait(100.0)
    bench.launch("a", start="resume", from_epoch=1)
    assert bench.on("a") == [1]
    bench.xid(31, 1)
    assert bench.gpu(0).quarantine is bench.gpu(1).quarantine is None
    told = [one for one in bench.of(actions.Announce) if one.what == "xid"]
    assert "the job is to blame" in told[-1].text


def test_two_jobs_on_one_gpu_blame_the_gpu():
    """The same error in another job: the GPU is tested before it is used again."""
    bench = GpuBench(1)
    for name in ("a", "b"):
        bench.running(name)
        bench.xid(31)
        bench.tell(events.CancelAsked, name, by="ann")
        bench.die(name, code=75)
        bench.wait(100.0)
    assert bench.gpu().quarantine.needs == "test"
    assert "the GPU is to blame" in bench.gpu().quarantine.reason


def test_a_burst_is_one_error():
    """One crash writes many lines: they count once, however many rules of repetition there are."""
    bench = GpuBench(2)
    bench.running("a")
    for _ in range(20):
        bench.xid(94)
    assert bench.gpu().quarantine is None


def test_an_administrator_decides_about_an_xid():
    """A row of the configuration counts instead of the table's."""
    bench = GpuBench(1, gpu={"xids": (XidOverride(xid=31, gpu="quarantine"),)})
    bench.xid(31)
    assert bench.gpu().quarantine.needs == "person"


@pytest.mark.parametrize("number", sorted(xids.TABLE))
def test_each_xid_does_to_an_idle_gpu_what_its_row_says(number):
    """Quarantine, or a message, or nothing: as the table has it for the first time that it comes."""
    row = xids.TABLE[number]
    bench = GpuBench(1)
    bench.xid(number, severity="fatal", action="reset")
    wanted = xids.said(row, "fatal", "reset").gpu
    needs = {"test": "test", "reset": "reset", "reboot": "reboot", "quarantine": "person", "rma": "person"}
    quarantine = bench.gpu().quarantine
    assert (quarantine.needs if quarantine else None) == needs.get(wanted)
    assert ("xid" in bench.said()) is (wanted in {"note", "last", "reset-idle"})


@pytest.mark.parametrize("number", sorted(xids.TABLE))
def test_each_xid_ends_a_training_only_with_a_second_sign(number):
    """Alone it never does; with a lost GPU in NVML it does exactly where its row says so."""
    bench = GpuBench(2)
    bench.running("a")
    bench.xid(number, severity="fatal", action="reset")
    assert bench.phase("a") is Phase.RUNNING
    bench.found("lost", 0)
    ends = xids.said(xids.TABLE[number], "fatal", "reset").attempt == "end"
    assert (bench.phase("a") is Phase.STOPPING) is ends


def test_what_is_cancelled_is_forgotten():
    """An Xid that says that another one is over takes its notes back."""
    over = next(row for row in xids.TABLE.values() if row.cancels)
    bench = GpuBench(1)
    bench.xid(over.cancels)
    bench.xid(over.xid)
    assert [note.xid for note in bench.gpu().xids] == [over.xid]


def test_notes_are_bounded():
    """A GPU that reports for years keeps the newest notes; the passport counts all."""
    bench = GpuBench(1)
    for number in range(3 * court.KEPT):
        bench.wait(100.0)
        bench.xid(63, seq=number)
    assert len(bench.gpu().xids) <= court.KEPT
    assert bench.gpu().passport.xids["63"] == 3 * court.KEPT


def crashed(bench, *places):
    """An attempt on the only GPU that ends with Xid 13 at those places, and the next one."""
    for place in places:
        bench.xid(13, place=place)
    bench.die("a", code=1)
    bench.wait(700.0)
    bench.launch("a", start="resume", from_epoch=1)


def test_twice_at_the_same_place_is_the_gpu():
    """Two attempts fail in the same unit of the chip, and only there: the GPU is tested."""
    bench = GpuBench(1)
    bench.running("a")
    crashed(bench, "GPC 2 TPC 1")
    bench.xid(13, place="GPC 2 TPC 1")
    assert bench.gpu().quarantine.needs == "test"


def test_all_over_the_chip_is_the_program():
    """A program that goes wrong everywhere names the same unit again by chance: no reason to doubt the GPU."""
    bench = GpuBench(1)
    bench.running("a")
    crashed(bench, "GPC 2 TPC 1", "GPC 0 TPC 3")
    for place in ("GPC 5 TPC 0", "GPC 2 TPC 1"):
        bench.xid(13, place=place)
    assert bench.gpu().quarantine is None


# ---- what must not let it out, and what must not keep it in silence
def under_test(bench, *, met=False):
    """The self-test of GPU 0 has begun."""
    if met:
        bench.tell(events.GpuOrdered, gpu=uuid(0), what="test", by="ann")
    bench.wait(20.0)
    assert bench.gpu().testing
    return bench


def test_a_test_that_began_before_a_failure_proves_nothing():
    """The GPU needs a reset since: a passed test of before lets it not out."""
    bench = under_test(quarantined())
    bench.xid(48)
    answer(bench, ok=True)
    assert (bench.gpu().quarantine.needs, bench.gpu().quarantine.met) == ("reset", False)


def test_what_happens_during_a_test_is_tested_again():
    """The same need once more while the test runs: another test decides."""
    bench = under_test(quarantined(gpu={"xids": (XidOverride(xid=137, gpu="test"),)}))
    bench.xid(137)
    answer(bench, ok=True)
    assert bench.gpu().quarantine is not None
    bench.wait(20.0)
    assert len(bench.of(actions.TestGpu)) == 2
    answer(bench, ok=True)
    assert bench.gpu().quarantine is None


def test_an_answer_of_another_test_is_none():
    """Only the test that is under way tells of the GPU."""
    bench = under_test(quarantined())
    bench.tell(events.GpuTested, gpu=uuid(0), ok=True, text="late", answers="gpu/another")
    assert bench.gpu().testing


def test_who_wants_a_gpu_tested_has_reset_it():
    """Nothing else tells of a reset that a person made: the test decides."""
    bench = under_test(quarantined("reset"), met=True)
    answer(bench, ok=True)
    assert bench.gpu().quarantine is None


@pytest.mark.parametrize("first", ["healthy", "never"])
def test_a_test_that_a_person_asks_for_is_made_and_wakes_nobody(first):
    """Of a healthy GPU, and where tests are switched off as well."""
    bench = GpuBench(1, gpu={"self_test": "never"} if first == "never" else {})
    bench.running("earlier")
    bench.finish("earlier")
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="test", by="ann")
    answer(bench, ok=True)
    assert bench.gpu().quarantine is None
    assert pages(bench) == []


@pytest.mark.parametrize("needs", ["reboot", "person"])
def test_a_test_that_a_person_asks_for_is_no_release(needs):
    """What it needs was not done: the result is noted, and it stays out."""
    bench = quarantined(needs)
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="test", by="ann")
    answer(bench, ok=True)
    assert bench.gpu().quarantine.result == "2 s"


def booted(bench, number, *, without=()):
    """The machine is restarted, and the driver lists what is left."""
    bench.tell(events.DaemonStarted, pid=number, version="t", boot=SECOND_BOOT.__class__(f"boot-{number}", 1))
    bench.tell(events.Configured, policy=bench.world.policy)
    bench.seen(without=without)
    bench.wait(60.0)


def pages(bench):
    """How often somebody was woken for a quarantine."""
    return [one for one in bench.of(actions.Announce) if one.what == "gpu-quarantine" and one.severity == "page"]


def test_a_gpu_that_stays_lost_is_told_and_at_last_inspected():
    """After each restart somebody hears that it did not help; after the second one the hardware is to be looked at."""
    bench = GpuBench(2)
    bench.lose(0)
    booted(bench, 2, without=(0,))
    assert (len(pages(bench)), bench.gpu().quarantine.needs) == (2, "reboot")
    booted(bench, 3, without=(0,))
    bench.wait(400.0)
    assert bench.gpu().quarantine.needs == "person"
    assert len(pages(bench)) == 3


def test_a_reset_that_did_not_help_is_told():
    """It was reset, and still says that it must be."""
    bench = GpuBench(1, gpu={"reset": True})
    bench.found("reset-required")
    (order,) = bench.of(actions.TreatGpu)
    bench.tell(events.GpuTreated, gpu=uuid(0), what="reset", ok=True, answers=order.key)
    bench.wait(200.0)
    assert "did not help" not in bench.gpu().quarantine.reason
    bench.wait(200.0)
    assert "the reset did not help" in bench.gpu().quarantine.reason
    assert len(bench.of(actions.TreatGpu)) == 2


def test_one_restart_is_one():
    """Ordered by us and seen by the next daemon: the same restart."""
    bench = GpuBench(1, gpu={"reboot": True})
    bench.running("earlier")
    bench.finish("earlier")
    bench.xid(79)
    (order,) = bench.of(actions.TreatGpu)
    booted(bench, 2)
    bench.tell(events.GpuTreated, gpu=uuid(0), what="reboot", ok=True, answers=order.key)
    bench.wait(20.0)
    answer(bench, ok=True)
    bench.xid(48)
    assert bench.gpu().quarantine.needs == "reset"
    assert bench.gpu().passport.reboots == 1


def test_a_test_that_is_allowed_later_is_made():
    """`self_test` was off when the GPU went into quarantine, and is on now."""
    bench = quarantined(gpu={"self_test": "never"})
    policy = bench.world.policy
    bench.tell(events.Configured, policy=replace(policy, gpu=replace(policy.gpu, self_test="quarantine")))
    bench.wait(20.0)
    assert len(bench.of(actions.TestGpu)) == 1


def test_who_is_always_there_keeps_a_gpu_from_its_test_and_that_is_told():
    """A desktop, say: the test is not made, and a person hears why."""
    bench = quarantined()
    bench.tell(events.GpuHeld, gpu=uuid(0), holders=(Holder(pid=7, user="root", used_bytes=1 << 30),))
    bench.wait(86400.0)
    assert bench.of(actions.TestGpu) == []
    assert bench.said().count("gpu-untested") == 1


def test_a_clock_that_was_ahead_delays_no_test_for_years():
    """Bounded when the next daemon starts."""
    bench = quarantined()
    quarantine = replace(bench.gpu().quarantine, next_test_at=bench.now + 1e9)
    bench.world = bench.world.with_gpu(replace(bench.gpu(), quarantine=quarantine, not_before=bench.now + 1e9))
    booted(bench, 2)
    bench.wait(7 * 3600.0)
    assert len(bench.of(actions.TestGpu)) == 1


def test_signs_of_a_clock_that_was_ahead_do_not_count():
    """Set back by a day: what the kernel log said then does not meet what NVML says now."""
    bench = GpuBench(2)
    bench.running("a")
    bench.xid(79)
    bench.now -= 86400.0
    bench.found("lost")
    assert bench.phase("a") is Phase.RUNNING


@pytest.mark.parametrize(("number", "gpu", "first"), [(44, "last", 1), (92, "none", 0)])
def test_given_out_last_is_what_the_administrator_says(number, gpu, first):
    """An override counts here as well."""
    bench = GpuBench(2, gpu={"xids": (XidOverride(xid=number, gpu=gpu),)})
    bench.xid(number, 0)
    bench.running("a")
    assert bench.on("a") == [first]


def test_a_burst_of_one_error_does_not_hide_another():
    """A program that fails thousands of times pushes no older error of the GPU out."""
    bench = GpuBench(1)
    bench.xid(48)
    for number in range(100):
        bench.wait(100.0)
        bench.xid(31, place=f"unit {number}")
    assert [note.xid for note in bench.gpu().xids].count(48) == 1


def test_one_loss_wakes_a_person_once():
    """The kernel log and NVML tell of the same thing, in whichever order."""
    for first in ("xid", "lost"):
        bench = GpuBench(1)
        for what in (first, "lost" if first == "xid" else "xid"):
            bench.xid(79) if what == "xid" else bench.found("lost")
        assert [one.severity for one in bench.of(actions.Announce)].count("page") == 1


def test_a_probe_that_comes_and_goes_is_told_once_an_hour():
    """A flapping driver is one thing that is wrong."""
    bench = GpuBench(1)
    for _ in range(5):
        bench.seen(state="crashed", text="three times within a minute")
        bench.wait(60.0)
        bench.seen()
        bench.wait(60.0)
    assert (bench.said().count("gpu-driver"), bench.said().count("gpus-back")) == (1, 1)
    bench.wait(4000.0)
    bench.seen(state="crashed", text="again")
    assert bench.said().count("gpu-driver") == 2


@pytest.mark.parametrize("by_person", [True, False])
def test_a_reset_that_helped_is_seen_when_its_finding_is_over(by_person):
    """A finding ends only after it was well for a while: the test follows then, and no second reset."""
    bench = GpuBench(1, gpu={"reset": not by_person})
    bench.running("earlier")
    bench.finish("earlier")
    bench.found("reset-required")
    if by_person:
        bench.tell(events.GpuOrdered, gpu=uuid(0), what="test", by="ann")
    else:
        (order,) = bench.of(actions.TreatGpu)
        bench.tell(events.GpuTreated, gpu=uuid(0), what="reset", ok=True, answers=order.key)
    bench.wait(120.0)
    bench.found("reset-required", open=False)
    bench.wait(40.0)
    answer(bench, ok=True)
    assert bench.gpu().quarantine is None
    assert len(bench.of(actions.TreatGpu)) == (0 if by_person else 1)


def test_a_restart_that_is_no_longer_needed_is_no_dead_end():
    """The machine was restarted since the order: what it needed was done, and it is tested."""
    bench = GpuBench(1, gpu={"reboot": True})
    bench.running("earlier")
    bench.finish("earlier")
    bench.xid(79)
    (order,) = bench.of(actions.TreatGpu)
    bench.tell(events.GpuTreated, gpu=uuid(0), what="nothing", ok=True, text="restarted since", answers=order.key)
    bench.wait(20.0)
    answer(bench, ok=True)
    assert bench.gpu().quarantine is None
