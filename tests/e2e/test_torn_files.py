"""A real checkpoint of Ultralytics, damaged in every way that a disk, a kill or a person can: none passes for whole."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from daemon_harness import MODEL, REPOSITORY, needs

from supervisor.effects import checkpoints
from supervisor.errors import RetryableError
from supervisor.runner.checkpoint import inspect
from supervisor.runner.finite import number_format
from supervisor.runner.learned import FINITE, limits
from supervisor.runner.pickle_scan import PickleScan
from supervisor.runner.zip_check import Archive

pytestmark = pytest.mark.e2e

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
SEED = int(os.environ.get("YOLO_SUPERVISOR_SEED") or random.SystemRandom().randrange(2**32))
PAGE = 4096

# One epoch of two is kept, then the whole training's two files: resumable, done-but-not-stripped and stripped.
TRAINING = """
import shutil, sys
from ultralytics import YOLO
model, data, out = sys.argv[1:]
trainer = YOLO(model)
trainer.add_callback("on_model_save", lambda one: shutil.copyfile(one.last, f"{out}/epoch{one.epoch}.pt"))
trainer.train(data=data, epochs=2, imgsz=64, batch=8, workers=0, plots=False, device="cpu", project=out, name="t",
              optimizer="SGD", amp=False)
shutil.copyfile(f"{out}/t/weights/last.pt", f"{out}/stripped.pt")
import torch
torch.serialization.set_crc32_options(False)
torch.save(torch.load(f"{out}/epoch0.pt", weights_only=False), f"{out}/without_crc.pt")
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder with epoch0.pt (resumable), epoch1.pt (not stripped), stripped.pt and without_crc.pt."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    folder = tmp_path_factory.mktemp("real 真")
    generator = [PYTHON, REPOSITORY / "tests" / "training_data.py", folder / "data", "--train", "8", "--val", "4"]
    subprocess.run(generator, check=True, capture_output=True)
    env = {**os.environ, "YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    command = [PYTHON, "-c", TRAINING, MODEL, folder / "data" / "data.yaml", folder]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def whole(real):
    """The bytes of a resumable checkpoint."""
    return (real / "epoch0.pt").read_bytes()


@pytest.fixture
def victim(tmp_path, whole):
    """A copy of it, to be damaged."""
    path = tmp_path / "last.pt"
    path.write_bytes(whole)
    return path


def look(path, *, finite=False):
    """What the cheap check says, in this process."""
    return inspect(str(path), finite)


def contents(path):
    """Every record of a file as torch would read it: by the directory alone, nothing checked. Raises if it cannot."""
    with zipfile.ZipFile(path) as archive:
        return {one.filename: raw_content(path, one) for one in archive.infolist()}


def raw_content(path, one):
    """A record's bytes, where its own header says that they begin."""
    with path.open("rb") as file:
        file.seek(one.header_offset)
        header = file.read(30)
        name_length, more = struct.unpack("<2H", header[26:30])
        file.seek(name_length + more, os.SEEK_CUR)
        return file.read(one.compress_size)


def test_a_good_checkpoint_is_good_in_every_state(real):
    """What Ultralytics itself wrote: the right state, all numbers finite, no doubt."""
    for name, state, epoch in (
        ("epoch0", "resumable", 0),
        ("epoch1", "done_not_stripped", 1),
        ("stripped", "finished", -1),
    ):
        found = look(real / f"{name}.pt", finite=True)
        assert (found["state"], found["epoch"], found["epochs"]) == (state, epoch, 2), found
        assert (found["finite"], found["doubts"]) == (True, [])
        assert (found["version"], found["model"]) == ("8.4.190", "ultralytics.nn.tasks.DetectionModel")
        assert found["class_names"] == ["red", "blue"]
        assert found["arguments"]["imgsz"] == 64
    assert look(real / "epoch0.pt")["updates"] == 1
    assert look(real / "epoch0.pt")["tensors"] > 100
    assert "without CRCs" in look(real / "without_crc.pt")["doubts"][0]


@pytest.mark.parametrize("flips", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_flipped_bits_are_found(victim, whole, flips):
    """Each is found, or what every record holds is the same without it; YOLO_SUPERVISOR_SEED repeats a run."""
    flip_bits(victim, whole, SEED, flips)


def flip_bits(victim, whole, seed, flips=1000):
    """Flip one bit after the other, each alone, at places that the seed says."""
    dice = random.Random(seed)
    print(f"bit flips with YOLO_SUPERVISOR_SEED={seed}")
    good = contents(victim)
    harmless = []
    with victim.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for _ in range(flips):
            place, bit = dice.randrange(len(whole)), 1 << dice.randrange(8)
            data[place] ^= bit
            found = look(victim)
            if found["state"] != "torn":
                assert contents(victim) == good, (seed, place, bit, found)
                harmless.append(place)
            data[place] ^= bit
    assert look(victim)["state"] == "resumable"
    assert len(harmless) < flips / 20 + 10, (seed, len(harmless))  # paddings are some per cent of a small file


def test_every_flipped_bit_of_the_directory_is_found(victim, whole):
    """In the directory and its ends no bit is free, but those about the zip's versions and file attributes."""
    start = whole.rindex(b"PK\6\6")
    directory_at = struct.unpack_from("<Q", whole, start + 48)[0]
    good = contents(victim)
    with victim.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        # The last record of the directory and both ends: all bits.
        for place in range(whole.rindex(b"PK\1\2"), len(whole)):
            for bit in range(8):
                data[place] ^= 1 << bit
                if look(victim)["state"] != "torn":
                    assert contents(victim) == good, place
                data[place] ^= 1 << bit
    assert directory_at < start


def boundaries(path):
    """Where the header, content and trailer of each record begin, and the directory and its ends."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        archive = Archive(descriptor, path.stat().st_size)
    finally:
        os.close(descriptor)
    return sorted({at for one in archive.records.values() for at in (one.offset, one.data_at, one.end_at)})


def test_a_cut_at_every_boundary_of_a_record_is_torn(victim, whole):
    """And one byte before and after each."""
    ends = [whole.rindex(mark) for mark in (b"PK\6\6", b"PK\6\7", b"PK\5\6")] + [len(whole)]
    lengths = {at + more for at in [*boundaries(victim), *ends] for more in (-1, 0, 1)}
    for length in sorted((one for one in lengths if 0 <= one < len(whole)), reverse=True):
        os.truncate(victim, length)
        assert look(victim)["state"] == "torn", length
    assert len(lengths) > 1000


def test_a_longer_file_is_torn(victim, whole):
    """Bytes behind the directory are of nobody: a shorter file was written over a longer one."""
    for tail in (b"\0", b"x" * 22, whole[-100:]):
        victim.write_bytes(whole + tail)
        assert look(victim)["state"] == "torn"


def test_every_lost_page_is_found(victim, whole):
    """A page of zeros, wherever the file has data."""
    with victim.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for start in range(0, len(whole), PAGE):
            before = data[start : start + PAGE]
            data[start : start + PAGE] = bytes(len(before))
            changed = any(before)
            assert (look(victim)["state"] == "torn") is changed, start
            data[start : start + PAGE] = before


def test_a_half_that_was_never_written_is_torn(victim, whole):
    """After a power cut the length may be right and the second half zeros; or the first."""
    half = len(whole) // 2
    for data in (whole[:half] + bytes(len(whole) - half), bytes(half) + whole[half:], bytes(len(whole))):
        victim.write_bytes(data)
        assert look(victim)["state"] == "torn"


def equal_records(path):
    """Two records of one size and other content."""
    found = [(name, data) for name, data in contents(path).items() if "/data/" in name]
    return next(
        (one, other) for one, data in found for other, more in found if len(data) == len(more) > 64 and data != more
    )


def test_records_that_changed_places_are_torn(victim, whole):
    """Two contents swapped; two names swapped in the directory only."""
    one, other = equal_records(victim)
    data = contents(victim)
    mixed = bytearray(whole)
    for name, new in ((one, data[other]), (other, data[one])):
        at = whole.index(data[name])
        mixed[at : at + len(new)] = new
    victim.write_bytes(mixed)
    assert look(victim)["state"] == "torn"
    first, second = one.encode(), other.encode()
    renamed = bytearray(whole)
    size = min(len(first), len(second))
    for name, new in ((first, second), (second, first)):
        at = whole.rindex(name + b"PK")
        renamed[at : at + size] = new[:size]
    victim.write_bytes(renamed)
    assert look(victim)["state"] == "torn"


def test_a_record_that_is_there_twice_is_torn(victim, recwarn):
    """Readers do not agree which of both counts."""
    with zipfile.ZipFile(victim, "a") as archive:
        archive.writestr("archive/version", "3\n")
    recwarn.clear()
    assert look(victim)["state"] == "torn"


def test_records_that_overlap_are_torn(victim, whole):
    """Two entries of the directory that mean the same bytes."""
    start = whole.rindex(b"PK\1\2")
    before = whole.rindex(b"PK\1\2", 0, start)
    mixed = bytearray(whole)
    mixed[start + 42 : start + 46] = whole[before + 42 : before + 46]
    victim.write_bytes(mixed)
    assert look(victim)["state"] == "torn"


def test_a_changed_record_with_a_corrected_crc_of_another_size_is_torn(victim, whole):
    """A tool that repairs CRCs does not make a tensor whole."""
    data = contents(victim)
    name = next(name for name, content in data.items() if "/data/" in name and len(content) > 64)
    victim.unlink()
    with zipfile.ZipFile(victim, "w") as archive:
        for one, content in data.items():
            archive.writestr(one, content[:-2] if one == name else content)
    assert look(victim)["state"] == "torn"


def float_storages(path):
    """The key and the class of each float storage: one of each class."""
    scan = PickleScan()
    learned = limits(scan.run(contents(path)["archive/data.pkl"]))
    kinds = {}
    for key, storage in scan.storages.items():
        if number_format(storage.kind) and storage.numel and learned.get(key) == FINITE:
            kinds.setdefault(storage.kind, key)
    return kinds


def poison(path, key, number):
    """Write a number over the last one of a storage, and make all CRCs right again."""
    data = contents(path)
    name = f"archive/data/{key}"
    data[name] = data[name][: -len(number)] + number
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in data.items():
            archive.writestr(one, content)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_poisoned_tensor_is_found_by_the_search_and_by_the_load(victim, number):
    """The file is whole, its CRCs are right: only the numbers tell."""
    key = float_storages(victim)["torch.HalfStorage"]
    poison(victim, key, struct.pack("<e", number))
    assert look(victim)["state"] == "resumable"
    found = look(victim, finite=True)
    assert (found["state"], f"data/{key}" in found["reason"]) == ("poisoned", True)


def test_a_deep_check_loads_what_is_good_and_refuses_what_is_not(real, victim):
    """Good: ok with epoch, EMA and optimizer. Poisoned: refused. A file with another epoch than expected: refused."""
    found = checkpoints.deep(str(PYTHON), real / "epoch0.pt", expected_epoch=0)
    assert (found.ok, found.epoch, found.optimizer, found.ema, found.finite) == (True, 0, True, True, True), found
    assert found.tensors > 100
    other = checkpoints.deep(str(PYTHON), real / "epoch0.pt", expected_epoch=5)
    assert (other.ok, other.looked) == (False, True)
    poison(victim, float_storages(victim)["torch.HalfStorage"], struct.pack("<e", float("nan")))
    bad = checkpoints.deep(str(PYTHON), victim)
    assert (bad.ok, bad.looked, bad.finite) == (False, True, False)


@pytest.mark.slow
def test_a_deep_check_tells_the_other_kinds(real, victim, whole):
    """Stripped and without CRCs: fine. Stripped where a resume is expected, torn, gone: refused, nothing is loaded."""
    assert checkpoints.deep(str(PYTHON), real / "stripped.pt").ok
    assert checkpoints.deep(str(PYTHON), real / "without_crc.pt").ok
    assert not checkpoints.deep(str(PYTHON), real / "stripped.pt", expected_epoch=-1).ok
    victim.write_bytes(whole[:-500])
    torn = checkpoints.deep(str(PYTHON), victim)
    assert (torn.ok, torn.looked, torn.reason.partition(":")[0]) == (False, True, "torn")
    assert checkpoints.deep(str(PYTHON), victim.with_name("gone.pt")).reason.startswith("missing")


def test_a_python_without_torch_says_nothing_about_the_file(real):
    """Not looked is not refused: neither without torch, nor with a Python that is not there."""
    for python in (sys.executable, "/nonexistent/python"):
        found = checkpoints.deep(python, real / "epoch0.pt")
        assert (found.ok, found.looked) == (False, False), found


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        """Ask the pickle machine to run a command."""
        return (os.system, (f"touch '{self.path}'",))


def test_a_hostile_checkpoint_is_never_executed(victim, tmp_path):
    """Neither by the cheap check, nor by the deep one, nor by `checkpoints verify --deep`; and the canary can sing."""
    sung = tmp_path / "sung"
    data = {**contents(victim), "archive/data.pkl": pickle.dumps({"epoch": 3, "ema": Canary(sung)}, 2)}
    victim.unlink()
    with zipfile.ZipFile(victim, "w") as archive:
        for name, content in data.items():
            archive.writestr(name, content)
    assert look(victim, finite=True)["state"] == "hostile"
    assert checkpoints.look([victim])[0].state == "hostile"
    found = checkpoints.deep(str(PYTHON), victim)
    assert (found.ok, found.looked, "hostile" in found.reason) == (False, True, True)
    command = [
        sys.executable,
        "-m",
        "supervisor",
        "checkpoints",
        "verify",
        victim,
        "--deep",
        "--python",
        PYTHON,
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, json.loads(done.stdout)["files"][0]["state"]) == (1, "hostile"), done.stderr
    assert not sung.exists()
    pickle.loads(data["archive/data.pkl"])
    assert sung.exists()


def test_what_is_no_file_is_torn_or_missing(tmp_path, victim):
    """FIFO, folder, empty file, link to itself, link to nowhere: no wait, no exception."""
    os.mkfifo(tmp_path / "fifo.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "empty.pt").touch()
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    (tmp_path / "nowhere.pt").symlink_to(tmp_path / "gone")
    names = ["fifo", "folder", "empty", "loop", "nowhere", "last"]
    found = checkpoints.look([tmp_path / f"{name}.pt" for name in names])
    assert [one.state for one in found] == ["torn", "torn", "torn", "torn", "missing", "resumable"]
    assert [one.path for one in found] == [str(tmp_path / f"{name}.pt") for name in names]


def test_a_name_that_is_no_text_is_looked_at_all_the_same(tmp_path, whole):
    """Linux allows any bytes in a name."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.pt"))
    path.write_bytes(whole)
    found = checkpoints.look([path])[0]
    assert (found.state, found.path) == ("resumable", str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_may_not_be_read_is_unknown(victim):
    """Without the permission nothing is known about the file."""
    victim.chmod(0)
    os.seteuid(65534)
    try:
        found = look(victim)
    finally:
        os.seteuid(0)
    assert (found["state"], "Permission denied" in found["reason"]) == ("unknown", True)


def test_the_daemon_tries_again_where_it_cannot_look(victim, monkeypatch):
    """`look` raises RetryableError for what this machine cannot read, and `survey` tells it."""
    script = victim.with_name("unknown.py")
    script.write_text('print(\'{"path": "x", "state": "unknown", "reason": "EIO"}\')')
    monkeypatch.setattr("supervisor.layout.CHECKPOINT", script)
    assert checkpoints.survey([victim])[0].state == "unknown"
    with pytest.raises(RetryableError, match="EIO"):
        checkpoints.look([victim])


def test_a_file_that_changes_while_it_is_read_is_torn(victim, whole, monkeypatch):
    """The trainer writes in place: what was read may be half of each."""
    crc32, writes = zlib.crc32, iter([True])

    def slow(*arguments):
        if next(writes, False):
            os.utime(victim, ns=(1, 1))
        return crc32(*arguments)

    monkeypatch.setattr(zlib, "crc32", slow)
    found = look(victim)
    assert (found["state"], "while it was read" in found["reason"]) == ("torn", True)


@pytest.mark.slow
def test_many_thousand_flipped_bits_are_found(victim, whole):
    """As above, more often: the dice go on from other seeds."""
    for more in range(1, 5):
        flip_bits(victim, whole, SEED + more)
