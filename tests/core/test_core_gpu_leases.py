"""Who gets which GPU, who waits, and for what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.actions import Launch, Prepare
from supervisor.core.gpus.model import GpuWish, Holder
from supervisor.core.job import Watch
from supervisor.core.model import Phase
from tests.core.gpu_bench import GpuBench, facts, uuid

ALICE = Holder(pid=4242, user="alice", command="python", used_bytes=18 << 30)


def held(bench, index, *holders):
    """Others are on a GPU."""
    bench.tell(events.GpuHeld, gpu=uuid(index), holders=holders)


def test_a_lease_is_by_uuid_and_reaches_the_trainer():
    """The attempt, its preparation and its launch name the GPUs by UUID; the preparation looks at them first."""
    bench = GpuBench(2)
    bench.running(gpus=2)
    attempt = bench.run().attempt
    assert (attempt.gpu_ids, attempt.gpus) == ((uuid(0), uuid(1)), (0, 1))
    prepare, launch = bench.of(Prepare)[-1], bench.of(Launch)[-1]
    assert prepare.gpu_ids == launch.gpu_ids == attempt.gpu_ids
    assert prepare.check_gpus


def test_one_attempt_for_each_gpu():
    """The second run waits, and starts when the first is over."""
    bench = GpuBench(1)
    bench.running("a")
    bench.submit("b", gpus=1)
    assert (bench.phase("b"), bench.run("b").waiting_for) == (Phase.QUEUED, "GPU")
    bench.finish("a")
    assert bench.phase("b") is Phase.PREPARING


@pytest.mark.parametrize(
    ("first", "second", "together"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_gpu_is_shared_only_if_both_want_it(first, second, together):
    """`share` on one side alone is not enough."""
    bench = GpuBench(1)
    bench.running("a", gpu=GpuWish(share=first))
    bench.submit("b", gpus=1, gpu=GpuWish(share=second))
    assert (bench.phase("b") is Phase.PREPARING) is together


def test_foreign_processes_are_respected_and_named():
    """The run waits for the stranger, says for whom, and starts when the stranger has gone."""
    bench = GpuBench(1)
    held(bench, 0, ALICE)
    bench.submit("a", gpus=1)
    assert bench.run().waiting_for == "GPU: GPU 0 is in use: pid 4242 of alice holds 18 GiB"
    held(bench, 0)
    assert bench.phase() is Phase.PREPARING


def test_foreign_processes_can_be_ignored():
    """Where the administrator says so."""
    bench = GpuBench(1, gpu={"foreign": "ignore"})
    held(bench, 0, ALICE)
    bench.submit("a", gpus=1)
    assert bench.phase() is Phase.PREPARING


def test_a_free_gpu_is_preferred_to_one_with_a_stranger():
    """GPU 0 is taken by somebody: the run gets GPU 1."""
    bench = GpuBench(2)
    held(bench, 0, ALICE)
    bench.running()
    assert bench.on() == [1]


@pytest.mark.parametrize("name", [uuid(1), "1"])
def test_a_named_gpu_is_the_one(name):
    """Named by UUID or by index: that one and no other, also if others are free."""
    bench = GpuBench(3)
    bench.running("a", gpu=GpuWish(named=(name,)))
    assert bench.on("a") == [1]
    bench.submit("b", gpus=1, gpu=GpuWish(named=(name,)))
    assert bench.phase("b") is Phase.QUEUED


def test_memory_is_asked_for():
    """Too small a GPU is not given, and not waited for."""
    bench = GpuBench(gpus=[facts(0, memory_bytes=8 << 30), facts(1, memory_bytes=48 << 30)])
    bench.running("a", gpu=GpuWish(memory_bytes=20 << 30))
    assert bench.on("a") == [1]


def test_linked_gpus_are_given_together():
    """Of four GPUs in two NVLink pairs a run of two gets a pair, whichever is whole."""
    pairs = [facts(i, links=(uuid(i ^ 1),)) for i in range(4)]
    bench = GpuBench(gpus=pairs)
    bench.running("a", gpu=GpuWish(named=(uuid(0),)))
    bench.running("b", gpus=2)
    assert bench.on("b") == [2, 3]


def test_gpus_behind_one_processor_are_given_together():
    """Without links the same NUMA node counts; `prefer` numa puts it before links."""
    bench = GpuBench(gpus=[facts(i, numa=i % 2) for i in range(4)])
    bench.running("a", gpus=2)
    assert bench.on("a") == [0, 2]
    cross = [facts(i, numa=i % 2, links=(uuid(i ^ 1),)) for i in range(4)]
    bench = GpuBench(gpus=cross)
    bench.running("a", gpus=2, gpu=GpuWish(prefer="numa"))
    bench.running("b", gpus=2)
    assert (bench.on("a"), bench.on("b")) == ([0, 2], [1, 3])


def test_a_doubtful_gpu_is_given_last():
    """One with very many corrected errors works, but others come first."""
    bench = GpuBench(2)
    bench.found("ecc-rate", 0)
    bench.running("a")
    bench.running("b")
    assert (bench.on("a"), bench.on("b")) == ([1], [0])


# ---- fewer, and all again
def four(**wish):
    """A training on four GPUs with a batch of 64."""
    train = {"model": "/m.yaml", "data": "/d.yaml", "epochs": 10, "batch": 64}
    return {"gpus": 4, "train": train, "gpu": GpuWish(**wish)}


def test_the_rest_goes_on_where_the_job_allows():
    """One of four is lost: the run goes on with two, because 64 images cannot be spread over three."""
    bench = GpuBench(4)
    bench.running("a", **four(min=1))
    bench.lose(1)
    bench.ended("a")
    assert bench.on("a") == [0, 2]
    assert bench.run("a").job.train["batch"] == 64


def test_the_rest_waits_where_the_job_does_not_allow():
    """Without `min` the run wants all it asked for."""
    bench = GpuBench(4)
    bench.running("a", **four())
    bench.lose(1)
    bench.ended("a")
    assert bench.phase("a") is Phase.QUEUED


def test_busy_gpus_are_waited_for_not_done_without():
    """`min` is for broken GPUs: those that others use come back."""
    bench = GpuBench(4)
    bench.running("b")
    bench.submit("a", **four(min=1))
    assert (bench.phase("a"), bench.run("a").waiting_for) == (Phase.QUEUED, "GPU")


def shrunk(epoch_s=600.0):
    """A bench whose run went on with two of its four GPUs, for a while already, in long epochs."""
    bench = GpuBench(4)
    bench.running("a", **four(min=1))
    bench.lose(1)
    bench.ended("a")
    bench.launch("a", start="resume", from_epoch=1)
    bench.wait(700.0)
    bench.tell(events.GpuOrdered, gpu=uuid(1), what="release", by="ann")
    bench.found("lost", 1, open=False)
    bench.tell(events.Progressed, "a", epoch=2, epochs=10, saved_epoch=2, epoch_s=epoch_s)
    return bench


def test_a_run_grows_again_at_an_epoch_end():
    """The GPU is back, and eight long epochs are left: stopped at a save, it goes on with all four."""
    bench = shrunk()
    run = bench.run("a")
    assert (run.phase, run.stop.reason) == (Phase.STOPPING, "goes on with 4 GPUs instead of 2")
    bench.ended("a")
    assert bench.on("a") == [0, 1, 2, 3]


def test_a_run_does_not_grow_for_little():
    """Eight epochs of ten seconds are not worth a restart."""
    assert shrunk(epoch_s=10.0).phase("a") is Phase.RUNNING


# ---- the queue
def test_a_run_that_waits_for_gpus_is_not_overtaken():
    """A smaller one would take what it waits for."""
    bench = GpuBench(4)
    bench.running("a", gpus=2)
    bench.submit("b", gpus=4)
    bench.submit("c", gpus=1)
    assert bench.phase("c") is Phase.QUEUED


def test_a_short_run_may_fill_the_gap():
    """It is over before the one ahead of it could start: nobody waits longer for it."""
    bench = GpuBench(4)
    bench.running("a", gpus=2)
    bench.tell(events.Progressed, "a", epoch=2, epochs=10, saved_epoch=2, epoch_s=900.0, eta_s=7200.0)
    bench.submit("b", gpus=4)
    bench.submit("long", gpus=1, time_limit_s=3 * 3600.0)
    bench.submit("short", gpus=1, time_limit_s=3600.0)
    assert (bench.phase("long"), bench.phase("short")) == (Phase.QUEUED, Phase.PREPARING)


def test_gpus_that_the_first_cannot_use_are_no_gap():
    """Who waits for GPU 0 keeps nobody from GPU 1."""
    bench = GpuBench(2)
    bench.running("a", gpu=GpuWish(named=("0",)))
    bench.submit("b", gpus=1, gpu=GpuWish(named=("0",)))
    bench.submit("c", gpus=1)
    assert bench.on("c") == [1]


def test_a_run_that_wants_more_than_there_is_keeps_nobody_waiting():
    """It waits for a repair; the others go on."""
    bench = GpuBench(2)
    bench.found("remap-failed", 1)
    bench.submit("a", gpus=2)
    bench.submit("b", gpus=1)
    assert (bench.phase("a"), bench.phase("b")) == (Phase.QUEUED, Phase.PREPARING)


def test_a_drained_gpu_gets_nothing_new_and_comes_back_in_time():
    """What runs there goes on; the time that was given is kept."""
    bench = GpuBench(1)
    bench.running("a")
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="drain", by="ann", until_at=bench.now + 100.0)
    bench.submit("b", gpus=1)
    assert bench.phase("a") is Phase.RUNNING
    bench.finish("a")
    assert bench.run("b").waiting_for == "GPU: GPU 0 is drained by ann"
    bench.wait(101.0)
    assert bench.phase("b") is Phase.PREPARING


def busy(bench, name, found):
    """A look before the start of a run finds those GPUs busy."""
    told = "; ".join(f"GPU {index} {why}" for index, why in found.items())
    by_uuid = {uuid(index): why for index, why in found.items()}
    bench.tell(events.PrepareFailed, name, reason=told, waiting_for=f"GPU: {told}", busy=by_uuid)


def test_a_look_before_the_start_that_finds_the_gpu_busy_puts_the_run_back():
    """QUEUED with the reason; tried again after half a minute, with the same number of attempt."""
    bench = GpuBench(1)
    bench.submit("a", gpus=1)
    busy(bench, "a", {0: "has 3.1 GiB in use that no process explains"})
    assert (bench.phase(), bench.run().attempts) == (Phase.QUEUED, 0)
    assert "no process explains" in bench.run().waiting_for
    bench.wait(31.0)
    assert (bench.phase(), bench.run().attempts) == (Phase.PREPARING, 1)


COUNTS = st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=10)


@given(COUNTS, st.sets(st.integers(0, 7)))
def test_no_gpu_is_given_to_two_that_do_not_share(wishes, broken):
    """Whatever is asked for, and whatever is broken: one attempt for each GPU, and none on a broken one."""
    bench = GpuBench(8)
    for index in broken:
        bench.found("remap-failed", index)
    for number, (count, share) in enumerate(wishes):
        bench.submit(f"r{number}", gpus=count, gpu=GpuWish(share=share))
    given_to: dict[str, list[bool]] = {}
    for run in bench.world.live.values():
        for gpu in run.attempt.gpu_ids if run.attempt is not None else ():
            given_to.setdefault(gpu, []).append(run.job.gpu.share)
    assert all(len(shares) == 1 or all(shares) for shares in given_to.values())
    assert not {uuid(index) for index in broken} & given_to.keys()


def test_names_that_nobody_can_match_are_told():
    """Without a watch a UUID says nothing: the run waits, and says for what."""
    bench = GpuBench(gpus=(), gpu_count=2, first="no-library")
    bench.submit("a", gpus=1, gpu=GpuWish(named=(uuid(0),)))
    assert "by UUID" in bench.run().waiting_for


def restarted(bench, **gpu):
    """A new daemon, with another configuration of GPUs."""
    bench.tell(events.DaemonStarted, pid=2, version="test", boot=bench.world.boot)
    policy = bench.world.policy
    bench.tell(events.Configured, policy=replace(policy, gpu_count=2, gpu=replace(policy.gpu, **gpu)))


def test_who_runs_keeps_its_gpu_when_the_watch_begins_or_ends():
    """By index before, by UUID from then on, and back: nobody else gets the GPU meanwhile."""
    bench = GpuBench(gpus=[facts(0), facts(1)], gpu_count=2, first="no-library")
    bench.running("a")
    assert bench.run("a").attempt.gpu_ids == ("0",)
    bench.seen()
    assert bench.run("a").attempt.gpu_ids == (uuid(0),)
    bench.running("b")
    assert bench.on("b") == [1]
    restarted(bench, watch=False)
    assert (bench.run("a").attempt.gpu_ids, bench.run("b").attempt.gpu_ids) == (("0",), ("1",))
    bench.submit("c", gpus=1)
    assert bench.phase("c") is Phase.QUEUED


def test_an_attempt_of_an_older_version_keeps_its_gpu():
    """It was begun when only indices were kept."""
    bench = GpuBench(2)
    run = bench.running("a")
    old = replace(run, attempt=replace(run.attempt, gpu_ids=()))
    bench.world = bench.world.with_run(old)
    bench.seen()
    bench.running("b")
    assert (bench.run("a").attempt.gpu_ids, bench.on("b")) == ((uuid(0),), [1])


def test_without_a_watch_an_older_attempt_keeps_its_gpu():
    """Nobody tells of GPUs, and its index is all that is known: it is enough."""
    bench = GpuBench(gpus=(), gpu_count=2, watch=False)
    run = bench.running("a")
    bench.world = bench.world.with_run(replace(run, attempt=replace(run.attempt, gpu_ids=())))
    restarted(bench, watch=False)
    bench.running("b")
    assert bench.on("b") == [1]


@pytest.mark.parametrize("how", ["drained", "held"])
def test_what_cannot_be_had_is_no_reason_to_wait(how):
    """A run that wants a GPU that is drained, or somebody else's, keeps nobody from the others."""
    bench = GpuBench(3)
    if how == "drained":
        bench.tell(events.GpuOrdered, gpu=uuid(2), what="drain", by="ann")
    else:
        held(bench, 2, ALICE)
    bench.submit("big", gpus=3)
    bench.submit("small", gpus=1)
    assert (bench.phase("big"), bench.phase("small")) == (Phase.QUEUED, Phase.PREPARING)


