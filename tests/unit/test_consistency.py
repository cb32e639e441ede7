"""Looking at what a resume would train: the record on disk, what is said, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor.core.actions import Prepare
from supervisor.core.consistency import Fingerprint
from supervisor.core.events import Prepared, PrepareFailed
from supervisor.core.job import Stage
from supervisor.core.model import Job
from supervisor.effects import consistency
from supervisor.layout import RunDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy_trainer import Checkpoint, packed, unpacked


class Machine:
    """An interpreter that answers what it is told, a run directory, and the attempts of one run."""

    def __init__(self, root: Path):
        self.root = root
        self.run_dir = RunDirectory(root / "runs/p/truck")
        self.python = root / "python"
        self.answer = root / "answer.json"
        self.requests = root / "requests"
        self.python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$2\" >> '{self.requests}'\ncat '{self.answer}'\n")
        self.python.chmod(0o755)
        self.job = Job(
            name="truck", project="p", revision="r1", python=str(self.python), gpus=1, trainer_version="8.4.190",
            train={"model": "/m.yaml", "data": "/d/data.yaml", "epochs": 9, "imgsz": 64, "batch": 8},
        )  # fmt: skip
        self.facts = {
            "version": 1,
            "versions": {"ultralytics": "8.4.190", "torch": "2.13.0"},
            "data": {
                "name": "/d/data.yaml", "path": "/d/data.yaml", "sha256": "a", "root": "/d", "names": ["red", "blue"],
                "splits": {"train": {"images": 8, "listing": "x", "stamps": "s", "sketch": list(range(8))}},
            },
            "model": {"name": "/m.yaml", "path": "/m.yaml", "sha256": "m", "size_bytes": 1},
            "problem": "",
        }  # fmt: skip

    def attempt(
        self, number, start="resume", epoch=3, *, accepted="", origin="", gpus=1, names=(), run_dir=None, **job
    ):
        """What the preparation of an attempt leads to; `job` changes the job."""
        self.answer.write_text(json.dumps(self.facts))
        run_dir = run_dir or self.run_dir
        run_dir.attempt(number).root.mkdir(parents=True, exist_ok=True)
        job = replace(self.job, **job)
        action = Prepare(
            key="k", run="truck@1", attempt=number, token=1, job=job, scratch_allowed=True, accepted=accepted,
            origin=origin, gpus=gpus, gpu_names=names, gpu_ids=tuple(f"GPU-{place}" for place in range(len(names))),
        )  # fmt: skip
        checkpoint = str(self.root / "last.pt")
        choice = Prepared(
            at=0.0, run="truck@1", attempt=number, start=start, checkpoint=checkpoint, from_epoch=epoch
        )  # fmt: skip
        return consistency.check(action, run_dir, choice)

    def record(self):
        """The record on disk."""
        return json.loads((self.run_dir.root / "fingerprint.json").read_text())


@pytest.fixture
def machine(tmp_path):
    """A run that started from the beginning."""
    made = Machine(tmp_path)
    assert made.attempt(1, "fresh", 0).notes == ()
    return made


def test_the_first_start_is_the_reference(machine):
    """The record holds data, model, versions, imgsz and batch; a resume of the same is not mentioned."""
    record = machine.record()
    assert record["reference"]["data"]["names"] == ["red", "blue"]
    assert record["reference"]["arguments"] == {"imgsz": 64, "batch": 8}
    assert record["attempts"] == {"1": {"ultralytics": "8.4.190", "torch": "2.13.0"}}
    request = json.loads(machine.requests.read_text().splitlines()[0])
    assert (request["data"], request["model"], request["root"]) == ("/d/data.yaml", "/m.yaml", None)
    resumed = machine.attempt(2)
    assert (resumed.start, resumed.notes) == ("resume", ())
    assert not machine.run_dir.attempt(2).log.exists()


def test_what_is_harmless_is_said_once(machine):
    """In the notes and at the head of the attempt's log; at the next attempt it is old news, the original still counts."""
    machine.facts["versions"]["torch"] = "2.14.0"
    second = machine.attempt(2)
    assert second.notes == ("torch was 2.13.0 and is 2.14.0",)
    log = machine.run_dir.attempt(2).log.read_text()
    assert log == "yolo-supervisor: attempt 2: torch was 2.13.0 and is 2.14.0\n"
    assert machine.attempt(2).notes == second.notes  # a preparation that is done again says the same
    assert machine.run_dir.attempt(2).log.read_text() == log
    assert machine.attempt(3).notes == ()
    assert machine.record()["reference"]["versions"]["torch"] == "2.13.0"
    assert machine.record()["attempts"]["3"]["torch"] == "2.14.0"


