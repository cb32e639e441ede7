from __future__ import annotations

from pathlib import Path

import pytest

from supervisor import toml_errors
from supervisor.config import Defaults
from supervisor.drafts import (
    Environment,
    active_interpreter,
    command_value,
    draft_from_args_yaml,
    draft_from_yolo_command,
    parse_flat_yaml,
)
from supervisor.errors import UserError
from supervisor.jobspec import parse

KNOWN = {"imgsz": 640, "save": True, "seed": 0, "amp": True, "freeze": None, "format": "torchscript"}


def environment(cwd=Path("/data/proj"), **more):
    """Where the command was typed."""
    return Environment(cwd, python="/env/bin/python", known_defaults=KNOWN, **more)


def table(text):
    """A draft's keys, and the proof that it is a job file."""
    data = text.encode()
    parse(data, path="/jobs/draft.toml", owner=0, defaults=Defaults(), now=0.0)
    return toml_errors.read(data, "draft")[0]


def test_a_command_becomes_a_job_file():
    """What `yolo detect train …` says stands in the draft, paths made absolute, devices counted."""
    command = "yolo detect train model=yolo11s.pt data=sets/truck.yaml epochs=300 lr0=1e-3 device=0,1 project=runs/vehicles name=truck"
    draft = table(draft_from_yolo_command(command.split(), environment()))
    assert draft == {
        "name": "truck",
        "project": "vehicles",
        "python": "/env/bin/python",
        "gpus": 2,
        "train": {
            "task": "detect",
            "model": "yolo11s.pt",
            "data": "/data/proj/sets/truck.yaml",
            "epochs": 300,
            "lr0": 0.001,
        },
    }


@pytest.mark.parametrize(
    "command",
    [
        "yolo train model=/m.yaml data=/d.yaml",
        "/env/bin/yolo train model=/m.yaml data=/d.yaml",
        "train model=/m.yaml data=/d.yaml",
        "yolo mode=train model=/m.yaml data=/d.yaml",
        "yolo --model=/m.yaml train data = /d.yaml",
        "yolo train model= /m.yaml data =/d.yaml",
    ],
)
def test_every_form_of_the_command_is_understood(command):
    """Order of words, dashes and spaces around = are as free as with yolo itself."""
    assert table(draft_from_yolo_command(command.split(), environment()))["train"] == {
        "model": "/m.yaml",
        "data": "/d.yaml",
    }


@pytest.mark.parametrize(
    "command", ["yolo predict model=x", "yolo", "", "yolo export", "yolo train /stray", "python train.py"]
)
def test_other_commands_are_refused(command):
    """Only a training becomes a job, and words that mean nothing are not dropped silently."""
    with pytest.raises(UserError):
        draft_from_yolo_command(command.split(), environment())


@pytest.mark.parametrize(
    ("device", "gpus"),
    [
        ("cpu", 0),
        ("mps", 0),
        ("0", 1),
        ("0,1,3", 3),
        ("[0,1]", 2),
        ("-1", 1),
        ("-1,-1", 2),
        ("cuda:1", 1),
        ("None", "auto"),
    ],
)
def test_devices_become_a_number(device, gpus):
    """Which GPUs is the supervisor's choice; how many is the command's."""
    command = f"yolo train model=/m.yaml data=/d.yaml device={device}"
    assert table(draft_from_yolo_command(command.split(), environment()))["gpus"] == gpus


def test_numbers_of_devices_can_be_kept_and_fewer_allowed():
    """The supervisor chooses which; the draft says how to name them, and how to go on when one is broken."""
    draft = draft_from_yolo_command(["yolo", "train", "model=/m.yaml", "data=/d.yaml", "device=2,3"], environment())
    assert "; gpus = [2, 3] takes just these\n# gpu = { min = 1 }" in draft
    single = draft_from_yolo_command(["yolo", "train", "model=/m.yaml", "data=/d.yaml", "device=cpu"], environment())
    assert "gpus = 0  # was device=cpu\n# priority" in single


def test_our_arguments_are_left_out_with_a_word():
    """resume, exist_ok and save_dir do not reach [train]; the draft says why."""
    text = draft_from_yolo_command(
        ["yolo", "train", "model=/m.yaml", "data=/d.yaml", "resume", "exist_ok=True", "imgsz=640"], environment()
    )
    assert table(text)["train"] == {"model": "/m.yaml", "data": "/d.yaml"}
    assert "# resume was left out" in text
    assert "# exist_ok was left out" in text
    assert "library's defaults: imgsz" in text


def test_files_of_the_folder_become_absolute(tmp_path):
    """A bare name that is a file here is that file; one that is none stays a name."""
    (tmp_path / "own model.yaml").touch()
    argv = ["yolo", "train", "model=own model.yaml", "data=coco8.yaml"]
    train = table(draft_from_yolo_command(argv, environment(tmp_path)))["train"]
    assert train == {"model": str(tmp_path / "own model.yaml"), "data": "coco8.yaml"}


