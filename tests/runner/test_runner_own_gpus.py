"""CUDA_VISIBLE_DEVICES never leaves the GPUs of the attempt, whatever a program writes into it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest
from runner_lab import RUNNER

from supervisor.runner import own_gpus

A, B, C = "GPU-aaaa1111-0000", "GPU-bbbb2222-0000", "GPU-cccc3333-0000"


@pytest.mark.parametrize(
    ("wanted", "own", "visible"),
    [
        ("0", (B,), B),
        ("0,1", (B, C), f"{B},{C}"),
        ("1", (B, C), C),
        (" 1 , 0 ", (B, C), f"{C},{B}"),
        ("3", (B,), B),  # the machine's fourth, as many scripts say
        ("0,1,2,3", (B, C), f"{B},{C}"),
        ("2,3", (B, C), f"{B},{C}"),
        ("1,2", (B, C), f"{B},{C}"),
        (C, (B, C), C),
        (C.lower(), (B, C), C),
        ("gpu-cccc", (B, C), C),
        (A, (B, C), B),
        ("0,0", (B, C), B),
        ("", (B,), ""),
        ("-1", (B,), "-1"),
        ("-1,0", (B,), "-1,0"),
        ("0,-1", (B, C), B),  # CUDA takes no more from there on
        ("1, -1, 0", (B, C), C),
        ("NoDevFiles", (B,), "NoDevFiles"),
        ("none", (B,), "none"),
        ("0,none,1", (B, C), B),
        ("0", (), ""),
        ("cuda", (B,), B),
    ],
)
def test_what_is_written_are_places_among_ones_own(wanted, own, visible):
    """A number is a place; what is not one's own becomes as many of one's own; hiding all is allowed."""
    assert own_gpus.translated(wanted, own) == visible


@pytest.mark.parametrize(
    ("wanted", "own", "now", "visible"),
    [
        ("0,1", ("3", "5"), "3,5", "3,5"),
        ("3,5", ("3", "5"), "3,5", "3,5"),
        ("5", ("3", "5"), "3,5", "5"),
        ("1", ("1", "2"), "1,2", "2"),
        ("1,2", ("1", "2"), "2", "1,2"),
        ("2", ("1", "2"), "2", "2"),
    ],
)
def test_without_uuids_places_come_before_indices(wanted, own, now, visible):
    """Where nobody watches GPUs they have indices only: a number is a place first; what is there may be written again."""
    assert own_gpus.translated(wanted, own, now) == visible


def told(code, lease, visible=None, **env):
    """What a Python with the guard prints."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(RUNNER / "inject"), "YOLO_SUPERVISOR_HOOK": "gpus", **env}
    given |= {} if lease is None else {"YOLO_SUPERVISOR_ATTEMPT_DIR": "/none", "YOLO_SUPERVISOR_GPUS": lease}
    given |= {"CUDA_VISIBLE_DEVICES": lease or "" if visible is None else visible}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


SHOW = """
import os, subprocess, sys
V = "CUDA_VISIBLE_DEVICES"
def show(**more): subprocess.run(["sh", "-c", "echo [$" + V + "]"], **more)
"""


def test_a_line_at_the_top_of_a_script_stays_on_its_gpu():
    """The well-known line with "0" means the first of its own, for CUDA and for what is started."""
    code = SHOW + "os.environ[V] = '0'; print(os.environ[V], flush=True); show(); show(env=os.environ.copy())"
    assert told(code, f"{B},{C}") == [B, f"[{B}]", f"[{B}]"]


def test_removing_the_variable_uncovers_nothing():
    """It is gone for the program, which may look for it, and stays for CUDA; clearing all variables ends."""
    code = SHOW + "del os.environ[V]; print(V in os.environ, flush=True); show()"
    assert told(code, B) == ["False", f"[{B}]"]
    code = SHOW + "os.environ.clear(); print(len(os.environ), flush=True); os.environ[V] = '0'; show()"
    assert told(code, B) == ["0", f"[{B}]"]


def test_a_rank_that_chooses_its_gpu_gets_its_own_of_ours():
    """A launcher that gives rank 1 the environment with "1" in it: the rank has the second of ours, and no other."""
    name = "os.environ['CUDA_VISIBLE_DEVICES']"
    child = f"import os; print({name}); {name} = '0'; print({name})"
    code = SHOW + f"subprocess.run([sys.executable, '-c', {child!r}], env=dict(os.environ, **{{V: '1'}}))"
    assert told(code, f"{B},{C}") == [C, C]


@pytest.mark.parametrize(
    ("lease", "visible", "begins"),
    [
        (f"{A},{B}", "", ""),
        (f"{A},{B}", "NoDevFiles", "NoDevFiles"),
        (f"{A},{B}", "1,-1,0", B),
        (f"{A},{B}", "7", A),
        ("1,2", "1,2", "1,2"),
        ("", "0", ""),
        (None, "5", "5"),
    ],
)
def test_a_process_begins_on_its_own_gpus(lease, visible, begins):
    """What a parent chose within the lease stays, what lies outside is put right; without a lease nothing is done."""
    assert told(f"import os; print('[' + os.environ['{own_gpus.VISIBLE}'] + ']')", lease, visible) == [f"[{begins}]"]


def test_hidden_by_a_parent_a_child_may_show_them_again():
    """Ultralytics hides all GPUs for an export on the CPU; what starts then is not blind for ever."""
    assert told(SHOW + "os.environ[V] = '1'; show()", f"{A},{B}", "") == [f"[{B}]"]


def test_other_variables_are_as_always():
    """Types are checked, and everything else passes."""
    code = "import os\nos.environ['X'] = '1'; os.environ |= {'Y': '2'}; print(os.environ.pop('X'), os.getenv('Y'))\n"
    code += "try: os.environ['CUDA_VISIBLE_DEVICES'] = 0\nexcept TypeError: print('TypeError')"
    assert told(code, A) == ["1", "2", "TypeError"]


TRAINER = """
import os
from types import ModuleType, SimpleNamespace
from yolo_supervisor_runner import own_gpus
module = ModuleType("trainer")
module.get_save_dir = lambda args, name: f"{name}/{args.device}"
own_gpus.tell_places(module)
os.environ["CUDA_VISIBLE_DEVICES"] = WRITTEN
device = os.environ["CUDA_VISIBLE_DEVICES"] if READ else WRITTEN
print(module.get_save_dir(SimpleNamespace(device=device), name="runs"))
"""


@pytest.mark.parametrize(
    ("lease", "written", "read", "kept"),
    [
        (f"{A},{B}", "0,1", True, "0,1"),
        (f"{A},{B}", "1", True, "1"),
        ("3,5", "0,1", True, "0,1"),
        ("1,2", "1", False, "1"),
        (A, "-1", True, "-1"),
        ("", "", True, ""),
    ],
)
def test_a_trainer_keeps_places_as_its_device(lease, written, read, kept):
    """What it reads back from the variable goes into args.yaml, ranks and checkpoints as places again."""
    code = TRAINER.replace("WRITTEN", repr(written)).replace("READ", repr(read))
    assert told(code, lease) == [f"runs/{kept}"]


def test_a_trainer_without_that_function_is_left_alone():
    """Whatever a later version is built like, nothing fails."""
    own_gpus.tell_places(ModuleType("trainer"))
