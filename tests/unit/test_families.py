"""YOLOv5, v7 and v9: what is started, what of the run is repaired before a resume, what proves the end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from supervisor import durable, layout
from supervisor.core.actions import Launch
from supervisor.core.checkpoints import Checkpoint
from supervisor.core.job import Done
from supervisor.core.model import Job
from supervisor.effects import survey
from supervisor.errors import PermanentError
from supervisor.trainers import opt_yaml, trainer_for
from supervisor.trainers.results_csv import read_table, trim

LAST = "/runs/p/truck/train/weights/last.pt"
OPTIONS = """weights: yolov5s.pt
cfg: ''
data: /old place/boxes.yaml
hyp:
  lr0: 0.01
  epochs: 7
epochs: 30
freeze:
- 0
device: '0'
save_dir: /old place/a name that is so long that the dumper goes
  on in the next line/truck/train
"""


def family(name="yolov5", *words, **keys):
    """A job of a family."""
    command = ("{python}", "-m", "torch.distributed.run", "train.py", "--img", "64", "--epochs=20", *words)
    return Job(name="truck", revision="r", python="/env/bin/python", cwd="/src", command=command, family=name, **keys)


def launch(job, start="fresh", checkpoint="", *, from_epoch=0, run):
    """What is started for a job."""
    order = Launch(
        key="k", attempt=3, token=1, job=job, gpus=(), start=start, checkpoint=checkpoint, from_epoch=from_epoch
    )
    return trainer_for(job).launch_spec(order, run, port=4242)


@pytest.fixture
def run(tmp_path):
    """A run directory with the options of an interrupted run that lay elsewhere."""
    made = layout.RunDirectory(tmp_path / "runs" / "truck")
    made.weights.mkdir(parents=True)
    (made.train / "opt.yaml").write_text(OPTIONS)
    return made


@pytest.mark.parametrize("name", ["yolov5", "yolov7", "yolov9"])
def test_a_fresh_start_saves_into_the_run(run, name):
    """The user's command, and behind it where it saves."""
    argv, section = launch(family(name), run=run)
    assert argv[:4] == ["/env/bin/python", "-m", "torch.distributed.run", "train.py"]
    assert argv[-5:] == ["--project", str(run.root), "--name", "train", "--exist-ok"]
    assert section is None


def test_a_resume_gives_nothing_but_the_checkpoint(run):
    """The launcher's words stay, the script's options come from opt.yaml."""
    argv, section = launch(family(), "resume", LAST, from_epoch=29, run=run)
    assert argv[1:] == ["-m", "torch.distributed.run", "train.py", "--resume", LAST]
    assert section is None


def test_a_resume_of_ones_own_is_kept(run):
    """What the job says about its resume wins."""
    job = family(resume_command=("{python}", "again.py", "{checkpoint}"))
    assert launch(job, "resume", LAST, from_epoch=3, run=run)[0] == ["/env/bin/python", "again.py", LAST]


@pytest.mark.parametrize(("start", "from_epoch"), [("finish", 30), ("resume", 30), ("resume", 31), ("finish", 8)])
def test_no_epoch_left_is_never_a_resume(run, start, from_epoch):
    """The scripts would train nothing and fail at the unset `epoch`: we end the training ourselves."""
    argv, section = launch(family(), start, LAST, from_epoch=from_epoch, run=run)
    assert argv == ["/env/bin/python", str(layout.FINISH_SCRIPT), str(run.attempt(3).root)]
    assert (section["mode"], section["resume"], section["expected_epoch"]) == ("finish", LAST, from_epoch - 1)


@pytest.mark.parametrize(
    ("cwd", "script", "place"),
    [
        ("{tmp}", "yolov9/train_dual.py", "{tmp}/yolov9"),
        ("{tmp}", "train.py", "{tmp}"),
        ("{tmp}/other", "{tmp}/yolov9/train.py", "{tmp}/yolov9"),
        ("", "{run_dir}/../yolov9/train.py", "{run}/../yolov9"),
        ("{tmp}", "linked.py", "{tmp}/yolov9"),
    ],
)
def test_our_end_imports_from_where_the_script_lies(run, tmp_path, cwd, script, place):
    """As Python does when it runs the script: beside it, wherever it is started, with links followed."""
    (tmp_path / "yolov9").mkdir()
    (tmp_path / "yolov9" / "train.py").touch()
    (tmp_path / "linked.py").symlink_to("yolov9/train.py")
    command = ("{python}", "-m", "torch.distributed.run", script.replace("{tmp}", str(tmp_path)), "--data", "x.py")
    job = msgspec.structs.replace(family("yolov9"), command=command, cwd=cwd.replace("{tmp}", str(tmp_path)))
    section = launch(job, "finish", LAST, from_epoch=30, run=run)[1]
    expected = Path(place.replace("{tmp}", str(tmp_path)).replace("{run}", str(run.root))).resolve()
    assert section["args"]["import_from"] == [str(expected)]
    if "{run_dir}" not in script:
        assert survey._modules(job)[0] == expected


