"""The table of a run's life is complete, and every event and action is known to whoever must handle it."""

from __future__ import annotations

import typing

import msgspec
import pytest
from bench import Bench
from msgspec.structs import replace

from supervisor.core import actions, events
from supervisor.core.deadlines import BY_PHASE
from supervisor.core.model import Phase
from supervisor.core.run_machine import TABLE
from supervisor.core.step import SERVER
from supervisor.effects.dispatch import LANE_OF, LANES, failure

EVENTS = typing.get_args(events.AnyEvent)
RUN_EVENTS = [kind for kind in EVENTS if issubclass(kind, events.RunEvent)]
SERVER_EVENTS = [kind for kind in EVENTS if not issubclass(kind, events.RunEvent)]
ACTIONS = typing.get_args(actions.AnyAction)
PAIRS = [(kind, phase) for kind in RUN_EVENTS for phase in Phase]
SAMPLES = {
    "StopAsked": {"by": "ann"},
    "ResumeAsked": {"by": "ann"},
    "CancelAsked": {"by": "ann"},
    "RetryAsked": {"by": "ann"},
    "PriorityAsked": {"by": "ann", "priority": 7},
    "Prepared": {"start": "fresh"},
    "PrepareFailed": {"reason": "x"},
    "Launched": {"pid": 9, "shim_pid": 8, "started_at": 1_000_000.0},
    "LaunchFailed": {"reason": "x"},
    "SignalSent": {"signal": "SIGTERM", "count": 1},
    "Examined": {"finished": False},
    "AttemptExited": {"code": 1, "ended_at": 1_000_000.0},
    "AttemptCleared": {},
    "StartConfirmed": {"from_epoch": 0},
    "Progressed": {"epoch": 1, "epochs": 10, "saved_epoch": 1},
    "Poisoned": {"error": "ValueError: x"},
    "RewindAsked": {"by": "ann", "epoch": 1},
    "ExtendAsked": {"by": "ann", "epochs": 20},
    "SaveSeen": {"epoch": 1},
    "Kept": {"attempt": 1, "epoch": 1, "file": "epoch1-attempt1.pt"},
    "Compared": {"attempt": 1, "continuous": False, "findings": ("the learning rate jumped",)},
    "WrongStart": {"reason": "epoch 0"},
    "HangSeen": {"verdict": "hung", "phase": "train", "quiet_s": 900.0, "text": "nothing has moved for 15m"},
    "AutopsyDone": {"summary": "the main process waits for worker 3"},
    "WaitOver": {"what": "disk"},
    "UndoAsked": {"by": "ann"},
}


def all_subclasses(base: type) -> set[type]:
    """Every class below `base`, at any depth."""
    return {kind for child in base.__subclasses__() for kind in {child, *all_subclasses(child)}}


def test_every_event_class_can_be_written_and_read():
    """An event class that is not in AnyEvent could be journalled and never read again."""
    concrete = all_subclasses(events.Event) - {events.RunEvent, events.AttemptEvent}
    assert concrete == set(EVENTS)
    assert all_subclasses(actions.Action) == set(ACTIONS)


def test_every_event_is_handled_in_exactly_one_place():
    """Events about runs are rows of the table, all others belong to the server; none is in both or in neither."""
    assert set(TABLE) == set(RUN_EVENTS)
    assert set(SERVER) == set(SERVER_EVENTS)


@pytest.mark.parametrize(("kind", "phase"), PAIRS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_pair_has_an_explicit_row(kind, phase):
    """Each pair of event and phase acts, or says in words why it does nothing."""
    row = TABLE[kind][phase]
    assert callable(row) or (isinstance(row, str) and len(row) > 10)
    assert set(TABLE[kind]) == set(Phase)


@pytest.mark.parametrize(("kind", "phase"), PAIRS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_pair_can_happen(kind, phase):
    """No pair raises or breaks an invariant (the bench checks them after each step); ignoring rows change nothing."""
    bench = Bench()
    run = bench.bring_to(phase)
    before = bench.world
    fields = dict(SAMPLES[kind.__name__])
    if kind is events.Launched:
        fields["boot"] = bench.world.boot
    ordered = bench.tell(kind, run.name, **fields)
    if isinstance(TABLE[kind][phase], str):
        assert bench.world == before
        assert ordered == ()
    if run.phase.terminal:  # but for its last copy, which may come late
        assert replace(bench.world.ended[run.id], kept_epoch=run.kept_epoch, keeping=run.keeping) == run
    assert bench.replayed() == bench.world


@pytest.mark.parametrize("kind", [kind for kind in RUN_EVENTS if issubclass(kind, events.AttemptEvent)])
@pytest.mark.parametrize("phase", list(Phase))
def test_news_of_another_attempt_is_ignored(kind, phase):
    """An event about an older (or a never opened) attempt has no effect in any phase."""
    bench = Bench()
    run = bench.bring_to(phase)
    before = bench.world
    fields = dict(SAMPLES[kind.__name__])
    if kind is events.Launched:
        fields["boot"] = bench.world.boot
    for attempt in (run.attempts - 1, run.attempts + 1):
        assert bench.tell(kind, run.name, attempt=attempt, **fields) == ()
    assert bench.world == before


@pytest.mark.parametrize("kind", RUN_EVENTS)
def test_news_of_an_unknown_run_is_ignored(kind):
    """An event about a run that nobody knows changes nothing and orders nothing."""
    bench = Bench()
    fields = {"at": bench.now, "run": "ghost@1", **SAMPLES[kind.__name__]}
    if issubclass(kind, events.AttemptEvent):
        fields["attempt"] = 1
    if kind is events.Launched:
        fields["boot"] = bench.world.boot
    before = bench.world
    from supervisor.core.step import step

    after, ordered = step(before, kind(**fields), bench.now)
    assert after is before
    assert ordered == ()


def test_every_phase_with_a_deadline_has_its_handler():
    """A deadline that comes finds someone who knows what to do."""
    assert set(BY_PHASE) == {phase for phase in Phase if phase.needs_deadline}


@pytest.mark.parametrize("kind", ACTIONS)
def test_every_action_has_a_lane_and_a_failure(kind):
    """An action that can never be carried out is answered by an event that the core handles."""
    assert LANE_OF[kind] in LANES
    fields = {"key": "k", "run": "a@1", **{name: _sample(kind, name) for name in _required(kind)}}
    event = failure(kind(**fields), "cannot", 1.0)
    assert type(event) in TABLE or type(event) in SERVER
    assert not isinstance(event, events.RunEvent) or event.run == "a@1"


def _required(kind):
    return [field.name for field in msgspec.structs.fields(kind) if field.required and field.name != "key"]


def _sample(kind, name):
    from bench import make_job

    annotation = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    simple = {int: 1, str: "x", bytes: b"x", bool: False}
    return simple.get(annotation, make_job() if name == "job" else ())


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.terminal])
def test_no_deadline_comes_again_at_once(phase):
    """Each deadline moves when it comes, in every phase: the loop never spins on one that stays due."""
    bench = Bench()
    bench.bring_to(phase)
    for _ in range(20):
        due_at = bench.run().deadline_at
        if due_at is None:
            break
        bench.now = max(bench.now, due_at)
        bench.tell(events.TimePassed)
        after = bench.run().deadline_at
        assert after is None or after > bench.now
