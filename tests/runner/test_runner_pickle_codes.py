"""Our reading of pickles is that of `pickletools`, whatever the bytes are: only faster."""

from __future__ import annotations

import collections
import pickle
import pickletools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runner_lab import finished, interrupted

from supervisor.runner.pickle_codes import OPCODES, instructions

VALUES = [
    interrupted(3),
    finished(),
    {"float": 0.1, "negative": -70000, "large": 2**40, "huge": 2**3000, "text": "ä\ud800" + "x" * 300, "none": None},
    [bytes(300), bytearray(5), (1, 2, 3, 4), {5}, frozenset({6}), collections.OrderedDict(a=1), complex(1, 2)],
    list(range(400)) + [str(number) for number in range(400)],
]


def _usual(raw: bytes) -> Iterator[tuple[int, Any, int | None]]:
    for opcode, argument, position in pickletools.genops(raw):
        yield ord(opcode.code), argument, position


def _all(found: Iterator[Any]) -> tuple[list[str], str]:
    """All that came, and how it ended; as text, for a float may be NaN."""
    came = []
    try:
        for one in found:
            came.append(repr(one))  # noqa: PERF401 - what came before an error counts
    except Exception as error:  # noqa: BLE001 - whichever it is, it must be the same
        return came, f"{type(error).__name__}: {error}"
    return came, ""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_whole_cut_and_altered_pickles_are_read_as_pickletools_reads_them(number: int, protocol: int) -> None:
    """Every instruction, argument and place, and every error with its words, at every cut and with changed bytes."""
    raw = pickle.dumps(VALUES[number], protocol)
    assert _all(instructions(raw))[1] == ""
    chosen = random.Random(protocol)
    cuts = [raw[:end] for end in range(0, len(raw), max(1, len(raw) // 60))]
    altered = [bytearray(raw) for _ in range(60)]
    for one in altered:
        one[chosen.randrange(len(one))] = chosen.randrange(256)
    for data in (raw, *cuts, *map(bytes, altered)):
        assert _all(instructions(data)) == _all(_usual(data))


@settings(max_examples=500)
@given(st.lists(st.sampled_from(sorted(OPCODES)).map(lambda code: bytes((code,))) | st.binary(max_size=9), max_size=40))
def test_any_bytes_are_read_as_pickletools_reads_them(parts: list[bytes]) -> None:
    """Instructions that nobody would write, with arguments that are none."""
    raw = b"".join(parts)
    assert _all(instructions(raw)) == _all(_usual(raw))


@pytest.mark.parametrize("code", range(256))
def test_each_code_is_known_or_refused_as_pickletools_does(code: int) -> None:
    """Alone at the end, and with an argument of any kind behind it."""
    for rest in (b"", b"\1", b"\xff" * 3, b"1\n2\n.", b"'a'\n.", bytes(20) + b".", b"\xff" * 20):
        raw = bytes((code,)) + rest
        assert _all(instructions(raw)) == _all(_usual(raw))