def test_slow_loss_of_images_is_seen(machine):
    """Each time is compared with the beginning, not with the time before."""
    for number, left in ((2, 8), (3, 7)):
        names = list(range(left))
        machine.facts["data"]["splits"]["train"] = {
            "images": left,
            "listing": f"x{left}",
            "stamps": "s",
            "sketch": names,
        }
        last = machine.attempt(number)
    assert last.start == "refused"
    assert "8 images → 7" in last.reason


def test_changed_classes_are_held_until_a_person_agrees(machine):
    """Refused with the reason and the command; agreed to, the new classes are what counts from then on."""
    machine.facts["data"].update(names=["red", "green"], sha256="b")
    held = machine.attempt(2)
    assert (held.start, held.checkpoint) == ("refused", "")
    assert "1 was blue and is green" in held.reason
    assert "`yolo-supervisor resume truck --accept`" in held.reason
    assert machine.attempt(2).start == "refused"
    assert machine.record()["reference"]["data"]["names"] == ["red", "blue"]
    agreed = machine.attempt(2, accepted=held.differences)
    assert agreed.start == "resume"
    assert agreed.notes == ("accepted by a person: classes have other names: 1 was blue and is green",)
    assert machine.record()["reference"]["data"]["names"] == ["red", "green"]
    assert machine.attempt(3).notes == ()
    machine.facts["data"]["names"] = ["red", "blue"]
    assert machine.attempt(4).start == "refused"


def test_an_agreement_covers_what_was_asked_and_nothing_else(machine):
    """Changed once more before the run went on: it is asked anew, with another digest; harmless changes are not asked."""
    machine.facts["data"].update(names=["red", "green"], sha256="b")
    asked = machine.attempt(2).differences
    machine.facts["versions"]["ultralytics"] = "8.4.200"
    more = machine.attempt(2, accepted=asked)
    assert (more.start, bool(asked)) == ("refused", True)
    assert more.differences not in {"", asked}
    machine.facts["versions"] = {"ultralytics": "8.4.190", "torch": "2.14.0"}
    assert machine.attempt(2, accepted=asked).start == "resume"


def test_an_upgrade_in_mid_run_is_held(machine):
    """Another Ultralytics is refused, with what is known against it."""
    machine.facts["versions"]["ultralytics"] = "8.3.193"
    assert "8.3.193 is known to resume into another folder" in machine.attempt(2).reason
    machine.facts["versions"]["ultralytics"] = "8.4.190"
    assert machine.attempt(2).start == "resume"


def test_a_run_without_a_record_gets_one(machine):
    """An older run's, or a damaged one: only the version that its job was accepted with is compared."""
    for content in (None, "{"):
        path = machine.run_dir.root / "fingerprint.json"
        path.unlink() if content is None else path.write_text(content)
        assert machine.attempt(5).notes == ()
        assert machine.record()["attempt"] == 5
    (machine.run_dir.root / "fingerprint.json").unlink()
    assert "Ultralytics was 8.4.40 and is 8.4.190" in machine.attempt(6, trainer_version="8.4.40").reason


