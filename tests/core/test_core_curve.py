"""One line through all attempts: each epoch once, restarts where they were, lost epochs kept apart."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import curve
from supervisor.core.curve import Point, Rows, Trace, join


def points(attempt, *epochs, loss=None, of=10):
    """Points of an attempt; the loss tells whose they are."""
    return tuple(
        Point(epoch=epoch, attempt=attempt, epochs=of, losses={"loss": float(attempt if loss is None else loss)})
        for epoch in epochs
    )


def first(*epochs, **fields):
    """An attempt from the beginning."""
    return Trace(number=1, run="a@1", start="fresh", ending="killed by SIGKILL", points=points(1, *epochs), **fields)


def resumed(number, after, *epochs, **fields):
    """An attempt that went on."""
    known = {"run": "a@1", "ending": "exit code 1", "points": points(number, *epochs), **fields}
    return Trace(number=number, start="resume", from_epoch=after, **known)


def epochs_of(found):
    """(epoch, attempt) of the points that count."""
    return [(point.epoch, point.attempt) for point in found.points]


def test_attempts_make_one_line():
    """What each attempt trained follows what the one before had saved; the restart says how that one ended."""
    found = join([first(1, 2, 3), resumed(2, 3, 4, 5)])
    assert epochs_of(found) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
    [mark] = found.restarts
    assert (mark.attempt, mark.epoch, mark.lost) == (2, 3, ())
    assert mark.reason == "killed by SIGKILL, resumed after epoch 3"
    assert found.lost == ()


def test_epochs_after_the_checkpoint_are_lost():
    """A fall-back to an older checkpoint takes the epochs after it out of the line, and keeps them apart."""
    found = join([first(1, 2, 3, 4, 5), resumed(2, 3, 4)])
    assert epochs_of(found) == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert [(point.epoch, point.attempt) for point in found.lost] == [(4, 1), (5, 1)]
    assert found.restarts[0].lost == (4, 5)


def test_an_attempt_that_never_began_changes_nothing():
    """Tries that ended before their first batch are counted in the reason of the next restart."""
    idle = [Trace(number=number, ending="exit code 1") for number in (2, 3)]
    found = join([first(1, 2), *idle, resumed(4, 2, 3)])
    assert epochs_of(found) == [(1, 1), (2, 1), (3, 4)]
    [mark] = found.restarts
    assert mark.reason == "killed by SIGKILL, 2 more tries before the first batch, resumed after epoch 2"


def test_an_attempt_that_was_never_launched_is_no_try():
    """The preparation found no start: nothing was tried, so nothing is counted."""
    refused = Trace(number=2, ending="lost with its machine", launched=False)
    [mark] = join([first(1, 2), refused, resumed(3, 2, 3)]).restarts
    assert mark.reason == "killed by SIGKILL, resumed after epoch 2"


def test_a_start_from_the_beginning_leaves_nothing_of_before():
    """A fresh start after a fresh start: all epochs of before are lost."""
    found = join([first(1, 2), Trace(number=2, start="fresh", points=points(2, 1))])
    assert epochs_of(found) == [(1, 2)]
    assert found.restarts[0].reason == "killed by SIGKILL, began anew"
    assert found.restarts[0].lost == (1, 2)


def test_rewind_and_extend_are_called_that():
    """Another run on the same directory: back to an epoch, or on to more epochs."""
    rewound = join([first(1, 2, 3, 4), resumed(2, 2, 3, run="a@2")])
    assert rewound.restarts[0].reason == "killed by SIGKILL, rewound to epoch 2"
    longer = resumed(2, 4, run="a@2", points=points(2, 5, of=15))
    assert join([first(1, 2, 3, 4), longer]).restarts[0].reason == "killed by SIGKILL, extended to 15 epochs"


def test_an_epoch_that_an_attempt_trained_twice_counts_as_last_written():
    """A trainer that recovered by itself from NaN reports an epoch again."""
    twice = (*points(1, 1, 2), *points(1, 2, loss=9))
    [_, second] = join([Trace(number=1, start="fresh", points=twice)]).points
    assert second.losses == {"loss": 9.0}


# ---- the trainer's table
def rows(*epochs, newest=None, written_at=100.0):
    """A table whose rows have the loss 0, a metric and a rate."""
    table = {
        epoch: Point(epoch=epoch, losses={"loss": 0.0}, metrics={"metrics/mAP50(B)": 0.5}, rates={"lr/pg0": 0.1})
        for epoch in epochs
    }
    return Rows(points=table, newest=newest or max(epochs), written_at=written_at)


def test_the_table_fills_what_was_not_reported():
    """Reported values win; missing metrics, rates and epochs come from the table, each with its attempt."""
    found = join([first(1), resumed(2, 2, 3)], rows(1, 2, 3, 4))
    assert epochs_of(found) == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert [point.losses["loss"] for point in found.points] == [1.0, 0.0, 2.0, 0.0]
    assert all(point.rates == {"lr/pg0": 0.1} for point in found.points)


def test_rows_of_older_times_do_not_count():
    """A table that was not cut has rows beyond the one written last, or none yet of the newest attempt."""
    assert [e for e, _ in epochs_of(join([first(1), resumed(2, 2)], rows(1, 2, 3, 4, 5, newest=3)))] == [1, 2, 3]
    waiting = resumed(2, 2, began_at=200.0, points=())
    assert [e for e, _ in epochs_of(join([first(1, 2), waiting], rows(1, 2, 3, 4)))] == [1, 2]


def test_only_a_table():
    """A trainer that reports nothing has a curve all the same."""
    assert epochs_of(join([], rows(1, 2))) == [(1, 0), (2, 0)]
    assert join([]).points == ()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=8))
def test_each_epoch_stands_once_whatever_happened(plan):
    """Any order of resumes: no epoch twice, in order, none without a gap that its attempts left, the newest counts."""
    traces, done = [first(1, 2, 3)], 3
    for number, (after, count) in enumerate(plan, 2):
        begin = min(after, done)
        epochs = range(begin + 1, begin + count + 1)
        kind = {"start": "resume" if begin else "fresh", "from_epoch": begin}
        traces.append(Trace(number=number, points=points(number, *epochs), **kind))
        done = begin + count
    found = join(traces)
    assert [point.epoch for point in found.points] == list(range(1, done + 1))
    assert len(found.restarts) == len(plan)
    assert len(found.points) + len(found.lost) == sum(len(trace.points) for trace in traces)


# ---- of one run
def test_a_run_has_what_was_trained_until_it_ended():
    """Later runs of the directory are left out, and the rows that they wrote anew."""
    traces = [first(1, 2, 3, 4), resumed(2, 2, 3, run="a@2"), resumed(3, 3, 4, 5, run="a@2")]
    found = join(*curve.of_run(traces, rows(1, 2, 3, 4, 5), 1))
    assert epochs_of(found) == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert [bool(point.metrics) for point in found.points] == [True, True, False, False]
    assert (found.restarts, found.lost) == ((), ())
    assert len(join(*curve.of_run(traces, rows(1, 2, 3, 4, 5), None)).restarts) == 2


def test_an_older_training_of_the_same_name_is_none_of_a_new_job():
    """What was set aside for it is neither drawn nor lost; an attempt that began anew within a run is both."""
    anew = Trace(number=2, run="a@2", start="fresh", points=points(2, 1))
    found = join(*curve.of_run([first(1, 2, 3), anew, resumed(3, 1, 2, run="a@2")], Rows(), None))
    assert epochs_of(found) == [(1, 2), (2, 3)]
    assert found.lost == ()
    assert len(found.restarts) == 1
    again = Trace(number=2, run="a@1", start="fresh", points=points(2, 1))
    assert len(join(*curve.of_run([first(1, 2, 3), again], Rows(), None)).lost) == 3


def a_row(kind, **body):
    """One line of a history."""
    return SimpleNamespace(kind=kind, body=body)


def test_ends_that_a_person_ordered():
    """Only the attempt that ended under the order, and only while it stood."""
    history = [
        a_row("AttemptExited", attempt=1),
        a_row("StopAsked", by="ann (uid 7)", at_once=True),
        a_row("AttemptExited", attempt=2),
        a_row("ResumeAsked", by="ann"),
        a_row("AttemptExited", attempt=3),
        a_row("DrainAsked", by="root"),
        a_row("AttemptExited", attempt=4),
        a_row("Prepared", attempt=5),
        a_row("AttemptExited", attempt=5),
        a_row("DrainAsked", by="root", off=True),
        a_row("AttemptExited", attempt=6),
    ]
    assert curve.ordered_ends(history) == {2: "stopped by ann (uid 7)", 4: "drained by root"}


# ---- as data
def test_the_view_has_what_programs_need():
    """Version, both mAPs by any family's names, None for what is no number."""
    metrics = {"metrics/mAP50(B)": 0.5, "metrics/mAP50-95(B)": None, "metrics/mAP50(M)": 0.4}
    shown = curve.view(
        join([Trace(number=1, start="fresh", points=(Point(epoch=1, epochs=7, losses={"a": None}, metrics=metrics),))]),
        name="a", run="a@1", phase="RUNNING", epochs=None, now=5.0,
    )  # fmt: skip
    assert (shown["version"], shown["name"], shown["id"], shown["epochs"]) == (1, "a", "a@1", 7)
    [point] = shown["points"]
    assert (point["map50"], point["map50_95"], point["losses"]) == (0.5, None, {"a": None})
    assert shown["restarts"] == shown["lost"] == []


def test_map50_by_the_names_of_several_families():
    """Ultralytics, YOLOv5 and v7; mAP50-95 is not taken for it."""
    assert curve.map50({"metrics/mAP_0.5": 0.6, "metrics/mAP_0.5:0.95": 0.4}) == 0.6
    assert curve.map50({"metrics/mAP50-95(B)": 0.4}) is None
    assert curve.map50({"metrics/mAP50(P)": 0.3, "metrics/mAP50(B)": 0.2}) == 0.2