def test_a_gpu_that_a_look_found_too_full_is_not_tried_at_once_again():
    """Strangers are ignored there, but their memory is not free: the next try is on another GPU."""
    bench = GpuBench(2, gpu={"foreign": "ignore"})
    held(bench, 0, ALICE)
    bench.submit("a", gpus=1)
    busy(bench, "a", {0: "has 8 GiB free, and the job wants 20 GiB"})
    assert bench.on("a") == [1]


def test_only_the_gpus_that_were_found_busy_are_left_alone():
    """Of several; and each for its own reason, whatever the words of another's are."""
    bench = GpuBench(3)
    bench.submit("a", gpus=3)
    busy(bench, "a", {1: "is used by pid 7 of a job called GPU 2 ", 2: "does not answer"})
    assert [bench.gpu(index).not_before_reason for index in range(3)] == [
        "",
        "is used by pid 7 of a job called GPU 2 ",
        "does not answer",
    ]


def test_an_adopted_training_needs_no_gpu_of_ours():
    """It has its own: the run watches it, although its process is a stranger on the GPU, and the other GPU is free."""
    bench = GpuBench(2)
    held(bench, 0, ALICE)
    watch = Watch(pid=4242, start_time=1, boot_id="boot-1")
    bench.submit("a", gpus=1, watch=watch)
    bench.tell(events.Prepared, "a", start="watch")
    assert bench.run("a").attempt.gpu_ids == ()
    bench.running("b")
    assert bench.on("b") == [1]


