"""The zip of a checkpoint is read as strictly as torch writes it: no field may say something else than another."""

from __future__ import annotations

import struct
import zipfile

import pytest
import torch_file

from supervisor.runner.checkpoint import inspect


@pytest.fixture
def last(tmp_path):
    """A good checkpoint in torch's own form."""
    return torch_file.write(tmp_path / "last.pt", torch_file.training())


def torn(path, data):
    """The reason why these bytes are torn; fails if they are not."""
    path.write_bytes(data)
    found = inspect(str(path))
    assert found["state"] == "torn", found
    return found["reason"]


HEADER = {"mark": 0, "flags": 6, "method": 8, "time": 10, "date": 12, "crc": 14, "packed": 18, "size": 22, "name": 30}
ENTRY = {
    "mark": 0, "flags": 8, "method": 10, "time": 12, "date": 14, "crc": 16, "packed": 20, "size": 24, "name_length": 28,
    "more": 30, "comment": 32, "disk": 34, "offset": 42, "name": 46,
}  # fmt: skip
LARGE_END = {"mark": 0, "length": 4, "disk": 16, "first": 20, "here": 24, "count": 32, "bytes": 40, "start": 48}
LOCATOR = {"mark": 0, "disk": 4, "start": 8, "disks": 16}
END = {"mark": 0, "disk": 4, "first": 6, "here": 8, "count": 10, "bytes": 12, "start": 16, "comment": 20}
PARTS = {b"PK\3\4": HEADER, b"PK\1\2": ENTRY, b"PK\6\6": LARGE_END, b"PK\6\7": LOCATOR, b"PK\5\6": END}


@pytest.mark.parametrize(
    ("mark", "place"),
    [pytest.param(mark, at, id=f"{mark!r} {name}") for mark, one in PARTS.items() for name, at in one.items()],
)
def test_every_field_that_means_something_is_compared(last, mark, place):
    """A flipped bit in the last header, entry or end is found, also where the file would read the same without it."""
    data = bytearray(last.read_bytes())
    data[data.rindex(mark) + place] ^= 1
    torn(last, data)


@pytest.mark.parametrize("place", range(24))
def test_what_follows_a_record_is_compared(last, place):
    """The CRC and the sizes stand behind each record once more."""
    data = bytearray(last.read_bytes())
    data[data.rindex(b"PK\7\x08") + place] ^= 1
    assert "what follows it" in torn(last, data)


def test_foreign_bytes_before_the_first_record_are_torn(last):
    """A zip may hide anything before its first record; a checkpoint has nothing to hide."""
    records = {"archive/data.pkl": torch_file.pickled({"epoch": 1})[0]}
    last.write_bytes(b"#!/bin/sh\n")
    with zipfile.ZipFile(last, "a") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    assert "foreign bytes" in torn(last, last.read_bytes())


def test_foreign_bytes_between_records_are_torn(last):
    """And between two of them, or before the directory."""
    records = {"archive/data.pkl": torch_file.pickled({"epoch": 1})[0], "archive/version": b"3\n"}
    data = torch_file.archive(records)
    at = data.index(b"PK\3\4", 4)
    start = data.index(b"PK\1\2")
    for cut, moved in ((at, True), (start, False)):
        mixed = bytearray(data[:cut] + b"x" * 64 + data[cut:])
        second = mixed.rindex(b"PK\1\2")
        if moved:
            mixed[second + 42 : second + 46] = struct.pack("<L", at + 64)
        for mark, place, form in ((b"PK\6\6", 48, "<Q"), (b"PK\6\7", 8, "<Q"), (b"PK\5\6", 16, "<L")):
            here = mixed.rindex(mark) + place
            old = struct.unpack_from(form, mixed, here)[0]
            struct.pack_into(form, mixed, here, old + 64)
        torn(last, mixed)


def test_a_comment_is_torn(last):
    """The last bytes must be the end of the directory: behind a comment another end could hide."""
    data = bytearray(last.read_bytes())
    data[-2:] = struct.pack("<H", 5)
    torn(last, bytes(data) + b"hello")


def test_a_compressed_record_is_torn(last):
    """The reason says that it is no file of torch's."""
    with zipfile.ZipFile(last, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", torch_file.pickled({"epoch": 1})[0])
    assert "compressed" in torn(last, last.read_bytes())


@pytest.mark.parametrize("large", [False, True])
def test_files_that_python_wrote_are_read_too(tmp_path, large):
    """Tools may write the zip anew, without paddings, with sizes before the records, or with fields for large ones."""
    data, storages = torch_file.pickled(torch_file.training())
    path = tmp_path / "last.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": data, **{f"data/{key}": one.data for key, one in storages.items()}}.items():
            with archive.open(f"x/{name}", "w", force_zip64=large) as record:
                record.write(content)
    assert inspect(str(path), True)["state"] == "resumable"


def test_a_directory_that_claims_too_much_is_torn(last):
    """More entries than there are, or a directory longer than any."""
    for place, form in ((24, "<Q"), (40, "<Q")):
        data = bytearray(last.read_bytes())
        struct.pack_into(form, data, data.rindex(b"PK\6\6") + place, 2**40)
        torn(last, data)
