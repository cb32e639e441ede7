"""What an attempt spent its time on, from the records that real trainings wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor.attempt_files import Beat
from supervisor.core.actions import Examine
from supervisor.core.attempt_seconds import Stopwatch, seconds_of
from supervisor.core.diagnosis.evidence import Evidence
from supervisor.core.model import Attempt, Job
from supervisor.effects import evidence
from supervisor.effects.examine import Examiner, read_beats
from supervisor.layout import run_directory
from supervisor.sources import beats as following
from tests.unit.test_train_log import Room

RECORDED = Path(__file__).resolve().parents[1] / "data" / "beats"


def of(name, started_at=None, until_at=0.0):
    """The seconds of a recorded attempt, as the examination of its end reads them."""
    return seconds_of(read_beats(RECORDED / name), started_at, until_at)


def beats(*phases, step_s=10.0):
    """Beats that enter these phases one after another; `saved` is a save."""
    for count, phase in enumerate(phases):
        kind = "saved" if phase == "saved" else "phase"
        yield Beat(kind=kind, at=1000.0 + count * step_s, phase=None if kind == "saved" else phase)


def test_a_killed_training():
    """Ultralytics 8.4, killed in its third epoch: each second until its last movement is in one class."""
    found = of("attempt-1.jsonl", 1795350668.389, 1795350676.908)
    assert found["start_up"] == pytest.approx(2.071)
    assert found["validation"] == pytest.approx(0.139 + 0.188, abs=0.001)
    assert found["unsaved"] == pytest.approx(1795350676.908 - 1795350675.313, abs=0.001)
    assert found["unsaved_validation"] == 0.0
    whole = sum(found[name] for name in ("start_up", "training", "validation", "save"))
    assert whole == pytest.approx(1795350676.908 - 1795350668.389, abs=0.003)


def test_a_finished_training():
    """Its last validation counts as validation; all epochs were saved before that."""
    found = of("attempt-2.jsonl")
    assert found["unsaved"] == found["unsaved_validation"] == pytest.approx(0.353, abs=0.001)
    assert found["validation"] == pytest.approx(1.155 + 0.353, abs=0.001)


def test_the_end_of_an_attempt_comes_with_its_seconds(tmp_path, monkeypatch):
    """The examination tells them, from the start of the process until the attempt last moved."""
    monkeypatch.setattr(evidence, "gather", lambda *_arguments: Evidence())
    attempt = run_directory(tmp_path, "p", "truck").attempt(1)
    attempt.root.mkdir(parents=True)
    attempt.log.write_text("fine\n")
    attempt.beats.write_bytes((RECORDED / "attempt-1.jsonl").read_bytes())
    names = ("shim_pid", "shim_start_time", "pid", "start_time", "pid1_start_time")
    started = {**dict.fromkeys(names, 1), "boot_id": "b", "started_at": 1795350668.389}
    attempt.started.write_text(json.dumps(started))
    attempt.exit.write_text(json.dumps({"code": None, "signal": 9, "ended_at": 1795350676.999, "started_at": 1.0}))
    job = Job(name="truck", project="p", revision="r", train={"epochs": 8})
    (event,) = Examiner(tmp_path, lambda: 1795350677.0)(Examine(key="k", run="truck@1", attempt=1, job=job, signal=9))
    assert event.seconds == of("attempt-1.jsonl", 1795350668.389, event.moved_at)
    assert event.seconds["unsaved"] > 1.5


def test_what_hung_worked_until_it_last_moved(tmp_path, monkeypatch):
    """What it wrote when it was ended counts neither as work nor as movement, nor do the stacks that we asked for."""
    monkeypatch.setattr(evidence, "gather", lambda *_arguments: Evidence())
    attempt = run_directory(tmp_path, "p", "truck").attempt(1)
    attempt.root.mkdir(parents=True)
    attempt.log.write_text(
        '2/9 50%\nFatal Python error: Aborted\n\nThread 0x01 (most recent call first):\n  File "x", line 1\n'
    )
    told = [("phase", "train", 100.0), ("saved", "", 160.0), ("phase", "val", 170.0), ("phase", "end", 900.0)]
    rows = [{"kind": kind, "at": at, "epoch": 0, **({"phase": phase} if phase else {})} for kind, phase, at in told]
    attempt.beats.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, {"kind": "end", "at": 905.0}]))
    attempt.exit.write_text(json.dumps({"code": None, "signal": 6, "ended_at": 906.0, "started_at": 1.0}))
    job = Job(name="truck", project="p", revision="r", train={"epochs": 8})
    order = Examine(key="k", run="truck@1", attempt=1, job=job, signal=6, moved_at=172.0)
    (event,) = Examiner(tmp_path, lambda: 907.0)(order)
    assert (event.moved_at, event.seconds["unsaved"], event.log_tail) == (172.0, 12.0, ("2/9 50%",))
    (other,) = Examiner(tmp_path, lambda: 907.0)(replace(order, moved_at=0.0))
    assert other.seconds["unsaved"] > 700.0
    assert "Fatal Python error: Aborted" in other.log_tail


def test_no_beats_tell_nothing():
    """An attempt that never said what it does has no seconds, which is not the same as none of each kind."""
    assert seconds_of([], 1.0, 2.0) == {}
    assert seconds_of([Beat(kind="note", at=5.0, text="no stack dumps")], 1.0, 9.0) == {}


def test_before_its_first_epoch_an_attempt_is_in_its_start_up():
    """Imports, set-up and the scan of labels are start-up, from the start of the process to the last sign of life."""
    assert seconds_of(beats("import", "setup", "scan"), 990.0, 1025.0) == {"start_up": 35.0}


def test_a_second_setup_is_no_start_up():
    """What a program sets up anew after it has trained is training."""
    found = seconds_of(beats("setup", "train", "setup", "scan", "train"), 1000.0, 1050.0)
    assert found["start_up"] == 10.0
    assert found["training"] == 40.0


def test_only_the_ending_is_repeated():
    """An attempt that has nothing left to train validates."""
    found = seconds_of(beats("import", "end"), 1000.0, 1015.0)
    assert (found["start_up"], found["training"], found["validation"]) == (10.0, 0.0, 5.0)


def test_a_clock_that_was_set_back_adds_nothing():
    """No class loses time, and the time after counts again."""
    stopwatch = Stopwatch(1000.0)
    for at, phase in ((1010.0, "train"), (500.0, "val"), (505.0, "train")):
        stopwatch.take(Beat(kind="phase", at=at, phase=phase))
    found = stopwatch.seconds()
    assert (found["start_up"], found["training"], found["validation"]) == (10.0, 0.0, 5.0)


def test_a_daemon_that_comes_back_knows_the_same(tmp_path, monkeypatch):
    """A follower that skips the middle of a long file adds up the same as one that read every line, wherever it cuts."""
    expected = of("attempt-2.jsonl", 1795350677.209)
    room = Room(tmp_path)
    room.attempt.beats.write_bytes((RECORDED / "attempt-2.jsonl").read_bytes())
    for head, window in ((1 << 16, 1 << 20), *((1500, 700 + 29 * step) for step in range(200))):
        monkeypatch.setattr(following, "HEAD_BYTES", head)
        monkeypatch.setattr(following, "WINDOW_BYTES", window)
        room.restart(attempt=Attempt(number=1, token=1, started_at=1795350677.209))
        [told] = [event for event in room.poll() if type(event).__name__ == "Progressed"]
        assert room.live.seconds == told.seconds == expected, window


def test_time_is_told_with_the_first_report_and_with_each_save(room):
    """The journal gets the sums where they count; the reports in between do not repeat them."""
    for kind, phase in (("start", "import"), ("phase", "setup"), ("fresh", None), ("phase", "train")):
        room.beat(kind, phase=phase, save_dir="/x", epochs=5)
        room.clock.time += 10
    room.beat("batch", epoch=0, epochs=5, batch=1, batches=9)
    first = room.poll()[-1]
    assert first.seconds["start_up"] == 30.0
    room.beat("batch", epoch=0, epochs=5, batch=5, batches=9)
    assert room.poll(20.0)[-1].seconds == {}
    room.beat("saved", epoch=0, path="/x/last.pt", best=True)
    saved = room.poll(10.0)[-1]
    assert saved.seconds["unsaved"] == 0.0
    assert saved.seconds["training"] == pytest.approx(30.25, abs=1)


def test_a_trainer_without_beats_has_no_seconds(tmp_path):
    """A command that never loads the hook is told without sums of time."""
    room = Room(tmp_path, command=("train",))
    room.log(b"      1/5      0G      1.0      2.0      3.0      8    640:  50%|#####     | 5/10\r")
    room.beat("note", text="no stack dumps")
    told = room.poll()
    assert told
    assert all(event.seconds == {} for event in told)


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)
