"""Comparing the first epoch after a resume with those before, from the files that attempts leave."""

from __future__ import annotations

import json
import os

import pytest

from supervisor import curve_files, layout
from supervisor.core.actions import Compare
from supervisor.core.job import Stage
from supervisor.core.model import Job
from supervisor.effects.compare import Comparer
from supervisor.errors import RetryableError

NOW = 1_800_000_000.0


class Folder:
    """A run directory, written as shim, runner and trainer would."""

    def __init__(self, root, **job):
        """Below `root`."""
        self.runs_dir = root
        train = {"model": "m", "data": "d", "epochs": 50, "close_mosaic": 0}
        self.job = Job(**{"name": "truck", "revision": "aa", "train": train, **job})
        self.paths = layout.run_directory(root, self.job.project, self.job.name)

    def attempt(self, number, *beats, after=0, run="truck@1", **end):
        """One attempt: its start record, its beats, and how it ended."""
        folder = self.paths.attempt(number)
        folder.root.mkdir(parents=True)
        folder.launch.write_text(json.dumps({"run": run, "env": {"KEY": "secret"}, "version": 1}))
        start = {"kind": "resumed", "from_epoch": after - 1} if after else {"kind": "fresh"}
        self.append(number, {"kind": "start", "at": NOW}, {**start, "at": NOW}, *beats)
        if end:
            record = {"code": None, "signal": None, "ended_at": NOW, "started_at": NOW, **end}
            folder.exit.write_text(json.dumps(record))
        return self

    def append(self, number, *beats):
        """More beats of an attempt."""
        with self.paths.attempt(number).beats.open("a") as file:
            file.writelines(json.dumps({"v": 1, "at": NOW, **beat}) + "\n" for beat in beats)

    def table(self, *rows, header="epoch,train/box_loss,metrics/mAP50-95(B),lr/pg0"):
        """The trainer's results.csv."""
        self.paths.train.mkdir(parents=True, exist_ok=True)
        self.paths.results.write_text("\n".join([header, *rows]) + "\n")
        os.utime(self.paths.results, (NOW + 1, NOW + 1))

    def compare(self, attempt=2, after=3):
        """What the effect answers."""
        action = Compare(key="k", run="truck@1", attempt=attempt, job=self.job, from_epoch=after)
        [event] = Comparer(self.runs_dir, lambda: NOW + 1)(action)
        assert (event.run, event.attempt, event.origin) == ("truck@1", attempt, "compare")
        return event


def epoch(number, loss=None, lr=0.01, **fields):
    """The record of an epoch, counted from 1."""
    loss = 2.0 - 0.02 * number if loss is None else loss
    beat = {"kind": "epoch", "epoch": number - 1, "epochs": 50, "losses": {"box_loss": loss}, "lr": {"pg0": lr}}
    return {**beat, "updates": 100 * number, "metrics": {"metrics/mAP50-95(B)": 0.01 * number}, **fields}


@pytest.fixture
def run(tmp_path):
    """A run whose first attempt trained three epochs and was killed."""
    killed = {"signal": 9, "signal_name": "SIGKILL"}
    return Folder(tmp_path).attempt(1, epoch(1), epoch(2), epoch(3), {"kind": "saved", "epoch": 2}, **killed)


def test_a_smooth_resume_is_continuous(run):
    """The next epoch fits those before: no finding."""
    event = run.attempt(2, epoch(4), after=3).compare()
    assert event.continuous
    assert event.findings == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.1}, "the learning rate went from 0.01 to 0.1 at epoch 4: the schedule began anew"),
        ({"loss": 6.0}, "box_loss went from 1.94 to 6 at epoch 4"),
        ({"loss": float("nan")}, "box_loss is not a number at epoch 4; it was 1.94"),
        ({"updates": 90}, "the count of EMA updates went from 300 to 90 at epoch 4: it began anew"),
    ],
)
def test_jumps_are_found_in_the_records(run, change, words):
    """Learning rate, losses and EMA count are read from the heartbeats of both attempts."""
    beat = epoch(4, **change)
    beat["losses"] = {name: None if value != value else value for name, value in beat["losses"].items()}  # noqa: PLR0124
    event = run.attempt(2, beat, after=3).compare()
    assert not event.continuous
    assert event.findings[0].startswith(words)


