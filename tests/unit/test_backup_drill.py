"""A rehearsed restore: what is proven, what is not, and that nothing stays of it. The job's Python is played here."""

from __future__ import annotations

import json
import sys

import pytest

from supervisor.core.actions import Drill
from supervisor.effects.backup import drill, fetched
from supervisor.effects.backup.drill import Driller
from supervisor.effects.backup.targets.base import TargetError
from tests.backup_room import BackupRoom
from tests.torch_files import checkpoint
from tests.unit.test_backup_fetched import flip, manifest_path, stored

TRAINED = {"version": 1, "ok": True, "loaded": True, "trained": True, "loss": 3.5, "optimizer": "loaded"}


class DrillRoom(BackupRoom):
    """A run with epoch 3 and mAP 0.25 in its backup, and a program that plays the job's Python."""

    def __init__(self, tmp_path, **options):
        super().__init__(tmp_path, snapshots=5)
        self.saved(1, 2, 3, map50_95=0.25)
        self.back_up()
        self.seen = tmp_path / "seen.json"
        self.script = tmp_path / "plays.py"
        self.plays({**TRAINED, "epoch": 2, "map50_95": 0.25})
        self.options = options

    def plays(self, answer, code=0, body=""):
        """Let the job's Python answer that, and note how it was called."""
        self.script.write_text(
            "import json, os, sys, time\n"
            f"json.dump([sys.argv[1:], dict(os.environ), os.path.getsize(sys.argv[-1])], open({str(self.seen)!r}, 'w'))\n"
            f"{body}\nprint({json.dumps(answer)!r})\nsys.exit({code})\n"
        )

    def drill(self, *, python=sys.executable, **fields):
        """Carry an order out; nothing may be left of it."""
        driller = Driller(
            fetched.scratch_of(self.runs_dir, "drill"),
            lambda _name: self.target,
            lambda: self.now,
            script=self.script,
            environ={"PATH": "/usr/bin", "SECRET": "s", "HOME": "/nowhere"},
            **self.options,
        )
        facts = {"key": "server/drill-1/nas", "target": "nas", "seed": "1", "pythons": {"default/truck": python}}
        (answer,) = driller(Drill(**{**facts, **fields}))
        assert not (self.runs_dir / ".fetching" / "nas" / "drill").exists()
        return answer


@pytest.fixture
def room(tmp_path):
    return DrillRoom(tmp_path)


def test_a_good_backup_is_proven(room):
    """Fetched, whole, loaded, trained: with the epoch and the metric of the manifest."""
    answer = room.drill()
    assert (answer.ok, answer.loaded, answer.unable) == (True, True, False)
    assert (answer.trained, answer.untrained, answer.cause) == (True, "", "")
    assert (answer.metric, answer.metric_wanted) == (0.25, 0.25)
    assert (answer.run, answer.epoch, answer.epoch_wanted, answer.loss) == ("truck@1", 3, 3, 3.5)
    assert answer.snapshot == room.manifests()[0].snapshot
    assert "epoch 3 came back whole" in answer.text


def test_the_job_s_python_sees_no_gpu_and_no_secret(room):
    """It gets what any child of ours gets, and settings of its own."""
    room.drill()
    words, environment, size = json.loads(room.seen.read_text())
    assert words[-1].endswith("good/epoch3-attempt1.pt")
    assert size == len(checkpoint(2, map50_95=0.25))
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["YOLO_OFFLINE"] == "1"
    assert environment["YOLO_CONFIG_DIR"].startswith(str(room.runs_dir / ".fetching"))
    assert "SECRET" not in environment


def test_a_named_run_is_rehearsed(room):
    """And one that has no backup is said to have none, without a person being woken."""
    assert room.drill(project="default", name="truck").ok
    answer = room.drill(project="default", name="car")
    assert (answer.ok, answer.run, answer.cause) == (False, "", "")
    assert "no backup of" in answer.text


def test_chance_chooses_among_the_runs_and_the_seed_is_chance(room, tmp_path):
    """The same order rehearses the same run; another one may take another; runs without a checkpoint are none."""
    for name in ("bus", "car", "empty"):
        source, target = room.target.root / room.folder, room.target.root / f"runs/default/{name}"
        target.mkdir(parents=True)
        for path in source.rglob("*"):
            if path.is_file() and path.name != "latest":
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                data = path.read_bytes()
                if path.name == "manifest.json":
                    body = {**json.loads(data), "name": name, "run": f"{name}@1"}
                    data = json.dumps({**body, "checkpoints": []} if name == "empty" else body).encode()
                copy.write_bytes(data)
    seen = [room.drill(seed=str(seed)).run for seed in range(8)]
    assert set(seen) == {"truck@1", "bus@1", "car@1"}
    assert seen == [room.drill(seed=str(seed)).run for seed in range(8)]


def test_a_target_without_runs_has_nothing_to_rehearse(tmp_path):
    """That is no failed restore."""
    room = BackupRoom(tmp_path)
    driller = Driller(fetched.scratch_of(room.runs_dir, "drill"), lambda _: room.target, lambda: room.now)
    (answer,) = driller(Drill(key="k", target="nas"))
    assert (answer.ok, answer.run, answer.cause) == (False, "", "")


