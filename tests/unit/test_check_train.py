from __future__ import annotations

import pytest
from check_machine import DESCRIPTION, Machine, accepted, refused


@pytest.fixture
def machine(tmp_path):
    """A machine on which the usual job is fine."""
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "epoch = 3",
            ("line 6, train.epoch", "did you mean `epochs`?", "known to Ultralytics 8.4.190 in", "/env/bin/python"),
        ),
        ('lr0 = "fast"', ("train.lr0", "expected a number", 'got "fast"')),
        ("lr0 = true", ("train.lr0", "got true")),
        ("cos_lr = 1", ("train.cos_lr", "expected true or false")),
        ("optimizer = 1", ("train.optimizer", "expected a text")),
        ("freeze = 1.5", ("train.freeze", "a whole number or a list")),
        ("quantum = 1", ("train.quantum", "unknown argument")),
    ],
)
def test_arguments_are_checked_against_the_jobs_own_library(machine, line, words):
    """Unknown names and wrong types are refused with the version and the interpreter that were asked."""
    train = f'model = "yolo11s.yaml"\ndata = "{machine.root}/data.yaml"\n{line}\n'
    text = refused(machine.checker(gpu_count=0), machine.text(train))
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "line",
    [
        "lr0 = 1",
        "batch = 0.7",
        "freeze = [0, 1]",
        "freeze = 3",
        'amp = "bf16"',
        "amp = false",
        "odd = [1, 'x']",
        "cos_lr = true",
    ],
)
def test_right_types_are_accepted(machine, line):
    """A whole number is a number, and an argument of unknown type is left to the library."""
    train = f'model = "yolo11s.yaml"\ndata = "{machine.root}/data.yaml"\n{line}\n'
    accepted(machine.checker(gpu_count=0), machine.text(train))


def test_an_argument_that_only_one_version_has(machine):
    """A key is judged by the job's own interpreter, not by another one on the same machine."""
    other = Machine(machine.root / "other")
    newer = {**DESCRIPTION, "train_args": {**DESCRIPTION["train_args"], "quantum": {"types": ["int"], "default": 0}}}
    other.describe_as({**newer, "ultralytics": "9.0.0"})
    train = f'model = "yolo11s.yaml"\ndata = "{machine.root}/data.yaml"\nquantum = 1\n'
    checker = machine.checker(gpu_count=0)
    assert "8.4.190" in refused(checker, machine.text(train))
    assert accepted(checker, other.text(train)).trainer_version == "9.0.0"


def model_job(machine, model, head=""):
    """A job with this model."""
    return machine.text(f'model = "{model}"\ndata = "{machine.root}/data.yaml"\n', head)


def test_models_are_found(machine):
    """Shipped plans by name and scale, weights in the settings' folder or the job's, files by path."""
    checker = machine.checker(gpu_count=0)
    for name in ("yolo11.yaml", "yolo11s.yaml", "yolo11x-seg.yaml"):
        assert accepted(checker, model_job(machine, name)).train["model"] == name
    (machine.root / "weights/yolo11s.pt").touch()
    for name in ("yolo11s.pt", "yolo11s"):
        assert accepted(checker, model_job(machine, name)).train["model"] == f"{machine.root}/weights/yolo11s.pt"
    (machine.root / "cwd/mine.yaml").touch()
    cwd = f'cwd = "{machine.root}/cwd"'
    assert accepted(checker, model_job(machine, "mine.yaml", cwd)).train["model"] == f"{machine.root}/cwd/mine.yaml"
    path = f"{machine.root}/cwd/mines.yaml"
    assert "not there" in refused(checker, model_job(machine, path))
    (machine.root / "cwd/mine1.yaml").touch()
    assert (
        accepted(checker, model_job(machine, f"{machine.root}/cwd/mine1s.yaml")).train["model"].endswith("mine1s.yaml")
    )


def test_missing_models_are_refused_with_the_place(machine):
    """Missing weights are refused with the exact path where they belong, unless they may be fetched."""
    text = refused(machine.checker(gpu_count=0), model_job(machine, "yolo11s.pt"))
    assert "line 4, train.model" in text
    assert f"put the file at {machine.root}/weights/yolo11s.pt" in text
    assert (
        accepted(machine.checker(gpu_count=0, allow_download=True), model_job(machine, "yolo11s.pt")).train["model"]
        == "yolo11s.pt"
    )
    assert "did you mean `yolo11.yaml`" in refused(machine.checker(gpu_count=0), model_job(machine, "yolo12.yaml"))


