"""Stack dumps on request: one signal, every thread, nothing of the user's taken away."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
from runner_lab import REPOSITORY, hook_script, launch_hook, read_beats, start_hooked

from supervisor.runner import stacks

pytestmark = pytest.mark.e2e

STUCK = """
import os, signal, sys, threading
from supervisor.runner import stacks
{before}
print(stacks.arm(sys.argv[1], {rank}), flush=True)
def waiting_thread():
    sys.stdin.read()
threading.Thread(target=waiting_thread).start()
"""


def dumped(path: Path, wanted: str) -> str:
    """Return a file of stacks once it has this text."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and wanted in path.read_text():
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(path.read_text() if path.exists() else "no file")


def caught(pid: int, number: int) -> bool:
    """Say whether a process handles a signal, as the daemon looks."""
    mask = re.search(r"SigCgt:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("hooked", [False, True])
def test_a_signal_appends_the_stacks_of_a_training(lab, hooked):
    """The start beat names the signal, the process catches it, each request adds a dump, and the training goes on."""
    if hooked:
        launch_hook(lab)
        process = start_hooked(lab, lab.python, hook_script(lab, epochs=1000), FAKE_BATCH_S="0.05")
    else:
        lab.launch(args=lab.arguments(epochs=1000))
        process = lab.start(FAKE_BATCH_S="0.05")
    number = process.wait_for_beat(kind="start")["stacks_signal"]
    assert number == signal.SIGRTMIN + 6
    process.wait_for_beat(kind="batch")
    assert caught(process.popen.pid, number)
    process.popen.send_signal(number)
    text = dumped(lab.attempt_dir / "stacks", "_one_epoch")
    process.popen.send_signal(number)
    deadline = time.monotonic() + 20
    while (lab.attempt_dir / "stacks").read_text().count("_one_epoch") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (lab.attempt_dir / "stacks").read_text().startswith(text)
    assert (lab.attempt_dir / "stacks").read_text().count("_one_epoch") == 2
    assert lab.terminate(process) == 75


def test_every_rank_has_a_file_of_its_own(lab):
    """Rank 0 shares the launcher's, the others have theirs."""
    lab.launch()
    process = lab.start(lab.python, "-c", STUCK.format(rank=3, before=""), lab.attempt_dir, PYTHONPATH=str(REPOSITORY))
    assert process.wait() == 0
    assert (lab.attempt_dir / "stacks-3").exists()
    assert stacks.file_name(-1) == stacks.file_name(0) == "stacks"


def test_a_signal_that_somebody_handles_is_left_to_him(lab):
    """A user's handler stays, nothing is armed, and no file is made."""
    lab.launch()
    before = f"signal.signal({int(stacks.SIGNAL)}, lambda *_: print('mine', flush=True))"
    after = f"\nos.kill(os.getpid(), {int(stacks.SIGNAL)})\n"
    code = STUCK.format(rank=-1, before=before) + after
    process = lab.start(lab.python, "-c", code, lab.attempt_dir, PYTHONPATH=str(REPOSITORY))
    assert process.wait() == 0
    assert process.log().splitlines() == ["None", "mine"]
    assert not (lab.attempt_dir / "stacks").exists()


def test_a_folder_that_cannot_be_written_costs_the_stacks_only(lab):
    """Said once in the log and as a note; the training finishes."""
    lab.launch()
    (lab.attempt_dir / "stacks").mkdir()
    process = lab.start()
    assert process.wait() == 0
    assert process.log().count("no stack dumps") == 1
    beats = read_beats(process.beats_file)
    assert "stacks_signal" not in next(beat for beat in beats if beat["kind"] == "start")
    assert [beat["kind"] for beat in beats].count("note") == 1


LOOKED_AT = """
import os, sys
from supervisor.runner import stacks
def prctl(*arguments):
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()} {[getattr(word, 'value', word) for word in arguments]}\\n")
stacks.let_look(prctl)
stacks.let_look(prctl)
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print(os.getpid(), child, flush=True)
"""


def test_the_permission_to_look_is_given_again_after_a_fork(lab, tmp_path):
    """Under Yama only a parent may look into a process: the training and each dataloader worker allow it, once each."""
    lab.launch()
    told = tmp_path / "told"
    process = lab.start(lab.python, "-c", LOOKED_AT, told, PYTHONPATH=str(REPOSITORY))
    assert process.wait() == 0
    words = f"[{0x59616D61}, {2**64 - 1}, 0, 0, 0]"  # linux/prctl.h: PR_SET_PTRACER, (unsigned long)-1
    assert told.read_text().splitlines() == [f"{pid} {words}" for pid in process.log().split()]


@pytest.mark.parametrize("hooked", [False, True])
def test_an_abort_leaves_the_stacks_in_the_log(lab, hooked):
    """A training that took no notice of SIGTERM is aborted: it dies of that, and its log says where it was."""
    if hooked:
        launch_hook(lab)
        process = start_hooked(lab, lab.python, hook_script(lab, epochs=1000), FAKE_BATCH_S="0.05")
    else:
        lab.launch(args=lab.arguments(epochs=1000))
        process = lab.start(FAKE_BATCH_S="0.05")
    process.wait_for_beat(kind="batch")
    process.popen.send_signal(signal.SIGABRT)
    assert process.wait() == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in process.log()
    assert "_one_epoch" in process.log()


def test_a_crash_handler_of_the_user_stays(lab):
    """Who sends the stacks of a crash to a file of his own keeps them there."""
    lab.launch()
    code = (
        "import faulthandler, os, sys; from supervisor.runner import stacks\n"
        "faulthandler.enable(open('mine', 'w')); stacks.tell_of_crashes(); os.abort()\n"
    )
    process = lab.start(lab.python, "-c", code, PYTHONPATH=str(REPOSITORY))
    assert process.wait() == -signal.SIGABRT
    assert "Aborted" in (lab.run_dir / "mine").read_text()
    assert "Aborted" not in process.log()


TEE = """
class Tee:
    def __init__(self, stream):
        self.stream = stream
    def write(self, text):
        return self.stream.write(text)
    def flush(self):
        self.stream.flush()
"""


@pytest.mark.parametrize("stand_in", ["Tee(sys.stderr)", "io.StringIO()", "None"])
def test_a_stand_in_for_stderr_takes_nothing_away(lab, stand_in):
    """A script that tees its output is followed like any other, and an abort leaves its stacks in the log itself."""
    launch_hook(lab)
    script = hook_script(lab, epochs=1000)
    script.write_text(f"import io, sys\n{TEE}\nsys.stderr = {stand_in}\n{script.read_text()}")
    process = start_hooked(lab, lab.python, script, FAKE_BATCH_S="0.05")
    assert process.wait_for_beat(kind="start")["stacks_signal"] == stacks.SIGNAL
    process.wait_for_beat(kind="batch")
    process.popen.send_signal(signal.SIGABRT)
    assert process.wait() == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in process.log()


@pytest.mark.parametrize("step", ["let_look", "tell_of_crashes", "arm"])
def test_what_fails_of_the_stacks_costs_itself_only(lab, step):
    """Each of the three steps is tried for itself; what fails is said once, and the training is followed."""
    launch_hook(lab)
    script = hook_script(lab, epochs=1000)
    broken = f"from yolo_supervisor_runner import stacks\nstacks.{step} = lambda *_: {{}}['no such key']\n"
    script.write_text(broken + script.read_text())
    process = start_hooked(lab, lab.python, script, FAKE_BATCH_S="0.05")
    assert ("stacks_signal" in process.wait_for_beat(kind="start")) is (step != "arm")
    process.wait_for_beat(kind="batch")
    assert process.log().count("no such key") == 1
    assert lab.terminate(process) == 75
