from __future__ import annotations

import msgspec
import pytest

from supervisor.config import Defaults
from supervisor.core.revisions import ALLOWED_TRAIN_KEYS, resume_differences
from supervisor.jobspec import parse

OLD = """python = "/env/bin/python"
[train]
model = "yolo11s.yaml"
data = "/data/truck.yaml"
epochs = 3
imgsz = 640
"""
COMMAND = 'command = ["/usr/bin/train", "--out", "{run_dir}"]\n'


def job(text):
    """The job in a job file's text."""
    return parse(text.encode(), path="/jobs/truck.toml", owner=7, defaults=Defaults(), now=0.0).job


def differences(new, old=OLD):
    """What an edit changes: allowed keys, refused keys."""
    allowed, refused = resume_differences(job(old), job(new))
    return allowed, [problem.key for problem in refused]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("priority = 5", "priority"),
        ('title = "x"', "title"),
        ('notes = "x"', "notes"),
        ('tags = ["x"]', "tags"),
        ("notify = []", "notify"),
        ('restart = { backoff = "1s" }', "restart"),
        ('limits = { log_max = "1GB" }', "limits"),
        ('time_limit = "1d"', "time_limit"),
        ('env = { A = "1" }', "env"),
        ("settings = { wandb = true }", "settings"),
        ('after = ["x"]', "after"),
        ('start_after = "22:00"', "start_after"),
    ],
)
def test_what_a_resume_may_change(line, key):
    """What does not touch the training itself takes effect at the next attempt."""
    assert differences(f"{line}\n{OLD}") == ([key], [])


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("epochs = 3", "epochs = 5", "train.epochs"),
        ("yolo11s.yaml", "yolo11m.yaml", "train.model"),
        ("imgsz = 640", "imgsz = 640\noptimizer = 'SGD'", "train.optimizer"),
        ("imgsz = 640", "", "train.imgsz"),
        ("/env/", "/other/", "python"),
        ("[train]", 'cwd = "/x"\n[train]', "cwd"),
        ("[train]", 'project = "x"\n[train]', "project"),
    ],
)
def test_what_a_resume_may_not_change(old, new, key):
    """What the checkpoint decides is refused, with the reason."""
    assert differences(OLD.replace(old, new)) == ([], [key])


def test_train_arguments_that_a_resume_takes():
    """Image size, batch, data and the like are honoured by a resume."""
    changed = "".join(f"{key} = 1\n" for key in sorted(ALLOWED_TRAIN_KEYS - {"data"}))
    new = OLD.replace("imgsz = 640\n", changed).replace("/data/truck.yaml", "/new/truck.yaml")
    allowed, refused = differences(new)
    assert set(allowed) == {f"train.{key}" for key in ALLOWED_TRAIN_KEYS}
    assert refused == []


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (1, 0), (0, 1)])
def test_the_devices_may_change(before, after):
    """A training moves between GPUs, and to the CPU and back: the checkpoint fits them all, the total batch is kept."""
    old = job(OLD)
    moved = (msgspec.structs.replace(old, gpus=before), msgspec.structs.replace(old, gpus=after))
    assert resume_differences(*moved) == (["gpus"], [])


def test_the_plan_of_stages_may_change():
    """Stages are resumes with other arguments: a new one, another epoch, other values take effect when they are due."""
    stage = "[[stage]]\nfrom_epoch = 2\nimgsz = 320\n"
    assert differences(OLD + stage) == (["stage"], [])
    assert differences(OLD + stage.replace("320", "352"), OLD + stage) == (["stage"], [])
    assert differences(OLD, OLD + stage) == (["stage"], [])


def test_epochs_are_refused_with_the_reason():
    """Who raises the number of epochs of a live run is told why that cannot work."""
    _, (problem,) = resume_differences(job(OLD), job(OLD.replace("epochs = 3", "epochs = 30")))
    assert "cannot be changed by a resume" in problem.message
    assert (problem.expected, problem.got) == ("3", "30")


def test_an_edit_that_changes_nothing_is_nothing():
    """A comment makes a new revision without a difference."""
    assert differences(OLD + "# note\n") == ([], [])
    resumable = COMMAND + 'resume_command = ["/y"]\ncheckpoint_files = ["/w/last.pt"]\n'
    assert differences(resumable, COMMAND) == (["resume_command", "checkpoint_files"], [])
    assert differences(COMMAND.replace("--out", "--in"), COMMAND) == ([], ["command"])
    assert differences(COMMAND, OLD)[1] == ["python", "train", "command"]


def test_another_owner_cannot_take_a_run_over():
    """A file that another user put in the place of a live run's changes nothing."""
    old = job(OLD)
    _, (problem,) = resume_differences(old, msgspec.structs.replace(old, owner=8))
    assert problem.key == "owner"
