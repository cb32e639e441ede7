"""A process number in the kernel log is somebody's only at its time, and only where numbers are the machine's own."""

from __future__ import annotations

import os
import time

import pytest
from gpu_eyes import run, world
from msgspec.structs import replace

from supervisor import gpu_watch
from supervisor.clock import current_boot
from supervisor.core.model import Boot, Phase
from supervisor.gpu_watch import Owners, same_numbers
from supervisor.machine.kernel_log import KMSG

GONE = 2**22 + 1  # above the largest number that Linux gives to a process
NOW = time.time()


def of_world(phase=Phase.RUNNING, **attempt):
    """A world with one run, whose attempt has a process."""
    given = {"pid": GONE, "boot": current_boot(), "started_at": NOW - 7200, **attempt}
    one = run(phase=phase)
    one = replace(one, attempt=replace(one.attempt, **given))
    return world(one) if phase == Phase.RUNNING else replace(world(), ended={one.id: one})


def of(phase=Phase.RUNNING, **attempt):
    """Whose processes are there, as a function of number and time."""
    known = of_world(phase, **attempt)
    return Owners(lambda: known, None, lambda: NOW).whose


@pytest.mark.parametrize(
    ("attempt", "ago_s", "known"),
    [
        ({}, 5, True),
        ({}, 7300, False),  # before it began
        ({"started_at": None}, 5, False),
        ({"ended_at": NOW - 60}, 5, True),
        ({"ended_at": NOW - 60}, 65, True),
        ({"ended_at": NOW - 3600}, 5, False),
        ({"boot": Boot(boot_id="another")}, 5, False),
        ({"pid": 0}, 5, False),
    ],
)
def test_an_attempts_process_that_is_gone_is_known_for_ten_minutes(attempt, ago_s, known):
    """By its number, in its boot and about its time; later the number may be anybody's."""
    expected = ("truck@1", 2) if known else ("", 0)
    assert of(**attempt)(GONE, NOW - ago_s) == expected
    assert of(Phase.FAILED, **attempt)(GONE, NOW - ago_s) == expected


def test_a_process_that_began_after_the_line_was_not_meant():
    """Numbers are given again."""
    whose = of(pid=os.getpid())
    assert whose(os.getpid(), NOW) == ("truck@1", 2)
    assert whose(os.getpid(), NOW - 7200 - 60) == ("", 0)
    strangers = of(shim_pid=os.getpid(), pid=GONE)
    assert strangers(os.getpid(), NOW) == ("truck@1", 2)
    assert strangers(os.getpid(), NOW - 7000) == ("", 0)


def test_in_a_container_the_kernels_numbers_name_nobody(tmp_path):
    """There every process has another number than in the kernel log, and somebody else has that number."""
    known = of_world()
    assert Owners(lambda: known, None, lambda: NOW, same_numbers=False).whose(GONE, NOW) == ("", 0)
    assert Owners(lambda: known, None, lambda: NOW).whose(GONE, NOW) == ("truck@1", 2)
    own_namespace = tmp_path / "pid"
    own_namespace.touch()
    assert not same_numbers(KMSG, own_namespace)
    assert not same_numbers(KMSG, tmp_path / "no-proc")
    os.mkfifo(tmp_path / "kmsg")
    assert same_numbers(tmp_path / "kmsg", own_namespace)


def test_the_machines_own_numbers_are_told_by_their_namespace(tmp_path, monkeypatch):
    """Linux gives the first namespace a fixed number."""
    assert gpu_watch.INITIAL_NAMESPACE == 0xEFFFFFFC
    first = tmp_path / "pid"
    first.touch()
    monkeypatch.setattr(gpu_watch, "INITIAL_NAMESPACE", first.stat().st_ino)
    assert same_numbers(KMSG, first)