def test_the_weights_of_the_precision_check_are_needed_on_gpus(machine):
    """On a GPU Ultralytics loads a small model before it trains; offline that must be there."""
    checker = machine.checker(gpu_count=1)
    text = refused(checker, machine.text())
    assert f"put the file at {machine.root}/weights/yolo26n.pt" in text
    usual = f'model = "yolo11s.yaml"\ndata = "{machine.root}/data.yaml"\n'
    accepted(checker, machine.text(usual + "amp = false\n"))
    accepted(checker, machine.text(usual + 'amp = "bf16"\n'))
    accepted(checker, machine.text(head="gpus = 0"))
    accepted(machine.checker(gpu_count=1, allow_download=True), machine.text())
    (machine.root / "weights/yolo26n.pt").touch()
    accepted(checker, machine.text())


def test_the_jobs_settings_say_where_weights_lie(machine):
    """[settings] of the job go before those of its owner; a relative folder begins in the trainer's folder."""
    (machine.root / "cwd/w").mkdir()
    (machine.root / "cwd/w/yolo11s.pt").touch()
    head = f'cwd = "{machine.root}/cwd"\nsettings = {{ weights_dir = "w" }}'
    found = accepted(machine.checker(gpu_count=0), model_job(machine, "yolo11s.pt", head))
    assert found.train["model"] == f"{machine.root}/cwd/w/yolo11s.pt"


def data_job(machine, data):
    """A job with this data set."""
    return machine.text(f'model = "yolo11s.yaml"\ndata = "{data}"\n', head=f'cwd = "{machine.root}/cwd"')


def test_data_sets_are_found(machine):
    """By path, in the job's folder, or shipped lists whose images are below datasets_dir."""
    checker = machine.checker(gpu_count=0)
    assert "is its disk mounted?" in refused(checker, data_job(machine, "/mnt/gone/data.yaml"))
    text = refused(checker, data_job(machine, "coco8.yaml"))
    assert f"put them at {machine.root}/datasets/coco8" in text
    (machine.root / "datasets/coco8").mkdir()
    assert accepted(checker, data_job(machine, "coco8.yaml")).train["data"] == "coco8.yaml"
    (machine.root / "ultralytics/cfg/datasets/VOC.yaml").write_text("# x\npath: VOC-images # folder\n")
    assert f"{machine.root}/datasets/VOC-images" in refused(checker, data_job(machine, "VOC.yaml"))
    assert "did you mean `coco8.yaml`" in refused(checker, data_job(machine, "coco9.yaml"))
    (machine.root / "cwd/my.yaml").touch()
    assert accepted(checker, data_job(machine, "my.yaml")).train["data"] == f"{machine.root}/cwd/my.yaml"
    (machine.root / "datasets/flowers").mkdir()
    assert accepted(checker, data_job(machine, "flowers")).train["data"] == f"{machine.root}/datasets/flowers"
    assert "not on this machine" in refused(checker, data_job(machine, "trees"))


STAGE = 'model = "yolo11s.yaml"\ndata = "{root}/data.yaml"\n{epochs}\n[[stage]]\nfrom_epoch = {begin}\n{change}\n'


def stage_job(machine, change, begin=2, epochs="epochs = 3"):
    """A job with one stage."""
    return machine.text(STAGE.format(root=machine.root, epochs=epochs, begin=begin, change=change))


def test_a_stage_changes_only_what_this_version_takes_at_a_resume(machine):
    """What the installed version drops would change nothing: refused with its name and what it does take."""
    machine.describe_as({**DESCRIPTION, "ultralytics": "8.3.74", "resume_keys": ["batch", "imgsz"]})
    checker = machine.checker(gpu_count=0)
    assert accepted(checker, stage_job(machine, "imgsz = 320")).stages[0].args == {"imgsz": 320}
    text = refused(checker, stage_job(machine, "freeze = 3"))
    for word in ("line 9, stage.0.freeze", "one of batch, imgsz", "Ultralytics 8.3.74", "drops it at a resume"):
        assert word in text
    assert "expected a number" in refused(checker, stage_job(machine, 'batch = "many"'))
    machine.describe_as(DESCRIPTION)  # a version that does not tell is not judged
    accepted(machine.checker(gpu_count=0), stage_job(machine, "freeze = 3"))


def test_a_stage_that_is_never_reached_is_refused(machine):
    """Also where the number of epochs is the version's own default."""
    checker = machine.checker(gpu_count=0)
    assert "expected an epoch up to 3" in refused(checker, stage_job(machine, "freeze = 3", begin=4))
    text = refused(checker, stage_job(machine, "freeze = 3", begin=101, epochs=""))
    assert "expected an epoch up to 100, the default of Ultralytics 8.4.190" in text
    accepted(checker, stage_job(machine, "freeze = 3", begin=100, epochs=""))
