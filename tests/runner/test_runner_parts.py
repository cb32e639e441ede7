"""The parts of the runner on their own: beats, arguments, stop request, callback table."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
from runner_lab import REPOSITORY, RUNNER, TOKEN

from supervisor.runner import arguments, hook, versions
from supervisor.runner.beats import BeatWriter, losses_of, metrics_of, number
from supervisor.runner.session import Session, epoch_error, place_error, resume_error

SOURCES = sorted(RUNNER.rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_file_is_python_3_8_and_stands_alone(source):
    """The runner parses with the grammar of Python 3.8; it imports the standard library, itself and what a trainer has."""
    tree = ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 8))
    allowed = set(sys.stdlib_module_names) | {"ultralytics", "torch", "yaml", "matplotlib"}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module)
        assert not {name.split(".")[0] for name in names} - allowed


def test_the_program_files_import_nothing_of_their_folder_before_it_is_a_package():
    """train.py, describe.py and checkpoint.py start by path: a relative import at their top would fail."""
    for name in ("train.py", "describe.py", "checkpoint.py"):
        tree = ast.parse((RUNNER / name).read_text(encoding="utf-8"))
        assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]


def test_each_beat_is_one_line_and_one_write(tmp_path, monkeypatch):
    """Two writers on one file never mix their lines."""
    sizes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: sizes.append(len(line)) or write(fd, line))
    first, second = BeatWriter(str(tmp_path / "beats")), BeatWriter(str(tmp_path / "beats"))
    for turn in range(3):
        first.write("phase", phase="训练")
        second.write("batch", batch=turn)
    lines = (tmp_path / "beats").read_text(encoding="utf-8").splitlines()
    assert len(sizes) == len(lines) == 6
    assert [json.loads(line)["kind"] for line in lines] == ["phase", "batch"] * 3


def test_a_line_that_was_cut_does_not_spoil_the_next(tmp_path, monkeypatch):
    """When a full disk takes half a line, the next beat starts on a new one."""
    beats = BeatWriter(str(tmp_path / "beats"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: write(fd, line[:10]))
    beats.write("phase", phase="train")
    monkeypatch.setattr(os, "write", write)
    beats.write("phase", phase="val")
    lines = (tmp_path / "beats").read_text().splitlines()
    assert json.loads(lines[1])["phase"] == "val"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "x", [1]])
def test_what_is_no_finite_number_is_none(value):
    """JSON has no NaN."""
    assert number(value) is None


def test_losses_of_old_and_new_trainers_have_their_names():
    """8.4 keeps a dict, older versions a tensor beside a list of names; before the first batch there is nothing."""

    class Tensor(list):
        """Enough of a tensor."""

        def tolist(self):
            """Return plain numbers."""
            return list(self)

    names = ("box_loss", "cls_loss")
    assert losses_of(SimpleNamespace(tloss={"box_loss": 1.5})) == {"box_loss": 1.5}
    assert losses_of(SimpleNamespace(tloss=Tensor([1, 2]), loss_names=names)) == {"box_loss": 1.0, "cls_loss": 2.0}
    assert losses_of(SimpleNamespace(tloss=3.0, loss_names=["loss"])) == {"loss": 3.0}
    assert losses_of(SimpleNamespace(tloss=None)) == {}
    assert metrics_of(SimpleNamespace(metrics=None)) == {}


def test_an_automatic_batch_size_stays_what_it_was(tmp_path):
    """batch=-1 was measured at the fresh start; measuring again would change the training in its middle."""
    plan = {"args": {"batch": -1, "imgsz": 64}, "resume": "/r/last.pt", "device": "0", "save_dir": str(tmp_path)}
    resumed = arguments.for_resume(plan, frozenset({"batch", "imgsz"}))
    assert resumed == {"resume": "/r/last.pt", "device": "0", "imgsz": 64}


def test_a_time_budget_is_given_whole():
    """What is left of it would be taken for the whole training's: the trainer counts epochs from the first one."""
    plan = {"args": {"time": 8}, "resume": "/r/last.pt", "device": None, "save_dir": ""}
    assert arguments.for_resume(plan, frozenset({"time"})) == {"resume": "/r/last.pt", "time": 8}
    assert arguments.for_resume(plan, frozenset()) == {"resume": "/r/last.pt"}


def test_no_plan_expects_nothing_and_a_broken_check_is_no_pass(tmp_path):
    """A user's script trains where it likes; our own launch never trains on a check that could not be made."""
    session = Session(str(tmp_path), controlled=False)
    session.check_start(place_error, epoch_error)
    session.plan = {"save_dir": str(tmp_path), "resume": "/r/last.pt", "expected_epoch": None}
    session.trainer = SimpleNamespace(save_dir=tmp_path, start_epoch=3, resume=True)
    with pytest.raises(SystemExit) as left:
        session.check_start(place_error, resume_error, epoch_error)
    assert left.value.code == 77