def test_an_adopted_training_that_is_over_is_resumed_on_a_gpu():
    """Nothing is left to watch: what follows is an attempt of ours, on a GPU that it is given."""
    bench = GpuBench(1)
    watch = Watch(pid=4242, start_time=1, boot_id="boot-1")
    bench.submit("a", gpus=1, watch=watch)
    bench.tell(events.Prepared, "a", start="resume", checkpoint="/last.pt", from_epoch=3)
    assert (bench.phase("a"), bench.on("a")) == (Phase.PREPARING, [0])


def test_what_is_held_against_a_gpu_counts_without_the_library():
    """Drained or in quarantine: an update of some package gives nothing out that was not to be."""
    bench = GpuBench(2)
    bench.tell(events.GpuOrdered, gpu=uuid(0), what="drain", by="ann")
    bench.xid(79, 1)
    bench.seen(state="no-library", text="libnvidia-ml.so.1 is missing")
    bench.submit("a", gpus=1)
    assert bench.run("a").waiting_for == "GPU: libnvidia-ml.so.1 is missing"
    restarted(bench, watch=False)
    assert bench.run("a").waiting_for.startswith("GPU: GPU 0 is drained by ann; GPU 1 is in quarantine")


def test_a_sharing_run_is_placed_behind_one_that_waits_for_a_slot():
    """It needs none."""
    bench = GpuBench(1, max_running=0)
    bench.running("x", gpu=GpuWish(share=True))
    bench.submit("cpu", gpus=0)
    bench.submit("y", gpus=1, gpu=GpuWish(share=True))
    assert (bench.phase("cpu"), bench.phase("y")) == (Phase.QUEUED, Phase.PREPARING)


