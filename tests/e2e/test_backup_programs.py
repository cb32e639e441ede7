"""Transfer programs get no environment of ours, end when the daemon does, and are not waited for in silence."""

from __future__ import annotations

import os
import threading
import time

import pytest

from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.targets.programs import Programs

pytestmark = pytest.mark.e2e


def _programs() -> Programs:
    return Programs(threading.Event())


def test_a_program_sees_only_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No agent, no secret; words and times as we read them; no input."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    seen: list[bytes] = []
    ended = _programs().run(["env"], silence_s=10, line=seen.append)
    assert ended.code == 0
    assert {line.split(b"=")[0] for line in seen if line} == {b"PATH", b"HOME", b"LANG", b"LC_ALL", b"TZ"}
    assert _programs().run(["cat"], silence_s=10).code == 0


def test_lines_come_whole_and_complaints_are_bounded() -> None:
    """Carriage returns and NULs end a line too; of stderr the end is kept."""
    seen: list[bytes] = []
    order = r"printf 'one\rtwo\nthr'; sleep 0.3; printf 'ee\0four'; head -c 300000 /dev/zero | tr '\0' x >&2; echo end >&2; exit 3"
    ended = _programs().run(["sh", "-c", order], silence_s=10, line=seen.append)
    assert seen == [b"one", b"two", b"three", b"four"]
    assert ended.code == 3
    assert len(ended.errors) <= 65536
    assert ended.errors.endswith("end\n")


def test_a_stop_ends_a_program_and_what_it_started() -> None:
    """Also those that ignore SIGTERM; within seconds."""
    stop = threading.Event()
    pids: list[int] = []

    def note(line: bytes) -> None:
        pids.append(int(line))
        stop.set()

    with pytest.raises(TargetError) as stopped:
        Programs(stop).run(["sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait"], silence_s=100, line=note)
    assert stopped.value.cause == "stopped"
    _await_gone(pids[0])


def _await_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and _state(pid) != "Z":  # noqa: PTH110
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_silence_is_a_timeout_and_words_are_none() -> None:
    """What gets on may take as long as it takes; what says nothing is ended."""
    ended = _programs().run(["sh", "-c", "for i in 1 2 3 4; do echo; sleep 0.5; done"], silence_s=1.5)
    assert ended.code == 0
    with pytest.raises(TargetError, match="nothing was heard of sleep for 1 s") as late:
        _programs().run(["sleep", "1000"], silence_s=1)
    assert late.value.cause == "timeout"


def test_a_program_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cause that tells people what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    for name, cause in (("rsync", "no-rsync"), ("rclone", "no-rclone")):
        with pytest.raises(TargetError, match="not installed") as lacking:
            _programs().run([name], silence_s=1)
        assert lacking.value.cause == cause


def test_a_lock_is_held_as_long_as_the_program_runs() -> None:
    """The files given to it are open in it: so an orphan of a killed daemon can be waited for."""
    reading, writing = os.pipe()
    try:
        seen: list[bytes] = []
        programs = Programs(threading.Event(), pass_fds=[writing])
        programs.run(["sh", "-c", f"test -e /proc/self/fd/{writing} && echo held"], silence_s=10, line=seen.append)
        assert seen == [b"held"]
    finally:
        os.close(reading)
        os.close(writing)
