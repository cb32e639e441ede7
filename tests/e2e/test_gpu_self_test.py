"""The self-test of a GPU as an order: real interpreters, with torch, without it, and some that hang."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from supervisor import layout
from supervisor.core.actions import TestGpu as Order
from supervisor.core.model import Phase
from supervisor.effects.gpu_test import GpuTester

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_eyes import ALICE, UUID, FakeEyes, quarantined, reading, run, world

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
TRAIN_PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", ROOT / ".venv-train" / "bin" / "python"))
ON_PROCESSOR = f"""
import sys
sys.path.insert(0, {str(layout.RUNNER)!r})
import gpu_test
sys.exit(gpu_test.main([*sys.argv[1:], "--device", "cpu", "--memory-bytes", "40000000"]))
"""
SEES = """
import json, os
print(json.dumps({"ok": True, "ran": True, "text": json.dumps(dict(os.environ))}))
"""


def examiner(*, eyes=None, there=None, test_s=60.0, **more):
    """One that is not asked by a daemon."""
    there = there or world(gpus=(quarantined(),))
    return GpuTester(lambda: 5.0, eyes or FakeEyes(), lambda: there, test_s=test_s, quick_s=test_s, **more)


def order(python, **more):
    """A test of the GPU."""
    return Order(key="gpu/1", gpu=UUID, python=str(python), **more)


def only(events):
    """The one answer."""
    (event,) = events
    assert (event.gpu, event.at) == (UUID, 5.0)
    return event


def program(folder, text, name="python"):
    """Something that stands where an interpreter should, in the language of /bin/sh."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_real_test_passes_with_its_figures(tmp_path):
    """The job's own torch, here on the processor: passed, and told how much was tested."""
    if not TRAIN_PYTHON.exists():
        pytest.skip(f"no interpreter with torch at {TRAIN_PYTHON}: set YOLO_SUPERVISOR_TRAIN_PYTHON")
    script = tmp_path / "test.py"
    script.write_text(ON_PROCESSOR)
    event = only(examiner(script=script, test_s=120.0)(order(TRAIN_PYTHON)))
    assert (event.ok, event.ran) == (True, True), event.text
    assert "held 6 patterns" in event.text


def test_what_is_ordered_reaches_the_test(tmp_path):
    """The GPU's UUID, how much memory, quick or not; and its standard input is open as long as somebody waits."""
    script = tmp_path / "test.py"
    script.write_text('import json, select, sys\nopen_ = not select.select([0], [], [], 0)[0]\n'
                      'print(json.dumps({"ok": True, "ran": True, "text": " ".join([*sys.argv[1:], str(open_)])}))\n')  # fmt: skip
    examine = examiner(script=script)
    event = only(examine(order(sys.executable, memory_bytes=5)))
    assert event.text == f"--tied --uuid {UUID} --memory-bytes 5 True"
    assert examine.quick(UUID, sys.executable).text == f"--tied --uuid {UUID} --quick True"


def test_an_interpreter_that_cannot_test_says_nothing_of_the_gpu(tmp_path):
    """None, one that is not there, one without torch: not run, and why."""
    for python, words in (
        ("", "no interpreter with torch is known"),
        (tmp_path / "gone", "cannot be started: No such file"),
        (sys.executable, "torch cannot be imported in"),
        (program(tmp_path, "echo oh >&2; exit 9"), "it ended with exit code 9: oh"),
        (program(tmp_path, "kill -9 $$", "killed"), "it died of SIGKILL"),
    ):
        event = only(examiner()(order(python)))
        assert (event.ok, event.ran) == (False, False)
        assert words in event.text


def test_a_test_that_hangs_on_the_gpu_has_failed(tmp_path):
    """It is ended at its deadline, and the step is named; one that hangs before says nothing of the GPU."""
    hangs = "echo 'step: importing torch' >&2; {}exec sleep 600"
    on_gpu = program(tmp_path, hangs.format("echo 'step: opening the GPU' >&2; "), "hangs")
    event = only(examiner(test_s=0.5)(order(on_gpu)))
    assert (event.ok, event.ran) == (False, True)
    assert event.text.startswith("it did not end within ")
    assert event.text.endswith(" while opening the GPU")
    event = only(examiner(test_s=0.5)(order(program(tmp_path, hangs.format(""), "slow"))))
    assert (event.ok, event.ran) == (False, False)


def test_a_test_that_crashes_on_the_gpu_has_failed(tmp_path):
    """The driver's library took the process with it."""
    crashes = program(tmp_path, "echo 'step: multiplying matrices' >&2; kill -BUS $$")
    event = only(examiner()(order(crashes)))
    assert (event.ok, event.ran, event.text) == (False, True, "it died of SIGBUS while multiplying matrices")
    killed = program(tmp_path, "echo 'step: multiplying matrices' >&2; kill -KILL $$", "killed")
    event = only(examiner()(order(killed)))
    assert (event.ok, event.ran) == (False, False), "somebody killed it, or the machine had no memory"


def test_an_answer_that_does_not_fit_its_exit_code_is_none(tmp_path):
    """Printed "passed" and then died, or printed what is no answer: not run, never passed."""
    lies = program(tmp_path, """echo '{"ok": true, "ran": true, "text": "fine"}'; exit 9""")
    assert not only(examiner()(order(lies))).ok
    event = only(examiner()(order(program(tmp_path, "echo 1; exit 0", "odd"))))
    assert (event.ok, event.ran) == (False, False)


def test_the_test_sees_one_gpu_and_no_secrets(tmp_path):
    """CUDA_VISIBLE_DEVICES is the UUID; what the daemon has in its environment stays there."""
    script = tmp_path / "sees.py"
    script.write_text(SEES)
    environ = {"HOME": "/h", "SLACK_TOKEN": "x", "CUDA_VISIBLE_DEVICES": "0,1"}
    seen = only(examiner(script=script, environ=environ)(order(sys.executable))).text
    assert f'"CUDA_VISIBLE_DEVICES": "{UUID}"' in seen
    assert '"CUDA_DEVICE_ORDER": "PCI_BUS_ID"' in seen
    assert "SLACK_TOKEN" not in seen


def test_a_gpu_that_somebody_uses_is_not_tested(tmp_path):
    """A stranger, a process of ours, a run that has it, one that does not answer: not run, and the program not started."""
    started = tmp_path / "started"
    python = program(tmp_path, f"touch {started}")
    stranger, ours = FakeEyes(), FakeEyes()
    stranger.others[UUID], ours.ours[UUID] = (ALICE,), (77,)
    holding = world(run(phase=Phase.RUNNING), gpus=(quarantined(),))
    for eyes, there, words in (
        (stranger, None, "pid 4242 of alice"),
        (ours, None, "pid 77"),
        (FakeEyes(), holding, "GPU 3 is given to truck"),
        (FakeEyes(None), None, "GPU 3 does not answer"),
    ):
        event = only(examiner(eyes=eyes, there=there)(order(python)))
        assert (event.ok, event.ran) == (False, False)
        assert words in event.text
    assert not started.exists()


def test_a_pending_reset_is_no_reason_not_to_test(tmp_path):
    """The test shows whether it was done."""
    python = program(tmp_path, """echo '{"ok": true, "ran": true, "text": "fine"}'""")
    assert only(examiner(eyes=FakeEyes(reading(recovery_action=1)))(order(python))).ok
