"""The look at the GPUs before a start, with a stand-in for whoever watches them."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from supervisor.core.actions import Prepare
from supervisor.core.events import GpuFound, GpuHeld, GpuTested, Prepared, PrepareFailed
from supervisor.core.gpus.findings import KINDS
from supervisor.core.gpus.model import Finding
from supervisor.core.gpus.readings import ABSENT, LOST, RESET_REQUIRED, Failed
from supervisor.effects.gpu_gate import STUCK, Admission, GpuGate
from supervisor.effects.prepare import Preparer
from supervisor.errors import PermanentError

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_eyes import ALICE, GIB, OTHER, UUID, FakeEyes, gpu, reading, run, world


class Examiner:
    """A self-test that answers as a test says."""

    def __init__(self, **answer):
        self.answer = {"ok": True, "ran": True, "text": "0.9 s", **answer}
        self.tested = []

    def quick(self, uuid, python):
        """The answer, for each GPU."""
        self.tested.append((uuid, python))
        return GpuTested(at=5.0, gpu=uuid, **self.answer)


class Door:
    """A gate and what it waited."""

    def __init__(self, eyes, there, *, tester=None, limit_s=20.0):
        self.pauses = []
        self.there = there
        self.gate = GpuGate(
            eyes, lambda: self.there, Path("/nowhere"), lambda: 5.0, tester or Examiner(), limit_s=limit_s, pause=self.pauses.append
        )  # fmt: skip

    def ask(self, *, gpus=(UUID,), check=True, test=False):
        """What the gate says to the run of this world."""
        one = self.there.live["truck@1"]
        action = Prepare(
            key="k", run=one.id, attempt=2, token=7, job=one.job, scratch_allowed=True, gpu_ids=gpus, check_gpus=check, test_gpus=test
        )  # fmt: skip
        return self.gate(action)


def test_a_free_gpu_lets_its_run_in():
    """It answers, nothing is pending, nobody is on it: no reason, no event, no wait."""
    door = Door(FakeEyes(), world(run()))
    admission = door.ask()
    assert (admission.reason, admission.events, admission.notes, door.pauses) == ("", (), (), [])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "GPU 3 does not answer"),
        (reading(error=Failed(LOST, "GPU_IS_LOST")), "GPU 3 is lost"),
        (reading(error=Failed(RESET_REQUIRED)), "GPU 3 must be reset"),
        (reading(error=Failed(999, "UNKNOWN")), "GPU 3 cannot be read: UNKNOWN"),
        (reading(recovery_action=1), "GPU 3 must be reset, says the driver"),
        (reading(recovery_action=2), "GPU 3 needs a restart of the machine, says the driver"),
        (reading(recovery_action=99), "GPU 3 wants recovery action 99, says the driver"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_told_at_once(answer, reason):
    """In words, without a wait: that does not pass within seconds."""
    door = Door(FakeEyes(answer), world(run()))
    assert door.ask().reason == reason
    assert not door.pauses


def test_what_the_board_does_not_tell_hinders_nobody():
    """No recovery action, no memory figures, as on a GeForce with an old driver: let in."""
    silent = reading(recovery_action=ABSENT, memory_used_bytes=ABSENT, memory_total_bytes=Failed(3))
    assert not Door(FakeEyes(silent), world(run())).ask().reason


def test_a_stranger_is_named_and_respected():
    """Whose process holds how much; the core learns who it is before it gives GPUs out again."""
    eyes = FakeEyes(reading(used=18 * GIB))
    eyes.others[UUID] = (ALICE,)
    admission = Door(eyes, world(run())).ask()
    assert admission.reason == "GPU 3: pid 4242 of alice holds 18 GiB"
    assert admission.busy == {UUID: "pid 4242 of alice holds 18 GiB"}
    assert admission.events == (GpuHeld(at=5.0, origin="gate", gpu=UUID, holders=(ALICE,)),)


def test_a_stranger_may_be_ignored():
    """With foreign = "ignore" what is left of the memory decides."""
    eyes = FakeEyes(reading(used=18 * GIB))
    eyes.others[UUID] = (ALICE,)
    assert not Door(eyes, world(run(), foreign="ignore")).ask().reason
    assert (
        "has 30GiB of memory free, not 40GiB"
        in Door(eyes, world(run(memory=40 * GIB), foreign="ignore"), limit_s=0).ask().reason
    )


def test_memory_that_is_being_given_back_is_waited_for():
    """The process is gone from the list, its memory not yet: the driver needs seconds."""
    door = Door(FakeEyes(reading(used=30 * GIB), reading(used=30 * GIB), reading(used=GIB // 2)), world(run()))
    assert not door.ask().reason
    assert door.pauses == [1.0, 1.0]


def test_memory_that_no_process_holds_becomes_a_finding():
    """With less than half of it left the run waits, and people are told of lost memory; the core knows that kind."""
    admission = Door(FakeEyes(reading(used=30 * GIB)), world(run()), limit_s=0).ask()
    words = "30GiB of its memory is in use, but no process is listed that has it"
    assert admission.reason == f"GPU 3 has 18GiB of memory free, not 24GiB; {words}"
    (found,) = admission.events
    assert (found.gpu, found.finding, found.source, found.open) == (UUID, STUCK, "gate", True)
    assert found.values == {"bytes": 30.0 * GIB}
    assert not KINDS[STUCK].blocks, "one that blocks would never be looked at again, and never end"


@pytest.mark.parametrize(("used", "memory"), [(20, 0), (30, 18)])
def test_lost_memory_that_leaves_enough_is_a_note(used, memory):
    """Half of the GPU is free, or what the job wants: it starts, and both it and the GPU tell of it."""
    admission = Door(FakeEyes(reading(used=used * GIB)), world(run(memory=memory * GIB)), limit_s=0).ask()
    assert admission.reason == ""
    assert admission.notes == (f"GPU 3: {used}GiB of its memory is in use, but no process is listed that has it",)
    assert [(one.finding, one.open, one.values) for one in admission.events] == [
        (STUCK, True, {"bytes": used * 2.0**30})
    ]


def test_a_desktop_keeps_nobody_out():
    """What only draws is no stranger who holds a GPU: its memory is explained, and what is left of it decides."""
    eyes = FakeEyes(reading(used=6 * GIB))
    eyes.drawing[UUID] = ((900, 5 * GIB), (901, GIB // 2))
    admission = Door(eyes, world(run()), limit_s=0).ask()
    assert (admission.reason, admission.notes, admission.events) == ("", (), ())
    assert (
        Door(eyes, world(run(memory=43 * GIB)), limit_s=0).ask().reason == "GPU 3 has 42GiB of memory free, not 43GiB"
    )
    eyes.drawing[UUID] = ((900, None),)
    assert not Door(eyes, world(run()), limit_s=0).ask().notes


def test_memory_of_a_process_whose_size_is_not_told_is_not_lost():
    """In some containers the driver names the process but not its memory: nothing is missing then."""
    eyes = FakeEyes(reading(used=30 * GIB))
    eyes.others[UUID] = (msgspec.structs.replace(ALICE, used_bytes=None),)
    assert not Door(eyes, world(run(), foreign="ignore"), limit_s=0).ask().reason


def test_what_the_driver_keeps_for_itself_is_no_lost_memory():
    """A few hundred MiB without a process are normal."""
    assert not Door(FakeEyes(reading(used=600 * 1024**2)), world(run()), limit_s=0).ask().reason


def test_a_finding_of_lost_memory_ends_with_the_memory():
    """The next look that finds it free says so."""
    stuck = gpu(findings={f"{STUCK}/gate": Finding(kind=STUCK, source="gate", text="", since=1.0)})
    (over,) = Door(FakeEyes(), world(run(), gpus=(stuck,))).ask().events
    assert (type(over), over.finding, over.source, over.open) == (GpuFound, STUCK, "gate", False)


def test_too_little_free_memory_is_waited_for_and_told():
    """The job's gpu.memory must be free, not only be there."""
    door = Door(FakeEyes(reading(used=GIB // 2, total=20 * GIB)), world(run(memory=20 * GIB)), limit_s=0)
    assert door.ask().reason == "GPU 3 has 19.5GiB of memory free, not 20GiB"


def test_every_gpu_of_the_attempt_is_looked_at():
    """One look for all; each that is in the way is named by its own label."""
    eyes = FakeEyes({UUID: reading(), OTHER: None})
    assert Door(eyes, world(run())).ask(gpus=(UUID, OTHER)).reason == "GPU 11 does not answer"
    assert eyes.looks == 1


def test_one_gpu_that_will_not_come_back_ends_the_wait_for_another():
    """Memory that is being given back on one, no answer from the other: told at once, both."""
    eyes = FakeEyes({UUID: reading(used=30 * GIB), OTHER: None})
    door = Door(eyes, world(run()))
    reason = door.ask(gpus=(UUID, OTHER)).reason
    assert reason.startswith("GPU 3 has 18GiB of memory free")
    assert reason.endswith("; GPU 11 does not answer")
    assert not door.pauses


def test_the_core_is_told_which_gpus_are_in_the_way():
    """By UUID, each with its own words: no text has to be searched for labels."""
    eyes = FakeEyes({UUID: reading(used=30 * GIB), OTHER: None})
    busy = Door(eyes, world(run())).ask(gpus=(UUID, OTHER)).busy
    assert busy.keys() == {UUID, OTHER}
    assert busy[UUID].startswith("has 18GiB of memory free")
    assert busy[OTHER] == "does not answer"
    assert Door(FakeEyes(), world(run())).ask().busy == {}


def test_persistence_mode_off_is_noted_once():
    """Once in the daemon's life for each GPU, not with every attempt."""
    door = Door(FakeEyes(reading(persistence=0)), world(run()))
    assert "persistence mode is off" in door.ask().notes[0]
    assert door.ask().notes == ()


def test_what_was_not_ordered_is_not_looked_at():
    """Without check_gpus nobody is asked; nobody to ask is no hindrance."""
    eyes = FakeEyes(None)
    assert not Door(eyes, world(run())).ask(check=False).reason
    assert eyes.looks == 0
    assert not Door(None, world(run())).ask().reason


# ---- the self-test
def test_each_gpu_is_tested_in_the_jobs_interpreter():
    """A passed one is a note."""
    tester = Examiner()
    there = world(run(python="/env/bin/python"))
    admission = Door(FakeEyes({UUID: reading(), OTHER: reading(OTHER)}), there, tester=tester).ask(
        gpus=(UUID, OTHER), test=True
    )
    assert tester.tested == [(UUID, "/env/bin/python"), (OTHER, "/env/bin/python")]
    assert admission.notes == ("GPU 3 passed its self-test: 0.9 s", "GPU 11 passed its self-test: 0.9 s")


def test_a_failed_self_test_keeps_the_run_out_and_is_reported():
    """The core gets the result before the refusal: it takes that GPU out."""
    tester = Examiner(ok=False, text="3 words of memory changed")
    admission = Door(FakeEyes(), world(run()), tester=tester).ask(test=True)
    assert admission.reason == "GPU 3 failed its self-test: 3 words of memory changed"
    assert admission.busy == {UUID: "failed its self-test: 3 words of memory changed"}
    assert [type(event) for event in admission.events] == [GpuTested]


def test_a_test_that_cannot_be_made_keeps_nobody_from_training():
    """An interpreter without torch, such as that of a command: a note."""
    admission = Door(FakeEyes(), world(run()), tester=Examiner(ok=False, ran=False, text="no torch")).ask(test=True)
    assert (admission.reason, admission.notes) == ("", ("GPU 3 could not be tested: no torch",))


def test_a_gpu_that_is_not_free_is_not_tested():
    """A test beside somebody's training would disturb it."""
    tester = Examiner()
    assert Door(FakeEyes(None), world(run()), tester=tester).ask(test=True).reason
    assert not tester.tested


# ---- in the preparation
def prepared(tmp_path, eyes, **more):
    """Prepare a fresh run behind a gate: the events, and the run directory."""
    there = world(run())
    preparer = Preparer(tmp_path / "runs", 0, lambda _revision: b"# job\n", lambda: 9.0, gate=Door(eyes, there).gate)
    job = msgspec.structs.replace(there.live["truck@1"].job, train={"epochs": 8})
    action = Prepare(key="k", run="truck@1", attempt=1, token=7, job=job, scratch_allowed=True, gpu_ids=(UUID,), **more)
    return preparer(action), tmp_path / "runs" / "p" / "truck"


def test_a_run_whose_gpu_is_taken_waits_for_it_by_name(tmp_path):
    """PrepareFailed comes last, is the answer, and says what is waited for; nothing of the run was touched."""
    eyes = FakeEyes(reading(used=18 * GIB))
    eyes.others[UUID] = (ALICE,)
    (held, failed), folder = prepared(tmp_path, eyes, check_gpus=True)
    assert (type(held), type(failed)) == (GpuHeld, PrepareFailed)
    assert failed.waiting_for == "GPU: GPU 3: pid 4242 of alice holds 18 GiB"
    assert failed.busy == {UUID: "pid 4242 of alice holds 18 GiB"}
    assert (failed.run, failed.attempt, failed.cause) == ("truck@1", 1, "")
    assert not folder.exists()


def test_a_slow_test_of_gpus_holds_up_no_other_run(tmp_path):
    """While one run's GPUs are looked at another one is prepared, also one with GPUs of its own."""
    there = world(run(), run("car"))
    others = []

    def gate(action):
        if action.run == "truck@1":
            others.extend(preparer(order("car")))
        return Admission(notes=(action.run,))

    def order(name):
        job = msgspec.structs.replace(there.live[f"{name}@1"].job, train={"epochs": 8})
        return Prepare(key=name, run=f"{name}@1", attempt=1, token=7, job=job, scratch_allowed=True, gpu_ids=(UUID,), check_gpus=True)  # fmt: skip

    preparer = Preparer(tmp_path / "runs", 0, lambda _revision: b"# job\n", lambda: 9.0, gate=gate)
    (mine,) = preparer(order("truck"))
    (other,) = others
    assert (mine.run, mine.notes, other.run, other.notes) == ("truck@1", ("truck@1",), "car@1", ("car@1",))


def test_a_run_that_was_stopped_at_the_gate_is_not_prepared(tmp_path):
    """Minutes may pass there: its directory is not touched when nobody waits any more."""
    there, asked = world(run()), []
    preparer = Preparer(
        tmp_path / "runs", 0, lambda _revision: b"", lambda: 9.0, lambda _: not asked, gate=lambda one: asked.append(one) or Admission()
    )  # fmt: skip
    action = Prepare(key="k", run="truck@1", attempt=1, token=7, job=there.live["truck@1"].job, scratch_allowed=True, check_gpus=True)  # fmt: skip
    with pytest.raises(PermanentError, match="no longer waits"):
        preparer(action)
    assert not (tmp_path / "runs").exists()


def test_what_the_gate_notes_stands_with_the_start(tmp_path):
    """Prepared carries the notes; without an order to look, nobody is asked."""
    (event,), _ = prepared(tmp_path, FakeEyes(reading(persistence=0)), check_gpus=True)
    assert isinstance(event, Prepared)
    assert any("persistence mode" in note for note in event.notes)
    eyes = FakeEyes(None)
    (event,), _ = prepared(tmp_path / "2", eyes)
    assert (type(event), eyes.looks) == (Prepared, 0)
