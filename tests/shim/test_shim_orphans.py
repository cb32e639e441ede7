"""What the trainer leaves behind is ended, all of it and nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_attempt import TOY, Attempt, children_of, ended, is_alive, until

from supervisor import attempt_files

pytestmark = pytest.mark.e2e
# Every way to get away from a parent: other session, double fork, empty environment, deaf to SIGTERM, stopped.
LEAVE_BEHIND = """
import os, signal, sys
def leave(body):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            body()
            os.write(writer, b"%d\\n" % os.getpid())
            os.close(writer)
            os.execve("/bin/sleep", ["sleep", "60"], dict(os.environ) if body is not bare else {})
        os._exit(0)
    os.close(writer)
    os.wait()
    return open(reader).read().strip()
def plain(): pass
def bare(): pass
def deaf(): signal.signal(signal.SIGTERM, signal.SIG_IGN)
def hup(): signal.signal(signal.SIGHUP, signal.SIG_IGN)
pids = [leave(body) for body in (plain, bare, deaf, hup)]
open("orphans", "w").write(" ".join(pids))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_orphans_in_other_sessions_are_ended(attempt: Attempt) -> None:
    """Nothing that descends from the trainer outlives it: other session, empty environment, deaf to SIGTERM."""
    attempt.python(LEAVE_BEHIND)
    record = attempt.finish()
    assert record.signal_name == "SIGKILL"
    orphans = [int(word) for word in (attempt.dir / "orphans").read_text().split()]
    assert len(orphans) == 4
    assert not any(is_alive(pid) for pid in orphans)


def test_lock_is_held_until_the_last_orphan_is_gone(attempt: Attempt) -> None:
    """exit.json is there at once, while the lock stays held as long as a deaf orphan lives."""
    started = attempt.python(LEAVE_BEHIND)
    assert ended(started.pid)
    until((attempt.dir / "exit.json").exists, "exit.json", 1)
    plain, bare, deaf, _ = (int(word) for word in (attempt.dir / "orphans").read_text().split())
    assert ended(plain, 2)
    assert ended(bare, 2)
    assert is_alive(deaf)
    assert not attempt_files.lock_is_free(attempt.dir)
    assert ended(deaf, 6)
    attempt.finish()


def test_stopped_orphan_is_ended(attempt: Attempt) -> None:
    """An orphan that was stopped (SIGSTOP) is woken to get its SIGTERM, within the grace."""
    stopped = "trap 'echo asked > asked; exit' TERM; echo $$ > orphan; kill -STOP $$; sleep 60"
    started = attempt.launch(["sh", "-c", f'setsid sh -c "{stopped.replace("$", chr(92) + "$")}" & sleep 60'])
    until(lambda: (attempt.dir / "orphan").exists() and state_of(attempt) == "T", "the orphan stopped itself")
    attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
    attempt.finish()
    assert (attempt.dir / "asked").exists()


def state_of(attempt: Attempt) -> str:
    """Return the state letter of the process whose number stands in the file orphan."""
    pid = (attempt.dir / "orphan").read_text().strip()
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] if pid else ""


def test_marked_process_outside_the_family_is_ended(attempt: Attempt) -> None:
    """A process that carries the marker but was started elsewhere since then is ended as well; others are not."""
    started = attempt.launch(["sleep", "60"])
    marked = subprocess.Popen(["sleep", "60"], env={"YOLO_SUPERVISOR_ATTEMPT_DIR": str(attempt.dir)})
    other = subprocess.Popen(["sleep", "60"], env={"YOLO_SUPERVISOR_ATTEMPT_DIR": str(attempt.dir) + "0"})
    attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
    assert marked.wait(5) == -signal.SIGTERM
    attempt.finish()
    assert other.poll() is None
    other.kill()
    other.wait()


def test_process_older_than_the_training_is_left_alone(attempt: Attempt) -> None:
    """A process that ran before the trainer cannot be its doing, whatever its environment says."""
    older = subprocess.Popen(["sleep", "60"], env={"YOLO_SUPERVISOR_ATTEMPT_DIR": str(attempt.dir)})
    began = attempt_files.process_start_time(older.pid) or 0
    until(lambda: clock_ticks() > began + 1, "a tick")
    attempt.launch(["true"])
    attempt.finish()
    assert older.poll() is None
    older.kill()
    older.wait()


def clock_ticks() -> int:
    """Return the time since boot in the unit of start times."""
    return int(float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK"))


def test_zombies_are_reaped_while_the_training_runs(attempt: Attempt) -> None:
    """Processes that the trainer orphaned and that ended do not pile up as zombies below the shim."""
    code = (
        "import os, select\nfor _ in range(20): os.system('(true &)')\nopen('done', 'w')\nselect.select([], [], [], 60)"
    )
    started = attempt.python(code)
    until((attempt.dir / "done").exists, "20 orphans were made")
    until(lambda: children_of(started.shim_pid) == [started.pid], "only the trainer is left")
    assert attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
    attempt.finish()


def test_workers_of_a_training_end_with_it(attempt: Attempt) -> None:
    """A training killed inside an epoch leaves no data workers, and its record says SIGKILL."""
    toy = [sys.executable, str(TOY), "--save-dir", str(attempt.dir / "train"), "--fork-workers", "4"]
    attempt.launch([*toy, "--signal-after", "KILL@2.2", "--epoch-s", "0.1"])
    assert attempt.finish().signal == signal.SIGKILL
    started = attempt.started
    assert attempt_files.descendants_and_marked(attempt.dir, started.shim_pid, started.pid) == []


def test_family_is_listed_without_the_shim(attempt: Attempt) -> None:
    """The daemon's list holds trainer, children and marked strangers with start times, and not the shim."""
    started = attempt.launch(["sh", "-c", "setsid sleep 60 & env -i sleep 61 & echo $! > bare; wait"])
    until(lambda: len(family(attempt)) == 3, "the trainer and two children")
    assert (started.pid, started.start_time) in family(attempt)
    assert started.shim_pid not in dict(family(attempt))
    assert int((attempt.dir / "bare").read_text()) in dict(family(attempt))


def test_family_is_found_when_the_shim_was_killed(attempt: Attempt) -> None:
    """Without shim and trainer the rest is still found: by its environment, or by the log that it writes to."""
    started = attempt.launch(["sh", "-c", "setsid sleep 60 & env -i setsid sleep 61 & wait"])
    until(lambda: len(family(attempt)) == 3, "the trainer and two children")
    attempt_files.signal_process(started.shim_pid, started.shim_start_time, signal.SIGKILL)
    assert ended(started.shim_pid)
    attempt_files.signal_process(started.pid, started.start_time, signal.SIGKILL)
    assert ended(started.pid)
    assert attempt_files.lock_is_free(attempt.dir)
    survivors = family(attempt)
    assert len(survivors) == 2
    for pid, start_time in survivors:
        assert attempt_files.signal_process(pid, start_time, signal.SIGKILL)
        assert ended(pid)
    assert family(attempt) == []


def family(attempt: Attempt) -> list[tuple[int, int]]:
    """Return what the daemon would find."""
    return attempt_files.descendants_and_marked(attempt.dir, attempt.started.shim_pid, attempt.started.pid)
