"""What a checkpoint file is said to be, for files made by hand: no torch is needed to read or to write them."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from runner_lab import RUNNER, finished, interrupted, write_checkpoint

from supervisor.runner.checkpoint import OUT_OF_MEMORY, PICKLE_LIMIT_BYTES, inspect, main
from supervisor.runner.pickle_scan import PickleScan


def raw_checkpoint(path: Path, data: bytes) -> Path:
    """Write a zip of torch's form around any bytes as its pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return path


@pytest.mark.parametrize(
    ("content", "state", "epoch"),
    [
        (interrupted(0), "resumable", 0),
        (interrupted(3), "resumable", 3),
        (interrupted(4), "done_not_stripped", 4),
        (finished(), "finished", -1),
        ({**interrupted(2), "optimizer": None}, "weights_only", 2),
        ({**interrupted(2), "ema": None}, "weights_only", 2),
        ({"model": {"w": 1}}, "weights_only", None),
        ({**interrupted(-1)}, "weights_only", -1),
        ({**interrupted(2), "epoch": True}, "weights_only", None),
    ],
)
def test_each_state_is_told_from_its_content(tmp_path, content, state, epoch):
    """The state follows from epoch, epochs, optimizer and weights, and nothing else."""
    found = inspect(str(write_checkpoint(tmp_path / "last.pt", **content)))
    assert (found["state"], found["epoch"]) == (state, epoch)


def test_the_facts_of_a_checkpoint_are_read(tmp_path):
    """Epochs, save_dir, fitness, size and time come with the state."""
    path = write_checkpoint(tmp_path / "last.pt", **interrupted(3, save_dir="/数据/run"))
    found = inspect(str(path))
    assert found["epochs"] == 5
    assert found["save_dir"] == "/数据/run"
    assert found["best_fitness"] == 0.25
    assert found["has_optimizer"] is True
    assert (found["size_bytes"], found["mtime_ns"]) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_followed(tmp_path, protocol):
    """A checkpoint is read the same whatever pickle protocol its writer chose."""
    shared = ["x"]
    content = {**interrupted(3), "extra": [shared, shared, (1, 2, 3, 4), {1, 2}, b"bytes", 2**70, -1.5, os.path.join]}
    found = inspect(str(raw_checkpoint(tmp_path / "last.pt", pickle.dumps(content, protocol=protocol))))
    assert (found["state"], found["epoch"], found["epochs"]) == ("resumable", 3, 5)


def test_checkpoints_of_the_yolov5_family_are_read(tmp_path):
    """Older families keep their arguments under `opt`."""
    content = interrupted(3)
    content["opt"] = content.pop("train_args")
    assert inspect(str(write_checkpoint(tmp_path / "last.pt", **content)))["epochs"] == 5


def test_a_fitness_of_numpy_is_read_without_numpy(tmp_path):
    """A numpy float, which is a call in the pickle, is decoded from its eight bytes."""
    data = (
        b"\x80\x02}(X\x05\x00\x00\x00epochK\x01X\x03\x00\x00\x00ema}X\x09\x00\x00\x00optimizer}"
        b"X\x0c\x00\x00\x00best_fitnesscnumpy.core.multiarray\nscalar\n"
        b"(cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tRc_codecs\nencode\n(X"
    )
    text = struct.pack("<d", 0.75).decode("latin1").encode()
    data += struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1tRtRu."
    found = inspect(str(raw_checkpoint(tmp_path / "last.pt", data)))
    assert (found["state"], found["best_fitness"]) == ("resumable", 0.75)


def test_a_missing_file_is_missing(tmp_path):
    """No file and no folder are both `missing`."""
    assert inspect(str(tmp_path / "no" / "last.pt"))["state"] == "missing"


def test_a_cut_file_is_torn_at_every_length(tmp_path):
    """Wherever a kill cuts the file, it is never taken for a checkpoint."""
    whole = write_checkpoint(tmp_path / "whole.pt", **interrupted(3)).read_bytes()
    cut = tmp_path / "last.pt"
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        assert inspect(str(cut))["state"] == "torn", length


def test_a_flipped_bit_in_a_tensor_is_torn(tmp_path):
    """Torch would load such a file without a word; its CRC gives it away."""
    path = write_checkpoint(tmp_path / "last.pt", **interrupted(3))
    damaged = bytearray(path.read_bytes())
    place = damaged.index(bytes(range(64)))
    damaged[place + 10] ^= 1
    path.write_bytes(damaged)
    found = inspect(str(path))
    assert found["state"] == "torn"
    assert "archive/data/0" in found["reason"]


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"<html>not found</html>", b"PK\x03\x04" + b"\xff" * 900])
def test_what_is_no_zip_is_torn(tmp_path, content):
    """Empty, zeroed and foreign files are torn, not an exception."""
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    assert inspect(str(path))["state"] == "torn"


