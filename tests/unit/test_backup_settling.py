"""What is settled beside the copying is settled in order and closed, and a verdict counts once and for one state."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from supervisor.effects.backup.targets import settling
from supervisor.effects.backup.targets.settling import Settler, Verdicts, identity


class _File:
    def __init__(self, name: str, closed: list[str]) -> None:
        self.name = name
        self._closed = closed

    def close(self) -> None:
        """Say so."""
        self._closed.append(self.name)


def test_all_is_settled_in_order_when_the_block_ends() -> None:
    """In another thread, and each is closed once."""
    done: list[str] = []
    closed: list[str] = []
    threads = set()

    def settle(one: _File) -> None:
        threads.add(threading.get_ident())
        done.append(one.name)

    with Settler(settle) as settler:
        for name in "abcd":
            settler.put(_File(name, closed))
    assert done == closed == list("abcd")
    assert threads
    assert threading.get_ident() not in threads


def test_an_error_is_raised_and_nothing_more_is_settled() -> None:
    """At the latest when the block ends; whatever was put is closed all the same."""
    done: list[str] = []
    closed: list[str] = []

    def settle(one: _File) -> None:
        done.append(one.name)
        raise OSError(28, "No space left on device")

    put: list[str] = []

    def copy_all() -> None:
        with Settler(settle) as settler:
            for name in "abcd":
                put.append(name)
                settler.put(_File(name, closed))

    with pytest.raises(OSError, match="No space"):
        copy_all()
    assert done == ["a"]
    assert sorted(closed) == put


def test_an_error_of_the_copying_ends_the_settling() -> None:
    """What waits is closed, not settled, and the error comes through."""
    done: list[str] = []
    closed: list[str] = []
    going = threading.Event()

    def settle(one: _File) -> None:
        done.append(one.name)
        going.wait(10)

    def copy_all() -> None:
        with Settler(settle) as settler:
            settler.put(_File("a", closed))
            settler.put(_File("b", closed))
            settler._gives_up = True  # as the end of the block says, before the first one goes on
            going.set()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        copy_all()
    assert done == ["a"]
    assert closed == ["a", "b"]


def _noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Verdicts, int, int]:
    monkeypatch.setattr(settling, "SETTLED_S", -1.0)
    handles = []
    for name in ("here", "there"):
        (tmp_path / name).write_bytes(b"same")
        handles.append(os.open(tmp_path / name, os.O_RDONLY))
    verdicts = Verdicts()
    verdicts.note("a", identity(handles[0]), identity(handles[1]))
    return verdicts, handles[0], handles[1]


def test_a_verdict_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks again has it read again; nobody knows of another file."""
    verdicts, here, there = _noted(tmp_path, monkeypatch)
    assert not verdicts.take("b", here, there)
    assert verdicts.take("a", here, there)
    assert not verdicts.take("a", here, there)
    os.close(here)
    os.close(there)


@pytest.mark.parametrize("name", ["here", "there"])
def test_a_verdict_does_not_outlive_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Not even one that puts size and time of change back."""
    verdicts, here, there = _noted(tmp_path, monkeypatch)
    path = tmp_path / name
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # a kernel counts in ticks
        path.write_bytes(b"diff")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not verdicts.take("a", here, there)
    os.close(here)
    os.close(there)


def test_a_file_that_changed_a_moment_ago_gets_no_verdict(tmp_path: Path) -> None:
    """A change in the same tick of the kernel's clock would not be seen."""
    path = tmp_path / "a"
    path.write_bytes(b"x")
    handle = os.open(path, os.O_RDONLY)
    verdicts = Verdicts()
    future = time.time_ns() + 60_000_000_000
    state = (*identity(handle)[:-1], future)
    verdicts.note("a", state, state)
    assert not verdicts._same
    os.close(handle)
