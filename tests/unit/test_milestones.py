"""The part of a run's history that tells where its time went stays small and whole."""

from __future__ import annotations

import pytest

from supervisor.core import events
from supervisor.core.goodput import account
from tests.unit.journal_bench import BOOT, journal, path, writer  # noqa: F401 - fixtures


@pytest.fixture
def trained(writer):  # noqa: F811 - the fixture imported above
    """A run of three saved epochs with 3,000 reports of progress, that died in the fourth."""
    run = writer.submit()
    who = {"run": run.id, "attempt": 1}
    writer.tell(events.Prepared(at=1.0, **who, start="fresh"))
    writer.tell(events.Launched(at=1.0, **who, pid=2, shim_pid=3, boot=BOOT, started_at=writer.now))
    for epoch in range(4):
        reports = [
            events.Progressed(
                at=1.0,
                **who,
                epoch=epoch + 1,
                epochs=9,
                saved_epoch=epoch,
                losses={"box": float(count)},
            )
            for count in range(1000)
        ]
        writer.tell(*reports)
    writer.tell(events.AttemptExited(at=1.0, **who, code=1, ended_at=writer.now))
    writer.tell(events.AttemptCleared(at=1.0, **who))
    writer.tell(events.Examined(at=1.0, **who, finished=False, saved_epoch=3))
    return run


def test_reports_in_between_are_left_out(trained, journal):  # noqa: F811 - the fixture imported above
    """Of thousands of reports those remain that begin an epoch in a checkpoint, and the last before something else."""
    reports = [row for row in journal.milestones(trained.id) if row.kind == "Progressed"]
    assert [row.body["saved_epoch"] for row in reports] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert reports[-1].body["losses"] == {"box": 999.0}


def test_changes_of_the_phase_and_what_became_of_attempts_are_all_there(trained, journal):  # noqa: F811 - the fixture
    """Every phase and the end of the attempt are told, in their order, with their bodies."""
    rows = [row for row in journal.milestones(trained.id) if row.kind != "Progressed"]
    assert [row.kind for row in rows] == ["JobAccepted", "Prepared", "Launched", "AttemptExited", "Examined"]
    assert [row.phase_after for row in rows][:3] == ["PREPARING", "STARTING", "RUNNING"]
    assert rows[-1].body["saved_epoch"] == 3


def test_the_account_is_that_of_the_whole_history(trained, journal, writer):  # noqa: F811 - the fixtures
    """Nothing that is left out changes any class."""
    run = writer.world.run(trained.id)
    whole = journal.history(trained.id, limit=1_000_000)
    assert len(whole) > 4000
    found = [
        account(rows, began_at=run.created_at, now=writer.now + 5) for rows in (whole, journal.milestones(trained.id))
    ]
    assert found[0] == found[1]
    assert found[0].seconds["lost"] == pytest.approx(1000, abs=2)


def test_other_runs_are_not_told(trained, journal, writer):  # noqa: F811 - the fixtures
    """Each run has its own milestones."""
    other = writer.submit("b")
    assert {row.run for row in journal.milestones(other.id)} == {other.id}
    assert journal.milestones("nobody@1") == []