def test_missing_model_and_data_are_pointed_out():
    """A draft never lets the trainer guess: what is missing is shown as a line to fill in."""
    text = draft_from_yolo_command(["yolo", "train", "epochs=3"], environment())
    assert '# model = "…"  # missing' in text
    assert '# data = "…"  # missing' in text


def test_a_cfg_file_is_written_out(tmp_path):
    """cfg= is read now, and the words of the command win over it."""
    (tmp_path / "my.yaml").write_text("model: /m.yaml\ndata: /d.yaml\nepochs: 5\nlr0: 0.5\n")
    text = draft_from_yolo_command(["yolo", "train", "cfg=my.yaml", "epochs=7"], environment(tmp_path))
    assert table(text)["train"] == {"model": "/m.yaml", "data": "/d.yaml", "epochs": 7, "lr0": 0.5}
    with pytest.raises(UserError, match=r"other\.yaml"):
        draft_from_yolo_command(["yolo", "train", "cfg=other.yaml"], environment(tmp_path))


ARGS = """task: detect
mode: train
model: yolo11s.pt
data: 'sets/my truck''s.yaml'
epochs: 300
batch: -1
imgsz: 640
freeze:
- 0
- 1
device: '0'
resume: false
name: run 3
project: null
amp: true
classes: [1, 2]
lr0: 1.0e-05
save_dir: /old/runs/detect/train
format: torchscript
"""


def test_args_yaml_becomes_a_job_file():
    """The args.yaml of an old run becomes the same training, without what was the library's default."""
    text = draft_from_args_yaml(ARGS, environment())
    draft = table(text)
    assert (draft["name"], draft["gpus"]) == ("run-3", 1)
    assert draft["train"] == {
        "task": "detect",
        "model": "yolo11s.pt",
        "data": "/data/proj/sets/my truck's.yaml",
        "epochs": 300,
        "batch": -1,
        "classes": [1, 2],
        "freeze": [0, 1],
        "lr0": 1e-05,
    }
    assert "save_dir was left out" in text


@pytest.mark.parametrize(
    "text",
    [
        "a:\n  b: 1",
        "- x",
        "a: {b: 1}",
        "a:\n- [1]\n- b: 2",
        "a: &x 1",
        "a: |\n  text",
        "a: [[1]]",
        "a: !!python/object x",
        "words",
    ],
)
def test_deeper_yaml_is_refused(text):
    """Only flat files are read; anything that would need a YAML library is refused with its line."""
    with pytest.raises(UserError) as caught:
        parse_flat_yaml(text)
    assert caught.value.problems[0].line >= 1


def test_flat_yaml_is_read():
    """Plain values, quotes, comments, nothing and lists."""
    text = 'a: \'x\' # c\nb: "\\u00e9 # no"\nc: ~\nd:\ne: .5\nf: 1e3\ng: yes # c\n---\n# c\nh: a#b\ni: [a, 2, "c"]\n'
    assert parse_flat_yaml(text) == {
        "a": "x", "b": "é # no", "c": None, "d": None, "e": 0.5, "f": 1000.0, "g": "yes", "h": "a#b", "i": ["a", 2, "c"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None", None),
        ("true", True),
        ("3", 3),
        ("1e-3", 0.001),
        ("[0,1]", [0, 1]),
        ("0,1", [0, 1]),
        ("x.pt", "x.pt"),
        ("(" * 300, "(" * 300),
    ],
)
def test_values_are_read_as_yolo_reads_them(text, value):
    """none, true, false and Python literals are values, everything else is a text."""
    assert command_value(text) == value


def test_the_active_environment_is_found(tmp_path):
    """A virtual environment, else conda's, else the one whose yolo is on the PATH, else none."""
    for name in ("venv", "conda", "path"):
        folder = tmp_path / name / "bin"
        folder.mkdir(parents=True)
        for program in ("python", "yolo"):
            (folder / program).touch(mode=0o755)
    venv, conda, path = (str(tmp_path / name) for name in ("venv", "conda", "path"))
    assert active_interpreter({"VIRTUAL_ENV": venv, "CONDA_PREFIX": conda}) == f"{venv}/bin/python"
    assert active_interpreter({"CONDA_PREFIX": conda, "PATH": f"{path}/bin"}) == f"{conda}/bin/python"
    assert active_interpreter({"VIRTUAL_ENV": "/gone", "PATH": f"{path}/bin"}) == f"{path}/bin/python"
    assert active_interpreter({"PATH": "/nowhere"}) == ""


def test_odd_text_cannot_break_out_of_a_comment():
    """A command with line breaks stays one comment."""
    text = draft_from_yolo_command(
        ["yolo", "train", "model=/m.yaml", "data=/d.yaml", "name=x\ngpus = 9"], environment()
    )
    assert table(text)["gpus"] == "auto"
