"""Backups are made by threads and programs that are the last to get a processor; nobody else becomes slow by that."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from supervisor.effects.backup.gentle import NICE, Gentle


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_the_work_is_nice_and_so_is_what_it_starts() -> None:
    """Its threads and its programs; whoever ordered it is not."""
    before = _nice()

    def work(order: str) -> tuple[str, list[int]]:
        seen = [_nice()]
        thread = threading.Thread(target=lambda: seen.append(_nice()))
        thread.start()
        thread.join()
        said = subprocess.run([sys.executable, "-c", "import os; print(os.nice(0))"], capture_output=True, check=True)
        return order, [*seen, int(said.stdout)]

    assert Gentle(work)("a") == ("a", [NICE] * 3)
    assert _nice() == before


def test_what_goes_wrong_is_raised_where_it_was_ordered() -> None:
    """As if the handler had been called there."""

    def work(order: str) -> str:
        raise ZeroDivisionError(order)

    with pytest.raises(ZeroDivisionError, match="a"):
        Gentle(work)("a")


def test_without_threads_the_work_is_done_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup is worth more than its niceness."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert Gentle(str.upper)("a") == "A"