def test_the_record_of_the_epoch_is_waited_for(run):
    """Saved, but not yet reported: looked at again in a moment; an attempt that was killed there is judged as it is."""
    run.attempt(2, {"kind": "saved", "epoch": 3}, after=3)
    lock = os.open(run.paths.attempt(2).lock, os.O_CREAT | os.O_RDWR)
    import fcntl

    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(RetryableError):
        run.compare()
    run.append(2, epoch(4))
    assert run.compare().findings == ()
    os.close(lock)


def test_an_attempt_that_was_killed_before_its_record_is_judged_by_the_table(run):
    """The trainer's table has the epoch although nothing reported it: losses and rates are compared from there."""
    run.attempt(2, {"kind": "saved", "epoch": 3}, after=3, signal=9, signal_name="SIGKILL")
    run.table("1,1.98,0.01,0.01", "2,1.96,0.02,0.01", "3,1.94,0.03,0.01", "4,9.0,0.04,0.01")
    assert run.compare().findings[0].startswith("box_loss went from 1.94 to 9")


def test_a_trainer_that_reports_nothing_is_compared_by_its_table(tmp_path):
    """YOLOv5 counts from 0 and appends without cutting: the last row of an epoch counts."""
    run = Folder(tmp_path, train=None, command=("/usr/bin/python", "/v5/train.py"), family="yolov5")
    for number in (1, 2):
        run.paths.attempt(number).root.mkdir(parents=True)
    header = "epoch,      train/box_loss,metrics/mAP_0.5:0.95,  x/lr0"
    rows = [
        f"{e}, {loss}, 0.1, {lr}" for e, loss, lr in ((0, 0.12, 0.07), (1, 0.11, 0.04), (2, 0.10, 0.01), (3, 0.1, 0.01))
    ]
    run.table(*rows, header=header)
    assert run.compare().findings == ()
    run.table(*rows, "3, 0.1, 0.5", header=header)
    assert run.compare().findings == ()  # a line that is still being written
    run.table(*rows, "3, 0.35, 0.1, 0.07", header=header)
    jumps = run.compare().findings
    assert jumps[0] == "the learning rate went from 0.01 to 0.07 at epoch 4: the schedule began anew"
    assert jumps[1].startswith("box_loss went from 0.1 to 0.35")


def test_without_any_record_nothing_is_claimed(run):
    """Nothing to compare is said as such, and is no jump."""
    event = run.attempt(2, after=3, code=1).compare()
    assert event.continuous
    assert event.findings == ("there is no record of an epoch after the resume to compare",)


def test_an_epoch_of_before_that_was_lost_is_no_yardstick(run):
    """After a fall-back to epoch 2 the lost epoch 3 counts neither as history nor as repetition."""
    assert run.attempt(2, epoch(3), epoch(4), after=2).compare(after=2).findings == ()


def test_later_attempts_do_not_matter(run):
    """An answer that comes late judges the attempt that it was asked about."""
    run.attempt(2, epoch(4, lr=0.1), after=3, code=1).attempt(3, epoch(4), after=3)
    assert not run.compare(attempt=2).continuous


def test_a_stage_may_move_the_losses(tmp_path):
    """At the epoch of a planned change a loss may rise by more than the run's noise."""
    stages = (Stage(from_epoch=7, args={"imgsz": 96}),)
    for job, expected in (({}, False), ({"stages": stages}, True)):
        run = Folder(tmp_path / str(expected), **job).attempt(1, *map(epoch, range(1, 7)), code=75)
        run.attempt(2, epoch(7, loss=3.0), after=6)
        assert run.compare(after=6).continuous is expected


# ---- reading curves
def test_the_curve_of_a_run_directory(run):
    """Points of all attempts by epoch, the restart with its reason; launch.json gives the run and nothing else."""
    run.attempt(2, epoch(4), after=3)
    curve = curve_files.read_curve(run.job, run.paths)
    assert [(point.epoch, point.attempt) for point in curve.points] == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert curve.restarts[0].reason == "killed by SIGKILL, resumed after epoch 3"
    assert (curve.points[3].rates, curve.points[3].updates, curve.points[3].epochs) == ({"pg0": 0.01}, 400, 50)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"signal": 9, "signal_name": "SIGKILL"}, "killed by SIGKILL"),
        ({"signal": 64}, "killed by signal 64"),
        ({"code": 1}, "exit code 1"),
        ({"code": 127, "launch_error": "[Errno 2]"}, "could not be started"),
        ({}, "lost with its machine"),
    ],
)
def test_how_an_attempt_ended(tmp_path, end, words):
    """In a few words, from exit.json; without one and without a shim it went down with its machine."""
    run = Folder(tmp_path).attempt(1, epoch(1), **end).attempt(2, epoch(2), after=1)
    assert curve_files.read_curve(run.job, run.paths).restarts[0].ending == words


