"""The end of a script's training that died after its last epoch was saved: what is stripped, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from supervisor import layout

TORCH = '''"""As much of torch as the end of a training needs; with weights_only it refuses as torch does."""
import io, pickle, zipfile

def load(path, map_location, weights_only=True):
    assert not weights_only, "Weights only load failed"
    with zipfile.ZipFile(path) as archive:
        return pickle.loads(archive.read("archive/data.pkl"))

def save(content, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
'''
MODEL = '''"""A class that only the checkout of this trainer has."""

class Parameter:
    requires_grad = True

class Model:
    def __init__(self, name):
        self.name, self.parameter, self.halved = name, Parameter(), False

    def half(self):
        self.halved = True

    def parameters(self):
        return [self.parameter]
'''


class Finish:
    """A run directory with what a killed training left, and its trainer's checkout."""

    def __init__(self, root):
        self.run = layout.RunDirectory(root / "跑 run")
        self.attempt = self.run.attempt(2)
        self.attempt.root.mkdir(parents=True)
        self.run.weights.mkdir(parents=True)
        self.source = root / "checkout"
        self.source.mkdir()
        (self.source / "torch.py").write_text(TORCH)
        (self.source / "family_model.py").write_text(MODEL)
        self.run.token.write_text(json.dumps({"token": 7}))
        self.last, self.best = self.run.weights / "last.pt", self.run.weights / "best.pt"

    def save(self, path, epoch=4, epochs=5, **changes):
        """Let the training have written a checkpoint."""
        sys.path.insert(0, str(self.source))
        try:
            from family_model import Model

            content = {
                "epoch": epoch, "best_fitness": 0.5, "model": Model("raw"), "ema": Model("average"), "updates": 9,
                "optimizer": {"state": {}}, "opt": {"epochs": epochs}, "training_results": "0/4 ...", "wandb_id": "x",
                **changes,
            }  # fmt: skip
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
            path.write_bytes(buffer.getvalue())
        finally:
            sys.path.remove(str(self.source))
            sys.modules.pop("family_model", None)

    def __call__(self, token=7, **plan):
        """Run the program; its exit code and its end record."""
        section = {
            "mode": "finish", "args": {"import_from": [str(self.source)]}, "device": "cpu", "save_dir": "",
            "resume": str(self.last), "expected_epoch": 4, "run_token_file": str(self.run.token), **plan,
        }  # fmt: skip
        self.attempt.launch.write_text(json.dumps({"version": 1, "token": token, "train": section}))
        return self.run_as_it_is()

    def run_as_it_is(self):
        """Run the program on the launch.json that is there."""
        words = [sys.executable, str(layout.FINISH_SCRIPT), str(self.attempt.root)]
        done = subprocess.run(words, cwd=self.source, capture_output=True, text=True, timeout=60, check=False)
        records = [json.loads(line) for line in self.attempt.beats.read_text().splitlines()]
        assert (records[0]["kind"], records[-1]["kind"], records[-1]["code"]) == ("start", "end", done.returncode)
        return done.returncode, records[-1]

    def content(self, path):
        """What is in a checkpoint."""
        words = "import json, sys, torch; found = torch.load(sys.argv[1], None, False); model = found.pop('model');"
        words += "print(json.dumps([found, model.name, model.halved, model.parameter.requires_grad]))"
        done = subprocess.run(
            [sys.executable, "-c", words, str(path)], cwd=self.source, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)


@pytest.fixture
def finish(tmp_path):
    """A run directory of one's own."""
    return Finish(tmp_path)


def test_both_checkpoints_are_stripped_as_the_script_does_it(finish):
    """The averaged weights in half precision, epoch -1, nothing that only a training needs; options stay."""
    finish.save(finish.last)
    finish.save(finish.best, epoch=2)
    code, end = finish()
    assert (code, end["result"], end["epochs"], end["best"]) == (0, "finished", 5, str(finish.best))
    for path in (finish.last, finish.best):
        found, name, halved, requires_grad = finish.content(path)
        assert (name, halved, requires_grad) == ("average", True, False)
        assert (found["epoch"], found["opt"]) == (-1, {"epochs": 5})
        gone = ("optimizer", "ema", "updates", "best_fitness", "training_results", "wandb_id")
        assert [found[key] for key in gone] == [None] * 6
    assert sorted(path.name for path in finish.run.weights.iterdir()) == ["best.pt", "last.pt"]


def test_again_does_no_harm(finish):
    """A second attempt finds nothing left to do, also where only best.pt was stripped before a kill."""
    finish.save(finish.last)
    finish()
    before = finish.last.stat().st_ino
    assert finish()[0] == 0
    assert finish.last.stat().st_ino == before
    finish.save(finish.last)
    assert finish()[0] == 0


def test_v7_says_nothing_about_epochs(finish):
    """Its checkpoint has no options in it: the daemon knows that this is the last epoch."""
    finish.save(finish.last, opt=None)
    assert finish()[0] == 0


@pytest.mark.parametrize("changes", [{"epoch": 3}, {"optimizer": None}, {"ema": None, "model": None}])
def test_another_checkpoint_than_expected_is_refused(finish, changes):
    """Nothing is written then."""
    finish.save(finish.last, **changes)
    before = finish.last.read_bytes()
    code, end = finish()
    assert (code, end["result"]) == (65, "refused")
    assert finish.last.read_bytes() == before


def test_a_run_that_others_hold_is_left_alone(finish):
    """The fence: whoever came later has the run."""
    finish.save(finish.last)
    before = finish.last.read_bytes()
    assert finish(token=6)[0] == 76
    assert finish.last.read_bytes() == before


def test_a_model_that_cannot_be_loaded_is_an_error(finish):
    """The classes are gone from the checkout: it is said, and the files stay."""
    finish.save(finish.last)
    before = finish.last.read_bytes()
    (finish.source / "family_model.py").unlink()
    code, end = finish()
    assert (code, end["result"]) == (1, "error")
    assert "family_model" in end["reason"]
    assert finish.last.read_bytes() == before
    assert [path.name for path in finish.run.weights.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("plan", [{"resume": "last.pt"}, {"expected_epoch": None}, {"args": []}])
def test_a_launch_that_says_too_little_is_refused(finish, plan):
    """Exit code 2, and a record that says so."""
    finish.save(finish.last)
    assert finish(**plan)[0] == 2
    finish.attempt.launch.write_text("{")
    assert finish.run_as_it_is()[0] == 2


def test_the_command_line_is_checked(tmp_path):
    """Without a folder there is nothing to read and nowhere to write."""
    for words in ([], [str(tmp_path / "none")]):
        done = subprocess.run([sys.executable, str(layout.FINISH_SCRIPT), *words], capture_output=True, check=False)
        assert done.returncode == 2


def test_the_programs_own_modules_win(finish):
    """A checkout with a module named as one of ours gets its own."""
    finish.save(finish.last)
    (finish.source / "torch.py").write_text(TORCH + "import beats\nassert beats.MINE\n")
    (finish.source / "beats.py").write_text("MINE = True\n")
    assert finish()[0] == 0
    assert Path(finish.source / "beats.py").exists()