@pytest.mark.parametrize(("holder", "leaves"), [(TOKEN, False), (TOKEN + 1, True), (None, False)])
def test_only_another_token_loses_the_fence(tmp_path, holder, leaves):
    """A token file that cannot be read for a moment does not end a training."""
    attempt = tmp_path / "attempts" / "1"
    attempt.mkdir(parents=True)
    (attempt / "launch.json").write_text(json.dumps({"token": TOKEN}))
    if holder is not None:
        (tmp_path / "token").write_text(json.dumps({"token": holder}))
    session = Session(str(attempt), controlled=False)
    if not leaves:
        session.check_fence()
        return
    with pytest.raises(SystemExit) as left:
        session.check_fence()
    assert left.value.code == 76


def test_a_callback_that_fails_never_reaches_the_training(tmp_path, monkeypatch, capsys):
    """A trainer without the attributes we read costs one line on stderr."""
    monkeypatch.setattr(hook, "_session", Session(str(tmp_path), controlled=True))
    monkeypatch.setattr(hook, "_complained", False)
    hook.on_train_batch_end(object())
    hook.on_model_save(object())
    assert capsys.readouterr().err.count("yolo-supervisor") == 1


def test_callbacks_are_added_once(monkeypatch):
    """Installing again, or a table that is loaded twice, gives no double beats."""
    table = ModuleType("table")
    table.default_callbacks = {"on_train_end": [print]}
    hook._add_callbacks(table)
    hook._add_callbacks(table)
    assert table.default_callbacks["on_train_end"] == [print, hook.on_train_end]
    assert set(table.default_callbacks) == set(hook.CALLBACKS)


@pytest.mark.parametrize(
    ("file", "text", "version"),
    [
        ("__init__.py", '# a package\n__version__ = "8.4.190"\n', "8.4.190"),
        ("version.py", "__version__ = '2.13.0+cpu'\ndebug = False\n", "2.13.0+cpu"),
        ("__init__.py", "__version__ = compute()\n", None),
    ],
)
def test_versions_are_read_without_an_import(tmp_path, monkeypatch, file, text, version):
    """The version comes from the files that would be imported, and nothing in them runs."""
    (tmp_path / "lazy_package").mkdir()
    (tmp_path / "lazy_package" / "__init__.py").touch()
    (tmp_path / "lazy_package" / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert versions.source_version("lazy_package") == version
    assert versions.package_folder("lazy_package") == str(tmp_path / "lazy_package")
    assert versions.source_version("no_such_package") is None
    assert "lazy_package" not in sys.modules


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in another Python that can import the runner."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=30, check=False
    )


STUCK = """
import os, select, signal, time
from supervisor.runner.stopping import StopRequest
stop = StopRequest(lambda number: None, lambda: print("forced", flush=True) or 75)
stop.force_after_s = 0.05
stop.listen(replace=True)
{before}
os.kill(os.getpid(), signal.SIGTERM)
{after}
"""


@pytest.mark.e2e
def test_a_trainer_that_never_calls_back_is_left_after_a_while():
    """SIGTERM in a scan that takes for ever: the process leaves on its own with 75."""
    done = python(STUCK.format(before="", after="select.select([], [], [], 20)"))
    assert (done.returncode, done.stdout) == (75, "forced\n")


@pytest.mark.e2e
def test_nobody_leaves_while_a_checkpoint_is_written():
    """The forced exit waits for the end of the save, however long it takes."""
    done = python(
        STUCK.format(
            before="stop.set_writing(True)",
            after="select.select([], [], [], 0.5); print('saved', flush=True); stop.set_writing(False)\n"
            "select.select([], [], [], 20)",
        )
    )
    assert (done.returncode, done.stdout) == (75, "saved\nforced\n")


@pytest.mark.e2e
def test_nobody_is_forced_out_of_the_final_phase():
    """After the last save the process may take the time that it needs."""
    done = python(STUCK.format(before="stop.set_final(True)", after="select.select([], [], [], 0.5); print('done')"))
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.e2e
def test_a_forked_worker_dies_of_sigterm_as_always():
    """The handler belongs to the training's own process, not to its dataloader workers."""
    fork = "pid = os.fork()\nif pid == 0: os.kill(os.getpid(), signal.SIGTERM); select.select([], [], [], 20)\n"
    code = STUCK.split("os.kill", maxsplit=1)[0].format(before=fork)
    done = python(code + "print(os.WTERMSIG(os.waitpid(pid, 0)[1]))")
    assert done.stdout == "15\n"


@pytest.mark.e2e
def test_the_parent_of_torchrun_passes_the_signal_on_and_waits():
    """In a multi-GPU training only rank 0 decides; the parent neither leaves nor forces."""
    code = """
import os, signal, subprocess, sys
from supervisor.runner.stopping import StopRequest
stop = StopRequest(lambda number: None, lambda: print("forced"))
stop.force_after_s = 0.05
stop.forwards = True
stop.listen(replace=True)
bystander = subprocess.Popen(["sleep", "30"])
os.kill(os.getpid(), signal.SIGTERM)  # before the launcher is there
launcher = subprocess.Popen([sys.executable, "-c", "import select; select.select([], [], [], 30)", "torch.distributed.run"])
print(launcher.wait(), bystander.poll())
bystander.kill()
bystander.wait()
"""
    assert python(code).stdout == "-15 None\n"
