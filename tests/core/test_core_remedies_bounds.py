"""Any sequence of failures: without progress a person is asked before long, with progress it goes on."""

from __future__ import annotations

import pytest
from bench import Bench
from causes import signs
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core import events
from supervisor.core.diagnosis.diagnose import of_cause
from supervisor.core.diagnosis.evidence import Evidence
from supervisor.core.diagnosis.remedies import QUOTA, choose
from supervisor.core.diagnosis.tables import CAUSES, ENDS
from supervisor.core.job import Restart
from supervisor.core.model import Phase

SILENT = Evidence()
KNOWN = [name for name, one in sorted(CAUSES.items()) if one.steps[0] not in ENDS]  # others end every list at once
PLACES = ({}, {"epoch": 1, "batch": 2, "exact": True}, {"unmounted": ("/data",)})
MOST_ATTEMPTS = 140


def impatient(**restart: object) -> Bench:
    """A bench with a run whose backoffs take a second, so that all falls into one day."""
    bench = Bench(gpu_count=4)
    bench.submit(restart=Restart(**{"backoff_max_s": 1.0, "backoff_s": 1.0, **restart}), gpus=1)
    return bench


def fail_again(bench: Bench, name: str, place: int = 0, *, saves: bool = False) -> bool:
    """An attempt starts and fails like that; what it waits for then comes back at once. True while the run goes on."""
    saved = bench.run().progress.saved_epoch
    bench.launch(start="resume" if saved else "fresh", from_epoch=saved)
    if saves:
        bench.save(saved + 1, epochs=1000)
    bench.die(code=1, evidence=signs(name, **PLACES[place]))
    if bench.phase() is not Phase.COOLING:
        return False
    if bench.run().waiting_for:
        bench.tell(events.WaitOver, "a", what=bench.run().waiting_for)
    else:
        bench.wait(2.0)
    return True


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*KNOWN, "of-a-user"]), st.integers(0, 1)), min_size=150, max_size=150),
    st.integers(1, 3),
    st.sampled_from([(), ("workers", "cache", "checkpoint"), ("workers", "batch", "imgsz", "freeze")]),
)
def test_without_progress_every_run_comes_to_rest(failures, no_progress, remedies):
    """Whatever it dies of, in whatever order, within a day: after a bounded number of attempts a person is asked."""
    bench = impatient(no_progress=no_progress, remedies=remedies)
    attempts = next(count for count, (name, place) in enumerate(failures, 1) if not fail_again(bench, name, place))
    assert bench.phase() in {Phase.HELD, Phase.FAILED}
    assert attempts <= MOST_ATTEMPTS


@pytest.mark.parametrize("no_progress", [1, 3])
@pytest.mark.parametrize("plain_first", [False, True])
def test_the_worst_luck_is_bounded_too(no_progress, plain_first):
    """Each failure is the one of all causes that leaves the most to be tried: it comes to rest all the same."""
    bench = impatient(no_progress=no_progress, remedies=("workers", "cache", "checkpoint", "batch", "imgsz", "freeze"))
    for _ in range(MOST_ATTEMPTS + 1):
        run, now = bench.run(), bench.now
        steps = {name: choose(run, of_cause(name, ""), SILENT, bench.world.policy, now).step for name in KNOWN}
        open_ones = [name for name in KNOWN if steps[name] not in ENDS]
        open_ones.sort(key=lambda name: (steps[name] in {"retry", "backoff"}) is not plain_first)
        if not fail_again(bench, open_ones[0] if open_ones else "unknown"):
            break
    assert bench.phase() in {Phase.HELD, Phase.FAILED}
    assert bench.run().attempts <= MOST_ATTEMPTS


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([*KNOWN, "of-a-user"]), st.integers(0, 2), st.integers(1, 3))
def test_the_same_failure_again_and_again_ends_soon(name, place, no_progress):
    """One cause without an epoch: at most thirty attempts; waits for what comes back each time are not counted."""
    bench, tries = impatient(no_progress=no_progress), 0
    for _ in range(200):
        goes_on = fail_again(bench, name, place)
        tries += not bench.run().incidents[-1].step.startswith("wait-")
        if not goes_on:
            break
    assert bench.phase() in {Phase.HELD, Phase.FAILED}
    assert tries <= 30


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*KNOWN, "of-a-user"]), st.integers(0, 2)), min_size=10, max_size=40))
def test_with_an_epoch_each_time_it_goes_on_for_ever(failures):
    """Every attempt saves an epoch: nothing is given up or held, but where the plan knows nothing that can be tried."""
    bench = impatient(no_progress=1)
    for name, place in failures:
        if not fail_again(bench, name, place, saves=True):
            cause = bench.run().incidents[-1].cause
            unseen = {"wait-disk"} if cause == QUOTA else set()  # a quota that nobody tells is not waited for
            assert set(CAUSES[cause].steps) <= {"gpus", "checkpoint", "wait-mount", *unseen, *ENDS}, bench.run().reason
            break
