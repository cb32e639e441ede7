"""The keys of a job file that say which family trains, what of it is kept, where it begins and how it goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_jobspec import COMMAND, HEAD, TRAIN, job, refusal

from supervisor.config import Checkpoints as Defaulted
from supervisor.config import Defaults
from supervisor.core.job import Checkpoints, Stage, StartFrom, Watch
from supervisor.job_rules import RESERVED_OPTIONS, reserved_option

V5 = HEAD + 'cwd = "/src/yolov5"\nfamily = "yolov5"\n'
SCRIPT = 'command = ["{python}", "train.py", "--epochs", "30"]\n'


def stage(text):
    """A [[stage]] table behind [train]."""
    return HEAD + TRAIN.replace("3", "50") + f"[[stage]]\n{text}\n"


def test_families_are_known():
    """A script of each family, and a custom one; without the key a command has no family."""
    for family in ("yolov5", "yolov7", "yolov9", "custom"):
        assert job(V5.replace("yolov5", family) + SCRIPT).family == family
    assert job(COMMAND).family == ""


def test_a_script_below_torchrun_is_found():
    """Options of the launcher are its own, also those that look like ours."""
    words = '["{python}", "-m", "torch.distributed.run", "--nproc_per_node", "2", "train.py", "--img", "64"]'
    assert job(V5 + f"command = {words}\n").command[-1] == "64"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('family = "yolov6"\n' + HEAD + SCRIPT, "family"),
        ('family = "yolov5"\n' + HEAD + TRAIN, "family"),
        (V5.replace(HEAD, "") + SCRIPT.replace("{python}", "/usr/bin/python3"), "python"),
        (V5 + 'command = ["{python}", "-m", "train"]\n', "command"),
        (V5.replace('cwd = "/src/yolov5"\n', "") + SCRIPT, "command"),
        (V5 + 'checkpoint_files = ["{run_dir}/*.pt"]\n' + SCRIPT, "checkpoint_files"),
    ],
)
def test_a_family_that_cannot_work_is_refused(text, key):
    """Unknown family, none of ours to start, no interpreter for the end of a training, no script or no folder of it."""
    assert key in refusal(text)


@pytest.mark.parametrize("option", sorted(RESERVED_OPTIONS))
@pytest.mark.parametrize("form", ["{0}", "{0} x", "{0}=x"])
def test_options_that_are_ours_are_refused_with_the_fix(option, form):
    """In every way that argparse takes them, also shortened."""
    for name in (option, option[:5]):
        words = "".join(f', "{word}"' for word in form.format(name).split())
        found = refusal(V5 + f'command = ["{{python}}", "train.py"{words}]\n')["command"]
        assert found.hint == RESERVED_OPTIONS[option]


def test_other_options_are_the_users():
    """Nothing else of a train.py is ours, and in a custom script nothing at all."""
    for word in ("--data", "--epochs", "--weights", "--save-period", "--n", "-n", "--", "--resumed", "name"):
        assert reserved_option(word) == ""
    assert (
        job(V5.replace("yolov5", "custom") + 'command = ["{python}", "t.py", "--device=0"]\n').command[-1]
        == "--device=0"
    )


@given(st.text(max_size=12))
def test_any_word_is_judged(word):
    """Whatever stands in a command: one of ours or none."""
    assert reserved_option(word) in {"", *RESERVED_OPTIONS}


def test_a_family_with_its_own_resume_needs_no_globs():
    """Where a family saves is known; what a person writes for the resume stands."""
    found = job(V5 + SCRIPT + 'resume_command = ["{python}", "train.py", "--resume", "{checkpoint}", "--x"]\n')
    assert found.resume_command[-1] == "--x"


def test_checkpoints_meet_the_defaults_key_by_key():
    """The job's own keys, else those of [defaults], else the built-in ones."""
    assert job(COMMAND).checkpoints == Checkpoints(keep_last=3, keep_best=1, keep_epochs="none", hook=True)
    defaults = Defaults(checkpoints=Defaulted(keep_last=7, keep_epochs="all", hook=False))
    found = job("checkpoints = { keep_best = 0, keep_epochs = 'exponential' }\n" + COMMAND, defaults=defaults)
    assert found.checkpoints == Checkpoints(keep_last=7, keep_best=0, keep_epochs="exponential", hook=False)


