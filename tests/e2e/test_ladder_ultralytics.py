"""Real trainings that go on with changed arguments: each rung is really used, and really taken back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hook_lab import PYTHON, RealLabs, needed, real_labs
from runner_lab import Lab, read_beats
from test_hook_trainings import OTHERS

from supervisor.core.actions import Prepare
from supervisor.core.events import Prepared
from supervisor.core.model import Job
from supervisor.effects import start_point
from supervisor.layout import run_directory
from supervisor.runner.checkpoint import inspect

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("hook-trainings")]

DRIVER = Path(__file__).resolve().with_name("ladder_driver.py")
STOPPED = 75
ASKED = {"epochs": 4, "batch": 16, "imgsz": 64, "workers": 2, "cache": "ram"}
CHANGED = {"batch": 8, "imgsz": 32, "workers": 1, "cache": False, "freeze": 3}
BACK = {"batch": 16, "imgsz": 64, "workers": 2, "cache": "ram", "freeze": None}


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLabs]:
    """Give a maker of run directories."""
    yield from real_labs(tmp_path_factory)


def train_epoch(lab: Lab, number: int, changes: dict[str, object], *, old: bool) -> tuple[dict[str, object], list[str]]:
    """Train the epoch of that number (from 0) and leave; what was really used, and what our runner noted."""
    plan = {"resume": str(lab.last), "expected_epoch": number - 1} if number else {}
    given = {name: value for name, value in ASKED.items() if number == 0 or name not in {"workers", "cache"}}
    lab.launch(args={**lab.arguments(**given), **changes}, stop_after=number, changes=changes, **plan)
    process = lab.start(PYTHON, DRIVER, *(["old"] if old else []), lab.attempt_dir)
    assert process.wait(120) == STOPPED, process.log()
    told = json.loads(re.findall(r"^LADDER (.*)$", process.log(), re.MULTILINE)[-1])
    asked_workers = re.search(r"^workers: (\d+)$", (lab.save_dir / "args.yaml").read_text(), re.MULTILINE)
    assert asked_workers
    notes = [str(beat["text"]) for beat in read_beats(process.beats_file) if beat["kind"] == "note"]
    return {**told, "workers": int(asked_workers[1])}, notes


def climb_and_come_back(lab: Lab, *, old: bool) -> None:
    """Train as asked, with every rung taken, and as asked again."""
    first, _ = train_epoch(lab, 0, {}, old=old)
    assert (first["batch"], first["imgsz"], first["cache"], first["frozen"]) == (16, 64, "ram", [])
    changed, notes = train_epoch(lab, 1, CHANGED, old=old)
    assert changed["from_epoch"] == 1
    assert {name: changed[name] for name in ("batch", "imgsz", "workers")} == {"batch": 8, "imgsz": 32, "workers": 1}
    assert not changed["cache"]
    assert changed["frozen"] == [0, 1, 2]
    # half the batch, the nominal one kept: gradients of twice as many batches make one step, decayed as before
    assert (first["nbs"], first["accumulate"], changed["nbs"], changed["accumulate"]) == (64, 4, 64, 8)
    assert changed["decay"] == pytest.approx(first["decay"])
    assert [note for note in notes if "set all the same" in note] == (
        ["this version takes no workers = 1, cache = False, freeze = 3 at a resume; set all the same"] if old else []
    )
    kept = inspect(str(lab.last))["arguments"]
    assert {name: kept[name] for name in ("batch", "imgsz", "cache", "freeze")} == {
        name: CHANGED[name] for name in ("batch", "imgsz", "cache", "freeze")
    }
    back, _ = train_epoch(lab, 2, BACK, old=old)
    assert {**back, "from_epoch": 0} == first


def test_every_rung_is_used_at_a_resume_and_taken_back(labs):
    """Batch (with the nominal one kept), image size, workers, cache and frozen layers; then all as it was."""
    climb_and_come_back(labs.make("ladder"), old=False)


def prepare(lab: Lab, **order: object) -> Prepared:
    """Choose a start for the lab's next attempt, and bring it into place."""
    folder, runs_dir = lab.run_dir.parent, lab.run_dir.parent.parent
    job = Job(name=lab.run_dir.name, project=folder.name, revision="r", train=lab.arguments(**ASKED))
    facts = {"key": "k", "run": "run@1", "attempt": lab.attempts + 1, "token": 1, "job": job, "scratch_allowed": False}
    action = Prepare(**{**facts, **order})
    run_dir = run_directory(runs_dir, job.project, job.name)
    return start_point.bring_into_place(start_point.choose_start(action, run_dir, runs_dir), run_dir, action)


@pytest.mark.slow
def test_a_training_goes_on_from_the_checkpoint_before_the_newest(labs):
    """Told to distrust epoch 2, it trains that epoch anew after epoch 1: the trainer itself says so, no row is double."""
    lab = labs.make("back")
    for number in range(2):
        train_epoch(lab, number, {}, old=False)
        assert prepare(lab).from_epoch == number + 1  # enters it in the ledger
    start = prepare(lab, distrust_from=2)
    assert (start.start, start.from_epoch, start.kept_epoch) == ("resume", 1, 1)
    lab.attempts += 1  # its folder holds what was set aside
    told, _ = train_epoch(lab, 1, {}, old=False)
    assert told["from_epoch"] == 1
    rows = (lab.save_dir / "results.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == ["1", "2"]
    assert prepare(lab).from_epoch == 2  # and what it saved is trusted


@pytest.mark.slow
def test_a_version_that_takes_little_at_a_resume_uses_every_rung(labs):
    """As 8.3.74 takes arguments: what it would drop is set by the runner, and that is said."""
    climb_and_come_back(labs.make("ladder-old"), old=True)


@pytest.mark.slow
@pytest.mark.parametrize("folder", OTHERS or [""], ids=lambda folder: Path(folder).name or "none given")
def test_every_rung_is_used_by_another_version(labs, folder):
    """The same with another Ultralytics."""
    needed(bool(folder), "YOLO_SUPERVISOR_OTHER_ULTRALYTICS")
    climb_and_come_back(labs.make("ladder-other", PYTHONPATH=folder), old=False)