def test_a_zip_without_a_pickle_is_torn(tmp_path):
    """Any other zip is not taken for a checkpoint."""
    with zipfile.ZipFile(tmp_path / "last.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert inspect(str(tmp_path / "last.pt"))["state"] == "torn"


def test_a_fifo_does_not_block(tmp_path):
    """Something that is no regular file is refused at once."""
    os.mkfifo(tmp_path / "last.pt")
    assert inspect(str(tmp_path / "last.pt"))["state"] == "torn"


def test_a_link_to_itself_is_no_exception(tmp_path):
    """An endless symbolic link is torn."""
    (tmp_path / "last.pt").symlink_to(tmp_path / "last.pt")
    assert inspect(str(tmp_path / "last.pt"))["state"] == "torn"


@pytest.mark.parametrize("refusal", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_what_this_user_may_not_read_is_unknown_not_torn(tmp_path, monkeypatch, refusal):
    """A storage error says nothing about the file: falling back to an older checkpoint would be wrong."""

    def refuse(*_arguments):
        raise refusal

    path = write_checkpoint(tmp_path / "last.pt", **interrupted(3))
    monkeypatch.setattr(os, "open", refuse)
    assert inspect(str(path))["state"] == "unknown"


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        """Ask the pickle machine to run a command."""
        return (os.system, (f"touch '{self.path}'",))


def test_nothing_in_a_checkpoint_is_ever_executed(tmp_path):
    """A pickle that runs a command is read, told apart, and the command does not run."""
    sung = tmp_path / "sung"
    content = {"first": Canary(sung), **interrupted(3), "epoch": Canary(sung)}
    path = write_checkpoint(tmp_path / "last.pt", **content)
    found = inspect(str(path))
    assert (found["state"], found["epoch"]) == ("hostile", None)
    assert "posix.system" in found["reason"]
    assert not sung.exists()
    pickle.loads(zipfile.ZipFile(path).read("archive/data.pkl"))  # the canary can sing
    assert sung.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x8e" + struct.pack("<Q", 2**62) + b"x",  # BINBYTES8: allocate 4 EiB
        b"B" + struct.pack("<I", 2**31) + b"x",  # BINBYTES: allocate 2 GiB
        b"\x8b" + struct.pack("<i", 2**30),  # LONG4 of 1 GiB
        b"r" + struct.pack("<I", 2**32 - 1),  # LONG_BINPUT without a value
        b"]" + b"2" * 100_000 + b"a" * 100_000,  # deep stack
        b"(" * 100_000 + b"l" * 100_000 + b".",  # deep nesting
        b"}(h\x05u.",  # a memo that was never written
        b"0.",
        b".",
        b"\x80\x02}",
        b"I999999999999999999999999999999\n.",
        b"V\\ud800\n.",
    ],
)
def test_hostile_pickles_are_only_torn(tmp_path, data):
    """Length bombs, deep nesting and stack underflow cost nothing and raise nothing."""
    assert inspect(str(raw_checkpoint(tmp_path / "last.pt", data)))["state"] in {"torn", "weights_only"}


def test_a_huge_directory_record_is_not_read(tmp_path, monkeypatch):
    """A pickle larger than any model's is refused by its size."""
    monkeypatch.setattr("supervisor.runner.checkpoint.PICKLE_LIMIT_BYTES", 100)
    assert PICKLE_LIMIT_BYTES > 2_000_000
    assert "larger" in inspect(str(write_checkpoint(tmp_path / "last.pt", **interrupted(3))))["reason"]


def test_the_program_prints_one_object_per_file(tmp_path):
    """`python -I checkpoint.py FILE...` answers for each file in order, under its own limits."""
    path = write_checkpoint(tmp_path / "last.pt", **interrupted(3))
    bomb = raw_checkpoint(tmp_path / "bomb.pt", b"\x8e" + struct.pack("<Q", 2**40) + b"x")
    command = [sys.executable, "-I", RUNNER / "checkpoint.py", path, bomb, tmp_path / "none.pt"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["state"] for answer in answers] == ["resumable", "torn", "missing"]
    assert answers[0]["path"] == str(path)


def test_without_memory_nothing_is_known_of_the_file(tmp_path, monkeypatch, capsys):
    """That is the machine's trouble: the state is unknown, and the program ends without an answer."""
    path = write_checkpoint(tmp_path / "last.pt", **interrupted(3))
    monkeypatch.setattr(PickleScan, "run", lambda *_: [0] * 2**60)
    assert inspect(str(path))["state"] == "unknown"
    monkeypatch.setattr("supervisor.runner.checkpoint._limit_memory", lambda: None)
    monkeypatch.setattr("supervisor.runner.checkpoint._limit_cpu", lambda _path: None)
    assert main([str(tmp_path / "none.pt"), str(path), str(path)]) == OUT_OF_MEMORY
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_program_without_files_is_a_usage_error():
    """Exit code 2 and a line on stderr."""
    done = subprocess.run([sys.executable, "-I", RUNNER / "checkpoint.py"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"usage" in done.stderr