@pytest.mark.parametrize(
    ("inner", "key"),
    [
        ("keep_last = 0", "keep_last"),
        ("keep_best = -1", "keep_best"),
        ("keep_epochs = 'some'", "keep_epochs"),
        ("hook = 'no'", "hook"),
        ("snapshot_every = '10m'", "snapshot_every"),
    ],
)
def test_impossible_checkpoints_are_refused(inner, key):
    """At least one copy is kept; what is not built is said to be unknown."""
    assert f"checkpoints.{key}" in refusal(f"checkpoints = {{ {inner} }}\n" + COMMAND)


def test_snapshots_are_refused_with_what_there_is_instead():
    """Somebody who wants snapshots learns that there are none, not that the word is misspelt."""
    found = refusal("checkpoints = { snapshot_every = '10m' }\n" + COMMAND)["checkpoints.snapshot_every"]
    assert "whole epochs" in found.hint


def test_stages_are_kept_in_their_order():
    """Each with its epoch and what it changes."""
    found = job(stage("from_epoch = 2\nimgsz = 320\nval = false\n[[stage]]\nfrom_epoch = 50\nbatch = 4"))
    assert found.stages == (
        Stage(from_epoch=2, args={"imgsz": 320, "val": False}),
        Stage(from_epoch=50, args={"batch": 4}),
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("imgsz = 64", "stage[1].from_epoch"),
        ("from_epoch = 1\nimgsz = 64", "stage[1].from_epoch"),
        ("from_epoch = true\nimgsz = 64", "stage[1].from_epoch"),
        ("from_epoch = 51\nimgsz = 64", "stage[1].from_epoch"),
        ("from_epoch = 9\nimgsz = 64\n[[stage]]\nfrom_epoch = 9\nbatch = 2", "stage[2].from_epoch"),
        ("from_epoch = 9", "stage[1]"),
        ("from_epoch = 9\nlr0 = 0.1", "stage[1].lr0"),
        ("from_epoch = 9\ndata = '/d.yaml'", "stage[1].data"),
        ("from_epoch = 9\nbatch = { a = 1 }", "stage[1].batch"),
    ],
)
def test_impossible_stages_are_refused(text, key):
    """Epochs rise from 2 on and are reached; only what a resume of Ultralytics takes over can change."""
    assert list(refusal(stage(text))) == [key]


def test_what_ultralytics_drops_is_said_to_be_dropped():
    """The reason is the trainer's, not ours."""
    assert "Ultralytics drops this at a resume" in refusal(stage("from_epoch = 9\nlr0 = 0.1"))["stage[1].lr0"].message


def test_stages_of_a_command_are_refused():
    """Nobody knows which options of a script a resume would take over."""
    assert "stage[1]" in refusal(COMMAND + "[[stage]]\nfrom_epoch = 2\nimgsz = 64\n")


def test_a_job_begins_at_another_run():
    """The newest of a name or a certain one, at an epoch or at its newest, whole or by its weights."""
    assert job(HEAD + 'start_from = { run = "truck" }\n' + TRAIN).start_from == StartFrom(run="truck")
    found = job(HEAD + 'start_from = { run = "truck@2", epoch = 30, weights = true }\n' + TRAIN)
    assert found.start_from == StartFrom(run="truck@2", epoch=30, weights=True)


def test_a_run_is_adopted():
    """From its folder; with the process that may still train there."""
    text = 'adopt = "/old/run"\nwatch = { pid = 7, start_time = 99, boot_id = "b" }\n'
    found = job(HEAD + text + TRAIN)
    assert (found.adopt, found.watch) == ("/old/run", Watch(pid=7, start_time=99, boot_id="b"))
    assert job(V5 + 'adopt = "/old/run"\n' + SCRIPT).adopt == "/old/run"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('start_from = { run = "truck@0" }\n' + HEAD + TRAIN, "start_from.run"),
        ('start_from = { run = "truck", epoch = 0 }\n' + HEAD + TRAIN, "start_from.epoch"),
        ("start_from = { epoch = 3 }\n" + HEAD + TRAIN, "start_from.run"),
        ('start_from = { run = "truck" }\n' + COMMAND, "start_from"),
        ('start_from = { run = "truck" }\nadopt = "/x"\n' + HEAD + TRAIN, "start_from"),
        ('adopt = "x"\n' + HEAD + TRAIN, "adopt"),
        ('adopt = "/x"\n' + COMMAND, "adopt"),
        ('watch = { pid = 7, start_time = 99, boot_id = "b" }\n' + HEAD + TRAIN, "watch"),
        ('adopt = "/x"\nwatch = { pid = 0, start_time = 99, boot_id = "b" }\n' + HEAD + TRAIN, "watch.pid"),
    ],
)
def test_beginnings_that_say_nothing_or_too_much_are_refused(text, key):
    """One beginning, of a job that can be resumed."""
    assert key in refusal(text)