def test_a_stop_by_the_runner_is_called_that(tmp_path):
    """Exit code 75 of our runner is a stop; the same code of any other program is a code."""
    ours = Folder(tmp_path / "a").attempt(1, epoch(1), {"kind": "end", "result": "stopped"}, code=75)
    others = Folder(tmp_path / "b").attempt(1, epoch(1), code=75)
    endings = [curve_files.read_traces(run.paths)[0].ending for run in (ours, others)]
    assert endings == ["stopped", "exit code 75"]


def test_an_end_that_was_ordered_is_called_by_the_order(tmp_path):
    """Killed or stopped by the runner for a person; what ended otherwise keeps its own words."""
    run = Folder(tmp_path).attempt(1, epoch(1), signal=9, signal_name="SIGKILL").attempt(2, epoch(2), after=1, code=1)
    run.attempt(3, epoch(2), {"kind": "end", "result": "stopped"}, after=1, code=75)
    traces = curve_files.read_traces(run.paths, (), dict.fromkeys((1, 2, 3), "stopped by ann"))
    assert [trace.ending for trace in traces] == ["stopped by ann", "exit code 1", "stopped by ann"]


def test_an_attempt_without_a_launch_was_never_launched(run):
    """Its folder was made, and no start was found."""
    run.paths.attempt(2).root.mkdir()
    assert [trace.launched for trace in curve_files.read_traces(run.paths)] == [True, False]


def test_what_a_job_writes_cannot_harm_the_reader(run):
    """Cut lines, foreign bytes, endless nesting and very many names: skipped or shortened, never an error."""
    path = run.paths.attempt(1).beats
    with path.open("ab") as file:
        file.write(b'{"kind":"epoch","at":1,"epoch":\n\xff\xfe"kind":"epoch"\n')
        file.write(b'{"kind":"epoch","x":')
        file.write(b"[" * 50_000 + b"\n")
        file.write(b"x" * 300_000 + b"\n")
    run.append(1, epoch(4, losses={f"loss{number}": 1.0 for number in range(1000)}))
    with path.open("ab") as file:
        file.write(b'{"kind":"epoch","at":1,"epoch":9}')  # without its end: still being written
    points = curve_files.read_curve(run.job, run.paths).points
    assert [point.epoch for point in points] == [1, 2, 3, 4]
    assert len(points[3].losses) <= 64 + 1


def test_batches_are_skipped_and_chunks_fit_together(run):
    """Epochs are found among a million bytes of batch records, wherever a chunk ends."""
    batch = {"kind": "batch", "epoch": 3, "epochs": 50, "batch": 1, "batches": 9, "losses": {"box_loss": 1.0}}
    for number in range(4, 24):
        run.append(1, *[batch] * 400, epoch(number))
    assert run.paths.attempt(1).beats.stat().st_size > 2 * curve_files.CHUNK_BYTES
    assert [point.epoch for point in curve_files.read_curve(run.job, run.paths).points] == list(range(1, 24))
    run.append(1, *map(epoch, range(24, 4000)))  # a file that grew is read anew
    assert [point.epoch for point in curve_files.read_curve(run.job, run.paths).points] == list(range(1, 4000))


def test_the_journal_tells_where_a_silent_trainer_began(tmp_path):
    """For trainers that report nothing the restarts come from the history of the run."""
    run = Folder(tmp_path, train=None, command=("/usr/bin/python", "/v5/train.py"), family="yolov5")
    for number in (1, 2):
        run.paths.attempt(number).root.mkdir(parents=True)
    run.table(*[f"{number},0.1,0.1,0.01" for number in range(5)])
    known = [
        {"number": 1, "start": "fresh", "pid": 5, "started_at": NOW - 60},
        {"number": 2, "start": "resume", "from_epoch": 3, "pid": 6, "started_at": NOW},
    ]
    curve = curve_files.read_curve(run.job, run.paths, known)
    assert [(point.epoch, point.attempt) for point in curve.points] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert [(mark.attempt, mark.epoch) for mark in curve.restarts] == [(2, 3)]


def test_a_run_that_has_not_begun_has_no_points(tmp_path):
    """No directory yet: an empty curve, no error."""
    run = Folder(tmp_path)
    assert curve_files.read_curve(run.job, run.paths).points == ()