def test_an_adopted_run_is_compared_with_what_wrote_its_checkpoint(machine):
    """The trainer's version stands in the checkpoint: whoever began the training, an upgrade since is held."""
    (machine.run_dir.root / "fingerprint.json").unlink()
    Checkpoint(machine.root, 9).save(2, 0.5, torn=False)
    last = machine.root / "last.pt"
    assert machine.attempt(2).notes == ()
    (machine.run_dir.root / "fingerprint.json").unlink()
    last.write_bytes(packed({**unpacked(last), "version": "8.3.74"}))
    assert "Ultralytics was 8.3.74 and is 8.4.190" in machine.attempt(2).reason


def test_a_moved_data_set_is_repaired(machine):
    """The job file names the new place: said once, and the training goes on."""
    machine.facts["data"].update(name="/e/data.yaml", path="/e/data.yaml", root="/e")
    job = {"train": {**machine.job.train, "data": "/e/data.yaml"}, "revision": "r2"}
    moved = machine.attempt(2, **job)
    assert moved.start == "resume"
    assert moved.notes == ("the data set moved from /d/data.yaml to /e/data.yaml: the trainer is told",)
    assert machine.attempt(3, **job).notes == ()


LOST = {
    "file": {"name": "/d/data.yaml", "path": "/d/data.yaml", "missing": ["/d/images/train"]},
    "empty": {"sha256": "a", "splits": {"train": {"sources": ["/d/train"]}}},
    "folder": {"sha256": "", "root": "/d", "splits": {}},
}


@pytest.mark.parametrize("data", LOST.values(), ids=LOST)
def test_a_data_set_that_is_gone_is_a_failure(machine, data):
    """What is not there at all is no change to agree to, and no mount to wait for; there again, nothing is said."""
    there = machine.facts["data"]
    machine.facts["data"] = {**there, **data}
    lost = machine.attempt(2)
    assert isinstance(lost, PrepareFailed)
    assert (lost.waiting_for, lost.cause) == ("", "dataset-missing")
    assert lost.reason.startswith("what it trains on is gone, although its file system is mounted: ")
    machine.facts["data"] = there
    assert machine.attempt(2).notes == ()


def test_a_split_that_is_not_named_any_more_is_asked_about(machine):
    """The data file itself says so: no disk is away."""
    machine.facts["data"].update(sha256="b", splits={})
    assert "train is not named any more" in machine.attempt(2).reason


def test_what_cannot_be_looked_at_is_said(machine):
    """An interpreter that is gone, one that fails, one that talks nonsense, a data file that cannot be read."""
    machine.facts["problem"] = "ValueError: /d/data.yaml is no table"
    machine.facts["data"] = None
    assert machine.attempt(2).notes == ("its data could not be looked at: ValueError: /d/data.yaml is no table",)
    machine.python.write_text("#!/bin/sh\necho 'no yaml here' >&2; exit 3\n")
    [note] = machine.attempt(3).notes
    assert "gave no answer (exit code 3): no yaml here" in note
    machine.python.unlink()
    assert machine.attempt(4).start == "resume"


def test_a_move_to_other_gpus_is_said_once(machine):
    """What it really got counts, which may be fewer than it asks for."""
    assert machine.attempt(2, names=("NVIDIA A100",)).notes == ()
    moved = machine.attempt(3, names=("NVIDIA L40S",)).notes
    assert moved == ("moves from 1 x NVIDIA A100 to 1 x NVIDIA L40S; the total batch of 8 is kept",)
    assert machine.attempt(4, names=("NVIDIA L40S",)).notes == ()
    machine.job = replace(machine.job, gpus=2)
    assert machine.attempt(5, names=("NVIDIA L40S",)).notes == ()
    [grown] = machine.attempt(6, names=("NVIDIA L40S", "NVIDIA L40S")).notes
    assert grown.startswith("moves from 1 x NVIDIA L40S to 2 x NVIDIA L40S")