def test_a_flipped_bit_is_a_failed_restore(room):
    """Nothing is loaded."""
    flip(stored(room, "good/epoch3-attempt1.pt")[1])
    answer = room.drill()
    assert (answer.ok, answer.trained) == (False, False)
    assert "other bytes" in answer.text
    assert not room.seen.exists()


def test_a_damaged_manifest_costs_a_backup_and_is_told(room):
    """The one before it is rehearsed, as a restore would use it."""
    room.saved(4, map50_95=0.25)
    room.back_up()
    manifest_path(room).write_bytes(b"{")
    answer = room.drill()
    assert (answer.ok, answer.epoch) == (True, 3)
    assert "manifest.json is damaged there" in answer.text


@pytest.mark.parametrize(
    ("wrong", "text"),
    [({"epoch": 7}, "the manifest says 7"), ({"map50_95": 0.5}, "the manifest says 0.5")],
)
def test_another_file_than_the_manifest_s_is_a_failed_restore(room, wrong, text):
    """Although its hash is right: epoch and metric are compared with what is inside."""
    path = manifest_path(room)
    manifest = json.loads(path.read_bytes())
    manifest["checkpoints"][-1].update(wrong)
    path.write_text(json.dumps(manifest))
    answer = room.drill()
    assert not answer.ok
    assert text in answer.text


@pytest.mark.parametrize(
    ("said", "text"),
    [({"epoch": 5}, "loaded, it holds epoch 6"), ({"map50_95": 0.9}, "its mAP50-95 is 0.9")],
)
def test_a_file_that_loads_as_another_one_is_a_failed_restore(room, said, text):
    """The look from outside and the load must agree."""
    room.plays({**TRAINED, "epoch": 2, "map50_95": 0.25, **said})
    answer = room.drill()
    assert (answer.ok, answer.trained) == (False, False)
    assert text in answer.text


def test_a_file_that_is_refused_when_loaded_is_a_failed_restore(room):
    """In the words of who refused it."""
    room.plays({"version": 1, "ok": False, "reason": "NaN or Inf in ema.weight"}, code=65)
    answer = room.drill()
    assert (answer.ok, answer.text) == (False, "NaN or Inf in ema.weight")
    assert (answer.loaded, answer.unable) == (False, False)


@pytest.mark.parametrize(
    ("python", "text"),
    [("", "no interpreter"), ("/nowhere/python", "/nowhere/python is not there"), ("/bin/false", "exit code 1")],
)
def test_without_the_job_s_python_nothing_is_proven(room, python, text):
    """It came back whole, and nobody loaded it: no proof, and nothing against the backup."""
    answer = room.drill(python=python)
    assert (answer.ok, answer.loaded, answer.unable, answer.trained) == (False, False, True, False)
    assert answer.text.startswith("not proven: epoch 3 came back whole")
    assert text in answer.text


@pytest.mark.parametrize(
    ("code", "body", "text"),
    [
        (1, "", "no torch here"),
        (0, "import signal; os.kill(os.getpid(), signal.SIGKILL)", "died of SIGKILL"),
        (3, "print('x', file=sys.stderr)", "exit code 3"),
    ],
)
def test_a_python_that_cannot_proves_nothing_and_says_nothing_against_the_file(room, code, body, text):
    """No torch, no memory, an end out of the blue: not proven, and why."""
    room.plays({"version": 1, "ok": False, "reason": "it could not be loaded here: no torch here"}, code, body)
    answer = room.drill()
    assert (answer.ok, answer.loaded, answer.unable) == (False, False, True)
    assert text in answer.text


def test_a_python_that_hangs_is_ended(tmp_path):
    """At its deadline."""
    room = DrillRoom(tmp_path, train_s=0.2)
    room.plays(TRAINED, body="time.sleep(60)")
    answer = room.drill()
    assert (answer.ok, answer.loaded, answer.unable) == (False, False, True)
    assert "did not end within" in answer.text


def test_the_folders_of_a_script_s_classes_are_given(room):
    """A YOLOv5 checkpoint cannot be loaded without its repository; our own runner's folder is none of these."""
    launch = {"argv": ["python", "train.py", "--img", "64"], "cwd": "/work/yolov5"}
    room.write("attempts/1/launch.json", json.dumps({"run": "truck@1", "attempt": 1, "token": 1, **launch}).encode())
    room.back_up()
    room.drill()
    assert json.loads(room.seen.read_text())[0][:3] == ["--tied", "--path", "/work/yolov5"]
    ours = {**launch, "train": {"mode": "runner"}}
    assert not list(drill._folders(ours))


def test_a_target_in_trouble_is_no_failed_restore(room):
    """Its cause is told instead."""

    def fails(_call):
        raise TargetError("unreachable", "no route to host")

    room.target.fails = fails
    answer = room.drill()
    assert (answer.ok, answer.cause, answer.run) == (False, "unreachable", "")


def test_a_full_disk_is_no_failed_restore(room, monkeypatch):
    """There is no room for a rehearsal."""
    monkeypatch.setattr(fetched, "free_bytes", lambda _folder: 1000)
    assert room.drill().cause == "no-room"
