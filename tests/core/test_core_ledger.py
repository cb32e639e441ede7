"""The ledger: which copies a line of training may go on from, and which copies stay."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core.job import Checkpoints
from supervisor.core.ledger import Entry, Ledger, Line, keep, run_number, usable

ONE = Checkpoints(keep_last=1, keep_best=0)


def copy(epoch, attempt=1, line=1, **more):
    """One entry."""
    name = f"epoch{epoch}-attempt{attempt}.pt"
    return Entry(**{"file": name, "epoch": epoch, "run": "a@1", "attempt": attempt, "line": line, **more})


def epochs(entries):
    """Their epochs, in their order."""
    return [entry.epoch for entry in entries]


# ---- lines
def test_without_lines_every_copy_is_usable():
    """The most epochs come first; of equals the copy of the later attempt."""
    ledger = Ledger(entries=(copy(2), copy(5, 1), copy(3, 2), copy(5, 2)))
    assert [(entry.epoch, entry.attempt) for entry in usable(ledger)] == [(5, 2), (5, 1), (3, 2), (2, 1)]


def test_a_rewound_run_does_not_go_on_from_what_lay_beyond():
    """After a rewind to epoch 3 the copies of epochs 4 and 5 of the old line are kept out, its own are in."""
    lines = (Line(number=2, parent=1, from_epoch=3, run="a@2"),)
    ledger = Ledger(entries=(copy(2), copy(3), copy(4), copy(5), copy(4, 2, line=2)), lines=lines)
    assert [(entry.epoch, entry.line) for entry in usable(ledger)] == [(4, 2), (3, 1), (2, 1)]
    assert epochs(usable(ledger, 1)) == [5, 4, 3, 2]


def test_limits_add_up_over_lines():
    """A line of a line may use of the first one only what both branches left it."""
    lines = (Line(number=2, parent=1, from_epoch=3, run="a@2"), Line(number=3, parent=2, from_epoch=6, run="a@3"))
    ledger = Ledger(entries=(copy(3), copy(4), copy(6, 2, line=2), copy(7, 2, line=2)), lines=lines)
    assert [(entry.epoch, entry.line) for entry in usable(ledger)] == [(6, 2), (3, 1)]
    back = Ledger(entries=ledger.entries, lines=(lines[0], replace(lines[1], from_epoch=2)))
    assert epochs(usable(back)) == []


def test_a_rewind_to_an_older_line_leaves_the_line_between_out():
    """Line 3 left line 1: what line 2 trained is not on its way."""
    lines = (Line(number=2, parent=1, from_epoch=3, run="a@2"), Line(number=3, parent=1, from_epoch=4, run="a@3"))
    ledger = Ledger(entries=(copy(4), copy(5), copy(4, 2, line=2)), lines=lines)
    assert [(entry.epoch, entry.line) for entry in usable(ledger)] == [(4, 1)]


def test_a_damaged_chain_of_lines_ends():
    """Lines that are each other's parents lead nowhere, and not to an endless search."""
    lines = (Line(number=2, parent=3, from_epoch=3, run="a@2"), Line(number=3, parent=2, from_epoch=9, run="a@3"))
    assert usable(Ledger(entries=(copy(1),), lines=lines)) == ()


def test_copies_of_unknown_epoch_count_by_age_and_only_on_their_own_line():
    """A file that does not say its epoch is used last, the newest first; after a rewind nobody knows where it belongs."""
    old, new = copy(0, file="save1", kept_at=1.0), copy(0, file="save2", kept_at=2.0)
    assert usable(Ledger(entries=(new, old))) == (new, old)
    assert usable(Ledger(entries=(old, copy(1), new))) == (copy(1), new, old)
    assert usable(Ledger(entries=(old,), lines=(Line(number=2, parent=1, from_epoch=3, run="a@2"),))) == ()


