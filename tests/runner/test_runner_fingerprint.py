"""What fingerprint.py says of a data set and a model, asked with the interpreter that has PyYAML."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from runner_lab import REPOSITORY, RUNNER

from supervisor.runner import fingerprint

pytestmark = pytest.mark.e2e

PIXELS = b"not looked at"


@pytest.fixture
def ask(train_python, tmp_path):
    """Give a way to ask the program; the trainer's folder is tmp_path."""

    def asked(**request):
        command = [str(train_python), str(RUNNER / "fingerprint.py"), json.dumps(request)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        return json.loads(done.stdout)

    return asked


def dataset(folder: Path, text: str, *files: str) -> Path:
    """Write a data file, and images that are never opened."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PIXELS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return folder / "data.yaml"


def test_a_generated_data_set_is_described(ask, train_python, tmp_path):
    """Classes in their order, counts, sizes, times and versions; equal twice; other only where something changed."""
    folder = tmp_path / "数据 data"
    command = [train_python, REPOSITORY / "tests" / "training_data.py", folder, "--train", "12", "--val", "4"]
    subprocess.run(command, check=True, capture_output=True)
    model = REPOSITORY / "tests" / "models" / "tiny.yaml"
    found = ask(data=str(folder / "data.yaml"), model=str(model))
    data = found["data"]
    assert data["names"] == ["red", "blue"]
    assert data["missing"] == []
    assert data["root"] == str(folder)
    train = data["splits"]["train"]
    assert (train["images"], data["splits"]["val"]["images"]) == (12, 4)
    assert train["size_bytes"] == sum(path.stat().st_size for path in (folder / "images/train").iterdir())
    assert 0 < train["oldest_ns"] <= train["newest_ns"]
    assert found["model"]["path"] == str(model)
    assert {"python", "torch", "ultralytics", "numpy"} <= set(found["versions"])
    assert ask(data=str(folder / "data.yaml"), model=str(model)) == found
    os.utime(folder / "images/train/00003.jpg", (1, 1))
    touched = ask(data=str(folder / "data.yaml"))["data"]["splits"]["train"]
    assert touched["listing"] == train["listing"]
    assert touched["stamps"] != train["stamps"]
    assert touched["oldest_ns"] == 10**9


def test_a_moved_data_set_has_the_same_listing(ask, tmp_path):
    """Names are kept relative to the root; where a file lists whole paths, to the folder that they share."""
    listed = f"{tmp_path}/a/one/x.jpg\n{tmp_path}/a/two/y.jpg\n"
    for name in ("a", "b"):
        dataset(tmp_path / name, "train: images\nval: list.txt\nnames: [k]\n", "images/1.jpg", "one/x.jpg", "two/y.jpg")
        (tmp_path / name / "list.txt").write_text(listed.replace("/a/", f"/{name}/"))
    before, after = (ask(data=str(tmp_path / name / "data.yaml"))["data"]["splits"] for name in ("a", "b"))
    for split in ("train", "val"):
        assert before[split]["listing"] == after[split]["listing"]
        assert before[split]["images"] == after[split]["images"] > 0
    outside = []
    for place in ("a", "b"):
        text = f"train: {tmp_path}/{place}/images\nval: {tmp_path}/{place}/list.txt\nnames: [k]\n"
        outside.append(ask(data=str(dataset(tmp_path / "lists", text)))["data"]["splits"]["train"])
    assert outside[0]["listing"] == outside[1]["listing"]
    assert outside[0]["images"] == 1


def test_paths_begin_where_ultralytics_begins_them(ask, tmp_path):
    """`path` below datasets_dir, `../`, several folders, lists with ./, nc without names, validation for val."""
    datasets = tmp_path / "sets"
    dataset(datasets / "fruit", "", "pics/a/1.PNG", "pics/b/2.jpeg", "more/3.bmp", "other/4.jpg", "pics/.hidden/5.jpg")
    (datasets / "fruit" / "list.txt").write_text("\ufeff./other/4.jpg\n./other/gone.jpg\nnotes.md\n", encoding="utf-8")
    text = "path: fruit\ntrain: [pics, more]\nvalidation: list.txt\ntest: ../pics\nnc: '2'\nkpt_shape: [4, 3]\n"
    file = dataset(tmp_path / "descriptions", text)
    data = ask(data=str(file), datasets_dir=str(datasets))["data"]
    assert data["names"] == ["class_0", "class_1"]
    assert data["others"] == {"kpt_shape": "[4, 3]"}
    assert {name: one["images"] for name, one in data["splits"].items()} == {"train": 3, "val": 1, "test": 2}
    assert data["splits"]["train"]["sources"] == [str(datasets / "fruit/pics"), str(datasets / "fruit/more")]
    assert data["missing"] == []


def test_a_folder_of_classes_is_described(ask, tmp_path):
    """Classification has no data file: its classes are the folders of its train folder."""
    for name in ("train/cat/1.jpg", "train/ant/1.jpg", "train/ant/2.jpg", "valid/cat/9.jpg"):
        (tmp_path / "flowers" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "flowers" / name).write_bytes(PIXELS)
    data = ask(data=str(tmp_path / "flowers"))["data"]
    assert data["names"] == ["ant", "cat"]
    assert {name: one["images"] for name, one in data["splits"].items()} == {"train": 3, "val": 1}


def test_a_folder_with_a_data_file_is_that_file(ask, tmp_path):
    """As Ultralytics does it."""
    dataset(tmp_path / "set", "train: a\nval: a\nnames: {1: second, 0: first}\n", "a/1.jpg")
    data = ask(data=str(tmp_path / "set"))["data"]
    assert data["names"] == ["first", "second"]
    assert data["splits"]["train"]["images"] == 1


def test_what_is_not_there_is_named(ask, tmp_path):
    """A missing data file, a missing folder of images, a missing model, a shipped name; and never a failure."""
    gone = str(tmp_path / "gone.yaml")
    assert ask(data=gone)["data"]["missing"] == [gone]
    file = dataset(tmp_path / "set", "train: a\nval: b\ntest: c\nnames: [k]\n", "a/1.jpg")
    data = ask(data=str(file), model=str(tmp_path / "gone.pt"))
    assert data["data"]["missing"] == [str(tmp_path / "set/b")]
    assert data["model"]["path"] == ""
    assert ask(model="yolo11.yaml")["model"]["path"].endswith("cfg/models/11/yolo11.yaml")
    assert ask(data="coco8.yaml", datasets_dir=str(tmp_path))["data"]["names"][0] == "person"


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "names: {x: y}\ntrain: 3\nval: 4\n"])
def test_a_broken_data_file_is_a_problem_in_words(ask, tmp_path, text):
    """Whatever stands in the file, the answer is JSON, and says what is wrong."""
    found = ask(data=str(dataset(tmp_path / "set", text)))
    assert found["problem"]
    assert found["versions"]["python"]


def test_a_plan_is_what_it_says(ask, tmp_path):
    """A comment in a model's YAML changes nothing, a layer does; weights are told apart by their bytes."""
    hashes = []
    for text in ("nc: 2\nbackbone: [1]\n", "# note\nbackbone: [1]\nnc: 2\n", "nc: 2\nbackbone: [2]\n"):
        (tmp_path / "m.yaml").write_text(text)
        hashes.append(ask(model=str(tmp_path / "m.yaml"))["model"]["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]
    (tmp_path / "w.pt").write_bytes(b"1")
    one = ask(model=str(tmp_path / "w.pt"))["model"]
    (tmp_path / "w.pt").write_bytes(b"2")
    assert one["sha256"] != ask(model=str(tmp_path / "w.pt"))["model"]["sha256"]


def test_loops_of_links_end(tmp_path):
    """A folder is entered once, whatever leads there; files behind links count."""
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "2.jpg").write_bytes(PIXELS)
    (root / "a" / "1.jpg").write_bytes(PIXELS)
    (root / "a" / "up").symlink_to(root)
    (root / "far").symlink_to(tmp_path / "far")
    (root / "broken").symlink_to(tmp_path / "nowhere")
    found = fingerprint._census(str(tmp_path), [str(root)], lambda: False)
    assert (found["images"], found["partial"]) == (2, False)


def test_a_walk_ends_with_its_time(tmp_path):
    """When time is up, what was counted is told, and that it is not all."""
    for number in range(10):
        (tmp_path / f"{number}.jpg").write_bytes(PIXELS)
    left = iter([False] * 5)
    found = fingerprint._census(str(tmp_path), [str(tmp_path)], lambda: next(left, True))
    assert found["partial"] is True
    assert 0 < found["images"] < 10
    (tmp_path / "list.txt").write_text("".join(f"./{number}.jpg\n" for number in range(10)))
    found = fingerprint._census(str(tmp_path), [str(tmp_path / "list.txt")], lambda: True)
    assert (found["images"], found["partial"]) == (0, True)


def test_names_that_are_no_text_are_counted(tmp_path):
    """Bytes that are no UTF-8 in the name of an image spoil nothing."""
    (tmp_path / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(PIXELS)
    found = fingerprint._census(str(tmp_path), [str(tmp_path)], lambda: False)
    assert found["images"] == 1
    json.dumps(found)
