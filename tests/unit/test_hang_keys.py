"""The keys about trainings that stand still: in job files, in [defaults.restart] and in [hang]."""

from __future__ import annotations

import pytest

from supervisor import config, jobspec, units
from supervisor.config import Defaults, Restarts
from supervisor.core.diagnosis.tables import OPT_IN, RUNGS
from supervisor.core.job import Restart
from supervisor.errors import UserError
from supervisor.job_rules import RestartTable

HEAD = 'command = ["true"]\n'


def restart(text, defaults=Defaults()):  # noqa: B008 - frozen
    """What a job file's restart table comes to."""
    data = f"{HEAD}restart = {{ {text} }}\n".encode()
    return jobspec.parse(data, path="/jobs/truck.toml", owner=0, defaults=defaults, now=0.0).job.restart


def refusal(text):
    """The one problem of a restart table."""
    with pytest.raises(UserError) as caught:
        restart(text)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "hang_after_s"),
    [("", None), ('hang_after = "auto"', None), ('hang_after = "never"', 0.0), ('hang_after = "30m"', 1800.0)],
)
def test_when_a_training_counts_as_hung(text, hang_after_s):
    """The word auto (which is the default) is learned, never is 0, a duration is its seconds."""
    assert restart(text).hang_after_s == hang_after_s


def test_a_job_may_return_to_auto():
    """A job's own "auto" wins over a default of 30 minutes."""
    defaults = Defaults(restart=Restarts(hang_after=1800.0, remedies=("batch",)))
    assert restart("", defaults).hang_after_s == 1800.0
    assert restart('hang_after = "auto"', defaults).hang_after_s is None


@pytest.mark.parametrize("value", ["30", "true", '"0s"', '"500ms"', '"sometimes"', '"-5m"', '""', '["30m"]'])
def test_other_limits_are_refused(value):
    """Numbers without a unit, no time at all and unknown words are refused with what would be right."""
    problem = refusal(f"hang_after = {value}")
    assert problem.key == "restart.hang_after"
    assert '"auto"' in problem.expected or "unit" in problem.expected


@pytest.mark.parametrize(
    ("text", "remedies"),
    [
        ("", ("workers", "cache", "checkpoint")),
        ("remedies = []", ()),
        ('remedies = ["workers", "batch", "imgsz", "freeze"]', ("workers", "batch", "imgsz", "freeze")),
    ],
)
def test_which_rungs_may_be_taken(text, remedies):
    """The list is taken as it is; an empty one allows no change at all."""
    assert restart(text).remedies == remedies


@pytest.mark.parametrize("value", ['["worker"]', '["gpus"]', '"workers"', "[1]"])
def test_unknown_rungs_are_refused(value):
    """A word that is no rung is refused with all that are."""
    problem = refusal(f"remedies = {value}")
    assert problem.key == "restart.remedies"
    assert all(f'"{rung}"' in problem.expected for rung in RUNGS if rung != "gpus")


def test_a_rung_that_is_named_twice_is_refused():
    """How often one is taken is not the job's to say: the second word would mean nothing."""
    assert refusal('remedies = ["batch", "cache", "batch"]').got == '"batch"'


def test_the_defaults_are_the_models():
    """What nobody configures is what the model says; what must be opted in to is not among it."""
    assert restart("") == Restart()
    assert not set(Restarts().remedies) & set(OPT_IN)
    assert RestartTable.__struct_fields__ == Restarts.__struct_fields__


@pytest.mark.parametrize("seconds", [units.AUTO_S, 0.0, 1.0, 90.0, 1800.0])
def test_what_is_shown_is_read_back(seconds):
    """`config show` writes a limit as it is written in a file."""
    assert units.parse_hang_after(units.format_hang_after(seconds)) == seconds


def test_the_hang_table():
    """[hang] has its built-in values and is shown in the words of the file."""
    found = config.parse(b'[hang]\nenabled = false\nevery = "1s"\nfactor = 8\n', "config.toml")
    assert (found.hang.enabled, found.hang.every, found.hang.factor) == (False, 1.0, 8.0)
    assert config.show(found)["hang"] == {"enabled": False, "every": "1s", "factor": 8.0}
    assert config.show(found)["defaults"]["restart"]["hang_after"] == "auto"


@pytest.mark.parametrize(
    ("line", "key"), [('every = "10ms"', "hang.every"), ("factor = 0.5", "hang.factor"), ("floor = 3", "hang.floor")]
)
def test_what_makes_no_sense_is_refused(line, key):
    """Looks without a pause, a factor below one and unknown keys are errors with their line."""
    with pytest.raises(UserError) as caught:
        config.parse(f"[hang]\n{line}\n".encode(), "config.toml")
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == (key, 2)