def test_nobody_fills_a_gap_whose_end_is_unknown():
    """Where a neighbour does not tell when it ends, a run of three weeks may be in the way."""
    bench = GpuBench(2)
    bench.running("a")
    bench.submit("b", gpus=2)
    bench.submit("c", gpus=1, time_limit_s=21 * 86400.0)
    assert bench.phase("c") is Phase.QUEUED


@pytest.mark.parametrize(("batch", "goes_on"), [(64, True), (-1, False), (0.7, False), (63, False)])
def test_a_batch_that_cannot_be_kept_is_no_batch_for_fewer(batch, goes_on):
    """One that the trainer sizes by memory would be another one; one that does not divide is refused by it."""
    bench = GpuBench(4)
    train = {"model": "/m.yaml", "data": "/d.yaml", "epochs": 10, "batch": batch}
    bench.running("a", gpus=4, train=train, gpu=GpuWish(min=2))
    for index in (2, 3):
        bench.lose(index)
    bench.ended("a")
    assert (bench.phase("a") is Phase.PREPARING) is goes_on


def test_growing_does_not_wait_for_those_who_can_never_start():
    """A job that wants more than there is keeps nobody small."""
    bench = GpuBench(4)
    bench.running("a", **four(min=1))
    bench.lose(1)
    bench.ended("a")
    bench.launch("a", start="resume", from_epoch=1)
    bench.submit("never", gpus=5)
    bench.wait(700.0)
    bench.tell(events.GpuOrdered, gpu=uuid(1), what="release", by="ann")
    bench.found("lost", 1, open=False)
    bench.tell(events.Progressed, "a", epoch=2, epochs=10, saved_epoch=2, epoch_s=600.0)
    assert bench.phase("a") is Phase.STOPPING


def test_who_lost_a_gpu_goes_on_with_the_rest_at_once():
    """Others are only busy, and would be waited for: but this run has GPUs of its own that are in order."""
    bench = GpuBench(5)
    bench.running("a", **four(min=1))
    bench.running("b")
    bench.lose(0)
    bench.ended("a")
    assert bench.on("a") == [1, 2]
