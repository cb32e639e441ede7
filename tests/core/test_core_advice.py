"""What a person can do: the words of the cause, with what is known of the line, of the job and of the attempt."""

from __future__ import annotations

import pytest
from bench import make_job
from causes import cause
from msgspec.structs import replace

from supervisor.core.diagnosis.advice import advice, filled
from supervisor.core.diagnosis.diagnose import Diagnosis, of_cause
from supervisor.core.diagnosis.tables import CAUSES
from supervisor.core.job import Restart
from supervisor.core.model import Attempt, Phase, Run

TRAIN = {"model": "/m.yaml", "data": "/d.yaml", "batch": 16}


def a_run(**job: object) -> Run:
    """A run in its third attempt."""
    known = {"train": TRAIN, **job}
    attempt = Attempt(number=3, token=3)
    return Run(
        id="a@1",
        job=make_job(**known),
        phase=Phase.COOLING,
        created_at=0.0,
        phase_since=0.0,
        attempt=attempt,
        attempts=3,
    )


def test_a_smaller_batch_may_be_allowed_where_it_is_not():
    """The whole list that the job would have to write, and only for rungs that the plan has and the job can take."""
    text = advice(of_cause("cuda-oom", "CUDA out of memory"), a_run())
    listed = '["workers", "cache", "checkpoint", "batch", "imgsz"]'
    assert text.endswith(f"; or allow a smaller batch and smaller images: restart.remedies = {listed}")
    allowed = a_run(restart=Restart(remedies=("batch", "imgsz")))
    assert "restart.remedies" not in advice(of_cause("cuda-oom", ""), allowed)
    assert "restart.remedies" not in advice(of_cause("cuda-oom", ""), a_run(train=None, command=("x",)))
    assert "restart.remedies" not in advice(of_cause("disk-full", ""), a_run())


@pytest.mark.parametrize("name", [name for name, one in CAUSES.items() if "rewind" in one.fix])
def test_a_command_that_cannot_go_back_is_not_told_to(name):
    """A rewind names its epoch, and is left out for a job whose checkpoints nobody here can read; something stays."""
    assert "rewind a --epoch N" in advice(of_cause(name, ""), a_run())
    text = advice(of_cause(name, ""), a_run(train=None, command=("x",)))
    assert text
    if "; " in CAUSES[name].fix:
        assert "rewind" not in text


def test_the_folder_of_the_autopsy_is_this_attempts():
    """Nobody has to look up which attempt it was."""
    assert advice(of_cause("hang", ""), a_run()).endswith("attempts/3/autopsy in the run's folder")


@pytest.mark.parametrize(
    ("fix", "seen", "expected"),
    [
        ("mend it; `namei -l PATH` shows where", "denied: '/a b/c'", "mend it; `namei -l '/a b/c'` shows where"),
        ("mend it; `namei -l PATH` shows where", "denied", "mend it"),
        ("look: `ss | grep PORT`", "port: 29500, x", "look: `ss | grep 29500`"),
        ("install it (`PYTHON -m pip`)", "", "install it (`python -m pip`)"),
        ("look at PATH", "", "look at PATH"),
    ],
)
def test_commands_can_be_given_as_they_stand(fix, seen, expected):
    """What the line tells is put in; a command that lacks something is left out with its clause."""
    assert filled(fix, seen) == expected


def test_no_cause_loses_all_its_advice():
    """Also where the line tells nothing at all, each cause has something to say, and no command with a gap."""
    for one in CAUSES.values():
        assert filled(one.fix, ""), one.name


def test_names_and_interpreters_are_the_runs():
    """NAME and PYTHON stand for this run and its job's interpreter."""
    found = Diagnosis(cause=cause("hold", name="x"), seen="")
    found = replace(found, cause=replace(found.cause, fix="`PYTHON -m pip check`, then `resume NAME`"))
    assert advice(found, a_run(python="/env/bin/python")) == "`/env/bin/python -m pip check`, then `resume a`"