def test_a_move_between_devices_is_said(machine):
    """The job file asks for other GPUs: the total batch is kept, in the log and in what `show` prints."""
    machine.job = replace(machine.job, gpus=0, revision="r2")
    [note] = machine.attempt(2).notes
    assert note == "moves from 1 GPU to the CPU; the total batch of 8 is kept"
    assert note in machine.run_dir.attempt(2).log.read_text()
    assert machine.attempt(3).notes == ()
    machine.job = replace(machine.job, gpus=2, revision="r3")
    assert machine.attempt(4).notes == ("moves from the CPU to 2 GPUs; the total batch of 8 is kept",)
    (machine.run_dir.root / "fingerprint.json").unlink()
    assert machine.attempt(5, gpus=1).notes == ("moves from 1 GPU to 2 GPUs; the total batch of 8 is kept",)


def test_a_stage_is_said_at_every_resume_in_it(machine):
    """Where it begins, after a crash in it, and that a rewind undid it."""
    machine.job = replace(machine.job, stages=(Stage(from_epoch=5, args={"imgsz": 32, "freeze": 2}),))
    words = "stage from epoch 5: imgsz = 32, freeze = 2"
    assert machine.attempt(2, epoch=3).notes == ()
    assert machine.attempt(3, epoch=4).notes == (words,)
    assert machine.attempt(4, epoch=6).notes == (words,)
    assert machine.attempt(5, epoch=2).notes == ("it is before the stage from epoch 5 again",)


def test_a_branch_is_compared_with_the_run_that_it_comes_from(machine):
    """Its own arguments are free, its classes are not."""
    branch = RunDirectory(machine.run_dir.root.parents[1] / "q" / "branch")
    job = {"train": {**machine.job.train, "imgsz": 32}, "revision": "r9"}
    machine.facts["data"]["names"] = ["red"]
    assert machine.attempt(1, origin="p/truck", run_dir=branch, **job).start == "refused"
    machine.facts["data"]["names"] = ["red", "blue"]
    begun = machine.attempt(1, origin="p/truck", run_dir=branch, **job)
    assert begun.start == "resume"
    assert begun.notes == ("imgsz is 32 from now on, it was 64: the job says so now",)


def test_a_family_of_scripts_is_looked_at_too(tmp_path):
    """YOLOv5 and its kin name data, model, size and batch in their command; their Ultralytics is their own."""
    machine = Machine(tmp_path)
    words = ("{python}", "/y5/train.py", "--data", "/d/data.yaml", "--cfg=/m.yaml", "--img", "64", "--batch-size", "8")
    job = {"train": None, "command": words, "family": "yolov5", "trainer_version": ""}
    assert machine.attempt(1, "fresh", 0, **job).start == "fresh"
    request = json.loads(machine.requests.read_text())
    assert (request["data"], request["model"], request["root"]) == ("/d/data.yaml", "/m.yaml", "/y5")
    assert machine.record()["reference"]["arguments"] == {"imgsz": 64, "batch": 8}
    machine.facts["versions"]["ultralytics"] = "8.0.0"
    assert machine.attempt(2, **job).notes == ()
    machine.facts["data"]["names"] = ["red"]
    assert machine.attempt(3, **job).start == "refused"


def test_other_commands_are_left_alone(tmp_path):
    """Of a program that we do not know, nothing is asked and nothing is written."""
    machine = Machine(tmp_path)
    assert machine.attempt(1, "fresh", 0, train=None, command=("/bin/x",)).start == "fresh"
    assert machine.attempt(2, "finish", 9).start == "finish"
    assert not machine.requests.exists()
    assert not (machine.run_dir.root / "fingerprint.json").exists()


def test_a_first_start_with_another_version_than_checked_is_said(tmp_path):
    """The job file was checked against what was installed then."""
    machine = Machine(tmp_path)
    [note] = machine.attempt(1, "fresh", 0, trainer_version="8.4.40").notes
    assert note == "it was checked against Ultralytics 8.4.40, and 8.4.190 is installed now"


def test_a_fingerprint_never_raises(tmp_path):
    """A working folder that is gone, an interpreter that is a folder."""
    job = Job(name="t", revision="r", python=str(tmp_path), cwd="/nowhere", train={"data": "d"})
    found = consistency.take(job, RunDirectory(tmp_path), 0, {})
    assert isinstance(found, Fingerprint)
    assert "could not be asked" in found.problem
