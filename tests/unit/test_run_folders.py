"""What the folder of a person's training tells, and the job file that goes on in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from begun_by_hand import ARGS, begin

from supervisor import drafts, jobspec
from supervisor.config import Defaults
from supervisor.core.job import Watch
from supervisor.effects import run_folders
from supervisor.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy_trainer import packed, unpacked


@pytest.fixture
def folder(tmp_path):
    """A person's folder: see begun_by_hand."""
    return begin(tmp_path)


def test_a_folder_is_described_and_its_job_file_is_right(folder):
    """Family, version, epochs, surplus rows; a job file that parses, with absolute paths and nothing of ours left."""
    found = run_folders.read(folder)
    assert (found.family, found.version, found.epochs) == ("ultralytics", "8.4.190", 8)
    assert found.best.done_epochs == 3
    assert run_folders.rows_to_cut(found, 3) == 1
    decided = {"name": "train7", "adopt": str(found.path), "watch": {"pid": 5, "start_time": 6, "boot_id": "b"}}
    text = run_folders.draft(found, drafts.Environment(Path("/"), python="/env/bin/python", decided=decided))
    parsed = jobspec.parse(text.encode(), path="train7.toml", owner=0, defaults=Defaults(), now=0.0)
    root = str(folder.resolve().parents[2])
    assert parsed.job.train == {"model": f"{root}/tiny.yaml", "data": f"{root}/data.yaml", "epochs": 8, "patience": 7}
    assert (parsed.job.adopt, parsed.gpus) == (str(folder.resolve()), 2)
    assert parsed.job.watch == Watch(pid=5, start_time=6, boot_id="b")


def test_a_data_set_that_nobody_finds_is_asked_for(folder):
    """A relative path means nothing without the folder in which the training was started."""
    (folder / "args.yaml").write_text(ARGS.format(model="tiny.yaml", data="sets/data.yaml"))
    with pytest.raises(UserError, match="--cwd"):
        run_folders.draft(run_folders.read(folder), drafts.Environment(Path("/nowhere")))


def test_weights_that_are_gone_are_not_needed_for_a_resume(folder):
    """The model that it once began from was deleted: its own checkpoint is named instead."""
    (folder / "args.yaml").write_text(ARGS.format(model="yolo11s.pt", data="./data.yaml"))
    text = run_folders.draft(run_folders.read(folder), drafts.Environment(Path("/")))
    assert f'model = "{folder.resolve()}/weights/last.pt"' in text


def test_states_are_told_apart(folder):
    """Finished, torn and good files each by their own name; of two good ones the newest counts."""
    last, best = folder / "weights" / "last.pt", folder / "weights" / "best.pt"
    last.write_bytes(last.read_bytes()[:300])
    found = run_folders.read(folder)
    assert [one.name for one in found.torn] == ["last.pt"]
    assert found.best.name == "best.pt"
    last.write_bytes(packed({**unpacked(best), "epoch": -1, "optimizer": None, "ema": None, "model": "m"}))
    assert run_folders.read(folder).finished


@pytest.mark.parametrize(
    ("options", "table", "family"),
    [
        ("imgsz: 640\nentity: null\n", "results.csv", "yolov5"),
        ("imgsz: 640\nmin_items: 0\n", "results.csv", "yolov9"),
        ("img_size:\n- 640\n- 640\nv5_metric: false\n", "results.txt", "yolov7"),
        ("epochs: 3\n", "results.txt", "yolov7"),
    ],
)
def test_families_of_scripts_are_told_apart(tmp_path, options, table, family):
    """By options that only one of them has, else by the name of its table; the person's word wins."""
    (tmp_path / "opt.yaml").write_text(options)
    (tmp_path / table).touch()
    assert run_folders.read(tmp_path).family == family
    assert run_folders.read(tmp_path, "yolov9").family == "yolov9"


def test_the_command_of_a_script_keeps_what_a_fresh_start_would_need(tmp_path):
    """hyp.yaml of the folder, paths found below the checkout, and nothing that is ours to give."""
    place = tmp_path / "yolov5" / "runs" / "train" / "exp"
    (place / "weights").mkdir(parents=True)
    (tmp_path / "yolov5" / "models").mkdir()
    (tmp_path / "yolov5" / "data").mkdir()
    for name in ("train.py", "data/my.yaml"):
        (tmp_path / "yolov5" / name).touch()
    (place / "hyp.yaml").touch()
    (place / "opt.yaml").write_text(
        "weights: ''\ndata: data/my.yaml\nhyp:\n  lr0: 0.01\nepochs: 9\nbatch_size: 4\nproject: runs/train\nname: exp\ndevice: '0'\n"
    )
    found = run_folders.read(place)
    script = run_folders.script_of(found)
    assert script == (tmp_path / "yolov5" / "train.py").resolve()
    command = run_folders.command_of(found, script, script.parent)
    root = str((tmp_path / "yolov5").resolve())
    assert command == [
        "{python}", f"{root}/train.py", "--data", f"{root}/data/my.yaml", "--hyp", f"{place.resolve()}/hyp.yaml",
        "--epochs", "9", "--batch-size", "4",
    ]  # fmt: skip
    decided = {"name": "exp", "adopt": str(found.path), "gpus": 1}
    text = run_folders.draft(
        found, drafts.Environment(script.parent, python="/env/bin/python", decided=decided), command
    )
    parsed = jobspec.parse(text.encode(), path="exp.toml", owner=0, defaults=Defaults(), now=0.0).job
    assert (parsed.family, parsed.cwd, list(parsed.command)) == ("yolov5", root, command)


def test_which_script_it_was_is_not_guessed_among_several(tmp_path):
    """train.py and train_dual.py lie there: a person must say which."""
    place = tmp_path / "runs" / "train" / "exp"
    place.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    for name in ("train.py", "train_dual.py"):
        (tmp_path / name).touch()
    (place / "opt.yaml").write_text("epochs: 3\nmin_items: 0\n")
    assert run_folders.script_of(run_folders.read(place)) is None


def test_no_folder_of_a_training(tmp_path):
    """It says what is expected."""
    with pytest.raises(UserError, match=r"args\.yaml"):
        run_folders.read(tmp_path)


def test_options_that_are_ours_are_left_out_of_a_command():
    """With their values, in each way of writing them; nothing else is lost."""
    words = "train.py --project runs/x --data d.yaml --name=exp --exist-ok --device 0,1 --resume --epochs 3 --res a.pt"
    assert drafts.ours_left_out(words.split()) == ["train.py", "--data", "d.yaml", "--epochs", "3"]