def test_the_end_is_ours_only_with_an_interpreter(run):
    """Nobody else could load the checkpoint."""
    job = msgspec.structs.replace(family(), python="")
    with pytest.raises(PermanentError, match="python"):
        launch(job, "finish", LAST, from_epoch=30, run=run)


def test_epochs_are_those_that_a_resume_obeys(run):
    """opt.yaml, at its top level; without it the command."""
    job = family()
    assert trainer_for(job).epochs(job, run) == 30
    (run.train / "opt.yaml").unlink()
    assert trainer_for(job).epochs(job, run) == 20
    job = msgspec.structs.replace(job, command=("python", "train.py", "--epoch", "12"))
    assert trainer_for(job).epochs(job, run) == 12
    assert trainer_for(job).epochs(msgspec.structs.replace(job, command=("python", "train.py")), run) is None


def test_whole_models_are_loaded_unless_the_job_says_otherwise():
    """Old scripts fail at --resume and at their end without this; a job's own [env] wins."""
    job = family("yolov9")
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    assert trainer_for(job).environment(job, {})[variable] == "1"
    assert variable not in trainer_for(job).environment(job, {variable: "0"})


def test_checkpoints_of_the_families(run):
    """Each in its own names; the bare model init.pt of v7 is none."""
    names = (
        "last.pt", "best.pt", "init.pt", "epoch7.pt", "epoch10.pt", "epoch_000.pt", "epoch_024.pt", "best_210.pt"
    )  # fmt: skip
    for name in names:
        (run.weights / name).touch()
    found = {
        name: [path.name for path in trainer_for(family(name)).checkpoints(family(name), run)]
        for name in ("yolov7", "yolov9")
    }
    assert found["yolov9"] == ["last.pt", "epoch10.pt", "epoch7.pt", "best.pt"]
    assert found["yolov7"] == ["last.pt", "best_210.pt", "epoch_024.pt", "epoch_000.pt", "best.pt"]


def test_a_moved_run_is_repaired(run, tmp_path):
    """opt.yaml says where the run and its data lie now, and no GPU of the machine; the rest stays as it is."""
    job = family("yolov5", "--data", "/new/boxes.yaml")
    aside = tmp_path / "aside"
    notes = trainer_for(job).make_ready(job, run, from_epoch=3, aside=aside)
    found = opt_yaml.read(run.train / "opt.yaml")
    assert (found["save_dir"], found["project"], found["name"]) == (str(run.train), str(run.root), "train")
    assert (found["data"], found["device"], found["epochs"], found["weights"]) == (
        "/new/boxes.yaml",
        "",
        "30",
        "yolov5s.pt",
    )
    assert "  epochs: 7\n" in (run.train / "opt.yaml").read_text()
    assert (aside / "opt.yaml").read_text() == OPTIONS
    assert any("/old place/boxes.yaml" in note and "/new/boxes.yaml" in note for note in notes)
    before = (run.train / "opt.yaml").stat()
    assert trainer_for(job).make_ready(job, run, from_epoch=3, aside=aside) == []
    assert (run.train / "opt.yaml").stat().st_ino == before.st_ino
    assert (aside / "opt.yaml").read_text() == OPTIONS


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_what_is_repaired_keeps_its_mode(run, tmp_path, mode):
    """opt.yaml and the table stay as open, or as closed, as their owner made them, whatever the daemon's umask."""
    table = run.train / "results.csv"
    table.write_text("   epoch, x\n" + "".join(f"       {epoch}, 1\n" for epoch in range(5)))
    for path in (table, run.train / "opt.yaml"):
        path.chmod(mode)
    job = family("yolov5", "--data", "/new/boxes.yaml")
    assert len(trainer_for(job).make_ready(job, run, from_epoch=3, aside=tmp_path / "aside")) > 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in (table, run.train / "opt.yaml")} == {mode}


@pytest.mark.parametrize("left_over", [False, True])
def test_a_durable_file_has_the_mode_that_was_asked_for(tmp_path, left_over):
    """Neither the umask nor what a crash left under the temporary name changes it; it may hold keys."""
    if left_over:
        (tmp_path / ".record.new").touch(mode=0o666)
        (tmp_path / ".record.new").chmod(0o666)
    before = os.umask(0o077)
    try:
        durable.write(tmp_path / "record", b"x", mode=0o640)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == 0o640


def test_a_relative_data_set_stays_as_the_script_found_it(run, tmp_path):
    """The script resolved it from its own folder; what the user typed is no better."""
    job = family("yolov5", "--data", "coco128.yaml")
    trainer_for(job).make_ready(job, run, from_epoch=3, aside=tmp_path / "aside")
    assert opt_yaml.read(run.train / "opt.yaml")["data"] == "/old place/boxes.yaml"


