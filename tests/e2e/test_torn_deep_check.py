"""What the deep check says of a file, and what it must not blame it for: one process with torch looks at all of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from daemon_harness import REPOSITORY, needs

from supervisor.runner.checkpoint import inspect
from supervisor.runner.deep_check import COULD_NOT_LOOK, OK, REFUSED

pytestmark = pytest.mark.e2e

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))

# Each file is looked at in a fork, so that torch is imported once; its limits end with it.
LOOK = """
import os, sys
from collections import OrderedDict
repository, folder = sys.argv[1:]
sys.path.insert(0, folder + "/modules")
os.mkdir("modules")
with open("modules/picky.py", "w") as file:
    file.write('''
import os, torch
if "WRITES" not in os.environ:
    torch.cuda.current_device()  # as kernels that are compiled at their import
class Picky(torch.nn.Linear):
    pass
''')
with open("modules/broken.py", "w") as file:
    file.write('''
import os, torch
class Broken(torch.nn.Linear):
    def __setstate__(self, state):
        raise ValueError("another version of torch is needed")
''')
os.environ["WRITES"] = "1"
import torch
from broken import Broken
from picky import Picky

INF, NAN = float("inf"), float("nan")

def training(model=None, **more):
    model = model or torch.nn.Linear(2, 2)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 3, "model": None, "ema": model, "optimizer": optimizer, "train_args": {"epochs": 9}, **more}

def filled(number, *, name=""):
    model = torch.nn.Linear(2, 2)
    if name:
        model.register_buffer(name, torch.full((2,), number))
    else:
        model.weight.data.fill_(number)
    return model

def state_dict(name, number):
    return OrderedDict({"weight": torch.ones(2), name: torch.full((2,), number)})

files = {
    "picky": training(Picky(2, 2)),
    "broken": training(Broken(2, 2)),
    "weight": training(filled(NAN)),
    "statistic": training(filled(INF, name="running_var")),
    "mask": training(filled(-INF, name="mask")),
    "nan mask": training(filled(NAN, name="mask")),
    "mask in a state dict": training(ema=state_dict("mask", -INF)),
    "nan in a state dict": training(ema=state_dict("mask", NAN)),
    "bias in a state dict": training(ema=state_dict("bias", INF)),
    "momentum": training(optimizer={"state": {0: {"exp_avg": torch.tensor(NAN)}}, "param_groups": [{}]}),
    "beside": training(best=torch.tensor(-INF), loss_items=torch.tensor(NAN), scaler={"scale": torch.tensor(INF)}),
}
for name, content in files.items():
    torch.save(content, name)
torch.save(training(), "old", _use_new_zipfile_serialization=False)
torch.save(training(Picky(2, 2)), "old picky", _use_new_zipfile_serialization=False)
with open("old", "rb") as whole, open("old flipped", "wb") as file:
    data = whole.read()
    place = len(data) - 3 * 8 - 4 * 8  # the three storages have 4, 2 and 2 numbers, and their count before them
    file.write(data[:place] + (99).to_bytes(8, "little") + data[place + 8:])
with open("old cut", "wb") as file:
    file.write(data[:-3])
for name in ("picky", "broken"):
    del sys.modules[name]
del os.environ["WRITES"]

sys.path.insert(0, repository)
from supervisor.runner import deep_check
for name in sorted([*files, "old", "old cut", "old flipped", "old picky"]):
    print(name, flush=True)
    child = os.fork()
    if not child:
        os._exit(deep_check.main(["--expected-epoch", "3", name]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """By file: the exit code and what was printed; "folder" is where the files are."""
    needs(PYTHON.exists(), f"an interpreter with torch at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    folder = tmp_path_factory.mktemp("deep 深")
    command = [PYTHON, "-W", "ignore", "-c", LOOK, REPOSITORY, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = iter(done.stdout.splitlines())
    found = {name: (json.loads(next(lines)), int(next(lines))) for name in lines}
    return {"folder": folder, **{name: (code, answer) for name, (answer, code) in found.items()}}


@pytest.mark.parametrize("name", ["picky", "broken", "old picky"])
def test_torn_is_not_said_of_a_file_for_what_this_machine_lacks(answers, name):
    """A module that wants a GPU at its import, a class that refuses to be loaded here: nothing was seen of the file."""
    code, answer = answers[name]
    assert (code, answer["ok"], "could not be loaded here" in answer["reason"]) == (COULD_NOT_LOOK, False, True)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("weight", REFUSED, "NaN or Inf in ema.weight"),
        ("statistic", REFUSED, "NaN or Inf in ema.running_var"),
        ("bias in a state dict", REFUSED, "NaN or Inf in ema.bias"),
        ("nan in a state dict", REFUSED, "NaN or Inf in ema.mask"),
        ("momentum", REFUSED, "NaN or Inf in optimizer.state.0.exp_avg"),
        ("mask", OK, "loads, complete and finite"),
        ("mask in a state dict", OK, "loads, complete and finite"),
        ("nan mask", OK, "loads, complete and finite; NaN in ema.mask, which is no weight"),
        ("beside", OK, "loads, complete and finite"),
    ],
)
def test_torn_numbers_are_judged_as_by_the_cheap_check(answers, name, code, reason):
    """What was learned must be finite; what a model only remembers, or a trainer notes beside it, need not be."""
    found, answer = answers[name]
    assert (found, answer["reason"]) == (code, reason)
    cheap = inspect(str(answers["folder"] / name), finite=True)
    assert cheap["state"] == ("poisoned" if code == REFUSED else "resumable")


def test_torn_files_of_the_old_format_are_told_by_their_length(answers):
    """Whole: weights only and a doubt for the cheap check, which the deep one settles; cut: torn for both."""
    folder = answers["folder"]
    whole = inspect(str(folder / "old"))
    assert (whole["state"], whole["epoch"], whole["tensors"]) == ("weights_only", 3, 3)
    assert whole["doubts"] == ["old format: only a deep check can say whether it is whole"]
    code, answer = answers["old"]
    assert (code, answer["epoch"], answer["tensors"]) == (OK, 3, 3)
    assert inspect(str(folder / "old flipped"))["state"] == "weights_only"
    code, answer = answers["old flipped"]
    assert (code, "does not load" in answer["reason"]) == (REFUSED, True)
    cut = inspect(str(folder / "old cut"))
    assert (cut["state"], "ends early" in cut["reason"]) == ("torn", True)
    assert answers["old cut"][0] == REFUSED