def test_the_line_of_a_run():
    """A run trains on the newest line that it or an older run opened."""
    ledger = Ledger(
        lines=(Line(number=2, parent=1, from_epoch=3, run="a@2"), Line(number=3, parent=2, from_epoch=1, run="a@4"))
    )
    assert [ledger.line_of(f"a@{number}") for number in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
    assert ledger.line_of("") == 1
    assert (ledger.line, Ledger().line) == (3, 1)
    assert (run_number("a@12"), run_number("a@x"), run_number("")) == (12, 0, 0)


# ---- what stays
def test_the_newest_epochs_stay_each_once():
    """keep_last counts epochs: a second copy of the same epoch by an older attempt is not one of them."""
    ledger = Ledger(entries=(copy(1), copy(2), copy(3), copy(3, 2), copy(4, 2)))
    assert keep(ledger, Checkpoints(keep_last=2, keep_best=0)) == (copy(3, 2), copy(4, 2))


def test_the_best_stays():
    """The best of all lines stays, of equals the one with more epochs; without a metric nothing is the best."""
    entries = (copy(1, map50_95=0.7), copy(2, map50_95=0.7), copy(3, map50_95=0.1), copy(4))
    assert epochs(keep(Ledger(entries=entries), Checkpoints(keep_last=1, keep_best=1))) == [2, 4]
    assert epochs(keep(Ledger(entries=entries), ONE)) == [4]


def test_where_a_line_began_one_copy_stays():
    """One can always return to where a run was rewound."""
    lines = (Line(number=2, parent=1, from_epoch=3, run="a@2"),)
    entries = (copy(2), copy(3), copy(3, 2), copy(9, 3, line=2))
    assert keep(Ledger(entries=entries, lines=lines), ONE) == (copy(3, 2), copy(9, 3, line=2))


def test_the_unstripped_copy_of_a_finished_line_stays():
    """A finished training that was rewound could still be extended: only from that copy."""
    lines = (Line(number=2, parent=1, from_epoch=3, run="a@2"),)
    done = copy(10, state="done_not_stripped")
    entries = (copy(3), copy(9), done, copy(4, 2, line=2), copy(5, 2, line=2))
    assert epochs(keep(Ledger(entries=entries, lines=lines), ONE)) == [3, 10, 5]


def test_the_newest_copy_of_every_line_stays():
    """A person who rewound can return to the end of the old line, whatever the new one has saved since."""
    lines = (Line(number=2, parent=1, from_epoch=3, run="a@2"), Line(number=3, parent=2, from_epoch=4, run="a@3"))
    entries = (copy(3), copy(8), copy(9), copy(4, 2, line=2), copy(5, 2, line=2), copy(6, 3, line=3))
    ledger = Ledger(entries=entries, lines=lines)
    assert [(one.line, one.epoch) for one in keep(ledger, ONE)] == [(1, 3), (1, 9), (2, 4), (2, 5), (3, 6)]


def test_a_ledger_is_never_emptied():
    """Where no copy belongs to the present line, the newest of any stays."""
    lines = (Line(number=2, parent=7, from_epoch=0, run="a@2"),)
    assert keep(Ledger(entries=(copy(3), copy(4)), lines=lines), ONE) == (copy(4),)
    assert keep(Ledger(), Checkpoints()) == ()


def test_all_and_exponential_add_to_the_rest():
    """`all` removes nothing; `exponential` gives the example of its description."""
    ledger = Ledger()
    for epoch in range(1, 101):
        ledger = Ledger(entries=(*ledger.entries, copy(epoch)))
        assert keep(ledger, Checkpoints(keep_epochs="all")) == ledger.entries
        ledger = Ledger(entries=keep(ledger, Checkpoints(keep_last=1, keep_best=0, keep_epochs="exponential")))
    assert epochs(ledger.entries) == [1, 65, 81, 89, 93, 97, 99, 100]


@pytest.mark.parametrize("step", [1, 3])
def test_exponential_gaps_grow_slowly_and_copies_stay_few(step):
    """At any time: of neighbours one is at most four times as old (with a step on top); about log2 of the epochs are kept."""
    kept = ()
    for epoch in range(step, 1500, step):
        ledger = Ledger(entries=(*kept, copy(epoch)))
        kept = keep(ledger, Checkpoints(keep_last=1, keep_best=0, keep_epochs="exponential"))
        ages = [epoch - entry.epoch for entry in reversed(kept)]
        assert len(kept) <= math.log2(epoch) + 2.5
        assert all(older + step <= 4 * (younger + step) for younger, older in itertools.pairwise(ages))


@st.composite
def ledgers(draw):
    """Any ledger: several lines, copies in any order, states and metrics."""
    count = draw(st.integers(0, 3))
    lines = tuple(
        Line(
            number=number,
            parent=draw(st.integers(1, number - 1)),
            from_epoch=draw(st.integers(1, 12)),
            run=f"a@{number}",
        )
        for number in range(2, count + 2)
    )
    states = st.sampled_from(["resumable", "resumable", "done_not_stripped"])
    entries = {}
    for _ in range(draw(st.integers(0, 14))):
        entry = copy(
            draw(st.integers(0, 12)), draw(st.integers(1, 4)), draw(st.integers(1, count + 1)),
            state=draw(states), map50_95=draw(st.none() | st.floats(0, 1)), kept_at=draw(st.floats(0, 100)),
        )  # fmt: skip
        entries[entry.file] = entry
    return Ledger(entries=tuple(entries.values()), lines=lines)


policies = st.builds(
    Checkpoints,
    keep_last=st.integers(1, 5),
    keep_best=st.integers(0, 3),
    keep_epochs=st.sampled_from(["none", "all", "exponential"]),
)


@given(ledgers(), policies)
@settings(max_examples=400, deadline=None)
def test_what_is_never_removed(ledger, policy):
    """The newest usable copy, the best, and of each line a copy of its beginning, the newest and the last unstripped."""
    stays = keep(ledger, policy)
    assert set(stays) <= set(ledger.entries)
    assert bool(stays) == bool(ledger.entries)
    line = usable(ledger)
    assert set(line[:1]) <= set(stays)
    assert len({entry.epoch for entry in line if entry in stays and entry.epoch}) >= min(
        policy.keep_last, len({entry.epoch for entry in line if entry.epoch})
    ) - sum(not entry.epoch for entry in line)
    measured = [entry.map50_95 for entry in ledger.entries if entry.map50_95 is not None]
    if measured and policy.keep_best:
        assert max(measured) in {entry.map50_95 for entry in stays}
    for opened in ledger.lines:
        begun = [entry for entry in usable(ledger, opened.parent) if entry.epoch == opened.from_epoch]
        assert not begun or set(begun) & set(stays)
    for number in {entry.line for entry in ledger.entries}:
        done = [one.epoch for one in ledger.entries if one.line == number and one.state == "done_not_stripped"]
        tip = max(one.epoch for one in ledger.entries if one.line == number)
        assert tip in {one.epoch for one in stays if one.line == number}
        assert not done or max(done) in {one.epoch for one in stays if one.line == number}


@given(ledgers(), policies)
@settings(max_examples=200, deadline=None)
def test_keeping_twice_removes_nothing_more(ledger, policy):
    """What stays, stays: a second look with the same policy finds nothing to remove."""
    stays = replace(ledger, entries=keep(ledger, policy))
    assert keep(stays, policy) == stays.entries