def test_v7_is_not_resumed_without_its_options(run, tmp_path):
    """It would fail at once; the others take them from the checkpoint."""
    (run.train / "opt.yaml").unlink()
    with pytest.raises(PermanentError, match=r"opt\.yaml"):
        trainer_for(family("yolov7")).make_ready(family("yolov7"), run, from_epoch=3, aside=tmp_path / "aside")
    assert trainer_for(family("yolov9")).make_ready(family("yolov9"), run, from_epoch=3, aside=tmp_path / "aside") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: plain # no comment in a path", "plain # no comment in a path"),
        ("a: 'it''s: quoted'", "it's: quoted"),
        ('a: "\\u6570\\U0001F600\\x41\\t\\\\ \\\n  \\ on"', "数😀A\t\\  on"),
        ("a: null", ""),
        ("a:", ""),
        ("a: ''", ""),
        ("a: two\n  lines", "two lines"),
    ],
)
def test_values_are_read_as_they_were_dumped(tmp_path, text, value):
    """In all styles of a YAML dumper."""
    (tmp_path / "opt.yaml").write_text(f"first: 1\n{text}\nlast: 2\n", encoding="utf-8")
    assert opt_yaml.read(tmp_path / "opt.yaml") == {"first": "1", "a": value, "last": "2"}


def test_any_path_survives_the_repair(tmp_path):
    """The trainers read the file with the locale's encoding, so what we write is ASCII."""
    path = tmp_path / "opt.yaml"
    path.write_text("epochs: 3")
    odd = '/数据/a "b" \\c\U0001f600: #x'
    opt_yaml.repair(path, {"data": odd}, tmp_path / "aside")
    assert path.read_bytes().isascii()
    assert opt_yaml.read(path) == {"epochs": "3", "data": odd}


# ---- the end


def checkpoint(run, state, epoch=-1):
    """What was found in last.pt."""
    return [Checkpoint(path=str(run.weights / "last.pt"), state=state, epoch=epoch)]


@pytest.mark.parametrize("code", [0, 1, None])
def test_a_stripped_last_pt_is_the_end(run, code):
    """Whatever the script died of afterwards: exit code 1 of the final strip of best.pt, a kill while validating."""
    job = family()
    finished, proof = trainer_for(job).proof_of_end(job, run, code, checkpoint(run, "finished"))
    assert finished
    assert ("exit code 1" in proof) == (code == 1)


@pytest.mark.parametrize("state", ["resumable", "done_not_stripped", "weights_only", "torn"])
@pytest.mark.parametrize("code", [0, 1])
def test_exit_code_0_alone_is_not_the_end(run, state, code):
    """Without the script's own end state nothing is proven, unless the job has tests of its own."""
    job = family()
    assert trainer_for(job).proof_of_end(job, run, code, checkpoint(run, state, 3)) == (False, "")
    job = family(done=Done(log="all done"))
    assert trainer_for(job).proof_of_end(job, run, code, checkpoint(run, state, 3)) is None
    other = [Checkpoint(path=str(run.weights / "best.pt"), state="finished", epoch=-1)]
    assert trainer_for(family()).proof_of_end(family(), run, code, other) == (False, "")


# ---- tables


def test_a_table_from_zero_is_cut_behind_the_checkpoint(tmp_path):
    """YOLOv5 and v9: three complete epochs are the rows 0, 1 and 2; of repeated ones the last stays."""
    path = tmp_path / "results.csv"
    path.write_text("   epoch, x\n" + "".join(f"       {epoch}, {n}\n" for n, epoch in enumerate([0, 1, 1, 2, 3])))
    assert trim(path, 3, tmp_path / "aside", zero_based=True) == 2
    assert [row.epoch for row in read_table(path).rows.values()] == [1, 2, 3]
    assert path.read_text().splitlines()[2].split() == ["1,", "2"]
    assert trim(path, 3, tmp_path / "aside", zero_based=True) == 0


def test_the_text_table_of_v7(tmp_path):
    """Epochs from 0, losses and metrics by their names; what is no row is left out."""
    row = "     {}/99     1.21G   0.0412   0.0321   0.0123   0.0856       52      640   0.1   0.2   0.3   0.25  0.1 0.1 0.1\n"
    path = tmp_path / "results.txt"
    path.write_text(row.format(0) + "torn line\n" + row.format(1) + row.format(2)[:-5])
    table = read_table(path)
    assert (table.newest.epoch, table.zero_based) == (2, True)
    assert table.newest.losses == {"box_loss": 0.0412, "obj_loss": 0.0321, "cls_loss": 0.0123, "total_loss": 0.0856}
    assert table.newest.metrics["metrics/mAP_0.5:0.95"] == 0.25
