"""docs/gpus.md says what the tables of the program say."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from supervisor.core.gpus import xids
from supervisor.core.gpus.findings import KINDS
from supervisor.core.gpus.limits import Limits

TEXT = (Path(__file__).parents[2] / "docs/gpus.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]


def numbers(cell):
    """The Xids that a cell names."""
    for part in cell.split(", "):
        first, _, last = part.partition(" to ")
        yield from range(int(first), int(last or first) + 1)


def test_each_xid_stands_there_as_the_table_has_it():
    """What the training and the GPU get, and after how many it gets worse."""
    told = {xid: row for row in ROWS if re.match(r"\d+( to |, |$)", row[0]) for xid in numbers(row[0])}
    assert told.keys() == xids.TABLE.keys()
    for xid, row in xids.TABLE.items():
        assert (told[xid][2], told[xid][3]) == (row.attempt, row.gpu), xid
        again = told[xid][4].split("; ") if told[xid][4] else []
        assert [int(one.split()[0]) for one in again] == [rule.count for rule in row.repeat], xid
        words = [[part for part in (rule.attempt, rule.gpu) if part] for rule in row.repeat]
        assert [one.partition(": ")[2].split(", ") for one in again] == words, xid
    assert f"{len(xids.TABLE)} rows, version {xids.VERSION}" in TEXT


def test_each_finding_stands_there():
    """How loud it is, whether it keeps trainings away, and what it needs."""
    told = {row[0].strip("`"): row for row in ROWS if row[0].strip("`") in KINDS and len(row) == 5}
    assert told.keys() == KINDS.keys()
    for name, kind in KINDS.items():
        assert (told[name][2], told[name][3] == "yes") == (kind.severity, kind.blocks), name
        assert bool(kind.needs) == bool(told[name][4]), name
        assert kind.needs in told[name][4], name


@pytest.mark.parametrize("field", msgspec.structs.fields(Limits), ids=lambda field: field.name)
def test_each_threshold_stands_there_with_its_default(field):
    """As a row of the table of thresholds."""
    default = "the driver's" if field.default is None else f"{field.default:g}"
    assert re.search(rf"\| `{field.name}` \| {re.escape(default)} \|", TEXT)


def test_each_word_for_an_xid_is_explained():
    """Those of [[gpu.xid]]."""
    for word in (*xids.ATTEMPT_ACTIONS, *xids.GPU_ACTIONS):
        assert f"`{word}`" in TEXT
